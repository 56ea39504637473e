/* SPDX-License-Identifier: Apache-2.0 */
/* Walks along an image's backing files. */
#include "vmm/storage/storage_chain.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/storage/block_disk.h"
#include "vmm/storage/storage_names.h"

/* For names of hosts, which a disk on a server has. */
static const char *const resolver_files[] = {"/etc/resolv.conf", "/etc/hosts",
                                             "/etc/nsswitch.conf", "/etc/host.conf",
                                             "/etc/gai.conf"};

/* One file, while it is looked at. */
struct place {
    char path[PATH_MAX];
    enum storage_format format;
};

struct walk {
    struct storage_chain *chain;
    bool writable; /* the disk */
    struct storage_names names;
    uint8_t data[STORAGE_NAMES_BYTES];
    unsigned ahead; /* of `places`, which are not looked at yet: from `done` on */
    unsigned done;
    struct place places[STORAGE_CHAIN_MAX];
};

char *storage_path_whole(const char *path)
{
    CLEANUP(cleanup_free) char *folder = NULL;
    char *whole = NULL;
    if (path[0] == '/' || storage_is_remote(path)) {
        return strdup(path);
    }
    folder = getcwd(NULL, 0);
    return folder == NULL || asprintf(&whole, "%s/%s", folder, path) < 0 ? NULL : whole;
}

static int file_add(struct storage_chain *chain, const char *path, bool writable)
{
    struct stat status;
    if (stat(path, &status) < 0 || !(S_ISREG(status.st_mode) || S_ISBLK(status.st_mode) ||
                                     S_ISSOCK(status.st_mode))) {
        return 0;
    }
    for (unsigned i = 0; i < chain->count; i++) {
        if (strcmp(chain->files[i].path, path) == 0) {
            chain->files[i].writable = chain->files[i].writable || writable;
            return 0;
        }
    }
    if (chain->count == STORAGE_CHAIN_MAX) {
        return DROVER_ELIMIT;
    }
    char *copy = strdup(path);
    if (copy == NULL) {
        return -ENOMEM;
    }
    chain->files[chain->count++] =
        (struct storage_chain_file){.path = copy, .writable = writable};
    chain->networked = chain->networked || block_disk_is_networked(path);
    return 0;
}

/* Images name what they like. Some devices do something when they are merely opened, and a
 * watchdog resets the host when it is closed again: they are not touched. */
static size_t beginning_read(const char *path, uint8_t *data)
{
    struct stat status;
    if (stat(path, &status) < 0 ||
        !(S_ISREG(status.st_mode) || S_ISBLK(status.st_mode))) {
        return 0;
    }
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t got = fd < 0 ? -1 : pread(fd, data, STORAGE_NAMES_BYTES, 0);
    return got < 0 ? 0 : (size_t)got;
}

static int names_follow(struct walk *walk, const struct place *place)
{
    for (unsigned i = 0; i < walk->names.count; i++) {
        const struct storage_name *name = &walk->names.names[i];
        if (walk->ahead == STORAGE_CHAIN_MAX) {
            return DROVER_ELIMIT;
        }
        struct place *next = &walk->places[walk->ahead];
        if (!storage_name_resolve(place->path, name->text, next->path,
                                  sizeof(next->path))) {
            continue; /* on a server, which the daemon does not reach either */
        }
        int ret = file_add(walk->chain, next->path, walk->writable && !name->backing);
        if (ret < 0) {
            return ret;
        }
        /* Parts name nothing; they, and what a driver is named for, may be what a guest
         * wrote: that is not looked at. */
        bool said =
            name->format != STORAGE_FORMAT_NONE || strncmp(name->text, "json:", 5) != 0;
        if (name->backing && said) {
            next->format = name->format;
            walk->ahead++;
        }
    }
    return 0;
}

static int chain_walk(struct walk *walk)
{
    int ret = 0;
    while (ret == 0 && walk->done < walk->ahead) {
        const struct place *place = &walk->places[walk->done++];
        if (place->format == STORAGE_FORMAT_RAW) {
            continue;
        }
        size_t size = beginning_read(place->path, walk->data);
        enum storage_format format = place->format;
        if (format == STORAGE_FORMAT_NONE) {
            format = storage_format_probe(walk->data, (unsigned)size);
        }
        storage_names_read(walk->data, size, format, &walk->names);
        ret = names_follow(walk, place);
    }
    return ret;
}

static int image_find(const struct storage_disk *disk, const char *path,
                      struct storage_chain *chain)
{
    CLEANUP(cleanup_free) struct walk *walk = malloc(sizeof(*walk));
    if (walk == NULL || strlen(path) >= sizeof(walk->places[0].path)) {
        return walk == NULL ? -ENOMEM : -ENAMETOOLONG;
    }
    walk->chain = chain;
    walk->writable = !disk->read_only;
    walk->done = 0;
    walk->ahead = 1;
    walk->places[0].format = disk->format;
    (void)strcpy(walk->places[0].path, path);
    int ret = file_add(chain, path, !disk->read_only);
    return ret < 0 ? ret : chain_walk(walk);
}

static int server_find(const char *address, struct storage_chain *chain)
{
    const char *socket = strstr(address, "?socket=");
    int ret = 0;
    if (socket != NULL) {
        return file_add(chain, strchr(socket, '=') + 1, true);
    }
    for (unsigned i = 0;
         ret == 0 && i < sizeof(resolver_files) / sizeof(resolver_files[0]); i++) {
        ret = file_add(chain, resolver_files[i], false);
    }
    return ret;
}

int storage_chain_find(const struct storage_disk *disk, struct storage_chain *ret_chain,
                       struct error *err)
{
    CLEANUP(storage_chain_done) struct storage_chain chain = {0};
    CLEANUP(cleanup_free) char *path = storage_path_whole(disk->path);
    CLEANUP(cleanup_free)
    char *key = disk->key != NULL ? storage_path_whole(disk->key) : NULL;
    int ret = path == NULL || (disk->key != NULL && key == NULL) ? -ENOMEM : 0;
    if (ret == 0) {
        ret = storage_is_remote(path) ? server_find(path, &chain)
                                      : image_find(disk, path, &chain);
    }
    if (ret == 0 && key != NULL) {
        ret = file_add(&chain, key, false);
    }
    if (ret == DROVER_ELIMIT) {
        return error_set(err, ret,
                         "disk %s has more than %u backing files: shorten the chain with "
                         "'qemu-img rebase' or 'qemu-img commit'",
                         disk->path, STORAGE_CHAIN_MAX);
    }
    if (ret < 0) {
        return error_set(err, ret, "disk %s: %s", disk->path, err_text(ret));
    }
    *ret_chain = chain;
    chain = (struct storage_chain){0};
    return 0;
}

void storage_chain_done(struct storage_chain *chain)
{
    for (unsigned i = 0; i < chain->count; i++) {
        free(chain->files[i].path);
    }
    *chain = (struct storage_chain){0};
}
