/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor on a real loop with real processes (tests/unit/fake_vmm.c), sockets and
 * locks. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "node-agent/vmm_folder.h"
#include "node-agent/vmm_supervisor.h"

#define WAIT_MS 8000

struct seen {
    unsigned status_count, gone_count, failed_count, scan_count;
    Drover__VmRunState run_state;
    int pid;
    char uri[64];
    char reason[256];
    bool powered_off;
    int failed_error;
    char failed_text[256];
    char note[400];
};

struct fixture {
    uv_loop_t loop;
    uv_timer_t tick; /* keeps uv_run(UV_RUN_ONCE) from blocking for ever */
    char run[64];
    struct vmm_supervisor *supervisor;
    struct seen seen;
    bool closed;
};

static void on_status(void *owner, const Drover__VmStatus *status)
{
    struct fixture *f = owner;
    f->seen.status_count++;
    f->seen.run_state = status->run_state;
    f->seen.pid = status->pid;
    (void)snprintf(f->seen.uri, sizeof(f->seen.uri), "%s", status->incoming_uri);
}

static void on_gone(void *owner, uint64_t vm_id, uint64_t epoch, const char *reason,
                    bool off)
{
    struct fixture *f = owner;
    assert_int_equal(vm_id, 7);
    assert_int_equal(epoch, 3);
    f->seen.gone_count++;
    f->seen.powered_off = off;
    (void)snprintf(f->seen.reason, sizeof(f->seen.reason), "%s", reason);
}

static void on_failed(void *owner, uint64_t vm_id, uint64_t epoch, int error,
                      const char *text)
{
    struct fixture *f = owner;
    (void)vm_id;
    (void)epoch;
    f->seen.failed_count++;
    f->seen.failed_error = error;
    (void)snprintf(f->seen.failed_text, sizeof(f->seen.failed_text), "%s", text);
}

static void on_scan_done(void *owner)
{
    struct fixture *f = owner;
    f->seen.scan_count++;
}

static void on_note(void *owner, const char *text)
{
    struct fixture *f = owner;
    (void)snprintf(f->seen.note, sizeof(f->seen.note), "%s", text);
}

static const struct vmm_supervisor_ops ops = {on_status, on_gone, on_failed, on_scan_done,
                                              on_note};

static const char *program(void)
{
    return access("tests/unit/fake_vmm", X_OK) == 0 ? "tests/unit/fake_vmm" : "fake_vmm";
}

static void supervise_with(struct fixture *f, const char *vmm_program)
{
    struct error err = {0};
    const struct vmm_supervisor_config config = {
        .loop = &f->loop,
        .run_directory = f->run,
        .vmm_program = vmm_program,
        .incoming = "tcp:127.0.0.1:0",
        .ops = &ops,
        .owner = f,
    };
    memset(&f->seen, 0, sizeof(f->seen));
    f->closed = false;
    assert_int_equal(vmm_supervisor_create(&config, &f->supervisor, &err), 0);
    assert_int_equal(vmm_supervisor_scan(f->supervisor, &err), 0);
    assert_int_equal(f->seen.scan_count, 0); /* never inside the call */
}

static void run_until(struct fixture *f, const unsigned *count, unsigned wanted)
{
    uint64_t end_ms = clock_now_ms() + WAIT_MS * 2;
    while (*count < wanted && clock_now_ms() < end_ms) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_true(*count >= wanted);
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    (void)snprintf(f->run, sizeof(f->run), "/tmp/drover-test-XXXXXX");
    assert_non_null(mkdtemp(f->run));
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(uv_timer_init(&f->loop, &f->tick), 0);
    assert_int_equal(uv_timer_start(&f->tick, on_tick, 20, 20), 0);
    supervise_with(f, program());
    run_until(f, &f->seen.scan_count, 1);
    *state = f;
    return 0;
}

static void on_closed(void *owner)
{
    struct fixture *f = owner;
    f->closed = true;
}

/* As when droverd ends: the VMMs run on. */
static void let_go(struct fixture *f)
{
    vmm_supervisor_close(f->supervisor, on_closed, f);
    assert_false(f->closed);
    while (!f->closed) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    vmm_supervisor_free(f->supervisor);
    f->supervisor = NULL;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];
    let_go(f);
    uv_close((uv_handle_t *)&f->tick, NULL);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0); /* no handle left behind */
    (void)snprintf(command, sizeof(command), "rm -rf %s", f->run);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static void start(struct fixture *f, const char *name, bool incoming)
{
    Drover__VmRecord record = DROVER__VM_RECORD__INIT;
    Drover__VmSpec spec = DROVER__VM_SPEC__INIT;
    spec.name = (char *)name;
    spec.memory_bytes = 16 << 20;
    spec.cpus = 1;
    spec.kernel = (char *)"/no/such";
    record.vm_id = 7;
    record.spec = &spec;
    vmm_supervisor_start(f->supervisor, &record, 3, incoming);
    assert_int_equal(f->seen.gone_count, 0);
}

static void order(struct fixture *f, Drover__ControlRequest__OrderCase order_case)
{
    Drover__ControlRequest request = DROVER__CONTROL_REQUEST__INIT;
    Drover__ControlPause pause_order = DROVER__CONTROL_PAUSE__INIT;
    Drover__ControlQuit quit = DROVER__CONTROL_QUIT__INIT;
    Drover__ControlPowerButton button = DROVER__CONTROL_POWER_BUTTON__INIT;
    Drover__ControlReclaim reclaim = DROVER__CONTROL_RECLAIM__INIT;
    request.order_case = order_case;
    switch (order_case) {
    case DROVER__CONTROL_REQUEST__ORDER_PAUSE:
        request.pause = &pause_order;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_QUIT:
        request.quit = &quit;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON:
        request.power_button = &button;
        break;
    default:
        assert_int_equal(order_case, DROVER__CONTROL_REQUEST__ORDER_RECLAIM);
        request.reclaim = &reclaim;
        break;
    }
    vmm_supervisor_order(f->supervisor, 7, 3, &request);
}

static void assert_folder(const struct fixture *f, bool there)
{
    char path[128];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/vms/7.3", f->run);
    assert_int_equal(stat(path, &st) == 0, there);
}

static void test_started_vmm_reports_and_takes_orders(void **state)
{
    struct fixture *f = *state;
    start(f, "web", false);
    run_until(f, &f->seen.status_count, 1);
    assert_int_equal(f->seen.run_state, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    order(f, DROVER__CONTROL_REQUEST__ORDER_PAUSE);
    run_until(f, &f->seen.status_count, 2);
    assert_int_equal(f->seen.run_state, DROVER__VM_RUN_STATE__VM_RUN_PAUSED);
    order(f, DROVER__CONTROL_REQUEST__ORDER_RECLAIM);
    run_until(f, &f->seen.failed_count, 1);
    assert_int_equal(f->seen.failed_error, DROVER_EWRONGSTATE);
    assert_string_equal(f->seen.failed_text, "there is nothing to reclaim");
    order(f, DROVER__CONTROL_REQUEST__ORDER_QUIT);
    run_until(f, &f->seen.gone_count, 1);
    assert_folder(f, false);
    assert_int_equal(f->seen.failed_count, 1);
    assert_int_equal(vmm_supervisor_count(f->supervisor), 0);
}

static void test_guest_that_powers_off_is_told_as_such(void **state)
{
    struct fixture *f = *state;
    start(f, "web", false);
    run_until(f, &f->seen.status_count, 1);
    order(f, DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON);
    run_until(f, &f->seen.gone_count, 1);
    assert_true(f->seen.powered_off);
    assert_string_equal(f->seen.reason, "the guest powered off");
}

static void test_vmm_that_dies_at_start_is_gone_with_its_last_line(void **state)
{
    struct fixture *f = *state;
    start(f, "dies", false);
    run_until(f, &f->seen.gone_count, 1);
    assert_string_equal(f->seen.reason,
                        "drover-vmm: error: kernel /no/such: give a path");
    assert_false(f->seen.powered_off);
    assert_folder(f, false);
}

static void test_missing_program_is_told_in_one_line(void **state)
{
    struct fixture *f = *state;
    let_go(f);
    supervise_with(f, "/no/such/drover-vmm");
    run_until(f, &f->seen.scan_count, 1);
    start(f, "web", false);
    run_until(f, &f->seen.gone_count, 1);
    assert_non_null(strstr(f->seen.reason, "/no/such/drover-vmm"));
    assert_non_null(strstr(f->seen.reason, "install it"));
}

static void test_killed_vmm_is_gone(void **state)
{
    struct fixture *f = *state;
    start(f, "web", false);
    run_until(f, &f->seen.status_count, 1);
    assert_int_equal(kill(f->seen.pid, SIGKILL), 0);
    run_until(f, &f->seen.gone_count, 1);
    assert_non_null(strstr(f->seen.reason, "killed by signal 9"));
}

static void test_next_droverd_finds_the_vmm_unharmed(void **state)
{
    struct fixture *f = *state;
    start(f, "web", false);
    run_until(f, &f->seen.status_count, 1);
    int pid = f->seen.pid;
    let_go(f);
    supervise_with(f, program());
    run_until(f, &f->seen.scan_count, 1);
    assert_true(f->seen.status_count >= 1); /* before scan_done */
    assert_int_equal(f->seen.pid, pid);
    assert_int_equal(vmm_supervisor_count(f->supervisor), 1);
    start(f, "web", false); /* a second one is not started: the first is told of */
    run_until(f, &f->seen.status_count, 2);
    assert_int_equal(f->seen.pid, pid);
    order(f, DROVER__CONTROL_REQUEST__ORDER_QUIT);
    run_until(f, &f->seen.gone_count, 1);
}

static void test_vmm_that_died_unwatched_is_gone_before_the_scan_is_done(void **state)
{
    struct fixture *f = *state;
    start(f, "web", false);
    run_until(f, &f->seen.status_count, 1);
    int pid = f->seen.pid;
    let_go(f);
    assert_int_equal(kill(pid, SIGKILL), 0);
    while (vmm_folder_held(f->run, 7, 3) == 1) {
        (void)usleep(1000);
    }
    supervise_with(f, program());
    run_until(f, &f->seen.scan_count, 1);
    assert_int_equal(f->seen.gone_count, 1);
    assert_int_equal(f->seen.status_count, 0);
    assert_folder(f, false);
}

static void test_vmm_without_a_readable_record_is_found_by_its_lock(void **state)
{
    struct fixture *f = *state;
    char path[128];
    start(f, "web", false);
    run_until(f, &f->seen.status_count, 1);
    int pid = f->seen.pid;
    let_go(f);
    (void)snprintf(path, sizeof(path), "%s/vms/7.3/record", f->run);
    assert_int_equal(truncate(path, 9), 0);
    supervise_with(f, program());
    run_until(f, &f->seen.scan_count, 1);
    assert_int_equal(f->seen.pid, pid);
    assert_int_equal(kill(pid, SIGKILL), 0);
    run_until(f, &f->seen.gone_count, 1);
}

static void test_incoming_vmm_tells_where_it_waits(void **state)
{
    struct fixture *f = *state;
    start(f, "web", true);
    run_until(f, &f->seen.status_count, 1);
    assert_int_equal(f->seen.run_state, DROVER__VM_RUN_STATE__VM_RUN_INCOMING);
    assert_string_equal(f->seen.uri, "tcp:127.0.0.1:49152");
    order(f, DROVER__CONTROL_REQUEST__ORDER_QUIT);
    run_until(f, &f->seen.gone_count, 1);
}

static void test_order_to_no_vmm_fails_later(void **state)
{
    struct fixture *f = *state;
    order(f, DROVER__CONTROL_REQUEST__ORDER_QUIT);
    assert_int_equal(f->seen.failed_count, 0);
    run_until(f, &f->seen.failed_count, 1);
    assert_int_equal(f->seen.failed_error, DROVER_ENOTFOUND);
}

static void test_vmm_that_does_not_end_on_a_quit_is_killed(void **state)
{
    struct fixture *f = *state;
    start(f, "hangs", false);
    run_until(f, &f->seen.status_count, 1);
    order(f, DROVER__CONTROL_REQUEST__ORDER_QUIT);
    run_until(f, &f->seen.gone_count, 1);
    assert_non_null(strstr(f->seen.reason, "did not end within 10 s"));
}

static void test_noise_on_the_control_socket_is_noted_and_never_a_status(void **state)
{
    struct fixture *f = *state;
    start(f, "garbage", false);
    uint64_t end_ms = clock_now_ms() + 500;
    while (clock_now_ms() < end_ms) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(f->seen.status_count, 0);
    assert_non_null(strstr(f->seen.note, "malformed"));
    Drover__VmmRecord *record = NULL;
    assert_int_equal(vmm_folder_record_load(f->run, 7, 3, &record), 0);
    assert_int_equal(kill(record->pid, SIGKILL), 0);
    drover__vmm_record__free_unpacked(record, NULL);
    run_until(f, &f->seen.gone_count, 1);
}

static void test_status_of_another_epoch_is_never_passed_on(void **state)
{
    struct fixture *f = *state;
    start(f, "liar", false);
    uint64_t end_ms = clock_now_ms() + 500;
    while (clock_now_ms() < end_ms) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(f->seen.status_count, 0);
    Drover__VmmRecord *record = NULL;
    assert_int_equal(vmm_folder_record_load(f->run, 7, 3, &record), 0);
    assert_int_equal(kill(record->pid, SIGKILL), 0);
    drover__vmm_record__free_unpacked(record, NULL);
    run_until(f, &f->seen.gone_count, 1);
}

static void test_second_droverd_on_a_run_directory_is_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct vmm_supervisor *other = NULL;
    const struct vmm_supervisor_config config = {
        .loop = &f->loop, .run_directory = f->run, .ops = &ops, .owner = f};
    assert_int_equal(vmm_supervisor_create(&config, &other, &err), DROVER_EINUSE);
    assert_non_null(strstr(err.text, "another droverd"));
    assert_null(other);
}

static void test_folder_names_are_read_strictly(void **state)
{
    uint64_t vm_id = 0;
    uint64_t epoch = 0;
    (void)state;
    assert_true(vmm_folder_parse("7.3", &vm_id, &epoch));
    assert_int_equal(vm_id, 7);
    assert_int_equal(epoch, 3);
    static const char *const wrong[] = {"",
                                        ".",
                                        "..",
                                        "7",
                                        "7.",
                                        ".3",
                                        "7.3x",
                                        "07.3",
                                        "-7.3",
                                        "7.+3",
                                        " 7.3",
                                        "0.3",
                                        "99999999999999999999999.1"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_false(vmm_folder_parse(wrong[i], &vm_id, &epoch));
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_started_vmm_reports_and_takes_orders),
        CASE(test_guest_that_powers_off_is_told_as_such),
        CASE(test_vmm_that_dies_at_start_is_gone_with_its_last_line),
        CASE(test_missing_program_is_told_in_one_line),
        CASE(test_killed_vmm_is_gone),
        CASE(test_next_droverd_finds_the_vmm_unharmed),
        CASE(test_vmm_that_died_unwatched_is_gone_before_the_scan_is_done),
        CASE(test_vmm_without_a_readable_record_is_found_by_its_lock),
        CASE(test_incoming_vmm_tells_where_it_waits),
        CASE(test_order_to_no_vmm_fails_later),
        CASE(test_vmm_that_does_not_end_on_a_quit_is_killed),
        CASE(test_noise_on_the_control_socket_is_noted_and_never_a_status),
        CASE(test_status_of_another_epoch_is_never_passed_on),
        CASE(test_second_droverd_on_a_run_directory_is_refused),
        cmocka_unit_test(test_folder_names_are_read_strictly),
    };
    (void)signal(SIGPIPE, SIG_IGN); /* as droverd does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
