/* SPDX-License-Identifier: Apache-2.0 */
/* One VMM of the supervisor's: from its launch, or its finding, until it is gone. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/state_table.h"
#include "node-agent/vmm_client.h"
#include "node-agent/vmm_process.h"
#include "node-agent/vmm_supervisor_internal.h"

#define FIRST_WORD_MS 30000 /* a VMM that says nothing for so long is killed */
#define LOCK_POLL_MS  50

/* The last line of a drover-vmm that ends in good order (vmm/main.c). */
#define END_LINE  "the VM has ended: "
#define GUEST_OFF "the guest powered off"

static const struct state_row vmm_rows[] = {
    [VMM_STATE_STARTING] = {"starting", STATE_BIT(VMM_STATE_RUNNING) |
                                            STATE_BIT(VMM_STATE_ENDING) |
                                            STATE_BIT(VMM_STATE_CLOSING)},
    [VMM_STATE_RUNNING] = {"running",
                           STATE_BIT(VMM_STATE_ENDING) | STATE_BIT(VMM_STATE_CLOSING)},
    [VMM_STATE_ENDING] = {"ending", STATE_BIT(VMM_STATE_CLOSING)},
    [VMM_STATE_CLOSING] = {"closing", 0},
};

static const struct state_table vmm_states = {"vmm", vmm_rows, 4};

static void on_timer(uv_timer_t *timer);

struct vmm *vmm_new(struct vmm_supervisor *supervisor, uint64_t vm_id, uint64_t epoch)
{
    CHECK(vmm_supervisor_find(supervisor, vm_id, epoch) == NULL);
    struct vmm *vmm = calloc(1, sizeof(*vmm));
    CHECK(vmm != NULL);
    vmm->supervisor = supervisor;
    vmm->vm_id = vm_id;
    vmm->epoch = epoch;
    vmm->pidfd = -1;
    int rv = uv_timer_init(supervisor->loop, &vmm->timer);
    CHECK(rv == 0); /* libuv: always */
    vmm->timer.data = vmm;
    vmm->handles = 1;
    vmm->next = supervisor->vmms;
    supervisor->vmms = vmm;
    supervisor->handles++;
    return vmm;
}

/* ---- the end
 * ------------------------------------------------------------------------------ */

static void vmm_unref(struct vmm *vmm)
{
    CHECK(vmm->handles > 0);
    if (--vmm->handles > 0) {
        return;
    }
    struct vmm_supervisor *supervisor = vmm->supervisor;
    if (vmm->pidfd >= 0) {
        (void)close(vmm->pidfd);
    }
    drover__vm_status__free_unpacked(vmm->status, NULL);
    free(vmm);
    vmm_supervisor_unref(supervisor);
}

static void handle_closed(uv_handle_t *handle)
{
    vmm_unref(handle->data);
}

static void client_closed(void *owner)
{
    vmm_unref(owner);
}

static void poll_close(struct vmm *vmm)
{
    if (vmm->polling) {
        vmm->polling = false;
        uv_close((uv_handle_t *)&vmm->poll, handle_closed);
    }
}

void vmm_close(struct vmm *vmm)
{
    state_table_move(&vmm_states, &vmm->state, VMM_STATE_CLOSING);
    struct vmm **at = &vmm->supervisor->vmms;
    while (*at != vmm) {
        at = &(*at)->next;
    }
    *at = vmm->next;
    poll_close(vmm);
    if (vmm->client != NULL) {
        vmm_client_close(TAKE(vmm->client), client_closed, vmm);
    }
    uv_close((uv_handle_t *)&vmm->timer, handle_closed);
}

/* Why it is gone: what it said of itself, else its last words, else how its process
 * ended. */
static void compose_reason(struct vmm *vmm)
{
    char words[VMM_FOLDER_REASON_SIZE];
    const Drover__VmStatus *status = vmm->status;
    if (vmm->reason[0] != '\0') {
        return;
    }
    if (status != NULL && status->reason[0] != '\0') {
        (void)snprintf(vmm->reason, sizeof(vmm->reason), "%s", status->reason);
        return;
    }
    vmm_folder_last_words(vmm->supervisor->run_directory, vmm->vm_id, vmm->epoch, words,
                          sizeof(words));
    bool killed = strncmp(vmm->ended, "was", 3) == 0;
    if (strncmp(words, END_LINE, strlen(END_LINE)) == 0) {
        /* It ended in good order while nobody listened. */
        char *fields = strstr(words, " vm=");
        if (fields != NULL) {
            *fields = '\0';
        }
        (void)snprintf(vmm->reason, sizeof(vmm->reason), "%s", words + strlen(END_LINE));
        vmm->powered_off = strcmp(vmm->reason, GUEST_OFF) == 0;
        return;
    }
    if (words[0] != '\0' && !killed) {
        (void)snprintf(vmm->reason, sizeof(vmm->reason), "%s", words);
    } else {
        (void)snprintf(vmm->reason, sizeof(vmm->reason), "drover-vmm %.63s%s%.150s",
                       vmm->ended[0] != '\0' ? vmm->ended : "ended unseen",
                       words[0] != '\0' ? "; its last words: " : "", words);
    }
}

/* No process is left, for certain. */
static void vmm_finish(struct vmm *vmm)
{
    struct vmm_supervisor *supervisor = vmm->supervisor;
    compose_reason(vmm);
    for (unsigned i = 0; i < vmm->tap_count; i++) {
        int rv = tap_delete(vmm->taps[i]);
        if (rv != 0) {
            char text[ERROR_TEXT_SIZE];
            (void)snprintf(text, sizeof(text), "tap %s stays: %s: ip link del %s",
                           vmm->taps[i], err_text(rv), vmm->taps[i]);
            supervisor->ops->note(supervisor->owner, text);
        }
    }
    vmm_folder_remove(supervisor->run_directory, vmm->vm_id, vmm->epoch);
    bool off =
        vmm->powered_off || (vmm->status != NULL && vmm->status->guest_powered_off);
    bool waited = vmm->found && vmm->status == NULL;
    char reason[VMM_FOLDER_REASON_SIZE];
    (void)snprintf(reason, sizeof(reason), "%s", vmm->reason);
    uint64_t vm_id = vmm->vm_id;
    uint64_t epoch = vmm->epoch;
    vmm_close(vmm);
    supervisor->ops->gone(supervisor->owner, vm_id, epoch, reason, off);
    if (waited && supervisor->closed == NULL) {
        supervisor->scan_waits--;
        vmm_supervisor_scan_step(supervisor);
    }
}

void vmm_ended(struct vmm *vmm)
{
    state_table_move(&vmm_states, &vmm->state, VMM_STATE_ENDING);
    poll_close(vmm);
    vmm->kill_at_ms = 0;
    vmm_arm(vmm);
}

/* ---- what it is seen to do
 * ---------------------------------------------------------------- */

static void on_process_end(uv_poll_t *poll, int status, int events)
{
    struct vmm *vmm = poll->data;
    (void)status;
    (void)events; /* a pidfd shows only one thing */
    vmm_process_reap(vmm->pidfd, vmm->ended, sizeof(vmm->ended));
    vmm_ended(vmm);
}

int vmm_watch(struct vmm *vmm)
{
    int rv = uv_poll_init(vmm->supervisor->loop, &vmm->poll, vmm->pidfd);
    if (rv != 0) {
        return rv;
    }
    vmm->poll.data = vmm;
    vmm->handles++;
    vmm->polling = true;
    return uv_poll_start(&vmm->poll, UV_READABLE, on_process_end);
}

static Drover__VmStatus *status_copy(const Drover__VmStatus *status)
{
    size_t size = drover__vm_status__get_packed_size(status);
    uint8_t *packed = malloc(size > 0 ? size : 1);
    if (packed == NULL) {
        return NULL;
    }
    (void)drover__vm_status__pack(status, packed);
    Drover__VmStatus *copy = drover__vm_status__unpack(NULL, size, packed);
    free(packed);
    return copy;
}

static void on_status(void *owner, const Drover__VmStatus *status)
{
    struct vmm *vmm = owner;
    struct vmm_supervisor *supervisor = vmm->supervisor;
    Drover__VmStatus *copy = status_copy(status);
    bool first = vmm->status == NULL;
    if (copy != NULL) {
        drover__vm_status__free_unpacked(vmm->status, NULL);
        vmm->status = copy;
    }
    if (vmm->state == VMM_STATE_STARTING) {
        state_table_move(&vmm_states, &vmm->state, VMM_STATE_RUNNING);
        vmm->kill_at_ms = 0;
        vmm_arm(vmm);
    }
    bool waited = vmm->found && first && copy != NULL;
    supervisor->ops->status(supervisor->owner, status);
    if (waited && supervisor->closed == NULL) {
        supervisor->scan_waits--;
        vmm_supervisor_scan_step(supervisor);
    }
}

static void on_order_failed(void *owner, int error, const char *text)
{
    struct vmm *vmm = owner;
    vmm->supervisor->ops->order_failed(vmm->supervisor->owner, vmm->vm_id, vmm->epoch,
                                       error, text);
}

static void on_note(void *owner, const char *text)
{
    struct vmm *vmm = owner;
    char line[ERROR_TEXT_SIZE];
    (void)snprintf(line, sizeof(line), "VM %llu epoch %llu: %s",
                   (unsigned long long)vmm->vm_id, (unsigned long long)vmm->epoch, text);
    vmm->supervisor->ops->note(vmm->supervisor->owner, line);
}

static const struct vmm_client_ops client_ops = {on_status, on_order_failed, on_note};

int vmm_start_client(struct vmm *vmm)
{
    char path[VMM_FOLDER_SOCKET_SIZE];
    int rv = vmm_folder_path(vmm->supervisor->run_directory, vmm->vm_id, vmm->epoch,
                             "control.sock", path, sizeof(path));
    if (rv != 0) {
        return rv;
    }
    const struct vmm_client_config config = {
        .loop = vmm->supervisor->loop,
        .path = path,
        .vm_id = vmm->vm_id,
        .epoch = vmm->epoch,
        .ops = &client_ops,
        .owner = vmm,
    };
    rv = vmm_client_create(&config, &vmm->client);
    if (rv == 0) {
        vmm->handles++;
        vmm_kill_in(vmm, FIRST_WORD_MS, "it said nothing for 30 s on its control socket");
    }
    return rv;
}

/* ---- time
 * --------------------------------------------------------------------------------- */

void vmm_kill_in(struct vmm *vmm, unsigned wait_ms, const char *why)
{
    vmm->kill_at_ms = clock_now_ms() + wait_ms;
    vmm->kill_why = why;
    vmm_arm(vmm);
}

void vmm_arm(struct vmm *vmm)
{
    uint64_t now_ms = clock_now_ms();
    uint64_t at_ms = vmm->kill_at_ms == 0 ? UINT64_MAX : vmm->kill_at_ms;
    if (vmm->state == VMM_STATE_ENDING || vmm->repeat) {
        at_ms = now_ms;
    } else if (vmm->pidfd < 0 && vmm->found) {
        at_ms = now_ms + LOCK_POLL_MS; /* no pidfd to tell of its end: the lock will */
    }
    if (at_ms == UINT64_MAX) {
        (void)uv_timer_stop(&vmm->timer); /* never fails on a live timer */
        return;
    }
    uv_update_time(vmm->supervisor->loop);
    int rv =
        uv_timer_start(&vmm->timer, on_timer, at_ms > now_ms ? at_ms - now_ms : 0, 0);
    CHECK(rv == 0);
}

static void kill_now(struct vmm *vmm)
{
    vmm->kill_at_ms = 0;
    int pid = vmm->status != NULL ? vmm->status->pid : vmm->pid;
    if (vmm->pidfd < 0 && pid > 0) {
        vmm->pidfd = vmm_process_adopt(pid, vmm_folder_start_ticks(pid));
    }
    if (vmm->pidfd >= 0) {
        (void)snprintf(vmm->reason, sizeof(vmm->reason), "drover-vmm was killed: %s",
                       vmm->kill_why);
        vmm_process_kill(vmm->pidfd);
    }
    on_note(vmm, vmm->pidfd >= 0 ? vmm->reason : vmm->kill_why);
}

static void on_timer(uv_timer_t *timer)
{
    struct vmm *vmm = timer->data;
    struct vmm_supervisor *supervisor = vmm->supervisor;
    bool lock_tells = vmm->pidfd < 0 && vmm->found;
    if (vmm->state == VMM_STATE_ENDING || lock_tells) {
        int held = vmm_folder_held(supervisor->run_directory, vmm->vm_id, vmm->epoch);
        if (held == 0) {
            if (vmm->state != VMM_STATE_ENDING) {
                vmm_ended(vmm);
            }
            vmm_finish(vmm);
            return;
        }
        if (vmm->state == VMM_STATE_ENDING) {
            /* A child of the VMM's, or a process that is still being taken down. */
            int rv = uv_timer_start(&vmm->timer, on_timer, LOCK_POLL_MS, 0);
            CHECK(rv == 0);
            return;
        }
    }
    if (vmm->kill_at_ms != 0 && clock_now_ms() >= vmm->kill_at_ms) {
        kill_now(vmm);
    }
    bool repeat = vmm->repeat && vmm->status != NULL;
    vmm->repeat = false;
    vmm_arm(vmm);
    if (repeat) {
        supervisor->ops->status(supervisor->owner, vmm->status);
    }
}

void vmm_adopt(struct vmm *vmm, bool alive)
{
    struct vmm_supervisor *supervisor = vmm->supervisor;
    Drover__VmmRecord *record = NULL;
    vmm->found = true;
    int rv = vmm_folder_record_load(supervisor->run_directory, vmm->vm_id, vmm->epoch,
                                    &record);
    if (rv == 0) {
        for (size_t i = 0; i < record->n_taps && i < LIMIT_VM_NICS; i++) {
            (void)snprintf(vmm->taps[i], TAP_NAME_SIZE, "%s", record->taps[i]);
            vmm->tap_count++;
        }
        vmm->pid = record->pid;
        if (alive) {
            vmm->pidfd = vmm_process_adopt(record->pid, record->start_ticks);
            vmm->pidfd = vmm->pidfd < 0 ? -1 : vmm->pidfd;
        }
        drover__vmm_record__free_unpacked(record, NULL);
    }
    if (!alive) {
        vmm_ended(vmm);
        return;
    }
    if (vmm->pidfd >= 0 && vmm_watch(vmm) != 0) {
        poll_close(vmm);
        (void)close(vmm->pidfd);
        vmm->pidfd = -1;
    }
    if (vmm_start_client(vmm) != 0) {
        on_note(
            vmm,
            "can't speak to it: out of memory, or the run directory's path is too long");
    }
    vmm_arm(vmm);
}
