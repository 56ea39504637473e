/* SPDX-License-Identifier: Apache-2.0 */
/* From a TLS 1.3 connection's traffic secrets to its keys. */
#include "node-agent/tls_secrets.h"

#include <errno.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "base/check.h"

#define SHA256_SIZE 32
#define SHA384_SIZE 48

/* Length (2), label with its length (1 + 6 + 9), context with its length (1). */
#define INFO_SIZE_MAX 32

static int nibble(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* A whole secret in hexadecimal, up to the line's end; 0 if it is none. */
static size_t secret_parse(const char *text, uint8_t ret_secret[TLS_SECRET_SIZE_MAX])
{
    size_t size = strlen(text) / 2;
    uint8_t secret[TLS_SECRET_SIZE_MAX];
    if ((size != SHA256_SIZE && size != SHA384_SIZE) || strlen(text) % 2 != 0) {
        return 0;
    }
    for (size_t i = 0; i < size; i++) {
        int high = nibble(text[2 * i]);
        int low = nibble(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            OPENSSL_cleanse(secret, sizeof(secret));
            return 0;
        }
        secret[i] = (uint8_t)(high << 4 | low);
    }
    memcpy(ret_secret, secret, size);
    OPENSSL_cleanse(secret, sizeof(secret));
    return size;
}

/* What follows "LABEL RANDOM "; NULL: another kind of line. */
static const char *line_secret(const char *line, const char *label)
{
    size_t size = strlen(label);
    if (strncmp(line, label, size) != 0 || line[size] != ' ') {
        return NULL;
    }
    const char *space = strchr(line + size + 1, ' ');
    return space == NULL ? NULL : space + 1;
}

void tls_secrets_take_line(struct tls_secrets *secrets, const char *line)
{
    const char *client = line_secret(line, "CLIENT_TRAFFIC_SECRET_0");
    const char *server = line_secret(line, "SERVER_TRAFFIC_SECRET_0");
    if (client != NULL && secrets->client_size == 0) {
        secrets->client_size = secret_parse(client, secrets->client);
    } else if (server != NULL && secrets->server_size == 0) {
        secrets->server_size = secret_parse(server, secrets->server);
    }
}

bool tls_secrets_whole(const struct tls_secrets *secrets)
{
    return secrets->client_size != 0 && secrets->client_size == secrets->server_size;
}

void tls_secrets_wipe(struct tls_secrets *secrets)
{
    OPENSSL_cleanse(secrets, sizeof(*secrets));
}

/* struct HkdfLabel of RFC 8446, 7.1, with an empty context. */
static size_t info_fill(const char *label, size_t size, uint8_t info[INFO_SIZE_MAX])
{
    static const char prefix[] = "tls13 ";
    size_t prefix_size = strlen(prefix);
    size_t label_size = strlen(label);
    CHECK(4 + prefix_size + label_size <= INFO_SIZE_MAX && size <= UINT8_MAX);
    info[0] = 0;
    info[1] = (uint8_t)size;
    info[2] = (uint8_t)(prefix_size + label_size);
    memcpy(info + 3, prefix, prefix_size);
    memcpy(info + 3 + prefix_size, label, label_size);
    info[3 + prefix_size + label_size] = 0;
    return 4 + prefix_size + label_size;
}

/* HKDF-Expand-Label. */
static int expand(const uint8_t *secret, size_t secret_size, const char *label,
                  uint8_t *ret_data, size_t size)
{
    uint8_t info[INFO_SIZE_MAX];
    size_t info_size = info_fill(label, size, info);
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
    const char *digest = secret_size == SHA256_SIZE ? "SHA256" : "SHA384";
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *context = kdf == NULL ? NULL : EVP_KDF_CTX_new(kdf);
    EVP_KDF_free(kdf);
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret,
                                          secret_size),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, info_size),
        OSSL_PARAM_construct_end(),
    };
    bool done =
        context != NULL && EVP_KDF_derive(context, ret_data, size, parameters) == 1;
    EVP_KDF_CTX_free(context);
    ERR_clear_error();
    return done ? 0 : -ENOMEM;
}

int tls_key_derive(const uint8_t *secret, size_t secret_size, size_t key_size,
                   struct tls_key *ret_key)
{
    struct tls_key key = {.key_size = key_size};
    if ((secret_size != SHA256_SIZE && secret_size != SHA384_SIZE) ||
        (key_size != 16 && key_size != TLS_KEY_SIZE_MAX)) {
        return -EINVAL;
    }
    int rv = expand(secret, secret_size, "key", key.key, key_size);
    rv = rv != 0 ? rv : expand(secret, secret_size, "iv", key.iv, sizeof(key.iv));
    if (rv == 0) {
        *ret_key = key;
    }
    tls_key_wipe(&key);
    return rv;
}

void tls_key_wipe(struct tls_key *key)
{
    OPENSSL_cleanse(key, sizeof(*key));
}
