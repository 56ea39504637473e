/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CHECK() states what the programmer believes. It aborts in every build, with file and
 * line. Never for input of a guest, a peer, a disk or a user: those are returned as
 * errors.
 */
#ifndef DROVER_BASE_CHECK_H
#define DROVER_BASE_CHECK_H

_Noreturn void check_failed(const char *expression, const char *file, int line);

#define CHECK(expression)                                                                \
    do {                                                                                 \
        if (__builtin_expect(!(expression), 0)) {                                        \
            check_failed(#expression, __FILE__, __LINE__);                               \
        }                                                                                \
    } while (0)

#endif
