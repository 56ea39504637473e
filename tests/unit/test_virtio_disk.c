/* SPDX-License-Identifier: Apache-2.0 */
/* Disks of the host: what is refused and how, the lock's way between two VMs, and that no
 * failure leaks anything. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "tests/unit/fake_vm.h"
#include "vmm/device.h"
#include "vmm/storage/block_disk.h"
#include "vmm/virtio/virtio_block.h"
#include "vmm/virtio/virtio_console.h"
#include "vmm/virtio/virtio_rng.h"

#define DISK_BYTES   (1024 * 1024)
#define MEMORY_BYTES (8u * 1024u * 1024u)

struct fixture {
    struct vm *vm;
    char path[64];
    int fd;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->vm = fake_vm_create(MEMORY_BYTES);
    (void)snprintf(f->path, sizeof(f->path), "/var/tmp/test-virtio-disk-XXXXXX");
    f->fd = mkstemp(f->path);
    assert_true(f->fd >= 0);
    assert_int_equal(ftruncate(f->fd, DISK_BYTES), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    fake_vm_free(f->vm);
    (void)close(f->fd);
    (void)unlink(f->path);
    free(f);
    return 0;
}

/* ---- opening and locking -------------------------------------------------- */

static void assert_refused(struct fixture *f, const struct virtio_block_config *config,
                           int code, const char *text)
{
    struct error err = {0};

    assert_int_equal(virtio_block_create(f->vm, config, &err), code);
    assert_non_null(strstr(err.text, config->path));
    assert_non_null(strstr(err.text, text));
    assert_null(strchr(err.text, '\n'));
    assert_null(vm_devices(f->vm));
}

static void test_wrong_disks_are_refused_in_one_line(void **state)
{
    struct fixture *f = *state;
    struct virtio_block_config config = {.path = "/nonexistent/disk"};

    assert_refused(f, &config, -ENOENT, "does not exist");
    config.path = "/tmp";
    assert_refused(f, &config, -EISDIR, "is a directory");
    config.path = "/dev/null";
    assert_refused(f, &config, DROVER_EBADINPUT, "neither a file nor a block device");
    config.path = f->path;
    assert_int_equal(ftruncate(f->fd, 1000), 0);
    assert_refused(f, &config, DROVER_EBADINPUT, "no multiple of 512");
    assert_int_equal(ftruncate(f->fd, 0), 0);
    assert_refused(f, &config, DROVER_EBADINPUT, "is empty");
}

static void test_disk_without_permission_is_refused(void **state)
{
    struct fixture *f = *state;
    struct virtio_block_config config = {.path = f->path};

    if (geteuid() != 0) {
        assert_int_equal(chmod(f->path, 0400), 0);
        assert_refused(f, &config, -EACCES, "no permission");
        return;
    }
    assert_int_equal(chmod(f->path, 0400), 0);
    assert_int_equal(seteuid(65534), 0);
    assert_refused(f, &config, -EACCES, "no permission");
    assert_int_equal(seteuid(0), 0);
}

static void test_disk_of_another_vm_is_refused(void **state)
{
    struct fixture *f = *state;
    struct vm *other = fake_vm_create(MEMORY_BYTES);
    struct virtio_block_config config = {.path = f->path};
    struct error err = {0};

    assert_int_equal(virtio_block_create(other, &config, &err), 0);
    assert_refused(f, &config, DROVER_EINUSE, "in use by another VM");
    config.read_only = true;
    assert_refused(f, &config, DROVER_EINUSE, "in use by another VM");
    fake_vm_free(other);
    assert_int_equal(virtio_block_create(f->vm, &config, &err), 0);
}

static void test_two_vms_share_a_read_only_disk(void **state)
{
    struct fixture *f = *state;
    struct vm *other = fake_vm_create(MEMORY_BYTES);
    struct virtio_block_config config = {.path = f->path, .read_only = true};
    struct error err = {0};

    assert_int_equal(virtio_block_create(other, &config, &err), 0);
    assert_int_equal(virtio_block_create(f->vm, &config, &err), 0);
    fake_vm_free(other);
}

static void test_lock_passes_from_source_to_target(void **state)
{
    struct fixture *f = *state;
    struct vm *target = fake_vm_create(MEMORY_BYTES);
    struct virtio_block_config config = {.path = f->path};
    struct error err = {0};

    assert_int_equal(virtio_block_create(f->vm, &config, &err), 0);
    config.unlocked = true;
    assert_int_equal(virtio_block_create(target, &config, &err), 0);
    assert_int_equal(virtio_block_lock(vm_devices(target), &err), DROVER_EINUSE);
    assert_int_equal(virtio_block_unlock(vm_devices(f->vm), &err), 0);
    assert_int_equal(virtio_block_lock(vm_devices(target), &err), 0);
    assert_int_equal(virtio_block_lock(vm_devices(f->vm), &err), DROVER_EINUSE);
    /* The target is discarded: the source takes it back. */
    fake_vm_free(target);
    assert_int_equal(virtio_block_lock(vm_devices(f->vm), &err), 0);
}

/* ---- the lock file of disks on network file systems
   ------------------------------------------ */

static void disk_open_networked(struct fixture *f, struct block_disk *disk,
                                bool read_only)
{
    assert_int_equal(block_disk_open(disk, f->path, read_only, false, NULL), 0);
    assert_false(disk->networked); /* the test has no such file system; it plays one */
    disk->networked = true;
    disk->lock_fd = -1;
    assert_true(asprintf(&disk->lock_path, "%s.lock", f->path) > 0);
}

static void test_lock_file_excludes_and_goes_away(void **state)
{
    struct fixture *f = *state;
    struct block_disk first, second;
    struct error err = {0};
    char lock_path[80];

    (void)snprintf(lock_path, sizeof(lock_path), "%s.lock", f->path);
    disk_open_networked(f, &first, false);
    disk_open_networked(f, &second, false);
    assert_int_equal(block_disk_lock(&first, &err), 0);
    assert_int_equal(block_disk_lock(&second, &err), DROVER_EINUSE);
    assert_int_equal(block_disk_unlock(&first, &err), 0);
    assert_int_equal(block_disk_lock(&second, &err), 0);
    assert_int_equal(block_disk_lock(&first, &err), DROVER_EINUSE);
    block_disk_close(&second);
    assert_int_equal(block_disk_lock(&first, &err), 0);
    block_disk_close(&first);
    assert_int_equal(access(lock_path, F_OK), -1);
}

static void test_readers_share_a_lock_file(void **state)
{
    struct fixture *f = *state;
    struct block_disk first, second, writer;
    struct error err = {0};
    char lock_path[80];

    (void)snprintf(lock_path, sizeof(lock_path), "%s.lock", f->path);
    disk_open_networked(f, &first, true);
    disk_open_networked(f, &second, true);
    disk_open_networked(f, &writer, false);
    assert_int_equal(block_disk_lock(&first, &err), 0);
    assert_int_equal(block_disk_lock(&second, &err), 0);
    assert_int_equal(block_disk_lock(&writer, &err), DROVER_EINUSE);
    block_disk_close(&first);
    block_disk_close(&second);
    assert_int_equal(block_disk_lock(&writer, &err), 0);
    block_disk_close(&writer);
    (void)unlink(lock_path);
}

/* ---- each failure while a device is made ---------------------------------- */

static unsigned open_count(void)
{
    DIR *folder = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(folder);
    while (readdir(folder) != NULL) {
        count++;
    }
    (void)closedir(folder);
    return count;
}

static int device_make(struct fixture *f, unsigned kind, struct error *err)
{
    struct virtio_block_config block = {.path = f->path};
    struct virtio_console_config console = {0};

    switch (kind) {
    case 0:
        return virtio_block_create(f->vm, &block, err);
    case 1:
        return virtio_rng_create(f->vm, err);
    default:
        return virtio_console_create(f->vm, &console, NULL, err);
    }
}

static void test_devices_fail_cleanly_at_each_descriptor_they_lack(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, limit;
    int spare = open("/dev/null", O_RDONLY | O_CLOEXEC);

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit = before;
    (void)close(spare);
    for (unsigned kind = 0; kind < 3; kind++) {
        unsigned count = open_count(), failures = 0;
        struct error err = {0};
        int ret = -1;

        for (rlim_t more = 0; ret < 0 && more < 10; more++) {
            limit.rlim_cur = (rlim_t)spare + more;
            assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
            ret = device_make(f, kind, &err);
            assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
            if (ret < 0) {
                failures++;
                assert_true(strlen(err.text) > 0);
                assert_int_equal(open_count(), count);
            }
        }
        assert_int_equal(ret, 0);
        assert_true(failures > 0);
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
        (void)close(spare);
    }
}

int main(void)
{
#define DISK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        DISK_TEST(test_wrong_disks_are_refused_in_one_line),
        DISK_TEST(test_disk_without_permission_is_refused),
        DISK_TEST(test_disk_of_another_vm_is_refused),
        DISK_TEST(test_two_vms_share_a_read_only_disk),
        DISK_TEST(test_lock_passes_from_source_to_target),
        DISK_TEST(test_lock_file_excludes_and_goes_away),
        DISK_TEST(test_readers_share_a_lock_file),
        DISK_TEST(test_devices_fail_cleanly_at_each_descriptor_they_lack),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
