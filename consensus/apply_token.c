/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster's beginning, join tokens, and the hosts that they admit. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/limits.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

#define PEM_BYTES_MAX 16384u
#define SHA256_SIZE   32u
#define FIRST_HOST_ID 1u

static int check_host_identity(struct apply_step *step, const char *name,
                               const char *address, const char *api_address)
{
    if (!id_name_valid(name)) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "host name '%.70s': use 1 to 63 of a-z, 0-9 and '-', with a letter "
            "or digit at both ends",
            name);
    }
    if (!text_address_valid(address)) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "agent address '%.130s' of host '%s': give HOST:PORT", address,
                           name);
    }
    if (api_address[0] != '\0' && !text_address_valid(api_address)) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "API address '%.130s' of host '%s': give HOST:PORT, or none",
                           api_address, name);
    }
    return 0;
}

static int check_cluster(struct apply_step *step, const Drover__ClusterInit *order)
{
    const Drover__HostRecord *host = order->first_host;
    if (step->record->version != 0) {
        return step_refuse(step, DROVER_EEXISTS,
                           "this host is in cluster %s already: leave that one first",
                           step->record->cluster_id);
    }
    if (!text_word_valid(order->cluster_id, ID_TEXT_SIZE)) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "the cluster's id is empty or malformed");
    }
    if (order->ca_certificate_pem.len == 0 ||
        order->ca_certificate_pem.len > PEM_BYTES_MAX || order->ca_key_pem.len == 0 ||
        order->ca_key_pem.len > PEM_BYTES_MAX) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "the cluster's CA needs a certificate and a key of at most %u bytes "
            "each",
            PEM_BYTES_MAX);
    }
    if (order->lease_ms == 0) {
        return step_refuse(step, DROVER_EBADINPUT, "a lease of 0 ms: give its length");
    }
    if (host == NULL || (host->host_id != 0 && host->host_id != FIRST_HOST_ID)) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "a cluster begins with its first host, which has the id 1");
    }
    return check_host_identity(step, host->name, host->address, host->api_address);
}

static Drover__HostRecord *host_create(struct apply_step *step, uint64_t host_id,
                                       const char *name, const char *address,
                                       const char *api_address)
{
    Drover__HostRecord *host = malloc(sizeof(*host));
    if (host == NULL) {
        step->no_memory = true;
        return NULL;
    }
    drover__host_record__init(host);
    host->host_id = host_id;
    host->state = DROVER__HOST_STATE__HOST_STATE_JOINING;
    step_set_string(step, &host->name, name);
    step_set_string(step, &host->address, address);
    step_set_string(step, &host->api_address, api_address);
    step->new_host = host;
    return host;
}

int apply_cluster_init(struct apply_step *step, const Drover__ClusterInit *order)
{
    int rv = check_cluster(step, order);
    if (rv != 0) {
        return rv;
    }
    Drover__ClusterState *cluster = malloc(sizeof(*cluster));
    if (cluster == NULL) {
        return -ENOMEM;
    }
    drover__cluster_state__init(cluster);
    step->new_cluster = cluster;
    cluster->version = 1;
    cluster->lease_ms = order->lease_ms;
    cluster->next_vm_id = 1;
    step_set_string(step, &cluster->cluster_id, order->cluster_id);
    step_set_bytes(step, &cluster->ca_certificate_pem, &order->ca_certificate_pem);
    step_set_bytes(step, &cluster->ca_key_pem, &order->ca_key_pem);

    const Drover__HostRecord *first = order->first_host;
    Drover__HostRecord *host =
        host_create(step, FIRST_HOST_ID, first->name, first->address, first->api_address);
    if (host == NULL) {
        return -ENOMEM;
    }
    host->witness = first->witness;
    host->memory_bytes = first->memory_bytes;
    host->cpus = first->cpus;
    step->result->result_id = FIRST_HOST_ID;
    step_event(step, "cluster.created", (struct step_subject){.host_id = FIRST_HOST_ID},
               "cluster %s was created by host '%s', with a lease of %u ms",
               order->cluster_id, first->name, order->lease_ms);
    return 0;
}

/* A token that can admit nobody any more. */
static bool token_over(const Drover__TokenRecord *token, uint64_t now_unix_ms)
{
    return token->used_by_host_id != 0 || token->expires_unix_ms <= now_unix_ms;
}

int apply_token_create(struct apply_step *step, const Drover__TokenCreate *order)
{
    const Drover__ClusterState *record = step->record;
    uint64_t now = step->command->at_unix_ms;
    if (!text_word_valid(order->token_id, ID_TEXT_SIZE) ||
        order->secret_sha256.len != SHA256_SIZE) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "a token needs an id and the SHA-256 of its secret");
    }
    if (order->expires_unix_ms <= now) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "the token would have expired before it is made: give it more time");
    }
    for (size_t i = 0; i < record->n_tokens; i++) {
        if (strcmp(record->tokens[i]->token_id, order->token_id) == 0) {
            return step_refuse(step, DROVER_EEXISTS,
                               "a token of this id exists: try again");
        }
    }
    /* Old tokens are kept as long as there is room: they tell a user why his is
     * refused. */
    for (size_t i = 0; record->n_tokens >= LIMIT_TOKENS && i < record->n_tokens; i++) {
        if (token_over(record->tokens[i], now)) {
            step->gone = record->tokens[i];
            break;
        }
    }
    if (record->n_tokens >= LIMIT_TOKENS && step->gone == NULL) {
        return step_refuse(
            step, DROVER_ELIMIT,
            "%d tokens wait to be used: use one of them, or wait until one "
            "expires",
            LIMIT_TOKENS);
    }
    Drover__TokenRecord *token = malloc(sizeof(*token));
    if (token == NULL) {
        return -ENOMEM;
    }
    drover__token_record__init(token);
    step->new_token = token;
    token->expires_unix_ms = order->expires_unix_ms;
    step_set_string(step, &token->token_id, order->token_id);
    step_set_bytes(step, &token->secret_sha256, &order->secret_sha256);
    step_event(step, "token.created", (struct step_subject){0},
               "a join token was made: it admits one host within %llu s",
               (unsigned long long)((order->expires_unix_ms - now) / 1000));
    return 0;
}

static long token_find(const struct apply_step *step, const Drover__HostAdd *order)
{
    for (size_t i = 0; i < step->record->n_tokens; i++) {
        const Drover__TokenRecord *token = step->record->tokens[i];
        if (strcmp(token->token_id, order->token_id) == 0 &&
            token->secret_sha256.len == order->secret_sha256.len &&
            memcmp(token->secret_sha256.data, order->secret_sha256.data,
                   order->secret_sha256.len) == 0) {
            return (long)i;
        }
    }
    return -1;
}

/* The same host asks again because the first answer was lost: it gets the same id. */
static bool is_repetition(const struct apply_step *step, const Drover__TokenRecord *token,
                          const Drover__HostAdd *order)
{
    const Drover__HostRecord *host = step_host(step, token->used_by_host_id);
    return host != NULL && host->state == DROVER__HOST_STATE__HOST_STATE_JOINING &&
           strcmp(host->name, order->name) == 0 &&
           strcmp(host->address, order->address) == 0 && host->witness == order->witness;
}

static int check_host_new(struct apply_step *step, const Drover__HostAdd *order)
{
    const Drover__ClusterState *record = step->record;
    int rv = check_host_identity(step, order->name, order->address, order->api_address);
    if (rv != 0) {
        return rv;
    }
    for (size_t i = 0; i < record->n_hosts; i++) {
        const Drover__HostRecord *host = record->hosts[i];
        if (strcmp(host->name, order->name) == 0) {
            return step_refuse(
                step, DROVER_EEXISTS,
                "the cluster has a host '%s' already: choose another name, or "
                "remove that one first (drover cluster remove %s)",
                order->name, order->name);
        }
        if (strcmp(host->address, order->address) == 0) {
            return step_refuse(
                step, DROVER_EEXISTS,
                "host '%s' has the address %s already: give another, or remove "
                "that host first",
                host->name, order->address);
        }
    }
    if (record->n_hosts >= LIMIT_HOSTS) {
        return step_refuse(
            step, DROVER_ELIMIT,
            "the cluster has %d hosts, which is as many as it can: remove one "
            "first",
            LIMIT_HOSTS);
    }
    return 0;
}

int apply_host_add(struct apply_step *step, const Drover__HostAdd *order)
{
    long at = token_find(step, order);
    if (at < 0) {
        return step_refuse(step, DROVER_ETOKEN,
                           "this cluster knows no such join token: make one with 'drover "
                           "cluster token' and use it as it is printed");
    }
    const Drover__TokenRecord *known = step->record->tokens[at];
    if (known->used_by_host_id != 0) {
        char name[STEP_NAME_SIZE];
        if (is_repetition(step, known, order)) {
            step->result->result_id = known->used_by_host_id;
            return 0;
        }
        return step_refuse(
            step, DROVER_ETOKEN,
            "this join token was used by host %s: each admits one host, make "
            "another with 'drover cluster token'",
            step_host_name(step, known->used_by_host_id, name));
    }
    if (known->expires_unix_ms <= step->command->at_unix_ms) {
        return step_refuse(
            step, DROVER_ETOKEN,
            "this join token has expired: make another with 'drover cluster "
            "token'");
    }
    int rv = check_host_new(step, order);
    if (rv != 0) {
        return rv;
    }
    uint64_t host_id = step->record->next_host_id;
    Drover__TokenRecord *token = step_edit_token(step, (size_t)at);
    Drover__HostRecord *host =
        host_create(step, host_id, order->name, order->address, order->api_address);
    if (token == NULL || host == NULL) {
        return -ENOMEM;
    }
    token->used_unix_ms = step->command->at_unix_ms;
    token->used_by_host_id = host_id;
    host->witness = order->witness;
    step->result->result_id = host_id;
    step_event(step, "host.added", (struct step_subject){.host_id = host_id},
               "%s '%s' (%s) was admitted with a join token",
               order->witness ? "witness" : "host", order->name, order->address);
    return 0;
}
