/* SPDX-License-Identifier: Apache-2.0 */
/* What is typical of the last few measurements. */
#include "base/recent.h"

void recent_add(struct recent *recent, uint64_t value)
{
    recent->values[recent->count % RECENT_VALUES] = value;
    recent->count++;
    if (recent->count == 2 * RECENT_VALUES) {
        recent->count = RECENT_VALUES; /* the same place, and still full */
    }
}

/* The one that so many quarters of all do not exceed. */
static uint64_t quarters(const struct recent *recent, unsigned part)
{
    uint64_t sorted[RECENT_VALUES];
    unsigned count = recent->count < RECENT_VALUES ? recent->count : RECENT_VALUES;
    for (unsigned i = 0; i < count; i++) {
        unsigned at = i;
        for (; at > 0 && sorted[at - 1] > recent->values[i]; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = recent->values[i];
    }
    return count == 0 ? 0 : sorted[(count - 1) * part / 4];
}

uint64_t recent_typical(const struct recent *recent)
{
    return quarters(recent, 1);
}

uint64_t recent_upper(const struct recent *recent)
{
    return quarters(recent, 3);
}
