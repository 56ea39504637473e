/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's description as JSON. */
#include "cli/vm_spec.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/err.h"

enum word_kind {
    WORD_TEXT,
    WORD_NUMBER,
    WORD_FLAG, /* without a value */
};

/* What may stand between the commas, and the field that it becomes. */
struct word {
    const char *name;
    const char *field;
    enum word_kind kind;
};

static const struct word disk_words[] = {
    {"ro", "readonly", WORD_FLAG},         {"direct", "direct", WORD_FLAG},
    {"format", "format", WORD_TEXT},       {"serial", "serial", WORD_TEXT},
    {"queues", "queues", WORD_NUMBER},     {"iops", "iops", WORD_NUMBER},
    {"bandwidth", "bandwidth", WORD_TEXT}, {"boot", "boot", WORD_NUMBER},
    {"key", "key_file", WORD_TEXT},
};

static const struct word cdrom_words[] = {{"boot", "boot", WORD_NUMBER}};

static const struct word nic_words[] = {
    {"bridge", "bridge", WORD_TEXT},       {"mac", "mac", WORD_TEXT},
    {"queues", "queues", WORD_NUMBER},     {"mtu", "mtu", WORD_NUMBER},
    {"bandwidth", "bandwidth", WORD_TEXT}, {"any-mac", "any_mac", WORD_FLAG},
    {"boot", "boot", WORD_NUMBER},         {"vhost", "vhost", WORD_TEXT},
};

struct grammar {
    const char *option; /* "--disk" */
    const char *usage;
    const struct word *words;
    size_t count;
};

#define GRAMMAR(option, usage, table)                                                    \
    {                                                                                    \
        option, usage, table, sizeof(table) / sizeof((table)[0])                         \
    }

static const struct word *find_word(const struct grammar *grammar, const char *name)
{
    for (size_t i = 0; i < grammar->count; i++) {
        if (strcmp(grammar->words[i].name, name) == 0) {
            return &grammar->words[i];
        }
    }
    return NULL;
}

static json_t *word_value(const struct word *word, const char *value)
{
    char *end = NULL;
    if (word->kind == WORD_FLAG) {
        return value == NULL ? json_true() : NULL;
    }
    if (value == NULL || value[0] == '\0') {
        return NULL;
    }
    if (word->kind == WORD_TEXT) {
        return json_string(value);
    }
    errno = 0;
    long long number = strtoll(value, &end, 10);
    bool fine = errno == 0 && value[0] >= '0' && value[0] <= '9' && *end == '\0';
    return fine ? json_integer(number) : NULL;
}

static int take_word(const struct grammar *grammar, char *text, json_t *object,
                     struct error *err)
{
    char *value = strchr(text, '=');
    if (value != NULL) {
        *value++ = '\0';
    }
    const struct word *word = find_word(grammar, text);
    if (word == NULL) {
        return error_set(err, DROVER_EBADINPUT, "%s: what is \"%s\"? Give %s",
                         grammar->option, text, grammar->usage);
    }
    json_t *json = word_value(word, value);
    if (json == NULL) {
        static const char *const wanted[] = {"a text", "a whole number", "no value"};
        return error_set(err, DROVER_EBADINPUT, "%s: %s takes %s: give %s",
                         grammar->option, text, wanted[word->kind], grammar->usage);
    }
    return json_object_set_new(object, word->field, json) == 0 ? 0 : -ENOMEM;
}

/* The words of `rest`, which is written into. */
static int take_words(const struct grammar *grammar, char *rest, json_t *object,
                      struct error *err)
{
    for (char *word = strsep(&rest, ","); word != NULL; word = strsep(&rest, ",")) {
        int rv = take_word(grammar, word, object, err);
        if (rv != 0) {
            return rv == -ENOMEM ? error_set(err, rv, "out of memory") : rv;
        }
    }
    return 0;
}

static bool is_remote(const char *path)
{
    return strncmp(path, "nbd://", 6) == 0 || strncmp(path, "nbd+unix://", 11) == 0;
}

static int read_disk(const struct grammar *grammar, const char *text, json_t **ret_disk,
                     struct error *err)
{
    CLEANUP(cleanup_free) char *copy = strdup(text);
    if (copy == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    char *rest = copy;
    const char *path = strsep(&rest, ",");
    if (path[0] != '/' && !is_remote(path)) {
        return error_set(err, DROVER_EBADINPUT,
                         "%s %s: give the absolute path, the same on every host that "
                         "may run the VM",
                         grammar->option, text);
    }
    json_t *disk = json_pack("{s:s}", "path", path);
    if (disk == NULL) {
        return error_set(err, DROVER_EBADINPUT, "%s: the path is no UTF-8 text",
                         grammar->option);
    }
    int rv = rest == NULL ? 0 : take_words(grammar, rest, disk, err);
    if (rv != 0) {
        json_decref(disk);
        return rv;
    }
    *ret_disk = disk;
    return 0;
}

int vm_spec_disk(const char *text, json_t **ret_disk, struct error *err)
{
    const struct grammar grammar =
        GRAMMAR("--disk",
                "PATH[,format=NAME][,ro][,direct][,serial=TEXT][,queues=N][,iops=N]"
                "[,bandwidth=SIZE][,boot=N][,key=FILE]",
                disk_words);
    return read_disk(&grammar, text, ret_disk, err);
}

int vm_spec_cdrom(const char *text, json_t **ret_disk, struct error *err)
{
    const struct grammar grammar = GRAMMAR("--cdrom", "PATH[,boot=N]", cdrom_words);
    json_t *disk = NULL;
    int rv = read_disk(&grammar, text, &disk, err);
    if (rv == 0 && json_object_set_new(disk, "cdrom", json_true()) != 0) {
        json_decref(disk);
        return error_set(err, -ENOMEM, "out of memory");
    }
    if (rv == 0) {
        *ret_disk = disk;
    }
    return rv;
}

int vm_spec_nic(const char *text, json_t **ret_nic, struct error *err)
{
    const struct grammar grammar = GRAMMAR(
        "--net",
        "default, or bridge=NAME, mac=MAC, queues=N, mtu=N, bandwidth=SIZE, any-mac, "
        "boot=N, vhost=on|off with commas between",
        nic_words);
    CLEANUP(cleanup_free) char *copy = strdup(text);
    json_t *nic = json_object();
    if (copy == NULL || nic == NULL) {
        json_decref(nic);
        return error_set(err, -ENOMEM, "out of memory");
    }
    char *rest = copy;
    if (strcmp(copy, "default") == 0 || copy[0] == '\0') {
        rest = NULL;
    } else if (strncmp(copy, "default,", 8) == 0) {
        rest = copy + 8;
    }
    int rv = rest == NULL ? 0 : take_words(&grammar, rest, nic, err);
    if (rv != 0) {
        json_decref(nic);
        return rv;
    }
    *ret_nic = nic;
    return 0;
}
