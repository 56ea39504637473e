/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), with the processor's instruction where
 * there is one. Any thread. */
#ifndef DROVER_MIGRATION_CRC32C_H
#define DROVER_MIGRATION_CRC32C_H

#include <stddef.h>
#include <stdint.h>

typedef uint32_t (*crc32c_function)(uint32_t crc, const void *data, size_t size);

/* Starts with crc = 0; goes on with what it returned. */
crc32c_function crc32c_pick(void);
/* All that this processor can run, the slowest first; how many. */
#define CRC32C_VARIANTS_MAX 3
unsigned crc32c_variants(crc32c_function ret_variants[CRC32C_VARIANTS_MAX]);
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
