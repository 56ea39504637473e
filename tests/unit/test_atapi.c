/* SPDX-License-Identifier: Apache-2.0 */
/* The packet commands of a CD-ROM drive, as bytes. */
#include "tests/unit/unit.h"

#include <string.h>

#include "vmm/devices/atapi.h"

#define CD_BLOCKS  1000u
#define DVD_BLOCKS 2000000u

struct fixture {
    struct atapi_drive drive;
    uint8_t data[ATAPI_DATA_MAX];
    struct atapi_result result;
};

static int setup(void **state)
{
    static struct fixture fixture;
    fixture = (struct fixture){.drive = {.block_count = CD_BLOCKS}};
    *state = &fixture;
    return 0;
}

static void run(struct fixture *fixture, const uint8_t packet[ATAPI_PACKET_SIZE])
{
    memset(fixture->data, 0xee, sizeof(fixture->data));
    atapi_command(&fixture->drive, packet, fixture->data, &fixture->result);
}

#define RUN(fixture, ...) run((fixture), (const uint8_t[ATAPI_PACKET_SIZE]){__VA_ARGS__})

static void assert_answer(const struct fixture *fixture, uint32_t size)
{
    assert_int_equal(fixture->result.outcome, ATAPI_OUTCOME_DONE);
    assert_int_equal(fixture->result.size, size);
}

static void assert_sense(const struct fixture *fixture, uint8_t key, uint16_t code)
{
    assert_int_equal(fixture->result.outcome, ATAPI_OUTCOME_CHECK);
    assert_int_equal(fixture->drive.sense_key, key);
    assert_int_equal(fixture->drive.sense_code, code);
}

static uint32_t get32(const uint8_t *data)
{
    return (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 |
           data[3];
}

static void test_inquiry_says_what_it_is(void **state)
{
    struct fixture *fixture = *state;
    RUN(fixture, 0x12, 0, 0, 0, 255);
    assert_answer(fixture, 36);
    assert_int_equal(fixture->data[0], 5);
    assert_int_equal(fixture->data[1], 0x80);
    assert_int_equal(fixture->data[4], 31);
    assert_memory_equal(fixture->data + 8, "DROVER  CD-ROM          1   ", 28);
    RUN(fixture, 0x12, 0, 0, 0, 5); /* as much as it asks for */
    assert_answer(fixture, 5);
    RUN(fixture, 0x12, 1, 0x80, 0, 255);
    assert_answer(fixture, 14);
    assert_memory_equal(fixture->data + 4, "drover-cd0", 10);
    RUN(fixture, 0x12, 1, 0xb0, 0, 255);
    assert_sense(fixture, 5, ATAPI_CODE_FIELD);
}

static void test_sense_is_told_once(void **state)
{
    struct fixture *fixture = *state;
    RUN(fixture, 0xff);
    assert_sense(fixture, 5, ATAPI_CODE_OPCODE);
    RUN(fixture, 0x03, 0, 0, 0, 18);
    assert_answer(fixture, 18);
    assert_int_equal(fixture->data[0], 0x70);
    assert_int_equal(fixture->data[2], 5);
    assert_int_equal(fixture->data[12], 0x20);
    RUN(fixture, 0x03, 0, 0, 0, 18);
    assert_int_equal(fixture->data[2], 0);
}

static void test_reads_stay_on_the_medium(void **state)
{
    struct fixture *fixture = *state;
    RUN(fixture, 0x25);
    assert_answer(fixture, 8);
    assert_int_equal(get32(fixture->data), CD_BLOCKS - 1);
    assert_int_equal(get32(fixture->data + 4), 2048);
    RUN(fixture, 0x28, 0, 0, 0, 3, 0xe7, 0, 0, 1); /* block 999 */
    assert_int_equal(fixture->result.outcome, ATAPI_OUTCOME_READ);
    assert_int_equal(fixture->result.first_block, 999);
    assert_int_equal(fixture->result.block_count, 1);
    RUN(fixture, 0x28, 0, 0, 0, 3, 0xe7, 0, 0, 2);
    assert_sense(fixture, 5, ATAPI_CODE_OUT_OF_RANGE);
    RUN(fixture, 0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
    assert_sense(fixture, 5, ATAPI_CODE_OUT_OF_RANGE);
    RUN(fixture, 0xa8, 0, 0, 0, 0, 1, 0, 0, 3, 0xe7);
    assert_int_equal(fixture->result.block_count, 999);
    RUN(fixture, 0x28, 0, 0, 0, 0, 0, 0, 0, 0); /* nothing is no error */
    assert_answer(fixture, 0);
    RUN(fixture, 0xbe, 0, 0, 0, 0, 2, 0, 0, 4, 0x10); /* READ CD, user data */
    assert_int_equal(fixture->result.first_block, 2);
    assert_int_equal(fixture->result.block_count, 4);
    RUN(fixture, 0xbe, 0, 0, 0, 0, 2, 0, 0, 4, 0xf8);
    assert_sense(fixture, 5, ATAPI_CODE_FIELD);
    RUN(fixture, 0x2b, 0, 0, 0, 4);
    assert_sense(fixture, 5, ATAPI_CODE_OUT_OF_RANGE);
}

static void test_the_table_of_contents_has_one_data_track(void **state)
{
    struct fixture *fixture = *state;
    RUN(fixture, 0x43, 0, 0, 0, 0, 0, 0, 0, 255);
    assert_answer(fixture, 20);
    assert_int_equal(fixture->data[1], 18);
    assert_int_equal(fixture->data[5], 0x14);
    assert_int_equal(fixture->data[6], 1);
    assert_int_equal(fixture->data[14], 0xaa);
    assert_int_equal(get32(fixture->data + 16), CD_BLOCKS);
    RUN(fixture, 0x43, 2, 0, 0, 0, 0, 0xaa, 0, 255); /* lead-out, as minutes */
    assert_answer(fixture, 12);
    assert_int_equal(get32(fixture->data + 8), (15 << 8) | 25); /* 0:15.25 */
    RUN(fixture, 0x43, 0, 0, 0, 0, 0, 2, 0, 255);
    assert_sense(fixture, 5, ATAPI_CODE_FIELD);
    RUN(fixture, 0x43, 0, 1, 0, 0, 0, 0, 0, 255);
    assert_answer(fixture, 12);
    RUN(fixture, 0x43, 0, 0, 0, 0, 0, 0, 0, 255, 0x80); /* the full one, old style */
    assert_answer(fixture, 48);
    assert_int_equal(fixture->data[7], 0xa0);
    RUN(fixture, 0x51, 0, 0, 0, 0, 0, 0, 0, 255);
    assert_answer(fixture, 34);
    RUN(fixture, 0x52, 1, 0, 0, 0, 1, 0, 0, 255);
    assert_answer(fixture, 36);
    assert_int_equal(get32(fixture->data + 24), CD_BLOCKS);
}

static void test_features_tell_cd_from_dvd(void **state)
{
    struct fixture *fixture = *state;
    RUN(fixture, 0x46, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_int_equal(get32(fixture->data), fixture->result.size - 4);
    assert_int_equal(fixture->data[7], 0x08);
    RUN(fixture, 0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4);
    assert_sense(fixture, 5, ATAPI_CODE_INCOMPATIBLE);
    fixture->drive.block_count = DVD_BLOCKS;
    RUN(fixture, 0x46, 2, 0, 0x1f, 0, 0, 0, 1, 0); /* just the one for DVDs */
    assert_answer(fixture, 16);
    assert_int_equal(fixture->data[7], 0x10);
    assert_int_equal(fixture->data[9], 0x1f);
    assert_int_equal(fixture->data[10] & 1, 1);
    RUN(fixture, 0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4);
    assert_answer(fixture, 2052);
    assert_int_equal(get32(fixture->data + 12), 0x30000 + DVD_BLOCKS - 1);
    RUN(fixture, 0x43, 2, 0, 0, 0, 0, 0xaa, 0, 255); /* more minutes than fit */
    assert_int_equal(fixture->data[9], 255);
}

static void test_mode_pages_are_there_and_can_not_be_saved(void **state)
{
    struct fixture *fixture = *state;
    RUN(fixture, 0x5a, 0, 0x2a, 0, 0, 0, 0, 1, 0);
    assert_answer(fixture, 28);
    assert_int_equal(fixture->data[1], 26);
    assert_int_equal(fixture->data[8], 0x2a);
    RUN(fixture, 0x1a, 0, 0x3f, 0, 255);
    assert_answer(fixture, 4 + 12 + 12 + 12 + 20);
    assert_int_equal(fixture->data[0], fixture->result.size - 1);
    RUN(fixture, 0x5a, 0, 0x6a, 0, 0, 0, 0, 1, 0); /* nothing can be changed */
    assert_answer(fixture, 28);
    assert_int_equal(fixture->data[10], 0);
    RUN(fixture, 0x5a, 0, 0xea, 0, 0, 0, 0, 1, 0);
    assert_sense(fixture, 5, ATAPI_CODE_SAVING);
    RUN(fixture, 0x5a, 0, 0x0f, 0, 0, 0, 0, 1, 0);
    assert_sense(fixture, 5, ATAPI_CODE_FIELD);
}

static void test_the_tray_opens_unless_it_is_locked(void **state)
{
    struct fixture *fixture = *state;
    RUN(fixture, 0x1e, 0, 0, 0, 1);
    RUN(fixture, 0x1b, 0, 0, 0, 2);
    assert_sense(fixture, 5, ATAPI_CODE_LOCKED);
    RUN(fixture, 0x1e, 0, 0, 0, 0);
    RUN(fixture, 0x1b, 0, 0, 0, 2);
    assert_answer(fixture, 0);
    RUN(fixture, 0x00);
    assert_sense(fixture, 2, ATAPI_CODE_TRAY_OPEN);
    RUN(fixture, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
    assert_sense(fixture, 2, ATAPI_CODE_TRAY_OPEN);
    RUN(fixture, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
    assert_answer(fixture, 8);
    assert_int_equal(fixture->data[5], 1);
    atapi_reset(&fixture->drive);
    assert_true(fixture->drive.tray_open); /* resets don't close it */
    RUN(fixture, 0x1b, 0, 0, 0, 3);
    assert_answer(fixture, 0);
    RUN(fixture, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
    assert_int_equal(fixture->data[4], 2); /* a new medium */
    RUN(fixture, 0x00);
    assert_sense(fixture, 6, ATAPI_CODE_CHANGED);
    RUN(fixture, 0x00);
    assert_answer(fixture, 0);
}

/* Whatever a packet says, the answer fits and reads stay on the medium. */
static void test_any_packet_gives_an_answer_that_fits(void **state)
{
    struct fixture *fixture = *state;
    uint32_t random = 1;
    for (unsigned i = 0; i < 400000; i++) {
        uint8_t packet[ATAPI_PACKET_SIZE];
        for (unsigned at = 0; at < sizeof(packet); at++) {
            random = random * 1664525 + 1013904223;
            packet[at] = (uint8_t)(random >> 24 & (random >> 20 & 1 ? 0xff : 0x0f));
        }
        packet[0] = (uint8_t)i;
        fixture->drive.block_count = i & 256 ? CD_BLOCKS : DVD_BLOCKS;
        run(fixture, packet);
        if (fixture->result.outcome == ATAPI_OUTCOME_READ) {
            assert_in_range(fixture->result.block_count, 1, fixture->drive.block_count);
            assert_true(fixture->result.first_block <=
                        fixture->drive.block_count - fixture->result.block_count);
        } else if (fixture->result.outcome == ATAPI_OUTCOME_DONE) {
            assert_in_range(fixture->result.size, 0, ATAPI_DATA_MAX);
        } else {
            assert_int_not_equal(fixture->drive.sense_key, 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_inquiry_says_what_it_is, setup),
        cmocka_unit_test_setup(test_sense_is_told_once, setup),
        cmocka_unit_test_setup(test_reads_stay_on_the_medium, setup),
        cmocka_unit_test_setup(test_the_table_of_contents_has_one_data_track, setup),
        cmocka_unit_test_setup(test_features_tell_cd_from_dvd, setup),
        cmocka_unit_test_setup(test_mode_pages_are_there_and_can_not_be_saved, setup),
        cmocka_unit_test_setup(test_the_tray_opens_unless_it_is_locked, setup),
        cmocka_unit_test_setup(test_any_packet_gives_an_answer_that_fits, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
