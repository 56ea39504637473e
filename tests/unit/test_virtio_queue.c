/* SPDX-License-Identifier: Apache-2.0 */
/* Split rings: what an honest driver sees, and that a hostile one gets an error and
 * nothing else. */
#include "tests/unit/unit.h"

#include <string.h>

#include "base/err.h"
#include "tests/unit/fake_vm.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtqueue.h"

#define DESC   0x10000u
#define AVAIL  0x20000u
#define USED   0x30000u
#define TABLE  0x40000u
#define SIZE   8u
#define MEMORY (2u * 1024u * 1024u)

struct fixture {
    struct guest_ram *ram;
    struct virtqueue queue;
    struct virtqueue_chain chain;
};

static void put(struct fixture *f, uint64_t gpa, const void *data, size_t size)
{
    assert_int_equal(guest_ram_write(f->ram, gpa, data, size), 0);
}

static void put_u16(struct fixture *f, uint64_t gpa, uint16_t value)
{
    put(f, gpa, &value, 2);
}

static uint16_t get_u16(struct fixture *f, uint64_t gpa)
{
    uint16_t value = 0;

    assert_int_equal(guest_ram_read(f->ram, gpa, &value, 2), 0);
    return value;
}

static void put_desc(struct fixture *f, uint64_t at, uint64_t gpa, uint32_t size,
                     uint16_t flags, uint16_t next)
{
    put(f, at, &gpa, 8);
    put(f, at + 8, &size, 4);
    put_u16(f, at + 12, flags);
    put_u16(f, at + 14, next);
}

static void offer(struct fixture *f, uint16_t index, uint16_t head)
{
    put_u16(f, AVAIL + 4 + 2u * (index % SIZE), head);
    put_u16(f, AVAIL + 2, (uint16_t)(index + 1));
}

static int setup(void **state)
{
    static struct fixture fixture;
    struct fixture *f = &fixture;

    memset(f, 0, sizeof(*f));
    assert_int_equal(guest_ram_create(MEMORY, &f->ram, NULL), 0);
    virtqueue_init(&f->queue, f->ram, 256);
    f->queue.size = SIZE;
    f->queue.desc_gpa = DESC;
    f->queue.avail_gpa = AVAIL;
    f->queue.used_gpa = USED;
    assert_int_equal(virtqueue_enable(&f->queue, true, true), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    guest_ram_free(((struct fixture *)*state)->ram);
    return 0;
}

static void assert_broken(struct fixture *f)
{
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), DROVER_EGUEST);
    assert_non_null(f->queue.broken);
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), DROVER_EGUEST);
    assert_false(virtqueue_pending(&f->queue));
}

static void test_empty_ring_has_no_request(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 0);
    assert_false(virtqueue_pending(&f->queue));
}

static void test_chain_is_split_into_readable_and_writable(void **state)
{
    struct fixture *f = *state;
    char text[8] = {0};

    put(f, 0x50000, "hello", 5);
    put(f, 0x60000, "you", 3);
    put_desc(f, DESC + 3 * 16, 0x50000, 5, 1, 5);
    put_desc(f, DESC + 5 * 16, 0x60000, 3, 1, 1);
    put_desc(f, DESC + 1 * 16, 0x70000, 100, 2, 0);
    offer(f, 0, 3);
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
    assert_int_equal(f->chain.head, 3);
    assert_int_equal(f->chain.readable_bytes, 8);
    assert_int_equal(f->chain.writable_bytes, 100);
    assert_int_equal(virtqueue_chain_read(&f->queue, &f->chain, 3, text, 5), 0);
    assert_string_equal(text, "loyou");
    assert_int_equal(virtqueue_chain_read(&f->queue, &f->chain, 4, text, 5), -14);
    assert_int_equal(virtqueue_chain_write(&f->queue, &f->chain, 99, "ab", 2), -14);
    assert_int_equal(virtqueue_chain_write(&f->queue, &f->chain, 98, "ab", 2), 0);
    assert_int_equal(get_u16(f, 0x70000 + 98), 'a' | 'b' << 8);
}

static void test_indirect_table_is_followed(void **state)
{
    struct fixture *f = *state;

    put_desc(f, TABLE, 0x50000, 10, 1, 1);
    put_desc(f, TABLE + 16, 0x60000, 20, 2, 0);
    put_desc(f, DESC, TABLE, 32, 4, 0);
    offer(f, 0, 0);
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
    assert_int_equal(f->chain.readable_bytes, 10);
    assert_int_equal(f->chain.writable_bytes, 20);
}

static void test_pushed_request_appears_in_used_ring(void **state)
{
    struct fixture *f = *state;
    uint32_t element[2];

    put_desc(f, DESC + 16, 0x50000, 10, 2, 0);
    offer(f, 0, 1);
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
    virtqueue_push(&f->queue, 1, 7);
    assert_int_equal(get_u16(f, USED + 2), 1);
    assert_int_equal(guest_ram_read(f->ram, USED + 4, element, 8), 0);
    assert_int_equal(element[0], 1);
    assert_int_equal(element[1], 7);
}

static void test_used_ring_and_data_are_marked_dirty(void **state)
{
    struct fixture *f = *state;
    uint64_t bitmap[MEMORY / 4096 / 64] = {0};

    assert_int_equal(guest_ram_track_dirty(f->ram, true), 0);
    put_desc(f, DESC, 0x50000, 8192, 2, 0);
    offer(f, 0, 0);
    guest_ram_fetch_dirty(f->ram, 0, bitmap);
    memset(bitmap, 0, sizeof(bitmap));
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
    virtqueue_chain_mark_dirty(&f->queue, &f->chain, 4096, 1);
    virtqueue_push(&f->queue, 0, 1);
    guest_ram_fetch_dirty(f->ram, 0, bitmap);
    assert_true(bitmap[0x51 / 64] & (UINT64_C(1) << (0x51 % 64)));
    assert_false(bitmap[0x50 / 64] & (UINT64_C(1) << (0x50 % 64)));
    assert_true(bitmap[0x30 / 64] & (UINT64_C(1) << (0x30 % 64)));
}

static void test_positions_wrap_at_two_to_the_sixteenth(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 70000; i++) {
        uint16_t head = (uint16_t)(i % SIZE);

        put_desc(f, DESC + 16u * head, 0x50000, 10, 2, 0);
        offer(f, (uint16_t)i, head);
        assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
        assert_int_equal(f->chain.head, head);
        virtqueue_push(&f->queue, head, 0);
        assert_int_equal(get_u16(f, USED + 2), (uint16_t)(i + 1));
    }
}

static void test_unpopped_request_comes_again(void **state)
{
    struct fixture *f = *state;

    put_desc(f, DESC, 0x50000, 10, 2, 0);
    offer(f, 0, 0);
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
    virtqueue_unpop(&f->queue, 1);
    assert_true(virtqueue_pending(&f->queue));
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
}

static void test_event_index_spares_interrupts(void **state)
{
    struct fixture *f = *state;

    for (uint16_t i = 0; i < 4; i++) {
        put_desc(f, DESC + 16u * i, 0x50000, 10, 2, 0);
        offer(f, i, i);
        assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
    }
    put_u16(f, AVAIL + 4 + 2 * SIZE, 2); /* an interrupt after the third */
    virtqueue_push(&f->queue, 0, 0);
    assert_true(
        virtqueue_interrupt_wanted(&f->queue)); /* the first is always announced */
    virtqueue_push(&f->queue, 1, 0);
    assert_false(virtqueue_interrupt_wanted(&f->queue));
    virtqueue_push(&f->queue, 2, 0);
    assert_true(virtqueue_interrupt_wanted(&f->queue));
    assert_false(virtqueue_interrupt_wanted(&f->queue)); /* nothing new */
}

static void test_without_event_index_flags_rule(void **state)
{
    struct fixture *f = *state;

    f->queue.event_index = false;
    put_desc(f, DESC, 0x50000, 10, 2, 0);
    offer(f, 0, 0);
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
    put_u16(f, AVAIL, 1);
    virtqueue_push(&f->queue, 0, 0);
    assert_false(virtqueue_interrupt_wanted(&f->queue));
    virtqueue_notify_disable(&f->queue);
    assert_int_equal(get_u16(f, USED), 1);
    virtqueue_notify_enable(&f->queue);
    assert_int_equal(get_u16(f, USED), 0);
}

static void test_ring_outside_of_memory_is_refused(void **state)
{
    struct fixture *f = *state;
    static const uint64_t bad[] = {MEMORY, MEMORY - 16, UINT64_MAX - 15,
                                   UINT64_C(0xc0000000)};

    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (unsigned part = 0; part < 3; part++) {
            struct virtqueue queue;

            virtqueue_init(&queue, f->ram, 256);
            queue.desc_gpa = part == 0 ? bad[i] & ~UINT64_C(15) : DESC;
            queue.avail_gpa = part == 1 ? bad[i] & ~UINT64_C(1) : AVAIL;
            queue.used_gpa = part == 2 ? bad[i] & ~UINT64_C(3) : USED;
            assert_int_equal(virtqueue_enable(&queue, true, true), DROVER_EGUEST);
            assert_false(queue.ready);
        }
    }
}

static void test_wrong_size_and_alignment_are_refused(void **state)
{
    struct fixture *f = *state;
    static const uint16_t sizes[] = {0, 3, 255, 512, 32768, 65535};
    struct virtqueue queue;

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        virtqueue_init(&queue, f->ram, 256);
        queue.size = sizes[i];
        assert_int_equal(virtqueue_enable(&queue, true, true), DROVER_EGUEST);
    }
    virtqueue_init(&queue, f->ram, 256);
    queue.desc_gpa = DESC + 8;
    assert_int_equal(virtqueue_enable(&queue, true, true), DROVER_EGUEST);
    virtqueue_init(&queue, f->ram, 256);
    queue.avail_gpa = AVAIL + 1;
    assert_int_equal(virtqueue_enable(&queue, true, true), DROVER_EGUEST);
    virtqueue_init(&queue, f->ram, 256);
    queue.used_gpa = USED + 2;
    assert_int_equal(virtqueue_enable(&queue, true, true), DROVER_EGUEST);
}

static void test_available_index_that_jumps_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    put_u16(f, AVAIL + 2, SIZE + 1);
    assert_broken(f);
}

static void test_available_index_that_goes_back_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    put_u16(f, AVAIL + 2, 0xffff);
    assert_broken(f);
}

static void test_head_outside_of_the_queue_breaks_it(void **state)
{
    struct fixture *f = *state;

    offer(f, 0, SIZE);
    assert_broken(f);
}

static void test_next_outside_of_the_queue_breaks_it(void **state)
{
    struct fixture *f = *state;

    put_desc(f, DESC, 0x50000, 10, 1, 0xffff);
    offer(f, 0, 0);
    assert_broken(f);
}

static void test_loop_of_descriptors_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    put_desc(f, DESC, 0x50000, 10, 1, 1);
    put_desc(f, DESC + 16, 0x50000, 10, 1, 0);
    offer(f, 0, 0);
    assert_broken(f);
}

static void test_loop_of_empty_descriptors_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    put_desc(f, DESC, 0, 0, 1, 0);
    offer(f, 0, 0);
    assert_broken(f);
}

static void test_buffer_outside_of_memory_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    put_desc(f, DESC, MEMORY - 5, 10, 0, 0);
    offer(f, 0, 0);
    assert_broken(f);
}

static void test_buffer_that_wraps_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    put_desc(f, DESC, UINT64_MAX - 5, 10, 0, 0);
    offer(f, 0, 0);
    assert_broken(f);
}

static void test_readable_after_writable_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    put_desc(f, DESC, 0x50000, 10, 3, 1);
    put_desc(f, DESC + 16, 0x50000, 10, 0, 0);
    offer(f, 0, 0);
    assert_broken(f);
}

static void test_indirect_in_indirect_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    put_desc(f, TABLE, TABLE, 16, 4, 0);
    put_desc(f, DESC, TABLE, 16, 4, 0);
    offer(f, 0, 0);
    assert_broken(f);
}

static void test_indirect_without_the_feature_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    f->queue.indirect = false;
    put_desc(f, TABLE, 0x50000, 16, 0, 0);
    put_desc(f, DESC, TABLE, 16, 4, 0);
    offer(f, 0, 0);
    assert_broken(f);
}

static void test_indirect_table_of_wrong_size_breaks_the_queue(void **state)
{
    static const uint32_t sizes[] = {0, 8, 17, 16 * 257, UINT32_MAX};

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct fixture *f = *state;

        put_desc(f, DESC, TABLE, sizes[i], 4, 0);
        offer(f, 0, 0);
        assert_broken(f);
        f->queue.broken = NULL;
    }
}

static void test_indirect_table_outside_of_memory_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    put_desc(f, DESC, MEMORY - 16, 32, 4, 0);
    offer(f, 0, 0);
    assert_broken(f);
}

static void test_same_head_again_and_again_breaks_the_queue(void **state)
{
    struct fixture *f = *state;
    unsigned taken = 0;

    put_desc(f, DESC, 0x50000, 10, 0, 0);
    for (uint16_t i = 0; i < 2 * SIZE; i++) {
        offer(f, i, 0);
        if (virtqueue_pop(&f->queue, &f->chain) == 1) {
            taken++;
        }
    }
    assert_int_equal(taken, SIZE);
    assert_non_null(f->queue.broken);
}

int main(void)
{
#define QUEUE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        QUEUE_TEST(test_empty_ring_has_no_request),
        QUEUE_TEST(test_chain_is_split_into_readable_and_writable),
        QUEUE_TEST(test_indirect_table_is_followed),
        QUEUE_TEST(test_pushed_request_appears_in_used_ring),
        QUEUE_TEST(test_used_ring_and_data_are_marked_dirty),
        QUEUE_TEST(test_positions_wrap_at_two_to_the_sixteenth),
        QUEUE_TEST(test_unpopped_request_comes_again),
        QUEUE_TEST(test_event_index_spares_interrupts),
        QUEUE_TEST(test_without_event_index_flags_rule),
        QUEUE_TEST(test_ring_outside_of_memory_is_refused),
        QUEUE_TEST(test_wrong_size_and_alignment_are_refused),
        QUEUE_TEST(test_available_index_that_jumps_breaks_the_queue),
        QUEUE_TEST(test_available_index_that_goes_back_breaks_the_queue),
        QUEUE_TEST(test_head_outside_of_the_queue_breaks_it),
        QUEUE_TEST(test_next_outside_of_the_queue_breaks_it),
        QUEUE_TEST(test_loop_of_descriptors_breaks_the_queue),
        QUEUE_TEST(test_loop_of_empty_descriptors_breaks_the_queue),
        QUEUE_TEST(test_buffer_outside_of_memory_breaks_the_queue),
        QUEUE_TEST(test_buffer_that_wraps_breaks_the_queue),
        QUEUE_TEST(test_readable_after_writable_breaks_the_queue),
        QUEUE_TEST(test_indirect_in_indirect_breaks_the_queue),
        QUEUE_TEST(test_indirect_without_the_feature_breaks_the_queue),
        QUEUE_TEST(test_indirect_table_of_wrong_size_breaks_the_queue),
        QUEUE_TEST(test_indirect_table_outside_of_memory_breaks_the_queue),
        QUEUE_TEST(test_same_head_again_and_again_breaks_the_queue),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
