/* SPDX-License-Identifier: Apache-2.0 */
/* Life of a virtio device: status, features, notifications, stopping and going on. */
#include "vmm/virtio/virtio.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/bus/pci.h"
#include "vmm/host/event_loop.h"
#include "vmm/vm.h"

enum { CONFIG_ISR_BIT = 2, QUEUE_ISR_BIT = 1 };

/* ---- what the I/O loop does ----------------------------------------------- */

static void queue_kicked(void *owner, uint32_t epoll_events)
{
    struct virtio_queue *queue = owner;
    struct virtio_device *virtio = queue->virtio;
    uint64_t count;

    (void)epoll_events;
    (void)!read(queue->kick_fd, &count,
                sizeof(count)); /* empty is fine: then it was spurious */
    pthread_mutex_lock(&virtio->lock);
    if (virtio_running(virtio)) {
        virtio->ops->queue_run(virtio, queue->index);
    }
    pthread_mutex_unlock(&virtio->lock);
}

static void kick_all(struct virtio_device *virtio)
{
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        virtio_queue_kick(virtio, i);
    }
}

static void retry(void *owner)
{
    kick_all(owner);
}

/* Runs as the I/O loop's first work for this device: sources may be added on the loop's
 * thread only. */
static void attach(void *owner)
{
    struct virtio_device *virtio = owner;
    struct event_loop *loop = vm_io_loop(virtio->vm);
    int ret = event_loop_timer_create(loop, retry, virtio, &virtio->retry_timer);

    if (ret == 0 && virtio->ops->attach != NULL) {
        ret = virtio->ops->attach(virtio);
    }
    for (unsigned i = 0; i < virtio->queue_count && ret == 0; i++) {
        struct virtio_queue *queue = &virtio->queues[i];

        ret = event_loop_add(loop, queue->kick_fd, EPOLLIN, queue_kicked, queue,
                             &queue->source);
    }
    if (ret < 0) {
        log_error(vm_log(virtio->vm), "%s %u: can't listen to the guest: %s",
                  virtio->device.ops->name, virtio->device.instance, err_text(ret));
        pthread_mutex_lock(&virtio->lock);
        virtio_broken(virtio, "the host has no resources for it");
        pthread_mutex_unlock(&virtio->lock);
    }
}

/* ---- making and releasing ------------------------------------------------- */

void virtio_prepare(struct virtio_device *virtio, struct vm *vm)
{
    virtio->vm = vm;
    pthread_mutex_init(&virtio->lock, NULL);
}

int virtio_init(struct virtio_device *virtio, struct vm *vm, uint64_t features,
                struct error *err)
{
    int ret;

    static_assert(VIRTIO_QUEUES_MAX + 1 <= PCI_MSIX_VECTORS_MAX, "a vector for each");
    CHECK(virtio->ops != NULL && virtio->device.ops != NULL);
    if (virtio->queue_count == 0) {
        virtio->queue_count = virtio->ops->queue_count;
    }
    CHECK(virtio->queue_count >= 1 && virtio->queue_count <= VIRTIO_QUEUES_MAX);
    virtio->queues = calloc(virtio->queue_count, sizeof(virtio->queues[0]));
    if (virtio->queues == NULL) {
        return error_set(err, -ENOMEM, "no memory for %s", virtio->device.ops->name);
    }
    if (virtio->vm == NULL) {
        virtio_prepare(virtio, vm);
    }
    virtio->features = features | VIRTIO_FEATURE_VERSION_1 | VIRTIO_FEATURE_INDIRECT |
                       VIRTIO_FEATURE_EVENT_IDX;
    virtio->config_vector = VIRTIO_NO_VECTOR;
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        virtio->queues[i].kick_fd = -1;
    }
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        struct virtio_queue *queue = &virtio->queues[i];

        queue->virtio = virtio;
        queue->index = i;
        queue->vector = VIRTIO_NO_VECTOR;
        virtqueue_init(&queue->ring, vm_ram(vm), virtio->ops->queue_size);
        queue->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (queue->kick_fd < 0) {
            return error_set(err, -errno,
                             "no eventfd for %s: raise the limit of open files",
                             virtio->device.ops->name);
        }
    }
    ret = virtio_pci_init(virtio, err);
    if (ret < 0) {
        return ret;
    }
    ret = event_loop_post(vm_io_loop(vm), attach, virtio);
    if (ret < 0) {
        return error_set(err, ret, "no memory for %s", virtio->device.ops->name);
    }
    vm_device_add(vm, &virtio->device);
    return 0;
}

void virtio_done(struct virtio_device *virtio)
{
    if (virtio->vm == NULL) {
        return;
    }
    virtio_pci_done(virtio);
    event_loop_remove(virtio->retry_timer);
    for (unsigned i = 0; virtio->queues != NULL && i < virtio->queue_count; i++) {
        event_loop_remove(virtio->queues[i].source);
        if (virtio->queues[i].kick_fd >= 0) {
            (void)close(virtio->queues[i].kick_fd);
        }
    }
    free(virtio->queues);
    pthread_mutex_destroy(&virtio->lock);
}

/* ---- stopping and going on ------------------------------------------------ */

void virtio_io_stop(struct device *device)
{
    struct virtio_device *virtio = (struct virtio_device *)device;

    atomic_store(&virtio->stopped, true);
}

bool virtio_io_drained(struct device *device)
{
    struct virtio_device *virtio = (struct virtio_device *)device;
    bool drained;

    /* The I/O loop holds the lock while it submits, and looks at `stopped` first: held
     * means not yet. */
    if (pthread_mutex_trylock(&virtio->lock) != 0) {
        return false;
    }
    drained = virtio->ops->idle == NULL || virtio->ops->idle(virtio);
    pthread_mutex_unlock(&virtio->lock);
    return drained;
}

void virtio_io_start(struct device *device)
{
    struct virtio_device *virtio = (struct virtio_device *)device;

    atomic_store(&virtio->stopped, false);
    kick_all(virtio);
}

bool virtio_running(const struct virtio_device *virtio)
{
    return !atomic_load(&virtio->stopped) && !virtio->resetting &&
           (virtio->status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) ==
               VIRTIO_STATUS_DRIVER_OK;
}

bool virtio_io_allowed(struct virtio_device *virtio)
{
    if (!virtio_running(virtio)) {
        return false;
    }
    if (vm_io_allowed(virtio->vm)) {
        return true;
    }
    /*
     * The deadline is over, or nobody has told us yet to stop. If the lease comes back
     * before anybody does, no io_start follows; so this looks again by itself.
     */
    (void)event_loop_timer_set(virtio->retry_timer,
                               clock_now_ns() + VIRTIO_RETRY_MS * NS_PER_MS);
    return false;
}

/* ---- reset ---------------------------------------------------------------- */

void virtio_reset(struct virtio_device *virtio)
{
    if (virtio->ops->reset != NULL) {
        virtio->ops->reset(virtio);
    }
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        virtqueue_reset(&virtio->queues[i].ring);
        virtio->queues[i].vector = VIRTIO_NO_VECTOR;
    }
    virtio->driver_features = 0;
    virtio->device_feature_select = virtio->driver_feature_select = 0;
    virtio->queue_select = 0;
    virtio->config_vector = VIRTIO_NO_VECTOR;
    virtio->isr = 0;
    virtio->status = 0;
    virtio->resetting = false;
}

void virtio_machine_reset(struct device *device)
{
    struct virtio_device *virtio = (struct virtio_device *)device;

    pthread_mutex_lock(&virtio->lock);
    virtio_reset(virtio);
    pthread_mutex_unlock(&virtio->lock);
    pci_function_reset(virtio->pci.function);
}

void virtio_became_idle(struct virtio_device *virtio)
{
    if (virtio->resetting) {
        virtio_reset(virtio);
    }
    if (atomic_load(&virtio->stopped)) {
        vm_device_drained(virtio->vm);
    }
}

/* ---- the driver's side of status ------------------------------------------ */

void virtio_status_write(struct virtio_device *virtio, uint8_t status)
{
    const uint8_t may_set = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
                            VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK |
                            VIRTIO_STATUS_FAILED;
    uint8_t set = status & may_set & (uint8_t)~virtio->status;

    if (virtio->resetting) {
        return;
    }
    if (status == 0) {
        /* Requests that are out still write into the guest's memory: status reads 0 only
         * after them. */
        virtio->resetting = true;
        if (virtio->ops->idle == NULL || virtio->ops->idle(virtio)) {
            virtio_reset(virtio);
        }
        return;
    }
    if (set & VIRTIO_STATUS_FEATURES_OK) {
        uint64_t unknown = virtio->driver_features & ~virtio->features;

        if (unknown != 0 || !virtio_feature(virtio, VIRTIO_FEATURE_VERSION_1)) {
            set &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
        }
    }
    if (!((virtio->status | set) & VIRTIO_STATUS_FEATURES_OK)) {
        set &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
    }
    virtio->status |= set;
    if (set & VIRTIO_STATUS_DRIVER_OK) {
        if (virtio->ops->driver_ready != NULL) {
            virtio->ops->driver_ready(virtio);
        }
        kick_all(virtio);
    }
}

void virtio_queue_enable(struct virtio_device *virtio, struct virtio_queue *queue)
{
    if (queue->ring.ready || !(virtio->status & VIRTIO_STATUS_FEATURES_OK)) {
        return;
    }
    if (virtqueue_enable(&queue->ring, virtio_feature(virtio, VIRTIO_FEATURE_EVENT_IDX),
                         virtio_feature(virtio, VIRTIO_FEATURE_INDIRECT)) < 0) {
        virtio_broken(virtio, queue->ring.broken);
    }
}

/* ---- for devices ---------------------------------------------------------- */

void virtio_queue_signal(struct virtio_device *virtio, unsigned queue_index)
{
    struct virtio_queue *queue = &virtio->queues[queue_index];

    if (virtqueue_interrupt_wanted(&queue->ring)) {
        virtio_pci_interrupt(virtio, queue->vector, QUEUE_ISR_BIT);
    }
}

void virtio_queue_kick(struct virtio_device *virtio, unsigned queue_index)
{
    uint64_t one = 1;

    (void)!write(virtio->queues[queue_index].kick_fd, &one,
                 sizeof(one)); /* full: is set anyway */
}

void virtio_config_changed(struct virtio_device *virtio)
{
    virtio->config_generation++;
    if (virtio->status & VIRTIO_STATUS_DRIVER_OK) {
        virtio_pci_interrupt(virtio, virtio->config_vector, CONFIG_ISR_BIT);
    }
}

void virtio_broken(struct virtio_device *virtio, const char *how)
{
    if (virtio->status & VIRTIO_STATUS_NEEDS_RESET) {
        return;
    }
    if (virtio->broken_count < VIRTIO_BROKEN_LOGS) {
        virtio->broken_count++;
        log_warn(vm_log(virtio->vm), "%s %u: stopped until the guest resets it: %s",
                 virtio->device.ops->name, virtio->device.instance, how);
    }
    virtio->status |= VIRTIO_STATUS_NEEDS_RESET;
    if (virtio->status & VIRTIO_STATUS_DRIVER_OK) {
        virtio_pci_interrupt(virtio, virtio->config_vector, CONFIG_ISR_BIT);
    }
}
