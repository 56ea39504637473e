/* SPDX-License-Identifier: Apache-2.0 */
/* TLS 1.3 in the kernel: Documentation/networking/tls.rst of Linux. */
#include "node-agent/ktls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/crypto.h>
#include <openssl/ssl.h>

#include "base/cleanup.h"

#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384 (RFC 8446, B.4). */
#define SUITE_AES_128_GCM 0x1301
#define SUITE_AES_256_GCM 0x1302

/* What the kernel takes for one direction. */
union crypto_info {
    struct tls12_crypto_info_aes_gcm_128 gcm_128; /* of TLS 1.3 too: the kernel's name */
    struct tls12_crypto_info_aes_gcm_256 gcm_256;
};

static void sequence_fill(uint64_t records, uint8_t ret_sequence[8])
{
    for (unsigned i = 0; i < 8; i++) {
        ret_sequence[i] = (uint8_t)(records >> (56 - 8 * i));
    }
}

/* The first four bytes of the nonce are the kernel's "salt". */
static socklen_t info_fill(const struct tls_key *key, uint64_t records,
                           union crypto_info *info)
{
    memset(info, 0, sizeof(*info));
    if (key->key_size == TLS_CIPHER_AES_GCM_128_KEY_SIZE) {
        info->gcm_128.info.version = TLS_1_3_VERSION;
        info->gcm_128.info.cipher_type = TLS_CIPHER_AES_GCM_128;
        memcpy(info->gcm_128.key, key->key, sizeof(info->gcm_128.key));
        memcpy(info->gcm_128.salt, key->iv, sizeof(info->gcm_128.salt));
        memcpy(info->gcm_128.iv, key->iv + sizeof(info->gcm_128.salt),
               sizeof(info->gcm_128.iv));
        sequence_fill(records, info->gcm_128.rec_seq);
        return sizeof(info->gcm_128);
    }
    info->gcm_256.info.version = TLS_1_3_VERSION;
    info->gcm_256.info.cipher_type = TLS_CIPHER_AES_GCM_256;
    memcpy(info->gcm_256.key, key->key, sizeof(info->gcm_256.key));
    memcpy(info->gcm_256.salt, key->iv, sizeof(info->gcm_256.salt));
    memcpy(info->gcm_256.iv, key->iv + sizeof(info->gcm_256.salt),
           sizeof(info->gcm_256.iv));
    sequence_fill(records, info->gcm_256.rec_seq);
    return sizeof(info->gcm_256);
}

static int direction_install(int fd, int direction, const uint8_t *secret,
                             size_t secret_size, size_t key_size, uint64_t records)
{
    struct tls_key key;
    union crypto_info info;
    int rv = tls_key_derive(secret, secret_size, key_size, &key);
    if (rv != 0) {
        return rv;
    }
    socklen_t size = info_fill(&key, records, &info);
    rv = setsockopt(fd, SOL_TLS, direction, &info, size) == 0 ? 0 : -errno;
    tls_key_wipe(&key);
    OPENSSL_cleanse(&info, sizeof(info));
    return rv;
}

int ktls_attach(int fd)
{
    /* Once is enough; without keys the socket goes on as before. */
    return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0 ||
                   errno == EEXIST
               ? 0
               : -ENOTSUP;
}

int ktls_install(const struct tls_taken *taken)
{
    const SSL_CIPHER *cipher = SSL_get_current_cipher(taken->ssl);
    unsigned suite = cipher == NULL ? 0 : SSL_CIPHER_get_protocol_id(cipher);
    size_t key_size = suite == SUITE_AES_128_GCM   ? TLS_CIPHER_AES_GCM_128_KEY_SIZE
                      : suite == SUITE_AES_256_GCM ? TLS_CIPHER_AES_GCM_256_KEY_SIZE
                                                   : 0;
    const struct tls_secrets *secrets = &taken->secrets;
    if (key_size == 0 || !tls_secrets_whole(secrets) || ktls_attach(taken->fd) != 0) {
        return -ENOTSUP;
    }
    const uint8_t *out = taken->server ? secrets->server : secrets->client;
    const uint8_t *in = taken->server ? secrets->client : secrets->server;
    /* Up to here there is a way back. */
    if (direction_install(taken->fd, TLS_TX, out, secrets->client_size, key_size,
                          taken->records_out) != 0) {
        return -ENOTSUP;
    }
    int rv = direction_install(taken->fd, TLS_RX, in, secrets->client_size, key_size,
                               taken->records_in);
    return rv == -ENOTSUP ? -EIO : rv;
}

/* Both ends of a connection on the loopback. */
static int pair_open(int *ret_one, int *ret_other)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    CLEANUP(cleanup_fd) int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CLEANUP(cleanup_fd) int one = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || one < 0 ||
        bind(listener, (const struct sockaddr *)&address, size) != 0 ||
        listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0 ||
        connect(one, (const struct sockaddr *)&address, size) != 0) {
        return -errno;
    }
    int other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (other < 0) {
        return -errno;
    }
    *ret_one = take_fd(&one);
    *ret_other = other;
    return 0;
}

int ktls_probe(void)
{
    CLEANUP(cleanup_fd) int one = -1;
    CLEANUP(cleanup_fd) int other = -1;
    const struct tls_key nothing = {.key_size = TLS_CIPHER_AES_GCM_128_KEY_SIZE};
    union crypto_info info; /* protects nothing: one byte of ours goes over it */
    socklen_t size = info_fill(&nothing, 0, &info);
    char byte = 1;
    int rv = pair_open(&one, &other);
    if (rv != 0) {
        return rv;
    }
    if (ktls_attach(one) != 0 || ktls_attach(other) != 0 ||
        setsockopt(one, SOL_TLS, TLS_TX, &info, size) != 0 ||
        setsockopt(other, SOL_TLS, TLS_RX, &info, size) != 0) {
        return -ENOTSUP;
    }
    return send(one, &byte, 1, MSG_NOSIGNAL) == 1 && recv(other, &byte, 1, 0) == 1
               ? 0
               : -ENOTSUP;
}
