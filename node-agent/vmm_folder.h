/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folder of one drover-vmm, RUN/vms/<vm_id>.<epoch>/, and the lock in it that its
 * process holds as long as it lives. Used by the supervisor and by the watchdog's keeper.
 * Blocking, short; any thread.
 */
#ifndef DROVER_NODE_AGENT_VMM_FOLDER_H
#define DROVER_NODE_AGENT_VMM_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/run.pb-c.h"

struct error;

#define VMM_FOLDER_PATH_SIZE   256
#define VMM_FOLDER_SOCKET_SIZE 108 /* sun_path */
#define VMM_FOLDER_REASON_SIZE 256

/* "7.3" -> 7, 3. */
bool vmm_folder_parse(const char *name, uint64_t *ret_vm_id, uint64_t *ret_epoch);
/* RUN/vms/7.3/FILE (NULL: the folder); DROVER_ELIMIT if it does not fit. */
int vmm_folder_path(const char *run_directory, uint64_t vm_id, uint64_t epoch,
                    const char *file, char *ret_path, size_t size);

/* Makes the folder and takes its lock. Returns the lock's descriptor, which the VMM must
 * inherit; DROVER_EINUSE if a process of this VM and epoch lives. */
int vmm_folder_lock(const char *run_directory, uint64_t vm_id, uint64_t epoch,
                    struct error *err);
/* 1: a process holds the lock; 0: none, for certain; else a negative error: unknown.
 * Takes nothing. */
int vmm_folder_held(const char *run_directory, uint64_t vm_id, uint64_t epoch);

int vmm_folder_record_save(const char *run_directory, const Drover__VmmRecord *record);
/* Free with drover__vmm_record__free_unpacked. */
int vmm_folder_record_load(const char *run_directory, uint64_t vm_id, uint64_t epoch,
                           Drover__VmmRecord **ret_record);

/* The last line of vmm.log that says something, cut to size; empty if there is none. */
void vmm_folder_last_words(const char *run_directory, uint64_t vm_id, uint64_t epoch,
                           char *ret_text, size_t size);
/* Removes it all; the log is kept as RUN/logs/vm-<vm_id>.log until the next one of that
 * VM. */
void vmm_folder_remove(const char *run_directory, uint64_t vm_id, uint64_t epoch);

/* When a process began (/proc/PID/stat field 22); 0: no such process. With the pid, it
 * names a process for ever. */
uint64_t vmm_folder_start_ticks(int pid);

#endif
