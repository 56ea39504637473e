/* SPDX-License-Identifier: Apache-2.0 */
/* On which of the host's processors the vCPUs run (--cpu-affinity). */
#ifndef DROVER_VMM_KVM_AFFINITY_H
#define DROVER_VMM_KVM_AFFINITY_H

#include <pthread.h>

struct error;
struct options_cpu_set;

/* DROVER_EBADINPUT with one line if this process may not run on one of them. */
int affinity_judge(const struct options_cpu_set *set, struct error *err);
/* A thread that is made with `attributes` runs on these only. */
int affinity_apply(const struct options_cpu_set *set, pthread_attr_t *attributes);

#endif
