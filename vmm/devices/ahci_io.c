/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading CD-ROM images for the AHCI controller, through io_uring on the VM's I/O loop:
 * one read of a port at a time, into a buffer of ours. Serving commands begins here too.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/devices/ahci_internal.h"
#include "vmm/host/event_loop.h"
#include "vmm/host/ring.h"
#include "vmm/vm.h"

/* Commands of a port before the others get their turn. */
#define RUN_COMMANDS_MAX AHCI_SLOTS

void ahci_kick(struct ahci *ahci)
{
    uint64_t one = 1;
    /* Fails only when the counter is full, and then it is set anyway. */
    ssize_t written = write(ahci->event_fd, &one, sizeof(one));
    (void)written;
}

/* As virtio's devices: a lease may come back before anybody has told us that it was
 * lost. */
static bool io_allowed(struct ahci *ahci)
{
    if (atomic_load(&ahci->stopped)) {
        return false;
    }
    if (vm_io_allowed(ahci->vm)) {
        return true;
    }
    (void)event_loop_timer_set(ahci->retry_timer,
                               clock_now_ns() + AHCI_RETRY_MS * NS_PER_MS);
    return false;
}

static void read_submit(struct ahci_port *port)
{
    struct ahci *ahci = port->ahci;
    uint32_t most = AHCI_CHUNK_BYTES / ATAPI_BLOCK_SIZE;
    uint32_t blocks = port->transfer.blocks_left;
    port->in_flight_bytes = (blocks < most ? blocks : most) * ATAPI_BLOCK_SIZE;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ahci->ring);
    CHECK(sqe != NULL); /* there is one for each port */
    io_uring_prep_read(sqe, port->image.fd, port->buffer, port->in_flight_bytes,
                       (uint64_t)port->transfer.block * ATAPI_BLOCK_SIZE);
    io_uring_sqe_set_data(sqe, port);
    port->in_flight = true;
    port->stale = false;
}

static void port_run(struct ahci_port *port)
{
    for (unsigned i = 0; !port->in_flight; i++) {
        if (i == RUN_COMMANDS_MAX) {
            ahci_kick(port->ahci);
            return;
        }
        if (!port->transfer.active && port->ci == 0) {
            return;
        }
        if (!io_allowed(port->ahci)) {
            return;
        }
        if (port->transfer.active) {
            read_submit(port);
        } else if (!ahci_command_next(port)) {
            return;
        }
    }
}

static void log_once(struct ahci_port *port, int result)
{
    if (!port->error_logged) {
        port->error_logged = true;
        log_error(vm_log(port->ahci->vm),
                  "CD-ROM %s: read of block %" PRIu32
                  " failed: %s (the guest was told; further errors of this image are not "
                  "logged)",
                  port->image.path, port->transfer.block,
                  result < 0 ? err_text(result) : "the file has become shorter");
    }
}

static void read_complete(struct ahci_port *port, int result)
{
    CHECK(port->in_flight);
    port->in_flight = false;
    if (port->stale) {
        port->stale = false;
        return;
    }
    if (result == -EINTR || result == -EAGAIN) {
        return; /* submitted again by the next run */
    }
    /* A short read within the file: the rest follows, block by block. */
    uint32_t whole = result < 0 ? 0 : (uint32_t)result / ATAPI_BLOCK_SIZE;
    if (whole == 0) {
        log_once(port, result);
        ahci_command_read_failed(port);
        return;
    }
    ahci_command_data(port, whole * ATAPI_BLOCK_SIZE);
}

static void completions(struct ahci *ahci)
{
    struct io_uring_cqe *cqe = NULL;
    while (io_uring_peek_cqe(&ahci->ring, &cqe) == 0) {
        struct ahci_port *port = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&ahci->ring, cqe);
        read_complete(port, result);
    }
}

static void run(struct ahci *ahci)
{
    ahci_lock(ahci);
    completions(ahci);
    for (unsigned i = 0; i < ahci->port_count; i++) {
        port_run(&ahci->ports[i]);
    }
    if (io_uring_sq_ready(&ahci->ring) > 0 && io_uring_submit(&ahci->ring) < 0) {
        /* Out of memory. It counts as in flight, so that nobody takes us for quiet. */
        (void)event_loop_timer_set(ahci->retry_timer,
                                   clock_now_ns() + AHCI_RETRY_MS * NS_PER_MS);
    }
    bool drained = atomic_load(&ahci->stopped);
    ahci_unlock(ahci);
    if (drained) {
        vm_device_drained(ahci->vm);
    }
}

static void woken(void *owner, uint32_t epoll_events)
{
    struct ahci *ahci = owner;
    uint64_t count = 0;
    (void)epoll_events;
    ssize_t got = read(ahci->event_fd, &count, sizeof(count));
    (void)got; /* empty is fine: looking once too often does no harm */
    run(ahci);
}

static void retried(void *owner)
{
    run(owner);
}

void ahci_io_stop(struct device *device)
{
    atomic_store(&((struct ahci *)device)->stopped, true);
}

bool ahci_io_drained(struct device *device)
{
    struct ahci *ahci = (struct ahci *)device;
    /* The I/O loop looks at `stopped` under the lock: held means not yet. */
    if (pthread_mutex_trylock(&ahci->lock) != 0) {
        return false;
    }
    bool drained = true;
    for (unsigned i = 0; i < ahci->port_count; i++) {
        drained = drained && !ahci->ports[i].in_flight;
    }
    ahci_unlock(ahci);
    return drained;
}

void ahci_io_start(struct device *device)
{
    struct ahci *ahci = (struct ahci *)device;
    atomic_store(&ahci->stopped, false);
    ahci_kick(ahci);
}

/* Before the loop's thread runs. */
static int loop_join(struct ahci *ahci)
{
    struct event_loop *loop = vm_io_loop(ahci->vm);
    int result = event_loop_timer_create(loop, retried, ahci, &ahci->retry_timer);
    return result < 0 ? result
                      : event_loop_add(loop, ahci->event_fd, EPOLLIN, woken, ahci,
                                       &ahci->event_source);
}

int ahci_io_init(struct ahci *ahci, struct error *err)
{
    int result = ring_open(&ahci->ring, AHCI_CDROMS_MAX);
    if (result < 0) {
        return error_set(
            err, result,
            "no io_uring for the CD-ROMs: %s (sysctl kernel.io_uring_disabled must be 0)",
            err_text(result));
    }
    ahci->ring_ready = true;
    ahci->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ahci->event_fd < 0 ||
        io_uring_register_eventfd(&ahci->ring, ahci->event_fd) < 0 ||
        loop_join(ahci) < 0) {
        return error_set(err, -EMFILE,
                         "no eventfd for the CD-ROMs: raise the limit of open files");
    }
    result = ring_seal(&ahci->ring);
    if (result < 0) {
        return error_set(err, result, "can't restrict the CD-ROMs' io_uring: %s",
                         err_text(result));
    }
    ahci->buffers = calloc(ahci->port_count, AHCI_CHUNK_BYTES);
    if (ahci->buffers == NULL) {
        return error_set(err, -ENOMEM, "no memory for the CD-ROMs");
    }
    for (unsigned i = 0; i < ahci->port_count; i++) {
        ahci->ports[i].buffer = ahci->buffers + (size_t)i * AHCI_CHUNK_BYTES;
    }
    return 0;
}

void ahci_io_done(struct ahci *ahci)
{
    event_loop_remove(ahci->event_source);
    event_loop_remove(ahci->retry_timer);
    if (ahci->ring_ready) {
        io_uring_queue_exit(&ahci->ring);
    }
    if (ahci->event_fd >= 0) {
        (void)close(ahci->event_fd); /* nobody is left to tell */
    }
    free(ahci->buffers);
}
