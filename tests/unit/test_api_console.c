/* SPDX-License-Identifier: Apache-2.0 */
/* The console of a VM over WebSocket, with a serial port that a thread of the test plays.
 */
#include "tests/unit/api_http_fixture.h"

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
        CASE(test_console_carries_bytes_both_ways_and_ends_with_the_vm),
        CASE(test_console_of_no_vm_or_one_elsewhere_is_refused_in_words),
    };
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    curl_global_cleanup();
    return failed;
}
