/* SPDX-License-Identifier: Apache-2.0 */
/* The API's requests and answers, over the real cluster state: clusters, VMs, errors. */
#include "tests/unit/api_fixture.h"

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
    vm = ask(f, "PUT", "/vms/web1", "{\"memory\":\"2G\",\"kernel\":\"/k\"}", 200);
    assert_string_equal(text_of(json_object_get(vm, "spec"), "memory"), "2G");
    (void)ask(f, "PUT", "/vms/web1", "{\"memory\":\"2G\"}", 400);
    vm = ask(f, "POST", "/vms/web1/balloon", "{\"memory\":\"1G\"}", 200);
    assert_string_equal(text_of(vm, "memory_wanted"), "1G");
    (void)ask(f, "POST", "/vms/web1/balloon", "{\"memory\":\"3G\"}", 400);
    (void)ask(f, "POST", "/vms/web1/balloon", "{}", 400);
    (void)ask(f, "POST", "/vms/web9/balloon", "{\"memory\":\"1G\"}", 404);
    vm = ask(f, "POST", "/vms/web1/balloon", "{\"memory\":\"\"}", 200);
    assert_string_equal(text_of(vm, "memory_wanted"), "2G");
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

static void test_rdma_goes_once_the_setting_allows_it(void **state)
{
    struct fixture *f = *state;
    const char *order = "{\"target\":\"n2\",\"transport\":\"rdma\"}";
    assign(f);
    report_started(f);
    (void)ask(f, "POST", "/vms/web1/migrate", order, 409);
    (void)ask(f, "PUT", "/cluster/settings", "{}", 400);
    assert_error(f, "bad_input", "allow_unencrypted_rdma");
    (void)ask(f, "PUT", "/cluster/settings", "{\"allow_unencrypted_rdma\":1}", 400);
    json_t *settings =
        ask(f, "PUT", "/cluster/settings", "{\"allow_unencrypted_rdma\":true}", 200);
    assert_true(json_is_true(json_object_get(settings, "allow_unencrypted_rdma")));
    json_t *cluster = ask(f, "GET", "/cluster", NULL, 200);
    assert_true(json_is_true(json_object_get(json_object_get(cluster, "settings"),
                                             "allow_unencrypted_rdma")));
    json_t *vm = ask(f, "POST", "/vms/web1/migrate", order, 202);
    assert_string_equal(text_of(json_object_get(vm, "migration"), "transport"), "rdma");
}

static void test_migration_shows_its_progress_and_can_be_cancelled(void **state)
{
    struct fixture *f = *state;
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    Drover__VmMigrationStatus progress = DROVER__VM_MIGRATION_STATUS__INIT;
    assign(f);
    report_started(f);
    (void)ask(f, "PUT", "/vms/web1", "{\"memory\":\"2G\",\"kernel\":\"/k\"}", 409);
    assert_error(f, "conflict", "'memory': stop it first");
    (void)ask(f, "POST", "/vms/web1/migrate", "{\"target\":\"n9\"}", 404);
    (void)ask(f, "POST", "/vms/web1/migrate", "{\"target\":\"n1\"}", 409);
    assert_error(f, "conflict", "already");
    (void)ask(f, "POST", "/vms/web1/migrate", "{\"max_downtime_ms\":0}", 400);
    (void)ask(f, "POST", "/vms/web1/migrate", "{\"transport\":\"udp\"}", 400);
    assert_error(f, "bad_input", "tcp, rdma or auto");
    (void)ask(f, "POST", "/vms/web1/migrate", "{\"target\":\"n2\",\"transport\":\"rdma\"}", 409);
    assert_error(f, "conflict", "drover cluster set allow-unencrypted-rdma on");
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
        MEMBER(test_rdma_goes_once_the_setting_allows_it),
        MEMBER(test_migration_shows_its_progress_and_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
