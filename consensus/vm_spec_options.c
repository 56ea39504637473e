/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the optional parts of a VM's description make sense: limits, formats, models.
 */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/limits.h"
#include "consensus/apply.h"

#define DISK_SERIAL_SIZE 21    /* virtio 1.2, 5.2.6.1: 20 bytes */
#define MTU_MIN          1280u /* IPv6 needs it */
#define MTU_MAX          65535u
#define VSOCK_CID_MIN    3u /* virtio 1.2, 5.10.4: the lower ones have meanings */
#define AFFINITY_MAX     4096u
/* A limit below that is a mistake of units: the guest would not come up. */
#define DISK_BANDWIDTH_MIN (UINT64_C(64) << 10)
#define NIC_BANDWIDTH_MIN  (UINT64_C(8) << 10)
#define DISK_IOPS_MIN      10

static bool one_of(const char *text, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, names[i]) == 0) {
            return true;
        }
    }
    return text[0] == '\0';
}

#define ONE_OF(text, names) one_of(text, names, sizeof(names) / sizeof((names)[0]))

/* "0-3,8": numbers and ranges, rising within a range. */
bool text_cpu_list_valid(const char *text)
{
    const char *at = text;
    do {
        unsigned first = 0, last = 0;
        int used = 0;
        if (*at < '0' || *at > '9' || sscanf(at, "%4u%n", &first, &used) != 1) {
            return false;
        }
        at += used;
        last = first;
        if (*at == '-') {
            at++;
            if (*at < '0' || *at > '9' || sscanf(at, "%4u%n", &last, &used) != 1) {
                return false;
            }
            at += used;
        }
        if (last < first || last >= AFFINITY_MAX) {
            return false;
        }
    } while (*at++ == ',');
    return at[-1] == '\0';
}

static int check_cpu(const Drover__VmSpec *spec, struct error *err)
{
    static const char *const models[] = {"host", "x86-64-v2", "x86-64-v3", "x86-64-v4"};
    if (!ONE_OF(spec->cpu_model, models)) {
        return error_set(
            err, DROVER_EBADINPUT,
            "cpu_model '%.40s': give x86-64-v2, x86-64-v3, x86-64-v4 or host",
            spec->cpu_model);
    }
    if (spec->cpu_weight > 10000) {
        return error_set(err, DROVER_EBADINPUT,
                         "cpu_weight %u: give 1 to 10000 (100 is usual)",
                         spec->cpu_weight);
    }
    if (spec->cpu_quota > 100 * spec->cpus) {
        return error_set(
            err, DROVER_EBADINPUT,
            "cpu_quota %u: %u CPUs never use more than %u: give less, or more "
            "CPUs",
            spec->cpu_quota, spec->cpus, 100 * spec->cpus);
    }
    if (spec->cpu_affinity[0] != '\0' && (strnlen(spec->cpu_affinity, 256) == 256 ||
                                          !text_cpu_list_valid(spec->cpu_affinity))) {
        return error_set(
            err, DROVER_EBADINPUT,
            "cpu_affinity '%.40s': give processors of the host such as 0-3,8",
            spec->cpu_affinity);
    }
    return 0;
}

int vm_spec_check_new(const Drover__VmSpec *spec, struct error *err)
{
    for (size_t i = 0; spec->mergeable && i < spec->n_disks; i++) {
        const Drover__DiskSpec *disk = spec->disks[i];
        bool raw = disk->format[0] == '\0' || strcmp(disk->format, "raw") == 0;
        if (!disk->cdrom && (!raw || vm_spec_disk_is_remote(disk->path))) {
            return error_set(err, DROVER_EBADINPUT,
                             "mergeable and disk '%s' contradict each other: its storage "
                             "daemon shares the guest's memory, and shared memory is not "
                             "merged; leave out mergeable, or use a raw disk",
                             disk->path);
        }
    }
    return 0;
}

int vm_spec_check_machine(const Drover__VmSpec *spec, struct error *err)
{
    static const char *const panics[] = {"stop", "reset", "pause", "ignore"};
    if (!ONE_OF(spec->on_panic, panics)) {
        return error_set(err, DROVER_EBADINPUT,
                         "on_panic '%.40s': give stop, reset, pause or ignore",
                         spec->on_panic);
    }
    if (spec->huge_pages && spec->mergeable) {
        return error_set(err, DROVER_EBADINPUT,
                         "huge_pages and mergeable contradict each other: huge pages are "
                         "never merged; choose one");
    }
    if (spec->prealloc && spec->mergeable) {
        return error_set(err, DROVER_EBADINPUT,
                         "prealloc and mergeable contradict each other: one takes all "
                         "memory, the other saves it; choose one");
    }
    if (spec->huge_pages && spec->memory_bytes % (UINT64_C(2) << 20) != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "huge_pages: give memory in whole pages of 2 MiB");
    }
    if (spec->vsock_cid != 0 &&
        (spec->vsock_cid < VSOCK_CID_MIN || spec->vsock_cid == UINT32_MAX)) {
        return error_set(err, DROVER_EBADINPUT, "vsock_cid %u: give 3 to 4294967294",
                         spec->vsock_cid);
    }
    if (spec->vars[0] != '\0' && strcmp(spec->firmware, "bios") == 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "vars goes with UEFI: firmware 'bios' keeps no variables");
    }
    if (spec->vars[0] != '\0' && spec->firmware[0] == '\0') {
        return error_set(err, DROVER_EBADINPUT,
                         "vars goes with a firmware: VM '%s' boots a kernel", spec->name);
    }
    if (spec->vars[0] != '\0' && !text_path_valid(spec->vars)) {
        return error_set(err, DROVER_EBADINPUT,
                         "vars '%s': give an absolute path without '.' or '..'",
                         spec->vars);
    }
    return check_cpu(spec, err);
}

bool vm_spec_disk_is_remote(const char *path)
{
    return strncmp(path, "nbd://", 6) == 0 || strncmp(path, "nbd+unix://", 11) == 0;
}

static bool disk_path_valid(const Drover__DiskSpec *disk)
{
    if (vm_spec_disk_is_remote(disk->path)) {
        return !disk->cdrom && strnlen(disk->path, LIMIT_PATH_SIZE) < LIMIT_PATH_SIZE &&
               text_line_valid(disk->path) && strchr(disk->path, ' ') == NULL;
    }
    return text_path_valid(disk->path);
}

static int check_disk_limits(const Drover__VmSpec *spec, const Drover__DiskSpec *disk,
                             struct error *err)
{
    if (disk->queues > spec->cpus) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk '%s' has %u queues for %u CPUs: give at most one each",
                         disk->path, disk->queues, spec->cpus);
    }
    if (disk->iops != 0 && disk->iops < DISK_IOPS_MIN) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk '%s': iops %llu is too few to work with: give %d or more",
                         disk->path, (unsigned long long)disk->iops, DISK_IOPS_MIN);
    }
    if (disk->bandwidth != 0 && disk->bandwidth < DISK_BANDWIDTH_MIN) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk '%s': bandwidth is bytes a second: give 64K or more",
                         disk->path);
    }
    if (disk->boot > LIMIT_VM_BOOT) {
        return error_set(err, DROVER_EBADINPUT, "disk '%s': boot %u: give 1 to %d",
                         disk->path, disk->boot, LIMIT_VM_BOOT);
    }
    return 0;
}

int vm_spec_check_disk(const Drover__VmSpec *spec, const Drover__DiskSpec *disk,
                       struct error *err)
{
    static const char *const formats[] = {"raw", "qcow2", "luks", "vmdk", "vdi", "vhdx"};
    if (!disk_path_valid(disk)) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk '%s': give an absolute path without '.', '..' or '//', or "
                         "nbd://HOST:PORT/NAME",
                         disk->path);
    }
    if (strchr(disk->path, ',') != NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk '%s': commas are not possible in a disk's path: rename it",
                         disk->path);
    }
    if (!ONE_OF(disk->format, formats)) {
        return error_set(
            err, DROVER_EBADINPUT,
            "disk '%s': format '%.20s': give raw, qcow2, luks, vmdk, vdi or vhdx",
            disk->path, disk->format);
    }
    if (disk->serial[0] != '\0' && !text_word_valid(disk->serial, DISK_SERIAL_SIZE)) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk '%s': a serial has 1 to 20 letters, digits, '.', '_', '-'",
                         disk->path);
    }
    if (strcmp(disk->format, "luks") == 0 && disk->key_file[0] == '\0') {
        return error_set(err, DROVER_EBADINPUT,
                         "disk '%s' is encrypted: name the file with its key (key_file)",
                         disk->path);
    }
    if (disk->key_file[0] != '\0' &&
        (!text_path_valid(disk->key_file) || strchr(disk->key_file, ',') != NULL)) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk '%s': key_file '%.100s': give an absolute path without "
                         "commas",
                         disk->path, disk->key_file);
    }
    bool raw = disk->format[0] == '\0' || strcmp(disk->format, "raw") == 0;
    if (disk->cdrom &&
        (!raw || disk->queues != 0 || disk->iops != 0 || disk->bandwidth != 0)) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk '%s' is a CD-ROM: give path and boot only", disk->path);
    }
    return check_disk_limits(spec, disk, err);
}

int vm_spec_check_nic(const Drover__VmSpec *spec, const Drover__NicSpec *nic,
                      struct error *err)
{
    static const char *const vhosts[] = {"on", "off", "auto"};
    if (nic->queues > spec->cpus) {
        return error_set(err, DROVER_EBADINPUT,
                         "a NIC of VM '%s' has %u queues for %u CPUs: give at most one "
                         "each",
                         spec->name, nic->queues, spec->cpus);
    }
    if (nic->mtu != 0 && (nic->mtu < MTU_MIN || nic->mtu > MTU_MAX)) {
        return error_set(err, DROVER_EBADINPUT, "mtu %u: give %u to %u", nic->mtu,
                         MTU_MIN, MTU_MAX);
    }
    if (nic->bandwidth != 0 && nic->bandwidth < NIC_BANDWIDTH_MIN) {
        return error_set(err, DROVER_EBADINPUT,
                         "a NIC's bandwidth is bytes a second: give 8K or more");
    }
    if (nic->boot > LIMIT_VM_BOOT) {
        return error_set(err, DROVER_EBADINPUT, "boot %u of a NIC: give 1 to %d",
                         nic->boot, LIMIT_VM_BOOT);
    }
    if (!ONE_OF(nic->vhost, vhosts)) {
        return error_set(err, DROVER_EBADINPUT, "vhost '%.20s': give on, off or auto",
                         nic->vhost);
    }
    return 0;
}
