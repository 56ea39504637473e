/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The side that a guest leaves. The move runs on a thread of its own; if it fails before
 * the go, the guest goes on here as if nothing had been.
 */
#ifndef DROVER_MIGRATION_SOURCE_H
#define DROVER_MIGRATION_SOURCE_H

#include <stdint.h>

#include "migration/plan.h"
#include "migration/compress.h"
#include "migration/status.h"
#include "migration/times.h"
#include "migration/wire.h"

struct migration_guest;
struct migration_source;
struct transport_ops;
struct transport_rdma;

/* What a round was like, and what was decided then: for logs. */
struct migration_round {
    uint32_t number;
    uint64_t took_us;     /* up to the target's word that it has all */
    uint64_t answered_us; /* of that, from the last byte sent on */
    uint64_t limited_us;  /* of that, waits for the bandwidth limit: the streams' mean */
    uint64_t bytes_sent;
    uint64_t pages_sent;
    uint64_t limit_bytes_per_second; /* 0: none */
    uint64_t link_bytes_per_second;
    uint64_t dirty_bytes_per_second;
    uint64_t remaining_bytes;
    uint64_t predicted_downtime_us;
    uint32_t throttle_percent; /* from now on */
};

struct migration_source_config {
    struct migration_guest *guest; /* borrowed until free */
    const char *uri;               /* "tcp:HOST:PORT", "rdma:HOST:PORT"; copied */
    const char *notice;            /* for people: what is not as it was asked for; copied.
                                      NULL: nothing */
    uint64_t vm_id;                /* 0: not run by a cluster */
    uint64_t epoch;
    uint32_t max_downtime_ms; /* 0: the default */
    uint32_t deadline_ms;     /* 0: none */
    enum migration_postcopy postcopy;
    bool predict_only; /* measures, and ends as CANCELLED with what it predicts */
    enum compress_mode compress;
    uint64_t bandwidth_bytes_per_second; /* while the guest runs; 0: no limit */
    struct migration_times times;
    /* On the engine's thread, after each change of state. May be NULL. */
    void (*changed)(void *owner);
    /* The same, after each round while the guest runs. May be NULL. */
    void (*round_done)(void *owner, const struct migration_round *round);
    /* First thing on the engine's thread, before it starts others. May be NULL. */
    void (*begun)(void *owner);
    void *owner;
    /* Borrowed until free: connections go over it, if it works. NULL: not wanted. */
    struct transport_rdma *rdma;
    const char *rdma_address; /* "IP:PORT"; copied; NULL: as in `uri` */
    const struct transport_ops *transport; /* NULL: the one that `uri` names */
    /* Sockets that are connected or connecting to it, each for one stream, the
     * control stream first; taken if create() succeeds. None: the engine connects, once
     * for each of `streams` (0 counts as 1). A target may take fewer. */
    unsigned link_count;
    int link_fds[MIGRATION_STREAMS_MAX];
    unsigned streams;
};

/* -ENOMEM, or DROVER_EBADINPUT with what is wrong with the URI. */
int migration_source_create(const struct migration_source_config *config,
                            struct migration_source **ret_source, struct error *err);
int migration_source_start(struct migration_source *source);
/* 0: it will not send the go. DROVER_EHANDEDOVER: too late. Any thread. */
int migration_source_cancel(struct migration_source *source);
/* Another limit, from now on. 0: none. Any thread. */
void migration_source_limit(struct migration_source *source, uint64_t bytes_per_second);
void migration_source_status(struct migration_source *source,
                             struct migration_status *ret_status);
/*
 * In state UNKNOWN only: somebody knows that the target never got the go and never will,
 * so the guest goes on here. DROVER_EWRONGSTATE else. The state is FAILED then.
 */
int migration_source_reclaim(struct migration_source *source, const char *reason);
/*
 * In post-copy whose link is lost: a new one. `link_fd`: a TCP socket that is connected or
 * connecting to the target, taken in any case; -1: the engine connects. DROVER_EWRONGSTATE
 * if there is nothing to resume. Any thread.
 */
int migration_source_resume(struct migration_source *source, int link_fd);
/* Cancels if it is not over, and waits for the thread. NULL is fine. */
void migration_source_free(struct migration_source *source);

#endif
