/* SPDX-License-Identifier: Apache-2.0 */
/* The description of a VM, between JSON and the cluster's message. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/limits.h"
#include "node-agent/json_reader.h"
#include "node-agent/json_vm.h"

/* A message made by hand is freed like an unpacked one: all of it is malloc'ed. */
void json_vm_spec_free(Drover__VmSpec *spec)
{
    if (spec != NULL) {
        drover__vm_spec__free_unpacked(spec, NULL);
    }
}

/* protobuf-c knows an empty text by its address, and does not free that one. */
static int set_text(char **field, const char *text)
{
    if (text[0] == '\0') {
        return 0;
    }
    char *copy = strdup(text);
    if (copy == NULL) {
        return -ENOMEM;
    }
    *field = copy;
    return 0;
}

static int read_disk(const json_t *object, size_t index, Drover__DiskSpec *disk,
                     struct error *err)
{
    struct json_reader reader;
    char where[64];
    (void)snprintf(where, sizeof(where), "disks[%zu].", index);
    json_reader_init(&reader, object, where, err);
    json_reader_require(&reader, "path");
    const char *path = json_reader_text(&reader, "path", "");
    disk->readonly = json_reader_bool(&reader, "readonly", false);
    disk->direct = json_reader_bool(&reader, "direct", false);
    int rv = json_reader_end(&reader);
    if (rv != 0) {
        return rv;
    }
    if (strchr(path, ',') != NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "%spath: commas are not possible in a disk's path: rename it",
                         where);
    }
    return set_text(&disk->path, path);
}

static int read_nic(const json_t *object, size_t index, Drover__NicSpec *nic,
                    struct error *err)
{
    struct json_reader reader;
    char where[64];
    (void)snprintf(where, sizeof(where), "nics[%zu].", index);
    json_reader_init(&reader, object, where, err);
    const char *bridge = json_reader_text(&reader, "bridge", "");
    const char *mac = json_reader_text(&reader, "mac", "");
    int rv = json_reader_end(&reader);
    rv = rv != 0 ? rv : set_text(&nic->bridge, bridge);
    return rv != 0 ? rv : set_text(&nic->mac, mac);
}

static int read_disks(const json_t *array, Drover__VmSpec *spec, struct error *err)
{
    size_t count = json_array_size(array);
    if (count == 0) {
        return 0;
    }
    spec->disks = calloc(count, sizeof(*spec->disks));
    if (spec->disks == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        Drover__DiskSpec *disk = malloc(sizeof(*disk));
        if (disk == NULL) {
            return -ENOMEM;
        }
        drover__disk_spec__init(disk);
        spec->disks[spec->n_disks++] = disk;
        int rv = read_disk(json_array_get(array, i), i, disk, err);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int read_nics(const json_t *array, Drover__VmSpec *spec, struct error *err)
{
    size_t count = json_array_size(array);
    if (count == 0) {
        return 0;
    }
    spec->nics = calloc(count, sizeof(*spec->nics));
    if (spec->nics == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        Drover__NicSpec *nic = malloc(sizeof(*nic));
        if (nic == NULL) {
            return -ENOMEM;
        }
        drover__nic_spec__init(nic);
        spec->nics[spec->n_nics++] = nic;
        int rv = read_nic(json_array_get(array, i), i, nic, err);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int read_fields(const json_t *object, const char *name, Drover__VmSpec *spec,
                       bool *ret_start, struct error *err)
{
    struct json_reader reader;
    json_reader_init(&reader, object, "", err);
    if (name == NULL) {
        json_reader_require(&reader, "name");
    }
    json_reader_require(&reader, "memory");
    const char *given = json_reader_text(&reader, "name", name == NULL ? "" : name);
    spec->memory_bytes = json_reader_size(&reader, "memory");
    spec->cpus = (uint32_t)json_reader_number(&reader, "cpus", 1, LIMIT_VCPUS, 1);
    const char *kernel = json_reader_text(&reader, "kernel", "");
    const char *initrd = json_reader_text(&reader, "initrd", "");
    const char *cmdline = json_reader_text(&reader, "cmdline", "");
    const char *firmware = json_reader_text(&reader, "firmware", "");
    const json_t *disks = json_reader_array(&reader, "disks", LIMIT_VM_DISKS);
    const json_t *nics = json_reader_array(&reader, "nics", LIMIT_VM_NICS);
    spec->ha = json_reader_bool(&reader, "ha", true);
    *ret_start = json_reader_bool(&reader, "start", true);
    int rv = json_reader_end(&reader);
    if (rv == 0 && name != NULL && strcmp(given, name) != 0) {
        rv = error_set(
            err, DROVER_EBADINPUT,
            "name: '%.70s' is not the VM of the path: leave it out, or make them equal",
            given);
    }
    rv = rv != 0 ? rv : set_text(&spec->name, given);
    rv = rv != 0 ? rv : set_text(&spec->kernel, kernel);
    rv = rv != 0 ? rv : set_text(&spec->initrd, initrd);
    rv = rv != 0 ? rv : set_text(&spec->cmdline, cmdline);
    rv = rv != 0 ? rv : set_text(&spec->firmware, firmware);
    rv = rv != 0 ? rv : read_disks(disks, spec, err);
    return rv != 0 ? rv : read_nics(nics, spec, err);
}

int json_vm_spec_read(const json_t *object, const char *name, Drover__VmSpec **ret_spec,
                      bool *ret_start, struct error *err)
{
    bool start = true;
    Drover__VmSpec *spec = malloc(sizeof(*spec));
    if (spec == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    drover__vm_spec__init(spec);
    int rv = read_fields(object, name, spec, &start, err);
    if (rv != 0) {
        json_vm_spec_free(spec);
        return rv == -ENOMEM ? error_set(err, rv, "out of memory") : rv;
    }
    *ret_spec = spec;
    *ret_start = start;
    return 0;
}

json_t *json_vm_spec(const Drover__VmSpec *spec)
{
    char memory[JSON_SIZE_TEXT_SIZE];
    json_size_text(spec->memory_bytes, memory);
    json_t *disks = json_array();
    json_t *nics = json_array();
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Drover__DiskSpec *disk = spec->disks[i];
        (void)json_array_append_new(
            disks, json_pack("{s:s, s:b, s:b}", "path", disk->path, "readonly",
                             disk->readonly, "direct", disk->direct));
    }
    for (size_t i = 0; i < spec->n_nics; i++) {
        const Drover__NicSpec *nic = spec->nics[i];
        (void)json_array_append_new(
            nics, json_pack("{s:s, s:s}", "bridge", nic->bridge, "mac", nic->mac));
    }
    return json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:s, s:o, s:o, s:b}", "name",
                     spec->name, "memory", memory, "cpus", (int)spec->cpus, "kernel",
                     spec->kernel, "initrd", spec->initrd, "cmdline", spec->cmdline,
                     "firmware", spec->firmware, "disks", disks, "nics", nics, "ha",
                     spec->ha);
}

static bool disks_differ(const Drover__VmSpec *is, const Drover__VmSpec *wanted)
{
    bool differ = is->n_disks != wanted->n_disks;
    for (size_t i = 0; !differ && i < is->n_disks; i++) {
        const Drover__DiskSpec *one = is->disks[i];
        const Drover__DiskSpec *other = wanted->disks[i];
        differ = strcmp(one->path, other->path) != 0 ||
                 one->readonly != other->readonly || one->direct != other->direct;
    }
    return differ;
}

static bool nics_differ(const Drover__VmSpec *is, const Drover__VmSpec *wanted)
{
    bool differ = is->n_nics != wanted->n_nics;
    for (size_t i = 0; !differ && i < is->n_nics; i++) {
        const Drover__NicSpec *one = is->nics[i];
        const Drover__NicSpec *other = wanted->nics[i];
        differ = strcmp(one->bridge, other->bridge) != 0 ||
                 (other->mac[0] != '\0' && strcmp(one->mac, other->mac) != 0);
    }
    return differ;
}

const char *json_vm_spec_difference(const Drover__VmSpec *is,
                                    const Drover__VmSpec *wanted)
{
    const struct {
        const char *name;
        bool differs;
    } fields[] = {
        {"memory", is->memory_bytes != wanted->memory_bytes},
        {"cpus", is->cpus != wanted->cpus},
        {"kernel", strcmp(is->kernel, wanted->kernel) != 0},
        {"initrd", strcmp(is->initrd, wanted->initrd) != 0},
        {"cmdline", strcmp(is->cmdline, wanted->cmdline) != 0},
        {"firmware", strcmp(is->firmware, wanted->firmware) != 0},
        {"disks", disks_differ(is, wanted)},
        {"nics", nics_differ(is, wanted)},
        {"ha", is->ha != wanted->ha},
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (fields[i].differs) {
            return fields[i].name;
        }
    }
    return NULL;
}
