/* SPDX-License-Identifier: Apache-2.0 */
/* What the disc is like and what the drive can do with it (MMC-6): tables of contents,
 * features, mode pages. There is one disc: one session, one data track. */
#include "vmm/devices/atapi_internal.h"

#define LEADOUT         0xaa
#define TRACK_DATA      0x14 /* ADR 1, control 4: a data track */
#define MSF_OFFSET      150  /* block 0 is at 00:02:00 */
#define CD_BLOCKS_MAX   (80u * 60 * 75)
#define PROFILE_CD      0x0008
#define PROFILE_DVD     0x0010
#define EVENT_MEDIA     4
#define MODE_PAGE_ALL   0x3f
#define MODE_CHANGEABLE 1
#define MODE_SAVED      3

/* ---- tables of contents --------------------------------------------------- */

/* An address as a block number, or as minute, second, frame. */
static void address_set(uint8_t *data, uint32_t block, bool msf)
{
    if (!msf) {
        atapi_set32(data, block);
        return;
    }
    uint32_t frames = block + MSF_OFFSET;
    uint32_t minute = frames / 75 / 60;
    data[0] = 0;
    data[1] = (uint8_t)(minute > 255 ? 255 : minute); /* a DVD has more than fit */
    data[2] = (uint8_t)(frames / 75 % 60);
    data[3] = (uint8_t)(frames % 75);
}

static void track_put(uint8_t *data, uint8_t track, uint32_t block, bool msf)
{
    data[1] = TRACK_DATA;
    data[2] = track;
    address_set(data + 4, block, msf);
}

static void toc_tracks(struct atapi_request *request, bool msf, uint32_t allocation)
{
    uint8_t *data = request->data;
    uint8_t first = request->packet[6];
    if (first > 1 && first != LEADOUT) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    uint32_t size = 4;
    if (first <= 1) {
        track_put(data + size, 1, 0, msf);
        size += 8;
    }
    track_put(data + size, LEADOUT, request->drive->block_count, msf);
    size += 8;
    atapi_set16(data, size - 2);
    data[2] = data[3] = 1; /* first and last track */
    atapi_answer(request, size, allocation);
}

static void toc_sessions(struct atapi_request *request, bool msf, uint32_t allocation)
{
    uint8_t *data = request->data;
    atapi_set16(data, 10);
    data[2] = data[3] = 1; /* first and last session */
    track_put(data + 4, 1, 0, msf);
    atapi_answer(request, 12, allocation);
}

/* One entry of the full table: 11 bytes, with POINT in byte 3 and PMIN, PSEC, PFRAME. */
static void toc_point(uint8_t *data, uint8_t point, uint32_t block, bool is_track)
{
    uint8_t msf[4] = {0, 1, 0, 0};
    if (is_track || point == 0xa2) {
        address_set(msf, block, true);
    }
    data[0] = 1; /* session */
    data[1] = TRACK_DATA;
    data[3] = point;
    data[8] = msf[1];
    data[9] = msf[2];
    data[10] = msf[3];
}

static void toc_full(struct atapi_request *request, uint32_t allocation)
{
    uint8_t *data = request->data;
    atapi_set16(data, 2 + 4 * 11);
    data[2] = data[3] = 1;                /* first and last session */
    toc_point(data + 4, 0xa0, 0, false);  /* first track: 1 */
    toc_point(data + 15, 0xa1, 0, false); /* last track: 1 */
    toc_point(data + 26, 0xa2, request->drive->block_count, false); /* lead-out */
    toc_point(data + 37, 1, 0, true);
    atapi_answer(request, 48, allocation);
}

void atapi_read_toc(struct atapi_request *request)
{
    const uint8_t *packet = request->packet;
    bool msf = (packet[1] & 2) != 0;
    uint32_t allocation = atapi_get16(packet + 7);
    unsigned format = packet[2] & 0xf;
    format = format == 0 ? packet[9] >> 6 : format; /* where older drivers have it */
    switch (format) {
    case 0:
        toc_tracks(request, msf, allocation);
        return;
    case 1:
        toc_sessions(request, msf, allocation);
        return;
    case 2:
        toc_full(request, allocation);
        return;
    default:
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
    }
}

void atapi_read_disc_information(struct atapi_request *request)
{
    uint8_t *data = request->data;
    if ((request->packet[1] & 7) != 0) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    atapi_set16(data, 32);
    data[2] = 0x0e;                            /* last session and disc complete */
    data[3] = data[4] = data[5] = data[6] = 1; /* first track, sessions, tracks */
    data[7] = 0x20;                            /* no bar code, unrestricted use */
    atapi_set32(data + 16, 0xffffffff); /* no further lead-in, no further lead-out */
    atapi_set32(data + 20, 0xffffffff);
    atapi_answer(request, 34, atapi_get16(request->packet + 7));
}

void atapi_read_track_information(struct atapi_request *request)
{
    uint8_t *data = request->data;
    uint32_t address = atapi_get32(request->packet + 2);
    unsigned kind = request->packet[1] & 3;
    bool is_there = kind == 0 ? address < request->drive->block_count : address == 1;
    if (kind == 3 || !is_there) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    atapi_set16(data, 34);
    data[2] = data[3] = 1; /* track, session */
    data[5] = 0x04;        /* a data track */
    data[6] = 0x01;        /* mode 1 */
    atapi_set32(data + 24, request->drive->block_count);
    atapi_answer(request, 36, atapi_get16(request->packet + 7));
}

/* ---- kind of disc --------------------------------------------------------- */

static bool is_dvd(const struct atapi_drive *drive)
{
    return drive->block_count > CD_BLOCKS_MAX;
}

void atapi_read_dvd_structure(struct atapi_request *request)
{
    uint8_t *data = request->data;
    uint32_t allocation = atapi_get16(request->packet + 8);
    if (!is_dvd(request->drive)) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_INCOMPATIBLE);
        return;
    }
    if (request->packet[1] != 0 || request->packet[6] != 0) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    switch (request->packet[7]) {
    case 0x00: /* physical format: DVD-ROM, one layer that begins at block 0x30000 */
        atapi_set16(data, 2050);
        data[4] = 0x01;
        data[5] = 0x0f;
        data[6] = 0x01;
        atapi_set32(data + 8, 0x30000);
        atapi_set32(data + 12, 0x30000 + request->drive->block_count - 1);
        atapi_answer(request, 2052, allocation);
        return;
    case 0x01: /* not protected */
        atapi_set16(data, 6);
        atapi_answer(request, 8, allocation);
        return;
    case 0x04: /* the maker's own words: none */
        atapi_set16(data, 2050);
        atapi_answer(request, 2052, allocation);
        return;
    default:
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
    }
}

/*
 * A feature (MMC-6 5.2): code u16, version and whether it is current, size of what
 * follows, then that.
 */
static const struct feature {
    uint16_t code;
    uint8_t version;
    uint8_t size;
    bool of_cd, of_dvd; /* current with this kind of disc */
    uint8_t data[8];
} features[] = {
    {0x0000, 0, 8, true, true, {0}}, /* profiles: filled in below */
    {0x0001, 2, 8, true, true, {0, 0, 0, 7 /* serial ATA */, 1}}, /* core */
    {0x0002, 1, 4, true, true, {2}},                              /* events are polled */
    {0x0003, 0, 4, true, true, {0x29}},              /* tray, ejects, can be locked */
    {0x0010, 0, 8, true, true, {0, 0, 8, 0, 0, 16}}, /* blocks of 2048 bytes */
    {0x001d, 0, 0, true, true, {0}},                 /* reads all kinds of disc */
    {0x001e, 2, 4, true, false, {0}},                /* CD read */
    {0x001f, 1, 4, false, true, {0}},                /* DVD read */
    {0x0100, 0, 0, true, true, {0}},                 /* power management */
    {0x0105, 1, 4, true, true, {0}},                 /* time-outs */
};

static uint32_t feature_put(const struct feature *feature, bool dvd, bool present,
                            uint8_t *data)
{
    bool current = present && (dvd ? feature->of_dvd : feature->of_cd);
    atapi_set16(data, feature->code);
    data[2] = (uint8_t)(feature->version << 2 | (feature->code <= 3 ? 2 : 0) |
                        (current ? 1 : 0));
    data[3] = feature->size;
    memcpy(data + 4, feature->data, feature->size);
    if (feature->code == 0) {
        atapi_set16(data + 4, PROFILE_DVD);
        data[6] = present && dvd;
        atapi_set16(data + 8, PROFILE_CD);
        data[10] = present && !dvd;
    }
    return 4u + feature->size;
}

void atapi_get_configuration(struct atapi_request *request)
{
    const uint8_t *packet = request->packet;
    uint8_t *data = request->data;
    bool dvd = is_dvd(request->drive);
    bool present = !request->drive->tray_open;
    unsigned kind = packet[1] & 3;
    uint16_t first = atapi_get16(packet + 2);
    uint32_t size = 8;
    if (kind == 3) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    for (unsigned i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        const struct feature *feature = &features[i];
        bool current =
            feature->code <= 3 || (present && (dvd ? feature->of_dvd : feature->of_cd));
        if (kind == 2 ? feature->code == first
                      : feature->code >= first && (kind == 0 || current)) {
            size += feature_put(feature, dvd, present, data + size);
        }
    }
    atapi_set32(data, size - 4);
    atapi_set16(data + 6, !present ? 0 : dvd ? PROFILE_DVD : PROFILE_CD);
    atapi_answer(request, size, atapi_get16(packet + 7));
}

void atapi_get_event_status(struct atapi_request *request)
{
    const uint8_t *packet = request->packet;
    uint8_t *data = request->data;
    uint32_t size = 4;
    if ((packet[1] & 1) == 0) { /* only polled */
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    data[3] = 1 << EVENT_MEDIA;
    if ((packet[4] & 1 << EVENT_MEDIA) != 0) {
        data[2] = EVENT_MEDIA;
        data[4] = request->drive->attention ? 2 : 0; /* a new medium, or nothing new */
        data[5] = request->drive->tray_open ? 1 : 2; /* tray open; medium present */
        size = 8;
    } else {
        data[2] = 0x80; /* none of the classes asked for */
    }
    atapi_set16(data, size - 2);
    atapi_answer(request, size, atapi_get16(packet + 7));
}

void atapi_mechanism_status(struct atapi_request *request)
{
    request->data[1] = request->drive->tray_open ? 0x10 : 0;
    request->data[5] = 1; /* one slot, not a changer */
    atapi_answer(request, 8, atapi_get16(request->packet + 8));
}

/* ---- mode pages ----------------------------------------------------------- */

/* Each with its code and the size of what follows as first bytes. None can be changed. */
static const uint8_t page_errors[] = {0x01, 10, 0, 5};
static const uint8_t page_power[] = {0x1a, 10};
static const uint8_t page_timeout[] = {0x1d, 10};
static const uint8_t page_capabilities[] = {
    0x2a, 18,   0x3b, 0x00, /* reads CD-R, CD-RW, DVD-ROM and DVD-R */
    0x70,                   /* both kinds of sectors, several sessions */
    0x00, 0x29, 0x00,       /* tray, can be locked and ejected */
    0x02, 0xc2, 0x00, 0x02, 0x00, 0x00, 0x02, 0xc2, /* 706 KiB/s, 256 levels */
};

static const struct mode_page {
    const uint8_t *bytes;
    unsigned given; /* bytes above; the rest are zero */
} mode_pages[] = {
    {page_errors, sizeof(page_errors)},
    {page_power, sizeof(page_power)},
    {page_timeout, sizeof(page_timeout)},
    {page_capabilities, sizeof(page_capabilities)},
};

/* Returns the pages' size; 0: no such page. */
static uint32_t mode_pages_put(const struct atapi_drive *drive, const uint8_t *packet,
                               uint8_t *data)
{
    uint32_t size = 0;
    uint8_t wanted = packet[2] & 0x3f;
    for (unsigned i = 0; i < sizeof(mode_pages) / sizeof(mode_pages[0]); i++) {
        const struct mode_page *page = &mode_pages[i];
        uint8_t code = page->bytes[0];
        if (wanted != MODE_PAGE_ALL && wanted != code) {
            continue;
        }
        bool bare = packet[2] >> 6 == MODE_CHANGEABLE; /* masks: nothing is */
        memcpy(data + size, page->bytes, bare ? 2 : page->given);
        if (code == page_capabilities[0] && !bare) {
            data[size + 6] |= drive->tray_locked ? 2 : 0;
        }
        size += 2u + page->bytes[1];
    }
    return size;
}

static void mode_sense(struct atapi_request *request, uint32_t header,
                       uint32_t allocation)
{
    uint8_t *data = request->data;
    if (request->packet[2] >> 6 == MODE_SAVED) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_SAVING);
        return;
    }
    uint32_t size = mode_pages_put(request->drive, request->packet, data + header);
    if (size == 0) {
        atapi_check(request, ATAPI_SENSE_ILLEGAL, ATAPI_CODE_FIELD);
        return;
    }
    size += header;
    uint8_t medium = request->drive->tray_open ? 0x71 : 0x01; /* door open; 120 mm disc */
    if (header == 4) {
        data[0] = (uint8_t)(size - 1);
        data[1] = medium;
    } else {
        atapi_set16(data, size - 2);
        data[2] = medium;
    }
    atapi_answer(request, size, allocation);
}

void atapi_mode_sense_6(struct atapi_request *request)
{
    mode_sense(request, 4, request->packet[4]);
}

void atapi_mode_sense_10(struct atapi_request *request)
{
    mode_sense(request, 8, atapi_get16(request->packet + 7));
}
