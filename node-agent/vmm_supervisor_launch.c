/* SPDX-License-Identifier: Apache-2.0 */
/* How a VMM of the supervisor's begins: folder, lock, record, taps, process. */
#include <stdio.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "node-agent/vmm_command.h"
#include "node-agent/vmm_process.h"
#include "node-agent/vmm_supervisor_internal.h"

static int save_record(struct vmm *vmm, const Drover__VmRecord *vm)
{
    Drover__VmmRecord record = DROVER__VMM_RECORD__INIT;
    char boot_id[ID_TEXT_SIZE] = "";
    char *taps[LIMIT_VM_NICS];
    int rv = id_boot_text(boot_id);
    if (rv != 0) {
        return rv;
    }
    record.vm_id = vmm->vm_id;
    record.epoch = vmm->epoch;
    record.pid = vmm->pid;
    record.start_ticks = vmm->pid > 0 ? vmm_folder_start_ticks(vmm->pid) : 0;
    record.boot_id = boot_id;
    record.name = vm->spec->name;
    record.ha = vm->spec->ha;
    for (unsigned i = 0; i < vmm->tap_count; i++) {
        taps[i] = vmm->taps[i];
    }
    record.taps = taps;
    record.n_taps = vmm->tap_count;
    return vmm_folder_record_save(vmm->supervisor->run_directory, &record);
}

static int make_taps(struct vmm *vmm, const Drover__VmSpec *spec, struct error *err)
{
    for (unsigned i = 0; i < spec->n_nics; i++) {
        const char *bridge = spec->nics[i]->bridge;
        if (bridge[0] == '\0') {
            bridge = vmm->supervisor->default_bridge;
        }
        if (bridge[0] == '\0') {
            return error_set(
                err, DROVER_EBADINPUT,
                "nics[%u] names no bridge and droverd has no default one: name one", i);
        }
        int rv = tap_create(vmm->taps[i], bridge, err);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static bool arrives_by_rdma(const Drover__VmRecord *vm,
                            const struct vmm_supervisor *supervisor)
{
    return supervisor->rdma && vm->migration != NULL &&
           vm->migration->transport ==
               DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA;
}

static int run(struct vmm *vmm, const Drover__VmRecord *vm, bool incoming, int lock_fd,
               struct error *err)
{
    struct vmm_supervisor *supervisor = vmm->supervisor;
    char control[VMM_FOLDER_SOCKET_SIZE];
    char serial[VMM_FOLDER_SOCKET_SIZE];
    char vsock[VMM_FOLDER_SOCKET_SIZE];
    char log[VMM_FOLDER_PATH_SIZE];
    int rv = vmm_folder_path(supervisor->run_directory, vmm->vm_id, vmm->epoch,
                             "control.sock", control, sizeof(control));
    rv = rv != 0 ? rv
                 : vmm_folder_path(supervisor->run_directory, vmm->vm_id, vmm->epoch,
                                   "serial.sock", serial, sizeof(serial));
    rv = rv != 0 ? rv
                 : vmm_folder_path(supervisor->run_directory, vmm->vm_id, vmm->epoch,
                                   "vsock.sock", vsock, sizeof(vsock));
    rv = rv != 0 ? rv
                 : vmm_folder_path(supervisor->run_directory, vmm->vm_id, vmm->epoch,
                                   "vmm.log", log, sizeof(log));
    if (rv != 0) {
        return error_set(err, rv, "%s is too long: set a shorter run directory",
                         supervisor->run_directory);
    }
    const struct vmm_command_options options = {
        .program = supervisor->vmm_program,
        .control_path = control,
        .serial_path = serial,
        .vsock_path = vsock,
        .incoming = incoming ? supervisor->incoming : NULL,
        .incoming_rdma = arrives_by_rdma(vm, supervisor) ? supervisor->incoming_rdma : NULL,
        .rdma = supervisor->rdma,
        .epoch = vmm->epoch,
        .patience_ms = supervisor->migration_patience_ms,
    };
    CLEANUP(vmm_command_done) struct vmm_command command = {0};
    rv = vmm_command_build(vm, &options, &command);
    if (rv != 0) {
        return error_set(err, rv, "can't make the VMM's command line: %s", err_text(rv));
    }
    return vmm_process_spawn(command.argv, lock_fd, log, &vmm->pid, &vmm->pidfd, err);
}

static int launch(struct vmm *vmm, const Drover__VmRecord *vm, bool incoming,
                  struct error *err)
{
    struct vmm_supervisor *supervisor = vmm->supervisor;
    if (vm->spec->n_nics > LIMIT_VM_NICS) {
        return error_set(err, DROVER_ELIMIT, "%zu NICs are too many", vm->spec->n_nics);
    }
    int lock = vmm_folder_lock(supervisor->run_directory, vmm->vm_id, vmm->epoch, err);
    CLEANUP(cleanup_fd)
    int lock_fd = lock; /* our own: the VMM's copy holds the lock from then on */
    if (lock < 0) {
        return lock;
    }
    vmm->tap_count = (unsigned)vm->spec->n_nics;
    for (unsigned i = 0; i < vmm->tap_count; i++) {
        tap_name(vmm->vm_id, vmm->epoch, i, vmm->taps[i]);
    }
    /* Before the taps are made: should droverd die just now, the next one knows of them.
     */
    int rv = save_record(vmm, vm);
    if (rv != 0) {
        return error_set(err, rv, "can't write the VMM's record: %s", err_text(rv));
    }
    rv = make_taps(vmm, vm->spec, err);
    rv = rv != 0 ? rv : run(vmm, vm, incoming, lock_fd, err);
    if (rv != 0) {
        return rv;
    }
    vmm_process_spare(vmm->pid,
                      "0"); /* a guest may go before the programs that serve all */
    rv = save_record(vmm, vm);
    rv = rv != 0 ? rv : vmm_watch(vmm);
    rv = rv != 0 ? rv : vmm_start_client(vmm);
    if (rv != 0) {
        vmm_process_kill(vmm->pidfd);
        return error_set(err, rv, "can't watch the VMM: %s", err_text(rv));
    }
    return 0;
}

void vmm_launch(struct vmm *vmm, const Drover__VmRecord *record, bool incoming)
{
    struct error err = {0};
    if (launch(vmm, record, incoming, &err) != 0) {
        (void)snprintf(vmm->reason, sizeof(vmm->reason), "%.255s", err.text);
        vmm_ended(vmm);
    }
}
