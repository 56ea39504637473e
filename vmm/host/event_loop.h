/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small epoll loop: the VMM's main thread and its I/O thread each run one. Handlers run
 * on the loop's thread, may add and remove any handler, themselves included.
 */
#ifndef DROVER_VMM_HOST_EVENT_LOOP_H
#define DROVER_VMM_HOST_EVENT_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct event_loop;
struct event_source;

typedef void (*event_handler)(void *owner, uint32_t epoll_events);
typedef void (*event_timer_handler)(void *owner);

int event_loop_create(struct event_loop **ret_loop);
void event_loop_free(struct event_loop *loop);
/* Returns after event_loop_stop(). */
int event_loop_run(struct event_loop *loop);
/* Any thread. */
void event_loop_stop(struct event_loop *loop);
/* Any thread: runs `handler(owner)` soon on the loop's thread. -ENOMEM. */
int event_loop_post(struct event_loop *loop, event_timer_handler handler, void *owner);

/* Loop's thread only. `fd` is borrowed. `events` are EPOLLIN, EPOLLOUT... */
int event_loop_add(struct event_loop *loop, int fd, uint32_t events,
                   event_handler handler, void *owner, struct event_source **ret_source);
int event_loop_modify(struct event_source *source, uint32_t events);
void event_loop_remove(struct event_source *source); /* NULL is fine */

/* One-shot timer at CLOCK_BOOTTIME `at_ns`; set again to move it, 0 to disarm. */
int event_loop_timer_create(struct event_loop *loop, event_timer_handler handler,
                            void *owner, struct event_source **ret_timer);
int event_loop_timer_set(struct event_source *timer, uint64_t at_ns);

#endif
