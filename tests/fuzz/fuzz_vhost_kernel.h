/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /dev/vhost-net for fuzzers: the kernel's side of vhost, in this process. Queues are
 * counted over all workers, two for each pair.
 */
#ifndef DROVER_TESTS_FUZZ_VHOST_KERNEL_H
#define DROVER_TESTS_FUZZ_VHOST_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

struct guest_ram;

#define FUZZ_KERNEL_PAIRS 2

/* No worker is open; rings must lie in this memory. */
void fuzz_kernel_reset(struct guest_ram *ram);
/* What it can do; 0: there is no vhost-net. */
void fuzz_kernel_offer(uint64_t features);
/* The call after `calls` - 1 more fails; 0: none does. */
void fuzz_kernel_refuse(unsigned calls);
/* A worker gives all back that the guest has made available, notes the page that it wrote
 * if it is asked to, and calls. */
void fuzz_kernel_work(unsigned index);
/* A worker finds that a ring makes no sense. */
void fuzz_kernel_broken(unsigned index);
/* Where a worker will say that it stands. */
void fuzz_kernel_base_set(unsigned index, uint16_t base);
/* True if no ring is with a worker. */
bool fuzz_kernel_idle(void);

#endif
