/* SPDX-License-Identifier: Apache-2.0 */
/* Pinning of threads. */
#include "vmm/kvm/affinity.h"

#include <errno.h>
#include <sched.h>

#include "base/err.h"
#include "vmm/options/options_cpu.h"

_Static_assert(OPTIONS_HOST_CPUS_MAX <= CPU_SETSIZE, "a set fits");

int affinity_judge(const struct options_cpu_set *set, struct error *err)
{
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0) {
        return error_set(err, -errno, "cannot tell this host's processors: %s",
                         err_text(-errno));
    }
    for (unsigned cpu = 0; cpu < OPTIONS_HOST_CPUS_MAX; cpu++) {
        if (options_cpu_set_has(set, cpu) && !CPU_ISSET(cpu, &allowed)) {
            return error_set(err, DROVER_EBADINPUT,
                             "--cpu-affinity: processor %u is not there, or not for this "
                             "program; `nproc` and `taskset -p $$` tell which are",
                             cpu);
        }
    }
    return 0;
}

int affinity_apply(const struct options_cpu_set *set, pthread_attr_t *attributes)
{
    cpu_set_t wanted;
    CPU_ZERO(&wanted);
    for (unsigned cpu = 0; cpu < OPTIONS_HOST_CPUS_MAX; cpu++) {
        if (options_cpu_set_has(set, cpu)) {
            CPU_SET(cpu, &wanted);
        }
    }
    return -pthread_attr_setaffinity_np(attributes, sizeof(wanted), &wanted);
}
