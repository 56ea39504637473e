/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What droverd keeps on disk beside raft's folder: STATE/identity, ca.pem, host.pem, host.key, and, only until the first command of a
 * new cluster is applied, ca.key. Files appear whole or not at all, mode 0600. Short and rare: blocks the loop.
 */
#ifndef DROVER_NODE_AGENT_STATE_DIR_H
#define DROVER_NODE_AGENT_STATE_DIR_H

#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"
#include "proto/run.pb-c.h"

struct buffer;
struct error;

#define STATE_DIR_IDENTITY    "identity"
#define STATE_DIR_CA          "ca.pem"
#define STATE_DIR_CA_KEY      "ca.key"
#define STATE_DIR_CERTIFICATE "host.pem"
#define STATE_DIR_KEY         "host.key"
#define STATE_DIR_RAFT        "raft"

struct state_dir {
    char path[LIMIT_PATH_SIZE];
    char ca_path[LIMIT_PATH_SIZE + 16];
    char certificate_path[LIMIT_PATH_SIZE + 16];
    char key_path[LIMIT_PATH_SIZE + 16];
    char raft_path[LIMIT_PATH_SIZE + 16];
    int lock_fd; /* private: held as long as this droverd lives */
};

/* Locks FOLDER/FILE until *ret_fd is closed: DROVER_EINUSE when another droverd has it. `option` names the folder. */
int state_dir_lock(const char *folder, const char *file, const char *option, int *ret_fd, struct error *err);
/* Makes the folder (0700) if need be and locks it: DROVER_EINUSE when another droverd has it. */
int state_dir_open(const char *path, struct state_dir *ret_dir, struct error *err);
void state_dir_close(struct state_dir *dir);

/* -ENOENT when there is none such. */
int state_dir_read(const struct state_dir *dir, const char *name, size_t size_max, struct buffer *ret_data,
                   struct error *err);
/* Durable when it returns 0; the former file is whole when it does not. */
int state_dir_write(const struct state_dir *dir, const char *name, const void *data, size_t size,
                    struct error *err);
/* No error if it is not there. */
int state_dir_remove(const struct state_dir *dir, const char *name, struct error *err);
/* Makes raft's folder. */
int state_dir_make_raft(const struct state_dir *dir, struct error *err);
/* Sets aside what belongs to a cluster that this host is no member of any more: moves it into STATE/removed */
int state_dir_retire(const struct state_dir *dir, struct error *err);

/* -ENOENT: this host is in no cluster. *ret_identity is to be freed with drover__host_identity__free_unpacked(). */
int state_dir_load_identity(const struct state_dir *dir, Drover__HostIdentity **ret_identity,
                            struct error *err);
int state_dir_save_identity(const struct state_dir *dir, const Drover__HostIdentity *identity,
                            struct error *err);

#endif
