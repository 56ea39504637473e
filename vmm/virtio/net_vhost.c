/* SPDX-License-Identifier: Apache-2.0 */
/* vhost-net of Linux (drivers/vhost/net.c; include/uapi/linux/vhost.h). */
#include "vmm/virtio/net_vhost.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/vhost.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/bus/pci.h"
#include "vmm/host/event_loop.h"
#include "vmm/host/net_guard.h"
#include "vmm/jail/broker.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/net_io.h"
#include "vmm/virtio/net_vhost_internal.h"
#include "vmm/vm.h"

#define ISR_QUEUE 1

int net_vhost_call(int fd, unsigned long request, const void *argument)
{
    return ioctl(fd, request, argument) < 0 ? -errno : 0;
}

/* ---- interrupts ----------------------------------------------------------- */

static void irqfd_release(struct vhost_queue *queue)
{
    vm_irqfd_clear(queue->vhost->net->virtio.vm, queue->call_fd, &queue->route);
}

/* KVM raises the vector by itself while the guest lets it through. */
static void irqfd_sync(struct vhost_queue *queue)
{
    struct virtio_device *virtio = &queue->vhost->net->virtio;
    uint64_t address;
    uint32_t data;

    if (pci_msix_vector(virtio->pci.function, virtio->queues[queue->index].vector,
                        &address, &data)) {
        /* Refused: then it comes by way of us. */
        (void)vm_irqfd_set(virtio->vm, queue->call_fd, &queue->route, address, data);
    } else {
        irqfd_release(queue);
    }
}

static void called(void *owner, uint32_t epoll_events)
{
    struct vhost_queue *queue = owner;
    struct virtio_device *virtio = &queue->vhost->net->virtio;
    uint64_t count;

    (void)epoll_events;
    if (read(queue->call_fd, &count, sizeof(count)) != sizeof(count)) {
        return;
    }
    pthread_mutex_lock(&virtio->lock);
    virtio_pci_interrupt(virtio, virtio->queues[queue->index].vector, ISR_QUEUE);
    pthread_mutex_unlock(&virtio->lock);
}

void net_vhost_vector_changed(struct net_vhost *vhost, unsigned vector)
{
    for (unsigned i = 0; i < 2 * vhost->running_pairs && vhost->running; i++) {
        if (vector == UINT_MAX || vhost->net->virtio.queues[i].vector == vector) {
            irqfd_sync(&vhost->queues[i]);
        }
    }
}

static void ring_broken(void *owner, uint32_t epoll_events)
{
    struct net_vhost *vhost = owner;
    struct virtio_device *virtio = &vhost->net->virtio;
    uint64_t count;

    (void)epoll_events;
    if (read(vhost->error_fd, &count, sizeof(count)) != sizeof(count)) {
        return;
    }
    pthread_mutex_lock(&virtio->lock);
    if (vhost->running) {
        net_vhost_stop(vhost);
        virtio_broken(virtio, "the host's kernel found a ring that makes no sense");
    }
    pthread_mutex_unlock(&virtio->lock);
}

/* ---- making --------------------------------------------------------------- */

static int memory_tell(int fd, struct guest_ram *ram)
{
    union {
        struct vhost_memory memory;
        uint8_t room[sizeof(struct vhost_memory) +
                     GUEST_RAM_REGIONS_MAX * sizeof(struct vhost_memory_region)];
    } table = {.memory.nregions = guest_ram_region_count(ram)};

    for (unsigned i = 0; i < table.memory.nregions; i++) {
        const struct guest_ram_region *region = guest_ram_region(ram, i);

        table.memory.regions[i] =
            (struct vhost_memory_region){.guest_phys_addr = region->gpa,
                                         .memory_size = region->size_bytes,
                                         .userspace_addr = (uintptr_t)region->host};
    }
    return net_vhost_call(fd, VHOST_SET_MEM_TABLE, &table);
}

static int worker_open(struct net_vhost *vhost)
{
    uint64_t features = 0;
    CLEANUP(cleanup_fd) int fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
    int ret = fd < 0 ? -errno : net_vhost_call(fd, VHOST_GET_FEATURES, &features);

    if (ret < 0) {
        return ret;
    }
    if ((features & (NET_VHOST_FEATURES | NET_VHOST_FEATURE_LOG)) !=
        (NET_VHOST_FEATURES | NET_VHOST_FEATURE_LOG)) {
        return -EOPNOTSUPP;
    }
    vhost->features = features;
    vhost->fds[vhost->count++] = take_fd(&fd);
    return 0;
}

static int queues_init(struct net_vhost *vhost)
{
    vhost->error_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vhost->error_fd < 0) {
        return -errno;
    }
    for (unsigned i = 0; i < 2 * vhost->net->pair_count; i++) {
        vhost->queues[i].call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (vhost->queues[i].call_fd < 0) {
            return -errno;
        }
    }
    return 0;
}

static int guard_make(struct net_vhost *vhost, struct error *err)
{
    const struct virtio_net *net = vhost->net;
    bool leased = vm_config(net->virtio.vm)->ha;
    int ret;

    if (net->filter.any_mac && !leased) {
        return 0; /* nothing to hold it to */
    }
    ret = net_guard_create(net->tap.name, &vhost->guard, err);
    if (ret == 0) {
        struct broker *broker = vm_broker(net->virtio.vm);
        unsigned id;

        /* Refused: then the tap's next VMM takes it off. */
        (void)(broker != NULL &&
               broker_allow(broker, BROKER_TAP_AT_END, net->tap.name, &id) < 0);
        net_guard_mac_set(vhost->guard, net->filter.any_mac ? NULL : net->filter.own);
        net_guard_deadline_set(vhost->guard, leased ? 0 : UINT64_MAX);
    }
    return ret;
}

static void vhost_release(struct net_vhost *vhost)
{
    net_vhost_free(vhost);
}

static void vhost_release_scope(struct net_vhost **vhost)
{
    vhost_release(*vhost);
}

int net_vhost_create(struct virtio_net *net, struct net_vhost **ret_vhost,
                     struct error *err)
{
    CLEANUP(vhost_release_scope) struct net_vhost *vhost = calloc(1, sizeof(*vhost));
    int ret = 0;

    if (vhost == NULL) {
        return error_set(err, -ENOMEM, "no memory for tap %s", net->tap.name);
    }
    vhost->net = net;
    vhost->error_fd = -1;
    for (unsigned i = 0; i < NET_VHOST_QUEUES_MAX; i++) {
        vhost->queues[i] =
            (struct vhost_queue){.vhost = vhost, .index = i, .call_fd = -1, .route = -1};
    }
    for (unsigned i = 0; i < net->pair_count && ret == 0; i++) {
        ret = worker_open(vhost);
    }
    ret = ret < 0 ? ret : queues_init(vhost);
    if (ret < 0) {
        return error_set(err, ret,
                         "vhost-net can't be used for tap %s: %s: load the module "
                         "'vhost_net', or give vhost=off",
                         net->tap.name, err_text(ret));
    }
    ret = guard_make(vhost, err);
    if (ret == 0) {
        *ret_vhost = TAKE(vhost);
    }
    return ret;
}

void net_vhost_free(struct net_vhost *vhost)
{
    if (vhost == NULL) {
        return;
    }
    net_vhost_stop(vhost);
    for (unsigned i = 0; i < NET_VHOST_QUEUES_MAX; i++) {
        event_loop_remove(vhost->queues[i].source);
        if (vhost->queues[i].call_fd >= 0) {
            (void)close(vhost->queues[i].call_fd);
        }
    }
    event_loop_remove(vhost->error_source);
    for (unsigned i = 0; i < vhost->count; i++) {
        (void)close(vhost->fds[i]);
    }
    if (vhost->error_fd >= 0) {
        (void)close(vhost->error_fd);
    }
    net_guard_free(vhost->guard);
    free((void *)vhost->log);
    free(vhost);
}

void net_vhost_give_up(struct net_vhost *vhost)
{
    struct net_guard *guard = TAKE(vhost->guard);

    net_vhost_free(vhost); /* no worker writes frames any more: then the gate opens */
    net_guard_leave_open(guard);
}

int net_vhost_attach(struct net_vhost *vhost)
{
    struct event_loop *loop = vm_io_loop(vhost->net->virtio.vm);
    int ret = event_loop_add(loop, vhost->error_fd, EPOLLIN, ring_broken, vhost,
                             &vhost->error_source);

    for (unsigned i = 0; i < 2 * vhost->net->pair_count && ret == 0; i++) {
        struct vhost_queue *queue = &vhost->queues[i];

        ret =
            event_loop_add(loop, queue->call_fd, EPOLLIN, called, queue, &queue->source);
    }
    return ret;
}

/* ---- starting and stopping ------------------------------------------------ */

uint64_t net_vhost_features(const struct net_vhost *vhost)
{
    return (vhost->net->virtio.driver_features & NET_VHOST_FEATURES) |
           (vhost->logging ? NET_VHOST_FEATURE_LOG : 0);
}

int net_vhost_address_tell(struct net_vhost *vhost, unsigned index)
{
    const struct virtqueue *ring = &vhost->net->virtio.queues[index].ring;
    struct vhost_vring_addr address = {
        .index = index % 2,
        .flags = vhost->logging ? 1u << VHOST_VRING_F_LOG : 0,
        .desc_user_addr = (uintptr_t)ring->desc,
        .avail_user_addr = (uintptr_t)ring->avail,
        .used_user_addr = (uintptr_t)ring->used,
        .log_guest_addr = ring->used_gpa,
    };

    return net_vhost_call(vhost->fds[index / 2], VHOST_SET_VRING_ADDR, &address);
}

static int fd_tell(struct net_vhost *vhost, unsigned index, unsigned long request, int fd)
{
    struct vhost_vring_file file = {.index = index % 2, .fd = fd};

    return net_vhost_call(vhost->fds[index / 2], request, &file);
}

static int ring_give(struct net_vhost *vhost, unsigned index)
{
    const struct virtio_queue *queue = &vhost->net->virtio.queues[index];
    struct vhost_vring_state size = {.index = index % 2, .num = queue->ring.size};
    struct vhost_vring_state base = {.index = index % 2, .num = queue->ring.next_avail};
    int fd = vhost->fds[index / 2];
    int ret = net_vhost_call(fd, VHOST_SET_VRING_NUM, &size);

    ret = ret < 0 ? ret : net_vhost_call(fd, VHOST_SET_VRING_BASE, &base);
    vhost->queues[index].given = ret == 0;
    ret = ret < 0 ? ret : net_vhost_address_tell(vhost, index);
    ret = ret < 0
              ? ret
              : fd_tell(vhost, index, VHOST_SET_VRING_CALL, vhost->queues[index].call_fd);
    ret = ret < 0 ? ret : fd_tell(vhost, index, VHOST_SET_VRING_ERR, vhost->error_fd);
    ret = ret < 0 ? ret : fd_tell(vhost, index, VHOST_SET_VRING_KICK, queue->kick_fd);
    if (ret < 0) {
        return ret;
    }
    irqfd_sync(&vhost->queues[index]);
    return fd_tell(vhost, index, VHOST_NET_SET_BACKEND, vhost->net->tap.fds[index / 2]);
}

/* A queue that no worker serves must not get packets. */
static void tap_queue_set(struct net_vhost *vhost, unsigned pair, bool attached)
{
    if (vhost->detached[pair] == attached &&
        net_tap_queue_set(&vhost->net->tap, pair, attached) == 0) {
        vhost->detached[pair] = !attached;
    }
}

static bool pair_ready(const struct virtio_net *net, unsigned pair)
{
    return net->virtio.queues[NET_QUEUE_RECEIVE(pair)].ring.ready &&
           net->virtio.queues[NET_QUEUE_TRANSMIT(pair)].ring.ready;
}

/*
 * Not before the first start: on newer kernels the workers are threads of this process,
 * and whatever it does to become jailed, it does alone.
 */
static int workers_make(struct net_vhost *vhost)
{
    uint64_t log = (uintptr_t)vhost->log;
    int ret = 0;

    for (unsigned i = 0; i < vhost->count && ret == 0 && !vhost->owned; i++) {
        ret = net_vhost_call(vhost->fds[i], VHOST_SET_OWNER, NULL);
        ret = ret < 0 ? ret : memory_tell(vhost->fds[i], vm_ram(vhost->net->virtio.vm));
        if (ret == 0 && vhost->log != NULL) {
            ret = net_vhost_call(vhost->fds[i], VHOST_SET_LOG_BASE, &log);
        }
    }
    vhost->owned = ret == 0;
    return ret;
}

int net_vhost_start(struct net_vhost *vhost)
{
    struct virtio_net *net = vhost->net;
    uint64_t features = net_vhost_features(vhost);
    int ret = workers_make(vhost);

    CHECK(!vhost->running);
    vhost->running = true;
    vhost->running_pairs = 0;
    for (unsigned pair = 0; pair < net->pair_count && ret == 0; pair++) {
        bool used = pair < net->active_pairs && pair_ready(net, pair);

        tap_queue_set(vhost, pair, used || pair == 0);
        if (!used) {
            continue;
        }
        vhost->running_pairs = pair + 1;
        ret = net_vhost_call(vhost->fds[pair], VHOST_SET_FEATURES, &features);
        for (unsigned i = 2 * pair; i < 2 * pair + 2 && ret == 0; i++) {
            ret = ring_give(vhost, i);
        }
    }
    if (ret < 0) {
        net_vhost_stop(vhost);
        return ret;
    }
    net_vhost_filter_changed(vhost);
    for (unsigned i = 0; i < 2 * vhost->running_pairs; i++) {
        /* From here on the guest's notifications are the worker's; what came before is
         * told to it. */
        (void)event_loop_modify(net->virtio.queues[i].source, 0);
        virtio_queue_kick(&net->virtio, i);
    }
    return 0;
}

static void ring_take_back(struct net_vhost *vhost, unsigned index)
{
    struct virtio_device *virtio = &vhost->net->virtio;
    struct virtqueue *ring = &virtio->queues[index].ring;
    struct vhost_vring_state base = {.index = index % 2};

    /* Returns when the worker is through with what it had in hand. */
    (void)fd_tell(vhost, index, VHOST_NET_SET_BACKEND, -1);
    (void)fd_tell(vhost, index, VHOST_SET_VRING_KICK, -1);
    if (vhost->queues[index].given &&
        net_vhost_call(vhost->fds[index / 2], VHOST_GET_VRING_BASE, &base) == 0) {
        /* A worker gives back all that it takes before it lets go. */
        ring->next_avail = ring->next_used = (uint16_t)base.num;
        ring->signalled_valid = false;
    }
    vhost->queues[index].given = false;
    irqfd_release(&vhost->queues[index]);
    /* An interrupt that was on its way is not lost; one too many does no harm. */
    virtio_pci_interrupt(virtio, virtio->queues[index].vector, ISR_QUEUE);
}

/* Said once, when there is time to look. */
static void spoofed_tell(struct net_vhost *vhost)
{
    struct virtio_net *net = vhost->net;
    uint64_t count = vhost->guard != NULL ? net_guard_spoofed(vhost->guard) : 0;

    if (count > 0 && !net->spoof_logged) {
        net->spoof_logged = true;
        log_warn(vm_log(net->virtio.vm),
                 "tap %s: %" PRIu64 " frames of the guest were dropped: they came from "
                 "another address than its own (any-mac lets them through)",
                 net->tap.name, count);
    }
}

void net_vhost_stop(struct net_vhost *vhost)
{
    if (!vhost->running) {
        return;
    }
    for (unsigned i = 0; i < 2 * vhost->running_pairs; i++) {
        ring_take_back(vhost, i);
    }
    vhost->running = false;
    vhost->running_pairs = 0;
    spoofed_tell(vhost);
}

bool net_vhost_running(const struct net_vhost *vhost)
{
    return vhost->running;
}

bool net_vhost_owns(const struct net_vhost *vhost, unsigned queue_index)
{
    return queue_index != net_control_queue(vhost->net);
}

/* ---- what it is held to --------------------------------------------------- */

void net_vhost_filter_changed(struct net_vhost *vhost)
{
    (void)net_tap_filter_set(&vhost->net->tap, &vhost->net->filter);
    if (vhost->guard != NULL) {
        net_guard_mac_set(vhost->guard,
                          vhost->net->filter.any_mac ? NULL : vhost->net->filter.own);
    }
}

void net_vhost_deadline_set(struct net_vhost *vhost, uint64_t deadline_ns)
{
    if (vhost->guard != NULL) {
        net_guard_deadline_set(vhost->guard, deadline_ns);
    }
}
