/* SPDX-License-Identifier: Apache-2.0 */
/* --disk and --net: what they mean, and what is refused. */
#include "tests/unit/unit.h"

#include <string.h>

#include "base/err.h"
#include "cli/vm_spec.h"

static void test_disk_words_become_fields(void **state)
{
    json_t *disk = NULL;
    struct error err = {0};
    assert_int_equal(vm_spec_disk("/srv/a.img,ro,direct", &disk, &err), 0);
    assert_string_equal(json_string_value(json_object_get(disk, "path")), "/srv/a.img");
    assert_true(json_is_true(json_object_get(disk, "readonly")));
    assert_true(json_is_true(json_object_get(disk, "direct")));
    json_decref(disk);
    assert_int_equal(vm_spec_disk("/srv/a.img", &disk, &err), 0);
    assert_true(json_is_false(json_object_get(disk, "readonly")));
    json_decref(disk);
}

static void assert_disk_refused(const char *text, const char *why)
{
    json_t *disk = NULL;
    struct error err = {0};
    assert_int_equal(vm_spec_disk(text, &disk, &err), DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, why));
    assert_null(disk);
}

static void test_bad_disks_are_refused_with_the_reason(void **state)
{
    assert_disk_refused("a.img", "absolute path");
    assert_disk_refused("", "absolute path");
    assert_disk_refused("/a,rw", "\"rw\" is neither ro nor direct");
    assert_disk_refused("/a,", "neither ro nor direct");
    assert_disk_refused("/\xff", "UTF-8");
}

static void test_nic_words_become_fields(void **state)
{
    json_t *nic = NULL;
    struct error err = {0};
    assert_int_equal(vm_spec_nic("bridge=br0,mac=52:54:00:00:00:01", &nic, &err), 0);
    assert_string_equal(json_string_value(json_object_get(nic, "bridge")), "br0");
    assert_string_equal(json_string_value(json_object_get(nic, "mac")),
                        "52:54:00:00:00:01");
    json_decref(nic);
    assert_int_equal(vm_spec_nic("default", &nic, &err), 0);
    assert_int_equal(json_object_size(nic), 0);
    json_decref(nic);
}

static void test_bad_nics_are_refused(void **state)
{
    static const char *const bad[] = {"br0", "tap=t0", "bridge", "bridge=\xff"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        json_t *nic = NULL;
        struct error err = {0};
        assert_int_equal(vm_spec_nic(bad[i], &nic, &err), DROVER_EBADINPUT);
        assert_null(nic);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disk_words_become_fields),
        cmocka_unit_test(test_bad_disks_are_refused_with_the_reason),
        cmocka_unit_test(test_nic_words_become_fields),
        cmocka_unit_test(test_bad_nics_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
