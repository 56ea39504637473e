/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of a one-time join token: "drover1." and base64url of a JoinToken message with
 * its CRC-32. It carries the fingerprint of the cluster's CA, by which the new host knows
 * whom it speaks to. Pure.
 */
#ifndef DROVER_NODE_AGENT_JOIN_TOKEN_H
#define DROVER_NODE_AGENT_JOIN_TOKEN_H

#include <stddef.h>
#include <stdint.h>

struct error;

#define JOIN_TOKEN_SECRET_SIZE      32
#define JOIN_TOKEN_FINGERPRINT_SIZE 32 /* SHA-256 of the CA certificate's DER */
#define JOIN_TOKEN_ADDRESSES        5
#define JOIN_TOKEN_TEXT_SIZE        1024
#define JOIN_TOKEN_ID_SIZE          40

struct join_token {
    char token_id[JOIN_TOKEN_ID_SIZE];
    uint8_t secret[JOIN_TOKEN_SECRET_SIZE];
    uint8_t ca_sha256[JOIN_TOKEN_FINGERPRINT_SIZE];
    unsigned address_count; /* of agents ("HOST:PORT"), to be tried in turn */
    char addresses[JOIN_TOKEN_ADDRESSES][128];
};

/* DROVER_ELIMIT if it does not fit. */
int join_token_encode(const struct join_token *token, char *ret_text, size_t size);
/* DROVER_ETOKEN with one line that says what to do (cut off in pasting, not a token,
 * newer version). */
int join_token_decode(const char *text, struct join_token *ret_token, struct error *err);

#endif
