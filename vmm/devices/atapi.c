/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packet commands of a CD-ROM drive: which there are, the common rules (SPC-4 5), and
 * the plain ones. What describes the disc: atapi_disc.c.
 */
#include "vmm/devices/atapi.h"

#include <stdio.h>

#include "base/check.h"
#include "vmm/devices/atapi_internal.h"

#define INQUIRY_SIZE     36
#define SENSE_SIZE       18
#define PAGE_SUPPORTED   0x00
#define PAGE_SERIAL      0x80
#define PAGE_IDENTIFIERS 0x83
#define READ_CD_USER     0x10 /* the sectors' user data, and nothing else */

void atapi_check(struct atapi_request *request, enum atapi_sense key, uint16_t code)
{
    request->drive->sense_key = (uint8_t)key;
    request->drive->sense_code = code;
    *request->result = (struct atapi_result){.outcome = ATAPI_OUTCOME_CHECK};
}

void atapi_answer(struct atapi_request *request, uint32_t size, uint32_t allocation)
{
    CHECK(size <= ATAPI_DATA_MAX);
    *request->result = (struct atapi_result){
        .outcome = ATAPI_OUTCOME_DONE, .size = size < allocation ? size : allocation};
}

static void text_put(uint8_t *data, size_t size, const char *text)
{
    memset(data, ' ', size);
    memcpy(data, text, strnlen(text, size));
}

static void serial_text(const struct atapi_drive *drive, char ret_text[20])
{
    (void)snprintf(ret_text, 20, "drover-cd%u", drive->number); /* fits */
}

static void test_unit_ready(struct atapi_request *request)
{
    atapi_answer(request, 0, 0);
}

static void request_sense(struct atapi_request *request)
{
    struct atapi_drive *drive = request->drive;
    uint8_t *data = request->data;
    data[0] = 0x70; /* current, fixed format */
    data[2] = drive->sense_key;
    data[7] = SENSE_SIZE - 8;
    atapi_set16(data + 12, drive->sense_code);
    drive->sense_key = ATAPI_SENSE_NONE;
    drive->sense_code = ATAPI_CODE_NONE;
    atapi_answer(request, SENSE_SIZE, request->packet[4]);
}

static void vital_product_data(struct atapi_request *request, uint32_t allocation)
{
    uint8_t *data = request->data;
    char serial[20];
    serial_text(request->drive, serial);
    uint8_t size = (uint8_t)strlen(serial);
    data[0] = 0x05;
    data[1] = request->packet[2];
    switch (request->packet[2]) {
    case PAGE_SUPPORTED:
        data[3] = 3;
        data[4] = PAGE_SUPPORTED;
        data[5] = PAGE_SERIAL;
        data[6] = PAGE_IDENTIFIERS;
        break;
    case PAGE_SERIAL:
        data[3] = size;
        memcpy(data + 4, serial, size);
        break;
    case PAGE_IDENTIFIERS:
        data[3] = (uint8_t)(4 + 8 + size);
        data[4] = 0x02; /* ASCII */
        data[5] = 0x01; /* vendor id and text */
        data[7] = (uint8_t)(8 + size);
        text_put(data + 8, 8, "DROVER");
        memcpy(data + 16, serial, size);
        break;
    default:
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    atapi_answer(request, 4u + data[3], allocation);
}

static void inquiry(struct atapi_request *request)
{
    uint8_t *data = request->data;
    uint32_t allocation = atapi_get16(request->packet + 3);
    if ((request->packet[1] & 1) != 0) {
        vital_product_data(request, allocation);
        return;
    }
    if (request->packet[2] != 0) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    data[0] = 0x05; /* CD or DVD drive */
    data[1] = 0x80; /* the medium is removable */
    data[2] = 0x05; /* SPC-3 */
    data[3] = 0x02;
    data[4] = INQUIRY_SIZE - 5;
    text_put(data + 8, 8, "DROVER");
    text_put(data + 16, 16, "CD-ROM");
    text_put(data + 32, 4, "1");
    atapi_answer(request, INQUIRY_SIZE, allocation);
}

static void start_stop_unit(struct atapi_request *request)
{
    struct atapi_drive *drive = request->drive;
    uint8_t how = request->packet[4];
    if ((how >> 4) != 0 || (how & 2) == 0) { /* power conditions; start and stop */
        atapi_answer(request, 0, 0);
        return;
    }
    bool opens = (how & 1) == 0;
    if (opens && !drive->tray_open && drive->tray_locked) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_LOCKED);
        return;
    }
    drive->attention = drive->tray_open && !opens ? true : drive->attention;
    drive->tray_open = opens;
    atapi_answer(request, 0, 0);
}

static void prevent_allow(struct atapi_request *request)
{
    request->drive->tray_locked = (request->packet[4] & 1) != 0;
    atapi_answer(request, 0, 0);
}

static void read_capacity(struct atapi_request *request)
{
    atapi_set32(request->data, request->drive->block_count - 1);
    atapi_set32(request->data + 4, ATAPI_BLOCK_SIZE);
    atapi_answer(request, 8, 8);
}

static void read_blocks(struct atapi_request *request, uint32_t first, uint32_t count)
{
    uint32_t end = request->drive->block_count;
    if (first > end || count > end - first) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_OUT_OF_RANGE);
    } else if (count == 0) {
        atapi_answer(request, 0, 0);
    } else {
        *request->result = (struct atapi_result){
            .outcome = ATAPI_OUTCOME_READ, .first_block = first, .block_count = count};
    }
}

static void read_10(struct atapi_request *request)
{
    read_blocks(request, atapi_get32(request->packet + 2),
                atapi_get16(request->packet + 7));
}

static void read_12(struct atapi_request *request)
{
    read_blocks(request, atapi_get32(request->packet + 2),
                atapi_get32(request->packet + 6));
}

static void read_cd(struct atapi_request *request)
{
    const uint8_t *packet = request->packet;
    uint32_t count = (uint32_t)packet[6] << 16 | atapi_get16(packet + 7);
    unsigned kind = packet[1] >> 2 & 7;
    if ((kind != 0 && kind != 2 && kind != 4) || packet[10] != 0 ||
        (packet[9] != READ_CD_USER && packet[9] != 0)) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    read_blocks(request, atapi_get32(packet + 2), packet[9] == 0 ? 0 : count);
}

static void seek(struct atapi_request *request)
{
    if (atapi_get32(request->packet + 2) >= request->drive->block_count) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_OUT_OF_RANGE);
        return;
    }
    atapi_answer(request, 0, 0);
}

static void set_speed(struct atapi_request *request)
{
    atapi_answer(request, 0, 0); /* it is as fast as it is */
}

static void report_luns(struct atapi_request *request)
{
    atapi_set32(request->data, 8); /* one, number 0 */
    atapi_answer(request, 16, atapi_get32(request->packet + 6));
}

enum command_flags {
    COMMAND_ANY_TIME = 1 << 0,     /* also while there is no medium */
    COMMAND_NO_ATTENTION = 1 << 1, /* does not tell of a change */
};

static const struct command {
    void (*run)(struct atapi_request *request);
    unsigned flags;
} commands[256] = {
    [0x00] = {test_unit_ready, 0},
    [0x03] = {request_sense, COMMAND_ANY_TIME | COMMAND_NO_ATTENTION},
    [0x12] = {inquiry, COMMAND_ANY_TIME | COMMAND_NO_ATTENTION},
    [0x1a] = {atapi_mode_sense_6, COMMAND_ANY_TIME},
    [0x1b] = {start_stop_unit, COMMAND_ANY_TIME},
    [0x1e] = {prevent_allow, COMMAND_ANY_TIME},
    [0x25] = {read_capacity, 0},
    [0x28] = {read_10, 0},
    [0x2b] = {seek, 0},
    [0x43] = {atapi_read_toc, 0},
    [0x46] = {atapi_get_configuration, COMMAND_ANY_TIME | COMMAND_NO_ATTENTION},
    [0x4a] = {atapi_get_event_status, COMMAND_ANY_TIME | COMMAND_NO_ATTENTION},
    [0x51] = {atapi_read_disc_information, 0},
    [0x52] = {atapi_read_track_information, 0},
    [0x5a] = {atapi_mode_sense_10, COMMAND_ANY_TIME},
    [0xa0] = {report_luns, COMMAND_ANY_TIME | COMMAND_NO_ATTENTION},
    [0xa8] = {read_12, 0},
    [0xad] = {atapi_read_dvd_structure, 0},
    [0xbb] = {set_speed, COMMAND_ANY_TIME},
    [0xbd] = {atapi_mechanism_status, COMMAND_ANY_TIME},
    [0xbe] = {read_cd, 0},
};

void atapi_command(struct atapi_drive *drive, const uint8_t packet[ATAPI_PACKET_SIZE],
                   uint8_t *data, struct atapi_result *ret_result)
{
    struct atapi_request request = {
        .drive = drive, .packet = packet, .data = data, .result = ret_result};
    const struct command *command = &commands[packet[0]];
    CHECK(drive->block_count > 0);
    memset(data, 0, ATAPI_DATA_MAX);
    if (command->run == NULL) {
        atapi_check(&request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_OPCODE);
        return;
    }
    if (drive->attention && (command->flags & COMMAND_NO_ATTENTION) == 0) {
        drive->attention = false;
        atapi_check(&request, ATAPI_SENSE_ATTENTION, ATAPI_CODE_CHANGED);
        return;
    }
    if (drive->tray_open && (command->flags & COMMAND_ANY_TIME) == 0) {
        atapi_check(&request, ATAPI_SENSE_NOT_READY, ATAPI_CODE_TRAY_OPEN);
        return;
    }
    command->run(&request);
}

void atapi_read_failed(struct atapi_drive *drive)
{
    drive->sense_key = ATAPI_SENSE_MEDIUM;
    drive->sense_code = ATAPI_CODE_READ_ERROR;
}

void atapi_reset(struct atapi_drive *drive)
{
    drive->sense_key = ATAPI_SENSE_NONE;
    drive->sense_code = ATAPI_CODE_NONE;
    drive->tray_locked = false;
    drive->attention = false;
}

static void word_set(uint8_t *data, unsigned word, uint16_t value)
{
    data[2 * word] = (uint8_t)value;
    data[2 * word + 1] = (uint8_t)(value >> 8);
}

/* Text in an ATA identity has its bytes swapped, pair by pair. */
static void words_text_set(uint8_t *data, unsigned word, unsigned words, const char *text)
{
    size_t size = strlen(text);
    for (unsigned i = 0; i < 2 * words; i++) {
        data[2 * word + (i ^ 1)] = i < size ? (uint8_t)text[i] : ' ';
    }
}

void atapi_identify(const struct atapi_drive *drive, uint8_t data[512])
{
    char serial[20];
    serial_text(drive, serial);
    memset(data, 0, 512);
    word_set(data, 0, 0x85c0); /* a packet device, CD, removable, 12-byte packets */
    words_text_set(data, 10, 10, serial);
    words_text_set(data, 23, 4, "1");
    words_text_set(data, 27, 20, "Drover CD-ROM");
    word_set(data, 49, 0x0f00); /* DMA, LBA, IORDY */
    word_set(data, 53, 0x0006); /* words 64 to 70 and 88 are valid */
    word_set(data, 63, 0x0007); /* multiword DMA modes 0 to 2 */
    word_set(data, 64, 0x0003); /* PIO modes 3 and 4 */
    for (unsigned word = 65; word <= 68; word++) {
        word_set(data, word, 120); /* cycle times, ns */
    }
    word_set(data, 76, 0x0006); /* SATA 1.5 and 3 Gbit/s */
    word_set(data, 80, 0x01f0); /* ATA/ATAPI-4 to ACS */
    word_set(data, 82, 0x4210); /* NOP, DEVICE RESET, PACKET */
    word_set(data, 83, 0x4000);
    word_set(data, 84, 0x4000);
    word_set(data, 85, 0x4210);
    word_set(data, 87, 0x4000);
    word_set(data, 88, 0x203f); /* Ultra DMA modes 0 to 5, 5 is chosen */
}
