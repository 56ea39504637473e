/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two directions of a link. Out: frames and pages are gathered and sent with few
 * system calls, pages straight from guest memory. In: frames come through one buffer,
 * pages are read straight into place. Nothing is allocated after init. One thread.
 */
#ifndef DROVER_MIGRATION_STREAM_H
#define DROVER_MIGRATION_STREAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/buffer.h"
#include "migration/transport.h"
#include "migration/wire.h"

struct compress_coder;
struct pace;

struct stream_out {
    struct transport_link *link; /* borrowed */
    uint32_t idle_ms;
    struct compress_coder *coder; /* owned; NULL: nothing is made smaller */
    struct pace *pace; /* borrowed; NULL: no limit. The owner may set it at any time */
    atomic_uint_least64_t bytes_sent; /* any thread may look */
    atomic_uint_least64_t bytes_placed; /* of these, straight into the target's memory */
    uint64_t last_sent_ms;
    bool places; /* data goes straight into the peer's memory, where it can */
    bool places_ask; /* ... also where the peer must be asked first */
    bool broken; /* a send ended half-way: the peer can't make sense of what might follow
                  */
    /* private */
    struct buffer frames; /* never grows: `iov` points into it */
    struct iovec iov[TRANSPORT_IOV_MAX];
    unsigned iov_count;
    size_t queued_bytes;
};

int stream_out_init(struct stream_out *out, struct transport_link *link,
                    uint32_t idle_ms);
void stream_out_done(struct stream_out *out);
/*
 * Queues the extent's frame and its data runs, whose pages lie from `host` on (the
 * address of its first page), and sends when enough is queued. With `places` the pages may
 * have left when it returns; the extent then says so. The pages must stay mapped
 * until stream_out_flush().
 */
int stream_out_extent(struct stream_out *out, struct extent *extent, uint8_t *host);
/* Marks the end of a round for marked(), where data was placed. */
int stream_out_mark(struct stream_out *out, uint32_t round);
int stream_out_flush(struct stream_out *out);
/* Forgets what is queued. */
void stream_out_drop(struct stream_out *out);
/* Sends what is queued, then these whole frames. `ret_accepted` (may be NULL): of these
 * frames, see transport.h. */
int stream_out_frames(struct stream_out *out, const struct buffer *frames,
                      size_t *ret_accepted);
int stream_out_plain(struct stream_out *out, enum wire_type type);
/* Sends what is queued, then these bytes, straight from where they lie; entries are
 * changed. */
int stream_out_vector(struct stream_out *out, struct iovec *iov, unsigned count);
/* Sends KEEPALIVE if nothing was sent for `keepalive_ms`. */
int stream_out_keepalive(struct stream_out *out, uint32_t keepalive_ms);

struct stream_in {
    struct transport_link *link; /* borrowed */
    bool places; /* the source puts data straight into memory */
    atomic_uint_least64_t bytes_received; /* any thread may look */
    /* private: bytes [start, end) of `data` are not yet consumed */
    uint8_t *data;
    uint8_t *coded; /* of stream_in_coded(); NULL: none came yet */
    size_t start, end;
};

/* A ROUND_END came: whether all that was placed in it is in place, as far as it was. */
bool stream_in_round_ended(const struct stream_in *in, uint32_t round);
int stream_in_init(struct stream_in *in, struct transport_link *link);
void stream_in_done(struct stream_in *in);
/*
 * The next message; `ret_payload` is valid until the next call. Waits `idle_ms` for each
 * piece, and not beyond `until_ms` (CLOCK_BOOTTIME, 0: no end). Consumes KEEPALIVE
 * itself.
 */
int stream_in_message(struct stream_in *in, uint32_t idle_ms, uint64_t until_ms,
                      enum wire_type *ret_type, const uint8_t **ret_payload,
                      size_t *ret_size);
/* The next `size` bytes, at most COMPRESS_BYTES_MAX; valid until the next call. */
int stream_in_coded(struct stream_in *in, size_t size, uint32_t idle_ms,
                    const uint8_t **ret_data);
/* Fills `iov` (changed, at most EXTENT_PAGES entries) with the next bytes of the stream.
 * `more`: this is called again for those behind them, which are not read ahead then. */
int stream_in_pages(struct stream_in *in, struct iovec *iov, unsigned count, bool more,
                    uint32_t idle_ms);

#endif
