/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-net device (virtio 1.2, 5.1): making it, its configuration, its state, its
 * announcements. Packets: net_io.c. */
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
#include "vmm/event_loop.h"
#include "vmm/virtio/net_io.h"
#include "vmm/virtio/virtio_state.h"
#include "vmm/vm.h"

#define CLASS_CODE 0x020000u

/* Frames after a move, the first at once: switches may be slow to listen, and frames get
 * lost. */
#define ANNOUNCE_COUNT    5
#define ANNOUNCE_FIRST_MS 50
#define ANNOUNCE_STEP_MS  100

static struct virtio_net *from_device(struct device *device)
{
    return (struct virtio_net *)device;
}

static struct virtio_net *from_virtio(struct virtio_device *virtio)
{
    return (struct virtio_net *)virtio;
}

/* ---- called by the common part -------------------------------------------- */

/* Configuration (5.1.4): 0 mac | 6 status u16 */
enum { CONFIG_SIZE = 8 };

static void config_read(struct virtio_device *virtio, unsigned offset, uint8_t *data,
                        unsigned size)
{
    const struct virtio_net *net = from_virtio(virtio);
    uint8_t config[CONFIG_SIZE];

    memcpy(config, net->mac, VIRTIO_NET_MAC_SIZE);
    memcpy(config + 6, &net->status, 2);
    if (offset < CONFIG_SIZE) {
        memcpy(data, config + offset,
               size < CONFIG_SIZE - offset ? size : CONFIG_SIZE - offset);
    }
}

static void queue_run(struct virtio_device *virtio, unsigned queue_index)
{
    struct virtio_net *net = from_virtio(virtio);

    switch (queue_index) {
    case NET_QUEUE_RECEIVE:
        net_io_receive(net);
        break;
    case NET_QUEUE_TRANSMIT:
        net_io_transmit(net);
        break;
    default:
        net_io_control(net);
        break;
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
    (void)net_tap_offload_set(from_virtio(virtio)->tap_fd, offloads);
}

static void forget(struct virtio_device *virtio)
{
    struct virtio_net *net = from_virtio(virtio);

    net->packet_size = 0;
    net->status = NET_STATUS_LINK_UP;
    (void)net_tap_offload_set(net->tap_fd, 0);
}

static void tap_readable(void *owner, uint32_t epoll_events)
{
    struct virtio_net *net = owner;

    (void)epoll_events;
    pthread_mutex_lock(&net->virtio.lock);
    if (virtio_running(&net->virtio)) {
        net_io_receive(net);
    } else {
        net_io_listen(net, false); /* the queue's next run listens again */
    }
    pthread_mutex_unlock(&net->virtio.lock);
}

static void announce(void *owner);

static int attach(struct virtio_device *virtio)
{
    struct virtio_net *net = from_virtio(virtio);
    struct event_loop *loop = vm_io_loop(virtio->vm);
    int ret = event_loop_timer_create(loop, announce, net, &net->announce_timer);

    /* Not yet listening: that begins when the guest has given buffers. */
    return ret < 0 ? ret
                   : event_loop_add(loop, net->tap_fd, 0, tap_readable, net,
                                    &net->tap_source);
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
    .attach = attach,
};

/* ---- announcing the guest after a move ------------------------------------ */

/* A reverse ARP request by the guest for itself: switches learn from its source where the
 * address is now (RFC 903). */
static void frame_announce(struct virtio_net *net)
{
    uint8_t frame[60] = {
        [12] = 0x80, [13] = 0x35, /* RARP */
        [15] = 1,                 /* Ethernet */
        [16] = 8,                 /* IPv4 */
        [18] = 6,    [19] = 4,    /* sizes of the addresses */
        [21] = 3,                 /* request */
    };

    memset(frame, 0xff, 6);
    memcpy(frame + 6, net->mac, 6);
    memcpy(frame + 22, net->mac, 6);
    memcpy(frame + 32, net->mac, 6);
    net_io_frame_send(net, frame, sizeof(frame));
}

/* I/O loop. */
static void announce(void *owner)
{
    struct virtio_net *net = owner;

    pthread_mutex_lock(&net->virtio.lock);
    if (net->announce_left > 0) {
        net->announce_left--;
        if (!atomic_load(&net->virtio.stopped) && vm_io_allowed(net->virtio.vm)) {
            frame_announce(net);
        }
    }
    if (net->announce_left > 0 && net->announce_timer != NULL) {
        (void)event_loop_timer_set(net->announce_timer,
                                   clock_now_ns() + net->announce_delay_ms * NS_PER_MS);
        net->announce_delay_ms += ANNOUNCE_STEP_MS;
    }
    pthread_mutex_unlock(&net->virtio.lock);
}

static void arrived(struct device *device)
{
    struct virtio_net *net = from_device(device);

    pthread_mutex_lock(&net->virtio.lock);
    net->announce_left = ANNOUNCE_COUNT;
    net->announce_delay_ms = ANNOUNCE_FIRST_MS;
    if (virtio_feature(&net->virtio, NET_FEATURE_GUEST_ANNOUNCE)) {
        net->status |= NET_STATUS_ANNOUNCE;
        virtio_config_changed(&net->virtio);
    }
    pthread_mutex_unlock(&net->virtio.lock);
    /* No memory: then the guest's own announcement must do. */
    (void)event_loop_post(vm_io_loop(net->virtio.vm), announce, net);
}

/* ---- state ---------------------------------------------------------------- */

static int save(struct device *device, struct buffer *out)
{
    struct virtio_net *net = from_device(device);
    Drover__VirtioNetState message = DROVER__VIRTIO_NET_STATE__INIT;

    message.mac.data = net->mac;
    message.mac.len = VIRTIO_NET_MAC_SIZE;
    message.status = net->status;
    return virtio_state_save(&net->virtio, &message.base, &message.virtio, out);
}

static int message_load(struct virtio_device *virtio, const ProtobufCMessage *base,
                        struct error *err)
{
    struct virtio_net *net = from_virtio(virtio);
    const Drover__VirtioNetState *message = (const Drover__VirtioNetState *)base;
    int ret;

    if (message->mac.len != VIRTIO_NET_MAC_SIZE ||
        (message->status & ~(uint32_t)(NET_STATUS_LINK_UP | NET_STATUS_ANNOUNCE)) != 0) {
        return virtio_state_malformed(virtio, err, "its configuration makes no sense");
    }
    ret = virtio_state_load(virtio, message->virtio, NULL, err);
    if (ret < 0) {
        return ret;
    }
    memcpy(net->mac, message->mac.data, VIRTIO_NET_MAC_SIZE);
    net->status = (uint16_t)message->status;
    net_io_stale_drop(net);
    return 0;
}

static int load(struct device *device, uint32_t version, const uint8_t *payload,
                size_t size, struct error *err)
{
    return virtio_state_unpack((struct virtio_device *)device, version,
                               &drover__virtio_net_state__descriptor,
                               (struct state_payload){payload, size}, message_load, err);
}

/* ---- making and releasing ------------------------------------------------- */

static void net_free(struct device *device)
{
    struct virtio_net *net = from_device(device);

    event_loop_remove(net->tap_source);
    event_loop_remove(net->announce_timer);
    virtio_done(&net->virtio);
    if (net->tap_fd >= 0) {
        (void)close(net->tap_fd);
    }
    free(net->tap_name);
    free(net);
}

static const struct device_ops net_device_ops = {
    .name = "virtio-net",
    .version = VIRTIO_STATE_VERSION,
    .io_stop = virtio_io_stop,
    .io_drained = virtio_io_drained,
    .io_start = virtio_io_start,
    .save = save,
    .load = load,
    .arrived = arrived,
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

    if (config->has_mac) {
        memcpy(net->mac, config->mac, VIRTIO_NET_MAC_SIZE);
        return 0;
    }
    memcpy(net->mac, prefix, sizeof(prefix));
    return id_random_bytes(net->mac + sizeof(prefix),
                           VIRTIO_NET_MAC_SIZE - sizeof(prefix));
}

static int net_start(struct virtio_net *net, struct vm *vm,
                     const struct virtio_net_config *config, struct error *err)
{
    const uint64_t features =
        NET_FEATURE_CSUM | NET_FEATURE_GUEST_CSUM | NET_FEATURE_MAC |
        NET_FEATURE_GUEST_TSO4 | NET_FEATURE_GUEST_TSO6 | NET_FEATURE_GUEST_ECN |
        NET_FEATURE_HOST_TSO4 | NET_FEATURE_HOST_TSO6 | NET_FEATURE_HOST_ECN |
        NET_FEATURE_MRG_RXBUF | NET_FEATURE_STATUS | NET_FEATURE_CTRL_VQ |
        NET_FEATURE_GUEST_ANNOUNCE;
    int ret = net_tap_open(net->tap_name, &net->tap_fd, err);

    if (ret < 0) {
        return ret;
    }
    ret = mac_set(net, config);
    if (ret < 0) {
        return error_set(err, ret,
                         "no random address for tap %s: give mac=", net->tap_name);
    }
    net->status = NET_STATUS_LINK_UP;
    return virtio_init(&net->virtio, vm, features, err);
}

int virtio_net_create(struct vm *vm, const struct virtio_net_config *config,
                      struct error *err)
{
    struct virtio_net *net = calloc(1, sizeof(*net));
    int ret;

    if (net == NULL) {
        return error_set(err, -ENOMEM, "no memory for tap %s", config->tap);
    }
    net->tap_fd = -1;
    net->virtio.ops = &virtio_net_ops;
    net->virtio.device.ops = &net_device_ops;
    net->virtio.device.instance = next_instance(vm);
    net->tap_name = strdup(config->tap);
    ret = net->tap_name == NULL
              ? error_set(err, -ENOMEM, "no memory for tap %s", config->tap)
              : net_start(net, vm, config, err);
    if (ret < 0) {
        net_free(&net->virtio.device);
    }
    return ret;
}

int virtio_net_mac_parse(const char *text, uint8_t ret_mac[VIRTIO_NET_MAC_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t mac[VIRTIO_NET_MAC_SIZE];
    unsigned sum = 0;

    for (unsigned i = 0; i < 3 * VIRTIO_NET_MAC_SIZE; i++) {
        char c = text[i];
        const char *digit = NULL;

        if (i % 3 == 2) {
            if (c != (i == 3 * VIRTIO_NET_MAC_SIZE - 1 ? '\0' : ':')) {
                return DROVER_EBADINPUT;
            }
            continue;
        }
        if (c >= 'A' && c <= 'F') {
            c = (char)(c - 'A' + 'a');
        }
        digit = c == '\0' ? NULL : strchr(digits, c);
        if (digit == NULL) {
            return DROVER_EBADINPUT;
        }
        mac[i / 3] = (uint8_t)((i % 3 == 0 ? 0 : mac[i / 3] << 4) | (digit - digits));
        sum |= (unsigned)(digit - digits);
    }
    if ((mac[0] & 1) != 0 || sum == 0) {
        return DROVER_EBADINPUT;
    }
    memcpy(ret_mac, mac, sizeof(mac));
    return 0;
}
