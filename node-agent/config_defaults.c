/* SPDX-License-Identifier: Apache-2.0 */
/* What droverd's settings are when nobody said: looked up on this host. */
#include "node-agent/config.h"

#include <ctype.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/id.h"
#include "node-agent/link_speed.h"

static void default_name(struct agent_config *config)
{
    char host[256] = "";
    if (gethostname(host, sizeof(host) - 1) != 0) {
        return;
    }
    host[strcspn(host, ".")] = '\0';
    for (char *at = host; *at != '\0'; at++) {
        *at = (char)tolower((unsigned char)*at);
    }
    if (id_name_valid(host)) {
        (void)snprintf(config->name, sizeof(config->name), "%.63s", host);
    }
}

/* The first address that is up and not loopback nor link-local: IPv4 before IPv6. */
static void default_address(struct agent_config *config)
{
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) != 0) {
        return;
    }
    for (int family = AF_INET; config->address[0] == '\0'; family = AF_INET6) {
        for (struct ifaddrs *at = list; at != NULL && config->address[0] == '\0';
             at = at->ifa_next) {
            if (at->ifa_addr == NULL || at->ifa_addr->sa_family != family ||
                (at->ifa_flags & IFF_LOOPBACK) != 0 || (at->ifa_flags & IFF_UP) == 0) {
                continue;
            }
            char host[64];
            socklen_t size = family == AF_INET ? sizeof(struct sockaddr_in)
                                               : sizeof(struct sockaddr_in6);
            if (getnameinfo(at->ifa_addr, size, host, sizeof(host), NULL, 0,
                            NI_NUMERICHOST) == 0 &&
                strchr(host, '%') == NULL) {
                (void)config_join_address(
                    host, CONFIG_PEER_PORT_DEFAULT, config->address,
                    sizeof(config->address)); /* stays empty: told later */
            }
        }
        if (family == AF_INET6) {
            break;
        }
    }
    freeifaddrs(list);
}

static void default_vmm_path(struct agent_config *config)
{
    char self[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (size > 0) {
        self[size] = '\0';
        char *slash = strrchr(self, '/');
        static const char *const beside[] = {"drover-vmm", "../bin/drover-vmm",
                                             "../vmm/drover-vmm"};
        for (size_t i = 0; slash != NULL && i < sizeof(beside) / sizeof(beside[0]); i++) {
            char path[PATH_MAX + 32];
            slash[1] = '\0';
            (void)snprintf(path, sizeof(path), "%s%s", self, beside[i]);
            if (access(path, X_OK) == 0 && strlen(path) < sizeof(config->vmm_path)) {
                (void)snprintf(config->vmm_path, sizeof(config->vmm_path), "%.1023s",
                               path);
                return;
            }
        }
    }
    (void)snprintf(config->vmm_path, sizeof(config->vmm_path), "/usr/bin/drover-vmm");
}

/* Of the cards behind this address, in Mbit/s; 0: not known, as with virtual cards. */
static uint64_t link_mbits(const char *host)
{
    struct ifaddrs *list = NULL;
    uint64_t mbits = 0;
    if (getifaddrs(&list) != 0) {
        return 0;
    }
    for (struct ifaddrs *at = list; at != NULL && mbits == 0; at = at->ifa_next) {
        char name[64];
        bool inet = at->ifa_addr != NULL && (at->ifa_addr->sa_family == AF_INET ||
                                             at->ifa_addr->sa_family == AF_INET6);
        socklen_t size = inet && at->ifa_addr->sa_family == AF_INET
                             ? sizeof(struct sockaddr_in)
                             : sizeof(struct sockaddr_in6);
        if (inet &&
            getnameinfo(at->ifa_addr, size, name, sizeof(name), NULL, 0,
                        NI_NUMERICHOST) == 0 &&
            strcmp(name, host) == 0) {
            mbits = link_speed_mbits(LINK_SPEED_DEVICES, at->ifa_name);
        }
    }
    freeifaddrs(list);
    return mbits;
}

/* Leases, raft and the guests' own traffic share the card with moves: a quarter stays
 * theirs. */
static void default_move_bandwidth(struct agent_config *config)
{
    char host[LIMIT_ADDRESS_SIZE];
    unsigned port = 0;
    config->move_bandwidth = 0;
    if (config_split_address(config->address, CONFIG_PEER_PORT_DEFAULT, host, &port,
                             NULL) == 0) {
        config->move_bandwidth = link_mbits(host) * 1000000 / 8 * 3 / 4;
    }
}

int config_fill_defaults(struct agent_config *config, struct error *err)
{
    if (config->name[0] == '\0') {
        default_name(config);
    }
    if (config->name[0] == '\0') {
        return error_set(err, DROVER_EBADINPUT,
                         "the hostname is no valid host name: give one with --name");
    }
    if (config->address[0] == '\0') {
        default_address(config);
    }
    if (config->address[0] == '\0') {
        return error_set(
            err, DROVER_EBADINPUT,
            "no network address found: give this host's with --address HOST:PORT");
    }
    if (config->api_address[0] == '\0') {
        char host[LIMIT_ADDRESS_SIZE];
        unsigned port = 0;
        int rv = config_split_address(config->address, CONFIG_PEER_PORT_DEFAULT, host,
                                      &port, err);
        if (rv != 0) {
            return rv;
        }
        rv = config_join_address(host, CONFIG_API_PORT_DEFAULT, config->api_address,
                                 sizeof(config->api_address));
        if (rv != 0) {
            return error_set(err, rv, "address: the host's name is too long: shorten it");
        }
    }
    if (config->move_bandwidth == CONFIG_MOVE_BANDWIDTH_AUTO) {
        default_move_bandwidth(config);
    }
    if (config->vmm_path[0] == '\0') {
        default_vmm_path(config);
    }
    return 0;
}
