/* SPDX-License-Identifier: Apache-2.0 */
/* What a fuzzer was given, taken bit by bit. */
#ifndef DROVER_TESTS_FUZZ_FUZZ_INPUT_H
#define DROVER_TESTS_FUZZ_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>

struct input {
    const uint8_t *data;
    size_t size;
};

/* The next `size` bytes (at most 4), the lowest first; zeros where the input has ended. */
static inline uint32_t take(struct input *input, unsigned size)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < size && input->size > 0; i++) {
        value |= (uint32_t)*input->data++ << (8 * i);
        input->size--;
    }
    return value;
}

#endif
