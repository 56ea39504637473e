/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the target's post-copy share. Not for others; engine's thread but
 * where said. */
#ifndef DROVER_MIGRATION_POSTCOPY_TARGET_INTERNAL_H
#define DROVER_MIGRATION_POSTCOPY_TARGET_INTERNAL_H

#include <pthread.h>

#include "base/check.h"
#include "migration/postcopy_target.h"

static inline void postcopy_lock(pthread_mutex_t *lock)
{
    CHECK(pthread_mutex_lock(lock) == 0);
}

static inline void postcopy_unlock(pthread_mutex_t *lock)
{
    CHECK(pthread_mutex_unlock(lock) == 0);
}

/* postcopy_target_pages.c */
/* From here on pages may be absent: whoever touches one waits, and a thread asks for it.
 */
int postcopy_missing_begin(struct postcopy_target *postcopy, struct error *err);
/* MISSING: makes these pages absent. Fills config.err. */
int postcopy_missing_take(struct postcopy_target *postcopy, const uint8_t *payload,
                          size_t size);
/* Any thread. */
uint64_t postcopy_missing_left(struct postcopy_target *postcopy);
/* A PAGES message, and the pages behind it. */
int postcopy_pages_take(struct postcopy_target *postcopy, const uint8_t *payload,
                        size_t size);
/* How far it is, for others to see; unless `now`, now and then only. */
void postcopy_pages_tell(struct postcopy_target *postcopy, bool now);
void postcopy_faults_stop(struct postcopy_target *postcopy);

/* postcopy_target_run.c */
/* The thread that loads the state waits for this one word. */
void postcopy_runner_decide(struct postcopy_target *postcopy, bool go);
void postcopy_runner_join(struct postcopy_target *postcopy);
/* Its start, and the wait for the go: 1 if that was obeyed. Fills config.err. */
int postcopy_runner_arrive(struct postcopy_target *postcopy, const uint8_t *payload,
                           size_t size);

/* postcopy_target_link.c */
/* Whole frames, if there is a link: who receives notices if it breaks. Any thread. */
int postcopy_link_send(struct postcopy_target *postcopy, const struct buffer *frames);
int postcopy_link_plain(struct postcopy_target *postcopy, enum wire_type type);
int postcopy_link_keepalive(struct postcopy_target *postcopy);
int postcopy_link_fetch(struct postcopy_target *postcopy, unsigned region, uint64_t page);
/* Nothing came for too long. */
bool postcopy_link_silent(struct postcopy_target *postcopy);
void postcopy_link_drop(struct postcopy_target *postcopy);
/* Until there is a link again: 0, or DROVER_ECANCELLED. */
int postcopy_link_wait(struct postcopy_target *postcopy);

#endif
