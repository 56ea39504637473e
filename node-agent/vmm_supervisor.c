/* SPDX-License-Identifier: Apache-2.0 */
/* The drover-vmm processes of one host: the list of them, the scan, orders. */
#include "node-agent/vmm_supervisor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/vmm_client.h"
#include "node-agent/vmm_supervisor_internal.h"
#include "proto/unix_files.h"

#define QUIT_MS 10000 /* how long a VMM may take to end after a quit */

static void on_timer(uv_timer_t *timer);

struct vmm *vmm_supervisor_find(const struct vmm_supervisor *supervisor, uint64_t vm_id,
                                uint64_t epoch)
{
    struct vmm *vmm = supervisor->vmms;
    while (vmm != NULL && (vmm->vm_id != vm_id || vmm->epoch != epoch)) {
        vmm = vmm->next;
    }
    return vmm;
}

/* ---- create
 * ------------------------------------------------------------------------------- */

static int make_directory(const char *run, const char *below, struct error *err)
{
    char path[VMM_FOLDER_PATH_SIZE + 8];
    (void)snprintf(path, sizeof(path), "%s%s", run, below);
    if (mkdir(path, below[0] == '\0' ? 0755 : 0700) != 0 && errno != EEXIST) {
        return error_set(err, -errno, "can't make %s: %s", path, strerror(errno));
    }
    return 0;
}

static int lock_run_directory(const char *run, struct error *err)
{
    char path[VMM_FOLDER_PATH_SIZE + 16];
    (void)snprintf(path, sizeof(path), "%s/droverd.lock", run);
    CLEANUP(cleanup_fd) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_set(err, -errno, "can't open %s: %s", path, strerror(errno));
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        return error_set(err, DROVER_EINUSE, "another droverd uses %s: stop it first",
                         run);
    }
    return take_fd(&fd);
}

/* Beside droverd itself, as in a build tree, before PATH. */
static void default_program(char *ret_path, size_t size)
{
    char own[LIMIT_PATH_SIZE];
    static const char *const places[] = {"drover-vmm", "../bin/drover-vmm"};
    ssize_t length = readlink("/proc/self/exe", own, sizeof(own) - 32);
    if (length > 0) {
        own[length] = '\0';
        char *slash = strrchr(own, '/');
        for (size_t i = 0; slash != NULL && i < 2; i++) {
            (void)snprintf(slash + 1, sizeof(own) - (size_t)(slash + 1 - own), "%s",
                           places[i]);
            if (access(own, X_OK) == 0) {
                (void)snprintf(ret_path, size, "%s", own);
                return;
            }
        }
    }
    (void)snprintf(ret_path, size, "drover-vmm");
}

static int copy_text(char *to, size_t size, const char *from, const char *what,
                     struct error *err)
{
    from = from == NULL ? "" : from;
    if (strlen(from) >= size) {
        return error_set(err, DROVER_ELIMIT, "%s is too long: at most %zu characters: %s",
                         what, size - 1, from);
    }
    memcpy(to, from, strlen(from) + 1);
    return 0;
}

static int set_up(struct vmm_supervisor *supervisor,
                  const struct vmm_supervisor_config *config, struct error *err)
{
    /* Room for "/vms/ID.EPOCH/control.sock" in a socket's path. */
    int rv = copy_text(supervisor->run_directory, VMM_FOLDER_SOCKET_SIZE - 36,
                       config->run_directory, "the run directory", err);
    rv = rv != 0 ? rv
                 : copy_text(supervisor->vmm_program, sizeof(supervisor->vmm_program),
                             config->vmm_program, "the path of drover-vmm", err);
    rv = rv != 0
             ? rv
             : copy_text(supervisor->default_bridge, sizeof(supervisor->default_bridge),
                         config->default_bridge, "the default bridge", err);
    rv = rv != 0 ? rv
                 : copy_text(supervisor->incoming, sizeof(supervisor->incoming),
                             config->incoming, "the migration address", err);
    rv = rv != 0
             ? rv
             : copy_text(supervisor->incoming_rdma, sizeof(supervisor->incoming_rdma),
                         config->incoming_rdma, "the address for RDMA", err);
    rv = rv != 0 ? rv : make_directory(supervisor->run_directory, "", err);
    rv = rv != 0 ? rv : make_directory(supervisor->run_directory, "/vms", err);
    rv = rv != 0 ? rv : make_directory(supervisor->run_directory, "/logs", err);
    if (rv != 0) {
        return rv;
    }
    if (supervisor->vmm_program[0] == '\0') {
        default_program(supervisor->vmm_program, sizeof(supervisor->vmm_program));
    }
    rv = lock_run_directory(supervisor->run_directory, err);
    if (rv < 0) {
        return rv;
    }
    supervisor->lock_fd = rv;
    supervisor->migration_patience_ms = config->migration_patience_ms;
    return 0;
}

int vmm_supervisor_create(const struct vmm_supervisor_config *config,
                          struct vmm_supervisor **ret_supervisor, struct error *err)
{
    struct vmm_supervisor *supervisor = calloc(1, sizeof(*supervisor));
    if (supervisor == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    supervisor->loop = config->loop;
    supervisor->ops = config->ops;
    supervisor->owner = config->owner;
    supervisor->lock_fd = -1;
    int rv = set_up(supervisor, config, err);
    if (rv != 0) {
        free(supervisor);
        return rv;
    }
    rv = uv_timer_init(supervisor->loop, &supervisor->timer);
    CHECK(rv == 0); /* libuv: always */
    supervisor->timer.data = supervisor;
    supervisor->handles = 1;
    *ret_supervisor = supervisor;
    return 0;
}

/* ---- what is told later
 * -------------------------------------------------------------------- */

static void tell_later(struct vmm_supervisor *supervisor)
{
    int rv = uv_timer_start(&supervisor->timer, on_timer, 0, 0);
    CHECK(rv == 0);
}

static void on_timer(uv_timer_t *timer)
{
    struct vmm_supervisor *supervisor = timer->data;
    while (supervisor->closed == NULL && supervisor->lost_orders != NULL) {
        struct vmm_lost_order *lost = supervisor->lost_orders;
        supervisor->lost_orders = lost->next;
        supervisor->ops->order_failed(supervisor->owner, lost->vm_id, lost->epoch,
                                      DROVER_ENOTFOUND,
                                      "no VMM of this VM and epoch is here");
        free(lost);
    }
    if (supervisor->closed == NULL && supervisor->scanning &&
        supervisor->scan_waits == 0) {
        supervisor->scanning = false;
        supervisor->ops->scan_done(supervisor->owner);
    }
}

void vmm_supervisor_scan_step(struct vmm_supervisor *supervisor)
{
    if (supervisor->scanning && supervisor->scan_waits == 0) {
        tell_later(supervisor);
    }
}

/* ---- the scan
 * ----------------------------------------------------------------------------- */

static int scan_folder(struct vmm_supervisor *supervisor, const char *name,
                       struct error *err)
{
    uint64_t vm_id = 0;
    uint64_t epoch = 0;
    if (!vmm_folder_parse(name, &vm_id, &epoch)) {
        return 0; /* not ours */
    }
    int held = vmm_folder_held(supervisor->run_directory, vm_id, epoch);
    if (held < 0) {
        return error_set(err, held, "can't look at the lock of %s/vms/%s: %s",
                         supervisor->run_directory, name, err_text(held));
    }
    supervisor->scan_waits++;
    vmm_adopt(vmm_new(supervisor, vm_id, epoch), held == 1);
    return 0;
}

int vmm_supervisor_scan(struct vmm_supervisor *supervisor, struct error *err)
{
    CHECK(!supervisor->scanning && supervisor->vmms == NULL);
    char path[VMM_FOLDER_PATH_SIZE + 8];
    (void)snprintf(path, sizeof(path), "%s/vms", supervisor->run_directory);
    DIR *directory = opendir(path);
    if (directory == NULL) {
        return error_set(err, -errno, "can't read %s: %s", path, strerror(errno));
    }
    int rv = 0;
    const struct dirent *entry = NULL;
    while (rv == 0 && (entry = readdir(directory)) != NULL) {
        rv = scan_folder(supervisor, entry->d_name, err);
    }
    (void)closedir(directory);
    if (rv == 0) {
        supervisor->scanning = true;
        vmm_supervisor_scan_step(supervisor);
    }
    return rv;
}

/* ---- start, order
 * -------------------------------------------------------------------------- */

void vmm_supervisor_allow_rdma(struct vmm_supervisor *supervisor, bool allow)
{
    supervisor->rdma = allow;
}

void vmm_supervisor_start(struct vmm_supervisor *supervisor, const Drover__VmRecord *vm,
                          uint64_t epoch, bool incoming)
{
    CHECK(supervisor->closed == NULL && vm->spec != NULL);
    struct vmm *vmm = vmm_supervisor_find(supervisor, vm->vm_id, epoch);
    if (vmm != NULL) {
        vmm->repeat = vmm->state == VMM_STATE_RUNNING;
        vmm_arm(vmm);
        return;
    }
    vmm_launch(vmm_new(supervisor, vm->vm_id, epoch), vm, incoming);
}

void vmm_supervisor_order(struct vmm_supervisor *supervisor, uint64_t vm_id,
                          uint64_t epoch, const Drover__ControlRequest *request)
{
    vmm_supervisor_order_with(supervisor, vm_id, epoch, request, NULL);
}

static void files_drop(struct unix_files *files)
{
    if (files != NULL) {
        unix_files_done(files);
    }
}

void vmm_supervisor_order_with(struct vmm_supervisor *supervisor, uint64_t vm_id,
                               uint64_t epoch, const Drover__ControlRequest *request,
                               struct unix_files *files)
{
    CHECK(supervisor->closed == NULL);
    struct vmm *vmm = vmm_supervisor_find(supervisor, vm_id, epoch);
    bool quit = request->order_case == DROVER__CONTROL_REQUEST__ORDER_QUIT;
    if (vmm != NULL && vmm->state == VMM_STATE_ENDING && quit) {
        files_drop(files);
        return; /* gone() is on its way */
    }
    if (vmm == NULL || vmm->client == NULL || vmm->state == VMM_STATE_ENDING) {
        struct vmm_lost_order *lost = calloc(1, sizeof(*lost));
        CHECK(lost != NULL); /* without memory, droverd ends; its VMMs run on */
        *lost = (struct vmm_lost_order){supervisor->lost_orders, vm_id, epoch};
        supervisor->lost_orders = lost;
        tell_later(supervisor);
        files_drop(files);
        return;
    }
    if (quit && (vmm->kill_at_ms == 0 || vmm->state == VMM_STATE_STARTING)) {
        vmm_kill_in(vmm, QUIT_MS, "it did not end within 10 s of the order to quit");
    }
    vmm_client_order(vmm->client, request, files);
}

size_t vmm_supervisor_count(const struct vmm_supervisor *supervisor)
{
    size_t count = 0;
    for (const struct vmm *vmm = supervisor->vmms; vmm != NULL; vmm = vmm->next) {
        count++;
    }
    return count;
}

const Drover__VmStatus *vmm_supervisor_status(const struct vmm_supervisor *supervisor,
                                              uint64_t vm_id, uint64_t epoch)
{
    const struct vmm *vmm = vmm_supervisor_find(supervisor, vm_id, epoch);
    return vmm == NULL ? NULL : vmm->status;
}

int vmm_supervisor_serial_path(const struct vmm_supervisor *supervisor, uint64_t vm_id,
                               uint64_t epoch, char *ret_path, size_t size)
{
    if (vmm_supervisor_find(supervisor, vm_id, epoch) == NULL) {
        return DROVER_ENOTFOUND;
    }
    return vmm_folder_path(supervisor->run_directory, vm_id, epoch, "serial.sock",
                           ret_path, size);
}

/* ---- close
 * --------------------------------------------------------------------------------- */

void vmm_supervisor_unref(struct vmm_supervisor *supervisor)
{
    CHECK(supervisor->handles > 0);
    if (--supervisor->handles == 0) {
        CHECK(supervisor->closed != NULL && supervisor->vmms == NULL);
        supervisor->closed(supervisor->closed_owner);
    }
}

static void timer_closed(uv_handle_t *handle)
{
    vmm_supervisor_unref(handle->data);
}

void vmm_supervisor_close(struct vmm_supervisor *supervisor, void (*closed)(void *owner),
                          void *owner)
{
    CHECK(supervisor->closed == NULL && closed != NULL);
    supervisor->closed = closed;
    supervisor->closed_owner = owner;
    while (supervisor->vmms != NULL) {
        vmm_close(supervisor->vmms);
    }
    uv_close((uv_handle_t *)&supervisor->timer, timer_closed);
}

void vmm_supervisor_free(struct vmm_supervisor *supervisor)
{
    if (supervisor == NULL) {
        return;
    }
    CHECK(supervisor->handles == 0);
    while (supervisor->lost_orders != NULL) {
        struct vmm_lost_order *lost = supervisor->lost_orders;
        supervisor->lost_orders = lost->next;
        free(lost);
    }
    if (supervisor->lock_fd >= 0) {
        (void)close(supervisor->lock_fd);
    }
    free(supervisor);
}
