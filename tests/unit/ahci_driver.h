/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's AHCI driver for tests: one port at a time, everything through the buses, as a
 * vCPU would. Command list, table and received FISes lie at fixed places in memory.
 */
#ifndef DROVER_TESTS_AHCI_DRIVER_H
#define DROVER_TESTS_AHCI_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/unit/fake_vm.h"

#define AHCI_DRIVER_LIST_GPA  0x10000u
#define AHCI_DRIVER_FIS_GPA   0x11000u
#define AHCI_DRIVER_TABLE_GPA 0x12000u
#define AHCI_DRIVER_DATA_GPA  0x100000u
#define AHCI_DRIVER_MSI       0xfee01000u

struct ahci_driver {
    struct vm *vm;
    uint32_t bar;
    unsigned port;
};

/* Puts the BAR in place, turns MSI on. */
void ahci_driver_init(struct ahci_driver *driver, struct vm *vm);
uint32_t ahci_driver_get(struct ahci_driver *driver, unsigned offset);
void ahci_driver_set(struct ahci_driver *driver, unsigned offset, uint32_t value);
/* Registers of the driver's port. */
uint32_t ahci_driver_port_get(struct ahci_driver *driver, unsigned offset);
void ahci_driver_port_set(struct ahci_driver *driver, unsigned offset, uint32_t value);
/* Interrupts on, FISes stored, commands served. */
void ahci_driver_start(struct ahci_driver *driver);
/* Header, table and one PRD of `size` bytes (0: none) for slot 0; not issued. */
void ahci_driver_prepare(struct ahci_driver *driver, uint8_t command, const void *packet,
                         uint32_t size);
void ahci_driver_issue(struct ahci_driver *driver);
/* Waits until slot 0 is free or the port reports an error; false after five seconds. */
bool ahci_driver_wait(struct ahci_driver *driver);
/* All of these for a packet: true if it ended without an error. */
bool ahci_driver_packet(struct ahci_driver *driver, const void *packet, uint32_t size);
/* Bytes done, as the header of slot 0 says. */
uint32_t ahci_driver_done_bytes(struct ahci_driver *driver);

#endif
