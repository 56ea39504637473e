/* SPDX-License-Identifier: Apache-2.0 */
/* Formats, options and the storage daemon's words for disks: what needs no daemon. */
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "vmm/options/options_disk.h"
#include "vmm/storage/storage_names.h"
#include "vmm/storage/storage_node.h"

static void assert_parses(const char *text, struct options_disk *ret_disk)
{
    struct error err = {0};
    int ret = options_disk_parse(text, ret_disk, &err);

    if (ret < 0) {
        print_error("%s\n", err.text);
    }
    assert_int_equal(ret, 0);
}

static void assert_refused(const char *text, const char *says)
{
    struct options_disk disk;
    struct error err = {0};

    assert_int_equal(options_disk_parse(text, &disk, &err), DROVER_EBADINPUT);
    if (strstr(err.text, says) == NULL) {
        fail_msg("%s: %s", text, err.text);
    }
}

static void assert_node(const char *path, enum storage_format format, const char *json)
{
    const struct storage_disk disk = {.path = path, .format = format, .key = "k"};
    json_t *node = NULL;
    json_t *wanted = json_loads(json, 0, NULL);
    struct error err = {0};

    assert_non_null(wanted);
    assert_int_equal(storage_node_build(&disk, false, true, &node, &err), 0);
    /* Only what the test names. */
    assert_int_equal(json_object_update_recursive(node, wanted), 0);
    json_t *again = NULL;
    assert_int_equal(storage_node_build(&disk, false, true, &again, &err), 0);
    if (!json_equal(node, again)) {
        char *text = json_dumps(again, JSON_COMPACT);

        fail_msg("%s is not in %s", json, text);
    }
    json_decref(node);
    json_decref(again);
    json_decref(wanted);
}

static void assert_no_node(const char *path)
{
    const struct storage_disk disk = {.path = path, .format = STORAGE_FORMAT_RAW};
    json_t *node = NULL;
    struct error err = {0};

    assert_int_equal(storage_node_build(&disk, false, true, &node, &err),
                     DROVER_EBADINPUT);
    assert_null(node);
}

static void test_options_are_all_taken(void **state)
{
    struct options_disk disk;

    (void)state;
    assert_parses("a.qcow2,format=qcow2,ro,direct,serial=abc,queues=4,iops=100,bps=10M,"
                  "boot=2,key=/k",
                  &disk);
    assert_string_equal(disk.path, "a.qcow2");
    assert_int_equal(disk.format, STORAGE_FORMAT_QCOW2);
    assert_true(disk.read_only && disk.direct);
    assert_string_equal(disk.serial, "abc");
    assert_int_equal(disk.queues, 4);
    assert_int_equal(disk.requests_per_s, 100);
    assert_int_equal(disk.bytes_per_s, 10 << 20);
    assert_int_equal(disk.boot, 2);
    assert_string_equal(disk.key, "/k");
    assert_parses("a", &disk);
    assert_int_equal(disk.format, STORAGE_FORMAT_NONE);
    assert_int_equal(disk.queues, 1);
}

static void test_options_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    assert_refused("", "give FILE");
    assert_refused(",ro", "give FILE");
    assert_refused("a,", "what is \"\"");
    assert_refused("a,ro=1", "what is \"ro\"");
    assert_refused("a,format=ext4", "give raw, qcow2");
    assert_refused("a,queues=0", "from 1 to 16");
    assert_refused("a,queues=17", "from 1 to 16");
    assert_refused("a,queues=-1", "from 1 to 16");
    assert_refused("a,iops=many", "give a number");
    assert_refused("a,bps=0", "bytes per second");
    assert_refused("a,serial=123456789012345678901", "1 to 20 characters");
    assert_refused("a,serial=", "1 to 20 characters");
    assert_refused("a,key=k", "key= goes with");
    assert_refused("a,format=luks", "needs key=FILE");
    assert_refused("nbd://h/x,direct", "leave it out");
    assert_refused("a,iops=3,bps=1K", "can't be reached");
}

static void test_formats_are_told_by_their_beginning(void **state)
{
    uint8_t data[128] = "QFI\xfb";

    (void)state;
    assert_int_equal(storage_format_probe(data, sizeof(data)), STORAGE_FORMAT_QCOW2);
    assert_int_equal(storage_format_probe(data, 3), STORAGE_FORMAT_RAW);
    memcpy(data, "LUKS\xba\xbe", 6);
    assert_int_equal(storage_format_probe(data, sizeof(data)), STORAGE_FORMAT_LUKS);
    memset(data, 0, sizeof(data));
    assert_int_equal(storage_format_probe(data, sizeof(data)), STORAGE_FORMAT_RAW);
    memcpy(data + 0x40, "\x7f\x10\xda\xbe", 4);
    assert_int_equal(storage_format_probe(data, sizeof(data)), STORAGE_FORMAT_VDI);
    assert_int_equal(storage_format_probe(data, 0x43), STORAGE_FORMAT_RAW);
    memset(data, 0, sizeof(data));
    memcpy(data, "vhdxfile", 8);
    assert_int_equal(storage_format_probe(data, sizeof(data)), STORAGE_FORMAT_VHDX);
}

static void test_nodes_say_what_the_disk_is(void **state)
{
    (void)state;
    assert_node("a \"b\".qcow2", STORAGE_FORMAT_QCOW2,
                "{\"driver\": \"qcow2\", \"node-name\": \"disk\", \"file\": {\"driver\": "
                "\"file\", \"filename\": \"a \\\"b\\\".qcow2\", \"aio\": \"threads\"}, "
                "\"encrypt\": {\"format\": \"luks\", \"key-secret\": \"key\"}}");
    assert_node("a", STORAGE_FORMAT_LUKS,
                "{\"driver\": \"luks\", \"key-secret\": \"key\"}");
    assert_node("nbd://host:1234/name", STORAGE_FORMAT_RAW,
                "{\"driver\": \"nbd\", \"export\": \"name\", \"server\": {\"type\": "
                "\"inet\", \"host\": \"host\", \"port\": \"1234\"}}");
    assert_node("nbd://host", STORAGE_FORMAT_NONE,
                "{\"export\": \"\", \"server\": {\"host\": \"host\", \"port\": "
                "\"10809\"}}");
    assert_node("nbd://[::1]:99/x", STORAGE_FORMAT_QCOW2,
                "{\"driver\": \"qcow2\", \"file\": {\"driver\": \"nbd\", \"server\": "
                "{\"host\": \"::1\", \"port\": \"99\"}}}");
    assert_node("nbd+unix:///x?socket=/run/s", STORAGE_FORMAT_NONE,
                "{\"driver\": \"nbd\", \"export\": \"x\", \"server\": {\"type\": "
                "\"unix\", \"path\": \"/run/s\"}}");
}

static void test_addresses_that_are_none_are_refused(void **state)
{
    (void)state;
    assert_no_node("nbd://");
    assert_no_node("nbd://:10");
    assert_no_node("nbd://host:/x");
    assert_no_node("nbd://host:1x/x");
    assert_no_node("nbd+unix:///x");
    assert_no_node("nbd+unix:///x?socket=");
    assert_no_node("\xff\xfe");
}

static void big_put(uint8_t *at, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        at[i] = (uint8_t)(value >> (8 * (size - 1 - i)));
    }
}

/* A qcow2 header with a backing file, its format, and a data file. */
static void qcow2_make(uint8_t data[512], const char *backing, uint32_t backing_size)
{
    memset(data, 0, 512);
    memcpy(data, "QFI\xfb", 4);
    big_put(data + 4, 3, 4);
    big_put(data + 8, 256, 8);
    big_put(data + 16, backing_size, 4);
    big_put(data + 100, 104, 4);
    big_put(data + 104, 0xe2792aca, 4);
    big_put(data + 108, 5, 4);
    memcpy(data + 112, "qcow2", 5);
    big_put(data + 120, 0x44415441, 4);
    big_put(data + 124, 3, 4);
    memcpy(data + 128, "d.r", 3);
    memcpy(data + 256, backing, strlen(backing));
}

static void test_a_qcow2_names_its_other_files(void **state)
{
    static struct storage_names names;
    uint8_t data[512];

    (void)state;
    qcow2_make(data, "base.img", 8);
    storage_names_read(data, sizeof(data), STORAGE_FORMAT_QCOW2, &names);
    assert_int_equal(names.count, 2);
    assert_string_equal(names.names[0].text, "base.img");
    assert_int_equal(names.names[0].format, STORAGE_FORMAT_QCOW2);
    assert_true(names.names[0].backing);
    assert_string_equal(names.names[1].text, "d.r");
    assert_false(names.names[1].backing);
    storage_names_read(data, sizeof(data), STORAGE_FORMAT_VMDK, &names);
    assert_int_equal(names.count, 0);
    /* A format without names of other files ends the chain, whatever the file says. */
    memcpy(data + 112, "bochs", 5);
    storage_names_read(data, sizeof(data), STORAGE_FORMAT_QCOW2, &names);
    assert_int_equal(names.names[0].format, STORAGE_FORMAT_RAW);
}

static void test_a_name_that_is_not_all_there_is_none(void **state)
{
    static struct storage_names names;
    uint8_t data[512];

    (void)state;
    qcow2_make(data, "base.img", 257); /* past the end */
    storage_names_read(data, sizeof(data), STORAGE_FORMAT_QCOW2, &names);
    assert_int_equal(names.count, 1);
    assert_string_equal(names.names[0].text, "d.r");
    qcow2_make(data, "base.img", 9); /* with a NUL */
    storage_names_read(data, sizeof(data), STORAGE_FORMAT_QCOW2, &names);
    assert_int_equal(names.count, 1);
    qcow2_make(data, "base.img", 8);
    big_put(data + 124, UINT32_MAX, 4);
    storage_names_read(data, sizeof(data), STORAGE_FORMAT_QCOW2, &names);
    assert_int_equal(names.count, 1);
    for (unsigned size = 0; size < 264; size++) {
        storage_names_read(data, size, STORAGE_FORMAT_QCOW2, &names);
        assert_true(names.count == 0 || size >= 131);
    }
}

static void test_a_vmdk_names_its_parts_and_its_parent(void **state)
{
    static const char text[] = "# Disk DescriptorFile\nparentFileNameHint=\"up.vmdk\"\n"
                               "RW 2048 FLAT \"one-flat.vmdk\" 0\nRW 1 FLAT \"cut";
    static struct storage_names names;
    uint8_t sparse[1024] = "KDMV";

    (void)state;
    storage_names_read((const uint8_t *)text, strlen(text), STORAGE_FORMAT_VMDK, &names);
    assert_int_equal(names.count, 2);
    assert_string_equal(names.names[0].text, "up.vmdk");
    assert_true(names.names[0].backing);
    assert_string_equal(names.names[1].text, "one-flat.vmdk");
    assert_false(names.names[1].backing);
    sparse[28] = sparse[36] = 1;
    memcpy(sparse + 512, text, sizeof(text));
    storage_names_read(sparse, sizeof(sparse), STORAGE_FORMAT_VMDK, &names);
    assert_int_equal(names.count, 1); /* it is its own part, whatever its text says */
    assert_string_equal(names.names[0].text, "up.vmdk");
}

static void assert_resolves(const char *name, const char *path)
{
    char found[64];
    bool is_path = storage_name_resolve("/a/b.qcow2", name, found, sizeof(found));

    assert_int_equal(is_path, path != NULL);
    if (path != NULL) {
        assert_string_equal(found, path);
    }
}

static void test_names_are_paths_as_the_daemon_sees_them(void **state)
{
    (void)state;
    assert_resolves("base", "/a/base");
    assert_resolves("../x/base", "/a/../x/base");
    assert_resolves("/x/base", "/x/base");
    assert_resolves("file:base", "/a/base");
    assert_resolves("x/with:colon", "/a/x/with:colon");
    assert_resolves("nbd://host/x", NULL);
    assert_resolves("", NULL);
    assert_resolves("json:{\"driver\": \"raw\", \"file\": {\"driver\": \"file\", "
                    "\"filename\": \"/x/y\"}}",
                    "/x/y");
    assert_resolves("json:{\"file.filename\": \"y\"}", "/a/y");
    assert_resolves("json:{\"driver\": \"nbd\"}", NULL);
    assert_resolves("json:{", NULL);
    assert_resolves(
        "/a/name/that/is/longer/than/all/the/room/that/there/is/for/it/or/will/be", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options_are_all_taken),
        cmocka_unit_test(test_options_that_make_no_sense_are_refused),
        cmocka_unit_test(test_formats_are_told_by_their_beginning),
        cmocka_unit_test(test_nodes_say_what_the_disk_is),
        cmocka_unit_test(test_addresses_that_are_none_are_refused),
        cmocka_unit_test(test_a_qcow2_names_its_other_files),
        cmocka_unit_test(test_a_name_that_is_not_all_there_is_none),
        cmocka_unit_test(test_a_vmdk_names_its_parts_and_its_parent),
        cmocka_unit_test(test_names_are_paths_as_the_daemon_sees_them),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
