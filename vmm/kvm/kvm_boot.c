/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of the first vCPU at a kernel's entry. */
#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/vm_internal.h"

#define CR0_PE   0x1u
#define CR0_ET   0x10u
#define CR0_PG   0x80000000u
#define CR4_PAE  0x20u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u

#define SELECTOR_CODE 0x10
#define SELECTOR_DATA 0x18
#define SELECTOR_TSS  0x20

/* What a kernel finds at the selectors that the protocols promise: flat code, flat data,
 * a TSS. */
static const uint64_t gdt_64[] = {0, 0, UINT64_C(0x00af9b000000ffff),
                                  UINT64_C(0x00cf93000000ffff),
                                  UINT64_C(0x00008b0000000067)};
static const uint64_t gdt_32[] = {0, 0, UINT64_C(0x00cf9b000000ffff),
                                  UINT64_C(0x00cf93000000ffff),
                                  UINT64_C(0x00008b0000000067)};

static void segments_set(struct kvm_sregs *sregs, bool is_64bit)
{
    struct kvm_segment code = {.limit = 0xffffffff,
                               .selector = SELECTOR_CODE,
                               .type = 11,
                               .present = 1,
                               .s = 1,
                               .g = 1,
                               .l = is_64bit,
                               .db = !is_64bit};
    struct kvm_segment data = {.limit = 0xffffffff,
                               .selector = SELECTOR_DATA,
                               .type = 3,
                               .present = 1,
                               .s = 1,
                               .g = 1,
                               .db = 1};
    sregs->cs = code;
    sregs->ds = data;
    sregs->es = data;
    sregs->fs = data;
    sregs->gs = data;
    sregs->ss = data;
    sregs->tr = (struct kvm_segment){
        .limit = 0x67, .selector = SELECTOR_TSS, .type = 11, .present = 1};
    sregs->gdt.base = LAYOUT_BOOT_GDT;
    sregs->gdt.limit = sizeof(gdt_64) - 1;
}

int kvm_vcpu_boot_set(struct vcpu *vcpu, const struct kvm_boot_entry *entry)
{
    const uint64_t *gdt = entry->is_64bit ? gdt_64 : gdt_32;
    int result = guest_ram_write(vcpu->vm->ram, LAYOUT_BOOT_GDT, gdt, sizeof(gdt_64));
    if (result < 0) {
        return result;
    }
    struct kvm_sregs sregs = {0};
    if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0) {
        return -errno;
    }
    segments_set(&sregs, entry->is_64bit);
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
    if (entry->is_64bit) {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = entry->page_tables;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME | EFER_LMA;
    }
    struct kvm_regs regs = {
        .rip = entry->rip,
        .rsi = entry->rsi,
        .rbx = entry->rbx,
        .rsp = entry->stack,
        .rflags = 2,
    };
    if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0 ||
        ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0) {
        return -errno;
    }
    return 0;
}
