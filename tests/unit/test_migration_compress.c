/* SPDX-License-Identifier: Apache-2.0 */
/* What a coder makes of pages comes back as it was; hostile input does no harm; and when
 * it is worth it. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "migration/compress.h"
#include "migration/crc32c.h"
#include "migration/extent.h"
#include "migration/guest.h"
#include "tests/unit/unit.h"

#define PAGE  MIGRATION_PAGE_SIZE
#define PAGES 64u

struct pair {
    struct compress_cache *cache;
    struct compress_coder *coder;
    uint8_t *from, *to; /* PAGES pages each */
    size_t size;        /* of what was made last */
};

static uint64_t seed = 1;

static uint8_t random_byte(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint8_t)(seed >> 56);
}

static void pair_init(struct pair *pair, enum compress_mode mode)
{
    assert_int_equal(compress_cache_create(8u << 20, &pair->cache), 0);
    assert_int_equal(compress_coder_create(pair->cache, mode, &pair->coder), 0);
    pair->from = calloc(PAGES, PAGE);
    pair->to = calloc(PAGES, PAGE);
    assert_true(pair->from != NULL && pair->to != NULL);
}

static void pair_done(struct pair *pair)
{
    compress_coder_free(pair->coder);
    compress_cache_free(pair->cache);
    free(pair->from);
    free(pair->to);
}

/* Codes all pages, decodes them on the other side, and compares. */
static void carry(struct pair *pair)
{
    static struct extent extent;
    extent_init(&extent, 0, 512);
    extent_add(&extent, EXTENT_RUN_DATA, PAGES);
    const uint8_t *data =
        compress_extent(pair->coder, &extent, pair->from, &pair->size);
    assert_true(pair->size <= COMPRESS_BYTES_MAX);
    size_t left = pair->size;
    for (unsigned page = 0; page < PAGES; page++) {
        int used = compress_page_decode(data, left, pair->to + (size_t)page * PAGE);
        assert_true(used > 0);
        data += used;
        left -= (size_t)used;
        assert_int_equal(extent.page_crcs[page],
                         crc32c_portable(0, pair->from + (size_t)page * PAGE, PAGE));
    }
    assert_int_equal(left, 0);
    assert_memory_equal(pair->from, pair->to, (size_t)PAGES * PAGE);
}

static void text_fill(struct pair *pair)
{
    for (size_t i = 0; i < (size_t)PAGES * PAGE; i++) {
        pair->from[i] = (uint8_t)"virtual machine "[(i + i / 777) % 16];
    }
}

static void noise_fill(struct pair *pair)
{
    for (size_t i = 0; i < (size_t)PAGES * PAGE; i++) {
        pair->from[i] = random_byte();
    }
}

static void test_text_gets_much_smaller_and_noise_hardly_longer(void **state)
{
    struct pair pair;
    pair_init(&pair, COMPRESS_ALWAYS);
    assert_true(compress_wanted(pair.coder));
    text_fill(&pair);
    carry(&pair);
    assert_true(pair.size < (size_t)PAGES * PAGE / 8);
    noise_fill(&pair);
    carry(&pair);
    assert_true(pair.size <= (size_t)PAGES * (PAGE + 2));
    pair_done(&pair);
}

static void test_a_page_that_went_before_costs_what_has_changed(void **state)
{
    struct pair pair;
    pair_init(&pair, COMPRESS_ALWAYS);
    noise_fill(&pair);
    carry(&pair);
    carry(&pair); /* nothing has changed */
    assert_true(pair.size <= PAGES * 6);
    for (unsigned page = 0; page < PAGES; page++) {
        pair.from[(size_t)page * PAGE] ^= 1;
        pair.from[(size_t)page * PAGE + PAGE - 1] ^= 1;
        pair.from[(size_t)page * PAGE + 1000 + page] ^= 1;
    }
    carry(&pair);
    assert_true(pair.size <= PAGES * (2 + 3 * 12));
    pair_done(&pair);
}

static void test_what_went_another_way_is_not_built_upon(void **state)
{
    static struct extent extent;
    struct pair pair;
    pair_init(&pair, COMPRESS_ALWAYS);
    noise_fill(&pair);
    carry(&pair);
    extent_init(&extent, 0, 512);
    extent_add(&extent, EXTENT_RUN_ZERO, PAGES);
    compress_forget(pair.coder, &extent);
    memset(pair.to, 0, (size_t)PAGES * PAGE); /* the target has zeros now */
    pair.from[5] ^= 1;
    carry(&pair);
    assert_true(pair.size >= (size_t)PAGES * PAGE);
    pair_done(&pair);
}

/* `ns` for each extent of PAGES pages. */
static bool turns_on(struct pair *pair, uint64_t ns)
{
    static struct extent extent;
    extent_init(&extent, 0, 512);
    extent_add(&extent, EXTENT_RUN_DATA, PAGES);
    for (unsigned i = 0; i < 8; i++) { /* as many as it judges by */
        compress_sent(pair->coder, &extent, pair->from, ns);
    }
    return compress_wanted(pair->coder);
}

static void test_it_switches_on_only_where_the_link_is_the_limit(void **state)
{
    struct pair pair;
    pair_init(&pair, COMPRESS_AUTO);
    assert_false(compress_wanted(pair.coder));
    text_fill(&pair);
    /* 256 KiB in 1 us: no coder is as fast. In 100 ms: every one is. */
    assert_false(turns_on(&pair, 1000));
    noise_fill(&pair); /* which gets no smaller */
    assert_false(turns_on(&pair, 100000000));
    text_fill(&pair);
    assert_true(turns_on(&pair, 100000000));
    /* And off again when it carries no more than the link did by itself. */
    assert_false(turns_on(&pair, 120000000));
    pair_done(&pair);
}

static void test_hostile_pages_do_no_harm(void **state)
{
    static uint8_t memory[3 * PAGE];
    uint8_t data[600];
    unsigned refused = 0;
    for (unsigned i = 0; i < 200000; i++) {
        size_t size = random_byte() * 2u;
        for (size_t k = 0; k < size; k++) {
            data[k] = random_byte();
        }
        if (size >= 2) { /* mostly a size that is there */
            data[0] = (uint8_t)((data[0] & 0xc0) | ((size - 2) >> 8));
            data[1] = (uint8_t)(size - 2 - (random_byte() < 20 ? 1 : 0));
        }
        int used = compress_page_decode(data, size, memory + PAGE);
        assert_true(used == DROVER_EMALFORMED || (used >= 2 && (size_t)used <= size));
        refused += used < 0;
    }
    assert_true(refused > 0);
    for (unsigned i = 0; i < PAGE; i++) { /* nothing beside the page was touched */
        assert_int_equal(memory[i], 0);
        assert_int_equal(memory[2 * PAGE + i], 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_gets_much_smaller_and_noise_hardly_longer),
        cmocka_unit_test(test_a_page_that_went_before_costs_what_has_changed),
        cmocka_unit_test(test_what_went_another_way_is_not_built_upon),
        cmocka_unit_test(test_it_switches_on_only_where_the_link_is_the_limit),
        cmocka_unit_test(test_hostile_pages_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
