/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A token bucket: so many units (bytes, requests) a second, with bursts of a tenth of a
 * second's worth. A request may begin while the bucket is not in debt and then takes all
 * that it needs, so that one larger than the bucket passes too. Pure: the caller says
 * what time it is, and guards it.
 */
#ifndef DROVER_VMM_VIRTIO_RATE_LIMIT_H
#define DROVER_VMM_VIRTIO_RATE_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

/* All private. Zeroed: no limit. */
struct rate_limit {
    uint64_t units_per_s;
    int64_t tokens;
    uint64_t filled_ns; /* when `tokens` was right */
};

/* 0: no limit. */
void rate_limit_init(struct rate_limit *limit, uint64_t units_per_s, uint64_t now_ns);
/* 0 if a request may begin; else in how many nanoseconds it may. */
uint64_t rate_limit_wait_ns(struct rate_limit *limit, uint64_t now_ns);
/* A request has begun. */
void rate_limit_take(struct rate_limit *limit, uint64_t units);

#endif
