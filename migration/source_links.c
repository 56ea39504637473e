/* SPDX-License-Identifier: Apache-2.0 */
/* The source's connections: the control stream's hello, and the data streams. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"
#include "migration/placing.h"
#include "migration/source_internal.h"
#include "migration/transport_rdma.h"

#define NS_PER_US UINT64_C(1000)
/* Pages that are remembered as they were sent: a share of the guest's, bounded. */
#define SENT_SHARE     8u
#define SENT_BYTES_MAX (UINT64_C(64) << 20)

static const char *rdma_address(const struct migration_source *source)
{
    return source->rdma_address[0] != '\0' ? source->rdma_address : source->address;
}

/* Number `index` of the connections. */
static int link_open(struct migration_source *source, unsigned index,
                     struct transport_link **ret_link)
{
    struct migration_source_config *config = &source->config;
    if (source->over_rdma) {
        return transport_rdma_connect(config->rdma, rdma_address(source), source->cancel_fd,
                                      config->times.connect_ms, config->times.idle_ms,
                                      ret_link, &source->err);
    }
    if (config->link_count == 0) {
        return config->transport->connect(source->address, source->cancel_fd,
                                          config->times.connect_ms, config->times.idle_ms,
                                          ret_link, &source->err);
    }
    CHECK(index < config->link_count);
    CHECK(config->transport->adopt != NULL);
    return config->transport->adopt(take_fd(&config->link_fds[index]), source->address,
                                    source->cancel_fd, config->times.connect_ms,
                                    config->times.idle_ms, ret_link, &source->err);
}

static void notice_set(struct migration_source *source, const char *notice)
{
    struct migration_status *status = status_board_lock(&source->board);
    (void)snprintf(status->notice, sizeof(status->notice), "%s", notice);
    status_board_unlock(&source->board);
}

/* Over RDMA, if that is wanted and works; else by the sockets that came with the order.
 */
static int rdma_open(struct migration_source *source)
{
    struct migration_source_config *config = &source->config;
    struct error err = {0};
    if (config->rdma == NULL) {
        return 0;
    }
    int rv = transport_rdma_connect(config->rdma, rdma_address(source), source->cancel_fd,
                                    config->times.connect_ms / 2, config->times.idle_ms,
                                    &source->link, &err);
    if (rv == DROVER_ECANCELLED) {
        return source_link_error(source, rv, "");
    }
    if (rv != 0) {
        char notice[MIGRATION_NOTICE_SIZE];
        (void)snprintf(notice, sizeof(notice), "over TCP: %.*s", MIGRATION_NOTICE_SIZE - 12,
                       err.text);
        notice_set(source, notice);
        return 0;
    }
    source->over_rdma = true;
    struct migration_status *status = status_board_lock(&source->board);
    status->over_rdma = true;
    status_board_unlock(&source->board);
    config->streams = config->streams != 0 ? config->streams : config->link_count;
    for (unsigned i = 0; i < config->link_count; i++) {
        cleanup_fd(&config->link_fds[i]);
    }
    config->link_count = 0;
    return 0;
}

static int control_open(struct migration_source *source)
{
    const struct migration_source_config *config = &source->config;
    int rv = rdma_open(source);
    rv = rv != 0 || source->over_rdma ? rv : link_open(source, 0, &source->link);
    if (rv != 0) {
        return rv;
    }
    rv = stream_out_init(&source->out, source->link, config->times.idle_ms);
    source->out.pace = &source->pace;
    rv = rv != 0 ? rv : stream_in_init(&source->in, source->link);
    rv = rv != 0 ? rv : pages_init(&source->pages, config->guest);
    if (rv != 0) {
        return error_set(&source->err, rv, "out of memory");
    }
    struct migration_status *status = status_board_lock(&source->board);
    status->bytes_total = pages_total_bytes(&source->pages);
    status->bytes_remaining = status->bytes_total;
    status_board_unlock(&source->board);
    return 0;
}

static int hello_send(struct migration_source *source, uint64_t session,
                      struct buffer *config)
{
    struct migration_guest *guest = source->config.guest;
    struct wire_hello hello = {
        .version_min = WIRE_VERSION_OLDEST,
        .version_max = WIRE_VERSION,
        .vm_id = source->config.vm_id,
        .epoch = source->config.epoch,
        .session = session,
        .region_count = source->pages.region_count,
    };
    int rv = guest->ops->config_save(guest, config);
    if (rv != 0) {
        return error_set(&source->err, rv, "can't describe the machine: %s",
                         err_text(rv));
    }
    hello.config = config->data;
    hello.config_size = config->size;
    for (unsigned i = 0; i < hello.region_count; i++) {
        hello.regions[i].gpa = source->pages.regions[i].where.gpa;
        hello.regions[i].size_bytes = source->pages.regions[i].where.size_bytes;
    }
    CLEANUP(buffer_done) struct buffer frame = {0};
    rv = wire_hello_encode(&frame, &hello);
    if (rv != 0) {
        return error_set(&source->err, rv, "can't describe the machine: %s",
                         err_text(rv));
    }
    rv = stream_out_frames(&source->out, &frame, NULL);
    return rv != 0 ? source_link_error(source, rv, "saying hello") : 0;
}

/* The data streams up to `count` streams in all. */
static int data_open(struct migration_source *source, uint64_t session, unsigned count)
{
    for (unsigned i = 1; i < count; i++) {
        struct transport_link *link = NULL;
        int rv = link_open(source, i, &link);
        if (rv != 0) {
            return rv;
        }
        rv = streams_add(&source->streams, link, session, source_patience_ms(source),
                         &source->pace);
        if (rv != 0) {
            return source_link_error(source, rv, "opening a stream");
        }
    }
    return 0;
}

static int accept_expect(struct migration_source *source, struct wire_accept *ret_accept)
{
    const uint8_t *payload;
    size_t size;
    int rv = source_expect(source, WIRE_ACCEPT, source_patience_ms(source), 0,
                           "saying hello", &payload, &size);
    if (rv != 0) {
        return rv;
    }
    *ret_accept = (struct wire_accept){0};
    rv = wire_accept_decode(payload, size, ret_accept);
    if (rv != 0 || ret_accept->version < WIRE_VERSION_OLDEST ||
        ret_accept->version > WIRE_VERSION) {
        return error_set(&source->err, DROVER_EVERSION,
                         "the target speaks version %u, this side %u to %u",
                         ret_accept->version, WIRE_VERSION_OLDEST, WIRE_VERSION);
    }
    return 0;
}

static int streams_say(struct migration_source *source, unsigned count)
{
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_streams_encode(&frame, count);
    rv = rv != 0 ? rv : stream_out_frames(&source->out, &frame, NULL);
    return rv != 0 ? source_link_error(source, rv, "opening the streams") : 0;
}

/* Where pages are not written straight into the target's memory. */
static int coders_make(struct migration_source *source)
{
    enum compress_mode mode = source->config.compress;
    uint64_t bytes = pages_total_bytes(&source->pages) / SENT_SHARE;
    if (mode == COMPRESS_NEVER || source->version < WIRE_VERSION_STREAMS ||
        source->placing) {
        return 0;
    }
    int rv = compress_cache_create(bytes < SENT_BYTES_MAX ? bytes : SENT_BYTES_MAX,
                                   &source->sent);
    rv = rv != 0 ? rv : compress_coder_create(source->sent, mode, &source->out.coder);
    return rv != 0 ? rv : streams_compress(&source->streams, source->sent, mode);
}

/* What was agreed on: how many streams there are, and what goes over them. */
static int streams_agree(struct migration_source *source, uint64_t session,
                         const struct wire_accept *accept)
{
    const struct migration_source_config *config = &source->config;
    unsigned wanted = config->link_count != 0 ? config->link_count : config->streams;
    unsigned count = wanted < accept->streams_max ? wanted : accept->streams_max;
    count = count == 0 ? 1 : count;
    source->version = accept->version;
    source->pages.page_checks = accept->version >= WIRE_VERSION_STREAMS;
    int rv = accept->version >= WIRE_VERSION_STREAMS ? streams_say(source, count) : 0;
    if (rv == 0 && config->link_count == 0) {
        rv = data_open(source, session, count);
    }
    if (rv != 0) {
        return rv;
    }
    source->out.places = placing_begin(source->link, config->guest, false);
    source->out.places_ask = source->out.places;
    source->placing =
        source->out.places + streams_place(&source->streams, config->guest);
    if (source->placing != 0) {
        /* What a device has registered can't be made absent. */
        source->plan.goals.postcopy = MIGRATION_POSTCOPY_NEVER;
        if (config->postcopy == MIGRATION_POSTCOPY_NOW) {
            notice_set(source, "no post-copy over RDMA");
        }
    }
    rv = coders_make(source);
    if (rv != 0) {
        return error_set(&source->err, rv, "out of memory");
    }
    rv = streams_start(&source->streams, count - 1);
    if (rv != 0) {
        return error_set(&source->err, rv, "can't start a thread: %s", err_text(rv));
    }
    struct migration_status *status = status_board_lock(&source->board);
    status->streams = count;
    status_board_unlock(&source->board);
    return 0;
}

int source_connect(struct migration_source *source)
{
    CLEANUP(buffer_done) struct buffer config = {0};
    struct wire_accept accept;
    uint64_t session = 0;
    int rv = control_open(source);
    if (rv == 0) {
        rv = id_random_bytes(&session, sizeof(session));
        rv = rv != 0 ? error_set(&source->err, rv, "no random number: %s", err_text(rv))
                     : 0;
    }
    source->postcopy.session = session;
    uint64_t sent_ns = clock_now_ns();
    rv = rv != 0 ? rv : hello_send(source, session, &config);
    /* Connections that are there already are told apart by the target at once, whichever
     * reaches it first. */
    rv = rv != 0 ? rv : data_open(source, session, source->config.link_count);
    rv = rv != 0 ? rv : accept_expect(source, &accept);
    if (rv != 0) {
        return rv;
    }
    source->round_trip_us = (clock_now_ns() - sent_ns) / NS_PER_US;
    return streams_agree(source, session, &accept);
}
