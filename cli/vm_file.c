/* SPDX-License-Identifier: Apache-2.0 */
/* A VM described in a YAML file. */
#include "cli/vm_file.h"

#include <errno.h>
#include <libfyaml.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/limits.h"

#define DEPTH_MAX 8

static int read_all(const char *path, struct buffer *text, struct error *err)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (file == NULL) {
        int rv = -errno;
        return error_set(err, rv, "%s: can't be opened: %s: give a readable file with -f",
                         path, strerror(-rv));
    }
    char part[4096];
    size_t got;
    int rv = 0;
    while (rv == 0 && (got = fread(part, 1, sizeof(part), file)) > 0) {
        rv = buffer_append(text, part, got);
    }
    if (rv == 0 && ferror(file)) {
        rv = -EIO;
    }
    if (file != stdin) {
        (void)fclose(file); /* was only read */
    }
    return rv == 0 ? 0
                   : error_set(err, rv, "%s: can't be read: %s: is it a YAML file?", path,
                               err_text(rv));
}

/* Only plain scalars are numbers and booleans (YAML 1.2 core schema); "quoted" ones stay
 * texts. */
static json_t *convert_scalar(struct fy_node *node)
{
    size_t size = 0;
    const char *text = fy_node_get_scalar(node, &size);
    if (text == NULL) {
        return json_null();
    }
    CLEANUP(cleanup_free) char *copy = strndup(text, size);
    if (copy == NULL) {
        return NULL;
    }
    if (fy_node_get_style(node) != FYNS_PLAIN) {
        return json_string(copy);
    }
    if (strcmp(copy, "true") == 0 || strcmp(copy, "false") == 0) {
        return json_boolean(copy[0] == 't');
    }
    if (strcmp(copy, "null") == 0 || strcmp(copy, "~") == 0 || copy[0] == '\0') {
        return json_null();
    }
    char *end = NULL;
    errno = 0;
    long long number = strtoll(copy, &end, 10);
    bool is_number = errno == 0 && *end == '\0' && copy[0] != '+' && copy[0] != ' ';
    return is_number ? json_integer(number) : json_string(copy);
}

static json_t *convert(struct fy_node *node, unsigned depth);

static json_t *convert_sequence(struct fy_node *node, unsigned depth)
{
    json_t *array = json_array();
    void *at = NULL;
    struct fy_node *item;
    while ((item = fy_node_sequence_iterate(node, &at)) != NULL) {
        if (json_array_append_new(array, convert(item, depth + 1)) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *convert_mapping(struct fy_node *node, unsigned depth)
{
    json_t *object = json_object();
    void *at = NULL;
    struct fy_node_pair *pair;
    while ((pair = fy_node_mapping_iterate(node, &at)) != NULL) {
        size_t size = 0;
        const char *key = fy_node_get_scalar(fy_node_pair_key(pair), &size);
        CLEANUP(cleanup_free) char *copy = key != NULL ? strndup(key, size) : NULL;
        if (copy == NULL ||
            json_object_set_new(object, copy,
                                convert(fy_node_pair_value(pair), depth + 1)) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *convert(struct fy_node *node, unsigned depth)
{
    if (node == NULL) {
        return json_null();
    }
    if (depth > DEPTH_MAX) {
        return NULL;
    }
    switch (fy_node_get_type(node)) {
    case FYNT_SCALAR:
        return convert_scalar(node);
    case FYNT_SEQUENCE:
        return convert_sequence(node, depth);
    case FYNT_MAPPING:
        return convert_mapping(node, depth);
    }
    return NULL;
}

static int parse_error(const char *path, struct fy_diag *diag, struct error *err)
{
    void *at = NULL;
    const struct fy_diag_error *first = fy_diag_errors_iterate(diag, &at);
    if (first == NULL) {
        return error_set(err, DROVER_EBADINPUT, "%s: is no YAML", path);
    }
    return error_set(err, DROVER_EBADINPUT, "%s:%d: %s", path, first->line, first->msg);
}

int vm_file_load(const char *path, json_t **ret_vm, struct error *err)
{
    CLEANUP(buffer_done) struct buffer text;
    buffer_init(&text, LIMIT_API_BODY_BYTES);
    int rv = read_all(path, &text, err);
    if (rv != 0) {
        return rv;
    }
    if (text.size == 0) {
        return error_set(err, DROVER_EBADINPUT, "%s: is empty: describe a VM in it",
                         path);
    }
    struct fy_diag_cfg diag_config;
    fy_diag_cfg_default(&diag_config);
    diag_config.fp = NULL;
    struct fy_diag *diag = fy_diag_create(&diag_config);
    fy_diag_set_collect_errors(diag, true);
    struct fy_parse_cfg config = {.diag = diag, .flags = FYPCF_RESOLVE_DOCUMENT};
    struct fy_document *document =
        fy_document_build_from_string(&config, (const char *)text.data, text.size);
    if (document == NULL) {
        rv = parse_error(path, diag, err);
    } else {
        struct fy_node *root = fy_document_root(document);
        json_t *vm = root != NULL && fy_node_get_type(root) == FYNT_MAPPING
                         ? convert(root, 0)
                         : NULL;
        if (vm == NULL) {
            rv = error_set(err, DROVER_EBADINPUT,
                           "%s: must hold one VM: lines like `name: web`", path);
        } else {
            *ret_vm = vm;
        }
    }
    fy_document_destroy(document);
    fy_diag_destroy(diag);
    return rv;
}
