/* SPDX-License-Identifier: Apache-2.0 */
/* droverd's state folder: whole files, private, one owner, and damage that is told. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/err.h"
#include "node-agent/state_dir.h"

struct fixture {
    char root[64], path[96];
    struct state_dir dir;
    struct error err;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    (void)snprintf(fixture->root, sizeof(fixture->root), "/tmp/drover-state-XXXXXX");
    assert_non_null(mkdtemp(fixture->root));
    (void)snprintf(fixture->path, sizeof(fixture->path), "%s/a/b", fixture->root);
    assert_int_equal(state_dir_open(fixture->path, &fixture->dir, &fixture->err), 0);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    state_dir_close(&fixture->dir);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", fixture->root);
    assert_int_equal(system(command), 0);
    free(fixture);
    return 0;
}

static void save(struct fixture *fixture)
{
    Drover__HostIdentity identity = DROVER__HOST_IDENTITY__INIT;
    identity.cluster_id = (char *)"0123456789abcdef0123456789abcdef";
    identity.host_id = 3;
    identity.name = (char *)"n3";
    identity.lease_ms = 5000;
    assert_int_equal(state_dir_save_identity(&fixture->dir, &identity, &fixture->err), 0);
}

static void test_identity_comes_back_and_files_are_private(void **state)
{
    struct fixture *fixture = *state;
    Drover__HostIdentity *identity = NULL;
    assert_int_equal(state_dir_load_identity(&fixture->dir, &identity, &fixture->err),
                     -ENOENT);
    save(fixture);
    assert_int_equal(state_dir_load_identity(&fixture->dir, &identity, &fixture->err), 0);
    assert_int_equal(identity->host_id, 3);
    assert_string_equal(identity->name, "n3");
    drover__host_identity__free_unpacked(identity, NULL);
    struct stat status;
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/identity", fixture->path);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(stat(fixture->path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
}

static void test_every_damage_of_the_identity_is_told(void **state)
{
    struct fixture *fixture = *state;
    save(fixture);
    struct buffer data = {0};
    assert_int_equal(
        state_dir_read(&fixture->dir, STATE_DIR_IDENTITY, 65536, &data, &fixture->err),
        0);
    for (size_t at = 0; at <= data.size; at++) {
        struct buffer copy = {0};
        assert_int_equal(buffer_append(&copy, data.data, data.size), 0);
        if (at < data.size) {
            copy.data[at] ^= 0x20;
        }
        size_t size = at < data.size ? data.size
                                     : data.size - 1; /* one flipped bit, or cut short */
        assert_int_equal(state_dir_write(&fixture->dir, STATE_DIR_IDENTITY, copy.data,
                                         size, &fixture->err),
                         0);
        Drover__HostIdentity *identity = NULL;
        int rv = state_dir_load_identity(&fixture->dir, &identity, &fixture->err);
        assert_int_equal(rv, DROVER_EMALFORMED);
        assert_non_null(strstr(fixture->err.text, "restore it from a backup"));
        buffer_done(&copy);
    }
    buffer_done(&data);
}

static void test_second_droverd_is_kept_out(void **state)
{
    struct fixture *fixture = *state;
    struct state_dir other;
    assert_int_equal(state_dir_open(fixture->path, &other, &fixture->err), DROVER_EINUSE);
    assert_non_null(strstr(fixture->err.text, "another droverd"));
}

static void test_retired_files_are_kept_aside_each_time(void **state)
{
    struct fixture *fixture = *state;
    for (int i = 0; i < 3; i++) {
        save(fixture);
        assert_int_equal(state_dir_make_raft(&fixture->dir, &fixture->err), 0);
        assert_int_equal(state_dir_retire(&fixture->dir, &fixture->err), 0);
        Drover__HostIdentity *identity = NULL;
        assert_int_equal(state_dir_load_identity(&fixture->dir, &identity, &fixture->err),
                         -ENOENT);
    }
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/removed.2/identity", fixture->path);
    assert_int_equal(access(path, F_OK), 0);
    (void)snprintf(path, sizeof(path), "%s/removed/raft", fixture->path);
    assert_int_equal(access(path, F_OK), 0);
}

static void test_unwritable_folder_is_told(void **state)
{
    struct fixture *fixture = *state;
    struct state_dir other;
    assert_int_not_equal(state_dir_open("/proc/nowhere/state", &other, &fixture->err), 0);
    assert_non_null(strstr(fixture->err.text, "--state-dir"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_identity_comes_back_and_files_are_private),
        TEST(test_every_damage_of_the_identity_is_told),
        TEST(test_second_droverd_is_kept_out),
        TEST(test_retired_files_are_kept_aside_each_time),
        TEST(test_unwritable_folder_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
