/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Freeing by scope: `CLEANUP(buffer_done) struct buffer b = {0};` frees at the end of the
 * block, `return TAKE(pointer);` hands the object on instead.
 */
#ifndef DROVER_BASE_CLEANUP_H
#define DROVER_BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(function) __attribute__((cleanup(function)))

#define TAKE(pointer)                                                                    \
    __extension__({                                                                      \
        __typeof__(pointer) taken_ = (pointer);                                          \
        (pointer) = NULL;                                                                \
        taken_;                                                                          \
    })

static inline void cleanup_free(void *pointer_to_pointer)
{
    void **pointer = pointer_to_pointer;
    free(*pointer);
    *pointer = NULL;
}

/* For `CLEANUP(cleanup_fd) int fd = -1;` */
static inline void cleanup_fd(const int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd); /* nobody is left to tell */
    }
}

static inline int take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#endif
