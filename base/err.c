/* SPDX-License-Identifier: Apache-2.0 */
/* The table of errors, and one-line messages for people. */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

const char *err_text(int code)
{
    switch (code) {
#define X(name, number, text)                                                            \
    case -(number):                                                                      \
        return text;
        DROVER_ERRORS(X)
#undef X
    default:
        break;
    }
    if (code == 0) {
        return "no error";
    }
    const char *name = strerrordesc_np(code < 0 ? -code : code);
    return name != NULL ? name : "unknown error";
}

int error_set(struct error *err, int code, const char *format, ...)
{
    if (err == NULL) {
        return code;
    }
    err->code = code;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(err->text, sizeof(err->text), format, arguments); /* cut is fine */
    va_end(arguments);
    for (char *c = err->text; *c != '\0'; c++) {
        if (*c == '\n' || *c == '\r') {
            *c = ' ';
        }
    }
    return code;
}
