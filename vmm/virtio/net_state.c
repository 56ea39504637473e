/* SPDX-License-Identifier: Apache-2.0 */
/* The saved state of a NIC (proto/virtio_state.proto). */
#include <string.h>

#include "base/err.h"
#include "vmm/virtio/net_io.h"
#include "vmm/virtio/virtio_state.h"

static void table_fill(const struct net_table *table, Drover__VirtioNetTable *message)
{
    drover__virtio_net_table__init(message);
    message->addresses.data = (uint8_t *)(uintptr_t)table->addresses;
    message->addresses.len = (size_t)table->count * NET_MAC_SIZE;
    message->overflow = table->overflow;
}

/* Nobody else touches what is saved: vCPUs and I/O are stopped. */
int net_state_save(struct device *device, struct buffer *out)
{
    struct virtio_net *net = (struct virtio_net *)device;
    Drover__VirtioNetState message = DROVER__VIRTIO_NET_STATE__INIT;
    Drover__VirtioNetTable unicast, multicast;

    message.mac.data = net->filter.mac;
    message.mac.len = NET_MAC_SIZE;
    message.own_mac.data = net->filter.own;
    message.own_mac.len = NET_MAC_SIZE;
    message.status = net->status;
    message.active_pairs = net->active_pairs;
    message.mtu = net->mtu;
    message.has_filter = true;
    message.receive_mode = net->filter.mode;
    table_fill(&net->filter.unicast, &unicast);
    table_fill(&net->filter.multicast, &multicast);
    message.unicast = &unicast;
    message.multicast = &multicast;
    return virtio_state_save(&net->virtio, &message.base, &message.virtio, out);
}

static bool table_valid(const Drover__VirtioNetTable *message)
{
    return message != NULL && message->addresses.len % NET_MAC_SIZE == 0 &&
           message->addresses.len <= (size_t)NET_TABLE_MAX * NET_MAC_SIZE;
}

static void table_load(struct net_table *table, const Drover__VirtioNetTable *message)
{
    table->count = (unsigned)(message->addresses.len / NET_MAC_SIZE);
    table->overflow = message->overflow;
    if (table->count > 0) {
        memcpy(table->addresses, message->addresses.data, message->addresses.len);
    }
}

static const char *message_judge(const struct virtio_net *net,
                                 const Drover__VirtioNetState *message)
{
    if (message->mac.len != NET_MAC_SIZE || (message->mac.data[0] & 1) != 0 ||
        (message->own_mac.len != 0 && message->own_mac.len != NET_MAC_SIZE) ||
        (message->status & ~(uint32_t)(NET_STATUS_LINK_UP | NET_STATUS_ANNOUNCE)) != 0 ||
        message->mtu > UINT16_MAX) {
        return "its configuration makes no sense";
    }
    if (message->active_pairs > net->pair_count) {
        return "it uses more queues than there are";
    }
    if (message->has_filter &&
        ((message->receive_mode & ~(uint32_t)NET_RECEIVE_KNOWN) != 0 ||
         !table_valid(message->unicast) || !table_valid(message->multicast))) {
        return "its receive filter makes no sense";
    }
    return NULL;
}

/* What this host was told about the NIC stands above what the state says. */
static int host_judge(const struct virtio_net *net, const Drover__VirtioNetState *message,
                      const uint8_t *own, struct error *err)
{
    if (message->virtio != NULL && message->virtio->n_queues != net->virtio.queue_count) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest's NIC at tap %s has %zu pairs of queues, here it has "
                         "%u: give the same queues= on both hosts",
                         net->tap.name, message->virtio->n_queues / 2, net->pair_count);
    }
    if (net->has_own_mac && memcmp(own, net->filter.own, NET_MAC_SIZE) != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest's NIC at tap %s has the address "
                         "%02x:%02x:%02x:%02x:%02x:%02x: give it as mac=, or none",
                         net->tap.name, own[0], own[1], own[2], own[3], own[4], own[5]);
    }
    if (message->mtu > net->tap.mtu && net->tap.mtu != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest uses an MTU of %u, tap %s only %u: raise it with "
                         "'ip link set %s mtu %u'",
                         message->mtu, net->tap.name, net->tap.mtu, net->tap.name,
                         message->mtu);
    }
    if (!net->filter.any_mac && memcmp(own, message->mac.data, NET_MAC_SIZE) != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest at tap %s has taken another address than its NIC's: "
                         "give any-mac on both hosts",
                         net->tap.name);
    }
    return 0;
}

static int message_load(struct virtio_device *virtio, const ProtobufCMessage *base,
                        struct error *err)
{
    struct virtio_net *net = (struct virtio_net *)virtio;
    const Drover__VirtioNetState *message = (const Drover__VirtioNetState *)base;
    const char *wrong = message_judge(net, message);
    const uint8_t *own;
    int ret;

    if (wrong != NULL) {
        return virtio_state_malformed(&net->virtio, err, wrong);
    }
    own = message->own_mac.len != 0 ? message->own_mac.data : message->mac.data;
    ret = host_judge(net, message, own, err);
    if (ret < 0) {
        return ret;
    }
    /* A state that was saved before there were several pairs says nothing of them. */
    net->active_pairs = message->active_pairs != 0 ? message->active_pairs : 1;
    net->mtu = (uint16_t)message->mtu;
    net->virtio.features &= ~NET_FEATURE_MTU;
    net->virtio.features |= net->mtu != 0 ? NET_FEATURE_MTU : 0;
    ret = virtio_state_load(&net->virtio, message->virtio, NULL, err);
    if (ret < 0) {
        return ret;
    }
    memcpy(net->filter.own, own, NET_MAC_SIZE);
    net_filter_reset(&net->filter);
    memcpy(net->filter.mac, message->mac.data, NET_MAC_SIZE);
    if (message->has_filter) {
        net->filter.mode = message->receive_mode;
        table_load(&net->filter.unicast, message->unicast);
        table_load(&net->filter.multicast, message->multicast);
    }
    net->status = (uint16_t)message->status;
    net_io_stale_drop(net);
    return 0;
}

int net_state_load(struct device *device, uint32_t version, const uint8_t *payload,
                   size_t size, struct error *err)
{
    return virtio_state_unpack((struct virtio_device *)device, version,
                               &drover__virtio_net_state__descriptor,
                               (struct state_payload){payload, size}, message_load, err);
}
