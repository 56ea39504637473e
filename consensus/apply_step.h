/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One command being applied, all or nothing: handlers edit copies of records, which
 * replace the originals when the whole command was accepted and no memory was short.
 * Internal to consensus/. Loop thread.
 */
#ifndef DROVER_CONSENSUS_APPLY_STEP_H
#define DROVER_CONSENSUS_APPLY_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "consensus/cluster_state.h"
#include "proto/cluster.pb-c.h"

#define STEP_NAME_SIZE (LIMIT_NAME_SIZE + 2)

struct cluster_state {
    /* All arrays are malloc'ed; hosts and vms are in the order of their ids. */
    Drover__ClusterState *record;
};

struct apply_step {
    /* As before the command: handlers read it, and change it only through step_*(). */
    Drover__ClusterState *record;
    const Drover__Command *command;
    uint64_t index;
    struct apply_result *result;
    bool no_memory; /* some allocation failed: nothing of this step will count */

    /* Copies by position in record->hosts and so on; NULL where nothing changes. */
    Drover__HostRecord *hosts[LIMIT_HOSTS];
    Drover__TokenRecord *tokens[LIMIT_TOKENS];
    Drover__VmRecord **vms;
    size_t vm_count; /* of `vms` */
    /* At most one of each is new or gone by one command. */
    Drover__HostRecord *new_host;
    Drover__VmRecord *new_vm;
    Drover__TokenRecord *new_token;
    Drover__RequestRecord *new_request;
    /* An original host, VM or token, which the step must not edit as well. */
    const void *gone;
    Drover__ClusterState *new_cluster; /* of ClusterInit */
    const Drover__ClusterSet *setting; /* borrowed from the command; judged */

    Drover__Event **events;
    size_t event_count;
};

/* Answers of the handlers: refused, with what to do; returns `code`. */
int step_refuse(struct apply_step *step, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Read: the record as this step has it so far; NULL if there is none. */
const Drover__HostRecord *step_host(const struct apply_step *step, uint64_t host_id);
const Drover__VmRecord *step_vm_at(const struct apply_step *step, size_t position);
const Drover__VmRecord *step_vm(const struct apply_step *step, uint64_t vm_id);
/* "'name'", or "number N" when there is none; for texts. */
const char *step_host_name(const struct apply_step *step, uint64_t host_id,
                           char text[STEP_NAME_SIZE]);

/* Write: the copy of an existing record; NULL when memory is short. */
Drover__HostRecord *step_edit_host(struct apply_step *step, uint64_t host_id);
Drover__VmRecord *step_edit_vm_at(struct apply_step *step, size_t position);
Drover__VmRecord *step_edit_vm(struct apply_step *step, uint64_t vm_id);
Drover__TokenRecord *step_edit_token(struct apply_step *step, size_t position);

/* Sets a string field to a copy of `value`, made fit for people (one line, valid
 * UTF-8, cut). */
void step_set_text(struct apply_step *step, char **field, const char *value);
/* As it is: for values that were judged before. */
void step_set_string(struct apply_step *step, char **field, const char *value);
void step_set_bytes(struct apply_step *step, ProtobufCBinaryData *field,
                    const ProtobufCBinaryData *value);

/* What an event is about; zero members are left out. */
struct step_subject {
    uint64_t host_id;
    uint64_t vm_id;
    uint64_t epoch;
    const Drover__Proof *proof; /* copied */
};
/* Of what became of a VM on, or by, this host under that epoch. */
static inline struct step_subject step_subject_of(const Drover__VmRecord *vm,
                                                  uint64_t host_id, uint64_t epoch)
{
    return (struct step_subject){.host_id = host_id, .vm_id = vm->vm_id, .epoch = epoch};
}
void step_event(struct apply_step *step, const char *kind, struct step_subject subject,
                const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Makes all of it true; 0, or -ENOMEM with the state unchanged. Only once. */
int step_commit(struct apply_step *step);
/* Frees what is left of the step; after step_commit() or instead of it. */
void step_done(struct apply_step *step);

/* Decodes into `*ret_message`: 0, DROVER_EMALFORMED, or -ENOMEM, which must never look
 * like the former. */
int record_unpack(const ProtobufCMessageDescriptor *descriptor, const void *data,
                  size_t size, void *ret_message);
/* A deep copy of any message; NULL when memory is short. */
void *record_copy(const void *message);
void record_free(void *message);
/* Empties a string field. */
void record_clear_string(char **field);
/* Positions in the state; -1 if absent. */
long record_host_position(const Drover__ClusterState *record, uint64_t host_id);
long record_vm_position(const Drover__ClusterState *record, uint64_t vm_id);

/* Memory of the VMs that a host owns, or is to receive, but for one VM. */
uint64_t step_host_memory_used(const struct apply_step *step, uint64_t host_id,
                               uint64_t except_vm_id);

#endif
