/* SPDX-License-Identifier: Apache-2.0 */
/* One round of the keeper's question to the VMMs of this host: does any of you still run?
 * Blocks. */
#ifndef DROVER_NODE_AGENT_KEEPER_ROUND_H
#define DROVER_NODE_AGENT_KEEPER_ROUND_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Asks every VMM under RUN/vms that is bound to a lease. *ret_all_still: each has said
 * that it is still (keeper_policy_vm_is_still), or its process is gone. Silence until
 * `end_ms` (CLOCK_BOOTTIME), and whatever can't be read, is "runs". Returns true when
 * `watch_fd` became readable first: then the round counts for nothing.
 */
bool keeper_round(const char *run_directory, uint64_t end_ms, int watch_fd,
                  bool *ret_all_still);

#endif
