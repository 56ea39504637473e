/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-net device (virtio 1.2, 5.1): making it, its configuration, its
 * announcements. Packets: net_io.c; orders: net_control.c; state: net_state.c. */
#include "vmm/virtio/virtio_net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "vmm/host/event_loop.h"
#include "vmm/virtio/net_io.h"
#include "vmm/virtio/net_vhost.h"
#include "vmm/virtio/virtio_state.h" /* the version */
#include "vmm/vm.h"

#define CLASS_CODE 0x020000u

static struct virtio_net *from_device(struct device *device)
{
    return (struct virtio_net *)device;
}

static struct virtio_net *from_virtio(struct virtio_device *virtio)
{
    return (struct virtio_net *)virtio;
}

/* ---- called by the common part -------------------------------------------- */

/* Configuration (5.1.4): 0 mac | 6 status u16 | 8 max_virtqueue_pairs u16 | 10 mtu u16 */
enum { CONFIG_SIZE = 12 };

static void config_read(struct virtio_device *virtio, unsigned offset, uint8_t *data,
                        unsigned size)
{
    const struct virtio_net *net = from_virtio(virtio);
    uint16_t pairs = (uint16_t)net->pair_count;
    uint8_t config[CONFIG_SIZE];

    memcpy(config, net->filter.mac, NET_MAC_SIZE);
    memcpy(config + 6, &net->status, 2);
    memcpy(config + 8, &pairs, 2);
    memcpy(config + 10, &net->mtu, 2);
    if (offset < CONFIG_SIZE) {
        memcpy(data, config + offset,
               size < CONFIG_SIZE - offset ? size : CONFIG_SIZE - offset);
    }
}

static int taps_listen(struct virtio_net *net);

static void vhost_drop(struct virtio_net *net)
{
    struct net_vhost *vhost = net->vhost;

    pthread_mutex_lock(&net->vhost_lock);
    net->vhost = NULL;
    pthread_mutex_unlock(&net->vhost_lock);
    net_vhost_log_sync(vhost, 0, UINT64_MAX / 2); /* what is not told yet */
    net_vhost_give_up(vhost);
    for (unsigned i = 0; i < net->pair_count; i++) {
        (void)net_tap_queue_set(&net->tap, i, true); /* it may be so already */
    }
    (void)net_tap_filter_set(&net->tap, NULL); /* we filter ourselves */
    for (unsigned i = 0; i < net->virtio.queue_count; i++) {
        (void)event_loop_modify(net->virtio.queues[i].source, EPOLLIN);
        virtio_queue_kick(&net->virtio, i);
    }
    if (taps_listen(net) < 0) {
        virtio_broken(&net->virtio, "the host has no resources for it");
    }
}

void net_pairs_set(struct virtio_net *net, unsigned pairs)
{
    if (net->vhost != NULL) {
        net_vhost_stop(net->vhost); /* the next run begins with the new number */
    }
    net->active_pairs = pairs;
    /* What waits in a port goes to another queue now. */
    for (unsigned i = 0; i < net->virtio.queue_count; i++) {
        virtio_queue_kick(&net->virtio, i);
    }
}

void net_filter_changed(struct virtio_net *net)
{
    if (net->vhost != NULL) {
        net_vhost_filter_changed(net->vhost);
    }
}

static void vector_changed(struct virtio_device *virtio, unsigned vector)
{
    struct virtio_net *net = from_virtio(virtio);

    if (net->vhost != NULL) {
        net_vhost_vector_changed(net->vhost, vector);
    }
}

/*
 * In a post-copy the workers get no rings before all memory is here: one that waits for a
 * page would hold up whoever stops it, in the kernel, where not even a signal helps. True
 * if packets go through here now.
 */
static bool taps_borrow(struct virtio_net *net)
{
    if (net->ports[0].source != NULL) {
        return true;
    }
    if (taps_listen(net) < 0) {
        virtio_broken(&net->virtio, "the host has no resources for it");
        return false;
    }
    net_vhost_filter_changed(net->vhost);
    return true;
}

static void taps_return(struct virtio_net *net)
{
    for (unsigned i = 0; i < net->pair_count; i++) {
        event_loop_remove(net->ports[i].source);
        net->ports[i].source = NULL;
        net->ports[i].listening = false;
        net->ports[i].packet_size = 0;
    }
}

/* I/O loop: true while the kernel's workers have the rings. Where they can't take them
 * after all, packets go through here from now on. */
static bool vhost_runs(struct virtio_net *net)
{
    int ret;

    if (net->vhost == NULL || net_vhost_running(net->vhost)) {
        return net->vhost != NULL;
    }
    if (!virtio_io_allowed(&net->virtio)) {
        return true; /* nobody's, for now */
    }
    if (vm_memory_missing(net->virtio.vm)) {
        return !taps_borrow(net);
    }
    taps_return(net);
    ret = net_vhost_start(net->vhost);
    if (ret == 0) {
        return true;
    }
    log_warn(vm_log(net->virtio.vm), "tap %s: goes on without vhost: %s", net->tap.name,
             err_text(ret));
    vhost_drop(net);
    return false;
}

static void queue_run(struct virtio_device *virtio, unsigned queue_index)
{
    struct virtio_net *net = from_virtio(virtio);
    unsigned pair = queue_index / 2;

    if (vhost_runs(net) && queue_index != net_control_queue(net)) {
        return;
    }
    if (queue_index == net_control_queue(net)) {
        net_control_run(net);
    } else if (pair >= net->pair_count || pair >= (net_control_queue(net) / 2)) {
        return; /* no queue of a driver that has negotiated fewer */
    } else if (queue_index == NET_QUEUE_RECEIVE(pair)) {
        net_io_receive(net, pair);
    } else {
        net_io_transmit(net, pair);
    }
}

static void driver_ready(struct virtio_device *virtio)
{
    unsigned offloads = 0;

    offloads |= virtio_feature(virtio, NET_FEATURE_GUEST_CSUM) ? NET_OFFLOAD_CSUM : 0;
    offloads |= virtio_feature(virtio, NET_FEATURE_GUEST_TSO4) ? NET_OFFLOAD_TSO4 : 0;
    offloads |= virtio_feature(virtio, NET_FEATURE_GUEST_TSO6) ? NET_OFFLOAD_TSO6 : 0;
    offloads |= virtio_feature(virtio, NET_FEATURE_GUEST_ECN) ? NET_OFFLOAD_ECN : 0;
    /* Any tap can do these; and what the guest says is never worth an error here. */
    (void)net_tap_offload_set(&from_virtio(virtio)->tap, offloads);
}

static void forget(struct virtio_device *virtio)
{
    struct virtio_net *net = from_virtio(virtio);

    if (net->vhost != NULL) {
        net_vhost_stop(net->vhost);
    }
    for (unsigned i = 0; i < net->pair_count; i++) {
        net->ports[i].packet_size = 0;
    }
    net->active_pairs = 1;
    net_filter_reset(&net->filter);
    net->status = NET_STATUS_LINK_UP;
    (void)net_tap_offload_set(&net->tap, 0); /* as above */
}

static void tap_readable(void *owner, uint32_t epoll_events)
{
    struct net_port *port = owner;
    struct virtio_device *virtio = &port->net->virtio;

    (void)epoll_events;
    pthread_mutex_lock(&virtio->lock);
    if (virtio_running(virtio)) {
        net_io_port_receive(port);
    } else {
        net_io_listen(port, false); /* the queue's next run listens again */
    }
    pthread_mutex_unlock(&virtio->lock);
}

/* I/O loop: what a limit held back may go on. */
static void limit_over(void *owner)
{
    struct virtio_net *net = owner;

    for (unsigned i = 0; i < 2 * net->pair_count; i++) {
        virtio_queue_kick(&net->virtio, i);
    }
}

/* Not yet for packets: that begins when the guest has given buffers. */
static int taps_listen(struct virtio_net *net)
{
    int ret = 0;

    for (unsigned i = 0; i < net->pair_count && ret == 0; i++) {
        ret = event_loop_add(vm_io_loop(net->virtio.vm), net->tap.fds[i], 0, tap_readable,
                             &net->ports[i], &net->ports[i].source);
    }
    return ret;
}

static int attach(struct virtio_device *virtio)
{
    struct virtio_net *net = from_virtio(virtio);
    struct event_loop *loop = vm_io_loop(virtio->vm);
    int ret = event_loop_timer_create(loop, net_announce, net, &net->announce_timer);

    if (ret == 0) {
        ret = event_loop_timer_create(loop, limit_over, net, &net->limit_timer);
    }
    if (ret < 0) {
        return ret;
    }
    return net->vhost != NULL ? net_vhost_attach(net->vhost) : taps_listen(net);
}

static const struct virtio_ops virtio_net_ops = {
    .type = VIRTIO_TYPE_NET,
    .class_code = CLASS_CODE,
    .queue_count = 3,
    .queue_size = NET_QUEUE_SIZE,
    .queue_run = queue_run,
    .config_read = config_read,
    .driver_ready = driver_ready,
    .reset = forget,
    .vector_changed = vector_changed,
    .attach = attach,
};

/* ---- making and releasing ------------------------------------------------- */

static void net_free(struct device *device)
{
    struct virtio_net *net = from_device(device);

    for (unsigned i = 0; i < net->pair_count && net->ports != NULL; i++) {
        event_loop_remove(net->ports[i].source);
    }
    event_loop_remove(net->announce_timer);
    event_loop_remove(net->limit_timer);
    net_vhost_free(net->vhost);
    virtio_done(&net->virtio);
    net_tap_close(&net->tap);
    pthread_mutex_destroy(&net->vhost_lock);
    free(net->ports);
    free(net);
}

/* Stops the workers too: main waits for what they have in hand, some packets. */
static bool io_drained(struct device *device)
{
    struct virtio_net *net = from_device(device);

    if (!virtio_io_drained(device)) {
        return false;
    }
    if (net->vhost != NULL) {
        pthread_mutex_lock(&net->virtio.lock);
        net_vhost_stop(net->vhost);
        pthread_mutex_unlock(&net->virtio.lock);
    }
    return true;
}

static void lease_set(struct device *device, uint64_t deadline_ns)
{
    struct virtio_net *net = from_device(device);

    pthread_mutex_lock(&net->vhost_lock);
    if (net->vhost != NULL) {
        net_vhost_deadline_set(net->vhost, deadline_ns);
    }
    pthread_mutex_unlock(&net->vhost_lock);
}

static int dirty_log(struct device *device, bool on)
{
    struct virtio_net *net = from_device(device);
    int ret = 0;

    pthread_mutex_lock(&net->virtio.lock);
    if (net->vhost != NULL) {
        ret = net_vhost_log(net->vhost, on);
    }
    pthread_mutex_unlock(&net->virtio.lock);
    return ret;
}

static void dirty_sync(struct device *device, uint64_t gpa, uint64_t size_bytes)
{
    struct virtio_net *net = from_device(device);

    pthread_mutex_lock(&net->virtio.lock);
    if (net->vhost != NULL) {
        net_vhost_log_sync(net->vhost, gpa, size_bytes);
    }
    pthread_mutex_unlock(&net->virtio.lock);
}

static const struct device_ops net_device_ops = {
    .name = "virtio-net",
    .version = VIRTIO_STATE_VERSION,
    .io_stop = virtio_io_stop,
    .io_drained = io_drained,
    .io_start = virtio_io_start,
    .save = net_state_save,
    .load = net_state_load,
    .arrived = net_arrived,
    .lease_set = lease_set,
    .dirty_log = dirty_log,
    .dirty_sync = dirty_sync,
    .reset = virtio_machine_reset,
    .free = net_free,
};

static uint32_t next_instance(struct vm *vm)
{
    uint32_t count = 0;

    for (const struct device *device = vm_devices(vm); device != NULL;
         device = device->next) {
        count += device->ops == &net_device_ops;
    }
    return count;
}

static int mac_set(struct virtio_net *net, const struct virtio_net_config *config)
{
    static const uint8_t prefix[3] = {0x52, 0x54, 0x00};

    net->has_own_mac = config->has_mac;
    if (config->has_mac) {
        memcpy(net->filter.own, config->mac, NET_MAC_SIZE);
        return 0;
    }
    memcpy(net->filter.own, prefix, sizeof(prefix));
    return id_random_bytes(net->filter.own + sizeof(prefix),
                           NET_MAC_SIZE - sizeof(prefix));
}

static int mtu_judge(const struct virtio_net *net, struct error *err)
{
    if (net->mtu > net->tap.mtu && net->tap.mtu != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "mtu=%u is more than tap %s has (%u): raise it with 'ip link "
                         "set %s mtu %u'",
                         net->mtu, net->tap.name, net->tap.mtu, net->tap.name, net->mtu);
    }
    return 0;
}

static int ports_make(struct virtio_net *net, struct error *err)
{
    net->pair_count = net->tap.count;
    net->active_pairs = 1;
    net->virtio.queue_count = 2 * net->pair_count + 1;
    net->ports = calloc(net->pair_count, sizeof(net->ports[0]));
    if (net->ports == NULL) {
        return error_set(err, -ENOMEM, "no memory for tap %s", net->tap.name);
    }
    for (unsigned i = 0; i < net->pair_count; i++) {
        net->ports[i].net = net;
        net->ports[i].index = i;
    }
    return 0;
}

/* With limits there is none: the packets must pass through here to be counted. */
static int vhost_make(struct virtio_net *net, const struct virtio_net_config *config,
                      struct error *err)
{
    struct error why = {0};
    int ret;

    if (config->vhost == VIRTIO_NET_VHOST_OFF) {
        return 0;
    }
    if (config->bytes_per_s != 0) {
        return config->vhost == VIRTIO_NET_VHOST_AUTO
                   ? 0
                   : error_set(err, DROVER_EBADINPUT,
                               "tap %s: bps= and vhost=on do not go together: give one "
                               "of them",
                               net->tap.name);
    }
    ret = net_vhost_create(net, &net->vhost, &why);
    if (ret < 0 && config->vhost == VIRTIO_NET_VHOST_ON) {
        return error_set(err, ret, "%s", why.text);
    }
    return 0;
}

static int net_start(struct virtio_net *net, struct vm *vm,
                     const struct virtio_net_config *config, struct error *err)
{
    uint64_t features = NET_FEATURE_CSUM | NET_FEATURE_GUEST_CSUM | NET_FEATURE_MAC |
                        NET_FEATURE_GUEST_TSO4 | NET_FEATURE_GUEST_TSO6 |
                        NET_FEATURE_GUEST_ECN | NET_FEATURE_HOST_TSO4 |
                        NET_FEATURE_HOST_TSO6 | NET_FEATURE_HOST_ECN |
                        NET_FEATURE_MRG_RXBUF | NET_FEATURE_STATUS | NET_FEATURE_CTRL_VQ |
                        NET_FEATURE_CTRL_RX | NET_FEATURE_CTRL_RX_EXTRA |
                        NET_FEATURE_CTRL_MAC | NET_FEATURE_GUEST_ANNOUNCE;
    int ret;

    net->mtu = (uint16_t)config->mtu;
    net->filter.any_mac = config->any_mac;
    net->status = NET_STATUS_LINK_UP;
    rate_limit_init(&net->receive_limit, config->bytes_per_s, clock_now_ns());
    rate_limit_init(&net->transmit_limit, config->bytes_per_s, clock_now_ns());
    ret = mac_set(net, config);
    if (ret < 0) {
        return error_set(err, ret,
                         "no random address for tap %s: give mac=", net->tap.name);
    }
    net_filter_reset(&net->filter);
    ret = mtu_judge(net, err);
    ret = ret < 0 ? ret : ports_make(net, err);
    net->virtio.vm = vm;
    ret = ret < 0 ? ret : vhost_make(net, config, err);
    if (ret < 0) {
        net->virtio.vm = NULL; /* virtio_init() has not run */
        return ret;
    }
    features |= net->mtu != 0 ? NET_FEATURE_MTU : 0;
    features |= net->pair_count > 1 ? NET_FEATURE_MQ : 0;
    return virtio_init(&net->virtio, vm, features, err);
}

int virtio_net_create(struct vm *vm, const struct virtio_net_config *config,
                      struct error *err)
{
    struct virtio_net *net = calloc(1, sizeof(*net));
    int ret = 0;

    if (net == NULL) {
        return error_set(err, -ENOMEM, "no memory for a NIC");
    }
    net_tap_init(&net->tap);
    pthread_mutex_init(&net->vhost_lock, NULL);
    net->virtio.ops = &virtio_net_ops;
    net->virtio.device.ops = &net_device_ops;
    net->virtio.device.instance = next_instance(vm);
    if (config->opened != NULL) {
        net->tap = *config->opened;
        net_tap_init(config->opened);
    } else {
        ret = net_tap_open(&net->tap, config->tap,
                           config->queues != 0 ? config->queues : 1, err);
    }
    ret = ret < 0 ? ret : net_start(net, vm, config, err);
    if (ret < 0) {
        net_free(&net->virtio.device);
    }
    return ret;
}
