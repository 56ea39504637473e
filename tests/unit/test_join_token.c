/* SPDX-License-Identifier: Apache-2.0 */
/* The text form of join tokens: there and back, and every way to damage it. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "node-agent/join_token.h"

static struct join_token example(void)
{
    struct join_token token = {.token_id = "0123456789abcdef", .address_count = 3};
    for (unsigned i = 0; i < 32; i++) {
        token.secret[i] = (uint8_t)(i * 7 + 251);
        token.ca_sha256[i] = (uint8_t)(255 - i);
    }
    (void)snprintf(token.addresses[0], 128, "10.0.0.1:7400");
    (void)snprintf(token.addresses[1], 128, "n2.example:7400");
    (void)snprintf(token.addresses[2], 128, "[fd00::3]:7400");
    return token;
}

static void test_token_comes_back_as_it_was(void **state)
{
    struct join_token token = example();
    struct join_token again;
    char text[JOIN_TOKEN_TEXT_SIZE];
    struct error err = {0};
    (void)state;
    memset(&again, 0xa5, sizeof(again));
    assert_int_equal(join_token_encode(&token, text, sizeof(text)), 0);
    assert_int_equal(
        strspn(text + 8,
               "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"),
        strlen(text + 8));
    assert_int_equal(join_token_decode(text, &again, &err), 0);
    assert_memory_equal(&token, &again, sizeof(token));
}

static void assert_refused(const char *text, const char *hint)
{
    struct join_token token = {.address_count = 77};
    struct error err = {0};
    assert_int_equal(join_token_decode(text, &token, &err), DROVER_ETOKEN);
    assert_non_null(strstr(err.text, hint));
    assert_int_equal(token.address_count, 77); /* untouched on failure */
}

static void test_every_cut_and_every_changed_letter_is_refused(void **state)
{
    struct join_token token = example();
    char text[JOIN_TOKEN_TEXT_SIZE];
    char damaged[JOIN_TOKEN_TEXT_SIZE];
    (void)state;
    assert_int_equal(join_token_encode(&token, text, sizeof(text)), 0);
    size_t length = strlen(text);
    for (size_t cut = 8; cut < length; cut++) {
        memcpy(damaged, text, length + 1);
        damaged[cut] = '\0';
        assert_refused(damaged, "not whole");
        memcpy(damaged, text, length + 1);
        damaged[cut] = ' ';
        assert_refused(damaged, "not whole");
        /* The last letter carries padding bits that mean nothing. */
        if (cut + 1 < length) {
            damaged[cut] = text[cut] == 'A' ? 'B' : 'A';
            assert_refused(damaged, "not whole");
        }
    }
}

static void test_other_texts_are_refused_with_what_to_do(void **state)
{
    char large[4096];
    (void)state;
    assert_refused("", "drover cluster token");
    assert_refused("hello", "drover cluster token");
    assert_refused("drover9.AAAA", "same version");
    assert_refused("drover1.", "not whole");
    memset(large, 'A', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    memcpy(large, "drover1.", 8);
    assert_refused(large, "not whole");
}

static void test_token_that_does_not_fit_is_told(void **state)
{
    struct join_token token = example();
    char text[64];
    (void)state;
    assert_int_equal(join_token_encode(&token, text, sizeof(text)), DROVER_ELIMIT);
    token.address_count = JOIN_TOKEN_ADDRESSES + 1;
    char room[JOIN_TOKEN_TEXT_SIZE];
    assert_int_equal(join_token_encode(&token, room, sizeof(room)), DROVER_ELIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_comes_back_as_it_was),
        cmocka_unit_test(test_every_cut_and_every_changed_letter_is_refused),
        cmocka_unit_test(test_other_texts_are_refused_with_what_to_do),
        cmocka_unit_test(test_token_that_does_not_fit_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
