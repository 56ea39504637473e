/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The traffic secrets of one TLS 1.3 connection, and the keys that follow from them (RFC
 * 8446, 7.3): what a kernel needs to go on with the connection. Pure. Who has one wipes it.
 */
#ifndef DROVER_NODE_AGENT_TLS_SECRETS_H
#define DROVER_NODE_AGENT_TLS_SECRETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLS_SECRET_SIZE_MAX 48 /* of SHA-384 */
#define TLS_KEY_SIZE_MAX    32
#define TLS_IV_SIZE         12

/* Zeroed: none. */
struct tls_secrets {
    uint8_t client[TLS_SECRET_SIZE_MAX], server[TLS_SECRET_SIZE_MAX];
    size_t client_size, server_size; /* 0: not known yet */
};

struct tls_key {
    uint8_t key[TLS_KEY_SIZE_MAX];
    size_t key_size;
    uint8_t iv[TLS_IV_SIZE];
};

/* A line as OpenSSL's key log has it. Lines of other kinds, and malformed ones, change nothing. */
void tls_secrets_take_line(struct tls_secrets *secrets, const char *line);
/* Both are there, and of one hash. */
bool tls_secrets_whole(const struct tls_secrets *secrets);
void tls_secrets_wipe(struct tls_secrets *secrets);

/* `secret_size` tells the hash: 32 or 48 bytes. -EINVAL, -ENOMEM. */
int tls_key_derive(const uint8_t *secret, size_t secret_size, size_t key_size,
                   struct tls_key *ret_key);
void tls_key_wipe(struct tls_key *key);

#endif
