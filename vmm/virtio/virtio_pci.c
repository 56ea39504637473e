/* SPDX-License-Identifier: Apache-2.0 */
/* The modern virtio-pci transport: its BARs, capabilities and interrupts. */
#include "vmm/virtio/virtio_pci.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/bus/pci.h"
#include "vmm/virtio/virtio.h"
#include "vmm/virtio/virtio_pci_common.h"
#include "vmm/vm.h"

#define PCI_VENDOR          0x1af4
#define PCI_DEVICE_BASE     0x1040
#define PCI_SUBSYSTEM       0x1100
#define PCI_CAPABILITY_VNDR 0x09

/* BAR 0. */
#define REGISTERS_BAR     0
#define MSIX_BAR          1
#define COMMON_OFFSET     0x0000u
#define ISR_OFFSET        0x1000u
#define CONFIG_OFFSET     0x2000u
#define NOTIFY_OFFSET     0x3000u
#define REGISTERS_SIZE    0x4000u
#define AREA_SIZE         0x1000u
#define NOTIFY_MULTIPLIER 4u

enum capability_type {
    CAPABILITY_COMMON = 1,
    CAPABILITY_NOTIFY = 2,
    CAPABILITY_ISR = 3,
    CAPABILITY_DEVICE = 4,
    CAPABILITY_PCI = 5,
};

static void area_read(struct virtio_device *virtio, unsigned offset, uint8_t *data,
                      unsigned size)
{
    unsigned within = offset % AREA_SIZE;

    memset(data, 0, size);
    pthread_mutex_lock(&virtio->lock);
    switch (offset - within) {
    case COMMON_OFFSET:
        if (within < VIRTIO_PCI_COMMON_SIZE) {
            uint8_t common[VIRTIO_PCI_COMMON_SIZE];
            unsigned rest = VIRTIO_PCI_COMMON_SIZE - within;

            virtio_pci_common_encode(virtio, common);
            memcpy(data, common + within, size < rest ? size : rest);
        }
        break;
    case ISR_OFFSET:
        if (within == 0) {
            data[0] = virtio->isr;
            virtio->isr = 0;
        }
        break;
    case CONFIG_OFFSET:
        if (virtio->ops->config_read != NULL) {
            virtio->ops->config_read(virtio, within, data, size);
        }
        break;
    default:
        break;
    }
    pthread_mutex_unlock(&virtio->lock);
}

static void area_write(struct virtio_device *virtio, unsigned offset, const uint8_t *data,
                       unsigned size)
{
    unsigned within = offset % AREA_SIZE;
    uint64_t value = 0;

    memcpy(&value, data, size);
    if (offset >= NOTIFY_OFFSET) {
        /* Only where KVM does not catch the notification by itself. */
        if (within / NOTIFY_MULTIPLIER < virtio->queue_count) {
            virtio_queue_kick(virtio, within / NOTIFY_MULTIPLIER);
        }
        return;
    }
    pthread_mutex_lock(&virtio->lock);
    if (offset - within == COMMON_OFFSET) {
        virtio_pci_common_write(virtio, within, value, size);
    } else if (offset - within == CONFIG_OFFSET && virtio->ops->config_write != NULL) {
        virtio->ops->config_write(virtio, within, data, size);
    }
    pthread_mutex_unlock(&virtio->lock);
}

static bool access_valid(uint64_t offset, unsigned size)
{
    return (size == 1 || size == 2 || size == 4 || size == 8) &&
           offset < REGISTERS_SIZE && offset % size == 0;
}

static void bar_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    memset(data, 0, size);
    if (access_valid(offset, size)) {
        area_read(owner, (unsigned)offset, data, size);
    }
}

static void bar_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    if (access_valid(offset, size)) {
        area_write(owner, (unsigned)offset, data, size);
    }
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

/* ---- notifications through KVM -------------------------------------------- */

static void ioeventfd_set(struct virtio_device *virtio, uint64_t base, bool on)
{
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        struct kvm_ioeventfd request = {
            .addr = base + NOTIFY_OFFSET + (uint64_t)i * NOTIFY_MULTIPLIER,
            .len = virtio->pci.notify_any_length ? 0 : 2,
            .fd = virtio->queues[i].kick_fd,
            .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
        };

        /* Without it bar_write() gets the notification: slower, and just as right. */
        (void)ioctl(vm_kvm_fd(virtio->vm), KVM_IOEVENTFD, &request);
    }
}

static void bar_moved(void *owner, unsigned bar_index, uint64_t base)
{
    struct virtio_device *virtio = owner;

    if (bar_index != REGISTERS_BAR) {
        return;
    }
    pthread_mutex_lock(&virtio->pci.notify_lock);
    if (virtio->pci.notify_base != base) {
        if (virtio->pci.notify_base != 0) {
            ioeventfd_set(virtio, virtio->pci.notify_base, false);
        }
        if (base != 0) {
            ioeventfd_set(virtio, base, true);
        }
        virtio->pci.notify_base = base;
    }
    pthread_mutex_unlock(&virtio->pci.notify_lock);
}

static void vector_changed(void *owner, unsigned vector)
{
    struct virtio_device *virtio = owner;

    if (virtio->ops->vector_changed != NULL) {
        pthread_mutex_lock(&virtio->lock);
        virtio->ops->vector_changed(virtio, vector);
        pthread_mutex_unlock(&virtio->lock);
    }
}

/* ---- the capabilities, and the window to BAR 0 in one of them (4.1.4.9) ---- */

/*
 * Capability: 0 id | 1 next | 2 size | 3 type | 4 bar | 5 id | 6 padding | 8 offset u32 |
 * 12 length u32 and, by type, 16: notify_off_multiplier u32, or the window's data.
 */
enum { CAPABILITY_SIZE = 16, CAPABILITY_LONG_SIZE = 20, WINDOW_DATA = 16 };

/* The fields that say where the window looks; id, next and size are the bus's. */
static bool window_access(struct virtio_device *virtio, unsigned within, uint8_t *data,
                          unsigned size, bool write)
{
    uint8_t *window = virtio->pci.window;

    if (within < 4 || within + size > VIRTIO_PCI_WINDOW_SIZE) {
        return write;
    }
    pthread_mutex_lock(&virtio->lock);
    if (write) {
        memcpy(window + within, data, size);
    } else {
        memcpy(data, window + within, size);
    }
    pthread_mutex_unlock(&virtio->lock);
    return true;
}

static bool capability_access(void *owner, unsigned offset, uint8_t *data, unsigned size,
                              bool write)
{
    struct virtio_device *virtio = owner;
    struct virtio_pci *pci = &virtio->pci;
    unsigned within = offset - pci->window_offset;
    uint32_t target, length;
    uint8_t bar;

    if (offset < pci->window_offset || within + size > CAPABILITY_LONG_SIZE) {
        return false;
    }
    if (within < WINDOW_DATA) {
        return window_access(virtio, within, data, size, write);
    }
    pthread_mutex_lock(&virtio->lock);
    bar = pci->window[4];
    memcpy(&target, pci->window + 8, sizeof(target));
    memcpy(&length, pci->window + 12, sizeof(length));
    pthread_mutex_unlock(&virtio->lock);
    if (within != WINDOW_DATA || bar != REGISTERS_BAR || length > size || length > 4 ||
        length == 0 || !access_valid(target, length)) {
        memset(data, 0, write ? 0 : size);
        return true;
    }
    if (write) {
        area_write(virtio, target, data, length);
    } else {
        memset(data, 0, size);
        area_read(virtio, target, data, length);
    }
    return true;
}

static void put_u32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof(value));
}

static int capability_add(struct virtio_device *virtio, enum capability_type type,
                          uint32_t offset, uint32_t length)
{
    uint8_t capability[CAPABILITY_LONG_SIZE] = {PCI_CAPABILITY_VNDR};
    bool is_long = type == CAPABILITY_NOTIFY || type == CAPABILITY_PCI;
    unsigned size = is_long ? CAPABILITY_LONG_SIZE : CAPABILITY_SIZE;

    capability[2] = (uint8_t)size;
    capability[3] = (uint8_t)type;
    capability[4] = REGISTERS_BAR;
    put_u32(capability + 8, offset);
    put_u32(capability + 12, length);
    if (type == CAPABILITY_NOTIFY) {
        put_u32(capability + 16, NOTIFY_MULTIPLIER);
    }
    return pci_capability_add(virtio->pci.function, capability, size);
}

static int capabilities_add(struct virtio_device *virtio)
{
    static const struct {
        enum capability_type type;
        uint32_t offset;
    } areas[] = {
        {CAPABILITY_COMMON, COMMON_OFFSET},
        {CAPABILITY_NOTIFY, NOTIFY_OFFSET},
        {CAPABILITY_ISR, ISR_OFFSET},
        {CAPABILITY_DEVICE, CONFIG_OFFSET},
    };
    int ret;

    for (unsigned i = 0; i < sizeof(areas) / sizeof(areas[0]); i++) {
        ret = capability_add(virtio, areas[i].type, areas[i].offset, AREA_SIZE);
        if (ret < 0) {
            return ret;
        }
    }
    ret = capability_add(virtio, CAPABILITY_PCI, 0, 0);
    if (ret < 0) {
        return ret;
    }
    virtio->pci.window_offset = (unsigned)ret;
    return 0;
}

int virtio_pci_init(struct virtio_device *virtio, struct error *err)
{
    struct pci_function_config config = {
        .vendor_id = PCI_VENDOR,
        .device_id = (uint16_t)(PCI_DEVICE_BASE + virtio->ops->type),
        .subsystem_vendor_id = PCI_VENDOR,
        .subsystem_id = PCI_SUBSYSTEM,
        .revision = 1,
        .class_code = virtio->ops->class_code,
        .bars[REGISTERS_BAR] = {.size_bytes = REGISTERS_SIZE, .ops = &bar_ops},
        .msix_vectors = virtio_pci_vector_count(virtio),
        .msix_bar = MSIX_BAR,
        .owner = virtio,
        .bar_moved = bar_moved,
        .vector_changed = vector_changed,
        .capability_access = capability_access,
    };
    int ret;

    pthread_mutex_init(&virtio->pci.notify_lock, NULL);
    virtio->pci.notify_any_length = ioctl(vm_kvm_fd(virtio->vm), KVM_CHECK_EXTENSION,
                                          KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
    ret = pci_function_add(vm_pci(virtio->vm), &config, &virtio->pci.function);
    if (ret == 0) {
        ret = capabilities_add(virtio);
    }
    if (ret < 0) {
        return error_set(err, ret,
                         "no room for one more device (%s): take out a disk or a NIC",
                         virtio->device.ops->name);
    }
    return 0;
}

void virtio_pci_done(struct virtio_device *virtio)
{
    if (virtio->pci.function != NULL) {
        pci_function_remove(virtio->pci.function);
        bar_moved(virtio, REGISTERS_BAR, 0);
        virtio->pci.function = NULL;
    }
    pthread_mutex_destroy(&virtio->pci.notify_lock);
}

void virtio_pci_interrupt(struct virtio_device *virtio, uint16_t vector, uint8_t isr_bit)
{
    if (!pci_msix_enabled(virtio->pci.function)) {
        virtio->isr |= isr_bit; /* for drivers that poll */
    } else if (vector != VIRTIO_NO_VECTOR) {
        pci_msix_raise(virtio->pci.function, vector);
    }
}
