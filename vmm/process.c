/* SPDX-License-Identifier: Apache-2.0 */
/* The way from one process with all rights to a launcher and a VMM with none. */
#include "vmm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/host/cgroup.h"
#include "vmm/jail/broker.h"
#include "vmm/jail/jail.h"
#include "vmm/jail/launcher.h"
#include "vmm/options/options.h"
#include "vmm/storage/storage_keeper.h"

#define THREADS_BESIDE_VCPUS 64u

/* What a careless caller left open has no business in the jail. */
static void descriptors_close(struct process *process)
{
    unsigned first = PROCESS_LOCK_FD;
    process->has_lock =
        process->options->vm_id != 0 && fcntl(PROCESS_LOCK_FD, F_GETFD) >= 0;
    if (process->has_lock) {
        first++;
    }
    (void)close_range(first, UINT_MAX, 0); /* a kernel that old has no io_uring either */
}

/* The group that the VM's limits hold for. */
static int limits_make(struct process *process, struct error *err)
{
    struct cgroup_limits limits = {
        .cpu_weight = process->options->cpu_weight,
        .cpu_quota_percent = process->options->cpu_quota_percent,
    };
    bool asked = cgroup_limits_any(&limits);
    if (process->jailed) {
        struct error unasked = {0};
        limits.memory_max_bytes = cgroup_memory_max(process->options->memory_bytes);
        limits.processes_max = process->options->cpus + THREADS_BESIDE_VCPUS;
        if (cgroup_create(process->options->name, &limits, &process->cgroup,
                          asked ? err : &unasked) == 0) {
            return 0;
        }
        if (!asked) {
            return 0; /* a host without cgroup v2 has a jail without limits */
        }
        limits.memory_max_bytes = 0;
        limits.processes_max = 0;
    }
    return asked ? cgroup_create(process->options->name, &limits, &process->cgroup, err)
                 : 0;
}

/* Before anything big is made, so that it is charged to the VM. */
static int limits_take(struct process *process, struct error *err)
{
    int result = process->cgroup == NULL ? 0 : cgroup_enter(process->cgroup, 0, err);
    if (process->jailed) {
        /* The launcher's from here on: no folder of the host stays open in a jail. */
        cgroup_free(TAKE(process->cgroup));
    }
    return result;
}

/* Who serves the disks that are not raw; none is started before it is asked for. */
static int keeper_make(struct process *process, struct broker_list *list,
                       struct error *err)
{
    const struct options *options = process->options;
    for (unsigned i = 0; i < options->disk_count; i++) {
        const struct options_disk *disk = &options->disks[i];
        const struct storage_disk storage = {
            .path = disk->path,
            .format = disk->format,
            .key = disk->key[0] != '\0' ? disk->key : NULL,
            .read_only = disk->read_only,
            .direct = disk->direct,
            .lock_fd = process->has_lock ? PROCESS_LOCK_FD : 0,
            .jailed = process->jailed,
            .jail_uid = JAIL_UID_BASE + (uid_t)getpid(),
            .seccomp = process_seccomp(process),
        };
        if (!storage_needs_daemon(disk->path, disk->format)) {
            continue;
        }
        if (process->keeper == NULL) {
            process->keeper = storage_keeper_create();
        }
        if (process->keeper == NULL) {
            return error_set(err, -ENOMEM, "out of memory");
        }
        storage_keeper_add(process->keeper, &storage);
    }
    if (process->keeper != NULL) {
        list->storage = storage_keeper_handle;
        list->storage_stop = storage_keeper_stop;
        list->storage_owner = process->keeper;
    }
    return 0;
}

int process_init(const struct options *options, const struct log *log,
                 struct process *ret_process, struct error *err)
{
    struct process process = {
        .options = options,
        .log = log,
        .jailed = geteuid() == 0 && !options->no_jail,
    };
    descriptors_close(&process);
    int result = 0;
    if (options->user != NULL) {
        result = jail_user_find(options->user, &process.uid, &process.gid, err);
    }
    result = result < 0 ? result : limits_make(&process, err);
    if (result == 0) {
        *ret_process = process;
    }
    return result;
}

static int alone(struct process *process, struct error *err)
{
    int result = broker_create_local(&process->broker);
    if (result < 0) {
        return error_set(err, result, "out of memory");
    }
    result = keeper_make(process, broker_local_list(process->broker), err);
    return result < 0 ? result : limits_take(process, err);
}

/* All is started that needs more rights than this process keeps. */
static int launcher_go(struct process *process, struct launcher *launcher,
                       int *ret_status, struct error *err)
{
    int result = process->keeper == NULL ? 0 : storage_keeper_split(process->keeper, err);
    if (result == 0) {
        result = seccomp_enter(process_seccomp(process), SECCOMP_ROLE_LAUNCHER);
        (void)error_set(result < 0 ? err : NULL, result,
                        "cannot confine the launcher: seccomp: %s", err_text(result));
    }
    if (result < 0) {
        launcher_give_up(launcher);
        return result;
    }
    *ret_status = launcher_run(launcher);
    return 0;
}

int process_split(struct process *process, bool *ret_is_vmm, int *ret_status,
                  struct error *err)
{
    struct launcher launcher = {
        .name = process->options->name,
        .clustered = process->options->vm_id != 0,
    };
    int broker_fd = -1;
    *ret_is_vmm = true;
    if (!process->jailed) {
        return alone(process, err);
    }
    int result = keeper_make(process, &launcher.list, err);
    result = result < 0 ? result : launcher_split(&launcher, ret_is_vmm, &broker_fd, err);
    if (result == 0 && !*ret_is_vmm) {
        return launcher_go(process, &launcher, ret_status, err);
    }
    storage_keeper_free(TAKE(process->keeper)); /* is the launcher's */
    if (result == 0) {
        result = broker_create(broker_fd, &process->broker);
        result = result < 0 ? error_set(err, result, "the launcher of this VM was killed")
                            : limits_take(process, err);
    }
    return result;
}

enum seccomp_mode process_seccomp(const struct process *process)
{
    return !process->jailed             ? SECCOMP_OFF
           : process->options->jail_log ? SECCOMP_LOG
                                        : SECCOMP_KILL;
}

int process_confine(struct process *process,
                    int (*settle)(void *owner, struct error *err), void *owner,
                    struct error *err)
{
    const struct jail_config config = {
        .broker = process->broker,
        .uid = process->uid,
        .gid = process->gid,
        .memory_bytes = process->options->memory_bytes,
        .seccomp = process_seccomp(process),
        .rdma = process->options->rdma,
        .settle = settle,
        .settle_owner = owner,
    };
    if (process->jailed) {
        return jail_enter(&config, err);
    }
    if (!process->options->no_jail) {
        log_notice(process->log, "not started by root: the VM has no jail vm=%s",
                   process->options->name);
    }
    return settle == NULL ? 0 : settle(owner, err);
}

void process_leave(struct process *process)
{
    if (process->cgroup != NULL && cgroup_leave(process->cgroup, 0) == 0 &&
        cgroup_remove(process->cgroup) < 0) {
        log_warn(process->log, "the empty cgroup stays vm=%s cgroup=%s",
                 process->options->name, cgroup_path(process->cgroup));
    }
    cgroup_free(process->cgroup);
    process->cgroup = NULL;
}

void process_done(struct process *process)
{
    broker_free(process->broker);
    storage_keeper_free(process->keeper);
    process_leave(process);
}
