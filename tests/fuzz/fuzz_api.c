/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to the API, made of right ones by cutting, swapping and changing bytes of
 * paths and bodies. What must hold: each gets exactly one answer, an object of JSON with
 * a status that docs/api.md knows; and the cluster's state stays valid.
 *
 * usage: fuzz_api [COUNT [SEED]]
 */
#include "tests/unit/unit.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "consensus/cluster_state.h"
#include "node-agent/api_core.h"
#include "node-agent/join_token.h"
#include "tests/unit/fake_backend.h"

#define COUNT_DEFAULT 4000
#define TEXT_MAX      600

struct seed_request {
    const char *method, *path, *body;
};

static const struct seed_request seeds[] = {
    {"GET", "/api/v1/cluster", ""},
    {"POST", "/api/v1/cluster/init",
     "{\"address\":\"10.0.0.1:7400\",\"name\":\"n1\",\"lease_ms\":5000}"},
    {"POST", "/api/v1/cluster/join",
     "{\"token\":\"drover1.AAAA\",\"address\":\"[fd00::1]:74\"}"},
    {"POST", "/api/v1/cluster/tokens", "{\"valid_s\":3600}"},
    {"GET", "/api/v1/cluster/tokens", ""},
    {"GET", "/api/v1/nodes", ""},
    {"GET", "/api/v1/nodes/n2", ""},
    {"POST", "/api/v1/nodes/n2/drain", "{}"},
    {"POST", "/api/v1/nodes/n2/undrain", ""},
    {"GET", "/api/v1/vms", ""},
    {"POST", "/api/v1/vms",
     "{\"name\":\"web1\",\"memory\":\"1G\",\"cpus\":2,\"kernel\":\"/"
     "k\",\"cmdline\":\"a=b\",\"disks\":[{\"path\":"
     "\"/"
     "d\",\"readonly\":true}],\"nics\":[{\"bridge\":\"br0\",\"mac\":\"52:54:00:00:00:"
     "01\"}],\"ha\":true}"},
    {"PUT", "/api/v1/vms/web1", "{\"memory\":\"1G\",\"kernel\":\"/k\",\"start\":false}"},
    {"GET", "/api/v1/vms/web1", ""},
    {"GET", "/api/v1/vms/web1/console", ""},
    {"POST", "/api/v1/vms/web1/stop", "{}"},
    {"POST", "/api/v1/vms/web1/start", "{}"},
    {"POST", "/api/v1/vms/web1/migrate",
     "{\"target\":\"n3\",\"max_downtime_ms\":300,\"deadline_s\":9}"},
    {"POST", "/api/v1/vms/web1/cancel", ""},
    {"DELETE", "/api/v1/vms/web1", ""},
    {"GET", "/api/v1/events?after=3&limit=5&vm=web1&node=n1", ""},
};

#define SEED_COUNT (sizeof(seeds) / sizeof(seeds[0]))

static const unsigned statuses[] = {200, 201, 202, 400, 401, 404,
                                    405, 409, 413, 500, 503, 504};

struct run {
    uv_loop_t loop;
    struct fake_backend backend;
    struct api_core *core;
    uint64_t random;
    unsigned answers;
    bool closed;
};

/* xorshift64*: the same requests for the same seed. */
static uint64_t next(struct run *run, uint64_t below)
{
    run->random ^= run->random >> 12;
    run->random ^= run->random << 25;
    run->random ^= run->random >> 27;
    return (run->random * UINT64_C(2685821657736338717) >> 33) % below;
}

static void on_answer(void *request, unsigned status, const char *body, size_t size)
{
    struct run *run = request;
    json_error_t error;
    bool known = false;
    run->answers++;
    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++) {
        known = known || statuses[i] == status;
    }
    assert_true(known);
    json_t *object = json_loadb(body, size, 0, &error);
    assert_true(json_is_object(object));
    const json_t *failure = json_object_get(object, "error");
    assert_int_equal(failure != NULL, status >= 400);
    if (failure != NULL) {
        const char *message = json_string_value(json_object_get(failure, "message"));
        assert_non_null(message);
        assert_null(strchr(message, '\n'));
        assert_true(message[0] != '\0');
    }
    json_decref(object);
}

static void mutate(struct run *run, char text[TEXT_MAX], const char *other)
{
    static const char *const pieces[] = {"\"",
                                         "{",
                                         "}",
                                         "[",
                                         "]",
                                         ",",
                                         ":",
                                         "null",
                                         "-1",
                                         "1e999",
                                         "18446744073709551616",
                                         "\\u0000",
                                         "\xff",
                                         "%2e",
                                         "/",
                                         "?",
                                         "&",
                                         "=",
                                         "@",
                                         "true",
                                         "\"name\":",
                                         "T",
                                         ".."};
    size_t length = strlen(text);
    size_t at = next(run, length + 1);
    switch (next(run, 5)) {
    case 0: /* cut */
        text[at] = '\0';
        break;
    case 1: /* change */
        if (at < length) {
            text[at] = (char)(1 + next(run, 255));
        }
        break;
    case 2: { /* leave out */
        size_t more = next(run, 8);
        size_t end = at + more < length ? at + more : length;
        memmove(text + at, text + end, length - end + 1);
        break;
    }
    default: { /* insert a piece, or some of another request */
        const char *piece = next(run, 4) == 0
                                ? other
                                : pieces[next(run, sizeof(pieces) / sizeof(pieces[0]))];
        size_t size = strlen(piece);
        if (length + size < TEXT_MAX) {
            memmove(text + at + size, text + at, length - at + 1);
            memcpy(text + at, piece, size);
        }
        break;
    }
    }
}

static void send_one(struct run *run)
{
    char path[TEXT_MAX];
    char body[TEXT_MAX];
    const struct seed_request *seed = &seeds[next(run, SEED_COUNT)];
    const struct seed_request *other = &seeds[next(run, SEED_COUNT)];
    (void)snprintf(path, sizeof(path), "%s", seed->path);
    (void)snprintf(body, sizeof(body), "%s", seed->body);
    for (uint64_t i = next(run, 4); i > 0; i--) {
        if (next(run, 4) == 0) {
            mutate(run, path, other->path);
        } else {
            mutate(run, body, other->body);
        }
    }
    const struct api_incoming incoming = {.method = next(run, 30) == 0 ? other->method
                                                                       : seed->method,
                                          .path = path,
                                          .body = body,
                                          .body_size = strlen(body),
                                          .forwarded = next(run, 10) == 0};
    unsigned before = run->answers;
    assert_int_equal(api_core_serve(run->core, &incoming, on_answer, run, NULL), 0);
    for (unsigned i = 0; i < 100000 && run->answers == before; i++) {
        (void)uv_run(&run->loop, UV_RUN_ONCE);
    }
    assert_int_equal(run->answers, before + 1);
}

static void send_token(struct run *run)
{
    char text[TEXT_MAX] = "drover1.JfD5rwoQZGU2NzAyMzA3OGI3ZDc3NxIgYsQbZvW-"
                          "EWfUZHIEirAH4sqyk8ZQKXol5NjIWCF0kwca";
    struct join_token token;
    struct error err = {0};
    for (uint64_t i = next(run, 6); i > 0; i--) {
        mutate(run, text, "drover1.AAAAAAAA");
    }
    if (join_token_decode(text, &token, &err) != 0) {
        assert_true(err.text[0] != '\0');
    }
}

static void on_closed(void *owner)
{
    ((struct run *)owner)->closed = true;
}

int main(int argc, char **argv)
{
    unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : COUNT_DEFAULT;
    struct run run = {.random = argc > 2 ? strtoull(argv[2], NULL, 10) : 1};
    struct error err = {0};
    run.random = run.random * 2 + 1; /* never 0 */
    (void)printf("fuzz_api: %lu requests, seed %llu\n", count,
                 (unsigned long long)(run.random / 2));
    assert_int_equal(uv_loop_init(&run.loop), 0);
    fake_backend_init(&run.backend, &run.loop);
    fake_backend_form(&run.backend, 3);
    assert_int_equal(
        api_core_create(&run.loop, &fake_backend_ops, &run.backend, &run.core), 0);
    for (unsigned long i = 0; i < count; i++) {
        send_one(&run);
        send_token(&run);
        if (i % 256 == 0 && !cluster_state_valid(run.backend.state, &err)) {
            (void)fprintf(stderr, "after request %lu: %s\n", i, err.text);
            return 1;
        }
    }
    api_core_close(run.core, on_closed, &run);
    (void)uv_run(&run.loop, UV_RUN_DEFAULT);
    assert_true(run.closed);
    api_core_free(run.core);
    fake_backend_done(&run.backend);
    return uv_loop_close(&run.loop) == 0 ? 0 : 1;
}
