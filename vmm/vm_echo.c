/* SPDX-License-Identifier: Apache-2.0 */
/* How long the VM's threads take to hear one another. */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "vmm/vm_internal.h"

#define ECHO_WAIT_MS 20
#define ECHO_LOOKS   10u /* in each of them */

/* Passes it on as is done when the vCPUs may run. */
void vm_echo_answer(struct vm *vm)
{
    if (!atomic_exchange(&vm->echo_wanted, false)) {
        return;
    }
    vm_lock(vm);
    vm->echo_passed = vm->vcpus_out > 0;
    vm_unlock(vm);
    CHECK(pthread_cond_broadcast(&vm->go) == 0);
    (void)eventfd_write(vm->echo_fd, 1); /* full means that it is readable */
}

int vm_echo_vcpu(struct vm *vm, uint64_t *ret_ns)
{
    atomic_store(&vm->echo_ns, 0);
    uint64_t start_ns = clock_now_ns();
    vm_lock(vm);
    bool parked = vm->vcpus_out > 0;
    vm->echo_passed = parked;
    vm_unlock(vm);
    CHECK(pthread_cond_broadcast(&vm->go) == 0);
    uint64_t heard_ns = 0;
    for (unsigned i = 0; parked && heard_ns == 0 && i < ECHO_WAIT_MS * ECHO_LOOKS; i++) {
        (void)usleep(1000 / ECHO_LOOKS); /* a shorter sleep does no harm */
        heard_ns = atomic_load(&vm->echo_ns);
    }
    if (heard_ns == 0) {
        return -EAGAIN;
    }
    *ret_ns = heard_ns > start_ns ? heard_ns - start_ns : 0;
    return 0;
}

int vm_echo(struct vm *vm, struct vm_echo *ret_echo)
{
    struct vm_echo echo = {0};
    struct pollfd heard = {.fd = vm->echo_fd, .events = POLLIN};
    eventfd_t count;
    (void)eventfd_read(vm->echo_fd, &count); /* of one that came too late */
    atomic_store(&vm->echo_ns, 0);
    uint64_t start_ns = clock_now_ns();
    atomic_store(&vm->echo_wanted, true);
    vm_wake(vm);
    if (poll(&heard, 1, ECHO_WAIT_MS) != 1) {
        return -EAGAIN;
    }
    echo.main_ns = clock_now_ns() - start_ns;
    vm_lock(vm);
    bool parked = vm->vcpus_out > 0;
    vm_unlock(vm);
    uint64_t heard_ns = atomic_load(&vm->echo_ns);
    for (unsigned i = 0; parked && heard_ns == 0 && i < ECHO_WAIT_MS; i++) {
        (void)usleep(1000); /* a shorter sleep does no harm */
        heard_ns = atomic_load(&vm->echo_ns);
    }
    if (parked && heard_ns == 0) {
        return -EAGAIN;
    }
    echo.vcpu_ns = heard_ns > start_ns ? heard_ns - start_ns : 0;
    *ret_echo = echo;
    return 0;
}
