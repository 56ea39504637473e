/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the jailed VMM may ask of its launcher, which still is outside.
 *
 * Before the jail, the VMM's process is root and has met nothing hostile: it opens all
 * that it is told to, as if there was no jail, and *allows* by broker_allow() the few
 * things that it can need later and that can't be opened now. Then it enters the jail,
 * which seals the list: from then on it can ask for an entry by its number, with one
 * number beside it, and for nothing else. No path, no address, no name ever comes out of
 * the jail. A VMM that asks for more is killed by its launcher.
 *
 * Without a jail the same calls are served inside the process.
 *
 * What does not come this way: descriptors that belong to an order of a control client (a
 * connection to the target of a move, the files of a snapshot). The client opens them and
 * sends them with its order: the VMM reaches just what its master gave it.
 */
#ifndef DROVER_VMM_JAIL_BROKER_H
#define DROVER_VMM_JAIL_BROKER_H

#include <stdint.h>
#include <sys/types.h>

#define BROKER_ENTRIES_MAX 128
#define BROKER_PATH_SIZE   1024

struct broker;
struct broker_list;
struct error;
struct jail_world;

enum broker_kind {
    /* broker_open() connects to the unix socket `path`: non-blocking, close-on-exec. */
    BROKER_UNIX_SOCKET = 1,
    /* The same with "PATH_N", where N is the argument in decimal (vsock). */
    BROKER_UNIX_SOCKET_PORT,
    /*
     * A file whose lock stands for a disk of a network file system. The argument is one
     * of enum broker_lock. A lock that is held by another is -EAGAIN.
     */
    BROKER_LOCK_FILE,
    /* Removed when the VMM is gone, however it went. Not to be opened. */
    BROKER_REMOVE_AT_END,
    /* Passed on to the storage daemons' keeper (broker_list.h, launcher.h). */
    BROKER_STORAGE,
    /* The gate that is on this tap (virtio/net_guard.h) is taken off when the VMM is
     * gone. Not to be opened. */
    BROKER_TAP_AT_END,
};

enum broker_lock {
    BROKER_LOCK_READ,  /* the open file, locked */
    BROKER_LOCK_WRITE, /* made if it is missing; the open file, locked */
    BROKER_LOCK_REMOVE /* no descriptor (-1) */
};

/*
 * Before the jail only. `path` is copied. DROVER_EWRONGSTATE after it, DROVER_ELIMIT if
 * the list is full or the path too long.
 */
int broker_allow(struct broker *broker, enum broker_kind kind, const char *path,
                 unsigned *ret_id);
/*
 * Any thread; waits for others' calls and for the launcher. `ret_fd` is -1 where the
 * entry gives none. -errno or DROVER_E*, with the launcher's line in `err` (may be NULL).
 */
int broker_open(struct broker *broker, unsigned id, uint32_t argument, int *ret_fd,
                struct error *err);

/* The VMM's pid as the host sees it: in the jail, getpid() is 1. Known once anything was
 * asked of the launcher, the seal at the latest. NULL: this process's. */
pid_t broker_host_pid(const struct broker *broker);
/* Readable (end of file) once the launcher is gone; -1 without a jail. */
int broker_fd(const struct broker *broker);

/* ---- for main.c and jail.c ------------------------------------------------------- */

/* Serves itself: there is no jail. */
int broker_create_local(struct broker **ret_broker);
/* Its list, to name a storage handler; NULL with a launcher, which has the list then. */
struct broker_list *broker_local_list(struct broker *broker);
/* The VMM's end of the launcher's socket pair. Takes `fd`. */
int broker_create(int fd, struct broker **ret_broker);
/* No more is allowed from here on. Once; the launcher gives the world that it has made.
 */
int broker_seal(struct broker *broker, struct jail_world *ret_world, struct error *err);
/* Without a jail, does now what is to be done at the end. NULL is fine. */
void broker_free(struct broker *broker);

#endif
