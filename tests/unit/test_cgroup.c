/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's control group, on this machine's own cgroup v2 where there is one. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "vmm/host/cgroup.h"

/* Where cgroup v2 is mounted and may be written; NULL: nowhere. */
static const char *hierarchy(void)
{
    static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        struct statfs mounted = {0};
        if (statfs(places[i], &mounted) == 0 && mounted.f_type == CGROUP2_SUPER_MAGIC &&
            access(places[i], W_OK) == 0) {
            return places[i];
        }
    }
    return NULL;
}

static bool process_in(const char *root, const struct cgroup *cgroup, pid_t pid)
{
    char path[512];
    char line[64];
    bool found = false;
    (void)snprintf(path, sizeof(path), "%s%s/cgroup.procs", root, cgroup_path(cgroup));
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        int number = 0;
        found = found || (sscanf(line, "%d", &number) == 1 && number == pid);
    }
    (void)fclose(file);
    return found;
}

static void test_a_process_enters_and_leaves_and_the_group_is_removed(void **state)
{
    (void)state;
    const char *root = hierarchy();
    if (root == NULL) {
        print_message("no cgroup v2 that this user may write: left out\n");
        skip();
    }
    struct error err = {0};
    struct cgroup *cgroup = NULL;
    const struct cgroup_limits none = {0};
    int rv = cgroup_create_at(root, "/", "test-cgroup", &none, &cgroup, &err);
    if (rv == -EROFS || rv == -EACCES) {
        print_message("cgroup v2 is read-only here: left out\n");
        skip();
    }
    assert_int_equal(rv, 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)pause();
        _exit(0);
    }
    assert_int_equal(cgroup_enter(cgroup, child, &err), 0);
    assert_true(process_in(root, cgroup, child));
    assert_int_equal(cgroup_remove(cgroup), -EBUSY);

    /* A second of the same name gets another one. */
    struct cgroup *second = NULL;
    assert_int_equal(cgroup_create_at(root, "/", "test-cgroup", &none, &second, &err), 0);
    assert_string_not_equal(cgroup_path(second), cgroup_path(cgroup));
    assert_int_equal(cgroup_remove(second), 0);
    cgroup_free(second);

    assert_int_equal(cgroup_leave(cgroup, child), 0);
    assert_false(process_in(root, cgroup, child));
    assert_int_equal(cgroup_remove(cgroup), 0);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    cgroup_free(cgroup);
}

static void test_a_host_without_cgroup_v2_is_told_so(void **state)
{
    (void)state;
    struct error err = {0};
    struct cgroup *cgroup = NULL;
    const struct cgroup_limits limits = {.cpu_weight = 50};
    assert_int_equal(
        cgroup_create_at("/does/not/exist", NULL, "x", &limits, &cgroup, &err),
        DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "no cgroup v2"));
    assert_null(cgroup);
}

static void test_a_missing_controller_is_named(void **state)
{
    (void)state;
    char root[] = "/tmp/test-cgroup-XXXXXX";
    assert_non_null(mkdtemp(root));
    char path[64];
    (void)snprintf(path, sizeof(path), "%s/cgroup.controllers", root);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "cpuset memory\n", 14), 14);
    assert_int_equal(close(fd), 0);
    struct error err = {0};
    struct cgroup *cgroup = NULL;
    const struct cgroup_limits limits = {.cpu_quota_percent = 50};
    assert_int_equal(cgroup_create_at(root, "/", "x", &limits, &cgroup, &err),
                     DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "no cpu controller"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(root), 0);
}

static void test_memory_has_room_beyond_the_guest(void **state)
{
    (void)state;
    const uint64_t gib = UINT64_C(1) << 30;
    assert_true(cgroup_memory_max(gib) > gib + CGROUP_MEMORY_BYTES_EXTRA);
    assert_true(cgroup_memory_max(64 * gib) > 66 * gib);
    const struct cgroup_limits none = {0};
    assert_false(cgroup_limits_any(&none));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_process_enters_and_leaves_and_the_group_is_removed),
        cmocka_unit_test(test_a_host_without_cgroup_v2_is_told_so),
        cmocka_unit_test(test_a_missing_controller_is_named),
        cmocka_unit_test(test_memory_has_room_beyond_the_guest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
