/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to a host's HTTP API, over its unix socket or TLS (libcurl). Blocking; one
 * thread. Failures are told in one line by `struct error`.
 */
#ifndef DROVER_CLI_CLIENT_H
#define DROVER_CLI_CLIENT_H

#include <jansson.h>

struct client;
struct error;

struct client_config {
    const char *socket_path; /* of the unix socket; ignored when `url` is set */
    const char *url;         /* "https://HOST:PORT", or NULL */
    const char *ca_path, *certificate_path, *key_path; /* with `url` */
    unsigned timeout_s;                                /* of one request */
    /* The key of what is asked: who gives the same one again, here or elsewhere, gets the
     * answer of the first time. NULL: a new one. */
    const char *request_id;
};

/* Borrows the config's texts for the client's life. */
int client_create(const struct client_config *config, struct client **ret_client,
                  struct error *err);
void client_free(struct client *client);

/*
 * One request, sent again with its key when it is not known what became of it (a lost
 * connection, a changed leader). `path` starts behind "/api/v1". `body` may be NULL (borrowed). On 2xx
 * returns 0 and the answer's object, which the caller json_decref()s. Else a negative
 * code with the API's own message in `err`; `*ret_status` (may be NULL) is the HTTP
 * status, 0 when there was no answer.
 */
int client_call(struct client *client, const char *method, const char *path,
                const json_t *body, json_t **ret_answer, long *ret_status,
                struct error *err);

#endif
