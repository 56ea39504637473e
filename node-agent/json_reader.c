/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the fields of a JSON object strictly. */
#include "node-agent/json_reader.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"

int json_parse_object(const void *data, size_t size, json_t **ret_object,
                      struct error *err)
{
    json_error_t error;
    json_t *value = json_loadb(data, size, JSON_REJECT_DUPLICATES, &error);
    if (value == NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "the body is no JSON: line %d, column %d: %s", error.line,
                         error.column, error.text);
    }
    if (!json_is_object(value)) {
        json_decref(value);
        return error_set(err, DROVER_EBADINPUT, "the body must be a JSON object: {...}");
    }
    *ret_object = value;
    return 0;
}

void json_reader_init(struct json_reader *reader, const json_t *object, const char *where,
                      struct error *err)
{
    *reader = (struct json_reader){.object = object, .err = err};
    (void)snprintf(reader->where, sizeof(reader->where), "%s", where);
}

static const json_t *ask(struct json_reader *reader, const char *name)
{
    for (unsigned i = 0; i < reader->asked_count; i++) {
        if (strcmp(reader->asked[i], name) == 0) {
            return json_object_get(reader->object, name);
        }
    }
    CHECK(reader->asked_count < JSON_READER_FIELDS);
    reader->asked[reader->asked_count++] = name;
    return json_object_get(reader->object, name);
}

/* Only the first complaint is kept. */
static void complain(struct json_reader *reader, const char *name, const char *text)
{
    if (reader->rv == 0) {
        reader->rv = error_set(reader->err, DROVER_EBADINPUT, "%s%s: %s", reader->where,
                               name, text);
    }
}

const char *json_reader_text(struct json_reader *reader, const char *name,
                             const char *fallback)
{
    const json_t *value = ask(reader, name);
    if (value == NULL) {
        return fallback;
    }
    if (!json_is_string(value)) {
        complain(reader, name, "give a text in quotes");
        return fallback;
    }
    return json_string_value(value);
}

bool json_reader_bool(struct json_reader *reader, const char *name, bool fallback)
{
    const json_t *value = ask(reader, name);
    if (value == NULL) {
        return fallback;
    }
    if (!json_is_boolean(value)) {
        complain(reader, name, "give true or false");
        return fallback;
    }
    return json_is_true(value);
}

uint64_t json_reader_number(struct json_reader *reader, const char *name, uint64_t least,
                            uint64_t most, uint64_t fallback)
{
    char text[96];
    const json_t *value = ask(reader, name);
    if (value == NULL) {
        return fallback;
    }
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || (uint64_t)number < least ||
        (uint64_t)number > most) {
        (void)snprintf(text, sizeof(text),
                       "give a whole number from %" PRIu64 " to %" PRIu64, least, most);
        complain(reader, name, text);
        return fallback;
    }
    return (uint64_t)number;
}

uint64_t json_reader_size(struct json_reader *reader, const char *name, bool or_none)
{
    uint64_t bytes = 0;
    const json_t *value = ask(reader, name);
    if (value == NULL || (or_none && json_string_length(value) == 0 &&
                          json_is_string(value))) {
        return 0;
    }
    if (!json_is_string(value) ||
        json_size_parse(json_string_value(value), &bytes) != 0) {
        complain(reader, name,
                 "give a size with a unit, as text, such as \"512M\" or \"4G\"");
        return 0;
    }
    return bytes;
}

const json_t *json_reader_array(struct json_reader *reader, const char *name, size_t most)
{
    char text[96];
    const json_t *value = ask(reader, name);
    if (value == NULL) {
        return NULL;
    }
    if (!json_is_array(value)) {
        complain(reader, name, "give a list: [...]");
        return NULL;
    }
    if (json_array_size(value) > most) {
        (void)snprintf(text, sizeof(text), "%zu are too many: give at most %zu",
                       json_array_size(value), most);
        complain(reader, name, text);
        return NULL;
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (!json_is_object(json_array_get(value, i))) {
            complain(reader, name, "each entry must be an object: {...}");
            return NULL;
        }
    }
    return value;
}

void json_reader_require(struct json_reader *reader, const char *name)
{
    if (ask(reader, name) == NULL) {
        complain(reader, name, "is missing: give it");
    }
}

static bool was_asked(const struct json_reader *reader, const char *name)
{
    for (unsigned i = 0; i < reader->asked_count; i++) {
        if (strcmp(reader->asked[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* The names that would have been right, as far as they fit. */
static void complain_unknown(struct json_reader *reader, const char *name)
{
    char text[200] = "no such field here: leave it out";
    size_t used = 0;
    for (unsigned i = 0; i < reader->asked_count; i++) {
        int more =
            snprintf(text + used, sizeof(text) - used, "%s%s",
                     i == 0 ? "no such field here, only " : ", ", reader->asked[i]);
        if (more < 0 || (size_t)more >= sizeof(text) - used) {
            break;
        }
        used += (size_t)more;
    }
    char shown[48];
    (void)snprintf(shown, sizeof(shown), "%s", name);
    complain(reader, shown, text);
}

int json_reader_end(struct json_reader *reader)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)reader->object, name, value)
    {
        if (!was_asked(reader, name)) {
            complain_unknown(reader, name);
        }
    }
    return reader->rv;
}

void json_size_text(uint64_t bytes, char ret_text[JSON_SIZE_TEXT_SIZE])
{
    static const char units[] = "BKMGT";
    unsigned unit = 0;
    while (unit < 4 && bytes != 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    (void)snprintf(ret_text, JSON_SIZE_TEXT_SIZE, "%" PRIu64 "%c", bytes, units[unit]);
}

int json_size_parse(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    uint64_t bytes = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(bytes, 10, &bytes) ||
            __builtin_add_overflow(bytes, (uint64_t)(*at - '0'), &bytes)) {
            return DROVER_EBADINPUT;
        }
    }
    const char *unit = *at == '\0' ? NULL : strchr(units, *at);
    if (at == text || unit == NULL) {
        return DROVER_EBADINPUT;
    }
    if (at[1] != '\0' && strcmp(at + 1, "iB") != 0 && strcmp(at + 1, "i") != 0) {
        return DROVER_EBADINPUT;
    }
    unsigned shift = 10 * (unsigned)(unit - units + 1);
    if (bytes > UINT64_MAX >> shift) {
        return DROVER_EBADINPUT;
    }
    *ret_bytes = bytes << shift;
    return 0;
}
