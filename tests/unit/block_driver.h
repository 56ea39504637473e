/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's virtio-blk driver for tests: one disk on a real file, requests by header,
 * data and status. */
#ifndef DROVER_TESTS_BLOCK_DRIVER_H
#define DROVER_TESTS_BLOCK_DRIVER_H

#include "tests/unit/virtio_driver.h"

#define BLOCK_DRIVER_DISK_BYTES  (4u * 1024u * 1024u)
#define BLOCK_DRIVER_HEADER_GPA  DRIVER_DATA_GPA
#define BLOCK_DRIVER_STATUS_GPA  (DRIVER_DATA_GPA + 0x1000u)
#define BLOCK_DRIVER_PAYLOAD_GPA (DRIVER_DATA_GPA + 0x10000u)

#define BLOCK_DRIVER_F_FLUSH (UINT64_C(1) << 9)

enum {
    BLOCK_DRIVER_IN = 0,
    BLOCK_DRIVER_OUT = 1,
    BLOCK_DRIVER_FLUSH = 4,
    BLOCK_DRIVER_ID = 8,
    BLOCK_DRIVER_DISCARD = 11,
    BLOCK_DRIVER_ZEROES = 13
};
enum { BLOCK_DRIVER_OK = 0, BLOCK_DRIVER_IOERR = 1, BLOCK_DRIVER_UNSUPP = 2 };

struct block_driver {
    struct vm *vm;
    struct driver driver;
    char path[64];
    int fd;
};

/* Fixture of cmocka: a VM and a disk of BLOCK_DRIVER_DISK_BYTES, not yet joined. */
int block_driver_setup(void **state);
int block_driver_teardown(void **state);
void block_driver_add(struct block_driver *f, bool read_only, bool direct);
struct virtio_block_config;
/* The same with more said; path and serial are filled in. Starts `queue_count` queues. */
void block_driver_add_config(struct block_driver *f, struct virtio_block_config config,
                             unsigned queue_count, uint64_t features);
void block_driver_header_write(struct block_driver *f, uint32_t type, uint64_t sector);
void block_driver_request_add(struct block_driver *f, uint32_t type, uint64_t sector,
                              uint64_t gpa, uint32_t size);
uint8_t block_driver_status(struct block_driver *f);
uint32_t block_driver_request_run(struct block_driver *f, uint32_t type, uint64_t sector,
                                  uint64_t gpa, uint32_t size, uint8_t expected_status);
void block_driver_pattern_fill(uint8_t *data, size_t size, unsigned seed);
void block_driver_assert_disk(struct block_driver *f, uint64_t offset,
                              const uint8_t *data, size_t size);
void block_driver_write_and_read(struct block_driver *f, uint64_t gpa, uint32_t size,
                                 uint64_t sector);

#endif
