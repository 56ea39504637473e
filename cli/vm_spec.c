/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's description as JSON. */
#include "cli/vm_spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/err.h"

int vm_spec_disk(const char *text, json_t **ret_disk, struct error *err)
{
    CLEANUP(cleanup_free) char *copy = strdup(text);
    if (copy == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    char *rest = copy;
    const char *path = strsep(&rest, ",");
    int readonly = 0, direct = 0;
    for (const char *word = strsep(&rest, ","); word != NULL; word = strsep(&rest, ",")) {
        if (strcmp(word, "ro") == 0) {
            readonly = 1;
        } else if (strcmp(word, "direct") == 0) {
            direct = 1;
        } else {
            return error_set(err, DROVER_EBADINPUT,
                             "--disk %s: \"%s\" is neither ro nor direct", text, word);
        }
    }
    if (path[0] != '/') {
        return error_set(err, DROVER_EBADINPUT,
                         "--disk %s: give the absolute path, the same on every host that "
                         "may run the VM",
                         text);
    }
    json_t *disk = json_pack("{s:s, s:b, s:b}", "path", path, "readonly", readonly,
                             "direct", direct);
    if (disk == NULL) {
        return error_set(err, DROVER_EBADINPUT, "--disk: the path is no UTF-8 text");
    }
    *ret_disk = disk;
    return 0;
}

int vm_spec_nic(const char *text, json_t **ret_nic, struct error *err)
{
    CLEANUP(cleanup_free) char *copy = strdup(text);
    json_t *nic = json_object();
    if (copy == NULL || nic == NULL) {
        json_decref(nic);
        return error_set(err, -ENOMEM, "out of memory");
    }
    char *rest = copy;
    for (char *word = strsep(&rest, ","); word != NULL; word = strsep(&rest, ",")) {
        char *value = strchr(word, '=');
        int rv = 0;
        if (strcmp(word, "default") == 0 || word[0] == '\0') {
            continue;
        }
        if (value != NULL) {
            *value++ = '\0';
        }
        if (value != NULL && (strcmp(word, "bridge") == 0 || strcmp(word, "mac") == 0)) {
            rv = json_object_set_new(nic, word, json_string(value));
        } else {
            json_decref(nic);
            return error_set(err, DROVER_EBADINPUT,
                             "--net %s: give bridge=NAME, mac=MAC, both with a comma "
                             "between, or default",
                             text);
        }
        if (rv != 0) {
            json_decref(nic);
            return error_set(err, DROVER_EBADINPUT, "--net: \"%s\" is no UTF-8 text",
                             word);
        }
    }
    *ret_nic = nic;
    return 0;
}
