/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting until the cluster has done what was asked of a VM. */
#ifndef DROVER_CLI_VM_WAIT_H
#define DROVER_CLI_VM_WAIT_H

#include <jansson.h>
#include <stdint.h>

struct cli;

/*
 * Waits until the VM's `state` is `state`. `failed`, `unowned` for long, or the time-out
 * end it with a line that says why. Takes a reference to nothing; `*ret_vm` is the last
 * answer, for the caller to json_decref(). Returns a CLI_ status.
 */
int vm_wait_state(struct cli *cli, const char *name, const char *state,
                  unsigned timeout_s, json_t **ret_vm);

/*
 * Waits until the migration is over, showing its progress; SIGINT cancels it. `before` is
 * the VM as it was answered to the request. CLI_OK only when the VM runs on the other
 * host. The time-out only ends the waiting, not the migration.
 */
int vm_wait_migration(struct cli *cli, const char *name, const json_t *before,
                      unsigned timeout_s, json_t **ret_vm);

#endif
