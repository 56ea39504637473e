/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of the API over HTTP: libcurl in a thread of its own speaks to libwebsockets
 * on the test's loop. */
#ifndef DROVER_TESTS_UNIT_API_HTTP_FIXTURE_H
#define DROVER_TESTS_UNIT_API_HTTP_FIXTURE_H

#include "tests/unit/unit.h"

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/limits.h"
#include "node-agent/api.h"
#include "node-agent/tls_context.h"
#include "tests/unit/fake_backend.h"
#include "tests/unit/pki_fixture.h"

struct fixture {
    uv_loop_t loop;
    uv_async_t finished;
    struct fake_backend backend;
    struct api *api;
    struct pki_fixture pki, other;
    char socket_path[128];
    char certificate[160], key[160];
    bool closed;
};

struct exchange {
    struct fixture *f;
    const char *method, *path, *body;
    size_t body_size;
    const char *base;              /* "http://x" or "https://127.0.0.1:PORT" */
    const struct pki_fixture *own; /* whose certificate the client shows; NULL: none */
    unsigned repeat;
    CURLcode result;
    long status, connects;
    char answer[4096];
    size_t answer_size;
    char type[64];
};

static inline size_t take(char *data, size_t size, size_t count, void *owner)
{
    struct exchange *exchange = owner;
    size_t room = sizeof(exchange->answer) - 1 - exchange->answer_size;
    size_t more = size * count < room ? size * count : room;
    memcpy(exchange->answer + exchange->answer_size, data, more);
    exchange->answer_size += more;
    exchange->answer[exchange->answer_size] = '\0';
    return size * count;
}

static inline void set_tls(CURL *curl, const struct exchange *exchange,
                           char certificate[160], char key[160])
{
    (void)curl_easy_setopt(curl, CURLOPT_CAINFO, exchange->f->pki.ca_path);
    (void)curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST,
                           0L); /* the fixture's names no address */
    if (exchange->own != NULL) {
        (void)snprintf(certificate, 160, "%s/1.pem", exchange->own->folder);
        (void)snprintf(key, 160, "%s/1.key", exchange->own->folder);
        (void)curl_easy_setopt(curl, CURLOPT_SSLCERT, certificate);
        (void)curl_easy_setopt(curl, CURLOPT_SSLKEY, key);
    }
}

static inline void *client(void *argument)
{
    struct exchange *exchange = argument;
    char url[512];
    char certificate[160];
    char key[160];
    CURL *curl = curl_easy_init();
    bool tls = strncmp(exchange->base, "https", 5) == 0;
    (void)snprintf(url, sizeof(url), "%s%s", exchange->base, exchange->path);
    (void)curl_easy_setopt(curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, exchange->method);
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_TIMEOUT, 10L);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, exchange);
    if (tls) {
        set_tls(curl, exchange, certificate, key);
    } else {
        (void)curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, exchange->f->socket_path);
    }
    if (exchange->body != NULL) {
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDS, exchange->body);
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)exchange->body_size);
    }
    for (unsigned i = 0; i <= exchange->repeat; i++) {
        long connects = 0;
        const char *type = NULL;
        exchange->answer_size = 0;
        exchange->result = curl_easy_perform(curl);
        (void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &exchange->status);
        (void)curl_easy_getinfo(curl, CURLINFO_NUM_CONNECTS, &connects);
        (void)curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type);
        exchange->connects += connects;
        (void)snprintf(exchange->type, sizeof(exchange->type), "%s",
                       type == NULL ? "" : type);
    }
    curl_easy_cleanup(curl);
    (void)uv_async_send(&exchange->f->finished);
    return NULL;
}

static inline void on_finished(uv_async_t *async)
{
    uv_stop(async->loop);
}

static inline void run_client(struct exchange *exchange)
{
    pthread_t thread;
    if (exchange->body != NULL && exchange->body_size == 0) {
        exchange->body_size = strlen(exchange->body);
    }
    assert_int_equal(pthread_create(&thread, NULL, client, exchange), 0);
    (void)uv_run(&exchange->f->loop, UV_RUN_DEFAULT);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static inline void on_changed(void *owner)
{
    struct fixture *f = owner;
    if (f->api != NULL) {
        api_state_changed(f->api);
    }
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = {0};
    assert_non_null(f);
    (void)signal(SIGPIPE, SIG_IGN);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(uv_async_init(&f->loop, &f->finished, on_finished), 0);
    pki_fixture_init(&f->pki, "0123456789abcdef0123456789abcdef");
    pki_fixture_init(&f->other, "fedcba9876543210fedcba9876543210");
    tls_context_free(pki_fixture_context(&f->pki, 1, &f->pki));
    tls_context_free(pki_fixture_context(&f->other, 1, &f->other));
    fake_backend_init(&f->backend, &f->loop);
    fake_backend_form(&f->backend, 3);
    f->backend.changed = on_changed;
    f->backend.changed_owner = f;
    (void)snprintf(f->socket_path, sizeof(f->socket_path), "%s/api.sock", f->pki.folder);
    (void)snprintf(f->certificate, sizeof(f->certificate), "%s/1.pem", f->pki.folder);
    (void)snprintf(f->key, sizeof(f->key), "%s/1.key", f->pki.folder);
    const struct api_config config = {.loop = &f->loop,
                                      .socket_path = f->socket_path,
                                      .backend = &fake_backend_ops,
                                      .owner = &f->backend};
    assert_int_equal(api_create(&config, &f->api, &err), 0);
    *state = f;
    return 0;
}

static inline void on_closed(void *owner)
{
    ((struct fixture *)owner)->closed = true;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    uv_close((uv_handle_t *)&f->finished, NULL);
    api_close(f->api, on_closed, f);
    assert_false(f->closed);
    (void)uv_run(&f->loop,
                 UV_RUN_DEFAULT); /* ends: nothing of the API is left on the loop */
    assert_true(f->closed);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    api_free(f->api);
    fake_backend_done(&f->backend);
    pki_fixture_done(&f->pki);
    pki_fixture_done(&f->other);
    free(f);
    return 0;
}

static inline void assert_answer(const struct exchange *exchange, long status,
                                 const char *part)
{
    if (exchange->result != CURLE_OK) {
        print_error("curl: %s\n", curl_easy_strerror(exchange->result));
    }
    assert_int_equal(exchange->result, CURLE_OK);
    assert_int_equal(exchange->status, status);
    assert_string_equal(exchange->type, "application/json");
    if (strstr(exchange->answer, part) == NULL) {
        print_error("'%s' lacks '%s'\n", exchange->answer, part);
    }
    assert_non_null(strstr(exchange->answer, part));
}

#endif
