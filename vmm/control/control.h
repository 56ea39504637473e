/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket (proto/control.proto): any number of clients up to
 * LIMIT_CONTROL_CLIENTS, each request answered once and in order. A malformed frame
 * closes that client only. All on the main thread.
 */
#ifndef DROVER_VMM_CONTROL_CONTROL_H
#define DROVER_VMM_CONTROL_CONTROL_H

struct control;
struct error;
struct migrate;
struct vm;

/* Listens; `path`, `vm` and `migrate` are borrowed. */
int control_create(struct vm *vm, struct migrate *migrate, const char *path,
                   struct control **ret_control, struct error *err);
/* Tells the clients that subscribed. */
void control_vm_changed(struct control *control);
/* Before vm_free(). NULL is fine. */
void control_free(struct control *control);

#endif
