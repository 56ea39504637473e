/* SPDX-License-Identifier: Apache-2.0 */
/* How fast a host's network is, as the kernel tells it of its devices. */
#ifndef DROVER_NODE_AGENT_LINK_SPEED_H
#define DROVER_NODE_AGENT_LINK_SPEED_H

#include <stdint.h>

#define LINK_SPEED_DEVICES "/sys/class/net"

/*
 * Of the cards that device `name` stands on, in Mbit/s; 0: not known. What has no card below it, such as a guest's tap, says
 * something too, and it means nothing. `devices`: LINK_SPEED_DEVICES.
 */
uint64_t link_speed_mbits(const char *devices, const char *name);

#endif
