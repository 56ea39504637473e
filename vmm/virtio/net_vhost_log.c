/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that vhost's workers write: a bit for each, which they set. */
#include <errno.h>
#include <stdlib.h>

#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/net_vhost_internal.h"
#include "vmm/vm.h"

static int log_make(struct net_vhost *vhost)
{
    struct guest_ram *ram = vm_ram(vhost->net->virtio.vm);
    const struct guest_ram_region *last =
        guest_ram_region(ram, guest_ram_region_count(ram) - 1);
    uint64_t pages = (last->gpa + last->size_bytes) / GUEST_PAGE_SIZE;

    if (vhost->log == NULL) {
        vhost->log_words = pages / 64 + 1;
        vhost->log = calloc(vhost->log_words, sizeof(uint64_t));
    }
    return vhost->log == NULL ? -ENOMEM : 0;
}

static int log_switch(struct net_vhost *vhost, unsigned pair)
{
    uint64_t features = net_vhost_features(vhost);
    uint64_t address = (uintptr_t)vhost->log;
    int ret = net_vhost_call(vhost->fds[pair], VHOST_SET_LOG_BASE, &address);

    ret = ret < 0 ? ret : net_vhost_call(vhost->fds[pair], VHOST_SET_FEATURES, &features);
    for (unsigned i = 2 * pair; i < 2 * pair + 2 && ret == 0; i++) {
        ret = net_vhost_address_tell(vhost, i);
    }
    return ret;
}

int net_vhost_log(struct net_vhost *vhost, bool on)
{
    int ret = on ? log_make(vhost) : 0;

    if (ret < 0) {
        return ret;
    }
    for (uint64_t i = 0; i < vhost->log_words; i++) {
        atomic_store(&vhost->log[i], 0);
    }
    vhost->logging = on;
    for (unsigned pair = 0; pair < vhost->count && vhost->owned && ret == 0; pair++) {
        uint64_t address = (uintptr_t)vhost->log;

        if (vhost->log == NULL) {
            break; /* was never on */
        }
        ret = pair < vhost->running_pairs
                  ? log_switch(vhost, pair)
                  : net_vhost_call(vhost->fds[pair], VHOST_SET_LOG_BASE, &address);
    }
    return ret;
}

void net_vhost_log_sync(struct net_vhost *vhost, uint64_t gpa, uint64_t size_bytes)
{
    struct guest_ram *ram = vm_ram(vhost->net->virtio.vm);
    uint64_t first = gpa / GUEST_PAGE_SIZE / 64;
    uint64_t last = (gpa + size_bytes - 1) / GUEST_PAGE_SIZE / 64;

    for (uint64_t word = first; word <= last && word < vhost->log_words; word++) {
        uint64_t bits = atomic_load(&vhost->log[word]) != 0
                            ? atomic_exchange(&vhost->log[word], 0)
                            : 0;

        for (; bits != 0; bits &= bits - 1) {
            uint64_t page = word * 64 + (unsigned)__builtin_ctzll(bits);

            guest_ram_mark_dirty(ram, page * GUEST_PAGE_SIZE, 1);
        }
    }
}
