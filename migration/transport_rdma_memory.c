/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory, registered in chunks. */
#include "migration/transport_rdma_memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "migration/transport_rdma_library.h"
#include "migration/transport_rdma_wire.h"

struct region {
    uint8_t *host;
    uint64_t size_bytes;
    uint32_t chunk_count;
    struct ibv_mr **chunks; /* NULL: not registered */
};

struct rdma_memory {
    const struct rdma_library *library; /* borrowed */
    pthread_mutex_t lock;
    unsigned links;
    struct ibv_context *device; /* NULL: no link yet */
    struct ibv_pd *pd;
    int access;
    bool offered, writable;
    struct region regions[TRANSPORT_REGIONS_MAX];
    unsigned region_count;
};

int rdma_memory_create(const struct rdma_library *library,
                       struct rdma_memory **ret_memory)
{
    struct rdma_memory *memory = calloc(1, sizeof(*memory));
    if (memory == NULL) {
        return -ENOMEM;
    }
    memory->library = library;
    CHECK(pthread_mutex_init(&memory->lock, NULL) == 0);
    *ret_memory = memory;
    return 0;
}

void rdma_memory_free(struct rdma_memory *memory)
{
    if (memory != NULL) {
        CHECK(memory->links == 0 && memory->pd == NULL);
        (void)pthread_mutex_destroy(&memory->lock); /* nobody holds it */
        free(memory);
    }
}

/* Whether the device follows the page tables by itself, so that nothing is pinned. */
static bool pages_on_demand(struct ibv_context *device)
{
    struct ibv_device_attr_ex attributes = {0};
    const struct verbs_context *verbs = verbs_get_ctx_op(device, query_device_ex);
    uint32_t wanted = IBV_ODP_SUPPORT_SEND | IBV_ODP_SUPPORT_WRITE;
    return verbs != NULL &&
           verbs->query_device_ex(device, NULL, &attributes, sizeof(attributes)) == 0 &&
           (attributes.odp_caps.general_caps & IBV_ODP_SUPPORT) != 0 &&
           (attributes.odp_caps.per_transport_caps.rc_odp_caps & wanted) == wanted;
}

int rdma_memory_join(struct rdma_memory *memory, struct ibv_context *device,
                     struct ibv_pd **ret_pd)
{
    int rv = 0;
    CHECK(pthread_mutex_lock(&memory->lock) == 0);
    if (memory->links == 0) {
        CHECK(memory->pd == NULL);
        memory->pd = memory->library->verbs.alloc_pd(device);
        rv = memory->pd == NULL ? -errno : 0;
        memory->device = device;
        memory->access = pages_on_demand(device) ? IBV_ACCESS_ON_DEMAND : 0;
    } else if (memory->device != device) {
        rv = -EXDEV;
    }
    if (rv == 0) {
        memory->links++;
        *ret_pd = memory->pd;
    }
    CHECK(pthread_mutex_unlock(&memory->lock) == 0);
    return rv;
}

static void regions_forget(struct rdma_memory *memory)
{
    for (unsigned i = 0; i < memory->region_count; i++) {
        struct region *region = &memory->regions[i];
        for (uint32_t chunk = 0; chunk < region->chunk_count; chunk++) {
            if (region->chunks[chunk] != NULL) {
                /* Fails only if it is in use; and no queue pair is left. */
                CHECK(memory->library->verbs.dereg_mr(region->chunks[chunk]) == 0);
            }
        }
        free(region->chunks);
        *region = (struct region){0};
    }
    memory->region_count = 0;
    memory->offered = false;
}

void rdma_memory_leave(struct rdma_memory *memory)
{
    CHECK(pthread_mutex_lock(&memory->lock) == 0);
    CHECK(memory->links > 0);
    memory->links--;
    if (memory->links == 0) {
        regions_forget(memory);
        CHECK(memory->library->verbs.dealloc_pd(memory->pd) == 0);
        memory->pd = NULL;
        memory->device = NULL;
    }
    CHECK(pthread_mutex_unlock(&memory->lock) == 0);
}

static bool same_offer(const struct rdma_memory *memory,
                       const struct transport_region *regions, unsigned count,
                       bool writable)
{
    bool same = memory->region_count == count && memory->writable == writable;
    for (unsigned i = 0; same && i < count; i++) {
        same = memory->regions[i].host == regions[i].host &&
               memory->regions[i].size_bytes == regions[i].size_bytes;
    }
    return same;
}

static int offer(struct rdma_memory *memory, const struct transport_region *regions,
                 unsigned count, bool writable)
{
    memory->writable = writable;
    for (unsigned i = 0; i < count; i++) {
        struct region *region = &memory->regions[i];
        uint64_t chunks =
            (regions[i].size_bytes + RDMA_CHUNK_BYTES - 1) / RDMA_CHUNK_BYTES;
        CHECK(chunks <= UINT32_MAX);
        *region = (struct region){.host = regions[i].host,
                                  .size_bytes = regions[i].size_bytes,
                                  .chunk_count = (uint32_t)chunks};
        region->chunks = calloc(chunks, sizeof(*region->chunks));
        memory->region_count = i + 1;
        if (region->chunks == NULL) {
            region->chunk_count = 0;
            regions_forget(memory);
            return -ENOMEM;
        }
    }
    memory->offered = true;
    return 0;
}

int rdma_memory_offer(struct rdma_memory *memory, const struct transport_region *regions,
                      unsigned count, bool writable)
{
    CHECK(count <= TRANSPORT_REGIONS_MAX);
    CHECK(pthread_mutex_lock(&memory->lock) == 0);
    int rv = !memory->offered ? offer(memory, regions, count, writable)
             : same_offer(memory, regions, count, writable) ? 0
                                                            : DROVER_EINUSE;
    CHECK(pthread_mutex_unlock(&memory->lock) == 0);
    return rv;
}

int rdma_memory_chunk(struct rdma_memory *memory, unsigned region_index, uint32_t chunk,
                      struct ibv_mr **ret_mr)
{
    int rv = 0;
    CHECK(pthread_mutex_lock(&memory->lock) == 0);
    struct region *region = &memory->regions[region_index % TRANSPORT_REGIONS_MAX];
    if (region_index >= memory->region_count || chunk >= region->chunk_count) {
        rv = DROVER_EBADINPUT;
    } else if (region->chunks[chunk] == NULL) {
        uint64_t start = (uint64_t)chunk * RDMA_CHUNK_BYTES;
        uint64_t size = region->size_bytes - start;
        size = size < RDMA_CHUNK_BYTES ? size : RDMA_CHUNK_BYTES;
        int access = memory->access |
                     (memory->writable ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE
                                       : 0);
        region->chunks[chunk] = memory->library->verbs.reg_mr(
            memory->pd, region->host + start, size, access);
        rv = region->chunks[chunk] == NULL ? -errno : 0;
    }
    if (rv == 0) {
        *ret_mr = region->chunks[chunk];
    }
    CHECK(pthread_mutex_unlock(&memory->lock) == 0);
    return rv;
}
