/* SPDX-License-Identifier: Apache-2.0 */
/* Namespaces that are made by one process and entered by another. */
#include "vmm/jail/jail_world.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/jail/jail.h"

/* Any folder that each host has: the new root lies over it for a moment. */
#define ROOT_FOLDER "/proc"

/* An empty, read-only file system in place of all that was mounted. */
static int root_change(void)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME;
    if (JAIL_SANITIZED) {
        return 0;
    }
    bool changed = mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                   mount("drover-vmm", ROOT_FOLDER, "tmpfs", flags,
                         "size=4k,nr_inodes=1,mode=0555") == 0 &&
                   chdir(ROOT_FOLDER) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 &&
                   umount2(".", MNT_DETACH) == 0 && chdir("/") == 0 &&
                   mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | flags, "size=4k") == 0;
    return changed ? 0 : -errno;
}

/* Where the process came from, to go back to. */
struct origin {
    int names; /* the folder of its namespaces' names: /proc is out of sight meanwhile */
    int network;
    int mount;
    int root; /* not always that of the mount namespace */
    int folder;
};

static void origin_done(struct origin *origin)
{
    cleanup_fd(&origin->names);
    cleanup_fd(&origin->network);
    cleanup_fd(&origin->mount);
    cleanup_fd(&origin->root);
    cleanup_fd(&origin->folder);
}

static int origin_open(struct origin *origin)
{
    const int path = O_PATH | O_DIRECTORY | O_CLOEXEC;
    const int name = O_RDONLY | O_CLOEXEC;
    bool opened = (origin->names = open("/proc/self/ns", path)) >= 0 &&
                  (origin->network = openat(origin->names, "net", name)) >= 0 &&
                  (origin->mount = openat(origin->names, "mnt", name)) >= 0 &&
                  (origin->root = open("/", path)) >= 0 &&
                  (origin->folder = open(".", path)) >= 0;
    return opened ? 0 : -errno;
}

static int origin_return(const struct origin *origin)
{
    bool back = setns(origin->network, CLONE_NEWNET) == 0 &&
                setns(origin->mount, CLONE_NEWNS) == 0 && fchdir(origin->root) == 0 &&
                chroot(".") == 0 && fchdir(origin->folder) == 0;
    return back ? 0 : -ENOTRECOVERABLE;
}

static int world_open(const struct origin *origin, struct jail_world *world)
{
    world->network_fd = openat(origin->names, "net", O_RDONLY | O_CLOEXEC);
    world->mount_fd = openat(origin->names, "mnt", O_RDONLY | O_CLOEXEC);
    return world->network_fd < 0 || world->mount_fd < 0 ? -errno : 0;
}

int jail_world_make(struct jail_world *ret_world, struct error *err)
{
    CLEANUP(origin_done)
    struct origin origin = {
        .names = -1, .network = -1, .mount = -1, .root = -1, .folder = -1};
    struct jail_world world = {.network_fd = -1, .mount_fd = -1};
    const char *what = "namespaces";
    int result = origin_open(&origin);
    if (result == 0 && unshare(CLONE_NEWNS | CLONE_NEWNET) < 0) {
        result = -errno;
    } else if (result == 0) {
        result = root_change();
        what = result < 0 ? "empty root" : what;
        result = result < 0 ? result : world_open(&origin, &world);
        int back = origin_return(&origin);
        result = back < 0 ? back : result;
    }
    if (result < 0) {
        jail_world_done(&world);
        return error_set(err, result,
                         "%s: %s; give --no-jail where namespaces can't be had", what,
                         err_text(result));
    }
    *ret_world = world;
    return 0;
}

int jail_world_enter(const struct jail_world *world)
{
    bool entered = setns(world->network_fd, CLONE_NEWNET) == 0 &&
                   setns(world->mount_fd, CLONE_NEWNS) == 0;
    return entered ? 0 : -errno;
}

int jail_world_enter_network(const struct jail_world *world)
{
    bool entered =
        setns(world->network_fd, CLONE_NEWNET) == 0 && unshare(CLONE_NEWNS) == 0;
    return entered ? 0 : -errno;
}

int jail_world_empty(void)
{
    return root_change();
}

void jail_world_done(struct jail_world *world)
{
    cleanup_fd(&world->network_fd);
    cleanup_fd(&world->mount_fd);
    *world = (struct jail_world){.network_fd = -1, .mount_fd = -1};
}
