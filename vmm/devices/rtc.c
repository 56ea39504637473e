/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MC146818's time and CMOS memory. It shows the host's UTC plus what the guest has
 * set; alarms and periodic interrupts are not there (guests have better timers).
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/state.h"
#include "vmm/vm.h"

#define CMOS_SIZE   128
#define REG_SECOND  0x00
#define REG_MINUTE  0x02
#define REG_HOUR    0x04
#define REG_WEEKDAY 0x06
#define REG_DAY     0x07
#define REG_MONTH   0x08
#define REG_YEAR    0x09
#define REG_A       0x0a
#define REG_B       0x0b
#define REG_C       0x0c
#define REG_D       0x0d
#define REG_CENTURY 0x32
#define A_DEFAULT   0x26 /* 32768 Hz, and 1024 Hz for the interrupt that never comes */
#define B_SET       0x80 /* stands still while the guest sets it */
#define B_BINARY    0x04
#define B_24_HOURS  0x02
#define HOUR_PM     0x80
/* Where firmware has looked for the machine's size since the AT. */
#define REG_EQUIPMENT    0x14
#define REG_BASE_KIB     0x15 /* 2 bytes; below 640 KiB */
#define REG_EXTENDED_KIB 0x17 /* 2 bytes, again at 0x30; above 1 MiB */
#define REG_EXTENDED_ALT 0x30
#define REG_ABOVE_16MIB  0x34 /* 2 bytes; units of 64 KiB */
#define REG_BOOT_FLAGS_1 0x38
#define REG_BOOT_FLAGS_2 0x3d
#define REG_ABOVE_4GIB   0x5b /* 3 bytes; units of 64 KiB */
#define REG_MORE_CPUS    0x5f
#define EQUIPMENT_FPU    0x02
/* For want of a boot order of its own, a BIOS tries disks, CD-ROMs, networks. */
#define BOOT_DISK_CDROM 0x32
#define BOOT_NETWORK    0x40
#define D_VALID     0x80
/* Years 0 to 9999, what two digits and a century can say. */
#define SECONDS_MIN INT64_C(-62167219200)
#define SECONDS_MAX INT64_C(253402300799)

struct rtc {
    struct device device;
    struct vm *vm;
    pthread_mutex_t lock; /* of all below */
    uint8_t index;
    uint8_t memory[CMOS_SIZE];
    int64_t offset_s; /* guest's time minus the host's */
};

static void lock(struct rtc *rtc)
{
    CHECK(pthread_mutex_lock(&rtc->lock) == 0);
}

static void unlock(struct rtc *rtc)
{
    CHECK(pthread_mutex_unlock(&rtc->lock) == 0);
}

static uint8_t encode(const struct rtc *rtc, int value)
{
    bool binary = (rtc->memory[REG_B] & B_BINARY) != 0;
    return (uint8_t)(binary ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct rtc *rtc, uint8_t value)
{
    bool binary = (rtc->memory[REG_B] & B_BINARY) != 0;
    return binary ? value : (value >> 4) * 10 + (value & 15);
}

/* Puts the time into the memory, unless the guest is setting it. */
static void time_show(struct rtc *rtc)
{
    if ((rtc->memory[REG_B] & B_SET) != 0) {
        return;
    }
    time_t seconds = 0;
    struct tm now = {0};
    if (__builtin_add_overflow((time_t)(clock_wall_ms() / MS_PER_S), rtc->offset_s,
                               &seconds) ||
        seconds < SECONDS_MIN || seconds > SECONDS_MAX ||
        gmtime_r(&seconds, &now) == NULL) {
        return; /* a year that its registers can't show: what stands there stays */
    }
    bool is_24 = (rtc->memory[REG_B] & B_24_HOURS) != 0;
    int hour = is_24 ? now.tm_hour : (now.tm_hour + 11) % 12 + 1;
    rtc->memory[REG_SECOND] = encode(rtc, now.tm_sec);
    rtc->memory[REG_MINUTE] = encode(rtc, now.tm_min);
    rtc->memory[REG_HOUR] = encode(rtc, hour);
    if (!is_24 && now.tm_hour >= 12) {
        rtc->memory[REG_HOUR] |= HOUR_PM;
    }
    rtc->memory[REG_WEEKDAY] = encode(rtc, now.tm_wday + 1);
    rtc->memory[REG_DAY] = encode(rtc, now.tm_mday);
    rtc->memory[REG_MONTH] = encode(rtc, now.tm_mon + 1);
    rtc->memory[REG_YEAR] = encode(rtc, (now.tm_year + 1900) % 100);
    rtc->memory[REG_CENTURY] = encode(rtc, (now.tm_year + 1900) / 100);
}

/* Takes the time that the guest wrote. */
static void time_set(struct rtc *rtc)
{
    uint8_t raw_hour = rtc->memory[REG_HOUR];
    bool is_24 = (rtc->memory[REG_B] & B_24_HOURS) != 0;
    int hour = decode(rtc, is_24 ? raw_hour : raw_hour & (uint8_t)~HOUR_PM);
    if (!is_24) {
        hour = hour % 12 + ((raw_hour & HOUR_PM) != 0 ? 12 : 0);
    }
    int year =
        decode(rtc, rtc->memory[REG_CENTURY]) * 100 + decode(rtc, rtc->memory[REG_YEAR]);
    struct tm guest = {
        .tm_sec = decode(rtc, rtc->memory[REG_SECOND]),
        .tm_min = decode(rtc, rtc->memory[REG_MINUTE]),
        .tm_hour = hour,
        .tm_mday = decode(rtc, rtc->memory[REG_DAY]),
        .tm_mon = decode(rtc, rtc->memory[REG_MONTH]) - 1,
        .tm_year = year - 1900,
    };
    rtc->offset_s = (int64_t)timegm(&guest) - (int64_t)(clock_wall_ms() / MS_PER_S);
}

static bool is_time(uint8_t reg)
{
    return reg == REG_SECOND || reg == REG_MINUTE || reg == REG_HOUR ||
           (reg >= REG_WEEKDAY && reg <= REG_YEAR) || reg == REG_CENTURY;
}

static void rtc_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct rtc *rtc = owner;
    memset(data, 0xff, size);
    if (offset == 0) {
        return; /* the index is write only */
    }
    lock(rtc);
    if (is_time(rtc->index)) {
        time_show(rtc);
    }
    data[0] = rtc->memory[rtc->index];
    unlock(rtc);
}

static void data_write(struct rtc *rtc, uint8_t value)
{
    if (rtc->index == REG_C || rtc->index == REG_D) {
        return;
    }
    if (rtc->index == REG_B) {
        bool was_setting = (rtc->memory[REG_B] & B_SET) != 0;
        if (!was_setting) {
            time_show(rtc); /* what it does not set stays as it is now */
        }
        rtc->memory[REG_B] = value;
        if (was_setting && (value & B_SET) == 0) {
            time_set(rtc);
        }
        return;
    }
    bool sets_at_once = is_time(rtc->index) && (rtc->memory[REG_B] & B_SET) == 0;
    if (sets_at_once) {
        time_show(rtc);
    }
    rtc->memory[rtc->index] = value;
    if (sets_at_once) {
        time_set(rtc);
    }
}

static void rtc_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct rtc *rtc = owner;
    lock(rtc);
    if (offset == 0) {
        rtc->index = data[0] % CMOS_SIZE; /* bit 7 masks NMIs, which nobody sends */
        if (size > 1) {
            data_write(rtc, data[1]);
        }
    } else {
        data_write(rtc, data[0]);
    }
    unlock(rtc);
}

static int rtc_save(struct device *device, struct buffer *out)
{
    struct rtc *rtc = (struct rtc *)device;
    Drover__RtcState state = DROVER__RTC_STATE__INIT;
    lock(rtc);
    uint8_t memory[CMOS_SIZE];
    memcpy(memory, rtc->memory, sizeof(memory));
    state.index = rtc->index;
    state.offset_s = rtc->offset_s;
    unlock(rtc);
    state.memory = (ProtobufCBinaryData){.len = CMOS_SIZE, .data = memory};
    return state_pack(&state.base, out);
}

static int rtc_load(struct device *device, uint32_t version, const uint8_t *payload,
                    size_t size, struct error *err)
{
    struct rtc *rtc = (struct rtc *)device;
    (void)version; /* 1 is the first */
    Drover__RtcState *state = drover__rtc_state__unpack(NULL, size, payload);
    if (state == NULL || state->memory.len != CMOS_SIZE) {
        drover__rtc_state__free_unpacked(state, NULL);
        return error_set(err, DROVER_EMALFORMED, "the saved clock chip is malformed");
    }
    lock(rtc);
    memcpy(rtc->memory, state->memory.data, CMOS_SIZE);
    rtc->index = state->index % CMOS_SIZE;
    rtc->offset_s = state->offset_s;
    unlock(rtc);
    drover__rtc_state__free_unpacked(state, NULL);
    return 0;
}

static void rtc_free(struct device *device)
{
    struct rtc *rtc = (struct rtc *)device;
    bus_remove(vm_port_bus(rtc->vm), LAYOUT_PORT_RTC);
    (void)pthread_mutex_destroy(&rtc->lock); /* nobody uses it any more */
    free(rtc);
}

static const struct bus_ops rtc_bus_ops = {.read = rtc_read, .write = rtc_write};

/* No reset: the battery keeps it. */
static const struct device_ops rtc_device_ops = {
    .name = "rtc",
    .version = 1,
    .save = rtc_save,
    .load = rtc_load,
    .free = rtc_free,
};

static void put(struct rtc *rtc, unsigned reg, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        rtc->memory[reg + i] = (uint8_t)(value >> (8 * i));
    }
}

static void machine_show(struct rtc *rtc)
{
    struct guest_ram *ram = vm_ram(rtc->vm);
    uint64_t low = guest_ram_region(ram, 0)->size_bytes;
    uint64_t extended_kib = (low - LAYOUT_HIGH_MEMORY) / 1024;
    uint64_t above_16mib = low > (16u << 20) ? (low - (16u << 20)) >> 16 : 0;
    extended_kib = extended_kib < 65535 ? extended_kib : 65535;
    put(rtc, REG_EQUIPMENT, EQUIPMENT_FPU, 1);
    put(rtc, REG_BASE_KIB, 640, 2);
    put(rtc, REG_EXTENDED_KIB, extended_kib, 2);
    put(rtc, REG_EXTENDED_ALT, extended_kib, 2);
    put(rtc, REG_ABOVE_16MIB, above_16mib < 65535 ? above_16mib : 65535, 2);
    if (guest_ram_region_count(ram) > 1) {
        put(rtc, REG_ABOVE_4GIB, guest_ram_region(ram, 1)->size_bytes >> 16, 3);
    }
    put(rtc, REG_MORE_CPUS, vm_config(rtc->vm)->cpus - 1, 1);
    put(rtc, REG_BOOT_FLAGS_1, BOOT_NETWORK, 1);
    put(rtc, REG_BOOT_FLAGS_2, BOOT_DISK_CDROM, 1);
}

int rtc_create(struct vm *vm, struct error *err)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));
    if (rtc == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    rtc->device.ops = &rtc_device_ops;
    rtc->vm = vm;
    rtc->memory[REG_A] = A_DEFAULT;
    rtc->memory[REG_B] = B_24_HOURS;
    rtc->memory[REG_D] = D_VALID;
    machine_show(rtc);
    int result = bus_add(vm_port_bus(vm), LAYOUT_PORT_RTC, 2, &rtc_bus_ops, rtc);
    if (result < 0) {
        free(rtc);
        return error_set(err, result, "cannot add the clock chip: %s", err_text(result));
    }
    CHECK(pthread_mutex_init(&rtc->lock, NULL) == 0);
    vm_device_add(vm, &rtc->device);
    return 0;
}
