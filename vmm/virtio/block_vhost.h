/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk's requests to a storage daemon, over a ring of our own. Shared by
 * block_vhost.c (requests, the I/O loop's part), block_vhost_worker.c (who talks to
 * whoever runs the daemon, and may wait) and block_vhost_life.c (begin, end, moves). The
 * device's lock guards what is not marked otherwise.
 *
 *   wanted, not up --- worker: open, handshake ---> up --- it dies, or breaks the ring
 * ---. ^  ^                                        | | |  '--- in flight becomes pending
 * <--- worker: kill <-----------------------------' claim| | release (a move)
 *        '----------- not wanted <-------------------'
 */
#ifndef DROVER_VMM_VIRTIO_BLOCK_VHOST_H
#define DROVER_VMM_VIRTIO_BLOCK_VHOST_H

#include <pthread.h>

#include "base/err.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/storage/storage.h"
#include "vmm/virtio/block_io.h"
#include "vmm/virtio/vhost_ring.h"
#include "vmm/virtio/vhost_user.h"

#define BLOCK_VHOST_FAILURES_MAX      5 /* within FAILURE_WINDOW_MS: then it is given time */
#define BLOCK_VHOST_FAILURE_WINDOW_MS 60000u
#define BLOCK_VHOST_RETRY_MS          100u
#define BLOCK_VHOST_RETRY_LONG_MS     10000u
/* After a lease's end, the daemon is killed if it still has requests. */
#define BLOCK_VHOST_DRAIN_MS 300u

enum block_vhost_job {
    BLOCK_VHOST_JOB_NONE,
    BLOCK_VHOST_JOB_START, /* the daemon, without the image */
    BLOCK_VHOST_JOB_OPEN,
    BLOCK_VHOST_JOB_CLOSE,
    BLOCK_VHOST_JOB_KILL,
    BLOCK_VHOST_JOB_END,
};

struct block_vhost {
    struct virtio_block *block;
    const struct storage_ops *ops;
    void *owner;
    unsigned index;
    bool caches; /* see storage_format_caches() */
    struct vhost_ring ring;
    struct vhost_user_memory memory[GUEST_RAM_REGIONS_MAX + 1];
    struct vhost_user_disk like; /* once it was up */
    int kick_fd, call_fd;

    bool wanted; /* the image shall be open here */
    bool up;
    bool down_asked; /* the lease is over, and requests are out */
    int next_fd;     /* a connection that the I/O loop shall take; -1: none */
    bool dead;       /* the worker has killed it: what was in flight is not any more */
    bool busy;       /* the worker has a job of the I/O loop's */
    bool open_failed;
    char why[ERROR_TEXT_SIZE]; /* of the last failure */
    uint64_t written, flushed; /* counts of writes: acknowledged, and stable */

    /* The I/O loop's. */
    int socket_fd;
    struct event_source *call_source, *socket_source, *worker_source, *retry_timer;
    uint64_t failures_ms[BLOCK_VHOST_FAILURES_MAX]; /* the last ones, round */
    unsigned failure_count;
    uint64_t retry_at_ms;
    bool trouble; /* guarded by the lock: I/O is stopped for long */

    /* The main thread's: what it told of that. */
    bool trouble_told;
    char why_told[ERROR_TEXT_SIZE];

    /* The worker's; under job_lock. */
    int worker_fd; /* eventfd: the I/O loop shall look */
    pthread_t worker;
    bool worker_started;
    pthread_mutex_t job_lock;
    pthread_cond_t job_changed;
    enum block_vhost_job loop_job;   /* nobody waits for it */
    enum block_vhost_job called_job; /* somebody does */
    int called_ret;
    struct error called_err;
};

/* ---- for virtio_block.c -------------------------------------------------------- */

struct block_vhost_config {
    const struct storage_ops *ops;
    void *owner;
    unsigned index;
    bool caches;
    bool later; /* an incoming guest: see block_vhost_claim() */
};

/* Has the disk opened, unless `later`. May wait. */
int block_vhost_init(struct virtio_block *block, const struct block_vhost_config *config,
                     struct error *err);
/* Has the image opened; or closed, with all that was written. The VM is quiet. May wait;
 * main or migration thread. */
int block_vhost_claim(struct virtio_block *block, struct error *err);
int block_vhost_release(struct virtio_block *block, struct error *err);

/* ---- between the two ----------------------------------------------------------- */

const struct block_engine *block_vhost_engine(void);
/* On the I/O loop, or when it has ended. */
void block_vhost_socket_retire(struct block_vhost *vhost);
bool block_vhost_lease_over(struct virtio_block *block, uint64_t since_ns);
void block_vhost_free(struct virtio_block *block);

void block_vhost_worker_end(struct block_vhost *vhost);
/* Does it itself: before there are threads, or when the others have ended. */
int block_vhost_job_now(struct block_vhost *vhost, enum block_vhost_job job,
                        struct error *err);
/* Lets the worker do it, and waits. Not with the device's lock, nor on the I/O loop. */
int block_vhost_job_call(struct block_vhost *vhost, enum block_vhost_job job,
                         struct error *err);
/* Lets the worker do it; the I/O loop hears of it by worker_fd. */
void block_vhost_job_post(struct block_vhost *vhost, enum block_vhost_job job);
/* Any thread. */
void block_vhost_loop_wake(struct block_vhost *vhost);

#endif
