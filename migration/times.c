/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's time table. */
#include "migration/times.h"

#include "base/check.h"

struct migration_times migration_times_from(uint32_t patience_ms)
{
    uint32_t base = patience_ms == 0 ? MIGRATION_PATIENCE_MS : patience_ms;
    base = base < MIGRATION_PATIENCE_MS_MIN ? MIGRATION_PATIENCE_MS_MIN : base;
    base = base > MIGRATION_PATIENCE_MS_MAX ? MIGRATION_PATIENCE_MS_MAX : base;
    struct migration_times times = {
        .idle_ms = 4 * base,
        .standing_ms = base,
        .keepalive_ms = base / 4,
        .connect_ms = 2 * base,
        .drain_ms = base,
        .ready_ms = 2 * base,
        .go_ms = 3 * base,
        .done_ms = 2 * base,
    };
    /*
     * The source counts ready_ms from before the target counts go_ms. So a go that the
     * source still sends in time reaches a target that still waits, with a quarter of it
     * left for the way and for drift (1 %). That saves moves; that the VM never runs
     * twice rests on the target deciding once.
     */
    CHECK(times.ready_ms + times.ready_ms / 4 < times.go_ms);
    return times;
}
