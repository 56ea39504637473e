/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and certificates: a host is who the CA says, whatever its request says. */
#include "tests/unit/unit.h"

#include <string.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "base/buffer.h"
#include "base/err.h"
#include "node-agent/pki.h"

#define CLUSTER "0123456789abcdef0123456789abcdef"

struct fixture {
    struct buffer ca_key, ca, key, csr, certificate;
    struct pki_signer signer;
    struct error err;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_int_equal(
        pki_ca_create(CLUSTER, &fixture->ca_key, &fixture->ca, &fixture->err), 0);
    assert_int_equal(pki_key_create(&fixture->key, &fixture->err), 0);
    assert_int_equal(pki_csr_create(fixture->key.data, fixture->key.size, "n1",
                                    &fixture->csr, &fixture->err),
                     0);
    fixture->signer = (struct pki_signer){.ca_key_pem = fixture->ca_key.data,
                                          .ca_key_size = fixture->ca_key.size,
                                          .ca_certificate_pem = fixture->ca.data,
                                          .ca_certificate_size = fixture->ca.size};
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    buffer_done(&fixture->ca_key);
    buffer_done(&fixture->ca);
    buffer_done(&fixture->key);
    buffer_done(&fixture->csr);
    buffer_done(&fixture->certificate);
    free(fixture);
    return 0;
}

static const struct pki_host host = {.cluster_id = CLUSTER,
                                     .host_id = 7,
                                     .name = "n7",
                                     .address = "10.0.0.7:7400",
                                     .api_address = "n7.example.org:7401"};

static int sign(struct fixture *fixture, const void *csr, size_t size)
{
    return pki_sign(&fixture->signer, csr, size, &host, &fixture->certificate,
                    &fixture->err);
}

static X509 *parse(const struct buffer *pem)
{
    BIO *bio = BIO_new_mem_buf(pem->data, (int)pem->size);
    X509 *certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    assert_non_null(certificate);
    return certificate;
}

static void test_certificate_says_who_the_ca_says_it_is(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(sign(fixture, fixture->csr.data, fixture->csr.size), 0);
    struct pki_identity identity;
    assert_int_equal(pki_identity_pem(fixture->certificate.data,
                                      fixture->certificate.size, &identity,
                                      &fixture->err),
                     0);
    assert_string_equal(identity.cluster_id, CLUSTER);
    assert_int_equal(identity.host_id, 7);
    X509 *certificate = parse(&fixture->certificate);
    X509 *ca = parse(&fixture->ca);
    assert_int_equal(X509_check_ip_asc(certificate, "10.0.0.7", 0), 1);
    assert_int_equal(X509_check_host(certificate, "n7.example.org", 0, 0, NULL), 1);
    assert_int_equal(X509_check_host(certificate, "n1", 0, 0, NULL),
                     0); /* what the request said */
    assert_int_equal(X509_check_ca(certificate), 0);
    assert_int_equal(X509_check_ca(ca), 1);
    assert_int_equal(X509_verify(certificate, X509_get0_pubkey(ca)), 1);
    X509_free(certificate);
    X509_free(ca);
}

static void test_ca_certificate_names_no_host(void **state)
{
    struct fixture *fixture = *state;
    struct pki_identity identity;
    assert_int_equal(
        pki_identity_pem(fixture->ca.data, fixture->ca.size, &identity, &fixture->err),
        DROVER_EPEER);
}

static void test_damaged_requests_are_refused(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(sign(fixture, "nonsense", 8), DROVER_EBADINPUT);
    assert_int_equal(sign(fixture, NULL, 0), DROVER_EBADINPUT);
    assert_int_equal(sign(fixture, fixture->key.data, fixture->key.size),
                     DROVER_EBADINPUT);
    unsigned refused = 0;
    for (size_t at = 40; at + 40 < fixture->csr.size; at += 7) {
        uint8_t saved = fixture->csr.data[at];
        fixture->csr.data[at] = saved == 'A' ? 'B' : 'A';
        refused +=
            sign(fixture, fixture->csr.data, fixture->csr.size) == DROVER_EBADINPUT;
        fixture->csr.data[at] = saved;
    }
    assert_true(refused > 0);
    assert_int_equal(fixture->certificate.size,
                     0); /* its own signature covers all of it */
}

static void test_weak_key_is_refused(void **state)
{
    struct fixture *fixture = *state;
    EVP_PKEY *key = EVP_RSA_gen(1024);
    X509_REQ *csr = X509_REQ_new();
    BIO *bio = BIO_new(BIO_s_mem());
    assert_int_equal(X509_REQ_set_pubkey(csr, key), 1);
    assert_true(X509_REQ_sign(csr, key, EVP_sha256()) > 0);
    assert_int_equal(PEM_write_bio_X509_REQ(bio, csr), 1);
    char *data = NULL;
    long size = BIO_get_mem_data(bio, &data);
    assert_int_equal(sign(fixture, data, (size_t)size), DROVER_EBADINPUT);
    assert_non_null(strstr(fixture->err.text, "EC key"));
    BIO_free(bio);
    X509_REQ_free(csr);
    EVP_PKEY_free(key);
}

static void test_fingerprints_tell_cas_apart(void **state)
{
    struct fixture *fixture = *state;
    struct buffer key = {0}, other = {0};
    assert_int_equal(pki_ca_create(CLUSTER, &key, &other, &fixture->err), 0);
    uint8_t one[PKI_SHA256_SIZE], two[PKI_SHA256_SIZE], again[PKI_SHA256_SIZE];
    assert_int_equal(
        pki_fingerprint(fixture->ca.data, fixture->ca.size, one, &fixture->err), 0);
    assert_int_equal(
        pki_fingerprint(fixture->ca.data, fixture->ca.size, again, &fixture->err), 0);
    assert_int_equal(pki_fingerprint(other.data, other.size, two, &fixture->err), 0);
    assert_memory_equal(one, again, sizeof(one));
    assert_memory_not_equal(one, two, sizeof(one));
    assert_int_equal(pki_fingerprint("x", 1, one, &fixture->err), DROVER_EMALFORMED);
    buffer_done(&key);
    buffer_done(&other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_certificate_says_who_the_ca_says_it_is),
        TEST(test_ca_certificate_names_no_host),
        TEST(test_damaged_requests_are_refused),
        TEST(test_weak_key_is_refused),
        TEST(test_fingerprints_tell_cas_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
