/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster's side of a join. */
#include "node-agent/join.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/sha.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"
#include "consensus/cluster_state.h"
#include "node-agent/config.h"
#include "node-agent/pki.h"
#include "node-agent/tls_stream.h"

#define ACK_MS              5000u
#define JOIN_SERVER_IDLE_MS 20000u /* longer than a leader needs for one command */

/* One host that wants to join. Lives while its stream or its proposal does. */
struct guest {
    struct guest *next;
    struct join_server *server;
    struct tls_stream *stream; /* NULL once closed */
    bool proposed;
    Drover__PeerMessage *message; /* its request */
    struct buffer in;
    char from[LIMIT_ADDRESS_SIZE];
};

struct join_server {
    const struct join_server_ops *ops;
    void *owner;
    struct guest *guests;
    unsigned count;
    void (*closed)(void *owner);
    void *closed_owner;
};

static void finish_close(struct join_server *server)
{
    if (server->closed != NULL && server->guests == NULL) {
        void (*closed)(void *owner) = server->closed;
        server->closed = NULL;
        closed(server->closed_owner);
    }
}

static void guest_reap(struct guest *guest)
{
    if (guest->stream != NULL || guest->proposed) {
        return;
    }
    struct join_server *server = guest->server;
    for (struct guest **at = &server->guests; *at != NULL; at = &(*at)->next) {
        if (*at == guest) {
            *at = guest->next;
            server->count--;
            break;
        }
    }
    if (guest->message != NULL) {
        drover__peer_message__free_unpacked(guest->message, NULL);
    }
    buffer_done(&guest->in);
    free(guest);
    finish_close(server);
}

/* ---- answers ---- */

static void answer(struct guest *guest, Drover__JoinReply *reply)
{
    if (guest->stream == NULL) {
        return;
    }
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_JOIN_REPLY;
    message.join_reply = reply;
    CLEANUP(buffer_done) struct buffer out = {0};
    int rv = peer_message_encode(&message, LIMIT_FRAME_BYTES, &out);
    rv = rv != 0 ? rv : tls_stream_write(guest->stream, out.data, out.size);
    if (rv == 0) {
        tls_stream_end(guest->stream);
    } else {
        tls_stream_close(guest->stream, rv, NULL);
    }
}

static void refuse(struct guest *guest, int error, const char *text)
{
    Drover__JoinReply reply = DROVER__JOIN_REPLY__INIT;
    reply.error = error;
    reply.message = (char *)text;
    char line[ERROR_TEXT_SIZE];
    (void)snprintf(line, sizeof(line), "join from %s refused: %s", guest->from, text);
    guest->server->ops->note(guest->server->owner, line);
    answer(guest, &reply);
}

static void redirect(struct guest *guest, const char *leader_address)
{
    Drover__JoinReply reply = DROVER__JOIN_REPLY__INIT;
    reply.error = leader_address[0] != '\0' ? DROVER_ENOTLEADER : DROVER_ENOLEADER;
    const char *text = "the cluster has no leader just now: try again when a majority of its "
                       "hosts is up";
    reply.message = (char *)(leader_address[0] != '\0' ? "ask the leader" : text);
    reply.leader_address = (char *)leader_address;
    answer(guest, &reply);
}

static int sign(const Drover__ClusterState *view, const Drover__JoinRequest *request,
                uint64_t host_id, struct buffer *ret_certificate, struct error *err)
{
    struct pki_signer signer = {.ca_key_pem = view->ca_key_pem.data,
                                .ca_key_size = view->ca_key_pem.len,
                                .ca_certificate_pem = view->ca_certificate_pem.data,
                                .ca_certificate_size = view->ca_certificate_pem.len};
    struct pki_host host = {.cluster_id = view->cluster_id,
                            .host_id = host_id,
                            .name = request->name,
                            .address = request->address,
                            .api_address = request->api_address};
    return pki_sign(&signer, request->csr_pem.data, request->csr_pem.len, &host,
                    ret_certificate, err);
}

static void admit(struct guest *guest, const Drover__ClusterState *view, uint64_t host_id)
{
    const Drover__JoinRequest *request = guest->message->join_request;
    struct error err = {0};
    CLEANUP(buffer_done) struct buffer certificate = {0};
    if (sign(view, request, host_id, &certificate, &err) != 0) {
        refuse(guest, err.code, err.text);
        return;
    }
    Drover__JoinReply reply = DROVER__JOIN_REPLY__INIT;
    reply.cluster_id = view->cluster_id;
    reply.host_id = host_id;
    reply.ca_certificate_pem = view->ca_certificate_pem;
    reply.certificate_pem.data = certificate.data;
    reply.certificate_pem.len = certificate.size;
    reply.lease_ms = view->lease_ms;
    reply.n_hosts = view->n_hosts;
    reply.hosts = (Drover__HostRecord **)view->hosts; /* only packed */
    char line[ERROR_TEXT_SIZE];
    (void)snprintf(line, sizeof(line), "host %s joins as host %" PRIu64 ", from %s",
                   request->name, host_id, guest->from);
    guest->server->ops->note(guest->server->owner, line);
    answer(guest, &reply);
}

static void on_applied(void *owner, int error, const char *text, uint64_t result_id)
{
    struct guest *guest = owner;
    struct join_server *server = guest->server;
    guest->proposed = false;
    if (guest->stream != NULL && server->closed == NULL) {
        const char *leader_address = "";
        const struct cluster_state *state =
            server->ops->leading_state(server->owner, &leader_address);
        if (error != 0) {
            refuse(guest, error, text);
        } else if (state == NULL) {
            refuse(guest, DROVER_ETIMEDOUT2,
                   "the cluster changed its leader just now, and the token is used up: "
                   "remove the host that does not come up and make a new token");
        } else {
            admit(guest, cluster_state_view(state), result_id);
        }
    }
    guest_reap(guest);
}

/* ---- the request ---- */

/* What the state can't judge, before the token is used up. */
static int judge(const struct cluster_state *state, const Drover__JoinRequest *request,
                 struct error *err)
{
    char host[LIMIT_ADDRESS_SIZE];
    unsigned port = 0;
    if (!id_name_valid(request->name)) {
        return error_set(err, DROVER_EBADINPUT,
                         "'%.63s' is no valid host name: give one with --name",
                         request->name);
    }
    int rv = config_split_address(request->address, CONFIG_PEER_PORT_DEFAULT, host, &port,
                                  err);
    if (rv == 0 && request->api_address[0] != '\0') {
        rv = config_split_address(request->api_address, CONFIG_API_PORT_DEFAULT, host,
                                  &port, err);
    }
    if (rv != 0) {
        return rv;
    }
    CLEANUP(buffer_done) struct buffer scratch = {0};
    return sign(cluster_state_view(state), request, 1, &scratch, err);
}

static void propose(struct guest *guest, const Drover__JoinRequest *request)
{
    uint8_t secret_sha256[SHA256_DIGEST_LENGTH];
    (void)SHA256(request->secret.data, request->secret.len,
                 secret_sha256); /* into our array: can't fail */
    Drover__HostAdd add = DROVER__HOST_ADD__INIT;
    add.token_id = request->token_id;
    add.secret_sha256.data = secret_sha256;
    add.secret_sha256.len = sizeof(secret_sha256);
    add.name = request->name;
    add.address = request->address;
    add.api_address = request->api_address;
    add.witness = request->witness;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_ADD;
    command.host_add = &add;
    struct join_server *server = guest->server;
    int rv = server->ops->propose(server->owner, &command, on_applied, guest);
    if (rv != 0) {
        refuse(guest, rv, err_text(rv));
    } else {
        guest->proposed = true;
    }
}

static void serve(struct guest *guest)
{
    struct join_server *server = guest->server;
    if (guest->message->what_case != DROVER__PEER_MESSAGE__WHAT_JOIN_REQUEST) {
        tls_stream_close(guest->stream, DROVER_EMALFORMED, NULL);
        return;
    }
    const char *leader_address = "";
    const struct cluster_state *state =
        server->ops->leading_state(server->owner, &leader_address);
    if (state == NULL) {
        redirect(guest, leader_address);
        return;
    }
    struct error err = {0};
    if (judge(state, guest->message->join_request, &err) != 0) {
        refuse(guest, err.code, err.text);
        return;
    }
    propose(guest, guest->message->join_request);
}

static void on_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                        size_t size)
{
    struct guest *guest = owner;
    if (guest->message != NULL) {
        tls_stream_close(stream, DROVER_EMALFORMED, "more than one request");
        return;
    }
    int rv = buffer_append(&guest->in, data, size);
    rv = rv != 0 ? rv
                 : peer_message_decode(&guest->in, PEER_CHANNEL_JOIN_BYTES_MAX,
                                       &guest->message);
    if (rv == 1) {
        serve(guest);
    } else if (rv < 0) {
        tls_stream_close(stream, rv, "malformed join request");
    }
}

static void on_closed(void *owner, struct tls_stream *stream, int error, const char *text)
{
    struct guest *guest = owner;
    guest->stream = NULL;
    guest_reap(guest);
}

static const struct tls_stream_ops guest_ops = {.received = on_received,
                                                .closed = on_closed};

void join_server_accept(struct join_server *server, const struct peer_opened *opened)
{
    struct guest *guest = server->count >= JOIN_SERVER_MAX || server->closed != NULL
                              ? NULL
                              : calloc(1, sizeof(*guest));
    if (guest == NULL) {
        tls_stream_close(opened->stream, DROVER_ELIMIT, NULL);
        return;
    }
    guest->server = server;
    guest->stream = opened->stream;
    guest->next = server->guests;
    server->guests = guest;
    server->count++;
    buffer_init(&guest->in, PEER_CHANNEL_JOIN_BYTES_MAX + 2u * 16384u);
    (void)snprintf(guest->from, sizeof(guest->from), "%s",
                   tls_stream_peer_text(opened->stream));
    tls_stream_set_ops(opened->stream, &guest_ops, guest);
    tls_stream_set_limits(opened->stream, JOIN_SERVER_IDLE_MS, ACK_MS);
    if (opened->rest_size > 0) {
        on_received(guest, opened->stream, opened->rest, opened->rest_size);
    }
}

int join_server_create(const struct join_server_ops *ops, void *owner,
                       struct join_server **ret_server)
{
    struct join_server *server = calloc(1, sizeof(*server));
    if (server == NULL) {
        return -ENOMEM;
    }
    server->ops = ops;
    server->owner = owner;
    *ret_server = server;
    return 0;
}

void join_server_close(struct join_server *server, void (*closed)(void *owner),
                       void *owner)
{
    server->closed = closed;
    server->closed_owner = owner;
    for (struct guest *guest = server->guests; guest != NULL; guest = guest->next) {
        if (guest->stream != NULL) {
            tls_stream_close(guest->stream, DROVER_ECANCELLED, NULL);
        }
    }
    finish_close(server);
}

void join_server_free(struct join_server *server)
{
    if (server != NULL) {
        CHECK(server->guests == NULL);
        free(server);
    }
}
