/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a program whose author was wrong. */
#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void check_failed(const char *expression, const char *file, int line)
{
    (void)fprintf(stderr, "%s:%d: CHECK(%s) failed: this is a bug, please report it\n",
                  file, line, expression);
    abort();
}
