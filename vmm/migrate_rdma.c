/* SPDX-License-Identifier: Apache-2.0 */
/* RDMA of a VM, or why it has none. */
#include "vmm/migrate_rdma.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/transport.h"
#include "migration/transport_rdma.h"

struct migrate_rdma {
    const struct log *log; /* borrowed, as the name */
    const char *name;
    struct transport_rdma *transport; /* NULL: it could not be opened */
    bool settled;                     /* and works */
    char notice[ERROR_TEXT_SIZE + 16];
};

static void missing(struct migrate_rdma *rdma, const struct error *err)
{
    (void)snprintf(rdma->notice, sizeof(rdma->notice), "over TCP: %s", err->text); /* fits */
    log_notice(rdma->log, "no RDMA: moves go over TCP vm=%s why=%s", rdma->name,
               err->text);
}

int migrate_rdma_create(const struct log *log, const char *name,
                        struct migrate_rdma **ret_rdma)
{
    struct migrate_rdma *rdma = calloc(1, sizeof(*rdma));
    if (rdma == NULL) {
        return -ENOMEM;
    }
    *rdma = (struct migrate_rdma){.log = log, .name = name};
    struct error err = {0};
    if (transport_rdma_open(&rdma->transport, &err) != 0) {
        missing(rdma, &err);
    }
    *ret_rdma = rdma;
    return 0;
}

void migrate_rdma_free(struct migrate_rdma *rdma)
{
    if (rdma != NULL) {
        transport_rdma_close(rdma->transport);
        free(rdma);
    }
}

int migrate_rdma_listen(struct migrate_rdma *rdma, const char *address,
                        struct transport_listener **ret_listener, struct error *err)
{
    return rdma->transport != NULL
               ? transport_rdma_listen(rdma->transport, address, ret_listener, err)
               : transport_tcp()->listen(address, ret_listener, err);
}

int migrate_rdma_settle(void *owner, struct error *err)
{
    struct migrate_rdma *rdma = owner;
    struct error why = {0};
    (void)err;
    if (rdma->transport == NULL) {
        return 0;
    }
    rdma->settled = transport_rdma_settle(rdma->transport, &why) == 0;
    if (!rdma->settled) {
        missing(rdma, &why);
    }
    return 0;
}

struct transport_rdma *migrate_rdma_transport(struct migrate_rdma *rdma)
{
    return rdma->settled ? rdma->transport : NULL;
}

const char *migrate_rdma_notice(const struct migrate_rdma *rdma)
{
    return rdma->notice;
}
