/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the API asks of an agent, on one host: the real cluster state, to which commands
 * are applied at once instead of through raft. Answers come later, from the loop, as the
 * agent's do.
 */
#ifndef DROVER_TESTS_UNIT_FAKE_BACKEND_H
#define DROVER_TESTS_UNIT_FAKE_BACKEND_H

#include <stdbool.h>
#include <uv.h>

#include "node-agent/api.h"

struct cluster_state;

struct fake_backend {
    uv_loop_t *loop;
    struct cluster_state *state;
    struct api_self self;
    uint64_t log_index;
    void (*changed)(void *owner); /* after a command was applied */
    void *changed_owner;
    Drover__VmStatus *status; /* what is observed of every VM; NULL: nothing */
    uint64_t status_host_id;
    uint64_t silent_ms;
    bool answer_lost;  /* the next proposal is applied, but nobody is told */
    int propose_error; /* not 0: what every proposal ends with */
    int forward_error; /* what forward ends with; 0: `forward_body` */
    const char *forward_body;
    char forwarded[256]; /* "METHOD path body" of the last one */
    char joined[256];    /* "token name address api_address" */
    char removed[32];
    char serial_path[108];
    unsigned open; /* answers that are due */
};

extern const struct api_backend fake_backend_ops;

void fake_backend_init(struct fake_backend *backend, uv_loop_t *loop);
/* A cluster of hosts n1..nN, all up, led by n1, which this host is. */
void fake_backend_form(struct fake_backend *backend, unsigned host_count);
void fake_backend_apply(struct fake_backend *backend, Drover__Command *command,
                        int wanted_error);
void fake_backend_done(struct fake_backend *backend);

#endif
