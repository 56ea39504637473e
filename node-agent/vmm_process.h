/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that outlive droverd: spawned into a session of their own, watched by pidfd,
 * whoever their parent is. Any thread.
 */
#ifndef DROVER_NODE_AGENT_VMM_PROCESS_H
#define DROVER_NODE_AGENT_VMM_PROCESS_H

#include <stddef.h>
#include <stdint.h>

struct error;

#define VMM_PROCESS_LOCK_FD 3 /* where the process finds its lock */

/* Runs argv[0] (looked up in PATH) with no input, output and errors appended to
 * `log_path`, `lock_fd` (-1: none) as descriptor 3 and no other one. Sets pid and pidfd.
 */
int vmm_process_spawn(char *const argv[], int lock_fd, const char *log_path, int *ret_pid,
                      int *ret_pidfd, struct error *err);
/* A pidfd for the process that had this pid since `start_ticks`; -ESRCH if it is gone. */
int vmm_process_adopt(int pid, uint64_t start_ticks);
/* How readily the kernel ends it when memory runs out: it would inherit droverd's own. */
void vmm_process_spare(int pid, const char *oom_score_adj);
/* SIGKILL; a process that is gone already is no error. */
void vmm_process_kill(int pidfd);
/* Reaps our own child, which has ended; its end in words ("ended with status 1", "was
 * killed by signal 9 (Killed)"). Empty for a process that is not our child. */
void vmm_process_reap(int pidfd, char *ret_text, size_t size);

#endif
