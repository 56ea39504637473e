/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A control group (cgroup v2) for one VM: its share of the processors and its memory. It
 * lies at drover/NAME below the root; without root's rights, below the group that systemd
 * delegated to the caller's service, if there is one. The making needs write access to /sys/fs/cgroup; nothing
 * else does. One thread. Everything is done by paths relative to open descriptors, so
 * that enter and remove work after the caller has left its root.
 */
#ifndef DROVER_VMM_HOST_CGROUP_H
#define DROVER_VMM_HOST_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct cgroup;
struct error;

#define CGROUP_WEIGHT_MIN         1u
#define CGROUP_WEIGHT_MAX         10000u
#define CGROUP_WEIGHT_DEFAULT     100u
#define CGROUP_QUOTA_PERCENT_MIN  1u
#define CGROUP_QUOTA_PERCENT_MAX  102400u /* 1024 processors */
#define CGROUP_MEMORY_BYTES_EXTRA (UINT64_C(128) << 20)

/* Zero: no limit. */
struct cgroup_limits {
    unsigned cpu_weight;        /* cpu.weight: 1 to 10000, others have 100 */
    unsigned cpu_quota_percent; /* cpu.max: 100 is one processor */
    uint64_t memory_max_bytes;  /* memory.max */
    unsigned processes_max;     /* pids.max: processes and threads */
};

/* True if any limit is set. */
bool cgroup_limits_any(const struct cgroup_limits *limits);
/* What all processes of a VM with so much guest memory may use: room for the guest, for
 * what KVM keeps beside it, and for the programs themselves. Page cache is given back
 * before the limit hurts. */
uint64_t cgroup_memory_max(uint64_t guest_bytes);

/*
 * Makes the group `name` with its limits. Where a living group has that name (a VM that
 * moves within one host) it is called NAME.PID. DROVER_EBADINPUT with what to do where
 * the host has no cgroup v2 or not the controller that a limit needs; -EACCES and the
 * like as they come. The caller frees.
 */
int cgroup_create(const char *name, const struct cgroup_limits *limits,
                  struct cgroup **ret_cgroup, struct error *err);
/* Its folder below the hierarchy's root, for logs. */
const char *cgroup_path(const struct cgroup *cgroup);
/* Moves a process (0: the caller) with all its threads into the group; what it starts
 * from then on is born there. */
int cgroup_enter(struct cgroup *cgroup, pid_t pid, struct error *err);
/* Moves a process (0: the caller) back to where the maker of the group was. */
int cgroup_leave(struct cgroup *cgroup, pid_t pid);
/* Removes the group from the host if no process is left in it (-EBUSY), and keeps the
 * object. */
int cgroup_remove(struct cgroup *cgroup);
/* The object only. NULL is fine. */
void cgroup_free(struct cgroup *cgroup);

/* ---- for tests ------------------------------------------------------------------- */

/* The same as cgroup_create() below another folder than /sys/fs/cgroup, the caller being
 * in `own` ("/system.slice/droverd.service"). */
int cgroup_create_at(const char *root, const char *own, const char *name,
                     const struct cgroup_limits *limits, struct cgroup **ret_cgroup,
                     struct error *err);

#endif
