/* SPDX-License-Identifier: Apache-2.0 */
/* Baselines on made-up hosts: the same processor on each, or a line that says why not. */
#include "tests/unit/unit.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "vmm/cpu/cpu_features.h"
#include "vmm/cpu/cpu_model.h"

#define HOST_ENTRIES 32

struct host {
    struct kvm_cpuid_entry2 entries[HOST_ENTRIES];
    size_t count;
};

struct guest {
    struct kvm_cpuid_entry2 entries[CPU_MODEL_ENTRIES_MAX];
    size_t count;
};

static struct kvm_cpuid_entry2 *leaf(struct host *host, uint32_t function, uint32_t index)
{
    for (size_t i = 0; i < host->count; i++) {
        if (host->entries[i].function == function && host->entries[i].index == index) {
            return &host->entries[i];
        }
    }
    assert_true(host->count < HOST_ENTRIES);
    struct kvm_cpuid_entry2 *entry = &host->entries[host->count++];
    *entry = (struct kvm_cpuid_entry2){.function = function, .index = index};
    return entry;
}

static uint32_t *reg(struct host *host, const struct cpu_word *word)
{
    struct kvm_cpuid_entry2 *entry = leaf(host, word->function, word->index);
    return word->reg == 'a'   ? &entry->eax
           : word->reg == 'b' ? &entry->ebx
           : word->reg == 'c' ? &entry->ecx
                              : &entry->edx;
}

/* Where the processor puts its vector registers. */
static void components(struct host *host, bool amd)
{
    const uint32_t places[][3] = {{2, 256, 576},
                                  {5, 64, amd ? 832 : 1088},
                                  {6, 512, amd ? 896 : 1152},
                                  {7, 1024, amd ? 1408 : 1664}};
    for (unsigned i = 0; i < 4; i++) {
        leaf(host, 0xd, places[i][0])->eax = places[i][1];
        leaf(host, 0xd, places[i][0])->ebx = places[i][2];
    }
}

/* All features of a baseline, and some that only this host has. */
static struct host host_make(unsigned level, const char *vendor)
{
    struct host host = {.count = 0};
    bool amd = strcmp(vendor, "AuthenticAMD") == 0;
    memcpy(&leaf(&host, 0, 0)->ebx, vendor, 4);
    memcpy(&leaf(&host, 0, 0)->edx, vendor + 4, 4);
    memcpy(&leaf(&host, 0, 0)->ecx, vendor + 8, 4);
    leaf(&host, 0, 0)->eax = amd ? 0x10 : 0x1f;
    leaf(&host, 1, 0)->eax = amd ? 0x00a20f10 : 0x000606a6;
    for (size_t i = 0; i < cpu_feature_count; i++) {
        const struct cpu_feature *feature = &cpu_features[i];
        if (feature->from <= level) {
            *reg(&host, &feature->word) |= UINT32_C(1) << feature->bit;
        }
    }
    leaf(&host, 7, 0)->ecx |= amd ? 1u << 2 : 1u << 8;
    leaf(&host, 0x80000001, 0)->ecx |= amd ? 1u << 6 : 0;
    leaf(&host, 0x80000008, 0)->eax = amd ? 0x3030 : 0x3027;
    components(&host, amd);
    return host;
}

static int build(enum cpu_model model, const struct host *host, struct guest *guest,
                 struct error *err)
{
    *guest = (struct guest){.count = 0};
    return cpu_model_build(model, host->entries, host->count, 36, guest->entries,
                           &guest->count, err);
}

static struct guest built(enum cpu_model model, const struct host *host)
{
    struct guest guest;
    struct error err = {0};
    if (build(model, host, &guest, &err) != 0) {
        fail_msg("%s", err.text);
    }
    return guest;
}

static uint32_t word(const struct guest *guest, uint32_t function, uint32_t index,
                     char name)
{
    const struct cpu_word at = {function, index, name};
    return cpu_model_word(guest->entries, guest->count, &at);
}

static void assert_refused(enum cpu_model model, const struct host *host,
                           const char *says)
{
    struct guest guest;
    struct error err = {0};
    assert_int_equal(build(model, host, &guest, &err), DROVER_EBADINPUT);
    if (strstr(err.text, says) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    }
}

static void test_a_guest_has_the_same_features_on_intel_and_amd(void **state)
{
    (void)state;
    const struct host intel = host_make(4, "GenuineIntel");
    const struct host amd = host_make(4, "AuthenticAMD");
    const enum cpu_model models[] = {CPU_MODEL_V2, CPU_MODEL_V3};
    for (unsigned i = 0; i < 2; i++) {
        struct guest one = built(models[i], &intel);
        struct guest other = built(models[i], &amd);
        for (size_t k = 0; k < cpu_feature_count; k++) {
            const struct cpu_word *at = &cpu_features[k].word;
            assert_int_equal(word(&one, at->function, at->index, at->reg),
                             word(&other, at->function, at->index, at->reg));
        }
        assert_int_equal(word(&one, 0xd, 0, 'c'), word(&other, 0xd, 0, 'c'));
        assert_int_equal(word(&one, 0x80000002, 0, 'a'),
                         word(&other, 0x80000002, 0, 'a'));
        /* KVM's hypercalls have other instructions on each. */
        assert_int_equal(word(&one, 0, 0, 'b'), 0x756e6547);   /* Genu */
        assert_int_equal(word(&other, 0, 0, 'b'), 0x68747541); /* Auth */
    }
}

static void test_hosts_of_one_vendor_give_the_very_same_processor(void **state)
{
    (void)state;
    const struct host old = host_make(3, "GenuineIntel");
    struct host new = host_make(4, "GenuineIntel");
    leaf(&new, 1, 0)->eax = 0x000806f8;
    leaf(&new, 7, 0)->ecx = 0xffffffff;
    leaf(&new, 0x80000008, 0)->eax = 0x3034;
    struct guest one = built(CPU_MODEL_V3, &old);
    struct guest other = built(CPU_MODEL_V3, &new);
    assert_int_equal(one.count, other.count);
    assert_memory_equal(one.entries, other.entries, one.count * sizeof(one.entries[0]));
}

static void test_avx512_lies_where_the_processor_puts_it(void **state)
{
    (void)state;
    const struct host intel = host_make(4, "GenuineIntel");
    const struct host amd = host_make(4, "AuthenticAMD");
    struct guest one = built(CPU_MODEL_V4, &intel);
    struct guest other = built(CPU_MODEL_V4, &amd);
    assert_int_equal(word(&one, 0xd, 0, 'a'), 0xe7);
    assert_int_equal(word(&one, 0xd, 0, 'c'), 1664 + 1024);
    assert_int_equal(word(&one, 0xd, 7, 'b'), 1664);
    assert_int_equal(word(&other, 0xd, 0, 'c'), 1408 + 1024);
    assert_int_equal(word(&one, 7, 0, 'b'), word(&other, 7, 0, 'b'));
}

static void test_exactly_the_features_of_the_baseline(void **state)
{
    (void)state;
    const struct host host = host_make(4, "GenuineIntel");
    struct guest v2 = built(CPU_MODEL_V2, &host);
    struct guest v3 = built(CPU_MODEL_V3, &host);
    struct guest v4 = built(CPU_MODEL_V4, &host);
    /* sse3 ssse3 cx16 sse4.1 sse4.2 x2apic popcnt tsc-deadline hypervisor */
    assert_int_equal(word(&v2, 1, 0, 'c'), 0x81b82201);
    assert_int_equal(word(&v2, 1, 0, 'd'), 0x078bfbfd);
    assert_int_equal(word(&v2, 7, 0, 'b'), 0x2);
    assert_int_equal(word(&v2, 7, 0, 'c'), 0);
    assert_int_equal(word(&v2, 0x80000001, 0, 'c'), 0x1);
    assert_int_equal(word(&v2, 0x80000001, 0, 'd'), 0x28100800);
    assert_int_equal(word(&v2, 0xd, 0, 'a'), 0); /* no xsave */
    assert_int_equal(word(&v2, 0xd, 0, 'c'), 0);
    /* and pclmulqdq fma movbe aes xsave avx f16c rdrand */
    assert_int_equal(word(&v3, 1, 0, 'c'), 0xf7f83203);
    assert_int_equal(word(&v3, 7, 0, 'b'), 0x1ab);
    assert_int_equal(word(&v3, 0x80000001, 0, 'c'), 0x21);
    assert_int_equal(word(&v3, 0x80000001, 0, 'd'), 0x2c100800);
    assert_int_equal(word(&v3, 0xd, 0, 'a'), 7);
    assert_int_equal(word(&v3, 0xd, 0, 'c'), 832);
    assert_int_equal(word(&v3, 0xd, 1, 'a'), 1);
    assert_null(cpu_model_find(v3.entries, v3.count, 0xd, 5));
    assert_int_equal(word(&v4, 7, 0, 'b') & 0xd0030000, 0xd0030000);
    /* Of the host's own: nothing. */
    assert_int_equal(word(&v4, 7, 0, 'c'), 0);
    assert_int_equal(word(&v2, 1, 0, 'a'), 0x000106a3);
    const struct host amd = host_make(4, "AuthenticAMD");
    v3 = built(CPU_MODEL_V3, &amd);
    assert_int_equal(word(&v3, 1, 0, 'a'), 0x00800f12);
    assert_int_equal(word(&v2, 0, 0, 'a'), 0xd);
    assert_int_equal(word(&v2, 0x80000000, 0, 'a'), 0x80000008);
}

static void test_what_a_host_lacks_is_named_with_what_to_choose(void **state)
{
    (void)state;
    struct host v3 = host_make(3, "AuthenticAMD");
    assert_refused(CPU_MODEL_V4, &v3, "--cpu x86-64-v4: this host lacks pcid, erms, ");
    assert_refused(CPU_MODEL_V4, &v3, " more: choose --cpu x86-64-v3");
    leaf(&v3, 7, 0)->ebx &= ~(1u << 5);
    leaf(&v3, 1, 0)->ecx &= ~(1u << 12);
    assert_refused(CPU_MODEL_V3, &v3,
                   "this host lacks fma, avx2: choose --cpu x86-64-v2");
    leaf(&v3, 1, 0)->ecx &= ~1u;
    assert_refused(CPU_MODEL_V2, &v3, "this host lacks sse3: choose --cpu host");
    const struct host none = {.count = 0};
    assert_refused(CPU_MODEL_V2, &none, "and ");
}

static void test_avx_without_its_registers_in_xsave_is_no_v3(void **state)
{
    (void)state;
    struct host host = host_make(3, "GenuineIntel");
    leaf(&host, 0xd, 0)->eax = 3;
    assert_refused(CPU_MODEL_V3, &host, "lacks avx in xsave: choose --cpu x86-64-v2");
}

static void test_memory_that_the_host_cannot_address_is_refused(void **state)
{
    (void)state;
    const struct host host = host_make(3, "GenuineIntel"); /* 39 bits */
    struct guest guest;
    struct error err = {0};
    assert_int_equal(cpu_model_build(CPU_MODEL_V3, host.entries, host.count, 40,
                                     guest.entries, &guest.count, &err),
                     DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "39 address bits"));
    guest = built(CPU_MODEL_V3, &host);
    assert_int_equal(word(&guest, 0x80000008, 0, 'a'), 0x3027);
}

static void test_defences_are_the_hosts_where_the_guest_starts(void **state)
{
    (void)state;
    struct host host = host_make(3, "GenuineIntel");
    struct guest guest = built(CPU_MODEL_V3, &host);
    assert_int_equal(word(&guest, 7, 0, 'd'), 0x8c000000);
    leaf(&host, 7, 0)->edx = 0;
    guest = built(CPU_MODEL_V3, &host);
    assert_int_equal(word(&guest, 7, 0, 'd'), 0);
}

static void test_the_brand_is_readable(void **state)
{
    (void)state;
    const struct host host = host_make(3, "GenuineIntel");
    struct guest guest = built(CPU_MODEL_V3, &host);
    char brand[49] = {0};
    for (uint32_t i = 0; i < 3; i++) {
        const struct kvm_cpuid_entry2 *entry =
            cpu_model_find(guest.entries, guest.count, 0x80000002 + i, 0);
        assert_non_null(entry);
        const uint32_t part[] = {entry->eax, entry->ebx, entry->ecx, entry->edx};
        memcpy(brand + (size_t)16 * i, part, 16);
    }
    assert_string_equal(brand, "Drover x86-64-v3 processor");
}

static void test_names_are_parsed_and_told(void **state)
{
    (void)state;
    static const char *const names[] = {"host", "x86-64-v2", "x86-64-v3", "x86-64-v4"};
    static const char *const wrong[] = {"",     "x86-64-v1", "x86-64-v5",
                                        "Host", "v3",        "x86-64-v2 "};
    enum cpu_model model = CPU_MODEL_HOST;
    struct error err = {0};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(cpu_model_parse(names[i], &model, &err), 0);
        assert_string_equal(cpu_model_name(model), names[i]);
    }
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(cpu_model_parse(wrong[i], &model, &err), DROVER_EBADINPUT);
        assert_int_equal(model, CPU_MODEL_V4);
    }
    char text[64];
    const struct cpu_word features = {0x7, 0, 'b'};
    cpu_model_names(&features, 1u << 5 | 1u << 13, text, sizeof(text));
    assert_string_equal(text, "avx2, CPUID 0x7.0 ebx bits 0x2000");
    cpu_model_names(&features, 0xffffffff, text, 20);
    assert_true(strlen(text) < 20);
}

static void test_no_feature_stands_twice_in_the_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < cpu_feature_count; i++) {
        assert_true(cpu_features[i].bit < 32);
        for (size_t k = 0; k < i; k++) {
            bool same = cpu_features[i].word.function == cpu_features[k].word.function &&
                        cpu_features[i].word.index == cpu_features[k].word.index &&
                        cpu_features[i].word.reg == cpu_features[k].word.reg &&
                        cpu_features[i].bit == cpu_features[k].bit;
            assert_false(same);
            assert_string_not_equal(cpu_features[i].name, cpu_features[k].name);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_guest_has_the_same_features_on_intel_and_amd),
        cmocka_unit_test(test_hosts_of_one_vendor_give_the_very_same_processor),
        cmocka_unit_test(test_avx512_lies_where_the_processor_puts_it),
        cmocka_unit_test(test_exactly_the_features_of_the_baseline),
        cmocka_unit_test(test_what_a_host_lacks_is_named_with_what_to_choose),
        cmocka_unit_test(test_avx_without_its_registers_in_xsave_is_no_v3),
        cmocka_unit_test(test_memory_that_the_host_cannot_address_is_refused),
        cmocka_unit_test(test_defences_are_the_hosts_where_the_guest_starts),
        cmocka_unit_test(test_the_brand_is_readable),
        cmocka_unit_test(test_names_are_parsed_and_told),
        cmocka_unit_test(test_no_feature_stands_twice_in_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
