/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Throttled vCPUs: in each period of time a vCPU runs for a while, until its own timer
 * puts it out of the guest, and then stands for the rest. It stands in ppoll(), with its
 * signals blocked outside of it: so a kick or the lease's timer ends that at once, and
 * none is missed.
 */
#include "vmm/kvm/kvm_throttle.h"

#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/recent.h"
#include "vmm/kvm/kvm.h"
#include "vmm/vm_internal.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* Long enough that leaving the guest costs little of it, short enough for the guest's
 * clock ticks. */
#define PERIOD_NS (10 * NS_PER_MS)
/* A shorter run would be all entries and exits: the period is longer then. */
#define RUN_NS_MIN UINT64_C(200000)
/* A vCPU that shall stand until further notice does not, if that notice never comes. */
#define STAND_NS_MAX (200 * NS_PER_MS)
/* A rehearsal looks so often, at one vCPU after the other, and waits so long for each. */
#define REHEARSE_LOOKS   5u
#define REHEARSE_WAIT_NS (20 * NS_PER_MS)
#define REHEARSE_LOOK_US 10u

static void run_over(int signal, siginfo_t *info, void *context)
{
    struct vcpu *vcpu = info->si_value.sival_ptr;
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    (void)signal;
    (void)context;
}

int kvm_throttle_create(struct vcpu *vcpu)
{
    struct sigaction action = {.sa_sigaction = run_over, .sa_flags = SA_SIGINFO};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID,
                             .sigev_signo = VCPU_THROTTLE_SIGNAL,
                             .sigev_value = {.sival_ptr = vcpu}};
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    if (sigaction(VCPU_THROTTLE_SIGNAL, &action, NULL) < 0 ||
        timer_create(CLOCK_MONOTONIC, &event, &vcpu->throttle.timer) < 0) {
        return -errno;
    }
    vcpu->throttle.has_timer = true;
    return 0;
}

void kvm_throttle_done(struct vcpu *vcpu)
{
    if (vcpu->throttle.has_timer) {
        (void)timer_delete(vcpu->throttle.timer); /* its thread is gone */
        vcpu->throttle.has_timer = false;
    }
}

static void timer_set(struct vcpu *vcpu, uint64_t ns)
{
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(ns / NS_PER_S),
                                           .tv_nsec = (long)(ns % NS_PER_S)}};
    CHECK(timer_settime(vcpu->throttle.timer, 0, &when, NULL) == 0);
}

/* Until `until_ns`, or a signal: that sets immediate_exit, whoever it is from. */
static void stand(struct vcpu *vcpu, uint64_t now_ns, uint64_t until_ns)
{
    sigset_t none;
    sigset_t before;
    struct timespec left = {.tv_sec = (time_t)((until_ns - now_ns) / NS_PER_S),
                            .tv_nsec = (long)((until_ns - now_ns) % NS_PER_S)};
    CHECK(sigfillset(&none) == 0 && pthread_sigmask(SIG_SETMASK, &none, &before) == 0);
    /* A signal that came before this has left its mark; a later one ends ppoll(). */
    if (__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST) == 0) {
        (void)ppoll(NULL, 0, &left, &before); /* the caller looks at the time */
    }
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
}

/* How long a vCPU runs and stands in each period. */
static void shares(unsigned percent, uint64_t *ret_run_ns, uint64_t *ret_stand_ns)
{
    uint64_t run_ns = PERIOD_NS * (100 - percent) / 100;
    run_ns = run_ns < RUN_NS_MIN ? RUN_NS_MIN : run_ns;
    *ret_run_ns = run_ns;
    *ret_stand_ns = run_ns * percent / (100 - percent);
}

/* The order has changed: whoever is throttled begins by standing. */
static void begin(struct vcpu *vcpu, unsigned percent, uint64_t now_ns, uint64_t stand_ns)
{
    struct vcpu_throttle *throttle = &vcpu->throttle;
    throttle->known_percent = percent;
    throttle->stand_until_ns = percent == 0 ? 0 : now_ns + stand_ns;
    throttle->run_until_ns = 0;
    timer_set(vcpu, 0);
}

bool kvm_throttle_pass(struct vcpu *vcpu)
{
    struct vcpu_throttle *throttle = &vcpu->throttle;
    unsigned percent = atomic_load(&throttle->percent);
    if (percent == 0 && throttle->known_percent == 0) {
        return true;
    }
    uint64_t now_ns = clock_now_ns();
    uint64_t run_ns = NS_PER_S; /* of 100: nobody came to let it go */
    uint64_t stand_ns = STAND_NS_MAX;
    if (percent < 100) {
        shares(percent, &run_ns, &stand_ns);
    }
    if (percent != throttle->known_percent) {
        begin(vcpu, percent, now_ns, stand_ns);
    }
    if (percent == 0 || now_ns < throttle->run_until_ns) {
        return true;
    }
    if (now_ns < throttle->stand_until_ns) {
        atomic_store(&throttle->stands, true);
        stand(vcpu, now_ns, throttle->stand_until_ns);
        atomic_store(&throttle->stands, false);
    } else if (throttle->run_until_ns < throttle->stand_until_ns) {
        throttle->run_until_ns = now_ns + run_ns;
        timer_set(vcpu, run_ns);
    } else {
        throttle->stand_until_ns = now_ns + stand_ns;
    }
    return false;
}

/* ---- any thread --------------------------------------------------------------------- */

int vm_vcpu_throttle(struct vm *vm, unsigned index, unsigned percent)
{
    CHECK(index < vm->vcpu_count && percent <= 100);
    struct vcpu *vcpu = &vm->vcpus[index];
    if (!vcpu->throttle.has_timer) {
        return -ENOSYS;
    }
    if (atomic_exchange(&vcpu->throttle.percent, percent) != percent) {
        kvm_vcpu_kick(vcpu);
    }
    return 0;
}

unsigned vm_vcpu_count(const struct vm *vm)
{
    return vm->vcpu_count;
}

/* It is out of the guest, and stays so. */
static bool is_out(struct vm *vm, struct vcpu *vcpu)
{
    vm_lock(vm);
    bool out = vcpu->out;
    vm_unlock(vm);
    return out || atomic_load(&vcpu->throttle.stands);
}

/* What this one takes. -EAGAIN: it did not come out in time, the host is busy. */
static int vcpu_rehearse(struct vm *vm, unsigned index, struct vm_rehearsal *ret_rehearsal)
{
    struct vcpu *vcpu = &vm->vcpus[index];
    CLEANUP(buffer_done) struct buffer state = {0};
    unsigned before = atomic_load(&vcpu->throttle.percent);
    uint64_t start_ns = clock_now_ns();
    uint64_t now_ns = start_ns;
    /* The look before may just have ended. */
    while (atomic_load(&vcpu->throttle.stands) && now_ns < start_ns + REHEARSE_WAIT_NS) {
        (void)usleep(REHEARSE_LOOK_US); /* a shorter sleep does no harm */
        now_ns = clock_now_ns();
    }
    start_ns = now_ns;
    int result = vm_vcpu_throttle(vm, index, 100);
    if (result < 0) {
        return result;
    }
    while (!is_out(vm, vcpu) && now_ns < start_ns + REHEARSE_WAIT_NS) {
        (void)usleep(REHEARSE_LOOK_US); /* a shorter sleep does no harm */
        now_ns = clock_now_ns();
    }
    uint64_t out_ns = clock_now_ns();
    result = is_out(vm, vcpu) ? kvm_cpu_save(vcpu, &state) : -EAGAIN;
    uint64_t end_ns = clock_now_ns();
    (void)vm_vcpu_throttle(vm, index, before); /* as above: it has its timer */
    *ret_rehearsal = (struct vm_rehearsal){.stop_ns = out_ns - start_ns,
                                           .early_ns = vcpu->early_ns,
                                           .save_ns = end_ns - out_ns - vcpu->early_ns,
                                           .state_bytes = state.size};
    return result;
}

/* It waits for a guest. The first load finds the caches empty, and warms them. */
static int arrival_rehearse(struct vm *vm, struct vm_rehearsal *ret_rehearsal)
{
    struct vm_rehearsal rehearsal = {0};
    struct recent entries = {0};
    int result = -EAGAIN;
    for (unsigned i = 0; i < REHEARSE_LOOKS; i++) {
        uint64_t entry_ns = 0;
        int ret = vm_echo_vcpu(vm, &entry_ns);
        if (ret == 0) {
            recent_add(&entries, entry_ns);
        }
        result = result == 0 ? 0 : ret;
    }
    rehearsal.enter_ns = recent_typical(&entries);
    result = result < 0 ? result : vm_rehearse_load(vm, &rehearsal.load_ns);
    if (result == 0) {
        *ret_rehearsal = rehearsal;
    }
    return result;
}

int vm_rehearse(struct vm *vm, struct vm_rehearsal *ret_rehearsal)
{
    struct recent stops = {0};
    struct recent saves = {0};
    struct recent earlies = {0};
    struct recent calls = {0};
    struct vm_rehearsal typical = {0};
    int result = -EAGAIN;
    if ((vm_holds(vm) & VM_HOLD_INCOMING) != 0) {
        return arrival_rehearse(vm, ret_rehearsal);
    }
    result = kvm_cpus_prepare(vm);
    if (result < 0) {
        return result;
    }
    result = -EAGAIN;
    for (unsigned i = 0; i < REHEARSE_LOOKS; i++) {
        struct vm_rehearsal one;
        int ret = vcpu_rehearse(vm, i % vm->vcpu_count, &one);
        if (ret == 0) {
            recent_add(&stops, one.stop_ns);
            recent_add(&saves, one.save_ns);
            recent_add(&earlies, one.early_ns);
            typical.state_bytes = one.state_bytes;
        }
        struct vm_echo echo;
        if (vm_echo(vm, &echo) == 0) {
            recent_add(&calls, echo.main_ns);
        }
        result = result == 0 ? 0 : ret;
    }
    if (result < 0) {
        return result;
    }
    typical.stop_ns = recent_typical(&stops);
    typical.drain_ns = recent_typical(&calls);
    typical.early_ns = recent_typical(&earlies);
    typical.save_ns = recent_typical(&saves) * vm->vcpu_count;
    typical.state_bytes *= vm->vcpu_count;
    CLEANUP(buffer_done) struct buffer state = {0};
    uint64_t start_ns = clock_now_ns();
    result = kvm_irqchip_save(vm, &state);
    result = result < 0 ? result : kvm_pit_save(vm, &state);
    typical.save_ns += clock_now_ns() - start_ns;
    typical.state_bytes += state.size;
    if (result == 0) {
        *ret_rehearsal = typical;
    }
    return result;
}
