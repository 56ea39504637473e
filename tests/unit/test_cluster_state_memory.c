/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Without memory a command changes nothing: the Nth allocation fails, for N = 0, 1, ...
 * until the command goes through. The allocating functions of our own code are wrapped by
 * the linker (tests/unit/local.mk).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cluster_scribe.h"
#include "tests/unit/unit.h"

#include "base/buffer.h"
#include "base/cleanup.h"
#include "consensus/cluster_state.h"

#define COMMAND_COUNT 1500u
#define NEVER         (-1)

static long allocations_left = NEVER;

static bool fails(void)
{
    if (allocations_left == NEVER) {
        return false;
    }
    if (allocations_left == 0) {
        return true;
    }
    allocations_left--;
    return false;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *pointer, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *pointer, size_t size);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *pointer, size_t size)
{
    return fails() ? NULL : __real_realloc(pointer, size);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

static void save(const struct cluster_state *state, struct buffer *out)
{
    out->size = 0;
    assert_int_equal(cluster_state_save(state, out), 0);
}

/* Returns how many allocations had to fail. */
static unsigned apply_with_failures(struct cluster_state *state, uint64_t index,
                                    const struct buffer *command)
{
    CLEANUP(buffer_done) struct buffer before = {0};
    CLEANUP(buffer_done) struct buffer after = {0};
    save(state, &before);
    for (unsigned failing = 0;; failing++) {
        struct apply_result result;
        allocations_left = (long)failing;
        int rv = cluster_state_apply(state, index, command->data, command->size, &result);
        bool went_through = allocations_left != 0 || rv == 0;
        allocations_left = NEVER;
        if (went_through) {
            assert_int_equal(rv, 0);
            return failing;
        }
        assert_int_equal(rv, -ENOMEM);
        save(state, &after);
        assert_int_equal(before.size, after.size);
        assert_memory_equal(before.data, after.data, before.size);
    }
}

static void begin(struct cluster_state *state)
{
    uint8_t pem[] = "pem";
    Drover__HostRecord host = DROVER__HOST_RECORD__INIT;
    host.name = (char *)"host0";
    host.address = (char *)"host:7000";
    Drover__ClusterInit init = DROVER__CLUSTER_INIT__INIT;
    init.cluster_id = (char *)"memory";
    init.lease_ms = 5000;
    init.ca_certificate_pem = init.ca_key_pem =
        (ProtobufCBinaryData){.data = pem, .len = 3};
    init.first_host = &host;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_INIT;
    command.cluster_init = &init;
    CLEANUP(buffer_done) struct buffer encoded = {0};
    assert_int_equal(command_encode(&command, &encoded), 0);
    assert_true(apply_with_failures(state, 1, &encoded) > 5);
    assert_int_equal(cluster_state_view(state)->version, 1);
}

static void test_command_without_memory_changes_nothing(void **state_)
{
    struct cluster_state *state;
    struct scribe *scribe = calloc(1, sizeof(*scribe));
    CLEANUP(buffer_done) struct buffer encoded = {0};
    unsigned failures = 0;
    assert_non_null(scribe);
    scribe->random = 4; /* always the same commands: this is about memory */
    assert_int_equal(cluster_state_create(&state), 0);
    begin(state);
    for (uint64_t index = 2; index < COMMAND_COUNT; index++) {
        scribe_write(scribe, cluster_state_view(state), 1000 + index * 10);
        encoded.size = 0;
        assert_int_equal(command_encode(&scribe->command, &encoded), 0);
        failures += apply_with_failures(state, index, &encoded);
    }
    assert_true(failures > COMMAND_COUNT);
    struct error err = {0};
    assert_true(cluster_state_valid(state, &err));
    cluster_state_free(state);
    free(scribe);
}

static void test_snapshot_without_memory_changes_nothing(void **state_)
{
    struct cluster_state *state;
    CLEANUP(buffer_done) struct buffer saved = {0};
    CLEANUP(buffer_done) struct buffer again = {0};
    assert_int_equal(cluster_state_create(&state), 0);
    begin(state);
    save(state, &saved);
    unsigned failing = 0;
    int rv = -ENOMEM;
    for (; rv == -ENOMEM; failing++) {
        struct error err = {0};
        allocations_left = (long)failing;
        rv = cluster_state_load(state, saved.data, saved.size, &err);
        allocations_left = NEVER;
        save(state, &again);
        assert_int_equal(saved.size, again.size);
        assert_memory_equal(saved.data, again.data, saved.size);
    }
    assert_int_equal(rv, 0);
    assert_true(failing > 5);
    cluster_state_free(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_without_memory_changes_nothing),
        cmocka_unit_test(test_snapshot_without_memory_changes_nothing),
    };
    return cmocka_run_group_tests_name("cluster_state_memory", tests, NULL, NULL);
}
