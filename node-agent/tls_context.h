/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a TLS context, for tls_stream.c. Loop thread. */
#ifndef DROVER_NODE_AGENT_TLS_CONTEXT_H
#define DROVER_NODE_AGENT_TLS_CONTEXT_H

#include <stdbool.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "node-agent/tls_stream.h"

struct tls_context {
    SSL_CTX *ssl;
    bool pinned; /* believes only the CA of this fingerprint */
    uint8_t ca_sha256[PKI_SHA256_SIZE];
};

/* Right after a handshake: 0, or DROVER_EPEER. */
int tls_context_judge(const struct tls_context *context, SSL *connection, struct error *err);

#endif
