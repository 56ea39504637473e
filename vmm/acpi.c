/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI tables, byte by byte. Offsets and lengths are those of ACPI 6.3 chapter 5. */
#include "vmm/acpi.h"

#include <errno.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "vmm/aml.h"
#include "vmm/guest_ram.h"
#include "vmm/layout.h"

#define HEADER_SIZE     36
#define RSDP_SIZE       36
#define FACS_SIZE       64
#define FADT_SIZE       268
#define FADT_REVISION   5
#define XSDT_TABLES     3
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

static void set(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static int append(struct buffer *out, uint64_t value, unsigned bytes)
{
    uint8_t data[8];
    set(data, value, bytes);
    return buffer_append(out, data, bytes);
}

static void header_set(uint8_t *table, const char *signature, unsigned revision)
{
    memcpy(table, signature, 4);
    table[8] = (uint8_t)revision;
    memcpy(table + 10, "DROVER", 6);
    memcpy(table + 16, "DROVERVM", 8);
    set(table + 24, 1, 4);
    memcpy(table + 28, "DRVR", 4);
    set(table + 32, 1, 4);
}

static uint8_t checksum(const uint8_t *data, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + data[i]);
    }
    return (uint8_t)-sum;
}

/* Fills in length and checksum. */
static void table_seal(uint8_t *table, size_t size)
{
    set(table + 4, size, 4);
    table[9] = 0;
    table[9] = checksum(table, size);
}

static void aml_host_bridge(struct aml *aml)
{
    aml_device_begin(aml, "PCI0");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0A08");
    aml_name(aml, "_CID");
    aml_eisa_id(aml, "PNP0A03");
    aml_name(aml, "_SEG");
    aml_integer(aml, 0);
    aml_name(aml, "_BBN");
    aml_integer(aml, 0);
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_resources_begin(aml);
    aml_resource_bus_window(aml, 0, 0);
    aml_resource_io(aml, LAYOUT_PORT_PCI, 8);
    aml_resource_io_window(aml, 0, LAYOUT_PORT_PCI - 1);
    aml_resource_io_window(aml, LAYOUT_PORT_PCI + 8, 0xffff);
    aml_resource_memory_window(aml, (uint32_t)LAYOUT_PCI_WINDOW_START,
                               (uint32_t)(LAYOUT_PCI_WINDOW_END - 1));
    aml_resources_end(aml);
    /* Functions have MSI-X only; the routing is there for systems that refuse a bridge
     * without one. */
    aml_name(aml, "_PRT");
    aml_package_begin(aml, 32);
    for (unsigned slot = 0; slot < 32; slot++) {
        aml_package_begin(aml, 4);
        aml_integer(aml, (uint64_t)slot << 16 | 0xffff);
        aml_integer(aml, 0);             /* INTA# */
        aml_integer(aml, 0);             /* by number */
        aml_integer(aml, 16 + slot % 8); /* of the I/O APIC's pin */
        aml_end(aml);
    }
    aml_end(aml);
    aml_end(aml);
}

static void aml_legacy_device(struct aml *aml, const char *name, const char *id,
                              uint16_t port, uint8_t size, unsigned irq)
{
    aml_device_begin(aml, name);
    aml_name(aml, "_HID");
    aml_eisa_id(aml, id);
    aml_name(aml, "_UID");
    aml_integer(aml, 1);
    aml_resources_begin(aml);
    aml_resource_io(aml, port, size);
    aml_resource_irq(aml, irq);
    aml_resources_end(aml);
    aml_end(aml);
}

int acpi_dsdt_make(struct buffer *out)
{
    uint8_t header[HEADER_SIZE] = {0};
    header_set(header, "DSDT", 2);
    size_t start = out->size;
    int result = buffer_append(out, header, sizeof(header));
    if (result < 0) {
        return result;
    }
    struct aml aml;
    aml_init(&aml, out);
    aml_scope_begin(&aml, "\\_SB_");
    aml_host_bridge(&aml);
    aml_legacy_device(&aml, "COM1", "PNP0501", LAYOUT_PORT_COM1, 8, LAYOUT_IRQ_COM1);
    aml_legacy_device(&aml, "RTC_", "PNP0B00", LAYOUT_PORT_RTC, 2, LAYOUT_IRQ_RTC);
    /* The motherboard's own: keeps the ECAM range from being given to others. */
    aml_device_begin(&aml, "MRES");
    aml_name(&aml, "_HID");
    aml_eisa_id(&aml, "PNP0C02");
    aml_resources_begin(&aml);
    aml_resource_memory(&aml, (uint32_t)LAYOUT_ECAM_START, (uint32_t)LAYOUT_ECAM_SIZE);
    aml_resource_io(&aml, LAYOUT_PORT_ACPI_EVENT, 12);
    aml_resources_end(&aml);
    aml_end(&aml);
    aml_end(&aml);
    aml_name(&aml, "_S5_");
    aml_package_begin(&aml, 4);
    aml_integer(&aml, ACPI_SLEEP_TYPE_S5);
    aml_integer(&aml, ACPI_SLEEP_TYPE_S5);
    aml_integer(&aml, 0);
    aml_integer(&aml, 0);
    aml_end(&aml);
    if (aml.error == 0) {
        table_seal(out->data + start, out->size - start);
    }
    return aml.error;
}

static void generic_address_set(uint8_t *at, unsigned bits, unsigned access,
                                uint64_t port)
{
    at[0] = SPACE_IO;
    at[1] = (uint8_t)bits;
    at[2] = 0;
    at[3] = (uint8_t)access; /* 1 byte, 2 word, 3 dword */
    set(at + 4, port, 8);
}

static int fadt_make(struct buffer *out, uint64_t facs, uint64_t dsdt)
{
    uint8_t table[FADT_SIZE] = {0};
    header_set(table, "FACP", FADT_REVISION);
    set(table + 36, facs, 4);
    set(table + 40, dsdt, 4);
    set(table + 46, LAYOUT_IRQ_SCI, 2);
    /* SMI_CMD stays 0: ACPI is always on. */
    set(table + 56, LAYOUT_PORT_ACPI_EVENT, 4);
    set(table + 64, LAYOUT_PORT_ACPI_CTRL, 4);
    set(table + 76, LAYOUT_PORT_PM_TIMER, 4);
    table[88] = 4; /* lengths of these blocks */
    table[89] = 2;
    table[91] = 4;
    set(table + 96, 0xfff, 2); /* C2 and C3: not there */
    set(table + 98, 0xfff, 2);
    table[108] = CMOS_CENTURY;
    set(table + 109, FADT_BOOT_LEGACY | FADT_BOOT_NO_VGA, 2);
    set(table + 112,
        FADT_FLAG_WBINVD | FADT_FLAG_PROC_C1 | FADT_FLAG_SLEEP_BUTTON |
            FADT_FLAG_FIX_RTC | FADT_FLAG_TIMER_32 | FADT_FLAG_RESET,
        4);
    generic_address_set(table + 116, 8, 1, LAYOUT_PORT_RESET);
    table[128] = RESET_VALUE;
    set(table + 132, facs, 8);
    set(table + 140, dsdt, 8);
    generic_address_set(table + 148, 32, 2, LAYOUT_PORT_ACPI_EVENT);
    generic_address_set(table + 172, 16, 2, LAYOUT_PORT_ACPI_CTRL);
    generic_address_set(table + 208, 32, 3, LAYOUT_PORT_PM_TIMER);
    table_seal(table, sizeof(table));
    return buffer_append(out, table, sizeof(table));
}

static int facs_make(struct buffer *out)
{
    uint8_t table[FACS_SIZE] = {0};
    memcpy(table, "FACS", 4);
    set(table + 4, FACS_SIZE, 4);
    table[32] = 2; /* version */
    return buffer_append(out, table, sizeof(table));
}

/* An interrupt of the ISA bus that comes in elsewhere, or otherwise, than it would. */
static int madt_override(struct buffer *out, unsigned irq, unsigned pin, unsigned flags)
{
    uint8_t entry[10] = {2, sizeof(entry), 0, (uint8_t)irq};
    set(entry + 4, pin, 4);
    set(entry + 8, flags, 2);
    return buffer_append(out, entry, sizeof(entry));
}

static int madt_make(struct buffer *out, unsigned cpu_count)
{
    uint8_t header[HEADER_SIZE + 8] = {0};
    size_t start = out->size;
    header_set(header, "APIC", 4);
    set(header + 36, LAYOUT_LAPIC, 4);
    set(header + 40, 1, 4); /* a pair of 8259s is there too */
    int result = buffer_append(out, header, sizeof(header));
    for (unsigned i = 0; result == 0 && i < cpu_count; i++) {
        uint8_t entry[8] = {0, sizeof(entry), (uint8_t)i, (uint8_t)i, 1};
        result = buffer_append(out, entry, sizeof(entry));
    }
    uint8_t ioapic[12] = {1, sizeof(ioapic)};
    set(ioapic + 4, LAYOUT_IOAPIC, 4);
    result = result < 0 ? result : buffer_append(out, ioapic, sizeof(ioapic));
    /* The timer is on pin 2; the SCI is level-triggered, active high. */
    result = result < 0 ? result : madt_override(out, 0, 2, 0);
    result =
        result < 0 ? result : madt_override(out, LAYOUT_IRQ_SCI, LAYOUT_IRQ_SCI, 0xd);
    uint8_t nmi[6] = {4, sizeof(nmi), 0xff, 0, 0, 1}; /* of all processors: LINT1 */
    result = result < 0 ? result : buffer_append(out, nmi, sizeof(nmi));
    if (result == 0) {
        table_seal(out->data + start, out->size - start);
    }
    return result;
}

static int mcfg_make(struct buffer *out)
{
    uint8_t table[HEADER_SIZE + 8 + 16] = {0};
    header_set(table, "MCFG", 1);
    set(table + 44, LAYOUT_ECAM_START, 8); /* segment 0, bus 0 to 0 */
    table_seal(table, sizeof(table));
    return buffer_append(out, table, sizeof(table));
}

static int pad(struct buffer *out)
{
    static const uint8_t zeros[TABLE_ALIGNMENT];
    size_t missing = (TABLE_ALIGNMENT - out->size % TABLE_ALIGNMENT) % TABLE_ALIGNMENT;
    return buffer_append(out, zeros, missing);
}

static int rsdp_write(struct guest_ram *ram, uint64_t xsdt)
{
    uint8_t table[RSDP_SIZE] = {0};
    memcpy(table, "RSD PTR ", 8);
    memcpy(table + 9, "DROVER", 6);
    table[15] = 2;
    set(table + 20, RSDP_SIZE, 4);
    set(table + 24, xsdt, 8);
    table[8] = checksum(table, 20);
    table[32] = checksum(table, RSDP_SIZE);
    return guest_ram_write(ram, LAYOUT_ACPI_RSDP, table, sizeof(table));
}

/* Appends all tables; the addresses of those that the XSDT lists come out. */
static int tables_make(struct buffer *out, unsigned cpu_count,
                       uint64_t listed[XSDT_TABLES])
{
    uint64_t facs = LAYOUT_ACPI_TABLES + out->size;
    int result = facs_make(out);
    result = result < 0 ? result : pad(out);
    uint64_t dsdt = LAYOUT_ACPI_TABLES + out->size;
    result = result < 0 ? result : acpi_dsdt_make(out);
    result = result < 0 ? result : pad(out);
    listed[0] = LAYOUT_ACPI_TABLES + out->size;
    result = result < 0 ? result : fadt_make(out, facs, dsdt);
    result = result < 0 ? result : pad(out);
    listed[1] = LAYOUT_ACPI_TABLES + out->size;
    result = result < 0 ? result : madt_make(out, cpu_count);
    result = result < 0 ? result : pad(out);
    listed[2] = LAYOUT_ACPI_TABLES + out->size;
    result = result < 0 ? result : mcfg_make(out);
    return result < 0 ? result : pad(out);
}

int acpi_tables_write(struct guest_ram *ram, unsigned cpu_count)
{
    CLEANUP(buffer_done) struct buffer out = {0};
    uint64_t listed[XSDT_TABLES];
    int result = tables_make(&out, cpu_count, listed);
    if (result < 0) {
        return result;
    }
    size_t xsdt_start = out.size;
    uint8_t header[HEADER_SIZE] = {0};
    header_set(header, "XSDT", 1);
    result = buffer_append(&out, header, sizeof(header));
    for (unsigned i = 0; result == 0 && i < XSDT_TABLES; i++) {
        result = append(&out, listed[i], 8);
    }
    if (result < 0) {
        return result;
    }
    table_seal(out.data + xsdt_start, out.size - xsdt_start);
    if (LAYOUT_ACPI_TABLES + out.size > LAYOUT_ACPI_END) {
        return -ENOSPC;
    }
    result = guest_ram_write(ram, LAYOUT_ACPI_TABLES, out.data, out.size);
    return result < 0 ? result : rsdp_write(ram, LAYOUT_ACPI_TABLES + xsdt_start);
}
