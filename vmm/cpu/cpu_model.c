/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Baselines. The vendor is the host's: KVM can pretend to be the other one, but the two
 * have different instructions for hypercalls, and a Linux guest that uses the wrong one
 * crashes (KVM tries to mend the instruction in the guest's read-only code). So features,
 * caches and name are the same on all hosts; family and model are those of a processor
 * of that level of the vendor; and moves between vendors are refused.
 */
#include "vmm/cpu/cpu_model.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/cpu/cpu_features.h"

#define NAMES_MAX          6 /* in one message */
#define ADDRESS_BITS_LEAST 39u
#define VIRTUAL_BITS       48u
#define BASIC_LEAF_MAX     0xdu
#define EXTENDED_LEAF_MAX  0x80000008u
#define LEGACY_XSAVE_BYTES 576u
#define HYPERVISOR_BIT     (1u << 31)
#define ARAT_BIT           (1u << 2)
#define CLFLUSH_EBX        (8u << 8)

static const struct baseline {
    enum cpu_model model;
    const char *name;
    uint32_t intel, amd; /* family, model, stepping */
    uint32_t l2_kib;
    const char *brand; /* at most 47 characters */
} baselines[] = {
    {CPU_MODEL_V4, "x86-64-v4", 0x00050654, 0x00a10f11, 1024,
     "Drover x86-64-v4 processor"},
    {CPU_MODEL_V3, "x86-64-v3", 0x000306c4, 0x00800f12, 256,
     "Drover x86-64-v3 processor"},
    {CPU_MODEL_V2, "x86-64-v2", 0x000106a3, 0x00600f12, 256,
     "Drover x86-64-v2 processor"},
};
#define BASELINES (sizeof(baselines) / sizeof(baselines[0]))

int cpu_model_parse(const char *text, enum cpu_model *ret_model, struct error *err)
{
    if (strcmp(text, "host") == 0) {
        *ret_model = CPU_MODEL_HOST;
        return 0;
    }
    for (unsigned i = 0; i < BASELINES; i++) {
        if (strcmp(text, baselines[i].name) == 0) {
            *ret_model = baselines[i].model;
            return 0;
        }
    }
    return error_set(err, DROVER_EBADINPUT,
                     "--cpu %s: give x86-64-v2, x86-64-v3, x86-64-v4 or host", text);
}

static const struct baseline *baseline_of(enum cpu_model model)
{
    for (unsigned i = 0; i < BASELINES; i++) {
        if (baselines[i].model == model) {
            return &baselines[i];
        }
    }
    return NULL;
}

const char *cpu_model_name(enum cpu_model model)
{
    const struct baseline *baseline = baseline_of(model);
    return baseline == NULL ? "host" : baseline->name;
}

const struct kvm_cpuid_entry2 *cpu_model_find(const struct kvm_cpuid_entry2 *entries,
                                              size_t count, uint32_t function,
                                              uint32_t index)
{
    for (size_t i = 0; i < count; i++) {
        if (entries[i].function == function && entries[i].index == index) {
            return &entries[i];
        }
    }
    return NULL;
}

static uint32_t *entry_reg(struct kvm_cpuid_entry2 *entry, char reg)
{
    CHECK(reg >= 'a' && reg <= 'd');
    switch (reg) {
    case 'a':
        return &entry->eax;
    case 'b':
        return &entry->ebx;
    case 'c':
        return &entry->ecx;
    default:
        return &entry->edx;
    }
}

uint32_t cpu_model_word(const struct kvm_cpuid_entry2 *entries, size_t count,
                        const struct cpu_word *word)
{
    const struct kvm_cpuid_entry2 *entry =
        cpu_model_find(entries, count, word->function, word->index);
    if (entry == NULL) {
        return 0;
    }
    struct kvm_cpuid_entry2 copy = *entry;
    return *entry_reg(&copy, word->reg);
}

static uint32_t four(const char *text)
{
    return (uint32_t)(uint8_t)text[0] | (uint32_t)(uint8_t)text[1] << 8 |
           (uint32_t)(uint8_t)text[2] << 16 | (uint32_t)(uint8_t)text[3] << 24;
}

bool cpu_model_is_amd(const struct kvm_cpuid_entry2 *entries, size_t count)
{
    const struct kvm_cpuid_entry2 *vendor = cpu_model_find(entries, count, 0, 0);
    bool amd = vendor != NULL && vendor->ebx == four("Auth") &&
               vendor->edx == four("enti") && vendor->ecx == four("cAMD");
    bool hygon = vendor != NULL && vendor->ebx == four("Hygo") &&
                 vendor->edx == four("nGen") && vendor->ecx == four("uine");
    return amd || hygon;
}

/* ---- names ------------------------------------------------------------------------- */

struct names {
    char *text;
    size_t size;
    unsigned count;
    unsigned left_out;
};

static void names_add(struct names *names, const char *name)
{
    size_t used = strlen(names->text);
    size_t more = strlen(name) + 2;
    if (names->count == NAMES_MAX || used + more + sizeof(" and 99 more") > names->size) {
        names->left_out++;
        return;
    }
    (void)snprintf(names->text + used, names->size - used, "%s%s",
                   names->count == 0 ? "" : ", ", name); /* fits */
    names->count++;
}

static void names_end(struct names *names)
{
    size_t used = strlen(names->text);
    if (names->left_out > 0) {
        (void)snprintf(names->text + used, names->size - used, " and %u more",
                       names->left_out); /* fits */
    }
}

static bool same_word(const struct cpu_word *one, const struct cpu_word *other)
{
    return one->function == other->function && one->index == other->index &&
           one->reg == other->reg;
}

void cpu_model_names(const struct cpu_word *word, uint32_t bits, char *text, size_t size)
{
    struct names names = {.text = text, .size = size};
    CHECK(size > 0);
    text[0] = '\0';
    for (size_t i = 0; i < cpu_feature_count && bits != 0; i++) {
        uint32_t bit = UINT32_C(1) << cpu_features[i].bit;
        if (same_word(&cpu_features[i].word, word) && (bits & bit) != 0) {
            names_add(&names, cpu_features[i].name);
            bits &= ~bit;
        }
    }
    if (bits != 0) {
        char place[64];
        (void)snprintf(place, sizeof(place), "CPUID 0x%x.%u e%cx bits 0x%x",
                       word->function, word->index, word->reg, bits);
        names_add(&names, place);
    }
    names_end(&names);
}

/* ---- what a host can give ---------------------------------------------------------- */

static bool is_required(const struct cpu_feature *feature, enum cpu_model model)
{
    return feature->from != CPU_FEATURE_NEVER && feature->from != CPU_FEATURE_IF_THERE &&
           feature->from <= (unsigned)model;
}

static bool is_there(const struct cpu_feature *feature,
                     const struct kvm_cpuid_entry2 *supported, size_t count)
{
    return (cpu_model_word(supported, count, &feature->word) >> feature->bit & 1) != 0;
}

/* Fills `names` (may be NULL) with what is missing; true if nothing is. */
static bool host_gives(enum cpu_model model, const struct kvm_cpuid_entry2 *supported,
                       size_t count, struct names *names)
{
    bool whole = true;
    for (size_t i = 0; i < cpu_feature_count; i++) {
        if (is_required(&cpu_features[i], model) &&
            !is_there(&cpu_features[i], supported, count)) {
            whole = false;
            if (names != NULL) {
                names_add(names, cpu_features[i].name);
            }
        }
    }
    return whole;
}

static const char *best_name(const struct kvm_cpuid_entry2 *supported, size_t count)
{
    for (unsigned i = 0; i < BASELINES; i++) {
        if (host_gives(baselines[i].model, supported, count, NULL)) {
            return baselines[i].name;
        }
    }
    return "host";
}

static int host_judge(enum cpu_model model, const struct kvm_cpuid_entry2 *supported,
                      size_t count, unsigned address_bits, struct error *err)
{
    char text[160] = "";
    struct names names = {.text = text, .size = sizeof(text)};
    if (!host_gives(model, supported, count, &names)) {
        names_end(&names);
        return error_set(err, DROVER_EBADINPUT,
                         "--cpu %s: this host lacks %s: choose --cpu %s",
                         cpu_model_name(model), text, best_name(supported, count));
    }
    const struct cpu_word addresses = {0x80000008, 0, 'a'};
    unsigned here = cpu_model_word(supported, count, &addresses) & 0xff;
    if (here < address_bits) {
        return error_set(err, DROVER_EBADINPUT,
                         "--cpu %s: this host has %u address bits, the guest's memory "
                         "needs %u: give less with --memory",
                         cpu_model_name(model), here, address_bits);
    }
    return 0;
}

/* ---- building ---------------------------------------------------------------------- */

struct builder {
    const struct baseline *baseline;
    const struct kvm_cpuid_entry2 *vendor; /* the host's leaf 0 */
    const struct kvm_cpuid_entry2 *supported;
    size_t supported_count;
    struct kvm_cpuid_entry2 *entries;
    size_t count;
};

static struct kvm_cpuid_entry2 *add(struct builder *builder, uint32_t function,
                                    uint32_t index, bool indexed)
{
    CHECK(builder->count < CPU_MODEL_ENTRIES_MAX);
    struct kvm_cpuid_entry2 *entry = &builder->entries[builder->count++];
    *entry = (struct kvm_cpuid_entry2){
        .function = function,
        .index = index,
        .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
    };
    /* Its features, if it is a leaf with such. */
    for (size_t i = 0; i < cpu_feature_count; i++) {
        const struct cpu_feature *feature = &cpu_features[i];
        bool optional = feature->from == CPU_FEATURE_IF_THERE &&
                        is_there(feature, builder->supported, builder->supported_count);
        if (feature->word.function == function && feature->word.index == index &&
            (optional || is_required(feature, builder->baseline->model))) {
            *entry_reg(entry, feature->word.reg) |= UINT32_C(1) << feature->bit;
        }
    }
    return entry;
}

/* Type and level, ways, sets; lines of 64 bytes. Who shares it is topology. */
static void cache_add(struct builder *builder, uint32_t index, uint32_t type_level,
                      uint32_t ways, uint32_t sets)
{
    struct kvm_cpuid_entry2 *entry = add(builder, 0x4, index, true);
    entry->eax = type_level | 1u << 8; /* initializes itself */
    entry->ebx = (ways - 1) << 22 | 63;
    entry->ecx = sets - 1;
}

static void caches_add(struct builder *builder)
{
    uint32_t l2_ways = builder->baseline->l2_kib > 256 ? 16 : 8;
    cache_add(builder, 0, 1 | 1 << 5, 8, 64);
    cache_add(builder, 1, 2 | 1 << 5, 8, 64);
    cache_add(builder, 2, 3 | 2 << 5, l2_ways,
              builder->baseline->l2_kib * 1024 / 64 / l2_ways);
    cache_add(builder, 3, 3 | 3 << 5, 16, 16384);
    (void)add(builder, 0x4, 4, true);
}

/*
 * Sizes that agree with the components that are offered. Where they lie is the
 * processor's affair: AMD's and Intel's differ for AVX-512.
 */
static void xsave_add(struct builder *builder)
{
    size_t at = builder->count;
    struct kvm_cpuid_entry2 *whole = add(builder, 0xd, 0, true);
    uint32_t components = whole->eax;
    if (components == 0) {
        return;
    }
    (void)add(builder, 0xd, 1, true);
    uint32_t size = LEGACY_XSAVE_BYTES;
    for (uint32_t i = 2; i < 32; i++) {
        const struct kvm_cpuid_entry2 *host =
            cpu_model_find(builder->supported, builder->supported_count, 0xd, i);
        if ((components >> i & 1) == 0 || host == NULL) {
            continue;
        }
        struct kvm_cpuid_entry2 *entry = add(builder, 0xd, i, true);
        entry->eax = host->eax;
        entry->ebx = host->ebx;
        entry->ecx = host->ecx & 2; /* alignment in the compacted form */
        size = host->eax + host->ebx > size ? host->eax + host->ebx : size;
    }
    builder->entries[at].ebx = LEGACY_XSAVE_BYTES; /* KVM follows XCR0 */
    builder->entries[at].ecx = size;
}

static void basic_add(struct builder *builder)
{
    bool amd = cpu_model_is_amd(builder->vendor, 1);
    struct kvm_cpuid_entry2 *entry = add(builder, 0, 0, false);
    entry->eax = BASIC_LEAF_MAX;
    entry->ebx = builder->vendor->ebx;
    entry->ecx = builder->vendor->ecx;
    entry->edx = builder->vendor->edx;
    entry = add(builder, 0x1, 0, false);
    entry->eax = amd ? builder->baseline->amd : builder->baseline->intel;
    entry->ebx = CLFLUSH_EBX;
    entry->ecx |= HYPERVISOR_BIT;
    if (!amd) {
        entry = add(builder, 0x2, 0, false);
        entry->eax = 0x00feff01; /* see leaf 4 */
        entry->ebx = 0xf0;       /* prefetches 64 bytes */
        caches_add(builder);
    }
    entry = add(builder, 0x6, 0, false);
    entry->eax = ARAT_BIT;
    (void)add(builder, 0x7, 0, true);
    for (uint32_t i = 0; i < 3; i++) {
        (void)add(builder, 0xb, i, true);
    }
    xsave_add(builder);
}

static void extended_add(struct builder *builder, unsigned address_bits)
{
    char brand[48] = {0};
    (void)snprintf(brand, sizeof(brand), "%s", builder->baseline->brand);
    bool amd = cpu_model_is_amd(builder->vendor, 1);
    struct kvm_cpuid_entry2 *entry = add(builder, 0x80000000, 0, false);
    entry->eax = EXTENDED_LEAF_MAX;
    if (amd) {
        entry->ebx = builder->vendor->ebx;
        entry->ecx = builder->vendor->ecx;
        entry->edx = builder->vendor->edx;
    }
    (void)add(builder, 0x80000001, 0, false);
    for (uint32_t i = 0; i < 3; i++) {
        const char *part = brand + (size_t)16 * i;
        entry = add(builder, 0x80000002 + i, 0, false);
        entry->eax = four(part);
        entry->ebx = four(part + 4);
        entry->ecx = four(part + 8);
        entry->edx = four(part + 12);
    }
    if (amd) { /* its way to tell the caches of leaf 4 */
        entry = add(builder, 0x80000005, 0, false);
        entry->ecx = 32u << 24 | 8u << 16 | 1u << 8 | 64;
        entry->edx = entry->ecx;
    }
    entry = add(builder, 0x80000006, 0, false);
    entry->ecx = builder->baseline->l2_kib << 16 |
                 (builder->baseline->l2_kib > 256 ? 8u : 6u) << 12 | 64;
    if (amd) {
        entry->ecx |= 1u << 8;
        entry->edx = 32u << 18 | 8u << 12 | 1u << 8 | 64; /* 16 MiB, 16 ways */
    }
    entry = add(builder, 0x80000008, 0, false);
    entry->eax = VIRTUAL_BITS << 8 | address_bits;
}

int cpu_model_build(enum cpu_model model, const struct kvm_cpuid_entry2 *supported,
                    size_t supported_count, unsigned address_bits,
                    struct kvm_cpuid_entry2 *ret_entries, size_t *ret_count,
                    struct error *err)
{
    struct builder builder = {
        .baseline = baseline_of(model),
        .vendor = cpu_model_find(supported, supported_count, 0, 0),
        .supported = supported,
        .supported_count = supported_count,
        .entries = ret_entries,
    };
    CHECK(builder.baseline != NULL);
    if (address_bits < ADDRESS_BITS_LEAST) {
        address_bits = ADDRESS_BITS_LEAST;
    }
    int result = host_judge(model, supported, supported_count, address_bits, err);
    if (result < 0) {
        return result;
    }
    if (builder.vendor == NULL) {
        return error_set(err, DROVER_ENOKVM, "KVM does not tell the processor's vendor");
    }
    basic_add(&builder);
    struct kvm_cpuid_entry2 *entry = add(&builder, 0x40000000, 0, false);
    entry->eax = 0x40000001;
    entry->ebx = four("KVMK");
    entry->ecx = four("VMKV");
    entry->edx = four("M\0\0\0");
    (void)add(&builder, 0x40000001, 0, false);
    extended_add(&builder, address_bits);
    *ret_count = builder.count;
    return 0;
}
