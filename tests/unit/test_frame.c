/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: whole, in pieces, damaged. */
#include "tests/unit/unit.h"

#include <string.h>

#include "base/buffer.h"
#include "base/err.h"
#include "proto/frame.h"

#define LIMIT 1000

static void encode(struct buffer *buffer, const char *text)
{
    buffer_init(buffer, 0);
    assert_int_equal(frame_encode(buffer, FRAME_KIND_PEER, text, strlen(text), LIMIT), 0);
}

static int decode(const struct buffer *buffer)
{
    const uint8_t *payload;
    size_t size, frame_size;
    return frame_decode(buffer, FRAME_KIND_PEER, LIMIT, &payload, &size, &frame_size);
}

static void test_frames_follow_one_another(void **state)
{
    struct buffer buffer;
    const uint8_t *payload;
    size_t size, frame_size;
    encode(&buffer, "first");
    assert_int_equal(frame_encode(&buffer, FRAME_KIND_PEER, NULL, 0, LIMIT), 0);
    assert_int_equal(frame_encode(&buffer, FRAME_KIND_PEER, "third", 5, LIMIT), 0);

    static const char *const expected[] = {"first", "", "third"};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(
            frame_decode(&buffer, FRAME_KIND_PEER, LIMIT, &payload, &size, &frame_size),
            1);
        assert_int_equal(size, strlen(expected[i]));
        assert_memory_equal(payload, expected[i], size);
        buffer_consume(&buffer, frame_size);
    }
    assert_int_equal(decode(&buffer), 0);
    buffer_done(&buffer);
}

static void test_every_part_of_a_frame_asks_for_more(void **state)
{
    struct buffer whole;
    encode(&whole, "hello");
    for (size_t size = 0; size < whole.size; size++) {
        struct buffer part = {.data = whole.data, .size = size};
        assert_int_equal(decode(&part), 0);
    }
    assert_int_equal(decode(&whole), 1);
    buffer_done(&whole);
}

/* Every single changed bit is noticed: refused, or (in the size) waited for. */
static void test_damage_is_never_taken_for_a_frame(void **state)
{
    struct buffer buffer;
    encode(&buffer, "hello");
    for (size_t bit = 0; bit < buffer.size * 8; bit++) {
        buffer.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_not_equal(decode(&buffer), 1);
        buffer.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    buffer_done(&buffer);
}

static void test_refusals_have_names(void **state)
{
    struct buffer buffer;
    const uint8_t *payload;
    size_t size, frame_size;
    encode(&buffer, "hello");
    assert_int_equal(
        frame_decode(&buffer, FRAME_KIND_CONTROL, LIMIT, &payload, &size, &frame_size),
        DROVER_EMALFORMED);
    assert_int_equal(
        frame_decode(&buffer, FRAME_KIND_PEER, 4, &payload, &size, &frame_size),
        DROVER_ELIMIT);
    buffer.data[5] = 9;
    assert_int_equal(decode(&buffer), DROVER_EVERSION);
    buffer_done(&buffer);
}

static void test_encode_refuses_what_no_peer_would_take(void **state)
{
    struct buffer buffer;
    char big[LIMIT + 1] = {0};
    buffer_init(&buffer, 0);
    assert_int_equal(frame_encode(&buffer, FRAME_KIND_PEER, big, sizeof(big), LIMIT),
                     DROVER_ELIMIT);
    assert_int_equal(buffer.size, 0);
    buffer_done(&buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_follow_one_another),
        cmocka_unit_test(test_every_part_of_a_frame_asks_for_more),
        cmocka_unit_test(test_damage_is_never_taken_for_a_frame),
        cmocka_unit_test(test_refusals_have_names),
        cmocka_unit_test(test_encode_refuses_what_no_peer_would_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
