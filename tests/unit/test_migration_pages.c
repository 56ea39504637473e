/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages are read when they are sent: memory that a guest gave back to the host is not
 * even looked at, and here nobody could. */
#include "tests/unit/unit.h"

#include <string.h>
#include <sys/mman.h>

#include "migration/pages.h"
#include "migration/stream.h"

#define PAGES 1024u /* two extents */
#define USED  512u

struct fixture {
    struct migration_guest guest;
    uint8_t *memory;
    unsigned populated_pages; /* from the first one on */
    unsigned asked;
    uint64_t given_back;
    uint64_t dirty[PAGES / 64];
    struct transport_link link;
    uint64_t bytes; /* that were sent */
    struct pages pages;
    struct stream_out out;
};

static struct fixture *fixture_of(struct migration_guest *guest)
{
    return (struct fixture *)guest; /* the first member */
}

static unsigned region_count(struct migration_guest *guest)
{
    return 1;
}

static void region(struct migration_guest *guest, unsigned index,
                   struct migration_region *ret_region)
{
    *ret_region = (struct migration_region){.size_bytes = PAGES * MIGRATION_PAGE_SIZE,
                                            .host = fixture_of(guest)->memory};
}

static int populated(struct migration_guest *guest, unsigned index, uint64_t from,
                     uint64_t *ret_start, uint64_t *ret_end)
{
    struct fixture *f = fixture_of(guest);
    uint64_t end = (uint64_t)f->populated_pages * MIGRATION_PAGE_SIZE;
    f->asked++;
    if (from >= end) {
        return 0;
    }
    *ret_start = from;
    *ret_end = end;
    return 1;
}

static uint64_t given_back(struct migration_guest *guest)
{
    return fixture_of(guest)->given_back;
}

static int dirty_fetch(struct migration_guest *guest, unsigned index, uint64_t *bitmap,
                       uint64_t first_page, uint64_t page_count)
{
    struct fixture *f = fixture_of(guest);
    assert_true(first_page == 0 && page_count == PAGES);
    for (unsigned i = 0; i < PAGES / 64; i++) {
        bitmap[i] |= f->dirty[i];
        f->dirty[i] = 0;
    }
    return 0;
}

static const struct migration_guest_ops ops = {
    .region_count = region_count,
    .region = region,
    .populated = populated,
    .given_back = given_back,
    .dirty_fetch = dirty_fetch,
};

static int dirty_peek(struct migration_guest *guest, unsigned index, uint64_t *bitmap)
{
    struct fixture *f = fixture_of(guest);
    for (unsigned i = 0; i < PAGES / 64; i++) {
        bitmap[i] |= f->dirty[i];
    }
    return 0;
}

static int dirty_forget(struct migration_guest *guest, unsigned index,
                        const uint64_t *bitmap, uint64_t first_page, uint64_t page_count)
{
    struct fixture *f = fixture_of(guest);
    for (uint64_t i = 0; i < page_count / 64; i++) {
        f->dirty[first_page / 64 + i] &= ~bitmap[i];
    }
    return 0;
}

static const struct migration_guest_ops peeking_ops = {
    .region_count = region_count,
    .region = region,
    .populated = populated,
    .dirty_fetch = dirty_fetch,
    .dirty_peek = dirty_peek,
    .dirty_forget = dirty_forget,
};

static int swallow(struct transport_link *link, struct iovec *iov, unsigned count,
                   uint32_t idle_ms, size_t *ret_accepted)
{
    struct fixture *f =
        (struct fixture *)(void *)((uint8_t *)link - offsetof(struct fixture, link));
    *ret_accepted = 0;
    for (unsigned i = 0; i < count; i++) {
        *ret_accepted += iov[i].iov_len;
    }
    f->bytes += *ret_accepted;
    return 0;
}

static const struct transport_link_ops link_ops = {.send = swallow};

static int setup(void **state)
{
    static struct fixture f;
    memset(&f, 0, sizeof(f));
    f.guest.ops = &ops;
    f.link.ops = &link_ops;
    f.memory = mmap(NULL, PAGES * MIGRATION_PAGE_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f.memory, MAP_FAILED);
    memset(f.memory, 1, USED * MIGRATION_PAGE_SIZE);
    f.populated_pages = USED;
    assert_int_equal(pages_init(&f.pages, &f.guest), 0);
    assert_int_equal(stream_out_init(&f.out, &f.link, 1000), 0);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    stream_out_done(&f->out);
    pages_done(&f->pages);
    return munmap(f->memory, PAGES * MIGRATION_PAGE_SIZE);
}

static void send_all(struct fixture *f)
{
    assert_int_equal(pages_send(&f->pages, &f->out, true, NULL, NULL), 0);
}

static void test_what_is_there_is_not_looked_for_with_each_extent(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(pages_mark_populated(&f->pages), 0);
    unsigned asked = f->asked;
    send_all(f);
    assert_int_equal(f->pages.sent_count, USED);
    /* Written for the first time, behind all that was there before. */
    f->memory[(PAGES - 1) * MIGRATION_PAGE_SIZE] = 1;
    f->dirty[PAGES / 64 - 1] = UINT64_C(1) << 63;
    uint64_t dirty_count = 0;
    assert_int_equal(pages_fetch_dirty(&f->pages, &dirty_count), 0);
    assert_int_equal(dirty_count, 1);
    send_all(f);
    assert_int_equal(f->pages.sent_count, USED + 1);
    assert_int_equal(f->asked, asked);
    assert_true(f->bytes >= (USED + 1) * MIGRATION_PAGE_SIZE);
}

static void test_memory_that_was_given_back_meanwhile_is_not_read(void **state)
{
    struct fixture *f = *state;
    unsigned left = USED / 4;
    assert_int_equal(pages_mark_populated(&f->pages), 0);
    f->populated_pages = left;
    f->given_back++;
    assert_int_equal(mprotect(f->memory + left * MIGRATION_PAGE_SIZE,
                              (PAGES - left) * MIGRATION_PAGE_SIZE, PROT_NONE),
                     0);
    send_all(f);
    assert_int_equal(f->pages.sent_count, left);
    assert_int_equal(f->pages.zero_count, USED - left);
    /* Dirty, for giving back counts as writing. */
    memset(f->dirty, 0xff, sizeof(f->dirty));
    uint64_t dirty_count = 0;
    assert_int_equal(pages_fetch_dirty(&f->pages, &dirty_count), 0);
    send_all(f);
    assert_int_equal(f->pages.sent_count, 2 * left);
}

#define AHEAD_PAGE  600u /* of the second extent */
#define BEHIND_PAGE 3u   /* of the first */

/* The guest writes to two pages once the first extent is gone. */
static int write_then_look(void *owner)
{
    struct fixture *f = owner;
    if (f->pages.sent_count == EXTENT_PAGES) {
        f->dirty[AHEAD_PAGE / 64] |= UINT64_C(1) << AHEAD_PAGE % 64;
        f->dirty[BEHIND_PAGE / 64] |= UINT64_C(1) << BEHIND_PAGE % 64;
        assert_int_equal(pages_defer_dirty(&f->pages), 0);
    }
    return 0;
}

static void test_what_is_written_before_its_turn_goes_once(void **state)
{
    struct fixture *f = *state;
    f->guest.ops = &peeking_ops;
    memset(f->memory, 1, PAGES * MIGRATION_PAGE_SIZE);
    f->populated_pages = PAGES;
    assert_int_equal(pages_mark_populated(&f->pages), 0);
    pages_deal_begin(&f->pages);
    assert_int_equal(pages_deal(&f->pages, &f->out, false, write_then_look, f), 0);
    assert_int_equal(f->pages.sent_count, PAGES - 1);
    assert_int_equal(f->pages.pending_count, 0);
    uint64_t dirty_count = 0;
    assert_int_equal(pages_peek_dirty(&f->pages, &dirty_count), 0);
    assert_int_equal(dirty_count, 2);
    /* The next round leaves nothing. */
    assert_int_equal(pages_send(&f->pages, &f->out, false, NULL, NULL), 0);
    assert_int_equal(f->pages.sent_count, PAGES + 1);
    assert_int_equal(pages_peek_dirty(&f->pages, &dirty_count), 0);
    assert_int_equal(dirty_count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_what_is_there_is_not_looked_for_with_each_extent, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_memory_that_was_given_back_meanwhile_is_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_written_before_its_turn_goes_once,
                                        setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
