/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI tables, byte by byte. Offsets and lengths are those of ACPI 6.3 chapter 5. */
#include "vmm/boot/acpi.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "vmm/boot/acpi_internal.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

#define FACS_SIZE       64
#define FADT_REVISION   5
#define TABLE_ALIGNMENT 16

#define FADT_FLAG_WBINVD       (1u << 0)
#define FADT_FLAG_PROC_C1      (1u << 2)
#define FADT_FLAG_SLEEP_BUTTON (1u << 5) /* none in the fixed registers */
#define FADT_FLAG_FIX_RTC      (1u << 6) /* no wake status in the fixed registers */
#define FADT_FLAG_TIMER_32     (1u << 8)
#define FADT_FLAG_RESET        (1u << 10)
#define FADT_BOOT_LEGACY       0x1
#define FADT_BOOT_NO_VGA       0x4
#define RESET_VALUE            0x06
#define CMOS_CENTURY           0x32
#define SPACE_IO               1

static int append(struct buffer *out, uint64_t value, unsigned bytes)
{
    uint8_t data[8];
    acpi_set(data, value, bytes);
    return buffer_append(out, data, bytes);
}

void acpi_header_set(uint8_t *table, const char *signature, unsigned revision)
{
    memcpy(table, signature, 4);
    table[8] = (uint8_t)revision;
    memcpy(table + 10, "DROVER", 6);
    memcpy(table + 16, "DROVERVM", 8);
    acpi_set(table + 24, 1, 4);
    memcpy(table + 28, "DRVR", 4);
    acpi_set(table + 32, 1, 4);
}

uint8_t acpi_checksum(const uint8_t *data, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + data[i]);
    }
    return (uint8_t)-sum;
}

void acpi_table_seal(uint8_t *table, size_t size)
{
    acpi_set(table + 4, size, 4);
    table[9] = 0;
    table[9] = acpi_checksum(table, size);
}

static void generic_address_set(uint8_t *at, unsigned bits, unsigned access,
                                uint64_t port)
{
    at[0] = SPACE_IO;
    at[1] = (uint8_t)bits;
    at[2] = 0;
    at[3] = (uint8_t)access; /* 1 byte, 2 word, 3 dword */
    acpi_set(at + 4, port, 8);
}

static int fadt_make(struct buffer *out, uint64_t facs, uint64_t dsdt)
{
    uint8_t table[ACPI_FADT_SIZE] = {0};
    acpi_header_set(table, "FACP", FADT_REVISION);
    acpi_set(table + 36, facs, 4);
    acpi_set(table + 40, dsdt, 4);
    acpi_set(table + 46, LAYOUT_IRQ_SCI, 2);
    /* SMI_CMD stays 0: ACPI is always on. */
    acpi_set(table + 56, LAYOUT_PORT_ACPI_EVENT, 4);
    acpi_set(table + 64, LAYOUT_PORT_ACPI_CTRL, 4);
    acpi_set(table + 76, LAYOUT_PORT_PM_TIMER, 4);
    table[88] = 4; /* lengths of these blocks */
    table[89] = 2;
    table[91] = 4;
    acpi_set(table + 96, 0xfff, 2); /* C2 and C3: not there */
    acpi_set(table + 98, 0xfff, 2);
    table[108] = CMOS_CENTURY;
    acpi_set(table + 109, FADT_BOOT_LEGACY | FADT_BOOT_NO_VGA, 2);
    acpi_set(table + 112,
        FADT_FLAG_WBINVD | FADT_FLAG_PROC_C1 | FADT_FLAG_SLEEP_BUTTON |
            FADT_FLAG_FIX_RTC | FADT_FLAG_TIMER_32 | FADT_FLAG_RESET,
        4);
    generic_address_set(table + 116, 8, 1, LAYOUT_PORT_RESET);
    table[128] = RESET_VALUE;
    acpi_set(table + 132, facs, 8);
    acpi_set(table + 140, dsdt, 8);
    generic_address_set(table + 148, 32, 2, LAYOUT_PORT_ACPI_EVENT);
    generic_address_set(table + 172, 16, 2, LAYOUT_PORT_ACPI_CTRL);
    generic_address_set(table + 208, 32, 3, LAYOUT_PORT_PM_TIMER);
    acpi_table_seal(table, sizeof(table));
    return buffer_append(out, table, sizeof(table));
}

static int facs_make(struct buffer *out)
{
    uint8_t table[FACS_SIZE] = {0};
    memcpy(table, "FACS", 4);
    acpi_set(table + 4, FACS_SIZE, 4);
    table[32] = 2; /* version */
    return buffer_append(out, table, sizeof(table));
}

/* An interrupt of the ISA bus that comes in elsewhere, or otherwise, than it would. */
static int madt_override(struct buffer *out, unsigned irq, unsigned pin, unsigned flags)
{
    uint8_t entry[10] = {2, sizeof(entry), 0, (uint8_t)irq};
    acpi_set(entry + 4, pin, 4);
    acpi_set(entry + 8, flags, 2);
    return buffer_append(out, entry, sizeof(entry));
}

static int madt_make(struct buffer *out, unsigned cpu_count)
{
    uint8_t header[ACPI_HEADER_SIZE + 8] = {0};
    size_t start = out->size;
    acpi_header_set(header, "APIC", 4);
    acpi_set(header + 36, LAYOUT_LAPIC, 4);
    acpi_set(header + 40, 1, 4); /* a pair of 8259s is there too */
    int result = buffer_append(out, header, sizeof(header));
    for (unsigned i = 0; result == 0 && i < cpu_count; i++) {
        uint8_t entry[8] = {0, sizeof(entry), (uint8_t)i, (uint8_t)i, 1};
        result = buffer_append(out, entry, sizeof(entry));
    }
    uint8_t ioapic[12] = {1, sizeof(ioapic)};
    acpi_set(ioapic + 4, LAYOUT_IOAPIC, 4);
    result = result < 0 ? result : buffer_append(out, ioapic, sizeof(ioapic));
    /* The timer is on pin 2; the SCI is level-triggered, active high. */
    result = result < 0 ? result : madt_override(out, 0, 2, 0);
    result =
        result < 0 ? result : madt_override(out, LAYOUT_IRQ_SCI, LAYOUT_IRQ_SCI, 0xd);
    uint8_t nmi[6] = {4, sizeof(nmi), 0xff, 0, 0, 1}; /* of all processors: LINT1 */
    result = result < 0 ? result : buffer_append(out, nmi, sizeof(nmi));
    if (result == 0) {
        acpi_table_seal(out->data + start, out->size - start);
    }
    return result;
}

static int mcfg_make(struct buffer *out, uint64_t ecam)
{
    uint8_t table[ACPI_HEADER_SIZE + 8 + 16] = {0};
    acpi_header_set(table, "MCFG", 1);
    acpi_set(table + 44, ecam, 8); /* segment 0, bus 0 to 0 */
    acpi_table_seal(table, sizeof(table));
    return buffer_append(out, table, sizeof(table));
}

static int pad(struct buffer *out)
{
    static const uint8_t zeros[TABLE_ALIGNMENT];
    size_t missing = (TABLE_ALIGNMENT - out->size % TABLE_ALIGNMENT) % TABLE_ALIGNMENT;
    return buffer_append(out, zeros, missing);
}

/* RSDT or XSDT: addresses of 4 or 8 bytes. */
static int root_make(struct buffer *out, const char *signature, unsigned bytes,
                     const uint64_t listed[ACPI_LISTED])
{
    size_t start = out->size;
    uint8_t header[ACPI_HEADER_SIZE] = {0};
    acpi_header_set(header, signature, 1);
    int result = buffer_append(out, header, sizeof(header));
    for (unsigned i = 0; result == 0 && i < ACPI_LISTED; i++) {
        result = append(out, listed[i], bytes);
    }
    if (result == 0) {
        acpi_table_seal(out->data + start, out->size - start);
    }
    return result < 0 ? result : pad(out);
}

/* All lie in one buffer that will stand at `base`; each begins where it may. */
int acpi_tables_make(const struct acpi_machine *machine, uint64_t base,
                     struct buffer *out, struct acpi_places *ret_places)
{
    CHECK(out->size == 0);
    struct acpi_places places = {.facs = base};
    int result = facs_make(out);
    result = result < 0 ? result : pad(out);
    places.dsdt = base + out->size;
    result = result < 0 ? result : acpi_dsdt_make(machine, out);
    result = result < 0 ? result : pad(out);
    places.listed[0] = places.fadt = base + out->size;
    result = result < 0 ? result : fadt_make(out, places.facs, places.dsdt);
    result = result < 0 ? result : pad(out);
    places.listed[1] = base + out->size;
    result = result < 0 ? result : madt_make(out, machine->cpu_count);
    result = result < 0 ? result : pad(out);
    places.listed[2] = base + out->size;
    result = result < 0 ? result : mcfg_make(out, machine->ecam);
    result = result < 0 ? result : pad(out);
    places.rsdt = base + out->size;
    result = result < 0 ? result : root_make(out, "RSDT", 4, places.listed);
    places.xsdt = base + out->size;
    result = result < 0 ? result : root_make(out, "XSDT", 8, places.listed);
    if (result == 0) {
        *ret_places = places;
    }
    return result;
}

void acpi_rsdp_make(const struct acpi_places *places, uint8_t ret_rsdp[ACPI_RSDP_SIZE])
{
    memset(ret_rsdp, 0, ACPI_RSDP_SIZE);
    memcpy(ret_rsdp, "RSD PTR ", 8);
    memcpy(ret_rsdp + 9, "DROVER", 6);
    ret_rsdp[15] = 2;
    acpi_set(ret_rsdp + 16, places->rsdt, 4);
    acpi_set(ret_rsdp + 20, ACPI_RSDP_SIZE, 4);
    acpi_set(ret_rsdp + 24, places->xsdt, 8);
    ret_rsdp[8] = acpi_checksum(ret_rsdp, 20);
    ret_rsdp[32] = acpi_checksum(ret_rsdp, ACPI_RSDP_SIZE);
}

int acpi_tables_write(const struct acpi_machine *machine, struct guest_ram *ram)
{
    CLEANUP(buffer_done) struct buffer out = {0};
    struct acpi_places places;
    int result = acpi_tables_make(machine, LAYOUT_ACPI_TABLES, &out, &places);
    if (result < 0) {
        return result;
    }
    if (LAYOUT_ACPI_TABLES + out.size > LAYOUT_ACPI_END) {
        return -ENOSPC;
    }
    uint8_t rsdp[ACPI_RSDP_SIZE];
    acpi_rsdp_make(&places, rsdp);
    result = guest_ram_write(ram, LAYOUT_ACPI_TABLES, out.data, out.size);
    return result < 0 ? result
                      : guest_ram_write(ram, LAYOUT_ACPI_RSDP, rsdp, sizeof(rsdp));
}

#define GIB (UINT64_C(1) << 30)

void acpi_machine_describe(struct guest_ram *ram, unsigned cpu_count, unsigned machine,
                           uint64_t ecam, struct acpi_machine *ret_machine)
{
    uint64_t end = LAYOUT_HIGH_RAM_START;
    if (guest_ram_region_count(ram) > 1) {
        end += guest_ram_region(ram, 1)->size_bytes;
    }
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    unsigned bits = 36; /* what each 64-bit processor has */
    if (__get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx) != 0 && (eax & 0xff) > bits) {
        bits = eax & 0xff;
    }
    *ret_machine = (struct acpi_machine){
        .cpu_count = cpu_count,
        .machine = machine,
        .ecam = ecam != 0 ? ecam : LAYOUT_ECAM_START,
        .window64_start = (end + GIB - 1) & ~(GIB - 1),
        .window64_end = UINT64_C(1) << bits,
    };
}
