/* SPDX-License-Identifier: Apache-2.0 */
/* The API beside the leader, without one, and waiting for events. */
#include "tests/unit/api_fixture.h"

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
    assert_int_equal(f->status, 0); /* the other host finds the leader */
    assert_string_equal(f->backend.forwarded, "");
}

static void test_a_repeated_request_is_answered_again_and_done_once(void **state)
{
    struct fixture *f = *state;
    f->key = "key-1";
    json_t *vm = ask(f, "POST", "/vms", VM, 201);
    json_int_t id = json_integer_value(json_object_get(vm, "id"));
    vm = ask(f, "POST", "/vms", VM, 201);
    assert_int_equal(json_integer_value(json_object_get(vm, "id")), id);
    assert_string_equal(text_of(vm, "name"), "web1");
    /* The key is for that request only. */
    (void)ask(f, "POST", "/vms/web1/pause", NULL, 409);
    assert_error(f, "exists", "another");
    f->key = "key-2";
    vm = ask(f, "POST", "/vms/web1/pause", NULL, 200);
    f->key = "key-3";
    vm = ask(f, "POST", "/vms/web1/resume", NULL, 200);
    f->key = "key-2"; /* late: it does not pause it again */
    vm = ask(f, "POST", "/vms/web1/pause", NULL, 200);
    assert_int_equal(cluster_state_vm_by_name(f->backend.state, "web1")->wanted,
                     DROVER__VM_WANTED__VM_WANTED_RUNNING);
    f->key = "key-4";
    (void)ask(f, "DELETE", "/vms/web1", NULL, 200);
    vm = ask(f, "DELETE", "/vms/web1", NULL, 200);
    assert_string_equal(text_of(vm, "state"), "deleted");
    f->key = "key-1"; /* made, and deleted since: not made again */
    (void)ask(f, "POST", "/vms", VM, 404);
    f->key = NULL;
    (void)ask(f, "DELETE", "/vms/web1", NULL, 404);
    f->key = "not a key";
    (void)ask(f, "POST", "/vms", VM, 400);
    assert_error(f, "bad_input", "Idempotency-Key");
}

static void test_a_lost_leadership_is_no_error_for_a_request_with_a_key(void **state)
{
    struct fixture *f = *state;
    /* Still the leader, or again. */
    f->key = "key-1";
    f->backend.answer_lost = true;
    (void)ask(f, "POST", "/vms", VM, 201);
    assert_int_equal(cluster_state_view(f->backend.state)->n_vms, 1);
    /* Another leads: it is asked, with the key. */
    f->key = "key-2";
    f->backend.answer_lost = true;
    f->backend.forward_body = "{}";
    begin(f, "POST", "/vms/web1/pause", NULL);
    f->backend.self.leads = false;
    finish(f, 2);
    assert_string_equal(f->backend.forwarded, "POST /api/v1/vms/web1/pause key-2");
    f->backend.self.leads = true;
    /* Without a key it can't be known. */
    f->key = NULL;
    f->backend.answer_lost = true;
    (void)ask(f, "POST", "/vms/web1/resume", NULL, 504);
}

static json_t *join(struct fixture *f, const char *token_id, unsigned status)
{
    struct join_token token = {.address_count = 1, .addresses = {"10.0.0.1:7400"}};
    char text[JOIN_TOKEN_TEXT_SIZE];
    char body[JOIN_TOKEN_TEXT_SIZE + 16];
    (void)snprintf(token.token_id, sizeof(token.token_id), "%s", token_id);
    assert_int_equal(join_token_encode(&token, text, sizeof(text)), 0);
    (void)snprintf(body, sizeof(body), "{\"token\":\"%s\"}", text);
    return ask(f, "POST", "/cluster/join", body, status);
}

static void test_a_host_that_has_joined_by_a_token_is_told_so_again(void **state)
{
    struct fixture *f = *state;
    f->backend.self.host_id = 2;
    f->backend.self.leads = false;
    assert_string_equal(text_of(join(f, "token2", 201), "name"), "n2");
    assert_string_equal(f->backend.joined, ""); /* nothing is done again */
    (void)join(f, "token3", 409);               /* another host's */
    (void)join(f, "token9", 409);
}

static void test_what_one_host_passed_on_goes_back_to_it(void **state)
{
    struct fixture *f = *state;
    f->backend.answer_lost = true;
    const struct api_incoming incoming = {.method = "POST",
                                          .path = "/api/v1/vms",
                                          .body = VM,
                                          .body_size = strlen(VM),
                                          .key = "key-1",
                                          .forwarded = true};
    assert_int_equal(api_core_serve(f->core, &incoming, on_answer, f, NULL), 0);
    finish(f, 1);
    assert_int_equal(f->status, 0);
    assert_int_equal(api_core_serve(f->core, &incoming, on_answer, f, NULL), 0);
    finish(f, 2);
    assert_int_equal(f->status, 201);
    assert_int_equal(cluster_state_view(f->backend.state)->n_vms, 1);
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

static void test_events_wait_until_this_host_has_what_another_saw(void **state)
{
    struct fixture *f = *state;
    char path[96];
    assign(f);
    json_t *vm = ask(f, "GET", "/vms/web1", NULL, 200);
    long long seen = (long long)json_integer_value(json_object_get(vm, "applied_index"));
    assert_true(seen > 0);
    (void)snprintf(path, sizeof(path), "/events?vm=web1&applied_index=%lld", seen);
    (void)ask(f, "GET", path, NULL, 200);
    /* The leader is one entry ahead: the answer has that entry's event in it. */
    (void)snprintf(path, sizeof(path), "/events?applied_index=%lld&limit=1", seen + 1);
    unsigned before = f->answers;
    begin(f, "GET", path, NULL);
    for (unsigned i = 0; i < 5; i++) {
        (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(f->answers, before);
    begin(f, "POST", "/nodes/n2/drain", NULL);
    finish(f, before + 2);
    (void)ask(f, "GET", path, NULL, 200);
    const json_t *event = json_array_get(json_object_get(f->body, "events"), 0);
    assert_string_equal(text_of(event, "node"), "n2");
    (void)ask(f, "GET", "/events?applied_index=-1", NULL, 400);
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

#define MEMBER(name) cmocka_unit_test_setup_teardown(name, setup_cluster, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MEMBER(test_a_follower_passes_on_what_only_the_leader_knows),
        MEMBER(test_without_a_leader_reads_are_stale_and_writes_fail),
        MEMBER(test_a_forwarded_request_is_not_passed_on_again),
        MEMBER(test_a_repeated_request_is_answered_again_and_done_once),
        MEMBER(test_a_lost_leadership_is_no_error_for_a_request_with_a_key),
        MEMBER(test_what_one_host_passed_on_goes_back_to_it),
        MEMBER(test_a_host_that_has_joined_by_a_token_is_told_so_again),
        MEMBER(test_token_is_shown_once_and_leads_to_the_cluster),
        MEMBER(test_events_are_paged_without_loss),
        MEMBER(test_waiting_for_events_ends_with_the_next_one_or_in_time),
        MEMBER(test_events_wait_until_this_host_has_what_another_saw),
        MEMBER(test_who_asked_may_go_before_the_answer),
        MEMBER(test_cluster_says_what_it_can_still_lose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
