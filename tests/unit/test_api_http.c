/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API over HTTP, as a client has it: libcurl in a thread of its own speaks to
 * libwebsockets on the test's loop, over the unix socket and over TLS with certificates
 * of the cluster's CA.
 */
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

static size_t take(char *data, size_t size, size_t count, void *owner)
{
    struct exchange *exchange = owner;
    size_t room = sizeof(exchange->answer) - 1 - exchange->answer_size;
    size_t more = size * count < room ? size * count : room;
    memcpy(exchange->answer + exchange->answer_size, data, more);
    exchange->answer_size += more;
    exchange->answer[exchange->answer_size] = '\0';
    return size * count;
}

static void set_tls(CURL *curl, const struct exchange *exchange, char certificate[160],
                    char key[160])
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

static void *client(void *argument)
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

static void on_finished(uv_async_t *async)
{
    uv_stop(async->loop);
}

static void run_client(struct exchange *exchange)
{
    pthread_t thread;
    if (exchange->body != NULL && exchange->body_size == 0) {
        exchange->body_size = strlen(exchange->body);
    }
    assert_int_equal(pthread_create(&thread, NULL, client, exchange), 0);
    (void)uv_run(&exchange->f->loop, UV_RUN_DEFAULT);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void on_changed(void *owner)
{
    struct fixture *f = owner;
    if (f->api != NULL) {
        api_state_changed(f->api);
    }
}

static int setup(void **state)
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

static void on_closed(void *owner)
{
    ((struct fixture *)owner)->closed = true;
}

static int teardown(void **state)
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

static void assert_answer(const struct exchange *exchange, long status, const char *part)
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

static void test_socket_is_for_root_and_its_group_only(void **state)
{
    const struct fixture *f = *state;
    struct stat st;
    assert_int_equal(stat(f->socket_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
}

static void test_one_connection_serves_many_requests(void **state)
{
    struct exchange exchange = {.f = *state,
                                .method = "GET",
                                .path = "/api/v1/nodes",
                                .base = "http://x",
                                .repeat = 20};
    run_client(&exchange);
    assert_answer(&exchange, 200, "\"n3\"");
    assert_int_equal(exchange.connects, 1);
}

static void test_a_write_comes_back_with_what_was_made(void **state)
{
    struct exchange exchange = {
        .f = *state,
        .method = "POST",
        .path = "/api/v1/vms",
        .base = "http://x",
        .body = "{\"name\":\"web1\",\"memory\":\"1G\",\"kernel\":\"/k\"}"};
    run_client(&exchange);
    assert_answer(&exchange, 201, "\"memory\":\"1G\"");
    struct exchange gone = {.f = *state,
                            .method = "DELETE",
                            .path = "/api/v1/vms/nothing",
                            .base = "http://x"};
    run_client(&gone);
    assert_answer(&gone, 404, "not_found");
}

static void test_bodies_up_to_the_limit_arrive_whole_larger_ones_are_refused(void **state)
{
    char *body = malloc(LIMIT_API_BODY_BYTES + 2);
    assert_non_null(body);
    memset(body, ' ', LIMIT_API_BODY_BYTES + 2);
    struct exchange exchange = {.f = *state,
                                .method = "POST",
                                .path = "/api/v1/vms",
                                .base = "http://x",
                                .body = body,
                                .body_size = LIMIT_API_BODY_BYTES};
    memcpy(body, "{\"name\":\"a\",\"memory\":\"1G\",", 26);
    memcpy(body + LIMIT_API_BODY_BYTES - 10, "\"last\":2 }", 10);
    run_client(&exchange);
    assert_answer(&exchange, 400, "last: no such field");
    exchange.body_size = LIMIT_API_BODY_BYTES + 1;
    exchange.answer_size = 0;
    run_client(&exchange);
    assert_answer(&exchange, 413, "too_large");
    free(body);
}

static void test_waiting_for_events_holds_nobody_up(void **state)
{
    struct exchange exchange = {.f = *state,
                                .method = "GET",
                                .path = "/api/v1/events?after=999999&wait_ms=300",
                                .base = "http://x"};
    run_client(&exchange);
    assert_answer(&exchange, 200, "\"events\":[]");
}

static void send_raw(struct fixture *f, const char *text, size_t size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%.107s", f->socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    (void)!write(fd, text, size);
    for (unsigned i = 0; i < 5; i++) {
        (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    (void)close(fd);
    for (unsigned i = 0; i < 5; i++) {
        (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    }
}

static void test_noise_and_clients_that_go_away_do_no_harm(void **state)
{
    struct fixture *f = *state;
    static const char *const texts[] = {
        "GARBAGE\r\n\r\n",
        "GET /api/v1/vms HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /api/v1/events?after=99999&wait_ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /api/v1/nodes/n2/drain HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        "POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"na",
        "POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
        "GET /api/v1/%00%ff%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        send_raw(f, texts[i], strlen(texts[i]));
    }
    test_one_connection_serves_many_requests(state);
}

static void listen_tls(struct fixture *f, char base[64])
{
    struct error err = {0};
    char address[32];
    for (unsigned port = 27401; port < 27500; port++) {
        (void)snprintf(address, sizeof(address), "127.0.0.1:%u", port);
        if (api_listen_tls(f->api, address, f->pki.ca_path, f->certificate, f->key,
                           &err) == 0) {
            (void)snprintf(base, 64, "https://%s", address);
            return;
        }
    }
    fail_msg("%s", err.text);
}

static void test_tls_serves_who_shows_a_certificate_of_the_cluster(void **state)
{
    struct fixture *f = *state;
    char base[64];
    listen_tls(f, base);
    struct exchange exchange = {.f = f,
                                .method = "GET",
                                .path = "/api/v1/cluster",
                                .base = base,
                                .own = &f->pki,
                                .repeat = 3};
    run_client(&exchange);
    assert_answer(&exchange, 200, "\"formed\":true");
    assert_int_equal(exchange.connects, 1);
}

static void test_tls_refuses_all_others(void **state)
{
    struct fixture *f = *state;
    char base[64];
    listen_tls(f, base);
    struct exchange nobody = {
        .f = f, .method = "GET", .path = "/api/v1/cluster", .base = base, .own = NULL};
    run_client(&nobody);
    assert_int_not_equal(nobody.result, CURLE_OK);
    assert_int_equal(nobody.status, 0);
    struct exchange stranger = {.f = f,
                                .method = "GET",
                                .path = "/api/v1/cluster",
                                .base = base,
                                .own = &f->other};
    run_client(&stranger);
    assert_int_not_equal(stranger.result, CURLE_OK);
    assert_int_equal(stranger.status, 0);
    test_one_connection_serves_many_requests(state);
}

/* ---- console ---- */

struct talk {
    struct fixture *f;
    int listener;
    char answer[512];
    unsigned char frame[64];
    size_t frame_size;
};

/* The serial port: answers each byte with the next one of the alphabet, and ends at 'z'.
 */
static void *serial(void *argument)
{
    struct talk *talk = argument;
    int fd = accept(talk->listener, NULL, NULL);
    char byte = 0;
    while (read(fd, &byte, 1) == 1 && byte != 'z') {
        byte++;
        assert_int_equal(write(fd, &byte, 1), 1);
    }
    (void)close(fd);
    return NULL;
}

static void read_whole(int fd, void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = read(fd, (char *)data + done, size - done);
        assert_true(got > 0);
        done += (size_t)got;
    }
}

static void *console_client(void *argument)
{
    static const char upgrade[] = "GET /api/v1/vms/web1/console HTTP/1.1\r\nHost: x\r\n"
                                  "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                                  "Sec-WebSocket-Version: 13\r\n"
                                  "Sec-WebSocket-Protocol: drover-console\r\n\r\n";
    /* Binary, masked with zeros: "a", then "z". */
    static const unsigned char letter[] = {0x82, 0x81, 0, 0, 0, 0, 'a'};
    static const unsigned char last[] = {0x82, 0x81, 0, 0, 0, 0, 'z'};
    struct talk *talk = argument;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%.107s",
                   talk->f->socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(write(fd, upgrade, strlen(upgrade)), strlen(upgrade));
    for (size_t size = 0; size < sizeof(talk->answer) - 1; size++) {
        if (read(fd, talk->answer + size, 1) != 1 ||
            strstr(talk->answer, "\r\n\r\n") != NULL) {
            break;
        }
    }
    if (strstr(talk->answer, " 101 ") != NULL) {
        assert_int_equal(write(fd, letter, sizeof(letter)), sizeof(letter));
        read_whole(fd, talk->frame, 3);
        assert_int_equal(write(fd, last, sizeof(last)), sizeof(last));
        char rest[64];
        while (read(fd, rest, sizeof(rest)) > 0) { /* until the server ends it */
        }
    }
    (void)close(fd);
    (void)uv_async_send(&talk->f->finished);
    return NULL;
}

static void own_a_vm(struct fixture *f)
{
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__VmAssign assign = DROVER__VM_ASSIGN__INIT;
    static char why[] = "test";
    struct exchange exchange = {
        .f = f,
        .method = "POST",
        .path = "/api/v1/vms",
        .base = "http://x",
        .body = "{\"name\":\"web1\",\"memory\":\"1G\",\"kernel\":\"/k\"}"};
    run_client(&exchange);
    assert_answer(&exchange, 201, "web1");
    assign.vm_id = 1;
    assign.host_id = 1;
    assign.why = why;
    command.what_case = DROVER__COMMAND__WHAT_VM_ASSIGN;
    command.vm_assign = &assign;
    fake_backend_apply(&f->backend, &command, 0);
}

static void run_console(struct talk *talk)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, console_client, talk), 0);
    (void)uv_run(&talk->f->loop, UV_RUN_DEFAULT);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void test_console_carries_bytes_both_ways_and_ends_with_the_vm(void **state)
{
    struct fixture *f = *state;
    struct talk talk = {.f = f};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    pthread_t thread;
    own_a_vm(f);
    (void)snprintf(f->backend.serial_path, sizeof(f->backend.serial_path),
                   "%s/serial.sock", f->pki.folder);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/serial.sock",
                   f->pki.folder);
    talk.listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(talk.listener, (struct sockaddr *)&address, sizeof(address)),
                     0);
    assert_int_equal(listen(talk.listener, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, serial, &talk), 0);
    run_console(&talk);
    assert_int_equal(pthread_join(thread, NULL), 0);
    (void)close(talk.listener);
    assert_non_null(strstr(talk.answer, " 101 "));
    assert_int_equal(talk.frame[0], 0x82);
    assert_int_equal(talk.frame[1], 1);
    assert_int_equal(talk.frame[2], 'b');
}

static void test_console_of_no_vm_or_one_elsewhere_is_refused_in_words(void **state)
{
    struct fixture *f = *state;
    struct talk talk = {.f = f};
    run_console(&talk);
    assert_non_null(strstr(talk.answer, " 404 "));
    own_a_vm(f);
    f->backend.self.host_id = 2;
    memset(talk.answer, 0, sizeof(talk.answer));
    run_console(&talk);
    assert_non_null(strstr(talk.answer, " 409 "));
    struct exchange exchange = {
        .f = f, .method = "GET", .path = "/api/v1/vms/web1/console", .base = "http://x"};
    run_client(&exchange);
    assert_answer(&exchange, 400, "drover-console");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_socket_is_for_root_and_its_group_only),
        CASE(test_one_connection_serves_many_requests),
        CASE(test_a_write_comes_back_with_what_was_made),
        CASE(test_bodies_up_to_the_limit_arrive_whole_larger_ones_are_refused),
        CASE(test_waiting_for_events_holds_nobody_up),
        CASE(test_noise_and_clients_that_go_away_do_no_harm),
        CASE(test_console_carries_bytes_both_ways_and_ends_with_the_vm),
        CASE(test_console_of_no_vm_or_one_elsewhere_is_refused_in_words),
        CASE(test_tls_serves_who_shows_a_certificate_of_the_cluster),
        CASE(test_tls_refuses_all_others),
    };
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    curl_global_cleanup();
    return failed;
}
