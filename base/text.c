/* SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include <stdbool.h>

void text_plain(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c != '\0'; c++) {
        bool is_c1 = c[0] == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f;
        if (is_c1) {
            *c++ = ' ';
        }
        if (is_c1 || *c < ' ' || *c == 0x7f) {
            *c = ' ';
        }
    }
}
