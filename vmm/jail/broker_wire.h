/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between VMM and launcher: one packet each on a SOCK_SEQPACKET pair, numbers of
 * 32 bits, big endian.
 *
 *   hello, launcher to VMM, once:  pid
 *   request:   what | number | argument | path (no NUL; only to allow)
 *   reply:     result | text (no NUL; may be cut), with none, one or two descriptors
 *
 * `number` is the kind when it allows (the reply's result is the entry's number then),
 * the entry's number when it opens. The reply to the seal, which comes once, carries the
 * world of the jail: its network namespace and its mount namespace.
 */
#ifndef DROVER_VMM_JAIL_BROKER_WIRE_H
#define DROVER_VMM_JAIL_BROKER_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/jail/broker.h"

#define BROKER_HELLO_SIZE   4
#define BROKER_REQUEST_HEAD 12
#define BROKER_REQUEST_SIZE (BROKER_REQUEST_HEAD + BROKER_PATH_SIZE)
#define BROKER_REPLY_HEAD   4
#define BROKER_REPLY_SIZE   (BROKER_REPLY_HEAD + 320)
#define BROKER_FDS_MAX      2

enum broker_what {
    BROKER_ALLOW = 1,
    BROKER_SEAL,
    BROKER_OPEN,
};

static inline void broker_put32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

static inline uint32_t broker_get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* One packet with the descriptors of `fds[BROKER_FDS_MAX]` up to the first -1; NULL:
 * none. -errno. */
int broker_packet_send(int fd, const uint8_t *data, size_t size, const int *fds);
/* Blocking. DROVER_ECLOSED at the end, DROVER_EMALFORMED for what is cut or carries too
 * many descriptors. `ret_fds[BROKER_FDS_MAX]` is -1 behind the last; NULL: none is taken.
 */
int broker_packet_recv(int fd, uint8_t *data, size_t room, size_t *ret_size,
                       int *ret_fds);

#endif
