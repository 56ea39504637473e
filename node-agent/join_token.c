/* SPDX-License-Identifier: Apache-2.0 */
/* The text of a one-time join token. */
#include "node-agent/join_token.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/err.h"
#include "proto/run.pb-c.h"

/*
 *      "drover1." base64url( CRC-32, big endian | JoinToken )
 */
#define PREFIX     "drover1."
#define CRC_SIZE   4
#define PACKED_MAX ((JOIN_TOKEN_TEXT_SIZE - sizeof(PREFIX)) / 4 * 3)

static void put_crc(uint8_t *at, const uint8_t *data, size_t size)
{
    uLong crc = crc32_z(crc32_z(0, NULL, 0), data, size);
    for (unsigned i = 0; i < CRC_SIZE; i++) {
        at[i] = (uint8_t)(crc >> (24 - 8 * i));
    }
}

/* In place: the alphabet of base64 to that of URLs and shells, without its padding; or
 * back. */
static void to_url(char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '+') {
            *text = '-';
        } else if (*text == '/') {
            *text = '_';
        } else if (*text == '=') {
            *text = '\0';
            return;
        }
    }
}

int join_token_encode(const struct join_token *token, char *ret_text, size_t size)
{
    Drover__JoinToken message = DROVER__JOIN_TOKEN__INIT;
    char *addresses[JOIN_TOKEN_ADDRESSES];
    uint8_t packed[PACKED_MAX];
    char text[JOIN_TOKEN_TEXT_SIZE];
    message.token_id = (char *)token->token_id;
    message.secret.data = (uint8_t *)token->secret;
    message.secret.len = sizeof(token->secret);
    message.ca_sha256.data = (uint8_t *)token->ca_sha256;
    message.ca_sha256.len = sizeof(token->ca_sha256);
    if (token->address_count > JOIN_TOKEN_ADDRESSES) {
        return DROVER_ELIMIT;
    }
    for (unsigned i = 0; i < token->address_count; i++) {
        addresses[i] = (char *)token->addresses[i];
    }
    message.addresses = addresses;
    message.n_addresses = token->address_count;
    size_t packed_size = drover__join_token__get_packed_size(&message);
    if (packed_size + CRC_SIZE > sizeof(packed)) {
        return DROVER_ELIMIT;
    }
    (void)drover__join_token__pack(&message, packed + CRC_SIZE);
    put_crc(packed, packed + CRC_SIZE, packed_size);
    (void)EVP_EncodeBlock((unsigned char *)text, packed, (int)(packed_size + CRC_SIZE));
    to_url(text);
    int length = snprintf(ret_text, size, PREFIX "%s", text);
    return length < 0 || (size_t)length >= size ? DROVER_ELIMIT : 0;
}

/* Returns the size, or a negative number for text that is no base64url. */
static int decode_text(const char *text, uint8_t *ret_data)
{
    char padded[JOIN_TOKEN_TEXT_SIZE + 4];
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i++) {
        bool alphabet =
            (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z') ||
            (text[i] >= '0' && text[i] <= '9') || text[i] == '-' || text[i] == '_';
        if (!alphabet) {
            return -1;
        }
        padded[i] = (char)(text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i]);
    }
    size_t padding = (4 - length % 4) % 4;
    if (length == 0 || padding == 3) {
        return -1;
    }
    memcpy(padded + length, "===", padding);
    int size =
        EVP_DecodeBlock(ret_data, (const unsigned char *)padded, (int)(length + padding));
    return size < 0 ? size : size - (int)padding;
}

static int take_message(const Drover__JoinToken *message, struct join_token *ret_token)
{
    struct join_token token = {0};
    if (message->secret.len != sizeof(token.secret) ||
        message->ca_sha256.len != sizeof(token.ca_sha256) ||
        message->n_addresses > JOIN_TOKEN_ADDRESSES || message->token_id[0] == '\0' ||
        strlen(message->token_id) >= sizeof(token.token_id)) {
        return DROVER_ETOKEN;
    }
    (void)snprintf(token.token_id, sizeof(token.token_id), "%s", message->token_id);
    memcpy(token.secret, message->secret.data, sizeof(token.secret));
    memcpy(token.ca_sha256, message->ca_sha256.data, sizeof(token.ca_sha256));
    token.address_count = (unsigned)message->n_addresses;
    for (unsigned i = 0; i < token.address_count; i++) {
        if (strlen(message->addresses[i]) >= sizeof(token.addresses[i])) {
            return DROVER_ETOKEN;
        }
        (void)snprintf(token.addresses[i], sizeof(token.addresses[i]), "%s",
                       message->addresses[i]);
    }
    *ret_token = token;
    return 0;
}

int join_token_decode(const char *text, struct join_token *ret_token, struct error *err)
{
    uint8_t data[JOIN_TOKEN_TEXT_SIZE + 4];
    uint8_t crc[CRC_SIZE];
    size_t length = strnlen(text, JOIN_TOKEN_TEXT_SIZE);
    if (strncmp(text, "drover", 6) != 0) {
        return error_set(
            err, DROVER_ETOKEN,
            "that is no join token: take what 'drover cluster token' prints on a "
            "member of the cluster");
    }
    if (strncmp(text, PREFIX, strlen(PREFIX)) != 0) {
        return error_set(
            err, DROVER_ETOKEN,
            "the join token is of another version of Drover: install the same "
            "version on all hosts");
    }
    int size =
        length == JOIN_TOKEN_TEXT_SIZE ? -1 : decode_text(text + strlen(PREFIX), data);
    if (size > CRC_SIZE) {
        put_crc(crc, data + CRC_SIZE, (size_t)size - CRC_SIZE);
    }
    if (size <= CRC_SIZE || memcmp(crc, data, CRC_SIZE) != 0) {
        return error_set(err, DROVER_ETOKEN,
                         "the join token is not whole: copy all of it, in one line");
    }
    Drover__JoinToken *message =
        drover__join_token__unpack(NULL, (size_t)size - CRC_SIZE, data + CRC_SIZE);
    int rv = message == NULL ? DROVER_ETOKEN : take_message(message, ret_token);
    drover__join_token__free_unpacked(message, NULL);
    if (rv != 0) {
        return error_set(err, rv,
                         "the join token makes no sense: make a new one with 'drover "
                         "cluster token'");
    }
    return 0;
}
