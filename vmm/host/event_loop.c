/* SPDX-License-Identifier: Apache-2.0 */
/* The epoll loop: descriptors, timers (a timerfd each), and calls posted by other
 * threads. */
#include "vmm/host/event_loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"

#define EVENTS_PER_WAIT 16

struct event_source {
    struct event_loop *loop;
    int fd;
    bool owns_fd; /* a timer's */
    bool removed; /* freed when the present round of handlers is over */
    event_handler handler;
    event_timer_handler timer_handler;
    void *owner;
    struct event_source *next; /* of all, or of the removed */
    struct event_source *previous;
};

struct event_post {
    event_timer_handler handler;
    void *owner;
    struct event_post *next;
};

struct event_loop {
    int epoll_fd;
    int wake_fd;
    bool stopped;             /* under lock */
    pthread_mutex_t lock;     /* of the posts */
    struct event_post *posts; /* oldest first */
    struct event_post **posts_end;
    struct event_source *sources; /* loop's thread only, as is the rest */
    struct event_source *removed;
};

int event_loop_create(struct event_loop **ret_loop)
{
    CLEANUP(cleanup_fd) int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    CLEANUP(cleanup_fd) int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (epoll_fd < 0 || wake_fd < 0) {
        return -errno;
    }
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = NULL}};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, wake_fd, &event) < 0) {
        return -errno;
    }
    struct event_loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL) {
        return -ENOMEM;
    }
    CHECK(pthread_mutex_init(&loop->lock, NULL) == 0);
    loop->epoll_fd = take_fd(&epoll_fd);
    loop->wake_fd = take_fd(&wake_fd);
    loop->posts_end = &loop->posts;
    *ret_loop = loop;
    return 0;
}

static void source_free(struct event_source *source)
{
    if (source->owns_fd) {
        cleanup_fd(&source->fd);
    }
    free(source);
}

static void removed_free(struct event_loop *loop)
{
    while (loop->removed != NULL) {
        struct event_source *source = loop->removed;
        loop->removed = source->next;
        source_free(source);
    }
}

void event_loop_free(struct event_loop *loop)
{
    if (loop == NULL) {
        return;
    }
    removed_free(loop);
    while (loop->sources != NULL) {
        struct event_source *source = loop->sources;
        loop->sources = source->next;
        source_free(source);
    }
    while (loop->posts != NULL) {
        struct event_post *post = loop->posts;
        loop->posts = post->next;
        free(post);
    }
    cleanup_fd(&loop->epoll_fd);
    cleanup_fd(&loop->wake_fd);
    (void)pthread_mutex_destroy(&loop->lock); /* nobody uses it any more */
    free(loop);
}

static void wake(struct event_loop *loop)
{
    uint64_t one = 1;
    /* Fails only when the counter is full, and then the loop is awake anyway. */
    ssize_t written = write(loop->wake_fd, &one, sizeof(one));
    (void)written;
}

void event_loop_stop(struct event_loop *loop)
{
    CHECK(pthread_mutex_lock(&loop->lock) == 0);
    loop->stopped = true;
    CHECK(pthread_mutex_unlock(&loop->lock) == 0);
    wake(loop);
}

int event_loop_post(struct event_loop *loop, event_timer_handler handler, void *owner)
{
    CHECK(handler != NULL);
    struct event_post *post = malloc(sizeof(*post));
    if (post == NULL) {
        return -ENOMEM;
    }
    *post = (struct event_post){.handler = handler, .owner = owner};
    CHECK(pthread_mutex_lock(&loop->lock) == 0);
    *loop->posts_end = post;
    loop->posts_end = &post->next;
    CHECK(pthread_mutex_unlock(&loop->lock) == 0);
    wake(loop);
    return 0;
}

static bool posts_run(struct event_loop *loop)
{
    uint64_t count = 0;
    ssize_t got = read(loop->wake_fd, &count, sizeof(count));
    (void)got; /* EAGAIN: somebody else's wake was read before */
    CHECK(pthread_mutex_lock(&loop->lock) == 0);
    struct event_post *post = loop->posts;
    loop->posts = NULL;
    loop->posts_end = &loop->posts;
    bool stopped = loop->stopped;
    CHECK(pthread_mutex_unlock(&loop->lock) == 0);
    while (post != NULL) {
        struct event_post *next = post->next;
        post->handler(post->owner);
        free(post);
        post = next;
    }
    return stopped;
}

static void source_dispatch(struct event_source *source, uint32_t epoll_events)
{
    if (source->removed) {
        return;
    }
    if (source->timer_handler != NULL) {
        uint64_t expirations = 0;
        if (read(source->fd, &expirations, sizeof(expirations)) == sizeof(expirations)) {
            source->timer_handler(source->owner);
        }
        return;
    }
    source->handler(source->owner, epoll_events);
}

int event_loop_run(struct event_loop *loop)
{
    bool stopped = false;
    while (!stopped) {
        struct epoll_event events[EVENTS_PER_WAIT];
        int count = epoll_wait(loop->epoll_fd, events, EVENTS_PER_WAIT, -1);
        if (count < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL) {
                stopped = posts_run(loop);
            } else {
                source_dispatch(events[i].data.ptr, events[i].events);
            }
        }
        removed_free(loop);
    }
    CHECK(pthread_mutex_lock(&loop->lock) == 0);
    loop->stopped = false; /* so that it can be run again */
    CHECK(pthread_mutex_unlock(&loop->lock) == 0);
    return 0;
}

static int source_add(struct event_loop *loop, const struct event_source *config,
                      uint32_t events, struct event_source **ret_source)
{
    struct event_source *source = malloc(sizeof(*source));
    if (source == NULL) {
        return -ENOMEM;
    }
    *source = *config;
    source->loop = loop;
    struct epoll_event event = {.events = events, .data = {.ptr = source}};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &event) < 0) {
        int result = -errno;
        free(source);
        return result;
    }
    source->previous = NULL;
    source->next = loop->sources;
    if (source->next != NULL) {
        source->next->previous = source;
    }
    loop->sources = source;
    *ret_source = source;
    return 0;
}

int event_loop_add(struct event_loop *loop, int fd, uint32_t events,
                   event_handler handler, void *owner, struct event_source **ret_source)
{
    CHECK(handler != NULL);
    struct event_source config = {.fd = fd, .handler = handler, .owner = owner};
    return source_add(loop, &config, events, ret_source);
}

int event_loop_modify(struct event_source *source, uint32_t events)
{
    CHECK(!source->removed);
    struct epoll_event event = {.events = events, .data = {.ptr = source}};
    return epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event) < 0
               ? -errno
               : 0;
}

void event_loop_remove(struct event_source *source)
{
    if (source == NULL) {
        return;
    }
    CHECK(!source->removed);
    struct event_loop *loop = source->loop;
    /* Fails when the owner has closed the descriptor already, which took it out as well.
     */
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    source->removed = true;
    if (source->previous != NULL) {
        source->previous->next = source->next;
    } else {
        loop->sources = source->next;
    }
    if (source->next != NULL) {
        source->next->previous = source->previous;
    }
    source->next = loop->removed;
    loop->removed = source;
}

int event_loop_timer_create(struct event_loop *loop, event_timer_handler handler,
                            void *owner, struct event_source **ret_timer)
{
    CHECK(handler != NULL);
    CLEANUP(cleanup_fd)
    int fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0) {
        return -errno;
    }
    struct event_source config = {
        .fd = fd, .owns_fd = true, .timer_handler = handler, .owner = owner};
    int result = source_add(loop, &config, EPOLLIN, ret_timer);
    if (result == 0) {
        (void)take_fd(&fd); /* the source's now */
    }
    return result;
}

int event_loop_timer_set(struct event_source *timer, uint64_t at_ns)
{
    CHECK(timer->timer_handler != NULL && !timer->removed);
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_ns / NS_PER_S),
                                           .tv_nsec = (long)(at_ns % NS_PER_S)}};
    return timerfd_settime(timer->fd, TFD_TIMER_ABSTIME, &when, NULL) < 0 ? -errno : 0;
}
