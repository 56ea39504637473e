/* SPDX-License-Identifier: Apache-2.0 */
/* Zero pages. Most pages that are not zero show it in their first bytes, so these are
 * looked at first. */
#include "migration/zero.h"

#include <stdint.h>
#include <string.h>

#include "migration/guest.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/platform/x86.h> /* costs no start-up code, as the compiler's own does */
#endif

/* The guest writes meanwhile, by design: that is no race to report. */
#define RACES_BY_DESIGN __attribute__((no_sanitize_thread))

RACES_BY_DESIGN static bool word_is_zero(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof(word));
    return word == 0;
}

RACES_BY_DESIGN bool zero_page_portable(const void *page)
{
    const uint8_t *bytes = page;
    if (!word_is_zero(bytes)) {
        return false;
    }
    for (unsigned i = 0; i < MIGRATION_PAGE_SIZE; i += 64) {
        uint64_t words[8];
        memcpy(words, bytes + i, sizeof(words));
        if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] |
             words[7]) != 0) {
            return false;
        }
    }
    return true;
}

#if defined(__x86_64__)
RACES_BY_DESIGN __attribute__((target("avx2"))) static bool
zero_page_avx2(const void *page)
{
    const uint8_t *bytes = page;
    if (!word_is_zero(bytes)) {
        return false;
    }
    for (unsigned i = 0; i < MIGRATION_PAGE_SIZE; i += 128) {
        const __m256i *at = (const __m256i *)(const void *)(bytes + i);
        __m256i or01 =
            _mm256_or_si256(_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1));
        __m256i or23 =
            _mm256_or_si256(_mm256_loadu_si256(at + 2), _mm256_loadu_si256(at + 3));
        __m256i all = _mm256_or_si256(or01, or23);
        if (!_mm256_testz_si256(all, all)) {
            return false;
        }
    }
    return true;
}

RACES_BY_DESIGN __attribute__((target("avx512f"))) static bool
zero_page_avx512(const void *page)
{
    const uint8_t *bytes = page;
    if (!word_is_zero(bytes)) {
        return false;
    }
    for (unsigned i = 0; i < MIGRATION_PAGE_SIZE; i += 256) {
        __m512i or01 = _mm512_or_si512(_mm512_loadu_si512(bytes + i),
                                       _mm512_loadu_si512(bytes + i + 64));
        __m512i or23 = _mm512_or_si512(_mm512_loadu_si512(bytes + i + 128),
                                       _mm512_loadu_si512(bytes + i + 192));
        __m512i all = _mm512_or_si512(or01, or23);
        if (_mm512_test_epi64_mask(all, all) != 0) {
            return false;
        }
    }
    return true;
}
#endif

unsigned zero_page_variants(zero_page_function ret_variants[ZERO_PAGE_VARIANTS_MAX])
{
    unsigned count = 0;
    ret_variants[count++] = zero_page_portable;
#if defined(__x86_64__)
    if (CPU_FEATURE_ACTIVE(AVX2)) {
        ret_variants[count++] = zero_page_avx2;
    }
    if (CPU_FEATURE_ACTIVE(AVX512F)) {
        ret_variants[count++] = zero_page_avx512;
    }
#endif
    return count;
}

zero_page_function zero_page_pick(void)
{
    zero_page_function variants[ZERO_PAGE_VARIANTS_MAX];
    return variants[zero_page_variants(variants) - 1];
}
