/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A storage daemon for fuzzers: a vhost-user back end in this process, which does what it
 * is told to. All that it will say in a handshake is said when it is opened, so nobody
 * ever waits for it; it then serves the ring, or harms it, on the caller's thread. Its
 * storage_ops may be called by any.
 */
#ifndef DROVER_TESTS_FUZZ_BACKEND_H
#define DROVER_TESTS_FUZZ_BACKEND_H

#include <stdint.h>

#include "vmm/storage/storage.h"

struct fuzz_backend;

/*
 * How it behaves from its next opening on, all zeros: well.
 *
 *   0 what fails: 1 open, 2 close, 4 start; 8 the answers are cut off; 16 it hangs up
 *     after them; 32 read-only; 64 without discard and zeroes; 128 small ranges
 *   1 where the answers are cut off, or which byte of them is changed (low)
 *   2 the same (high): 255 for no change
 *   3 what that byte becomes
 *   4 added to the disk's size, in sectors
 */
#define FUZZ_BACKEND_CONDUCT 5

extern const struct storage_ops fuzz_backend_ops;

struct fuzz_backend *fuzz_backend_create(void);
void fuzz_backend_free(struct fuzz_backend *backend);
void fuzz_backend_conduct_set(struct fuzz_backend *backend,
                              const uint8_t conduct[FUZZ_BACKEND_CONDUCT]);
/* Takes what the front end has said: the ring, the descriptors. */
void fuzz_backend_look(struct fuzz_backend *backend);
/* Answers up to `count` requests, oldest first. */
void fuzz_backend_serve(struct fuzz_backend *backend, unsigned count, uint8_t status);
void fuzz_backend_hang_up(struct fuzz_backend *backend);
/* Writes a byte anywhere into the ring's memory, and calls. */
void fuzz_backend_scribble(struct fuzz_backend *backend, uint32_t offset, uint8_t value);
/* Says something that nobody has asked for. */
void fuzz_backend_say(struct fuzz_backend *backend, uint8_t value);
void fuzz_backend_call(struct fuzz_backend *backend);

#endif
