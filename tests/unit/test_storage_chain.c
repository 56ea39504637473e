/* SPDX-License-Identifier: Apache-2.0 */
/* The files of an image, found in real folders. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "vmm/storage/storage_chain.h"

struct folder {
    char path[64];
    char image[96];
};

static int folder_make(void **state)
{
    struct folder *folder = calloc(1, sizeof(*folder));

    assert_non_null(folder);
    (void)strcpy(folder->path, "/tmp/drover-chain-XXXXXX");
    assert_non_null(mkdtemp(folder->path));
    (void)snprintf(folder->image, sizeof(folder->image), "%s/image", folder->path);
    *state = folder;
    return 0;
}

static void place(const struct folder *folder, const char *name, char ret_path[96])
{
    (void)snprintf(ret_path, 96, "%.64s/%.24s", folder->path, name);
}

static int folder_remove(void **state)
{
    static const char *const names[] = {"image", "base"};
    struct folder *folder = *state;
    char path[96];

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        place(folder, names[i], path);
        (void)unlink(path); /* not each test makes all */
    }
    assert_int_equal(rmdir(folder->path), 0);
    free(folder);
    return 0;
}

/* A qcow2 image, version 2, whose backing file is "base". */
static void image_write(const char *path)
{
    uint8_t data[512] = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 2, 0, 0,
                         0,   0,   0,   0,    1, 0, 0, 0, 0, 4};
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    memcpy(data + 256, "base", 4);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    assert_int_equal(close(fd), 0);
}

static int find(const struct folder *folder, struct storage_chain *ret_chain)
{
    const struct storage_disk disk = {.path = folder->image,
                                      .format = STORAGE_FORMAT_QCOW2};
    struct error err = {0};

    return storage_chain_find(&disk, ret_chain, &err);
}

static void test_a_backing_file_is_found_and_only_read(void **state)
{
    const struct folder *folder = *state;
    struct storage_chain chain = {0};
    char base[96];

    place(folder, "base", base);
    image_write(folder->image);
    assert_int_equal(close(open(base, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 0);
    assert_int_equal(find(folder, &chain), 0);
    assert_int_equal(chain.count, 2);
    assert_string_equal(chain.files[0].path, folder->image);
    assert_true(chain.files[0].writable);
    assert_string_equal(chain.files[1].path, base);
    assert_false(chain.files[1].writable);
    storage_chain_done(&chain);
}

/* A header may name a watchdog, which resets the host once it was opened. */
static void test_what_is_no_file_is_not_even_opened(void **state)
{
    const struct folder *folder = *state;
    struct storage_chain chain = {0};
    char base[96];
    uint8_t event[4096];
    int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

    place(folder, "base", base);
    image_write(folder->image);
    assert_int_equal(mkfifo(base, 0600), 0);
    assert_true(watch >= 0);
    assert_true(inotify_add_watch(watch, base, IN_OPEN) >= 0);
    assert_int_equal(find(folder, &chain), 0);
    assert_int_equal(chain.count, 1);
    assert_int_equal(read(watch, event, sizeof(event)), -1);
    assert_int_equal(close(watch), 0);
    storage_chain_done(&chain);
}

static void test_a_chain_that_goes_round_is_refused(void **state)
{
    const struct folder *folder = *state;
    struct storage_chain chain = {0};
    char base[96];

    place(folder, "base", base);
    image_write(folder->image);
    image_write(base);
    assert_int_equal(find(folder, &chain), DROVER_ELIMIT);
    assert_int_equal(chain.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_backing_file_is_found_and_only_read,
                                        folder_make, folder_remove),
        cmocka_unit_test_setup_teardown(test_what_is_no_file_is_not_even_opened,
                                        folder_make, folder_remove),
        cmocka_unit_test_setup_teardown(test_a_chain_that_goes_round_is_refused,
                                        folder_make, folder_remove),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
