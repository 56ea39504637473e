/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Save and load of a whole VM on a real KVM: what was saved comes back, and hostile state
 * gives an error in one line and never harms this process. Usage: state KERNEL [SEED
 * [ROUNDS]]. Damage goes both into the whole message and, with checksums made good again,
 * into the sections, where only the devices' own judgement is left.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "proto/device_state.pb-c.h"
#include "vmm/devices/platform.h"
#include "vmm/devices/serial.h"
#include "vmm/vm.h"

#define ROUNDS_DEFAULT 400

static uint64_t random_next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static void output_ignore(void *owner, const uint8_t *data, size_t size)
{
    (void)owner;
    (void)data;
    (void)size;
}

static struct vm *vm_make(const char *kernel, const struct log *log)
{
    static const struct serial_config serial_config = {.output = output_ignore};
    const struct vm_config config = {
        .name = "state", .memory_bytes = 4u << 20, .cpus = 2, .kernel = kernel};
    struct vm *vm = NULL;
    struct serial *serial = NULL;
    struct error err = {0};
    if (vm_create(&config, log, &vm, &err) < 0 ||
        serial_create(vm, &serial_config, &serial, &err) < 0 ||
        platform_create(vm, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        exit(EXIT_FAILURE);
    }
    return vm;
}

/* Sections in which no time stands come back byte by byte. */
static void same_check(const struct buffer *first, const struct buffer *second)
{
    Drover__VmDeviceState *a =
        drover__vm_device_state__unpack(NULL, first->size, first->data);
    Drover__VmDeviceState *b =
        drover__vm_device_state__unpack(NULL, second->size, second->data);
    CHECK(a != NULL && b != NULL && a->n_sections == b->n_sections);
    unsigned compared = 0;
    for (size_t i = 0; i < a->n_sections; i++) {
        const char *name = a->sections[i]->name;
        CHECK(strcmp(name, b->sections[i]->name) == 0);
        bool timeless = strcmp(name, "irqchip") == 0 || strcmp(name, "pci-host") == 0 ||
                        strcmp(name, "serial") == 0;
        if (timeless) {
            CHECK(a->sections[i]->payload.len == b->sections[i]->payload.len);
            CHECK(a->sections[i]->crc32 == b->sections[i]->crc32);
            compared++;
        }
    }
    CHECK(compared == 3);
    drover__vm_device_state__free_unpacked(a, NULL);
    drover__vm_device_state__free_unpacked(b, NULL);
}

static void cut_check(struct vm *vm, const struct buffer *saved)
{
    for (size_t size = 0; size < saved->size; size += 1 + saved->size / 199) {
        struct error err = {0};
        CHECK(vm_load(vm, saved->data, size, &err) < 0);
        CHECK(err.text[0] != '\0');
    }
}

/* Damages some bytes of `data`; returns whether anything changed. */
static void bytes_damage(uint8_t *data, size_t size, uint64_t *random)
{
    unsigned count = 1 + (unsigned)(random_next(random) % 4);
    for (unsigned i = 0; i < count && size > 0; i++) {
        data[random_next(random) % size] = (uint8_t)random_next(random);
    }
}

static int load_judge(struct vm *vm, const uint8_t *data, size_t size)
{
    struct error err = {0};
    int result = vm_load(vm, data, size, &err);
    CHECK(result == 0 || err.text[0] != '\0');
    return result;
}

static int message_round(struct vm *vm, const struct buffer *saved, uint64_t *random)
{
    uint8_t *copy = malloc(saved->size);
    CHECK(copy != NULL);
    memcpy(copy, saved->data, saved->size);
    bytes_damage(copy, saved->size, random);
    int result = load_judge(vm, copy, saved->size);
    free(copy);
    return result;
}

static int section_round(struct vm *vm, const struct buffer *saved, uint64_t *random)
{
    Drover__VmDeviceState *state =
        drover__vm_device_state__unpack(NULL, saved->size, saved->data);
    CHECK(state != NULL);
    Drover__DeviceSection *section =
        state->sections[random_next(random) % state->n_sections];
    bytes_damage(section->payload.data, section->payload.len, random);
    section->crc32 =
        (uint32_t)crc32(0, section->payload.data, (uInt)section->payload.len);
    size_t size = drover__vm_device_state__get_packed_size(state);
    uint8_t *packed = malloc(size);
    CHECK(packed != NULL);
    CHECK(drover__vm_device_state__pack(state, packed) == size);
    int result = load_judge(vm, packed, size);
    free(packed);
    drover__vm_device_state__free_unpacked(state, NULL);
    return result;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        (void)fputs("usage: state KERNEL [SEED [ROUNDS]]\n", stderr);
        return 2;
    }
    uint64_t random = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    unsigned long rounds = argc > 3 ? strtoul(argv[3], NULL, 10) : ROUNDS_DEFAULT;
    (void)printf("seed %" PRIu64 "\n", random);
    struct log log;
    log_init(&log, "state", LOG_LEVEL_ERROR);
    struct vm *vm = vm_make(argv[1], &log);
    struct buffer saved = {0};
    struct buffer again = {0};
    CHECK(vm_save(vm, &saved) == 0);
    CHECK(load_judge(vm, saved.data, saved.size) == 0);
    CHECK(vm_save(vm, &again) == 0);
    same_check(&saved, &again);
    cut_check(vm, &saved);
    unsigned refused = 0;
    for (unsigned long i = 0; i < rounds; i++) {
        refused += message_round(vm, &saved, &random) < 0 ? 1 : 0;
        refused += section_round(vm, &saved, &random) < 0 ? 1 : 0;
    }
    /* And the undamaged one is taken still. */
    CHECK(load_judge(vm, saved.data, saved.size) == 0);
    (void)printf("%lu damaged states, %u refused\n", 2 * rounds, refused);
    buffer_done(&saved);
    buffer_done(&again);
    vm_free(vm);
    return refused > rounds / 2 ? EXIT_SUCCESS : EXIT_FAILURE;
}
