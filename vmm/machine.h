/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Versions of the machine: which devices a guest finds. A release that gives its guests
 * something new adds a version, and goes on offering the older ones: so a guest that was
 * started by the release before can move to it, and back, with what it has found at its
 * start. Within a version only what a saved state tells of may differ.
 *
 *     1   release 0.1: serial port, clock, keyboard controller, power management;
 *         disks, networks, entropy, console
 *     2   and: chipset (LPC bridge, Q35's host bridge), panic device, balloon; firmware,
 *         CD-ROM, vsock if asked for
 */
#ifndef DROVER_VMM_MACHINE_H
#define DROVER_VMM_MACHINE_H

#include <stdbool.h>

#include "proto/machine.h"

struct error;
struct options;

/* Here and below 0 is the newest. The chipset of 2. */
static inline bool machine_has_chipset(unsigned machine)
{
    return machine != 1;
}

static inline bool machine_has_panic_device(unsigned machine)
{
    return machine != 1;
}

static inline bool machine_has_balloon(unsigned machine)
{
    return machine != 1;
}

/* DROVER_EBADINPUT if the options ask for what their --machine has not. Pure, any thread.
 */
int machine_judge(const struct options *options, struct error *err);

#endif
