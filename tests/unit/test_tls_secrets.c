/* SPDX-License-Identifier: Apache-2.0 */
/* From secrets to keys: the figures of RFC 8448, section 3 ("simple 1-RTT handshake"). */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "node-agent/tls_secrets.h"

#define CLIENT "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"
#define SERVER "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"
#define RANDOM "cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece7"

static void assert_hex(const uint8_t *data, size_t size, const char *hex)
{
    char text[2 * TLS_SECRET_SIZE_MAX + 1] = "";
    for (size_t i = 0; i < size; i++) {
        (void)snprintf(text + 2 * i, 3, "%02x", data[i]);
    }
    assert_string_equal(text, hex);
}

static void test_keys_are_those_of_rfc_8448(void **state)
{
    struct tls_secrets secrets = {0};
    struct tls_key key;
    tls_secrets_take_line(&secrets, "CLIENT_TRAFFIC_SECRET_0 " RANDOM " " CLIENT);
    assert_false(tls_secrets_whole(&secrets));
    tls_secrets_take_line(&secrets, "SERVER_TRAFFIC_SECRET_0 " RANDOM " " SERVER);
    assert_true(tls_secrets_whole(&secrets));
    assert_int_equal(tls_key_derive(secrets.server, secrets.server_size, 16, &key), 0);
    assert_hex(key.key, key.key_size, "9f02283b6c9c07efc26bb9f2ac92e356");
    assert_hex(key.iv, TLS_IV_SIZE, "cf782b88dd83549aadf1e984");
    assert_int_equal(tls_key_derive(secrets.client, secrets.client_size, 16, &key), 0);
    assert_hex(key.key, key.key_size, "17422dda596ed5d9acd890e3c63f5051");
    assert_hex(key.iv, TLS_IV_SIZE, "5b78923dee08579033e523d9");
    tls_key_wipe(&key);
    assert_int_equal(key.key_size, 0);
    tls_secrets_wipe(&secrets);
    assert_false(tls_secrets_whole(&secrets));
}

static void test_other_lines_change_nothing(void **state)
{
    static const char *const lines[] = {
        "",
        "CLIENT_TRAFFIC_SECRET_0",
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM,
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " ",
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " abcd",
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " " CLIENT "0",
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " x" CLIENT,
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " " CLIENT CLIENT,
        "CLIENT_TRAFFIC_SECRET_1 " RANDOM " " CLIENT,
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET " RANDOM " " CLIENT,
        "EXPORTER_SECRET " RANDOM " " CLIENT,
    };
    struct tls_secrets secrets = {0};
    const struct tls_secrets none = {0};
    for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        tls_secrets_take_line(&secrets, lines[i]);
        assert_memory_equal(&secrets, &none, sizeof(none));
    }
    /* The first ones stay. */
    tls_secrets_take_line(&secrets, "SERVER_TRAFFIC_SECRET_0 " RANDOM " " SERVER);
    tls_secrets_take_line(&secrets, "SERVER_TRAFFIC_SECRET_0 " RANDOM " " CLIENT);
    assert_hex(secrets.server, secrets.server_size, SERVER);
}

static void test_longer_hash_needs_its_own_secret(void **state)
{
    const uint8_t secret[TLS_SECRET_SIZE_MAX] = {1};
    struct tls_key key = {.key_size = 7}, other;
    assert_int_equal(tls_key_derive(secret, 48, 32, &key), 0);
    assert_int_equal(key.key_size, 32);
    assert_int_equal(tls_key_derive(secret, 32, 32, &other), 0);
    assert_memory_not_equal(key.key, other.key, 32);
    other = key;
    assert_int_equal(tls_key_derive(secret, 20, 16, &key), -EINVAL);
    assert_int_equal(tls_key_derive(secret, 32, 17, &key), -EINVAL);
    assert_memory_equal(&key, &other, sizeof(key));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_are_those_of_rfc_8448),
        cmocka_unit_test(test_other_lines_change_nothing),
        cmocka_unit_test(test_longer_hash_needs_its_own_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
