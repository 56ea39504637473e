/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model of a move. A round that sends B bytes takes B / speed; what the guest dirties
 * meanwhile is read off its working-set curve, and is what the next round must send. So
 * rounds come to rest where the guest dirties as much as one round sends, and the pause
 * with them.
 */
#include "migration/predict.h"

#include <stdbool.h>

#include "base/check.h"
#include "migration/guest.h"

#define US_PER_S   UINT64_C(1000000)
#define ROUNDS_MAX 64u
#define ROUNDS_MAX_HOPEFUL 1000u
/* A round that leaves hardly less than the one before: 5 %. */
#define GAIN_PARTS 20u
/* STATE one way, READY back, GO one way: in halves of a round trip. */
#define HALF_TRIPS 3u
/* Bytes that no link here could take in a day. */
#define SEND_US_MAX (UINT64_C(86400) * US_PER_S)

uint64_t predict_send_us(const struct predict_link *link, uint64_t bytes)
{
    CHECK(link->bytes_per_second > 0);
    double us = (double)bytes * (double)US_PER_S / (double)link->bytes_per_second;
    return us > (double)SEND_US_MAX ? SEND_US_MAX : (uint64_t)us;
}

uint64_t predict_fixed_us(const struct predict_costs *costs)
{
    return costs->drain_us + costs->fetch_us + costs->save_us + costs->load_us +
           HALF_TRIPS * costs->round_trip_us / 2 + costs->enter_us;
}

/* What the guest dirties within `us`. */
static uint64_t dirtied(const struct predict_model *model, uint64_t us,
                        unsigned guest_permille)
{
    if (model->curve == NULL) {
        return 0;
    }
    const struct dirty_curve *curve = model->curve;
    if (model->hopeful && curve->count > 0 && us > curve->points[curve->count - 1].us) {
        us = curve->points[curve->count - 1].us;
    }
    uint64_t guest_us =
        us < UINT64_MAX / 1000 ? us * guest_permille / 1000 : us / 1000 * guest_permille;
    uint64_t bytes = dirty_curve_pages(curve, guest_us) * MIGRATION_PAGE_SIZE;
    return bytes < model->limit_bytes ? bytes : model->limit_bytes;
}

uint64_t predict_pause_us(const struct predict_model *model, uint64_t bytes)
{
    struct predict_link link = model->link;
    if (link.last_bytes_per_second != 0) {
        link.bytes_per_second = link.last_bytes_per_second;
    }
    bytes += dirtied(model, model->costs.stop_us, 1000);
    return predict_fixed_us(&model->costs) +
           predict_send_us(&link, bytes + model->costs.state_bytes);
}

void predict_move(const struct predict_model *model, uint64_t pending_bytes,
                  const struct predict_way *way, struct predict_outcome *ret_outcome)
{
    struct predict_outcome outcome = {.pause_us = predict_pause_us(model, pending_bytes)};
    uint64_t pending = pending_bytes;
    uint64_t passed_us = 0;
    unsigned rounds_max = model->hopeful ? ROUNDS_MAX_HOPEFUL : ROUNDS_MAX;
    while (outcome.rounds < rounds_max) {
        bool must = way->one_round && outcome.rounds == 0;
        if (outcome.pause_us <= way->enough_us && !must) {
            break;
        }
        uint64_t us = predict_send_us(&model->link, pending) + model->link.round_us;
        uint64_t next = dirtied(
            model, us, outcome.rounds == 0 ? way->first_permille : way->permille);
        uint64_t pause_us = predict_pause_us(model, next);
        uint64_t gain = model->hopeful ? 0 : pending / GAIN_PARTS;
        if (!must &&
            (next >= pending - gain || passed_us + us + pause_us > way->left_us)) {
            break;
        }
        passed_us += us;
        outcome.bytes += pending;
        outcome.rounds++;
        outcome.pause_us = pause_us;
        pending = next;
    }
    outcome.bytes += pending;
    outcome.total_us = passed_us + outcome.pause_us;
    *ret_outcome = outcome;
}
