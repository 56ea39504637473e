/* SPDX-License-Identifier: Apache-2.0 */
/* VMs: the right to run one, what is wanted of one, descriptions. */
#include <stdio.h>
#include <string.h>

#include "tests/unit/cluster_world.h"
#include "tests/unit/unit.h"

#include "base/limits.h"

#define RUNNING DROVER__VM_WANTED__VM_WANTED_RUNNING
#define STOPPED DROVER__VM_WANTED__VM_WANTED_STOPPED
#define PAUSED  DROVER__VM_WANTED__VM_WANTED_PAUSED
#define KILLED  DROVER__VM_WANTED__VM_WANTED_KILLED

/* ---- VMs --------------------------------------------------------------------------- */

static void test_vm_is_given_to_one_host_at_a_time(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    assert_done(world_vm_create(world, "web", "/srv/web.img", true));
    assert_refused(world_assign(world, 1, 9), DROVER_ENOTFOUND);
    assert_done(world_assign(world, 1, 1));
    assert_int_equal(world_vm(world, 1)->epoch, 1);
    assert_refused(world_assign(world, 1, 2), DROVER_ECONFLICT);
    assert_refused(world_assign(world, 1, 1), DROVER_ECONFLICT);
    assert_done(world_stopped(world, 1, 1, 1, false));
    assert_int_equal(world_vm(world, 1)->owner_host_id, 0);
    assert_string_equal(world_vm(world, 1)->last_error, "the VMM has crashed");
    assert_done(world_assign(world, 1, 2));
    assert_int_equal(world_vm(world, 1)->epoch, 2); /* the right passed: a new epoch */
    assert_string_equal(world_vm(world, 1)->last_error, "");
}

static void test_assignment_that_was_decided_on_old_knowledge_is_refused(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    assert_done(world_vm_create(world, "web", NULL, true));
    assert_done(world_assign(world, 1, 1));
    assert_done(world_stopped(world, 1, 1, 1, false));
    Drover__VmAssign assign = DROVER__VM_ASSIGN__INIT;
    assign.vm_id = 1;
    assign.expected_epoch_high = 0;
    assign.host_id = 2;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_ASSIGN;
    command.vm_assign = &assign;
    assert_refused(world_apply(world, &command), DROVER_ECONFLICT);
}

static void test_words_of_others_about_a_vm_do_not_count(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    uint64_t vm = world_running_vm(world, "web", 1, true);
    assert_refused(world_stopped(world, vm, 1, 2, true), DROVER_ESTALEEPOCH);
    assert_refused(world_stopped(world, vm, 2, 1, true), DROVER_ESTALEEPOCH);
    assert_refused(world_started(world, vm, 2, 1), DROVER_ESTALEEPOCH);
    assert_refused(world_started(world, 99, 1, 1), DROVER_ENOTFOUND);
    assert_refused(world_started(world, vm, 1, 99), DROVER_ENOTFOUND);
}

static void test_word_of_an_earlier_run_of_the_agent_does_not_count(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    uint64_t vm = world_running_vm(world, "web", 1, true);
    Drover__VmStopped stopped = DROVER__VM_STOPPED__INIT;
    stopped.vm_id = vm;
    stopped.epoch = 1;
    stopped.host_id = 1;
    stopped.incarnation = (char *)"run1";
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_STOPPED;
    command.vm_stopped = &stopped;
    assert_done(world_host_up(world, 1, "boot1", "run1b"));
    assert_refused(world_apply(world, &command), DROVER_ECONFLICT);
    assert_int_equal(world_vm(world, vm)->owner_host_id, 1);
    stopped.incarnation = (char *)"run1b";
    assert_done(world_apply(world, &command));
}

static void test_guest_that_powers_off_stays_off(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    uint64_t vm = world_running_vm(world, "web", 1, true);
    assert_done(world_stopped(world, vm, 1, 1, true));
    assert_int_equal(world_vm(world, vm)->wanted, STOPPED);
    assert_string_equal(world_vm(world, vm)->last_error, "");
    assert_refused(world_assign(world, vm, 1), DROVER_EWRONGSTATE);
    assert_done(world_wanted(world, vm, RUNNING));
    assert_done(world_assign(world, vm, 1));
}

static void test_killed_vm_is_wanted_stopped_afterwards(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    uint64_t vm = world_running_vm(world, "web", 1, true);
    assert_done(world_wanted(world, vm, KILLED));
    assert_int_equal(world_vm(world, vm)->wanted, KILLED);
    assert_done(world_stopped(world, vm, 1, 1, false));
    assert_int_equal(world_vm(world, vm)->wanted, STOPPED);
    assert_string_equal(world_vm(world, vm)->last_error, ""); /* it was meant */
    assert_done(world_wanted(world, vm, PAUSED));
    assert_done(world_wanted(world, vm, KILLED));
    assert_int_equal(world_vm(world, vm)->wanted, STOPPED);
    assert_refused(world_wanted(world, vm, DROVER__VM_WANTED__VM_WANTED_UNSPECIFIED),
                   DROVER_EBADINPUT);
    assert_refused(world_wanted(world, vm, (Drover__VmWanted)99), DROVER_EBADINPUT);
    assert_refused(world_wanted(world, 99, RUNNING), DROVER_ENOTFOUND);
}

static void test_vm_with_an_owner_is_not_deleted(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    uint64_t vm = world_running_vm(world, "web", 1, true);
    assert_refused(world_vm_delete(world, vm), DROVER_EINUSE);
    assert_non_null(strstr(world->result.text, "drover vm stop web"));
    assert_done(world_stopped(world, vm, 1, 1, true));
    assert_done(world_vm_delete(world, vm));
    assert_null(world_vm(world, vm));
    assert_refused(world_vm_delete(world, vm), DROVER_ENOTFOUND);
    assert_done(world_vm_create(world, "web", "/srv/web.img", true));
    assert_int_equal(world->result.result_id, vm + 1); /* ids are never used again */
}

static void test_host_is_not_given_more_than_its_memory(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    for (unsigned i = 0; i < 8; i++) { /* 8 times 128 MiB is all it has */
        char name[16];
        (void)snprintf(name, sizeof(name), "vm%u", i);
        (void)world_running_vm(world, name, 1, true);
    }
    assert_done(world_vm_create(world, "more", NULL, true));
    assert_refused(world_assign(world, 9, 1), DROVER_ENOCAPACITY);
    assert_done(world_assign(world, 9, 2));
    assert_done(world_started(world, 9, 1, 2));
    assert_refused(world_begin(world, 9, 1), DROVER_ENOCAPACITY);
}

static void test_problem_is_told_once(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    uint64_t vm = world_running_vm(world, "web", 1, true);
    Drover__VmProblem problem = DROVER__VM_PROBLEM__INIT;
    problem.vm_id = vm;
    problem.epoch = 1;
    problem.host_id = 1;
    problem.incarnation = (char *)"run1";
    problem.text = (char *)"no such\nfile \xff /srv/web.img";
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_PROBLEM;
    command.vm_problem = &problem;
    assert_done(world_apply(world, &command));
    assert_done(world_apply(world, &command));
    assert_int_equal(world_event_count(world, "vm.problem"), 1);
    assert_string_equal(world_vm(world, vm)->last_error, "no such file ? /srv/web.img");
    assert_int_equal(world_vm(world, vm)->owner_host_id, 1);
    assert_done(world_started(world, vm, 1, 1));
    assert_string_equal(world_vm(world, vm)->last_error, "");
}

static void test_crash_of_the_guest_is_told_once(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    uint64_t vm = world_running_vm(world, "web", 1, true);
    Drover__VmPanicked panicked = DROVER__VM_PANICKED__INIT;
    panicked.vm_id = vm;
    panicked.epoch = 1;
    panicked.host_id = 1;
    panicked.incarnation = (char *)"run1";
    panicked.at_unix_ms = 1000;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_PANICKED;
    command.vm_panicked = &panicked;
    assert_done(world_apply(world, &command));
    assert_done(world_apply(world, &command));
    assert_int_equal(world_event_count(world, "vm.panicked"), 1);
    assert_int_equal(world_vm(world, vm)->panics, 1);
    panicked.at_unix_ms = 2000;
    assert_done(world_apply(world, &command));
    assert_int_equal(world_vm(world, vm)->panics, 2);
    panicked.at_unix_ms = 3000;
    panicked.epoch = 2;
    assert_refused(world_apply(world, &command), DROVER_ESTALEEPOCH);
}

/* ---- descriptions ------------------------------------------------------------------ */

static void test_names_and_writable_disks_belong_to_one_vm(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    assert_done(world_vm_create(world, "web", "/srv/a.img", true));
    assert_refused(world_vm_create(world, "web", "/srv/b.img", true), DROVER_EEXISTS);
    assert_refused(world_vm_create(world, "db", "/srv/a.img", true), DROVER_EINUSE);
    assert_non_null(strstr(world->result.text, "'web'"));
    assert_done(world_vm_create(world, "db", "/srv/b.img", true));
    const Drover__VmRecord *web = cluster_state_vm_by_name(world->state, "web");
    const Drover__VmRecord *db = cluster_state_vm_by_name(world->state, "db");
    assert_string_not_equal(web->spec->nics[0]->mac, db->spec->nics[0]->mac);
    assert_memory_equal(web->spec->nics[0]->mac, "52:54:00:", 9);
}

struct spec_case {
    Drover__DiskSpec disk;
    Drover__DiskSpec *disks[1];
    Drover__NicSpec nic;
    Drover__NicSpec *nics[1];
    Drover__VmSpec spec;
};

static int create_spec(struct world *world, Drover__VmSpec *spec)
{
    Drover__VmCreate create = DROVER__VM_CREATE__INIT;
    create.spec = spec;
    create.wanted = STOPPED;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_CREATE;
    command.vm_create = &create;
    return world_apply(world, &command);
}

static void good_spec(struct spec_case *good)
{
    drover__disk_spec__init(&good->disk);
    drover__nic_spec__init(&good->nic);
    drover__vm_spec__init(&good->spec);
    good->disk.path = (char *)"/srv/a.img";
    good->disks[0] = &good->disk;
    good->nics[0] = &good->nic;
    good->nic.mac = (char *)"52:54:00:00:00:01";
    good->nic.bridge = (char *)"br0";
    good->spec.name = (char *)"web";
    good->spec.memory_bytes = 64 * MIB;
    good->spec.cpus = 2;
    good->spec.kernel = (char *)"/boot/vmlinuz";
    good->spec.disks = good->disks;
    good->spec.n_disks = 1;
    good->spec.nics = good->nics;
    good->spec.n_nics = 1;
}

static void test_bad_descriptions_are_refused(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    struct spec_case c;
    static char long_text[LIMIT_CMDLINE_SIZE + 2];
    memset(long_text, 'x', sizeof(long_text) - 1);
#define BAD(change)                                                                      \
    do {                                                                                 \
        good_spec(&c);                                                                   \
        change;                                                                          \
        int rv = create_spec(world, &c.spec);                                            \
        if (rv != DROVER_EBADINPUT && rv != DROVER_ELIMIT) {                             \
            fail_msg("'%s' gives %d", #change, rv);                                      \
        }                                                                                \
    } while (0)
    BAD(c.spec.name = (char *)"");
    BAD(c.spec.name = (char *)"Web");
    BAD(c.spec.memory_bytes = 0);
    BAD(c.spec.memory_bytes = MIB + 1);
    BAD(c.spec.memory_bytes = UINT64_MAX);
    BAD(c.spec.cpus = 0);
    BAD(c.spec.cpus = LIMIT_VCPUS + 1);
    BAD(c.spec.kernel = (char *)"");
    BAD(c.spec.kernel = (char *)"vmlinuz");
    BAD(c.spec.kernel = (char *)"/boot/../vmlinuz");
    BAD(c.spec.firmware = (char *)"bios");
    BAD((c.spec.kernel = (char *)"", c.spec.firmware = (char *)"efi"));
    BAD((c.spec.kernel = (char *)"", c.spec.firmware = (char *)"uefi",
         c.spec.cmdline = (char *)"x"));
    BAD(c.spec.initrd = (char *)"initrd");
    BAD(c.spec.cmdline = long_text);
    BAD(c.spec.cmdline = (char *)"two\nlines");
    BAD(c.spec.cmdline = (char *)"\xc3\x28");
    BAD(c.disk.path = (char *)"");
    BAD(c.disk.path = (char *)"a.img");
    BAD(c.disk.path = (char *)"/");
    BAD(c.disk.path = (char *)"/srv//a.img");
    BAD(c.disk.path = (char *)"/srv/./a.img");
    BAD(c.disk.path = (char *)"/srv/a.img/");
    BAD(c.disk.path = (char *)"/srv/\x01");
    BAD(c.nic.mac = (char *)"52:54:00:00:00");
    BAD(c.nic.mac = (char *)"52-54-00-00-00-01");
    BAD(c.nic.mac = (char *)"52:54:00:00:00:0G");
    BAD(c.nic.mac = (char *)"53:54:00:00:00:01"); /* multicast */
    BAD(c.nic.mac = (char *)"00:00:00:00:00:00");
    BAD(c.nic.bridge = (char *)"a-bridge-too-long");
    BAD(c.nic.bridge = (char *)"br 0");
    BAD(c.nic.mtu = 1279);
    BAD(c.nic.queues = 3); /* of 2 CPUs */
    BAD(c.nic.bandwidth = 100);
    BAD(c.nic.vhost = (char *)"yes");
    BAD(c.nic.boot = LIMIT_VM_BOOT + 1);
    BAD(c.disk.format = (char *)"qcow");
    BAD(c.disk.format = (char *)"luks"); /* without a key */
    BAD(c.disk.key_file = (char *)"key");
    BAD(c.disk.serial = (char *)"123456789012345678901");
    BAD(c.disk.queues = 3);
    BAD(c.disk.iops = 1);
    BAD(c.disk.bandwidth = 500);
    BAD((c.disk.cdrom = true, c.disk.iops = 100));
    BAD((c.disk.cdrom = true, c.disk.format = (char *)"qcow2"));
    BAD(c.disk.path = (char *)"http://10.0.0.1/a");
    BAD(c.disk.path = (char *)"nbd://10.0.0.1/a b");
    BAD(c.disk.path = (char *)"/srv/a,b.img");
    BAD(c.spec.cpu_model = (char *)"qemu64");
    BAD(c.spec.cpu_quota = 201); /* of 2 CPUs */
    BAD(c.spec.cpu_weight = 10001);
    BAD(c.spec.cpu_affinity = (char *)"3-1");
    BAD(c.spec.cpu_affinity = (char *)"0,");
    BAD(c.spec.cpu_affinity = (char *)"all");
    BAD((c.spec.huge_pages = true, c.spec.mergeable = true));
    BAD((c.spec.prealloc = true, c.spec.mergeable = true));
    BAD((c.spec.mergeable = true, c.disk.format = (char *)"qcow2"));
    BAD((c.spec.mergeable = true, c.disk.path = (char *)"nbd://10.0.0.1/a"));
    BAD((c.spec.huge_pages = true, c.spec.memory_bytes = 3 * MIB));
    BAD(c.spec.vsock_cid = 2);
    BAD(c.spec.on_panic = (char *)"panic");
    BAD(c.spec.vars = (char *)"/srv/a.vars"); /* without a firmware */
    BAD((c.spec.kernel = (char *)"", c.spec.firmware = (char *)"uefi",
         c.disk.path = (char *)"/dev/sdb")); /* without a place for its variables */
    BAD((c.spec.kernel = (char *)"", c.spec.firmware = (char *)"uefi",
         c.spec.vars = (char *)"/srv/a.img")); /* which is the disk */
    assert_int_equal(create_spec(world, NULL), DROVER_EMALFORMED);
    good_spec(&c);
    assert_done(create_spec(world, &c.spec));
    good_spec(&c);
    c.spec.name = (char *)"db";
    c.disk.path = (char *)"/srv/b.img";
    assert_refused(create_spec(world, &c.spec), DROVER_EINUSE); /* the MAC */
}

static int update_spec(struct world *world, uint64_t vm_id, Drover__VmSpec *spec)
{
    Drover__VmUpdate update = DROVER__VM_UPDATE__INIT;
    update.vm_id = vm_id;
    update.spec = spec;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_UPDATE;
    command.vm_update = &update;
    return world_apply(world, &command);
}

static void test_a_stopped_vm_gets_another_description(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    struct spec_case c;
    good_spec(&c);
    assert_done(create_spec(world, &c.spec));
    uint64_t vm_id = cluster_state_vm_by_name(world->state, "web")->vm_id;
    c.spec.cpus = 4;
    c.nic.mac = (char *)"";
    assert_done(update_spec(world, vm_id, &c.spec));
    const Drover__VmRecord *vm = cluster_state_vm_by_name(world->state, "web");
    assert_int_equal(vm->spec->cpus, 4);
    assert_string_equal(vm->spec->nics[0]->mac, "52:54:00:00:00:01"); /* it stays */
    c.spec.name = (char *)"other";
    assert_refused(update_spec(world, vm_id, &c.spec), DROVER_EBADINPUT);
    c.spec.name = (char *)"web";
    c.spec.cpus = 0;
    assert_refused(update_spec(world, vm_id, &c.spec), DROVER_EBADINPUT);
    assert_refused(update_spec(world, vm_id, NULL), DROVER_EMALFORMED);
    assert_refused(update_spec(world, 77, &c.spec), DROVER_ENOTFOUND);
    good_spec(&c);
    c.spec.name = (char *)"db";
    c.disk.path = (char *)"/srv/b.img";
    c.nic.mac = (char *)"52:54:00:00:00:02";
    assert_done(create_spec(world, &c.spec));
    c.spec.name = (char *)"web"; /* with the disk of db */
    assert_refused(update_spec(world, vm_id, &c.spec), DROVER_EINUSE);
}

static void test_a_vm_with_an_owner_keeps_its_description(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    struct spec_case c;
    good_spec(&c);
    assert_done(create_spec(world, &c.spec));
    uint64_t vm_id = cluster_state_vm_by_name(world->state, "web")->vm_id;
    assert_done(world_wanted(world, vm_id, DROVER__VM_WANTED__VM_WANTED_RUNNING));
    assert_done(world_assign(world, vm_id, 1));
    c.spec.cpus = 4;
    assert_refused(update_spec(world, vm_id, &c.spec), DROVER_EWRONGSTATE);
    assert_int_equal(cluster_state_vm(world->state, vm_id)->spec->cpus, 2);
}

static int set_balloon(struct world *world, uint64_t vm_id, uint64_t bytes)
{
    Drover__VmSetBalloon order = DROVER__VM_SET_BALLOON__INIT;
    order.vm_id = vm_id;
    order.memory_bytes = bytes;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_SET_BALLOON;
    command.vm_set_balloon = &order;
    return world_apply(world, &command);
}

static void test_the_balloon_leaves_at_most_what_is_described(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    struct spec_case c;
    good_spec(&c); /* 64 MiB */
    assert_done(create_spec(world, &c.spec));
    uint64_t vm_id = cluster_state_vm_by_name(world->state, "web")->vm_id;
    assert_done(set_balloon(world, vm_id, 32 * MIB));
    assert_int_equal(cluster_state_vm(world->state, vm_id)->balloon_bytes, 32 * MIB);
    assert_refused(set_balloon(world, vm_id, 65 * MIB), DROVER_EBADINPUT);
    assert_refused(set_balloon(world, vm_id, 8 * MIB), DROVER_EBADINPUT);
    assert_refused(set_balloon(world, vm_id, 32 * MIB + 1), DROVER_EBADINPUT);
    assert_refused(set_balloon(world, 77, 32 * MIB), DROVER_ENOTFOUND);
    assert_int_equal(cluster_state_vm(world->state, vm_id)->balloon_bytes, 32 * MIB);
    assert_int_equal(world_event_count(world, "vm.balloon"), 1);
    assert_done(set_balloon(world, vm_id, 64 * MIB)); /* all */
    assert_int_equal(cluster_state_vm(world->state, vm_id)->balloon_bytes, 0);
    assert_done(set_balloon(world, vm_id, 48 * MIB));
    c.spec.memory_bytes = 32 * MIB; /* less than the balloon leaves */
    assert_done(update_spec(world, vm_id, &c.spec));
    assert_int_equal(cluster_state_vm(world->state, vm_id)->balloon_bytes, 0);
}

static void test_uefi_variables_go_beside_the_disk(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    struct spec_case c;
    good_spec(&c);
    c.spec.kernel = (char *)"";
    c.spec.firmware = (char *)"uefi";
    assert_done(create_spec(world, &c.spec));
    const Drover__VmRecord *vm = cluster_state_vm_by_name(world->state, "web");
    assert_string_equal(vm->spec->vars, "/srv/a.img.vars");
    c.spec.name = (char *)"db"; /* another VM's disk must not be that file */
    c.nic.mac = (char *)"";
    c.disk.path = (char *)"/srv/a.img.vars";
    assert_refused(create_spec(world, &c.spec), DROVER_EINUSE);
    c.disk.path = (char *)"/srv/b.img";
    c.spec.vars = (char *)"/srv/a.img";
    assert_refused(create_spec(world, &c.spec), DROVER_EINUSE);
    c.spec.vars = (char *)"/srv/a.img.vars";
    assert_refused(create_spec(world, &c.spec), DROVER_EINUSE);
}

static void test_readonly_disks_are_shared(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    struct spec_case c;
    good_spec(&c);
    c.spec.n_nics = 0;
    c.disk.readonly = true;
    assert_done(create_spec(world, &c.spec));
    c.spec.name = (char *)"db";
    assert_done(create_spec(world, &c.spec));
    c.spec.name = (char *)"writer";
    c.disk.readonly = false;
    assert_refused(create_spec(world, &c.spec), DROVER_EINUSE);
}

static void test_too_many_disks_or_nics_are_refused(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    struct spec_case c;
    good_spec(&c);
    Drover__DiskSpec disks[LIMIT_VM_DISKS + 1];
    Drover__DiskSpec *pointers[LIMIT_VM_DISKS + 1];
    char paths[LIMIT_VM_DISKS + 1][32];
    for (unsigned i = 0; i <= LIMIT_VM_DISKS; i++) {
        drover__disk_spec__init(&disks[i]);
        (void)snprintf(paths[i], sizeof(paths[i]), "/srv/%u.img", i);
        disks[i].path = paths[i];
        pointers[i] = &disks[i];
    }
    c.spec.disks = pointers;
    c.spec.n_disks = LIMIT_VM_DISKS + 1;
    assert_refused(create_spec(world, &c.spec), DROVER_ELIMIT);
    c.spec.n_disks = 2;
    disks[1].path = disks[0].path;
    assert_refused(create_spec(world, &c.spec), DROVER_EBADINPUT);
    disks[1].path = paths[1];
    c.spec.n_disks = LIMIT_VM_DISKS;
    assert_done(create_spec(world, &c.spec));
}

int main(void)
{
#define ON_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)
    const struct CMUnitTest tests[] = {
        ON_WORLD(test_vm_is_given_to_one_host_at_a_time),
        ON_WORLD(test_assignment_that_was_decided_on_old_knowledge_is_refused),
        ON_WORLD(test_words_of_others_about_a_vm_do_not_count),
        ON_WORLD(test_word_of_an_earlier_run_of_the_agent_does_not_count),
        ON_WORLD(test_guest_that_powers_off_stays_off),
        ON_WORLD(test_killed_vm_is_wanted_stopped_afterwards),
        ON_WORLD(test_vm_with_an_owner_is_not_deleted),
        ON_WORLD(test_host_is_not_given_more_than_its_memory),
        ON_WORLD(test_problem_is_told_once),
        ON_WORLD(test_crash_of_the_guest_is_told_once),
        ON_WORLD(test_names_and_writable_disks_belong_to_one_vm),
        ON_WORLD(test_bad_descriptions_are_refused),
        ON_WORLD(test_a_stopped_vm_gets_another_description),
        ON_WORLD(test_a_vm_with_an_owner_keeps_its_description),
        ON_WORLD(test_the_balloon_leaves_at_most_what_is_described),
        ON_WORLD(test_uefi_variables_go_beside_the_disk),
        ON_WORLD(test_readonly_disks_are_shared),
        ON_WORLD(test_too_many_disks_or_nics_are_refused),
    };
    return cmocka_run_group_tests_name("cluster_state_vm", tests, NULL, NULL);
}
