/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target against sources that are broken, hostile or late. The test plays the source,
 * message by message, over a real connection.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/crc32c.h"
#include "migration/stream.h"
#include "migration/target.h"
#include "migration/transport.h"
#include "tests/unit/fake_guest.h"
#include "tests/unit/unit.h"

#define PATIENCE_MS 100u
#define PAGES       1536u

struct play {
    struct fake_guest guest;
    struct migration_target *target;
    struct migration_times times;
    char uri[TRANSPORT_URI_SIZE];
    struct transport_link *link;
    struct stream_out out;
    struct stream_in in;
    struct wire_hello hello;
    uint8_t state[PAGES * sizeof(uint64_t)];
    unsigned loads; /* that were rehearsed */
};

static int setup(void **state)
{
    static struct play play;
    memset(&play, 0, sizeof(play));
    const struct fake_guest_config config = {.page_count = PAGES};
    fake_guest_init(&play.guest, &config, false);
    play.times = migration_times_from(PATIENCE_MS);
    struct migration_target_config target = {.guest = &play.guest.guest,
                                             .uri = "tcp:127.0.0.1:0",
                                             .vm_id = 7,
                                             .epoch = 5,
                                             .times = play.times};
    struct error err = {0};
    assert_int_equal(migration_target_create(&target, &play.target, &err), 0);
    migration_target_uri(play.target, play.uri);
    assert_int_equal(migration_target_start(play.target), 0);
    play.hello = (struct wire_hello){.version_min = 1,
                                     .version_max = 1, /* tests of version 2 say so */
                                     .vm_id = 7,
                                     .epoch = 4,
                                     .region_count = 2,
                                     .config = (const uint8_t *)"fake",
                                     .config_size = 4};
    for (unsigned i = 0; i < 2; i++) {
        struct migration_region region;
        play.guest.guest.ops->region(&play.guest.guest, i, &region);
        play.hello.regions[i].gpa = region.gpa;
        play.hello.regions[i].size_bytes = region.size_bytes;
    }
    *state = &play;
    return 0;
}

static void hang_up(struct play *play)
{
    if (play->link != NULL) {
        stream_out_done(&play->out);
        stream_in_done(&play->in);
        transport_link_close(play->link);
        play->link = NULL;
    }
}

static int teardown(void **state)
{
    struct play *play = *state;
    hang_up(play);
    migration_target_free(play->target);
    fake_guest_done(&play->guest);
    return 0;
}

static void dial(struct play *play)
{
    struct error err = {0};
    hang_up(play);
    assert_int_equal(
        transport_tcp()->connect(play->uri + 4, -1, 1000, 1000, &play->link, &err), 0);
    assert_int_equal(stream_out_init(&play->out, play->link, 1000), 0);
    assert_int_equal(stream_in_init(&play->in, play->link), 0);
}

static void send_frames(struct play *play, struct buffer *frames)
{
    assert_int_equal(stream_out_frames(&play->out, frames, NULL), 0);
    buffer_done(frames);
}

static void send_hello(struct play *play)
{
    struct buffer frame = {0};
    assert_int_equal(wire_hello_encode(&frame, &play->hello), 0);
    send_frames(play, &frame);
}

static void assert_hears(struct play *play, enum wire_type wanted, const char *reason)
{
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    struct wire_refusal refusal;
    assert_int_equal(stream_in_message(&play->in, 3000, 0, &type, &payload, &size), 0);
    if (type != wanted && wire_refusal_decode(payload, size, &refusal) == 0) {
        fail_msg("heard '%s'", refusal.reason);
    }
    assert_int_equal(type, wanted);
    if (reason != NULL) {
        assert_int_equal(wire_refusal_decode(payload, size, &refusal), 0);
        if (strstr(refusal.reason, reason) == NULL) {
            fail_msg("'%s' does not say '%s'", refusal.reason, reason);
        }
    }
}

static void assert_ends(struct play *play, enum migration_state wanted)
{
    struct migration_status status;
    for (unsigned i = 0; i < 5000; i++) {
        migration_target_status(play->target, &status);
        if (migration_state_final(status.state)) {
            break;
        }
        (void)usleep(1000);
    }
    assert_int_equal(status.state, wanted);
    assert_int_equal(atomic_load(&play->guest.started), wanted == MIGRATION_STATE_DONE);
    assert_int_equal(atomic_load(&play->guest.abandoned), wanted != MIGRATION_STATE_DONE);
}

static void assert_still_waits(struct play *play)
{
    struct migration_status status;
    migration_target_status(play->target, &status);
    assert_int_equal(status.state, MIGRATION_STATE_CONNECTING);
}

static void accepted(struct play *play)
{
    dial(play);
    send_hello(play);
    assert_hears(play, WIRE_ACCEPT, NULL);
}

static void send_plain(struct play *play, enum wire_type type)
{
    assert_int_equal(stream_out_plain(&play->out, type), 0);
}

static void send_state(struct play *play)
{
    struct buffer frame = {0};
    assert_int_equal(wire_state_encode(&frame, play->state, sizeof(play->state)), 0);
    send_frames(play, &frame);
}

static void send_go(struct play *play)
{
    struct buffer frame = {0};
    assert_int_equal(wire_go_encode(&frame, &(struct wire_go){.rounds = 1}), 0);
    send_frames(play, &frame);
}

static void ready(struct play *play)
{
    accepted(play);
    send_plain(play, WIRE_HANDOVER);
    send_state(play);
    assert_hears(play, WIRE_READY, NULL);
}

/* `data`: pages that follow, all of the same byte. */
static void send_extent(struct play *play, struct extent *extent, uint8_t byte)
{
    static uint8_t pages[EXTENT_PAGES * MIGRATION_PAGE_SIZE];
    memset(pages, byte, sizeof(pages));
    assert_int_equal(stream_out_extent(&play->out, extent, pages), 0);
    (void)stream_out_flush(&play->out); /* the target may have hung up by then */
}

/* ---- who may connect --------------------------------------------------------------- */

static void
test_another_vm_is_refused_by_name_and_the_right_one_still_gets_in(void **state)
{
    struct play *play = *state;
    dial(play);
    play->hello.vm_id = 8;
    send_hello(play);
    assert_hears(play, WIRE_REFUSE, "waits for VM 7, and this is VM 8");
    play->hello.vm_id = 7;
    accepted(play);
}

static void test_an_epoch_that_is_not_older_is_refused(void **state)
{
    struct play *play = *state;
    dial(play);
    play->hello.epoch = 5;
    send_hello(play);
    assert_hears(play, WIRE_REFUSE, "epoch 5 is not newer than the source's 5");
}

static void test_other_memory_is_refused_with_both_sizes(void **state)
{
    struct play *play = *state;
    dial(play);
    play->hello.regions[1].size_bytes += 4096;
    send_hello(play);
    assert_hears(play, WIRE_REFUSE, "memory differs");
    assert_still_waits(play);
}

static void test_another_machine_is_refused(void **state)
{
    struct play *play = *state;
    dial(play);
    play->hello.config = (const uint8_t *)"fane";
    send_hello(play);
    assert_hears(play, WIRE_REFUSE, "another machine");
}

static void test_another_version_is_refused(void **state)
{
    struct play *play = *state;
    dial(play);
    play->hello.version_min = WIRE_VERSION + 1;
    play->hello.version_max = WIRE_VERSION + 2;
    send_hello(play);
    assert_hears(play, WIRE_REFUSE, "speaks versions");
}

static void test_a_stranger_who_says_nothing_or_garbage_does_no_harm(void **state)
{
    struct play *play = *state;
    dial(play);
    struct buffer garbage = {0};
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(buffer_append_u32(&garbage, i * 2654435761u), 0);
    }
    send_frames(play, &garbage);
    dial(play); /* and this one is silent: it is dropped after a while */

    (void)usleep(PATIENCE_MS * 5000);
    assert_still_waits(play);
    accepted(play);
}

/* ---- memory ------------------------------------------------------------------------ */

static void test_pages_beyond_the_end_are_refused_and_nothing_is_written(void **state)
{
    struct play *play = *state;
    struct extent extent;
    accepted(play);
    /* The first region has 1152 pages: its third extent only 128. */
    extent_init(&extent, 0, 2 * EXTENT_PAGES);
    extent_add(&extent, EXTENT_RUN_DATA, 129);
    send_extent(play, &extent, 0xaa);
    assert_ends(play, MIGRATION_STATE_FAILED);
    assert_int_equal(play->guest.memory[2 * EXTENT_PAGES * MIGRATION_PAGE_SIZE], 0);
}

static void test_data_that_no_link_can_have_placed_is_refused(void **state)
{
    struct play *play = *state;
    struct extent extent;
    accepted(play);
    extent_init(&extent, 0, 0);
    extent_add(&extent, EXTENT_RUN_DATA, 1);
    extent.placed = true;
    send_extent(play, &extent, 0xaa);
    assert_ends(play, MIGRATION_STATE_FAILED);
    assert_hears(play, WIRE_ABORT, "malformed map");
}

static void test_an_unknown_region_and_a_far_page_are_refused(void **state)
{
    struct play *play = *state;
    struct extent extent;
    accepted(play);
    extent_init(&extent, 0, UINT64_MAX / EXTENT_PAGES * EXTENT_PAGES);
    extent_add(&extent, EXTENT_RUN_ZERO, 512);
    send_extent(play, &extent, 0);
    assert_ends(play, MIGRATION_STATE_FAILED);
    assert_hears(play, WIRE_ABORT, "malformed map");
}

static void test_pages_land_where_they_belong_and_zeros_touch_nothing_new(void **state)
{
    struct play *play = *state;
    struct extent extent;
    accepted(play);
    extent_init(&extent, 0, 0);
    extent_add(&extent, EXTENT_RUN_DATA, 3);
    extent_add(&extent, EXTENT_RUN_SKIP, 1);
    extent_add(&extent, EXTENT_RUN_DATA, 1);
    extent_add(&extent, EXTENT_RUN_ZERO, 500);
    send_extent(play, &extent, 0x5a);
    extent_init(&extent, 0, 0);
    extent_add(&extent, EXTENT_RUN_ZERO, 1);
    send_extent(play, &extent, 0);
    struct buffer frame = {0};
    assert_int_equal(
        wire_round_encode(&frame, WIRE_ROUND_END, &(struct wire_round){.round = 1}), 0);
    send_frames(play, &frame);
    assert_hears(play, WIRE_ROUND_ACK, NULL);
    const uint8_t *memory = play->guest.memory;
    assert_int_equal(memory[0], 0);
    assert_int_equal(memory[1 * 4096], 0x5a);
    assert_int_equal(memory[3 * 4096 - 1], 0x5a);
    assert_int_equal(memory[4 * 4096], 0x5a);
    unsigned char resident[8];
    assert_int_equal(mincore(play->guest.memory + 5 * 4096, 8 * 4096, resident), 0);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(resident[i] & 1, 0);
    }
}

static void standing_extent(struct play *play, bool checked, uint32_t crc_xor)
{
    static uint8_t page[MIGRATION_PAGE_SIZE];
    struct extent extent;
    accepted(play);
    send_plain(play, WIRE_HANDOVER);
    memset(page, 0x11, sizeof(page));
    extent_init(&extent, 1, 0);
    extent_add(&extent, EXTENT_RUN_DATA, 1);
    extent.checked = checked;
    extent.crc = crc32c_portable(0, page, sizeof(page)) ^ crc_xor;
    send_extent(play, &extent, 0x11);
    send_state(play);
}

static void test_last_pages_need_a_right_checksum(void **state)
{
    standing_extent(*state, true, 0);
    assert_hears(*state, WIRE_READY, NULL);
}

static void test_last_pages_with_a_wrong_checksum_end_the_move(void **state)
{
    standing_extent(*state, true, 1);
    assert_ends(*state, MIGRATION_STATE_FAILED);
}

static void test_last_pages_without_a_checksum_end_the_move(void **state)
{
    standing_extent(*state, false, 0);
    assert_ends(*state, MIGRATION_STATE_FAILED);
}

/* ---- out of turn ------------------------------------------------------------------- */

static int rehearse_all(struct migration_guest *guest,
                        struct migration_rehearsal *ret_rehearsal)
{
    *ret_rehearsal = (struct migration_rehearsal){.load_us = 700, .enter_us = 30};
    return 0;
}

/* Once; then the host has no time. */
static int rehearse_load(struct migration_guest *guest, uint64_t *ret_us)
{
    struct play *play = (struct play *)guest; /* guest.guest is the first member */
    play->loads++;
    *ret_us = 400;
    return play->loads == 1 ? 0 : -EAGAIN;
}

static uint32_t told_us(struct play *play, size_t state_bytes)
{
    struct buffer frame = {0};
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    uint32_t us = 0;
    assert_int_equal(wire_probe_encode(&frame, true, state_bytes), 0);
    send_frames(play, &frame);
    assert_int_equal(stream_in_message(&play->in, 3000, 0, &type, &payload, &size), 0);
    assert_int_equal(type, WIRE_COSTS);
    assert_int_equal(wire_costs_decode(payload, size, &us), 0);
    return us;
}

static void test_a_source_is_told_what_loading_takes_now_and_what_all_does(void **state)
{
    struct play *play = *state;
    struct migration_guest_ops ops = *play->guest.guest.ops;
    ops.rehearse = rehearse_all;
    ops.rehearse_load = rehearse_load;
    play->guest.guest.ops = &ops;
    accepted(play);
    assert_int_equal(told_us(play, 0), 730);
    assert_int_equal(play->loads, 0);
    assert_int_equal(told_us(play, 4096), 400);
    assert_int_equal(told_us(play, 0), 430);
    assert_int_equal(told_us(play, 4096), 400); /* the last that is known */
    assert_int_equal(play->loads, 2);
    hang_up(play);
    assert_ends(play, MIGRATION_STATE_FAILED);
    migration_target_free(play->target); /* before `ops` is gone */
    play->target = NULL;
}

static void test_a_state_before_the_handover_is_refused(void **state)
{
    struct play *play = *state;
    accepted(play);
    send_state(play);
    assert_ends(play, MIGRATION_STATE_FAILED);
}

static void test_a_go_before_ready_is_not_obeyed(void **state)
{
    struct play *play = *state;
    accepted(play);
    send_plain(play, WIRE_HANDOVER);
    send_go(play);
    assert_ends(play, MIGRATION_STATE_FAILED);
    assert_hears(play, WIRE_ABORT, "out of turn");
}

static void test_a_source_that_falls_silent_is_noticed(void **state)
{
    struct play *play = *state;
    accepted(play);
    uint64_t start_ms = clock_now_ms();
    assert_ends(play, MIGRATION_STATE_FAILED);
    assert_in_range(clock_now_ms() - start_ms, play->times.idle_ms / 2,
                    play->times.idle_ms * 5);
}

/* ---- the decision ------------------------------------------------------------------ */

static void test_a_go_in_time_is_obeyed(void **state)
{
    struct play *play = *state;
    ready(play);
    send_go(play);
    assert_hears(play, WIRE_DONE, NULL);
    assert_ends(play, MIGRATION_STATE_DONE);
    assert_int_equal(migration_target_abandon(play->target), DROVER_EHANDEDOVER);
}

static void test_a_go_that_comes_too_late_is_not_obeyed(void **state)
{
    struct play *play = *state;
    ready(play);
    (void)usleep((play->times.go_ms + play->times.go_ms / 4) * 1000);
    struct buffer frame = {0};
    assert_int_equal(wire_go_encode(&frame, &(struct wire_go){.rounds = 1}), 0);
    (void)stream_out_frames(&play->out, &frame, NULL); /* the target has hung up */
    buffer_done(&frame);
    assert_ends(play, MIGRATION_STATE_FAILED);
}

static void test_a_go_after_the_target_was_given_up_is_not_obeyed(void **state)
{
    struct play *play = *state;
    ready(play);
    assert_false(migration_target_given_up(play->target));
    assert_int_equal(migration_target_abandon(play->target), 0);
    assert_true(migration_target_given_up(play->target));
    struct buffer frame = {0};
    assert_int_equal(wire_go_encode(&frame, &(struct wire_go){.rounds = 1}), 0);
    (void)stream_out_frames(&play->out, &frame, NULL); /* the target may have hung up */
    buffer_done(&frame);
    assert_ends(play, MIGRATION_STATE_CANCELLED);
}

static void test_a_broken_connection_after_ready_decides_for_never(void **state)
{
    struct play *play = *state;
    ready(play);
    hang_up(play);
    assert_ends(play, MIGRATION_STATE_FAILED);
}

static void test_half_a_go_is_no_go(void **state)
{
    struct play *play = *state;
    ready(play);
    struct buffer frame = {0};
    assert_int_equal(wire_go_encode(&frame, &(struct wire_go){.rounds = 1}), 0);
    frame.size -= 1;
    send_frames(play, &frame);
    hang_up(play);
    assert_ends(play, MIGRATION_STATE_FAILED);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_another_vm_is_refused_by_name_and_the_right_one_still_gets_in),
        TEST(test_an_epoch_that_is_not_older_is_refused),
        TEST(test_other_memory_is_refused_with_both_sizes),
        TEST(test_another_machine_is_refused),
        TEST(test_another_version_is_refused),
        TEST(test_a_stranger_who_says_nothing_or_garbage_does_no_harm),
        TEST(test_pages_beyond_the_end_are_refused_and_nothing_is_written),
        TEST(test_data_that_no_link_can_have_placed_is_refused),
        TEST(test_an_unknown_region_and_a_far_page_are_refused),
        TEST(test_pages_land_where_they_belong_and_zeros_touch_nothing_new),
        TEST(test_last_pages_need_a_right_checksum),
        TEST(test_last_pages_with_a_wrong_checksum_end_the_move),
        TEST(test_last_pages_without_a_checksum_end_the_move),
        TEST(test_a_source_is_told_what_loading_takes_now_and_what_all_does),
        TEST(test_a_state_before_the_handover_is_refused),
        TEST(test_a_go_before_ready_is_not_obeyed),
        TEST(test_a_source_that_falls_silent_is_noticed),
        TEST(test_a_go_in_time_is_obeyed),
        TEST(test_a_go_that_comes_too_late_is_not_obeyed),
        TEST(test_a_go_after_the_target_was_given_up_is_not_obeyed),
        TEST(test_a_broken_connection_after_ready_decides_for_never),
        TEST(test_half_a_go_is_no_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
