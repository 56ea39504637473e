/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection of droverd's to a process of its host's (a VMM, the watchdog's keeper)
 * over a unix socket: whole frames (proto/frame.h, FRAME_KIND_CONTROL) go out and come
 * in. Not made anew when it ends: that is its owner's to decide. The loop's thread.
 */
#ifndef DROVER_NODE_AGENT_FRAME_LINK_H
#define DROVER_NODE_AGENT_FRAME_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct frame_link;
struct unix_files;

enum frame_link_end {
    FRAME_LINK_UNREACHED, /* nobody listens there */
    FRAME_LINK_CLOSED,    /* by the other side; or no memory was left to read it */
    FRAME_LINK_MALFORMED, /* what came is no frame, or take() did not like it */
};

/* Each of them may close the link. */
struct frame_link_ops {
    void (*connected)(void *owner);
    /* One frame's payload, valid during the call. False: malformed. */
    bool (*take)(void *owner, const uint8_t *payload, size_t size);
    /* The last word, unless the owner closes it before; close it now. */
    void (*ended)(void *owner, enum frame_link_end end);
};

struct frame_link_config {
    uv_loop_t *loop;
    const char *path;
    size_t limit_bytes; /* of a payload, both ways */
    const struct frame_link_ops *ops;
    void *owner;
};

/* -ENOMEM. Else connected() or ended() is called later. */
int frame_link_open(const struct frame_link_config *config, struct frame_link **ret_link);
/* Once connected; copies `payload`. -ENOMEM, DROVER_ELIMIT; a connection that is broken
 * is told to ended(). */
int frame_link_send(struct frame_link *link, const uint8_t *payload, size_t size);
/* With `files`, which stay the caller's. -EAGAIN while frames wait to be sent; -errno. */
int frame_link_send_files(struct frame_link *link, const uint8_t *payload, size_t size,
                          const struct unix_files *files);
/* Nothing is called any more. NULL is fine. */
void frame_link_close(struct frame_link *link);

#endif
