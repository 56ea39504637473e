/* SPDX-License-Identifier: Apache-2.0 */
/* Frames by their addresses. */
#include "vmm/virtio/net_filter.h"

#include <string.h>

#include "base/err.h"
#include "vmm/virtio/virtio_net.h"

void net_filter_reset(struct net_filter *filter)
{
    memcpy(filter->mac, filter->own, NET_MAC_SIZE);
    filter->mode = NET_RECEIVE_PROMISCUOUS;
    filter->unicast = (struct net_table){0};
    filter->multicast = (struct net_table){0};
}

static bool table_has(const struct net_table *table, const uint8_t mac[NET_MAC_SIZE])
{
    for (unsigned i = 0; i < table->count; i++) {
        if (memcmp(table->addresses[i], mac, NET_MAC_SIZE) == 0) {
            return true;
        }
    }
    return table->overflow;
}

bool net_filter_takes(const struct net_filter *filter,
                      const uint8_t destination[NET_MAC_SIZE])
{
    static const uint8_t broadcast[NET_MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    if (filter->mode & NET_RECEIVE_PROMISCUOUS) {
        return true;
    }
    if (memcmp(destination, broadcast, NET_MAC_SIZE) == 0) {
        return !(filter->mode & NET_RECEIVE_NO_BROADCAST);
    }
    if (destination[0] & 1) {
        return !(filter->mode & NET_RECEIVE_NO_MULTICAST) &&
               ((filter->mode & NET_RECEIVE_ALL_MULTICAST) ||
                table_has(&filter->multicast, destination));
    }
    return !(filter->mode & NET_RECEIVE_NO_UNICAST) &&
           ((filter->mode & NET_RECEIVE_ALL_UNICAST) ||
            memcmp(destination, filter->mac, NET_MAC_SIZE) == 0 ||
            table_has(&filter->unicast, destination));
}

bool net_filter_may_send(const struct net_filter *filter,
                         const uint8_t source[NET_MAC_SIZE])
{
    return filter->any_mac || memcmp(source, filter->own, NET_MAC_SIZE) == 0;
}

bool net_filter_mac_set(struct net_filter *filter, const uint8_t mac[NET_MAC_SIZE])
{
    static const uint8_t zero[NET_MAC_SIZE];

    if ((mac[0] & 1) != 0 || memcmp(mac, zero, NET_MAC_SIZE) == 0 ||
        !net_filter_may_send(filter, mac)) {
        return false;
    }
    memcpy(filter->mac, mac, NET_MAC_SIZE);
    return true;
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
