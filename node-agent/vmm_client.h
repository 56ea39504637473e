/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One VMM's control socket, from droverd's side: connects (and again, when the connection
 * is lost), subscribes, sends orders, hands on replies and events. It stops trying only
 * when it is closed. Loop thread only.
 */
#ifndef DROVER_NODE_AGENT_VMM_CLIENT_H
#define DROVER_NODE_AGENT_VMM_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "proto/control.pb-c.h"

struct unix_files;
struct vmm_client;

/* From the loop, never from inside vmm_client_*(). Messages are borrowed. */
struct vmm_client_ops {
    /* With each reply and each event. Statuses of another VM or epoch never come through.
     */
    void (*status)(void *owner, const Drover__VmStatus *status);
    /* An order that was refused, not delivered, or not answered in time. */
    void (*order_failed)(void *owner, int error, const char *text);
    /* What is at the socket does not speak as the VMM of this id and epoch should. */
    void (*note)(void *owner, const char *text);
};

struct vmm_client_config {
    uv_loop_t *loop;
    const char *path; /* control.sock */
    uint64_t vm_id;
    uint64_t epoch;
    const struct vmm_client_ops *ops;
    void *owner;
};

/* Starts to connect. Copies the config (but for `ops`). */
int vmm_client_create(const struct vmm_client_config *config,
                      struct vmm_client **ret_client);
/* Fills in ids. Its end comes as status() or order_failed(). `files` go with it, and are closed here; NULL:
 * none, but the connection of a move over plain TCP is then made here. */
void vmm_client_order(struct vmm_client *client, const Drover__ControlRequest *request,
                      struct unix_files *files);
/* No callback after this but `closed`, once, later; the client frees itself then. */
void vmm_client_close(struct vmm_client *client, void (*closed)(void *owner),
                      void *owner);

#endif
