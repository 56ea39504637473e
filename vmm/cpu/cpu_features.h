/* SPDX-License-Identifier: Apache-2.0 */
/* The table of processor features. For cpu_model.c and its test only. */
#ifndef DROVER_VMM_CPU_CPU_FEATURES_H
#define DROVER_VMM_CPU_CPU_FEATURES_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/cpu/cpu_model.h"

/* Instead of the baseline from which on a guest has it. */
#define CPU_FEATURE_NEVER 255 /* only with --cpu host */
/* What KVM makes by itself, and defences that no program depends on: where the guest
 * starts they are as the host has them; a host that lacks one refuses the guest. */
#define CPU_FEATURE_IF_THERE 0

struct cpu_feature {
    struct cpu_word word;
    uint8_t bit;
    uint8_t from; /* enum cpu_model, or one of the above */
    const char *name;
};

extern const struct cpu_feature cpu_features[];
extern const size_t cpu_feature_count;

#endif
