/* SPDX-License-Identifier: Apache-2.0 */
/* Into a cluster and out of it: init, join, removal, and the agent's start with what is
 * on disk. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "node-agent/agent_private.h"
#include "node-agent/join_token.h"
#include "node-agent/pki.h"

#define FIRST_HOST_ID 1

void agent_waiter_end(struct agent_waiter *waiter, int error, const char *text,
                      uint64_t result_id)
{
    api_done done = waiter->done;
    void *request = waiter->request;
    *waiter = (struct agent_waiter){0};
    if (done != NULL) {
        done(request, error, text, result_id);
    }
}

static void keep_identity(struct agent *agent, Drover__HostIdentity *identity)
{
    if (agent->identity != NULL) {
        drover__host_identity__free_unpacked(agent->identity, NULL);
    }
    agent->identity = identity;
}

static const char *given(const char *value, const char *otherwise)
{
    return value != NULL && value[0] != '\0' ? value : otherwise;
}

static int check_alone(const struct agent *agent, const char *name, const char *address,
                       struct error *err)
{
    if (agent->phase == AGENT_PHASE_FORMING) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "this host is just being brought into a cluster: wait for it");
    }
    if (agent->phase != AGENT_PHASE_ALONE) {
        return error_set(
            err, DROVER_EWRONGSTATE,
            "this host is a member of a cluster already: see 'drover cluster status'");
    }
    if (!id_name_valid(name)) {
        return error_set(err, DROVER_EBADINPUT,
                         "'%.63s' is no valid host name: use 1 to 63 of a-z, 0-9 and '-'",
                         name);
    }
    return agent_member_check_address(agent, given(address, agent->config->address), err);
}

/* ---- init ---- */

static int write_buffer(const struct agent *agent, const char *name,
                        const struct buffer *data, struct error *err)
{
    return state_dir_write(&agent->dir, name, data->data, data->size, err);
}

/* The CA's key lies on disk only until the cluster's first command has carried it into
 * the replicated state. */
static int write_new_pki(const struct agent *agent, const Drover__HostIdentity *identity,
                         struct error *err)
{
    CLEANUP(buffer_done) struct buffer ca_key = {0};
    CLEANUP(buffer_done) struct buffer ca = {0};
    CLEANUP(buffer_done) struct buffer key = {0};
    CLEANUP(buffer_done) struct buffer csr = {0};
    CLEANUP(buffer_done) struct buffer certificate = {0};
    int rv = pki_ca_create(identity->cluster_id, &ca_key, &ca, err);
    rv = rv != 0 ? rv : pki_key_create(&key, err);
    rv = rv != 0 ? rv : pki_csr_create(key.data, key.size, identity->name, &csr, err);
    if (rv != 0) {
        return rv;
    }
    struct pki_signer signer = {.ca_key_pem = ca_key.data,
                                .ca_key_size = ca_key.size,
                                .ca_certificate_pem = ca.data,
                                .ca_certificate_size = ca.size};
    struct pki_host host = {.cluster_id = identity->cluster_id,
                            .host_id = identity->host_id,
                            .name = identity->name,
                            .address = identity->address,
                            .api_address = identity->api_address};
    rv = pki_sign(&signer, csr.data, csr.size, &host, &certificate, err);
    rv = rv != 0 ? rv : write_buffer(agent, STATE_DIR_CA_KEY, &ca_key, err);
    rv = rv != 0 ? rv : write_buffer(agent, STATE_DIR_CA, &ca, err);
    rv = rv != 0 ? rv : write_buffer(agent, STATE_DIR_KEY, &key, err);
    return rv != 0 ? rv : write_buffer(agent, STATE_DIR_CERTIFICATE, &certificate, err);
}

/* Nothing has come of it: what was written is put aside, so that it can be tried again.
 */
static void give_up(struct agent *agent)
{
    agent->forming = (struct agent_waiter){0};
    agent->phase = AGENT_PHASE_ALONE;
    if (agent->member != NULL) {
        agent->retire = true;
        agent_member_stop(agent, NULL);
        return;
    }
    struct error err = {0};
    if (state_dir_retire(&agent->dir, &err) != 0) {
        log_error(agent->log, "%s", err.text);
    }
    keep_identity(agent, NULL);
}

int agent_cluster_init(struct agent *agent, const struct api_init *init, api_done done,
                       void *request, struct error *err)
{
    const char *name = given(init->name, agent->config->name);
    char cluster_id[ID_TEXT_SIZE];
    struct timing timing;
    uint32_t lease_ms = init->lease_ms != 0 ? init->lease_ms : agent->config->lease_ms;
    int rv = check_alone(agent, name, init->address, err);
    rv = rv != 0 ? rv : timing_from_lease(lease_ms, &timing, err);
    rv = rv != 0 ? rv : id_random_text(cluster_id);
    if (rv != 0) {
        return rv;
    }
    Drover__HostIdentity identity = DROVER__HOST_IDENTITY__INIT;
    identity.cluster_id = cluster_id;
    identity.host_id = FIRST_HOST_ID;
    identity.name = (char *)name;
    identity.address = (char *)given(init->address, agent->config->address);
    identity.api_address = (char *)given(init->api_address, agent->config->api_address);
    identity.lease_ms = lease_ms;
    identity.witness = agent->config->witness;
    Drover__HostIdentity *kept = NULL;
    rv = write_new_pki(agent, &identity, err);
    rv = rv != 0 ? rv : state_dir_save_identity(&agent->dir, &identity, err);
    rv = rv != 0 ? rv : state_dir_load_identity(&agent->dir, &kept, err);
    if (rv == 0) {
        keep_identity(agent, kept);
        agent->phase = AGENT_PHASE_FORMING;
        rv = agent_member_start(agent, true, err);
    }
    if (rv != 0) {
        give_up(agent);
        return rv;
    }
    agent->forming = (struct agent_waiter){
        .done = done, .request = request, .deadline_ms = clock_now_ms() + AGENT_FORM_MS};
    return 0;
}

static void on_init_committed(void *owner, int error, const char *text, uint64_t index,
                              uint64_t result_id)
{
    struct agent *agent = owner;
    if (agent->member == NULL || agent->member->closing > 0) {
        return;
    }
    agent->member->init_proposed = false;
    struct error err = {0};
    if (error != 0) {
        log_error(agent->log, "the cluster could not be made err=%s", text);
        agent_waiter_end(&agent->forming, error, text, 0);
    } else if (state_dir_remove(&agent->dir, STATE_DIR_CA_KEY, &err) != 0) {
        log_warn(agent->log, "%s",
                 err.text); /* in vain, not dangerous: the folder is root's */
    }
}

void agent_cluster_propose_init(struct agent *agent)
{
    if (agent->member->init_proposed || agent->identity->host_id != FIRST_HOST_ID) {
        return;
    }
    CLEANUP(buffer_done) struct buffer ca = {0};
    CLEANUP(buffer_done) struct buffer ca_key = {0};
    struct error err = {0};
    if (state_dir_read(&agent->dir, STATE_DIR_CA, PKI_PEM_SIZE_MAX, &ca, &err) != 0 ||
        state_dir_read(&agent->dir, STATE_DIR_CA_KEY, PKI_PEM_SIZE_MAX, &ca_key, &err) !=
            0) {
        agent_member_fail(agent, err.text);
        return;
    }
    Drover__HostRecord host = DROVER__HOST_RECORD__INIT;
    host.host_id = FIRST_HOST_ID;
    host.name = agent->identity->name;
    host.address = agent->identity->address;
    host.api_address = agent->identity->api_address;
    host.witness = agent->identity->witness;
    host.state = DROVER__HOST_STATE__HOST_STATE_JOINING;
    Drover__ClusterInit init = DROVER__CLUSTER_INIT__INIT;
    init.cluster_id = agent->identity->cluster_id;
    init.ca_certificate_pem.data = ca.data;
    init.ca_certificate_pem.len = ca.size;
    init.ca_key_pem.data = ca_key.data;
    init.ca_key_pem.len = ca_key.size;
    init.lease_ms = agent->identity->lease_ms;
    init.first_host = &host;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_INIT;
    command.cluster_init = &init;
    agent->member->init_proposed =
        agent_raft_propose(agent, &command, on_init_committed, agent) == 0;
}

/* ---- join ---- */

/* The leader, where it was just reached, and the others. */
static size_t known_hosts(const Drover__JoinReply *reply, uint64_t leader_id,
                          const char *leader_address,
                          Drover__KnownHost known[LIMIT_HOSTS],
                          Drover__KnownHost *hosts[LIMIT_HOSTS])
{
    size_t count = 1;
    drover__known_host__init(&known[0]);
    known[0].host_id = leader_id;
    known[0].address = (char *)leader_address;
    for (size_t i = 0; i < reply->n_hosts && count < LIMIT_HOSTS; i++) {
        const Drover__HostRecord *host = reply->hosts[i];
        if (host->host_id != leader_id && host->host_id != reply->host_id) {
            drover__known_host__init(&known[count]);
            known[count].host_id = host->host_id;
            known[count++].address = host->address;
        }
    }
    for (size_t i = 0; i < count; i++) {
        hosts[i] = &known[i];
    }
    return count;
}

static int keep_membership(struct agent *agent, const Drover__JoinReply *reply,
                           uint64_t leader_id, const char *leader_address,
                           struct error *err)
{
    struct pki_identity certified = {0};
    int rv = pki_identity_pem(reply->certificate_pem.data, reply->certificate_pem.len,
                              &certified, err);
    if (rv != 0) {
        return rv;
    }
    if (certified.host_id != reply->host_id ||
        strcmp(certified.cluster_id, reply->cluster_id) != 0) {
        return error_set(err, DROVER_EMALFORMED,
                         "the certificate that the leader made is not for this host");
    }
    Drover__KnownHost known[LIMIT_HOSTS];
    Drover__KnownHost *hosts[LIMIT_HOSTS];
    size_t count = known_hosts(reply, leader_id, leader_address, known, hosts);
    Drover__HostIdentity identity = *agent->identity; /* the wanted one */
    identity.cluster_id = reply->cluster_id;
    identity.host_id = reply->host_id;
    identity.lease_ms = reply->lease_ms;
    identity.n_hosts = count;
    identity.hosts = hosts;
    rv = state_dir_write(&agent->dir, STATE_DIR_CA, reply->ca_certificate_pem.data,
                         reply->ca_certificate_pem.len, err);
    rv = rv != 0 ? rv
                 : state_dir_write(&agent->dir, STATE_DIR_CERTIFICATE,
                                   reply->certificate_pem.data,
                                   reply->certificate_pem.len, err);
    rv = rv != 0 ? rv : write_buffer(agent, STATE_DIR_KEY, agent->join_key, err);
    /* Last: with it, this host is a member. */
    rv = rv != 0 ? rv : state_dir_save_identity(&agent->dir, &identity, err);
    Drover__HostIdentity *kept = NULL;
    rv = rv != 0 ? rv : state_dir_load_identity(&agent->dir, &kept, err);
    if (rv == 0) {
        keep_identity(agent, kept);
    }
    return rv;
}

static void forget_join_key(struct agent *agent)
{
    if (agent->join_key != NULL) {
        buffer_done(agent->join_key);
        free(agent->join_key);
        agent->join_key = NULL;
    }
}

static void on_joined(void *owner, int error, const char *text,
                      const Drover__JoinReply *reply, uint64_t leader_id,
                      const char *leader_address)
{
    struct agent *agent = owner;
    agent->join = NULL;
    struct error err = {0};
    if (error == 0 && agent->closed != NULL) {
        (void)error_set(&err, DROVER_ECANCELLED, "droverd is stopping");
    } else if (error != 0) {
        (void)error_set(&err, error, "%s", text);
    } else if (keep_membership(agent, reply, leader_id, leader_address, &err) == 0) {
        (void)agent_member_start(agent, false, &err); /* told below */
    }
    forget_join_key(agent);
    if (err.code == 0) {
        agent->forming.deadline_ms = clock_now_ms() + AGENT_FORM_MS;
        return;
    }
    struct agent_waiter waiter = agent->forming;
    give_up(agent);
    if (agent->closed == NULL) {
        log_error(agent->log, "could not join err=%s", err.text);
    }
    agent_waiter_end(&waiter, err.code, err.text, 0);
}

/* What is known of this host before it is one: name and addresses. */
static Drover__HostIdentity *wanted_identity(const char *name, const char *address,
                                             const char *api_address, bool witness)
{
    Drover__HostIdentity identity = DROVER__HOST_IDENTITY__INIT;
    identity.name = (char *)name;
    identity.address = (char *)address;
    identity.api_address = (char *)api_address;
    identity.witness = witness;
    size_t size = drover__host_identity__get_packed_size(&identity);
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    if (packed == NULL) {
        return NULL;
    }
    CHECK(drover__host_identity__pack(&identity, packed) == size);
    return drover__host_identity__unpack(NULL, size, packed);
}

int agent_cluster_join(struct agent *agent, const struct api_join *join, api_done done,
                       void *request, struct error *err)
{
    const char *name = given(join->name, agent->config->name);
    struct join_token token;
    int rv = check_alone(agent, name, join->address, err);
    rv = rv != 0 ? rv : join_token_decode(join->token, &token, err);
    if (rv != 0) {
        return rv;
    }
    CLEANUP(buffer_done) struct buffer csr = {0};
    agent->join_key = calloc(1, sizeof(*agent->join_key));
    Drover__HostIdentity *wanted =
        wanted_identity(name, given(join->address, agent->config->address),
                        given(join->api_address, agent->config->api_address),
                        join->witness || agent->config->witness);
    keep_identity(agent, wanted);
    rv = agent->join_key == NULL || wanted == NULL
             ? error_set(err, -ENOMEM, "out of memory")
             : 0;
    rv = rv != 0 ? rv : pki_key_create(agent->join_key, err);
    rv = rv != 0 ? rv
                 : pki_csr_create(agent->join_key->data, agent->join_key->size, name,
                                  &csr, err);
    if (rv == 0) {
        struct join_wanted ask = {.token = &token,
                                  .name = name,
                                  .address = wanted->address,
                                  .api_address = wanted->api_address,
                                  .witness = wanted->witness,
                                  .csr_pem = csr.data,
                                  .csr_size = csr.size};
        rv = join_client_start(agent->loop, &ask, on_joined, agent, &agent->join, err);
    }
    if (rv != 0) {
        forget_join_key(agent);
        keep_identity(agent, NULL);
        return rv;
    }
    agent->phase = AGENT_PHASE_FORMING;
    agent->forming = (struct agent_waiter){
        .done = done, .request = request, .deadline_ms = UINT64_MAX};
    return 0;
}

/* ---- with the time ---- */

static bool own_host_up(const struct agent *agent)
{
    const struct agent_member *member = agent->member;
    if (member == NULL || member->closing > 0) {
        return false;
    }
    const Drover__HostRecord *host =
        cluster_state_host(member->state, member->self.host_id);
    return host != NULL && host->state == DROVER__HOST_STATE__HOST_STATE_UP &&
           strcmp(host->incarnation, member->incarnation) == 0;
}

static uint32_t look_at_forming(struct agent *agent, uint64_t now_ms)
{
    if (agent->phase != AGENT_PHASE_FORMING) {
        return UINT32_MAX;
    }
    if (own_host_up(agent)) {
        agent->phase = AGENT_PHASE_MEMBER;
        agent_api_listen(agent);
        agent_waiter_end(&agent->forming, 0, "", agent->identity->host_id);
        return UINT32_MAX;
    }
    if (agent->forming.done != NULL && now_ms >= agent->forming.deadline_ms) {
        agent_waiter_end(&agent->forming, DROVER_ETIMEDOUT2,
                         "this host is in the cluster's list, but is not up there yet: "
                         "that goes on by itself, see 'drover cluster status'",
                         0);
        return UINT32_MAX;
    }
    return agent->forming.done == NULL || agent->forming.deadline_ms == UINT64_MAX
               ? UINT32_MAX
               : (uint32_t)(agent->forming.deadline_ms - now_ms);
}

/* What failed is started again; a full disk may have room by now. */
static uint32_t look_at_retry(struct agent *agent, uint64_t now_ms)
{
    if (agent->retry_at_ms == 0 || agent->member != NULL || agent->identity == NULL) {
        return UINT32_MAX;
    }
    if (now_ms < agent->retry_at_ms) {
        return (uint32_t)(agent->retry_at_ms - now_ms);
    }
    struct error err = {0};
    if (agent_member_start(agent, false, &err) != 0) {
        agent->retry_at_ms = 0; /* of the try that has just ended */
        agent_member_fail(agent, err.text);
        return UINT32_MAX;
    }
    agent->phase = AGENT_PHASE_MEMBER;
    agent_api_listen(agent);
    return UINT32_MAX;
}

static uint32_t sooner(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

uint32_t agent_cluster_tick(struct agent *agent, uint64_t now_ms)
{
    uint32_t wait_ms = look_at_retry(agent, now_ms);
    wait_ms = sooner(wait_ms, look_at_forming(agent, now_ms));
    return sooner(wait_ms, agent_remove_tick(agent, now_ms));
}
