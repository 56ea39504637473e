/* SPDX-License-Identifier: Apache-2.0 */
/* The value of --net, judged. Pure. */
#ifndef DROVER_VMM_OPTIONS_OPTIONS_NET_H
#define DROVER_VMM_OPTIONS_OPTIONS_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "vmm/virtio/virtio_net.h"

struct error;

struct options_net {
    char tap[LIMIT_NAME_SIZE];
    bool has_mac; /* else one is made up */
    uint8_t mac[6];
    bool any_mac;
    unsigned queues;      /* pairs */
    unsigned mtu;         /* 0: the guest is told none */
    uint64_t bytes_per_s; /* 0: no limit */
    unsigned boot;        /* place in the boot order from 1 on; 0: none */
    enum virtio_net_vhost vhost;
};

/* DROVER_EBADINPUT with one line. */
int options_net_parse(const char *text, struct options_net *ret_net, struct error *err);

#endif
