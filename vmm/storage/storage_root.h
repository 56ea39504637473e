/* SPDX-License-Identifier: Apache-2.0 */
/* The file system that a jailed storage daemon sees: what its program needs to run, the
 * files that it is to open, one folder for its socket, and nothing else. */
#ifndef DROVER_VMM_STORAGE_ROOT_H
#define DROVER_VMM_STORAGE_ROOT_H

#include <sys/types.h>

struct storage_chain;

/*
 * Of a process with one thread, as root, in a mount namespace of its own, which it leaves
 * nothing else in. All is read-only but `folder` and what the chain says; files are where
 * they are on the host. -errno.
 */
int storage_root_make(const char *program, const struct storage_chain *files,
                      const char *folder, uid_t uid);

/*
 * Of the process that is to be the daemon, without new privileges: from then on it can
 * open for writing what is writable only, devices included, for which a read-only mount
 * is none. Kernels without Landlock do without. -errno.
 */
int storage_root_guard(const struct storage_chain *files, const char *folder);

#endif
