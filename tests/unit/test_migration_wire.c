/* SPDX-License-Identifier: Apache-2.0 */
/* Messages come back as they went; cut, stretched or senseless ones are refused. */
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/err.h"
#include "migration/wire.h"
#include "proto/frame.h"
#include "tests/unit/unit.h"

/* The payload of the one frame in `frame`. */
static const uint8_t *payload_of(const struct buffer *frame, size_t *ret_size)
{
    const uint8_t *payload = NULL;
    size_t frame_size = 0;
    assert_int_equal(frame_decode(frame, FRAME_KIND_MIGRATION, WIRE_PAYLOAD_BYTES_MAX,
                                  &payload, ret_size, &frame_size),
                     1);
    assert_int_equal(frame_size, frame->size);
    return payload;
}

static void test_hello_comes_back_as_it_went(void **state)
{
    struct wire_hello hello = {.version_min = 1,
                               .version_max = 3,
                               .vm_id = 5,
                               .epoch = 9,
                               .session = 0x1122334455667788u,
                               .region_count = 2,
                               .config = (const uint8_t *)"machine",
                               .config_size = 7};
    hello.regions[0].size_bytes = 1 << 20;
    hello.regions[1].gpa = UINT64_C(1) << 32;
    hello.regions[1].size_bytes = 4096;
    struct buffer frame = {0};
    struct wire_hello back;
    size_t size;
    assert_int_equal(wire_hello_encode(&frame, &hello), 0);
    const uint8_t *payload = payload_of(&frame, &size);
    assert_int_equal(wire_hello_decode(payload, size, &back), 0);
    assert_int_equal(back.version_max, 3);
    assert_int_equal(back.session, hello.session);
    assert_int_equal(back.region_count, 2);
    assert_int_equal(back.regions[1].gpa, UINT64_C(1) << 32);
    assert_int_equal(back.config_size, 7);
    assert_memory_equal(back.config, "machine", 7);
    for (size_t cut = 2; cut < size; cut++) {
        assert_true(wire_hello_decode(payload, cut, &back) < 0);
    }
    buffer_done(&frame);
}

static void test_hello_with_too_many_regions_is_refused(void **state)
{
    uint8_t payload[512] = {0, WIRE_HELLO};
    struct wire_hello back;
    payload[7] = MIGRATION_REGIONS_MAX + 1;
    assert_int_equal(wire_hello_decode(payload, sizeof(payload), &back), DROVER_ELIMIT);
}

static void extent_sample(struct extent *extent)
{
    extent_init(extent, 1, 3 * EXTENT_PAGES);
    extent_add(extent, EXTENT_RUN_SKIP, 5);
    extent_add(extent, EXTENT_RUN_DATA, 1);
    extent_add(extent, EXTENT_RUN_DATA, 2);
    extent_add(extent, EXTENT_RUN_ZERO, 504);
}

static void test_an_extent_comes_back_as_it_went(void **state)
{
    struct extent *extent = calloc(2, sizeof(*extent));
    assert_non_null(extent);
    extent_sample(extent);
    extent->checked = true;
    extent->crc = 0xdeadbeef;
    struct buffer frame = {0};
    size_t size;
    assert_int_equal(wire_extent_encode(&frame, extent), 0);
    const uint8_t *payload = payload_of(&frame, &size);
    assert_int_equal(wire_extent_decode(payload, size, &extent[1]), 0);
    assert_int_equal(extent[1].region, 1);
    assert_int_equal(extent[1].first_page, 3 * EXTENT_PAGES);
    assert_int_equal(extent[1].data_pages, 3);
    assert_int_equal(extent[1].zero_pages, 504);
    assert_int_equal(extent[1].run_count, 3);
    assert_int_equal(extent[1].crc, 0xdeadbeef);
    assert_true(extent[1].checked);
    assert_false(extent[1].pages_checked);
    for (size_t cut = 2; cut < size; cut++) {
        assert_true(wire_extent_decode(payload, cut, &extent[1]) < 0);
    }
    buffer_done(&frame);
    free(extent);
}

static void test_an_extent_carries_a_checksum_of_each_page(void **state)
{
    struct extent *extent = calloc(2, sizeof(*extent));
    assert_non_null(extent);
    extent_sample(extent);
    extent->pages_checked = true;
    for (unsigned i = 0; i < 3; i++) {
        extent->page_crcs[i] = 0x80000000u + i;
    }
    struct buffer frame = {0};
    size_t size;
    assert_int_equal(wire_extent_encode(&frame, extent), 0);
    const uint8_t *payload = payload_of(&frame, &size);
    assert_int_equal(wire_extent_decode(payload, size, &extent[1]), 0);
    assert_true(extent[1].pages_checked);
    assert_memory_equal(extent[1].page_crcs, extent->page_crcs, 3 * sizeof(uint32_t));
    for (size_t cut = 2; cut < size; cut++) {
        assert_true(wire_extent_decode(payload, cut, &extent[1]) < 0);
    }
    buffer_done(&frame);
    free(extent);
}

static void test_what_makes_streams_comes_back_as_it_went(void **state)
{
    struct wire_join join = {.session = 0x1122334455667788, .index = 7};
    struct wire_join join_back;
    struct wire_accept accept = {.version = 2, .epoch = 9, .streams_max = 8};
    struct wire_accept accept_back;
    struct buffer frame = {0};
    unsigned count = 0;
    size_t size;
    assert_int_equal(wire_join_encode(&frame, &join), 0);
    const uint8_t *payload = payload_of(&frame, &size);
    assert_int_equal(wire_join_decode(payload, size, &join_back), 0);
    assert_int_equal(join_back.session, join.session);
    assert_int_equal(join_back.index, 7);
    assert_int_equal(wire_join_decode(payload, size - 1, &join_back), DROVER_EMALFORMED);
    buffer_done(&frame);
    join.index = 8; /* the eighth data stream would be the ninth stream */
    assert_int_equal(wire_join_encode(&frame, &join), 0);
    payload = payload_of(&frame, &size);
    assert_int_equal(wire_join_decode(payload, size, &join_back), DROVER_ELIMIT);
    buffer_done(&frame);
    assert_int_equal(wire_accept_encode(&frame, &accept), 0);
    payload = payload_of(&frame, &size);
    assert_int_equal(wire_accept_decode(payload, size, &accept_back), 0);
    assert_int_equal(accept_back.streams_max, 8);
    buffer_done(&frame);
    accept.version = 1; /* which knows nothing of streams */
    assert_int_equal(wire_accept_encode(&frame, &accept), 0);
    payload = payload_of(&frame, &size);
    assert_int_equal(wire_accept_decode(payload, size, &accept_back), 0);
    assert_int_equal(accept_back.streams_max, 1);
    buffer_done(&frame);
    assert_int_equal(wire_streams_encode(&frame, 8), 0);
    payload = payload_of(&frame, &size);
    assert_int_equal(wire_streams_decode(payload, size, &count), 0);
    assert_int_equal(count, 8);
    buffer_done(&frame);
    assert_int_equal(wire_streams_encode(&frame, 9), 0);
    payload = payload_of(&frame, &size);
    assert_int_equal(wire_streams_decode(payload, size, &count), DROVER_ELIMIT);
    buffer_done(&frame);
}

/* Payload of an EXTENT with these runs. */
static int decode_runs(const uint16_t *runs, unsigned count, uint16_t flags,
                       uint64_t first_page)
{
    struct extent *extent = calloc(1, sizeof(*extent));
    struct buffer payload = {0};
    assert_non_null(extent);
    int rv = buffer_append_u16(&payload, WIRE_EXTENT);
    rv |= buffer_append_u16(&payload, flags);
    rv |= buffer_append_u16(&payload, 0);
    rv |= buffer_append_u16(&payload, (uint16_t)count);
    rv |= buffer_append_u64(&payload, first_page);
    rv |= buffer_append_u32(&payload, 0);
    for (unsigned i = 0; i < count; i++) {
        rv |= buffer_append_u16(&payload, runs[i]);
    }
    assert_int_equal(rv, 0);
    rv = wire_extent_decode(payload.data, payload.size, extent);
    buffer_done(&payload);
    free(extent);
    return rv;
}

static void test_probes_and_costs_come_back_as_they_went(void **state)
{
    struct buffer frame = {0};
    size_t size;
    bool asks = false;
    size_t bytes = 0;
    uint32_t load_us = 0;
    assert_int_equal(wire_probe_encode(&frame, true, 64), 0);
    const uint8_t *payload = payload_of(&frame, &size);
    assert_int_equal(size, 4 + 64);
    assert_int_equal(wire_probe_decode(payload, size, &asks, &bytes), 0);
    assert_true(asks);
    assert_int_equal(bytes, 64);
    assert_int_equal(wire_probe_decode(payload, 3, &asks, &bytes), DROVER_EMALFORMED);
    assert_int_equal(wire_probe_decode(payload, WIRE_PROBE_BYTES + 5, &asks, &bytes),
                     DROVER_ELIMIT);
    buffer_done(&frame);
    assert_int_equal(wire_probe_encode(&frame, true, WIRE_PROBE_BYTES + 8), DROVER_ELIMIT);
    assert_int_equal(wire_costs_encode(&frame, 1234567), 0);
    payload = payload_of(&frame, &size);
    assert_int_equal(wire_costs_decode(payload, size, &load_us), 0);
    assert_int_equal(load_us, 1234567);
    assert_int_equal(wire_costs_decode(payload, size - 1, &load_us), DROVER_EMALFORMED);
    buffer_done(&frame);
}

static void test_senseless_extents_are_refused(void **state)
{
    const uint16_t data = EXTENT_RUN_DATA << 12;
    const uint16_t zero = EXTENT_RUN_ZERO << 12;
    assert_int_equal(decode_runs((uint16_t[]){data | 512}, 1, 0, 0), 0);
    assert_int_equal(decode_runs((uint16_t[]){data | 513}, 1, 0, 0), DROVER_EMALFORMED);
    assert_int_equal(decode_runs((uint16_t[]){data | 500, zero | 13}, 2, 0, 0),
                     DROVER_EMALFORMED);
    assert_int_equal(decode_runs((uint16_t[]){data | 0}, 1, 0, 0), DROVER_EMALFORMED);
    assert_int_equal(decode_runs((uint16_t[]){0x3001}, 1, 0, 0), DROVER_EMALFORMED);
    assert_int_equal(decode_runs((uint16_t[]){data | 1, data | 1}, 2, 0, 0),
                     DROVER_EMALFORMED);
    assert_int_equal(decode_runs((uint16_t[]){data | 1}, 1, 2, 0), DROVER_EMALFORMED);
    assert_int_equal(decode_runs((uint16_t[]){data | 1}, 1, 0, 1), DROVER_EMALFORMED);
}

static void test_a_peers_reason_is_made_harmless(void **state)
{
    struct wire_refusal refusal = {.code = DROVER_EINUSE,
                                   .reason = "disk\x1b[2J\nin use"};
    struct wire_refusal back;
    struct buffer frame = {0};
    size_t size;
    assert_int_equal(wire_refusal_encode(&frame, WIRE_ABORT, &refusal), 0);
    const uint8_t *payload = payload_of(&frame, &size);
    assert_int_equal(wire_refusal_decode(payload, size, &back), 0);
    assert_string_equal(back.reason, "disk?[2J?in use");
    assert_int_equal(back.code, DROVER_EINUSE);
    buffer_done(&frame);

    refusal.code = 0; /* "no error" as the reason to give up */
    assert_int_equal(wire_refusal_encode(&frame, WIRE_REFUSE, &refusal), 0);
    payload = payload_of(&frame, &size);
    assert_int_equal(wire_refusal_decode(payload, size, &back), 0);
    assert_true(back.code < 0);
    buffer_done(&frame);
}

static void test_go_and_done_come_back_as_they_went(void **state)
{
    struct wire_go go = {1, 2, 3, 4, 5, 6, 7, 8};
    struct wire_go go_back;
    struct wire_done done = {11, 12};
    struct wire_done done_back;
    struct buffer frame = {0};
    size_t size;
    assert_int_equal(wire_go_encode(&frame, &go), 0);
    const uint8_t *payload = payload_of(&frame, &size);
    assert_int_equal(wire_go_decode(payload, size, &go_back), 0);
    assert_memory_equal(&go, &go_back, offsetof(struct wire_go, rounds));
    assert_int_equal(go_back.rounds, 8);
    assert_int_equal(wire_go_decode(payload, size - 1, &go_back), DROVER_EMALFORMED);
    buffer_done(&frame);
    assert_int_equal(wire_done_encode(&frame, &done), 0);
    payload = payload_of(&frame, &size);
    assert_int_equal(wire_done_decode(payload, size, &done_back), 0);
    assert_memory_equal(&done, &done_back, sizeof(done));
    buffer_done(&frame);
}

static void test_unknown_messages_are_refused(void **state)
{
    enum wire_type type;
    assert_int_equal(wire_type_decode((const uint8_t[]){0, 0}, 2, &type),
                     DROVER_EMALFORMED);
    assert_int_equal(wire_type_decode((const uint8_t[]){0, 200}, 2, &type),
                     DROVER_EMALFORMED);
    assert_int_equal(wire_type_decode((const uint8_t[]){0}, 1, &type), DROVER_EMALFORMED);
    assert_int_equal(wire_type_decode((const uint8_t[]){0, WIRE_GO}, 2, &type), 0);
    assert_int_equal(type, WIRE_GO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello_comes_back_as_it_went),
        cmocka_unit_test(test_hello_with_too_many_regions_is_refused),
        cmocka_unit_test(test_an_extent_comes_back_as_it_went),
        cmocka_unit_test(test_an_extent_carries_a_checksum_of_each_page),
        cmocka_unit_test(test_what_makes_streams_comes_back_as_it_went),
        cmocka_unit_test(test_probes_and_costs_come_back_as_they_went),
        cmocka_unit_test(test_senseless_extents_are_refused),
        cmocka_unit_test(test_a_peers_reason_is_made_harmless),
        cmocka_unit_test(test_go_and_done_come_back_as_they_went),
        cmocka_unit_test(test_unknown_messages_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
