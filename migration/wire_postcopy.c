/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and decoding of post-copy's messages, field by field. */
#include "migration/wire_postcopy.h"

#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "proto/frame.h"

#define WORD_BYTES 8u

static uint64_t integer_at(const uint8_t *at, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

static int frame_close(struct buffer *payload, int rv, struct buffer *out)
{
    return rv != 0 ? rv
                   : frame_encode(out, FRAME_KIND_MIGRATION, payload->data, payload->size,
                                  WIRE_PAYLOAD_BYTES_MAX);
}

/*
 * POSTCOPY_ANSWER
 *      0      2      6      8
 *      +------+------+------+----------
 *      | type | code | size | reason ...
 *      +------+------+------+----------
 */
int wire_answer_encode(struct buffer *out, const struct wire_answer *answer)
{
    size_t size = strnlen(answer->reason, WIRE_REASON_BYTES_MAX);
    CLEANUP(buffer_done) struct buffer payload = {0};
    int rv = buffer_append_u16(&payload, WIRE_POSTCOPY_ANSWER);
    rv = rv != 0 ? rv : buffer_append_u32(&payload, (uint32_t)answer->code);
    rv = rv != 0 ? rv : buffer_append_u16(&payload, (uint16_t)size);
    rv = rv != 0 ? rv : buffer_append(&payload, answer->reason, size);
    return frame_close(&payload, rv, out);
}

int wire_answer_decode(const uint8_t *payload, size_t size,
                       struct wire_answer *ret_answer)
{
    if (size < 8) {
        return DROVER_EMALFORMED;
    }
    size_t reason_size = (size_t)integer_at(payload + 6, 2);
    if (reason_size > WIRE_REASON_BYTES_MAX || reason_size != size - 8) {
        return DROVER_EMALFORMED;
    }
    int32_t code = (int32_t)integer_at(payload + 2, 4);
    ret_answer->code = code <= 0 ? code : DROVER_EPEER;
    for (size_t i = 0; i < reason_size; i++) {
        uint8_t byte = payload[8 + i];
        ret_answer->reason[i] = byte >= 0x20 && byte < 0x7f ? (char)byte : '?';
    }
    ret_answer->reason[reason_size] = '\0';
    return 0;
}

/*
 * MISSING
 *      0      2        4            12      16
 *      +------+--------+------------+-------+-------------
 *      | type | region | first page | words | words * u64
 *      +------+--------+------------+-------+-------------
 */
int wire_missing_encode(struct buffer *out, uint16_t region, uint64_t first_page,
                        const uint64_t *words, uint32_t word_count)
{
    CHECK(word_count > 0 && word_count <= WIRE_MISSING_WORDS_MAX && first_page % 64 == 0);
    CLEANUP(buffer_done) struct buffer payload = {0};
    int rv = buffer_reserve(&payload, 16 + (size_t)word_count * WORD_BYTES);
    rv = rv != 0 ? rv : buffer_append_u16(&payload, WIRE_MISSING);
    rv = rv != 0 ? rv : buffer_append_u16(&payload, region);
    rv = rv != 0 ? rv : buffer_append_u64(&payload, first_page);
    rv = rv != 0 ? rv : buffer_append_u32(&payload, word_count);
    for (uint32_t i = 0; rv == 0 && i < word_count; i++) {
        rv = buffer_append_u64(&payload, words[i]);
    }
    return frame_close(&payload, rv, out);
}

int wire_missing_decode(const uint8_t *payload, size_t size,
                        struct wire_missing *ret_missing)
{
    if (size < 16) {
        return DROVER_EMALFORMED;
    }
    struct wire_missing missing = {.region = (uint16_t)integer_at(payload + 2, 2),
                                   .first_page = integer_at(payload + 4, 8),
                                   .word_count = (uint32_t)integer_at(payload + 12, 4),
                                   .words = payload + 16};
    if (missing.word_count == 0 || missing.word_count > WIRE_MISSING_WORDS_MAX ||
        missing.first_page % 64 != 0 ||
        size - 16 != (size_t)missing.word_count * WORD_BYTES) {
        return DROVER_EMALFORMED;
    }
    *ret_missing = missing;
    return 0;
}

uint64_t wire_missing_word(const struct wire_missing *missing, uint32_t index)
{
    CHECK(index < missing->word_count);
    return integer_at(missing->words + (size_t)index * WORD_BYTES, WORD_BYTES);
}

bool wire_missing_fits(const struct wire_missing *missing, uint64_t page_count)
{
    uint64_t words = page_count / 64 + (page_count % 64 != 0);
    uint64_t first = missing->first_page / 64;
    return first <= words && missing->word_count <= words - first;
}

uint64_t wire_missing_within(const struct wire_missing *missing, uint32_t index,
                             uint64_t page_count)
{
    uint64_t word = wire_missing_word(missing, index);
    uint64_t past = missing->first_page + (index + UINT64_C(1)) * 64;
    return past > page_count ? word & UINT64_MAX >> (past - page_count) : word;
}

/*
 * FETCH
 *      0      2        4      12
 *      +------+--------+------+
 *      | type | region | page |
 *      +------+--------+------+
 */
int wire_fetch_encode(struct buffer *out, const struct wire_fetch *fetch)
{
    CLEANUP(buffer_done) struct buffer payload = {0};
    int rv = buffer_append_u16(&payload, WIRE_FETCH);
    rv = rv != 0 ? rv : buffer_append_u16(&payload, fetch->region);
    rv = rv != 0 ? rv : buffer_append_u64(&payload, fetch->page);
    return frame_close(&payload, rv, out);
}

int wire_fetch_decode(const uint8_t *payload, size_t size, struct wire_fetch *ret_fetch)
{
    if (size != 12) {
        return DROVER_EMALFORMED;
    }
    *ret_fetch = (struct wire_fetch){.region = (uint16_t)integer_at(payload + 2, 2),
                                     .page = integer_at(payload + 4, 8)};
    return 0;
}

/*
 * PAGES
 *      0      2        4            12     20     28    32
 *      +------+--------+------------+------+------+-----+
 *      | type | region | first page | data | zero | crc |      then the pages of `data`
 *      +------+--------+------------+------+------+-----+
 */
int wire_pages_encode(struct buffer *out, const struct wire_pages *pages)
{
    uint8_t memory[32];
    struct buffer payload = {.data = memory, .capacity = sizeof(memory)};
    /* Into the stack, as this is the page path; the room is there. */
    (void)buffer_append_u16(&payload, WIRE_PAGES);
    (void)buffer_append_u16(&payload, pages->region);
    (void)buffer_append_u64(&payload, pages->first_page);
    (void)buffer_append_u64(&payload, pages->data);
    (void)buffer_append_u64(&payload, pages->zero);
    (void)buffer_append_u32(&payload, pages->crc);
    CHECK(payload.data == memory && payload.size == sizeof(memory));
    return frame_close(&payload, 0, out);
}

int wire_pages_decode(const uint8_t *payload, size_t size, struct wire_pages *ret_pages)
{
    if (size != 32) {
        return DROVER_EMALFORMED;
    }
    struct wire_pages pages = {.region = (uint16_t)integer_at(payload + 2, 2),
                               .first_page = integer_at(payload + 4, 8),
                               .data = integer_at(payload + 12, 8),
                               .zero = integer_at(payload + 20, 8),
                               .crc = (uint32_t)integer_at(payload + 28, 4)};
    if (pages.first_page % 64 != 0 || (pages.data & pages.zero) != 0 ||
        (pages.data | pages.zero) == 0) {
        return DROVER_EMALFORMED;
    }
    *ret_pages = pages;
    return 0;
}

/* PLACED: type, pages u64 */
int wire_placed_encode(struct buffer *out, uint64_t page_count)
{
    CLEANUP(buffer_done) struct buffer payload = {0};
    int rv = buffer_append_u16(&payload, WIRE_PLACED);
    rv = rv != 0 ? rv : buffer_append_u64(&payload, page_count);
    return frame_close(&payload, rv, out);
}

int wire_placed_decode(const uint8_t *payload, size_t size, uint64_t *ret_page_count)
{
    if (size != 10) {
        return DROVER_EMALFORMED;
    }
    *ret_page_count = integer_at(payload + 2, 8);
    return 0;
}

/* RESUME: type, vm id u64, session u64 */
int wire_resume_encode(struct buffer *out, const struct wire_resume *resume)
{
    CLEANUP(buffer_done) struct buffer payload = {0};
    int rv = buffer_append_u16(&payload, WIRE_RESUME);
    rv = rv != 0 ? rv : buffer_append_u64(&payload, resume->vm_id);
    rv = rv != 0 ? rv : buffer_append_u64(&payload, resume->session);
    return frame_close(&payload, rv, out);
}

int wire_resume_decode(const uint8_t *payload, size_t size,
                       struct wire_resume *ret_resume)
{
    if (size != 18) {
        return DROVER_EMALFORMED;
    }
    *ret_resume = (struct wire_resume){.vm_id = integer_at(payload + 2, 8),
                                       .session = integer_at(payload + 10, 8)};
    return 0;
}
