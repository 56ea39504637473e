/* SPDX-License-Identifier: Apache-2.0 */
/* The root of a storage daemon's jail, made by a child in a mount namespace of its own.
 * Needs root. What can be reached from inside: tests/kvm/storage_probe.c. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/storage/storage_chain.h"
#include "vmm/storage/storage_root.h"

#define LIBRARIES "/usr/lib64"
#define NO_SPACES 100 /* of the child: it may have no namespaces here */

static char folder[64];

static const char *inside(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof(path), "%.64s/%.48s", folder, name);
    return path;
}

static void file_make(const char *name)
{
    int fd = open(inside(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
}

/* A host whose libraries have a link to a folder that has a link of its own: by their
 * names other files lie there than the kernel finds. */
static int host_make(void **state)
{
    char link[128];
    (void)state;
    (void)strcpy(folder, "/tmp/drover-root-XXXXXX");
    assert_non_null(mkdtemp(folder));
    assert_int_equal(mkdir(inside("outside"), 0755), 0);
    assert_int_equal(mkdir(inside("far"), 0755), 0);
    assert_int_equal(mkdir(inside("more"), 0755), 0);
    file_make("file");
    file_make("more/file");
    (void)snprintf(link, sizeof(link), "%s", inside("outside/link"));
    assert_int_equal(symlink(inside("far"), link), 0);
    return 0;
}

static int host_remove(void **state)
{
    static const char *const names[] = {"outside/link", "outside/file",
                                        "outside/more/file", "more/file", "file"};
    static const char *const folders[] = {"outside/more", "outside", "far", "more"};
    (void)state;
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        (void)unlink(inside(names[i])); /* some should not be there */
    }
    for (unsigned i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        (void)rmdir(inside(folders[i]));
    }
    return rmdir(folder);
}

static _Noreturn void child_main(struct storage_chain *files)
{
    if (unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("test", LIBRARIES, "tmpfs", 0, NULL) < 0 ||
        symlink(inside("outside"), LIBRARIES "/out") < 0) {
        _exit(NO_SPACES);
    }
    _exit(storage_root_make("/bin/true", files, "/drover", 1) < 0);
}

/* Its exit status. */
static int root_make(struct storage_chain *files)
{
    int status = -1;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        child_main(files);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_names_make_nothing_on_the_host(void **state)
{
    static char first[] = LIBRARIES "/out/link/../file";
    static char second[] = LIBRARIES "/out/link/../more/file";
    struct storage_chain files = {.count = 2,
                                  .files = {{.path = first}, {.path = second}}};
    (void)state;
    int status = root_make(&files);
    if (status == NO_SPACES) {
        skip();
    }
    assert_int_equal(status, 0);
    assert_int_equal(access(inside("outside/link"), F_OK), 0);
    assert_int_equal(access(inside("outside/file"), F_OK), -1);
    assert_int_equal(access(inside("outside/more"), F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_names_make_nothing_on_the_host, host_make,
                                        host_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
