/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds, the lease, and the way between running and quiet. Any thread sets and clears
 * holds; main alone moves the phase, but for a guest that has arrived. vCPUs need nobody to
 * stop: they look at holds and deadline before each entry, and their own timers put them
 * out of the guest.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/state_table.h"
#include "vmm/host/event_loop.h"
#include "vmm/kvm/kvm.h"
#include "vmm/vm_internal.h"

#define DRAIN_POLL_NS  NS_PER_MS
#define SYNC_STEPS_MAX 16
/* Around a handover nobody is told of the VM's state for so long: a pause is over by then,
 * and who is told wants the processors that it needs. */
#define TELL_LATER_NS (5 * NS_PER_MS)

static const struct state_row phase_rows[] = {
    [VM_PHASE_STOPPED] = {"stopped", STATE_BIT(VM_PHASE_RUNNING)},
    [VM_PHASE_RUNNING] = {"running", STATE_BIT(VM_PHASE_STOPPING)},
    [VM_PHASE_STOPPING] = {"stopping", STATE_BIT(VM_PHASE_STOPPED)},
};
static const struct state_table phase_table = {"vm phase", phase_rows, 3};

void vm_wake(struct vm *vm)
{
    uint64_t one = 1;
    /* Fails only when the counter is full, and then main is awake anyway. */
    ssize_t written = write(vm->wake_fd, &one, sizeof(one));
    (void)written;
}

static enum vm_phase phase_get(const struct vm *vm)
{
    return (enum vm_phase)atomic_load(&vm->phase);
}

/* Under lock. */
static void phase_move(struct vm *vm, enum vm_phase to)
{
    unsigned phase = atomic_load(&vm->phase);
    state_table_move(&phase_table, &phase, to);
    atomic_store(&vm->phase, phase);
}

static bool lease_is_over(const struct vm *vm)
{
    return vm->lease_bound && clock_now_ns() >= atomic_load(&vm->lease_deadline_ns);
}

/* Under lock. */
static void hold_mark(struct vm *vm, unsigned hold)
{
    atomic_fetch_or(&vm->holds, hold);
    atomic_store(&vm->may_run, false);
}

bool vm_may_enter(struct vm *vm)
{
    if (!atomic_load(&vm->may_run)) {
        return false;
    }
    if (!lease_is_over(vm)) {
        return true;
    }
    vm_lock(vm);
    hold_mark(vm, VM_HOLD_LEASE);
    vm_unlock(vm);
    vm_wake(vm);
    return false;
}

bool vm_io_allowed(struct vm *vm)
{
    return atomic_load(&vm->may_run) && !lease_is_over(vm);
}

bool vm_vcpu_park(struct vm *vm, struct vcpu *vcpu)
{
    vm_lock(vm);
    if (!vcpu->out) {
        vcpu->out = true;
        vm->vcpus_out++;
        atomic_store(&vm->last_exit_ns, clock_now_ns());
        if (vm->vcpus_out == vm->vcpu_count) {
            vm_wake(vm);
            if (vm->early_wanted && vm->vcpu_count > 1) {
                CHECK(pthread_cond_broadcast(&vm->go) == 0);
            }
        }
    }
    while (!vm->ending_threads && !atomic_load(&vm->may_run)) {
        if (kvm_cpu_early_begin(vcpu)) {
            kvm_cpu_early_run(vcpu);
            continue;
        }
        CHECK(pthread_cond_wait(&vm->go, &vm->lock) == 0);
        if (vm->echo_passed) {
            vm->echo_passed = false;
            atomic_store(&vm->echo_ns, clock_now_ns());
        }
    }
    bool go = !vm->ending_threads;
    if (go) {
        vcpu->out = false;
        vm->vcpus_out--;
    }
    vm_unlock(vm);
    return go;
}

static bool devices_drained(struct vm *vm)
{
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        if (device->ops->io_drained != NULL && !device->ops->io_drained(device)) {
            return false;
        }
    }
    return true;
}

static void begin_stopping(struct vm *vm)
{
    vm_lock(vm);
    phase_move(vm, VM_PHASE_STOPPING);
    atomic_store(&vm->first_entry_ns, 0);
    vm_unlock(vm);
    kvm_vcpus_kick(vm);
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        if (device->ops->io_stop != NULL) {
            device->ops->io_stop(device);
        }
    }
}

/* True if it is stopped now. */
static bool end_stopping(struct vm *vm)
{
    vm_lock(vm);
    bool out = vm->vcpus_out == vm->vcpu_count;
    vm_unlock(vm);
    if (!out || !devices_drained(vm)) {
        (void)event_loop_timer_set(vm->poll_timer, clock_now_ns() + DRAIN_POLL_NS);
        return false;
    }
    vm_lock(vm);
    phase_move(vm, VM_PHASE_STOPPED);
    CHECK(pthread_cond_broadcast(&vm->quiet_cond) == 0);
    vm_unlock(vm);
    vm_state_changed(vm);
    return true;
}

static void waiters_run(struct vm *vm)
{
    struct vm_quiet_waiter waiters[VM_QUIET_WAITERS_MAX];
    unsigned count = 0;
    vm_lock(vm);
    if (phase_get(vm) == VM_PHASE_STOPPED) { /* a guest that has arrived may run by now */
        count = vm->waiter_count;
        memcpy(waiters, vm->waiters, count * sizeof(waiters[0]));
        vm->waiter_count = 0;
    }
    vm_unlock(vm);
    for (unsigned i = 0; i < count; i++) {
        waiters[i].handler(vm, waiters[i].owner);
    }
}

static void reset_run(struct vm *vm)
{
    struct error err = {0};
    if (vm_reset(vm, &err) < 0) {
        vm_end(vm, true, err.text);
    }
    vm_hold_clear(vm, VM_HOLD_RESET);
}

/* Main looked at the phase without the lock: a guest that has arrived may run since, and
 * may have asked for this already. */
static bool reset_take(struct vm *vm)
{
    vm_lock(vm);
    bool due = phase_get(vm) == VM_PHASE_STOPPED &&
               !atomic_load(&vm->memory_missing) &&
               atomic_exchange(&vm->reset_wanted, false);
    vm_unlock(vm);
    return due;
}

/* Under lock, with no hold in force. */
static void run_begin(struct vm *vm)
{
    phase_move(vm, VM_PHASE_RUNNING);
    vm->standstill++;
    vm->start_due = true;
    atomic_store(&vm->may_run, true);
}

/* Main: the guest runs already, its devices follow. */
static void start_devices(struct vm *vm)
{
    vm_lock(vm);
    bool due = vm->start_due;
    vm->start_due = false;
    vm_unlock(vm);
    for (struct device *device = vm->devices; due && device != NULL; device = device->next) {
        if (device->ops->io_start != NULL) {
            device->ops->io_start(device);
        }
    }
}

/* True if it runs now. */
static bool try_running(struct vm *vm)
{
    vm_lock(vm);
    bool may = phase_get(vm) == VM_PHASE_STOPPED && atomic_load(&vm->holds) == 0;
    vm_unlock(vm);
    if (!may) {
        return false; /* or it runs already: vm_hold_clear() */
    }
    kvm_vcpus_was_paused(vm);
    vm_lock(vm);
    bool go = phase_get(vm) == VM_PHASE_STOPPED && atomic_load(&vm->holds) == 0;
    if (go) {
        run_begin(vm);
    }
    vm_unlock(vm);
    if (!go) {
        return false;
    }
    /* Unlocked: who is woken needs the lock at once. */
    CHECK(pthread_cond_broadcast(&vm->go) == 0);
    start_devices(vm);
    vm_state_changed(vm);
    return true;
}

/* The lease's hold follows the deadline in force. */
static void lease_sync(struct vm *vm)
{
    if (!vm->lease_bound) {
        return;
    }
    vm_lock(vm);
    bool held = (atomic_load(&vm->holds) & VM_HOLD_LEASE) != 0;
    bool over = lease_is_over(vm);
    if (over && !held) {
        hold_mark(vm, VM_HOLD_LEASE);
    } else if (!over && held) {
        atomic_fetch_and(&vm->holds, ~(unsigned)VM_HOLD_LEASE);
    }
    vm_unlock(vm);
    if (over != held) {
        log_notice(vm->log, over ? "frozen by the lease vm=%s" : "lease is back vm=%s",
                   vm->config.name);
        vm_state_changed(vm);
    }
}

static void first_entry_tell(struct vm *vm)
{
    if (atomic_load(&vm->first_entry_ns) != 0 && vm->first_entry_waiter.handler != NULL) {
        struct vm_quiet_waiter waiter = vm->first_entry_waiter;
        vm->first_entry_waiter = (struct vm_quiet_waiter){0};
        waiter.handler(vm, waiter.owner);
    }
}

static bool sync_step(struct vm *vm)
{
    switch (phase_get(vm)) {
    case VM_PHASE_RUNNING:
        start_devices(vm); /* before they are stopped */
        if (atomic_load(&vm->may_run)) {
            return false;
        }
        begin_stopping(vm);
        return true;
    case VM_PHASE_STOPPING:
        return end_stopping(vm);
    case VM_PHASE_STOPPED:
        if (reset_take(vm)) {
            reset_run(vm); /* first: who waits for quiet must not meet half a reset */
        }
        waiters_run(vm);
        return try_running(vm);
    }
    return false;
}

/* A change is told once nothing is in a hurry any more. */
static bool tell_later(struct vm *vm)
{
    uint64_t after_ns = atomic_load(&vm->tell_after_ns);
    if (after_ns == 0 || clock_now_ns() >= after_ns) {
        return false;
    }
    /* While it is stopping the timer brings main back soon anyway. */
    return phase_get(vm) == VM_PHASE_STOPPING ||
           event_loop_timer_set(vm->poll_timer, after_ns) == 0;
}

static void sync_all(void *owner)
{
    struct vm *vm = owner;
    lease_sync(vm);
    first_entry_tell(vm);
    unsigned steps = 0;
    while (sync_step(vm)) {
        if (++steps == SYNC_STEPS_MAX) {
            vm_wake(vm); /* others on this loop get their turn */
            break;
        }
    }
    if (atomic_load(&vm->state_changed) && !tell_later(vm) &&
        atomic_exchange(&vm->state_changed, false) && vm->observer.handler != NULL) {
        vm->observer.handler(vm, vm->observer.owner);
    }
}

static void woken(void *owner, uint32_t epoll_events)
{
    struct vm *vm = owner;
    uint64_t count = 0;
    ssize_t got = read(vm->wake_fd, &count, sizeof(count));
    (void)got; /* EAGAIN is fine: looking once too often does no harm */
    vm_echo_answer(vm);
    sync_all(vm);
}

int vm_hold_init(struct vm *vm)
{
    vm->vcpus_out = vm->vcpu_count;
    vm->standstill = 1;
    vm->lease_bound = vm->config.ha;
    unsigned holds = VM_HOLD_START;
    holds |= vm->config.ha ? VM_HOLD_LEASE : 0;
    holds |= vm->config.incoming ? VM_HOLD_INCOMING : 0;
    holds |= vm->config.paused ? VM_HOLD_OPERATOR : 0;
    atomic_store(&vm->holds, holds);
    vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    vm->echo_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vm->wake_fd < 0 || vm->echo_fd < 0) {
        return -errno;
    }
    int result =
        event_loop_add(vm->main_loop, vm->wake_fd, EPOLLIN, woken, vm, &vm->wake_source);
    if (result == 0) {
        result = event_loop_timer_create(vm->main_loop, sync_all, vm, &vm->poll_timer);
    }
    if (result == 0 && vm->lease_bound) {
        result = event_loop_timer_create(vm->main_loop, sync_all, vm, &vm->lease_timer);
    }
    return result;
}

void vm_hold_done(struct vm *vm)
{
    event_loop_remove(vm->wake_source);
    event_loop_remove(vm->poll_timer);
    event_loop_remove(vm->lease_timer);
    if (vm->wake_fd >= 0) {
        (void)close(vm->wake_fd); /* nobody is left to tell */
    }
    cleanup_fd(&vm->echo_fd);
    (void)pthread_cond_destroy(&vm->go); /* nobody uses these any more */
    (void)pthread_cond_destroy(&vm->quiet_cond);
    (void)pthread_mutex_destroy(&vm->lock);
}

static int hold_set(struct vm *vm, unsigned hold, const struct vm_quiet_waiter *waiter)
{
    vm_lock(vm);
    if (waiter->handler != NULL) {
        if (vm->waiter_count == VM_QUIET_WAITERS_MAX) {
            vm_unlock(vm);
            return -EBUSY;
        }
        vm->waiters[vm->waiter_count++] = *waiter;
    }
    if (hold == VM_HOLD_HANDOVER) {
        atomic_store(&vm->tell_after_ns, clock_now_ns() + TELL_LATER_NS);
    }
    hold_mark(vm, hold);
    vm_unlock(vm);
    kvm_vcpus_kick(vm);
    vm_state_changed(vm);
    return 0;
}

int vm_hold_set(struct vm *vm, enum vm_hold hold, vm_quiet_handler quiet, void *owner)
{
    const struct vm_quiet_waiter waiter = {.handler = quiet, .owner = owner};
    return hold_set(vm, hold, &waiter);
}

bool vm_hold_forget(struct vm *vm, const void *owner)
{
    unsigned kept = 0;
    vm_lock(vm);
    for (unsigned i = 0; i < vm->waiter_count; i++) {
        if (vm->waiters[i].owner != owner) {
            vm->waiters[kept++] = vm->waiters[i];
        }
    }
    bool found = kept < vm->waiter_count;
    vm->waiter_count = kept;
    vm_unlock(vm);
    return found;
}

void vm_hold_set_wait(struct vm *vm, enum vm_hold hold)
{
    const struct vm_quiet_waiter nobody = {0};
    CHECK(hold_set(vm, hold, &nobody) == 0);
    vm_lock(vm);
    while (!vm_quiet(vm)) {
        CHECK(pthread_cond_wait(&vm->quiet_cond, &vm->lock) == 0);
    }
    vm_unlock(vm);
}

/*
 * Under lock. A guest that has arrived does not wait until main has heard of it: main only
 * starts its devices' I/O. Whoever else wants something of a VM that is stopped has a hold,
 * or is named here.
 */
static bool may_run_at_once(struct vm *vm)
{
    return atomic_load(&vm->holds) == 0 && phase_get(vm) == VM_PHASE_STOPPED &&
           !atomic_load(&vm->reset_wanted) && vm->waiter_count == 0 && vm->told_paused;
}

void vm_hold_clear(struct vm *vm, enum vm_hold hold)
{
    bool at_once = false;
    vm_lock(vm);
    /* Ended is ended. */
    if (hold != VM_HOLD_SHUTDOWN) {
        atomic_fetch_and(&vm->holds, ~(unsigned)hold);
    }
    if (hold == VM_HOLD_INCOMING) {
        atomic_store(&vm->tell_after_ns, clock_now_ns() + TELL_LATER_NS);
        at_once = may_run_at_once(vm);
    }
    if (at_once) {
        run_begin(vm);
    }
    CHECK(pthread_cond_broadcast(&vm->quiet_cond) ==
          0); /* quiet may follow from the end of a reset */
    vm_unlock(vm);
    if (at_once) {
        CHECK(pthread_cond_broadcast(&vm->go) == 0);
    }
    vm_state_changed(vm);
}

unsigned vm_holds(const struct vm *vm)
{
    return atomic_load(&vm->holds);
}

void vm_go_expected(struct vm *vm)
{
    CHECK((vm_holds(vm) & VM_HOLD_INCOMING) != 0);
    kvm_vcpus_was_paused(vm);
    vm_lock(vm);
    vm->told_paused = true;
    vm_unlock(vm);
}

bool vm_quiet(const struct vm *vm)
{
    /* A reset that waits for memory has not begun. */
    return phase_get(vm) == VM_PHASE_STOPPED &&
           ((atomic_load(&vm->holds) & VM_HOLD_RESET) == 0 ||
            atomic_load(&vm->memory_missing));
}

void vm_memory_missing_set(struct vm *vm, bool missing)
{
    vm_lock(vm);
    atomic_store(&vm->memory_missing, missing);
    if (!missing && phase_get(vm) == VM_PHASE_RUNNING) {
        vm->start_due = true; /* devices look again: they may do what they put off */
    }
    vm_unlock(vm);
    vm_wake(vm);
}

bool vm_memory_missing(const struct vm *vm)
{
    return atomic_load(&vm->memory_missing);
}

uint64_t vm_last_exit_ns(const struct vm *vm)
{
    return atomic_load(&vm->last_exit_ns);
}

uint64_t vm_first_entry_ns(const struct vm *vm)
{
    return atomic_load(&vm->first_entry_ns);
}

void vm_on_first_entry(struct vm *vm, vm_quiet_handler entered, void *owner)
{
    vm->first_entry_waiter = (struct vm_quiet_waiter){.handler = entered, .owner = owner};
    vm_wake(vm);
}

void vm_device_drained(struct vm *vm)
{
    if (phase_get(vm) == VM_PHASE_STOPPING) {
        vm_wake(vm);
    }
}

int vm_lease_set(struct vm *vm, uint64_t deadline_ns)
{
    if (!vm->lease_bound) {
        return DROVER_EWRONGSTATE;
    }
    if (deadline_ns != 0 && deadline_ns < atomic_load(&vm->lease_deadline_ns)) {
        return 0;
    }
    atomic_store(&vm->lease_deadline_ns, deadline_ns);
    kvm_vcpus_deadline_set(vm, deadline_ns);
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        if (device->ops->lease_set != NULL) {
            device->ops->lease_set(device, deadline_ns);
        }
    }
    int result = event_loop_timer_set(vm->lease_timer, deadline_ns);
    if (deadline_ns == 0) {
        kvm_vcpus_kick(vm); /* they find the deadline over */
    }
    vm_wake(vm);
    return result;
}

uint64_t vm_lease_deadline_ns(const struct vm *vm)
{
    return atomic_load(&vm->lease_deadline_ns);
}

void vm_state_changed(struct vm *vm)
{
    atomic_store(&vm->state_changed, true);
    vm_wake(vm);
}

void vm_request_reset(struct vm *vm)
{
    const struct vm_quiet_waiter nobody = {0};
    atomic_store(&vm->reset_wanted, true);
    CHECK(hold_set(vm, VM_HOLD_RESET, &nobody) == 0);
}

static void end(struct vm *vm, bool failed, bool by_guest, const char *reason)
{
    vm_lock(vm);
    if (!vm->ended) {
        vm->ended = true;
        vm->failed = failed;
        vm->guest_powered_off = by_guest;
        (void)snprintf(vm->end_reason, sizeof(vm->end_reason), "%s",
                       reason); /* cut is fine */
    }
    hold_mark(vm, VM_HOLD_SHUTDOWN);
    vm_unlock(vm);
    kvm_vcpus_kick(vm);
    vm_state_changed(vm);
}

void vm_end(struct vm *vm, bool failed, const char *reason)
{
    end(vm, failed, false, reason);
}

void vm_request_power_off(struct vm *vm, const char *reason)
{
    end(vm, false, true, reason);
}
