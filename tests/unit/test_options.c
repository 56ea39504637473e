/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of drover-vmm. */
#include "tests/unit/unit.h"

#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "vmm/options/options.h"

#define ARGUMENTS_MAX 64

/* Splits at blanks. */
static int parse(const char *line, struct options *options, struct error *err)
{
    static char copy[4096];
    static char program[] = "drover-vmm";
    char *arguments[ARGUMENTS_MAX] = {program};
    int count = 1;
    assert_true(strlen(line) < sizeof(copy));
    memcpy(copy, line, strlen(line) + 1);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) {
        assert_true(count < ARGUMENTS_MAX - 1);
        arguments[count++] = word;
    }
    return options_parse(count, arguments, options, err);
}

#define LEAST "--name a --memory 64M --cpus 2 --kernel k --control c "
#define FIRMWARE "--name a --memory 64M --cpus 2 --firmware uefi --control c "

static void assert_refused(const char *line, const char *says)
{
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(line, &options, &err), DROVER_EBADINPUT);
    if (strstr(err.text, says) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    }
}

static void test_the_least_that_is_needed(void **state)
{
    (void)state;
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(LEAST, &options, &err), 0);
    assert_string_equal(options.name, "a");
    assert_int_equal(options.memory_bytes, 64u << 20);
    assert_int_equal(options.cpus, 2);
    assert_string_equal(options.serial, "stdio");
    assert_null(options.incoming);
    assert_false(options.ha);
}

static void test_all_options(void **state)
{
    (void)state;
    struct options options;
    struct error err = {0};
    assert_int_equal(
        parse(LEAST "--initrd i --cmdline quiet --disk a.raw --disk b.raw,ro,direct "
                    "--net tap=t0 --net mac=52:54:00:00:00:01,tap=t1 --serial none "
                    "--incoming tcp:h:1 --paused --ha --vm-id 7 --epoch 3",
              &options, &err),
        0);
    assert_int_equal(options.disk_count, 2);
    assert_string_equal(options.disks[1].path, "b.raw");
    assert_true(options.disks[1].read_only && options.disks[1].direct);
    assert_false(options.disks[0].read_only || options.disks[0].direct);
    assert_int_equal(options.net_count, 2);
    assert_string_equal(options.nets[1].tap, "t1");
    assert_true(options.nets[1].has_mac && options.nets[1].mac[5] == 1);
    assert_false(options.nets[0].has_mac || options.nets[0].any_mac);
    assert_int_equal(options.nets[0].queues, 1);
    assert_true(options.paused && options.ha);
    assert_int_equal(options.vm_id, 7);
    assert_int_equal(options.epoch, 3);
    assert_string_equal(options.incoming, "tcp:h:1");
}

static void test_options_of_a_nic(void **state)
{
    (void)state;
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(LEAST
                           "--net tap=t,queues=4,mtu=9000,bps=10M,vhost=off,any-mac",
                           &options, &err),
                     0);
    assert_int_equal(options.nets[0].queues, 4);
    assert_int_equal(options.nets[0].mtu, 9000);
    assert_int_equal(options.nets[0].bytes_per_s, 10 << 20);
    assert_int_equal(options.nets[0].vhost, VIRTIO_NET_VHOST_OFF);
    assert_true(options.nets[0].any_mac);
}

static void test_options_of_vsock(void **state)
{
    (void)state;
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(LEAST "--vsock unix=/run/v,cid=4294967294", &options, &err),
                     0);
    assert_int_equal(options.vsock.cid, 4294967294u);
    assert_string_equal(options.vsock.path, "/run/v");
    assert_refused(LEAST "--vsock cid=3", "unix=PATH");
    assert_refused(LEAST "--vsock unix=/run/v", "cid=N");
    assert_refused(LEAST "--vsock cid=2,unix=/run/v", "3 to 4294967294");
    assert_refused(LEAST "--vsock cid=4294967295,unix=/run/v", "3 to 4294967294");
    assert_refused(LEAST "--vsock cid=3x,unix=/run/v", "3 to 4294967294");
    assert_refused(LEAST "--vsock cid=3,unix=/a-very-very-long-path-of-more-than-ninety-six-characters-"
                         "which-leaves-no-room-for-a-port-at-its-end-0123456789",
                   "shorter");
}

static void test_rdma_beside_what_is_handed_over(void **state)
{
    (void)state;
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(LEAST "--incoming handed:h:1 --incoming-rdma 10.0.0.1:0", &options,
                           &err),
                     0);
    assert_string_equal(options.incoming_rdma, "10.0.0.1:0");
    assert_true(options.rdma);
    assert_refused(LEAST "--incoming tcp:h:1 --incoming-rdma h:1", "--incoming handed");
    assert_refused(LEAST "--incoming-rdma h:1", "--incoming handed");
}

static void test_what_is_missing_is_named(void **state)
{
    (void)state;
    assert_refused("", "--name NAME");
    assert_refused("--name a --memory 1M --cpus 1 --control c", "--kernel FILE");
    assert_refused("--name a --memory 1M --cpus 1 --kernel k", "--control PATH");
    assert_refused(LEAST "--vm-id 1", "--epoch");
    assert_refused(LEAST "--ha", "--vm-id");
}

static void test_nonsense_is_refused(void **state)
{
    (void)state;
    assert_refused(LEAST "--memory -1M", "--memory");
    assert_refused(LEAST "--cpus 2x", "--cpus 2x");
    assert_refused(LEAST "--name A_b", "--name A_b");
    assert_refused(LEAST "--disk ,ro", "--disk ,ro");
    assert_refused(LEAST "--disk a,rw", "what is");
    assert_refused(LEAST "--net tap=", "tap=NAME");
    assert_refused(LEAST "--net mac=52:54:00:00:00:01", "tap=NAME");
    assert_refused(LEAST "--net tap=a,mac=52:54", "52:54:00:12:34:56");
    assert_refused(LEAST "--net tap=a,queues=17", "1 to 16");
    assert_refused(LEAST "--net tap=a,queues=0", "1 to 16");
    assert_refused(LEAST "--net tap=a,mtu=67", "68 to 65535");
    assert_refused(LEAST "--net tap=a,bps=fast", "bytes per second");
    assert_refused(LEAST "--net tap=a,vhost=yes", "on, off or auto");
    assert_refused(LEAST "--net tap=a,any", "tap=NAME");
    assert_refused(LEAST "--firmware bios", "leave out --kernel");
    assert_refused(LEAST "--vars v", "need --firmware");
    assert_refused(FIRMWARE "--cmdline x", "leave out --kernel");
    assert_refused(FIRMWARE "--net tap=a,boot=100", "1 (tried first) to 99");
    assert_refused(FIRMWARE "--net tap=a,boot=x", "1 (tried first) to 99");
    assert_refused(LEAST "--vm-id 0 --epoch 1", "--vm-id 0");
    assert_refused(LEAST "more", "more");
    assert_refused(LEAST "--kernel", "needs a value");
    assert_refused(LEAST "--what", "--what");
}

static void test_help_and_version_need_nothing_else(void **state)
{
    (void)state;
    struct options options;
    struct error err = {0};
    assert_int_equal(parse("--help", &options, &err), 0);
    assert_int_equal(options.action, OPTIONS_ACTION_HELP);
    assert_int_equal(parse("--version", &options, &err), 0);
    assert_int_equal(options.action, OPTIONS_ACTION_VERSION);
}

static void test_sizes(void **state)
{
    (void)state;
    uint64_t bytes = 0;
    assert_int_equal(options_size_parse("4096", &bytes), 0);
    assert_int_equal(bytes, 4096);
    assert_int_equal(options_size_parse("3K", &bytes), 0);
    assert_int_equal(bytes, 3072);
    assert_int_equal(options_size_parse("2T", &bytes), 0);
    assert_int_equal(bytes, UINT64_C(2) << 40);
    static const char *const wrong[] = {"",
                                        "0",
                                        "M",
                                        "1MM",
                                        "1.5G",
                                        "-1",
                                        "+1",
                                        " 1",
                                        "99999999999999999999",
                                        "18446744073709551615K",
                                        "9999999999999999999999999999"};
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        bytes = 5;
        assert_int_equal(options_size_parse(wrong[i], &bytes), DROVER_EBADINPUT);
        assert_int_equal(bytes, 5);
    }
}

static void test_processors_are_shared_out_by_options(void **state)
{
    (void)state;
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(LEAST "--cpu-weight 10000 --cpu-quota 150% "
                                 "--cpu-affinity 0-3,5,2",
                           &options, &err),
                     0);
    assert_int_equal(options.cpu_weight, 10000);
    assert_int_equal(options.cpu_quota_percent, 150);
    assert_int_equal(options.cpu_affinity.count, 5);
    assert_true(options_cpu_set_has(&options.cpu_affinity, 3));
    assert_false(options_cpu_set_has(&options.cpu_affinity, 4));
    assert_true(options_cpu_set_has(&options.cpu_affinity, 5));
    assert_false(options_cpu_set_has(&options.cpu_affinity, 5000));

    static const char *const lists[] = {"-1",        "1-",  "1,",   ",1",
                                        "3-1",       "a",   "1 2",  "1024",
                                        "0-9999999", "0x1", "1--2", "1,,2"};
    for (unsigned i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        struct options_cpu_set set = {.count = 7};
        assert_int_equal(options_cpu_set_parse(lists[i], &set, &err), DROVER_EBADINPUT);
        assert_int_equal(set.count, 7);
    }
    assert_refused(LEAST "--cpu-weight 0", "1 to 10000");
    assert_refused(LEAST "--cpu-weight 10001", "1 to 10000");
    assert_refused(LEAST "--cpu-quota 0", "percent of one processor");
    assert_refused(LEAST "--cpu-quota 50%%", "percent of one processor");
    assert_refused(LEAST "--cpu-quota 201", "more than --cpus 2 can use");
    assert_refused(LEAST "--cpu-quota 200 --cpu-affinity 1",
                   "--cpu-affinity have: give at most 100");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_least_that_is_needed),
        cmocka_unit_test(test_all_options),
        cmocka_unit_test(test_options_of_a_nic),
        cmocka_unit_test(test_options_of_vsock),
        cmocka_unit_test(test_rdma_beside_what_is_handed_over),
        cmocka_unit_test(test_what_is_missing_is_named),
        cmocka_unit_test(test_nonsense_is_refused),
        cmocka_unit_test(test_help_and_version_need_nothing_else),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_processors_are_shared_out_by_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
