/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors. Functions return 0 or a negative code: either -errno, or one of DROVER_E*
 * below. Both live in one number space; err_text() names them all. Where a person must be
 * told what to do, the function also fills a `struct error` with one line of text.
 */
#ifndef DROVER_BASE_ERR_H
#define DROVER_BASE_ERR_H

#include <stdarg.h>
#include <stddef.h>

/* X(name, number, text). Numbers are part of the wire contracts: never renumber. */
#define DROVER_ERRORS(X)                                                                 \
    X(EMALFORMED, 5001, "malformed message or file")                                     \
    X(EVERSION, 5002, "unsupported version")                                             \
    X(ELIMIT, 5003, "a limit is exceeded")                                               \
    X(ENOTLEADER, 5004, "this host is not the leader")                                   \
    X(ENOLEADER, 5005, "the cluster has no leader")                                      \
    X(ESTALEEPOCH, 5006, "the order carries an old epoch")                               \
    X(ECONFLICT, 5007, "the state has changed meanwhile")                                \
    X(ENOTFOUND, 5008, "no such object")                                                 \
    X(EEXISTS, 5009, "an object of that name exists")                                    \
    X(EINUSE, 5010, "in use")                                                            \
    X(EBADINPUT, 5011, "input that makes no sense")                                      \
    X(ENOLEASE, 5012, "this host holds no lease")                                        \
    X(ETOKEN, 5013, "the join token is not valid")                                       \
    X(EPEER, 5014, "the peer is not who it should be")                                   \
    X(ENOKVM, 5015, "KVM cannot be used")                                                \
    X(ENOCAPACITY, 5016, "no host has room")                                             \
    X(ECANCELLED, 5017, "cancelled")                                                     \
    X(EHANDEDOVER, 5018, "the guest has been handed over")                               \
    X(ETIMEDOUT2, 5019, "no answer in time")                                             \
    X(EGUEST, 5020, "the guest did something that no device allows")                     \
    X(ENOSPACE, 5021, "the disk is full")                                                \
    X(ECLOSED, 5022, "the connection is closed")                                         \
    X(EWRONGSTATE, 5023, "not possible in this state")

enum drover_error {
#define X(name, number, text) DROVER_##name = -(number),
    DROVER_ERRORS(X)
#undef X
};

#define ERROR_TEXT_SIZE 320

/* A failure that a person will read: code as returned, text = one line that says what to
 * do. */
struct error {
    int code;
    char text[ERROR_TEXT_SIZE];
};

/* The fixed text of a code; never NULL. Any thread. */
const char *err_text(int code);

/* Fills `err` (which may be NULL) and returns `code`, so that `return error_set(...)`
 * works. Longer text is cut; line breaks become spaces. */
int error_set(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
