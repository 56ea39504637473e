/* SPDX-License-Identifier: Apache-2.0 */
/* What the hosts tell about their VMs with each request for a lease. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/controller_private.h"

static const Drover__VmStatus *find(const Drover__LeaseRequest *report, uint64_t vm_id,
                                    uint64_t epoch)
{
    for (size_t i = 0; report != NULL && i < report->n_vms; i++) {
        if (report->vms[i]->vm_id == vm_id && report->vms[i]->epoch == epoch) {
            return report->vms[i];
        }
    }
    return NULL;
}

/* Without a deadline it waits for its first lease: that is its start, no freeze. */
static bool frozen(const Drover__VmStatus *status)
{
    return status != NULL && status->run_state == DROVER__VM_RUN_STATE__VM_RUN_FROZEN &&
           status->lease_deadline_ns != 0;
}

static bool runs(const Drover__VmStatus *status)
{
    return status->run_state == DROVER__VM_RUN_STATE__VM_RUN_RUNNING ||
           status->run_state == DROVER__VM_RUN_STATE__VM_RUN_PAUSED;
}

static void tell_change(struct controller *controller, uint64_t host_id,
                        const Drover__VmStatus *before, const Drover__VmStatus *now)
{
    bool froze = frozen(now) && !frozen(before);
    bool thawed = frozen(before) && runs(now);
    if (!froze && !thawed) {
        return;
    }
    char text[ERROR_TEXT_SIZE];
    (void)snprintf(text, sizeof(text), "VM '%s' %s", now->name,
                   froze ? "is frozen: its host has had no lease"
                         : "goes on where it stood: its host has its lease back");
    Drover__Event event = DROVER__EVENT__INIT;
    event.kind = (char *)(uintptr_t)(froze ? "vm.frozen" : "vm.thawed");
    event.text = text;
    event.host_id = host_id;
    event.vm_id = now->vm_id;
    event.epoch = now->epoch;
    controller_event(controller, &event);
}

static Drover__LeaseRequest *copy(const Drover__LeaseRequest *request)
{
    size_t size = drover__lease_request__get_packed_size(request);
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    if (packed == NULL) {
        return NULL;
    }
    (void)drover__lease_request__pack(request, packed); /* fills `size` */
    return drover__lease_request__unpack(NULL, size, packed);
}

void controller_report(struct controller *controller, struct controller_host *host,
                       const Drover__LeaseRequest *request)
{
    Drover__LeaseRequest *report = copy(request);
    if (report == NULL) {
        return; /* short of memory: what was known before is shown a little longer */
    }
    for (size_t i = 0; i < report->n_vms; i++) {
        const Drover__VmStatus *now = report->vms[i];
        tell_change(controller, host->host_id, find(host->report, now->vm_id, now->epoch),
                    now);
    }
    if (host->report != NULL) {
        drover__lease_request__free_unpacked(host->report, NULL);
    }
    host->report = report;
}

/* Of two VMMs of one VM, the one that a person means: that which has the guest, then the
 * newer. */
static bool tells_more(const Drover__VmStatus *a, const Drover__VmStatus *b)
{
    bool a_has = runs(a) || frozen(a);
    bool b_has = runs(b) || frozen(b);
    return a_has != b_has ? a_has : a->epoch > b->epoch;
}

const Drover__VmStatus *controller_observed(const struct controller *controller,
                                            uint64_t vm_id, uint64_t *ret_host_id,
                                            uint64_t *ret_at_ms)
{
    const Drover__VmStatus *best = NULL;
    for (unsigned h = 0; h < controller->host_count; h++) {
        const struct controller_host *host = &controller->hosts[h];
        for (size_t i = 0; host->report != NULL && i < host->report->n_vms; i++) {
            const Drover__VmStatus *status = host->report->vms[i];
            if (status->vm_id != vm_id || (best != NULL && !tells_more(status, best))) {
                continue;
            }
            best = status;
            const struct lease_host *lease =
                lease_grantor_host(&controller->grantor, host->host_id);
            *ret_host_id = host->host_id;
            *ret_at_ms = lease != NULL ? lease->heard_ms : 0;
        }
    }
    return best;
}
