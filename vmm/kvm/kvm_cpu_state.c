/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU's state, field by field, to and from CpuState. What is loaded may come from a
 * hostile file: sizes and counts are judged here, values by KVM itself.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "proto/device_state.pb-c.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_cpu_state.h"
#include "vmm/state.h"
#include "vmm/vm_internal.h"

static const size_t general_offsets[] = {
    offsetof(struct kvm_regs, rax), offsetof(struct kvm_regs, rbx),
    offsetof(struct kvm_regs, rcx), offsetof(struct kvm_regs, rdx),
    offsetof(struct kvm_regs, rsi), offsetof(struct kvm_regs, rdi),
    offsetof(struct kvm_regs, rsp), offsetof(struct kvm_regs, rbp),
    offsetof(struct kvm_regs, r8),  offsetof(struct kvm_regs, r9),
    offsetof(struct kvm_regs, r10), offsetof(struct kvm_regs, r11),
    offsetof(struct kvm_regs, r12), offsetof(struct kvm_regs, r13),
    offsetof(struct kvm_regs, r14), offsetof(struct kvm_regs, r15),
};
#define GENERAL_COUNT (sizeof(general_offsets) / sizeof(general_offsets[0]))

static uint64_t *general(struct kvm_regs *regs, unsigned index)
{
    return (uint64_t *)(void *)((uint8_t *)regs + general_offsets[index]);
}

static void segment_save(const struct kvm_segment *from, Drover__CpuSegment *to)
{
    drover__cpu_segment__init(to);
    to->start = from->base;
    to->limit = from->limit;
    to->selector = from->selector;
    to->attributes =
        (uint32_t)(from->type & 15u) | (from->s & 1u) << 4 | (from->dpl & 3u) << 5 |
        (from->present & 1u) << 7 | (from->avl & 1u) << 12 | (from->l & 1u) << 13 |
        (from->db & 1u) << 14 | (from->g & 1u) << 15 | (from->unusable & 1u) << 16;
}

static void segment_load(const Drover__CpuSegment *from, struct kvm_segment *to)
{
    uint32_t attributes = from->attributes;
    *to = (struct kvm_segment){
        .base = from->start,
        .limit = from->limit,
        .selector = (uint16_t)from->selector,
        .type = attributes & 15,
        .s = attributes >> 4 & 1,
        .dpl = attributes >> 5 & 3,
        .present = attributes >> 7 & 1,
        .avl = attributes >> 12 & 1,
        .l = attributes >> 13 & 1,
        .db = attributes >> 14 & 1,
        .g = attributes >> 15 & 1,
        .unusable = attributes >> 16 & 1,
    };
}

static void segments_save(const struct kvm_sregs *sregs, struct cpu_message *message)
{
    const struct kvm_segment *from[] = {&sregs->cs, &sregs->ds, &sregs->es, &sregs->fs,
                                        &sregs->gs, &sregs->ss, &sregs->tr, &sregs->ldt};
    for (unsigned i = 0; i < 8; i++) {
        segment_save(from[i], &message->segments[i]);
    }
    const struct kvm_dtable *tables[] = {&sregs->gdt, &sregs->idt};
    for (unsigned i = 0; i < 2; i++) {
        drover__cpu_segment__init(&message->segments[8 + i]);
        message->segments[8 + i].start = tables[i]->base;
        message->segments[8 + i].limit = tables[i]->limit;
    }
    for (unsigned i = 0; i < CPU_SEGMENTS; i++) {
        message->segment_pointers[i] = &message->segments[i];
    }
    message->state.n_segments = CPU_SEGMENTS;
    message->state.segments = message->segment_pointers;
}

static void sregs_save(const struct kvm_sregs *sregs, struct cpu_message *message)
{
    segments_save(sregs, message);
    const uint64_t control[CPU_CONTROLS] = {sregs->cr0, sregs->cr2, sregs->cr3,
                                            sregs->cr4, sregs->cr8};
    memcpy(message->control, control, sizeof(control));
    message->state.n_control = CPU_CONTROLS;
    message->state.control = message->control;
    message->state.efer = sregs->efer;
    message->state.apic_base = sregs->apic_base;
    for (unsigned i = 0; i < CPU_INTERRUPT_WORDS; i++) {
        message->interrupts[i] = sregs->interrupt_bitmap[i];
    }
    message->state.n_interrupt_bitmap = CPU_INTERRUPT_WORDS;
    message->state.interrupt_bitmap = message->interrupts;
}

static void sregs_load(const Drover__CpuState *state, struct kvm_sregs *sregs)
{
    struct kvm_segment *to[] = {&sregs->cs, &sregs->ds, &sregs->es, &sregs->fs,
                                &sregs->gs, &sregs->ss, &sregs->tr, &sregs->ldt};
    for (unsigned i = 0; i < 8; i++) {
        segment_load(state->segments[i], to[i]);
    }
    struct kvm_dtable *tables[] = {&sregs->gdt, &sregs->idt};
    for (unsigned i = 0; i < 2; i++) {
        tables[i]->base = state->segments[8 + i]->start;
        tables[i]->limit = (uint16_t)state->segments[8 + i]->limit;
    }
    sregs->cr0 = state->control[0];
    sregs->cr2 = state->control[1];
    sregs->cr3 = state->control[2];
    sregs->cr4 = state->control[3];
    sregs->cr8 = state->control[4];
    sregs->efer = state->efer;
    sregs->apic_base = state->apic_base;
    for (unsigned i = 0; i < CPU_INTERRUPT_WORDS; i++) {
        sregs->interrupt_bitmap[i] = state->interrupt_bitmap[i];
    }
}

static void events_save(const struct kvm_vcpu_events *from, Drover__CpuEvents *to)
{
    drover__cpu_events__init(to);
    to->exception_injected = from->exception.injected;
    to->exception_number = from->exception.nr;
    to->exception_has_error_code = from->exception.has_error_code;
    to->exception_pending = from->exception.pending;
    to->exception_error_code = from->exception.error_code;
    to->interrupt_injected = from->interrupt.injected;
    to->interrupt_number = from->interrupt.nr;
    to->interrupt_soft = from->interrupt.soft;
    to->interrupt_shadow = from->interrupt.shadow;
    to->nmi_injected = from->nmi.injected;
    to->nmi_pending = from->nmi.pending;
    to->nmi_masked = from->nmi.masked;
    to->sipi_vector = from->sipi_vector;
    to->flags = from->flags;
    to->smm = from->smi.smm;
    to->smm_pending = from->smi.pending;
    to->smm_inside_nmi = from->smi.smm_inside_nmi;
    to->smm_latched_init = from->smi.latched_init;
    to->exception_has_payload = from->exception_has_payload;
    to->exception_payload = from->exception_payload;
}

static void events_load(const Drover__CpuEvents *from, struct kvm_vcpu_events *to)
{
    *to = (struct kvm_vcpu_events){0};
    to->exception.injected = from->exception_injected;
    to->exception.nr = (uint8_t)from->exception_number;
    to->exception.has_error_code = from->exception_has_error_code;
    to->exception.pending = (uint8_t)from->exception_pending;
    to->exception.error_code = from->exception_error_code;
    to->interrupt.injected = from->interrupt_injected;
    to->interrupt.nr = (uint8_t)from->interrupt_number;
    to->interrupt.soft = from->interrupt_soft;
    to->interrupt.shadow = (uint8_t)from->interrupt_shadow;
    to->nmi.injected = from->nmi_injected;
    to->nmi.pending = (uint8_t)from->nmi_pending;
    to->nmi.masked = from->nmi_masked;
    to->sipi_vector = from->sipi_vector;
    to->flags = from->flags | KVM_VCPUEVENT_VALID_NMI_PENDING;
    to->smi.smm = from->smm;
    to->smi.pending = (uint8_t)from->smm_pending;
    to->smi.smm_inside_nmi = from->smm_inside_nmi;
    to->smi.latched_init = from->smm_latched_init;
    to->exception_has_payload = from->exception_has_payload;
    to->exception_payload = from->exception_payload;
}

/* Nobody sends a vCPU one INIT after the other while it stands. */
#define SAVE_TRIES 3u

static int get(struct vcpu *vcpu, unsigned long request, void *data)
{
    return ioctl(vcpu->fd, request, data) < 0 ? -errno : 0;
}

static int registers_save(struct vcpu *vcpu, struct cpu_message *message)
{
    struct kvm_regs regs = {0};
    struct kvm_sregs sregs = {0};
    struct kvm_debugregs debug = {0};
    struct kvm_xcrs xcrs = {0};
    int result = get(vcpu, KVM_GET_REGS, &regs);
    result = result < 0 ? result : get(vcpu, KVM_GET_SREGS, &sregs);
    result = result < 0 ? result : get(vcpu, KVM_GET_DEBUGREGS, &debug);
    result = result < 0 ? result : get(vcpu, KVM_GET_XCRS, &xcrs);
    if (result < 0) {
        return result;
    }
    for (unsigned i = 0; i < GENERAL_COUNT; i++) {
        message->general[i] = *general(&regs, i);
    }
    message->state.n_general = GENERAL_COUNT;
    message->state.general = message->general;
    message->state.rip = regs.rip;
    message->state.rflags = regs.rflags;
    sregs_save(&sregs, message);
    memcpy(message->debug, debug.db, sizeof(debug.db));
    message->debug[4] = debug.dr6;
    message->debug[5] = debug.dr7;
    message->state.n_debug = CPU_DEBUGS;
    message->state.debug = message->debug;
    CHECK(xcrs.nr_xcrs <= CPU_XCRS_MAX);
    for (unsigned i = 0; i < xcrs.nr_xcrs; i++) {
        drover__cpu_xcr__init(&message->xcrs[i]);
        message->xcrs[i].index = xcrs.xcrs[i].xcr;
        message->xcrs[i].value = xcrs.xcrs[i].value;
        message->xcr_pointers[i] = &message->xcrs[i];
    }
    message->state.n_xcrs = xcrs.nr_xcrs;
    message->state.xcrs = message->xcr_pointers;
    return 0;
}

/* What only the vCPU itself changes, while it runs. */
static int still_save(struct vcpu *vcpu, struct cpu_scratch *scratch)
{
    struct cpu_message *message = &scratch->message;
    drover__cpu_state__init(&message->state);
    /* First the MP state: reading it lets KVM settle INIT and SIPI that are still
     * pending. */
    struct kvm_mp_state mp_state = {0};
    int result = get(vcpu, KVM_GET_MP_STATE, &mp_state);
    message->state.mp_state = mp_state.mp_state;
    result = result < 0 ? result : registers_save(vcpu, message);
    result = result < 0 ? result : get(vcpu, KVM_GET_XSAVE, &message->xsave);
    result = result < 0 ? result : kvm_msrs_save(vcpu, scratch);
    result = result < 0 ? result : kvm_cpuid_save(vcpu, scratch);
    if (result == 0) {
        scratch->known = true;
        message->state.xsave = (ProtobufCBinaryData){sizeof(message->xsave),
                                                     (uint8_t *)message->xsave.region};
    }
    return result;
}

/* What interrupts of devices change, and the time. -EAGAIN: one of them was an INIT, and has
 * changed all else. */
static int rest_save(struct vcpu *vcpu, struct cpu_scratch *scratch, struct buffer *out)
{
    struct cpu_message *message = &scratch->message;
    struct kvm_mp_state mp_state = {0};
    struct kvm_vcpu_events events = {0};
    int result = get(vcpu, KVM_GET_MP_STATE, &mp_state);
    if (result == 0 && mp_state.mp_state != message->state.mp_state) {
        return -EAGAIN;
    }
    /* Before the APIC: a timer that goes off in between is saved twice then, as a deadline
     * that is over and as an interrupt, and not lost (with a posted interrupt KVM forgets
     * the deadline at once). */
    result = result < 0 ? result : kvm_tsc_save(vcpu, message);
    result = result < 0 ? result : get(vcpu, KVM_GET_LAPIC, &message->lapic);
    result = result < 0 ? result : get(vcpu, KVM_GET_VCPU_EVENTS, &events);
    if (result < 0) {
        return result;
    }
    message->state.lapic =
        (ProtobufCBinaryData){sizeof(message->lapic), (uint8_t *)message->lapic.regs};
    events_save(&events, &message->events);
    message->state.events = &message->events;
    return state_pack(&message->state.base, out);
}

/* True if the vCPU has saved itself since it last ran. */
static bool is_early(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    vm_lock(vm);
    while (vcpu->early_busy) {
        CHECK(pthread_cond_wait(&vm->quiet_cond, &vm->lock) == 0);
    }
    bool early = vcpu->early_of == vm->standstill;
    if (vm_quiet(vm)) {
        vcpu->early_tried = vm->standstill; /* it need not begin any more */
    }
    vm_unlock(vm);
    return early;
}

int kvm_cpu_save(struct vcpu *vcpu, struct buffer *out)
{
    CLEANUP(cleanup_free) struct cpu_scratch *own = NULL;
    struct cpu_scratch *scratch = vcpu->scratch;
    if (scratch == NULL) {
        own = calloc(1, sizeof(*own));
        scratch = own;
    }
    if (scratch == NULL) {
        return -ENOMEM;
    }
    int result = is_early(vcpu) && scratch->known ? rest_save(vcpu, scratch, out) : -EAGAIN;
    for (unsigned i = 0; result == -EAGAIN && i < SAVE_TRIES; i++) {
        uint64_t start_ns = clock_now_ns();
        result = still_save(vcpu, scratch);
        vcpu->early_ns = clock_now_ns() - start_ns;
        result = result < 0 ? result : rest_save(vcpu, scratch, out);
    }
    return result;
}

int kvm_cpus_prepare(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (vm->vcpus[i].scratch == NULL) {
            vm->vcpus[i].scratch = calloc(1, sizeof(struct cpu_scratch));
        }
        if (vm->vcpus[i].scratch == NULL) {
            return -ENOMEM;
        }
    }
    vm_lock(vm);
    vm->early_wanted = true;
    vm_unlock(vm);
    return 0;
}

bool kvm_cpu_early_begin(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    bool due = vm->early_wanted && vm->vcpus_out == vm->vcpu_count &&
               (atomic_load(&vm->holds) & VM_HOLD_HANDOVER) != 0 &&
               vcpu->early_tried != vm->standstill;
    if (due) {
        vcpu->early_tried = vm->standstill;
        vcpu->early_busy = true;
    }
    return due;
}

void kvm_cpu_early_run(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    uint64_t standstill = vcpu->early_tried;
    vm_unlock(vm);
    int result = still_save(vcpu, vcpu->scratch);
    vm_lock(vm);
    vcpu->early_of = result == 0 ? standstill : 0;
    vcpu->early_busy = false;
    CHECK(pthread_cond_broadcast(&vm->quiet_cond) == 0);
}

static int state_judge(const Drover__CpuState *state, struct error *err)
{
    bool whole = state->n_general == GENERAL_COUNT && state->n_segments == CPU_SEGMENTS &&
                 state->n_control == CPU_CONTROLS && state->n_debug == CPU_DEBUGS &&
                 state->n_interrupt_bitmap == CPU_INTERRUPT_WORDS &&
                 state->n_xcrs <= CPU_XCRS_MAX && state->n_msrs <= CPU_MSRS_MAX &&
                 state->n_cpuid > 0 && state->n_cpuid <= CPU_CPUID_MAX &&
                 state->xsave.len == sizeof(struct kvm_xsave) &&
                 state->lapic.len == sizeof(struct kvm_lapic_state) &&
                 state->events != NULL;
    return whole ? 0
                 : error_set(err, DROVER_EMALFORMED,
                             "the saved state of a vCPU is malformed");
}

static int set(struct vcpu *vcpu, unsigned long request, const void *data,
               const char *what, struct error *err)
{
    if (ioctl(vcpu->fd, request, data) < 0) {
        return error_set(err, DROVER_EMALFORMED,
                         "KVM refused the saved %s of vCPU %u: %s", what, vcpu->index,
                         err_text(errno));
    }
    return 0;
}

static int registers_load(struct vcpu *vcpu, const Drover__CpuState *state,
                          struct error *err)
{
    struct kvm_regs regs = {.rip = state->rip, .rflags = state->rflags};
    for (unsigned i = 0; i < GENERAL_COUNT; i++) {
        *general(&regs, i) = state->general[i];
    }
    struct kvm_sregs sregs = {0};
    sregs_load(state, &sregs);
    struct kvm_debugregs debug = {.dr6 = state->debug[4], .dr7 = state->debug[5]};
    memcpy(debug.db, state->debug, sizeof(debug.db));
    struct kvm_xcrs xcrs = {.nr_xcrs = (uint32_t)state->n_xcrs};
    for (unsigned i = 0; i < state->n_xcrs; i++) {
        xcrs.xcrs[i].xcr = state->xcrs[i]->index;
        xcrs.xcrs[i].value = state->xcrs[i]->value;
    }
    struct kvm_xsave xsave;
    memcpy(&xsave, state->xsave.data, sizeof(xsave));
    int result = set(vcpu, KVM_SET_SREGS, &sregs, "system registers", err);
    result = result < 0 ? result : set(vcpu, KVM_SET_REGS, &regs, "registers", err);
    result = result < 0 ? result : set(vcpu, KVM_SET_XCRS, &xcrs, "XCRs", err);
    result = result < 0 ? result : set(vcpu, KVM_SET_XSAVE, &xsave, "XSAVE area", err);
    return result < 0 ? result
                      : set(vcpu, KVM_SET_DEBUGREGS, &debug, "debug registers", err);
}

/* The order matters: APIC base before the APIC, the APIC before its deadline MSR, the MP
 * state last. */
static int state_load(struct vcpu *vcpu, const Drover__CpuState *state,
                      uint64_t elapsed_ns, bool with_tsc, struct error *err)
{
    struct kvm_lapic_state lapic;
    memcpy(&lapic, state->lapic.data, sizeof(lapic));
    struct kvm_vcpu_events events;
    events_load(state->events, &events);
    struct kvm_mp_state mp_state = {.mp_state = state->mp_state};
    int result = registers_load(vcpu, state, err);
    if (result == 0 && with_tsc) {
        result = kvm_tsc_load(vcpu, state, elapsed_ns, err);
    }
    result = result < 0 ? result : set(vcpu, KVM_SET_LAPIC, &lapic, "local APIC", err);
    result = result < 0 ? result : kvm_msrs_load(vcpu, state, err);
    result = result < 0 ? result : set(vcpu, KVM_SET_VCPU_EVENTS, &events, "events", err);
    return result < 0 ? result : set(vcpu, KVM_SET_MP_STATE, &mp_state, "MP state", err);
}

static Drover__CpuState *state_unpack(const uint8_t *payload, size_t size,
                                      struct error *err)
{
    Drover__CpuState *state = drover__cpu_state__unpack(NULL, size, payload);
    if (state == NULL) {
        (void)error_set(err, DROVER_EMALFORMED, "the saved state of a vCPU is malformed");
    } else if (state_judge(state, err) < 0) {
        drover__cpu_state__free_unpacked(state, NULL);
        state = NULL;
    }
    return state;
}

int kvm_cpu_load(struct vcpu *vcpu, const uint8_t *payload, size_t size,
                 uint64_t elapsed_ns, struct error *err)
{
    Drover__CpuState *state = state_unpack(payload, size, err);
    if (state == NULL) {
        return DROVER_EMALFORMED;
    }
    int result = kvm_cpuid_load(vcpu, state, err);
    result = result < 0 ? result : state_load(vcpu, state, elapsed_ns, true, err);
    drover__cpu_state__free_unpacked(state, NULL);
    return result;
}

#define APIC_BASE_BSP 0x100u
#define LAPIC_ID_BYTE 0x23

int kvm_cpu_reset(struct vcpu *vcpu, const uint8_t *payload, size_t size,
                  struct error *err)
{
    Drover__CpuState *state = state_unpack(payload, size, err);
    if (state == NULL) {
        return DROVER_EMALFORMED;
    }
    if (vcpu->index != 0) {
        state->apic_base &= ~(uint64_t)APIC_BASE_BSP;
        state->lapic.data[LAPIC_ID_BYTE] = (uint8_t)vcpu->index;
        state->mp_state = KVM_MP_STATE_UNINITIALIZED;
    }
    /* The TSC goes on: clocks of the guest's next life are set anew, and vCPUs stay in
     * step. */
    int result = state_load(vcpu, state, 0, false, err);
    drover__cpu_state__free_unpacked(state, NULL);
    return result;
}
