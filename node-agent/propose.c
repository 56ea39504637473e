/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that only the leader answers, from any host. */
#include "node-agent/propose.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/limits.h"

#define RETRY_MS 50u /* a leader that says it is none, or can't be reached */

/*
 *   WAITING --sent--> SENT --answer, time-out, lost--> (done)
 *      ^---- not the leader, or certainly not sent ---'
 *
 * What may be carried out twice without harm (a read, a request with a key) goes back to
 * WAITING also when it is not known whether it was: lost, or another leads now.
 */
struct pending {
    struct pending *next;
    uint64_t request_id;
    uint64_t sent_to; /* 0: WAITING */
    uint64_t deadline_ms, retry_at_ms;
    bool repeatable, was_sent;
    Drover__PeerMessage *message; /* owned */
    propose_done done;
    void *owner;
};

struct propose {
    const struct propose_ops *ops;
    void *owner;
    struct pending *first, **end;
    unsigned count;
    uint64_t next_id;
};

int propose_create(const struct propose_ops *ops, void *owner,
                   struct propose **ret_propose)
{
    struct propose *propose = calloc(1, sizeof(*propose));
    if (propose == NULL) {
        return -ENOMEM;
    }
    propose->ops = ops;
    propose->owner = owner;
    propose->end = &propose->first;
    propose->next_id = 1;
    *ret_propose = propose;
    return 0;
}

static void unlink_pending(struct propose *propose, struct pending *pending)
{
    for (struct pending **at = &propose->first; *at != NULL; at = &(*at)->next) {
        if (*at == pending) {
            *at = pending->next;
            if (propose->end == &pending->next) {
                propose->end = at;
            }
            propose->count--;
            return;
        }
    }
    CHECK(false);
}

/* `answer` is used after the list is in order: `done` may propose again. */
static void finish(struct propose *propose, struct pending *pending,
                   const struct propose_answer *answer)
{
    unlink_pending(propose, pending);
    pending->done(pending->owner, answer);
    drover__peer_message__free_unpacked(pending->message, NULL);
    free(pending);
}

static void fail(struct propose *propose, struct pending *pending, int error,
                 const char *text)
{
    struct propose_answer answer = {.error = error, .text = text};
    finish(propose, pending, &answer);
}

void propose_free(struct propose *propose)
{
    if (propose == NULL) {
        return;
    }
    while (propose->first != NULL) {
        fail(propose, propose->first, DROVER_ECANCELLED,
             "droverd is stopping: ask another host");
    }
    free(propose);
}

/* ---- submitting ---- */

static Drover__PeerMessage *message_copy(const Drover__PeerMessage *message)
{
    size_t size = drover__peer_message__get_packed_size(message);
    CLEANUP(cleanup_free)
    uint8_t *packed = size > LIMIT_FRAME_BYTES ? NULL : malloc(size + 1);
    if (packed == NULL) {
        return NULL;
    }
    CHECK(drover__peer_message__pack(message, packed) == size);
    return drover__peer_message__unpack(NULL, size, packed);
}

static bool is_repeatable(const Drover__PeerMessage *message)
{
    if (message->what_case != DROVER__PEER_MESSAGE__WHAT_API_FORWARD) {
        return false; /* who proposes commands looks at the state, and proposes again */
    }
    const Drover__ApiForward *request = message->api_forward;
    return request->key[0] != '\0' || strcmp(request->method, "GET") == 0;
}

static int submit(struct propose *propose, const Drover__PeerMessage *message,
                  uint64_t request_id, uint64_t deadline_ms, propose_done done,
                  void *owner)
{
    if (propose->count >= PROPOSE_COUNT_MAX ||
        drover__peer_message__get_packed_size(message) > LIMIT_FRAME_BYTES) {
        return DROVER_ELIMIT;
    }
    struct pending *pending = calloc(1, sizeof(*pending));
    if (pending == NULL) {
        return -ENOMEM;
    }
    *pending = (struct pending){.request_id = request_id,
                                .deadline_ms = deadline_ms,
                                .repeatable = is_repeatable(message),
                                .message = message_copy(message),
                                .done = done,
                                .owner = owner};
    if (pending->message == NULL) {
        free(pending);
        return -ENOMEM;
    }
    *propose->end = pending;
    propose->end = &pending->next;
    propose->count++;
    return 0;
}

int propose_command(struct propose *propose, const Drover__Command *command,
                    uint64_t now_ms, uint32_t limit_ms, propose_done done, void *owner)
{
    Drover__Propose request = DROVER__PROPOSE__INIT;
    request.request_id = propose->next_id++;
    request.command = (Drover__Command *)command;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_PROPOSE;
    message.propose = &request;
    return submit(propose, &message, request.request_id, now_ms + limit_ms, done, owner);
}

int propose_forward(struct propose *propose, const Drover__ApiForward *api,
                    uint64_t now_ms, uint32_t limit_ms, propose_done done, void *owner)
{
    Drover__ApiForward request = *api;
    request.request_id = propose->next_id++;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_API_FORWARD;
    message.api_forward = &request;
    return submit(propose, &message, request.request_id, now_ms + limit_ms, done, owner);
}

/* ---- answers ---- */

static struct pending *find(struct propose *propose, uint64_t request_id,
                            uint64_t host_id, Drover__PeerMessage__WhatCase what)
{
    for (struct pending *pending = propose->first; pending != NULL;
         pending = pending->next) {
        if (pending->request_id == request_id && pending->sent_to == host_id &&
            pending->message->what_case == what) {
            return pending;
        }
    }
    return NULL; /* given up meanwhile */
}

static void wait_again(struct pending *pending, uint64_t now_ms)
{
    pending->sent_to = 0;
    pending->retry_at_ms = now_ms + RETRY_MS;
}

void propose_received(struct propose *propose, uint64_t host_id,
                      const Drover__PeerMessage *message, uint64_t now_ms)
{
    if (message->what_case == DROVER__PEER_MESSAGE__WHAT_PROPOSE_REPLY) {
        const Drover__ProposeReply *reply = message->propose_reply;
        struct pending *pending =
            find(propose, reply->request_id, host_id, DROVER__PEER_MESSAGE__WHAT_PROPOSE);
        if (pending == NULL) {
            return;
        }
        if (reply->error == DROVER_ENOTLEADER) {
            wait_again(pending, now_ms); /* it says so only before it has proposed */
            return;
        }
        struct propose_answer answer = {.error = reply->error,
                                        .text = reply->message,
                                        .index = reply->index,
                                        .result_id = reply->result_id};
        finish(propose, pending, &answer);
    } else if (message->what_case == DROVER__PEER_MESSAGE__WHAT_API_FORWARD_REPLY) {
        const Drover__ApiForwardReply *reply = message->api_forward_reply;
        struct pending *pending = find(propose, reply->request_id, host_id,
                                       DROVER__PEER_MESSAGE__WHAT_API_FORWARD);
        if (pending == NULL) {
            return;
        }
        if (reply->status == 0) {
            wait_again(pending, now_ms);
            return;
        }
        struct propose_answer answer = {.text = "",
                                        .status = reply->status,
                                        .body = reply->body.data,
                                        .body_size = reply->body.len};
        finish(propose, pending, &answer);
    }
}

#define UNKNOWN_TEXT                                                                     \
    "the leader did not answer: what was asked may have been done, look before you ask " \
    "again"

void propose_lost(struct propose *propose, uint64_t host_id, bool unsent, uint64_t now_ms)
{
    struct pending *next = NULL;
    for (struct pending *pending = propose->first; pending != NULL; pending = next) {
        next = pending->next;
        if (pending->sent_to != host_id) {
            continue;
        }
        if (unsent || pending->repeatable) {
            wait_again(pending, now_ms);
            continue;
        }
        fail(propose, pending, DROVER_ETIMEDOUT2, UNKNOWN_TEXT);
        next = propose->first; /* `done` may have changed the list */
    }
}

/* ---- time ---- */

static uint32_t sooner(uint32_t wait_ms, uint64_t at_ms, uint64_t now_ms)
{
    uint64_t left = at_ms > now_ms ? at_ms - now_ms : 0;
    return left < wait_ms ? (uint32_t)left : wait_ms;
}

static void try_send(struct propose *propose, struct pending *pending, uint64_t leader,
                     uint64_t now_ms)
{
    int rv = propose->ops->send(propose->owner, leader, pending->message);
    if (rv == 0) {
        pending->sent_to = leader;
        pending->was_sent = pending->repeatable;
    } else {
        pending->retry_at_ms = now_ms + RETRY_MS;
    }
}

uint32_t propose_tick(struct propose *propose, uint64_t now_ms)
{
    uint32_t wait_ms = UINT32_MAX;
    uint64_t leader = propose->ops->leader(propose->owner);
    struct pending *pending = propose->first;
    while (pending != NULL) {
        if (now_ms >= pending->deadline_ms) {
            bool sent = pending->sent_to != 0 || pending->was_sent;
            fail(propose, pending, sent ? DROVER_ETIMEDOUT2 : DROVER_ENOLEADER,
                 sent ? UNKNOWN_TEXT
                      : "the cluster has no leader: a majority of its hosts must be up "
                        "and reach each other");
            pending = propose->first; /* `done` may have changed the list */
            continue;
        }
        if (pending->repeatable && pending->sent_to != 0 && leader != 0 &&
            pending->sent_to != leader) {
            pending->sent_to = 0;
        }
        if (pending->sent_to == 0 && leader != 0 && now_ms >= pending->retry_at_ms) {
            try_send(propose, pending, leader, now_ms);
        }
        wait_ms = sooner(wait_ms, pending->deadline_ms, now_ms);
        if (pending->sent_to == 0 && leader != 0) {
            wait_ms = sooner(wait_ms, pending->retry_at_ms, now_ms);
        }
        pending = pending->next;
    }
    return wait_ms;
}
