/* SPDX-License-Identifier: Apache-2.0 */
/* --net tap=NAME[,mac=MAC][,queues=N][,mtu=N][,bps=SIZE][,vhost=on|off|auto][,any-mac]
 * [,boot=N] */
#include "vmm/options/options_net.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "vmm/options/options.h"
#include "vmm/options/options_firmware.h"
#include "vmm/virtio/net_tap.h"

#define VALUE_SIZE 64
#define MTU_MIN    68 /* of IPv4 */
#define MTU_MAX    65535

static const char usage[] = "tap=NAME[,mac=MAC][,queues=N][,mtu=N][,bps=SIZE]"
                            "[,vhost=on|off|auto][,any-mac][,boot=N]";

static int number(const char *key, const char *value, unsigned least, unsigned most,
                  unsigned *ret_number, struct error *err)
{
    char *end = NULL;
    unsigned long parsed =
        value[0] >= '0' && value[0] <= '9' ? strtoul(value, &end, 10) : 0;

    if (end == NULL || *end != '\0' || parsed < least || parsed > most) {
        return error_set(err, DROVER_EBADINPUT,
                         "--net: %s=%s: give a number from %u to %u", key, value, least,
                         most);
    }
    *ret_number = (unsigned)parsed;
    return 0;
}

static int vhost_set(const char *value, struct options_net *net, struct error *err)
{
    if (strcmp(value, "on") == 0) {
        net->vhost = VIRTIO_NET_VHOST_ON;
    } else if (strcmp(value, "off") == 0) {
        net->vhost = VIRTIO_NET_VHOST_OFF;
    } else if (strcmp(value, "auto") == 0) {
        net->vhost = VIRTIO_NET_VHOST_AUTO;
    } else {
        return error_set(err, DROVER_EBADINPUT, "--net: vhost=%s: give on, off or auto",
                         value);
    }
    return 0;
}

static int part_set(const char *key, const char *value, struct options_net *net,
                    struct error *err)
{
    if (strcmp(key, "tap") == 0 && value[0] != '\0') {
        memcpy(net->tap, value, strlen(value) + 1);
        return 0;
    }
    if (strcmp(key, "mac") == 0) {
        net->has_mac = virtio_net_mac_parse(value, net->mac) == 0;
        return net->has_mac
                   ? 0
                   : error_set(err, DROVER_EBADINPUT,
                               "mac=%s: give an address such as 52:54:00:12:34:56",
                               value);
    }
    if (strcmp(key, "queues") == 0) {
        return number(key, value, 1, NET_PAIRS_MAX, &net->queues, err);
    }
    if (strcmp(key, "mtu") == 0) {
        return number(key, value, MTU_MIN, MTU_MAX, &net->mtu, err);
    }
    if (strcmp(key, "bps") == 0) {
        return options_size_parse(value, &net->bytes_per_s) == 0
                   ? 0
                   : error_set(err, DROVER_EBADINPUT,
                               "--net: bps=%s: give bytes per second, such as 10M",
                               value);
    }
    if (strcmp(key, "vhost") == 0) {
        return vhost_set(value, net, err);
    }
    if (strcmp(key, "boot") == 0) {
        return options_boot_parse("--net", value, &net->boot, err);
    }
    if (strcmp(key, "any-mac") == 0) {
        net->any_mac = true;
        return 0;
    }
    return error_set(err, DROVER_EBADINPUT, "--net: what is \"%s\"? Give %s", key, usage);
}

int options_net_parse(const char *text, struct options_net *ret_net, struct error *err)
{
    struct options_net net = {.queues = 1, .vhost = VIRTIO_NET_VHOST_AUTO};

    static_assert(VALUE_SIZE <= LIMIT_NAME_SIZE, "a value fits where it goes");
    for (const char *part = text; *part != '\0';) {
        char key[VALUE_SIZE];
        char *value;
        size_t size = strcspn(part, ",");
        int result;

        if (size >= sizeof(key)) {
            return error_set(err, DROVER_EBADINPUT, "--net %s: give %s", text, usage);
        }
        memcpy(key, part, size);
        key[size] = '\0';
        value = strchr(key, '=');
        if (value != NULL) {
            *value++ = '\0';
        } else if (strcmp(key, "any-mac") != 0) {
            return error_set(err, DROVER_EBADINPUT, "--net %s: give %s", text, usage);
        }
        result = part_set(key, value != NULL ? value : "", &net, err);
        if (result < 0) {
            return result;
        }
        part += size;
        part += *part == ',' ? 1 : 0;
    }
    if (net.tap[0] == '\0') {
        return error_set(err, DROVER_EBADINPUT, "--net %s: give %s", text, usage);
    }
    *ret_net = net;
    return 0;
}
