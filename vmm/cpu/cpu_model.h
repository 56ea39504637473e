/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What processor a guest sees (--cpu): the host's own, or a named baseline that has the
 * same features on unlike hosts. Pure: from what KVM supports on a host to what the
 * guest is told. Topology is not in it (kvm_cpuid.c).
 */
#ifndef DROVER_VMM_CPU_CPU_MODEL_H
#define DROVER_VMM_CPU_CPU_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

struct error;

enum cpu_model {
    CPU_MODEL_HOST = 0,
    CPU_MODEL_V2 = 2, /* the levels of the x86-64 psABI */
    CPU_MODEL_V3 = 3,
    CPU_MODEL_V4 = 4,
};

#define CPU_MODEL_ENTRIES_MAX 256

/* A register of CPUID whose bits are features. */
struct cpu_word {
    uint32_t function;
    uint32_t index;
    char reg; /* a, b, c, d */
};

/* "x86-64-v3", "host". DROVER_EBADINPUT with one line. */
int cpu_model_parse(const char *text, enum cpu_model *ret_model, struct error *err);
const char *cpu_model_name(enum cpu_model model);

/* The entry of a leaf, or NULL. */
const struct kvm_cpuid_entry2 *cpu_model_find(const struct kvm_cpuid_entry2 *entries,
                                              size_t count, uint32_t function,
                                              uint32_t index);
/* One register of a leaf; 0 where the leaf is missing. */
uint32_t cpu_model_word(const struct kvm_cpuid_entry2 *entries, size_t count,
                        const struct cpu_word *word);

/* By leaf 0, as are its descendants. */
bool cpu_model_is_amd(const struct kvm_cpuid_entry2 *entries, size_t count);

/*
 * The names of the features `bits` of a word, with commas, shortened by "and N more".
 * Bits without a name are told by their place.
 */
void cpu_model_names(const struct cpu_word *word, uint32_t bits, char *text, size_t size);

/*
 * The baseline's CPUID, from what the host supports. `address_bits`: physical address
 * bits that the guest's memory needs. Fills `ret_entries` (room for
 * CPU_MODEL_ENTRIES_MAX) and *ret_count. DROVER_EBADINPUT with the names of what the host
 * lacks and what to choose instead. Not for CPU_MODEL_HOST.
 */
int cpu_model_build(enum cpu_model model, const struct kvm_cpuid_entry2 *supported,
                    size_t supported_count, unsigned address_bits,
                    struct kvm_cpuid_entry2 *ret_entries, size_t *ret_count,
                    struct error *err);

#endif
