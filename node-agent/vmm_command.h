/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of a drover-vmm for a VM of the cluster. Pure. */
#ifndef DROVER_NODE_AGENT_VMM_COMMAND_H
#define DROVER_NODE_AGENT_VMM_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/cluster.pb-c.h"

struct vmm_command_options {
    const char *program;
    const char *control_path;
    const char *serial_path;
    const char *vsock_path;    /* NULL: none, whatever the VM wants */
    const char *incoming;      /* where a guest comes in: --incoming; NULL: not incoming */
    const char *incoming_rdma; /* and by RDMA; NULL: not */
    bool rdma;                 /* it can be moved over RDMA */
    uint64_t epoch;
    uint32_t patience_ms; /* of its moves; 0: its own default */
};

/* Arguments in one block of memory: argv[0..count-1], argv[count] is NULL. */
struct vmm_command {
    unsigned count;
    char **argv;
};

/* -ENOMEM, or DROVER_ELIMIT for a spec beyond limits.h. */
int vmm_command_build(const Drover__VmRecord *vm,
                      const struct vmm_command_options *options,
                      struct vmm_command *ret_command);
void vmm_command_done(struct vmm_command *command);

/* The NIC's MAC as the guest sees it when the spec names none: "52:54:", the VM's id and
 * the index. `size` >= 18. */
void vmm_command_mac(uint64_t vm_id, unsigned nic_index, char *ret_mac, size_t size);

#endif
