/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the description of a VM makes sense, alone and beside the others. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

#define MEMORY_BYTES_MIN  (UINT64_C(1) << 20)
#define MEMORY_BYTES_MAX  (UINT64_C(1) << 44)
#define MEMORY_BYTES_STEP UINT64_C(4096)
#define MAC_TEXT_SIZE     18
#define BRIDGE_NAME_SIZE  16 /* IFNAMSIZ */

static bool disk_is_written(const Drover__DiskSpec *disk)
{
    return !disk->readonly && !disk->cdrom;
}

/* One beside which another file can be put. */
static bool disk_is_own_file(const Drover__DiskSpec *disk)
{
    return disk_is_written(disk) && !vm_spec_disk_is_remote(disk->path) &&
           strncmp(disk->path, "/dev/", 5) != 0 &&
           strlen(disk->path) + sizeof(".vars") <= LIMIT_PATH_SIZE;
}

static bool has_file_disk(const Drover__VmSpec *spec)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        if (disk_is_own_file(spec->disks[i])) {
            return true;
        }
    }
    return false;
}

static int check_boot(const Drover__VmSpec *spec, struct error *err)
{
    bool kernel = spec->kernel[0] != '\0';
    bool firmware = spec->firmware[0] != '\0';
    if (kernel == firmware) {
        return error_set(err, DROVER_EBADINPUT,
                         "VM '%s' needs either a kernel or a firmware to boot from: give "
                         "one of the two (--kernel, --firmware)",
                         spec->name);
    }
    if (kernel && !text_path_valid(spec->kernel)) {
        return error_set(err, DROVER_EBADINPUT,
                         "kernel '%s': give an absolute path without '.' or '..'",
                         spec->kernel);
    }
    bool named =
        strcmp(spec->firmware, "bios") == 0 || strcmp(spec->firmware, "uefi") == 0;
    if (firmware && !named && !text_path_valid(spec->firmware)) {
        return error_set(err, DROVER_EBADINPUT,
                         "firmware '%s': give 'bios', 'uefi' or an absolute path",
                         spec->firmware);
    }
    if (strcmp(spec->firmware, "uefi") == 0 && spec->vars[0] == '\0' &&
        !has_file_disk(spec)) {
        return error_set(err, DROVER_EBADINPUT,
                         "VM '%s' boots by UEFI and has no disk that is a file: name a "
                         "file or a block device for its variables (vars), the same on "
                         "every host",
                         spec->name);
    }
    if (firmware && (spec->initrd[0] != '\0' || spec->cmdline[0] != '\0')) {
        return error_set(
            err, DROVER_EBADINPUT,
            "initrd and cmdline go with a kernel: VM '%s' boots from a firmware",
            spec->name);
    }
    if (spec->initrd[0] != '\0' && !text_path_valid(spec->initrd)) {
        return error_set(err, DROVER_EBADINPUT,
                         "initrd '%s': give an absolute path without '.' or '..'",
                         spec->initrd);
    }
    if (strnlen(spec->cmdline, LIMIT_CMDLINE_SIZE) >= LIMIT_CMDLINE_SIZE) {
        return error_set(err, DROVER_ELIMIT,
                         "the kernel's command line is longer than %d bytes: shorten it",
                         LIMIT_CMDLINE_SIZE - 1);
    }
    if (!text_line_valid(spec->cmdline)) {
        return error_set(
            err, DROVER_EBADINPUT,
            "the kernel's command line has control characters or broken UTF-8: "
            "give one line of text");
    }
    return 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return -1;
}

/* "52:54:00:12:34:56": lower case, so that equal addresses are equal texts; unicast,
 * not zero. */
static bool mac_valid(const char *mac)
{
    if (strnlen(mac, MAC_TEXT_SIZE) != MAC_TEXT_SIZE - 1) {
        return false;
    }
    for (size_t i = 0; i < MAC_TEXT_SIZE - 1; i++) {
        if (i % 3 == 2 ? mac[i] != ':' : hex_value(mac[i]) < 0) {
            return false;
        }
    }
    bool multicast = (hex_value(mac[1]) & 1) != 0;
    return !multicast && strcmp(mac, "00:00:00:00:00:00") != 0;
}

static int check_nics(const Drover__VmSpec *spec, struct error *err)
{
    if (spec->n_nics > LIMIT_VM_NICS) {
        return error_set(err, DROVER_ELIMIT,
                         "VM '%s' has %zu NICs: at most %d are possible", spec->name,
                         spec->n_nics, LIMIT_VM_NICS);
    }
    for (size_t i = 0; i < spec->n_nics; i++) {
        const Drover__NicSpec *nic = spec->nics[i];
        int rv = vm_spec_check_nic(spec, nic, err);
        if (rv != 0) {
            return rv;
        }
        if (nic->mac[0] != '\0' && !mac_valid(nic->mac)) {
            return error_set(err, DROVER_EBADINPUT,
                             "MAC '%.40s': give a unicast address in lower case, such as "
                             "52:54:00:12:34:56, or none to have one made",
                             nic->mac);
        }
        if (nic->bridge[0] != '\0' && !text_word_valid(nic->bridge, BRIDGE_NAME_SIZE)) {
            return error_set(
                err, DROVER_EBADINPUT,
                "bridge '%.40s': give the name of a bridge of the hosts (at most "
                "%d characters)",
                nic->bridge, BRIDGE_NAME_SIZE - 1);
        }
        for (size_t j = 0; j < i; j++) {
            if (nic->mac[0] != '\0' && strcmp(nic->mac, spec->nics[j]->mac) == 0) {
                return error_set(err, DROVER_EBADINPUT,
                                 "two NICs of VM '%s' have the MAC %s: change one",
                                 spec->name, nic->mac);
            }
        }
    }
    return 0;
}

static int check_disks(const Drover__VmSpec *spec, struct error *err)
{
    unsigned cdroms = 0;
    if (spec->n_disks > LIMIT_VM_DISKS) {
        return error_set(err, DROVER_ELIMIT,
                         "VM '%s' has %zu disks: at most %d are possible", spec->name,
                         spec->n_disks, LIMIT_VM_DISKS);
    }
    for (size_t i = 0; i < spec->n_disks; i++) {
        const char *path = spec->disks[i]->path;
        int rv = vm_spec_check_disk(spec, spec->disks[i], err);
        if (rv != 0) {
            return rv;
        }
        cdroms += spec->disks[i]->cdrom ? 1 : 0;
        if (cdroms > LIMIT_VM_CDROMS) {
            return error_set(err, DROVER_ELIMIT,
                             "VM '%s' has more than %d CD-ROM drives: take some out",
                             spec->name, LIMIT_VM_CDROMS);
        }
        if (strcmp(path, spec->vars) == 0) {
            return error_set(err, DROVER_EBADINPUT,
                             "'%s' is both a disk and vars: give vars a file of its own",
                             path);
        }
        for (size_t j = 0; j < i; j++) {
            bool writable =
                disk_is_written(spec->disks[i]) || disk_is_written(spec->disks[j]);
            if (writable && strcmp(path, spec->disks[j]->path) == 0) {
                return error_set(err, DROVER_EBADINPUT,
                                 "disk '%s' is given twice: name each disk once", path);
            }
        }
    }
    return 0;
}

int vm_spec_check(const Drover__VmSpec *spec, struct error *err)
{
    if (spec == NULL) {
        return error_set(err, DROVER_EMALFORMED, "a VM without a description: send one");
    }
    if (!id_name_valid(spec->name)) {
        return error_set(
            err, DROVER_EBADINPUT,
            "VM name '%.70s': use 1 to 63 of a-z, 0-9 and '-', with a letter or "
            "digit at both ends",
            spec->name);
    }
    if (spec->memory_bytes < MEMORY_BYTES_MIN || spec->memory_bytes > MEMORY_BYTES_MAX ||
        spec->memory_bytes % MEMORY_BYTES_STEP != 0) {
        return error_set(
            err, DROVER_EBADINPUT,
            "memory of %llu bytes: give 1 MiB to 16 TiB, in whole pages of 4 KiB",
            (unsigned long long)spec->memory_bytes);
    }
    if (spec->cpus == 0 || spec->cpus > LIMIT_VCPUS) {
        return error_set(err, DROVER_EBADINPUT, "%u CPUs: give 1 to %d", spec->cpus,
                         LIMIT_VCPUS);
    }
    int rv = check_boot(spec, err);
    if (rv == 0) {
        rv = vm_spec_check_machine(spec, err);
    }
    if (rv == 0) {
        rv = check_disks(spec, err);
    }
    return rv == 0 ? check_nics(spec, err) : rv;
}

static bool disk_agrees(const Drover__DiskSpec *disk, const Drover__VmSpec *other)
{
    for (size_t i = 0; i < other->n_disks; i++) {
        bool writable = disk_is_written(disk) || disk_is_written(other->disks[i]);
        if (writable && strcmp(disk->path, other->disks[i]->path) == 0) {
            return false;
        }
    }
    return strcmp(disk->path, other->vars) != 0;
}

bool vm_spec_disks_agree(const Drover__VmSpec *a, const Drover__VmSpec *b,
                         const char **ret_path)
{
    for (size_t i = 0; i < a->n_disks; i++) {
        if (!disk_agrees(a->disks[i], b)) {
            *ret_path = a->disks[i]->path;
            return false;
        }
    }
    for (size_t i = 0; a->vars[0] != '\0' && i < b->n_disks; i++) {
        if (strcmp(a->vars, b->disks[i]->path) == 0) {
            *ret_path = a->vars;
            return false;
        }
    }
    if (a->vars[0] != '\0' && strcmp(a->vars, b->vars) == 0) {
        *ret_path = a->vars;
        return false;
    }
    return true;
}

static const Drover__VmRecord *mac_user(const Drover__ClusterState *record,
                                        const char *mac)
{
    for (size_t i = 0; i < record->n_vms; i++) {
        const Drover__VmSpec *spec = record->vms[i]->spec;
        for (size_t j = 0; j < spec->n_nics; j++) {
            if (strcmp(spec->nics[j]->mac, mac) == 0) {
                return record->vms[i];
            }
        }
    }
    return NULL;
}

int vm_spec_check_conflicts(const Drover__ClusterState *record, uint64_t own_id,
                            const Drover__VmSpec *spec, struct error *err)
{
    for (size_t i = 0; i < record->n_vms; i++) {
        const Drover__VmSpec *other = record->vms[i]->spec;
        const char *path;
        if (record->vms[i]->vm_id == own_id) {
            continue;
        }
        if (strcmp(other->name, spec->name) == 0) {
            return error_set(
                err, DROVER_EEXISTS,
                "there is a VM '%s' already: choose another name, or delete that "
                "one first (drover vm delete %s)",
                spec->name, spec->name);
        }
        if (!vm_spec_disks_agree(spec, other, &path)) {
            return error_set(err, DROVER_EINUSE,
                             "disk '%s' belongs to VM '%s': use another disk, or make it "
                             "read-only in both",
                             path, other->name);
        }
    }
    for (size_t i = 0; i < spec->n_nics; i++) {
        const char *mac = spec->nics[i]->mac;
        const Drover__VmRecord *user = mac[0] == '\0' ? NULL : mac_user(record, mac);
        if (user != NULL && user->vm_id != own_id) {
            return error_set(
                err, DROVER_EINUSE,
                "MAC %s belongs to VM '%s': give another, or none to have one made", mac,
                user->spec->name);
        }
    }
    return 0;
}

/* FNV-1a, so that two clusters on one network are unlikely to make the same addresses. */
static uint64_t mac_seed(const char *cluster_id, uint64_t vm_id, size_t nic_index)
{
    char text[128];
    (void)snprintf(text, sizeof(text), "%.64s/%llu/%zu", cluster_id,
                   (unsigned long long)vm_id, nic_index);
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (const char *c = text; *c != '\0'; c++) {
        hash = (hash ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
    }
    return hash ^ hash >> 32;
}

/* UEFI's variables go beside the first disk, where that is a file. */
int vm_spec_fill_vars(struct apply_step *step, Drover__VmSpec *spec)
{
    if (strcmp(spec->firmware, "uefi") != 0 || spec->vars[0] != '\0') {
        return 0;
    }
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Drover__DiskSpec *disk = spec->disks[i];
        if (disk_is_own_file(disk)) {
            char path[LIMIT_PATH_SIZE];
            (void)snprintf(path, sizeof(path), "%s.vars", disk->path);
            step_set_string(step, &spec->vars, path);
            return step->no_memory ? -ENOMEM : 0;
        }
    }
    return 0;
}

static bool mac_in_spec(const Drover__VmSpec *spec, const char *mac)
{
    for (size_t i = 0; i < spec->n_nics; i++) {
        if (strcmp(spec->nics[i]->mac, mac) == 0) {
            return true;
        }
    }
    return false;
}

int vm_spec_fill_macs(struct apply_step *step, uint64_t vm_id, Drover__VmSpec *spec)
{
    for (size_t i = 0; i < spec->n_nics; i++) {
        if (spec->nics[i]->mac[0] != '\0') {
            continue;
        }
        char mac[MAC_TEXT_SIZE];
        uint64_t low = mac_seed(step->record->cluster_id, vm_id, i);
        do {
            (void)snprintf(mac, sizeof(mac), "52:54:00:%02x:%02x:%02x",
                           (unsigned)(low >> 16 & 0xff), (unsigned)(low >> 8 & 0xff),
                           (unsigned)(low & 0xff));
            low++; /* 2^24 addresses, at most LIMIT_VMS * LIMIT_VM_NICS in use: ends */
        } while (mac_user(step->record, mac) != NULL || mac_in_spec(spec, mac));
        step_set_string(step, &spec->nics[i]->mac, mac);
    }
    return step->no_memory ? -ENOMEM : 0;
}
