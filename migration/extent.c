/* SPDX-License-Identifier: Apache-2.0 */
/* Run-length maps of 2 MiB of guest memory. */
#include "migration/extent.h"

#include "base/check.h"

static unsigned pages_of(const struct extent *extent)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < extent->run_count; i++) {
        sum += extent->runs[i].page_count;
    }
    return sum;
}

void extent_init(struct extent *extent, uint16_t region, uint64_t first_page)
{
    CHECK(first_page % EXTENT_PAGES == 0);
    extent->region = region;
    extent->checked = false;
    extent->pages_checked = false;
    extent->coded_bytes = 0;
    extent->placed = false;
    extent->crc = 0;
    extent->first_page = first_page;
    extent->data_pages = 0;
    extent->zero_pages = 0;
    extent->run_count = 0;
}

void extent_add(struct extent *extent, enum extent_run_kind kind, unsigned page_count)
{
    CHECK(page_count > 0 && page_count <= EXTENT_PAGES);
    if (extent->run_count > 0 && extent->runs[extent->run_count - 1].kind == kind) {
        extent->runs[extent->run_count - 1].page_count += (uint16_t)page_count;
    } else {
        CHECK(extent->run_count < EXTENT_RUNS_MAX);
        extent->runs[extent->run_count++] =
            (struct extent_run){.kind = kind, .page_count = (uint16_t)page_count};
    }
    if (kind == EXTENT_RUN_DATA) {
        extent->data_pages += (uint16_t)page_count;
    } else if (kind == EXTENT_RUN_ZERO) {
        extent->zero_pages += (uint16_t)page_count;
    }
}

bool extent_valid(const struct extent *extent)
{
    unsigned data = 0;
    unsigned zero = 0;
    if (extent->first_page % EXTENT_PAGES != 0 || extent->run_count > EXTENT_RUNS_MAX ||
        pages_of(extent) > EXTENT_PAGES) {
        return false;
    }
    for (unsigned i = 0; i < extent->run_count; i++) {
        const struct extent_run *run = &extent->runs[i];
        if (run->page_count == 0 || run->kind > EXTENT_RUN_ZERO ||
            (i > 0 && run->kind == extent->runs[i - 1].kind)) {
            return false;
        }
        data += run->kind == EXTENT_RUN_DATA ? run->page_count : 0;
        zero += run->kind == EXTENT_RUN_ZERO ? run->page_count : 0;
    }
    return data == extent->data_pages && zero == extent->zero_pages;
}
