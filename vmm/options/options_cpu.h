/* SPDX-License-Identifier: Apache-2.0 */
/* The options of processors and memory, judged. Pure. */
#ifndef DROVER_VMM_OPTIONS_OPTIONS_CPU_H
#define DROVER_VMM_OPTIONS_OPTIONS_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct options;

/* Keys of getopt_long(), in a range of their own. */
enum options_cpu_key {
    OPTIONS_KEY_CPU_FIRST = 600,
    OPTIONS_KEY_CPU = OPTIONS_KEY_CPU_FIRST,
    OPTIONS_KEY_CPU_WEIGHT,
    OPTIONS_KEY_CPU_QUOTA,
    OPTIONS_KEY_CPU_AFFINITY,
    OPTIONS_KEY_HUGE_PAGES,
    OPTIONS_KEY_MERGEABLE,
    OPTIONS_KEY_PREALLOC,
    OPTIONS_KEY_CPU_LAST = OPTIONS_KEY_PREALLOC,
};

#define OPTIONS_HOST_CPUS_MAX 1024u

/* A set of the host's processors. */
struct options_cpu_set {
    unsigned count; /* 0: any processor */
    uint64_t words[OPTIONS_HOST_CPUS_MAX / 64];
};

bool options_cpu_set_has(const struct options_cpu_set *set, unsigned cpu);
/* "0-3,5". DROVER_EBADINPUT with one line. */
int options_cpu_set_parse(const char *text, struct options_cpu_set *ret_set,
                          struct error *err);
int options_cpu_weight_parse(const char *text, unsigned *ret_weight, struct error *err);
/* "150" or "150%": 100 is one processor. */
int options_cpu_quota_parse(const char *text, unsigned *ret_percent, struct error *err);
/* One option of the range above. */
int options_cpu_option(int key, const char *text, struct options *options,
                       struct error *err);
/* What contradicts each other among the options of processors and memory. */
int options_cpu_judge(const struct options *options, struct error *err);

#endif
