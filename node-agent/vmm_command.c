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

#define ARGUMENTS_MAX (2 * (20 + LIMIT_VM_DISKS + LIMIT_VM_NICS))

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

static void add_devices(struct vmm_command *command, int *rv, const Drover__VmRecord *vm,
                        uint64_t epoch)
{
    const Drover__VmSpec *spec = vm->spec;
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Drover__DiskSpec *disk = spec->disks[i];
        add(command, rv, "--disk");
        add(command, rv, "%s%s%s", disk->path, disk->readonly ? ",ro" : "",
            disk->direct ? ",direct" : "");
    }
    for (unsigned i = 0; i < spec->n_nics; i++) {
        char tap[TAP_NAME_SIZE];
        char mac[18];
        tap_name(vm->vm_id, epoch, i, tap);
        vmm_command_mac(vm->vm_id, i, mac, sizeof(mac));
        const char *wanted = spec->nics[i]->mac;
        add(command, rv, "--net");
        add(command, rv, "tap=%s,mac=%s", tap, wanted[0] != '\0' ? wanted : mac);
    }
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
    add_pair(command, rv, "--kernel", spec->kernel);
    add_pair(command, rv, "--initrd", spec->initrd);
    add_pair(command, rv, "--cmdline", spec->cmdline);
    add_pair(command, rv, "--firmware", spec->firmware);
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
    add_devices(&command, &rv, vm, options->epoch);
    add(&command, &rv, "--serial");
    add(&command, &rv, "unix:%s", options->serial_path);
    add_pair(&command, &rv, "--control", options->control_path);
    if (options->patience_ms != 0) {
        add(&command, &rv, "--patience");
        add(&command, &rv, "%" PRIu32, options->patience_ms);
    }
    if (options->incoming_host != NULL) {
        bool bare_ipv6 = strchr(options->incoming_host, ':') != NULL &&
                         options->incoming_host[0] != '[';
        add(&command, &rv, "--incoming");
        add(&command, &rv, bare_ipv6 ? "tcp:[%s]:0" : "tcp:%s:0", options->incoming_host);
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
