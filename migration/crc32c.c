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

/*
 * The instruction takes three cycles, and a new one can begin in each: so three parts of
 * a block are done side by side. Three parts and two words are a page.
 */
#define PART_BYTES  1360u
#define BLOCK_BYTES (3 * PART_BYTES)
#define PREFETCH_BYTES 4096u
/* x^(8n - 33) modulo the polynomial, bits reversed: moves a checksum over n bytes. */
#define OVER_ONE_PART  0x3f70cc6f
#define OVER_TWO_PARTS 0x5aa1f3cf

__attribute__((target("sse4.2,pclmul"))) static uint64_t moved_over(uint64_t crc, int by)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc),
                                           _mm_cvtsi32_si128(by), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* The processor does not look beyond a page by itself, and the next one is mostly what
 * comes next. Harmless where there is none. */
static inline void prefetch_next(const uint8_t *at)
{
    _mm_prefetch((const char *)at + PREFETCH_BYTES, _MM_HINT_T0);
    _mm_prefetch((const char *)at + PREFETCH_BYTES + PART_BYTES, _MM_HINT_T0);
    _mm_prefetch((const char *)at + PREFETCH_BYTES + 2 * PART_BYTES, _MM_HINT_T0);
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t
crc32c_three(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    while (size >= BLOCK_BYTES) {
        uint64_t first = ~crc;
        uint64_t second = 0;
        uint64_t third = 0;
        for (size_t i = 0; i < PART_BYTES; i += 8) {
            if (i % 64 == 0) {
                prefetch_next(bytes + i);
            }
            uint64_t words[3];
            memcpy(&words[0], bytes + i, 8);
            memcpy(&words[1], bytes + PART_BYTES + i, 8);
            memcpy(&words[2], bytes + 2 * PART_BYTES + i, 8);
            first = _mm_crc32_u64(first, words[0]);
            second = _mm_crc32_u64(second, words[1]);
            third = _mm_crc32_u64(third, words[2]);
        }
        crc = ~(uint32_t)(moved_over(first & UINT32_MAX, OVER_TWO_PARTS) ^
                          moved_over(second, OVER_ONE_PART) ^ third);
        bytes += BLOCK_BYTES;
        size -= BLOCK_BYTES;
    }
    return crc32c_sse42(crc, bytes, size);
}
#endif

unsigned crc32c_variants(crc32c_function ret_variants[CRC32C_VARIANTS_MAX])
{
    unsigned count = 0;
    ret_variants[count++] = crc32c_portable;
#if defined(__x86_64__)
    if (CPU_FEATURE_ACTIVE(SSE4_2)) {
        ret_variants[count++] = crc32c_sse42;
        if (CPU_FEATURE_ACTIVE(PCLMULQDQ)) {
            ret_variants[count++] = crc32c_three;
        }
    }
#endif
    return count;
}

crc32c_function crc32c_pick(void)
{
    crc32c_function variants[CRC32C_VARIANTS_MAX];
    return variants[crc32c_variants(variants) - 1];
}
