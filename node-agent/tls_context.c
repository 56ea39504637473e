/* SPDX-License-Identifier: Apache-2.0 */
/* What OpenSSL is told about the cluster: whom to show, whom to believe. */
#include "node-agent/tls_context.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/tls_stream_private.h"

static int openssl_failed(struct error *err, int code, const char *what, const char *path)
{
    unsigned long number = ERR_peek_last_error();
    const char *reason = number != 0 ? ERR_reason_error_string(number) : NULL;
    ERR_clear_error();
    return error_set(err, code, "%s%s%s: %s", what, path != NULL ? " " : "",
                     path != NULL ? path : "",
                     reason != NULL ? reason : "OpenSSL gives no reason");
}

static void cleanup_context(struct tls_context **context)
{
    tls_context_free(*context);
}

/* Clients that ask for none of ours get none: they say what they want by other means. */
static int alpn_select(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_size,
                       const unsigned char *offered, unsigned offered_size, void *unused)
{
    static const char move[] = TLS_STREAM_ALPN_MOVE;
    (void)ssl;
    (void)unused;
    for (unsigned at = 0; at < offered_size && offered[at] < offered_size - at;
         at += 1u + offered[at]) {
        if (offered[at] == strlen(move) &&
            memcmp(offered + at + 1, move, strlen(move)) == 0) {
            *ret_name = offered + at + 1;
            *ret_size = offered[at];
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_NOACK;
}

static struct tls_context *context_begin(void)
{
    CLEANUP(cleanup_context) struct tls_context *context = calloc(1, sizeof(*context));
    if (context == NULL) {
        return NULL;
    }
    context->ssl = SSL_CTX_new(TLS_method());
    if (context->ssl == NULL ||
        SSL_CTX_set_min_proto_version(context->ssl, TLS1_3_VERSION) != 1) {
        return NULL;
    }
    /* No resumption: each connection proves who it is anew. */
    (void)SSL_CTX_set_num_tickets(context->ssl, 0);
    (void)SSL_CTX_set_session_cache_mode(context->ssl, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_mode(context->ssl, SSL_MODE_RELEASE_BUFFERS);
    return TAKE(context);
}

/* Without this a server's chain has no CA in it, and a joining host could not find the
 * one of its token. */
static int add_ca_to_chain(SSL_CTX *ssl, const char *path)
{
    BIO *bio = BIO_new_file(path, "r");
    X509 *ca = bio == NULL ? NULL : PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    if (ca == NULL || SSL_CTX_add0_chain_cert(ssl, ca) != 1) {
        X509_free(ca);
        return DROVER_EMALFORMED;
    }
    return 0;
}

int tls_context_create_member(const struct tls_files *files,
                              struct tls_context **ret_context, struct error *err)
{
    CLEANUP(cleanup_context) struct tls_context *context = context_begin();
    if (context == NULL) {
        return openssl_failed(err, -ENOMEM, "TLS can't be set up", NULL);
    }
    SSL_CTX *ssl = context->ssl;
    if (SSL_CTX_use_certificate_file(ssl, files->certificate_path, SSL_FILETYPE_PEM) !=
        1) {
        return openssl_failed(
            err, DROVER_EMALFORMED,
            "the host's certificate can't be used:", files->certificate_path);
    }
    if (SSL_CTX_use_PrivateKey_file(ssl, files->key_path, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ssl) != 1) {
        return openssl_failed(err, DROVER_EMALFORMED,
                              "the host's key can't be used:", files->key_path);
    }
    if (SSL_CTX_load_verify_file(ssl, files->ca_path) != 1 ||
        add_ca_to_chain(ssl, files->ca_path) != 0) {
        return openssl_failed(
            err, DROVER_EMALFORMED,
            "the cluster's CA certificate can't be used:", files->ca_path);
    }
    SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_alpn_select_cb(ssl, alpn_select, NULL);
    SSL_CTX_set_keylog_callback(ssl, tls_stream_on_secret);
    if (X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ssl), X509_V_FLAG_NO_CHECK_TIME) !=
        1) {
        return openssl_failed(err, -ENOMEM, "TLS can't be set up", NULL);
    }
    *ret_context = TAKE(context);
    return 0;
}

int tls_context_create_join(const uint8_t ca_sha256[PKI_SHA256_SIZE],
                            struct tls_context **ret_context, struct error *err)
{
    CLEANUP(cleanup_context) struct tls_context *context = context_begin();
    if (context == NULL) {
        return openssl_failed(err, -ENOMEM, "TLS can't be set up", NULL);
    }
    context->pinned = true;
    memcpy(context->ca_sha256, ca_sha256, PKI_SHA256_SIZE);
    /* Judged by tls_context_judge() right after the handshake, before a byte of ours is
     * sent. */
    SSL_CTX_set_verify(context->ssl, SSL_VERIFY_NONE, NULL);
    *ret_context = TAKE(context);
    return 0;
}

void tls_context_free(struct tls_context *context)
{
    if (context != NULL) {
        SSL_CTX_free(context->ssl);
        free(context);
    }
}

/* Whether `leaf` is signed by `ca`, with the checks that OpenSSL has for a chain. */
static bool chain_verifies(X509 *leaf, X509 *ca)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *verify = X509_STORE_CTX_new();
    bool ok = store != NULL && verify != NULL && X509_STORE_add_cert(store, ca) == 1 &&
              X509_STORE_set_flags(store, X509_V_FLAG_NO_CHECK_TIME) == 1 &&
              X509_STORE_CTX_init(verify, store, leaf, NULL) == 1 &&
              X509_STORE_CTX_set_default(verify, "ssl_server") == 1 &&
              X509_verify_cert(verify) == 1;
    X509_STORE_CTX_free(verify);
    X509_STORE_free(store);
    ERR_clear_error();
    return ok;
}

int tls_context_judge(const struct tls_context *context, SSL *connection,
                      struct error *err)
{
    if (!context->pinned) {
        return 0; /* the handshake itself has verified what there is */
    }
    X509 *leaf = SSL_get0_peer_certificate(connection);
    const STACK_OF(X509) *chain = SSL_get_peer_cert_chain(connection);
    for (int i = 0; leaf != NULL && chain != NULL && i < sk_X509_num(chain); i++) {
        uint8_t sha256[PKI_SHA256_SIZE];
        X509 *certificate = sk_X509_value(chain, i);
        if (pki_fingerprint_x509(certificate, sha256) == 0 &&
            memcmp(sha256, context->ca_sha256, PKI_SHA256_SIZE) == 0 &&
            chain_verifies(leaf, certificate)) {
            return 0;
        }
    }
    return error_set(err, DROVER_EPEER,
                     "the host that answered is not of the cluster that made the token: "
                     "check the address in between");
}
