/* SPDX-License-Identifier: Apache-2.0 */
/* RDMA, in a build without its libraries' headers. */
#include <errno.h>

#include "base/check.h"
#include "base/err.h"
#include "migration/transport_rdma.h"

int transport_rdma_open(struct transport_rdma **ret_rdma, struct error *err)
{
    (void)ret_rdma;
    return error_set(err, -ENOSYS,
                     "this build has no RDMA: build it with libibverbs-dev and "
                     "librdmacm-dev");
}

/* The others need what open() never gives. */

int transport_rdma_listen(struct transport_rdma *rdma, const char *address,
                          const char *handed, struct transport_listener **ret_listener,
                          struct error *err)
{
    (void)address;
    (void)handed;
    (void)ret_listener;
    CHECK(rdma != NULL);
    return error_set(err, -ENOSYS, "this build has no RDMA");
}

void transport_rdma_listener_address(const struct transport_listener *listener,
                                     char ret_address[TRANSPORT_URI_SIZE])
{
    (void)listener;
    ret_address[0] = '\0';
}

int transport_rdma_settle(struct transport_rdma *rdma, struct error *err)
{
    CHECK(rdma != NULL);
    return error_set(err, -ENOSYS, "this build has no RDMA");
}

int transport_rdma_connect(struct transport_rdma *rdma, const char *address,
                           int cancel_fd, uint32_t wait_ms, uint32_t idle_ms,
                           struct transport_link **ret_link, struct error *err)
{
    (void)address;
    (void)cancel_fd;
    (void)wait_ms;
    (void)idle_ms;
    (void)ret_link;
    CHECK(rdma != NULL);
    return error_set(err, -ENOSYS, "this build has no RDMA");
}

void transport_rdma_close(struct transport_rdma *rdma)
{
    (void)rdma; /* NULL */
}
