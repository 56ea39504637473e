/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to a host's HTTP API. */
#include "cli/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"

#define ANSWER_LIMIT_BYTES (32u * 1024u * 1024u)
#define URL_SIZE           (LIMIT_PATH_SIZE + LIMIT_ADDRESS_SIZE)
#define CONNECT_TIMEOUT_S  5L
#define AGAIN_MS           500u
#define AGAIN_S            30u /* that long a request is sent again */
#define KEY_SIZE           (LIMIT_REQUEST_ID_SIZE + 32)

struct client {
    struct client_config config;
    CURL *curl;
    unsigned changes; /* requests that change something, so far */
};

int client_create(const struct client_config *config, struct client **ret_client,
                  struct error *err)
{
    if (config->url == NULL &&
        strlen(config->socket_path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
        return error_set(err, DROVER_EBADINPUT,
                         "--socket %.60s...: the path is too long for a socket: give a "
                         "shorter one",
                         config->socket_path);
    }
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return error_set(err, -ENOMEM, "libcurl can't start: is memory left?");
    }
    struct client *client = calloc(1, sizeof(*client));
    CURL *curl = curl_easy_init();
    if (client == NULL || curl == NULL) {
        free(client);
        curl_easy_cleanup(curl);
        return error_set(err, -ENOMEM, "out of memory");
    }
    client->config = *config;
    client->curl = curl;
    *ret_client = client;
    return 0;
}

void client_free(struct client *client)
{
    if (client == NULL) {
        return;
    }
    curl_easy_cleanup(client->curl);
    free(client);
    curl_global_cleanup();
}

static size_t take_answer(char *data, size_t one, size_t size, void *owner)
{
    CHECK(one == 1);
    return buffer_append(owner, data, size) == 0 ? size : 0; /* 0 makes curl give up */
}

static const char *server_name(const struct client *client)
{
    return client->config.url != NULL ? client->config.url : client->config.socket_path;
}

static int set_up(struct client *client, const char *method, const char *path,
                  const char *body, struct curl_slist *headers, struct buffer *answer)
{
    char url[URL_SIZE];
    const char *base =
        client->config.url != NULL ? client->config.url : "http://localhost";
    int size = snprintf(url, sizeof(url), "%s/api/v1%s", base, path);
    if (size < 0 || (size_t)size >= sizeof(url)) {
        return DROVER_ELIMIT;
    }
    CURL *curl = client->curl;
    curl_easy_reset(curl);
    bool set =
        curl_easy_setopt(curl, CURLOPT_URL, url) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_answer) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_PROXY, "") == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)client->config.timeout_s) ==
            CURLE_OK;
    if (set && body != NULL) {
        set = curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body) == CURLE_OK;
    }
    if (set && client->config.url == NULL) {
        set = curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH,
                               client->config.socket_path) == CURLE_OK;
    }
    if (set && client->config.ca_path != NULL) {
        set = curl_easy_setopt(curl, CURLOPT_CAINFO, client->config.ca_path) == CURLE_OK;
    }
    if (set && client->config.certificate_path != NULL) {
        set = curl_easy_setopt(curl, CURLOPT_SSLCERT, client->config.certificate_path) ==
                  CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_SSLKEY, client->config.key_path) == CURLE_OK;
    }
    return set ? 0 : -ENOMEM;
}

static int connection_error(const struct client *client, CURLcode code, struct error *err)
{
    if (code == CURLE_COULDNT_CONNECT) {
        return error_set(
            err, -ECONNREFUSED,
            "no answer at %s: is droverd running (systemctl status droverd), and may "
            "you open that (sudo)?",
            server_name(client));
    }
    if (code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_CACERT_BADFILE) {
        return error_set(err, DROVER_EBADINPUT,
                         "--ca, --cert or --key can't be read: give the PEM files of a "
                         "host (ca.pem, host.pem, host.key)");
    }
    if (code == CURLE_PEER_FAILED_VERIFICATION) {
        return error_set(
            err, DROVER_EPEER,
            "%s has no certificate of the CA in --ca for that name: give the "
            "cluster's ca.pem, and the host as `drover node list` shows it",
            server_name(client));
    }
    if (code == CURLE_OPERATION_TIMEDOUT) {
        return error_set(
            err, DROVER_ETIMEDOUT2,
            "%s did not answer in time: look at `drover cluster status`, then try again",
            server_name(client));
    }
    return error_set(err, -EIO, "request to %s failed: %s: is that the API of a droverd?",
                     server_name(client), curl_easy_strerror(code));
}

static int answer_error(long status, const json_t *answer, struct error *err)
{
    const json_t *what = json_object_get(answer, "error");
    const char *message = json_string_value(json_object_get(what, "message"));
    if (message == NULL) {
        return error_set(
            err, DROVER_EMALFORMED,
            "HTTP status %ld without a reason: is that a droverd of this version?",
            status);
    }
    return error_set(err, status == 404 ? DROVER_ENOTFOUND : DROVER_EWRONGSTATE, "%s",
                     message);
}

static int judge_answer(struct client *client, const struct buffer *text,
                        json_t **ret_answer, long *ret_status, struct error *err)
{
    long status = 0;
    (void)curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
    if (ret_status != NULL) {
        *ret_status = status;
    }
    json_t *answer = json_loadb((const char *)text->data, text->size, 0, NULL);
    if (status < 200 || status > 299) {
        int rv = answer_error(status, answer, err);
        json_decref(answer);
        return rv;
    }
    if (!json_is_object(answer)) {
        json_decref(answer);
        return error_set(
            err, DROVER_EMALFORMED,
            "%s answered something that is no JSON object: is that a droverd?",
            server_name(client));
    }
    *ret_answer = answer;
    return 0;
}

/* Each token is another, and a new cluster has nobody yet who could remember. */
static bool is_repeatable(const char *path)
{
    return strcmp(path, "/cluster/tokens") != 0 && strcmp(path, "/cluster/init") != 0;
}

/* Whether it may be that the request was carried out, and its answer got lost; or that
 * nothing was done, but soon can be. */
static bool is_unknown(CURLcode code, long status, const struct buffer *answer,
                       bool again)
{
    static const char lost[] = "\"leader_lost\"";
    if (code == CURLE_OK) {
        return status == 504 || (status == 503 && memmem(answer->data, answer->size, lost,
                                                         strlen(lost)) != NULL);
    }
    return code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR ||
           code == CURLE_SEND_ERROR || code == CURLE_PARTIAL_FILE ||
           code == CURLE_OPERATION_TIMEDOUT || (again && code == CURLE_COULDNT_CONNECT);
}

/* The request, until its answer is known. */
static CURLcode perform(struct client *client, bool repeatable, struct buffer *answer)
{
    uint64_t end_ms = clock_now_ms() + AGAIN_S * MS_PER_S;
    for (bool again = false;; again = true) {
        long status = 0;
        answer->size = 0;
        CURLcode code = curl_easy_perform(client->curl);
        (void)curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
        if (!repeatable || !is_unknown(code, status, answer, again) ||
            clock_now_ms() >= end_ms) {
            return code;
        }
        (void)usleep(AGAIN_MS * 1000);
    }
}

/* "Idempotency-Key: ..." of the next request that changes something. */
static int add_key(struct client *client, struct curl_slist **headers)
{
    char id[ID_TEXT_SIZE];
    char line[KEY_SIZE + sizeof("Idempotency-Key: ")];
    const char *given = client->config.request_id;
    int rv = given != NULL ? 0 : id_random_text(id);
    if (rv != 0) {
        return rv;
    }
    /* One command may change several things, in the same order each time. */
    int size = client->changes++ == 0
                   ? snprintf(line, sizeof(line), "Idempotency-Key: %s",
                              given != NULL ? given : id)
                   : snprintf(line, sizeof(line), "Idempotency-Key: %s.%u",
                              given != NULL ? given : id, client->changes);
    if (size < 0 || (size_t)size >= sizeof(line)) {
        return DROVER_ELIMIT;
    }
    struct curl_slist *longer = curl_slist_append(*headers, line);
    if (longer == NULL) {
        return -ENOMEM;
    }
    *headers = longer;
    return 0;
}

static void free_headers(struct curl_slist **headers)
{
    curl_slist_free_all(*headers);
}

int client_call(struct client *client, const char *method, const char *path,
                const json_t *body, json_t **ret_answer, long *ret_status,
                struct error *err)
{
    if (ret_status != NULL) {
        *ret_status = 0;
    }
    CLEANUP(buffer_done) struct buffer answer;
    buffer_init(&answer, ANSWER_LIMIT_BYTES);
    CLEANUP(cleanup_free) char *text = NULL;
    if (body != NULL) {
        text = json_dumps(body, JSON_COMPACT);
        if (text == NULL) {
            return error_set(err, DROVER_EBADINPUT,
                             "the request holds text that is not UTF-8");
        }
    } else if (strcmp(method, "GET") != 0) {
        text = strdup("");
        if (text == NULL) {
            return error_set(err, -ENOMEM, "out of memory");
        }
    }
    CLEANUP(free_headers)
    struct curl_slist *headers =
        curl_slist_append(NULL, "Content-Type: application/json");
    bool changes = strcmp(method, "GET") != 0;
    int rv = changes ? add_key(client, &headers) : 0;
    rv = rv != 0 ? rv : set_up(client, method, path, text, headers, &answer);
    if (rv != 0) {
        return error_set(err, rv, "the request can't be made: %s", err_text(rv));
    }
    CURLcode code = perform(client, changes && is_repeatable(path), &answer);
    if (code != CURLE_OK) {
        return connection_error(client, code, err);
    }
    return judge_answer(client, &answer, ret_answer, ret_status, err);
}
