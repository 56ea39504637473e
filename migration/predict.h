/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a move will be like: how long the guest will stand, and how long all of it takes,
 * from what was measured of guest, link and both ends. Pure.
 */
#ifndef DROVER_MIGRATION_PREDICT_H
#define DROVER_MIGRATION_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/dirty_rate.h"

/* Of the pause, whatever remains to be sent; each 0 as long as it is not known. */
struct predict_costs {
    uint64_t stop_us;       /* from the order until the last vCPU is out: it writes on */
    uint64_t drain_us;      /* from then on until I/O is drained, and that was noticed */
    uint64_t fetch_us;      /* the dirty log, once more */
    uint64_t save_us;       /* devices' state */
    uint64_t state_bytes;   /* of it, over the link */
    uint64_t load_us;       /* on the target, up to ready */
    uint64_t round_trip_us; /* of a short message */
    uint64_t enter_us;      /* from the go's arrival to the first entry */
};

struct predict_link {
    uint64_t bytes_per_second; /* 0: not known */
    uint64_t last_bytes_per_second; /* while the guest stands, over one stream; 0: the same */
    uint64_t round_us;         /* what a round takes beside its bytes */
};

struct predict_model {
    const struct dirty_curve *curve;
    struct predict_costs costs;
    struct predict_link link;
    uint64_t limit_bytes; /* more than this never has to be sent in one round */
    /* What was not seen to be dirtied never will be: to tell what surely can't be met. */
    bool hopeful;
};

struct predict_outcome {
    uint64_t pause_us;
    uint64_t total_us; /* from now to the first entry on the target */
    uint64_t bytes;    /* that will be sent from now on */
    unsigned rounds;
};

/* The pause if the guest stopped now and `bytes` were left. The link's speed is known. */
uint64_t predict_pause_us(const struct predict_model *model, uint64_t bytes);
/* Of which nothing depends on how much is left. */
uint64_t predict_fixed_us(const struct predict_costs *costs);
/* What sending takes. */
uint64_t predict_send_us(const struct predict_link *link, uint64_t bytes);

struct predict_way {
    /* The guest does so much of its writes, in the first round and in all others: 1000
     * when it is not throttled. */
    unsigned first_permille, permille;
    uint64_t enough_us; /* a pause that is short enough */
    uint64_t left_us;   /* all of it must end by then */
    bool one_round;     /* is made in any case: nothing was sent yet */
};

/*
 * Rounds from `pending_bytes` on until the pause is short enough, or further ones would
 * not make it noticeably shorter, or would end too late.
 */
void predict_move(const struct predict_model *model, uint64_t pending_bytes,
                  const struct predict_way *way, struct predict_outcome *ret_outcome);

#endif
