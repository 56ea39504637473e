/* SPDX-License-Identifier: Apache-2.0 */
/* After a move: the guest's address is announced where it is now. */
#include <string.h>

#include "base/clock.h"
#include "vmm/host/event_loop.h"
#include "vmm/virtio/net_io.h"
#include "vmm/vm.h"

/* Frames after a move, the first at once: switches may be slow to listen, and frames get
 * lost. */
#define ANNOUNCE_COUNT    5
#define ANNOUNCE_FIRST_MS 50
#define ANNOUNCE_STEP_MS  100

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
    memcpy(frame + 6, net->filter.mac, NET_MAC_SIZE);
    memcpy(frame + 22, net->filter.mac, NET_MAC_SIZE);
    memcpy(frame + 32, net->filter.mac, NET_MAC_SIZE);
    net_io_frame_send(net, frame, sizeof(frame));
}

/* I/O loop. */
void net_announce(void *owner)
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

/* I/O loop. */
static void announce_begin(void *owner)
{
    struct virtio_net *net = owner;

    pthread_mutex_lock(&net->virtio.lock);
    net->announce_left = ANNOUNCE_COUNT;
    net->announce_delay_ms = ANNOUNCE_FIRST_MS;
    if (virtio_feature(&net->virtio, NET_FEATURE_GUEST_ANNOUNCE)) {
        net->status |= NET_STATUS_ANNOUNCE;
        virtio_config_changed(&net->virtio);
    }
    pthread_mutex_unlock(&net->virtio.lock);
    net_announce(net);
}

/* Main thread, which does not wait for the lock: pages of the guest's may be missing. */
void net_arrived(struct device *device)
{
    struct virtio_net *net = (struct virtio_net *)device;

    /* No memory: then switches learn the address from what the guest sends. */
    (void)event_loop_post(vm_io_loop(net->virtio.vm), announce_begin, net);
}
