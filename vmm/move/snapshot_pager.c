/* SPDX-License-Identifier: Apache-2.0 */
/* Threads: one serves faults, the others go through the map from its start. Who comes second to a page finds it there. */
#include "vmm/move/snapshot_pager.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/memory/guest_ram.h"

#define PAGE         ((size_t)GUEST_PAGE_SIZE)
#define FILLERS_MAX  4u
#define UNIT_PAGES   256u /* what a filler takes at a time */
#define FAULT_PAGES  16u  /* what a fault brings along, at most */
#define FAULTS_A_GO  16u
#define STACK_BYTES  (64u * 1024u)
#define NO_PAGE      UINT64_MAX

struct snapshot_pager {
    struct snapshot_pager_config config;
    uint8_t *base; /* the guest's memory is one mapping, in the order of the file */
    uint64_t size_bytes;
    bool lazy;
    int stop_fd;
    pthread_t fault_thread;
    bool has_fault_thread;
    pthread_t fillers[FILLERS_MAX];
    unsigned filler_count;
    atomic_uint fillers_left;
    atomic_bool stopping;
    _Atomic(uint64_t) next_unit;
    _Atomic(uint64_t) bad_page; /* eager: what the caller is told */
    atomic_int error;
};

int snapshot_pager_uffd(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
#ifdef USERFAULTFD_IOC_NEW
    if (fd < 0) {
        CLEANUP(cleanup_fd) int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    }
#endif
    struct uffdio_api api = {.api = UFFD_API};
    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) != 0) {
        (void)close(fd); /* it is of no use */
        fd = -1;
    }
    return fd;
}

/* ---- reading ----------------------------------------------------------------------- */

/* `count` pages that all are in the file, judged. */
static int pages_read(struct snapshot_pager *pager, uint64_t page, unsigned count,
                      uint8_t *data, uint64_t *ret_bad)
{
    size_t size = count * PAGE;
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(pager->config.memory_fd, data + done, size - done,
                            (off_t)(page * PAGE + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            *ret_bad = page + done / PAGE;
            return got < 0 ? -errno : DROVER_EMALFORMED;
        }
        done += (size_t)got;
    }
    for (unsigned i = 0; i < count; i++) {
        if (snapshot_map_sum(pager->config.map, data + i * PAGE) !=
            snapshot_map_get(pager->config.map, page + i)) {
            *ret_bad = page + i;
            return DROVER_EMALFORMED;
        }
    }
    return 0;
}

static _Noreturn void give_up(struct snapshot_pager *pager, uint64_t page, int error)
{
    log_error(pager->config.log,
              "the VM ends: page %llu of the snapshot is not as it was saved, or can't be "
              "read: take another snapshot vm=%s err=%s",
              (unsigned long long)page, pager->config.name, err_text(error));
    _exit(EXIT_FAILURE);
}

/* How many pages from `page` on are in the file, without a gap; at most `most`. */
static unsigned run_length(const struct snapshot_pager *pager, uint64_t page,
                           unsigned most)
{
    unsigned count = 0;
    while (count < most && page + count < pager->config.map->page_count &&
           snapshot_map_get(pager->config.map, page + count) != 0) {
        count++;
    }
    return count;
}

/* ---- placing ----------------------------------------------------------------------- */

static void wake(struct snapshot_pager *pager, uint64_t page)
{
    struct uffdio_range range = {.start = (uintptr_t)(pager->base + page * PAGE),
                                 .len = PAGE};
    (void)ioctl(pager->config.uffd, UFFDIO_WAKE, &range); /* nobody may be asleep */
}

/* Puts pages where they belong, unless something is there already. */
static void pages_place(struct snapshot_pager *pager, uint64_t page, unsigned count,
                        const uint8_t *data)
{
    unsigned done = 0;
    while (done < count) {
        struct uffdio_copy copy = {
            .dst = (uintptr_t)(pager->base + (page + done) * PAGE),
            .src = (uintptr_t)(data + done * PAGE),
            .len = (count - done) * PAGE,
        };
        if (ioctl(pager->config.uffd, UFFDIO_COPY, &copy) == 0) {
            return;
        }
        if (copy.copy > 0) {
            done += (unsigned)((size_t)copy.copy / PAGE);
        } else if (errno == EEXIST) {
            wake(pager, page + done);
            done++;
        } else if (errno != EAGAIN) {
            give_up(pager, page + done, -errno);
        }
    }
}

static void zero_place(struct snapshot_pager *pager, uint64_t page)
{
    struct uffdio_zeropage zero = {
        .range = {.start = (uintptr_t)(pager->base + page * PAGE), .len = PAGE}};
    while (ioctl(pager->config.uffd, UFFDIO_ZEROPAGE, &zero) != 0) {
        if (errno == EEXIST) {
            wake(pager, page);
            return;
        }
        if (errno != EAGAIN) {
            give_up(pager, page, -errno);
        }
    }
}

/* ---- the threads ------------------------------------------------------------------- */

static void fault_serve(struct snapshot_pager *pager, uint64_t address, uint8_t *data)
{
    uint64_t page = (address - (uintptr_t)pager->base) / PAGE;
    CHECK(page < pager->config.map->page_count);
    unsigned count = run_length(pager, page, FAULT_PAGES);
    uint64_t bad = page;
    if (count == 0) {
        zero_place(pager, page);
        return;
    }
    int rv = pages_read(pager, page, count, data, &bad);
    if (rv != 0) {
        give_up(pager, bad, rv);
    }
    pages_place(pager, page, count, data);
}

static void *fault_main(void *owner)
{
    struct snapshot_pager *pager = owner;
    (void)pthread_setname_np(pthread_self(), "pager"); /* for people only */
    if (pager->config.begun != NULL) {
        pager->config.begun(pager->config.owner);
    }
    uint8_t *data = NULL;
    CHECK(posix_memalign((void **)&data, PAGE, FAULT_PAGES * PAGE) == 0);
    struct pollfd fds[] = {{.fd = pager->config.uffd, .events = POLLIN},
                           {.fd = pager->stop_fd, .events = POLLIN}};
    while (poll(fds, 2, -1) >= 0 || errno == EINTR) {
        if ((fds[1].revents & POLLIN) != 0) {
            break;
        }
        struct uffd_msg messages[FAULTS_A_GO];
        ssize_t got = read(pager->config.uffd, messages, sizeof(messages));
        for (ssize_t i = 0; i < got / (ssize_t)sizeof(messages[0]); i++) {
            if (messages[i].event == UFFD_EVENT_PAGEFAULT) {
                fault_serve(pager, messages[i].arg.pagefault.address, data);
            }
        }
    }
    free(data);
    return NULL;
}

static void unit_fill_lazily(struct snapshot_pager *pager, uint64_t page, unsigned count,
                             uint8_t *data)
{
    uint64_t bad = page;
    int rv = pages_read(pager, page, count, data, &bad);
    if (rv != 0) {
        give_up(pager, bad, rv);
    }
    pages_place(pager, page, count, data);
}

/* One unit: its runs of pages, one after the other. */
static int unit_fill(struct snapshot_pager *pager, uint64_t first, uint8_t *data,
                     uint64_t *ret_bad)
{
    uint64_t end = first + UNIT_PAGES;
    end = end < pager->config.map->page_count ? end : pager->config.map->page_count;
    for (uint64_t page = first; page < end;) {
        unsigned count = run_length(pager, page, (unsigned)(end - page));
        if (count == 0) {
            page++;
            continue;
        }
        if (pager->lazy) {
            unit_fill_lazily(pager, page, count, data);
        } else {
            int rv = pages_read(pager, page, count, pager->base + page * PAGE, ret_bad);
            if (rv != 0) {
                return rv;
            }
        }
        page += count;
    }
    return 0;
}

/* All is there: nobody needs to wait for a page any more. */
static void lazy_end(struct snapshot_pager *pager)
{
    struct uffdio_range range = {.start = (uintptr_t)pager->base,
                                 .len = pager->size_bytes};
    CHECK(ioctl(pager->config.uffd, UFFDIO_UNREGISTER, &range) == 0);
    guest_ram_filling_set(pager->config.ram, false);
    log_info(pager->config.log, "all of the snapshot's memory is here vm=%s",
               pager->config.name);
    (void)eventfd_write(pager->stop_fd, 1); /* full means that it is readable */
}

static void *filler_main(void *owner)
{
    struct snapshot_pager *pager = owner;
    if (pager->config.begun != NULL) {
        pager->config.begun(pager->config.owner);
    }
    uint8_t *data = NULL;
    CHECK(posix_memalign((void **)&data, PAGE, UNIT_PAGES * PAGE) == 0);
    uint64_t units = (pager->config.map->page_count + UNIT_PAGES - 1) / UNIT_PAGES;
    uint64_t unit = 0;
    while (!atomic_load(&pager->stopping) && atomic_load(&pager->error) == 0 &&
           (unit = atomic_fetch_add(&pager->next_unit, 1)) < units) {
        uint64_t bad = NO_PAGE;
        int rv = unit_fill(pager, unit * UNIT_PAGES, data, &bad);
        if (rv != 0) {
            atomic_store(&pager->bad_page, bad);
            atomic_store(&pager->error, rv);
        }
    }
    free(data);
    bool last = atomic_fetch_sub(&pager->fillers_left, 1) == 1;
    if (last && pager->lazy && !atomic_load(&pager->stopping)) {
        lazy_end(pager);
    }
    return NULL;
}

/* ---- start and end ----------------------------------------------------------------- */

/* Pages can be waited for: nobody else writes to this memory, and none of it is there. */
static bool lazy_possible(struct snapshot_pager *pager)
{
    struct guest_ram *ram = pager->config.ram;
    if (pager->config.uffd < 0 || guest_ram_is_reserved(ram) || guest_ram_is_shared(ram)) {
        return false;
    }
    for (unsigned i = 0; i < guest_ram_region_count(ram); i++) {
        uint64_t start = 0;
        uint64_t end = 0;
        if (guest_ram_populated(ram, i, 0, &start, &end) != 0) {
            return false;
        }
    }
    struct uffdio_register wanted = {
        .range = {.start = (uintptr_t)pager->base, .len = pager->size_bytes},
        .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(pager->config.uffd, UFFDIO_REGISTER, &wanted) == 0;
}

static int thread_start(pthread_t *thread, void *(*function)(void *), void *owner)
{
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, STACK_BYTES) == 0);
    int rv = -pthread_create(thread, &attributes, function, owner);
    (void)pthread_attr_destroy(&attributes); /* can't fail */
    return rv;
}

static int threads_start(struct snapshot_pager *pager)
{
    unsigned most = pager->config.threads;
    unsigned wanted = most < FILLERS_MAX ? most : FILLERS_MAX;
    int rv = 0;
    if (pager->lazy) {
        rv = thread_start(&pager->fault_thread, fault_main, pager);
        pager->has_fault_thread = rv == 0;
    }
    /* Counted before, so that the first does not take itself for the last. */
    atomic_store(&pager->fillers_left, wanted);
    for (unsigned i = 0; i < wanted && rv == 0; i++) {
        rv = thread_start(&pager->fillers[i], filler_main, pager);
        pager->filler_count += rv == 0 ? 1 : 0;
    }
    return rv;
}

static void fillers_join(struct snapshot_pager *pager)
{
    for (unsigned i = 0; i < pager->filler_count; i++) {
        CHECK(pthread_join(pager->fillers[i], NULL) == 0);
    }
    pager->filler_count = 0;
}

static int start(struct snapshot_pager *pager, struct error *err)
{
    pager->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pager->stop_fd < 0) {
        return error_set(err, -errno, "no eventfd: raise the limit of open files");
    }
    pager->lazy = lazy_possible(pager);
    if (pager->lazy) {
        guest_ram_filling_set(pager->config.ram, true);
    }
    int rv = threads_start(pager);
    if (rv != 0) {
        return error_set(err, rv, "can't start a thread: %s", err_text(rv));
    }
    if (!pager->lazy) {
        fillers_join(pager);
        rv = atomic_load(&pager->error);
    }
    return rv == 0 ? 0
                   : error_set(err, rv,
                               "page %llu of the snapshot is not as it was saved, or "
                               "can't be read (%s): take another snapshot",
                               (unsigned long long)atomic_load(&pager->bad_page),
                               err_text(rv));
}

int snapshot_pager_start(const struct snapshot_pager_config *config,
                         struct snapshot_pager **ret_pager, struct error *err)
{
    struct snapshot_pager *pager = calloc(1, sizeof(*pager));
    if (pager == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    pager->config = *config;
    pager->base = guest_ram_region(config->ram, 0)->host;
    pager->size_bytes = guest_ram_size(config->ram);
    pager->stop_fd = -1;
    CHECK(config->threads >= 1);
    CHECK(config->map->page_count * PAGE == pager->size_bytes);
    int rv = start(pager, err);
    if (rv != 0) {
        snapshot_pager_free(pager);
        return rv;
    }
    *ret_pager = pager;
    return 0;
}

bool snapshot_pager_is_lazy(const struct snapshot_pager *pager)
{
    return pager->lazy;
}

void snapshot_pager_free(struct snapshot_pager *pager)
{
    if (pager == NULL) {
        return;
    }
    atomic_store(&pager->stopping, true);
    fillers_join(pager);
    if (pager->has_fault_thread) {
        (void)eventfd_write(pager->stop_fd, 1); /* full means that it is readable */
        CHECK(pthread_join(pager->fault_thread, NULL) == 0);
    }
    if (pager->lazy) {
        guest_ram_filling_set(pager->config.ram, false);
    }
    cleanup_fd(&pager->stop_fd);
    free(pager);
}
