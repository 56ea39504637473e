/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: layout, checked access, dirty pages of devices. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static struct guest_ram *make(uint64_t size)
{
    struct guest_ram *ram = NULL;
    struct error err = {0};
    assert_int_equal(guest_ram_create(size, &ram, &err), 0);
    return ram;
}

static void test_small_memory_is_one_region(void **state)
{
    (void)state;
    struct guest_ram *ram = make(8 * MIB);
    assert_int_equal(guest_ram_region_count(ram), 1);
    assert_int_equal(guest_ram_region(ram, 0)->gpa, 0);
    assert_int_equal(guest_ram_region(ram, 0)->size_bytes, 8 * MIB);
    guest_ram_free(ram);
}

static void test_memory_above_2_gib_lies_behind_the_hole(void **state)
{
    (void)state;
    struct guest_ram *ram = make(2 * GIB + 4 * MIB);
    assert_int_equal(guest_ram_region_count(ram), 2);
    assert_int_equal(guest_ram_region(ram, 0)->size_bytes, LAYOUT_LOW_RAM_END);
    assert_int_equal(guest_ram_region(ram, 1)->gpa, LAYOUT_HIGH_RAM_START);
    assert_int_equal(guest_ram_region(ram, 1)->size_bytes, 4 * MIB);
    uint8_t byte = 0x5a;
    assert_int_equal(guest_ram_write(ram, LAYOUT_LOW_RAM_END, &byte, 1), -EFAULT);
    assert_int_equal(guest_ram_write(ram, LAYOUT_HIGH_RAM_START + 4 * MIB - 1, &byte, 1),
                     0);
    /* Regions are neighbours here but not for the guest. */
    assert_null(guest_ram_pointer(ram, LAYOUT_LOW_RAM_END - 1, 2));
    guest_ram_free(ram);
}

static void test_access_outside_copies_nothing(void **state)
{
    (void)state;
    struct guest_ram *ram = make(MIB);
    uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t seen[8] = {0};
    assert_int_equal(guest_ram_write(ram, MIB - 4, data, 8), -EFAULT);
    assert_int_equal(guest_ram_read(ram, MIB - 4, seen, 4), 0);
    assert_memory_equal(seen, "\0\0\0\0", 4);
    assert_int_equal(guest_ram_read(ram, UINT64_MAX - 2, seen, 8), -EFAULT);
    assert_int_equal(guest_ram_read(ram, 16, seen, SIZE_MAX), -EFAULT);
    assert_non_null(guest_ram_pointer(ram, MIB, 0));
    assert_null(guest_ram_pointer(ram, MIB + 1, 0));
    assert_int_equal(guest_ram_write(ram, MIB - 8, data, 8), 0);
    assert_int_equal(guest_ram_read(ram, MIB - 8, seen, 8), 0);
    assert_memory_equal(seen, data, 8);
    guest_ram_free(ram);
}

static void test_sizes_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    struct guest_ram *ram = NULL;
    struct error err = {0};
    assert_int_equal(guest_ram_create(0, &ram, &err), DROVER_EBADINPUT);
    assert_int_equal(guest_ram_create(MIB + 1, &ram, &err), DROVER_EBADINPUT);
    assert_int_equal(guest_ram_create(UINT64_C(1) << 60, &ram, &err), DROVER_ELIMIT);
    assert_non_null(strstr(err.text, "available"));
    assert_null(ram);
}

static void test_dirty_pages_come_out_once(void **state)
{
    (void)state;
    struct guest_ram *ram = make(MIB);
    uint64_t bitmap[4] = {0};
    guest_ram_mark_dirty(ram, 0, 4096);
    assert_int_equal(guest_ram_track_dirty(ram, true), 0);
    guest_ram_fetch_dirty(ram, 0, bitmap);
    assert_int_equal(bitmap[0], 0); /* marked before the log was on */
    guest_ram_mark_dirty(ram, 4095, 2);
    guest_ram_mark_dirty(ram, 100 * 4096, 1);
    guest_ram_mark_dirty(ram, 5 * 4096, 0);
    guest_ram_mark_dirty(ram, 2 * MIB, 4096); /* not memory: nothing */
    guest_ram_fetch_dirty(ram, 0, bitmap);
    assert_int_equal(bitmap[0], 3);
    assert_int_equal(bitmap[1], UINT64_C(1) << 36);
    memset(bitmap, 0, sizeof(bitmap));
    guest_ram_fetch_dirty(ram, 0, bitmap);
    assert_int_equal(bitmap[0] | bitmap[1] | bitmap[2] | bitmap[3], 0);
    guest_ram_free(ram);
}

static void test_what_was_looked_at_stays_dirty_until_it_is_forgotten(void **state)
{
    (void)state;
    struct guest_ram *ram = make(MIB);
    uint64_t bitmap[4] = {0};
    assert_int_equal(guest_ram_track_dirty(ram, true), 0);
    guest_ram_mark_dirty(ram, 3 * 4096, 1);
    guest_ram_mark_dirty(ram, 65 * 4096, 2 * 4096);
    guest_ram_peek_dirty(ram, 0, bitmap);
    guest_ram_peek_dirty(ram, 0, bitmap);
    assert_int_equal(bitmap[0], 8);
    assert_int_equal(bitmap[1], 6);
    guest_ram_mark_dirty(ram, 70 * 4096, 1); /* after the look */
    guest_ram_forget_dirty(ram, 0, &bitmap[1], 64, 64);
    memset(bitmap, 0, sizeof(bitmap));
    guest_ram_peek_dirty(ram, 0, bitmap);
    assert_int_equal(bitmap[0], 8);
    assert_int_equal(bitmap[1], UINT64_C(1) << 6);
    guest_ram_free(ram);
}

static void test_memory_that_is_given_back_is_populated_no_more(void **state)
{
    (void)state;
    struct guest_ram *ram = make(MIB);
    uint64_t start = 0;
    uint64_t end = 0;
    guest_ram_back(ram, 16 * 4096, 64 * 4096);
    assert_int_equal(guest_ram_populated(ram, 0, 0, &start, &end), 1);
    assert_int_equal(start, 16 * 4096);
    assert_int_equal(end, 80 * 4096);
    assert_int_equal(guest_ram_populated(ram, 0, 20 * 4096, &start, &end), 1);
    assert_int_equal(start, 20 * 4096);
    assert_int_equal(guest_ram_discard(ram, 30 * 4096, 10 * 4096), 0);
    assert_int_equal(guest_ram_populated(ram, 0, 20 * 4096, &start, &end), 1);
    assert_int_equal(end, 30 * 4096);
    assert_int_equal(guest_ram_populated(ram, 0, 30 * 4096, &start, &end), 1);
    assert_int_equal(start, 40 * 4096);
    assert_int_equal(end, 80 * 4096);
    assert_int_equal(guest_ram_populated(ram, 0, 80 * 4096, &start, &end), 0);
    guest_ram_free(ram);
}

static void test_a_fetch_of_a_range_leaves_the_rest(void **state)
{
    (void)state;
    struct guest_ram *ram = make(MIB);
    uint64_t bitmap[4] = {0};
    assert_int_equal(guest_ram_track_dirty(ram, true), 0);
    guest_ram_mark_dirty(ram, 1 * 4096, 1);
    guest_ram_mark_dirty(ram, 65 * 4096, 1);
    guest_ram_fetch_dirty_range(ram, 0, bitmap, 64, 64);
    assert_int_equal(bitmap[0], 2);
    assert_int_equal(bitmap[1], 0);
    guest_ram_fetch_dirty(ram, 0, bitmap);
    assert_int_equal(bitmap[0], 2 | 2);
    assert_int_equal(bitmap[1], 0);
    guest_ram_free(ram);
}

/* Pages that are there, by guest_ram_populated(). */
static uint64_t pages_there(struct guest_ram *ram, unsigned region)
{
    uint64_t sum = 0;
    for (uint64_t at = 0;;) {
        uint64_t start = 0;
        uint64_t end = 0;
        int rv = guest_ram_populated(ram, region, at, &start, &end);
        assert_true(rv >= 0);
        if (rv == 0) {
            return sum;
        }
        assert_true(start >= at && end > start);
        sum += (end - start) / GUEST_PAGE_SIZE;
        at = end;
    }
}

static void give_back(const struct guest_ram_config *config)
{
    struct guest_ram *ram = NULL;
    struct error err = {0};
    assert_int_equal(guest_ram_create_config(config, &ram, &err), 0);
    assert_int_equal(guest_ram_fd(ram) < 0, config->mergeable);
    assert_true(guest_ram_can_discard(ram));
    uint64_t before = pages_there(ram, 0);
    assert_int_equal(before, config->preallocated ? config->size_bytes / 4096 : 0);
    char page[GUEST_PAGE_SIZE];
    char zero[GUEST_PAGE_SIZE] = {0};
    memset(page, 'x', sizeof(page));
    for (uint64_t gpa = 0; gpa < 4 * MIB; gpa += sizeof(page)) {
        assert_int_equal(guest_ram_write(ram, gpa, page, sizeof(page)), 0);
    }
    assert_true(pages_there(ram, 0) >= 1024);
    assert_int_equal(guest_ram_track_dirty(ram, true), 0);
    assert_int_equal(guest_ram_discard(ram, 8192, 2 * MIB), 0);
    assert_int_equal(pages_there(ram, 0), (before != 0 ? before : 1024) - 512);
    uint64_t dirty[(16 * MIB) / GUEST_PAGE_SIZE / 64] = {0};
    guest_ram_fetch_dirty(ram, 0, dirty);
    assert_int_equal(dirty[0], ~UINT64_C(3));
    assert_int_equal(dirty[8], 3);
    assert_int_equal(guest_ram_read(ram, 4096, page, sizeof(page)), 0);
    assert_int_equal(page[4095], 'x');
    assert_int_equal(guest_ram_read(ram, 8192 + MIB, page, sizeof(page)), 0);
    assert_memory_equal(page, zero, sizeof(page));

    assert_int_equal(guest_ram_discard(ram, 1, 4096), -EINVAL);
    assert_int_equal(guest_ram_discard(ram, 0, 100), -EINVAL);
    assert_int_equal(guest_ram_discard(ram, 16 * MIB - 4096, 8192), -EFAULT);
    guest_ram_zero(ram, 0, 4096);
    assert_int_equal(guest_ram_read(ram, 0, page, sizeof(page)), 0);
    assert_memory_equal(page, zero, sizeof(page));
    guest_ram_free(ram);
}

static void test_pages_that_are_given_back_are_zero_dirty_and_not_there(void **state)
{
    (void)state;
    give_back(&(struct guest_ram_config){.size_bytes = 16 * MIB});
    give_back(&(struct guest_ram_config){.size_bytes = 16 * MIB, .mergeable = true});
    give_back(&(struct guest_ram_config){.size_bytes = 16 * MIB, .preallocated = true});
}

static void test_memory_that_is_set_aside_is_not_taken(void **state)
{
    (void)state;
    struct guest_ram *ram = NULL;
    struct error err = {0};
    const struct guest_ram_config config = {.size_bytes = 200 * MIB,
                                            .preallocated = true};
    assert_int_equal(guest_ram_create_config(&config, &ram, &err), 0);
    assert_true(guest_ram_is_reserved(ram));
    assert_int_equal(pages_there(ram, 0), 200 * MIB / GUEST_PAGE_SIZE);
    guest_ram_zero(ram, 0, MIB);
    assert_int_equal(pages_there(ram, 0), 200 * MIB / GUEST_PAGE_SIZE);
    guest_ram_free(ram);
}

#define HUGE_PAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

/* As an administrator does; returns how many there were, or -1. */
static long huge_pages_set(long count)
{
    long before = -1;
    FILE *file = fopen(HUGE_PAGES, "r+e");
    if (file == NULL || fscanf(file, "%ld", &before) != 1) {
        before = -1;
    } else {
        rewind(file);
        (void)fprintf(file, "%ld", count >= 0 ? count : before);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return before;
}

static void test_huge_pages_are_there_or_are_told_to_be_too_few(void **state)
{
    (void)state;
    struct guest_ram *ram = NULL;
    struct error err = {0};
    struct guest_ram_config config = {.size_bytes = 3 * MIB, .huge_pages = true};
    assert_int_equal(guest_ram_create_config(&config, &ram, &err), DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "multiple of 2M"));
    config.size_bytes = UINT64_C(1) << 46;
    assert_int_equal(guest_ram_create_config(&config, &ram, &err), DROVER_ELIMIT);
    assert_non_null(strstr(err.text, "nr_hugepages"));
    config.size_bytes = 4 * MIB;
    long before = huge_pages_set(-1);
    (void)huge_pages_set(before + 4);
    int result = guest_ram_create_config(&config, &ram, &err);
    if (result != 0) {
        (void)huge_pages_set(before);
        print_message("no huge pages can be set aside here: %s\n", err.text);
        skip();
    }
    assert_false(guest_ram_can_discard(ram));
    assert_int_equal(pages_there(ram, 0), 0);
    assert_int_equal(guest_ram_write(ram, 2 * MIB, "x", 1), 0);
    assert_int_equal(pages_there(ram, 0), 512);
    assert_int_equal(guest_ram_discard(ram, 2 * MIB, 2 * MIB), 0);
    assert_int_equal(pages_there(ram, 0), 512);
    guest_ram_zero(ram, 2 * MIB, 4096);
    char seen = 'y';
    assert_int_equal(guest_ram_read(ram, 2 * MIB, &seen, 1), 0);
    assert_int_equal(seen, 0);
    guest_ram_free(ram);
    (void)huge_pages_set(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_memory_is_one_region),
        cmocka_unit_test(test_memory_above_2_gib_lies_behind_the_hole),
        cmocka_unit_test(test_access_outside_copies_nothing),
        cmocka_unit_test(test_sizes_that_make_no_sense_are_refused),
        cmocka_unit_test(test_dirty_pages_come_out_once),
        cmocka_unit_test(test_what_was_looked_at_stays_dirty_until_it_is_forgotten),
        cmocka_unit_test(test_memory_that_is_given_back_is_populated_no_more),
        cmocka_unit_test(test_a_fetch_of_a_range_leaves_the_rest),
        cmocka_unit_test(test_pages_that_are_given_back_are_zero_dirty_and_not_there),
        cmocka_unit_test(test_memory_that_is_set_aside_is_not_taken),
        cmocka_unit_test(test_huge_pages_are_there_or_are_told_to_be_too_few),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
