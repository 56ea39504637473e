/* SPDX-License-Identifier: Apache-2.0 */
/* Which transport a URI names. */
#include "migration/transport.h"

#include <string.h>

#include "base/clock.h"
#include "base/err.h"

#define LINGER_READS 4096u

int transport_find(const char *uri, const struct transport_ops **ret_ops,
                   const char **ret_address, struct error *err)
{
    const struct transport_ops *const known[] = {transport_tcp(), transport_handed()};
    const char *colon = strchr(uri, ':');
    if (strcmp(uri, transport_handed()->scheme) == 0) {
        *ret_ops = transport_handed();
        *ret_address = uri + strlen(uri); /* it needs none */
        return 0;
    }
    if (colon == NULL || strlen(uri) >= TRANSPORT_URI_SIZE) {
        return error_set(err, DROVER_EBADINPUT,
                         "'%s' is not a migration address: use tcp:HOST:PORT or rdma:HOST:PORT", uri);
    }
    size_t scheme_size = (size_t)(colon - uri);
    if (strncmp(uri, "rdma:", 5) == 0) {
        /* Its links are made by who has opened the devices; this is what else works. */
        *ret_ops = transport_tcp();
        *ret_address = colon + 1;
        return 0;
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strlen(known[i]->scheme) == scheme_size &&
            memcmp(uri, known[i]->scheme, scheme_size) == 0) {
            *ret_ops = known[i];
            *ret_address = colon + 1;
            return 0;
        }
    }
    return error_set(err, DROVER_EBADINPUT,
                     "this build can't migrate over '%.*s': use tcp:HOST:PORT or rdma:HOST:PORT",
                     (int)scheme_size, uri);
}

void transport_link_linger(struct transport_link *link, uint32_t ms)
{
    uint8_t waste[16384];
    struct iovec iov = {.iov_base = waste, .iov_len = sizeof(waste)};
    size_t size;
    uint64_t until_ms = clock_now_ms() + ms;
    for (unsigned i = 0; i < LINGER_READS && clock_now_ms() < until_ms; i++) {
        if (link->ops->recv(link, &iov, 1, ms, &size) != 0) {
            return;
        }
    }
}

void transport_link_close(struct transport_link *link)
{
    if (link != NULL) {
        link->ops->close(link);
    }
}

void transport_listener_close(struct transport_listener *listener)
{
    if (listener != NULL) {
        listener->ops->close(listener);
    }
}
