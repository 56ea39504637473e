/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages between source and target. Each is the payload of one frame
 * (proto/frame.h, kind MIGRATION: magic, frame version, size, checksum); all integers are
 * big endian. The first two bytes say which message it is. Decoders judge hostile input:
 * nothing is believed before it was checked.
 *
 *     source                                  target
 *       | HELLO --------------------------------> |  compares; no memory was sent yet
 *       | <-------------------- ACCEPT or REFUSE  |
 *       | STREAMS ------------------------------> |  how many connections make this move
 *       | PROBE ... ----------------------------> |  the link's speed is measured
 *       | <-------------------------------- COSTS |  when asked: what loading takes there
 *       | EXTENT + pages ... ROUND_END ---------> |  again and again
 *       | <---------------------------- ROUND_ACK |  when the round has ended on all
 *       | HANDOVER, EXTENT + pages ..., STATE --> |  the guest stands; loads, locks its disks
 *       | <-------------------------------- READY |  waits a bounded time, decides once
 *       | GO -----------------------------------> |  runs
 *       | <--------------------------------- DONE |
 *
 * That is on the first connection, the control stream. On each further one, a data stream:
 *
 *       | JOIN ---------------------------------> |  sent at once, before ACCEPT comes
 *       | EXTENT + pages ... ROUND_END ---------> |  again and again
 *       | STREAM_END ---------------------------> |  before HANDOVER
 *
 * KEEPALIVE may come from either side at any time, ABORT (with a reason) before the go.
 * Version 1 has no STREAMS and no data streams, and checksums of whole extents only while
 * the guest stands.
 * Pure functions, any thread.
 */
#ifndef DROVER_MIGRATION_WIRE_H
#define DROVER_MIGRATION_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migration/extent.h"
#include "migration/guest.h"

struct buffer;

#define WIRE_VERSION          2 /* of the conversation; sent in HELLO */
#define WIRE_VERSION_OLDEST   1
#define WIRE_VERSION_STREAMS  2 /* since then: several streams, a checksum of each page */
#define WIRE_CONFIG_BYTES_MAX 65536u
#define WIRE_STATE_BYTES_MAX  (4u * 1024u * 1024u)
#define WIRE_REASON_BYTES_MAX 255u
#define MIGRATION_STREAMS_MAX 8u /* connections of one move; as many as UNIX_FILES_MAX */
/* The longest message: STATE. */
#define WIRE_PAYLOAD_BYTES_MAX (WIRE_STATE_BYTES_MAX + 16u)

enum wire_type {
    WIRE_HELLO = 1,
    WIRE_ACCEPT = 2,
    WIRE_REFUSE = 3,
    WIRE_EXTENT = 4,
    WIRE_ROUND_END = 5,
    WIRE_ROUND_ACK = 6,
    WIRE_HANDOVER = 7,
    WIRE_STATE = 8,
    WIRE_READY = 9,
    WIRE_GO = 10,
    WIRE_DONE = 11,
    WIRE_ABORT = 12,
    WIRE_KEEPALIVE = 13,
    WIRE_JOIN = 14,
    WIRE_STREAMS = 15,
    WIRE_STREAM_END = 16,
    /* of post-copy (wire_postcopy.h) */
    WIRE_POSTCOPY_ASK = 32,
    WIRE_POSTCOPY_ANSWER = 33,
    WIRE_MISSING = 34,
    WIRE_FETCH = 35,
    WIRE_PAGES = 36,
    WIRE_PLACED = 37,
    WIRE_COMPLETE = 38,
    WIRE_RESUME = 39,
    WIRE_RESUMED = 40,
    /* before the first round (wire_probe.c) */
    WIRE_PROBE = 48,
    WIRE_COSTS = 49,
};

struct wire_hello {
    uint16_t version_min, version_max; /* of WIRE_VERSION that the source speaks */
    uint64_t vm_id;
    uint64_t epoch;   /* the source's */
    uint64_t session; /* random; further streams of this move carry it */
    unsigned region_count;
    struct {
        uint64_t gpa, size_bytes;
    } regions[MIGRATION_REGIONS_MAX];
    const uint8_t *config; /* inside the payload */
    size_t config_size;
};

struct wire_accept {
    uint16_t version;
    uint64_t epoch;       /* the target's */
    unsigned streams_max; /* 1 in version 1 */
};

struct wire_join {
    uint64_t session; /* of HELLO */
    unsigned index;   /* 1 to MIGRATION_STREAMS_MAX - 1 */
};

struct wire_refusal {                       /* REFUSE and ABORT */
    int32_t code;                           /* base/err.h */
    char reason[WIRE_REASON_BYTES_MAX + 1]; /* printable ASCII */
};

struct wire_round { /* ROUND_END and ROUND_ACK */
    uint32_t round;
    uint64_t bytes; /* of the stream that were sent up to here; of all, received */
};

struct wire_go {
    uint64_t total_us;    /* since the move began */
    uint64_t standing_us; /* since the last vCPU's exit */
    uint64_t one_way_us;  /* what the way of this message takes, estimated */
    uint64_t predicted_downtime_us;
    uint64_t bytes_sent, pages_sent, pages_zero;
    uint32_t rounds;
};

struct wire_done {
    uint64_t entered_us; /* from the go's arrival to the first entry into the guest */
    uint64_t answer_us;  /* from the go's arrival to this message */
};

#define WIRE_PROBE_BYTES (128u * 1024u) /* at most, of one PROBE */

/* Each appends one whole frame: 0, -ENOMEM or DROVER_ELIMIT. */
int wire_hello_encode(struct buffer *out, const struct wire_hello *hello);
int wire_accept_encode(struct buffer *out, const struct wire_accept *accept);
int wire_join_encode(struct buffer *out, const struct wire_join *join);
int wire_streams_encode(struct buffer *out, unsigned count);
int wire_refusal_encode(struct buffer *out, enum wire_type type,
                        const struct wire_refusal *refusal);
int wire_extent_encode(struct buffer *out, const struct extent *extent);
int wire_round_encode(struct buffer *out, enum wire_type type,
                      const struct wire_round *round);
int wire_state_encode(struct buffer *out, const uint8_t *state, size_t size);
int wire_go_encode(struct buffer *out, const struct wire_go *go);
int wire_done_encode(struct buffer *out, const struct wire_done *done);
/* HANDOVER, READY, KEEPALIVE, STREAM_END: nothing but their type. */
int wire_plain_encode(struct buffer *out, enum wire_type type);

/* `size`: a multiple of 8, not more than WIRE_PROBE_BYTES. */
int wire_probe_encode(struct buffer *out, bool asks, size_t size);
int wire_costs_encode(struct buffer *out, uint32_t load_us);

/* Which message a payload holds: DROVER_EMALFORMED if none that we know. */
int wire_type_decode(const uint8_t *payload, size_t size, enum wire_type *ret_type);

/* Each wants the whole payload, type included: 0, DROVER_EMALFORMED or DROVER_ELIMIT. */
int wire_hello_decode(const uint8_t *payload, size_t size, struct wire_hello *ret_hello);
int wire_accept_decode(const uint8_t *payload, size_t size,
                       struct wire_accept *ret_accept);
int wire_join_decode(const uint8_t *payload, size_t size, struct wire_join *ret_join);
int wire_streams_decode(const uint8_t *payload, size_t size, unsigned *ret_count);
int wire_refusal_decode(const uint8_t *payload, size_t size,
                        struct wire_refusal *ret_refusal);
int wire_extent_decode(const uint8_t *payload, size_t size, struct extent *ret_extent);
int wire_round_decode(const uint8_t *payload, size_t size, struct wire_round *ret_round);
int wire_state_decode(const uint8_t *payload, size_t size, const uint8_t **ret_state,
                      size_t *ret_size);
int wire_go_decode(const uint8_t *payload, size_t size, struct wire_go *ret_go);
int wire_done_decode(const uint8_t *payload, size_t size, struct wire_done *ret_done);
int wire_probe_decode(const uint8_t *payload, size_t size, bool *ret_asks,
                      size_t *ret_bytes);
int wire_costs_decode(const uint8_t *payload, size_t size, uint32_t *ret_load_us);
int wire_plain_decode(const uint8_t *payload, size_t size);

#endif
