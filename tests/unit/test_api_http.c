/* SPDX-License-Identifier: Apache-2.0 */
/* The API over HTTP, as a client has it: over the unix socket, and over TLS with
 * certificates of the cluster's CA. */
#include "tests/unit/api_http_fixture.h"

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
