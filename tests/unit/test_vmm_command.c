/* SPDX-License-Identifier: Apache-2.0 */
/* The command line that a VM's description becomes. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/limits.h"
#include "node-agent/vmm_command.h"

struct fixture {
    Drover__DiskSpec disks[2];
    Drover__DiskSpec *disk_list[2];
    Drover__NicSpec nic;
    Drover__NicSpec *nic_list[1];
    Drover__VmSpec spec;
    Drover__VmRecord vm;
    struct vmm_command_options options;
};

static void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    drover__disk_spec__init(&f->disks[0]);
    drover__disk_spec__init(&f->disks[1]);
    drover__nic_spec__init(&f->nic);
    drover__vm_spec__init(&f->spec);
    drover__vm_record__init(&f->vm);
    f->disks[0].path = (char *)"/srv/a.img";
    f->disks[1].path = (char *)"/srv/a.iso";
    f->disk_list[0] = &f->disks[0];
    f->disk_list[1] = &f->disks[1];
    f->nic_list[0] = &f->nic;
    f->spec.name = (char *)"web";
    f->spec.memory_bytes = UINT64_C(512) << 20;
    f->spec.cpus = 2;
    f->spec.disks = f->disk_list;
    f->spec.n_disks = 2;
    f->spec.nics = f->nic_list;
    f->spec.n_nics = 1;
    f->vm.vm_id = 7;
    f->vm.spec = &f->spec;
    f->options = (struct vmm_command_options){.program = "drover-vmm",
                                              .control_path = "/run/c",
                                              .serial_path = "/run/s",
                                              .vsock_path = "/run/v",
                                              .epoch = 3};
}

/* The whole line, arguments with a space between. */
static void line(const struct fixture *f, char *ret_line, size_t size)
{
    struct vmm_command command;
    assert_int_equal(vmm_command_build(&f->vm, &f->options, &command), 0);
    assert_null(command.argv[command.count]);
    size_t used = 0;
    for (unsigned i = 0; i < command.count; i++) {
        used += (size_t)snprintf(ret_line + used, size - used, "%s ", command.argv[i]);
        assert_true(used < size);
    }
    vmm_command_done(&command);
}

static void assert_has(const struct fixture *f, const char *part)
{
    char text[8192];
    line(f, text, sizeof(text));
    if (strstr(text, part) == NULL) {
        fail_msg("'%s' lacks '%s'", text, part);
    }
}

static void assert_lacks(const struct fixture *f, const char *part)
{
    char text[8192];
    line(f, text, sizeof(text));
    assert_null(strstr(text, part));
}

static void test_what_is_not_wanted_is_not_named(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.spec.n_disks = 1;
    assert_has(&f, "--disk /srv/a.img ");
    assert_has(&f, "--machine 1 "); /* of a release that knew only that */
    f.vm.machine = 2;
    assert_has(&f, "--machine 2 ");
    assert_has(&f, "--net tap=dr7e3n0,mac=52:54:00:00:07:00 ");
    static const char *const absent[] = {"--cdrom",      "--vsock",      "--cpu ",
                                         "--cpu-weight", "--huge-pages", "--on-panic",
                                         "--vars",       "--firmware"};
    for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
        assert_lacks(&f, absent[i]);
    }
}

static void test_each_wish_becomes_its_option(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.disks[0] = (Drover__DiskSpec)DROVER__DISK_SPEC__INIT;
    f.disks[0].path = (char *)"/srv/a.qcow2";
    f.disks[0].format = (char *)"qcow2";
    f.disks[0].direct = true;
    f.disks[0].serial = (char *)"S1";
    f.disks[0].queues = 2;
    f.disks[0].iops = 500;
    f.disks[0].bandwidth = 1 << 20;
    f.disks[0].key_file = (char *)"/srv/key";
    f.disks[0].boot = 2;
    f.disks[1].cdrom = true;
    f.disks[1].boot = 1;
    f.nic.queues = 2;
    f.nic.mtu = 9000;
    f.nic.bandwidth = 2 << 20;
    f.nic.vhost = (char *)"off";
    f.nic.any_mac = true;
    f.nic.boot = 3;
    f.spec.firmware = (char *)"uefi";
    f.spec.vars = (char *)"/srv/a.vars";
    f.spec.cpu_model = (char *)"x86-64-v3";
    f.spec.cpu_weight = 200;
    f.spec.cpu_quota = 150;
    f.spec.cpu_affinity = (char *)"0-3";
    f.spec.huge_pages = true;
    f.spec.prealloc = true;
    f.spec.vsock_cid = 9;
    f.spec.on_panic = (char *)"reset";
    assert_has(&f, "--disk /srv/a.qcow2,format=qcow2,direct,serial=S1,queues=2,iops=500,"
                   "bps=1048576,key=/srv/key,boot=2 ");
    assert_has(&f, "--cdrom /srv/a.iso,boot=1 ");
    assert_has(&f, "--net tap=dr7e3n0,mac=52:54:00:00:07:00,queues=2,mtu=9000,"
                   "bps=2097152,vhost=off,any-mac,boot=3 ");
    assert_has(&f, "--firmware uefi --vars /srv/a.vars ");
    assert_has(&f, "--cpu x86-64-v3 --cpu-weight 200 --cpu-quota 150 --cpu-affinity 0-3 "
                   "--huge-pages --prealloc --on-panic reset ");
    assert_has(&f, "--vsock cid=9,unix=/run/v ");
    f.spec.huge_pages = false;
    f.spec.prealloc = false;
    f.spec.mergeable = true;
    assert_has(&f, " --mergeable ");
    assert_lacks(&f, "--huge-pages");
}

static void test_rdma_is_named_where_it_is_allowed(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    assert_lacks(&f, "--rdma");
    f.options.rdma = true;
    assert_has(&f, " --rdma ");
    assert_lacks(&f, "--incoming-rdma");
    f.options.incoming_rdma = "10.1.0.2:0";
    assert_lacks(&f, "--incoming-rdma"); /* nobody comes */
    f.options.incoming = "handed:10.0.0.2:7400";
    assert_has(&f, "--incoming handed:10.0.0.2:7400 --incoming-rdma 10.1.0.2:0 ");
}

static void test_beyond_the_limits_is_refused(void **state)
{
    struct fixture f;
    struct vmm_command command;
    (void)state;
    fixture_init(&f);
    f.spec.n_disks = LIMIT_VM_DISKS + 1;
    assert_int_equal(vmm_command_build(&f.vm, &f.options, &command), DROVER_ELIMIT);
    fixture_init(&f);
    static char path[4096];
    memset(path, 'x', sizeof(path) - 1);
    f.disks[0].path = path;
    assert_int_equal(vmm_command_build(&f.vm, &f.options, &command), DROVER_ELIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_not_wanted_is_not_named),
        cmocka_unit_test(test_each_wish_becomes_its_option),
        cmocka_unit_test(test_rdma_is_named_where_it_is_allowed),
        cmocka_unit_test(test_beyond_the_limits_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
