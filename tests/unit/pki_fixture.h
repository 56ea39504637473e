/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of connections: a cluster's CA and hosts' certificates in a folder of their
 * own. */
#ifndef DROVER_TESTS_UNIT_PKI_FIXTURE_H
#define DROVER_TESTS_UNIT_PKI_FIXTURE_H

#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/err.h"
#include "node-agent/pki.h"
#include "node-agent/tls_stream.h"

struct pki_fixture {
    char folder[64];
    char ca_path[96];
    const char *cluster_id;
    struct buffer ca_key, ca;
};

static inline void pki_fixture_write(const char *path, const struct buffer *data)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(data->data, 1, data->size, file), data->size);
    assert_int_equal(fclose(file), 0);
}

static inline void pki_fixture_init(struct pki_fixture *fixture, const char *cluster_id)
{
    struct error err = {0};
    *fixture = (struct pki_fixture){.cluster_id = cluster_id};
    (void)snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/drover-pki-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    (void)snprintf(fixture->ca_path, sizeof(fixture->ca_path), "%s/ca.pem",
                   fixture->folder);
    assert_int_equal(pki_ca_create(cluster_id, &fixture->ca_key, &fixture->ca, &err), 0);
    pki_fixture_write(fixture->ca_path, &fixture->ca);
}

static inline void pki_fixture_done(struct pki_fixture *fixture)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", fixture->folder);
    assert_int_equal(system(command), 0);
    buffer_done(&fixture->ca_key);
    buffer_done(&fixture->ca);
}

/* A context with a certificate for `host_id`, signed by this CA; `trust`: whose
 * certificates it believes. */
static inline struct tls_context *pki_fixture_context(struct pki_fixture *fixture,
                                                      uint64_t host_id,
                                                      const struct pki_fixture *trust)
{
    struct error err = {0};
    struct buffer key = {0}, csr = {0}, certificate = {0};
    char key_path[128], certificate_path[128];
    (void)snprintf(key_path, sizeof(key_path), "%s/%u.key", fixture->folder,
                   (unsigned)host_id);
    (void)snprintf(certificate_path, sizeof(certificate_path), "%s/%u.pem",
                   fixture->folder, (unsigned)host_id);
    assert_int_equal(pki_key_create(&key, &err), 0);
    assert_int_equal(pki_csr_create(key.data, key.size, "host", &csr, &err), 0);
    struct pki_signer signer = {.ca_key_pem = fixture->ca_key.data,
                                .ca_key_size = fixture->ca_key.size,
                                .ca_certificate_pem = fixture->ca.data,
                                .ca_certificate_size = fixture->ca.size};
    struct pki_host host = {.cluster_id = fixture->cluster_id,
                            .host_id = host_id,
                            .name = "host",
                            .address = "127.0.0.1:1"};
    assert_int_equal(pki_sign(&signer, csr.data, csr.size, &host, &certificate, &err), 0);
    pki_fixture_write(key_path, &key);
    pki_fixture_write(certificate_path, &certificate);
    struct tls_files files = {.ca_path = trust->ca_path,
                              .certificate_path = certificate_path,
                              .key_path = key_path};
    struct tls_context *context = NULL;
    assert_int_equal(tls_context_create_member(&files, &context, &err), 0);
    buffer_done(&key);
    buffer_done(&csr);
    buffer_done(&certificate);
    return context;
}

#endif
