/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of post-copy, beside those of wire.h: the guest runs on the target before
 * all of its memory is there. Decoders judge hostile input.
 *
 *     source                                target
 *       | POSTCOPY_ASK ------------------------> |  the guest still runs on the source
 *       | <--------------------- POSTCOPY_ANSWER |  can, or why not
 *       | MISSING ... -------------------------> |  these pages are absent from now on
 *       | HANDOVER, MISSING ..., STATE --------> |  loads; whoever touches a missing page waits
 *       | <---------------------- READY, FETCH . |
 *       | GO ----------------------------------> |  runs
 *       | <-------------------------------- DONE |
 *       | PAGES + pages ... -------------------> |  what is fetched first, then the rest
 *       | <--------------------- FETCH, PLACED . |
 *       | <---------------------------- COMPLETE |  nothing is missing any more
 *       | COMPLETE ----------------------------> |  the source forgets its memory
 *
 * After a lost link, on a new one:
 *       | RESUME ------------------------------> |  the same move?
 *       | <--------------- MISSING ..., RESUMED  |  what it still lacks; all goes on
 *
 * Pure functions, any thread.
 */
#ifndef DROVER_MIGRATION_WIRE_POSTCOPY_H
#define DROVER_MIGRATION_WIRE_POSTCOPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migration/wire.h"

/* Of one message: 1 GiB of guest memory. */
#define WIRE_MISSING_WORDS_MAX 4096u
#define WIRE_PAGES_MAX         64u

/* 0: the target can. Else why not. */
struct wire_answer {
    int32_t code;
    char reason[WIRE_REASON_BYTES_MAX + 1]; /* printable ASCII */
};

struct wire_missing {
    uint16_t region;
    uint64_t first_page; /* a multiple of 64 */
    uint32_t word_count;
    const uint8_t *words; /* inside the payload, big endian; bit n of word m: page
                             first_page + 64 m + n */
};

struct wire_fetch {
    uint16_t region;
    uint64_t page;
};

/* Bit n of a mask: page first_page + n. The pages of `data` follow the message on the
 * stream, in order. */
struct wire_pages {
    uint16_t region;
    uint64_t first_page; /* a multiple of 64 */
    uint64_t data;
    uint64_t zero; /* these are zero */
    uint32_t crc;  /* CRC-32C of the data */
};

struct wire_resume {
    uint64_t vm_id;
    uint64_t session; /* of its HELLO */
};

int wire_answer_encode(struct buffer *out, const struct wire_answer *answer);
/* `words` in host order. */
int wire_missing_encode(struct buffer *out, uint16_t region, uint64_t first_page,
                        const uint64_t *words, uint32_t word_count);
int wire_fetch_encode(struct buffer *out, const struct wire_fetch *fetch);
int wire_pages_encode(struct buffer *out, const struct wire_pages *pages);
/* Pages that came over this link since the go. */
int wire_placed_encode(struct buffer *out, uint64_t page_count);
int wire_resume_encode(struct buffer *out, const struct wire_resume *resume);

/* Each wants the whole payload, type included: 0 or DROVER_EMALFORMED. */
int wire_answer_decode(const uint8_t *payload, size_t size,
                       struct wire_answer *ret_answer);
int wire_missing_decode(const uint8_t *payload, size_t size,
                        struct wire_missing *ret_missing);
uint64_t wire_missing_word(const struct wire_missing *missing, uint32_t index);
/* It lies in a region of `page_count` pages; its last word may reach beyond. */
bool wire_missing_fits(const struct wire_missing *missing, uint64_t page_count);
/* A word of one that fits, without what reaches beyond. */
uint64_t wire_missing_within(const struct wire_missing *missing, uint32_t index,
                             uint64_t page_count);
int wire_fetch_decode(const uint8_t *payload, size_t size, struct wire_fetch *ret_fetch);
int wire_pages_decode(const uint8_t *payload, size_t size, struct wire_pages *ret_pages);
int wire_placed_decode(const uint8_t *payload, size_t size, uint64_t *ret_page_count);
int wire_resume_decode(const uint8_t *payload, size_t size,
                       struct wire_resume *ret_resume);

#endif
