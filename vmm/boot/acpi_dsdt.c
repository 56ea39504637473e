/* SPDX-License-Identifier: Apache-2.0 */
/* The DSDT: host bridge, COM1, clock, the motherboard's own resources, S5. */
#include "base/buffer.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/acpi_internal.h"
#include "vmm/boot/aml.h"
#include "vmm/devices/panic.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"
#include "vmm/machine.h"

/* The windows leave out both places where firmware puts the ECAM range. */
static void aml_windows(struct aml *aml, const struct acpi_machine *machine)
{
    aml_resource_memory_window(aml, (uint32_t)LAYOUT_LOW_RAM_END,
                               (uint32_t)(LAYOUT_ECAM_LOW_START - 1));
    aml_resource_memory_window(aml, (uint32_t)LAYOUT_PCI_WINDOW_START,
                               (uint32_t)(LAYOUT_PCI_WINDOW_END - 1));
    aml_resource_memory_window(aml, (uint32_t)LAYOUT_PCI_TOP_START,
                               (uint32_t)(LAYOUT_PCI_TOP_END - 1));
    if (machine->window64_end > machine->window64_start) {
        aml_resource_memory64_window(aml, machine->window64_start,
                                     machine->window64_end - 1);
    }
}

static void aml_host_bridge(struct aml *aml, const struct acpi_machine *machine)
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
    aml_windows(aml, machine);
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

/* Present and working, but nothing to show to people: not all systems have a driver. */
static void aml_panic_device(struct aml *aml)
{
    aml_device_begin(aml, "PEVT");
    aml_name(aml, "_HID");
    aml_string(aml, "QEMU0001");
    aml_name(aml, "_STA");
    aml_integer(aml, 0x0b);
    aml_resources_begin(aml);
    aml_resource_io(aml, PANIC_PORT, 1);
    aml_resources_end(aml);
    aml_end(aml);
}

int acpi_dsdt_make(const struct acpi_machine *machine, struct buffer *out)
{
    uint8_t header[ACPI_HEADER_SIZE] = {0};
    acpi_header_set(header, "DSDT", 2);
    size_t start = out->size;
    int result = buffer_append(out, header, sizeof(header));
    if (result < 0) {
        return result;
    }
    struct aml aml;
    aml_init(&aml, out);
    aml_scope_begin(&aml, "\\_SB_");
    aml_host_bridge(&aml, machine);
    aml_legacy_device(&aml, "COM1", "PNP0501", LAYOUT_PORT_COM1, 8, LAYOUT_IRQ_COM1);
    aml_legacy_device(&aml, "RTC_", "PNP0B00", LAYOUT_PORT_RTC, 2, LAYOUT_IRQ_RTC);
    if (machine_has_panic_device(machine->machine)) {
        aml_panic_device(&aml);
    }
    /* The motherboard's own: keeps the ECAM range from being given to others. */
    aml_device_begin(&aml, "MRES");
    aml_name(&aml, "_HID");
    aml_eisa_id(&aml, "PNP0C02");
    aml_resources_begin(&aml);
    aml_resource_memory(&aml, (uint32_t)machine->ecam,
                        (uint32_t)LAYOUT_ECAM_SIZE);
    aml_resource_io(&aml, LAYOUT_PORT_ACPI_EVENT,
                    LAYOUT_PORT_PM_END - LAYOUT_PORT_ACPI_EVENT);
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
        acpi_table_seal(out->data + start, out->size - start);
    }
    return aml.error;
}
