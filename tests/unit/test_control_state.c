/* SPDX-License-Identifier: Apache-2.0 */
/* What a VMM says of its VM: agent and keeper act on it, so it must never be early. */
#include "tests/unit/unit.h"

#include <string.h>

#include "base/clock.h"
#include "vmm/control/control_orders.h"
#include "vmm/devices/panic.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/move/migrate.h"
#include "vmm/virtio/virtio_balloon.h"
#include "vmm/virtio/virtio_block.h"

/* A VM that is only what it says of itself. */
struct vm {
    struct vm_config config;
    unsigned holds;
    bool quiet, ended, failed, handed_over;
    uint64_t deadline_ns;
};

void panic_status(struct vm *vm, struct panic_status *ret_status)
{
    (void)vm;
    *ret_status = (struct panic_status){0};
}

struct device *vm_devices(struct vm *vm)
{
    (void)vm;
    return NULL;
}

void virtio_block_trouble(struct device *devices, char *ret_text, size_t size)
{
    (void)devices;
    assert_true(size > 0);
    ret_text[0] = '\0';
}

const struct vm_config *vm_config(const struct vm *vm)
{
    return &vm->config;
}

unsigned vm_holds(const struct vm *vm)
{
    return vm->holds;
}

bool vm_quiet(const struct vm *vm)
{
    return vm->quiet;
}

bool vm_ended(struct vm *vm)
{
    return vm->ended;
}

bool vm_failed(struct vm *vm)
{
    return vm->failed;
}

bool vm_handed_over(const struct vm *vm)
{
    return vm->handed_over;
}

uint64_t vm_lease_deadline_ns(const struct vm *vm)
{
    return vm->deadline_ns;
}

void vm_end_reason(struct vm *vm, char *ret_reason, size_t size)
{
    (void)vm;
    assert_true(size > 0);
    ret_reason[0] = '\0';
}

bool vm_guest_powered_off(struct vm *vm)
{
    (void)vm;
    return false;
}

uint64_t vm_uptime_ms(const struct vm *vm)
{
    (void)vm;
    return 0;
}

struct guest_ram *vm_ram(struct vm *vm)
{
    (void)vm;
    return NULL;
}

uint64_t guest_ram_size(const struct guest_ram *ram)
{
    (void)ram;
    return 0;
}

uint64_t guest_ram_resident(const struct guest_ram *ram)
{
    (void)ram;
    return 0;
}

void migrate_status(struct migrate *migrate, struct migrate_status *ret_status)
{
    (void)migrate;
    memset(ret_status, 0, sizeof(*ret_status));
}

/* ---- orders: none is given here ---- */

int vm_hold_set(struct vm *vm, enum vm_hold hold, vm_quiet_handler quiet, void *owner)
{
    fail_msg("no order is expected");
    return 0;
}

void vm_hold_clear(struct vm *vm, enum vm_hold hold)
{
    fail_msg("no order is expected");
}

int virtio_balloon_order(struct vm *vm, uint64_t memory_bytes, struct error *err)
{
    (void)vm;
    (void)memory_bytes;
    (void)err;
    fail_msg("not asked for");
    return -1;
}

bool virtio_balloon_status(struct vm *vm, struct virtio_balloon_status *ret_status)
{
    (void)vm;
    (void)ret_status;
    return false;
}

int vm_lease_set(struct vm *vm, uint64_t deadline_ns)
{
    fail_msg("no order is expected");
    return 0;
}

void vm_power_button(struct vm *vm)
{
    fail_msg("no order is expected");
}

void vm_quit(struct vm *vm)
{
    fail_msg("no order is expected");
}

int migrate_leave(struct migrate *migrate, const Drover__ControlMigrate *order,
                  struct unix_files *files, struct error *err)
{
    fail_msg("no order is expected");
    return 0;
}

int migrate_limit(struct migrate *migrate, uint64_t bytes_per_second, struct error *err)
{
    (void)migrate;
    (void)bytes_per_second;
    (void)err;
    return 0;
}

int migrate_cancel(struct migrate *migrate, struct error *err)
{
    fail_msg("no order is expected");
    return 0;
}

int migrate_snapshot(struct migrate *migrate, struct unix_files *files, struct error *err)
{
    (void)migrate;
    (void)files;
    return error_set(err, DROVER_EWRONGSTATE, "not in this test");
}

int migrate_links(struct migrate *migrate, struct unix_files *files, struct error *err)
{
    (void)migrate;
    (void)files;
    (void)err;
    return 0;
}

/* The test's `migrate` is no more than this word. */
bool migrate_guest_lost(struct migrate *migrate)
{
    return migrate != NULL;
}

int migrate_reclaim(struct migrate *migrate, struct error *err)
{
    fail_msg("no order is expected");
    return 0;
}

void migrate_quit(struct migrate *migrate)
{
    fail_msg("no order is expected");
}

/* ---- */

static void assert_says(struct vm *vm, Drover__VmRunState run_state)
{
    struct control_status status;
    memset(&status, 0, sizeof(status));
    vm->config.name = "test";
    control_status_fill(vm, NULL, &status);
    assert_int_equal(status.status.run_state, run_state);
}

/* Its guest is off, and a write of it may hang in the host: the keeper must not feed. */
static void test_ended_vm_is_not_stopped_before_its_io_is_drained(void **state)
{
    struct vm vm = {.config.ha = true, .ended = true, .holds = VM_HOLD_SHUTDOWN};
    (void)state;
    assert_says(&vm, DROVER__VM_RUN_STATE__VM_RUN_FREEZING);
    vm.quiet = true;
    assert_says(&vm, DROVER__VM_RUN_STATE__VM_RUN_STOPPED);
}

static void test_failed_vm_is_not_failed_before_its_other_vcpus_are_out(void **state)
{
    struct vm vm = {.ended = true, .failed = true, .holds = VM_HOLD_SHUTDOWN};
    (void)state;
    assert_says(&vm, DROVER__VM_RUN_STATE__VM_RUN_FREEZING);
    vm.quiet = true;
    assert_says(&vm, DROVER__VM_RUN_STATE__VM_RUN_FAILED);
}

/* Failed would be read as: it never ran here, and its source may take it back. */
static void test_guest_lost_in_postcopy_has_stopped_in_a_cluster(void **state)
{
    struct vm vm = {.config = {.name = "test", .vm_id = 7},
                    .ended = true,
                    .failed = true,
                    .quiet = true,
                    .holds = VM_HOLD_SHUTDOWN};
    char word;
    struct control_status status;
    (void)state;
    memset(&status, 0, sizeof(status));
    control_status_fill(&vm, (struct migrate *)(void *)&word, &status);
    assert_int_equal(status.status.run_state, DROVER__VM_RUN_STATE__VM_RUN_STOPPED);
    vm.config.vm_id = 0; /* nobody starts it again: a person is told that it failed */
    memset(&status, 0, sizeof(status));
    control_status_fill(&vm, (struct migrate *)(void *)&word, &status);
    assert_int_equal(status.status.run_state, DROVER__VM_RUN_STATE__VM_RUN_FAILED);
    assert_says(&vm, DROVER__VM_RUN_STATE__VM_RUN_FAILED);
}

static void test_vm_past_its_deadline_is_frozen_when_quiet(void **state)
{
    struct vm vm = {.config.ha = true, .deadline_ns = 1};
    (void)state;
    assert_says(&vm, DROVER__VM_RUN_STATE__VM_RUN_FREEZING);
    vm.quiet = true; /* by another hold, which may be cleared at any moment */
    vm.holds = VM_HOLD_OPERATOR;
    assert_says(&vm, DROVER__VM_RUN_STATE__VM_RUN_FREEZING);
    vm.holds = VM_HOLD_OPERATOR | VM_HOLD_LEASE;
    assert_says(&vm, DROVER__VM_RUN_STATE__VM_RUN_FROZEN);
    vm.deadline_ns = clock_now_ns() + 60 * NS_PER_S;
    vm.holds = 0;
    vm.quiet = false;
    assert_says(&vm, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ended_vm_is_not_stopped_before_its_io_is_drained),
        cmocka_unit_test(test_failed_vm_is_not_failed_before_its_other_vcpus_are_out),
        cmocka_unit_test(test_guest_lost_in_postcopy_has_stopped_in_a_cluster),
        cmocka_unit_test(test_vm_past_its_deadline_is_frozen_when_quiet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
