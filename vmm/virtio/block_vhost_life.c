/* SPDX-License-Identifier: Apache-2.0 */
/* Begin and end of a disk behind a storage daemon, and its way through a move. */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "vmm/host/event_loop.h"
#include "vmm/virtio/block_vhost.h"
#include "vmm/vm.h"

/* ---- moving --------------------------------------------------------------- */

int block_vhost_claim(struct virtio_block *block, struct error *err)
{
    struct block_vhost *vhost = block->vhost;
    bool wanted;
    int ret;

    pthread_mutex_lock(&block->virtio.lock);
    wanted = vhost->wanted;
    pthread_mutex_unlock(&block->virtio.lock);
    if (wanted) {
        return 0;
    }
    ret = block_vhost_job_call(vhost, BLOCK_VHOST_JOB_OPEN, err);
    if (ret == 0) {
        pthread_mutex_lock(&block->virtio.lock);
        vhost->wanted = true;
        pthread_mutex_unlock(&block->virtio.lock);
        block_vhost_loop_wake(vhost);
    }
    return ret;
}

int block_vhost_release(struct virtio_block *block, struct error *err)
{
    struct block_vhost *vhost = block->vhost;
    bool wanted;

    pthread_mutex_lock(&block->virtio.lock);
    wanted = vhost->wanted;
    vhost->wanted = vhost->up = false;
    pthread_mutex_unlock(&block->virtio.lock);
    if (!wanted) {
        return 0;
    }
    block_vhost_loop_wake(vhost);
    if (block_vhost_lease_over(block, 0)) {
        /* Closing would write what the daemon holds back: too late for that. */
        (void)block_vhost_job_call(vhost, BLOCK_VHOST_JOB_KILL, NULL);
        return error_set(err, DROVER_ENOLEASE,
                         "this host's lease ran out: disk %s can't be written any more",
                         block->disk.path);
    }
    return block_vhost_job_call(vhost, BLOCK_VHOST_JOB_CLOSE, err);
}

/* ---- making and releasing ------------------------------------------------- */

/* The guest is off: what it wrote shall be on the disk, if it is still ours. */
static void end(struct block_vhost *vhost)
{
    struct virtio_block *block = vhost->block;
    bool in_order = block->submitted_count == 0 && !block_vhost_lease_over(block, 0);
    enum block_vhost_job job = in_order ? BLOCK_VHOST_JOB_CLOSE : BLOCK_VHOST_JOB_KILL;

    block_vhost_worker_end(vhost);
    if (vhost->wanted) {
        vhost->wanted = vhost->up = false;
        (void)block_vhost_job_now(vhost, job, NULL);
    }
}

void block_vhost_free(struct virtio_block *block)
{
    struct block_vhost *vhost = block->vhost;
    int *fds[] = {&vhost->kick_fd, &vhost->call_fd, &vhost->worker_fd, &vhost->next_fd};

    event_loop_remove(vhost->call_source);
    event_loop_remove(vhost->worker_source);
    event_loop_remove(vhost->retry_timer);
    block_vhost_socket_retire(vhost);
    end(vhost);
    for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (*fds[i] >= 0) {
            (void)close(*fds[i]);
        }
    }
    vhost_ring_done(&vhost->ring);
    (void)pthread_mutex_destroy(&vhost->job_lock);
    (void)pthread_cond_destroy(&vhost->job_changed);
    free(vhost);
    block->vhost = NULL;
}

static int parts_init(struct block_vhost *vhost, struct guest_ram *ram)
{
    int ret = vhost_ring_init(&vhost->ring);

    vhost->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    vhost->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    vhost->worker_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ret == 0 && (vhost->kick_fd < 0 || vhost->call_fd < 0 || vhost->worker_fd < 0)) {
        ret = -errno;
    }
    vhost->memory[0] = (struct vhost_user_memory){.address = VHOST_RING_ADDRESS,
                                                  .size_bytes = VHOST_RING_BYTES,
                                                  .fd = vhost->ring.fd};
    for (unsigned i = 0; i < guest_ram_region_count(ram); i++) {
        const struct guest_ram_region *region = guest_ram_region(ram, i);
        struct vhost_user_memory *memory = &vhost->memory[i + 1];

        memory->address = region->gpa;
        memory->size_bytes = region->size_bytes;
        memory->offset = guest_ram_offset(ram, i);
        memory->fd = guest_ram_fd(ram);
    }
    return ret;
}

int block_vhost_init(struct virtio_block *block, const struct block_vhost_config *config,
                     struct error *err)
{
    struct block_vhost *vhost = calloc(1, sizeof(*vhost));
    int ret;

    if (vhost == NULL) {
        return error_set(err, -ENOMEM, "no memory for disk %s", block->disk.path);
    }
    vhost->block = block;
    vhost->ops = config->ops;
    vhost->owner = config->owner;
    vhost->index = config->index;
    vhost->caches = config->caches;
    vhost->next_fd = vhost->socket_fd = vhost->ring.fd = -1;
    CHECK(pthread_mutex_init(&vhost->job_lock, NULL) == 0);
    CHECK(pthread_cond_init(&vhost->job_changed, NULL) == 0);
    block->vhost = vhost;
    block->engine = block_vhost_engine();
    if (guest_ram_fd(vm_ram(block->virtio.vm)) < 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s needs a storage daemon, which can't reach --mergeable "
                         "memory: leave that out, or convert the disk to raw",
                         block->disk.path);
    }
    ret = parts_init(vhost, vm_ram(block->virtio.vm));
    if (ret < 0) {
        return error_set(err, ret, "can't prepare disk %s: %s", block->disk.path,
                         err_text(ret));
    }
    if (config->later) {
        return block_vhost_job_now(vhost, BLOCK_VHOST_JOB_START, err);
    }
    ret = block_vhost_job_now(vhost, BLOCK_VHOST_JOB_OPEN, err);
    vhost->wanted = ret == 0;
    block_vhost_loop_wake(vhost);
    return ret;
}
