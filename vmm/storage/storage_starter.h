/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process of the launcher's that keeps the rights to start storage daemons, which the
 * launcher gives up (seccomp.h): to clone, mount, change users, run a program. It hears
 * the launcher only, and is told nothing but which files a daemon is to see.
 */
#ifndef DROVER_VMM_STORAGE_STARTER_H
#define DROVER_VMM_STORAGE_STARTER_H

struct error;
struct storage_jail;
struct storage_jailed;
struct storage_starter;

/*
 * Forks it. Of `common` program, arguments, user, lock and filter mode hold for all
 * daemons. It dies with the calling thread.
 */
int storage_starter_create(const struct storage_jail *common,
                           struct storage_starter **ret_starter, struct error *err);
/* Returns when it is gone. NULL is fine. */
void storage_starter_free(struct storage_starter *starter);
/* As storage_jail_start(): the daemon is a child of the caller. `jail` differs from
 * `common` in files and network, and may have user 0. */
int storage_starter_start(struct storage_starter *starter,
                          const struct storage_jail *jail,
                          struct storage_jailed *ret_jailed, struct error *err);

#endif
