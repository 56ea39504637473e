/* SPDX-License-Identifier: Apache-2.0 */
/* The messages that make several connections one move. */
#include "migration/wire_fields.h"

/*
 * JOIN
 *      0      2         10      12
 *      +------+---------+-------+
 *      | type | session | index |      first on each connection but the one with HELLO
 *      +------+---------+-------+
 */
int wire_join_encode(struct buffer *out, const struct wire_join *join)
{
    struct writer writer = writer_open(WIRE_JOIN);
    put_u64(&writer, join->session);
    put_u16(&writer, (uint16_t)join->index);
    return writer_close(&writer, out);
}

int wire_join_decode(const uint8_t *payload, size_t size, struct wire_join *ret_join)
{
    struct reader reader = reader_open(payload, size);
    struct wire_join join = {.session = take_u64(&reader)};
    join.index = take_u16(&reader);
    int rv = reader_close(&reader);
    if (rv == 0 && (join.index == 0 || join.index >= MIGRATION_STREAMS_MAX)) {
        rv = DROVER_ELIMIT;
    }
    if (rv == 0) {
        *ret_join = join;
    }
    return rv;
}

/*
 * STREAMS
 *      0      2       4
 *      +------+-------+
 *      | type | count |      of this move, the one with HELLO included
 *      +------+-------+
 */
int wire_streams_encode(struct buffer *out, unsigned count)
{
    struct writer writer = writer_open(WIRE_STREAMS);
    put_u16(&writer, (uint16_t)count);
    return writer_close(&writer, out);
}

int wire_streams_decode(const uint8_t *payload, size_t size, unsigned *ret_count)
{
    struct reader reader = reader_open(payload, size);
    unsigned count = take_u16(&reader);
    int rv = reader_close(&reader);
    if (rv == 0 && (count == 0 || count > MIGRATION_STREAMS_MAX)) {
        rv = DROVER_ELIMIT;
    }
    if (rv == 0) {
        *ret_count = count;
    }
    return rv;
}
