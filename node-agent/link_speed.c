/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a host's network is. A bridge says what the fastest of its ports says; a guest's tap says 10 Mbit/s,
 * whatever it takes, and a card of a virtual machine says nothing. So a bridge that is asked while guests run on such a
 * host has 10 Mbit/s: only cards are believed, and what joins them.
 */
#include "node-agent/link_speed.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>


/* VLAN on bridge on bond on card, and some. */
#define DEPTH_MAX 8
#define LOWER     "lower_"

static bool has(const char *devices, const char *name, const char *entry)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof(path), "%s/%s/%s", devices, name, entry);
    return length > 0 && (size_t)length < sizeof(path) && access(path, F_OK) == 0;
}

/* What the device itself says. */
static uint64_t said(const char *devices, const char *name)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof(path), "%s/%s/speed", devices, name);
    if (length <= 0 || (size_t)length >= sizeof(path)) {
        return 0;
    }
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return 0;
    }
    long long speed = 0;
    bool is_known = fscanf(file, "%lld", &speed) == 1 && speed > 0; /* -1: it does not know */
    (void)fclose(file);                                             /* only read */
    return is_known ? (uint64_t)speed : 0;
}

/* Of the devices below, the fastest; `ret_any`: whether there is a card at all. */
static uint64_t find(const char *devices, const char *name, unsigned depth, bool *ret_any)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof(path), "%s/%s", devices, name);
    if (has(devices, name, "device")) {
        *ret_any = true;
        return said(devices, name);
    }
    if (depth == DEPTH_MAX || length <= 0 || (size_t)length >= sizeof(path)) {
        return 0;
    }
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return 0;
    }
    uint64_t best = 0;
    bool any = false;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        if (strncmp(entry->d_name, LOWER, strlen(LOWER)) == 0) {
            uint64_t mbits =
                find(devices, entry->d_name + strlen(LOWER), depth + 1, &any);
            best = mbits > best ? mbits : best;
        }
    }
    (void)closedir(dir); /* only read */
    *ret_any = *ret_any || any;
    /* A bond adds up those of its cards that it uses. */
    return any && has(devices, name, "bonding") ? said(devices, name) : best;
}

uint64_t link_speed_mbits(const char *devices, const char *name)
{
    bool any = false;
    return find(devices, name, 0, &any);
}
