/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The versions of the machine that this release offers its guests (vmm/machine.h says what
 * each has). The cluster gives a VM one that all its hosts offer, so that a host that is
 * not updated yet can take it too.
 */
#ifndef DROVER_PROTO_MACHINE_H
#define DROVER_PROTO_MACHINE_H

#define MACHINE_OLDEST 1u
#define MACHINE_NEWEST 2u

#endif
