/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the source's post-copy share. Not for others; engine's thread. */
#ifndef DROVER_MIGRATION_POSTCOPY_SOURCE_INTERNAL_H
#define DROVER_MIGRATION_POSTCOPY_SOURCE_INTERNAL_H

#include "migration/source_internal.h"

/* Of the maps. */
static inline uint64_t postcopy_source_words(const struct pages_region *region)
{
    return (region->page_count + 63) / 64;
}

/* postcopy_source.c */
/* No DONE for too long, or (`lost`) no link to hear it: whoever knows better may decide.
 */
void postcopy_source_unknown(struct migration_source *source, bool lost);

/* postcopy_source_pages.c */
/* The next block in turn. There is one. */
int postcopy_source_background(struct migration_source *source);
/* MISSING of a target that lost its link: what it lacks is what there is to send. */
int postcopy_source_lacks(struct migration_source *source, const uint8_t *payload,
                          size_t size);

/* postcopy_source_link.c */
/* The target runs the guest: nobody may reclaim it. DROVER_ECANCELLED: it is too late. */
int postcopy_source_prove(struct migration_source *source);
/* Until there is a link again; DROVER_ECANCELLED: it shall end. */
int postcopy_source_reconnect(struct migration_source *source, int link_error);

#endif
