/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tap devices of VMs' NICs: made before the VMM starts, attached to a bridge and up,
 * deleted when it is gone. Short ioctls; needs CAP_NET_ADMIN. Any thread.
 */
#ifndef DROVER_NODE_AGENT_TAP_H
#define DROVER_NODE_AGENT_TAP_H

#include <stddef.h>
#include <stdint.h>

struct error;

#define TAP_NAME_SIZE 16 /* IFNAMSIZ */

/* "dr7e3n0"; ids too long for that are hashed. Two epochs of a VM never share a name:
 * both may live on one host in a migration. */
void tap_name(uint64_t vm_id, uint64_t epoch, unsigned nic_index,
              char ret_name[TAP_NAME_SIZE]);
/* Leaves nothing behind on failure; one line in `err` that says what to do. An unused tap
 * of that name is taken over. */
int tap_create(const char *name, const char *bridge, struct error *err);
/* 0 also if there is none of that name. -EBUSY while a process has it open. */
int tap_delete(const char *name);

#endif
