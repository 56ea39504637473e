/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plain MSI with one vector (PCI 3.0 section 6.8.1), for devices whose stock drivers know
 * no MSI-X. No masking: none is needed for one vector.
 *
 *   +0 id 0x05 | +1 next | +2 control (bit 0: enabled, bit 7: 64-bit addresses) |
 *   +4 address low | +8 address high | +12 data, 16 bits
 */
#include "base/check.h"
#include "vmm/bus/pci_internal.h"

#define MSI_CAP_ID   0x05
#define MSI_CAP_SIZE 14
#define MSI_ENABLE   0x0001
#define MSI_64BIT    0x0080

static void lock(struct pci_function *function)
{
    CHECK(pthread_mutex_lock(&function->msix_lock) == 0);
}

static void unlock(struct pci_function *function)
{
    CHECK(pthread_mutex_unlock(&function->msix_lock) == 0);
}

int pci_msi_add(struct pci_function *function)
{
    CHECK(function->msi_cap == 0);
    uint8_t capability[MSI_CAP_SIZE] = {MSI_CAP_ID};
    pci_set16(capability, 2, MSI_64BIT);
    int offset = pci_capability_add(function, capability, sizeof(capability));
    if (offset < 0) {
        return offset;
    }
    function->msi_cap = (unsigned)offset;
    uint8_t *writable = &function->writable[offset];
    pci_set16(writable, 2, MSI_ENABLE);
    pci_set32(writable, 4, 0xfffffffc);
    pci_set32(writable, 8, 0xffffffff);
    pci_set16(writable, 12, 0xffff);
    return 0;
}

void pci_msi_changed(struct pci_function *function)
{
    if (function->msi_cap == 0) {
        return;
    }
    const uint8_t *capability = &function->space[function->msi_cap];
    lock(function);
    function->msi_enabled = (pci_get16(capability, 2) & MSI_ENABLE) != 0;
    function->msi_address = pci_get32(capability, 4) | (uint64_t)pci_get32(capability, 8)
                                                           << 32;
    function->msi_data = pci_get16(capability, 12);
    unlock(function);
}

void pci_msi_raise(struct pci_function *function)
{
    lock(function);
    if (function->msi_enabled) {
        function->bus->config.msi_send(function->bus->config.owner, function->msi_address,
                                       function->msi_data);
    }
    unlock(function);
}
