/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a CD-ROM drive answers to its packet commands (SPC-4, MMC-6): pure, reads no
 * medium. The owner of a drive is its AHCI port, under the controller's lock. Reading
 * the blocks that a command asks for is the port's work.
 */
#ifndef DROVER_VMM_DEVICES_ATAPI_H
#define DROVER_VMM_DEVICES_ATAPI_H

#include <stdbool.h>
#include <stdint.h>

#define ATAPI_PACKET_SIZE 12
#define ATAPI_BLOCK_SIZE  2048u
#define ATAPI_DATA_MAX    2560u /* of what a command answers itself */

/* Sense keys, as in the upper half of the task file's error register. */
enum atapi_sense {
    ATAPI_SENSE_NONE = 0,
    ATAPI_SENSE_NOT_READY = 2,
    ATAPI_SENSE_MEDIUM = 3,
    ATAPI_SENSE_ILLEGAL = 5,
    ATAPI_SENSE_ATTENTION = 6,
};

/* Additional sense code and qualifier, as one number. */
#define ATAPI_CODE_NONE         0x0000
#define ATAPI_CODE_READ_ERROR   0x1100
#define ATAPI_CODE_OPCODE       0x2000
#define ATAPI_CODE_OUT_OF_RANGE 0x2100
#define ATAPI_CODE_FIELD        0x2400
#define ATAPI_CODE_CHANGED      0x2800
#define ATAPI_CODE_INCOMPATIBLE 0x3002
#define ATAPI_CODE_SAVING       0x3900
#define ATAPI_CODE_TRAY_OPEN    0x3a02
#define ATAPI_CODE_LOCKED       0x5302

struct atapi_drive {
    uint32_t block_count; /* of the medium */
    unsigned number;      /* among the VM's drives, for the serial number */
    bool tray_open;
    bool tray_locked;
    bool attention; /* the medium has come: the next command is told */
    uint8_t sense_key;
    uint16_t sense_code;
};

/* What came of a command: */
enum atapi_outcome {
    ATAPI_OUTCOME_DONE,  /* `size` bytes for the guest are in the buffer */
    ATAPI_OUTCOME_READ,  /* `block_count` blocks from `first_block` on are to be read */
    ATAPI_OUTCOME_CHECK, /* failed: the drive's sense says how */
};

struct atapi_result {
    enum atapi_outcome outcome;
    uint32_t size;
    uint32_t first_block;
    uint32_t block_count; /* at least 1; all on the medium */
};

/* `data` has room for ATAPI_DATA_MAX bytes. */
void atapi_command(struct atapi_drive *drive, const uint8_t packet[ATAPI_PACKET_SIZE],
                   uint8_t *data, struct atapi_result *ret_result);
/* The blocks could not be read. */
void atapi_read_failed(struct atapi_drive *drive);
/* Bus reset: sense and lock are gone, the tray stays as it is. */
void atapi_reset(struct atapi_drive *drive);
/* The 512 bytes of IDENTIFY PACKET DEVICE (ACS-3 7.13). */
void atapi_identify(const struct atapi_drive *drive, uint8_t data[512]);

#endif
