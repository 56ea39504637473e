/* SPDX-License-Identifier: Apache-2.0 */
/* One VM with all virtio devices, made once and reset before each input. For the fuzzers.
 */
#ifndef DROVER_TESTS_FUZZ_VM_H
#define DROVER_TESTS_FUZZ_VM_H

#include "tests/unit/virtio_driver.h"

#define FUZZ_DEVICES_MAX 6

struct fuzz_vm {
    struct vm *vm;
    unsigned count;
    struct device *devices[FUZZ_DEVICES_MAX]; /* slot = index + 1 */
    struct driver drivers[FUZZ_DEVICES_MAX];
};

/* As after power-on. The first call makes it: a disk, a read-only disk, rng, console,
 * net where taps can be made, and a balloon. */
struct fuzz_vm *fuzz_vm_fresh(void);
/* Stops a device, waits until it is drained. */
void fuzz_vm_quiet(struct fuzz_vm *fuzz, unsigned index);

#endif
