/* SPDX-License-Identifier: Apache-2.0 */
/* What every unit test includes: cmocka, with the headers that it wants before itself. */
#ifndef DROVER_TESTS_UNIT_UNIT_H
#define DROVER_TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
