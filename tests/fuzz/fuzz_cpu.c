/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of what is told about processors: the words of the command line, and a baseline
 * built from any CPUID that a host may claim. What must hold: a baseline that is given
 * fits its room, has every feature of its level, and none that is another host's own.
 */
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/cpu/cpu_features.h"
#include "vmm/cpu/cpu_model.h"
#include "vmm/options/options_cpu.h"

#define ENTRIES_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void words(const char *text)
{
    struct error err = {0};
    enum cpu_model model = CPU_MODEL_HOST;
    struct options_cpu_set set = {0};
    unsigned number = 0;
    if (cpu_model_parse(text, &model, &err) == 0) {
        CHECK(strcmp(cpu_model_name(model), text) == 0);
    }
    if (options_cpu_set_parse(text, &set, &err) == 0) {
        unsigned count = 0;
        for (unsigned cpu = 0; cpu < OPTIONS_HOST_CPUS_MAX; cpu++) {
            count += options_cpu_set_has(&set, cpu) ? 1 : 0;
        }
        CHECK(count == set.count && count > 0);
    }
    (void)options_cpu_weight_parse(text, &number, &err);
    (void)options_cpu_quota_parse(text, &number, &err);
    CHECK(strchr(err.text, '\n') == NULL);
}

/* Features that the table has for this model, and of the rest what the input says. */
static size_t host_make(enum cpu_model model, const uint8_t *data, size_t size,
                        struct kvm_cpuid_entry2 *entries)
{
    static const struct kvm_cpuid_entry2 leaves[] = {
        {.function = 0},
        {.function = 1},
        {.function = 6},
        {.function = 7},
        {.function = 7, .index = 1},
        {.function = 0xd},
        {.function = 0xd, .index = 1},
        {.function = 0xd, .index = 2},
        {.function = 0xd, .index = 5},
        {.function = 0xd, .index = 6},
        {.function = 0xd, .index = 7},
        {.function = 0x40000001},
        {.function = 0x80000001},
        {.function = 0x80000008},
    };
    size_t count = sizeof(leaves) / sizeof(leaves[0]);
    memcpy(entries, leaves, sizeof(leaves));
    for (size_t i = 0; i < count; i++) {
        uint32_t *registers[] = {&entries[i].eax, &entries[i].ebx, &entries[i].ecx,
                                 &entries[i].edx};
        for (unsigned reg = 0; reg < 4 && size >= 4; reg++, data += 4, size -= 4) {
            memcpy(registers[reg], data, 4);
        }
        for (size_t k = 0; k < cpu_feature_count; k++) {
            const struct cpu_feature *feature = &cpu_features[k];
            if (feature->word.function == entries[i].function &&
                feature->word.index == entries[i].index &&
                feature->from <= (unsigned)model) {
                *registers[feature->word.reg - 'a'] |= UINT32_C(1) << feature->bit;
            }
        }
    }
    return count;
}

static void build(enum cpu_model model, enum cpu_model host, const uint8_t *data,
                  size_t size)
{
    static struct kvm_cpuid_entry2 guest[CPU_MODEL_ENTRIES_MAX];
    struct kvm_cpuid_entry2 entries[ENTRIES_MAX];
    struct error err = {0};
    size_t guest_count = 0;
    size_t count = host_make(host, data, size, entries);
    if (cpu_model_build(model, entries, count, 36, guest, &guest_count, &err) < 0) {
        CHECK(err.text[0] != '\0' && strchr(err.text, '\n') == NULL);
        return;
    }
    CHECK(guest_count > 0 && guest_count <= CPU_MODEL_ENTRIES_MAX);
    for (size_t i = 0; i < cpu_feature_count; i++) {
        const struct cpu_feature *feature = &cpu_features[i];
        bool has =
            (cpu_model_word(guest, guest_count, &feature->word) >> feature->bit & 1) != 0;
        bool wanted = feature->from <= (unsigned)model && feature->from != 0;
        bool is_arat = feature->word.function == 6; /* always there */
        CHECK(has == wanted || feature->from == CPU_FEATURE_IF_THERE || is_arat);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum cpu_model models[] = {CPU_MODEL_V2, CPU_MODEL_V3, CPU_MODEL_V4};
    char text[64] = {0};
    if (size < 2) {
        return 0;
    }
    memcpy(text, data + 2, size - 2 < sizeof(text) - 1 ? size - 2 : sizeof(text) - 1);
    words(text);
    build(models[data[0] % 3], models[data[1] % 3], data + 2, size - 2);
    struct cpu_word word = {0x7, 0, 'b'};
    uint32_t bits = 0;
    memcpy(&bits, data + size - (size < 4 ? size : 4), size < 4 ? size : 4);
    cpu_model_names(&word, bits, text, 1 + data[1] % sizeof(text));
    return 0;
}
