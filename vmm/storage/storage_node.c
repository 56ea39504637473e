/* SPDX-License-Identifier: Apache-2.0 */
/* Block nodes of the storage daemon. */
#include "vmm/storage/storage_node.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/limits.h"

/* How long requests wait for a server that has gone away, before the guest gets errors.
 */
#define NBD_RECONNECT_S 10

struct nbd_address {
    char host[LIMIT_PATH_SIZE]; /* or the socket's path */
    char port[8];
    char name[LIMIT_PATH_SIZE];
};

static int part_copy(char *to, size_t room, const char *from, size_t size)
{
    if (size >= room) {
        return DROVER_EBADINPUT;
    }
    memcpy(to, from, size);
    to[size] = '\0';
    return 0;
}

/* HOST:PORT/NAME; [::1]:PORT/NAME; the port and the name may be missing. */
static int inet_parse(const char *text, struct nbd_address *ret_address)
{
    const char *slash = strchr(text, '/');
    size_t size = slash != NULL ? (size_t)(slash - text) : strlen(text);
    const char *colon = memrchr(text, ':', size);
    const char *bracket = memrchr(text, ']', size);
    size_t host_size = colon != NULL && (bracket == NULL || colon > bracket)
                           ? (size_t)(colon - text)
                           : size;
    int ret = 0;

    (void)strcpy(ret_address->port, "10809");
    if (host_size < size) {
        ret = part_copy(ret_address->port, sizeof(ret_address->port),
                        text + host_size + 1, size - host_size - 1);
        if (ret < 0 || ret_address->port[0] == '\0' ||
            strspn(ret_address->port, "0123456789") != strlen(ret_address->port)) {
            return DROVER_EBADINPUT;
        }
    }
    if (bracket != NULL && text[0] == '[' && bracket + 1 == text + host_size) {
        text++;
        host_size -= 2;
    }
    ret = host_size == 0
              ? DROVER_EBADINPUT
              : part_copy(ret_address->host, sizeof(ret_address->host), text, host_size);
    return ret < 0 || slash == NULL
               ? ret
               : part_copy(ret_address->name, sizeof(ret_address->name), slash + 1,
                           strlen(slash + 1));
}

/* /NAME?socket=PATH */
static int unix_parse(const char *text, struct nbd_address *ret_address)
{
    static const char key[] = "?socket=";
    const char *query = strstr(text, key);

    if (text[0] != '/' || query == NULL || query[sizeof(key) - 1] == '\0') {
        return DROVER_EBADINPUT;
    }
    int ret = part_copy(ret_address->name, sizeof(ret_address->name), text + 1,
                        (size_t)(query - text) - 1);
    return ret < 0 ? ret
                   : part_copy(ret_address->host, sizeof(ret_address->host),
                               query + sizeof(key) - 1, strlen(query + sizeof(key) - 1));
}

static json_t *nbd_build(const char *path, struct error *err)
{
    struct nbd_address address = {0};
    bool is_unix = strncmp(path, "nbd+unix://", 11) == 0;
    int ret = is_unix ? unix_parse(path + 11, &address) : inet_parse(path + 6, &address);
    json_t *server;

    if (ret < 0) {
        (void)error_set(err, DROVER_EBADINPUT,
                        "disk %s: give nbd://HOST:PORT/NAME or "
                        "nbd+unix:///NAME?socket=PATH",
                        path);
        return NULL;
    }
    server = is_unix ? json_pack("{s:s,s:s}", "type", "unix", "path", address.host)
                     : json_pack("{s:s,s:s,s:s}", "type", "inet", "host", address.host,
                                 "port", address.port);
    return json_pack("{s:s,s:o,s:s,s:i}", "driver", "nbd", "server", server, "export",
                     address.name, "reconnect-delay", NBD_RECONNECT_S);
}

/* A daemon that has died, and been seen to, has no I/O left in the host's kernel: that
 * holds for threads and native AIO, not for io_uring. */
static json_t *file_build(const struct storage_disk *disk, bool direct, bool locking)
{
    struct stat status;
    bool is_device = stat(disk->path, &status) == 0 && S_ISBLK(status.st_mode);

    return json_pack("{s:s,s:s,s:s,s:s}", "driver", is_device ? "host_device" : "file",
                     "filename", disk->path, "aio", direct ? "native" : "threads",
                     "locking", locking ? "auto" : "off");
}

static json_t *common_add(json_t *node, const struct storage_disk *disk, bool direct)
{
    if (node == NULL ||
        json_object_set_new(node, "read-only", json_boolean(disk->read_only)) < 0 ||
        json_object_set_new(node, "discard", json_string("unmap")) < 0 ||
        json_object_set_new(
            node, "cache", json_pack("{s:b,s:b}", "direct", direct, "no-flush", 0)) < 0) {
        json_decref(node);
        return NULL;
    }
    return node;
}

static json_t *format_build(const struct storage_disk *disk, json_t *file)
{
    json_t *node =
        json_pack("{s:s,s:o}", "driver", storage_format_name(disk->format), "file", file);

    if (node == NULL || disk->key == NULL) {
        return node;
    }
    if (disk->format == STORAGE_FORMAT_LUKS) {
        (void)json_object_set_new(node, "key-secret", json_string(STORAGE_KEY_NAME));
    } else {
        (void)json_object_set_new(
            node, "encrypt",
            json_pack("{s:s,s:s}", "format", "luks", "key-secret", STORAGE_KEY_NAME));
    }
    return node;
}

int storage_node_build(const struct storage_disk *disk, bool direct, bool locking,
                       json_t **ret_node, struct error *err)
{
    bool remote = storage_is_remote(disk->path);
    struct error reason = {0};
    json_t *node =
        remote ? nbd_build(disk->path, &reason) : file_build(disk, direct, locking);

    if (node == NULL && reason.code != 0) {
        return error_set(err, reason.code, "%s", reason.text);
    }
    node = common_add(node, disk, direct && !remote);
    if (node != NULL && disk->format > STORAGE_FORMAT_RAW) {
        node = common_add(format_build(disk, node), disk, direct && !remote);
    }
    if (node == NULL ||
        json_object_set_new(node, "node-name", json_string(STORAGE_NODE_NAME)) < 0) {
        json_decref(node);
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s: its path can't be told to the storage daemon (UTF-8?)",
                         disk->path);
    }
    *ret_node = node;
    return 0;
}
