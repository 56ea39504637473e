/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The description of a VM, between JSON and the cluster's message: one table of fields
 * for each of VM, disk and NIC, by which it is read, written and compared.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/limits.h"
#include "node-agent/json_reader.h"
#include "node-agent/json_vm.h"

enum field_kind {
    FIELD_TEXT,      /* char * */
    FIELD_FLAG,      /* protobuf_c_boolean */
    FIELD_NUMBER_32, /* uint32_t */
    FIELD_NUMBER_64, /* uint64_t */
    FIELD_SIZE,      /* uint64_t; "512M", "" is 0 */
};

struct field {
    const char *name;
    enum field_kind kind;
    size_t offset;
    uint64_t least, most, fallback; /* of numbers; `fallback` of flags, too */
    bool required;
    bool filled_in; /* left out, it is made up by the cluster: fits any */
};

#define VM(member)   offsetof(Drover__VmSpec, member)
#define DISK(member) offsetof(Drover__DiskSpec, member)
#define NIC(member)  offsetof(Drover__NicSpec, member)

static const struct field vm_fields[] = {
    {.name = "name", .kind = FIELD_TEXT, .offset = VM(name)},
    {.name = "memory", .kind = FIELD_SIZE, .offset = VM(memory_bytes), .required = true},
    {"cpus", FIELD_NUMBER_32, VM(cpus), 1, LIMIT_VCPUS, 1, false, false},
    {.name = "kernel", .kind = FIELD_TEXT, .offset = VM(kernel)},
    {.name = "initrd", .kind = FIELD_TEXT, .offset = VM(initrd)},
    {.name = "cmdline", .kind = FIELD_TEXT, .offset = VM(cmdline)},
    {.name = "firmware", .kind = FIELD_TEXT, .offset = VM(firmware)},
    {.name = "vars", .kind = FIELD_TEXT, .offset = VM(vars), .filled_in = true},
    {.name = "cpu_model", .kind = FIELD_TEXT, .offset = VM(cpu_model)},
    {"cpu_weight", FIELD_NUMBER_32, VM(cpu_weight), 0, 10000, 0, false, false},
    {"cpu_quota", FIELD_NUMBER_32, VM(cpu_quota), 0, 100 * LIMIT_VCPUS, 0, false, false},
    {.name = "cpu_affinity", .kind = FIELD_TEXT, .offset = VM(cpu_affinity)},
    {.name = "huge_pages", .kind = FIELD_FLAG, .offset = VM(huge_pages)},
    {.name = "mergeable", .kind = FIELD_FLAG, .offset = VM(mergeable)},
    {.name = "prealloc", .kind = FIELD_FLAG, .offset = VM(prealloc)},
    {"vsock_cid", FIELD_NUMBER_32, VM(vsock_cid), 0, UINT32_MAX - 1, 0, false, false},
    {.name = "on_panic", .kind = FIELD_TEXT, .offset = VM(on_panic)},
    {.name = "ha", .kind = FIELD_FLAG, .offset = VM(ha), .fallback = true},
};

static const struct field disk_fields[] = {
    {.name = "path", .kind = FIELD_TEXT, .offset = DISK(path), .required = true},
    {.name = "readonly", .kind = FIELD_FLAG, .offset = DISK(readonly)},
    {.name = "direct", .kind = FIELD_FLAG, .offset = DISK(direct)},
    {.name = "format", .kind = FIELD_TEXT, .offset = DISK(format)},
    {.name = "serial", .kind = FIELD_TEXT, .offset = DISK(serial)},
    {"queues", FIELD_NUMBER_32, DISK(queues), 0, LIMIT_VCPUS, 0, false, false},
    {"iops", FIELD_NUMBER_64, DISK(iops), 0, INT64_MAX, 0, false, false},
    {.name = "bandwidth", .kind = FIELD_SIZE, .offset = DISK(bandwidth)},
    {"boot", FIELD_NUMBER_32, DISK(boot), 0, LIMIT_VM_BOOT, 0, false, false},
    {.name = "key_file", .kind = FIELD_TEXT, .offset = DISK(key_file)},
    {.name = "cdrom", .kind = FIELD_FLAG, .offset = DISK(cdrom)},
};

static const struct field nic_fields[] = {
    {.name = "bridge", .kind = FIELD_TEXT, .offset = NIC(bridge)},
    {.name = "mac", .kind = FIELD_TEXT, .offset = NIC(mac), .filled_in = true},
    {"queues", FIELD_NUMBER_32, NIC(queues), 0, LIMIT_VCPUS, 0, false, false},
    {"mtu", FIELD_NUMBER_32, NIC(mtu), 0, UINT16_MAX, 0, false, false},
    {.name = "bandwidth", .kind = FIELD_SIZE, .offset = NIC(bandwidth)},
    {.name = "any_mac", .kind = FIELD_FLAG, .offset = NIC(any_mac)},
    {"boot", FIELD_NUMBER_32, NIC(boot), 0, LIMIT_VM_BOOT, 0, false, false},
    {.name = "vhost", .kind = FIELD_TEXT, .offset = NIC(vhost)},
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* A message made by hand is freed like an unpacked one: all of it is malloc'ed. */
void json_vm_spec_free(Drover__VmSpec *spec)
{
    if (spec != NULL) {
        drover__vm_spec__free_unpacked(spec, NULL);
    }
}

static void *field_at(void *message, const struct field *field)
{
    return (char *)message + field->offset;
}

static const char *field_text(const void *message, const struct field *field)
{
    return *(char *const *)((const char *)message + field->offset);
}

static uint64_t field_number(const void *message, const struct field *field)
{
    const void *at = (const char *)message + field->offset;
    switch (field->kind) {
    case FIELD_FLAG:
        return *(const protobuf_c_boolean *)at != 0;
    case FIELD_NUMBER_32:
        return *(const uint32_t *)at;
    default:
        return *(const uint64_t *)at;
    }
}

/* protobuf-c knows an empty text by its address, and does not free that one. */
static int set_text(char **at, const char *text)
{
    if (text[0] == '\0') {
        return 0;
    }
    char *copy = strdup(text);
    if (copy == NULL) {
        return -ENOMEM;
    }
    *at = copy;
    return 0;
}

static int read_field(struct json_reader *reader, const struct field *field,
                      void *message)
{
    void *at = field_at(message, field);
    if (field->required) {
        json_reader_require(reader, field->name);
    }
    switch (field->kind) {
    case FIELD_TEXT:
        return set_text(at, json_reader_text(reader, field->name, ""));
    case FIELD_FLAG:
        *(protobuf_c_boolean *)at =
            json_reader_bool(reader, field->name, field->fallback != 0);
        return 0;
    case FIELD_NUMBER_32:
        *(uint32_t *)at = (uint32_t)json_reader_number(reader, field->name, field->least,
                                                       field->most, field->fallback);
        return 0;
    case FIELD_NUMBER_64:
        *(uint64_t *)at = json_reader_number(reader, field->name, field->least,
                                             field->most, field->fallback);
        return 0;
    case FIELD_SIZE:
        *(uint64_t *)at = json_reader_size(reader, field->name, !field->required);
        return 0;
    }
    return 0;
}

static int read_fields(struct json_reader *reader, const struct field *fields,
                       size_t count, void *message)
{
    int rv = 0;
    for (size_t i = 0; rv == 0 && i < count; i++) {
        rv = read_field(reader, &fields[i], message);
    }
    return rv;
}

static int read_disk(const json_t *object, size_t index, Drover__DiskSpec *disk,
                     struct error *err)
{
    struct json_reader reader;
    char where[64];
    (void)snprintf(where, sizeof(where), "disks[%zu].", index);
    json_reader_init(&reader, object, where, err);
    int rv = read_fields(&reader, disk_fields, COUNT(disk_fields), disk);
    int end = json_reader_end(&reader);
    if (rv != 0 || end != 0) {
        return rv != 0 ? rv : end;
    }
    /* They go to the VMM as one list with commas. */
    for (size_t i = 0; i < COUNT(disk_fields); i++) {
        const struct field *field = &disk_fields[i];
        if (field->kind == FIELD_TEXT && strchr(field_text(disk, field), ',') != NULL) {
            return error_set(err, DROVER_EBADINPUT,
                             "%s%s: commas are not possible here: rename it", where,
                             field->name);
        }
    }
    return 0;
}

static int read_nic(const json_t *object, size_t index, Drover__NicSpec *nic,
                    struct error *err)
{
    struct json_reader reader;
    char where[64];
    (void)snprintf(where, sizeof(where), "nics[%zu].", index);
    json_reader_init(&reader, object, where, err);
    int rv = read_fields(&reader, nic_fields, COUNT(nic_fields), nic);
    int end = json_reader_end(&reader);
    return rv != 0 ? rv : end;
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

static int read_vm(const json_t *object, const char *name, Drover__VmSpec *spec,
                   bool *ret_start, struct error *err)
{
    struct json_reader reader;
    json_reader_init(&reader, object, "", err);
    if (name == NULL) {
        json_reader_require(&reader, "name");
    }
    int rv = read_fields(&reader, vm_fields, COUNT(vm_fields), spec);
    const json_t *disks = json_reader_array(&reader, "disks", LIMIT_VM_DISKS);
    const json_t *nics = json_reader_array(&reader, "nics", LIMIT_VM_NICS);
    *ret_start = json_reader_bool(&reader, "start", true);
    int end = json_reader_end(&reader);
    if (rv != 0 || end != 0) {
        return rv != 0 ? rv : end;
    }
    if (name != NULL && spec->name[0] == '\0') {
        rv = set_text(&spec->name, name);
    } else if (name != NULL && strcmp(spec->name, name) != 0) {
        rv = error_set(
            err, DROVER_EBADINPUT,
            "name: '%.70s' is not the VM of the path: leave it out, or make them equal",
            spec->name);
    }
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
    int rv = read_vm(object, name, spec, &start, err);
    if (rv != 0) {
        json_vm_spec_free(spec);
        return rv == -ENOMEM ? error_set(err, rv, "out of memory") : rv;
    }
    *ret_spec = spec;
    *ret_start = start;
    return 0;
}

static json_t *field_json(const void *message, const struct field *field)
{
    char size[JSON_SIZE_TEXT_SIZE];
    switch (field->kind) {
    case FIELD_TEXT:
        return json_string(field_text(message, field));
    case FIELD_FLAG:
        return json_boolean(field_number(message, field));
    case FIELD_SIZE:
        if (field_number(message, field) == 0) {
            return json_string("");
        }
        json_size_text(field_number(message, field), size);
        return json_string(size);
    default:
        return json_integer((json_int_t)field_number(message, field));
    }
}

static json_t *message_json(const void *message, const struct field *fields, size_t count)
{
    json_t *object = json_object();
    for (size_t i = 0; i < count; i++) {
        if (json_object_set_new(object, fields[i].name,
                                field_json(message, &fields[i])) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

json_t *json_vm_spec(const Drover__VmSpec *spec)
{
    json_t *object = message_json(spec, vm_fields, COUNT(vm_fields));
    json_t *disks = json_array();
    json_t *nics = json_array();
    bool whole = object != NULL;
    for (size_t i = 0; i < spec->n_disks; i++) {
        whole &= json_array_append_new(disks, message_json(spec->disks[i], disk_fields,
                                                           COUNT(disk_fields))) == 0;
    }
    for (size_t i = 0; i < spec->n_nics; i++) {
        whole &= json_array_append_new(nics, message_json(spec->nics[i], nic_fields,
                                                          COUNT(nic_fields))) == 0;
    }
    whole &= json_object_set_new(object, "disks", disks) == 0;
    whole &= json_object_set_new(object, "nics", nics) == 0;
    if (!whole) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static bool field_differs(const void *is, const void *wanted, const struct field *field)
{
    if (field->kind != FIELD_TEXT) {
        return field_number(is, field) != field_number(wanted, field);
    }
    const char *text = field_text(wanted, field);
    return !(field->filled_in && text[0] == '\0') &&
           strcmp(field_text(is, field), text) != 0;
}

static const char *first_difference(const void *is, const void *wanted,
                                    const struct field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (field_differs(is, wanted, &fields[i])) {
            return fields[i].name;
        }
    }
    return NULL;
}

const char *json_vm_spec_difference(const Drover__VmSpec *is,
                                    const Drover__VmSpec *wanted)
{
    const char *name = first_difference(is, wanted, vm_fields, COUNT(vm_fields));
    if (name != NULL) {
        return name;
    }
    if (is->n_disks != wanted->n_disks) {
        return "disks";
    }
    for (size_t i = 0; i < is->n_disks; i++) {
        if (first_difference(is->disks[i], wanted->disks[i], disk_fields,
                             COUNT(disk_fields)) != NULL) {
            return "disks";
        }
    }
    if (is->n_nics != wanted->n_nics) {
        return "nics";
    }
    for (size_t i = 0; i < is->n_nics; i++) {
        if (first_difference(is->nics[i], wanted->nics[i], nic_fields,
                             COUNT(nic_fields)) != NULL) {
            return "nics";
        }
    }
    return NULL;
}
