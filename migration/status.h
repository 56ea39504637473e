/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a move stands, for others to see. The engine's thread writes, any thread takes a
 * copy.
 */
#ifndef DROVER_MIGRATION_STATUS_H
#define DROVER_MIGRATION_STATUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* The numbers are those of VmMigrationState (proto/control.proto). */
enum migration_state {
    MIGRATION_STATE_NONE = 0,
    MIGRATION_STATE_CONNECTING = 1, /* target: waits for the source */
    MIGRATION_STATE_PRECOPY = 2,
    MIGRATION_STATE_HANDOVER = 3,
    MIGRATION_STATE_DONE =
        4, /* source: the target said that it runs. target: obeyed the go */
    MIGRATION_STATE_FAILED = 5, /* source: goes on. target: never runs */
    MIGRATION_STATE_CANCELLED = 6,
    MIGRATION_STATE_UNKNOWN =
        7, /* source: the go was sent, or may have been; no word from the target */
    MIGRATION_STATE_POSTCOPY =
        8, /* the guest runs on the target; the source has memory that it still needs */
};

#define MIGRATION_NOTICE_SIZE 192

struct migration_figures {
    uint64_t total_us;
    uint64_t
        downtime_us; /* from the source's last vCPU exit to the target's first entry */
    uint64_t predicted_downtime_us; /* 0: not known yet, as the next one */
    uint64_t predicted_total_ms;    /* from the start of the move */
    uint64_t bytes_sent;
    uint64_t bytes_placed; /* of these, by RDMA straight into the target's memory */
    uint64_t pages_sent;
    uint64_t pages_zero;
    uint64_t postcopy_pages; /* of both: after the go; on the target when all have come */
    uint32_t rounds;
    /* Where the pause went, on the source: each from the end of the one before. */
    struct {
        uint64_t drained_us;  /* from the last vCPU's exit until all I/O was drained, and
                                 that was noticed */
        uint64_t last_pages;  /* how many were sent in it */
        uint64_t pages_us;    /* last pages sent */
        uint64_t saved_us;    /* devices' state saved */
        uint64_t released_us; /* disks stable and unlocked */
        uint64_t ready_us;    /* the target was ready */
        uint64_t entered_us;  /* its first entry */
    } pause;
    /* What the handover was decided by. */
    struct {
        uint64_t drained_us;
        uint64_t fetched_us; /* the dirty log */
        uint64_t last_pages;
        uint64_t saved_us;
        uint64_t loaded_us; /* all that the target does by itself */
        uint64_t trip_us;   /* there and back */
    } foreseen;
};

struct migration_status {
    enum migration_state state;
    uint32_t round;
    uint32_t streams; /* connections that memory goes over; 0: not known yet */
    uint64_t bytes_total;
    uint64_t bytes_remaining;
    uint64_t bytes_per_second;
    uint64_t dirty_bytes_per_second;
    uint32_t throttle_percent; /* of its time that a vCPU that writes much is kept out */
    uint64_t started_ns; /* CLOCK_BOOTTIME; 0: not yet */
    uint64_t ended_ns;   /* 0: not yet */
    struct migration_figures figures;
    bool over_rdma;     /* so nothing was encrypted */
    bool interrupted;   /* POSTCOPY: the link is lost, and waited for */
    char notice[MIGRATION_NOTICE_SIZE]; /* what is not as it was asked for; "": nothing */
    struct error error; /* of FAILED, CANCELLED, UNKNOWN, and why it is interrupted */
};

const char *migration_state_name(enum migration_state state);
bool migration_state_final(enum migration_state state);

/* Embedded by source and target. */
struct status_board {
    /* Called on the engine's thread after each change of state, with no lock held. May be
     * NULL. */
    void (*changed)(void *owner);
    void *owner;
    /* private */
    pthread_mutex_t lock;
    struct migration_status status;
};

int status_board_init(struct status_board *board, void (*changed)(void *owner),
                      void *owner);
void status_board_done(struct status_board *board);
void status_board_get(struct status_board *board, struct migration_status *ret_status);
/* For more than one field: `status` may be changed in between, but not its state. */
struct migration_status *status_board_lock(struct status_board *board);
void status_board_unlock(struct status_board *board);
/* POSTCOPY: the link is lost, and why, or (NULL) there is one again. */
void status_board_interrupt(struct status_board *board, const struct error *err);
/* `err` may be NULL. */
void status_board_move(struct status_board *board, enum migration_state state,
                       const struct error *err);

#endif
