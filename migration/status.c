/* SPDX-License-Identifier: Apache-2.0 */
/* Where a move stands. */
#include "migration/status.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/state_table.h"

/*
 *     NONE --> CONNECTING --> PRECOPY --> HANDOVER --+--> DONE <----------+
 *                   |            |           |       |                    |
 *                   |            |           |       +--> POSTCOPY -------+--> FAILED (lost)
 *                   |            |           |       |       A
 *                   +------------+-----------+       +--> UNKNOWN --> FAILED (reclaimed)
 *                                |
 *                                +--> FAILED or CANCELLED
 */
#define BIT(state) STATE_BIT(MIGRATION_STATE_##state)
static const struct state_row rows[] = {
    [MIGRATION_STATE_NONE] = {"none", BIT(CONNECTING) | BIT(FAILED) | BIT(CANCELLED)},
    [MIGRATION_STATE_CONNECTING] = {"connecting",
                                    BIT(PRECOPY) | BIT(FAILED) | BIT(CANCELLED)},
    [MIGRATION_STATE_PRECOPY] = {"precopy", BIT(HANDOVER) | BIT(FAILED) | BIT(CANCELLED)},
    [MIGRATION_STATE_HANDOVER] = {"handover", BIT(DONE) | BIT(FAILED) | BIT(CANCELLED) |
                                                  BIT(UNKNOWN) | BIT(POSTCOPY)},
    [MIGRATION_STATE_DONE] = {"done", 0},
    [MIGRATION_STATE_FAILED] = {"failed", 0},
    [MIGRATION_STATE_CANCELLED] = {"cancelled", 0},
    [MIGRATION_STATE_UNKNOWN] = {"unknown", BIT(FAILED) | BIT(POSTCOPY)},
    [MIGRATION_STATE_POSTCOPY] = {"postcopy", BIT(DONE) | BIT(FAILED)},
};
static const struct state_table table = {
    .name = "migration", .rows = rows, .count = sizeof(rows) / sizeof(rows[0])};

const char *migration_state_name(enum migration_state state)
{
    return state_table_name(&table, state);
}

bool migration_state_final(enum migration_state state)
{
    return state >= MIGRATION_STATE_DONE && state != MIGRATION_STATE_POSTCOPY;
}

int status_board_init(struct status_board *board, void (*changed)(void *owner),
                      void *owner)
{
    *board = (struct status_board){.changed = changed, .owner = owner};
    return -pthread_mutex_init(&board->lock, NULL);
}

void status_board_done(struct status_board *board)
{
    (void)pthread_mutex_destroy(&board->lock); /* unlocked: the engine's thread is gone */
}

void status_board_get(struct status_board *board, struct migration_status *ret_status)
{
    *ret_status = *status_board_lock(board);
    status_board_unlock(board);
}

struct migration_status *status_board_lock(struct status_board *board)
{
    CHECK(pthread_mutex_lock(&board->lock) == 0);
    return &board->status;
}

void status_board_unlock(struct status_board *board)
{
    CHECK(pthread_mutex_unlock(&board->lock) == 0);
}

void status_board_interrupt(struct status_board *board, const struct error *err)
{
    struct migration_status *status = status_board_lock(board);
    bool changed = status->interrupted != (err != NULL);
    status->interrupted = err != NULL;
    status->error = err != NULL ? *err : (struct error){0};
    status_board_unlock(board);
    if (changed && board->changed != NULL) {
        board->changed(board->owner);
    }
}

void status_board_move(struct status_board *board, enum migration_state state,
                       const struct error *err)
{
    struct migration_status *status = status_board_lock(board);
    unsigned current = status->state;
    state_table_move(&table, &current, state);
    status->state = (enum migration_state)current;
    if (state == MIGRATION_STATE_CONNECTING) {
        status->started_ns = clock_now_ns();
    }
    if (migration_state_final(state) && status->ended_ns == 0) {
        status->ended_ns = clock_now_ns();
    }
    if (err != NULL) {
        status->error = *err;
    }
    status_board_unlock(board);
    if (board->changed != NULL) {
        board->changed(board->owner);
    }
}
