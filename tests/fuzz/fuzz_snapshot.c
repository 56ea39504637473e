/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot's folder is hostile input: its manifest and page map. First byte 0: the rest is the manifest's file as it is; 1: a
 * message, in a frame whose checksum is right; else: a page map, which is read with the right checksum and a wrong one.
 * fuzz-sources: migration/snapshot_map.c migration/crc32c.c
 */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "migration/snapshot_map.h"
#include "proto/frame.h"
#include "vmm/move/snapshot_manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void manifest_feed(const uint8_t *data, size_t size)
{
    struct snapshot_manifest manifest = {0};
    struct error err = {0};
    if (snapshot_manifest_decode(data, size, &manifest, &err) != 0) {
        CHECK(err.code != 0 && err.text[0] != '\0');
        return;
    }
    /* What was taken can be told again, and means the same. */
    struct snapshot_manifest again = {0};
    struct buffer file = {0};
    CHECK(snapshot_manifest_encode(&manifest, &file) == 0);
    CHECK(snapshot_manifest_decode(file.data, file.size, &again, &err) == 0);
    CHECK(snapshot_manifest_pages(&manifest) == snapshot_manifest_pages(&again));
    CHECK(manifest.machine_size == again.machine_size);
    for (unsigned i = 0; i < manifest.disk_count; i++) {
        (void)snapshot_disk_compare(&manifest.disks[i], &again.disks[i], &err);
    }
    snapshot_manifest_done(&again);
    snapshot_manifest_done(&manifest);
    buffer_done(&file);
}

static void map_feed(const uint8_t *data, size_t size)
{
    int fd = memfd_create("map", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    uint32_t crc = crc32c_pick()(0, data, size / 4 * 4);
    struct snapshot_map map;
    struct error err = {0};
    if (snapshot_map_read(&map, fd, size / 4, crc, &err) == 0) {
        CHECK(map.present_count <= map.page_count);
        snapshot_map_done(&map);
    }
    CHECK(snapshot_map_read(&map, fd, size / 4 + 1, crc, &err) < 0);
    CHECK(size < 4 || snapshot_map_read(&map, fd, size / 4, ~crc, &err) < 0);
    CHECK(close(fd) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    if (data[0] == 0) {
        manifest_feed(data + 1, size - 1);
    } else if (data[0] == 1) {
        struct buffer file = {0};
        CHECK(frame_encode(&file, FRAME_KIND_FILE, data + 1, size - 1,
                           SNAPSHOT_MANIFEST_BYTES) == 0);
        manifest_feed(file.data, file.size);
        buffer_done(&file);
    } else {
        map_feed(data + 1, size - 1);
    }
    return 0;
}
