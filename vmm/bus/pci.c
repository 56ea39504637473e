/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration space of a PCI function: identity, command, BARs, capabilities; its save
 * and load. */
#include "vmm/bus/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/pci_internal.h"
#include "vmm/layout.h"
#include "vmm/state.h"

#define BAR_TYPE_64BIT 0x4u

static void bars_configure(struct pci_function *function)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        const struct pci_bar_config *config = &function->config.bars[i];
        if (config->size_bytes == 0) {
            continue;
        }
        CHECK(config->size_bytes >= 4096 &&
              (config->size_bytes & (config->size_bytes - 1)) == 0);
        CHECK(!config->is_64bit || i + 1 < PCI_BARS);
        struct pci_bar *bar = &function->bars[i];
        bar->size_bytes = config->size_bytes;
        bar->is_64bit = config->is_64bit;
        bar->ops = config->ops;
        bool is_msix =
            function->config.msix_vectors > 0 && i == function->config.msix_bar;
        bar->owner = is_msix ? function : function->config.owner;

        uint64_t mask = ~(config->size_bytes - 1);
        pci_set32(function->writable, PCI_REG_BAR0 + 4 * i, (uint32_t)mask);
        uint64_t address = (function->bus->bar_next + config->size_bytes - 1) & mask;
        function->bus->bar_next = address + config->size_bytes;
        uint32_t type = config->is_64bit ? BAR_TYPE_64BIT : 0;
        pci_set32(function->space, PCI_REG_BAR0 + 4 * i, (uint32_t)address | type);
        if (config->is_64bit) {
            pci_set32(function->writable, PCI_REG_BAR0 + 4 * i + 4,
                      (uint32_t)(mask >> 32));
            i++;
            CHECK(function->config.bars[i].size_bytes == 0);
        }
    }
}

static void identity_configure(struct pci_function *function)
{
    const struct pci_function_config *config = &function->config;
    uint8_t *space = function->space;
    pci_set16(space, 0x00, config->vendor_id);
    pci_set16(space, 0x02, config->device_id);
    space[0x08] = config->revision;
    space[0x09] = (uint8_t)config->class_code;
    pci_set16(space, 0x0a, (uint16_t)(config->class_code >> 8));
    pci_set16(space, 0x2c, config->subsystem_vendor_id);
    pci_set16(space, 0x2e, config->subsystem_id);
    pci_set16(function->writable, PCI_REG_COMMAND, PCI_COMMAND_MASK);
    function->writable[PCI_REG_IRQ_LINE] = 0xff;
    function->writable[0x0c] = 0xff; /* cache line size: no meaning, but guests set it */
}

static uint64_t bar_address(const struct pci_function *function, unsigned index)
{
    uint64_t address =
        pci_get32(function->space, PCI_REG_BAR0 + 4 * index) & ~UINT32_C(0xf);
    if (function->bars[index].is_64bit) {
        address |= (uint64_t)pci_get32(function->space, PCI_REG_BAR0 + 4 * index + 4)
                   << 32;
    }
    return address;
}

/* Where the guest wants the BAR; 0: nowhere. */
static uint64_t bar_wanted(const struct pci_function *function, unsigned index)
{
    if ((pci_get16(function->space, PCI_REG_COMMAND) & PCI_COMMAND_MEMORY) == 0) {
        return 0;
    }
    uint64_t address = bar_address(function, index);
    bool wraps = address + (function->bars[index].size_bytes - 1) < address;
    return wraps ? 0 : address;
}

/* Puts the BARs where configuration space says. A place that is taken already answers
 * nothing, as on hardware. */
static void bars_map(struct pci_function *function)
{
    struct bus *memory_bus = function->bus->config.memory_bus;
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &function->bars[i];
        uint64_t wanted = bar->size_bytes == 0 ? 0 : bar_wanted(function, i);
        if (wanted == bar->mapped_at) {
            continue;
        }
        if (bar->mapped_at != 0) {
            bus_remove(memory_bus, bar->mapped_at);
            bar->mapped_at = 0;
        }
        if (wanted != 0 &&
            bus_add(memory_bus, wanted, bar->size_bytes, bar->ops, bar->owner) == 0) {
            bar->mapped_at = wanted;
        }
        if (function->config.bar_moved != NULL && bar->owner != function) {
            function->config.bar_moved(function->config.owner, i, bar->mapped_at);
        }
    }
}

static void bars_unmap(struct pci_function *function)
{
    pci_set16(function->space, PCI_REG_COMMAND, 0);
    bars_map(function);
}

/* A slot counts as taken whichever of its functions is. */
static bool slot_is_free(const struct pci_bus *bus, unsigned slot)
{
    for (unsigned number = 0; number < PCI_SLOT_FUNCTIONS; number++) {
        if (bus->functions[PCI_PLACE(slot, number)] != NULL) {
            return false;
        }
    }
    return true;
}

static int place_find(const struct pci_bus *bus, const struct pci_function_config *config)
{
    CHECK(config->place < PCI_PLACE(PCI_SLOTS, 0));
    if (config->place != 0) {
        return bus->functions[config->place] == NULL ? (int)config->place : -EEXIST;
    }
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        if (slot_is_free(bus, slot)) {
            return (int)PCI_PLACE(slot, 0);
        }
    }
    return -ENOSPC;
}

/* Function 0 tells whether its slot has others. */
static void slot_header_set(struct pci_bus *bus, unsigned slot)
{
    struct pci_function *first = bus->functions[PCI_PLACE(slot, 0)];
    for (unsigned number = 1; first != NULL && number < PCI_SLOT_FUNCTIONS; number++) {
        if (bus->functions[PCI_PLACE(slot, number)] != NULL) {
            first->space[PCI_REG_HEADER] |= PCI_HEADER_MULTI;
            first->power_on[PCI_REG_HEADER] |= PCI_HEADER_MULTI;
        }
    }
}

int pci_function_add(struct pci_bus *bus, const struct pci_function_config *config,
                     struct pci_function **ret_function)
{
    int place = place_find(bus, config);
    if (place < 0) {
        return place;
    }
    struct pci_function *function = calloc(1, sizeof(*function));
    if (function == NULL) {
        return -ENOMEM;
    }
    function->bus = bus;
    function->config = *config;
    function->place = (unsigned)place;
    function->caps_end = PCI_CAPS_START;
    identity_configure(function);
    int result = pci_msix_init(function);
    if (result < 0) {
        pci_msix_done(function);
        free(function);
        return result;
    }
    bars_configure(function);
    memcpy(function->power_on, function->space, PCI_CONFIG_SIZE);
    bus->functions[place] = function;
    slot_header_set(bus, pci_function_slot(function));
    *ret_function = function;
    return 0;
}

void pci_function_remove(struct pci_function *function)
{
    if (function == NULL) {
        return;
    }
    CHECK(function->bus->functions[function->place] == function);
    function->config.bar_moved = NULL; /* its owner is going */
    bars_unmap(function);
    function->bus->functions[function->place] = NULL;
    pci_msix_done(function);
    free(function);
}

unsigned pci_function_slot(const struct pci_function *function)
{
    return function->place / PCI_SLOT_FUNCTIONS;
}

struct pci_function *pci_function_at(const struct pci_bus *bus, unsigned place)
{
    CHECK(place < PCI_PLACE(PCI_SLOTS, 0));
    return bus->functions[place];
}

void pci_register_add(struct pci_function *function, unsigned offset, unsigned size,
                      uint64_t power_on, uint64_t writable)
{
    CHECK(offset >= PCI_REG_COMMAND && size <= 8 && offset + size <= PCI_CONFIG_SIZE);
    for (unsigned i = 0; i < size; i++) {
        function->space[offset + i] = (uint8_t)(power_on >> (8 * i));
        function->power_on[offset + i] = (uint8_t)(power_on >> (8 * i));
        function->writable[offset + i] = (uint8_t)(writable >> (8 * i));
    }
}

int pci_capability_add(struct pci_function *function, const uint8_t *capability,
                       unsigned size)
{
    CHECK(size >= 2);
    unsigned offset = (function->caps_end + 3) & ~3u;
    if (offset + size > PCI_CONFIG_SIZE) {
        return -ENOSPC;
    }
    memcpy(&function->space[offset], capability, size);
    function->space[offset + 1] = 0;
    unsigned link = function->cap_last == 0 ? PCI_REG_CAP_FIRST : function->cap_last + 1;
    function->space[link] = (uint8_t)offset;
    function->cap_last = offset;
    function->caps_end = offset + size;
    function->space[PCI_REG_STATUS] |= PCI_STATUS_CAPS;
    memcpy(function->power_on, function->space, PCI_CONFIG_SIZE);
    return (int)offset;
}

void pci_config_read(struct pci_function *function, unsigned offset, uint8_t *data,
                     unsigned size)
{
    CHECK(offset + size <= PCI_CONFIG_SIZE);
    memcpy(data, &function->space[offset], size);
}

void pci_config_write(struct pci_function *function, unsigned offset, const uint8_t *data,
                      unsigned size)
{
    CHECK(offset + size <= PCI_CONFIG_SIZE);
    for (unsigned i = 0; i < size; i++) {
        uint8_t writable = function->writable[offset + i];
        uint8_t *byte = &function->space[offset + i];
        *byte = (uint8_t)((*byte & ~writable) | (data[i] & writable));
    }
    bars_map(function);
    if (function->msix_cap != 0 && offset < function->msix_cap + 4 &&
        offset + size > function->msix_cap + 2) {
        pci_msix_control_changed(function);
    }
    pci_msi_changed(function);
}

void pci_function_reset(struct pci_function *function)
{
    bars_unmap(function);
    memcpy(function->space, function->power_on, PCI_CONFIG_SIZE);
    pci_msix_reset(function);
    pci_msi_changed(function);
}

int pci_function_save(struct pci_function *function, struct buffer *out)
{
    Drover__PciFunctionState state = DROVER__PCI_FUNCTION_STATE__INIT;
    Drover__MsixVector vectors[PCI_MSIX_VECTORS_MAX];
    Drover__MsixVector *pointers[PCI_MSIX_VECTORS_MAX];
    state.config_space =
        (ProtobufCBinaryData){.len = PCI_CONFIG_SIZE, .data = function->space};
    state.n_vectors = function->config.msix_vectors;
    state.vectors = pointers;
    for (unsigned i = 0; i < function->config.msix_vectors; i++) {
        const struct pci_msix_entry *entry = &function->msix[i];
        drover__msix_vector__init(&vectors[i]);
        vectors[i].address = entry->address;
        vectors[i].data = entry->data;
        vectors[i].masked = entry->masked;
        vectors[i].pending = entry->pending;
        pointers[i] = &vectors[i];
    }
    return state_pack(&state.base, out);
}

/* What the guest can't write must be as here: else this is another device. */
static int identity_judge(const struct pci_function *function,
                          const Drover__PciFunctionState *state, struct error *err)
{
    if (state->config_space.len != PCI_CONFIG_SIZE ||
        state->n_vectors != function->config.msix_vectors) {
        return error_set(err, DROVER_EMALFORMED,
                         "saved state of PCI slot %u has the wrong size",
                         pci_function_slot(function));
    }
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t fixed = (uint8_t)~function->writable[i];
        if (((state->config_space.data[i] ^ function->space[i]) & fixed) != 0) {
            return error_set(
                err, DROVER_EMALFORMED,
                "saved state of PCI slot %u is of another device (byte 0x%x)",
                pci_function_slot(function), i);
        }
    }
    return 0;
}

int pci_function_load(struct pci_function *function, const uint8_t *payload,
                      uint32_t size, struct error *err)
{
    Drover__PciFunctionState *state =
        drover__pci_function_state__unpack(NULL, size, payload);
    if (state == NULL) {
        return error_set(err, DROVER_EMALFORMED,
                         "saved state of PCI slot %u is malformed",
                         pci_function_slot(function));
    }
    int result = identity_judge(function, state, err);
    if (result == 0) {
        bars_unmap(function);
        pci_msix_reset(function);
        memcpy(function->space, state->config_space.data, PCI_CONFIG_SIZE);
        for (unsigned i = 0; i < function->config.msix_vectors; i++) {
            function->msix[i] = (struct pci_msix_entry){
                .address = state->vectors[i]->address,
                .data = state->vectors[i]->data,
                .masked = state->vectors[i]->masked,
                .pending = state->vectors[i]->pending,
            };
        }
        bars_map(function);
        pci_msix_control_changed(function);
        pci_msi_changed(function);
    }
    drover__pci_function_state__free_unpacked(state, NULL);
    return result;
}
