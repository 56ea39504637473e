/* SPDX-License-Identifier: Apache-2.0 */
/* Strict reading of JSON, sizes, and a VM's description there and back. */
#include "tests/unit/unit.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/limits.h"
#include "consensus/cluster_state.h"
#include "node-agent/json_reader.h"
#include "node-agent/json_view.h"
#include "node-agent/json_vm.h"

static void assert_size(const char *text, uint64_t wanted)
{
    uint64_t bytes = 0;
    assert_int_equal(json_size_parse(text, &bytes), 0);
    assert_int_equal(bytes, wanted);
}

static void test_sizes_are_powers_of_1024(void **state)
{
    (void)state;
    assert_size("1K", 1024);
    assert_size("512M", UINT64_C(512) << 20);
    assert_size("4G", UINT64_C(4) << 30);
    assert_size("4GiB", UINT64_C(4) << 30);
    assert_size("16777215T", UINT64_C(16777215) << 40);
    static const char *const wrong[] = {"",
                                        "M",
                                        "512",
                                        "512m",
                                        "512 M",
                                        "-1M",
                                        "1.5G",
                                        "+1M",
                                        "1MM",
                                        "1MB",
                                        "0x1M",
                                        "16777216T",
                                        "99999999999999999999M"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        uint64_t bytes = 77;
        assert_int_equal(json_size_parse(wrong[i], &bytes), DROVER_EBADINPUT);
        assert_int_equal(bytes, 77);
    }
}

static void test_size_texts_are_exact(void **state)
{
    static const uint64_t sizes[] = {0,
                                     1,
                                     1023,
                                     1024,
                                     1536,
                                     536870912,
                                     UINT64_C(1) << 40,
                                     UINT64_C(5) << 40,
                                     (UINT64_C(1) << 40) + 4096};
    char text[JSON_SIZE_TEXT_SIZE];
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t again = 0;
        json_size_text(sizes[i], text);
        if (text[strlen(text) - 1] == 'B') {
            assert_true(sizes[i] % 1024 != 0 || sizes[i] == 0);
            continue;
        }
        assert_int_equal(json_size_parse(text, &again), 0);
        assert_int_equal(again, sizes[i]);
    }
}

static int read_spec(const char *text, const char *name, Drover__VmSpec **ret_spec,
                     struct error *err)
{
    json_t *object = NULL;
    bool start = true;
    int rv = json_parse_object(text, strlen(text), &object, err);
    if (rv == 0) {
        rv = json_vm_spec_read(object, name, ret_spec, &start, err);
    }
    json_decref(object);
    return rv;
}

static void assert_refused(const char *text, const char *hint)
{
    Drover__VmSpec *spec = NULL;
    struct error err = {0};
    assert_int_equal(read_spec(text, NULL, &spec, &err), DROVER_EBADINPUT);
    assert_null(spec);
    assert_null(strchr(err.text, '\n'));
    if (strstr(err.text, hint) == NULL) {
        print_error("'%s' lacks '%s'\n", err.text, hint);
    }
    assert_non_null(strstr(err.text, hint));
}

static void test_wrong_descriptions_are_refused_by_the_name_of_the_field(void **state)
{
    (void)state;
    assert_refused("", "no JSON");
    assert_refused("[]", "object");
    assert_refused("{\"name\":\"a\",\"name\":\"b\"}", "no JSON");
    assert_refused("{\"memory\":\"1G\"}", "name: is missing");
    assert_refused("{\"name\":\"a\"}", "memory: is missing");
    assert_refused("{\"name\":\"a\",\"memory\":512}", "memory: give a size with a unit");
    assert_refused("{\"name\":\"a\",\"memory\":\"512\"}",
                   "memory: give a size with a unit");
    assert_refused("{\"name\":5,\"memory\":\"1G\"}", "name: give a text");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"cpus\":0}",
                   "cpus: give a whole number from 1 to 64");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"cpus\":65}", "cpus:");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"cpus\":1.5}", "cpus:");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"ha\":1}",
                   "ha: give true or false");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"mem\":\"2G\"}",
                   "mem: no such field");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"disks\":{}}",
                   "disks: give a list");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"disks\":[\"/a\"]}",
                   "disks: each entry");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"disks\":[{\"path\":\"/a\"},{}]}",
                   "disks[1].path: is missing");
    assert_refused(
        "{\"name\":\"a\",\"memory\":\"1G\",\"disks\":[{\"path\":\"/a\",\"ro\":true}]}",
        "disks[0].ro: no such field");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"disks\":[{\"path\":\"/a,ro\"}]}",
                   "disks[0].path: commas");
    assert_refused("{\"name\":\"a\",\"memory\":\"1G\",\"nics\":[{},{\"mac\":1}]}",
                   "nics[1].mac:");
}

static void test_too_many_disks_are_refused(void **state)
{
    char text[2048] = "{\"name\":\"a\",\"memory\":\"1G\",\"disks\":[";
    (void)state;
    for (unsigned i = 0; i <= LIMIT_VM_DISKS; i++) {
        size_t used = strlen(text);
        (void)snprintf(text + used, sizeof(text) - used, "%s{\"path\":\"/d%u\"}",
                       i == 0 ? "" : ",", i);
    }
    (void)strncat(text, "]}", 3);
    assert_refused(text, "disks: 17 are too many: give at most 16");
}

static void test_description_comes_back_as_it_was(void **state)
{
    static const char text[] =
        "{\"name\":\"web1\",\"memory\":\"2G\",\"cpus\":2,\"kernel\":\"/k\",\"initrd\":\"/"
        "i\","
        "\"cmdline\":\"root=/dev/vda\",\"disks\":[{\"path\":\"/a\"},{\"path\":\"/b\","
        "\"readonly\":true,\"direct\":true}],\"nics\":[{\"bridge\":\"br0\"},{\"mac\":"
        "\"52:54:00:12:34:56\"}],\"ha\":false}";
    Drover__VmSpec *spec = NULL;
    Drover__VmSpec *again = NULL;
    struct error err = {0};
    bool start = false;
    (void)state;
    assert_int_equal(read_spec(text, NULL, &spec, &err), 0);
    assert_int_equal(spec->memory_bytes, UINT64_C(2) << 30);
    assert_int_equal(spec->n_disks, 2);
    assert_true(spec->disks[1]->readonly && spec->disks[1]->direct);
    assert_false(spec->ha);
    json_t *object = json_vm_spec(spec);
    assert_non_null(object);
    assert_int_equal(json_vm_spec_read(object, "web1", &again, &start, &err), 0);
    assert_true(start); /* the default */
    assert_null(json_vm_spec_difference(spec, again));
    again->cpus = 3;
    assert_string_equal(json_vm_spec_difference(spec, again), "cpus");
    json_decref(object);
    json_vm_spec_free(spec);
    json_vm_spec_free(again);
}

/* Each field by itself is read, written, and noticed when it differs. */
static void test_each_option_of_a_description_comes_back(void **state)
{
    static const char *const options[] = {
        "\"firmware\":\"uefi\"",
        "\"vars\":\"/v\"",
        "\"cpu_model\":\"x86-64-v3\"",
        "\"cpu_weight\":200",
        "\"cpu_quota\":150",
        "\"cpu_affinity\":\"0-3\"",
        "\"huge_pages\":true",
        "\"mergeable\":true",
        "\"prealloc\":true",
        "\"vsock_cid\":5",
        "\"on_panic\":\"reset\"",
        "\"disks\":[{\"path\":\"/a\",\"format\":\"qcow2\"}]",
        "\"disks\":[{\"path\":\"/a\",\"serial\":\"S1\"}]",
        "\"disks\":[{\"path\":\"/a\",\"queues\":2}]",
        "\"disks\":[{\"path\":\"/a\",\"iops\":5000000000}]",
        "\"disks\":[{\"path\":\"/a\",\"bandwidth\":\"20M\"}]",
        "\"disks\":[{\"path\":\"/a\",\"boot\":1}]",
        "\"disks\":[{\"path\":\"/a\",\"key_file\":\"/key\"}]",
        "\"disks\":[{\"path\":\"/a\",\"cdrom\":true}]",
        "\"nics\":[{\"queues\":2}]",
        "\"nics\":[{\"mtu\":9000}]",
        "\"nics\":[{\"bandwidth\":\"8M\"}]",
        "\"nics\":[{\"any_mac\":true}]",
        "\"nics\":[{\"boot\":2}]",
        "\"nics\":[{\"vhost\":\"off\"}]",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        Drover__VmSpec *plain = NULL;
        Drover__VmSpec *spec = NULL;
        Drover__VmSpec *again = NULL;
        struct error err = {0};
        char text[256];
        bool start = false;
        (void)snprintf(text, sizeof(text), "{\"memory\":\"1G\",%s}", options[i]);
        assert_int_equal(read_spec("{\"memory\":\"1G\",\"disks\":[{\"path\":\"/a\"}],"
                                   "\"nics\":[{}]}",
                                   "a", &plain, &err),
                         0);
        assert_int_equal(read_spec(text, "a", &spec, &err), 0);
        json_t *object = json_vm_spec(spec);
        assert_non_null(object);
        assert_int_equal(json_vm_spec_read(object, "a", &again, &start, &err), 0);
        assert_null(json_vm_spec_difference(spec, again));
        assert_non_null(json_vm_spec_difference(plain, spec));
        json_decref(object);
        json_vm_spec_free(plain);
        json_vm_spec_free(spec);
        json_vm_spec_free(again);
    }
}

static void assert_shown_as(const Drover__MigrationFigures *figures, const char *transport,
                            const char *source, const char *target)
{
    Drover__VmSpec spec = DROVER__VM_SPEC__INIT;
    Drover__VmRecord vm = DROVER__VM_RECORD__INIT;
    Drover__MigrationFigures copy = *figures;
    const struct json_vm_seen seen = {.leads = true};
    struct cluster_state *cluster = NULL;
    vm.spec = &spec;
    vm.last_migration = &copy;
    assert_int_equal(cluster_state_create(&cluster), 0);
    json_t *shown = json_vm(&vm, cluster, &seen);
    assert_non_null(shown);
    const json_t *last = json_object_get(shown, "last_migration");
    const json_t *encryption = json_object_get(last, "encryption");
    assert_string_equal(json_string_value(json_object_get(last, "transport")), transport);
    assert_string_equal(json_string_value(json_object_get(encryption, "source")), source);
    assert_string_equal(json_string_value(json_object_get(encryption, "target")), target);
    assert_int_equal(json_integer_value(json_object_get(last, "postcopy_pages")),
                     figures->postcopy_pages);
    json_decref(shown);
    cluster_state_free(cluster);
}

static void test_last_move_shows_who_encrypted_it_and_what_came_after_the_guest(void **state)
{
    Drover__MigrationFigures figures = DROVER__MIGRATION_FIGURES__INIT;
    figures.postcopy_pages = 4711;
    (void)state;
    assert_shown_as(&figures, "tcp", "unknown", "unknown");
    figures.source_encryption = DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL;
    figures.target_encryption = DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY;
    assert_shown_as(&figures, "tcp", "kernel", "relay");
    figures.over_rdma = true; /* whatever was connected before */
    assert_shown_as(&figures, "rdma", "none", "none");
}

static void test_name_of_the_path_and_of_the_body_must_be_equal(void **state)
{
    Drover__VmSpec *spec = NULL;
    struct error err = {0};
    (void)state;
    assert_int_equal(read_spec("{\"memory\":\"1G\"}", "web1", &spec, &err), 0);
    assert_string_equal(spec->name, "web1");
    assert_true(spec->ha); /* the default */
    assert_int_equal(spec->cpus, 1);
    json_vm_spec_free(spec);
    assert_int_equal(
        read_spec("{\"name\":\"web2\",\"memory\":\"1G\"}", "web1", &spec, &err),
        DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "web2"));
}

static void test_a_mac_that_is_left_open_fits_any(void **state)
{
    Drover__VmSpec *is = NULL;
    Drover__VmSpec *wanted = NULL;
    struct error err = {0};
    (void)state;
    assert_int_equal(
        read_spec("{\"memory\":\"1G\",\"nics\":[{\"mac\":\"52:54:00:00:00:01\"}]}", "a",
                  &is, &err),
        0);
    assert_int_equal(read_spec("{\"memory\":\"1G\",\"nics\":[{}]}", "a", &wanted, &err),
                     0);
    assert_null(json_vm_spec_difference(is, wanted));
    assert_string_equal(json_vm_spec_difference(wanted, is), "nics");
    json_vm_spec_free(is);
    json_vm_spec_free(wanted);
}

static void test_texts_that_are_no_utf8_are_shown_anyhow(void **state)
{
    (void)state;
    json_t *text = json_text("caf\xe9 \xff!");
    assert_string_equal(json_string_value(text), "caf? ?!");
    json_decref(text);
    text = json_text("caf\xc3\xa9");
    assert_string_equal(json_string_value(text), "caf\xc3\xa9");
    json_decref(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_powers_of_1024),
        cmocka_unit_test(test_size_texts_are_exact),
        cmocka_unit_test(test_wrong_descriptions_are_refused_by_the_name_of_the_field),
        cmocka_unit_test(test_too_many_disks_are_refused),
        cmocka_unit_test(test_description_comes_back_as_it_was),
        cmocka_unit_test(test_each_option_of_a_description_comes_back),
        cmocka_unit_test(
            test_last_move_shows_who_encrypted_it_and_what_came_after_the_guest),
        cmocka_unit_test(test_name_of_the_path_and_of_the_body_must_be_equal),
        cmocka_unit_test(test_a_mac_that_is_left_open_fits_any),
        cmocka_unit_test(test_texts_that_are_no_utf8_are_shown_anyhow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
