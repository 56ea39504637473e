/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest-physical address space and the ports, in one place.
 *
 *   0x0000'0000  RAM below the hole (at most 2 GiB)
 *   0xB000'0000  here, or at 0xE000'0000, firmware puts the ECAM range
 *   0xC000'0000  memory BARs of PCI functions
 *   0xE000'0000  PCI Express configuration space (ECAM), bus 0
 *   0xF000'0000  more room for memory BARs
 *   0xFEC0'0000  I/O APIC; 0xFEE0'0000 local APICs (both in the kernel)
 *   0xFEFF'C000  KVM's own four pages
 *   0xFF00'0000  flash: ends at 4 GiB
 *   0x1'0000'0000  the rest of RAM; behind it, room for 64-bit BARs
 */
#ifndef DROVER_VMM_LAYOUT_H
#define DROVER_VMM_LAYOUT_H

#include <stdint.h>

#define LAYOUT_LOW_RAM_END    UINT64_C(0x80000000)
#define LAYOUT_HIGH_RAM_START UINT64_C(0x100000000)

#define LAYOUT_PCI_WINDOW_START UINT64_C(0xc0000000)
#define LAYOUT_PCI_WINDOW_END   UINT64_C(0xe0000000) /* exclusive */
#define LAYOUT_ECAM_LOW_START   UINT64_C(0xb0000000) /* 256 MiB, see above */
#define LAYOUT_ECAM_START       UINT64_C(0xe0000000)
#define LAYOUT_ECAM_SIZE        UINT64_C(0x100000) /* one bus */
#define LAYOUT_PCI_TOP_START    UINT64_C(0xf0000000)
#define LAYOUT_PCI_TOP_END      UINT64_C(0xfec00000) /* exclusive */
#define LAYOUT_IOAPIC           UINT64_C(0xfec00000)
#define LAYOUT_LAPIC            UINT64_C(0xfee00000)
#define LAYOUT_KVM_IDENTITY_MAP UINT64_C(0xfeffc000) /* one page */
#define LAYOUT_KVM_TSS          UINT64_C(0xfeffd000) /* three pages */
#define LAYOUT_FLASH_START      UINT64_C(0xff000000) /* the lowest */
#define LAYOUT_FLASH_END        UINT64_C(0x100000000)

/* Below 1 MiB. */
#define LAYOUT_BOOT_GDT      UINT64_C(0x500)
#define LAYOUT_BOOT_ZEROPAGE UINT64_C(0x7000)
#define LAYOUT_BOOT_STACK    UINT64_C(0x8000)
#define LAYOUT_BOOT_TABLES   UINT64_C(0x9000) /* identity page tables, 6 pages */
#define LAYOUT_BOOT_PVH      UINT64_C(0x10000)
#define LAYOUT_BOOT_CMDLINE  UINT64_C(0x20000)
#define LAYOUT_EBDA          UINT64_C(0x9fc00)
#define LAYOUT_ACPI_RSDP     UINT64_C(0xe0000)
#define LAYOUT_ACPI_TABLES   UINT64_C(0xe0100)
#define LAYOUT_ACPI_END      UINT64_C(0x100000)
#define LAYOUT_HIGH_MEMORY   UINT64_C(0x100000)

#define LAYOUT_BIOS_SHADOW      UINT64_C(0xe0000) /* 128 KiB: the end of a BIOS */
#define LAYOUT_BIOS_SHADOW_SIZE UINT64_C(0x20000)

/* Ports. */
#define LAYOUT_PORT_RTC        0x70
#define LAYOUT_PORT_I8042_DATA 0x60
#define LAYOUT_PORT_I8042      0x64
#define LAYOUT_PORT_COM1       0x3f8
#define LAYOUT_PORT_ACPI_EVENT 0x600 /* PM1a event block, 4 bytes */
#define LAYOUT_PORT_ACPI_CTRL  0x604 /* PM1a control block, 2 bytes */
#define LAYOUT_PORT_PM_TIMER   0x608 /* 4 bytes */
#define LAYOUT_PORT_PM_END     0x680 /* of the 128 ports from 0x600 on */
#define LAYOUT_PORT_A20        0x92
#define LAYOUT_PORT_APM        0xb2 /* 2 bytes */
#define LAYOUT_PORT_DEBUG      0x402
#define LAYOUT_PORT_FW_CFG     0x510 /* 12 bytes */
#define LAYOUT_PORT_PCI        0xcf8
#define LAYOUT_PORT_RESET      0xcf9

/* Interrupts. */
#define LAYOUT_IRQ_COM1 4
#define LAYOUT_IRQ_RTC  8
#define LAYOUT_IRQ_SCI  9

#endif
