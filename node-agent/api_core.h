/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API without HTTP: a request in, an answer out, later. Routes it, reads its body
 * strictly, hands it to the leader where that is needed, and maps errors to statuses.
 * Loop thread only.
 */
#ifndef DROVER_NODE_AGENT_API_CORE_H
#define DROVER_NODE_AGENT_API_CORE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "node-agent/api.h"

#define API_SEGMENTS_MAX 4
#define API_PATH_SIZE    1024

struct api_call;
struct api_core;

/* `body` is an object's text, borrowed during the call; never called inside
 * api_core_serve(). Status 0, of forwarded requests only: to be asked again, at the leader
 * of then; nothing was done, or the request has a key. */
typedef void (*api_answer)(void *request, unsigned status, const char *body, size_t size);

struct api_incoming {
    const char *method; /* "GET" */
    const char *path;   /* with its query, if it has one */
    const void *body;
    size_t body_size;
    const char *key; /* of the client's choice: repeated, the request is carried out once; NULL: none */
    bool forwarded;  /* by another host: not to be passed on again */
};

int api_core_create(uv_loop_t *loop, const struct api_backend *backend, void *owner,
                    struct api_core **ret_core);
/* Copies `incoming`. `*ret_call` (may be NULL) is for cancel, valid until the answer.
 * -ENOMEM: no answer will come. */
int api_core_serve(struct api_core *core, const struct api_incoming *incoming,
                   api_answer answer, void *request, struct api_call **ret_call);
/* Whoever asked is gone: no answer. What was proposed is not taken back. */
void api_call_cancel(struct api_call *call);
/* The cluster's state has changed: wakes those who wait for events. */
void api_core_changed(struct api_core *core);
/* Answers those who wait for events, lets go of the rest; `closed` once, later. */
void api_core_close(struct api_core *core, void (*closed)(void *owner), void *owner);
void api_core_free(struct api_core *core);

/* {"error": ...} as text, with the status of the code. Free the text. */
char *api_error_text(int error, const char *text, unsigned *ret_status);

/* The serial socket behind the path of a console ("/api/v1/vms/NAME/console"). Only on
 * the VM's own host: DROVER_ECONFLICT elsewhere, with the address to ask in `err`. */
int api_core_console(struct api_core *core, const char *path, char *ret_socket_path,
                     size_t size, struct error *err);

#endif
