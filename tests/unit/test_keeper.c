/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper as a process of its own, with a device of ours that counts feeds in shared
 * memory, and with VMMs that answer as real ones do (tests/unit/fake_vmm.c), some of
 * which would not stop.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <linux/watchdog.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "fencing/watchdog_device.h"
#include "node-agent/keeper.h"
#include "node-agent/vmm_folder.h"
#include "node-agent/vmm_supervisor.h"

#define WATCHDOG_MS 1000u

/* Shared with the keeper's process. */
struct device {
    volatile unsigned feeds;
    volatile bool open, disarmed;
};

struct fixture {
    uv_loop_t loop;
    uv_timer_t tick;
    char run[64];
    struct device *device;
    pid_t keeper_pid;
    struct keeper_client *client;
    struct vmm_supervisor *supervisor;
    unsigned ready_count, lost_count, release_count, status_count, gone_count,
        closed_count;
    uint32_t watchdog_ms;
    int release_error;
};

/* ---- the device
 * --------------------------------------------------------------------------------- */

static int device_open(void *owner, const char *path)
{
    struct device *device = owner;
    assert_string_equal(path, "/dev/fake");
    device->open = true;
    return 99;
}

static int device_ioctl(void *owner, int fd, unsigned long request, void *argument)
{
    struct device *device = owner;
    (void)fd;
    switch (request) {
    case WDIOC_GETSUPPORT:
        ((struct watchdog_info *)argument)->options =
            WDIOF_SETTIMEOUT | WDIOF_MAGICCLOSE | WDIOF_KEEPALIVEPING;
        return 0;
    case WDIOC_SETTIMEOUT:
    case WDIOC_GETTIMEOUT:
        *(int *)argument = (int)(WATCHDOG_MS / 1000);
        return 0;
    case WDIOC_KEEPALIVE:
        device->feeds++;
        return 0;
    default:
        errno = ENOTTY;
        return -1;
    }
}

static long device_write(void *owner, int fd, const void *data, size_t size)
{
    struct device *device = owner;
    (void)fd;
    if (size == 1 && *(const char *)data == 'V') {
        device->disarmed = true;
    } else {
        device->feeds++;
    }
    return (long)size;
}

static int device_close(void *owner, int fd)
{
    (void)fd;
    ((struct device *)owner)->open = false;
    return 0;
}

static const struct watchdog_device_ops device_ops = {device_open, device_ioctl,
                                                      device_write, device_close};

/* ---- fixture
 * -------------------------------------------------------------------------------------
 */

static void on_ready(void *owner, uint32_t watchdog_ms, const char *text)
{
    struct fixture *f = owner;
    assert_non_null(text);
    f->ready_count++;
    f->watchdog_ms = watchdog_ms;
}

static void on_lost(void *owner, const char *text)
{
    ((struct fixture *)owner)->lost_count++;
    (void)text;
}

static const struct keeper_client_ops client_ops = {on_ready, on_lost};

static void on_released(void *owner, int error, const char *text)
{
    struct fixture *f = owner;
    f->release_count++;
    f->release_error = error;
    assert_true(error == 0 || text[0] != '\0');
}

static void on_status(void *owner, const Drover__VmStatus *status)
{
    (void)status;
    ((struct fixture *)owner)->status_count++;
}

static void on_gone(void *owner, uint64_t vm_id, uint64_t epoch, const char *reason,
                    bool off)
{
    (void)vm_id;
    (void)epoch;
    (void)reason;
    (void)off;
    ((struct fixture *)owner)->gone_count++;
}

static void on_order_failed(void *owner, uint64_t vm_id, uint64_t epoch, int error,
                            const char *text)
{
    (void)owner;
    (void)vm_id;
    (void)epoch;
    (void)error;
    (void)text;
}

static void on_nothing(void *owner)
{
    (void)owner;
}

static void on_note(void *owner, const char *text)
{
    (void)owner;
    (void)text;
}

static const struct vmm_supervisor_ops supervisor_ops = {
    on_status, on_gone, on_order_failed, on_nothing, on_note};

static void on_closed(void *owner)
{
    ((struct fixture *)owner)->closed_count++;
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static void run_until(struct fixture *f, const unsigned *count, unsigned wanted)
{
    uint64_t end_ms = clock_now_ms() + 8000;
    while (*count < wanted && clock_now_ms() < end_ms) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_true(*count >= wanted);
}

static void run_for(struct fixture *f, uint64_t ms)
{
    uint64_t end_ms = clock_now_ms() + ms;
    while (clock_now_ms() < end_ms) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
}

static void start_keeper(struct fixture *f)
{
    char path[96];
    (void)snprintf(path, sizeof(path), "%s/keeper.sock", f->run);
    (void)unlink(path);
    f->keeper_pid = fork();
    assert_true(f->keeper_pid >= 0);
    if (f->keeper_pid == 0) {
        const struct keeper_options options = {
            .run_directory = f->run, .device = "/dev/fake", .watchdog_ms = WATCHDOG_MS};
        _exit(keeper_main(&options, &device_ops, f->device));
    }
    for (unsigned i = 0; i < 2000 && access(path, F_OK) != 0; i++) {
        (void)usleep(1000);
    }
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = {0};
    assert_non_null(f);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)snprintf(f->run, sizeof(f->run), "/tmp/drover-test-XXXXXX");
    assert_non_null(mkdtemp(f->run));
    f->device = mmap(NULL, sizeof(*f->device), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f->device, MAP_FAILED);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    start_keeper(f);
    assert_int_equal(uv_timer_init(&f->loop, &f->tick), 0);
    assert_int_equal(uv_timer_start(&f->tick, on_tick, 10, 10), 0);
    const struct vmm_supervisor_config supervisor_config = {
        .loop = &f->loop,
        .run_directory = f->run,
        .vmm_program = "tests/unit/fake_vmm",
        .incoming = "tcp:127.0.0.1:0",
        .ops = &supervisor_ops,
        .owner = f,
    };
    assert_int_equal(vmm_supervisor_create(&supervisor_config, &f->supervisor, &err), 0);
    const struct keeper_client_config config = {
        .loop = &f->loop,
        .options = {.run_directory = f->run,
                    .device = "/dev/fake",
                    .watchdog_ms = WATCHDOG_MS},
        .program = "/bin/false", /* the test starts keepers itself */
        .ops = &client_ops,
        .owner = f,
    };
    assert_int_equal(keeper_client_create(&config, &f->client, &err), 0);
    run_until(f, &f->ready_count, 1);
    assert_int_equal(f->watchdog_ms, WATCHDOG_MS);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];
    Drover__ControlRequest request = DROVER__CONTROL_REQUEST__INIT;
    Drover__ControlQuit quit = DROVER__CONTROL_QUIT__INIT;
    request.order_case = DROVER__CONTROL_REQUEST__ORDER_QUIT;
    request.quit = &quit;
    if (vmm_supervisor_count(f->supervisor) > 0) {
        vmm_supervisor_order(f->supervisor, 7, 3, &request);
        run_until(f, &f->gone_count, 1);
    }
    (void)kill(f->keeper_pid, SIGKILL);
    (void)waitpid(f->keeper_pid, NULL, 0);
    keeper_client_close(f->client, on_closed, f);
    vmm_supervisor_close(f->supervisor, on_closed, f);
    run_until(f, &f->closed_count, 2);
    keeper_client_free(f->client);
    vmm_supervisor_free(f->supervisor);
    uv_close((uv_handle_t *)&f->tick, NULL);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    (void)snprintf(command, sizeof(command), "rm -rf %s", f->run);
    assert_int_equal(system(command), 0);
    (void)munmap(f->device, sizeof(*f->device));
    free(f);
    return 0;
}

static void start_vm(struct fixture *f, const char *name, bool ha)
{
    Drover__VmRecord record = DROVER__VM_RECORD__INIT;
    Drover__VmSpec spec = DROVER__VM_SPEC__INIT;
    spec.name = (char *)name;
    spec.memory_bytes = 16 << 20;
    spec.cpus = 1;
    spec.ha = ha;
    record.vm_id = 7;
    record.spec = &spec;
    vmm_supervisor_start(f->supervisor, &record, 3, false);
    run_until(f, &f->status_count, 1);
}

/* Feeds within a time in which a keeper that feeds does so many times (every WATCHDOG_MS
 * / 10). */
static unsigned feeds_in(struct fixture *f, uint64_t ms)
{
    unsigned before = f->device->feeds;
    run_for(f, ms);
    return f->device->feeds - before;
}

static void lease_for(struct fixture *f, uint64_t ms)
{
    keeper_client_lease(f->client, (clock_now_ms() + ms) * NS_PER_MS);
}

/* ---- tests
 * ---------------------------------------------------------------------------------------
 */

static void test_without_vms_it_feeds_without_a_lease(void **state)
{
    assert_true(feeds_in(*state, 600) >= 3);
}

static void test_a_running_vm_without_a_lease_stops_the_feeding(void **state)
{
    struct fixture *f = *state;
    start_vm(f, "runs", true);
    run_for(f, 300); /* what was fed before the VM was there */
    assert_int_equal(feeds_in(f, 600), 0);
    lease_for(f, 2000);
    assert_true(feeds_in(f, 700) >= 4);
    run_for(f, 1300); /* over */
    assert_int_equal(feeds_in(f, 500), 0);
}

static void test_a_frozen_vm_lets_it_feed_on(void **state)
{
    struct fixture *f = *state;
    start_vm(f, "frozen", true);
    assert_true(feeds_in(f, 800) >= 3);
}

static void test_a_vm_that_is_not_for_ha_does_not_matter(void **state)
{
    struct fixture *f = *state;
    start_vm(f, "runs", false);
    assert_true(feeds_in(f, 800) >= 3);
}

static void test_a_vm_that_does_not_answer_stops_the_feeding(void **state)
{
    struct fixture *f = *state;
    Drover__VmmRecord *record = NULL;
    start_vm(f, "frozen", true);
    assert_int_equal(vmm_folder_record_load(f->run, 7, 3, &record), 0);
    assert_int_equal(kill(record->pid, SIGSTOP), 0);
    run_for(f, 300);
    assert_int_equal(feeds_in(f, 600), 0);
    assert_int_equal(kill(record->pid, SIGCONT), 0);
    assert_true(feeds_in(f, 800) >= 3);
    drover__vmm_record__free_unpacked(record, NULL);
}

static void test_a_dead_vm_lets_it_feed_on(void **state)
{
    struct fixture *f = *state;
    Drover__VmmRecord *record = NULL;
    start_vm(f, "runs", true);
    assert_int_equal(vmm_folder_record_load(f->run, 7, 3, &record), 0);
    assert_int_equal(kill(record->pid, SIGKILL), 0);
    drover__vmm_record__free_unpacked(record, NULL);
    assert_true(feeds_in(f, 800) >= 3);
}

static void test_release_disarms_only_when_no_vm_runs(void **state)
{
    struct fixture *f = *state;
    start_vm(f, "runs", true);
    lease_for(f, 60000);
    keeper_client_release(f->client, on_released, f);
    assert_int_equal(f->release_count, 0);
    run_until(f, &f->release_count, 1);
    assert_int_equal(f->release_error, DROVER_EINUSE);
    assert_false(f->device->disarmed);
    assert_true(feeds_in(f, 600) >= 3);
}

static void test_release_without_vms_ends_the_keeper(void **state)
{
    struct fixture *f = *state;
    keeper_client_release(f->client, on_released, f);
    run_until(f, &f->release_count, 1);
    assert_int_equal(f->release_error, 0);
    assert_true(f->device->disarmed);
    int status = 1;
    assert_int_equal(waitpid(f->keeper_pid, &status, 0), f->keeper_pid);
    assert_int_equal(status, 0);
    run_for(f, 100);
    assert_int_equal(f->lost_count, 0); /* it went because it was told to */
}

static void test_second_keeper_of_a_run_directory_ends_at_once(void **state)
{
    struct fixture *f = *state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct keeper_options options = {
            .run_directory = f->run, .device = "/dev/fake", .watchdog_ms = WATCHDOG_MS};
        _exit(keeper_main(&options, &device_ops, f->device));
    }
    int status = 1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(feeds_in(f, 600) >= 3);
}

static void test_lost_keeper_is_told_and_the_next_one_learns_the_lease(void **state)
{
    struct fixture *f = *state;
    start_vm(f, "runs", true);
    lease_for(f, 60000);
    (void)kill(f->keeper_pid, SIGKILL);
    (void)waitpid(f->keeper_pid, NULL, 0);
    run_until(f, &f->lost_count, 1);
    assert_false(f->device->disarmed);
    start_keeper(f);
    run_until(f, &f->ready_count, 2);
    assert_true(feeds_in(f, 600) >= 3);
}

static void test_sigterm_waits_until_no_vm_needs_it(void **state)
{
    struct fixture *f = *state;
    start_vm(f, "runs", true);
    lease_for(f, 60000);
    assert_int_equal(kill(f->keeper_pid, SIGTERM), 0);
    assert_true(feeds_in(f, 600) >= 3);
    assert_false(f->device->disarmed);
    Drover__VmmRecord *record = NULL;
    assert_int_equal(vmm_folder_record_load(f->run, 7, 3, &record), 0);
    assert_int_equal(kill(record->pid, SIGKILL), 0);
    drover__vmm_record__free_unpacked(record, NULL);
    int status = 1;
    assert_int_equal(waitpid(f->keeper_pid, &status, 0), f->keeper_pid);
    assert_int_equal(status, 0);
    assert_true(f->device->disarmed);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_without_vms_it_feeds_without_a_lease),
        CASE(test_a_running_vm_without_a_lease_stops_the_feeding),
        CASE(test_a_frozen_vm_lets_it_feed_on),
        CASE(test_a_vm_that_is_not_for_ha_does_not_matter),
        CASE(test_a_vm_that_does_not_answer_stops_the_feeding),
        CASE(test_a_dead_vm_lets_it_feed_on),
        CASE(test_release_disarms_only_when_no_vm_runs),
        CASE(test_release_without_vms_ends_the_keeper),
        CASE(test_second_keeper_of_a_run_directory_ends_at_once),
        CASE(test_lost_keeper_is_told_and_the_next_one_learns_the_lease),
        CASE(test_sigterm_waits_until_no_vm_needs_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
