/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's orders to its NIC (virtio 1.2, 5.1.6.5), by the control queue:
 *
 *    0 class u8 | 1 command u8 | 2 data, by command          and an answer of one byte
 *
 *    receive mode:    on u8
 *    address table:   count u32 | address * count, twice: unicast, multicast
 *    address:         6 bytes
 *    pairs of queues: u16
 */
#include <string.h>

#include "base/err.h"
#include "vmm/virtio/net_io.h"

enum {
    CLASS_RECEIVE = 0,
    CLASS_MAC = 1,
    CLASS_ANNOUNCE = 3,
    CLASS_MQ = 4,
    MAC_TABLE_SET = 0,
    MAC_ADDRESS_SET = 1,
    ANNOUNCE_ACK = 0,
    MQ_PAIRS_SET = 0,
    RECEIVE_COMMANDS = 6,
    ANSWER_OK = 0,
    ANSWER_ERROR = 1,
    DATA_OFFSET = 2,
};

static int data_read(struct virtio_net *net, uint64_t offset, void *data, size_t size)
{
    const struct virtqueue *ring = &net->virtio.queues[net_control_queue(net)].ring;

    return virtqueue_chain_read(ring, &net->chain, DATA_OFFSET + offset, data, size);
}

static uint8_t receive_order(struct virtio_net *net, uint8_t command)
{
    uint8_t on;

    if (command >= RECEIVE_COMMANDS || data_read(net, 0, &on, sizeof(on)) < 0) {
        return ANSWER_ERROR;
    }
    net->filter.mode &= ~(1u << command);
    net->filter.mode |= on != 0 ? 1u << command : 0;
    return ANSWER_OK;
}

/* Reads one of the tables at `*offset`, and sets that behind it. */
static int table_read(struct virtio_net *net, uint64_t *offset,
                      struct net_table *ret_table)
{
    uint32_t count;
    int ret = data_read(net, *offset, &count, sizeof(count));

    if (ret < 0) {
        return ret;
    }
    *offset += sizeof(count);
    ret_table->overflow = count > NET_TABLE_MAX;
    ret_table->count = ret_table->overflow ? 0 : count;
    ret = data_read(net, *offset, ret_table->addresses,
                    (size_t)ret_table->count * NET_MAC_SIZE);
    *offset += (uint64_t)count * NET_MAC_SIZE;
    return ret;
}

static uint8_t table_order(struct virtio_net *net)
{
    struct net_table unicast = {0}, multicast = {0};
    uint64_t offset = 0;

    if (table_read(net, &offset, &unicast) < 0 ||
        table_read(net, &offset, &multicast) < 0) {
        return ANSWER_ERROR;
    }
    net->filter.unicast = unicast;
    net->filter.multicast = multicast;
    return ANSWER_OK;
}

static uint8_t address_order(struct virtio_net *net)
{
    uint8_t mac[NET_MAC_SIZE];

    if (data_read(net, 0, mac, sizeof(mac)) < 0 ||
        !net_filter_mac_set(&net->filter, mac)) {
        return ANSWER_ERROR;
    }
    return ANSWER_OK;
}

static uint8_t pairs_order(struct virtio_net *net)
{
    uint16_t pairs;

    if (!virtio_feature(&net->virtio, NET_FEATURE_MQ) ||
        data_read(net, 0, &pairs, sizeof(pairs)) < 0 || pairs < 1 ||
        pairs > net->pair_count) {
        return ANSWER_ERROR;
    }
    net_pairs_set(net, pairs);
    return ANSWER_OK;
}

static uint8_t filter_order(struct virtio_net *net, const uint8_t order[DATA_OFFSET])
{
    uint8_t answer = order[0] == CLASS_RECEIVE     ? receive_order(net, order[1])
                     : order[1] == MAC_TABLE_SET   ? table_order(net)
                     : order[1] == MAC_ADDRESS_SET ? address_order(net)
                                                   : ANSWER_ERROR;

    if (answer == ANSWER_OK) {
        net_filter_changed(net);
    }
    return answer;
}

static uint8_t order_run(struct virtio_net *net)
{
    const struct virtqueue *ring = &net->virtio.queues[net_control_queue(net)].ring;
    uint8_t order[DATA_OFFSET];

    if (virtqueue_chain_read(ring, &net->chain, 0, order, sizeof(order)) < 0) {
        return ANSWER_ERROR;
    }
    if (order[0] == CLASS_RECEIVE || order[0] == CLASS_MAC) {
        return filter_order(net, order);
    }
    if (order[0] == CLASS_MQ && order[1] == MQ_PAIRS_SET) {
        return pairs_order(net);
    }
    if (order[0] == CLASS_ANNOUNCE && order[1] == ANNOUNCE_ACK) {
        net->status &= (uint16_t)~NET_STATUS_ANNOUNCE;
        return ANSWER_OK;
    }
    return ANSWER_ERROR;
}

void net_control_run(struct virtio_net *net)
{
    struct virtio_device *virtio = &net->virtio;
    unsigned index = net_control_queue(net);
    struct virtqueue *ring = &virtio->queues[index].ring;

    for (unsigned i = 0; i < NET_RUN_PACKETS; i++) {
        uint8_t answer;
        int ret;

        virtqueue_notify_enable(ring);
        ret = virtqueue_pop(ring, &net->chain);
        if (ret < 0) {
            virtio_broken(virtio, ring->broken);
            return;
        }
        if (ret == 0) {
            break;
        }
        answer = order_run(net);
        ret = virtqueue_chain_write(ring, &net->chain, 0, &answer, sizeof(answer));
        virtqueue_push(ring, net->chain.head, ret == 0 ? sizeof(answer) : 0);
    }
    virtio_queue_signal(virtio, index);
    if (virtqueue_pending(ring)) {
        virtio_queue_kick(virtio, index);
    }
}
