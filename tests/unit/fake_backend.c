/* SPDX-License-Identifier: Apache-2.0 */
/* What the API asks of an agent, on one host, with the real cluster state. */
#include "tests/unit/fake_backend.h"

#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "consensus/cluster_state.h"
#include "node-agent/pki.h"

/* An answer that is due. */
struct later {
    uv_timer_t timer;
    struct fake_backend *backend;
    api_done done;
    api_forwarded forwarded;
    void *request;
    int error;
    char text[ERROR_TEXT_SIZE];
    uint64_t result_id;
};

static void later_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void later_now(uv_timer_t *timer)
{
    struct later *later = timer->data;
    later->backend->open--;
    if (later->done != NULL) {
        later->done(later->request, later->error, later->text, later->result_id);
    } else {
        const char *body = later->backend->forward_body;
        later->forwarded(later->request, later->error, later->text, 200, body,
                         body == NULL ? 0 : strlen(body));
    }
    uv_close((uv_handle_t *)timer, later_closed);
}

static struct later *later_create(struct fake_backend *backend, void *request)
{
    struct later *later = calloc(1, sizeof(*later));
    assert_non_null(later);
    later->backend = backend;
    later->request = request;
    assert_int_equal(uv_timer_init(backend->loop, &later->timer), 0);
    later->timer.data = later;
    assert_int_equal(uv_timer_start(&later->timer, later_now, 1, 0), 0);
    backend->open++;
    return later;
}

static const struct cluster_state *get_state(void *owner)
{
    return ((struct fake_backend *)owner)->state;
}

static void get_self(void *owner, struct api_self *ret_self)
{
    *ret_self = ((struct fake_backend *)owner)->self;
}

static const Drover__VmStatus *observed(void *owner, uint64_t vm_id,
                                        uint64_t *ret_host_id, uint64_t *ret_at_ms)
{
    const struct fake_backend *backend = owner;
    (void)vm_id;
    *ret_host_id = backend->status_host_id;
    *ret_at_ms = 0;
    return backend->status;
}

static bool host_usable(void *owner, uint64_t host_id)
{
    (void)host_id;
    return ((struct fake_backend *)owner)->silent_ms < 1000;
}

static uint64_t host_silent_ms(void *owner, uint64_t host_id)
{
    (void)host_id;
    return ((struct fake_backend *)owner)->silent_ms;
}

static void apply(struct fake_backend *backend, const Drover__Command *command,
                  struct apply_result *ret_result)
{
    CLEANUP(buffer_done) struct buffer data = {0};
    Drover__Command stamped = *command;
    stamped.at_unix_ms = 1700000000000;
    assert_int_equal(command_encode(&stamped, &data), 0);
    assert_int_equal(cluster_state_apply(backend->state, ++backend->log_index, data.data,
                                         data.size, ret_result),
                     0);
    if (backend->changed != NULL) {
        backend->changed(backend->changed_owner);
    }
}

static int propose(void *owner, const Drover__Command *command, api_done done,
                   void *request, struct error *err)
{
    struct fake_backend *backend = owner;
    struct apply_result result = {0};
    (void)err;
    struct later *later = later_create(backend, request);
    later->done = done;
    if (backend->propose_error != 0) {
        later->error = backend->propose_error;
        return 0;
    }
    apply(backend, command, &result);
    if (backend->answer_lost) {
        /* Committed, and then the leadership is gone. */
        backend->answer_lost = false;
        later->error = DROVER_ETIMEDOUT2;
        return 0;
    }
    later->error = result.error;
    later->result_id = result.result_id;
    (void)snprintf(later->text, sizeof(later->text), "%s", result.text);
    return 0;
}

static int forward(void *owner, const Drover__ApiForward *message,
                   api_forwarded forwarded, void *request, struct error *err)
{
    struct fake_backend *backend = owner;
    (void)err;
    (void)snprintf(backend->forwarded, sizeof(backend->forwarded), "%s %s %.*s%s",
                   message->method, message->path, (int)message->body.len,
                   message->body.len == 0 ? "" : (const char *)message->body.data,
                   message->key);
    struct later *later = later_create(backend, request);
    later->forwarded = forwarded;
    later->error = backend->forward_error;
    return 0;
}

static int cluster_init(void *owner, const struct api_init *init, api_done done,
                        void *request, struct error *err)
{
    struct fake_backend *backend = owner;
    (void)err;
    (void)snprintf(backend->joined, sizeof(backend->joined), "%s %s %s %u", init->name,
                   init->address, init->api_address, init->lease_ms);
    fake_backend_form(backend, 1);
    struct later *later = later_create(backend, request);
    later->done = done;
    later->result_id = 1;
    return 0;
}

static int cluster_join(void *owner, const struct api_join *join, api_done done,
                        void *request, struct error *err)
{
    struct fake_backend *backend = owner;
    (void)done;
    (void)request;
    (void)snprintf(backend->joined, sizeof(backend->joined), "%s %s %s", join->name,
                   join->address, join->api_address);
    return error_set(err, DROVER_ETOKEN,
                     "the token has been used already: make a new one");
}

static int member_remove(void *owner, const struct api_removal *removal, api_done done,
                         void *request, struct error *err)
{
    struct fake_backend *backend = owner;
    (void)err;
    (void)snprintf(backend->removed, sizeof(backend->removed), "%llu",
                   (unsigned long long)removal->host_id);
    later_create(backend, request)->done = done;
    return 0;
}

static int serial_path(void *owner, uint64_t vm_id, uint64_t epoch, char *ret_path,
                       size_t size)
{
    const struct fake_backend *backend = owner;
    (void)vm_id;
    (void)epoch;
    (void)snprintf(ret_path, size, "%s", backend->serial_path);
    return backend->serial_path[0] == '\0' ? DROVER_ENOTFOUND : 0;
}

const struct api_backend fake_backend_ops = {
    .state = get_state,
    .self = get_self,
    .observed = observed,
    .host_usable = host_usable,
    .host_silent_ms = host_silent_ms,
    .propose = propose,
    .forward = forward,
    .cluster_init = cluster_init,
    .cluster_join = cluster_join,
    .member_remove = member_remove,
    .serial_path = serial_path,
};

void fake_backend_init(struct fake_backend *backend, uv_loop_t *loop)
{
    *backend = (struct fake_backend){.loop = loop};
    assert_int_equal(cluster_state_create(&backend->state), 0);
}

void fake_backend_apply(struct fake_backend *backend, Drover__Command *command,
                        int wanted_error)
{
    struct apply_result result = {0};
    apply(backend, command, &result);
    if (result.error != wanted_error) {
        print_error("apply: %s\n", result.text);
    }
    assert_int_equal(result.error, wanted_error);
}

static void form_cluster(struct fake_backend *backend)
{
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__ClusterInit init = DROVER__CLUSTER_INIT__INIT;
    Drover__HostRecord host = DROVER__HOST_RECORD__INIT;
    struct buffer key = {0};
    struct buffer certificate = {0};
    struct error err = {0};
    static char cluster_id[] = "0123456789abcdef0123456789abcdef";
    static char name[] = "n1";
    static char address[] = "10.0.0.1:7400";
    static char api_address[] = "10.0.0.1:7401";
    assert_int_equal(pki_ca_create(cluster_id, &key, &certificate, &err), 0);
    host.host_id = 1;
    host.name = name;
    host.address = address;
    host.api_address = api_address;
    init.cluster_id = cluster_id;
    init.ca_certificate_pem.data = certificate.data;
    init.ca_certificate_pem.len = certificate.size;
    init.ca_key_pem.data = key.data;
    init.ca_key_pem.len = key.size;
    init.lease_ms = 5000;
    init.first_host = &host;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_INIT;
    command.cluster_init = &init;
    fake_backend_apply(backend, &command, 0);
    buffer_done(&key);
    buffer_done(&certificate);
}

static void add_host(struct fake_backend *backend, unsigned number)
{
    uint8_t digest[32] = {(uint8_t)number};
    char text[4][40];
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__TokenCreate token = DROVER__TOKEN_CREATE__INIT;
    Drover__HostAdd add = DROVER__HOST_ADD__INIT;
    (void)snprintf(text[0], sizeof(text[0]), "token%u", number);
    (void)snprintf(text[1], sizeof(text[1]), "n%u", number);
    (void)snprintf(text[2], sizeof(text[2]), "10.0.0.%u:7400", number);
    (void)snprintf(text[3], sizeof(text[3]), "10.0.0.%u:7401", number);
    token.token_id = text[0];
    token.secret_sha256.data = digest;
    token.secret_sha256.len = sizeof(digest);
    token.expires_unix_ms = 1800000000000;
    command.what_case = DROVER__COMMAND__WHAT_TOKEN_CREATE;
    command.token_create = &token;
    fake_backend_apply(backend, &command, 0);
    add.token_id = text[0];
    add.secret_sha256 = token.secret_sha256;
    add.name = text[1];
    add.address = text[2];
    add.api_address = text[3];
    command.what_case = DROVER__COMMAND__WHAT_HOST_ADD;
    command.host_add = &add;
    fake_backend_apply(backend, &command, 0);
}

void fake_backend_form(struct fake_backend *backend, unsigned host_count)
{
    static char boot_id[] = "b00700000000000000000000000000b0";
    static char incarnation[] = "1nca";
    static char version[] = "0.1.0";
    form_cluster(backend);
    for (unsigned number = 1; number <= host_count; number++) {
        if (number > 1) {
            add_host(backend, number);
        }
        Drover__Command command = DROVER__COMMAND__INIT;
        Drover__HostUp up = DROVER__HOST_UP__INIT;
        up.host_id = number;
        up.boot_id = boot_id;
        up.postcopy = true;
        up.incarnation = incarnation;
        up.memory_bytes = UINT64_C(8) << 30;
        up.cpus = 4;
        up.watchdog_ms = 2000;
        up.version = version;
        command.what_case = DROVER__COMMAND__WHAT_HOST_UP;
        command.host_up = &up;
        fake_backend_apply(backend, &command, 0);
    }
    backend->self = (struct api_self){
        .host_id = 1, .leader_host_id = 1, .term = 3, .leads = true, .watchdog_ms = 2000};
}

void fake_backend_done(struct fake_backend *backend)
{
    cluster_state_free(backend->state);
}
