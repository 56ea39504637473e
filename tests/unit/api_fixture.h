/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of the API without HTTP: a core over the real cluster state, and one request
 * after the other. */
#ifndef DROVER_TESTS_UNIT_API_FIXTURE_H
#define DROVER_TESTS_UNIT_API_FIXTURE_H

#include "tests/unit/unit.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "consensus/cluster_state.h"
#include "node-agent/api_core.h"
#include "node-agent/join_token.h"
#include "tests/unit/fake_backend.h"

struct fixture {
    uv_loop_t loop;
    uv_timer_t tick;
    struct fake_backend backend;
    struct api_core *core;
    const char *key; /* of the requests from now on; NULL: none */
    unsigned answers;
    unsigned status;
    json_t *body;
    bool closed;
};

static inline void on_changed(void *owner)
{
    struct fixture *f = owner;
    if (f->core != NULL) {
        api_core_changed(f->core);
    }
}

static inline void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(uv_timer_init(&f->loop, &f->tick), 0);
    assert_int_equal(uv_timer_start(&f->tick, on_tick, 5, 5), 0);
    fake_backend_init(&f->backend, &f->loop);
    f->backend.changed = on_changed;
    f->backend.changed_owner = f;
    assert_int_equal(api_core_create(&f->loop, &fake_backend_ops, &f->backend, &f->core),
                     0);
    *state = f;
    return 0;
}

static inline int setup_cluster(void **state)
{
    (void)setup(state);
    fake_backend_form(&((struct fixture *)*state)->backend, 3);
    return 0;
}

static inline void on_closed(void *owner)
{
    ((struct fixture *)owner)->closed = true;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    while (f->backend.open > 0) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    api_core_close(f->core, on_closed, f);
    uv_close((uv_handle_t *)&f->tick, NULL);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_true(f->closed);
    api_core_free(f->core);
    fake_backend_done(&f->backend);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    json_decref(f->body);
    free(f);
    return 0;
}

static inline void on_answer(void *request, unsigned status, const char *body,
                             size_t size)
{
    struct fixture *f = request;
    json_error_t error;
    f->answers++;
    f->status = status;
    json_decref(f->body);
    f->body = json_loadb(body, size, 0, &error);
    if (status == 0) {
        return; /* it is to be asked again */
    }
    assert_non_null(f->body); /* every answer is an object */
}

static inline void begin(struct fixture *f, const char *method, const char *path,
                         const char *body)
{
    char full[API_PATH_SIZE];
    (void)snprintf(full, sizeof(full), "/api/v1%s", path);
    const struct api_incoming incoming = {.method = method,
                                          .path = full,
                                          .body = body,
                                          .key = f->key,
                                          .body_size = body == NULL ? 0 : strlen(body)};
    unsigned before = f->answers;
    assert_int_equal(api_core_serve(f->core, &incoming, on_answer, f, NULL), 0);
    assert_int_equal(f->answers, before); /* never inside the call */
}

static inline void finish(struct fixture *f, unsigned wanted)
{
    uint64_t end_ms = clock_now_ms() + 5000;
    while (f->answers < wanted && clock_now_ms() < end_ms) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(f->answers, wanted);
}

static inline json_t *ask(struct fixture *f, const char *method, const char *path,
                          const char *body, unsigned status)
{
    unsigned before = f->answers;
    begin(f, method, path, body);
    finish(f, before + 1);
    if (f->status != status) {
        char *text = json_dumps(f->body, 0);
        print_error("%s %s: %u: %s\n", method, path, f->status, text);
        free(text);
    }
    assert_int_equal(f->status, status);
    return f->body;
}

static inline const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    assert_non_null(text);
    return text;
}

static inline void assert_error(struct fixture *f, const char *code, const char *hint)
{
    const json_t *error = json_object_get(f->body, "error");
    assert_string_equal(text_of(error, "code"), code);
    const char *message = text_of(error, "message");
    assert_null(strchr(message, '\n'));
    if (strstr(message, hint) == NULL) {
        print_error("'%s' lacks '%s'\n", message, hint);
    }
    assert_non_null(strstr(message, hint));
}

#define VM "{\"name\":\"web1\",\"memory\":\"1G\",\"kernel\":\"/k\"}"

/* n1 owns web1, epoch 1. */
static inline void assign(struct fixture *f)
{
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__VmAssign order = DROVER__VM_ASSIGN__INIT;
    static char why[] = "test";
    (void)ask(f, "POST", "/vms", VM, 201);
    order.vm_id = 1;
    order.host_id = 1;
    order.why = why;
    command.what_case = DROVER__COMMAND__WHAT_VM_ASSIGN;
    command.vm_assign = &order;
    fake_backend_apply(&f->backend, &command, 0);
}

#endif
