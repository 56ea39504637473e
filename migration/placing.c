/* SPDX-License-Identifier: Apache-2.0 */
/* Memory straight into the peer's. */
#include "migration/placing.h"

#include <assert.h>

#include "base/check.h"
#include "base/err.h"
#include "migration/extent.h"
#include "migration/guest.h"
#include "migration/transport.h"

static_assert(TRANSPORT_REGIONS_MAX == MIGRATION_REGIONS_MAX, "all regions can be offered");
static_assert(TRANSPORT_PLACE_BYTES == EXTENT_PAGES * MIGRATION_PAGE_SIZE,
              "an extent has one place");

bool placing_begin(struct transport_link *link, struct migration_guest *guest,
                   bool writable)
{
    struct transport_region regions[TRANSPORT_REGIONS_MAX];
    if (link->ops->offer == NULL) {
        return false;
    }
    unsigned count = guest->ops->region_count(guest);
    CHECK(count <= TRANSPORT_REGIONS_MAX);
    for (unsigned i = 0; i < count; i++) {
        struct migration_region region;
        guest->ops->region(guest, i, &region);
        regions[i] = (struct transport_region){.host = region.host,
                                               .size_bytes = region.size_bytes};
    }
    if (guest->ops->hold_memory != NULL) {
        guest->ops->hold_memory(guest, true);
    }
    if (link->ops->offer(link, regions, count, writable) != 0) {
        placing_end(guest, 1); /* all goes over the stream */
        return false;
    }
    return true;
}

void placing_end(struct migration_guest *guest, unsigned begun)
{
    for (; begun > 0 && guest->ops->hold_memory != NULL; begun--) {
        guest->ops->hold_memory(guest, false);
    }
}

int placing_send(struct transport_link *link, const struct extent *extent, bool ask,
                 uint32_t idle_ms)
{
    struct transport_piece pieces[EXTENT_RUNS_MAX];
    uint64_t offset = extent->first_page * MIGRATION_PAGE_SIZE;
    unsigned count = 0;
    for (unsigned i = 0; i < extent->run_count; i++) {
        uint64_t size = (uint64_t)extent->runs[i].page_count * MIGRATION_PAGE_SIZE;
        if (extent->runs[i].kind == EXTENT_RUN_DATA) {
            pieces[count++] = (struct transport_piece){.offset = offset, .size = size};
        }
        offset += size;
    }
    return count == 0 ? DROVER_ENOTFOUND
                      : link->ops->place(link, extent->region, pieces, count, ask,
                                         idle_ms);
}
