/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One port. A read gives the events that are known here, a write tells of one: bit 0: the
 * kernel has crashed; bit 1: it has crashed, and a crash kernel that it had loaded takes
 * over now, saves what it wants and resets: nobody must come between.
 */
#include "vmm/devices/panic.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/state.h"
#include "vmm/vm.h"

#define EVENT_PANICKED 0x01
#define EVENT_LOADED   0x02
#define EVENTS         (EVENT_PANICKED | EVENT_LOADED)
/* A guest can crash as often as it likes; nobody has to read all of it. */
#define TELL_EACH_MS 1000
#define LOGS_MAX     32

struct panic {
    struct device device;
    struct vm *vm;
    enum panic_policy policy;
    pthread_mutex_t lock; /* of all below */
    struct panic_status status;
    bool crash_loaded; /* told since the last reset */
    uint64_t told_ms;
    unsigned log_count;
};

static const char *const policy_names[] = {
    [PANIC_POLICY_STOP] = "stop",
    [PANIC_POLICY_RESET] = "reset",
    [PANIC_POLICY_PAUSE] = "pause",
    [PANIC_POLICY_IGNORE] = "ignore",
};

int panic_policy_parse(const char *text, enum panic_policy *ret_policy)
{
    for (unsigned i = 0; i < sizeof(policy_names) / sizeof(policy_names[0]); i++) {
        if (strcmp(text, policy_names[i]) == 0) {
            *ret_policy = (enum panic_policy)i;
            return 0;
        }
    }
    return DROVER_EBADINPUT;
}

static void lock(struct panic *panic)
{
    CHECK(pthread_mutex_lock(&panic->lock) == 0);
}

static void unlock(struct panic *panic)
{
    CHECK(pthread_mutex_unlock(&panic->lock) == 0);
}

static uint64_t unix_ms(void)
{
    struct timespec now = {0};
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return (uint64_t)now.tv_sec * MS_PER_S + (uint64_t)now.tv_nsec / NS_PER_MS;
}

/* Under lock: notes a crash. True if it is news. */
static bool crash_note(struct panic *panic, uint8_t events)
{
    bool news =
        (events & EVENT_PANICKED) != 0 ? !panic->status.panicked : !panic->crash_loaded;
    if (!news) {
        return false;
    }
    panic->status.panicked |= (events & EVENT_PANICKED) != 0;
    panic->crash_loaded |= (events & EVENT_LOADED) != 0;
    panic->status.panics++;
    uint64_t now_ms = clock_now_ms();
    if (panic->told_ms == 0 || now_ms - panic->told_ms >= TELL_EACH_MS) {
        panic->told_ms = now_ms;
        panic->status.last_unix_ms = unix_ms();
    }
    if (panic->log_count < LOGS_MAX) {
        panic->log_count++;
        log_warn(vm_log(panic->vm), "the guest's kernel has crashed%s vm=%s on_panic=%s",
                 (events & EVENT_PANICKED) != 0 ? ""
                                                : ", and its crash kernel takes over",
                 vm_config(panic->vm)->name, policy_names[panic->policy]);
    }
    return true;
}

/* A vCPU's thread; it stands still as soon as the hold is set. */
static void policy_run(struct panic *panic)
{
    int result;
    switch (panic->policy) {
    case PANIC_POLICY_STOP:
        vm_end(panic->vm, false, "the guest's kernel has crashed");
        return;
    case PANIC_POLICY_RESET:
        vm_request_reset(panic->vm);
        return;
    case PANIC_POLICY_PAUSE:
        result = vm_hold_set(panic->vm, VM_HOLD_PANIC, NULL, NULL);
        CHECK(result == 0); /* fails only with a handler */
        return;
    case PANIC_POLICY_IGNORE:
        return;
    }
}

static void panic_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    (void)owner;
    (void)offset;
    memset(data, 0, size);
    data[0] = EVENTS;
}

static void panic_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct panic *panic = owner;
    uint8_t events = data[0] & EVENTS;
    (void)offset;
    (void)size;
    if (events == 0) {
        return;
    }
    lock(panic);
    bool news = crash_note(panic, events);
    bool acts = news && (events & EVENT_PANICKED) != 0;
    panic->status.ended |= acts && panic->policy == PANIC_POLICY_STOP;
    unlock(panic);
    if (acts) {
        policy_run(panic);
    }
    if (news) {
        vm_state_changed(panic->vm);
    }
}

static void panic_reset(struct device *device)
{
    struct panic *panic = (struct panic *)device;
    lock(panic);
    panic->status.panicked = false;
    panic->crash_loaded = false;
    unlock(panic);
}

static int panic_save(struct device *device, struct buffer *out)
{
    struct panic *panic = (struct panic *)device;
    Drover__PanicState state = DROVER__PANIC_STATE__INIT;
    lock(panic);
    state.panicked = panic->status.panicked;
    state.crash_loaded = panic->crash_loaded;
    unlock(panic);
    return state_pack(&state.base, out);
}

static int panic_load(struct device *device, uint32_t version, const uint8_t *payload,
                      size_t size, struct error *err)
{
    struct panic *panic = (struct panic *)device;
    (void)version; /* 1 is the first */
    Drover__PanicState *state = drover__panic_state__unpack(NULL, size, payload);
    if (state == NULL) {
        return error_set(err, DROVER_EMALFORMED, "the saved panic device is malformed");
    }
    lock(panic);
    panic->status.panicked = state->panicked;
    panic->crash_loaded = state->crash_loaded;
    bool stands = state->panicked && panic->policy == PANIC_POLICY_PAUSE;
    unlock(panic);
    drover__panic_state__free_unpacked(state, NULL);
    if (stands) {
        policy_run(panic); /* where it comes from, it stood as well */
    }
    return 0;
}

static void panic_free(struct device *device)
{
    struct panic *panic = (struct panic *)device;
    bus_remove(vm_port_bus(panic->vm), PANIC_PORT);
    (void)pthread_mutex_destroy(&panic->lock); /* nobody uses it any more */
    free(panic);
}

static const struct bus_ops panic_bus_ops = {.read = panic_read, .write = panic_write};

static const struct device_ops panic_device_ops = {
    .name = "panic",
    .version = 1,
    .save = panic_save,
    .load = panic_load,
    .reset = panic_reset,
    .free = panic_free,
};

int panic_create(struct vm *vm, enum panic_policy policy, struct error *err)
{
    struct panic *panic = calloc(1, sizeof(*panic));
    if (panic == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    panic->device.ops = &panic_device_ops;
    panic->vm = vm;
    panic->policy = policy;
    int result = bus_add(vm_port_bus(vm), PANIC_PORT, 1, &panic_bus_ops, panic);
    if (result < 0) {
        free(panic);
        return error_set(err, result, "cannot add the panic device: %s",
                         err_text(result));
    }
    CHECK(pthread_mutex_init(&panic->lock, NULL) == 0);
    vm_device_add(vm, &panic->device);
    return 0;
}

void panic_status(struct vm *vm, struct panic_status *ret_status)
{
    *ret_status = (struct panic_status){.panicked = false};
    for (struct device *device = vm_devices(vm); device != NULL; device = device->next) {
        if (device->ops == &panic_device_ops) {
            struct panic *panic = (struct panic *)device;
            lock(panic);
            *ret_status = panic->status;
            unlock(panic);
        }
    }
}
