/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the fields of a JSON object strictly: the first thing that is wrong is kept as
 * one line that names the field, and fields that nobody asked for are refused at the end.
 * The caller owns the struct. One thread.
 */
#ifndef DROVER_NODE_AGENT_JSON_READER_H
#define DROVER_NODE_AGENT_JSON_READER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct error;

#define JSON_READER_FIELDS 32

/* Private, but embedded. */
struct json_reader {
    const json_t *object;
    char where[64]; /* "disks[2]." */
    const char *asked[JSON_READER_FIELDS];
    unsigned asked_count;
    int rv;
    struct error *err;
};

/* Parses a body: an object, nothing behind it. DROVER_EBADINPUT with one line that says
 * where it breaks. */
int json_parse_object(const void *data, size_t size, json_t **ret_object,
                      struct error *err);

/* `where`: what stands before a field's name in messages; copied. NULL as object: one
 * without fields. */
void json_reader_init(struct json_reader *reader, const json_t *object, const char *where,
                      struct error *err);
/* Each returns `fallback` when the field is missing or wrong. Texts live as long as the
 * object. */
const char *json_reader_text(struct json_reader *reader, const char *name,
                             const char *fallback);
bool json_reader_bool(struct json_reader *reader, const char *name, bool fallback);
uint64_t json_reader_number(struct json_reader *reader, const char *name, uint64_t least,
                            uint64_t most, uint64_t fallback);
/* "512M"; 0 when it is missing or wrong. `or_none`: "" is 0, too. */
uint64_t json_reader_size(struct json_reader *reader, const char *name, bool or_none);
/* NULL when it is missing or wrong; at most `most` entries, all of them objects. */
const json_t *json_reader_array(struct json_reader *reader, const char *name,
                                size_t most);
/* A field that must be there. */
void json_reader_require(struct json_reader *reader, const char *name);
/* 0 if all was well and nothing is left over; else DROVER_EBADINPUT, and `err` says what.
 */
int json_reader_end(struct json_reader *reader);

#define JSON_SIZE_TEXT_SIZE 24
/* "512M", "4G", "123K"; powers of 1024, exact. Bytes that are no whole K: "1000B". */
void json_size_text(uint64_t bytes, char ret_text[JSON_SIZE_TEXT_SIZE]);
/* "512M", "4G", "1024K", "2T", "512MiB"; DROVER_EBADINPUT without a unit or beyond 64
 * bits. */
int json_size_parse(const char *text, uint64_t *ret_bytes);

#endif
