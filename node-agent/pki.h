/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster's keys and certificates (OpenSSL 3, EC P-256). A cluster has one CA, made at init. A host's certificate names the
 * cluster and the host's id in a URI of its subject alternative names: that is who it is to its peers. Any thread; no files.
 */
#ifndef DROVER_NODE_AGENT_PKI_H
#define DROVER_NODE_AGENT_PKI_H

#include <stddef.h>
#include <stdint.h>

#include "base/id.h"
#include "base/limits.h"

struct buffer;
struct error;
struct x509_st;

#define PKI_SHA256_SIZE   32
#define PKI_PEM_SIZE_MAX  16384
#define PKI_CA_YEARS      30
#define PKI_HOST_YEARS    30

/* Who a certificate says that its holder is. */
struct pki_identity {
    char cluster_id[ID_TEXT_SIZE];
    uint64_t host_id;
};

/* What goes into a host's certificate beside its key. */
struct pki_host {
    const char *cluster_id;
    uint64_t host_id;
    const char *name;
    const char *address;     /* "HOST:PORT" of the agent */
    const char *api_address; /* of the API: so that its clients can check the certificate by host */
};

/* PEM texts; the buffers are appended to. All fail with DROVER_EBADINPUT, -ENOMEM or -EIO, and one line in `err`. */
int pki_key_create(struct buffer *ret_key_pem, struct error *err);
int pki_ca_create(const char *cluster_id, struct buffer *ret_key_pem, struct buffer *ret_certificate_pem,
                  struct error *err);
int pki_csr_create(const void *key_pem, size_t key_size, const char *name, struct buffer *ret_csr_pem,
                   struct error *err);
/* Takes only the public key from the request (its signature checked), nothing that it says about itself. */
struct pki_signer {
    const void *ca_key_pem;
    size_t ca_key_size;
    const void *ca_certificate_pem;
    size_t ca_certificate_size;
};
int pki_sign(const struct pki_signer *signer, const void *csr_pem, size_t csr_size,
             const struct pki_host *host, struct buffer *ret_certificate_pem, struct error *err);

/* SHA-256 of a certificate's DER. */
int pki_fingerprint(const void *certificate_pem, size_t size, uint8_t ret_sha256[PKI_SHA256_SIZE],
                    struct error *err);
int pki_fingerprint_x509(const struct x509_st *certificate, uint8_t ret_sha256[PKI_SHA256_SIZE]);
/* DROVER_EPEER when the certificate has no such name. It does not check who signed it. */
int pki_identity_x509(const struct x509_st *certificate, struct pki_identity *ret_identity);
int pki_identity_pem(const void *certificate_pem, size_t size, struct pki_identity *ret_identity,
                     struct error *err);

#endif
