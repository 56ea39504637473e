/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time. Deadlines are CLOCK_BOOTTIME (monotonic, goes on while the host is suspended), in
 * ns or ms; comparable between the processes of one host, never between hosts. Wall time
 * is for people only.
 */
#ifndef DROVER_BASE_CLOCK_H
#define DROVER_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S  UINT64_C(1000000000)
#define MS_PER_S  UINT64_C(1000)

uint64_t clock_now_ns(void);
uint64_t clock_now_ms(void);
/* Milliseconds since 1970, for events and certificates. */
uint64_t clock_wall_ms(void);

#endif
