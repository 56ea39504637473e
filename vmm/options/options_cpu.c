/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing of --cpu-weight, --cpu-quota and --cpu-affinity; what contradicts what. */
#include "vmm/options/options_cpu.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "vmm/host/cgroup.h"
#include "vmm/options/options.h"
#include "vmm/storage/storage.h"

bool options_cpu_set_has(const struct options_cpu_set *set, unsigned cpu)
{
    return cpu < OPTIONS_HOST_CPUS_MAX && (set->words[cpu / 64] >> (cpu % 64) & 1) != 0;
}

/* Digits only, at most six; moves `*at` behind them. */
static bool take_number(const char **at, unsigned *ret_number)
{
    unsigned number = 0;
    unsigned digits = 0;
    for (; **at >= '0' && **at <= '9' && digits < 6; digits++, (*at)++) {
        number = number * 10 + (unsigned)(**at - '0');
    }
    *ret_number = number;
    return digits > 0 && !(**at >= '0' && **at <= '9');
}

static int set_refuse(const char *text, struct error *err)
{
    return error_set(err, DROVER_EBADINPUT,
                     "--cpu-affinity %s: give processors of the host, below %u, such as "
                     "0-3,5",
                     text, OPTIONS_HOST_CPUS_MAX);
}

int options_cpu_set_parse(const char *text, struct options_cpu_set *ret_set,
                          struct error *err)
{
    struct options_cpu_set set = {0};
    for (const char *at = text;;) {
        unsigned first = 0;
        if (!take_number(&at, &first)) {
            return set_refuse(text, err);
        }
        unsigned last = first;
        if (*at == '-') {
            at++;
            if (!take_number(&at, &last)) {
                return set_refuse(text, err);
            }
        }
        if (last < first || last >= OPTIONS_HOST_CPUS_MAX) {
            return set_refuse(text, err);
        }
        for (unsigned cpu = first; cpu <= last; cpu++) {
            set.count += options_cpu_set_has(&set, cpu) ? 0 : 1;
            set.words[cpu / 64] |= UINT64_C(1) << (cpu % 64);
        }
        if (*at == '\0') {
            *ret_set = set;
            return 0;
        }
        if (*at != ',') {
            return set_refuse(text, err);
        }
        at++;
    }
}

int options_cpu_weight_parse(const char *text, unsigned *ret_weight, struct error *err)
{
    const char *at = text;
    unsigned weight = 0;
    if (!take_number(&at, &weight) || *at != '\0' || weight < CGROUP_WEIGHT_MIN ||
        weight > CGROUP_WEIGHT_MAX) {
        return error_set(err, DROVER_EBADINPUT,
                         "--cpu-weight %s: give a number from %u to %u; others have %u",
                         text, CGROUP_WEIGHT_MIN, CGROUP_WEIGHT_MAX,
                         CGROUP_WEIGHT_DEFAULT);
    }
    *ret_weight = weight;
    return 0;
}

int options_cpu_quota_parse(const char *text, unsigned *ret_percent, struct error *err)
{
    const char *at = text;
    unsigned percent = 0;
    bool valid = take_number(&at, &percent);
    at += *at == '%' ? 1 : 0;
    if (!valid || *at != '\0' || percent < CGROUP_QUOTA_PERCENT_MIN ||
        percent > CGROUP_QUOTA_PERCENT_MAX) {
        return error_set(err, DROVER_EBADINPUT,
                         "--cpu-quota %s: give percent of one processor, %u to %u: 150 "
                         "is one and a half",
                         text, CGROUP_QUOTA_PERCENT_MIN, CGROUP_QUOTA_PERCENT_MAX);
    }
    *ret_percent = percent;
    return 0;
}

int options_cpu_option(int key, const char *text, struct options *options,
                       struct error *err)
{
    switch (key) {
    case OPTIONS_KEY_CPU:
        return cpu_model_parse(text, &options->cpu_model, err);
    case OPTIONS_KEY_CPU_WEIGHT:
        return options_cpu_weight_parse(text, &options->cpu_weight, err);
    case OPTIONS_KEY_CPU_QUOTA:
        return options_cpu_quota_parse(text, &options->cpu_quota_percent, err);
    case OPTIONS_KEY_CPU_AFFINITY:
        return options_cpu_set_parse(text, &options->cpu_affinity, err);
    case OPTIONS_KEY_HUGE_PAGES:
        options->huge_pages = true;
        return 0;
    case OPTIONS_KEY_MERGEABLE:
        options->mergeable = true;
        return 0;
    default:
        options->preallocated = true;
        return 0;
    }
}

#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)

int options_cpu_judge(const struct options *options, struct error *err)
{
    if (options->mergeable && options->huge_pages) {
        return error_set(err, DROVER_EBADINPUT,
                         "--mergeable and --huge-pages contradict each other: huge pages "
                         "can't be merged; give one of them");
    }
    if (options->mergeable && options->preallocated) {
        return error_set(err, DROVER_EBADINPUT,
                         "--mergeable and --prealloc contradict each other: memory that "
                         "is merged is not set aside; give one of them");
    }
    for (unsigned i = 0; options->mergeable && i < options->disk_count; i++) {
        const struct options_disk *disk = &options->disks[i];
        if (storage_needs_daemon(disk->path, disk->format)) {
            return error_set(
                err, DROVER_EBADINPUT,
                "--mergeable and --disk %s contradict each other: its storage "
                "daemon shares the guest's memory, and shared memory is not "
                "merged; leave out --mergeable, or give a raw disk",
                disk->path);
        }
    }
    if (options->huge_pages && options->memory_bytes % HUGE_PAGE_BYTES != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "--huge-pages: --memory must be a multiple of 2M");
    }
    unsigned pinned = options->cpu_affinity.count;
    if (options->cpu_quota_percent > options->cpus * 100) {
        return error_set(err, DROVER_EBADINPUT,
                         "--cpu-quota %u is more than --cpus %u can use: give at most "
                         "%u, or leave it out",
                         options->cpu_quota_percent, options->cpus, options->cpus * 100);
    }
    if (pinned > 0 && options->cpu_quota_percent > pinned * 100) {
        return error_set(err, DROVER_EBADINPUT,
                         "--cpu-quota %u is more than the %u processors of "
                         "--cpu-affinity have: give at most %u",
                         options->cpu_quota_percent, pinned, pinned * 100);
    }
    return 0;
}
