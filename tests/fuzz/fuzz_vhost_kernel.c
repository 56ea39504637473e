/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fuzzers' vhost-net: the C library's open() and ioctl(), which answer for it. It
 * judges what it is given as the kernel does, but aborts where the kernel would refuse.
 */
#include "tests/fuzz/fuzz_vhost_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "vmm/memory/guest_ram.h"

#define LOG_FEATURE 26 /* VHOST_F_LOG_ALL */

struct ring {
    uint32_t count;
    uint16_t base;
    struct vhost_vring_addr address;
    int kick_fd, call_fd, error_fd, tap_fd;
};

struct worker {
    int fd;
    bool owned, has_memory;
    uint64_t features, log;
    struct ring rings[2];
};

static struct {
    struct guest_ram *ram;
    uint64_t features;   /* 0: there is no vhost-net */
    unsigned calls_left; /* until one fails; 0: none does */
    struct worker workers[FUZZ_KERNEL_PAIRS];
    unsigned worker_count;
} kernel;

void fuzz_kernel_reset(struct guest_ram *ram)
{
    memset(&kernel, 0, sizeof(kernel));
    kernel.ram = ram;
    kernel.features = UINT64_MAX;
    for (unsigned i = 0; i < FUZZ_KERNEL_PAIRS; i++) {
        for (unsigned j = 0; j < 2; j++) {
            struct ring *ring = &kernel.workers[i].rings[j];

            ring->kick_fd = ring->call_fd = ring->error_fd = ring->tap_fd = -1;
        }
    }
}

/* As the kernel's own check: it works on the VMM's addresses. */
static bool in_guest(uint64_t address, uint64_t size)
{
    for (unsigned i = 0; i < guest_ram_region_count(kernel.ram); i++) {
        const struct guest_ram_region *region = guest_ram_region(kernel.ram, i);
        uint64_t start = (uintptr_t)region->host;

        if (address >= start && address - start <= region->size_bytes &&
            size <= region->size_bytes - (address - start)) {
            return true;
        }
    }
    return false;
}

static void ring_judge(const struct worker *worker, const struct ring *ring)
{
    CHECK(worker->owned && worker->has_memory && ring->count != 0);
    CHECK(in_guest(ring->address.desc_user_addr, 16u * ring->count));
    CHECK(in_guest(ring->address.avail_user_addr, 4 + 2u * ring->count));
    CHECK(in_guest(ring->address.used_user_addr, 4 + 8u * ring->count));
}

static int ring_call(struct worker *worker, unsigned long request, void *argument)
{
    const struct vhost_vring_file *file = argument; /* all begin with the index */
    struct vhost_vring_state *state = argument;
    struct ring *ring = &worker->rings[state->index];

    CHECK(state->index < 2);
    switch (request) {
    case VHOST_SET_VRING_NUM:
        ring->count = state->num;
        break;
    case VHOST_SET_VRING_BASE:
        ring->base = (uint16_t)state->num;
        break;
    case VHOST_GET_VRING_BASE:
        CHECK(ring->tap_fd < 0); /* else it still works */
        state->num = ring->base;
        break;
    case VHOST_SET_VRING_ADDR:
        ring->address = *(const struct vhost_vring_addr *)argument;
        break;
    case VHOST_SET_VRING_KICK:
        ring->kick_fd = file->fd;
        break;
    case VHOST_SET_VRING_CALL:
        ring->call_fd = file->fd;
        break;
    case VHOST_SET_VRING_ERR:
        ring->error_fd = file->fd;
        break;
    default:
        CHECK(request == VHOST_NET_SET_BACKEND);
        ring->tap_fd = file->fd;
        if (file->fd >= 0) {
            ring_judge(worker, ring);
        }
        break;
    }
    return 0;
}

/* Taking a ring back is never refused by the real one either. */
static bool takes_back(unsigned long request, const void *argument)
{
    return (request == VHOST_NET_SET_BACKEND || request == VHOST_SET_VRING_KICK) &&
           ((const struct vhost_vring_file *)argument)->fd < 0;
}

static int vhost_call(struct worker *worker, unsigned long request, void *argument)
{
    if (kernel.calls_left > 0 && !takes_back(request, argument) &&
        --kernel.calls_left == 0) {
        errno = EFAULT;
        return -1;
    }
    switch (request) {
    case VHOST_GET_FEATURES:
        memcpy(argument, &kernel.features, sizeof(kernel.features));
        return 0;
    case VHOST_SET_FEATURES:
        memcpy(&worker->features, argument, sizeof(worker->features));
        return 0;
    case VHOST_SET_OWNER:
        worker->owned = true;
        return 0;
    case VHOST_SET_MEM_TABLE:
        CHECK(worker->owned);
        worker->has_memory = true;
        return 0;
    case VHOST_SET_LOG_BASE:
        memcpy(&worker->log, argument, sizeof(worker->log));
        return 0;
    default:
        return ring_call(worker, request, argument);
    }
}

/* The C library's, for all of the fuzzer. */
int open(const char *path, int flags, ...)
{
    va_list list;
    mode_t mode;

    va_start(list, flags);
    mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
    va_end(list);
    if (strcmp(path, "/dev/vhost-net") != 0) {
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    }
    if (kernel.features == 0 || kernel.worker_count == FUZZ_KERNEL_PAIRS) {
        errno = ENOENT;
        return -1;
    }
    struct worker *worker = &kernel.workers[kernel.worker_count++];
    worker->fd = eventfd(0, EFD_CLOEXEC);
    return worker->fd;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    void *argument;

    va_start(list, request);
    argument = va_arg(list, void *);
    va_end(list);
    for (unsigned i = 0; i < kernel.worker_count && _IOC_TYPE(request) == VHOST_VIRTIO;
         i++) {
        if (kernel.workers[i].fd == fd) {
            return vhost_call(&kernel.workers[i], request, argument);
        }
    }
    return (int)syscall(SYS_ioctl, fd, request, argument);
}

static void signal_fd(int fd)
{
    uint64_t one = 1;

    if (fd >= 0) {
        (void)!write(fd, &one, sizeof(one));
    }
}

/* A worker gives all back that the guest has made available, and notes what it wrote. */
void fuzz_kernel_work(unsigned index)
{
    struct worker *worker = &kernel.workers[index / 2 % FUZZ_KERNEL_PAIRS];
    struct ring *ring = &worker->rings[index % 2];
    uint16_t available;

    if (ring->tap_fd < 0) {
        return;
    }
    ring_judge(worker, ring);
    memcpy(&available, (uint8_t *)(uintptr_t)ring->address.avail_user_addr + 2, 2);
    ring->base = available;
    memcpy((uint8_t *)(uintptr_t)ring->address.used_user_addr + 2, &available, 2);
    if ((worker->features & UINT64_C(1) << LOG_FEATURE) != 0 && worker->log != 0) {
        uint64_t page = ring->address.log_guest_addr / GUEST_PAGE_SIZE;

        CHECK((ring->address.flags & 1u << VHOST_VRING_F_LOG) != 0);
        ((uint64_t *)(uintptr_t)worker->log)[page / 64] |= UINT64_C(1) << page % 64;
    }
    signal_fd(ring->call_fd);
}

static struct ring *ring_at(unsigned index)
{
    return &kernel.workers[index / 2 % FUZZ_KERNEL_PAIRS].rings[index % 2];
}

void fuzz_kernel_offer(uint64_t features)
{
    kernel.features = features;
}

void fuzz_kernel_refuse(unsigned calls)
{
    kernel.calls_left = calls;
}

void fuzz_kernel_broken(unsigned index)
{
    signal_fd(ring_at(index)->error_fd);
}

void fuzz_kernel_base_set(unsigned index, uint16_t base)
{
    ring_at(index)->base = base;
}

bool fuzz_kernel_idle(void)
{
    for (unsigned i = 0; i < 2 * FUZZ_KERNEL_PAIRS; i++) {
        if (ring_at(i)->tap_fd >= 0) {
            return false;
        }
    }
    return true;
}
