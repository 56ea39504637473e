/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replicated cluster state. Pure: applying the same commands in the same order gives
 * the same state, byte for byte, on every host; no clock, no random, no I/O. Records are
 * the generated protobuf-c structs, owned by the state: pointers are valid until the next
 * apply or load. Loop thread.
 */
#ifndef DROVER_CONSENSUS_CLUSTER_STATE_H
#define DROVER_CONSENSUS_CLUSTER_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/cluster.pb-c.h"

struct buffer;
struct cluster_state;

/* What a command did, for the one who proposed it. */
struct apply_result {
    int error; /* 0, or why the command was refused and changed nothing */
    char text[ERROR_TEXT_SIZE]; /* one line that says what to do; empty when error is 0 */
    uint64_t result_id;         /* new host's or VM's id */
};

int cluster_state_create(struct cluster_state **ret_state);
void cluster_state_free(struct cluster_state *state);

/*
 * Applies one encoded Command at `index` of the log. Returns 0 when it was judged (see
 * ret_result->error for how), or -ENOMEM with the state unchanged: the caller must stop
 * then, it can't go on without this command. Commands that can't be decoded are refused
 * like others (DROVER_EMALFORMED): every host refuses them alike.
 */
int cluster_state_apply(struct cluster_state *state, uint64_t index, const void *data,
                        size_t size, struct apply_result *ret_result);

/* Whole state as one frame (FRAME_KIND_FILE) of ClusterState. Load replaces the state,
 * or fails and leaves it. */
int cluster_state_save(const struct cluster_state *state, struct buffer *out);
int cluster_state_load(struct cluster_state *state, const void *data, size_t size,
                       struct error *err);

/* Everything, read-only; version 0 before ClusterInit was applied. */
const Drover__ClusterState *cluster_state_view(const struct cluster_state *state);
uint64_t cluster_state_applied_index(const struct cluster_state *state);
/* A member by which no post-copy may be ordered in this cluster; NULL: all know it. */
const Drover__HostRecord *
cluster_state_postcopy_unaware(const struct cluster_state *state);
const Drover__HostRecord *cluster_state_host(const struct cluster_state *state,
                                             uint64_t host_id);
const Drover__HostRecord *cluster_state_host_by_name(const struct cluster_state *state,
                                                     const char *name);
const Drover__VmRecord *cluster_state_vm(const struct cluster_state *state,
                                         uint64_t vm_id);
const Drover__VmRecord *cluster_state_vm_by_name(const struct cluster_state *state,
                                                 const char *name);
/* A user's request that was carried out not long ago; NULL: it is not remembered. */
bool cluster_state_request_id_valid(const char *request_id);
const Drover__RequestRecord *cluster_state_request(const struct cluster_state *state,
                                                   const char *request_id);

/* The rules that hold between any two commands (owner exists, one owner, epochs grow,
 * ...); false with the broken rule in `err`. */
bool cluster_state_valid(const struct cluster_state *state, struct error *err);

/* Encodes a command for raft; 0, -ENOMEM or DROVER_ELIMIT. */
int command_encode(const Drover__Command *command, struct buffer *out);

#endif
