/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts of a storage daemon. */
#include "vmm/storage/storage_root.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "vmm/storage/storage_chain.h"

/* Any folder that each host has: the new root lies over it until it is one. */
#define ROOT_FOLDER "/proc"
#define ROOT_FLAGS  (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME)

/* The loader and the libraries, where distributions have them. */
static const char *const libraries[] = {"/usr/lib", "/usr/lib64", "/lib", "/lib64"};
#define LOADER_CACHE "/etc/ld.so.cache"
/* By which the program finds out what locks there are. */
#define NULL_DEVICE "/dev/null"

/*
 * What is there is the libraries', and has links of the host's in it. As long as the new
 * root is none they lead out of it, and whatever was made behind one would be made on the
 * host. -EXDEV for these.
 */
static int inside_judge(const char *place)
{
    const struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_BENEATH};
    CLEANUP(cleanup_fd) int root = open(ROOT_FOLDER, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) {
        return -errno;
    }
    CLEANUP(cleanup_fd)
    int fd =
        (int)syscall(SYS_openat2, root, place + sizeof(ROOT_FOLDER), &how, sizeof(how));
    return fd < 0 ? -errno : 0;
}

/* A folder of the new root, on the way to a file. */
static int folder_pass(const char *place)
{
    if (mkdir(place, 0755) == 0) {
        return 0;
    }
    /* A library's folder is read-only: it is there, or what is in it is missed. */
    return errno == EEXIST || errno == EROFS ? inside_judge(place) : -errno;
}

/*
 * The place that `path` has in the new root, with all folders on the way: also those that
 * ".." leads out of again. No name is a way out of the new root: inside_judge().
 */
static int place_find(const char *path, char *ret_place, size_t room)
{
    const size_t top = strlen(ROOT_FOLDER);
    size_t size = top;
    int ret = 0;
    (void)strcpy(ret_place, ROOT_FOLDER);
    while (ret == 0 && *path != '\0') {
        size_t part = strcspn(path, "/");
        if (part == 2 && path[0] == '.' && path[1] == '.') {
            while (size > top && ret_place[--size] != '/') {
            }
            ret_place[size] = '\0';
        } else if (part > 0 && !(part == 1 && path[0] == '.')) {
            if (size + part + 2 > room) {
                return -ENAMETOOLONG;
            }
            ret_place[size++] = '/';
            memcpy(ret_place + size, path, part);
            size += part;
            ret_place[size] = '\0';
            ret = path[part] == '/' ? folder_pass(ret_place) : 0;
        }
        path += part;
        path += *path == '/';
    }
    return ret;
}

/* Something to mount over. */
static int place_make(const char *path, bool is_folder, char *ret_place, size_t room)
{
    struct stat status;
    int ret = place_find(path, ret_place, room);
    if (ret < 0) {
        return ret;
    }
    if (lstat(ret_place, &status) == 0) {
        return S_ISLNK(status.st_mode) ? inside_judge(ret_place) : 0;
    }
    if (is_folder) {
        return mkdir(ret_place, 0755) < 0 ? -errno : 0;
    }
    int fd = open(ret_place, O_CREAT | O_EXCL | O_RDONLY | O_CLOEXEC, 0444);
    return fd < 0 ? -errno : close(fd);
}

/* Devices keep working by MS_NODEV's absence only. */
static int bind(const char *path, unsigned long flags)
{
    char place[PATH_MAX + sizeof(ROOT_FOLDER)];
    struct stat status;
    if (stat(path, &status) < 0) {
        return -errno;
    }
    int ret = place_make(path, S_ISDIR(status.st_mode), place, sizeof(place));
    if (ret < 0) {
        return ret;
    }
    flags |=
        MS_NOSUID | (S_ISBLK(status.st_mode) || S_ISCHR(status.st_mode) ? 0 : MS_NODEV);
    return mount(path, place, NULL, MS_BIND, NULL) < 0 ||
                   mount(NULL, place, NULL, MS_BIND | MS_REMOUNT | flags, NULL) < 0
               ? -errno
               : 0;
}

/* "/lib" is "usr/lib" on most hosts. */
static int library_bind(const char *path)
{
    char target[PATH_MAX];
    char place[PATH_MAX];
    struct stat status;
    if (lstat(path, &status) < 0) {
        return 0; /* not every host has all */
    }
    if (!S_ISLNK(status.st_mode)) {
        return bind(path, MS_RDONLY);
    }
    ssize_t size = readlink(path, target, sizeof(target) - 1);
    if (size < 0) {
        return -errno;
    }
    target[size] = '\0';
    (void)snprintf(place, sizeof(place), ROOT_FOLDER "%s", path); /* fits */
    /* Relative: the new root is not the root yet. */
    const char *relative = target + strspn(target, "/");
    return symlink(relative, place) < 0 ? -errno : 0;
}

static int program_bind(const char *program)
{
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < sizeof(libraries) / sizeof(libraries[0]); i++) {
        ret = library_bind(libraries[i]);
    }
    if (ret == 0) {
        ret = bind(LOADER_CACHE, MS_RDONLY | MS_NOEXEC);
        ret = ret == -ENOENT ? 0 : ret; /* it only saves a search */
    }
    ret = ret < 0 ? ret : bind(NULL_DEVICE, MS_RDONLY | MS_NOEXEC);
    return ret < 0 ? ret : bind(program, MS_RDONLY);
}

static int folder_make(const char *folder, uid_t uid)
{
    char place[PATH_MAX + sizeof(ROOT_FOLDER)];
    char options[96];
    int ret = place_make(folder, true, place, sizeof(place));
    (void)snprintf(options, sizeof(options),
                   "size=64k,nr_inodes=16,mode=0700,uid=%u,gid=%u", uid, uid); /* fits */
    return ret < 0                                                            ? ret
           : mount("drover-storage", place, "tmpfs", ROOT_FLAGS, options) < 0 ? -errno
                                                                              : 0;
}

static int files_bind(const struct storage_chain *files)
{
    for (unsigned i = 0; i < files->count; i++) {
        const struct storage_chain_file *file = &files->files[i];
        int ret = bind(file->path, MS_NOEXEC | (file->writable ? 0 : MS_RDONLY));
        /* Gone since, or not to be reached there: the daemon says so. */
        if (ret < 0 && ret != -ENOENT && ret != -EXDEV) {
            return ret;
        }
    }
    return 0;
}

static int root_change(void)
{
    bool changed =
        chdir(ROOT_FOLDER) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 &&
        umount2(".", MNT_DETACH) == 0 && chdir("/") == 0 &&
        mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | ROOT_FLAGS, "size=1m") == 0;
    return changed ? 0 : -errno;
}

int storage_root_make(const char *program, const struct storage_chain *files,
                      const char *folder, uid_t uid)
{
    (void)umask(0);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("drover-storage", ROOT_FOLDER, "tmpfs", ROOT_FLAGS,
              "size=1m,nr_inodes=1k,mode=0755") < 0) {
        return -errno;
    }
    int ret = program_bind(program);
    ret = ret < 0 ? ret : folder_make(folder, uid);
    ret = ret < 0 ? ret : files_bind(files);
    ret = ret < 0 ? ret : root_change();
    (void)umask(077);
    return ret;
}

/* ---- writing -------------------------------------------------------------- */

static int write_allow(int rules, const char *path)
{
    CLEANUP(cleanup_fd) int fd = open(path, O_PATH | O_CLOEXEC);
    struct landlock_path_beneath_attr rule = {
        .allowed_access = LANDLOCK_ACCESS_FS_WRITE_FILE, .parent_fd = fd};
    if (fd < 0) {
        return errno == ENOENT ? 0 : -errno; /* nothing is there to be written to */
    }
    return syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0
               ? -errno
               : 0;
}

int storage_root_guard(const struct storage_chain *files, const char *folder)
{
    const struct landlock_ruleset_attr all = {.handled_access_fs =
                                                  LANDLOCK_ACCESS_FS_WRITE_FILE};
    CLEANUP(cleanup_fd)
    int rules = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
    if (rules < 0) {
        return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
    }
    int ret = write_allow(rules, folder);
    ret = ret < 0 ? ret : write_allow(rules, NULL_DEVICE);
    for (unsigned i = 0; ret == 0 && i < files->count; i++) {
        ret = files->files[i].writable ? write_allow(rules, files->files[i].path) : 0;
    }
    if (ret == 0 && syscall(SYS_landlock_restrict_self, rules, 0) < 0) {
        ret = -errno;
    }
    return ret;
}
