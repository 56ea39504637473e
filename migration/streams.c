/* SPDX-License-Identifier: Apache-2.0 */
/* The source's data streams. */
#include "migration/streams.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/pages.h"
#include "migration/placing.h"

#define STACK_BYTES (256u * 1024u)

static void lock(struct streams *set)
{
    CHECK(pthread_mutex_lock(&set->lock) == 0);
}

static void unlock(struct streams *set)
{
    CHECK(pthread_mutex_unlock(&set->lock) == 0);
}

/* Locked. Until something has changed, or `wait_ms` are over. */
static void wait_changed(struct streams *set, uint32_t wait_ms)
{
    struct timespec until;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    uint64_t until_ns = (uint64_t)until.tv_nsec + wait_ms * NS_PER_MS;
    until.tv_sec += (time_t)(until_ns / NS_PER_S);
    until.tv_nsec = (long)(until_ns % NS_PER_S);
    int rv = pthread_cond_timedwait(&set->changed, &set->lock, &until);
    CHECK(rv == 0 || rv == ETIMEDOUT);
}

int streams_init(struct streams *set, struct pages *pages, int cancel_fd,
                 uint32_t keepalive_ms)
{
    memset(set, 0, sizeof(*set));
    set->pages = pages;
    set->cancel_fd = cancel_fd;
    set->keepalive_ms = keepalive_ms;
    pthread_condattr_t attributes;
    int rv = -pthread_condattr_init(&attributes);
    if (rv != 0) {
        return rv;
    }
    CHECK(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    rv = -pthread_cond_init(&set->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes); /* can't fail */
    if (rv != 0) {
        return rv;
    }
    rv = -pthread_mutex_init(&set->lock, NULL);
    if (rv != 0) {
        (void)pthread_cond_destroy(&set->changed); /* nobody waits */
    }
    return rv;
}

void streams_done(struct streams *set)
{
    streams_stop(set);
    (void)pthread_cond_destroy(&set->changed); /* the threads are gone */
    (void)pthread_mutex_destroy(&set->lock);
}

static int say_join(struct stream_out *out, uint64_t session, unsigned index)
{
    CLEANUP(buffer_done) struct buffer frame = {0};
    struct wire_join join = {.session = session, .index = index};
    int rv = wire_join_encode(&frame, &join);
    return rv != 0 ? rv : stream_out_frames(out, &frame, NULL);
}

int streams_add(struct streams *set, struct transport_link *link, uint64_t session,
                uint32_t idle_ms, struct pace *pace)
{
    CHECK(set->count + 1 < MIGRATION_STREAMS_MAX);
    struct streams_data *data = &set->data[set->count];
    *data = (struct streams_data){.set = set, .link = link};
    set->count++;
    int rv = stream_out_init(&data->out, link, idle_ms);
    data->out.pace = pace;
    return rv != 0 ? rv : say_join(&data->out, session, set->count);
}

int streams_compress(struct streams *set, struct compress_cache *cache,
                     enum compress_mode mode)
{
    int rv = 0;
    for (unsigned i = 0; i < set->count && rv == 0; i++) {
        rv = compress_coder_create(cache, mode, &set->data[i].out.coder);
    }
    return rv;
}

/* ---- a stream's thread ------------------------------------------------------------- */

static int round_end_say(struct stream_out *out, uint32_t number)
{
    CLEANUP(buffer_done) struct buffer frame = {0};
    struct wire_round round = {.round = number, .bytes = out->bytes_sent};
    int rv = wire_round_encode(&frame, WIRE_ROUND_END, &round);
    rv = rv != 0 ? rv : stream_out_mark(out, number);
    return rv != 0 ? rv : stream_out_frames(out, &frame, NULL);
}

/* Between extents: whether it is still wanted. */
static int still_wanted(void *owner)
{
    struct streams_data *data = owner;
    lock(data->set);
    bool wanted = data->set->error == 0 && data->set->order != STREAMS_QUIT;
    unlock(data->set);
    return wanted ? stream_out_keepalive(&data->out, data->set->keepalive_ms / 2)
                  : DROVER_ECANCELLED;
}

static int carry_out(struct streams_data *data, enum streams_order order, uint32_t round)
{
    struct streams *set = data->set;
    if (order == STREAMS_END) {
        return stream_out_plain(&data->out, WIRE_STREAM_END);
    }
    int rv = pages_deal(set->pages, &data->out, false, still_wanted, data);
    return rv != 0 ? rv : round_end_say(&data->out, round);
}

/* Locked; unlocked while it is carried out. True if more may come. */
static bool order_take(struct streams_data *data, uint64_t *seen)
{
    struct streams *set = data->set;
    enum streams_order order = set->order;
    uint32_t round = set->round;
    bool is_new = set->order_number != *seen;
    *seen = set->order_number;
    if (order == STREAMS_QUIT || set->error != 0) {
        return false;
    }
    data->out.idle_ms = set->idle_ms;
    unlock(set);
    int rv = is_new ? carry_out(data, order, round)
                    : stream_out_keepalive(&data->out, set->keepalive_ms / 2);
    lock(set);
    if (rv != 0 && set->error == 0) {
        set->error = rv;
        (void)eventfd_write(set->cancel_fd, 1); /* full means that it is readable */
    }
    set->busy -= is_new ? 1 : 0;
    (void)pthread_cond_broadcast(&set->changed); /* can't fail */
    return rv == 0 && order != STREAMS_END;
}

static void *data_main(void *owner)
{
    struct streams_data *data = owner;
    struct streams *set = data->set;
    uint64_t seen = 0;
    lock(set);
    do {
        if (set->order_number == seen && set->error == 0) {
            wait_changed(set, set->keepalive_ms / 4);
        }
    } while (order_take(data, &seen));
    unlock(set);
    return NULL;
}

/* ---- the engine's thread ----------------------------------------------------------- */

static void data_close(struct streams_data *data)
{
    stream_out_done(&data->out);
    transport_link_close(data->link);
    data->link = NULL;
}

unsigned streams_place(struct streams *set, struct migration_guest *guest)
{
    unsigned count = 0;
    for (unsigned i = 0; i < set->count; i++) {
        struct stream_out *out = &set->data[i].out;
        out->places = placing_begin(out->link, guest, false);
        out->places_ask = out->places;
        count += out->places;
    }
    return count;
}

int streams_start(struct streams *set, unsigned count)
{
    while (set->count > count) {
        set->count--;
        data_close(&set->data[set->count]);
    }
    pthread_attr_t attributes;
    int rv = -pthread_attr_init(&attributes);
    if (rv != 0) {
        return rv;
    }
    CHECK(pthread_attr_setstacksize(&attributes, STACK_BYTES) == 0);
    for (unsigned i = 0; i < set->count && rv == 0; i++) {
        struct streams_data *data = &set->data[i];
        rv = -pthread_create(&data->thread, &attributes, data_main, data);
        data->started = rv == 0;
    }
    (void)pthread_attr_destroy(&attributes); /* can't fail */
    return rv;
}

static void order_give(struct streams *set, enum streams_order order)
{
    set->order = order;
    set->order_number++;
    set->busy = set->count;
    (void)pthread_cond_broadcast(&set->changed); /* can't fail */
}

void streams_round(struct streams *set, uint32_t round, uint32_t idle_ms)
{
    lock(set);
    set->round = round;
    set->idle_ms = idle_ms;
    order_give(set, STREAMS_ROUND);
    unlock(set);
}

int streams_wait(struct streams *set, uint32_t wait_ms)
{
    lock(set);
    if (set->busy != 0 && set->error == 0) {
        wait_changed(set, wait_ms);
    }
    int rv = set->error != 0 ? set->error : set->busy != 0 ? -EAGAIN : 0;
    unlock(set);
    return rv;
}

void streams_end(struct streams *set)
{
    lock(set);
    order_give(set, STREAMS_END);
    unlock(set);
}

int streams_error(struct streams *set)
{
    lock(set);
    int rv = set->error;
    unlock(set);
    return rv;
}

void streams_stop(struct streams *set)
{
    if (set->count == 0) {
        return;
    }
    lock(set);
    order_give(set, STREAMS_QUIT);
    unlock(set);
    (void)eventfd_write(set->cancel_fd, 1); /* full means that it is readable */
    for (unsigned i = 0; i < set->count; i++) {
        struct streams_data *data = &set->data[i];
        if (data->started) {
            CHECK(pthread_join(data->thread, NULL) == 0);
            data->started = false;
        }
        data_close(data);
    }
    set->count = 0;
}

uint64_t streams_bytes_placed(const struct streams *set)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < set->count; i++) {
        sum += atomic_load(&set->data[i].out.bytes_placed);
    }
    return sum;
}

uint64_t streams_bytes_sent(const struct streams *set)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < set->count; i++) {
        sum += atomic_load(&set->data[i].out.bytes_sent);
    }
    return sum;
}
