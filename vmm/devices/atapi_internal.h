/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by atapi.c (dispatch, drive, reading) and atapi_disc.c (what the disc and the
 * drive can do) only. */
#ifndef DROVER_VMM_DEVICES_ATAPI_INTERNAL_H
#define DROVER_VMM_DEVICES_ATAPI_INTERNAL_H

#include <string.h>

#include "vmm/devices/atapi.h"

/* One command while it is served. */
struct atapi_request {
    struct atapi_drive *drive;
    const uint8_t *packet;
    uint8_t *data; /* zeroed, ATAPI_DATA_MAX bytes */
    struct atapi_result *result;
};

/* Fails the command. */
void atapi_check(struct atapi_request *request, enum atapi_sense key, uint16_t code);
/* Ends it with the first `size` bytes of the data, at most `allocation` of them. */
void atapi_answer(struct atapi_request *request, uint32_t size, uint32_t allocation);

/* atapi_disc.c */
void atapi_read_toc(struct atapi_request *request);
void atapi_read_disc_information(struct atapi_request *request);
void atapi_read_track_information(struct atapi_request *request);
void atapi_read_dvd_structure(struct atapi_request *request);
void atapi_get_configuration(struct atapi_request *request);
void atapi_get_event_status(struct atapi_request *request);
void atapi_mechanism_status(struct atapi_request *request);
void atapi_mode_sense_6(struct atapi_request *request);
void atapi_mode_sense_10(struct atapi_request *request);

/* Numbers in packets and answers are big endian. */
static inline uint16_t atapi_get16(const uint8_t *data)
{
    return (uint16_t)(data[0] << 8 | data[1]);
}

static inline uint32_t atapi_get32(const uint8_t *data)
{
    return (uint32_t)atapi_get16(data) << 16 | atapi_get16(data + 2);
}

static inline void atapi_set16(uint8_t *data, uint32_t value)
{
    data[0] = (uint8_t)(value >> 8);
    data[1] = (uint8_t)value;
}

static inline void atapi_set32(uint8_t *data, uint32_t value)
{
    atapi_set16(data, value >> 16);
    atapi_set16(data + 2, value);
}

#endif
