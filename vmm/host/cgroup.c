/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's control group, by the files of cgroup v2. */
#include "vmm/host/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/limits.h"

#define ROOT                 "/sys/fs/cgroup"
#define FALLBACK_PARENT      "drover"
#define AGENT_LEAF           "agent"
#define LOWER_ROUNDS_MAX     16
#define QUOTA_PERIOD_US      100000u
#define QUOTA_US_PER_PERCENT (QUOTA_PERIOD_US / 100)
#define FILE_SIZE            4096
#define CONTROLLERS_SIZE     64

struct cgroup {
    int folder_fd; /* the group */
    int parent_fd; /* the folder that it lies in */
    int own_fd;    /* where the maker was; -1: unknown */
    char name[LIMIT_NAME_SIZE + 16];
    char path[LIMIT_PATH_SIZE];
};

bool cgroup_limits_any(const struct cgroup_limits *limits)
{
    return limits->cpu_weight != 0 || limits->cpu_quota_percent != 0 ||
           limits->memory_max_bytes != 0 || limits->processes_max != 0;
}

uint64_t cgroup_memory_max(uint64_t guest_bytes)
{
    /* Page tables of both stages and KVM's reverse map are below 1/64 of the guest. */
    return guest_bytes + guest_bytes / 32 + CGROUP_MEMORY_BYTES_EXTRA;
}

static int file_write(int folder_fd, const char *name, const char *text)
{
    CLEANUP(cleanup_fd) int fd = openat(folder_fd, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    size_t size = strlen(text);
    ssize_t written = write(fd, text, size);
    if (written < 0) {
        return -errno;
    }
    return (size_t)written == size ? 0 : -EIO;
}

static int file_read(int folder_fd, const char *name, char *text, size_t size)
{
    CLEANUP(cleanup_fd) int fd = openat(folder_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    ssize_t got = read(fd, text, size - 1);
    if (got < 0) {
        return -errno;
    }
    text[got] = '\0';
    return 0;
}

/* True if `word` is one of the blank-separated words of `text`. */
static bool has_word(const char *text, const char *word)
{
    size_t size = strlen(word);
    for (const char *at = text; (at = strstr(at, word)) != NULL; at += size) {
        bool begins = at == text || at[-1] == ' ' || at[-1] == '\n';
        if (begins && (at[size] == '\0' || at[size] == ' ' || at[size] == '\n')) {
            return true;
        }
    }
    return false;
}

/* Which controllers the limits need, and the option that asks for each. */
static const struct need {
    const char *controller;
    const char *option;
} needs[] = {
    {"cpu", "--cpu-weight and --cpu-quota"},
    {"memory", "a limit of memory"},
    {"pids", "a limit of processes"},
};

static bool needed(const struct need *need, const struct cgroup_limits *limits)
{
    if (strcmp(need->controller, "cpu") == 0) {
        return limits->cpu_weight != 0 || limits->cpu_quota_percent != 0;
    }
    return strcmp(need->controller, "memory") == 0 ? limits->memory_max_bytes != 0
                                                   : limits->processes_max != 0;
}

/* The controllers on for the children of `folder_fd`. */
static int controllers_pass(int folder_fd, const struct cgroup_limits *limits,
                            struct error *err)
{
    char have[FILE_SIZE];
    int result = file_read(folder_fd, "cgroup.controllers", have, sizeof(have));
    if (result < 0) {
        return error_set(err, result, "cannot read the cgroup's controllers: %s",
                         err_text(result));
    }
    for (unsigned i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
        if (!needed(&needs[i], limits)) {
            continue;
        }
        if (!has_word(have, needs[i].controller)) {
            return error_set(err, DROVER_EBADINPUT,
                             "%s: this host's cgroup v2 has no %s controller; boot with "
                             "cgroup v2 only, or leave the limit out",
                             needs[i].option, needs[i].controller);
        }
        char order[CONTROLLERS_SIZE];
        (void)snprintf(order, sizeof(order), "+%s", needs[i].controller); /* fits */
        result = file_write(folder_fd, "cgroup.subtree_control", order);
        if (result < 0) {
            return error_set(err, result,
                             "cannot pass the %s controller on to the VM's cgroup: %s; "
                             "run as root, or in a unit with Delegate=yes",
                             needs[i].controller, err_text(result));
        }
    }
    return 0;
}

static int limit_write(struct cgroup *cgroup, const char *file, const char *text,
                       struct error *err)
{
    int result = file_write(cgroup->folder_fd, file, text);
    return result == 0 ? 0
                       : error_set(err, result, "the kernel refused %s = %s: %s", file,
                                   text, err_text(result));
}

static int limits_write(struct cgroup *cgroup, const struct cgroup_limits *limits,
                        struct error *err)
{
    char text[64];
    int result = 0;
    if (limits->cpu_weight != 0) {
        (void)snprintf(text, sizeof(text), "%u", limits->cpu_weight);
        result = limit_write(cgroup, "cpu.weight", text, err);
    }
    if (result == 0 && limits->cpu_quota_percent != 0) {
        (void)snprintf(text, sizeof(text), "%" PRIu64 " %u",
                       (uint64_t)limits->cpu_quota_percent * QUOTA_US_PER_PERCENT,
                       QUOTA_PERIOD_US);
        result = limit_write(cgroup, "cpu.max", text, err);
    }
    if (result == 0 && limits->memory_max_bytes != 0) {
        (void)snprintf(text, sizeof(text), "%" PRIu64, limits->memory_max_bytes);
        result = limit_write(cgroup, "memory.max", text, err);
    }
    if (result == 0 && limits->processes_max != 0) {
        (void)snprintf(text, sizeof(text), "%u", limits->processes_max);
        result = limit_write(cgroup, "pids.max", text, err);
    }
    return result;
}

/* The folder `name` of `parent_fd`, made where it is missing. */
static int folder_open(int parent_fd, const char *name, int *ret_fd)
{
    if (mkdirat(parent_fd, name, 0755) < 0 && errno != EEXIST) {
        return -errno;
    }
    *ret_fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? -errno : 0;
}

/* The group's own folder, that nobody else uses. */
static int group_make(struct cgroup *cgroup, const char *name)
{
    (void)snprintf(cgroup->name, sizeof(cgroup->name), "%s", name);
    /* One of an earlier run that is empty goes; one with processes stays. */
    (void)unlinkat(cgroup->parent_fd, cgroup->name, AT_REMOVEDIR);
    if (mkdirat(cgroup->parent_fd, cgroup->name, 0755) < 0) {
        if (errno != EEXIST) {
            return -errno;
        }
        (void)snprintf(cgroup->name, sizeof(cgroup->name), "%s.%d", name, (int)getpid());
        if (mkdirat(cgroup->parent_fd, cgroup->name, 0755) < 0 && errno != EEXIST) {
            return -errno;
        }
    }
    cgroup->folder_fd =
        openat(cgroup->parent_fd, cgroup->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return cgroup->folder_fd < 0 ? -errno : 0;
}

/* systemd marks what it gave away. */
static bool is_delegated(int folder_fd)
{
    static const char *const marks[] = {"trusted.delegate", "user.delegate"};
    for (unsigned i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        char value = '0';
        if (fgetxattr(folder_fd, marks[i], &value, 1) == 1 && value == '1') {
            return true;
        }
    }
    return false;
}

/* The nearest delegated folder at or above `own`; its length in `own`, or 0. */
static size_t delegated_find(int root_fd, const char *own, int *ret_fd)
{
    char path[LIMIT_PATH_SIZE];
    (void)snprintf(path, sizeof(path), "%s", own);
    for (size_t size = strlen(path); size > 1;) {
        CLEANUP(cleanup_fd)
        int fd = openat(root_fd, path + 1, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0 && is_delegated(fd)) {
            *ret_fd = take_fd(&fd);
            return size;
        }
        while (size > 1 && path[size - 1] != '/') {
            size--;
        }
        size -= 1;
        path[size] = '\0';
    }
    return 0;
}

/* A group with processes of its own can't pass controllers on: they go one level down. */
static int processes_lower(int folder_fd, struct error *err)
{
    CLEANUP(cleanup_fd) int leaf_fd = -1;
    int result = folder_open(folder_fd, AGENT_LEAF, &leaf_fd);
    for (unsigned i = 0; result == 0 && i < LOWER_ROUNDS_MAX; i++) {
        char pids[FILE_SIZE];
        result = file_read(folder_fd, "cgroup.procs", pids, sizeof(pids));
        char *end = strrchr(pids, '\n');
        if (result < 0 || end == NULL) {
            break;
        }
        *end = '\0';
        char *rest = NULL;
        for (char *pid = strtok_r(pids, "\n", &rest); pid != NULL;
             pid = strtok_r(NULL, "\n", &rest)) {
            (void)file_write(leaf_fd, "cgroup.procs", pid); /* it may have ended */
        }
    }
    return result == 0 ? 0
                       : error_set(err, result,
                                   "cannot move the service's processes into its "
                                   "cgroup " AGENT_LEAF ": %s",
                                   err_text(result));
}

/*
 * Where groups of VMs lie: below the service that they were started from, if systemd
 * delegated its group; else at drover/ below the root. `own` becomes where the caller is.
 */
static int parent_open(int root_fd, char *own, size_t own_size, struct cgroup *cgroup,
                       const struct cgroup_limits *limits, struct error *err)
{
    CLEANUP(cleanup_fd) int service_fd = -1;
    size_t service_size = delegated_find(root_fd, own, &service_fd);
    int result = 0;
    if (service_size > 0) {
        if (own[service_size] == '\0') {
            result = processes_lower(service_fd, err);
            (void)snprintf(own + service_size, own_size - service_size, "/" AGENT_LEAF);
        }
        result = result < 0 ? result : controllers_pass(service_fd, limits, err);
        cgroup->parent_fd = take_fd(&service_fd);
        (void)snprintf(cgroup->path, sizeof(cgroup->path), "%.*s", (int)service_size,
                       own);
        return result;
    }
    result = controllers_pass(root_fd, limits, err);
    if (result < 0) {
        return result;
    }
    result = folder_open(root_fd, FALLBACK_PARENT, &cgroup->parent_fd);
    if (result < 0) {
        return error_set(err, result,
                         "cannot make the cgroup " FALLBACK_PARENT
                         ": %s; run as root, or leave --cpu-weight and --cpu-quota out",
                         err_text(result));
    }
    (void)snprintf(cgroup->path, sizeof(cgroup->path), "/" FALLBACK_PARENT);
    return controllers_pass(cgroup->parent_fd, limits, err);
}

static void cgroup_free_scope(struct cgroup **cgroup)
{
    cgroup_free(*cgroup);
}

int cgroup_create_at(const char *root, const char *own, const char *name,
                     const struct cgroup_limits *limits, struct cgroup **ret_cgroup,
                     struct error *err)
{
    CHECK(name[0] != '\0' && strchr(name, '/') == NULL);
    CLEANUP(cleanup_fd) int root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "this host has no cgroup v2 at %s: leave --cpu-weight and "
                         "--cpu-quota out",
                         root);
    }
    CLEANUP(cgroup_free_scope) struct cgroup *cgroup = calloc(1, sizeof(*cgroup));
    if (cgroup == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    cgroup->folder_fd = -1;
    cgroup->parent_fd = -1;
    cgroup->own_fd = -1;
    char origin[LIMIT_PATH_SIZE];
    (void)snprintf(origin, sizeof(origin), "%s", own != NULL ? own : "/");
    int result = parent_open(root_fd, origin, sizeof(origin), cgroup, limits, err);
    if (result < 0) {
        return result;
    }
    /* Not there: the caller can't go back, and stays where it is. */
    cgroup->own_fd = openat(root_fd, origin[1] == '\0' ? "." : origin + 1,
                            O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    result = group_make(cgroup, name);
    if (result < 0) {
        return error_set(err, result, "cannot make the cgroup %s: %s", name,
                         err_text(result));
    }
    size_t used = strlen(cgroup->path);
    (void)snprintf(cgroup->path + used, sizeof(cgroup->path) - used, "/%s", cgroup->name);
    result = limits_write(cgroup, limits, err);
    if (result < 0) {
        (void)cgroup_remove(cgroup); /* nobody is in it */
        return result;
    }
    *ret_cgroup = TAKE(cgroup);
    return 0;
}

/* The caller's own group: the line "0::/PATH". */
static int own_find(char *own, size_t size)
{
    char text[FILE_SIZE];
    int result = file_read(AT_FDCWD, "/proc/self/cgroup", text, sizeof(text));
    if (result < 0) {
        return result;
    }
    for (char *line = text; line != NULL && *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end != NULL) {
            *end = '\0';
        }
        if (strncmp(line, "0::/", 4) == 0) {
            (void)snprintf(own, size, "%s", line + 3);
            return 0;
        }
        line = end == NULL ? NULL : end + 1;
    }
    return DROVER_ENOTFOUND;
}

int cgroup_create(const char *name, const struct cgroup_limits *limits,
                  struct cgroup **ret_cgroup, struct error *err)
{
    struct statfs mounted = {0};
    if (statfs(ROOT, &mounted) < 0 || mounted.f_type != CGROUP2_SUPER_MAGIC) {
        return error_set(err, DROVER_EBADINPUT,
                         "limits of processors and memory need cgroup v2 at " ROOT
                         ", which this host has not: leave --cpu-weight and --cpu-quota "
                         "out");
    }
    char own[LIMIT_PATH_SIZE];
    bool found = own_find(own, sizeof(own)) == 0;
    /*
     * Root makes VMs' groups outside of the service's own: with groups below it, that
     * could hold no process any more, and systemd could never start the service again
     * while a VM runs.
     */
    bool outside = geteuid() == 0;
    int result = cgroup_create_at(ROOT, found && !outside ? own : NULL, name, limits,
                                  ret_cgroup, err);
    if (result == 0 && found && outside) {
        char path[sizeof(ROOT) + LIMIT_PATH_SIZE];
        (void)snprintf(path, sizeof(path), ROOT "%s", own);
        cleanup_fd(&(*ret_cgroup)->own_fd);
        (*ret_cgroup)->own_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    return result;
}

const char *cgroup_path(const struct cgroup *cgroup)
{
    return cgroup->path;
}

static int process_move(int folder_fd, pid_t pid)
{
    char text[24];
    (void)snprintf(text, sizeof(text), "%d", (int)pid); /* 0: the writer */
    return file_write(folder_fd, "cgroup.procs", text);
}

int cgroup_enter(struct cgroup *cgroup, pid_t pid, struct error *err)
{
    int result = process_move(cgroup->folder_fd, pid);
    return result == 0 ? 0
                       : error_set(err, result, "cannot enter the cgroup %s: %s",
                                   cgroup->path, err_text(result));
}

int cgroup_leave(struct cgroup *cgroup, pid_t pid)
{
    return cgroup->own_fd < 0 ? DROVER_ENOTFOUND : process_move(cgroup->own_fd, pid);
}

int cgroup_remove(struct cgroup *cgroup)
{
    return unlinkat(cgroup->parent_fd, cgroup->name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

void cgroup_free(struct cgroup *cgroup)
{
    if (cgroup == NULL) {
        return;
    }
    cleanup_fd(&cgroup->folder_fd);
    cleanup_fd(&cgroup->parent_fd);
    cleanup_fd(&cgroup->own_fd);
    free(cgroup);
}
