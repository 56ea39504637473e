/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vm*.c and kvm_*.c share. Three kinds of thread: main (owns phase, devices' start
 * and stop), I/O (runs io_loop), and one per vCPU. `lock` covers what is marked so; it is
 * held shortly and never while a device or a handler is called.
 */
#ifndef DROVER_VMM_VM_INTERNAL_H
#define DROVER_VMM_VM_INTERNAL_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "base/buffer.h"
#include "vmm/device.h"
#include "vmm/vm.h"

#define VM_QUIET_WAITERS_MAX 8
#define VM_REASON_SIZE       256

struct firmware;
struct flash;
struct kvm_cpu_promise;
struct kvm_run;
struct event_source;

/*
 *      STOPPED ---> RUNNING ---> STOPPING ---+
 *         ^                                  |
 *         +----------------------------------+
 */
enum vm_phase {
    VM_PHASE_STOPPED,  /* all vCPUs out, all I/O drained */
    VM_PHASE_RUNNING,  /* vCPUs may be in the guest */
    VM_PHASE_STOPPING, /* no vCPU enters any more, not all are out or drained */
};

#define VCPU_THROTTLE_SIGNAL (SIGRTMIN + 1)

/* kvm_throttle.c. The vCPU's own thread, but for what is atomic. */
struct vcpu_throttle {
    timer_t timer; /* its signal ends a run */
    bool has_timer;
    atomic_uint percent; /* of its time that it is kept out; 100: until further notice */
    atomic_bool stands;
    unsigned known_percent; /* what the times below are for */
    uint64_t run_until_ns, stand_until_ns;
};

struct vcpu {
    struct vm *vm;
    unsigned index;
    int fd;
    struct kvm_run *run;
    bool thread_started;
    pthread_t thread;
    timer_t deadline_timer; /* its signal puts this vCPU out of the guest */
    bool has_deadline_timer;
    struct vcpu_throttle throttle;
    bool out; /* under lock: parked, or not started yet */
    struct cpu_scratch *scratch; /* kvm_cpu_state.c; NULL before a move */
    bool early_busy;             /* under lock: its own thread saves it */
    uint64_t early_tried;        /* under lock: in that standstill */
    uint64_t early_ns;           /* what its own part of a save took, when it did not save itself */
    uint64_t early_of;           /* under lock: of that one it was saved; 0: of none */
};

struct vm_quiet_waiter {
    vm_quiet_handler handler;
    void *owner;
};

struct vm {
    struct vm_config config;
    const struct log *log;

    int kvm_fd;
    int fd;
    int vcpu_run_size;
    bool has_tsc_offset;
    bool dirty_log_manual; /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is on */
    bool dirty_logging;
    struct kvm_irqfds *irqfds; /* kvm_irqfd.c; NULL until the first */
    struct guest_ram *ram;
    struct bus *port_bus;
    struct bus *memory_bus;
    struct pci_bus *pci;
    struct device *devices;
    struct device **devices_end;
    struct acpi_power *power; /* the power button's registers, one of the devices; NULL
                                 before it is added */

    struct firmware *firmware; /* a device too; NULL: the VM boots a kernel directly */
    struct flash *flash;       /* its flash, the same */

    struct event_loop *main_loop;
    struct event_loop *io_loop;
    pthread_t io_thread;
    bool io_thread_started;
    int wake_fd; /* any thread: main, look again */
    int echo_fd;             /* vm_echo(): main has heard */
    atomic_bool echo_wanted; /* by main */
    bool echo_passed;        /* under lock: by a vCPU that is parked */
    _Atomic(uint64_t) echo_ns; /* when it heard; 0: not yet */
    struct event_source *wake_source;
    struct event_source *poll_timer; /* while STOPPING: devices may be drained now */
    struct event_source
        *lease_timer; /* so that main notices a deadline even if all vCPUs sleep */

    pthread_mutex_t lock;
    pthread_cond_t go;         /* vCPUs wait for RUNNING or ending */
    pthread_cond_t quiet_cond; /* vm_hold_set_wait() */
    atomic_uint holds;         /* enum vm_hold; written under lock */
    atomic_uint phase;         /* enum vm_phase; written by main, and by who lets a guest go
                                  that has arrived, under lock */
    atomic_bool may_run;       /* RUNNING, and no hold was set since */
    bool ending_threads;       /* under lock: vCPU threads return */
    bool told_paused;          /* under lock: its vCPUs know that they stood still */
    bool start_due;            /* under lock: runs, and its devices' I/O is still to be started */
    _Atomic(uint64_t) tell_after_ns; /* the observer is told of changes from then on */
    unsigned vcpus_out;        /* under lock */
    bool early_wanted;         /* under lock: vCPUs save themselves */
    uint64_t standstill;       /* under lock: grows whenever vCPUs run on, or are made new */
    unsigned waiter_count;     /* under lock */
    struct vm_quiet_waiter waiters[VM_QUIET_WAITERS_MAX];

    _Atomic(uint64_t) last_exit_ns;
    _Atomic(uint64_t) first_entry_ns;
    struct vm_quiet_waiter first_entry_waiter; /* main */

    bool lease_bound;
    _Atomic(uint64_t) lease_deadline_ns;

    atomic_bool reset_wanted;
    atomic_bool memory_missing; /* pages may never come: main must not touch any */
    atomic_bool state_changed;
    atomic_bool handed_over;
    bool ended; /* under lock, as the next three */
    bool failed;
    bool guest_powered_off;
    char end_reason[VM_REASON_SIZE];
    struct vm_quiet_waiter observer; /* main, as the next two */
    bool quit_wanted;
    uint64_t started_ms;

    struct kvm_cpu_promise *offered_cpu; /* what this host gives with this --cpu */
    struct kvm_cpu_promise *guest_cpu;   /* what the guest was told when it booted */
    struct buffer power_on_cpu; /* state of vCPU 0 before its first entry, for resets */
    struct state_builder *rehearsal; /* vm_state.c: what vm_rehearse_load() loads */
    struct boot *boot;

    unsigned vcpu_count;
    struct vcpu vcpus[];
};

static inline void vm_lock(struct vm *vm)
{
    int result = pthread_mutex_lock(&vm->lock);
    (void)result; /* fails only if the mutex is broken */
}

static inline void vm_unlock(struct vm *vm)
{
    int result = pthread_mutex_unlock(&vm->lock);
    (void)result;
}

struct vm_echo {
    uint64_t main_ns; /* until main has heard of something, and its answer was heard */
    uint64_t vcpu_ns; /* until a vCPU that was parked has heard of it from main; 0: none was */
};
/* Calls main and a vCPU that is parked, and waits for both. One thread at a time. -EAGAIN:
 * they did not hear it in time, the host is busy. */
int vm_echo(struct vm *vm, struct vm_echo *ret_echo);
void vm_echo_answer(struct vm *vm); /* main, when it is woken */
/* As a guest that has arrived is let go: until a vCPU that is parked has heard of it from
 * this thread. -EAGAIN: none is, or not in time. */
int vm_echo_vcpu(struct vm *vm, uint64_t *ret_ns);
void vm_rehearsal_done(struct vm *vm);
/* Main looks at holds, requests and drains soon. Any thread, also in a vCPU's loop. */
void vm_wake(struct vm *vm);
/* True if this vCPU may enter the guest now. Sets VM_HOLD_LEASE if the deadline is over.
 * vCPU threads. */
bool vm_may_enter(struct vm *vm);
/* vm_hold.c's part of create and free. */
int vm_hold_init(struct vm *vm);
void vm_hold_done(struct vm *vm);
/* A vCPU thread parks until it may enter; false when the thread must end. */
bool vm_vcpu_park(struct vm *vm, struct vcpu *vcpu);

/* The guest's kernel and tables in memory, vCPU 0 at its entry. */
int vm_boot(struct vm *vm, struct error *err);
/* Memory, devices and vCPUs as at power-on, with the guest's kernel in place. VM is
 * quiet. Main thread. */
int vm_reset(struct vm *vm, struct error *err);

#endif
