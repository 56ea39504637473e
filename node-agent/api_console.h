/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM's console over WebSocket: bytes between the client and the serial port's unix
 * socket on this host. Neither side is ever held up by more than a bounded queue. Loop
 * thread only; the loop must outlive it.
 */
#ifndef DROVER_NODE_AGENT_API_CONSOLE_H
#define DROVER_NODE_AGENT_API_CONSOLE_H

#include <libwebsockets.h>
#include <stddef.h>
#include <uv.h>

struct error;

/* What the console needs of the API; lws_context_user() is the API, which begins with a
 * pointer to it. */
struct api_console_ops {
    uv_loop_t *loop;
    /* Path of the serial socket that a request's path stands for; or an error with its
     * line. */
    int (*find)(void *owner, const char *path, char *ret_socket_path, size_t size,
                struct error *err);
    void *owner;
};

#define API_CONSOLE_PROTOCOL     "drover-console"
#define API_CONSOLE_SESSION_SIZE 64

/* For struct lws_protocols. */
int api_console_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user,
                         void *in, size_t size);

#endif
