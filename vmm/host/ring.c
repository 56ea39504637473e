/* SPDX-License-Identifier: Apache-2.0 */
/* io_uring_register(2), IORING_REGISTER_RESTRICTIONS. */
#include "vmm/host/ring.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

int ring_open(struct io_uring *ring, unsigned entries)
{
    return io_uring_queue_init(entries, ring, IORING_SETUP_R_DISABLED);
}

int ring_seal(struct io_uring *ring)
{
    static const enum io_uring_op operations[] = {
        IORING_OP_READ,  IORING_OP_READV, IORING_OP_WRITE,     IORING_OP_WRITEV,
        IORING_OP_FSYNC, IORING_OP_NOP,   IORING_OP_FALLOCATE,
    };
    enum { COUNT = sizeof(operations) / sizeof(operations[0]) };
    struct io_uring_restriction restrictions[COUNT] = {0};
    for (unsigned i = 0; i < COUNT; i++) {
        restrictions[i].opcode = IORING_RESTRICTION_SQE_OP;
        restrictions[i].sqe_op = (uint8_t)operations[i];
    }
    /* Not by liburing: some builds of it lack these two. */
    if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS,
                restrictions, COUNT) < 0 ||
        syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
                0) < 0) {
        return -errno;
    }
    return 0;
}
