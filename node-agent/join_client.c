/* SPDX-License-Identifier: Apache-2.0 */
/* The new host's side of a join. */
#include "node-agent/join.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"
#include "node-agent/tls_stream.h"

#define TRY_MS         5000u  /* to reach one address */
#define ANSWER_MS      20000u /* for the leader to commit and sign */
#define HOPS_AT_ONCE   3u
#define HOPS_MAX       12u /* addresses asked, redirections included */
#define NO_LEADER_WAIT 500u

/*
 *   DIALLING --hello--> ASKING --reply--> (done)
 *      ^-- next address, or the leader's --'
 */
struct join_client {
    uv_loop_t *loop;
    struct tls_context *context;
    struct peer_self self;
    struct join_token token;
    Drover__PeerMessage *request;
    join_done done;
    void *owner;
    uv_timer_t timer; /* starts each try, so that nothing happens inside a call */
    unsigned next_address, hops;
    char address[LIMIT_ADDRESS_SIZE]; /* being asked */
    char redirected[LIMIT_ADDRESS_SIZE];
    struct peer_channel *channel;
    struct tls_stream *stream;
    uint64_t server_id;
    struct buffer in;
    bool cancelled, ended;
    bool answered; /* some member did, if only that it does not lead */
    int error;     /* of the last try */
    char text[ERROR_TEXT_SIZE];
};

static void on_timer_closed(uv_handle_t *handle)
{
    struct join_client *client = handle->data;
    tls_context_free(client->context);
    buffer_done(&client->in);
    drover__peer_message__free_unpacked(client->request, NULL);
    free(client);
}

static void end(struct join_client *client, int error, const char *text,
                const Drover__JoinReply *reply)
{
    CHECK(!client->ended && client->stream == NULL && client->channel == NULL);
    client->ended = true;
    client->done(client->owner, error, text, reply, client->server_id, client->address);
    uv_close((uv_handle_t *)&client->timer, on_timer_closed);
}

/* ---- the answer ---- */

static void try_next(struct join_client *client, uint32_t wait_ms);

static void ignore_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                            size_t size)
{
}

static void ignore_closed(void *owner, struct tls_stream *stream, int error,
                          const char *text)
{
}

static const struct tls_stream_ops no_ops = {.received = ignore_received,
                                             .closed = ignore_closed};

static void let_go(struct join_client *client)
{
    struct tls_stream *stream = client->stream;
    client->stream = NULL;
    buffer_consume(&client->in, client->in.size);
    tls_stream_set_ops(stream, &no_ops, NULL);
    tls_stream_close(stream, 0, NULL);
}

static void judge_reply(struct join_client *client, const Drover__JoinReply *reply)
{
    if (reply->error == DROVER_ENOTLEADER && reply->leader_address[0] != '\0' &&
        strlen(reply->leader_address) < sizeof(client->redirected)) {
        (void)snprintf(client->redirected, sizeof(client->redirected), "%.127s",
                       reply->leader_address);
        client->answered = true;
        client->error = DROVER_ENOLEADER;
        (void)snprintf(client->text, sizeof(client->text),
                       "the cluster's hosts name one another as leader: try again");
        try_next(client, client->hops > HOPS_AT_ONCE ? NO_LEADER_WAIT : 0);
        return;
    }
    if (reply->error == DROVER_ENOLEADER || reply->error == DROVER_ENOTLEADER) {
        client->answered = true;
        client->error = DROVER_ENOLEADER;
        (void)snprintf(client->text, sizeof(client->text), "%.200s", reply->message);
        try_next(client, NO_LEADER_WAIT);
        return;
    }
    if (reply->error != 0) {
        end(client, reply->error, reply->message, NULL);
        return;
    }
    if (reply->host_id == 0 || reply->cluster_id[0] == '\0' ||
        strlen(reply->cluster_id) >= ID_TEXT_SIZE || reply->ca_certificate_pem.len == 0 ||
        reply->certificate_pem.len == 0) {
        end(client, DROVER_EMALFORMED,
            "the leader's answer is malformed: is it of another version?", NULL);
        return;
    }
    end(client, 0, "", reply);
}

static void on_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                        size_t size)
{
    struct join_client *client = owner;
    Drover__PeerMessage *message = NULL;
    int rv = buffer_append(&client->in, data, size);
    rv = rv != 0 ? rv : peer_message_decode(&client->in, LIMIT_FRAME_BYTES, &message);
    if (rv == 0) {
        return;
    }
    let_go(client);
    if (rv < 0 || message->what_case != DROVER__PEER_MESSAGE__WHAT_JOIN_REPLY) {
        end(client, DROVER_EMALFORMED,
            "the answer is malformed: is that host's droverd of another version?", NULL);
    } else {
        judge_reply(client, message->join_reply);
    }
    if (message != NULL) {
        drover__peer_message__free_unpacked(message, NULL);
    }
}

static void on_closed(void *owner, struct tls_stream *stream, int error, const char *text)
{
    struct join_client *client = owner;
    client->stream = NULL;
    if (client->cancelled) {
        end(client, DROVER_ECANCELLED, "cancelled", NULL);
        return;
    }
    char line[ERROR_TEXT_SIZE];
    (void)snprintf(line, sizeof(line),
                   "%.100s did not answer: %.100s; the token may be used up: look at "
                   "'drover node list' there",
                   client->address, text);
    end(client, DROVER_ETIMEDOUT2, line, NULL);
}

static const struct tls_stream_ops stream_ops = {.received = on_received,
                                                 .closed = on_closed};

/* ---- asking ---- */

static void on_opened(void *owner, struct peer_channel *channel,
                      const struct peer_opened *opened)
{
    struct join_client *client = owner;
    client->channel = NULL;
    client->stream = opened->stream;
    client->server_id = opened->host_id;
    tls_stream_set_ops(opened->stream, &stream_ops, client);
    tls_stream_set_limits(opened->stream, ANSWER_MS, ANSWER_MS);
    CLEANUP(buffer_done) struct buffer out = {0};
    int rv = peer_message_encode(client->request, PEER_CHANNEL_JOIN_BYTES_MAX, &out);
    rv = rv != 0 ? rv : tls_stream_write(opened->stream, out.data, out.size);
    if (rv != 0) {
        tls_stream_close(opened->stream, rv, NULL); /* told by on_closed */
    }
}

static void on_failed(void *owner, struct peer_channel *channel, int error,
                      const char *text)
{
    struct join_client *client = owner;
    client->channel = NULL;
    if (client->cancelled) {
        end(client, DROVER_ECANCELLED, "cancelled", NULL);
        return;
    }
    client->error = error;
    (void)snprintf(client->text, sizeof(client->text), "%.100s can't be reached: %.180s",
                   client->address, text);
    try_next(client, client->answered ? NO_LEADER_WAIT : 0);
}

static const struct peer_channel_ops channel_ops = {.opened = on_opened,
                                                    .failed = on_failed};

static void on_timer(uv_timer_t *timer)
{
    struct join_client *client = timer->data;
    if (client->cancelled) {
        end(client, DROVER_ECANCELLED, "cancelled", NULL);
        return;
    }
    struct peer_channel_config config = {.loop = client->loop,
                                         .context = client->context,
                                         .self = &client->self,
                                         .open_ms = TRY_MS,
                                         .ops = &channel_ops,
                                         .owner = client};
    struct error err = {0};
    int rv = peer_channel_dial(&config, client->address, 0,
                               DROVER__PEER_CHANNEL__PEER_CHANNEL_JOIN, &client->channel,
                               &err);
    if (rv != 0) {
        client->error = rv;
        (void)snprintf(client->text, sizeof(client->text), "%s", err.text);
        try_next(client, 0);
    }
}

static void try_next(struct join_client *client, uint32_t wait_ms)
{
    if (++client->hops > HOPS_MAX ||
        (client->redirected[0] == '\0' &&
         client->next_address >= client->token.address_count && !client->answered)) {
        end(client, client->error != 0 ? client->error : DROVER_ENOLEADER, client->text,
            NULL);
        return;
    }
    if (client->redirected[0] != '\0') {
        memcpy(client->address, client->redirected, sizeof(client->address));
        client->redirected[0] = '\0';
    } else {
        unsigned index = client->next_address++ % client->token.address_count;
        memcpy(client->address, client->token.addresses[index], sizeof(client->address));
    }
    CHECK(uv_timer_start(&client->timer, on_timer, wait_ms, 0) == 0);
}

static Drover__PeerMessage *request_create(const struct join_wanted *wanted)
{
    Drover__JoinRequest request = DROVER__JOIN_REQUEST__INIT;
    request.token_id = (char *)wanted->token->token_id;
    request.secret.data = (uint8_t *)wanted->token->secret;
    request.secret.len = JOIN_TOKEN_SECRET_SIZE;
    request.name = (char *)wanted->name;
    request.address = (char *)wanted->address;
    request.api_address = (char *)wanted->api_address;
    request.csr_pem.data = (uint8_t *)wanted->csr_pem;
    request.csr_pem.len = wanted->csr_size;
    request.witness = wanted->witness;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_JOIN_REQUEST;
    message.join_request = &request;
    size_t size = drover__peer_message__get_packed_size(&message);
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    if (packed == NULL) {
        return NULL;
    }
    CHECK(drover__peer_message__pack(&message, packed) == size);
    return drover__peer_message__unpack(NULL, size, packed);
}

int join_client_start(uv_loop_t *loop, const struct join_wanted *wanted, join_done done,
                      void *owner, struct join_client **ret_client, struct error *err)
{
    if (wanted->token->address_count == 0) {
        return error_set(
            err, DROVER_ETOKEN,
            "the token names no host: make a new one with 'drover cluster token'");
    }
    struct tls_context *context = NULL;
    int rv = tls_context_create_join(wanted->token->ca_sha256, &context, err);
    if (rv != 0) {
        return rv;
    }
    struct join_client *client = calloc(1, sizeof(*client));
    Drover__PeerMessage *request = request_create(wanted);
    if (client == NULL || request == NULL) {
        free(client);
        if (request != NULL) {
            drover__peer_message__free_unpacked(request, NULL);
        }
        tls_context_free(context);
        return error_set(err, -ENOMEM, "out of memory");
    }
    *client = (struct join_client){.loop = loop,
                                   .context = context,
                                   .token = *wanted->token,
                                   .request = request,
                                   .done = done,
                                   .owner = owner};
    client->self = (struct peer_self){.cluster_id = "", .boot_id = "", .incarnation = "", .address = ""};
    buffer_init(&client->in, LIMIT_FRAME_BYTES + 65536u);
    CHECK(uv_timer_init(loop, &client->timer) == 0);
    client->timer.data = client;
    try_next(client, 0);
    *ret_client = client;
    return 0;
}

void join_client_cancel(struct join_client *client)
{
    client->cancelled = true;
    if (client->channel != NULL) {
        peer_channel_cancel(client->channel);
    } else if (client->stream != NULL) {
        tls_stream_close(client->stream, DROVER_ECANCELLED, NULL);
    } else if (!client->ended) {
        CHECK(uv_timer_start(&client->timer, on_timer, 0, 0) == 0);
    }
}
