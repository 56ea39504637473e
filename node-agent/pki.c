/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster's keys and certificates. */
#include "node-agent/pki.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/config.h"

#define URI_PREFIX    "drover:cluster/"
#define URI_MIDDLE    "/host/"
#define SERIAL_SIZE   16
#define BACKDATE_DAYS 2 /* hosts' clocks differ */

static void done_bio(BIO **bio)
{
    BIO_free_all(*bio);
}

static void done_key(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

static void done_x509(X509 **certificate)
{
    X509_free(*certificate);
}

static void done_csr(X509_REQ **csr)
{
    X509_REQ_free(*csr);
}

static void done_names(GENERAL_NAMES **names)
{
    GENERAL_NAMES_free(*names);
}

/* OpenSSL's last word, as our one line. Empties its queue of errors. */
static int openssl_failed(struct error *err, int code, const char *what)
{
    unsigned long number = ERR_get_error();
    const char *reason = number != 0 ? ERR_reason_error_string(number) : NULL;
    ERR_clear_error();
    return error_set(err, code, "%s: %s", what,
                     reason != NULL ? reason : "OpenSSL gives no reason");
}

/* ---- PEM in and out ---- */

static int append_bio(BIO *bio, struct buffer *out)
{
    char *data = NULL;
    long size = BIO_get_mem_data(bio, &data);
    return size <= 0 ? -ENOMEM : buffer_append(out, data, (size_t)size);
}

static int key_to_pem(EVP_PKEY *key, struct buffer *out)
{
    CLEANUP(done_bio) BIO *bio = BIO_new(BIO_s_mem());
    if (bio == NULL ||
        PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1) {
        return -ENOMEM;
    }
    return append_bio(bio, out);
}

static int certificate_to_pem(X509 *certificate, struct buffer *out)
{
    CLEANUP(done_bio) BIO *bio = BIO_new(BIO_s_mem());
    if (bio == NULL || PEM_write_bio_X509(bio, certificate) != 1) {
        return -ENOMEM;
    }
    return append_bio(bio, out);
}

static BIO *pem_bio(const void *pem, size_t size)
{
    if (pem == NULL || size == 0 || size > PKI_PEM_SIZE_MAX) {
        return NULL;
    }
    return BIO_new_mem_buf(pem, (int)size);
}

/* A key that is encrypted must not make OpenSSL ask on the terminal. */
static int no_passphrase(char *text, int size, int writing, void *owner)
{
    return -1;
}

static EVP_PKEY *key_from_pem(const void *pem, size_t size)
{
    CLEANUP(done_bio) BIO *bio = pem_bio(pem, size);
    return bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
}

static X509 *certificate_from_pem(const void *pem, size_t size)
{
    CLEANUP(done_bio) BIO *bio = pem_bio(pem, size);
    return bio == NULL ? NULL : PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
}

/* ---- making certificates ---- */

static int set_serial(X509 *certificate)
{
    uint8_t bytes[SERIAL_SIZE];
    int rv = id_random_bytes(bytes, sizeof(bytes));
    if (rv != 0) {
        return rv;
    }
    bytes[0] =
        (uint8_t)((bytes[0] & 0x7f) | 0x40); /* positive, and always of this length */
    BIGNUM *number = BN_bin2bn(bytes, sizeof(bytes), NULL);
    bool ok = number != NULL &&
              BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;
    BN_free(number);
    return ok ? 0 : -ENOMEM;
}

static bool add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    bool ok = extension != NULL && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return ok;
}

static bool set_common_name(X509_NAME *name, const char *organization, const char *common)
{
    return X509_NAME_add_entry_by_txt(name, "O", MBSTRING_UTF8,
                                      (const unsigned char *)organization, -1, -1,
                                      0) == 1 &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                                      (const unsigned char *)common, -1, -1, 0) == 1;
}

/* Version, serial, validity, key: what all of our certificates have. */
static X509 *certificate_begin(EVP_PKEY *key, int years)
{
    CLEANUP(done_x509) X509 *certificate = X509_new();
    if (certificate == NULL || X509_set_version(certificate, X509_VERSION_3) != 1 ||
        set_serial(certificate) != 0 ||
        X509_time_adj_ex(X509_getm_notBefore(certificate), -BACKDATE_DAYS, 0, NULL) ==
            NULL ||
        X509_time_adj_ex(X509_getm_notAfter(certificate), years * 365, 0, NULL) == NULL ||
        X509_set_pubkey(certificate, key) != 1) {
        return NULL;
    }
    return TAKE(certificate);
}

int pki_key_create(struct buffer *ret_key_pem, struct error *err)
{
    CLEANUP(done_key) EVP_PKEY *key = EVP_EC_gen("P-256");
    if (key == NULL) {
        return openssl_failed(err, -EIO, "no key can be made");
    }
    int rv = key_to_pem(key, ret_key_pem);
    return rv == 0 ? 0 : error_set(err, rv, "no key can be made: out of memory");
}

int pki_ca_create(const char *cluster_id, struct buffer *ret_key_pem,
                  struct buffer *ret_certificate_pem, struct error *err)
{
    CLEANUP(done_key) EVP_PKEY *key = EVP_EC_gen("P-256");
    CLEANUP(done_x509)
    X509 *ca = key == NULL ? NULL : certificate_begin(key, PKI_CA_YEARS);
    char common[128];
    (void)snprintf(common, sizeof(common), "Drover cluster %s", cluster_id);
    if (ca == NULL || !set_common_name(X509_get_subject_name(ca), "Drover", common) ||
        X509_set_issuer_name(ca, X509_get_subject_name(ca)) != 1 ||
        !add_extension(ca, ca, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(ca, ca, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(ca, ca, NID_subject_key_identifier, "hash") ||
        X509_sign(ca, key, EVP_sha256()) == 0) {
        return openssl_failed(err, -EIO, "no CA can be made");
    }
    int rv = key_to_pem(key, ret_key_pem);
    rv = rv != 0 ? rv : certificate_to_pem(ca, ret_certificate_pem);
    return rv == 0 ? 0 : error_set(err, rv, "no CA can be made: out of memory");
}

int pki_csr_create(const void *key_pem, size_t key_size, const char *name,
                   struct buffer *ret_csr_pem, struct error *err)
{
    CLEANUP(done_key) EVP_PKEY *key = key_from_pem(key_pem, key_size);
    CLEANUP(done_csr) X509_REQ *csr = X509_REQ_new();
    CLEANUP(done_bio) BIO *bio = BIO_new(BIO_s_mem());
    if (key == NULL || csr == NULL || bio == NULL || X509_REQ_set_version(csr, 0) != 1 ||
        !set_common_name(X509_REQ_get_subject_name(csr), "Drover", name) ||
        X509_REQ_set_pubkey(csr, key) != 1 ||
        X509_REQ_sign(csr, key, EVP_sha256()) == 0 ||
        PEM_write_bio_X509_REQ(bio, csr) != 1) {
        return openssl_failed(err, -EIO, "no certificate request can be made");
    }
    int rv = append_bio(bio, ret_csr_pem);
    return rv == 0
               ? 0
               : error_set(err, rv, "no certificate request can be made: out of memory");
}

static bool push_name(GENERAL_NAMES *names, int type, const void *data, size_t size)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_STRING *value =
        type == GEN_IPADD ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();
    if (name == NULL || value == NULL || ASN1_STRING_set(value, data, (int)size) != 1) {
        GENERAL_NAME_free(name);
        ASN1_STRING_free(value);
        return false;
    }
    GENERAL_NAME_set0_value(name, type, value);
    if (sk_GENERAL_NAME_push(names, name) <= 0) {
        GENERAL_NAME_free(name);
        return false;
    }
    return true;
}

static bool dns_name_valid(const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        bool letter = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z');
        if (!letter && !(*at >= '0' && *at <= '9') && *at != '-' && *at != '.') {
            return false;
        }
    }
    return *text != '\0';
}

static bool push_address(GENERAL_NAMES *names, const char *address)
{
    char host[LIMIT_ADDRESS_SIZE];
    unsigned port = 0;
    if (address == NULL || config_split_address(address, 1, host, &port, NULL) != 0) {
        return true; /* nothing to add */
    }
    uint8_t ip[16];
    if (inet_pton(AF_INET, host, ip) == 1) {
        return push_name(names, GEN_IPADD, ip, 4);
    }
    if (inet_pton(AF_INET6, host, ip) == 1) {
        return push_name(names, GEN_IPADD, ip, 16);
    }
    return !dns_name_valid(host) || push_name(names, GEN_DNS, host, strlen(host));
}

/* Built name by name, never parsed from a text that a host has a say in. */
static bool add_names(X509 *certificate, const struct pki_host *host)
{
    CLEANUP(done_names) GENERAL_NAMES *names = GENERAL_NAMES_new();
    char uri[160];
    int size = snprintf(uri, sizeof(uri), URI_PREFIX "%s" URI_MIDDLE "%" PRIu64,
                        host->cluster_id, host->host_id);
    return names != NULL && size > 0 && (size_t)size < sizeof(uri) &&
           push_name(names, GEN_URI, uri, (size_t)size) &&
           push_name(names, GEN_DNS, host->name, strlen(host->name)) &&
           push_address(names, host->address) && push_address(names, host->api_address) &&
           X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0,
                             X509V3_ADD_DEFAULT) == 1;
}

static bool finish_host(X509 *certificate, X509 *ca, EVP_PKEY *ca_key,
                        const struct pki_host *host)
{
    return set_common_name(X509_get_subject_name(certificate), "Drover", host->name) &&
           X509_set_issuer_name(certificate, X509_get_subject_name(ca)) == 1 &&
           add_extension(certificate, ca, NID_basic_constraints, "critical,CA:FALSE") &&
           add_extension(certificate, ca, NID_key_usage, "critical,digitalSignature") &&
           add_extension(certificate, ca, NID_ext_key_usage, "serverAuth,clientAuth") &&
           add_extension(certificate, ca, NID_subject_key_identifier, "hash") &&
           add_extension(certificate, ca, NID_authority_key_identifier, "keyid:always") &&
           add_names(certificate, host) &&
           X509_sign(certificate, ca_key, EVP_sha256()) != 0;
}

int pki_sign(const struct pki_signer *signer, const void *csr_pem, size_t csr_size,
             const struct pki_host *host, struct buffer *ret_certificate_pem,
             struct error *err)
{
    CHECK(host->host_id != 0);
    if (!id_name_valid(host->name)) {
        return error_set(err, DROVER_EBADINPUT, "'%.63s' is no valid host name",
                         host->name);
    }
    CLEANUP(done_x509)
    X509 *ca =
        certificate_from_pem(signer->ca_certificate_pem, signer->ca_certificate_size);
    CLEANUP(done_key)
    EVP_PKEY *ca_key = key_from_pem(signer->ca_key_pem, signer->ca_key_size);
    if (ca == NULL || ca_key == NULL) {
        return openssl_failed(err, DROVER_EMALFORMED, "the cluster's CA can't be read");
    }
    CLEANUP(done_bio) BIO *bio = pem_bio(csr_pem, csr_size);
    CLEANUP(done_csr)
    X509_REQ *csr =
        bio == NULL ? NULL : PEM_read_bio_X509_REQ(bio, NULL, no_passphrase, NULL);
    EVP_PKEY *key = csr == NULL ? NULL : X509_REQ_get0_pubkey(csr);
    if (key == NULL || X509_REQ_verify(csr, key) != 1) {
        return openssl_failed(err, DROVER_EBADINPUT,
                              "the certificate request is malformed");
    }
    if (EVP_PKEY_get_base_id(key) != EVP_PKEY_EC || EVP_PKEY_get_bits(key) < 256) {
        return error_set(err, DROVER_EBADINPUT,
                         "the certificate request has no EC key of 256 bits");
    }
    CLEANUP(done_x509) X509 *certificate = certificate_begin(key, PKI_HOST_YEARS);
    if (certificate == NULL || !finish_host(certificate, ca, ca_key, host)) {
        return openssl_failed(err, -EIO, "no certificate can be made");
    }
    int rv = certificate_to_pem(certificate, ret_certificate_pem);
    return rv == 0 ? 0 : error_set(err, rv, "no certificate can be made: out of memory");
}

/* ---- reading certificates ---- */

int pki_fingerprint_x509(const X509 *certificate, uint8_t ret_sha256[PKI_SHA256_SIZE])
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (X509_digest(certificate, EVP_sha256(), digest, &size) != 1 ||
        size != PKI_SHA256_SIZE) {
        ERR_clear_error();
        return DROVER_EMALFORMED;
    }
    memcpy(ret_sha256, digest, PKI_SHA256_SIZE);
    return 0;
}

int pki_fingerprint(const void *certificate_pem, size_t size,
                    uint8_t ret_sha256[PKI_SHA256_SIZE], struct error *err)
{
    CLEANUP(done_x509) X509 *certificate = certificate_from_pem(certificate_pem, size);
    if (certificate == NULL || pki_fingerprint_x509(certificate, ret_sha256) != 0) {
        return openssl_failed(err, DROVER_EMALFORMED, "the certificate can't be read");
    }
    return 0;
}

static int parse_uri(const char *text, size_t size, struct pki_identity *ret_identity)
{
    char uri[160];
    if (size >= sizeof(uri) || memchr(text, '\0', size) != NULL) {
        return DROVER_EPEER;
    }
    memcpy(uri, text, size);
    uri[size] = '\0';
    if (strncmp(uri, URI_PREFIX, strlen(URI_PREFIX)) != 0) {
        return DROVER_EPEER;
    }
    char *cluster = uri + strlen(URI_PREFIX);
    char *middle = strstr(cluster, URI_MIDDLE);
    if (middle == NULL || middle == cluster ||
        (size_t)(middle - cluster) >= ID_TEXT_SIZE) {
        return DROVER_EPEER;
    }
    *middle = '\0';
    const char *digits = middle + strlen(URI_MIDDLE);
    char *end = NULL;
    errno = 0;
    unsigned long long host_id = strtoull(digits, &end, 10);
    if (errno != 0 || *digits < '1' || *digits > '9' || *end != '\0') {
        return DROVER_EPEER;
    }
    ret_identity->host_id = host_id;
    (void)snprintf(ret_identity->cluster_id, sizeof(ret_identity->cluster_id), "%.39s",
                   cluster);
    return 0;
}

int pki_identity_x509(const X509 *certificate, struct pki_identity *ret_identity)
{
    CLEANUP(done_names)
    GENERAL_NAMES *names =
        X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    ERR_clear_error();
    int count = names == NULL ? 0 : sk_GENERAL_NAME_num(names);
    for (int i = 0; i < count; i++) {
        int type = 0;
        const ASN1_STRING *value =
            GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        if (type == GEN_URI) {
            return parse_uri((const char *)ASN1_STRING_get0_data(value),
                             (size_t)ASN1_STRING_length(value), ret_identity);
        }
    }
    return DROVER_EPEER;
}

int pki_identity_pem(const void *certificate_pem, size_t size,
                     struct pki_identity *ret_identity, struct error *err)
{
    CLEANUP(done_x509) X509 *certificate = certificate_from_pem(certificate_pem, size);
    if (certificate == NULL) {
        return openssl_failed(err, DROVER_EMALFORMED, "the certificate can't be read");
    }
    int rv = pki_identity_x509(certificate, ret_identity);
    return rv == 0 ? 0 : error_set(err, rv, "the certificate names no host of a cluster");
}
