/* SPDX-License-Identifier: Apache-2.0 */
/* Time for fuzzers that name fuzz_clock.c among their sources. The thread of the event
 * loop alone. */
#ifndef DROVER_TESTS_FUZZ_CLOCK_H
#define DROVER_TESTS_FUZZ_CLOCK_H

#include <stdint.h>

/* That much later; timers that are due then go off in the loop's next run. */
void fuzz_clock_skip_ms(uint32_t ms);

#endif
