/* SPDX-License-Identifier: Apache-2.0 */
/* What the VM's log says of moves. */
#ifndef DROVER_VMM_MOVE_MIGRATE_LOG_H
#define DROVER_VMM_MOVE_MIGRATE_LOG_H

struct migration_round;
struct migration_status;
struct vm;

/* Of both sides, when it is over, with what that is called. */
void migrate_log_end(struct vm *vm, const char *what,
                     const struct migration_status *status);
/* Of the source: where the pause went, and what was foreseen; nothing if there was none. */
void migrate_log_pause(struct vm *vm, const struct migration_status *status);
/* Of the source: what a round took, and waited for. */
void migrate_log_round(struct vm *vm, const struct migration_round *round);

#endif
