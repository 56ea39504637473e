/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest: a frame of one message. */
#include "vmm/move/snapshot_manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "proto/frame.h"
#include "proto/snapshot.pb-c.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/state.h"

#define MANIFEST_VERSION 1u
/* 16 TiB: no sum of them overflows. */
#define REGION_BYTES_MAX (UINT64_C(1) << 44)

void snapshot_manifest_done(struct snapshot_manifest *manifest)
{
    free(manifest->machine);
    manifest->machine = NULL;
}

uint64_t snapshot_manifest_pages(const struct snapshot_manifest *manifest)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < manifest->region_count; i++) {
        bytes += manifest->regions[i].size_bytes;
    }
    return bytes / GUEST_PAGE_SIZE;
}

/* ---- encoding ---------------------------------------------------------------------- */

/* All that the message points to. */
struct parts {
    Drover__SnapshotRegion regions[SNAPSHOT_REGIONS_MAX];
    Drover__SnapshotRegion *region_pointers[SNAPSHOT_REGIONS_MAX];
    Drover__SnapshotDisk disks[LIMIT_VM_DISKS];
    Drover__SnapshotDisk *disk_pointers[LIMIT_VM_DISKS];
};

static void lists_fill(const struct snapshot_manifest *manifest, struct parts *parts,
                       Drover__SnapshotManifest *message)
{
    for (unsigned i = 0; i < manifest->region_count; i++) {
        drover__snapshot_region__init(&parts->regions[i]);
        parts->regions[i].gpa = manifest->regions[i].gpa;
        parts->regions[i].size_bytes = manifest->regions[i].size_bytes;
        parts->region_pointers[i] = &parts->regions[i];
    }
    for (unsigned i = 0; i < manifest->disk_count; i++) {
        const struct snapshot_disk *disk = &manifest->disks[i];
        drover__snapshot_disk__init(&parts->disks[i]);
        parts->disks[i].path = (char *)disk->path; /* only read */
        parts->disks[i].size_bytes = disk->size_bytes;
        parts->disks[i].changed_ns = disk->changed_ns;
        parts->disks[i].known = disk->known;
        parts->disk_pointers[i] = &parts->disks[i];
    }
    message->n_regions = manifest->region_count;
    message->regions = parts->region_pointers;
    message->n_disks = manifest->disk_count;
    message->disks = parts->disk_pointers;
}

int snapshot_manifest_encode(const struct snapshot_manifest *manifest, struct buffer *out)
{
    CHECK(manifest->region_count <= SNAPSHOT_REGIONS_MAX);
    CHECK(manifest->disk_count <= LIMIT_VM_DISKS);
    struct parts parts;
    Drover__SnapshotManifest message = DROVER__SNAPSHOT_MANIFEST__INIT;
    message.version = MANIFEST_VERSION;
    message.program_version = (char *)DROVER_VERSION; /* only read */
    message.taken_ns = manifest->taken_ns;
    message.vm_id = manifest->vm_id;
    message.epoch = manifest->epoch;
    message.machine.data = manifest->machine;
    message.machine.len = manifest->machine_size;
    message.pages_crc32c = manifest->pages_crc;
    message.state_crc32c = manifest->state_crc;
    message.state_size = manifest->state_size;
    lists_fill(manifest, &parts, &message);
    CLEANUP(buffer_done) struct buffer packed = {0};
    int rv = state_pack(&message.base, &packed);
    return rv != 0 ? rv
                   : frame_encode(out, FRAME_KIND_FILE, packed.data, packed.size,
                                  SNAPSHOT_MANIFEST_BYTES);
}

/* ---- decoding ---------------------------------------------------------------------- */

static int malformed(struct error *err, const char *what)
{
    return error_set(err, DROVER_EMALFORMED,
                     "the snapshot's manifest is malformed (%s): take another snapshot",
                     what);
}

static int lists_take(const Drover__SnapshotManifest *message,
                      struct snapshot_manifest *manifest, struct error *err)
{
    if (message->n_regions == 0 || message->n_regions > SNAPSHOT_REGIONS_MAX ||
        message->n_disks > LIMIT_VM_DISKS) {
        return malformed(err, "its lists");
    }
    for (size_t i = 0; i < message->n_regions; i++) {
        uint64_t size = message->regions[i]->size_bytes;
        if (size == 0 || size % GUEST_PAGE_SIZE != 0 || size > REGION_BYTES_MAX) {
            return malformed(err, "its memory");
        }
        manifest->regions[i].gpa = message->regions[i]->gpa;
        manifest->regions[i].size_bytes = size;
    }
    for (size_t i = 0; i < message->n_disks; i++) {
        const Drover__SnapshotDisk *from = message->disks[i];
        struct snapshot_disk *disk = &manifest->disks[i];
        int length = snprintf(disk->path, sizeof(disk->path), "%s", from->path);
        if (length < 0 || (size_t)length >= sizeof(disk->path)) {
            return malformed(err, "a disk's path");
        }
        disk->size_bytes = from->size_bytes;
        disk->changed_ns = from->changed_ns;
        disk->known = from->known != 0;
    }
    manifest->region_count = (unsigned)message->n_regions;
    manifest->disk_count = (unsigned)message->n_disks;
    return 0;
}

static int message_take(const Drover__SnapshotManifest *message,
                        struct snapshot_manifest *manifest, struct error *err)
{
    if (message->version != MANIFEST_VERSION) {
        return error_set(err, DROVER_EVERSION,
                         "the snapshot has version %u, this program reads %u: use the "
                         "drover-vmm that took it",
                         message->version, MANIFEST_VERSION);
    }
    if (message->state_size > SNAPSHOT_STATE_BYTES || message->machine.len == 0 ||
        message->machine.len > SNAPSHOT_MACHINE_BYTES) {
        return malformed(err, "its sizes");
    }
    manifest->taken_ns = message->taken_ns;
    manifest->vm_id = message->vm_id;
    manifest->epoch = message->epoch;
    manifest->pages_crc = message->pages_crc32c;
    manifest->state_crc = message->state_crc32c;
    manifest->state_size = message->state_size;
    int rv = lists_take(message, manifest, err);
    if (rv != 0) {
        return rv;
    }
    manifest->machine = malloc(message->machine.len);
    if (manifest->machine == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    memcpy(manifest->machine, message->machine.data, message->machine.len);
    manifest->machine_size = message->machine.len;
    return 0;
}

int snapshot_manifest_decode(const uint8_t *data, size_t size,
                             struct snapshot_manifest *ret_manifest, struct error *err)
{
    const struct buffer file = {.data = (uint8_t *)data, .size = size};
    const uint8_t *payload = NULL;
    size_t payload_size = 0;
    size_t frame_size = 0;
    int rv = frame_decode(&file, FRAME_KIND_FILE, SNAPSHOT_MANIFEST_BYTES, &payload,
                          &payload_size, &frame_size);
    if (rv == DROVER_EVERSION) {
        return error_set(err, rv, "the snapshot's manifest has a frame that this program "
                                  "does not know: use the drover-vmm that took it");
    }
    if (rv <= 0 || frame_size != size) {
        return error_set(err, DROVER_EMALFORMED,
                         "the snapshot's manifest is damaged or none: give the folder of "
                         "a snapshot");
    }
    Drover__SnapshotManifest *message =
        drover__snapshot_manifest__unpack(NULL, payload_size, payload);
    if (message == NULL) {
        return malformed(err, "it can't be decoded");
    }
    struct snapshot_manifest manifest = {0};
    rv = message_take(message, &manifest, err);
    drover__snapshot_manifest__free_unpacked(message, NULL);
    if (rv == 0) {
        *ret_manifest = manifest;
    }
    return rv;
}

/* ---- disks ------------------------------------------------------------------------- */

void snapshot_disk_look(const char *path, int fd, struct snapshot_disk *ret_disk)
{
    *ret_disk = (struct snapshot_disk){0};
    (void)snprintf(ret_disk->path, sizeof(ret_disk->path), "%s", path); /* fits */
    struct stat now;
    if (fd < 0 || fstat(fd, &now) != 0) {
        return;
    }
    if (S_ISBLK(now.st_mode)) {
        off_t end = lseek(fd, 0, SEEK_END);
        ret_disk->known = end > 0;
        ret_disk->size_bytes = end > 0 ? (uint64_t)end : 0;
    } else if (S_ISREG(now.st_mode)) {
        ret_disk->known = true;
        ret_disk->size_bytes = (uint64_t)now.st_size;
        ret_disk->changed_ns =
            now.st_mtim.tv_sec * (int64_t)NS_PER_S + now.st_mtim.tv_nsec;
    }
}

int snapshot_disk_compare(const struct snapshot_disk *then,
                          const struct snapshot_disk *now, struct error *err)
{
    if (!then->known || !now->known || then->changed_ns == 0 || now->changed_ns == 0) {
        return error_set(err, DROVER_ECONFLICT,
                         "nobody can tell whether disk %s was written since the snapshot: "
                         "if it was not, or was put back, add ,force",
                         now->path);
    }
    if (then->size_bytes != now->size_bytes) {
        return error_set(err, DROVER_ECONFLICT,
                         "disk %s has %" PRIu64 " bytes, had %" PRIu64
                         " at the snapshot: give the disk as it was then",
                         now->path, now->size_bytes, then->size_bytes);
    }
    if (then->changed_ns != now->changed_ns) {
        return error_set(err, DROVER_ECONFLICT,
                         "disk %s was written since the snapshot, and the guest would "
                         "destroy it: give a copy from then (cp -p), or add ,force",
                         now->path);
    }
    return 0;
}
