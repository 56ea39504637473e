/* SPDX-License-Identifier: Apache-2.0 */
/* Disk files and block devices of the host. */
#include "vmm/storage/block_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "vmm/jail/broker.h"

#define LOCK_DIRECTORY      "/run/lock"
#define LOCK_DIRECTORY_ELSE "/run"
#define LOCK_RETRY_MS       20
#define LOCK_OPEN_TRIES     16

/* Not in all of the distribution's headers. */
#define MAGIC_CIFS  0xff534d42
#define MAGIC_GFS2  0x01161970
#define MAGIC_OCFS2 0x7461636f
#define MAGIC_FUSE  0x65735546

/* ---- opening -------------------------------------------------------------- */

static int open_failed(const struct block_disk *disk, int ret, struct error *err)
{
    switch (-ret) {
    case ENOENT:
        return error_set(err, ret,
                         "disk %s does not exist: create it, or correct the path",
                         disk->path);
    case EACCES:
    case EPERM:
        return error_set(
            err, ret, "no permission to open disk %s for %s: change its owner or mode%s",
            disk->path, disk->read_only ? "reading" : "writing",
            disk->read_only ? "" : ", or add ,ro");
    case EROFS:
        return error_set(err, ret, "disk %s is on a read-only file system: add ,ro",
                         disk->path);
    case EINVAL:
        return error_set(err, ret,
                         "disk %s: its file system has no direct I/O: leave out ,direct",
                         disk->path);
    case EBUSY:
        return error_set(err, ret,
                         "disk %s is mounted or in use by the host: release it first",
                         disk->path);
    default:
        return error_set(err, ret, "can't open disk %s: %s", disk->path, err_text(ret));
    }
}

static int kind_judge(const struct block_disk *disk, const struct stat *st,
                      struct error *err)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)) {
        return 0;
    }
    if (S_ISDIR(st->st_mode)) {
        return error_set(err, -EISDIR,
                         "disk %s is a directory: name a file or block device",
                         disk->path);
    }
    return error_set(err, DROVER_EBADINPUT,
                     "disk %s is neither a file nor a block device: name one of these",
                     disk->path);
}

static int block_device_measure(struct block_disk *disk, struct error *err)
{
    int block_size = 0;

    if (ioctl(disk->fd, BLKGETSIZE64, &disk->size_bytes) < 0 ||
        ioctl(disk->fd, BLKSSZGET, &block_size) < 0 ||
        block_size < (int)BLOCK_SECTOR_SIZE) {
        return error_set(err, -EIO, "can't tell the size of disk %s: check the device",
                         disk->path);
    }
    disk->offset_align = disk->memory_align = (uint32_t)block_size;
    return 0;
}

static void file_measure(struct block_disk *disk, const struct stat *st)
{
    disk->size_bytes = (uint64_t)st->st_size;
    disk->offset_align = disk->memory_align = BLOCK_SECTOR_SIZE;
#ifdef STATX_DIOALIGN
    struct statx stx;

    if (disk->direct && statx(disk->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align != 0) {
        if (stx.stx_dio_offset_align > BLOCK_SECTOR_SIZE) {
            disk->offset_align = stx.stx_dio_offset_align;
        }
        disk->memory_align = stx.stx_dio_mem_align;
    }
#endif
}

static int size_judge(const struct block_disk *disk, struct error *err)
{
    if (disk->size_bytes == 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s is empty: give it a size (truncate -s)", disk->path);
    }
    if (disk->offset_align > BLOCK_DISK_ALIGN_MAX) {
        return error_set(err, DROVER_ELIMIT,
                         "disk %s has blocks of %" PRIu32 " bytes: at most %u",
                         disk->path, disk->offset_align, BLOCK_DISK_ALIGN_MAX);
    }
    if (disk->size_bytes % disk->offset_align != 0) {
        return error_set(
            err, DROVER_EBADINPUT,
            "disk %s has %" PRIu64 " bytes, no multiple of %" PRIu32
            ": is it a raw image? If so, extend it (truncate -s %%%" PRIu32 ")",
            disk->path, disk->size_bytes, disk->offset_align, disk->offset_align);
    }
    return 0;
}

static int measure(struct block_disk *disk, struct error *err)
{
    struct stat st;
    int ret;

    if (fstat(disk->fd, &st) < 0) {
        return error_set(err, -errno, "can't look at disk %s: %s", disk->path,
                         err_text(-errno));
    }
    ret = kind_judge(disk, &st, err);
    if (ret < 0) {
        return ret;
    }
    if (S_ISBLK(st.st_mode)) {
        ret = block_device_measure(disk, err);
        if (ret < 0) {
            return ret;
        }
    } else {
        file_measure(disk, &st);
    }
    return size_judge(disk, err);
}

enum storage_format block_disk_probe(const char *path)
{
    uint8_t data[STORAGE_PROBE_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t size = fd < 0 ? -1 : pread(fd, data, sizeof(data), 0);

    if (fd >= 0) {
        (void)close(fd);
    }
    return size < 0 ? STORAGE_FORMAT_RAW : storage_format_probe(data, (unsigned)size);
}

bool block_disk_is_networked(const char *path)
{
    struct statfs fs;

    if (statfs(path, &fs) < 0) {
        return false;
    }
    switch ((uint32_t)fs.f_type) {
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case SMB2_SUPER_MAGIC:
    case CEPH_SUPER_MAGIC:
    case MAGIC_CIFS:
    case MAGIC_GFS2:
    case MAGIC_OCFS2:
    case MAGIC_FUSE:
        return true;
    default:
        return false;
    }
}

/*
 * A file of a network file system must not be locked as such: the lock of a host that has
 * died would keep the VM from starting elsewhere until the server forgets it. Such disks
 * have a lock file on this host instead.
 */
static int lock_prepare(struct block_disk *disk, const struct stat *st, struct error *err)
{
    const char *folder =
        access(LOCK_DIRECTORY, W_OK) == 0 ? LOCK_DIRECTORY : LOCK_DIRECTORY_ELSE;

    disk->lock_fd = disk->fd;
    if (!disk->networked) {
        return 0;
    }
    disk->lock_fd = -1;
    if (asprintf(&disk->lock_path, "%s/drover-disk-%u-%u-%ju", folder, major(st->st_dev),
                 minor(st->st_dev), (uintmax_t)st->st_ino) < 0) {
        disk->lock_path = NULL;
        return error_set(err, -ENOMEM, "no memory for disk %s", disk->path);
    }
    return 0;
}

/* The page caches of several hosts over one disk would disagree: it goes without. */
static int fd_open(struct block_disk *disk, bool direct, bool shared, struct error *err)
{
    int flags = (disk->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;

    disk->direct = direct || shared;
    disk->fd = open(disk->path, flags | (disk->direct ? O_DIRECT : 0));
    if (disk->fd < 0 && errno == EINVAL && !direct && disk->networked) {
        /* FUSE without direct I/O: see block_disk_unlock(). What this host's page cache
         * held back would reach the disk after the VM was frozen and runs elsewhere. */
        disk->direct = false;
        disk->fd = open(disk->path, flags | O_DSYNC);
    }
    if (disk->fd < 0) {
        return open_failed(disk, -errno, err);
    }
    /* io_uring would hand -EAGAIN to us instead of waiting by itself. */
    (void)fcntl(disk->fd, F_SETFL, disk->direct ? O_DIRECT : 0);
    return 0;
}

int block_disk_open(struct block_disk *disk, const char *path, bool read_only,
                    bool direct, struct error *err)
{
    struct stat st;
    int ret;

    *disk = (struct block_disk){
        .path = path, .fd = -1, .lock_fd = -1, .read_only = read_only};
    /* Before the open, which would wait for ever on a pipe. */
    if (stat(path, &st) < 0) {
        return open_failed(disk, -errno, err);
    }
    ret = kind_judge(disk, &st, err);
    if (ret < 0) {
        return ret;
    }
    disk->networked = S_ISREG(st.st_mode) && block_disk_is_networked(path);
    ret = fd_open(disk, direct, S_ISBLK(st.st_mode) || disk->networked, err);
    if (ret == 0) {
        ret = measure(disk, err);
    }
    if (ret == 0) {
        ret = lock_prepare(disk, &st, err);
    }
    if (ret < 0) {
        block_disk_close(disk);
    }
    return ret;
}

int block_disk_guard(struct block_disk *disk, const char *path, bool read_only,
                     struct error *err)
{
    struct stat st;

    *disk = (struct block_disk){.path = path,
                                .fd = -1,
                                .lock_fd = -1,
                                .read_only = read_only,
                                .direct = true,
                                .networked = true};
    return stat(path, &st) < 0 ? open_failed(disk, -errno, err)
                               : lock_prepare(disk, &st, err);
}

static void lock_file_remove(struct block_disk *disk);

bool block_disk_discards(const struct block_disk *disk)
{
    /* A partition's queue is its disk's. */
    static const char *const places[] = {"", "/.."};
    char path[80];
    unsigned long long most = 0;
    struct stat st;

    if (disk->read_only || fstat(disk->fd, &st) < 0) {
        return false;
    }
    if (S_ISREG(st.st_mode)) {
        /* Behind the end there is nothing to be lost. */
        bool discards =
            fallocate(disk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, st.st_size,
                      BLOCK_DISK_ALIGN_MAX) == 0;
        /* The file was not written: snapshots and backups go by its time of change. */
        const struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, st.st_mtim};

        (void)futimens(disk->fd, times); /* if it fails they are only too careful */
        return discards;
    }
    for (unsigned i = 0; most == 0 && i < sizeof(places) / sizeof(places[0]); i++) {
        FILE *file;

        (void)snprintf(path, sizeof(path),
                       "/sys/dev/block/%u:%u%s/queue/discard_max_bytes",
                       major(st.st_rdev), minor(st.st_rdev), places[i]); /* fits */
        file = fopen(path, "re");
        if (file != NULL) {
            (void)!fscanf(file, "%llu", &most);
            (void)fclose(file); /* only read */
        }
    }
    return most > 0;
}

int block_disk_broker_set(struct block_disk *disk, struct broker *broker,
                          struct error *err)
{
    int ret =
        disk->lock_path == NULL || broker == NULL
            ? 0
            : broker_allow(broker, BROKER_LOCK_FILE, disk->lock_path, &disk->broker_id);

    if (ret < 0) {
        return error_set(err, ret,
                         "the lock file %s can't be used from the VM's jail: %s",
                         disk->lock_path, err_text(ret));
    }
    disk->broker = broker;
    return 0;
}

void block_disk_close(struct block_disk *disk)
{
    if (disk->lock_path != NULL && disk->lock_fd >= 0) {
        if (disk->locked && !disk->read_only) {
            lock_file_remove(disk);
        }
        (void)close(disk->lock_fd);
    }
    if (disk->fd >= 0) {
        (void)close(disk->fd);
    }
    free(disk->lock_path);
    disk->lock_path = NULL;
    disk->fd = disk->lock_fd = -1;
    disk->locked = false;
}

/* ---- the lock ------------------------------------------------------------- */

static int range_lock(int fd, short type)
{
    struct flock range = {.l_type = type, .l_whence = SEEK_SET};

    return fcntl(fd, F_OFD_SETLK, &range) < 0 ? -errno : 0;
}

/* Opens the lock file and locks it; again if somebody has removed it meanwhile. */
static int lock_file_try(struct block_disk *disk, short type)
{
    for (unsigned tries = 0; tries < LOCK_OPEN_TRIES; tries++) {
        struct stat by_fd, by_path;
        int fd = open(disk->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        int ret = fd < 0 ? -errno : range_lock(fd, type);

        if (ret == 0 && fstat(fd, &by_fd) == 0 && stat(disk->lock_path, &by_path) == 0 &&
            by_fd.st_ino == by_path.st_ino) {
            disk->lock_fd = fd;
            return 0;
        }
        if (fd >= 0) {
            (void)close(fd);
        }
        if (ret < 0) {
            return fd < 0 && ret == -EACCES ? -EPERM : ret;
        }
    }
    return -EAGAIN;
}

static void lock_file_remove(struct block_disk *disk)
{
    int fd = -1;

    if (disk->broker == NULL) {
        (void)unlink(disk->lock_path); /* ours alone; if it stays, it is empty and does no
                                          harm */
    } else {
        (void)broker_open(disk->broker, disk->broker_id, BROKER_LOCK_REMOVE, &fd, NULL);
    }
}

static int lock_try(struct block_disk *disk)
{
    short type = disk->read_only ? F_RDLCK : F_WRLCK;

    if (disk->lock_path != NULL && disk->broker != NULL) {
        return broker_open(disk->broker, disk->broker_id,
                           disk->read_only ? BROKER_LOCK_READ : BROKER_LOCK_WRITE,
                           &disk->lock_fd, NULL);
    }

    return disk->lock_path != NULL ? lock_file_try(disk, type)
                                   : range_lock(disk->fd, type);
}

int block_disk_lock(struct block_disk *disk, struct error *err)
{
    uint64_t deadline_ms = clock_now_ms() + BLOCK_DISK_LOCK_MS;
    int ret;

    if (disk->locked) {
        return 0;
    }
    for (ret = lock_try(disk); ret == -EAGAIN || ret == -EACCES; ret = lock_try(disk)) {
        struct timespec pause = {.tv_nsec = LOCK_RETRY_MS * (long)NS_PER_MS};

        if (clock_now_ms() >= deadline_ms) {
            return error_set(
                err, DROVER_EINUSE,
                "disk %s is in use by another VM of this host: stop that one%s",
                disk->path, disk->read_only ? "" : ", or use ,ro in both");
        }
        (void)nanosleep(&pause, NULL);
    }
    if (ret < 0) {
        return error_set(err, ret, "can't lock disk %s: %s", disk->path, err_text(ret));
    }
    disk->locked = true;
    if (disk->networked && !disk->direct) {
        /* Another host may have written it since it was opened. */
        (void)posix_fadvise(disk->fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    return 0;
}

int block_disk_unlock(struct block_disk *disk, struct error *err)
{
    if (!disk->locked) {
        return 0;
    }
    /*
     * A local file has one page cache, this host's, and direct I/O has none. What is left
     * is a network file system without direct I/O: the other host must see all writes.
     */
    if (disk->networked && !disk->direct && !disk->read_only && fdatasync(disk->fd) < 0) {
        return error_set(err, -errno, "can't make the writes to disk %s stable: %s",
                         disk->path, err_text(-errno));
    }
    if (disk->lock_path != NULL) {
        if (!disk->read_only) {
            lock_file_remove(disk);
        }
        (void)close(disk->lock_fd);
        disk->lock_fd = -1;
    } else {
        (void)range_lock(disk->fd, F_UNLCK); /* can't fail for a lock that is held */
    }
    disk->locked = false;
    return 0;
}
