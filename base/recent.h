/* SPDX-License-Identifier: Apache-2.0 */
/* The last few measurements of how long one thing takes, and what it takes undisturbed: on a
 * busy host up to half of them may have been disturbed, which makes them longer, never
 * shorter. Zeros at first. */
#ifndef DROVER_BASE_RECENT_H
#define DROVER_BASE_RECENT_H

#include <stdint.h>

#define RECENT_VALUES 9u

struct recent {
    uint64_t values[RECENT_VALUES]; /* private, as the rest */
    unsigned count;                 /* that were ever added */
};

void recent_add(struct recent *recent, uint64_t value);
/* A quarter of them are shorter; 0 as long as there is none. */
uint64_t recent_typical(const struct recent *recent);
/* A quarter of them are longer: for what is often longer for a reason. */
uint64_t recent_upper(const struct recent *recent);

#endif
