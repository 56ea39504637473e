/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a snapshot's manifest says (proto/snapshot.proto), judged. Pure but for the look at the disks.
 */
#ifndef DROVER_VMM_MOVE_SNAPSHOT_MANIFEST_H
#define DROVER_VMM_MOVE_SNAPSHOT_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"

struct buffer;
struct error;

#define SNAPSHOT_REGIONS_MAX    8
#define SNAPSHOT_MANIFEST_BYTES (256u * 1024u)
#define SNAPSHOT_STATE_BYTES    (64u * 1024u * 1024u)
#define SNAPSHOT_MACHINE_BYTES  (64u * 1024u)

/* The files of a snapshot's folder, in the order in which they go with an order. */
enum snapshot_file {
    SNAPSHOT_FILE_MEMORY,
    SNAPSHOT_FILE_PAGES,
    SNAPSHOT_FILE_STATE,
    SNAPSHOT_FILE_MANIFEST,
    SNAPSHOT_FILES,
};
#define SNAPSHOT_NAME_MEMORY     "memory"
#define SNAPSHOT_NAME_PAGES      "pages"
#define SNAPSHOT_NAME_STATE      "state"
#define SNAPSHOT_NAME_MANIFEST   "manifest"
#define SNAPSHOT_NAME_TEMPORARY  "manifest.part" /* until all is whole */
#define SNAPSHOT_NAME_INCOMPLETE "INCOMPLETE"

struct snapshot_disk {
    char path[LIMIT_PATH_SIZE];
    uint64_t size_bytes;
    int64_t changed_ns; /* 0: a block device */
    bool known;         /* it is a file or device of this host */
};

struct snapshot_manifest {
    int64_t taken_ns;
    uint64_t vm_id;
    uint64_t epoch;
    unsigned region_count;
    struct {
        uint64_t gpa;
        uint64_t size_bytes;
    } regions[SNAPSHOT_REGIONS_MAX];
    uint32_t pages_crc;
    uint32_t state_crc;
    uint64_t state_size;
    uint8_t *machine; /* a packed MachineConfig; freed by done */
    size_t machine_size;
    unsigned disk_count;
    struct snapshot_disk disks[LIMIT_VM_DISKS];
};

void snapshot_manifest_done(struct snapshot_manifest *manifest);
/* Appends the whole file. */
int snapshot_manifest_encode(const struct snapshot_manifest *manifest,
                             struct buffer *out);
/* Of a whole file. Hostile input. After an error there is nothing to free. */
int snapshot_manifest_decode(const uint8_t *data, size_t size,
                             struct snapshot_manifest *ret_manifest, struct error *err);
/* Pages of all regions. */
uint64_t snapshot_manifest_pages(const struct snapshot_manifest *manifest);

/* How the disk stands now; `fd` -1: not known. */
void snapshot_disk_look(const char *path, int fd, struct snapshot_disk *ret_disk);
/* 0 if `now` is what the guest left it as, as far as can be told. */
int snapshot_disk_compare(const struct snapshot_disk *then,
                          const struct snapshot_disk *now, struct error *err);

#endif
