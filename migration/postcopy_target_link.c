/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target's link in post-copy: what goes out over it, from several threads; and a new
 * one when it was lost, over which the source hears what is missing still.
 */
#include "migration/postcopy_target_internal.h"

#include <poll.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/stream.h"
#include "migration/times.h"
#include "migration/transport.h"

#define WORD_PAGES 64u

int postcopy_link_send(struct postcopy_target *postcopy, const struct buffer *frames)
{
    postcopy_lock(&postcopy->out_lock);
    int rv = postcopy->linked ? stream_out_frames(postcopy->config.out, frames, NULL)
                              : DROVER_ECLOSED;
    postcopy_unlock(&postcopy->out_lock);
    return rv;
}

int postcopy_link_plain(struct postcopy_target *postcopy, enum wire_type type)
{
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_plain_encode(&frame, type);
    return rv != 0 ? rv : postcopy_link_send(postcopy, &frame);
}

int postcopy_link_keepalive(struct postcopy_target *postcopy)
{
    postcopy_lock(&postcopy->out_lock);
    int rv = postcopy->linked
                 ? stream_out_keepalive(postcopy->config.out,
                                        postcopy->config.times->keepalive_ms / 2)
                 : DROVER_ECLOSED;
    postcopy_unlock(&postcopy->out_lock);
    return rv;
}

int postcopy_link_fetch(struct postcopy_target *postcopy, unsigned region, uint64_t page)
{
    struct wire_fetch fetch = {.region = (uint16_t)region, .page = page};
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_fetch_encode(&frame, &fetch);
    return rv != 0 ? rv : postcopy_link_send(postcopy, &frame);
}

bool postcopy_link_silent(struct postcopy_target *postcopy)
{
    uint64_t now_ms = clock_now_ms();
    if (postcopy->config.in->bytes_received != postcopy->heard_bytes) {
        postcopy->heard_bytes = postcopy->config.in->bytes_received;
        postcopy->heard_ms = now_ms;
    }
    return now_ms >= postcopy->heard_ms + postcopy->config.times->idle_ms;
}

void postcopy_link_drop(struct postcopy_target *postcopy)
{
    postcopy_lock(&postcopy->out_lock);
    postcopy->linked = false;
    if (*postcopy->config.link != NULL) {
        stream_out_done(postcopy->config.out);
        stream_in_done(postcopy->config.in);
        transport_link_close(*postcopy->config.link);
        *postcopy->config.link = NULL;
    }
    postcopy_unlock(&postcopy->out_lock);
}

/* Under out_lock. What is missing, then what is waited for. */
static int maps_send(struct postcopy_target *postcopy)
{
    struct stream_out *out = postcopy->config.out;
    int rv = 0;
    for (unsigned i = 0; i < postcopy->region_count; i++) {
        uint64_t words = (postcopy->regions[i].page_count + WORD_PAGES - 1) / WORD_PAGES;
        for (uint64_t at = 0; rv == 0 && at < words; at += WIRE_MISSING_WORDS_MAX) {
            uint64_t count = words - at;
            count = count < WIRE_MISSING_WORDS_MAX ? count : WIRE_MISSING_WORDS_MAX;
            CLEANUP(buffer_done) struct buffer frame = {0};
            rv = wire_missing_encode(&frame, (uint16_t)i, at * WORD_PAGES,
                                     postcopy->regions[i].missing + at, (uint32_t)count);
            rv = rv != 0 ? rv : stream_out_frames(out, &frame, NULL);
        }
    }
    return rv != 0 ? rv : stream_out_plain(out, WIRE_RESUMED);
}

static int asked_send(struct postcopy_target *postcopy)
{
    int rv = 0;
    for (unsigned i = 0; i < postcopy->region_count; i++) {
        uint64_t words = (postcopy->regions[i].page_count + WORD_PAGES - 1) / WORD_PAGES;
        for (uint64_t word = 0; rv == 0 && word < words; word++) {
            postcopy_lock(&postcopy->lock);
            uint64_t bits =
                postcopy->regions[i].asked[word] & postcopy->regions[i].missing[word];
            postcopy_unlock(&postcopy->lock);
            for (; rv == 0 && bits != 0; bits &= bits - 1) {
                rv = postcopy_link_fetch(
                    postcopy, i, word * WORD_PAGES + (unsigned)__builtin_ctzll(bits));
            }
        }
    }
    return rv;
}

/* The link is new; whoever is behind it shall be our source. */
static int resume_greet(struct postcopy_target *postcopy)
{
    const struct postcopy_target_config *config = &postcopy->config;
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    struct wire_resume resume;
    int rv = stream_out_init(config->out, *config->link, config->times->idle_ms);
    rv = rv != 0 ? rv : stream_in_init(config->in, *config->link);
    rv = rv != 0 ? rv
                 : stream_in_message(config->in, config->times->idle_ms,
                                     clock_now_ms() + config->times->idle_ms, &type,
                                     &payload, &size);
    if (rv == 0 &&
        (type != WIRE_RESUME || wire_resume_decode(payload, size, &resume) != 0 ||
         resume.vm_id != config->vm_id || resume.session != postcopy->session)) {
        rv = DROVER_EPEER;
    }
    if (rv != 0) {
        return rv;
    }
    postcopy->placed = postcopy->placed_told = 0;
    postcopy->heard_bytes = 0;
    postcopy_lock(&postcopy->out_lock);
    rv = maps_send(postcopy);
    postcopy->linked = rv == 0;
    postcopy_unlock(&postcopy->out_lock);
    return rv != 0 ? rv : asked_send(postcopy);
}

int postcopy_link_wait(struct postcopy_target *postcopy)
{
    const struct postcopy_target_config *config = &postcopy->config;
    while (!atomic_load(&postcopy->quit)) {
        int rv =
            config->listener->ops->accept(config->listener, config->cancel_fd, UINT32_MAX,
                                          config->times->idle_ms, config->link);
        if (rv == DROVER_ECANCELLED) {
            break;
        }
        if (rv != 0) {
            /* Out of descriptors, perhaps: later. */
            (void)poll(NULL, 0, (int)config->times->keepalive_ms);
            continue;
        }
        if (resume_greet(postcopy) == 0) {
            return 0;
        }
        postcopy_link_drop(postcopy);
    }
    return DROVER_ECANCELLED;
}
