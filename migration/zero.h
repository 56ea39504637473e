/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a page holds nothing but zeros. The guest may write to it meanwhile: the answer
 * is then either, and the dirty log has the page. Any thread.
 */
#ifndef DROVER_MIGRATION_ZERO_H
#define DROVER_MIGRATION_ZERO_H

#include <stdbool.h>

typedef bool (*zero_page_function)(const void *page);

/* The fastest that this processor has. */
zero_page_function zero_page_pick(void);
/* All that this processor can run, the slowest first; how many. */
#define ZERO_PAGE_VARIANTS_MAX 3
unsigned zero_page_variants(zero_page_function ret_variants[ZERO_PAGE_VARIANTS_MAX]);
/* Works everywhere. */
bool zero_page_portable(const void *page);

#endif
