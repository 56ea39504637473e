/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The side where a guest arrives. Everything that comes in is judged as hostile. The
 * target decides exactly once, whatever comes when: it obeys a go that came in time, or
 * the guest never runs here.
 */
#ifndef DROVER_MIGRATION_TARGET_H
#define DROVER_MIGRATION_TARGET_H

#include <stdint.h>

#include "migration/status.h"
#include "migration/times.h"
#include "migration/transport.h"

struct migration_guest;
struct migration_target;

struct migration_target_config {
    struct migration_guest *guest; /* borrowed until free; its memory is all zero */
    const char *uri;               /* where to listen; port 0: any */
    uint64_t vm_id;                /* 0: not run by a cluster */
    uint64_t epoch;                /* the next one: what comes must be older */
    struct migration_times times;
    /* On the engine's thread, after each change of state. May be NULL. */
    void (*changed)(void *owner);
    /* First thing on the engine's thread. May be NULL. */
    void (*begun)(void *owner);
    void *owner;
    const struct transport_ops *transport; /* NULL: the one that `uri` names */
    struct transport_listener *listener; /* NULL: one of `transport`; taken on success */
};

/* Listens; connections are served once started. -ENOMEM, -errno or DROVER_EBADINPUT, with
 * what to do. */
int migration_target_create(const struct migration_target_config *config,
                            struct migration_target **ret_target, struct error *err);
int migration_target_start(struct migration_target *target);
/* Where it listens, with the real port. */
void migration_target_uri(const struct migration_target *target,
                          char ret_uri[TRANSPORT_URI_SIZE]);
/* A connection, instead of those that it accepts itself: where `uri` is "handed:...". Takes
 * `fd` on success. DROVER_EWRONGSTATE, DROVER_ELIMIT. Any thread. */
int migration_target_give(struct migration_target *target, int fd);
/* 0: the guest will never run here. DROVER_EHANDEDOVER: it runs here. Any thread. */
int migration_target_abandon(struct migration_target *target);
/* Decided for never, be it that the engine has not come to tell. Any thread. */
bool migration_target_given_up(struct migration_target *target);
/* The guest ran here, and was lost in post-copy. Any thread. */
bool migration_target_guest_lost(struct migration_target *target);
/*
 * The source is gone for good. In post-copy whose link is lost the guest is lost with it:
 * the state becomes FAILED. DROVER_EWRONGSTATE else. Any thread.
 */
int migration_target_lost(struct migration_target *target);
void migration_target_status(struct migration_target *target,
                             struct migration_status *ret_status);
/* Abandons if it is not decided, and waits for the thread. NULL is fine. */
void migration_target_free(struct migration_target *target);

#endif
