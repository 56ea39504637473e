/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots without KVM: the memory of a guest that writes meanwhile, the page map, the manifest, the folder. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/err.h"
#include "migration/snapshot_save.h"
#include "proto/unix_files.h"
#include "tests/unit/fake_guest.h"
#include "tests/unit/unit.h"
#include "vmm/move/snapshot_folder.h"
#include "vmm/move/snapshot_manifest.h"

#define PAGE MIGRATION_PAGE_SIZE

struct taken {
    struct fake_guest fake;
    int fd;
    atomic_bool cancel;
    struct buffer state;
    struct snapshot_map map;
    struct snapshot_figures figures;
    struct error err;
    bool stood; /* the guest stood when it was asked */
};

static int stands(void *owner, struct error *err)
{
    struct taken *taken = owner;
    (void)err;
    taken->stood = !fake_guest_runs(&taken->fake);
    return 0;
}

static int take(struct taken *taken, const struct fake_guest_config *guest)
{
    fake_guest_init(&taken->fake, guest, true);
    taken->fd = memfd_create("snapshot", MFD_CLOEXEC);
    assert_true(taken->fd >= 0);
    const struct snapshot_save_config config = {
        .guest = &taken->fake.guest,
        .memory_fd = taken->fd,
        .threads = 3,
        .drain_ms = 5000,
        .standing = stands,
        .owner = taken,
        .cancel = &taken->cancel,
    };
    return snapshot_save(&config, &taken->state, &taken->map, &taken->figures,
                         &taken->err);
}

static void taken_done(struct taken *taken)
{
    snapshot_map_done(&taken->map);
    buffer_done(&taken->state);
    fake_guest_done(&taken->fake);
    (void)close(taken->fd);
}

static const uint8_t zeros[PAGE];

/* Each page of the file is what its map says: holes are zero, others have their sum. */
static void assert_file_fits_map(struct taken *taken)
{
    struct stat file;
    assert_int_equal(fstat(taken->fd, &file), 0);
    assert_int_equal(file.st_size, taken->map.page_count * PAGE);
    uint8_t page[PAGE];
    for (uint64_t i = 0; i < taken->map.page_count; i++) {
        assert_int_equal(pread(taken->fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
        uint32_t sum = snapshot_map_get(&taken->map, i);
        if (sum == 0) {
            assert_memory_equal(page, zeros, PAGE);
        } else {
            assert_int_equal(snapshot_map_sum(&taken->map, page), sum);
        }
    }
}

static void test_memory_of_a_guest_that_stands_is_copied_exactly(void **state)
{
    (void)state;
    struct taken taken = {0};
    const struct fake_guest_config guest = {.page_count = 3000, .used_pages = 700};
    assert_int_equal(take(&taken, &guest), 0);
    assert_file_fits_map(&taken);
    assert_true(taken.stood);
    assert_int_equal(taken.fake.goes_on, 1);
    for (unsigned i = 0; i < 700; i++) {
        uint8_t page[PAGE];
        assert_int_equal(pread(taken.fd, page, PAGE, (off_t)i * PAGE), PAGE);
        assert_memory_equal(page, taken.fake.memory + (size_t)i * PAGE, PAGE);
    }
    assert_int_equal(taken.figures.pages_written, 700);
    taken_done(&taken);
}

static void test_memory_of_a_guest_that_writes_is_of_one_moment(void **state)
{
    (void)state;
    struct taken taken = {0};
    const struct fake_guest_config guest = {.page_count = 4000,
                                            .used_pages = 2000,
                                            .hot_pages = 300,
                                            .pages_per_second = 20000,
                                            .zeroes = true};
    assert_int_equal(take(&taken, &guest), 0);
    assert_file_fits_map(&taken);
    assert_true(taken.stood && taken.state.size > 0);
    assert_true(taken.figures.rounds >= 2);
    assert_true(fake_guest_runs(&taken.fake) || taken.fake.goes_on == 1);
    taken_done(&taken);
}

static void test_cancelled_snapshot_leaves_the_guest_running(void **state)
{
    (void)state;
    struct taken taken = {.cancel = true};
    const struct fake_guest_config guest = {.page_count = 3000, .used_pages = 1000};
    assert_int_equal(take(&taken, &guest), DROVER_ECANCELLED);
    assert_string_equal(taken.err.text, "cancelled");
    assert_null(taken.map.entries);
    assert_true(fake_guest_runs(&taken.fake));
    taken_done(&taken);
}

static void test_guest_that_does_not_stop_goes_on(void **state)
{
    (void)state;
    struct taken taken = {0};
    taken.fake.never_drains = true;
    const struct fake_guest_config guest = {.page_count = 500, .used_pages = 10};
    fake_guest_init(&taken.fake, &guest, true);
    taken.fake.never_drains = true;
    taken.fd = memfd_create("snapshot", MFD_CLOEXEC);
    const struct snapshot_save_config config = {.guest = &taken.fake.guest,
                                                .memory_fd = taken.fd,
                                                .threads = 1,
                                                .drain_ms = 20,
                                                .cancel = &taken.cancel};
    assert_int_equal(
        snapshot_save(&config, &taken.state, &taken.map, &taken.figures, &taken.err),
        DROVER_ETIMEDOUT2);
    assert_non_null(strstr(taken.err.text, "not drained"));
    assert_int_equal(taken.fake.goes_on, 1);
    taken_done(&taken);
}

static void test_file_that_can_not_be_written_is_told(void **state)
{
    (void)state;
    struct taken taken = {0};
    const struct fake_guest_config guest = {.page_count = 500, .used_pages = 10};
    fake_guest_init(&taken.fake, &guest, true);
    taken.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const struct snapshot_save_config config = {.guest = &taken.fake.guest,
                                                .memory_fd = taken.fd,
                                                .threads = 1,
                                                .drain_ms = 1000,
                                                .cancel = &taken.cancel};
    assert_true(
        snapshot_save(&config, &taken.state, &taken.map, &taken.figures, &taken.err) < 0);
    assert_true(taken.err.text[0] != '\0');
    taken_done(&taken);
}

static void test_page_map_is_read_only_whole(void **state)
{
    (void)state;
    struct snapshot_map map = {0};
    struct snapshot_map again = {0};
    struct error err = {0};
    int fd = memfd_create("map", MFD_CLOEXEC);
    assert_int_equal(snapshot_map_init(&map, 100), 0);
    snapshot_map_set(&map, 7, 0x12345678);
    snapshot_map_set(&map, 99, 1);
    assert_int_equal(snapshot_map_write(&map, fd), 0);
    uint32_t crc = snapshot_map_crc(&map);
    assert_int_equal(snapshot_map_read(&again, fd, 100, crc, &err), 0);
    assert_int_equal(again.present_count, 2);
    assert_int_equal(snapshot_map_get(&again, 7), 0x12345678);
    assert_int_equal(snapshot_map_get(&again, 8), 0);
    snapshot_map_done(&again);
    assert_int_equal(snapshot_map_read(&again, fd, 100, crc + 1, &err), DROVER_EMALFORMED);
    assert_int_equal(snapshot_map_read(&again, fd, 101, crc, &err), DROVER_EMALFORMED);
    assert_non_null(strstr(err.text, "cut short"));
    snapshot_map_done(&map);
    (void)close(fd);
}

static void manifest_sample(struct snapshot_manifest *manifest)
{
    *manifest = (struct snapshot_manifest){.taken_ns = 5,
                                           .vm_id = 7,
                                           .epoch = 9,
                                           .region_count = 2,
                                           .pages_crc = 11,
                                           .state_crc = 12,
                                           .state_size = 13,
                                           .machine = (uint8_t *)strdup("machine"),
                                           .machine_size = 7,
                                           .disk_count = 1};
    manifest->regions[0].size_bytes = UINT64_C(3) << 30;
    manifest->regions[1].gpa = UINT64_C(4) << 30;
    manifest->regions[1].size_bytes = PAGE;
    manifest->disks[0] = (struct snapshot_disk){
        .path = "/a/disk", .size_bytes = 100, .changed_ns = 4, .known = true};
}

static void test_manifest_comes_back(void **state)
{
    (void)state;
    struct snapshot_manifest manifest;
    struct snapshot_manifest again = {0};
    struct buffer file = {0};
    struct error err = {0};
    manifest_sample(&manifest);
    assert_int_equal(snapshot_manifest_encode(&manifest, &file), 0);
    assert_int_equal(snapshot_manifest_decode(file.data, file.size, &again, &err), 0);
    assert_int_equal(again.vm_id, 7);
    assert_int_equal(again.state_size, 13);
    assert_int_equal(again.machine_size, 7);
    assert_int_equal(snapshot_manifest_pages(&again), (UINT64_C(3) << 30) / PAGE + 1);
    assert_string_equal(again.disks[0].path, "/a/disk");
    snapshot_manifest_done(&again);
    /* Each byte counts. */
    for (size_t i = 0; i < file.size; i++) {
        file.data[i] ^= 1;
        assert_true(snapshot_manifest_decode(file.data, file.size, &again, &err) < 0);
        file.data[i] ^= 1;
        assert_true(snapshot_manifest_decode(file.data, i, &again, &err) < 0);
    }
    snapshot_manifest_done(&manifest);
    buffer_done(&file);
}

static void test_disk_that_changed_is_told(void **state)
{
    (void)state;
    const struct snapshot_disk then = {
        .path = "d", .size_bytes = 8, .changed_ns = 4, .known = true};
    struct snapshot_disk now = then;
    struct error err = {0};
    assert_int_equal(snapshot_disk_compare(&then, &now, &err), 0);
    now.changed_ns = 5;
    assert_int_equal(snapshot_disk_compare(&then, &now, &err), DROVER_ECONFLICT);
    assert_non_null(strstr(err.text, "was written since"));
    now.size_bytes = 9;
    assert_int_equal(snapshot_disk_compare(&then, &now, &err), DROVER_ECONFLICT);
    assert_non_null(strstr(err.text, "has 9 bytes"));
    now = then;
    now.changed_ns = 0; /* a block device */
    assert_int_equal(snapshot_disk_compare(&then, &now, &err), DROVER_ECONFLICT);
    assert_non_null(strstr(err.text, "nobody can tell"));
}

static void test_folder_is_a_snapshot_only_when_it_is_complete(void **state)
{
    (void)state;
    char path[] = "/tmp/drover-test-XXXXXX";
    struct snapshot_folder folder;
    struct unix_files files = {0};
    struct error err = {0};
    assert_non_null(mkdtemp(path));
    assert_int_equal(snapshot_folder_make(&folder, path, &files, &err), 0);
    assert_int_equal(files.count, SNAPSHOT_FILES);
    unix_files_done(&files);
    assert_int_equal(snapshot_folder_open(path, &files, &err), DROVER_EWRONGSTATE);
    assert_int_equal(snapshot_folder_finish(&folder, &err), 0);
    snapshot_folder_close(&folder);
    assert_int_equal(snapshot_folder_open(path, &files, &err), 0);
    assert_int_equal(files.count, SNAPSHOT_FILES);
    unix_files_done(&files);
    assert_int_equal(snapshot_folder_make(&folder, path, &files, &err), DROVER_EEXISTS);
    char command[64];
    (void)snprintf(command, sizeof(command), "rm -r %s", path);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_of_a_guest_that_stands_is_copied_exactly),
        cmocka_unit_test(test_memory_of_a_guest_that_writes_is_of_one_moment),
        cmocka_unit_test(test_cancelled_snapshot_leaves_the_guest_running),
        cmocka_unit_test(test_guest_that_does_not_stop_goes_on),
        cmocka_unit_test(test_file_that_can_not_be_written_is_told),
        cmocka_unit_test(test_page_map_is_read_only_whole),
        cmocka_unit_test(test_manifest_comes_back),
        cmocka_unit_test(test_disk_that_changed_is_told),
        cmocka_unit_test(test_folder_is_a_snapshot_only_when_it_is_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
