/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vCPU threads. The loop only dispatches, by a table of exit reasons. Before each entry
 * it asks vm_may_enter(); a signal (a kick, or the vCPU's own deadline timer) sets
 * immediate_exit, so that no entry is missed.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/bus/bus.h"
#include "vmm/kvm/affinity.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_throttle.h"
#include "vmm/options/options_cpu.h"
#include "vmm/vm_internal.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define KICK_SIGNAL     SIGUSR1
#define DEADLINE_SIGNAL SIGRTMIN
/* A page-crossing access of 8 bytes and a string of accesses end within few completions.
 */
#define COMPLETIONS_MAX 64

enum vcpu_next {
    VCPU_CONTINUE,
    VCPU_LEAVE, /* the VM is asked to stop: park */
};

static void immediate_exit_set(struct kvm_run *run, uint8_t value)
{
    __atomic_store_n(&run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

static void kicked(int signal)
{
    (void)signal; /* interrupts KVM_RUN; the kicker has set immediate_exit */
}

static void deadline_over(int signal, siginfo_t *info, void *context)
{
    struct vcpu *vcpu = info->si_value.sival_ptr;
    immediate_exit_set(vcpu->run, 1);
    (void)signal;
    (void)context;
}

static void internal_failure(struct vcpu *vcpu, const char *what, uint64_t detail)
{
    char reason[VM_REASON_SIZE];
    struct kvm_regs regs = {0};
    (void)ioctl(vcpu->fd, KVM_GET_REGS, &regs); /* zeros are better than no line */
    (void)snprintf(reason, sizeof(reason), "KVM: %s (0x%llx) on vCPU %u at rip 0x%llx",
                   what, (unsigned long long)detail, vcpu->index,
                   (unsigned long long)regs.rip);
    log_error(vcpu->vm->log, "%s vm=%s", reason, vcpu->vm->config.name);
    vm_end(vcpu->vm, true, reason);
}

/* Repeated port I/O: the data advance, the port does not. */
static enum vcpu_next exit_io(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    for (uint32_t i = 0; i < run->io.count; i++) {
        if (run->io.direction == KVM_EXIT_IO_IN) {
            bus_read(vcpu->vm->port_bus, run->io.port, data, run->io.size);
        } else {
            bus_write(vcpu->vm->port_bus, run->io.port, data, run->io.size);
        }
        data += run->io.size;
    }
    return VCPU_CONTINUE;
}

static enum vcpu_next exit_mmio(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    if (run->mmio.is_write) {
        bus_write(vcpu->vm->memory_bus, run->mmio.phys_addr, run->mmio.data,
                  run->mmio.len);
    } else {
        bus_read(vcpu->vm->memory_bus, run->mmio.phys_addr, run->mmio.data,
                 run->mmio.len);
    }
    return VCPU_CONTINUE;
}

static enum vcpu_next exit_again(struct vcpu *vcpu)
{
    (void)vcpu;
    return VCPU_CONTINUE;
}

/* A triple fault: that is how a PC is reset by software that knows no better way. */
static enum vcpu_next exit_shutdown(struct vcpu *vcpu)
{
    log_notice(vcpu->vm->log, "triple fault, reset vm=%s vcpu=%u", vcpu->vm->config.name,
               vcpu->index);
    vm_request_reset(vcpu->vm);
    return VCPU_LEAVE;
}

static enum vcpu_next exit_system_event(struct vcpu *vcpu)
{
    if (vcpu->run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN) {
        vm_request_power_off(vcpu->vm, "the guest powered off");
    } else {
        vm_request_reset(vcpu->vm);
    }
    return VCPU_LEAVE;
}

static enum vcpu_next exit_fail_entry(struct vcpu *vcpu)
{
    internal_failure(vcpu, "the processor refused to enter the guest",
                     vcpu->run->fail_entry.hardware_entry_failure_reason);
    return VCPU_LEAVE;
}

static enum vcpu_next exit_internal_error(struct vcpu *vcpu)
{
    internal_failure(vcpu, "internal error (an instruction that KVM can't emulate?)",
                     vcpu->run->internal.suberror);
    return VCPU_LEAVE;
}

static enum vcpu_next exit_unexpected(struct vcpu *vcpu)
{
    internal_failure(vcpu, "unexpected exit", vcpu->run->exit_reason);
    return VCPU_LEAVE;
}

typedef enum vcpu_next (*exit_handler)(struct vcpu *vcpu);

static const exit_handler exit_handlers[] = {
    [KVM_EXIT_IO] = exit_io,
    [KVM_EXIT_MMIO] = exit_mmio,
    [KVM_EXIT_HLT] = exit_again,
    [KVM_EXIT_INTR] = exit_again,
    [KVM_EXIT_IRQ_WINDOW_OPEN] = exit_again,
    [KVM_EXIT_SHUTDOWN] = exit_shutdown,
    [KVM_EXIT_SYSTEM_EVENT] = exit_system_event,
    [KVM_EXIT_FAIL_ENTRY] = exit_fail_entry,
    [KVM_EXIT_INTERNAL_ERROR] = exit_internal_error,
};

static enum vcpu_next exit_dispatch(struct vcpu *vcpu)
{
    uint32_t reason = vcpu->run->exit_reason;
    exit_handler handler = NULL;
    if (reason < sizeof(exit_handlers) / sizeof(exit_handlers[0])) {
        handler = exit_handlers[reason];
    }
    return handler != NULL ? handler(vcpu) : exit_unexpected(vcpu);
}

/*
 * An access that was answered reaches the registers only with the next KVM_RUN. With
 * immediate_exit set that executes no guest code, and the saved state is whole.
 */
static void pending_access_complete(struct vcpu *vcpu)
{
    for (unsigned i = 0; i < COMPLETIONS_MAX; i++) {
        immediate_exit_set(vcpu->run, 1);
        if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
            return; /* EINTR: complete */
        }
        (void)exit_dispatch(vcpu);
    }
}

static void first_entry_note(struct vm *vm)
{
    uint64_t none = 0;
    if (atomic_load(&vm->first_entry_ns) == 0 &&
        atomic_compare_exchange_strong(&vm->first_entry_ns, &none, clock_now_ns())) {
        vm_wake(vm);
    }
}

/* Returns when the VM must not run any more. */
static void run_until_stopped(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    enum vcpu_next next = VCPU_CONTINUE;
    while (next == VCPU_CONTINUE) {
        /* Cleared before the question: who stops us after it sets it again. */
        immediate_exit_set(vcpu->run, 0);
        if (!vm_may_enter(vm)) {
            pending_access_complete(vcpu);
            return;
        }
        if (!kvm_throttle_pass(vcpu)) {
            continue;
        }
        first_entry_note(vm);
        if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
            next = exit_dispatch(vcpu);
        } else if (errno != EINTR && errno != EAGAIN) {
            internal_failure(vcpu, "KVM_RUN failed", (uint64_t)errno);
            return;
        }
    }
}

static int deadline_timer_create(struct vcpu *vcpu)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID,
                             .sigev_signo = DEADLINE_SIGNAL,
                             .sigev_value = {.sival_ptr = vcpu}};
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    return timer_create(CLOCK_BOOTTIME, &event, &vcpu->deadline_timer) < 0 ? -errno : 0;
}

static void deadline_timer_set(struct vcpu *vcpu, uint64_t deadline_ns)
{
    if (!vcpu->has_deadline_timer) {
        return;
    }
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(deadline_ns / NS_PER_S),
                                           .tv_nsec = (long)(deadline_ns % NS_PER_S)}};
    CHECK(timer_settime(vcpu->deadline_timer, TIMER_ABSTIME, &when, NULL) == 0);
}

static void *vcpu_thread(void *argument)
{
    struct vcpu *vcpu = argument;
    struct vm *vm = vcpu->vm;
    char name[16];
    (void)snprintf(name, sizeof(name), "vcpu-%u", vcpu->index);
    (void)pthread_setname_np(pthread_self(), name); /* for people only */
    vm_thread_confine(vm, SECCOMP_ROLE_VCPU);
    sigset_t signals;
    CHECK(sigemptyset(&signals) == 0 && sigaddset(&signals, KICK_SIGNAL) == 0 &&
          sigaddset(&signals, DEADLINE_SIGNAL) == 0 &&
          sigaddset(&signals, VCPU_THROTTLE_SIGNAL) == 0);
    int throttle = kvm_throttle_create(vcpu);
    if (throttle < 0) {
        /* It runs all the same, and can't be slowed down. */
        log_warn(vm->log, "vCPU %u has no timer to be throttled by vm=%s err=%s",
                 vcpu->index, vm->config.name, err_text(throttle));
    }
    if (vm->lease_bound) {
        int result = deadline_timer_create(vcpu);
        if (result < 0) {
            internal_failure(vcpu, "no timer for the lease", (uint64_t)-result);
            return NULL;
        }
        vm_lock(vm);
        vcpu->has_deadline_timer = true;
        deadline_timer_set(vcpu, atomic_load(&vm->lease_deadline_ns));
        vm_unlock(vm);
    }
    CHECK(pthread_sigmask(SIG_UNBLOCK, &signals, NULL) == 0);
    while (vm_vcpu_park(vm, vcpu)) {
        run_until_stopped(vcpu);
    }
    return NULL;
}

static void signals_install(void)
{
    struct sigaction kick = {.sa_handler = kicked};
    struct sigaction deadline = {.sa_sigaction = deadline_over, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(KICK_SIGNAL, &kick, NULL) == 0);
    CHECK(sigaction(DEADLINE_SIGNAL, &deadline, NULL) == 0);
    /* Only vCPU threads take them; threads inherit the mask. */
    sigset_t signals;
    CHECK(sigemptyset(&signals) == 0 && sigaddset(&signals, KICK_SIGNAL) == 0 &&
          sigaddset(&signals, DEADLINE_SIGNAL) == 0 &&
          sigaddset(&signals, VCPU_THROTTLE_SIGNAL) == 0);
    CHECK(pthread_sigmask(SIG_BLOCK, &signals, NULL) == 0);
}

static int vcpu_create(struct vm *vm, unsigned index, struct error *err)
{
    struct vcpu *vcpu = &vm->vcpus[index];
    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
    if (vcpu->fd < 0) {
        return error_set(err, DROVER_ENOKVM,
                         "KVM refused vCPU %u: %s; give fewer with --cpus", index,
                         err_text(errno));
    }
    void *run = mmap(NULL, (size_t)vm->vcpu_run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                     vcpu->fd, 0);
    if (run == MAP_FAILED) {
        return error_set(err, DROVER_ENOKVM, "cannot map vCPU %u: %s", index,
                         err_text(errno));
    }
    vcpu->run = run;
    return kvm_cpuid_set(vm, vcpu, err);
}

int kvm_vcpus_create(struct vm *vm, struct error *err)
{
    signals_install();
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        int result = vcpu_create(vm, i, err);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

static int thread_create(struct vcpu *vcpu)
{
    const struct options_cpu_set *affinity = vcpu->vm->config.cpu_affinity;
    pthread_attr_t attributes;
    int result = -pthread_attr_init(&attributes);
    if (result < 0) {
        return result;
    }
    if (affinity != NULL && affinity->count > 0) {
        result = affinity_apply(affinity, &attributes);
    }
    result = result < 0 ? result
                        : -pthread_create(&vcpu->thread, &attributes, vcpu_thread, vcpu);
    (void)pthread_attr_destroy(&attributes); /* of one that was made */
    return result;
}

int kvm_vcpus_start(struct vm *vm, struct error *err)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct vcpu *vcpu = &vm->vcpus[i];
        int result = thread_create(vcpu);
        if (result < 0) {
            return error_set(err, result, "cannot start the thread of vCPU %u: %s", i,
                             err_text(result));
        }
        vcpu->thread_started = true;
    }
    return 0;
}

void kvm_vcpus_join(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct vcpu *vcpu = &vm->vcpus[i];
        if (vcpu->thread_started) {
            CHECK(pthread_join(vcpu->thread, NULL) == 0);
            vcpu->thread_started = false;
        }
        if (vcpu->has_deadline_timer) {
            (void)timer_delete(vcpu->deadline_timer); /* its thread is gone */
            vcpu->has_deadline_timer = false;
        }
        kvm_throttle_done(vcpu);
    }
}

void kvm_vcpus_close(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct vcpu *vcpu = &vm->vcpus[i];
        CHECK(!vcpu->thread_started);
        if (vcpu->run != NULL) {
            (void)munmap(vcpu->run,
                         (size_t)vm->vcpu_run_size); /* fails only if not mapped */
            vcpu->run = NULL;
        }
        cleanup_fd(&vcpu->fd);
        vcpu->fd = -1;
    }
}

void kvm_vcpu_kick(struct vcpu *vcpu)
{
    if (vcpu->thread_started) {
        immediate_exit_set(vcpu->run, 1);
        (void)pthread_kill(vcpu->thread,
                           KICK_SIGNAL); /* it is joined only after the last kick */
    }
}

void kvm_vcpus_kick(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        kvm_vcpu_kick(&vm->vcpus[i]);
    }
}

void kvm_vcpus_deadline_set(struct vm *vm, uint64_t deadline_ns)
{
    vm_lock(vm);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        deadline_timer_set(&vm->vcpus[i], deadline_ns);
    }
    vm_unlock(vm);
}

void kvm_vcpus_was_paused(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        /* EINVAL: this guest uses no kvmclock, and has no watchdog that would ask it. */
        (void)ioctl(vm->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
    }
}
