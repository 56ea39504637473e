/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and decoding of the messages, field by field. */
#include "migration/wire.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "migration/compress.h"
#include "migration/wire_fields.h"

static_assert(WIRE_PAYLOAD_BYTES_MAX > WIRE_CONFIG_BYTES_MAX + 256, "HELLO fits");

int wire_type_decode(const uint8_t *payload, size_t size, enum wire_type *ret_type)
{
    struct reader reader = {.at = payload, .left = size};
    uint16_t type = take_u16(&reader);
    bool known = (type >= WIRE_HELLO && type <= WIRE_STREAM_END) ||
                 (type >= WIRE_POSTCOPY_ASK && type <= WIRE_RESUMED) ||
                 type == WIRE_PROBE || type == WIRE_COSTS;
    if (reader.bad || !known) {
        return DROVER_EMALFORMED;
    }
    *ret_type = (enum wire_type)type;
    return 0;
}

/*
 * HELLO
 *      0      2       4       6           8       16      24        32
 *      +------+-------+-------+-----------+-------+-------+---------+----------------------
 *      | type | v min | v max | regions n | vm id | epoch | session | n * (gpa u64, size
 * u64)
 *      +------+-------+-------+-----------+-------+-------+---------+----------------------
 *      then: config size u32, config
 */
int wire_hello_encode(struct buffer *out, const struct wire_hello *hello)
{
    CHECK(hello->region_count <= MIGRATION_REGIONS_MAX);
    if (hello->config_size > WIRE_CONFIG_BYTES_MAX) {
        return DROVER_ELIMIT;
    }
    struct writer writer = writer_open(WIRE_HELLO);
    put_u16(&writer, hello->version_min);
    put_u16(&writer, hello->version_max);
    put_u16(&writer, (uint16_t)hello->region_count);
    put_u64(&writer, hello->vm_id);
    put_u64(&writer, hello->epoch);
    put_u64(&writer, hello->session);
    for (unsigned i = 0; i < hello->region_count; i++) {
        put_u64(&writer, hello->regions[i].gpa);
        put_u64(&writer, hello->regions[i].size_bytes);
    }
    put_u32(&writer, (uint32_t)hello->config_size);
    put_bytes(&writer, hello->config, hello->config_size);
    return writer_close(&writer, out);
}

int wire_hello_decode(const uint8_t *payload, size_t size, struct wire_hello *ret_hello)
{
    struct reader reader = reader_open(payload, size);
    struct wire_hello hello = {0};
    hello.version_min = take_u16(&reader);
    hello.version_max = take_u16(&reader);
    hello.region_count = take_u16(&reader);
    hello.vm_id = take_u64(&reader);
    hello.epoch = take_u64(&reader);
    hello.session = take_u64(&reader);
    if (hello.region_count > MIGRATION_REGIONS_MAX) {
        return DROVER_ELIMIT;
    }
    for (unsigned i = 0; i < hello.region_count; i++) {
        hello.regions[i].gpa = take_u64(&reader);
        hello.regions[i].size_bytes = take_u64(&reader);
    }
    hello.config_size = take_u32(&reader);
    if (hello.config_size > WIRE_CONFIG_BYTES_MAX) {
        return DROVER_ELIMIT;
    }
    hello.config = take_bytes(&reader, hello.config_size);
    int rv = reader_close(&reader);
    if (rv == 0) {
        *ret_hello = hello;
    }
    return rv;
}

/*
 * ACCEPT
 *      0      2         4       12            14
 *      +------+---------+-------+-------------+
 *      | type | version | epoch | streams max |  the target's; the version that both speak
 *      +------+---------+-------+-------------+
 *      streams max: from version 2 on
 */
int wire_accept_encode(struct buffer *out, const struct wire_accept *accept)
{
    struct writer writer = writer_open(WIRE_ACCEPT);
    put_u16(&writer, accept->version);
    put_u64(&writer, accept->epoch);
    if (accept->version >= WIRE_VERSION_STREAMS) {
        put_u16(&writer, (uint16_t)accept->streams_max);
    }
    return writer_close(&writer, out);
}

int wire_accept_decode(const uint8_t *payload, size_t size,
                       struct wire_accept *ret_accept)
{
    struct reader reader = reader_open(payload, size);
    struct wire_accept accept = {.version = take_u16(&reader), .streams_max = 1};
    accept.epoch = take_u64(&reader);
    if (accept.version >= WIRE_VERSION_STREAMS) {
        accept.streams_max = take_u16(&reader);
    }
    int rv = reader_close(&reader);
    rv = rv == 0 && accept.streams_max == 0 ? DROVER_EMALFORMED : rv;
    if (rv == 0) {
        *ret_accept = accept;
    }
    return rv;
}

/*
 * REFUSE, ABORT
 *      0      2      6      8
 *      +------+------+------+----------
 *      | type | code | size | reason ...
 *      +------+------+------+----------
 */
int wire_refusal_encode(struct buffer *out, enum wire_type type,
                        const struct wire_refusal *refusal)
{
    CHECK(type == WIRE_REFUSE || type == WIRE_ABORT);
    size_t size = strnlen(refusal->reason, WIRE_REASON_BYTES_MAX);
    struct writer writer = writer_open(type);
    put_u32(&writer, (uint32_t)refusal->code);
    put_u16(&writer, (uint16_t)size);
    put_bytes(&writer, refusal->reason, size);
    return writer_close(&writer, out);
}

int wire_refusal_decode(const uint8_t *payload, size_t size,
                        struct wire_refusal *ret_refusal)
{
    struct reader reader = reader_open(payload, size);
    int32_t code = (int32_t)take_u32(&reader);
    size_t reason_size = take_u16(&reader);
    const uint8_t *reason = take_bytes(&reader, reason_size);
    int rv = reader_close(&reader);
    if (rv != 0 || reason_size > WIRE_REASON_BYTES_MAX) {
        return DROVER_EMALFORMED;
    }
    /* A peer's error is never "no error", and its text may end up on a terminal. */
    ret_refusal->code = code < 0 ? code : DROVER_EPEER;
    for (size_t i = 0; i < reason_size; i++) {
        bool printable = reason[i] >= 0x20 && reason[i] < 0x7f;
        ret_refusal->reason[i] = printable ? (char)reason[i] : '?';
    }
    ret_refusal->reason[reason_size] = '\0';
    return 0;
}

/*
 * EXTENT
 *      0      2       4        6      8            16     20
 *      +------+-------+--------+------+------------+------+--------------------------
 *      | type | flags | region | runs | first page | crc  | runs * (kind:4, pages:12)
 *      +------+-------+--------+------+------------+------+--------------------------
 *      flags: 1 = `crc` is that of all pages which follow the frame (version 1 only)
 *             2 = behind the runs: a checksum (u32) of each of these pages
 *             4 = the pages do not follow: the link has put them in place already
 *             8 = behind these: a size (u32); so many bytes follow, from which the pages
 *                 are made (compress.h)
 */
#define EXTENT_FLAG_CHECKED       1u
#define EXTENT_FLAG_PAGES_CHECKED 2u
#define EXTENT_FLAG_PLACED        4u
#define EXTENT_FLAG_CODED         8u
#define EXTENT_FLAGS              15u

int wire_extent_encode(struct buffer *out, const struct extent *extent)
{
    static_assert(EXTENT_PAGES < 4096, "a run's length has 12 bits");
    uint8_t payload[24 + 2 * EXTENT_RUNS_MAX + 4 * EXTENT_PAGES];
    struct buffer view = {.data = payload, .capacity = sizeof(payload)};
    CHECK(extent_valid(extent));
    unsigned flags = (extent->checked ? EXTENT_FLAG_CHECKED : 0) |
                     (extent->coded_bytes != 0 ? EXTENT_FLAG_CODED : 0) |
                     (extent->pages_checked ? EXTENT_FLAG_PAGES_CHECKED : 0) |
                     (extent->placed ? EXTENT_FLAG_PLACED : 0) |
                     (extent->coded_bytes != 0 ? EXTENT_FLAG_CODED : 0);
    /* Into the stack, as this is the page path; the room is there, so these can't fail.
     */
    (void)buffer_append_u16(&view, WIRE_EXTENT);
    (void)buffer_append_u16(&view, (uint16_t)flags);
    (void)buffer_append_u16(&view, extent->region);
    (void)buffer_append_u16(&view, extent->run_count);
    (void)buffer_append_u64(&view, extent->first_page);
    (void)buffer_append_u32(&view, extent->crc);
    for (unsigned i = 0; i < extent->run_count; i++) {
        const struct extent_run *run = &extent->runs[i];
        (void)buffer_append_u16(&view,
                                (uint16_t)((unsigned)run->kind << 12 | run->page_count));
    }
    for (unsigned i = 0; extent->pages_checked && i < extent->data_pages; i++) {
        (void)buffer_append_u32(&view, extent->page_crcs[i]);
    }
    if (extent->coded_bytes != 0) {
        (void)buffer_append_u32(&view, extent->coded_bytes);
    }
    CHECK(view.data == payload);
    return frame_encode(out, FRAME_KIND_MIGRATION, payload, view.size,
                        WIRE_PAYLOAD_BYTES_MAX);
}

int wire_extent_decode(const uint8_t *payload, size_t size, struct extent *ret_extent)
{
    struct reader reader = reader_open(payload, size);
    uint16_t flags = take_u16(&reader);
    uint16_t region = take_u16(&reader);
    unsigned run_count = take_u16(&reader);
    uint64_t first_page = take_u64(&reader);
    uint32_t crc = take_u32(&reader);
    if (reader.bad || (flags & ~EXTENT_FLAGS) != 0 ||
        run_count > EXTENT_RUNS_MAX || first_page % EXTENT_PAGES != 0) {
        return DROVER_EMALFORMED;
    }
    struct extent *extent = ret_extent;
    extent_init(extent, region, first_page);
    extent->checked = (flags & EXTENT_FLAG_CHECKED) != 0;
    extent->pages_checked = (flags & EXTENT_FLAG_PAGES_CHECKED) != 0;
    extent->placed = (flags & EXTENT_FLAG_PLACED) != 0;
    extent->crc = crc;
    extent->run_count = (uint16_t)run_count;
    unsigned data = 0;
    unsigned zero = 0;
    for (unsigned i = 0; i < run_count; i++) {
        unsigned run = take_u16(&reader);
        extent->runs[i] = (struct extent_run){.kind = (enum extent_run_kind)(run >> 12),
                                              .page_count = run & 0xfff};
        data += run >> 12 == EXTENT_RUN_DATA ? run & 0xfff : 0;
        zero += run >> 12 == EXTENT_RUN_ZERO ? run & 0xfff : 0;
    }
    if (reader.bad || data > EXTENT_PAGES || zero > EXTENT_PAGES) {
        return DROVER_EMALFORMED;
    }
    for (unsigned i = 0; extent->pages_checked && i < data; i++) {
        extent->page_crcs[i] = take_u32(&reader);
    }
    if ((flags & EXTENT_FLAG_CODED) != 0) {
        extent->coded_bytes = take_u32(&reader);
        if (!extent->pages_checked || extent->placed || data == 0 ||
            extent->coded_bytes == 0 || extent->coded_bytes > COMPRESS_BYTES_MAX) {
            return DROVER_EMALFORMED;
        }
    }
    if (reader_close(&reader) != 0) {
        return DROVER_EMALFORMED;
    }
    extent->data_pages = (uint16_t)data;
    extent->zero_pages = (uint16_t)zero;
    return extent_valid(extent) ? 0 : DROVER_EMALFORMED;
}

/*
 * ROUND_END, ROUND_ACK
 *      0      2       6       14
 *      +------+-------+-------+
 *      | type | round | bytes |
 *      +------+-------+-------+
 */
int wire_round_encode(struct buffer *out, enum wire_type type,
                      const struct wire_round *round)
{
    CHECK(type == WIRE_ROUND_END || type == WIRE_ROUND_ACK);
    struct writer writer = writer_open(type);
    put_u32(&writer, round->round);
    put_u64(&writer, round->bytes);
    return writer_close(&writer, out);
}

int wire_round_decode(const uint8_t *payload, size_t size, struct wire_round *ret_round)
{
    struct reader reader = reader_open(payload, size);
    struct wire_round round = {.round = take_u32(&reader)};
    round.bytes = take_u64(&reader);
    int rv = reader_close(&reader);
    if (rv == 0) {
        *ret_round = round;
    }
    return rv;
}

/*
 * STATE
 *      0      2      6
 *      +------+------+-----------------------------------------
 *      | type | size | state: opaque here, checked by its reader
 *      +------+------+-----------------------------------------
 */
int wire_state_encode(struct buffer *out, const uint8_t *state, size_t size)
{
    if (size > WIRE_STATE_BYTES_MAX) {
        return DROVER_ELIMIT;
    }
    struct writer writer = writer_open(WIRE_STATE);
    put_u32(&writer, (uint32_t)size);
    put_bytes(&writer, state, size);
    return writer_close(&writer, out);
}

int wire_state_decode(const uint8_t *payload, size_t size, const uint8_t **ret_state,
                      size_t *ret_size)
{
    struct reader reader = reader_open(payload, size);
    size_t state_size = take_u32(&reader);
    const uint8_t *state = take_bytes(&reader, state_size);
    int rv = reader_close(&reader);
    if (rv == 0) {
        *ret_state = state;
        *ret_size = state_size;
    }
    return rv;
}

/*
 * GO
 *      0      2          10            18           26          34      42      50     58
 * 62
 *      +------+----------+-------------+------------+-----------+-------+-------+------+--------+
 *      | type | total us | standing us | one way us | predicted | bytes | pages | zero |
 * rounds |
 *      +------+----------+-------------+------------+-----------+-------+-------+------+--------+
 */
int wire_go_encode(struct buffer *out, const struct wire_go *go)
{
    struct writer writer = writer_open(WIRE_GO);
    put_u64(&writer, go->total_us);
    put_u64(&writer, go->standing_us);
    put_u64(&writer, go->one_way_us);
    put_u64(&writer, go->predicted_downtime_us);
    put_u64(&writer, go->bytes_sent);
    put_u64(&writer, go->pages_sent);
    put_u64(&writer, go->pages_zero);
    put_u32(&writer, go->rounds);
    return writer_close(&writer, out);
}

int wire_go_decode(const uint8_t *payload, size_t size, struct wire_go *ret_go)
{
    struct reader reader = reader_open(payload, size);
    struct wire_go go = {.total_us = take_u64(&reader)};
    go.standing_us = take_u64(&reader);
    go.one_way_us = take_u64(&reader);
    go.predicted_downtime_us = take_u64(&reader);
    go.bytes_sent = take_u64(&reader);
    go.pages_sent = take_u64(&reader);
    go.pages_zero = take_u64(&reader);
    go.rounds = take_u32(&reader);
    int rv = reader_close(&reader);
    if (rv == 0) {
        *ret_go = go;
    }
    return rv;
}

/*
 * DONE
 *      0      2            10          18
 *      +------+------------+-----------+
 *      | type | entered us | answer us |
 *      +------+------------+-----------+
 */
int wire_done_encode(struct buffer *out, const struct wire_done *done)
{
    struct writer writer = writer_open(WIRE_DONE);
    put_u64(&writer, done->entered_us);
    put_u64(&writer, done->answer_us);
    return writer_close(&writer, out);
}

int wire_done_decode(const uint8_t *payload, size_t size, struct wire_done *ret_done)
{
    struct reader reader = reader_open(payload, size);
    struct wire_done done = {.entered_us = take_u64(&reader)};
    done.answer_us = take_u64(&reader);
    int rv = reader_close(&reader);
    if (rv == 0) {
        *ret_done = done;
    }
    return rv;
}

int wire_plain_encode(struct buffer *out, enum wire_type type)
{
    struct writer writer = writer_open(type);
    return writer_close(&writer, out);
}

int wire_plain_decode(const uint8_t *payload, size_t size)
{
    struct reader reader = reader_open(payload, size);
    return reader_close(&reader);
}
