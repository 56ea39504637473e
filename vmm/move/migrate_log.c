/* SPDX-License-Identifier: Apache-2.0 */
/* What the VM's log says of moves. */
#include "vmm/move/migrate_log.h"

#include <inttypes.h>

#include "base/log.h"
#include "migration/source.h"
#include "migration/status.h"
#include "vmm/vm.h"

/* A move that does not converge has up to a thousand rounds: after so many, one in so many. */
#define ROUNDS_TOLD 32u

void migrate_log_end(struct vm *vm, const char *what,
                     const struct migration_status *status)
{
    const struct migration_figures *figures = &status->figures;
    const char *name = vm_config(vm)->name;
    if (status->state != MIGRATION_STATE_DONE) {
        log_warn(vm_log(vm), "%s vm=%s state=%s why=%s", what, name,
                 migration_state_name(status->state), status->error.text);
        return;
    }
    log_notice(vm_log(vm),
               "%s vm=%s total_ms=%" PRIu64 " downtime_us=%" PRIu64
               " predicted_downtime_us=%" PRIu64 " bytes=%" PRIu64 " rounds=%u",
               what, name, figures->total_us / 1000, figures->downtime_us,
               figures->predicted_downtime_us, figures->bytes_sent, figures->rounds);
}

void migrate_log_pause(struct vm *vm, const struct migration_status *status)
{
    const struct migration_figures *figures = &status->figures;
    const char *name = vm_config(vm)->name;
    if (status->state != MIGRATION_STATE_DONE) {
        return;
    }
    log_notice(vm_log(vm),
               "the pause, in us vm=%s last_pages=%" PRIu64 " drained=%" PRIu64
               " pages=%" PRIu64 " saved=%" PRIu64 " released=%" PRIu64 " ready=%" PRIu64
               " entered=%" PRIu64,
               name, figures->pause.last_pages, figures->pause.drained_us,
               figures->pause.pages_us, figures->pause.saved_us,
               figures->pause.released_us, figures->pause.ready_us,
               figures->pause.entered_us);
    log_notice(vm_log(vm),
               "foreseen, in us vm=%s last_pages=%" PRIu64 " drained=%" PRIu64
               " fetched=%" PRIu64 " saved=%" PRIu64 " loaded=%" PRIu64 " trip=%" PRIu64,
               name, figures->foreseen.last_pages, figures->foreseen.drained_us,
               figures->foreseen.fetched_us, figures->foreseen.saved_us,
               figures->foreseen.loaded_us, figures->foreseen.trip_us);
}

void migrate_log_round(struct vm *vm, const struct migration_round *round)
{
    if (round->number > ROUNDS_TOLD && round->number % ROUNDS_TOLD != 0) {
        return;
    }
    log_notice(vm_log(vm),
               "a round vm=%s round=%u ms=%" PRIu64 " answered_ms=%" PRIu64
               " limited_ms=%" PRIu64 " bytes=%" PRIu64 " pages=%" PRIu64
               " limit_bytes_per_s=%" PRIu64 " link_bytes_per_s=%" PRIu64
               " dirty_bytes_per_s=%" PRIu64 " left_bytes=%" PRIu64
               " predicted_downtime_us=%" PRIu64 " throttle_percent=%u",
               vm_config(vm)->name, round->number, round->took_us / 1000,
               round->answered_us / 1000, round->limited_us / 1000, round->bytes_sent,
               round->pages_sent, round->limit_bytes_per_second,
               round->link_bytes_per_second, round->dirty_bytes_per_second,
               round->remaining_bytes, round->predicted_downtime_us,
               round->throttle_percent);
}
