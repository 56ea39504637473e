/* SPDX-License-Identifier: Apache-2.0 */
/* YAML files: what becomes of them, and that a bad one is told by file and line. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "cli/vm_file.h"

static int load(const char *text, json_t **ret_vm, struct error *err)
{
    char path[] = "/tmp/drover-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
    int rv = vm_file_load(path, ret_vm, err);
    assert_int_equal(unlink(path), 0);
    return rv;
}

static void test_file_becomes_the_api_object(void **state)
{
    json_t *vm = NULL;
    struct error err = {0};
    assert_int_equal(
        load("# a VM\nname: web\nmemory: 512M\ncpus: 2\nha: false\nkernel: \"7\"\n"
             "disks:\n  - path: /a\n    readonly: true\n  - {path: /b}\nnics: []\n",
             &vm, &err),
        0);
    json_t *expected =
        json_pack("{s:s,s:s,s:i,s:b,s:s,s:[{s:s,s:b},{s:s}],s:[]}", "name", "web",
                  "memory", "512M", "cpus", 2, "ha", 0, "kernel", "7", "disks", "path",
                  "/a", "readonly", 1, "path", "/b", "nics");
    assert_true(json_equal(vm, expected));
    json_decref(expected);
    json_decref(vm);
}

static void assert_refused(const char *text, const char *why)
{
    json_t *vm = NULL;
    struct error err = {0};
    assert_true(load(text, &vm, &err) < 0);
    if (strstr(err.text, why) == NULL) {
        fail_msg("\"%s\" does not tell \"%s\"", err.text, why);
    }
    assert_null(vm);
}

static void test_bad_files_are_refused_with_a_reason(void **state)
{
    assert_refused("", "is empty");
    assert_refused("- a\n- b\n", "must hold one VM");
    assert_refused("just text", "must hold one VM");
    assert_refused("name: web\ncpus: [1, 2\n", ":3: ");
    assert_refused("a: {b: {c: {d: {e: {f: {g: {h: {i: {j: 1}}}}}}}}}\n",
                   "must hold one VM");
}

static void test_missing_file_is_named(void **state)
{
    json_t *vm = NULL;
    struct error err = {0};
    assert_int_equal(vm_file_load("/nonexistent/vm.yaml", &vm, &err), -2);
    assert_string_equal(err.text, "/nonexistent/vm.yaml: can't be opened: No such file or directory: "
                                  "give a readable file with -f");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_becomes_the_api_object),
        cmocka_unit_test(test_bad_files_are_refused_with_a_reason),
        cmocka_unit_test(test_missing_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
