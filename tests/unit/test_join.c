/* SPDX-License-Identifier: Apache-2.0 */
/* A join, both sides over real TLS with the real cluster state: who has a good token
 * becomes a member, once. */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <openssl/sha.h>

#include "consensus/cluster_state.h"
#include "node-agent/join.h"
#include "node-agent/peers.h"
#include "tests/unit/pki_fixture.h"

#define CLUSTER "0123456789abcdef0123456789abcdef"
#define NOW_MS  UINT64_C(1700000000000)

/* A proposal is applied in a later turn of the loop, as with raft. */
struct later {
    uv_timer_t timer;
    struct apply_result result;
    join_applied applied;
    void *request;
};

struct fixture {
    uv_loop_t loop;
    struct pki_fixture pki;
    struct cluster_state *state;
    uint64_t index, wall_ms;
    struct peers *peers;
    struct tls_context *context;
    struct peer_self self;
    struct join_server *server;
    char listen[32];
    bool follows; /* then it names `leader_address` */
    char leader_address[64];
    struct join_token token;
    struct buffer key, csr;
    /* what the client was told */
    unsigned done_count;
    int error;
    char text[ERROR_TEXT_SIZE];
    uint64_t host_id, leader_id;
    unsigned parts_closed;
};

static void apply(struct fixture *fixture, Drover__Command *command,
                  struct apply_result *ret_result)
{
    struct buffer data = {0};
    command->at_unix_ms = fixture->wall_ms;
    assert_int_equal(command_encode(command, &data), 0);
    assert_int_equal(cluster_state_apply(fixture->state, ++fixture->index, data.data,
                                         data.size, ret_result),
                     0);
    buffer_done(&data);
}

/* ---- the cluster ---- */

static const struct cluster_state *op_leading_state(void *owner,
                                                    const char **ret_leader_address)
{
    struct fixture *fixture = owner;
    *ret_leader_address = fixture->leader_address;
    return fixture->follows ? NULL : fixture->state;
}

static void on_later_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_later(uv_timer_t *timer)
{
    struct later *later = timer->data;
    later->applied(later->request, later->result.error, later->result.text,
                   later->result.result_id);
    uv_close((uv_handle_t *)timer, on_later_closed);
}

static int op_propose(void *owner, const Drover__Command *command, join_applied applied,
                      void *request)
{
    struct fixture *fixture = owner;
    Drover__Command copy = *command;
    struct later *later = calloc(1, sizeof(*later));
    apply(fixture, &copy, &later->result);
    later->applied = applied;
    later->request = request;
    assert_int_equal(uv_timer_init(&fixture->loop, &later->timer), 0);
    later->timer.data = later;
    assert_int_equal(uv_timer_start(&later->timer, on_later, 1, 0), 0);
    return 0;
}

static void op_note(void *owner, const char *text)
{
}

static const struct join_server_ops server_ops = {
    .leading_state = op_leading_state,
    .propose = op_propose,
    .note = op_note,
};

static const char *peers_address(void *owner, uint64_t host_id)
{
    return NULL;
}

static bool peers_admits(void *owner, uint64_t host_id)
{
    return true;
}

static void peers_join_opened(void *owner, const struct peer_opened *opened)
{
    join_server_accept(((struct fixture *)owner)->server, opened);
}

static void peers_refused(void *owner, const char *text)
{
}

static const struct peers_ops peers_ops = {
    .address = peers_address,
    .admits = peers_admits,
    .join_opened = peers_join_opened,
    .refused = peers_refused,
};

static void make_cluster(struct fixture *fixture)
{
    Drover__HostRecord first = DROVER__HOST_RECORD__INIT;
    first.host_id = 1;
    first.name = (char *)"n1";
    first.address = fixture->listen;
    Drover__ClusterInit init = DROVER__CLUSTER_INIT__INIT;
    init.cluster_id = (char *)CLUSTER;
    init.ca_certificate_pem.data = fixture->pki.ca.data;
    init.ca_certificate_pem.len = fixture->pki.ca.size;
    init.ca_key_pem.data = fixture->pki.ca_key.data;
    init.ca_key_pem.len = fixture->pki.ca_key.size;
    init.lease_ms = 5000;
    init.first_host = &first;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_INIT;
    command.cluster_init = &init;
    struct apply_result result;
    apply(fixture, &command, &result);
    assert_string_equal(result.text, "");
}

static void make_token(struct fixture *fixture)
{
    struct join_token *token = &fixture->token;
    struct error err = {0};
    (void)snprintf(token->token_id, sizeof(token->token_id),
                   "00112233445566778899aabbccddeeff");
    memset(token->secret, 0x5a, sizeof(token->secret));
    assert_int_equal(pki_fingerprint(fixture->pki.ca.data, fixture->pki.ca.size,
                                     token->ca_sha256, &err),
                     0);
    token->address_count = 1;
    (void)snprintf(token->addresses[0], sizeof(token->addresses[0]), "%s",
                   fixture->listen);
    uint8_t sha256[SHA256_DIGEST_LENGTH];
    (void)SHA256(token->secret, sizeof(token->secret), sha256);
    Drover__TokenCreate create = DROVER__TOKEN_CREATE__INIT;
    create.token_id = token->token_id;
    create.secret_sha256.data = sha256;
    create.secret_sha256.len = sizeof(sha256);
    create.expires_unix_ms = NOW_MS + 60000;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_TOKEN_CREATE;
    command.token_create = &create;
    struct apply_result result;
    apply(fixture, &command, &result);
    assert_string_equal(result.text, "");
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    struct error err = {0};
    fixture->wall_ms = NOW_MS;
    assert_int_equal(uv_loop_init(&fixture->loop), 0);
    pki_fixture_init(&fixture->pki, CLUSTER);
    assert_int_equal(cluster_state_create(&fixture->state), 0);
    fixture->context = pki_fixture_context(&fixture->pki, 1, &fixture->pki);
    fixture->self = (struct peer_self){
        .cluster_id = CLUSTER, .host_id = 1, .boot_id = "b", .incarnation = "i", .address = ""};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    (void)close(fd);
    (void)snprintf(fixture->listen, sizeof(fixture->listen), "127.0.0.1:%u",
                   ntohs(address.sin_port));
    struct peers_config config = {.loop = &fixture->loop,
                                  .context = fixture->context,
                                  .self = &fixture->self,
                                  .listen = fixture->listen,
                                  .open_ms = 2000,
                                  .idle_ms = 2000,
                                  .redial_ms_max = 100,
                                  .ops = &peers_ops,
                                  .owner = fixture};
    assert_int_equal(peers_create(&config, &fixture->peers, &err), 0);
    assert_int_equal(join_server_create(&server_ops, fixture, &fixture->server), 0);
    assert_int_equal(pki_key_create(&fixture->key, &err), 0);
    assert_int_equal(
        pki_csr_create(fixture->key.data, fixture->key.size, "n2", &fixture->csr, &err),
        0);
    make_cluster(fixture);
    make_token(fixture);
    *state = fixture;
    return 0;
}

static void on_part_closed(void *owner)
{
    ((struct fixture *)owner)->parts_closed++;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    join_server_close(fixture->server, on_part_closed, fixture);
    peers_close(fixture->peers, on_part_closed, fixture);
    assert_int_equal(uv_run(&fixture->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(fixture->parts_closed, 2);
    join_server_free(fixture->server);
    peers_free(fixture->peers);
    tls_context_free(fixture->context);
    cluster_state_free(fixture->state);
    assert_int_equal(uv_loop_close(&fixture->loop), 0);
    pki_fixture_done(&fixture->pki);
    buffer_done(&fixture->key);
    buffer_done(&fixture->csr);
    free(fixture);
    return 0;
}

/* ---- the new host ---- */

static void on_done(void *owner, int error, const char *text,
                    const Drover__JoinReply *reply, uint64_t leader_id,
                    const char *leader_address)
{
    struct fixture *fixture = owner;
    fixture->done_count++;
    fixture->error = error;
    (void)snprintf(fixture->text, sizeof(fixture->text), "%s", text);
    fixture->leader_id = leader_id;
    if (error == 0) {
        struct pki_identity identity;
        struct error err = {0};
        assert_int_equal(pki_identity_pem(reply->certificate_pem.data,
                                          reply->certificate_pem.len, &identity, &err),
                         0);
        assert_int_equal(identity.host_id, reply->host_id);
        assert_string_equal(reply->cluster_id, CLUSTER);
        assert_int_equal(reply->lease_ms, 5000);
        assert_int_equal(reply->n_hosts, 2);
        fixture->host_id = reply->host_id;
    }
}

static int join(struct fixture *fixture, const char *name)
{
    struct join_wanted wanted = {.token = &fixture->token,
                                 .name = name,
                                 .address = "127.0.0.2:7400",
                                 .api_address = "127.0.0.2:7401",
                                 .csr_pem = fixture->csr.data,
                                 .csr_size = fixture->csr.size};
    struct join_client *client = NULL;
    struct error err = {0};
    fixture->done_count = 0;
    fixture->error = 1;
    assert_int_equal(
        join_client_start(&fixture->loop, &wanted, on_done, fixture, &client, &err), 0);
    assert_int_equal(fixture->done_count, 0);
    for (unsigned i = 0; i < 10000 && fixture->done_count == 0; i++) {
        (void)uv_run(&fixture->loop, UV_RUN_ONCE);
    }
    assert_int_equal(fixture->done_count, 1);
    return fixture->error;
}

static void test_good_token_makes_a_member(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(join(fixture, "n2"), 0);
    assert_int_equal(fixture->host_id, 2);
    assert_int_equal(fixture->leader_id, 1);
    assert_non_null(cluster_state_host_by_name(fixture->state, "n2"));
}

static void test_token_works_once(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(join(fixture, "n2"), 0);
    assert_int_equal(join(fixture, "n3"), DROVER_ETOKEN);
    assert_non_null(strstr(fixture->text, "token"));
    assert_null(cluster_state_host_by_name(fixture->state, "n3"));
}

static void test_expired_token_is_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture->wall_ms = NOW_MS + 60001;
    assert_int_equal(join(fixture, "n2"), DROVER_ETOKEN);
}

static void test_wrong_secret_is_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture->token.secret[3] ^= 1;
    assert_int_equal(join(fixture, "n2"), DROVER_ETOKEN);
}

static void test_impostor_of_another_ca_hears_no_secret(void **state)
{
    struct fixture *fixture = *state;
    fixture->token.ca_sha256[0] ^= 1;
    uint64_t before = fixture->index;
    assert_int_equal(join(fixture, "n2"), DROVER_EPEER);
    assert_non_null(strstr(fixture->text, "not of the cluster that made the token"));
    assert_int_equal(fixture->index, before);
}

static void test_bad_request_does_not_use_the_token_up(void **state)
{
    struct fixture *fixture = *state;
    struct buffer good = fixture->csr;
    fixture->csr = (struct buffer){.data = (uint8_t *)(uintptr_t) "nonsense", .size = 8};
    assert_int_equal(join(fixture, "n2"), DROVER_EBADINPUT);
    fixture->csr = good;
    assert_int_equal(join(fixture, "Bad_Name"), DROVER_EBADINPUT);
    assert_int_equal(join(fixture, "n2"), 0);
}

static void test_dead_addresses_are_skipped_and_follower_names_the_leader(void **state)
{
    struct fixture *fixture = *state;
    fixture->token.address_count = 2;
    memcpy(fixture->token.addresses[1], fixture->token.addresses[0],
           sizeof(fixture->token.addresses[0]));
    (void)snprintf(fixture->token.addresses[0], sizeof(fixture->token.addresses[0]),
                   "127.0.0.1:1");
    assert_int_equal(join(fixture, "n2"), 0);
    /* One that names a leader which names itself: an end, not a circle. */
    fixture->follows = true;
    (void)snprintf(fixture->leader_address, sizeof(fixture->leader_address), "%s",
                   fixture->listen);
    assert_int_equal(join(fixture, "n3"), DROVER_ENOLEADER);
}

static void test_nobody_there_is_told_with_the_address(void **state)
{
    struct fixture *fixture = *state;
    (void)snprintf(fixture->token.addresses[0], sizeof(fixture->token.addresses[0]),
                   "127.0.0.1:1");
    assert_int_not_equal(join(fixture, "n2"), 0);
    assert_non_null(strstr(fixture->text, "127.0.0.1:1 can't be reached"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_good_token_makes_a_member),
        TEST(test_token_works_once),
        TEST(test_expired_token_is_refused),
        TEST(test_wrong_secret_is_refused),
        TEST(test_impostor_of_another_ca_hears_no_secret),
        TEST(test_bad_request_does_not_use_the_token_up),
        TEST(test_dead_addresses_are_skipped_and_follower_names_the_leader),
        TEST(test_nobody_there_is_told_with_the_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
