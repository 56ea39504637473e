/* SPDX-License-Identifier: Apache-2.0 */
/* See target_start.h. */
#include "migration/target_start.h"

#include "base/clock.h"
#include "migration/guest.h"
#include "migration/status.h"
#include "migration/wire.h"

#define NS_PER_US UINT64_C(1000)

/* The time from the go's arrival to the first entry is `entered_us`. */
static void figures_tell(struct status_board *board, const struct wire_go *go,
                         uint64_t entered_us)
{
    uint64_t entry_us = go->one_way_us + entered_us;
    struct migration_status *status = status_board_lock(board);
    status->figures = (struct migration_figures){
        .total_us = go->total_us + entry_us,
        .downtime_us = go->standing_us + entry_us,
        .predicted_downtime_us = go->predicted_downtime_us,
        .bytes_sent = go->bytes_sent,
        .pages_sent = go->pages_sent,
        .pages_zero = go->pages_zero,
        .rounds = go->rounds,
    };
    status_board_unlock(board);
}

void target_guest_start(struct migration_guest *guest, struct status_board *board,
                        const struct wire_go *go, uint64_t received_ns,
                        struct wire_done *ret_done)
{
    uint64_t entered_ns = 0;
    /* Whoever sees the guest run must see figures, if only without its entry. */
    figures_tell(board, go, (clock_now_ns() - received_ns) / NS_PER_US);
    guest->ops->start(guest, &entered_ns);
    struct wire_done done = {.entered_us = entered_ns > received_ns
                                               ? (entered_ns - received_ns) / NS_PER_US
                                               : 0};
    figures_tell(board, go, done.entered_us);
    done.answer_us = (clock_now_ns() - received_ns) / NS_PER_US;
    *ret_done = done;
}
