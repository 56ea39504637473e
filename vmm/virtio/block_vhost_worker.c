/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Has a disk's storage daemon started, opened, closed and killed. Before the guest runs
 * that is done by main; later by a thread of the disk's own, which is made when it is
 * first needed and stays: without a jail, a daemon dies with the thread that started it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "vmm/host/event_loop.h"
#include "vmm/virtio/block_vhost.h"
#include "vmm/vm.h"

static void job_lock(struct block_vhost *vhost)
{
    CHECK(pthread_mutex_lock(&vhost->job_lock) == 0);
}

static void job_unlock(struct block_vhost *vhost)
{
    CHECK(pthread_mutex_unlock(&vhost->job_lock) == 0);
}

void block_vhost_loop_wake(struct block_vhost *vhost)
{
    uint64_t one = 1;

    (void)!write(vhost->worker_fd, &one, sizeof(one)); /* full: is set anyway */
}

/* ---- jobs, on the worker --------------------------------------------------- */

static int size_judge(struct block_vhost *vhost, const struct vhost_user_disk *like,
                      struct error *err)
{
    struct block_disk *disk = &vhost->block->disk;
    uint64_t size_bytes = like->capacity_sectors * BLOCK_SECTOR_SIZE;

    if (disk->size_bytes != 0 && disk->size_bytes != size_bytes) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s has %" PRIu64 " sectors here, %" PRIu64
                         " where the guest comes from: is it the same disk?",
                         disk->path, like->capacity_sectors,
                         disk->size_bytes / BLOCK_SECTOR_SIZE);
    }
    if (like->read_only != disk->read_only) {
        return error_set(err, DROVER_EBADINPUT, "disk %s can't be opened for writing",
                         disk->path);
    }
    if (like->block_size > BLOCK_SECTOR_SIZE) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s has blocks of %" PRIu32 " bytes: at most %u",
                         disk->path, like->block_size, BLOCK_SECTOR_SIZE);
    }
    return 0;
}

static void counter_clear(int fd)
{
    uint64_t count;

    (void)!read(fd, &count, sizeof(count)); /* mostly empty */
}

static int connect_daemon(struct block_vhost *vhost, int fd, struct error *err)
{
    const struct vhost_user_setup setup = {
        .memory = vhost->memory,
        .memory_count = sizeof(vhost->memory) / sizeof(vhost->memory[0]) -
                        (vhost->memory[GUEST_RAM_REGIONS_MAX].size_bytes == 0 ? 1 : 0),
        .ring_size = VHOST_RING_SIZE,
        .desc = VHOST_RING_ADDRESS + VHOST_RING_DESC,
        .avail = VHOST_RING_ADDRESS + VHOST_RING_AVAIL,
        .used = VHOST_RING_ADDRESS + VHOST_RING_USED,
        .kick_fd = vhost->kick_fd,
        .call_fd = vhost->call_fd,
    };
    pthread_mutex_t *lock = &vhost->block->virtio.lock;
    struct vhost_user_disk like;
    int ret;

    pthread_mutex_lock(lock);
    CHECK(vhost->ring.in_flight_count == 0); /* its daemon before was seen dead */
    vhost_ring_reset(&vhost->ring);
    counter_clear(vhost->kick_fd);
    counter_clear(vhost->call_fd);
    pthread_mutex_unlock(lock);
    ret = vhost_user_start(fd, &setup, &like, err);
    ret = ret < 0 ? ret : size_judge(vhost, &like, err);
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(lock);
    vhost->like = like;
    vhost->block->disk.size_bytes = like.capacity_sectors * BLOCK_SECTOR_SIZE;
    vhost->next_fd = fd;
    pthread_mutex_unlock(lock);
    return 0;
}

/*
 * Nothing is written after the lease. The very first time there is none yet: the VM is
 * being started, which is ordered only under a lease, or is arriving; an image that was
 * closed in order is not written by being opened.
 */
static uint64_t deadline_ms(const struct block_vhost *vhost)
{
    struct vm *vm = vhost->block->virtio.vm;
    uint64_t until_ms = clock_now_ms() + STORAGE_OPEN_MS;
    uint64_t lease_ms = vm_lease_deadline_ns(vm) / NS_PER_MS;

    bool bound = vm_config(vm)->ha && vhost->like.capacity_sectors != 0;

    return bound && lease_ms < until_ms ? lease_ms : until_ms;
}

static int image_open(struct block_vhost *vhost, struct error *err)
{
    int fd = -1;
    int ret = vhost->ops->open(vhost->owner, vhost->index, deadline_ms(vhost), &fd, err);

    if (ret < 0) {
        return ret;
    }
    ret = connect_daemon(vhost, fd, err);
    if (ret < 0) {
        (void)close(fd);
        vhost->ops->kill(vhost->owner, vhost->index);
    }
    return ret;
}

static void next_fd_drop(struct block_vhost *vhost)
{
    pthread_mutex_lock(&vhost->block->virtio.lock);
    if (vhost->next_fd >= 0) {
        (void)close(vhost->next_fd);
        vhost->next_fd = -1;
    }
    pthread_mutex_unlock(&vhost->block->virtio.lock);
}

static int job_do(struct block_vhost *vhost, enum block_vhost_job job, struct error *err)
{
    switch (job) {
    case BLOCK_VHOST_JOB_START:
        return vhost->ops->start(vhost->owner, vhost->index, err);
    case BLOCK_VHOST_JOB_OPEN:
        return image_open(vhost, err);
    case BLOCK_VHOST_JOB_CLOSE:
        next_fd_drop(vhost);
        return vhost->ops->close(vhost->owner, vhost->index, deadline_ms(vhost), err);
    case BLOCK_VHOST_JOB_KILL:
        next_fd_drop(vhost);
        vhost->ops->kill(vhost->owner, vhost->index);
        return 0;
    default:
        return 0;
    }
}

static void loop_job_do(struct block_vhost *vhost, enum block_vhost_job job)
{
    pthread_mutex_t *lock = &vhost->block->virtio.lock;
    struct error err = {0};
    bool wanted;
    int ret;

    pthread_mutex_lock(lock);
    wanted = vhost->wanted;
    pthread_mutex_unlock(lock);
    /* Meanwhile it may have been given up to another host. */
    ret = job == BLOCK_VHOST_JOB_OPEN && !wanted ? 0 : job_do(vhost, job, &err);
    pthread_mutex_lock(lock);
    vhost->busy = false;
    vhost->dead = vhost->dead || job == BLOCK_VHOST_JOB_KILL;
    if (ret < 0) {
        vhost->open_failed = true;
        (void)snprintf(vhost->why, sizeof(vhost->why), "%s", err.text);
    }
    pthread_mutex_unlock(lock);
    block_vhost_loop_wake(vhost);
}

static void *worker_run(void *argument)
{
    struct block_vhost *vhost = argument;
    enum block_vhost_job job = BLOCK_VHOST_JOB_NONE;

    (void)pthread_setname_np(pthread_self(), "storage"); /* for people only */
    vm_thread_confine(vhost->block->virtio.vm, SECCOMP_ROLE_MOVE);
    job_lock(vhost);
    while (job != BLOCK_VHOST_JOB_END) {
        struct error err = {0};
        int ret;

        while (vhost->loop_job == BLOCK_VHOST_JOB_NONE &&
               vhost->called_job == BLOCK_VHOST_JOB_NONE) {
            CHECK(pthread_cond_wait(&vhost->job_changed, &vhost->job_lock) == 0);
        }
        if (vhost->loop_job != BLOCK_VHOST_JOB_NONE) {
            job = vhost->loop_job;
            vhost->loop_job = BLOCK_VHOST_JOB_NONE;
            job_unlock(vhost);
            loop_job_do(vhost, job);
            job_lock(vhost);
            continue;
        }
        job = vhost->called_job;
        job_unlock(vhost);
        ret = job_do(vhost, job, &err);
        job_lock(vhost);
        vhost->called_ret = ret;
        vhost->called_err = err;
        vhost->called_job = BLOCK_VHOST_JOB_NONE;
        CHECK(pthread_cond_broadcast(&vhost->job_changed) == 0);
    }
    job_unlock(vhost);
    return NULL;
}

/* ---- giving jobs ----------------------------------------------------------- */

/* Under job_lock; main or migration thread, which alone may make threads. */
static int worker_ensure(struct block_vhost *vhost)
{
    int ret = vhost->worker_started
                  ? 0
                  : -pthread_create(&vhost->worker, NULL, worker_run, vhost);

    vhost->worker_started = ret == 0;
    return ret;
}

int block_vhost_job_now(struct block_vhost *vhost, enum block_vhost_job job,
                        struct error *err)
{
    CHECK(!vhost->worker_started);
    return job_do(vhost, job, err);
}

int block_vhost_job_call(struct block_vhost *vhost, enum block_vhost_job job,
                         struct error *err)
{
    int ret;

    job_lock(vhost);
    CHECK(vhost->called_job == BLOCK_VHOST_JOB_NONE); /* one thread at a time */
    ret = worker_ensure(vhost);
    if (ret < 0) {
        job_unlock(vhost);
        return error_set(err, ret, "disk %s: can't start a thread: %s",
                         vhost->block->disk.path, err_text(ret));
    }
    vhost->called_job = job;
    CHECK(pthread_cond_broadcast(&vhost->job_changed) == 0);
    while (vhost->called_job != BLOCK_VHOST_JOB_NONE) {
        CHECK(pthread_cond_wait(&vhost->job_changed, &vhost->job_lock) == 0);
    }
    ret = vhost->called_ret;
    if (ret < 0) {
        (void)error_set(err, ret, "%s", vhost->called_err.text);
    }
    job_unlock(vhost);
    return ret;
}

/* Main loop: the I/O loop may not make threads. */
static void worker_wanted(void *owner)
{
    struct block_vhost *vhost = owner;
    int ret;

    job_lock(vhost);
    ret = worker_ensure(vhost);
    job_unlock(vhost);
    if (ret < 0) {
        log_error(vm_log(vhost->block->virtio.vm),
                  "disk %s: I/O stands: can't start a thread: %s",
                  vhost->block->disk.path, err_text(ret));
    }
}

void block_vhost_job_post(struct block_vhost *vhost, enum block_vhost_job job)
{
    struct vm *vm = vhost->block->virtio.vm;
    bool started;

    CHECK(!vhost->busy);
    vhost->busy = true;
    job_lock(vhost);
    vhost->loop_job = job;
    started = vhost->worker_started;
    CHECK(pthread_cond_broadcast(&vhost->job_changed) == 0);
    job_unlock(vhost);
    if (!started && event_loop_post(vm_main_loop(vm), worker_wanted, vhost) < 0) {
        log_error(vm_log(vm), "disk %s: I/O stands: no memory", vhost->block->disk.path);
    }
}

void block_vhost_worker_end(struct block_vhost *vhost)
{
    if (vhost->worker_started) {
        (void)block_vhost_job_call(vhost, BLOCK_VHOST_JOB_END, NULL);
        CHECK(pthread_join(vhost->worker, NULL) == 0);
        vhost->worker_started = false;
    }
}
