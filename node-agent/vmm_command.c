/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of a drover-vmm for a VM of the cluster. */
#include "node-agent/vmm_command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/limits.h"
#include "node-agent/tap.h"
#include "proto/machine.h"

#define ARGUMENTS_MAX (2 * (32 + LIMIT_VM_DISKS + LIMIT_VM_NICS))

void vmm_command_mac(uint64_t vm_id, unsigned nic_index, char *ret_mac, size_t size)
{
    CHECK(size >= 18);
    (void)snprintf(ret_mac, size, "52:54:%02x:%02x:%02x:%02x",
                   (unsigned)(vm_id >> 16 & 0xff), (unsigned)(vm_id >> 8 & 0xff),
                   (unsigned)(vm_id & 0xff), nic_index & 0xff);
}

static void add(struct vmm_command *command, int *rv, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void add(struct vmm_command *command, int *rv, const char *format, ...)
{
    if (*rv != 0) {
        return;
    }
    CHECK(command->count < ARGUMENTS_MAX);
    va_list arguments;
    va_start(arguments, format);
    char *text = NULL;
    if (vasprintf(&text, format, arguments) < 0) {
        *rv = -ENOMEM;
    } else {
        command->argv[command->count++] = text;
    }
    va_end(arguments);
}

static void add_pair(struct vmm_command *command, int *rv, const char *option,
                     const char *value)
{
    if (value != NULL && value[0] != '\0') {
        add(command, rv, "%s", option);
        add(command, rv, "%s", value);
    }
}

/* A list with commas, as one argument. */
struct words {
    char text[LIMIT_PATH_SIZE * 2 + 256];
    size_t size;
    bool overflow;
};

static void put(struct words *words, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void put(struct words *words, const char *format, ...)
{
    size_t room = sizeof(words->text) - words->size;
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(words->text + words->size, room, format, arguments);
    va_end(arguments);
    if (size < 0 || (size_t)size >= room) {
        words->overflow = true;
    } else {
        words->size += (size_t)size;
    }
}

static void put_text(struct words *words, const char *name, const char *value)
{
    if (value[0] != '\0') {
        put(words, ",%s=%s", name, value);
    }
}

static void put_number(struct words *words, const char *name, uint64_t value)
{
    if (value != 0) {
        put(words, ",%s=%" PRIu64, name, value);
    }
}

static void add_words(struct vmm_command *command, int *rv, const char *option,
                      const struct words *words)
{
    if (words->overflow && *rv == 0) {
        *rv = DROVER_ELIMIT;
    }
    add(command, rv, "%s", option);
    add(command, rv, "%s", words->text);
}

static void add_disk(struct vmm_command *command, int *rv, const Drover__DiskSpec *disk)
{
    struct words words = {0};
    put(&words, "%s", disk->path);
    if (!disk->cdrom) {
        put_text(&words, "format", disk->format);
        put(&words, "%s%s", disk->readonly ? ",ro" : "", disk->direct ? ",direct" : "");
        put_text(&words, "serial", disk->serial);
        put_number(&words, "queues", disk->queues);
        put_number(&words, "iops", disk->iops);
        put_number(&words, "bps", disk->bandwidth);
        put_text(&words, "key", disk->key_file);
    }
    put_number(&words, "boot", disk->boot);
    add_words(command, rv, disk->cdrom ? "--cdrom" : "--disk", &words);
}

static void add_nic(struct vmm_command *command, int *rv, const Drover__NicSpec *nic,
                    const char *tap, const char *mac)
{
    struct words words = {0};
    put(&words, "tap=%s", tap);
    put_text(&words, "mac", nic->mac[0] != '\0' ? nic->mac : mac);
    put_number(&words, "queues", nic->queues);
    put_number(&words, "mtu", nic->mtu);
    put_number(&words, "bps", nic->bandwidth);
    put_text(&words, "vhost", nic->vhost);
    put(&words, "%s", nic->any_mac ? ",any-mac" : "");
    put_number(&words, "boot", nic->boot);
    add_words(command, rv, "--net", &words);
}

static void add_devices(struct vmm_command *command, int *rv, const Drover__VmRecord *vm,
                        const struct vmm_command_options *options)
{
    const Drover__VmSpec *spec = vm->spec;
    for (size_t i = 0; i < spec->n_disks; i++) {
        add_disk(command, rv, spec->disks[i]);
    }
    for (unsigned i = 0; i < spec->n_nics; i++) {
        char tap[TAP_NAME_SIZE];
        char mac[18];
        tap_name(vm->vm_id, options->epoch, i, tap);
        vmm_command_mac(vm->vm_id, i, mac, sizeof(mac));
        add_nic(command, rv, spec->nics[i], tap, mac);
    }
    if (spec->vsock_cid != 0 && options->vsock_path != NULL) {
        add(command, rv, "--vsock");
        add(command, rv, "cid=%" PRIu32 ",unix=%s", spec->vsock_cid, options->vsock_path);
    }
}

static void add_number(struct vmm_command *command, int *rv, const char *option,
                       uint32_t value)
{
    if (value != 0) {
        add(command, rv, "%s", option);
        add(command, rv, "%" PRIu32, value);
    }
}

static void add_flag(struct vmm_command *command, int *rv, const char *option, bool set)
{
    if (set) {
        add(command, rv, "%s", option);
    }
}

static void add_limits(struct vmm_command *command, int *rv, const Drover__VmSpec *spec)
{
    add_pair(command, rv, "--cpu", spec->cpu_model);
    add_number(command, rv, "--cpu-weight", spec->cpu_weight);
    add_number(command, rv, "--cpu-quota", spec->cpu_quota);
    add_pair(command, rv, "--cpu-affinity", spec->cpu_affinity);
    add_flag(command, rv, "--huge-pages", spec->huge_pages);
    add_flag(command, rv, "--mergeable", spec->mergeable);
    add_flag(command, rv, "--prealloc", spec->prealloc);
    add_pair(command, rv, "--on-panic", spec->on_panic);
}

static void add_machine(struct vmm_command *command, int *rv, const Drover__VmRecord *vm,
                        uint64_t epoch)
{
    const Drover__VmSpec *spec = vm->spec;
    add_pair(command, rv, "--name", spec->name);
    add(command, rv, "--memory");
    add(command, rv, "%" PRIu64 "K", spec->memory_bytes / 1024);
    add(command, rv, "--cpus");
    add(command, rv, "%u", spec->cpus);
    add(command, rv, "--vm-id");
    add(command, rv, "%" PRIu64, vm->vm_id);
    add(command, rv, "--epoch");
    add(command, rv, "%" PRIu64, epoch);
    if (spec->ha) {
        add(command, rv, "--ha");
    }
    add_number(command, rv, "--machine", vm->machine == 0 ? MACHINE_OLDEST : vm->machine);
    add_pair(command, rv, "--kernel", spec->kernel);
    add_pair(command, rv, "--initrd", spec->initrd);
    add_pair(command, rv, "--cmdline", spec->cmdline);
    add_pair(command, rv, "--firmware", spec->firmware);
    add_pair(command, rv, "--vars", spec->vars);
    add_limits(command, rv, spec);
}

int vmm_command_build(const Drover__VmRecord *vm,
                      const struct vmm_command_options *options,
                      struct vmm_command *ret_command)
{
    CHECK(vm->spec != NULL);
    if (vm->spec->n_disks > LIMIT_VM_DISKS || vm->spec->n_nics > LIMIT_VM_NICS) {
        return DROVER_ELIMIT;
    }
    struct vmm_command command = {.argv = calloc(ARGUMENTS_MAX + 1, sizeof(char *))};
    if (command.argv == NULL) {
        return -ENOMEM;
    }
    int rv = 0;
    add(&command, &rv, "%s", options->program);
    add_machine(&command, &rv, vm, options->epoch);
    add_devices(&command, &rv, vm, options);
    add(&command, &rv, "--serial");
    add(&command, &rv, "unix:%s", options->serial_path);
    add_pair(&command, &rv, "--control", options->control_path);
    if (options->patience_ms != 0) {
        add(&command, &rv, "--patience");
        add(&command, &rv, "%" PRIu32, options->patience_ms);
    }
    add_flag(&command, &rv, "--rdma", options->rdma);
    if (options->incoming != NULL) {
        add_pair(&command, &rv, "--incoming", options->incoming);
        add_pair(&command, &rv, "--incoming-rdma", options->incoming_rdma);
    } else if (vm->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED) {
        add(&command, &rv, "--paused");
    }
    if (rv != 0) {
        vmm_command_done(&command);
        return rv;
    }
    *ret_command = command;
    return 0;
}

void vmm_command_done(struct vmm_command *command)
{
    for (unsigned i = 0; command->argv != NULL && i < command->count; i++) {
        free(command->argv[i]);
    }
    free(command->argv);
    *command = (struct vmm_command){0};
}
