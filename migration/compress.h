/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages made smaller: lz4, or what has changed since the page was last sent. Each stream
 * has a coder; all coders of a move share the cache of pages that were sent. A page is
 * copied before it is coded, so what arrives is whole even if the guest writes meanwhile.
 */
#ifndef DROVER_MIGRATION_COMPRESS_H
#define DROVER_MIGRATION_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migration/crc32c.h"

struct extent;
struct compress_cache;
struct compress_coder;

enum compress_mode {
    COMPRESS_AUTO, /* where the link, not the processor, is the limit */
    COMPRESS_NEVER,
    COMPRESS_ALWAYS,
};

/* Of one extent: each page has a tag of two bytes, and is never longer than itself. */
#define COMPRESS_BYTES_MAX (512u * (2u + 4096u))

/* `bytes_max`: of the pages that are remembered; memory is taken as it is used. */
int compress_cache_create(uint64_t bytes_max, struct compress_cache **ret_cache);
void compress_cache_free(struct compress_cache *cache); /* NULL is fine */

int compress_coder_create(struct compress_cache *cache, enum compress_mode mode,
                          struct compress_coder **ret_coder);
void compress_coder_free(struct compress_coder *coder); /* NULL is fine */
/* Whether the next extent shall be coded. */
bool compress_wanted(const struct compress_coder *coder);
/*
 * Codes the data pages of an extent, whose memory begins at `host`, and takes their
 * checksums. The result is valid until the next call.
 */
const uint8_t *compress_extent(struct compress_coder *coder, struct extent *extent,
                               const uint8_t *host, size_t *ret_size);
/* The extent goes as it is: what was remembered of its pages is forgotten. Zero pages of
 * a coded one, too. */
void compress_forget(struct compress_coder *coder, const struct extent *extent);
/*
 * After something was sent: `plain` bytes of memory took `ns` with all waiting. In AUTO
 * it decides by this whether the next ones are coded; now and then a few of the extent's
 * pages are coded for a try.
 */
void compress_sent(struct compress_coder *coder, const struct extent *extent,
                   const uint8_t *host, uint64_t ns);

/*
 * The next page of what a coder made: `page` holds what was there before. Hostile input:
 * how many bytes it took, or DROVER_EMALFORMED. Never writes outside of the page.
 */
int compress_page_decode(const uint8_t *data, size_t size, uint8_t *page);

#endif
