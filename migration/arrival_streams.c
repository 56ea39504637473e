/* SPDX-License-Identifier: Apache-2.0 */
/* The target's data streams. */
#include "migration/arrival_streams.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "migration/arrival.h"
#include "migration/placing.h"

#define STACK_BYTES (256u * 1024u)
/* Connections that did not join, before the target gives up: somebody scans ports. */
#define STRANGERS_MAX 16u

static void lock(struct arrival_streams *set)
{
    CHECK(pthread_mutex_lock(&set->lock) == 0);
}

static void unlock(struct arrival_streams *set)
{
    CHECK(pthread_mutex_unlock(&set->lock) == 0);
}

int arrival_streams_init(struct arrival_streams *set, struct arrival *arrival,
                         const struct migration_times *times, int cancel_fd)
{
    memset(set, 0, sizeof(*set));
    set->arrival = arrival;
    set->times = *times;
    set->cancel_fd = cancel_fd;
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

void arrival_streams_done(struct arrival_streams *set)
{
    arrival_streams_stop(set);
    (void)pthread_cond_destroy(&set->changed); /* the threads are gone */
    (void)pthread_mutex_destroy(&set->lock);
}

/* ---- joining ----------------------------------------------------------------------- */

static void stream_close(struct arrival_stream *stream)
{
    stream_in_done(&stream->in);
    transport_link_close(stream->link);
    stream->link = NULL;
}

int arrival_streams_take(struct arrival_streams *set, const struct wire_join *join,
                         struct transport_link *link, struct stream_in *in)
{
    struct arrival_stream *place = NULL;
    for (unsigned i = 0; i < MIGRATION_STREAMS_MAX - 1; i++) {
        struct arrival_stream *stream = &set->streams[i];
        if (stream->link == NULL) {
            place = place == NULL ? stream : place;
        } else if (stream->join.session == join->session &&
                   stream->join.index == join->index) {
            return DROVER_ELIMIT;
        }
    }
    if (place == NULL) {
        return DROVER_ELIMIT;
    }
    memset(place, 0, sizeof(*place));
    place->set = set;
    place->join = *join;
    place->link = link;
    place->in = *in; /* with what was read ahead */
    in->data = NULL;
    set->count++;
    return 0;
}

void arrival_streams_keep(struct arrival_streams *set, uint64_t session)
{
    for (unsigned i = 0; i < MIGRATION_STREAMS_MAX - 1; i++) {
        struct arrival_stream *stream = &set->streams[i];
        if (stream->link != NULL && stream->join.session != session) {
            stream_close(stream);
            set->count--;
        }
    }
}

/* The next connection must say JOIN at once; 0 when it did, or was somebody else. */
static int next_join(struct arrival_streams *set, uint64_t session, uint64_t until_ms,
                     struct transport_listener *listener)
{
    struct transport_link *link = NULL;
    struct stream_in in;
    uint64_t now_ms = clock_now_ms();
    uint32_t wait_ms = now_ms >= until_ms ? 0 : (uint32_t)(until_ms - now_ms);
    int rv = listener->ops->accept(listener, set->cancel_fd, wait_ms, set->times.idle_ms,
                                   &link);
    if (rv != 0) {
        return rv;
    }
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    struct wire_join join;
    rv = stream_in_init(&in, link);
    if (rv == 0 &&
        stream_in_message(&in, set->times.standing_ms, until_ms, &type, &payload,
                          &size) == 0 &&
        type == WIRE_JOIN && wire_join_decode(payload, size, &join) == 0 &&
        join.session == session && arrival_streams_take(set, &join, link, &in) == 0) {
        return 0;
    }
    stream_in_done(&in);
    transport_link_close(link);
    return rv;
}

/* ---- a stream's thread ------------------------------------------------------------- */

static void round_ended(struct arrival_stream *stream, uint32_t round)
{
    lock(stream->set);
    stream->round = round;
    (void)pthread_cond_broadcast(&stream->set->changed); /* can't fail */
    unlock(stream->set);
}

/* Memory and ends of rounds, until the source says that nothing more comes. */
static int receive(struct arrival_stream *stream, struct error *err)
{
    struct arrival *arrival = stream->set->arrival;
    uint32_t idle_ms = stream->set->times.idle_ms;
    for (;;) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        struct wire_round round;
        int rv = stream_in_message(&stream->in, idle_ms, 0, &type, &payload, &size);
        if (rv != 0) {
            return error_set(err, rv, "receiving: %s", err_text(rv));
        }
        if (type == WIRE_EXTENT) {
            rv = arrival_extent(arrival, payload, size, &stream->in, false, idle_ms, err);
            if (rv != 0) {
                return rv;
            }
        } else if (type == WIRE_ROUND_END &&
                   wire_round_decode(payload, size, &round) == 0 &&
                   stream_in_round_ended(&stream->in, round.round)) {
            round_ended(stream, round.round);
        } else if (type == WIRE_STREAM_END) {
            return 0;
        } else {
            return error_set(err, DROVER_EMALFORMED,
                             "the source sent something out of turn on a data stream");
        }
    }
}

static void *stream_main(void *owner)
{
    struct arrival_stream *stream = owner;
    struct arrival_streams *set = stream->set;
    struct error err = {0};
    if (receive(stream, &err) != 0) {
        lock(set);
        set->err = set->err.code == 0 ? err : set->err;
        (void)pthread_cond_broadcast(&set->changed); /* can't fail */
        unlock(set);
        (void)eventfd_write(set->cancel_fd, 1); /* full means that it is readable */
    }
    return NULL;
}

/* ---- the engine's thread ----------------------------------------------------------- */

static int threads_start(struct arrival_streams *set)
{
    pthread_attr_t attributes;
    int rv = -pthread_attr_init(&attributes);
    if (rv != 0) {
        return rv;
    }
    CHECK(pthread_attr_setstacksize(&attributes, STACK_BYTES) == 0);
    for (unsigned i = 0; i < MIGRATION_STREAMS_MAX - 1 && rv == 0; i++) {
        struct arrival_stream *stream = &set->streams[i];
        if (stream->link != NULL) {
            stream->in.places =
                placing_begin(stream->link, set->arrival->guest, true);
            rv = -pthread_create(&stream->thread, &attributes, stream_main, stream);
            stream->started = rv == 0;
        }
    }
    (void)pthread_attr_destroy(&attributes); /* can't fail */
    return rv;
}

int arrival_streams_start(struct arrival_streams *set, unsigned count, uint64_t session,
                          struct transport_listener *listener, struct error *err)
{
    uint64_t until_ms = clock_now_ms() + set->times.connect_ms;
    unsigned strangers = 0;
    int rv = 0;
    while (rv == 0 && set->count < count && strangers < STRANGERS_MAX) {
        unsigned before = set->count;
        rv = next_join(set, session, until_ms, listener);
        strangers += set->count == before;
    }
    if (rv == 0 && set->count != count) {
        rv = DROVER_EMALFORMED;
    }
    if (rv != 0) {
        return error_set(err, rv, "waiting for the source's %u streams: %s", count + 1,
                         err_text(rv));
    }
    rv = threads_start(set);
    return rv != 0 ? error_set(err, rv, "can't start a thread: %s", err_text(rv)) : 0;
}

/* Locked. Until something has changed, or `wait_ms` are over. */
static void wait_changed(struct arrival_streams *set, uint32_t wait_ms)
{
    struct timespec until;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    uint64_t until_ns = (uint64_t)until.tv_nsec + wait_ms * NS_PER_MS;
    until.tv_sec += (time_t)(until_ns / NS_PER_S);
    until.tv_nsec = (long)(until_ns % NS_PER_S);
    int rv = pthread_cond_timedwait(&set->changed, &set->lock, &until);
    CHECK(rv == 0 || rv == ETIMEDOUT);
}

static bool all_ended(const struct arrival_streams *set, uint32_t round)
{
    for (unsigned i = 0; i < MIGRATION_STREAMS_MAX - 1; i++) {
        if (set->streams[i].link != NULL && set->streams[i].round != round) {
            return false;
        }
    }
    return true;
}

int arrival_streams_wait(struct arrival_streams *set, uint32_t round, uint32_t wait_ms,
                         struct error *err)
{
    lock(set);
    if (!all_ended(set, round) && set->err.code == 0) {
        wait_changed(set, wait_ms);
    }
    int rv = 0;
    if (set->err.code != 0) {
        *err = set->err;
        rv = err->code;
    } else if (!all_ended(set, round)) {
        rv = -EAGAIN;
    }
    unlock(set);
    return rv;
}

static void threads_join(struct arrival_streams *set)
{
    for (unsigned i = 0; i < MIGRATION_STREAMS_MAX - 1; i++) {
        if (set->streams[i].started) {
            CHECK(pthread_join(set->streams[i].thread, NULL) == 0);
            set->streams[i].started = false;
        }
    }
}

int arrival_streams_end(struct arrival_streams *set, struct error *err)
{
    threads_join(set); /* each ends within idle_ms, if only with an error */
    return arrival_streams_error(set, err);
}

unsigned arrival_streams_placing(const struct arrival_streams *set)
{
    unsigned count = 0;
    for (unsigned i = 0; i < MIGRATION_STREAMS_MAX - 1; i++) {
        count += set->streams[i].link != NULL && set->streams[i].in.places;
    }
    return count;
}

void arrival_streams_seal(struct arrival_streams *set)
{
    for (unsigned i = 0; i < MIGRATION_STREAMS_MAX - 1; i++) {
        struct arrival_stream *stream = &set->streams[i];
        CHECK(!stream->started); /* a link has one owner */
        if (stream->link != NULL && stream->in.places) {
            stream->link->ops->seal(stream->link);
        }
    }
}

int arrival_streams_error(struct arrival_streams *set, struct error *err)
{
    lock(set);
    int rv = set->err.code;
    if (rv != 0) {
        *err = set->err;
    }
    unlock(set);
    return rv;
}

void arrival_streams_stop(struct arrival_streams *set)
{
    if (set->count == 0) {
        return;
    }
    (void)eventfd_write(set->cancel_fd, 1); /* full means that it is readable */
    threads_join(set);
    for (unsigned i = 0; i < MIGRATION_STREAMS_MAX - 1; i++) {
        if (set->streams[i].link != NULL) {
            stream_close(&set->streams[i]);
        }
    }
    set->count = 0;
}

uint64_t arrival_streams_bytes(const struct arrival_streams *set)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < MIGRATION_STREAMS_MAX - 1; i++) {
        sum += atomic_load(&set->streams[i].in.bytes_received);
    }
    return sum;
}
