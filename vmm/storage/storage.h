/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks that a storage daemon serves: what they are, and what the VMM needs of whoever
 * runs the daemons. One daemon per disk: one that hangs (a server that does not answer)
 * holds up no other disk, and one that a hostile image has taken over has one image.
 */
#ifndef DROVER_VMM_STORAGE_STORAGE_H
#define DROVER_VMM_STORAGE_STORAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/jail/seccomp.h"

struct error;
struct storage_starter;

/* For all that opening or closing may wait for, but the death of a daemon. */
#define STORAGE_OPEN_MS 10000

enum storage_format {
    STORAGE_FORMAT_NONE, /* not said: raw */
    STORAGE_FORMAT_RAW,
    STORAGE_FORMAT_QCOW2,
    STORAGE_FORMAT_LUKS,
    STORAGE_FORMAT_VMDK,
    STORAGE_FORMAT_VDI,
    STORAGE_FORMAT_VHDX,
    STORAGE_FORMAT_COUNT,
};

/* Strings are borrowed for the daemon's life. */
struct storage_disk {
    const char *path; /* or nbd://HOST:PORT/NAME, nbd+unix:///NAME?socket=PATH */
    enum storage_format format;
    const char *key; /* file with the passphrase, NULL: none */
    bool read_only;
    bool direct;
    int lock_fd; /* > 0: of the VM; the daemon holds it until it is gone */
    /* The daemon's jail (storage_jail.h); else it runs with what rights its starter has. */
    bool jailed;
    uid_t jail_uid;
    enum seccomp_mode seccomp;
    struct storage_starter *starter; /* starts it; NULL: this process does. Borrowed */
};

/*
 * All block; one thread at a time for one disk. `index` counts the daemons' disks of the
 * VM from 0.
 */
struct storage_ops {
    /* The daemon stands, without the image. */
    int (*start)(void *owner, unsigned index, struct error *err);
    /* Has the image opened, by a daemon that is started if none stands, and gives a
     * connection that talks vhost-user. After `deadline_ms` (CLOCK_BOOTTIME) nothing is
     * written any more: what is not done then has failed, and the daemon is dead. */
    int (*open)(void *owner, unsigned index, uint64_t deadline_ms, int *ret_fd,
                struct error *err);
    /* All is written, and the image is free for others. After an error the daemon is
     * dead, and the image is free too, but what was not flushed is lost. */
    int (*close)(void *owner, unsigned index, uint64_t deadline_ms, struct error *err);
    /* Returns when the daemon is gone, with all of its I/O. */
    void (*kill)(void *owner, unsigned index);
};

/* "qcow2"; STORAGE_FORMAT_NONE for names that are none. */
enum storage_format storage_format_parse(const char *name);
const char *storage_format_name(enum storage_format format);
/* What the first bytes of an image say; RAW if nothing. */
enum storage_format storage_format_probe(const uint8_t *data, unsigned size);
#define STORAGE_PROBE_BYTES 4096u
/* True when the daemon itself holds back what was written: then its sudden death loses
 * writes that no flush has followed. */
bool storage_format_caches(enum storage_format format);
/* True for nbd:// and its like. */
bool storage_is_remote(const char *path);
/* True if such a disk needs a daemon. */
bool storage_needs_daemon(const char *path, enum storage_format format);

#endif
