/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C. */
#include "migration/crc32c.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/platform/x86.h> /* costs no start-up code, as the compiler's own does */
#endif

#define POLYNOMIAL 0x82f63b78u /* bits reversed */

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (unsigned bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? POLYNOMIAL : 0);
        }
    }
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t
crc32c_sse42(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint64_t state = ~crc;
    while (size >= 8) {
        uint64_t word;
        memcpy(&word, bytes, sizeof(word));
        state = _mm_crc32_u64(state, word);
        bytes += 8;
        size -= 8;
    }
    uint32_t rest = (uint32_t)state;
    while (size > 0) {
        rest = _mm_crc32_u8(rest, *bytes);
        bytes++;
        size--;
    }
    return ~rest;
}
#endif

crc32c_function crc32c_pick(void)
{
#if defined(__x86_64__)
    if (CPU_FEATURE_ACTIVE(SSE4_2)) {
        return crc32c_sse42;
    }
#endif
    return crc32c_portable;
}
