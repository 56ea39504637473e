/* SPDX-License-Identifier: Apache-2.0 */
/* The two directions of a link. */
#include "migration/stream.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/compress.h"
#include "migration/pace.h"
#include "migration/placing.h"
#include "proto/frame.h"

#define OUT_FRAMES_BYTES  65536u
#define OUT_QUEUE_BYTES   (1024u * 1024u) /* sent when so much is queued */
#define KEEPALIVES_PER_IDLE 8 /* while a limit is waited for */
#define EXTENT_FRAME_SIZE                                                                 \
    (FRAME_HEADER_SIZE + 24 + 2 * EXTENT_RUNS_MAX + 4 * EXTENT_PAGES)
#define EXTENT_IOV_MAX    (1 + EXTENT_PAGES / 2) /* the frame, and every other page */
/* What is read ahead behind pages or frames; it is copied once more if it turns out to be
 * pages. */
#define IN_AHEAD_BYTES 32768u
#define IN_BYTES       (FRAME_HEADER_SIZE + WIRE_PAYLOAD_BYTES_MAX + IN_AHEAD_BYTES)

static_assert(EXTENT_FRAME_SIZE < OUT_FRAMES_BYTES, "an extent's frame fits");
static_assert(EXTENT_IOV_MAX <= TRANSPORT_IOV_MAX, "an extent's runs fit");
static_assert(EXTENT_PAGES + 1 <= TRANSPORT_IOV_MAX, "a receiver's runs fit");

int stream_out_init(struct stream_out *out, struct transport_link *link, uint32_t idle_ms)
{
    memset(out, 0, sizeof(*out));
    out->link = link;
    out->idle_ms = idle_ms;
    out->last_sent_ms = clock_now_ms();
    buffer_init(&out->frames, OUT_FRAMES_BYTES);
    return buffer_reserve(&out->frames, OUT_FRAMES_BYTES);
}

void stream_out_done(struct stream_out *out)
{
    buffer_done(&out->frames);
    compress_coder_free(out->coder);
    out->coder = NULL;
}

static void queue(struct stream_out *out, void *data, size_t size)
{
    CHECK(out->iov_count < TRANSPORT_IOV_MAX);
    out->iov[out->iov_count++] = (struct iovec){.iov_base = data, .iov_len = size};
    out->queued_bytes += size;
}

/* Sends `iov`; `bytes` is its sum. */
static int send_all(struct stream_out *out, struct iovec *iov, unsigned count,
                    size_t bytes, size_t *ret_accepted)
{
    size_t accepted = 0;
    int rv = out->broken
                 ? DROVER_ECLOSED
                 : out->link->ops->send(out->link, iov, count, out->idle_ms, &accepted);
    CHECK(rv != 0 || accepted == bytes);
    out->broken = out->broken || rv != 0;
    out->bytes_sent += accepted;
    out->last_sent_ms = clock_now_ms();
    if (ret_accepted != NULL) {
        *ret_accepted = accepted;
    }
    return rv;
}

void stream_out_drop(struct stream_out *out)
{
    out->iov_count = 0;
    out->queued_bytes = 0;
    out->frames.size = 0;
}

/* Until what is queued may be sent; the peer hears something meanwhile. */
static int pace_keep(struct stream_out *out)
{
    int rv = out->pace == NULL ? 0 : -EAGAIN;
    while (rv == -EAGAIN) {
        rv = pace_wait(out->pace, out->idle_ms / KEEPALIVES_PER_IDLE);
        if (rv == -EAGAIN) {
            CLEANUP(buffer_done) struct buffer frame = {0};
            int said = wire_plain_encode(&frame, WIRE_KEEPALIVE);
            struct iovec iov = {.iov_base = frame.data, .iov_len = frame.size};
            said = said != 0 ? said : send_all(out, &iov, 1, frame.size, NULL);
            rv = said != 0 ? said : rv;
        }
    }
    return rv;
}

int stream_out_flush(struct stream_out *out)
{
    int rv = 0;
    if (out->iov_count > 0) {
        size_t bytes = out->queued_bytes;
        rv = pace_keep(out);
        rv = rv != 0 ? rv : send_all(out, out->iov, out->iov_count, bytes, NULL);
        if (rv == 0 && out->pace != NULL) {
            pace_sent(out->pace, bytes);
        }
    }
    stream_out_drop(out);
    return rv;
}

/* 0: the extent's data is placed; DROVER_ENOTFOUND: it must be queued. */
static int place(struct stream_out *out, struct extent *extent)
{
    if (!out->places || extent->data_pages == 0) {
        return DROVER_ENOTFOUND;
    }
    uint64_t bytes = (uint64_t)extent->data_pages * MIGRATION_PAGE_SIZE;
    int rv = out->broken ? DROVER_ECLOSED : pace_keep(out);
    rv = rv != 0 ? rv
                 : placing_send(out->link, extent, out->places_ask, out->idle_ms);
    if (rv == 0) {
        extent->placed = true;
        out->last_sent_ms = clock_now_ms();
        atomic_fetch_add(&out->bytes_sent, bytes);
        atomic_fetch_add(&out->bytes_placed, bytes);
        if (out->pace != NULL) {
            pace_sent(out->pace, bytes);
        }
    }
    return rv;
}

int stream_out_mark(struct stream_out *out, uint32_t round)
{
    return out->places ? out->link->ops->mark(out->link, round, out->idle_ms) : 0;
}

/* Sent at once, for the coder has one buffer. */
static int send_coded(struct stream_out *out, struct extent *extent, const uint8_t *host)
{
    size_t size = 0;
    int rv = stream_out_flush(out);
    if (rv != 0) {
        return rv;
    }
    const uint8_t *data = compress_extent(out->coder, extent, host, &size);
    extent->coded_bytes = (uint32_t)size;
    rv = wire_extent_encode(&out->frames, extent);
    if (rv != 0) {
        return rv;
    }
    queue(out, out->frames.data, out->frames.size);
    queue(out, (void *)data, size); /* only read */
    return stream_out_flush(out);
}

static int send_plain(struct stream_out *out, struct extent *extent, uint8_t *host)
{
    int placed = place(out, extent);
    if (placed != 0 && placed != DROVER_ENOTFOUND) {
        return placed;
    }
    if (out->iov_count + EXTENT_IOV_MAX > TRANSPORT_IOV_MAX ||
        out->frames.size + EXTENT_FRAME_SIZE > OUT_FRAMES_BYTES) {
        int rv = stream_out_flush(out);
        if (rv != 0) {
            return rv;
        }
    }
    size_t start = out->frames.size;
    const uint8_t *memory = out->frames.data;
    int rv = wire_extent_encode(&out->frames, extent);
    if (rv != 0) {
        return rv;
    }
    CHECK(out->frames.data == memory); /* the entries point into it */
    queue(out, out->frames.data + start, out->frames.size - start);
    for (unsigned i = 0; i < extent->run_count; i++) {
        size_t size = (size_t)extent->runs[i].page_count * MIGRATION_PAGE_SIZE;
        if (extent->runs[i].kind == EXTENT_RUN_DATA && !extent->placed) {
            queue(out, host, size);
        }
        host += size;
    }
    /* The target looks at what is placed while the next is on its way. */
    return extent->placed || out->queued_bytes >= OUT_QUEUE_BYTES ? stream_out_flush(out)
                                                                  : 0;
}

int stream_out_extent(struct stream_out *out, struct extent *extent, uint8_t *host)
{
    if (out->coder == NULL) {
        return send_plain(out, extent, host);
    }
    uint64_t start_ns = clock_now_ns();
    int rv;
    if (compress_wanted(out->coder) && extent->data_pages > 0) {
        rv = send_coded(out, extent, host);
    } else {
        compress_forget(out->coder, extent);
        rv = send_plain(out, extent, host);
    }
    if (rv == 0) {
        compress_sent(out->coder, extent, host, clock_now_ns() - start_ns);
    }
    return rv;
}

int stream_out_frames(struct stream_out *out, const struct buffer *frames,
                      size_t *ret_accepted)
{
    if (ret_accepted != NULL) {
        *ret_accepted = 0;
    }
    int rv = stream_out_flush(out);
    if (rv != 0) {
        return rv;
    }
    struct iovec iov = {.iov_base = frames->data, .iov_len = frames->size};
    return send_all(out, &iov, 1, frames->size, ret_accepted);
}

int stream_out_vector(struct stream_out *out, struct iovec *iov, unsigned count)
{
    CHECK(count <= TRANSPORT_IOV_MAX);
    int rv = stream_out_flush(out);
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    return rv != 0 ? rv : send_all(out, iov, count, bytes, NULL);
}

int stream_out_plain(struct stream_out *out, enum wire_type type)
{
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_plain_encode(&frame, type);
    return rv != 0 ? rv : stream_out_frames(out, &frame, NULL);
}

int stream_out_keepalive(struct stream_out *out, uint32_t keepalive_ms)
{
    if (clock_now_ms() < out->last_sent_ms + keepalive_ms) {
        return 0;
    }
    return out->iov_count > 0 ? stream_out_flush(out)
                              : stream_out_plain(out, WIRE_KEEPALIVE);
}

bool stream_in_round_ended(const struct stream_in *in, uint32_t round)
{
    return !in->places || in->link->ops->marked(in->link) == round;
}

int stream_in_init(struct stream_in *in, struct transport_link *link)
{
    memset(in, 0, sizeof(*in));
    in->link = link;
    in->data = malloc(IN_BYTES);
    return in->data == NULL ? -ENOMEM : 0;
}

void stream_in_done(struct stream_in *in)
{
    free(in->data);
    free(in->coded);
    in->data = NULL;
    in->coded = NULL;
}

/* Waits for more bytes behind `end`. */
static int read_more(struct stream_in *in, uint32_t idle_ms, uint64_t until_ms)
{
    uint32_t wait_ms = idle_ms;
    if (until_ms != 0) {
        uint64_t now_ms = clock_now_ms();
        uint64_t left_ms = now_ms >= until_ms ? 0 : until_ms - now_ms;
        wait_ms = left_ms < wait_ms ? (uint32_t)left_ms : wait_ms;
    }
    size_t room = IN_BYTES - in->end;
    CHECK(room > 0);
    struct iovec iov = {.iov_base = in->data + in->end, .iov_len = room};
    if (iov.iov_len > IN_AHEAD_BYTES) {
        iov.iov_len = IN_AHEAD_BYTES;
    }
    size_t size = 0;
    int rv = in->link->ops->recv(in->link, &iov, 1, wait_ms, &size);
    if (rv == 0) {
        CHECK(size > 0 && size <= iov.iov_len);
        in->end += size;
        in->bytes_received += size;
    }
    return rv;
}

/* 1 with the payload of the frame in front, which is consumed; 0: more bytes are needed.
 */
static int take_frame(struct stream_in *in, const uint8_t **ret_payload, size_t *ret_size)
{
    struct buffer view = {.data = in->data + in->start, .size = in->end - in->start};
    size_t frame_size = 0;
    int rv = frame_decode(&view, FRAME_KIND_MIGRATION, WIRE_PAYLOAD_BYTES_MAX,
                          ret_payload, ret_size, &frame_size);
    if (rv == 1) {
        in->start += frame_size;
        CHECK(in->start <= in->end);
    }
    return rv;
}

int stream_in_message(struct stream_in *in, uint32_t idle_ms, uint64_t until_ms,
                      enum wire_type *ret_type, const uint8_t **ret_payload,
                      size_t *ret_size)
{
    for (;;) {
        const uint8_t *payload = NULL;
        size_t size = 0;
        int rv = take_frame(in, &payload, &size);
        if (rv == 0) {
            /* Move the rest to the front: it is at most one unfinished frame and what was
             * read ahead. */
            memmove(in->data, in->data + in->start, in->end - in->start);
            in->end -= in->start;
            in->start = 0;
            rv = read_more(in, idle_ms, until_ms);
            if (rv != 0) {
                return rv;
            }
            continue;
        }
        enum wire_type type;
        rv = rv < 0 ? rv : wire_type_decode(payload, size, &type);
        if (rv != 0) {
            return rv;
        }
        if (type != WIRE_KEEPALIVE) {
            *ret_type = type;
            *ret_payload = payload;
            *ret_size = size;
            return 0;
        }
    }
}

/* Takes what was read ahead. Leaves the entries that are still to be filled. */
static void fill_from_buffer(struct stream_in *in, struct iovec **iov, unsigned *count)
{
    while (*count > 0 && in->start < in->end) {
        size_t size = in->end - in->start;
        size = size < (*iov)->iov_len ? size : (*iov)->iov_len;
        memcpy((*iov)->iov_base, in->data + in->start, size);
        in->start += size;
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + size;
        (*iov)->iov_len -= size;
        if ((*iov)->iov_len == 0) {
            (*iov)++;
            (*count)--;
        }
    }
}

int stream_in_pages(struct stream_in *in, struct iovec *iov, unsigned count, bool more,
                    uint32_t idle_ms)
{
    CHECK(count <= EXTENT_PAGES);
    struct iovec wanted[EXTENT_PAGES + 1];
    fill_from_buffer(in, &iov, &count);
    while (count > 0) {
        /* The buffer is empty: what comes behind the pages is read ahead into it, if it
         * has no place of its own yet. */
        in->start = 0;
        in->end = 0;
        memcpy(wanted, iov, count * sizeof(*iov));
        wanted[count] = (struct iovec){.iov_base = in->data, .iov_len = IN_AHEAD_BYTES};
        size_t size = 0;
        int rv =
            in->link->ops->recv(in->link, wanted, more ? count : count + 1, idle_ms, &size);
        if (rv != 0) {
            return rv;
        }
        in->bytes_received += size;
        while (count > 0 && size >= iov->iov_len) {
            size -= iov->iov_len;
            iov++;
            count--;
        }
        if (count > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + size;
            iov->iov_len -= size;
        } else {
            CHECK(size <= IN_AHEAD_BYTES);
            in->end = size;
        }
    }
    return 0;
}

int stream_in_coded(struct stream_in *in, size_t size, uint32_t idle_ms,
                    const uint8_t **ret_data)
{
    CHECK(size <= COMPRESS_BYTES_MAX);
    if (in->coded == NULL) {
        in->coded = malloc(COMPRESS_BYTES_MAX);
        if (in->coded == NULL) {
            return -ENOMEM;
        }
    }
    struct iovec iov = {.iov_base = in->coded, .iov_len = size};
    int rv = stream_in_pages(in, &iov, 1, false, idle_ms);
    if (rv == 0) {
        *ret_data = in->coded;
    }
    return rv;
}
