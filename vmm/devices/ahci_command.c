/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands that the guest has issued to a port (AHCI 1.3.1 sections 4 and 5, ACS-3 7),
 * from the command list to the register FIS that tells what came of it:
 *
 *   list_gpa + 32 * slot  header: flags and number of PRDs, bytes done, table's address
 *   table  +0x00 command FIS  +0x40 packet  +0x80 PRDs of 16 bytes: address, size
 *
 * Each part is read once, copied, then judged.
 */
#include "vmm/devices/ahci_internal.h"

#include <string.h>

#include "base/check.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/vm.h"

#define HEADER_SIZE      32
#define HEADER_FIS_WORDS 0x1f
#define TABLE_MASK       (~UINT64_C(0x7f))
#define TABLE_PACKET     0x40
#define TABLE_PRDS       0x80
#define PRD_SIZE         16
#define PRD_BYTES_MASK   UINT32_C(0x003fffff)
#define PRD_INTERRUPT    UINT32_C(0x80000000)

#define FIS_COMMAND    0x27 /* host to device */
#define FIS_REGISTER   0x34
#define FIS_PIO_SETUP  0x5f
#define FIS_IS_COMMAND 0x80 /* else it sets the control register */
#define FIS_INTERRUPT  0x40
#define FIS_TO_HOST    0x20
#define CONTROL_SRST   0x04

#define STATUS_READY 0x50
#define STATUS_ERROR 0x51
#define STATUS_DATA  0x58
#define ERROR_ABORT  0x04
#define REASON_DONE  0x03

#define ATA_DEVICE_RESET    0x08
#define ATA_DIAGNOSTIC      0x90
#define ATA_PACKET          0xa0
#define ATA_IDENTIFY_PACKET 0xa1
#define ATA_STANDBY_NOW     0xe0
#define ATA_IDLE_NOW        0xe1
#define ATA_POWER_MODE      0xe5
#define ATA_SLEEP           0xe6
#define ATA_SET_FEATURES    0xef
#define FEATURE_MODE        0x03
#define FEATURE_SATA_ON     0x10
#define FEATURE_SATA_OFF    0x90

static struct guest_ram *ram(const struct ahci_port *port)
{
    return vm_ram(port->ahci->vm);
}

/* ---- data to the guest ---------------------------------------------------- */

/* The PRD that is filled next. False: there is none, or the port has failed. */
static bool prd_get(struct ahci_port *port, uint64_t *ret_gpa, uint32_t *ret_size,
                    bool *ret_interrupt)
{
    const struct ahci_transfer *transfer = &port->transfer;
    uint8_t prd[PRD_SIZE];
    if (transfer->prd_index == transfer->prd_count) {
        return false;
    }
    uint64_t at =
        transfer->table_gpa + TABLE_PRDS + (uint64_t)PRD_SIZE * transfer->prd_index;
    if (guest_ram_read(ram(port), at, prd, sizeof(prd)) < 0) {
        ahci_port_fail(port, "a PRD table is outside of memory");
        return false;
    }
    uint32_t flags = ahci_get32(prd + 12);
    *ret_gpa = (ahci_get32(prd) | (uint64_t)ahci_get32(prd + 4) << 32) & ~UINT64_C(1);
    *ret_size = (flags & PRD_BYTES_MASK) + 1;
    *ret_interrupt = (flags & PRD_INTERRUPT) != 0;
    return true;
}

/* Copies to where the PRDs say. False: the port has failed. */
static bool data_put(struct ahci_port *port, const uint8_t *data, uint32_t size)
{
    struct ahci_transfer *transfer = &port->transfer;
    while (size > 0) {
        uint64_t gpa = 0;
        uint32_t room = 0;
        bool interrupt = false;
        if (!prd_get(port, &gpa, &room, &interrupt)) {
            transfer->overflow = true;
            return !port->failed;
        }
        /* The guest may have made it shorter since it was begun. */
        uint32_t used = transfer->prd_used < room ? transfer->prd_used : room;
        uint32_t piece = room - used < size ? room - used : size;
        if (piece > 0 && guest_ram_write(ram(port), gpa + used, data, piece) < 0) {
            ahci_port_fail(port, "a PRD is outside of memory");
            return false;
        }
        data += piece;
        size -= piece;
        transfer->done_bytes += piece;
        transfer->prd_used = used + piece;
        if (transfer->prd_used == room) {
            transfer->prd_index++;
            transfer->prd_used = 0;
            transfer->prd_interrupt = transfer->prd_interrupt || interrupt;
        }
    }
    return true;
}

/* ---- ends ----------------------------------------------------------------- */

/* The bytes done, in the header. False: the port has failed. */
static bool header_finish(struct ahci_port *port)
{
    uint8_t bytes[4];
    ahci_set32(bytes, port->transfer.done_bytes);
    if (guest_ram_write(ram(port), port->transfer.header_gpa + 4, bytes, 4) < 0) {
        ahci_port_fail(port, "a command header is outside of memory");
        return false;
    }
    return true;
}

static uint32_t transfer_bits(const struct ahci_transfer *transfer)
{
    return (transfer->prd_interrupt ? AHCI_IS_DPS : 0) |
           (transfer->overflow ? AHCI_IS_OFS : 0);
}

/* The command is over; `fis` has what the device says of it but status and error. */
static void finish(struct ahci_port *port, uint8_t fis[20], uint8_t status, uint8_t error)
{
    struct ahci_transfer *transfer = &port->transfer;
    uint32_t bits = AHCI_IS_DHRS | transfer_bits(transfer);
    transfer->active = false;
    if (!header_finish(port)) {
        return;
    }
    fis[0] = FIS_REGISTER;
    fis[1] = FIS_INTERRUPT;
    fis[2] = status;
    fis[3] = error;
    port->tfd = (uint32_t)error << 8 | status;
    ahci_port_fis(port, AHCI_FIS_REGISTER_AT, fis);
    if ((status & 1) != 0) {
        port->failed = true; /* the slot stays issued until the guest clears ST */
        bits |= AHCI_IS_TFES;
    } else {
        port->ci &= ~(UINT32_C(1) << transfer->slot);
    }
    ahci_port_interrupt(port, bits);
}

static void finish_ok(struct ahci_port *port)
{
    uint8_t fis[20] = {0};
    finish(port, fis, STATUS_READY, 0);
}

/* A command that this device has not: its signature tells which kind it is. */
static void finish_abort(struct ahci_port *port)
{
    uint8_t fis[20] = {[4] = 1, [5] = 0x14, [6] = 0xeb, [12] = 1};
    finish(port, fis, STATUS_ERROR, ERROR_ABORT);
}

static void finish_packet(struct ahci_port *port, bool good)
{
    const uint8_t *command = port->transfer.fis;
    uint8_t fis[20] = {[5] = command[5], [6] = command[6], [12] = REASON_DONE};
    uint8_t error = (uint8_t)(port->drive.sense_key << 4 | ERROR_ABORT);
    finish(port, fis, good ? STATUS_READY : STATUS_ERROR, good ? 0 : error);
}

/* Over without a word of the device. */
static void finish_silently(struct ahci_port *port)
{
    port->transfer.active = false;
    if (header_finish(port)) {
        port->ci &= ~(UINT32_C(1) << port->transfer.slot);
    }
}

/* ---- commands ------------------------------------------------------------- */

static void identify(struct ahci_port *port)
{
    uint8_t data[512];
    struct ahci_transfer *transfer = &port->transfer;
    atapi_identify(&port->drive, data);
    if (!data_put(port, data, sizeof(data)) || !header_finish(port)) {
        return;
    }
    uint8_t fis[20] = {[0] = FIS_PIO_SETUP, [1] = FIS_INTERRUPT | FIS_TO_HOST};
    fis[2] = STATUS_DATA;
    fis[15] = STATUS_READY; /* after the data */
    fis[17] = sizeof(data) >> 8;
    transfer->active = false;
    port->tfd = STATUS_READY;
    ahci_port_fis(port, AHCI_FIS_PIO_AT, fis);
    port->ci &= ~(UINT32_C(1) << transfer->slot);
    ahci_port_interrupt(port, AHCI_IS_PSS | transfer_bits(transfer));
}

static void packet(struct ahci_port *port)
{
    struct ahci_transfer *transfer = &port->transfer;
    uint8_t bytes[ATAPI_PACKET_SIZE];
    struct atapi_result result = {0};
    if (guest_ram_read(ram(port), transfer->table_gpa + TABLE_PACKET, bytes,
                       sizeof(bytes)) < 0) {
        ahci_port_fail(port, "a command table is outside of memory");
        return;
    }
    atapi_command(&port->drive, bytes, port->buffer, &result);
    switch (result.outcome) {
    case ATAPI_OUTCOME_DONE:
        if (data_put(port, port->buffer, result.size)) {
            finish_packet(port, true);
        }
        return;
    case ATAPI_OUTCOME_CHECK:
        finish_packet(port, false);
        return;
    case ATAPI_OUTCOME_READ:
        transfer->block = result.first_block;
        transfer->blocks_left = result.block_count;
        transfer->active = true;
        return;
    }
}

static void set_features(struct ahci_port *port)
{
    switch (port->transfer.fis[3]) {
    case FEATURE_MODE:
    case FEATURE_SATA_ON:
    case FEATURE_SATA_OFF:
        finish_ok(port);
        return;
    default:
        finish_abort(port);
    }
}

static void command_run(struct ahci_port *port)
{
    uint8_t fis[20] = {[12] = 0xff};
    switch (port->transfer.fis[2]) {
    case ATA_PACKET:
        packet(port);
        return;
    case ATA_IDENTIFY_PACKET:
        identify(port);
        return;
    case ATA_SET_FEATURES:
        set_features(port);
        return;
    case ATA_STANDBY_NOW:
    case ATA_IDLE_NOW:
    case ATA_SLEEP:
        finish_ok(port);
        return;
    case ATA_POWER_MODE:
        finish(port, fis, STATUS_READY, 0); /* active */
        return;
    case ATA_DEVICE_RESET:
    case ATA_DIAGNOSTIC:
        atapi_reset(&port->drive);
        memcpy(fis, (uint8_t[20]){[4] = 1, [5] = 0x14, [6] = 0xeb, [12] = 1}, 20);
        finish(port, fis, 0, 1);
        return;
    default:
        finish_abort(port);
    }
}

/* SRST set and cleared again: the device resets, and presents itself anew. */
static void control(struct ahci_port *port)
{
    bool held = (port->transfer.fis[15] & CONTROL_SRST) != 0;
    bool was_held = port->soft_reset;
    port->soft_reset = held;
    finish_silently(port);
    if (held) {
        atapi_reset(&port->drive);
        port->tfd = AHCI_STATUS_BSY;
    } else if (was_held) {
        port->signature_due = true;
        ahci_port_signature(port);
    }
}

/* Reads header and command FIS of a slot. False: the port has failed. */
static bool command_fetch(struct ahci_port *port, unsigned slot)
{
    struct ahci_transfer *transfer = &port->transfer;
    uint8_t header[HEADER_SIZE];
    *transfer = (struct ahci_transfer){
        .slot = slot, .header_gpa = port->list_gpa + (uint64_t)HEADER_SIZE * slot};
    if (guest_ram_read(ram(port), transfer->header_gpa, header, sizeof(header)) < 0) {
        ahci_port_fail(port, "the command list is outside of memory");
        return false;
    }
    uint32_t flags = ahci_get32(header);
    transfer->prd_count = flags >> 16;
    transfer->table_gpa =
        (ahci_get32(header + 8) | (uint64_t)ahci_get32(header + 12) << 32) & TABLE_MASK;
    if (guest_ram_read(ram(port), transfer->table_gpa, transfer->fis,
                       sizeof(transfer->fis)) < 0) {
        ahci_port_fail(port, "a command table is outside of memory");
        return false;
    }
    if ((flags & HEADER_FIS_WORDS) < 2 || transfer->fis[0] != FIS_COMMAND) {
        ahci_port_fail(port, "a command FIS is none");
        return false;
    }
    return true;
}

bool ahci_command_next(struct ahci_port *port)
{
    CHECK(!port->transfer.active && !port->in_flight);
    if ((port->cmd & AHCI_CMD_ST) == 0 || port->failed || port->ci == 0 ||
        port->ssts != AHCI_LINK_UP) {
        return false;
    }
    unsigned slot = port->next_slot;
    while ((port->ci & UINT32_C(1) << slot) == 0) {
        slot = (slot + 1) % AHCI_SLOTS;
    }
    port->next_slot = (slot + 1) % AHCI_SLOTS;
    if (command_fetch(port, slot)) {
        port->tfd |= AHCI_STATUS_BSY;
        if ((port->transfer.fis[1] & FIS_IS_COMMAND) == 0) {
            control(port);
        } else {
            command_run(port);
        }
    }
    return true;
}

void ahci_command_data(struct ahci_port *port, uint32_t size)
{
    struct ahci_transfer *transfer = &port->transfer;
    uint32_t blocks = size / ATAPI_BLOCK_SIZE;
    CHECK(transfer->active && blocks <= transfer->blocks_left);
    if (!data_put(port, port->buffer, size)) {
        return;
    }
    transfer->block += blocks;
    /* Where there is no room left, the rest need not be read. */
    transfer->blocks_left = transfer->overflow ? 0 : transfer->blocks_left - blocks;
    if (transfer->blocks_left == 0) {
        finish_packet(port, true);
    }
}

void ahci_command_read_failed(struct ahci_port *port)
{
    CHECK(port->transfer.active);
    atapi_read_failed(&port->drive);
    finish_packet(port, false);
}
