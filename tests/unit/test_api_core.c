/* SPDX-License-Identifier: Apache-2.0 */
/* The API's requests and answers, over the real cluster state: statuses, errors, the way
 * to the leader, waiting for events. */
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
    unsigned answers;
    unsigned status;
    json_t *body;
    bool closed;
};

static void on_changed(void *owner)
{
    struct fixture *f = owner;
    if (f->core != NULL) {
        api_core_changed(f->core);
    }
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static int setup(void **state)
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

static int setup_cluster(void **state)
{
    (void)setup(state);
    fake_backend_form(&((struct fixture *)*state)->backend, 3);
    return 0;
}

static void on_closed(void *owner)
{
    ((struct fixture *)owner)->closed = true;
}

static int teardown(void **state)
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

static void on_answer(void *request, unsigned status, const char *body, size_t size)
{
    struct fixture *f = request;
    json_error_t error;
    f->answers++;
    f->status = status;
    json_decref(f->body);
    f->body = json_loadb(body, size, 0, &error);
    assert_non_null(f->body); /* every answer is an object */
}

static void begin(struct fixture *f, const char *method, const char *path,
                  const char *body)
{
    char full[API_PATH_SIZE];
    (void)snprintf(full, sizeof(full), "/api/v1%s", path);
    const struct api_incoming incoming = {.method = method,
                                          .path = full,
                                          .body = body,
                                          .body_size = body == NULL ? 0 : strlen(body)};
    unsigned before = f->answers;
    assert_int_equal(api_core_serve(f->core, &incoming, on_answer, f, NULL), 0);
    assert_int_equal(f->answers, before); /* never inside the call */
}

static void finish(struct fixture *f, unsigned wanted)
{
    uint64_t end_ms = clock_now_ms() + 5000;
    while (f->answers < wanted && clock_now_ms() < end_ms) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(f->answers, wanted);
}

static json_t *ask(struct fixture *f, const char *method, const char *path,
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

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    assert_non_null(text);
    return text;
}

static void assert_error(struct fixture *f, const char *code, const char *hint)
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

static void test_without_a_cluster_only_init_and_join_are_possible(void **state)
{
    struct fixture *f = *state;
    assert_false(
        json_is_true(json_object_get(ask(f, "GET", "/cluster", NULL, 200), "formed")));
    (void)ask(f, "GET", "/vms", NULL, 409);
    assert_error(f, "no_cluster", "drover cluster init");
    (void)ask(f, "POST", "/cluster/init", "{\"address\":\"a b\"}", 400);
    assert_error(f, "bad_input", "address:");
    (void)ask(f, "POST", "/cluster/init", "{\"address\":\"10.0.0.1:99999\"}", 400);
    assert_error(f, "bad_input", "port");
    (void)ask(f, "POST", "/cluster/init", "{\"address\":\"fd00::1\"}", 400);
    assert_error(f, "bad_input", "brackets");
    (void)ask(f, "POST", "/cluster/init", "{\"address\":\"10.0.0.1\",\"lease_ms\":10}",
              400);
    assert_error(f, "bad_input", "lease_ms: give a whole number");
    (void)ask(f, "POST", "/cluster/init", "{\"address\":\"10.0.0.1\",\"name\":\"n1\"}",
              201);
    assert_string_equal(f->backend.joined, "n1 10.0.0.1:7400 10.0.0.1:7401 0");
    (void)ask(f, "POST", "/cluster/init", "{\"address\":\"10.0.0.1\"}", 409);
    assert_error(f, "conflict", "in a cluster already");
}

static void test_join_tells_a_bad_token_apart(void **state)
{
    struct fixture *f = *state;
    (void)ask(f, "POST", "/cluster/join", "{\"token\":\"x\",\"address\":\"10.0.0.2\"}",
              401);
    assert_error(f, "bad_token", "no join token");
    struct join_token token = {.token_id = "id"};
    char text[JOIN_TOKEN_TEXT_SIZE];
    char body[JOIN_TOKEN_TEXT_SIZE + 128];
    assert_int_equal(join_token_encode(&token, text, sizeof(text)), 0);
    (void)snprintf(body, sizeof(body),
                   "{\"token\":\"%s\",\"address\":\"[fd00::2]:7500\",\"name\":\"n2\"}",
                   text);
    (void)ask(f, "POST", "/cluster/join", body, 401);
    assert_error(f, "bad_token", "used already");
    assert_string_equal(f->backend.joined, "n2 [fd00::2]:7500 [fd00::2]:7401");
}

static void test_paths_and_methods_that_are_not_there(void **state)
{
    struct fixture *f = *state;
    (void)ask(f, "GET", "/nothing", NULL, 404);
    (void)ask(f, "GET", "/vms/a/b/c/d/e", NULL, 404);
    (void)ask(f, "GET", "/vms//start", NULL, 405);
    (void)ask(f, "PATCH", "/vms", NULL, 405);
    assert_error(f, "bad_method", "GET, POST");
    (void)ask(f, "GET", "/vms/web9", NULL, 404);
    assert_error(f, "not_found", "drover vm list");
    (void)ask(f, "POST", "/vms", "{", 400);
    (void)ask(f, "GET", "/vms", "{}", 400);
    assert_error(f, "bad_input", "takes no body");
    (void)ask(f, "POST", "/nodes/n1/drain", "{\"force\":true}", 400);
    assert_error(f, "bad_input", "force: no such field");
}

static void test_a_vm_is_created_once_stopped_and_deleted(void **state)
{
    struct fixture *f = *state;
    json_t *vm = ask(f, "POST", "/vms", VM, 201);
    assert_string_equal(text_of(vm, "state"), "unowned");
    assert_string_equal(text_of(vm, "wanted"), "running");
    (void)ask(f, "POST", "/vms", VM, 409);
    assert_error(f, "exists", "web1");
    (void)ask(f, "PUT", "/vms/web1", VM, 200);
    (void)ask(f, "PUT", "/vms/web1", "{\"memory\":\"2G\",\"kernel\":\"/k\"}", 409);
    assert_error(f, "conflict", "'memory'");
    assert_string_equal(text_of(ask(f, "POST", "/vms/web1/stop", NULL, 200), "wanted"),
                        "stopped");
    (void)ask(f, "POST", "/vms/web1/pause", NULL, 409);
    assert_error(f, "conflict", "stopped");
    (void)ask(f, "POST", "/vms/web1/migrate", "{}", 409);
    assert_error(f, "conflict", "runs nowhere");
    (void)ask(f, "POST", "/vms/web1/cancel", NULL, 409);
    (void)ask(f, "DELETE", "/vms/web1", NULL, 200);
    (void)ask(f, "DELETE", "/vms/web1", NULL, 404);
    assert_int_equal(
        json_array_size(json_object_get(ask(f, "GET", "/vms", NULL, 200), "vms")), 0);
}

static void test_what_the_state_machine_refuses_comes_with_its_words(void **state)
{
    struct fixture *f = *state;
    (void)ask(f, "POST", "/vms", "{\"name\":\"Web\",\"memory\":\"1G\",\"kernel\":\"/k\"}",
              400);
    assert_error(f, "bad_input", "Web");
    (void)ask(f, "POST", "/vms", "{\"name\":\"web\",\"memory\":\"1G\"}", 400);
    assert_error(f, "bad_input", "kernel");
    f->backend.propose_error = DROVER_ENOTLEADER;
    (void)ask(f, "POST", "/vms", VM, 503);
    assert_error(f, "leader_lost", "");
    f->backend.propose_error = DROVER_ETIMEDOUT2;
    (void)ask(f, "POST", "/vms", VM, 504);
    f->backend.propose_error = -ENOSPC;
    (void)ask(f, "POST", "/vms", VM, 500);
    assert_error(f, "internal", "space");
}

/* n1 owns web1, epoch 1. */
static void assign(struct fixture *f)
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

/* n1 has reported that it runs. */
static void report_started(struct fixture *f)
{
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__VmStarted started = DROVER__VM_STARTED__INIT;
    static char incarnation[] = "1nca";
    started.vm_id = 1;
    started.epoch = 1;
    started.host_id = 1;
    started.incarnation = incarnation;
    command.what_case = DROVER__COMMAND__WHAT_VM_STARTED;
    command.vm_started = &started;
    fake_backend_apply(&f->backend, &command, 0);
}

static void assert_vm_state(struct fixture *f, const char *wanted)
{
    assert_string_equal(text_of(ask(f, "GET", "/vms/web1", NULL, 200), "state"), wanted);
}

static void test_state_joins_what_is_recorded_with_what_is_observed(void **state)
{
    struct fixture *f = *state;
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    assign(f);
    assert_vm_state(f, "starting");
    assert_string_equal(text_of(f->body, "host"), "n1");
    status.vm_id = 1;
    status.epoch = 1;
    status.run_state = DROVER__VM_RUN_STATE__VM_RUN_RUNNING;
    f->backend.status = &status;
    f->backend.status_host_id = 1;
    assert_vm_state(f, "running");
    status.epoch = 9; /* of another life: does not count */
    assert_vm_state(f, "starting");
    status.epoch = 1;
    status.run_state = DROVER__VM_RUN_STATE__VM_RUN_FROZEN;
    assert_vm_state(f, "frozen");
    assert_non_null(strstr(text_of(f->body, "reason"), "lease"));
    f->backend.silent_ms = 7300;
    assert_vm_state(f, "unknown");
    assert_non_null(strstr(text_of(f->body, "reason"), "n1 has been silent for 7.3 s"));
    f->backend.silent_ms = 0;
    status.run_state = DROVER__VM_RUN_STATE__VM_RUN_RUNNING;
    (void)ask(f, "POST", "/vms/web1/stop", NULL, 200);
    assert_vm_state(f, "stopping");
    f->backend.status = NULL;
}

static void test_migration_shows_its_progress_and_can_be_cancelled(void **state)
{
    struct fixture *f = *state;
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    Drover__VmMigrationStatus progress = DROVER__VM_MIGRATION_STATUS__INIT;
    assign(f);
    report_started(f);
    (void)ask(f, "POST", "/vms/web1/migrate", "{\"target\":\"n9\"}", 404);
    (void)ask(f, "POST", "/vms/web1/migrate", "{\"target\":\"n1\"}", 409);
    assert_error(f, "conflict", "already");
    (void)ask(f, "POST", "/vms/web1/migrate", "{\"max_downtime_ms\":0}", 400);
    json_t *vm = ask(f, "POST", "/vms/web1/migrate",
                     "{\"target\":\"n2\",\"max_downtime_ms\":300}", 202);
    assert_string_equal(text_of(vm, "state"), "migrating");
    const json_t *migration = json_object_get(vm, "migration");
    assert_string_equal(text_of(migration, "target"), "n2");
    assert_string_equal(text_of(migration, "phase"), "preparing");
    (void)ask(f, "POST", "/vms/web1/migrate", "{}", 409);

    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__MigrationReady ready = DROVER__MIGRATION_READY__INIT;
    static char incarnation[] = "1nca";
    static char uri[] = "tcp:10.0.0.2:4000";
    ready.vm_id = 1;
    ready.next_epoch = 2;
    ready.host_id = 2;
    ready.incarnation = incarnation;
    ready.uri = uri;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_READY;
    command.migration_ready = &ready;
    fake_backend_apply(&f->backend, &command, 0);
    progress.state = DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY;
    progress.bytes_total = 1000000;
    progress.bytes_remaining = 250000;
    status.vm_id = 1;
    status.epoch = 1;
    status.run_state = DROVER__VM_RUN_STATE__VM_RUN_RUNNING;
    status.migration = &progress;
    f->backend.status = &status;
    f->backend.status_host_id = 1;
    migration = json_object_get(ask(f, "GET", "/vms/web1", NULL, 200), "migration");
    assert_string_equal(text_of(migration, "phase"), "copying");
    assert_in_range(json_integer_value(json_object_get(migration, "progress_percent")),
                    74, 75);
    vm = ask(f, "POST", "/vms/web1/cancel", NULL, 202);
    assert_true(
        json_is_true(json_object_get(json_object_get(vm, "migration"), "cancel_wanted")));
    f->backend.status = NULL;
}

static void test_a_follower_passes_on_what_only_the_leader_knows(void **state)
{
    struct fixture *f = *state;
    f->backend.self.leads = false;
    f->backend.self.leader_host_id = 2;
    f->backend.forward_body = "{\"vms\":[1,2]}";
    assert_int_equal(
        json_array_size(json_object_get(ask(f, "GET", "/vms", NULL, 200), "vms")), 2);
    assert_string_equal(f->backend.forwarded, "GET /api/v1/vms ");
    (void)ask(f, "POST", "/vms", VM, 200);
    assert_string_equal(f->backend.forwarded, "POST /api/v1/vms " VM);
    /* Its own copy of the log is good enough for events. */
    f->backend.forwarded[0] = '\0';
    (void)ask(f, "GET", "/events", NULL, 200);
    assert_string_equal(f->backend.forwarded, "");
}

static void test_without_a_leader_reads_are_stale_and_writes_fail(void **state)
{
    struct fixture *f = *state;
    assign(f);
    f->backend.self.leads = false;
    f->backend.self.leader_host_id = 0;
    f->backend.forward_error = DROVER_ENOLEADER;
    json_t *vm = ask(f, "GET", "/vms/web1", NULL, 200);
    assert_true(json_is_true(json_object_get(vm, "stale")));
    assert_string_equal(text_of(vm, "state"), "unknown");
    assert_string_equal(text_of(vm, "host"), "n1");
    (void)ask(f, "POST", "/vms/web1/stop", NULL, 503);
    assert_error(f, "no_leader", "");
    json_t *cluster = ask(f, "GET", "/cluster", NULL, 200);
    assert_true(json_is_null(json_object_get(cluster, "leader")));
    assert_false(json_is_true(json_object_get(json_object_get(cluster, "ha"), "on")));
}

static void test_a_forwarded_request_is_not_passed_on_again(void **state)
{
    struct fixture *f = *state;
    f->backend.self.leads = false;
    const struct api_incoming incoming = {
        .method = "GET", .path = "/api/v1/vms", .forwarded = true};
    assert_int_equal(api_core_serve(f->core, &incoming, on_answer, f, NULL), 0);
    finish(f, 1);
    assert_int_equal(f->status, 503);
    assert_string_equal(f->backend.forwarded, "");
}

static void test_token_is_shown_once_and_leads_to_the_cluster(void **state)
{
    struct fixture *f = *state;
    struct join_token token;
    struct error err = {0};
    (void)ask(f, "POST", "/cluster/tokens", "{\"valid_s\":1}", 400);
    json_t *made = ask(f, "POST", "/cluster/tokens", "{}", 201);
    assert_int_equal(join_token_decode(text_of(made, "token"), &token, &err), 0);
    assert_string_equal(text_of(made, "token_id"), token.token_id);
    assert_int_equal(token.address_count, 3);
    assert_string_equal(token.addresses[0], "10.0.0.1:7400"); /* the leader first */
    json_t *listed =
        json_object_get(ask(f, "GET", "/cluster/tokens", NULL, 200), "tokens");
    assert_int_equal(json_array_size(listed), 3); /* those of n2 and n3 are used */
    char *text = json_dumps(listed, 0);
    assert_null(strstr(text, "drover1."));
    assert_non_null(strstr(text, "\"unused\""));
    assert_non_null(strstr(text, "\"used\""));
    free(text);
}

static void test_events_are_paged_without_loss(void **state)
{
    struct fixture *f = *state;
    assign(f);
    json_int_t after = 0;
    size_t total = 0;
    size_t all = json_array_size(json_object_get(
        ask(f, "GET", "/events?after=0&limit=1000", NULL, 200), "events"));
    assert_true(all >= 5);
    for (unsigned i = 0; i < 100; i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/events?after=%lld&limit=1",
                       (long long)after);
        json_t *page = ask(f, "GET", path, NULL, 200);
        size_t count = json_array_size(json_object_get(page, "events"));
        if (count == 0) {
            break;
        }
        total += count;
        after = json_integer_value(json_object_get(page, "last_index"));
    }
    assert_int_equal(total, all);
    assert_int_equal(json_array_size(json_object_get(
                         ask(f, "GET", "/events?limit=2", NULL, 200), "events")),
                     2);
    (void)ask(f, "GET", "/events?vm=web1", NULL, 200);
    assert_true(json_array_size(json_object_get(f->body, "events")) >= 1);
    (void)ask(f, "GET", "/events?vm=web9", NULL, 404);
    (void)ask(f, "GET", "/events?limit=0", NULL, 400);
    (void)ask(f, "GET", "/events?after=-1", NULL, 400);
    (void)ask(f, "GET", "/events?since=1", NULL, 400);
    assert_error(f, "bad_input", "since: no such parameter");
}

static void test_waiting_for_events_ends_with_the_next_one_or_in_time(void **state)
{
    struct fixture *f = *state;
    char path[64];
    json_t *now = ask(f, "GET", "/events", NULL, 200);
    long long last = (long long)json_integer_value(json_object_get(now, "last_index"));
    (void)snprintf(path, sizeof(path), "/events?after=%lld&wait_ms=100", last);
    uint64_t begun_ms = clock_now_ms();
    assert_int_equal(
        json_array_size(json_object_get(ask(f, "GET", path, NULL, 200), "events")), 0);
    assert_in_range(clock_now_ms() - begun_ms, 100, 2000);
    (void)snprintf(path, sizeof(path), "/events?after=%lld&wait_ms=60000", last);
    unsigned before = f->answers;
    begin(f, "GET", path, NULL);
    begin(f, "POST", "/nodes/n2/drain", NULL);
    finish(f, before + 2);
    (void)ask(f, "GET", path, NULL, 200);
    const json_t *event = json_array_get(json_object_get(f->body, "events"), 0);
    assert_string_equal(text_of(event, "node"), "n2");
}

static void test_who_asked_may_go_before_the_answer(void **state)
{
    struct fixture *f = *state;
    struct api_call *call = NULL;
    const char *const paths[] = {"/api/v1/events?after=99999&wait_ms=60000",
                                 "/api/v1/vms", "/api/v1/nodes/n1/undrain"};
    for (size_t i = 0; i < 3; i++) {
        const struct api_incoming incoming = {.method = i == 2 ? "POST" : "GET",
                                              .path = paths[i]};
        assert_int_equal(api_core_serve(f->core, &incoming, on_answer, f, &call), 0);
        api_call_cancel(call);
    }
    while (f->backend.open > 0) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    (void)uv_run(&f->loop, UV_RUN_ONCE);
    assert_int_equal(f->answers, 0);
}

static void test_cluster_says_what_it_can_still_lose(void **state)
{
    struct fixture *f = *state;
    json_t *cluster = ask(f, "GET", "/cluster", NULL, 200);
    assert_int_equal(json_integer_value(json_object_get(cluster, "failures_tolerated")),
                     1);
    assert_true(json_is_true(json_object_get(json_object_get(cluster, "ha"), "on")));
    assert_int_equal(
        json_array_size(json_object_get(ask(f, "GET", "/nodes", NULL, 200), "nodes")), 3);
    assert_string_equal(text_of(ask(f, "GET", "/nodes/n3", NULL, 200), "state"), "up");
    f->backend.silent_ms = 4000;
    assert_string_equal(text_of(ask(f, "GET", "/nodes/n3", NULL, 200), "state"),
                        "suspect");
    (void)ask(f, "DELETE", "/cluster/members/n3", NULL, 200);
    assert_string_equal(f->backend.removed, "3");
    (void)ask(f, "DELETE", "/cluster/members/n9", NULL, 404);
}

#define ALONE(name)  cmocka_unit_test_setup_teardown(name, setup, teardown)
#define MEMBER(name) cmocka_unit_test_setup_teardown(name, setup_cluster, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ALONE(test_without_a_cluster_only_init_and_join_are_possible),
        ALONE(test_join_tells_a_bad_token_apart),
        MEMBER(test_paths_and_methods_that_are_not_there),
        MEMBER(test_a_vm_is_created_once_stopped_and_deleted),
        MEMBER(test_what_the_state_machine_refuses_comes_with_its_words),
        MEMBER(test_state_joins_what_is_recorded_with_what_is_observed),
        MEMBER(test_migration_shows_its_progress_and_can_be_cancelled),
        MEMBER(test_a_follower_passes_on_what_only_the_leader_knows),
        MEMBER(test_without_a_leader_reads_are_stale_and_writes_fail),
        MEMBER(test_a_forwarded_request_is_not_passed_on_again),
        MEMBER(test_token_is_shown_once_and_leads_to_the_cluster),
        MEMBER(test_events_are_paged_without_loss),
        MEMBER(test_waiting_for_events_ends_with_the_next_one_or_in_time),
        MEMBER(test_who_asked_may_go_before_the_answer),
        MEMBER(test_cluster_says_what_it_can_still_lose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
