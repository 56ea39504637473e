/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the API's core share. */
#ifndef DROVER_NODE_AGENT_API_INTERNAL_H
#define DROVER_NODE_AGENT_API_INTERNAL_H

#include "base/err.h"
#include "base/limits.h"
#include "node-agent/api_core.h"
#include "node-agent/json_view.h"
#include "node-agent/json_vm.h"

enum api_call_state {
    API_CALL_STATE_HANDLING, /* in its handler, or in the backend's hands */
    API_CALL_STATE_WAITING,  /* for an event */
    API_CALL_STATE_DONE,     /* its answer is ready */
};

/* One request. Owned by the core, until its answer was given (or nobody wants it). */
struct api_call {
    struct api_core *core;
    struct api_call *next, *previous;
    unsigned state; /* enum api_call_state */
    bool lent;      /* the backend will call back: must live until then */
    bool forwarded;
    bool partly; /* its next command is not its last: it is not remembered as done */
    char key[LIMIT_REQUEST_ID_SIZE]; /* "": none */
    uint64_t digest;                 /* of the request, with `key` */
    bool again;                      /* WAITING to be served once more, from the start */
    uint64_t again_until_ms;         /* 0: it was served once */
    const struct api_route *route;
    char method[8];
    char path[API_PATH_SIZE];               /* as it came */
    char text[API_PATH_SIZE];               /* cut into segments and query */
    const char *segments[API_SEGMENTS_MAX]; /* behind "/api/v1" */
    unsigned segment_count;
    char *query;    /* behind the "?"; "" */
    json_t *body;   /* an object; empty when there was none */
    void *raw_body; /* to be passed on */
    size_t raw_size;
    api_answer answer; /* NULL: nobody waits */
    void *request;
    /* DONE */
    unsigned status;
    char *answer_text;
    size_t answer_size;
    /* WAITING */
    uint64_t wait_until_ms;
    uint64_t behind_until_ms; /* 0: this host was not behind yet */
    /* Of a handler in the backend's hands. */
    void (*then)(struct api_call *call, uint64_t result_id);
    uint64_t subject_id;    /* VM or host that it is about */
    char secret_text[1024]; /* a new token */
    uint64_t number;
};

struct api_core {
    uv_loop_t *loop;
    uv_timer_t timer;
    const struct api_backend *backend;
    void *owner;
    struct api_call *calls;
    unsigned call_count;
    void (*closed)(void *owner);
    void *closed_owner;
    bool timer_closed;
};

enum api_route_flag {
    API_ROUTE_LOCAL = 1,      /* answered by any host from what it has itself */
    API_ROUTE_NO_CLUSTER = 2, /* also on a host without a cluster */
    API_ROUTE_NAMES_HOST = 4, /* "node" is who was asked, also when the leader answers */
};

struct api_route {
    const char *method;
    const char *pattern; /* "vms/@/start": @ is any name */
    unsigned flags;
    void (*handle)(struct api_call *call);
    /* Answers a request with a key that was carried out before, call->subject_id being
     * what it was about; NULL: the path has no such memory. */
    void (*repeat)(struct api_call *call, uint64_t subject_id);
};

/* api_route.c */
/* NULL with one line in `err` (DROVER_ENOTFOUND, or -EOPNOTSUPP for a path that has only
 * other methods). */
const struct api_route *api_route_find(const struct api_call *call, struct error *err);
/* Cuts call->path into call->text; DROVER_EBADINPUT or DROVER_ENOTFOUND. */
int api_route_cut(struct api_call *call, struct error *err);
/* A parameter of the query, decoded, into `ret_text`; false: not there. */
bool api_query_get(const struct api_call *call, const char *name, char *ret_text,
                   size_t size);
/* Refuses parameters that are not among `names` (ends with NULL). */
int api_query_check(const struct api_call *call, const char *const *names,
                    struct error *err);
/* A number of the query in [least, most], or `fallback`. */
int api_query_number(const struct api_call *call, const char *name, uint64_t most,
                     uint64_t *ret_value, struct error *err);

/* api_core.c */
/* The answer; steals `object`. */
void api_finish(struct api_call *call, unsigned status, json_t *object);
void api_fail(struct api_call *call, int error, const char *text);
#define api_fail_err(call, err) api_fail((call), (err)->code, (err)->text)
/* Through raft; `then` when it is applied here. */
void api_propose(struct api_call *call, const Drover__Command *command,
                 void (*then)(struct api_call *call, uint64_t result_id));
/* For backend operations that are no commands: call->then, or the failure. Set call->lent
 * before. */
void api_backend_done(void *request, int error, const char *text, uint64_t result_id);
/* Waits for a change of the state, or until then; the handler is called again. */
void api_wait(struct api_call *call, uint64_t until_ms);
const struct cluster_state *api_state(const struct api_call *call);
struct api_self api_self_of(const struct api_call *call);
struct json_vm_seen api_vm_seen(const struct api_call *call, const Drover__VmRecord *vm);
struct json_host_seen api_host_seen(const struct api_call *call, uint64_t host_id);

/* Handlers, and their answers: api_cluster.c, api_node.c, api_vm.c, api_vm_action.c, api_event.c */
void api_vm_created(struct api_call *call, uint64_t result_id);
void api_vm_deleted(struct api_call *call, uint64_t result_id);
void api_vm_answer_200(struct api_call *call, uint64_t result_id);
void api_vm_answer_202(struct api_call *call, uint64_t result_id);
void api_node_drained(struct api_call *call, uint64_t result_id);
void api_member_removed_before(struct api_call *call, uint64_t host_id);
void api_cluster_show(struct api_call *call);
void api_cluster_init(struct api_call *call);
void api_cluster_join(struct api_call *call);
void api_cluster_set(struct api_call *call);
void api_settings_answer(struct api_call *call, uint64_t result_id);
void api_token_create(struct api_call *call);
void api_token_list(struct api_call *call);
void api_member_remove(struct api_call *call);
void api_node_list(struct api_call *call);
void api_node_show(struct api_call *call);
void api_node_drain(struct api_call *call);
void api_vm_list(struct api_call *call);
void api_vm_show(struct api_call *call);
void api_vm_create(struct api_call *call);
void api_vm_apply(struct api_call *call);
void api_vm_delete(struct api_call *call);
void api_vm_wanted(struct api_call *call);
void api_vm_migrate(struct api_call *call);
void api_vm_cancel(struct api_call *call);
void api_vm_balloon(struct api_call *call);
void api_vm_console(struct api_call *call);
void api_event_list(struct api_call *call);

/* Answers with how the VM or host call->subject_id stands now; fits `then`. */
void api_vm_answer(struct api_call *call, unsigned status);
void api_host_answer(struct api_call *call, unsigned status);

#endif
