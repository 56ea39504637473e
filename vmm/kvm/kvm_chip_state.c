/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupt controllers, PIT and kvm-clock in the kernel: save and load. */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "proto/device_state.pb-c.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"
#include "vmm/state.h"
#include "vmm/vm_internal.h"

/* Wall clocks of two hosts that differ by more than this tell nothing about the time a
 * move took. */
#define ELAPSED_MAX_NS (60 * NS_PER_S)
#define PIT_CHANNELS   3

static int chip_get(struct vm *vm, uint32_t id, struct kvm_irqchip *chip)
{
    *chip = (struct kvm_irqchip){.chip_id = id};
    return ioctl(vm->fd, KVM_GET_IRQCHIP, chip) < 0 ? -errno : 0;
}

static int chip_set(struct vm *vm, const struct kvm_irqchip *chip, struct error *err)
{
    if (ioctl(vm->fd, KVM_SET_IRQCHIP, chip) < 0) {
        return error_set(err, DROVER_EMALFORMED,
                         "KVM refused the interrupt controller %u: %s", chip->chip_id,
                         err_text(errno));
    }
    return 0;
}

static void pic_save(const struct kvm_pic_state *from, Drover__PicState *to)
{
    drover__pic_state__init(to);
    to->last_irr = from->last_irr;
    to->irr = from->irr;
    to->imr = from->imr;
    to->isr = from->isr;
    to->priority_add = from->priority_add;
    to->irq_base = from->irq_base;
    to->read_reg_select = from->read_reg_select;
    to->poll = from->poll;
    to->special_mask = from->special_mask;
    to->init_state = from->init_state;
    to->auto_eoi = from->auto_eoi;
    to->rotate_on_auto_eoi = from->rotate_on_auto_eoi;
    to->special_fully_nested_mode = from->special_fully_nested_mode;
    to->init4 = from->init4;
    to->elcr = from->elcr;
    to->elcr_mask = from->elcr_mask;
}

static void pic_load(const Drover__PicState *from, struct kvm_pic_state *to)
{
    to->last_irr = (uint8_t)from->last_irr;
    to->irr = (uint8_t)from->irr;
    to->imr = (uint8_t)from->imr;
    to->isr = (uint8_t)from->isr;
    to->priority_add = from->priority_add & 7;
    to->irq_base = (uint8_t)from->irq_base;
    to->read_reg_select = (uint8_t)from->read_reg_select;
    to->poll = (uint8_t)from->poll;
    to->special_mask = (uint8_t)from->special_mask;
    to->init_state = from->init_state & 3;
    to->auto_eoi = (uint8_t)from->auto_eoi;
    to->rotate_on_auto_eoi = (uint8_t)from->rotate_on_auto_eoi;
    to->special_fully_nested_mode = (uint8_t)from->special_fully_nested_mode;
    to->init4 = (uint8_t)from->init4;
    to->elcr = (uint8_t)from->elcr;
    to->elcr_mask = (uint8_t)from->elcr_mask;
}

int kvm_irqchip_save(struct vm *vm, struct buffer *out)
{
    struct kvm_irqchip chip;
    Drover__IrqchipState state = DROVER__IRQCHIP_STATE__INIT;
    Drover__PicState pics[2];
    uint64_t redirections[KVM_IOAPIC_NUM_PINS];
    for (uint32_t id = 0; id < 2; id++) {
        int result =
            chip_get(vm, id == 0 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, &chip);
        if (result < 0) {
            return result;
        }
        pic_save(&chip.chip.pic, &pics[id]);
    }
    int result = chip_get(vm, KVM_IRQCHIP_IOAPIC, &chip);
    if (result < 0) {
        return result;
    }
    state.master = &pics[0];
    state.slave = &pics[1];
    state.ioapic_base = chip.chip.ioapic.base_address;
    state.ioapic_select = chip.chip.ioapic.ioregsel;
    state.ioapic_id = chip.chip.ioapic.id;
    state.ioapic_irr = chip.chip.ioapic.irr;
    for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
        redirections[i] = chip.chip.ioapic.redirtbl[i].bits;
    }
    state.n_ioapic_redirections = KVM_IOAPIC_NUM_PINS;
    state.ioapic_redirections = redirections;
    return state_pack(&state.base, out);
}

static int irqchip_set(struct vm *vm, const Drover__IrqchipState *state,
                       struct error *err)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};
    pic_load(state->master, &chip.chip.pic);
    int result = chip_set(vm, &chip, err);
    if (result < 0) {
        return result;
    }
    chip = (struct kvm_irqchip){.chip_id = KVM_IRQCHIP_PIC_SLAVE};
    pic_load(state->slave, &chip.chip.pic);
    result = chip_set(vm, &chip, err);
    if (result < 0) {
        return result;
    }
    chip = (struct kvm_irqchip){.chip_id = KVM_IRQCHIP_IOAPIC};
    chip.chip.ioapic.base_address = state->ioapic_base;
    chip.chip.ioapic.ioregsel = state->ioapic_select;
    chip.chip.ioapic.id = state->ioapic_id;
    chip.chip.ioapic.irr = state->ioapic_irr;
    for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
        chip.chip.ioapic.redirtbl[i].bits = state->ioapic_redirections[i];
    }
    return chip_set(vm, &chip, err);
}

int kvm_irqchip_load(struct vm *vm, const uint8_t *payload, size_t size,
                     struct error *err)
{
    Drover__IrqchipState *state = drover__irqchip_state__unpack(NULL, size, payload);
    bool whole = state != NULL && state->master != NULL && state->slave != NULL &&
                 state->n_ioapic_redirections == KVM_IOAPIC_NUM_PINS &&
                 state->ioapic_base == LAYOUT_IOAPIC;
    int result =
        whole ? irqchip_set(vm, state, err)
              : error_set(err, DROVER_EMALFORMED, "the saved irqchip is malformed");
    drover__irqchip_state__free_unpacked(state, NULL);
    return result;
}

#define IOAPIC_MASKED 0x10000u

int kvm_irqchip_reset(struct vm *vm)
{
    uint64_t redirections[KVM_IOAPIC_NUM_PINS];
    for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
        redirections[i] = IOAPIC_MASKED;
    }
    Drover__PicState pics[2];
    for (unsigned i = 0; i < 2; i++) {
        drover__pic_state__init(&pics[i]);
        pics[i].elcr_mask =
            i == 0 ? 0xf8 : 0xde; /* the interrupts that may be level-triggered */
    }
    Drover__IrqchipState state = DROVER__IRQCHIP_STATE__INIT;
    state.master = &pics[0];
    state.slave = &pics[1];
    state.ioapic_base = LAYOUT_IOAPIC;
    state.n_ioapic_redirections = KVM_IOAPIC_NUM_PINS;
    state.ioapic_redirections = redirections;
    struct error err = {0};
    return irqchip_set(vm, &state, &err);
}

static uint64_t now_ns(clockid_t id)
{
    struct timespec now = {0};
    (void)clock_gettime(id, &now); /* these clocks always exist */
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* KVM tells when a channel was loaded by this host's CLOCK_MONOTONIC, which means nothing
 * on another host. */
int kvm_pit_save(struct vm *vm, struct buffer *out)
{
    struct kvm_pit_state2 pit = {0};
    if (ioctl(vm->fd, KVM_GET_PIT2, &pit) < 0) {
        return -errno;
    }
    int64_t now = (int64_t)now_ns(CLOCK_MONOTONIC);
    Drover__PitState state = DROVER__PIT_STATE__INIT;
    Drover__PitChannel channels[PIT_CHANNELS];
    Drover__PitChannel *pointers[PIT_CHANNELS];
    for (unsigned i = 0; i < PIT_CHANNELS; i++) {
        const struct kvm_pit_channel_state *from = &pit.channels[i];
        Drover__PitChannel *to = &channels[i];
        drover__pit_channel__init(to);
        to->count = from->count;
        to->latched_count = from->latched_count;
        to->count_latched = from->count_latched;
        to->status_latched = from->status_latched;
        to->status = from->status;
        to->read_state = from->read_state;
        to->write_state = from->write_state;
        to->write_latch = from->write_latch;
        to->access_mode = from->rw_mode;
        to->mode = from->mode;
        to->bcd = from->bcd;
        to->gate = from->gate;
        to->loaded_ns = now - from->count_load_time;
        pointers[i] = to;
    }
    state.n_channels = PIT_CHANNELS;
    state.channels = pointers;
    state.flags = pit.flags;
    return state_pack(&state.base, out);
}

static int pit_set(struct vm *vm, const Drover__PitState *state, struct error *err)
{
    struct kvm_pit_state2 pit = {.flags = state->flags & (KVM_PIT_FLAGS_HPET_LEGACY |
                                                          KVM_PIT_FLAGS_SPEAKER_DATA_ON)};
    int64_t now = (int64_t)now_ns(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < PIT_CHANNELS; i++) {
        const Drover__PitChannel *from = state->channels[i];
        pit.channels[i] = (struct kvm_pit_channel_state){
            .count = from->count,
            .latched_count = (uint16_t)from->latched_count,
            .count_latched = (uint8_t)from->count_latched,
            .status_latched = (uint8_t)from->status_latched,
            .status = (uint8_t)from->status,
            .read_state = (uint8_t)from->read_state,
            .write_state = (uint8_t)from->write_state,
            .write_latch = (uint8_t)from->write_latch,
            .rw_mode = (uint8_t)from->access_mode,
            .mode = from->mode & 7,
            .bcd = (uint8_t)from->bcd,
            .gate = (uint8_t)from->gate,
            .count_load_time = (int64_t)((uint64_t)now - (uint64_t)from->loaded_ns),
        };
    }
    if (ioctl(vm->fd, KVM_SET_PIT2, &pit) < 0) {
        return error_set(err, DROVER_EMALFORMED, "KVM refused the saved PIT: %s",
                         err_text(errno));
    }
    return 0;
}

int kvm_pit_load(struct vm *vm, const uint8_t *payload, size_t size, struct error *err)
{
    Drover__PitState *state = drover__pit_state__unpack(NULL, size, payload);
    bool whole = state != NULL && state->n_channels == PIT_CHANNELS;
    int result = whole ? pit_set(vm, state, err)
                       : error_set(err, DROVER_EMALFORMED, "the saved PIT is malformed");
    drover__pit_state__free_unpacked(state, NULL);
    return result;
}

int kvm_clock_save(struct vm *vm, struct buffer *out)
{
    struct kvm_clock_data clock = {0};
    if (ioctl(vm->fd, KVM_GET_CLOCK, &clock) < 0) {
        return -errno;
    }
    Drover__ClockState state = DROVER__CLOCK_STATE__INIT;
    state.kvmclock_ns = clock.clock;
    state.wall_ns = now_ns(CLOCK_REALTIME);
    return state_pack(&state.base, out);
}

int kvm_clock_load(struct vm *vm, const uint8_t *payload, size_t size,
                   uint64_t *ret_elapsed_ns, struct error *err)
{
    Drover__ClockState *state = drover__clock_state__unpack(NULL, size, payload);
    if (state == NULL) {
        return error_set(err, DROVER_EMALFORMED, "the saved clock is malformed");
    }
    uint64_t elapsed =
        now_ns(CLOCK_REALTIME) - state->wall_ns; /* huge if it lies ahead */
    if (elapsed > ELAPSED_MAX_NS) {
        elapsed = 0;
    }
    struct kvm_clock_data clock = {.clock = state->kvmclock_ns + elapsed};
    drover__clock_state__free_unpacked(state, NULL);
    if (ioctl(vm->fd, KVM_SET_CLOCK, &clock) < 0) {
        return error_set(err, DROVER_EMALFORMED, "KVM refused the saved clock: %s",
                         err_text(errno));
    }
    *ret_elapsed_ns = elapsed;
    return 0;
}
