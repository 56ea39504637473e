/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What devices were like when they were made, for fuzzers whose VM lives longer than one
 * input: a reset leaves some of what a guest, or a loaded state, has set.
 */
#ifndef DROVER_TESTS_FUZZ_STATE_H
#define DROVER_TESTS_FUZZ_STATE_H

#include "base/buffer.h"

struct device;
struct vm;

#define FUZZ_STATE_DEVICES 16

/* Embedded, zeroed; private. */
struct fuzz_state {
    unsigned count;
    struct device *devices[FUZZ_STATE_DEVICES];
    struct buffer saved[FUZZ_STATE_DEVICES];
};

/* All devices of the VM, which is quiet. */
void fuzz_state_keep(struct fuzz_state *state, struct vm *vm);
/* They are as they were; they are quiet. */
void fuzz_state_restore(struct fuzz_state *state);
void fuzz_state_done(struct fuzz_state *state);

#endif
