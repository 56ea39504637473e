/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSI-X: the table and pending bits in a BAR, and the raising of a vector.
 *
 *   BAR + 0x000  table, 16 bytes a vector: address low, address high, data, control (bit
 * 0: masked) BAR + 0x800  pending bits
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "vmm/bus/pci_internal.h"

#define MSIX_BAR_SIZE      4096u
#define MSIX_PBA_OFFSET    0x800u
#define MSIX_CAP_SIZE      12
#define MSIX_CAP_ID        0x11
#define MSIX_ENABLE        0x8000
#define MSIX_FUNCTION_MASK 0x4000

static_assert(PCI_MSIX_VECTORS_MAX * 16 <= MSIX_PBA_OFFSET,
              "the table ends before the pending bits");

static void lock(struct pci_function *function)
{
    CHECK(pthread_mutex_lock(&function->msix_lock) == 0);
}

static void unlock(struct pci_function *function)
{
    CHECK(pthread_mutex_unlock(&function->msix_lock) == 0);
}

static void send(struct pci_function *function, struct pci_msix_entry *entry)
{
    entry->pending = false;
    function->bus->config.msi_send(function->bus->config.owner, entry->address,
                                   entry->data);
}

static bool may_send(const struct pci_function *function,
                     const struct pci_msix_entry *entry)
{
    return atomic_load(&function->msix_enabled) &&
           !atomic_load(&function->msix_function_masked) && !entry->masked;
}

void pci_msix_raise(struct pci_function *function, unsigned vector)
{
    if (vector >= function->config.msix_vectors ||
        !atomic_load(&function->msix_enabled)) {
        return;
    }
    lock(function);
    struct pci_msix_entry *entry = &function->msix[vector];
    if (may_send(function, entry)) {
        send(function, entry);
    } else {
        entry->pending = true;
    }
    unlock(function);
}

bool pci_msix_enabled(const struct pci_function *function)
{
    return atomic_load(&function->msix_enabled);
}

bool pci_msix_vector(struct pci_function *function, unsigned vector,
                     uint64_t *ret_address, uint32_t *ret_data)
{
    bool sends = false;

    if (vector < function->config.msix_vectors) {
        lock(function);
        const struct pci_msix_entry *entry = &function->msix[vector];
        sends = may_send(function, entry);
        if (sends) {
            *ret_address = entry->address;
            *ret_data = entry->data;
        }
        unlock(function);
    }
    return sends;
}

void pci_msix_control_changed(struct pci_function *function)
{
    if (function->msix_cap == 0) {
        return;
    }
    uint16_t control = pci_get16(function->space, function->msix_cap + 2);
    atomic_store(&function->msix_enabled, (control & MSIX_ENABLE) != 0);
    atomic_store(&function->msix_function_masked, (control & MSIX_FUNCTION_MASK) != 0);
    lock(function);
    for (unsigned i = 0; i < function->config.msix_vectors; i++) {
        struct pci_msix_entry *entry = &function->msix[i];
        if (entry->pending && may_send(function, entry)) {
            send(function, entry);
        }
    }
    unlock(function);
}

void pci_msix_changed_tell(struct pci_function *function, unsigned vector)
{
    if (function->config.vector_changed != NULL) {
        function->config.vector_changed(function->config.owner, vector);
    }
}

static uint32_t table_word(const struct pci_function *function, unsigned offset)
{
    const struct pci_msix_entry *entry = &function->msix[offset / 16];
    switch (offset / 4 % 4) {
    case 0:
        return (uint32_t)entry->address;
    case 1:
        return (uint32_t)(entry->address >> 32);
    case 2:
        return entry->data;
    default:
        return entry->masked ? 1 : 0;
    }
}

static void table_word_set(struct pci_function *function, unsigned offset, uint32_t value)
{
    struct pci_msix_entry *entry = &function->msix[offset / 16];
    switch (offset / 4 % 4) {
    case 0:
        entry->address = (entry->address & ~UINT64_C(0xffffffff)) | value;
        return;
    case 1:
        entry->address = (entry->address & UINT64_C(0xffffffff)) | (uint64_t)value << 32;
        return;
    case 2:
        entry->data = value;
        return;
    default:
        entry->masked = (value & 1) != 0;
        if (entry->pending && may_send(function, entry)) {
            send(function, entry);
        }
        return;
    }
}

static uint32_t pending_word(const struct pci_function *function, unsigned offset)
{
    uint32_t word = 0;
    for (unsigned bit = 0; bit < 32; bit++) {
        unsigned vector = (offset - MSIX_PBA_OFFSET) * 8 + bit;
        if (vector < function->config.msix_vectors && function->msix[vector].pending) {
            word |= UINT32_C(1) << bit;
        }
    }
    return word;
}

/* Accesses are whole dwords or qwords (PCI 3.0 section 6.8.2); others read as zero, and
 * write nothing. */
static void msix_bar_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct pci_function *function = owner;
    memset(data, 0, size);
    if (size < 4 || offset % 4 != 0) {
        return;
    }
    lock(function);
    for (unsigned i = 0; i < size; i += 4) {
        unsigned at = (unsigned)offset + i;
        uint32_t word = 0;
        if (at < function->config.msix_vectors * 16) {
            word = table_word(function, at);
        } else if (at >= MSIX_PBA_OFFSET) {
            word = pending_word(function, at);
        }
        pci_set32(data, i, word);
    }
    unlock(function);
}

static void msix_bar_write(void *owner, uint64_t offset, const uint8_t *data,
                           unsigned size)
{
    struct pci_function *function = owner;
    if (size < 4 || offset % 4 != 0) {
        return;
    }
    lock(function);
    for (unsigned i = 0; i < size; i += 4) {
        unsigned at = (unsigned)offset + i;
        if (at < function->config.msix_vectors * 16) {
            table_word_set(function, at, pci_get32(data, i));
        }
    }
    unlock(function);
    if (offset < (uint64_t)function->config.msix_vectors * 16) {
        pci_msix_changed_tell(function, (unsigned)offset / 16);
    }
}

static const struct bus_ops msix_bar_ops = {.read = msix_bar_read,
                                            .write = msix_bar_write};

int pci_msix_init(struct pci_function *function)
{
    CHECK(pthread_mutex_init(&function->msix_lock, NULL) == 0);
    unsigned vectors = function->config.msix_vectors;
    if (vectors == 0) {
        return 0;
    }
    unsigned bar = function->config.msix_bar;
    CHECK(vectors <= PCI_MSIX_VECTORS_MAX && bar < PCI_BARS);
    CHECK(function->config.bars[bar].ops == NULL);
    function->config.bars[bar].size_bytes = MSIX_BAR_SIZE;
    function->config.bars[bar].ops = &msix_bar_ops;
    function->msix = calloc(vectors, sizeof(function->msix[0]));
    if (function->msix == NULL) {
        return -ENOMEM;
    }
    pci_msix_reset(function);
    uint8_t capability[MSIX_CAP_SIZE] = {MSIX_CAP_ID};
    pci_set16(capability, 2, (uint16_t)(vectors - 1));
    pci_set32(capability, 4, bar);
    pci_set32(capability, 8, bar | MSIX_PBA_OFFSET);
    int offset = pci_capability_add(function, capability, sizeof(capability));
    if (offset < 0) {
        return offset;
    }
    function->msix_cap = (unsigned)offset;
    pci_set16(function->writable, function->msix_cap + 2,
              MSIX_ENABLE | MSIX_FUNCTION_MASK);
    return 0;
}

void pci_msix_done(struct pci_function *function)
{
    free(function->msix);
    (void)pthread_mutex_destroy(&function->msix_lock); /* nobody uses it any more */
}

void pci_msix_reset(struct pci_function *function)
{
    for (unsigned i = 0; i < function->config.msix_vectors; i++) {
        function->msix[i] = (struct pci_msix_entry){.masked = true};
    }
    atomic_store(&function->msix_enabled, false);
    atomic_store(&function->msix_function_masked, false);
}
