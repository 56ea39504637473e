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
    assert_null(json_object_get(disk, "readonly"));
    json_decref(disk);
}

static void test_disk_options_become_fields(void **state)
{
    json_t *disk = NULL;
    struct error err = {0};
    assert_int_equal(vm_spec_disk("/srv/a.qcow2,format=qcow2,serial=A1,queues=2,iops=500,"
                                  "bandwidth=20M,boot=1,key=/srv/a.key",
                                  &disk, &err),
                     0);
    assert_string_equal(json_string_value(json_object_get(disk, "format")), "qcow2");
    assert_string_equal(json_string_value(json_object_get(disk, "serial")), "A1");
    assert_int_equal(json_integer_value(json_object_get(disk, "queues")), 2);
    assert_int_equal(json_integer_value(json_object_get(disk, "iops")), 500);
    assert_string_equal(json_string_value(json_object_get(disk, "bandwidth")), "20M");
    assert_int_equal(json_integer_value(json_object_get(disk, "boot")), 1);
    assert_string_equal(json_string_value(json_object_get(disk, "key_file")),
                        "/srv/a.key");
    json_decref(disk);
    assert_int_equal(vm_spec_disk("nbd://10.0.0.1:10809/a", &disk, &err), 0);
    json_decref(disk);
    assert_int_equal(vm_spec_cdrom("/srv/a.iso,boot=2", &disk, &err), 0);
    assert_true(json_is_true(json_object_get(disk, "cdrom")));
    assert_int_equal(json_integer_value(json_object_get(disk, "boot")), 2);
    json_decref(disk);
    disk = NULL;
    assert_int_equal(vm_spec_cdrom("/srv/a.iso,ro", &disk, &err), DROVER_EBADINPUT);
    assert_null(disk);
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
    assert_disk_refused("/a,rw", "what is \"rw\"? Give PATH");
    assert_disk_refused("/a,", "what is \"\"?");
    assert_disk_refused("/a,ro=1", "ro takes no value");
    assert_disk_refused("/a,format", "format takes a text");
    assert_disk_refused("/a,iops=many", "iops takes a whole number");
    assert_disk_refused("/a,iops=-1", "iops takes a whole number");
    assert_disk_refused("/a,iops=99999999999999999999", "iops takes a whole number");
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
    assert_int_equal(vm_spec_nic("default,queues=2,mtu=9000,any-mac", &nic, &err), 0);
    assert_int_equal(json_integer_value(json_object_get(nic, "mtu")), 9000);
    assert_true(json_is_true(json_object_get(nic, "any_mac")));
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
        cmocka_unit_test(test_disk_options_become_fields),
        cmocka_unit_test(test_bad_disks_are_refused_with_the_reason),
        cmocka_unit_test(test_nic_words_become_fields),
        cmocka_unit_test(test_bad_nics_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
