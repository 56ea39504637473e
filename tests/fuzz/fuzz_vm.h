/* SPDX-License-Identifier: Apache-2.0 */
/* One VM with all virtio devices, made once and reset before each input. For the fuzzers.
 */
#ifndef DROVER_TESTS_FUZZ_VM_H
#define DROVER_TESTS_FUZZ_VM_H

#include "tests/fuzz/fuzz_state.h"
#include "tests/unit/virtio_driver.h"

#define FUZZ_DEVICES_MAX 8

struct fuzz_vm {
    struct vm *vm;
    unsigned count;
    struct device *devices[FUZZ_DEVICES_MAX]; /* slot = index + 1 */
    struct driver drivers[FUZZ_DEVICES_MAX];
    struct device *console;
    int link_fd; /* the other end of the NIC's tap */
    int disk_fds[FUZZ_DEVICES_MAX];
    unsigned disk_count;
    bool disks_cut;
    struct fuzz_state state;
    uint64_t output_size; /* what the console's guest wrote */
};

/* As after power-on. The first call makes it: a disk, a read-only disk, rng, console,
 * net, a balloon, and a disk with queues and limits. */
struct fuzz_vm *fuzz_vm_fresh(void);
/* Something happens on the host's side of a device: a frame, typing, an order. */
void fuzz_vm_host_event(struct fuzz_vm *fuzz, unsigned index, const uint8_t *data,
                        size_t size);
/* Stops a device, waits until it is drained. */
void fuzz_vm_quiet(struct fuzz_vm *fuzz, unsigned index);

#endif
