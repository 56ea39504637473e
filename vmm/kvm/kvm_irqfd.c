/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts that descriptors raise (KVM_IRQFD). Each needs a route of its own in KVM's
 * table (KVM_SET_GSI_ROUTING), which is always told as a whole: the interrupt
 * controllers' pins as KVM itself sets them up, then our messages.
 */
#include "vmm/kvm/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/check.h"
#include "vmm/vm_internal.h"

#define PIC_PINS      16u
#define IOAPIC_PINS   24u
#define PIN_ROUTES    (PIC_PINS + IOAPIC_PINS)
#define MESSAGES_MAX  512u /* of all devices: 8 NICs with 32 queues, and as many disks */
#define MESSAGE_GSI_0 IOAPIC_PINS

struct kvm_irqfds {
    bool used[MESSAGES_MAX];
    struct kvm_msi messages[MESSAGES_MAX];
    unsigned limit; /* none from here on was ever used */
    struct kvm_irq_routing *table;
};

static struct kvm_irqfds *irqfds_make(void)
{
    struct kvm_irqfds *irqfds = calloc(1, sizeof(*irqfds));
    struct kvm_irq_routing *table = calloc(
        1, sizeof(*table) + (PIN_ROUTES + MESSAGES_MAX) * sizeof(table->entries[0]));

    if (irqfds == NULL || table == NULL) {
        free(irqfds);
        free(table);
        return NULL;
    }
    irqfds->table = table;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        table->entries[table->nr++] = (struct kvm_irq_routing_entry){
            .gsi = pin,
            .type = KVM_IRQ_ROUTING_IRQCHIP,
            .u.irqchip = {.irqchip = KVM_IRQCHIP_IOAPIC, .pin = pin}};
    }
    for (unsigned pin = 0; pin < PIC_PINS; pin++) {
        table->entries[table->nr++] = (struct kvm_irq_routing_entry){
            .gsi = pin,
            .type = KVM_IRQ_ROUTING_IRQCHIP,
            .u.irqchip = {.irqchip =
                              pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                          .pin = pin % 8}};
    }
    return irqfds;
}

/* vm_lock is held. */
static int routes_tell(struct vm *vm)
{
    struct kvm_irqfds *irqfds = vm->irqfds;
    struct kvm_irq_routing *table = irqfds->table;

    table->nr = PIN_ROUTES;
    for (unsigned i = 0; i < irqfds->limit; i++) {
        if (irqfds->used[i]) {
            table->entries[table->nr++] = (struct kvm_irq_routing_entry){
                .gsi = MESSAGE_GSI_0 + i,
                .type = KVM_IRQ_ROUTING_MSI,
                .u.msi = {.address_lo = irqfds->messages[i].address_lo,
                          .address_hi = irqfds->messages[i].address_hi,
                          .data = irqfds->messages[i].data}};
        }
    }
    return ioctl(vm->fd, KVM_SET_GSI_ROUTING, table) < 0 ? -errno : 0;
}

static int irqfd_order(struct vm *vm, int fd, int route, uint32_t flags)
{
    struct kvm_irqfd order = {
        .fd = (uint32_t)fd, .gsi = MESSAGE_GSI_0 + (uint32_t)route, .flags = flags};

    return ioctl(vm->fd, KVM_IRQFD, &order) < 0 ? -errno : 0;
}

static int route_find(const struct kvm_irqfds *irqfds)
{
    for (unsigned i = 0; i < MESSAGES_MAX; i++) {
        if (!irqfds->used[i]) {
            return (int)i;
        }
    }
    return -ENOSPC;
}

static int route_add(struct vm *vm, int fd, const struct kvm_msi *message)
{
    struct kvm_irqfds *irqfds = vm->irqfds;
    int route = route_find(irqfds);
    int ret = route;

    if (route < 0) {
        return route;
    }
    irqfds->used[route] = true;
    irqfds->messages[route] = *message;
    irqfds->limit = (unsigned)route < irqfds->limit ? irqfds->limit : (unsigned)route + 1;
    ret = routes_tell(vm);
    ret = ret < 0 ? ret : irqfd_order(vm, fd, route, 0);
    if (ret < 0) {
        irqfds->used[route] = false;
        return ret;
    }
    return route;
}

static int message_set(struct vm *vm, int fd, int *route, const struct kvm_msi *message)
{
    struct kvm_msi *present;
    int ret;

    if (vm->irqfds == NULL) {
        vm->irqfds = irqfds_make();
    }
    if (vm->irqfds == NULL) {
        return -ENOMEM;
    }
    if (*route < 0) {
        ret = route_add(vm, fd, message);
        *route = ret < 0 ? -1 : ret;
        return ret < 0 ? ret : 0;
    }
    present = &vm->irqfds->messages[*route];
    if (memcmp(present, message, sizeof(*present)) == 0) {
        return 0;
    }
    *present = *message;
    return routes_tell(vm);
}

int vm_irqfd_set(struct vm *vm, int fd, int *route, uint64_t address, uint32_t data)
{
    struct kvm_msi message = {.address_lo = (uint32_t)address,
                              .address_hi = (uint32_t)(address >> 32),
                              .data = data};
    int ret;

    CHECK(*route < (int)MESSAGES_MAX);
    vm_lock(vm);
    ret = message_set(vm, fd, route, &message);
    vm_unlock(vm);
    return ret;
}

void vm_irqfd_clear(struct vm *vm, int fd, int *route)
{
    if (*route < 0) {
        return;
    }
    vm_lock(vm);
    CHECK(vm->irqfds != NULL && vm->irqfds->used[*route]);
    (void)irqfd_order(vm, fd, *route, KVM_IRQFD_FLAG_DEASSIGN);
    /* The route stays in KVM's table, with nobody to use it, until the next order. */
    vm->irqfds->used[*route] = false;
    *route = -1;
    vm_unlock(vm);
}

void kvm_irqfds_free(struct vm *vm)
{
    if (vm->irqfds != NULL) {
        free(vm->irqfds->table);
        free(vm->irqfds);
        vm->irqfds = NULL;
    }
}
