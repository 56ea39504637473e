/* SPDX-License-Identifier: Apache-2.0 */
/* The source's struct, for source*.c, rounds.c and handover.c only. Owned by the engine's
 * thread, but for gate and board. */
#ifndef DROVER_MIGRATION_SOURCE_INTERNAL_H
#define DROVER_MIGRATION_SOURCE_INTERNAL_H

#include <pthread.h>

#include "migration/gate.h"
#include "migration/goals.h"
#include "migration/pace.h"
#include "migration/pages.h"
#include "migration/plan.h"
#include "migration/postcopy_source.h"
#include "migration/source.h"
#include "migration/stream.h"
#include "migration/streams.h"

struct migration_source {
    struct migration_source_config config; /* uri points to `uri` */
    char uri[TRANSPORT_URI_SIZE];
    const char *address;
    char rdma_address[TRANSPORT_URI_SIZE]; /* "": as `address` */
    int cancel_fd;
    pthread_t thread;
    bool thread_started;
    struct gate gate;
    struct status_board board;

    struct transport_link *link; /* the control stream's */
    struct stream_out out;
    struct stream_in in;
    struct streams streams; /* all others */
    struct compress_cache *sent; /* pages that were sent, for all coders; NULL: none */
    struct pace pace;       /* of all streams, while the guest runs */
    bool over_rdma;         /* they are RDMA links */
    unsigned placing;       /* links that placing_begin() was true for */
    uint16_t version;       /* of the conversation */
    struct pages pages;
    struct plan plan;
    uint64_t started_ns;
    uint64_t next_tick_ms;  /* source_tick() */
    uint64_t round_ms;      /* when the round under way began */
    uint64_t look_ms; /* when it is looked for what was written again */
    uint64_t fetched_ns;    /* when the dirty log was last fetched */
    uint64_t round_trip_us; /* shortest seen */
    uint64_t bytes_per_second;
    struct goals goals;
    uint32_t round;
    bool answer_due; /* what the target says next is not for source_tick() */
    uint64_t stage_ns;                /* end of the last stage of the pause */
    struct migration_figures figures; /* its `pause` so far */
    bool stopping;                    /* stop_begin() was called */
    bool handed_over;                 /* the go may have left */
    struct postcopy_source postcopy;
    bool peer_ended;  /* the target has said why, and waits for nothing */
    struct error err; /* why it ends */
};

/* Sets source->err and returns the code; what the peer said about it is preferred. */
int source_link_error(struct migration_source *source, int code, const char *doing);
/* Between pages and while waiting: cancel, keepalive, an ABORT of the target, progress.
 */
int source_tick(void *source);
/* The next message must be of this type. Fills source->err. */
int source_expect(struct migration_source *source, enum wire_type type, uint32_t idle_ms,
                  uint64_t until_ms, const char *doing, const uint8_t **ret_payload,
                  size_t *ret_size);
/* Connects, says hello, opens the streams. Fills source->err. */
int source_connect(struct migration_source *source);
uint64_t source_bytes_sent(const struct migration_source *source); /* over all streams */
uint64_t source_bytes_placed(const struct migration_source *source);
/* How long a silent target is waited for, but not beyond the deadline. */
uint32_t source_patience_ms(const struct migration_source *source);
/* For sending: a frame that is under way at the deadline may be ended, for one that is cut
 * leaves no way to say why. */
uint32_t source_send_patience_ms(const struct migration_source *source);
/* Until little enough is left. Fills source->err. */
int source_rounds(struct migration_source *source);
struct wire_done;
/* The figures of the pause. */
void source_reckon(struct migration_source *source, uint64_t stopped_ns,
                   uint64_t go_sent_ns, uint64_t done_ns, const struct wire_done *done);
/* From the stop to done. On an error before the go, source->handed_over is false. */
int source_handover(struct migration_source *source);

#endif
