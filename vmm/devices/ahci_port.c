/* SPDX-License-Identifier: Apache-2.0 */
/* One port of the AHCI controller: its registers, its resets, the FISes that its drive
 * sends (AHCI 1.3.1 section 3.3). */
#include "vmm/devices/ahci_internal.h"

#include <string.h>

#include "vmm/memory/guest_ram.h"
#include "vmm/vm.h"

#define FIS_REGISTER 0x34 /* device to host */

#define TFD_NO_DEVICE 0x7f
#define SIG_NONE      UINT32_C(0xffffffff)
#define SCTL_MASK     UINT32_C(0x00000fff)
#define DET_MASK      UINT32_C(0x0000000f)
#define DET_RESET     1
#define DET_OFF       4
#define LIST_MASK     (~UINT64_C(0x3ff))
#define FIS_MASK      (~UINT64_C(0xff))

void ahci_port_interrupt(struct ahci_port *port, uint32_t bits)
{
    port->is |= bits;
    ahci_interrupt_update(port->ahci);
}

void ahci_port_fail(struct ahci_port *port, const char *how)
{
    ahci_log_broken(port, how);
    port->failed = true;
    port->transfer.active = false;
    ahci_port_interrupt(port, AHCI_IS_HBFS);
}

void ahci_port_fis(struct ahci_port *port, unsigned offset, const uint8_t fis[20])
{
    if ((port->cmd & AHCI_CMD_FRE) == 0) {
        return;
    }
    if (guest_ram_write(vm_ram(port->ahci->vm), port->fis_gpa + offset, fis, 20) < 0) {
        ahci_port_fail(port, "the place for received FISes is outside of memory");
    }
}

void ahci_port_signature(struct ahci_port *port)
{
    if (!port->signature_due || (port->cmd & AHCI_CMD_FRE) == 0) {
        return;
    }
    uint8_t fis[20] = {[0] = FIS_REGISTER, [3] = 1, [4] = 1, [5] = 0x14, [6] = 0xeb};
    fis[12] = 1;
    port->signature_due = false;
    port->tfd = 0x0100; /* no error; a packet device shows no status */
    port->sig = AHCI_SIGNATURE;
    ahci_port_fis(port, AHCI_FIS_REGISTER_AT, fis);
}

/* What is under way is nobody's any more. The guest's memory is written by us alone, so
 * that it stops at once. */
static void cancel(struct ahci_port *port)
{
    port->transfer.active = false;
    port->stale = port->in_flight;
    port->ci = 0;
    port->next_slot = 0;
    port->failed = false;
    port->soft_reset = false;
}

static void link_up(struct ahci_port *port)
{
    cancel(port);
    atapi_reset(&port->drive);
    port->ssts = AHCI_LINK_UP;
    port->tfd = TFD_NO_DEVICE;
    port->sig = SIG_NONE;
    port->signature_due = true;
    ahci_port_signature(port);
}

void ahci_port_reset(struct ahci_port *port)
{
    port->is = port->ie = port->cmd = port->sctl = 0;
    link_up(port);
}

void ahci_port_power_on(struct ahci_port *port)
{
    port->list_gpa = port->fis_gpa = 0;
    ahci_port_reset(port);
}

static void control_write(struct ahci_port *port, uint32_t value)
{
    unsigned before = port->sctl & DET_MASK;
    unsigned now = value & DET_MASK;
    port->sctl = value & SCTL_MASK;
    if (now == before) {
        return;
    }
    if (now == DET_RESET || now == DET_OFF) {
        cancel(port);
        port->ssts = now == DET_OFF ? AHCI_LINK_OFF : 0;
        port->tfd = TFD_NO_DEVICE;
        port->sig = SIG_NONE;
        port->signature_due = false;
    } else if (now == 0 && port->ssts != AHCI_LINK_UP) {
        link_up(port);
    }
}

static void command_write(struct ahci_port *port, uint32_t value)
{
    uint32_t before = port->cmd;
    port->cmd = value & AHCI_CMD_WRITABLE;
    if ((value & AHCI_CMD_CLO) != 0) {
        port->tfd &= ~(uint32_t)(AHCI_STATUS_BSY | AHCI_STATUS_DRQ);
    }
    ahci_port_signature(port);
    if ((port->cmd & AHCI_CMD_ST) == 0 && (before & AHCI_CMD_ST) != 0) {
        bool soft_reset = port->soft_reset;
        cancel(port);
        port->soft_reset = soft_reset; /* the device's, not the port's */
        if ((port->tfd & AHCI_STATUS_BSY) != 0 && port->ssts == AHCI_LINK_UP) {
            port->tfd = 0x0050; /* what it was busy with is over */
        }
    }
}

/* Registers that are a 64-bit address in two halves. */
static void address_write(uint64_t *address, bool high, uint32_t value, uint64_t mask)
{
    uint64_t kept = *address & (high ? UINT64_C(0xffffffff) : ~UINT64_C(0xffffffff));
    *address = (kept | (high ? (uint64_t)value << 32 : value)) & mask;
}

uint32_t ahci_port_read(const struct ahci_port *port, unsigned offset)
{
    bool running = (port->cmd & AHCI_CMD_ST) != 0;
    switch (offset) {
    case AHCI_PORT_CLB:
        return (uint32_t)port->list_gpa;
    case AHCI_PORT_CLBU:
        return (uint32_t)(port->list_gpa >> 32);
    case AHCI_PORT_FB:
        return (uint32_t)port->fis_gpa;
    case AHCI_PORT_FBU:
        return (uint32_t)(port->fis_gpa >> 32);
    case AHCI_PORT_IS:
        return port->is;
    case AHCI_PORT_IE:
        return port->ie;
    case AHCI_PORT_CMD:
        return port->cmd | (running ? AHCI_CMD_CR : 0) |
               ((port->cmd & AHCI_CMD_FRE) != 0 ? AHCI_CMD_FR : 0) |
               (port->transfer.active ? port->transfer.slot << 8 : 0);
    case AHCI_PORT_TFD:
        return port->tfd;
    case AHCI_PORT_SIG:
        return port->sig;
    case AHCI_PORT_SSTS:
        return port->ssts;
    case AHCI_PORT_SCTL:
        return port->sctl;
    case AHCI_PORT_CI:
        return port->ci;
    default:
        return 0; /* no queued commands, no errors of the link, no hub */
    }
}

void ahci_port_write(struct ahci_port *port, unsigned offset, uint32_t value)
{
    switch (offset) {
    case AHCI_PORT_CLB:
    case AHCI_PORT_CLBU:
        address_write(&port->list_gpa, offset == AHCI_PORT_CLBU, value, LIST_MASK);
        return;
    case AHCI_PORT_FB:
    case AHCI_PORT_FBU:
        address_write(&port->fis_gpa, offset == AHCI_PORT_FBU, value, FIS_MASK);
        return;
    case AHCI_PORT_IS:
        port->is &= ~value;
        return;
    case AHCI_PORT_IE:
        port->ie = value & AHCI_IE_MASK;
        ahci_interrupt_update(port->ahci);
        return;
    case AHCI_PORT_CMD:
        command_write(port, value);
        return;
    case AHCI_PORT_SCTL:
        control_write(port, value);
        return;
    case AHCI_PORT_CI:
        if ((port->cmd & AHCI_CMD_ST) != 0 && value != 0) {
            port->ci |= value;
            ahci_kick(port->ahci);
        }
        return;
    default:
        return;
    }
}
