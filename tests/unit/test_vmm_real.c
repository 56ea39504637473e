/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The supervisor with real drover-vmm processes and small guests on /dev/kvm. Skipped,
 * with the reason, where there is no KVM, or where the programs have not been built.
 */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "node-agent/vmm_folder.h"
#include "node-agent/vmm_supervisor.h"

#define WAIT_MS 30000
#define EPOCHS  4

/* What was told of one epoch of the VM. */
struct seen {
    unsigned status_count, gone_count;
    Drover__VmRunState run_state;
    Drover__VmMigrationState migration;
    int pid;
    char uri[128];
    char reason[256];
    bool powered_off;
};

struct fixture {
    uv_loop_t loop;
    uv_timer_t tick;
    char run[64];
    char guest[256];
    struct vmm_supervisor *supervisor;
    struct seen seen[EPOCHS];
    unsigned scan_count, failed_count;
    char failed_text[320];
    bool closed;
};

static void on_status(void *owner, const Drover__VmStatus *status)
{
    struct fixture *f = owner;
    assert_true(status->epoch < EPOCHS);
    struct seen *seen = &f->seen[status->epoch];
    seen->status_count++;
    seen->run_state = status->run_state;
    seen->pid = status->pid;
    seen->migration = status->migration == NULL ? 0 : status->migration->state;
    (void)snprintf(seen->uri, sizeof(seen->uri), "%s", status->incoming_uri);
}

static void on_gone(void *owner, uint64_t vm_id, uint64_t epoch, const char *reason,
                    bool off)
{
    struct fixture *f = owner;
    assert_int_equal(vm_id, 7);
    assert_true(epoch < EPOCHS);
    f->seen[epoch].gone_count++;
    f->seen[epoch].powered_off = off;
    (void)snprintf(f->seen[epoch].reason, sizeof(f->seen[epoch].reason), "%s", reason);
}

static void on_failed(void *owner, uint64_t vm_id, uint64_t epoch, int error,
                      const char *text)
{
    struct fixture *f = owner;
    (void)vm_id;
    (void)epoch;
    (void)error;
    f->failed_count++;
    (void)snprintf(f->failed_text, sizeof(f->failed_text), "%s", text);
}

static void on_scan_done(void *owner)
{
    ((struct fixture *)owner)->scan_count++;
}

static void on_note(void *owner, const char *text)
{
    (void)owner;
    print_message("note: %s\n", text);
}

static const struct vmm_supervisor_ops ops = {on_status, on_gone, on_failed, on_scan_done,
                                              on_note};

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static bool wait_more(struct fixture *f, uint64_t end_ms)
{
    (void)uv_run(&f->loop, UV_RUN_ONCE);
    return clock_now_ms() < end_ms;
}

#define WAIT_UNTIL(f, condition)                                                         \
    do {                                                                                 \
        uint64_t wait_end_ms = clock_now_ms() + WAIT_MS;                                 \
        while (!(condition) && wait_more((f), wait_end_ms)) {                            \
        }                                                                                \
        assert_true(condition);                                                          \
    } while (0)

static void supervise(struct fixture *f)
{
    struct error err = {0};
    const struct vmm_supervisor_config config = {
        .loop = &f->loop,
        .run_directory = f->run,
        .vmm_program = "./drover-vmm",
        .incoming = "tcp:127.0.0.1:0",
        .ops = &ops,
        .owner = f,
    };
    memset(f->seen, 0, sizeof(f->seen));
    f->scan_count = 0;
    f->closed = false;
    assert_int_equal(vmm_supervisor_create(&config, &f->supervisor, &err), 0);
    assert_int_equal(vmm_supervisor_scan(f->supervisor, &err), 0);
    WAIT_UNTIL(f, f->scan_count == 1);
}

static void on_closed(void *owner)
{
    ((struct fixture *)owner)->closed = true;
}

/* As when droverd ends: the VMMs run on. */
static void let_go(struct fixture *f)
{
    vmm_supervisor_close(f->supervisor, on_closed, f);
    WAIT_UNTIL(f, f->closed);
    vmm_supervisor_free(f->supervisor);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)snprintf(f->run, sizeof(f->run), "/tmp/drover-test-XXXXXX");
    assert_non_null(mkdtemp(f->run));
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(uv_timer_init(&f->loop, &f->tick), 0);
    assert_int_equal(uv_timer_start(&f->tick, on_tick, 20, 20), 0);
    supervise(f);
    *state = f;
    return 0;
}

static void order(struct fixture *f, uint64_t epoch,
                  Drover__ControlRequest__OrderCase order_case, void *message)
{
    Drover__ControlRequest request = DROVER__CONTROL_REQUEST__INIT;
    request.order_case = order_case;
    request.status = message; /* all orders are pointers in one union */
    vmm_supervisor_order(f->supervisor, 7, epoch, &request);
}

static void quit(struct fixture *f, uint64_t epoch)
{
    Drover__ControlQuit message = DROVER__CONTROL_QUIT__INIT;
    order(f, epoch, DROVER__CONTROL_REQUEST__ORDER_QUIT, &message);
    WAIT_UNTIL(f, f->seen[epoch].gone_count == 1);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];
    for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
        if (vmm_supervisor_status(f->supervisor, 7, epoch) != NULL) {
            quit(f, epoch);
        }
    }
    let_go(f);
    uv_close((uv_handle_t *)&f->tick, NULL);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    (void)snprintf(command, sizeof(command), "rm -rf %s", f->run);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

struct wanted {
    const char *guest; /* NULL: a file that is not there */
    const char *cmdline;
    bool ha, incoming;
    uint64_t epoch;
};

static void start(struct fixture *f, const struct wanted *wanted)
{
    Drover__VmRecord record = DROVER__VM_RECORD__INIT;
    Drover__VmSpec spec = DROVER__VM_SPEC__INIT;
    static char name[] = "web";
    char kernel[300];
    char cwd[200];
    assert_non_null(getcwd(cwd, sizeof(cwd)));
    (void)snprintf(kernel, sizeof(kernel), "%s/tests/guests/%s.elf", cwd,
                   wanted->guest == NULL ? "missing" : wanted->guest);
    spec.name = name;
    spec.memory_bytes = 64 << 20;
    spec.cpus = 1;
    spec.kernel = kernel;
    spec.cmdline = (char *)wanted->cmdline;
    spec.ha = wanted->ha;
    record.vm_id = 7;
    record.spec = &spec;
    vmm_supervisor_start(f->supervisor, &record, wanted->epoch, wanted->incoming);
}

#define STATE(name) DROVER__VM_RUN_STATE__VM_RUN_##name

static void test_guest_that_powers_off_is_gone_as_such(void **state)
{
    struct fixture *f = *state;
    start(f, &(struct wanted){.guest = "hello", .cmdline = "", .epoch = 1});
    WAIT_UNTIL(f, f->seen[1].gone_count == 1);
    assert_string_equal(f->seen[1].reason, "the guest powered off");
    assert_true(f->seen[1].powered_off);
}

static void test_missing_kernel_is_told_in_the_vmm_s_own_words(void **state)
{
    struct fixture *f = *state;
    start(f, &(struct wanted){.cmdline = "", .epoch = 1});
    WAIT_UNTIL(f, f->seen[1].gone_count == 1);
    assert_non_null(strstr(f->seen[1].reason, "missing.elf"));
    assert_null(strchr(f->seen[1].reason, '\n'));
    assert_false(f->seen[1].powered_off);
    assert_int_equal(f->seen[1].status_count, 0);
}

static void test_guest_that_powered_off_unwatched_is_told_so_by_the_scan(void **state)
{
    struct fixture *f = *state;
    start(f, &(struct wanted){.guest = "hello", .cmdline = "wait", .epoch = 1});
    WAIT_UNTIL(f, f->seen[1].run_state == STATE(RUNNING));
    let_go(f);
    supervise(f);
    assert_int_equal(f->seen[1].run_state, STATE(RUNNING));
    let_go(f);
    /* Another one powers off between two runs of the agent. */
    supervise(f);
    quit(f, 1);
    start(f, &(struct wanted){.guest = "hello", .cmdline = "", .epoch = 2});
    let_go(f);
    for (unsigned i = 0; i < 10000 && vmm_folder_held(f->run, 7, 2) == 1; i++) {
        (void)usleep(1000);
    }
    supervise(f);
    assert_int_equal(f->seen[2].gone_count, 1);
    assert_string_equal(f->seen[2].reason, "the guest powered off");
    assert_true(f->seen[2].powered_off);
}

static void test_ha_vm_runs_by_its_lease_and_freezes_at_its_end(void **state)
{
    struct fixture *f = *state;
    Drover__ControlLease lease = DROVER__CONTROL_LEASE__INIT;
    start(f,
          &(struct wanted){.guest = "hello", .cmdline = "wait", .ha = true, .epoch = 1});
    WAIT_UNTIL(f, f->seen[1].status_count > 0);
    assert_int_equal(f->seen[1].run_state, STATE(FROZEN));
    lease.deadline_ns = clock_now_ns() + 800 * NS_PER_MS;
    order(f, 1, DROVER__CONTROL_REQUEST__ORDER_LEASE, &lease);
    WAIT_UNTIL(f, f->seen[1].run_state == STATE(RUNNING));
    assert_true(clock_now_ns() < lease.deadline_ns);
    WAIT_UNTIL(f, f->seen[1].run_state == STATE(FROZEN));
    assert_true(clock_now_ns() >= lease.deadline_ns);
    lease.deadline_ns = clock_now_ns() + 60 * NS_PER_S;
    order(f, 1, DROVER__CONTROL_REQUEST__ORDER_LEASE, &lease);
    WAIT_UNTIL(f, f->seen[1].run_state == STATE(RUNNING));
    assert_int_equal(f->failed_count, 0);
}

static void test_vm_moves_between_two_vmms_of_one_host(void **state)
{
    struct fixture *f = *state;
    static char cmdline[] = "used=8 hot=1 rate=200";
    Drover__ControlMigrate migrate = DROVER__CONTROL_MIGRATE__INIT;
    start(f, &(struct wanted){.guest = "checker", .cmdline = cmdline, .epoch = 1});
    WAIT_UNTIL(f, f->seen[1].run_state == STATE(RUNNING));
    start(f, &(struct wanted){
                 .guest = "checker", .cmdline = cmdline, .incoming = true, .epoch = 2});
    WAIT_UNTIL(f, f->seen[2].run_state == STATE(INCOMING) && f->seen[2].uri[0] != '\0');
    migrate.uri = f->seen[2].uri;
    order(f, 1, DROVER__CONTROL_REQUEST__ORDER_MIGRATE, &migrate);
    WAIT_UNTIL(f, f->seen[2].run_state == STATE(RUNNING));
    WAIT_UNTIL(f,
               f->seen[1].run_state == STATE(HANDED_OVER) || f->seen[1].gone_count == 1);
    assert_int_equal(f->failed_count, 0);
    if (f->seen[1].gone_count == 0) {
        quit(f, 1);
    }
    assert_int_equal(f->seen[2].run_state, STATE(RUNNING));
}

static void test_serial_port_is_reached_by_its_socket(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char byte = 'x';
    start(f, &(struct wanted){.guest = "hello", .cmdline = "wait", .epoch = 1});
    WAIT_UNTIL(f, f->seen[1].run_state == STATE(RUNNING));
    assert_int_equal(vmm_supervisor_serial_path(f->supervisor, 7, 1, address.sun_path,
                                                sizeof(address.sun_path)),
                     0);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(write(fd, &byte, 1), 1);
    do {
        assert_int_equal(read(fd, &byte, 1), 1); /* its greeting, then our own letter */
    } while (byte != 'x');
    (void)close(fd);
    assert_int_equal(vmm_supervisor_serial_path(f->supervisor, 7, 2, address.sun_path,
                                                sizeof(address.sun_path)),
                     DROVER_ENOTFOUND);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_guest_that_powers_off_is_gone_as_such),
        CASE(test_missing_kernel_is_told_in_the_vmm_s_own_words),
        CASE(test_guest_that_powered_off_unwatched_is_told_so_by_the_scan),
        CASE(test_ha_vm_runs_by_its_lease_and_freezes_at_its_end),
        CASE(test_vm_moves_between_two_vmms_of_one_host),
        CASE(test_serial_port_is_reached_by_its_socket),
    };
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0 || access("./drover-vmm", X_OK) != 0 ||
        access("tests/guests/hello.elf", R_OK) != 0) {
        (void)printf(
            "skipped: needs /dev/kvm, drover-vmm and the test guests of the build\n");
        return 77;
    }
    (void)close(kvm);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
