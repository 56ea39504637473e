/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's end of the serial port, or of the virtio console: stdio, none, file:PATH, or
 * unix:PATH with any number of clients (up to a limit). What the guest writes goes into a
 * ring; each client reads at its own pace, and one that falls behind by more than the
 * ring loses the oldest: the guest never waits. A new client first gets what the ring
 * still holds.
 */
#ifndef DROVER_VMM_HOST_SERIAL_HOST_H
#define DROVER_VMM_HOST_SERIAL_HOST_H

#include <stddef.h>
#include <stdint.h>

struct error;
struct event_loop;
struct serial_host;

/* Takes what was typed; returns how many bytes. */
typedef size_t (*serial_host_input)(void *port, const uint8_t *data, size_t size);

/* `where`: as on the command line. Opens and listens; `escape` is called when a person
 * types Ctrl-A x at stdio. The file of a socket is the caller's to remove. */
int serial_host_create(struct event_loop *main_loop, const char *where,
                       void (*escape)(void *owner), void *owner,
                       struct serial_host **ret_host, struct error *err);
/* Restores the terminal. After vm_free() or without a VM; NULL is fine. Flushes what
 * clients take at once. */
void serial_host_free(struct serial_host *host);
/* Where input goes to. Main thread, before the guest runs. */
void serial_host_attach(struct serial_host *host, serial_host_input input, void *port);

/* For struct serial_config and struct virtio_console_config: any thread. `owner` is the
 * host. */
void serial_host_output(void *owner, const uint8_t *data, size_t size);
void serial_host_input_room(void *owner);

#endif
