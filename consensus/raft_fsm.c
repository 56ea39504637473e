/* SPDX-License-Identifier: Apache-2.0 */
/* libraft's state machine: the cluster state. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/limits.h"
#include "consensus/raft_private.h"

#define ENTRY_HEADER_SIZE 4u

/*
 * A log entry: libraft wants whole words of 8 bytes.
 *
 *      0       4
 *      +-------+-----------------+-----------
 *      | size  | encoded Command | 0 to 7 zeros
 *      +-------+-----------------+-----------
 */
int raft_entry_encode(const void *command, size_t size, struct raft_buffer *ret_entry)
{
    if (size > LIMIT_API_BODY_BYTES) {
        return DROVER_ELIMIT;
    }
    size_t whole = (ENTRY_HEADER_SIZE + size + 7) & ~(size_t)7;
    uint8_t *entry = raft_calloc(1, whole);
    if (entry == NULL) {
        return -ENOMEM;
    }
    for (unsigned i = 0; i < ENTRY_HEADER_SIZE; i++) {
        entry[i] = (uint8_t)(size >> (8 * (ENTRY_HEADER_SIZE - 1 - i)));
    }
    memcpy(entry + ENTRY_HEADER_SIZE, command, size);
    *ret_entry = (struct raft_buffer){.base = entry, .len = whole};
    return 0;
}

/* What is no entry of ours becomes an empty command, which every host refuses alike. */
static const void *entry_decode(const struct raft_buffer *entry, size_t *ret_size)
{
    const uint8_t *at = entry->base;
    *ret_size = 0;
    if (entry->len < ENTRY_HEADER_SIZE) {
        return NULL;
    }
    size_t size = (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | at[3];
    if (size > entry->len - ENTRY_HEADER_SIZE) {
        return NULL;
    }
    *ret_size = size;
    return at + ENTRY_HEADER_SIZE;
}

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *entry,
                     void **ret_result)
{
    struct raft_node *node = fsm->data;
    *ret_result = NULL;
    if (node->halted) {
        return 0; /* what was missed is applied after the restart */
    }
    uint64_t index = raft_last_applied(&node->raft) + 1;
    struct raft_applied *applied = calloc(1, sizeof(*applied));
    size_t size;
    const void *command = entry_decode(entry, &size);
    int rv = applied == NULL ? -ENOMEM
                             : cluster_state_apply(node->config.state, index, command,
                                                   size, &applied->result);
    if (rv != 0) {
        free(applied);
        raft_node_halt(
            node, rv,
            "no memory to apply entry %llu of the cluster's log: free memory on this "
            "host, then restart droverd",
            (unsigned long long)index);
        return 0;
    }
    applied->index = index;
    *node->applied_end = applied;
    node->applied_end = &applied->next;
    raft_request_applied(node, index, &applied->result);
    return 0;
}

void raft_fsm_tell_applied(struct raft_node *node)
{
    while (node->applied_first != NULL && !node->closing) {
        struct raft_applied *applied = node->applied_first;
        node->applied_first = applied->next;
        if (node->applied_first == NULL) {
            node->applied_end = &node->applied_first;
        }
        if (node->config.applied != NULL) {
            node->config.applied(node->config.owner, applied->index, &applied->result);
        }
        free(applied);
    }
}

void raft_fsm_drop_applied(struct raft_node *node)
{
    while (node->applied_first != NULL) {
        struct raft_applied *applied = node->applied_first;
        node->applied_first = applied->next;
        free(applied);
    }
    node->applied_end = &node->applied_first;
}

/* One buffer; libraft frees both it and the array. */
static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *ret_buffers[],
                        unsigned *ret_count)
{
    struct raft_node *node = fsm->data;
    if (node->halted) {
        return RAFT_CANCELED;
    }
    CLEANUP(buffer_done) struct buffer saved = {0};
    int rv = cluster_state_save(node->config.state, &saved);
    if (rv != 0) {
        return rv == -ENOMEM ? RAFT_NOMEM
                             : RAFT_TOOBIG; /* tried again at the next entry */
    }
    struct raft_buffer *buffers = raft_malloc(sizeof(*buffers));
    if (buffers == NULL) {
        return RAFT_NOMEM;
    }
    buffers[0].base = buffer_take(&saved, &buffers[0].len);
    *ret_buffers = buffers;
    *ret_count = 1;
    return 0;
}

/* Takes the buffer's memory if it succeeds. */
static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *snapshot)
{
    struct raft_node *node = fsm->data;
    struct error err = {0};
    int rv = cluster_state_load(node->config.state, snapshot->base, snapshot->len, &err);
    if (rv != 0) {
        raft_node_halt(node, rv, "%s", err.text);
        return rv == -ENOMEM ? RAFT_NOMEM : RAFT_CORRUPT;
    }
    raft_fsm_drop_applied(node); /* older than the snapshot: the state has jumped */
    raft_free(snapshot->base);
    return 0;
}

void raft_fsm_init(struct raft_node *node)
{
    node->applied_end = &node->applied_first;
    node->fsm = (struct raft_fsm){
        .version = 1,
        .data = node,
        .apply = fsm_apply,
        .snapshot = fsm_snapshot,
        .restore = fsm_restore,
    };
}
