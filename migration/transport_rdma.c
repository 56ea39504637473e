/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What links need before there is one: libraries, devices, connection identifiers and
 * event channels.
 *
 * The kernel makes an identifier in the network namespace of the thread that asks, and
 * takes orders through an event channel or a device only from the very credentials that
 * opened it. A VMM in its jail has another network and other credentials. So identifiers
 * are made before, and moved to channels that are opened after the change of user, as the
 * devices are.
 */
#include "migration/transport_rdma.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "migration/transport_rdma_internal.h"
#include "migration/transport_rdma_memory.h"
#include "migration/transport_rdma_setup.h"

#define MANAGER "/dev/infiniband/rdma_cm"

static int channel_open(struct rdma_event_channel **ret_channel)
{
    CLEANUP(cleanup_fd)
    int fd = open(MANAGER, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return -errno;
    }
    struct rdma_event_channel *channel = calloc(1, sizeof(*channel));
    if (channel == NULL) {
        return -ENOMEM;
    }
    channel->fd = take_fd(&fd);
    *ret_channel = channel;
    return 0;
}

static void channel_close(struct rdma_event_channel *channel)
{
    if (channel != NULL) {
        (void)close(channel->fd); /* nobody is left to tell */
        free(channel);
    }
}

struct rdma_event_channel *rdma_channel_take(struct transport_rdma *rdma)
{
    CHECK(pthread_mutex_lock(&rdma->lock) == 0);
    struct rdma_event_channel *channel = NULL;
    if (rdma->channel_count > 0) {
        channel = rdma->channels[--rdma->channel_count];
    }
    CHECK(pthread_mutex_unlock(&rdma->lock) == 0);
    return channel;
}

void rdma_channel_give(struct transport_rdma *rdma, struct rdma_event_channel *channel)
{
    CHECK(pthread_mutex_lock(&rdma->lock) == 0);
    CHECK(rdma->channel_count < RDMA_CHANNELS);
    rdma->channels[rdma->channel_count++] = channel;
    CHECK(pthread_mutex_unlock(&rdma->lock) == 0);
}

struct rdma_cm_id *rdma_id_take(struct transport_rdma *rdma)
{
    CHECK(pthread_mutex_lock(&rdma->lock) == 0);
    struct rdma_cm_id *id = NULL;
    if (rdma->id_count > 0) {
        id = rdma->ids[--rdma->id_count];
        rdma->ids[rdma->id_count] = NULL;
    }
    CHECK(pthread_mutex_unlock(&rdma->lock) == 0);
    return id;
}

/* It has a look for a service of its own at the first question, which no jail allows. */
static void manager_warm(struct transport_rdma *rdma)
{
    const struct rdma_addrinfo hints = {.ai_flags = RAI_NUMERICHOST,
                                        .ai_port_space = RDMA_PS_TCP};
    struct rdma_addrinfo *info = NULL;
    if (rdma->library.manager.getaddrinfo("127.0.0.1", "1", &hints, &info) == 0) {
        rdma->library.manager.freeaddrinfo(info);
    }
}

static int ids_make(struct transport_rdma *rdma, struct error *err)
{
    int rv = channel_open(&rdma->nursery);
    if (rv != 0) {
        return error_set(err, rv, MANAGER ": %s; load the kernel's rdma_ucm (modprobe "
                                          "rdma_ucm)",
                         err_text(rv));
    }
    int count = 0;
    struct ibv_device **list = rdma->library.verbs.get_device_list(&count);
    if (list != NULL) {
        rdma->library.verbs.free_device_list(list);
    }
    if (count == 0) {
        return error_set(err, -ENODEV, "this host has no RDMA device: see 'rdma link'");
    }
    manager_warm(rdma);
    for (; rdma->id_count < TRANSPORT_RDMA_CONNECTS_MAX; rdma->id_count++) {
        if (rdma->library.manager.create_id(rdma->nursery, &rdma->ids[rdma->id_count],
                                            NULL, RDMA_PS_TCP) != 0) {
            return error_set(err, -errno, "RDMA connections can't be made: %s",
                             err_text(-errno));
        }
    }
    return 0;
}

int transport_rdma_open(struct transport_rdma **ret_rdma, struct error *err)
{
    struct transport_rdma *rdma = calloc(1, sizeof(*rdma));
    if (rdma == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    CHECK(pthread_mutex_init(&rdma->lock, NULL) == 0);
    int rv = rdma_library_load(&rdma->library, err);
    if (rv == 0) {
        rv = rdma_memory_create(&rdma->library, &rdma->memory);
        rv = rv != 0 ? error_set(err, rv, "out of memory") : ids_make(rdma, err);
    }
    if (rv != 0) {
        transport_rdma_close(rdma);
        return rv;
    }
    *ret_rdma = rdma;
    return 0;
}

/* All identifiers to channels that this user opened; then its devices. */
static int ids_move(struct transport_rdma *rdma)
{
    struct rdma_event_channel *nursery = NULL;
    int rv = channel_open(&nursery);
    if (rv != 0) {
        return rv;
    }
    for (unsigned i = 0; rv == 0 && i < rdma->id_count; i++) {
        rv = rdma->library.manager.migrate_id(rdma->ids[i], nursery) != 0 ? -errno : 0;
    }
    while (rv == 0 && rdma->channel_count < RDMA_CHANNELS) {
        rv = channel_open(&rdma->channels[rdma->channel_count]);
        rdma->channel_count += rv == 0;
    }
    if (rv == 0 && rdma->listener != NULL) {
        rv = rdma_listener_move(rdma);
    }
    if (rv == 0) {
        channel_close(TAKE(rdma->nursery));
    }
    rdma->left = rdma->nursery; /* after an error some identifiers are still its */
    rdma->nursery = nursery;
    return rv;
}

int transport_rdma_settle(struct transport_rdma *rdma, struct error *err)
{
    int count = 0;
    CHECK(!rdma->settled);
    rdma->settled = true;
    int rv = ids_move(rdma);
    if (rv != 0) {
        return error_set(err, rv, MANAGER ", as the user of the VM: %s", err_text(rv));
    }
    rdma->devices = rdma->library.manager.get_devices(&count);
    if (rdma->devices == NULL || count == 0) {
        return error_set(err, -ENODEV,
                         "no RDMA device can be opened by the user of the VM: see the "
                         "rights of /dev/infiniband/uverbs*");
    }
    return rdma->listener != NULL ? rdma_listener_begin(rdma, err) : 0;
}

void transport_rdma_close(struct transport_rdma *rdma)
{
    if (rdma == NULL) {
        return;
    }
    CHECK(rdma->listener == NULL);
    for (unsigned i = 0; i < rdma->id_count; i++) {
        (void)rdma->library.manager.destroy_id(rdma->ids[i]); /* never used */
    }
    for (unsigned i = 0; i < rdma->channel_count; i++) {
        channel_close(rdma->channels[i]);
    }
    channel_close(rdma->nursery);
    channel_close(rdma->left);
    if (rdma->devices != NULL) {
        rdma->library.manager.free_devices(rdma->devices);
    }
    rdma_memory_free(rdma->memory);
    (void)pthread_mutex_destroy(&rdma->lock); /* nobody holds it */
    free(rdma);
}
