/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of processor features: their names, and the baseline from which on a guest
 * has them. A baseline is its psABI level and what each processor of that level that is
 * sold for servers has besides, of both vendors: Nehalem, Bulldozer (2), Haswell, Zen
 * (3), Skylake-SP, Zen 4 (4).
 */
#include "vmm/cpu/cpu_features.h"

/* X(function, index, register, bit, from baseline on, name) */
#define FEATURES(X)                                                                      \
    X(0x1, 0, 'd', 0, 2, "fpu")                                                          \
    X(0x1, 0, 'd', 1, NEVER, "vme")                                                      \
    X(0x1, 0, 'd', 2, 2, "de")                                                           \
    X(0x1, 0, 'd', 3, 2, "pse")                                                          \
    X(0x1, 0, 'd', 4, 2, "tsc")                                                          \
    X(0x1, 0, 'd', 5, 2, "msr")                                                          \
    X(0x1, 0, 'd', 6, 2, "pae")                                                          \
    X(0x1, 0, 'd', 7, 2, "mce")                                                          \
    X(0x1, 0, 'd', 8, 2, "cx8")                                                          \
    X(0x1, 0, 'd', 9, 2, "apic")                                                         \
    X(0x1, 0, 'd', 11, 2, "sep")                                                         \
    X(0x1, 0, 'd', 12, 2, "mtrr")                                                        \
    X(0x1, 0, 'd', 13, 2, "pge")                                                         \
    X(0x1, 0, 'd', 14, 2, "mca")                                                         \
    X(0x1, 0, 'd', 15, 2, "cmov")                                                        \
    X(0x1, 0, 'd', 16, 2, "pat")                                                         \
    X(0x1, 0, 'd', 17, 2, "pse36")                                                       \
    X(0x1, 0, 'd', 19, 2, "clflush")                                                     \
    X(0x1, 0, 'd', 23, 2, "mmx")                                                         \
    X(0x1, 0, 'd', 24, 2, "fxsr")                                                        \
    X(0x1, 0, 'd', 25, 2, "sse")                                                         \
    X(0x1, 0, 'd', 26, 2, "sse2")                                                        \
    X(0x1, 0, 'c', 0, 2, "sse3")                                                         \
    X(0x1, 0, 'c', 1, 3, "pclmulqdq")                                                    \
    X(0x1, 0, 'c', 3, NEVER, "monitor")                                                  \
    X(0x1, 0, 'c', 9, 2, "ssse3")                                                        \
    X(0x1, 0, 'c', 12, 3, "fma")                                                         \
    X(0x1, 0, 'c', 13, 2, "cx16")                                                        \
    X(0x1, 0, 'c', 17, 4, "pcid")                                                        \
    X(0x1, 0, 'c', 19, 2, "sse4.1")                                                      \
    X(0x1, 0, 'c', 20, 2, "sse4.2")                                                      \
    X(0x1, 0, 'c', 21, 2, "x2apic")                                                      \
    X(0x1, 0, 'c', 22, 3, "movbe")                                                       \
    X(0x1, 0, 'c', 23, 2, "popcnt")                                                      \
    X(0x1, 0, 'c', 24, 2, "tsc-deadline")                                                \
    X(0x1, 0, 'c', 25, 3, "aes")                                                         \
    X(0x1, 0, 'c', 26, 3, "xsave")                                                       \
    X(0x1, 0, 'c', 28, 3, "avx")                                                         \
    X(0x1, 0, 'c', 29, 3, "f16c")                                                        \
    X(0x1, 0, 'c', 30, 3, "rdrand")                                                      \
    X(0x6, 0, 'a', 2, NEVER, "arat")                                                     \
    X(0x7, 0, 'b', 0, 3, "fsgsbase")                                                     \
    X(0x7, 0, 'b', 1, 2, "tsc-adjust")                                                   \
    X(0x7, 0, 'b', 3, 3, "bmi1")                                                         \
    X(0x7, 0, 'b', 4, NEVER, "hle")                                                      \
    X(0x7, 0, 'b', 5, 3, "avx2")                                                         \
    X(0x7, 0, 'b', 7, 3, "smep")                                                         \
    X(0x7, 0, 'b', 8, 3, "bmi2")                                                         \
    X(0x7, 0, 'b', 9, 4, "erms")                                                         \
    X(0x7, 0, 'b', 10, 4, "invpcid")                                                     \
    X(0x7, 0, 'b', 11, NEVER, "rtm")                                                     \
    X(0x7, 0, 'b', 14, NEVER, "mpx")                                                     \
    X(0x7, 0, 'b', 16, 4, "avx512f")                                                     \
    X(0x7, 0, 'b', 17, 4, "avx512dq")                                                    \
    X(0x7, 0, 'b', 18, 4, "rdseed")                                                      \
    X(0x7, 0, 'b', 19, 4, "adx")                                                         \
    X(0x7, 0, 'b', 20, 4, "smap")                                                        \
    X(0x7, 0, 'b', 21, NEVER, "avx512ifma")                                              \
    X(0x7, 0, 'b', 23, 4, "clflushopt")                                                  \
    X(0x7, 0, 'b', 24, 4, "clwb")                                                        \
    X(0x7, 0, 'b', 28, 4, "avx512cd")                                                    \
    X(0x7, 0, 'b', 29, NEVER, "sha")                                                     \
    X(0x7, 0, 'b', 30, 4, "avx512bw")                                                    \
    X(0x7, 0, 'b', 31, 4, "avx512vl")                                                    \
    X(0x7, 0, 'c', 1, NEVER, "avx512vbmi")                                               \
    X(0x7, 0, 'c', 2, NEVER, "umip")                                                     \
    X(0x7, 0, 'c', 3, NEVER, "pku")                                                      \
    X(0x7, 0, 'c', 6, NEVER, "avx512vbmi2")                                              \
    X(0x7, 0, 'c', 8, NEVER, "gfni")                                                     \
    X(0x7, 0, 'c', 9, NEVER, "vaes")                                                     \
    X(0x7, 0, 'c', 10, NEVER, "vpclmulqdq")                                              \
    X(0x7, 0, 'c', 11, NEVER, "avx512vnni")                                              \
    X(0x7, 0, 'c', 12, NEVER, "avx512bitalg")                                            \
    X(0x7, 0, 'c', 14, NEVER, "avx512vpopcntdq")                                         \
    X(0x7, 0, 'c', 16, NEVER, "la57")                                                    \
    X(0x7, 0, 'c', 22, NEVER, "rdpid")                                                   \
    X(0x7, 0, 'd', 4, NEVER, "fsrm")                                                     \
    X(0x7, 0, 'd', 10, NEVER, "md-clear")                                                \
    X(0x7, 0, 'd', 22, NEVER, "amx-bf16")                                                \
    X(0x7, 0, 'd', 23, NEVER, "avx512fp16")                                              \
    X(0x7, 0, 'd', 24, NEVER, "amx-tile")                                                \
    X(0x7, 0, 'd', 25, NEVER, "amx-int8")                                                \
    X(0x7, 0, 'd', 26, IF_THERE, "spec-ctrl")                                            \
    X(0x7, 0, 'd', 27, IF_THERE, "stibp")                                                \
    X(0x7, 0, 'd', 28, NEVER, "flush-l1d")                                               \
    X(0x7, 0, 'd', 29, NEVER, "arch-capabilities")                                       \
    X(0x7, 0, 'd', 31, IF_THERE, "ssbd")                                                 \
    X(0x7, 1, 'a', 4, NEVER, "avx-vnni")                                                 \
    X(0x7, 1, 'a', 5, NEVER, "avx512-bf16")                                              \
    X(0xd, 0, 'a', 0, 3, "x87 in xsave")                                                 \
    X(0xd, 0, 'a', 1, 3, "sse in xsave")                                                 \
    X(0xd, 0, 'a', 2, 3, "avx in xsave")                                                 \
    X(0xd, 0, 'a', 5, 4, "avx512 masks in xsave")                                        \
    X(0xd, 0, 'a', 6, 4, "avx512 in xsave")                                              \
    X(0xd, 0, 'a', 7, 4, "avx512 high registers in xsave")                               \
    X(0xd, 0, 'a', 9, NEVER, "pku in xsave")                                             \
    X(0xd, 1, 'a', 0, 3, "xsaveopt")                                                     \
    X(0xd, 1, 'a', 1, 4, "xsavec")                                                       \
    X(0xd, 1, 'a', 2, 4, "xgetbv1")                                                      \
    X(0xd, 1, 'a', 3, NEVER, "xsaves")                                                   \
    X(0x40000001, 0, 'a', 0, IF_THERE, "kvmclock-old")                                   \
    X(0x40000001, 0, 'a', 1, IF_THERE, "kvm-nopiodelay")                                 \
    X(0x40000001, 0, 'a', 3, IF_THERE, "kvmclock")                                       \
    X(0x40000001, 0, 'a', 4, NEVER, "kvm-asyncpf")                                       \
    X(0x40000001, 0, 'a', 5, IF_THERE, "kvm-steal-time")                                 \
    X(0x40000001, 0, 'a', 6, IF_THERE, "kvm-pv-eoi")                                     \
    X(0x40000001, 0, 'a', 7, IF_THERE, "kvm-pv-unhalt")                                  \
    X(0x40000001, 0, 'a', 9, IF_THERE, "kvm-pv-tlb-flush")                               \
    X(0x40000001, 0, 'a', 11, IF_THERE, "kvm-pv-ipi")                                    \
    X(0x40000001, 0, 'a', 13, IF_THERE, "kvm-pv-sched-yield")                            \
    X(0x40000001, 0, 'a', 14, NEVER, "kvm-asyncpf-int")                                  \
    X(0x40000001, 0, 'a', 24, IF_THERE, "kvmclock-stable")                               \
    X(0x80000001, 0, 'c', 0, 2, "lahf")                                                  \
    X(0x80000001, 0, 'c', 5, 3, "lzcnt")                                                 \
    X(0x80000001, 0, 'c', 6, NEVER, "sse4a")                                             \
    X(0x80000001, 0, 'c', 8, 4, "3dnowprefetch")                                         \
    X(0x80000001, 0, 'd', 11, 2, "syscall")                                              \
    X(0x80000001, 0, 'd', 20, 2, "nx")                                                   \
    X(0x80000001, 0, 'd', 22, NEVER, "mmxext")                                           \
    X(0x80000001, 0, 'd', 25, NEVER, "fxsr-opt")                                         \
    X(0x80000001, 0, 'd', 26, 3, "pdpe1gb")                                              \
    X(0x80000001, 0, 'd', 27, 2, "rdtscp")                                               \
    X(0x80000001, 0, 'd', 29, 2, "lm")                                                   \
    X(0x80000008, 0, 'b', 0, NEVER, "clzero")                                            \
    X(0x80000008, 0, 'b', 12, IF_THERE, "ibpb")                                          \
    X(0x80000008, 0, 'b', 14, IF_THERE, "ibrs")                                          \
    X(0x80000008, 0, 'b', 15, IF_THERE, "amd-stibp")                                     \
    X(0x80000008, 0, 'b', 24, IF_THERE, "amd-ssbd")

#define NEVER    CPU_FEATURE_NEVER
#define IF_THERE CPU_FEATURE_IF_THERE

const struct cpu_feature cpu_features[] = {
#define X(function, index, reg, bit, from, name)                                         \
    {{function, index, reg}, bit, from, name},
    FEATURES(X)
#undef X
};
const size_t cpu_feature_count = sizeof(cpu_features) / sizeof(cpu_features[0]);
