/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that only the leader answers, from any host: commands for raft and forwarded API requests. Each waits for a leader, goes
 * there, and ends exactly once: with the answer, or with what is known when none came. Pure: the world is `ops`.
 */
#ifndef DROVER_NODE_AGENT_PROPOSE_H
#define DROVER_NODE_AGENT_PROPOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/peer.pb-c.h"

struct error;
struct propose;

#define PROPOSE_COUNT_MAX 1024

/* An answer; the one of a Propose or of an ApiForward. Borrowed during the call. */
struct propose_answer {
    int error;
    const char *text;
    uint64_t index, result_id; /* of a command */
    unsigned status;           /* of an API request */
    const void *body;
    size_t body_size;
};
typedef void (*propose_done)(void *owner, const struct propose_answer *answer);

struct propose_ops {
    /* Who leads as far as is known; 0: nobody. It may be this host. */
    uint64_t (*leader)(void *owner);
    /* 0, or why it could not be sent. For this host itself the message comes back as one that was received. */
    int (*send)(void *owner, uint64_t host_id, const Drover__PeerMessage *message);
};

int propose_create(const struct propose_ops *ops, void *owner, struct propose **ret_propose);
/* Ends what is left with DROVER_ECANCELLED. */
void propose_free(struct propose *propose);

/*
 * `done` exactly once, later, from one of the functions below. Copies the command or request. Fails only with -ENOMEM or
 * DROVER_ELIMIT. Answers of its own: DROVER_ENOLEADER (nobody led for the whole time: nothing was done), DROVER_ETIMEDOUT2 (it was sent,
 * no answer: it may have been done). A forwarded read, or request with a key, is sent again to whoever leads then.
 */
int propose_command(struct propose *propose, const Drover__Command *command, uint64_t now_ms,
                    uint32_t limit_ms, propose_done done, void *owner);
int propose_forward(struct propose *propose, const Drover__ApiForward *request, uint64_t now_ms,
                    uint32_t limit_ms, propose_done done, void *owner);

/* A ProposeReply or ApiForwardReply that came from `host_id`. */
void propose_received(struct propose *propose, uint64_t host_id, const Drover__PeerMessage *message,
                      uint64_t now_ms);
/* The connection with that host is lost; unsent: nothing of what waited for it was sent. */
void propose_lost(struct propose *propose, uint64_t host_id, bool unsent, uint64_t now_ms);
/* When the leader may have changed, and when the last call said so. Returns ms until it wants to be called again; UINT32_MAX: no wish. */
uint32_t propose_tick(struct propose *propose, uint64_t now_ms);

#endif
