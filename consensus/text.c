/* SPDX-License-Identifier: Apache-2.0 */
/* What counts as an address, a path, a word; and text that is safe to show. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/limits.h"
#include "consensus/apply.h"

/* Bytes of the well-formed UTF-8 sequence at `at` (Unicode standard, table 3-7); 0 if
 * there is none. */
static size_t utf8_length(const unsigned char *at)
{
    if (at[0] < 0x80) {
        return 1;
    }
    size_t length = at[0] >= 0xc2 && at[0] <= 0xdf   ? 2
                    : at[0] >= 0xe0 && at[0] <= 0xef ? 3
                    : at[0] >= 0xf0 && at[0] <= 0xf4 ? 4
                                                     : 0;
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool outside = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) ||
                   (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f);
    return outside ? 0 : length;
}

bool text_line_valid(const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
        size_t length = utf8_length(at);
        if (length == 0 || (length == 1 && (*at < ' ' || *at == 0x7f))) {
            return false;
        }
        at += length;
    }
    return true;
}

bool text_address_valid(const char *address)
{
    size_t length = strnlen(address, LIMIT_ADDRESS_SIZE);
    const char *colon = strrchr(address, ':');
    if (length == 0 || length >= LIMIT_ADDRESS_SIZE || colon == NULL ||
        colon == address) {
        return false;
    }
    for (const char *c = address; *c != '\0'; c++) {
        if (*c <= ' ' || *c >= 0x7f) {
            return false;
        }
    }
    unsigned port = 0;
    for (const char *c = colon + 1; *c != '\0'; c++) {
        if (*c < '0' || *c > '9' || port > UINT16_MAX) {
            return false;
        }
        port = port * 10 + (unsigned)(*c - '0');
    }
    return port > 0 && port <= UINT16_MAX;
}

static bool component_valid(const char *at, size_t length)
{
    bool dots = length > 0 && length <= 2 && strspn(at, ".") >= length;
    return length > 0 && !dots;
}

bool text_path_valid(const char *path)
{
    size_t length = strnlen(path, LIMIT_PATH_SIZE);
    if (length < 2 || length >= LIMIT_PATH_SIZE || path[0] != '/') {
        return false;
    }
    if (!text_line_valid(path)) {
        return false;
    }
    for (const char *at = path; *at == '/';) {
        size_t component = strcspn(at + 1, "/");
        if (!component_valid(at + 1, component)) {
            return false;
        }
        at += 1 + component;
    }
    return true;
}

bool text_word_valid(const char *text, size_t size)
{
    size_t length = strnlen(text, size);
    if (length == 0 || length >= size) {
        return false;
    }
    for (const char *c = text; *c != '\0'; c++) {
        bool fine = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                    (*c >= '0' && *c <= '9') || *c == '.' || *c == '_' || *c == '-';
        if (!fine) {
            return false;
        }
    }
    return true;
}

void text_for_people(const char *from, char *ret_text, size_t size)
{
    CHECK(size > 0);
    size_t used = 0;
    for (const unsigned char *at = (const unsigned char *)from; *at != '\0';) {
        size_t length = utf8_length(at);
        size_t taken = length == 0 ? 1 : length;
        if (used + taken >= size) {
            break;
        }
        if (length == 0) {
            ret_text[used] = '?';
        } else if (length == 1 && (*at < ' ' || *at == 0x7f)) {
            ret_text[used] = ' ';
        } else {
            memcpy(ret_text + used, at, length);
        }
        used += taken;
        at += taken;
    }
    ret_text[used] = '\0';
}
