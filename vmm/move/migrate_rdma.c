/* SPDX-License-Identifier: Apache-2.0 */
/* RDMA of a VM, or why it has none. */
#include "vmm/move/migrate_rdma.h"

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
    const struct transport_listener *listener; /* of an arrival beside "handed:"; borrowed */
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
               ? transport_rdma_listen(rdma->transport, address, NULL, ret_listener, err)
               : transport_tcp()->listen(address, ret_listener, err);
}

int migrate_rdma_listen_beside(struct migrate_rdma *rdma, const char *address,
                               const char *handed_uri,
                               struct transport_listener **ret_listener, struct error *err)
{
    const struct transport_ops *transport = NULL;
    const char *handed = NULL;
    struct error why = {0};
    int rv = transport_find(handed_uri, &transport, &handed, err);
    if (rv != 0) {
        return rv;
    }
    if (transport != transport_handed()) {
        return error_set(err, DROVER_EBADINPUT,
                         "--incoming-rdma goes with --incoming handed only: give --incoming "
                         "rdma:HOST:PORT");
    }
    if (rdma->transport != NULL &&
        transport_rdma_listen(rdma->transport, address, handed, ret_listener, &why) == 0) {
        rdma->listener = *ret_listener;
        return 0;
    }
    if (rdma->transport != NULL) {
        missing(rdma, &why);
    }
    return transport->listen(handed, ret_listener, err);
}

void migrate_rdma_incoming(const struct migrate_rdma *rdma,
                           char ret_address[TRANSPORT_URI_SIZE])
{
    ret_address[0] = '\0';
    if (rdma->settled && rdma->listener != NULL) {
        transport_rdma_listener_address(rdma->listener, ret_address);
    }
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
