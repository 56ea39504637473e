/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guards between libraft and its disk and network. libraft goes on as if nothing were
 * when the disk refuses its term or its vote; but a vote that is not on the disk must
 * never be told. So the first such failure halts the node: from then on nothing is sent,
 * and nothing is written, until it is closed. What libraft asks for meanwhile is held.
 *
 * libraft 0.22.1 also wants to try a failed write again, and crashes then: it marks its
 * timer `append_retry`, but starts `prepare_retry`, whose data is not what the callback
 * takes it for. So the mark is looked at while an append is unanswered; the node halts,
 * and the timer is stopped, seconds before it would fire.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "consensus/raft_private.h"

static struct raft_node *node_of(struct raft_io *io)
{
    return (struct raft_node *)((char *)io - offsetof(struct raft_node, io));
}

static int store_failed(struct raft_node *node, const char *what)
{
    raft_node_halt(
        node, -EIO,
        "raft can't store its %s in %s (%s): mend or free the disk, then restart "
        "droverd",
        what, node->config.directory, node->io.errmsg);
    return RAFT_IOERR;
}

static int guard_set_term(struct raft_io *io, raft_term term)
{
    struct raft_node *node = node_of(io);
    if (node->halted) {
        return RAFT_IOERR;
    }
    int rv = node->backend.set_term(io, term);
    return rv == 0 ? 0 : store_failed(node, "term");
}

static int guard_set_vote(struct raft_io *io, raft_id id)
{
    struct raft_node *node = node_of(io);
    if (node->halted) {
        return RAFT_IOERR;
    }
    int rv = node->backend.set_vote(io, id);
    return rv == 0 ? 0 : store_failed(node, "vote");
}

static int hold(struct raft_node *node, struct raft_held held)
{
    struct raft_held *copy = malloc(sizeof(*copy));
    if (copy == NULL) {
        return RAFT_NOMEM;
    }
    *copy = held;
    copy->next = node->held;
    node->held = copy;
    return 0;
}

static int guard_send(struct raft_io *io, struct raft_io_send *request,
                      const struct raft_message *message, raft_io_send_cb done)
{
    struct raft_node *node = node_of(io);
    if (!node->halted) {
        return node->backend.send(io, request, message, done);
    }
    request->cb = done;
    return hold(node, (struct raft_held){.send = request});
}

static void on_appended(struct raft_io_append *append, int status)
{
    struct raft_appending *appending = append->data;
    struct raft_appending **at = &appending->node->appending;
    while (*at != appending) {
        CHECK(*at != NULL);
        at = &(*at)->next;
    }
    *at = appending->next;
    struct raft_io_append *theirs = appending->theirs;
    free(appending);
    theirs->cb(theirs, status);
}

static int append_watched(struct raft_node *node, struct raft_io_append *request,
                          const struct raft_entry entries[], unsigned n)
{
    struct raft_appending *appending = calloc(1, sizeof(*appending));
    if (appending == NULL) {
        return RAFT_NOMEM;
    }
    appending->node = node;
    appending->theirs = request;
    appending->append.data = appending;
    appending->next = node->appending;
    node->appending = appending;
    int rv = node->backend.append(&node->io, &appending->append, entries, n, on_appended);
    if (rv != 0) {
        node->appending = appending->next;
        free(appending);
    }
    return rv;
}

static int guard_append(struct raft_io *io, struct raft_io_append *request,
                        const struct raft_entry entries[], unsigned n,
                        raft_io_append_cb done)
{
    struct raft_node *node = node_of(io);
    request->cb = done;
    if (!node->halted) {
        int rv = append_watched(node, request, entries, n);
        if (rv == 0) {
            return 0;
        }
        raft_node_halt(node, rv == RAFT_NOMEM ? -ENOMEM : -EIO,
                       "raft can't write its log in %s (%s): mend or free the disk, then "
                       "restart droverd",
                       node->config.directory, node->io.errmsg);
    }
    return hold(node, (struct raft_held){.append = request});
}

void raft_guard_look(struct raft_node *node)
{
    if (node->appending == NULL || node->halted || node->raft_closing ||
        node->append_retry == NULL || node->append_retry->data == node->io.impl) {
        return;
    }
    (void)uv_timer_stop(node->prepare_retry); /* can't fail */
    raft_node_halt(
        node, -EIO,
        "a write to raft's log in %s has failed (disk full, a quota, or an I/O error): "
        "mend it, then restart droverd",
        node->config.directory);
}

struct timer_search {
    const struct raft_node *node;
    uv_timer_t *found[4];
    unsigned count;
};

static void look_at_handle(uv_handle_t *handle, void *context)
{
    struct timer_search *search = context;
    if (handle->type == UV_TIMER && handle->data == search->node->io.impl) {
        if (search->count < 4) {
            search->found[search->count] = (uv_timer_t *)handle;
        }
        search->count++;
    }
}

void raft_guard_find_timers(struct raft_node *node)
{
    /* In the order of their making: tick, prepare_retry, append_retry,
     * snapshot_put_retry. */
    struct timer_search search = {.node = node};
    uv_walk(node->config.loop, look_at_handle, &search);
    if (search.count == 4) {
        node->prepare_retry = search.found[1];
        node->append_retry = search.found[2];
    }
}

static int guard_truncate(struct raft_io *io, raft_index index)
{
    struct raft_node *node = node_of(io);
    if (!node->halted) {
        int rv = node->backend.truncate(io, index);
        if (rv != 0) {
            raft_node_halt(
                node, -EIO,
                "raft can't cut its log in %s: mend or free the disk, then restart "
                "droverd",
                node->config.directory);
        }
    }
    return 0; /* the append that follows is held */
}

static int guard_snapshot_put(struct raft_io *io, unsigned trailing,
                              struct raft_io_snapshot_put *request,
                              const struct raft_snapshot *snapshot,
                              raft_io_snapshot_put_cb done)
{
    struct raft_node *node = node_of(io);
    if (!node->halted) {
        return node->backend.snapshot_put(io, trailing, request, snapshot, done);
    }
    request->cb = done;
    return hold(node, (struct raft_held){.put = request});
}

void raft_guard_init(struct raft_node *node)
{
    node->backend = node->io;
    node->io.set_term = guard_set_term;
    node->io.set_vote = guard_set_vote;
    node->io.send = guard_send;
    node->io.append = guard_append;
    node->io.truncate = guard_truncate;
    node->io.snapshot_put = guard_snapshot_put;
}

void raft_guard_release(struct raft_node *node)
{
    CHECK(node->raft_closing);
    while (node->held != NULL) {
        struct raft_held *held = node->held;
        node->held = held->next;
        if (held->send != NULL) {
            held->send->cb(held->send, RAFT_CANCELED);
        } else if (held->append != NULL) {
            held->append->cb(held->append, RAFT_CANCELED);
        } else {
            held->put->cb(held->put, RAFT_CANCELED);
        }
        free(held);
    }
}
