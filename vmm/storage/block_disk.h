/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file or block device behind a virtual disk: opening, what it is like, its lock. The
 * lock keeps two VMMs of one host from one disk; that two hosts never run the same VM is
 * the cluster's to see to.
 */
#ifndef DROVER_VMM_STORAGE_BLOCK_DISK_H
#define DROVER_VMM_STORAGE_BLOCK_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/storage/storage.h"

struct broker;
struct error;

#define BLOCK_SECTOR_SIZE 512u
#define BLOCK_DISK_LOCK_MS                                                               \
    1000 /* a VMM that has just been killed may still have I/O under way */
#define BLOCK_DISK_ALIGN_MAX 4096u

/* Embedded by its device. Read only after open. */
struct block_disk {
    const char *path;
    int fd;
    int lock_fd; /* fd itself, or the host's lock file for disks on network file systems
                  */
    char *lock_path; /* of the lock file, or NULL */
    struct broker *broker; /* opens the lock file, from a jail; NULL: this process does */
    unsigned broker_id;
    bool read_only;
    bool direct;
    bool networked; /* a file on a network file system */
    bool locked;
    uint64_t size_bytes;
    uint32_t
        offset_align; /* of offsets and sizes: what the guest sees as its block size */
    uint32_t memory_align;
};

/* `path` is borrowed. Takes no lock. After an error nothing is open. */
int block_disk_open(struct block_disk *disk, const char *path, bool read_only,
                    bool direct, struct error *err);
/*
 * Only the lock of a file on a network file system, for who has it opened by another
 * process: block_disk_lock(), block_disk_unlock() and block_disk_close() are for it.
 */
int block_disk_guard(struct block_disk *disk, const char *path, bool read_only,
                     struct error *err);
/* Before a jail is closed: lock files are the broker's from here on. */
int block_disk_broker_set(struct block_disk *disk, struct broker *broker,
                          struct error *err);
/* What its beginning looks like; RAW also when it can't be read. */
enum storage_format block_disk_probe(const char *path);
/* True for a file that other hosts reach too. */
bool block_disk_is_networked(const char *path);
/* True if it can make holes. */
bool block_disk_discards(const struct block_disk *disk);
void block_disk_close(struct block_disk *disk);
/* DROVER_EINUSE after BLOCK_DISK_LOCK_MS of trying. What the host has cached of the disk
 * is forgotten. */
int block_disk_lock(struct block_disk *disk, struct error *err);
/* Another host sees then all that was written here. -errno, and then still locked. */
int block_disk_unlock(struct block_disk *disk, struct error *err);

#endif
