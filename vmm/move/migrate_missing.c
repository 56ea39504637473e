/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is not there yet. The userfaultfd also serves the kernel's own accesses
 * (KVM, vhost, io_uring), which is why it is opened before the jail; other processes' it
 * can't: who has shared the memory rules post-copy out.
 */
#include "vmm/move/migrate_missing.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/move/migrate_guest.h"
#include "vmm/vm.h"

static struct migrate_guest *self_of(struct migration_guest *guest)
{
    return (struct migrate_guest *)guest; /* the first member */
}

static struct guest_ram *ram_of(struct migration_guest *guest)
{
    return vm_ram(self_of(guest)->vm);
}

static uint8_t *host_of(struct migration_guest *guest, unsigned region, uint64_t page)
{
    return guest_ram_region(ram_of(guest), region)->host + page * GUEST_PAGE_SIZE;
}

/* The guest's memory is one mapping. */
static struct uffdio_range whole(struct migration_guest *guest)
{
    return (struct uffdio_range){.start = (uintptr_t)host_of(guest, 0, 0),
                                 .len = guest_ram_size(ram_of(guest))};
}

int migrate_missing_possible(struct migration_guest *guest, struct error *err)
{
    struct guest_ram *ram = ram_of(guest);
    if (self_of(guest)->uffd < 0) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "the target's kernel gives no userfaultfd");
    }
    if (guest_ram_is_shared(ram)) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "on the target other processes use the guest's memory (a disk "
                         "that is not raw, or vhost-user)");
    }
    if (guest_ram_is_huge(ram)) {
        return error_set(err, DROVER_EWRONGSTATE, "its memory is of huge pages");
    }
    if (!guest_ram_can_discard(ram)) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "its memory is pinned for RDMA: move it by tcp");
    }
    return 0;
}

int migrate_missing_begin(struct migration_guest *guest, struct error *err)
{
    struct uffdio_register wanted = {.range = whole(guest),
                                     .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(self_of(guest)->uffd, UFFDIO_REGISTER, &wanted) != 0) {
        return error_set(err, -errno, "the target's kernel: userfaultfd: %s",
                         err_text(-errno));
    }
    self_of(guest)->missing = true;
    guest_ram_filling_set(ram_of(guest), true);
    vm_memory_missing_set(self_of(guest)->vm, true);
    return 0;
}

int migrate_missing_add(struct migration_guest *guest, unsigned region,
                        uint64_t first_page, uint64_t page_count)
{
    const struct guest_ram_region *where = guest_ram_region(ram_of(guest), region);
    return guest_ram_vacate(ram_of(guest), where->gpa + first_page * GUEST_PAGE_SIZE,
                            page_count * GUEST_PAGE_SIZE);
}

/* 1 with the address, 0: nothing after all. */
static int fault_read(int uffd, uint64_t *ret_address)
{
    struct uffd_msg message;
    ssize_t got = read(uffd, &message, sizeof(message));
    if (got < 0) {
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    }
    if (got != (ssize_t)sizeof(message) || message.event != UFFD_EVENT_PAGEFAULT) {
        return 0;
    }
    *ret_address = message.arg.pagefault.address;
    return 1;
}

int migrate_missing_wait(struct migration_guest *guest, int stop_fd, unsigned *ret_region,
                         uint64_t *ret_page)
{
    struct guest_ram *ram = ram_of(guest);
    struct pollfd fds[] = {{.fd = self_of(guest)->uffd, .events = POLLIN},
                           {.fd = stop_fd, .events = POLLIN}};
    uint64_t address = 0;
    int rv = 0;
    while (rv == 0) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            return -errno;
        }
        if ((fds[1].revents & POLLIN) != 0) {
            return 0;
        }
        rv = fault_read(self_of(guest)->uffd, &address);
    }
    for (unsigned i = 0; rv == 1 && i < guest_ram_region_count(ram); i++) {
        const struct guest_ram_region *region = guest_ram_region(ram, i);
        uint64_t offset = address - (uintptr_t)region->host;
        if (offset < region->size_bytes) {
            *ret_region = i;
            *ret_page = offset / GUEST_PAGE_SIZE;
            return 1;
        }
    }
    CHECK(rv < 0); /* it was registered for nothing else */
    return rv;
}

static void wake(struct migration_guest *guest, uint8_t *page)
{
    struct uffdio_range range = {.start = (uintptr_t)page, .len = GUEST_PAGE_SIZE};
    (void)ioctl(self_of(guest)->uffd, UFFDIO_WAKE, &range); /* nobody may be asleep */
}

/* Bytes that were placed, or -errno. */
static int64_t some_place(struct migration_guest *guest, uint8_t *to, uint64_t size,
                          const uint8_t *data)
{
    if (data != NULL) {
        struct uffdio_copy copy = {
            .dst = (uintptr_t)to, .src = (uintptr_t)data, .len = size};
        return ioctl(self_of(guest)->uffd, UFFDIO_COPY, &copy) == 0 || copy.copy > 0
                   ? copy.copy
                   : -errno;
    }
    struct uffdio_zeropage zero = {.range = {.start = (uintptr_t)to, .len = size}};
    return ioctl(self_of(guest)->uffd, UFFDIO_ZEROPAGE, &zero) == 0 || zero.zeropage > 0
               ? zero.zeropage
               : -errno;
}

int migrate_missing_place(struct migration_guest *guest, unsigned region,
                          uint64_t first_page, uint64_t page_count, const uint8_t *data)
{
    uint8_t *host = host_of(guest, region, first_page);
    uint64_t size = page_count * GUEST_PAGE_SIZE;
    uint64_t done = 0;
    while (done < size) {
        int64_t placed = some_place(guest, host + done, size - done,
                                    data == NULL ? NULL : data + done);
        if (placed > 0) {
            done += (uint64_t)placed;
        } else if (placed == -EEXIST) {
            wake(guest, host + done);
            done += GUEST_PAGE_SIZE;
        } else if (placed != -EAGAIN) {
            log_error(vm_log(self_of(guest)->vm), "memory can't be placed vm=%s err=%s",
                      vm_config(self_of(guest)->vm)->name, err_text((int)placed));
            return (int)placed;
        }
    }
    return 0;
}

void migrate_missing_end(struct migration_guest *guest)
{
    if (!self_of(guest)->missing) {
        return;
    }
    self_of(guest)->missing = false;
    struct uffdio_range range = whole(guest);
    CHECK(ioctl(self_of(guest)->uffd, UFFDIO_UNREGISTER, &range) == 0);
    guest_ram_filling_set(ram_of(guest), false);
    vm_memory_missing_set(self_of(guest)->vm, false);
}
