/* SPDX-License-Identifier: Apache-2.0 */
/* The messages by which a link and a target are measured. */
#include <string.h>

#include "migration/wire_fields.h"

/*
 * PROBE
 *      0      2      4
 *      +------+------+----------------------+
 *      | type | asks | bytes that mean nothing
 *      +------+------+----------------------+
 *
 * One that asks and has such bytes stands for a guest's state: the target loads one before it
 * answers, and says what that took. To one without it says what it does in all of the pause.
 * (Older ones don't tell the two apart.)
 */
int wire_probe_encode(struct buffer *out, bool asks, size_t size)
{
    if (size > WIRE_PROBE_BYTES) {
        return DROVER_ELIMIT;
    }
    struct writer writer = writer_open(WIRE_PROBE);
    put_u16(&writer, asks ? 1 : 0);
    for (size_t i = 0; i < size / sizeof(uint64_t); i++) {
        put_u64(&writer, i * UINT64_C(0x9e3779b97f4a7c15)); /* nothing can make it shorter */
    }
    return writer_close(&writer, out);
}

int wire_probe_decode(const uint8_t *payload, size_t size, bool *ret_asks,
                      size_t *ret_bytes)
{
    if (size > WIRE_PROBE_BYTES + 4) {
        return DROVER_ELIMIT;
    }
    if (size < 4) {
        return DROVER_EMALFORMED;
    }
    struct reader reader = reader_open(payload, 4);
    unsigned asks = take_u16(&reader);
    int rv = reader_close(&reader);
    if (rv == 0 && asks > 1) {
        rv = DROVER_EMALFORMED;
    }
    if (rv == 0) {
        *ret_asks = asks == 1;
        *ret_bytes = size - 4;
    }
    return rv;
}

/*
 * COSTS
 *      0      2         6
 *      +------+---------+
 *      | type | load_us |      0: not known
 *      +------+---------+
 */
int wire_costs_encode(struct buffer *out, uint32_t load_us)
{
    struct writer writer = writer_open(WIRE_COSTS);
    put_u32(&writer, load_us);
    return writer_close(&writer, out);
}

int wire_costs_decode(const uint8_t *payload, size_t size, uint32_t *ret_load_us)
{
    struct reader reader = reader_open(payload, size);
    uint32_t load_us = take_u32(&reader);
    int rv = reader_close(&reader);
    if (rv == 0) {
        *ret_load_us = load_us;
    }
    return rv;
}
