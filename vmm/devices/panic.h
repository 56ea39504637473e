/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The panic device (QEMU's pvpanic, ACPI id QEMU0001 at port 0x505), to which stock
 * kernels write when they crash. What follows is the VM's policy. Adds itself to the VM,
 * which owns it.
 */
#ifndef DROVER_VMM_DEVICES_PANIC_H
#define DROVER_VMM_DEVICES_PANIC_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct vm;

#define PANIC_PORT 0x505

enum panic_policy {
    PANIC_POLICY_STOP,   /* the VM ends */
    PANIC_POLICY_RESET,  /* it boots again */
    PANIC_POLICY_PAUSE,  /* it stands still, for a look at it */
    PANIC_POLICY_IGNORE, /* only told */
};

struct panic_status {
    bool panicked;         /* the guest has crashed, and was not reset since */
    bool ended;            /* ... and the VM was ended for it */
    uint32_t panics;       /* crashes since the process began */
    uint64_t last_unix_ms; /* when the last one of these was, 0: never */
};

/* "stop", "reset", "pause" or "ignore"; else DROVER_EBADINPUT. */
int panic_policy_parse(const char *text, enum panic_policy *ret_policy);
int panic_create(struct vm *vm, enum panic_policy policy, struct error *err);
/* Any thread. All zero for a VM without the device. */
void panic_status(struct vm *vm, struct panic_status *ret_status);

#endif
