/* SPDX-License-Identifier: Apache-2.0 */
/* /cluster: how it stands, init, join, tokens, members. */
#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "consensus/cluster_state.h"
#include "fencing/timing.h"
#include "node-agent/api_internal.h"
#include "node-agent/join_token.h"
#include "node-agent/json_reader.h"
#include "node-agent/pki.h"

#define AGENT_PORT        "7400"
#define API_PORT          "7401"
#define TOKEN_VALID_S_MIN 60
#define TOKEN_VALID_S_MAX 604800
#define TOKEN_VALID_S     3600
#define SETTING_RDMA      "allow_unencrypted_rdma"

/* ---- show
 * ---------------------------------------------------------------------------------- */

struct census {
    unsigned voters, voters_up, vms, vms_running;
};

static struct census take_census(const struct api_call *call,
                                 const Drover__ClusterState *view)
{
    struct census census = {0};
    char reason[400];
    for (size_t i = 0; i < view->n_hosts; i++) {
        struct json_host_seen seen = api_host_seen(call, view->hosts[i]->host_id);
        census.voters++;
        census.voters_up += seen.leads && seen.usable &&
                            view->hosts[i]->state == DROVER__HOST_STATE__HOST_STATE_UP;
    }
    for (size_t i = 0; i < view->n_vms; i++) {
        struct json_vm_seen seen = api_vm_seen(call, view->vms[i]);
        const char *state =
            json_vm_state(view->vms[i], api_state(call), &seen, reason, sizeof(reason));
        census.vms++;
        census.vms_running +=
            strcmp(state, "running") == 0 || strcmp(state, "migrating") == 0;
    }
    return census;
}

/* Why a VM would not be started elsewhere just now; NULL: it would. */
static const char *why_no_ha(const struct census *census, bool leads)
{
    if (census->voters == 1) {
        return "there is one host: add two more, or one and a witness";
    }
    if (census->voters == 2) {
        return "two hosts can't outvote a lost one: add a third host or a witness";
    }
    if (!leads) {
        return "the cluster has no leader just now";
    }
    if (census->voters_up <= census->voters / 2 + 1 &&
        census->voters_up < census->voters) {
        return "one more lost host would stop the cluster: bring the lost ones back";
    }
    return NULL;
}

static json_t *json_settings(const Drover__ClusterState *view)
{
    return json_pack("{s:b}", SETTING_RDMA, (int)view->allow_unencrypted_rdma);
}

void api_cluster_show(struct api_call *call)
{
    const struct cluster_state *state = api_state(call);
    const Drover__ClusterState *view = cluster_state_view(state);
    struct api_self self = api_self_of(call);
    if (self.host_id == 0 || view->version == 0) {
        api_finish(call, 200,
                   json_pack("{s:b, s:n, s:s}", "formed", false, "node", "version",
                             DROVER_VERSION));
        return;
    }
    struct census census = take_census(call, view);
    unsigned majority = census.voters / 2 + 1;
    unsigned spare = census.voters_up > majority ? census.voters_up - majority : 0;
    const char *why = why_no_ha(&census, self.leads);
    json_t *ha =
        json_pack("{s:b, s:s}", "on", why == NULL, "why", why == NULL ? "" : why);
    json_t *object = json_pack(
        "{s:b, s:s, s:s?, s:s?, s:I, s:I, s:i, s:i, s:i, s:i, s:o}", "formed", true,
        "cluster_id", view->cluster_id, "node", json_host_name(state, self.host_id),
        "leader", json_host_name(state, self.leader_host_id), "term",
        (json_int_t)self.term, "applied_index",
        (json_int_t)cluster_state_applied_index(state), "lease_ms", (int)view->lease_ms,
        "voters", (int)census.voters, "voters_up", (int)census.voters_up,
        "failures_tolerated", (int)spare, "ha", ha);
    json_t *rest = json_pack("{s:i, s:i, s:s, s:b, s:o}", "vms", (int)census.vms,
                             "vms_running", (int)census.vms_running, "version",
                             DROVER_VERSION, "stale", !self.leads, "settings",
                             json_settings(view));
    (void)json_object_update(object, rest);
    json_decref(rest);
    api_finish(call, 200, object);
}

/* ---- settings
 * ------------------------------------------------------------------------------ */

void api_settings_answer(struct api_call *call, uint64_t result_id)
{
    (void)result_id;
    api_finish(call, 200, json_settings(cluster_state_view(api_state(call))));
}

void api_cluster_set(struct api_call *call)
{
    struct error err = {0};
    struct json_reader reader;
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__ClusterSet order = DROVER__CLUSTER_SET__INIT;
    json_reader_init(&reader, call->body, "", &err);
    json_reader_require(&reader, SETTING_RDMA);
    order.setting = DROVER__CLUSTER_SETTING__CLUSTER_SETTING_ALLOW_UNENCRYPTED_RDMA;
    order.value = json_reader_bool(&reader, SETTING_RDMA, false);
    if (json_reader_end(&reader) != 0) {
        api_fail_err(call, &err);
        return;
    }
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_SET;
    command.cluster_set = &order;
    api_propose(call, &command, api_settings_answer);
}

/* ---- addresses
 * ------------------------------------------------------------------------------ */

/* "HOST" or "HOST:PORT" to "HOST:PORT"; IPv6 in brackets. */
static int full_address(const char *field, const char *text, const char *port,
                        char ret_address[LIMIT_ADDRESS_SIZE], struct error *err)
{
    const char *bracket = strrchr(text, ']');
    const char *colon = strchr(bracket == NULL ? text : bracket, ':');
    bool bare_ipv6 = bracket == NULL && colon != NULL && strchr(colon + 1, ':') != NULL;
    if (text[0] == '\0' || text[0] == ':' || strpbrk(text, " /,\t\n") != NULL ||
        bare_ipv6) {
        return error_set(
            err, DROVER_EBADINPUT,
            "%s: '%.60s' is no address: give HOST or HOST:PORT, IPv6 in brackets", field,
            text);
    }
    if (colon != NULL) {
        char *end = NULL;
        unsigned long number = strtoul(colon + 1, &end, 10);
        if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || number == 0 ||
            number > 65535) {
            return error_set(err, DROVER_EBADINPUT, "%s: give a port from 1 to 65535",
                             field);
        }
    }
    int length = colon != NULL
                     ? snprintf(ret_address, LIMIT_ADDRESS_SIZE, "%s", text)
                     : snprintf(ret_address, LIMIT_ADDRESS_SIZE, "%s:%s", text, port);
    if (length < 0 || length >= LIMIT_ADDRESS_SIZE) {
        return error_set(err, DROVER_ELIMIT,
                         "%s: is longer than %d characters: give a shorter one", field,
                         LIMIT_ADDRESS_SIZE - 1);
    }
    return 0;
}

/* What init and join have in common. */
struct own_place {
    char name[LIMIT_NAME_SIZE];
    char address[LIMIT_ADDRESS_SIZE];
    char api_address[LIMIT_ADDRESS_SIZE];
};

static int host_name(const char *given, char ret_name[LIMIT_NAME_SIZE], struct error *err)
{
    if (!id_name_valid(given)) {
        return error_set(
            err, DROVER_EBADINPUT,
            "name: '%.70s' is no name: use 1 to 63 of a-z, 0-9 and '-', with a letter "
            "or digit at both ends",
            given);
    }
    (void)snprintf(ret_name, LIMIT_NAME_SIZE, "%s", given);
    return 0;
}

static int read_place(struct json_reader *reader, struct own_place *place,
                      struct error *err)
{
    const char *name = json_reader_text(reader, "name", "");
    const char *address = json_reader_text(reader, "address", "");
    const char *api_address = json_reader_text(reader, "api_address", "");
    int rv = json_reader_end(reader);
    /* What is not given is as droverd is configured. */
    if (rv == 0 && name[0] != '\0') {
        rv = host_name(name, place->name, err);
    }
    if (rv == 0 && address[0] != '\0') {
        rv = full_address("address", address, AGENT_PORT, place->address, err);
    }
    if (rv != 0 || (api_address[0] == '\0' && address[0] == '\0')) {
        return rv;
    }
    char host[LIMIT_ADDRESS_SIZE];
    if (api_address[0] == '\0') {
        (void)snprintf(host, sizeof(host), "%.*s",
                       (int)(strrchr(place->address, ':') - place->address),
                       place->address);
        api_address = host;
    }
    return full_address("api_address", api_address, API_PORT, place->api_address, err);
}

/* ---- init, join
 * ------------------------------------------------------------------------------ */

static void formed(struct api_call *call, uint64_t result_id)
{
    const struct cluster_state *state = api_state(call);
    uint64_t host_id = result_id != 0 ? result_id : api_self_of(call).host_id;
    api_finish(call, 201,
               json_pack("{s:s?, s:I, s:s}", "name", json_host_name(state, host_id),
                         "host_id", (json_int_t)host_id, "cluster_id",
                         cluster_state_view(state)->cluster_id));
}

static bool refuse_if_formed(struct api_call *call)
{
    struct api_self self = api_self_of(call);
    if (self.host_id != 0) {
        api_fail(call, DROVER_EWRONGSTATE,
                 "this host is in a cluster already: 'drover cluster "
                 "status' shows it");
    }
    return self.host_id != 0;
}

void api_cluster_init(struct api_call *call)
{
    struct error err = {0};
    struct json_reader reader;
    struct own_place place = {0};
    if (refuse_if_formed(call)) {
        return;
    }
    json_reader_init(&reader, call->body, "", &err);
    struct api_init init = {
        .name = place.name, .address = place.address, .api_address = place.api_address};
    init.lease_ms = (uint32_t)json_reader_number(&reader, "lease_ms", TIMING_LEASE_MS_MIN,
                                                 TIMING_LEASE_MS_MAX, 0);
    if (read_place(&reader, &place, &err) != 0) {
        api_fail_err(call, &err);
        return;
    }
    call->then = formed;
    call->lent = true;
    int rv = call->core->backend->cluster_init(call->core->owner, &init, api_backend_done,
                                               call, &err);
    if (rv != 0) {
        call->lent = false;
        api_fail(call, rv, err.text);
    }
}

/* The token that this very host has joined by: who asks again has missed the answer. */
static bool joined_by(const struct api_call *call, const struct join_token *token)
{
    const Drover__ClusterState *view = cluster_state_view(api_state(call));
    uint64_t own_id = api_self_of(call).host_id;
    for (size_t i = 0; own_id != 0 && i < view->n_tokens; i++) {
        const Drover__TokenRecord *known = view->tokens[i];
        if (known->used_by_host_id == own_id &&
            strcmp(known->token_id, token->token_id) == 0) {
            return true;
        }
    }
    return false;
}

void api_cluster_join(struct api_call *call)
{
    struct error err = {0};
    struct json_reader reader;
    struct join_token token;
    struct own_place place = {0};
    json_reader_init(&reader, call->body, "", &err);
    struct api_join join = {
        .name = place.name, .address = place.address, .api_address = place.api_address};
    json_reader_require(&reader, "token");
    join.token = json_reader_text(&reader, "token", "");
    join.witness = json_reader_bool(&reader, "witness", false);
    int rv = read_place(&reader, &place, &err);
    rv = rv != 0 ? rv : join_token_decode(join.token, &token, &err);
    bool before = rv == 0 && joined_by(call, &token);
    explicit_bzero(&token,
                   sizeof(token)); /* only looked at: the backend reads it itself */
    if (before) {
        formed(call, 0);
        return;
    }
    if (refuse_if_formed(call)) {
        return;
    }
    if (rv != 0) {
        api_fail(call, rv, err.text);
        return;
    }
    call->then = formed;
    call->lent = true;
    rv = call->core->backend->cluster_join(call->core->owner, &join, api_backend_done,
                                           call, &err);
    if (rv != 0) {
        call->lent = false;
        api_fail(call, rv, err.text);
    }
}

/* ---- tokens
 * ---------------------------------------------------------------------------------- */

static void token_created(struct api_call *call, uint64_t result_id)
{
    struct join_token token;
    struct error err = {0};
    (void)result_id;
    if (join_token_decode(call->secret_text, &token, &err) != 0) {
        api_fail_err(call, &err);
        return;
    }
    api_finish(call, 201,
               json_pack("{s:s, s:s, s:I}", "token", call->secret_text, "token_id",
                         token.token_id, "expires_unix_ms", (json_int_t)call->number));
    explicit_bzero(&token, sizeof(token));
}

/* The leader first: it answers at once. */
static void add_addresses(const struct api_call *call, struct join_token *token)
{
    const Drover__ClusterState *view = cluster_state_view(api_state(call));
    uint64_t leader = api_self_of(call).leader_host_id;
    for (unsigned round = 0; round < 2; round++) {
        for (size_t i = 0; i < view->n_hosts; i++) {
            const Drover__HostRecord *host = view->hosts[i];
            bool now = round == 0 ? host->host_id == leader : host->host_id != leader;
            if (now && host->state == DROVER__HOST_STATE__HOST_STATE_UP &&
                token->address_count < JOIN_TOKEN_ADDRESSES) {
                (void)snprintf(token->addresses[token->address_count],
                               sizeof(token->addresses[0]), "%s", host->address);
                token->address_count++;
            }
        }
    }
}

static int make_token(struct api_call *call, struct join_token *token, struct error *err)
{
    const Drover__ClusterState *view = cluster_state_view(api_state(call));
    char id[ID_TEXT_SIZE];
    int rv = id_random_bytes(token->secret, sizeof(token->secret));
    rv = rv != 0 ? rv : id_random_text(id);
    if (rv != 0) {
        return error_set(err, rv, "no random numbers: %s", err_text(rv));
    }
    (void)snprintf(token->token_id, sizeof(token->token_id), "%.16s", id);
    rv = pki_fingerprint(view->ca_certificate_pem.data, view->ca_certificate_pem.len,
                         token->ca_sha256, err);
    if (rv != 0) {
        return rv;
    }
    add_addresses(call, token);
    rv = join_token_encode(token, call->secret_text, sizeof(call->secret_text));
    return rv == 0 ? 0 : error_set(err, rv, "the token does not fit: %s", err_text(rv));
}

void api_token_create(struct api_call *call)
{
    struct error err = {0};
    struct json_reader reader;
    struct join_token token = {0};
    uint8_t digest[SHA256_DIGEST_LENGTH];
    json_reader_init(&reader, call->body, "", &err);
    uint64_t valid_s = json_reader_number(&reader, "valid_s", TOKEN_VALID_S_MIN,
                                          TOKEN_VALID_S_MAX, TOKEN_VALID_S);
    int rv = json_reader_end(&reader);
    rv = rv != 0 ? rv : make_token(call, &token, &err);
    if (rv != 0) {
        explicit_bzero(&token, sizeof(token));
        api_fail(call, rv, err.text);
        return;
    }
    (void)SHA256(token.secret, sizeof(token.secret), digest);
    call->number = clock_wall_ms() + valid_s * MS_PER_S;
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__TokenCreate create = DROVER__TOKEN_CREATE__INIT;
    create.token_id = token.token_id;
    create.secret_sha256.data = digest;
    create.secret_sha256.len = sizeof(digest);
    create.expires_unix_ms = call->number;
    command.what_case = DROVER__COMMAND__WHAT_TOKEN_CREATE;
    command.token_create = &create;
    api_propose(call, &command, token_created);
    explicit_bzero(&token, sizeof(token));
}

void api_token_list(struct api_call *call)
{
    const struct cluster_state *state = api_state(call);
    const Drover__ClusterState *view = cluster_state_view(state);
    json_t *list = json_array();
    uint64_t now_ms = clock_wall_ms();
    for (size_t i = 0; i < view->n_tokens; i++) {
        const Drover__TokenRecord *token = view->tokens[i];
        const char *text = token->used_unix_ms != 0          ? "used"
                           : token->expires_unix_ms < now_ms ? "expired"
                                                             : "unused";
        (void)json_array_append_new(
            list,
            json_pack("{s:s, s:I, s:s, s:s?}", "token_id", token->token_id,
                      "expires_unix_ms", (json_int_t)token->expires_unix_ms, "state",
                      text, "used_by", json_host_name(state, token->used_by_host_id)));
    }
    api_finish(
        call, 200,
        json_pack("{s:o, s:b}", "tokens", list, "stale", !api_self_of(call).leads));
}

/* ---- members
 * --------------------------------------------------------------------------------- */

static void removed(struct api_call *call, uint64_t result_id)
{
    (void)result_id;
    json_error_t error;
    api_finish(call, 200, json_loads(call->secret_text, 0, &error));
}

void api_member_removed_before(struct api_call *call, uint64_t host_id)
{
    api_finish(call, 200,
               json_pack("{s:s, s:I, s:s}", "name", call->segments[2], "id",
                         (json_int_t)host_id, "state", "removed"));
}

void api_member_remove(struct api_call *call)
{
    struct error err = {0};
    const Drover__HostRecord *host =
        cluster_state_host_by_name(api_state(call), call->segments[2]);
    if (host == NULL) {
        api_fail(call, DROVER_ENOTFOUND, "no such host: 'drover node list' shows all");
        return;
    }
    /* Its record is gone when the answer is due. */
    json_t *last = json_pack("{s:s, s:I, s:s, s:s}", "name", host->name, "id",
                             (json_int_t)host->host_id, "state", "removed", "address",
                             host->address);
    char *text = last == NULL ? NULL : json_dumps(last, JSON_COMPACT);
    (void)snprintf(call->secret_text, sizeof(call->secret_text), "%s",
                   text == NULL ? "" : text);
    free(text);
    json_decref(last);
    call->then = removed;
    call->lent = true;
    const struct api_removal removal = {
        .host_id = host->host_id,
        .request_id = call->key,
        .request_digest = call->digest,
    };
    int rv = call->core->backend->member_remove(call->core->owner, &removal,
                                                api_backend_done, call, &err);
    if (rv != 0) {
        call->lent = false;
        api_fail(call, rv, err.text);
    }
}
