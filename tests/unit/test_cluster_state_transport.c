/* SPDX-License-Identifier: Apache-2.0 */
/* What a move goes over: what the cluster allows, what hosts can, and what is told of it. VM 1
 * moves from host 1 to host 2. */
#include <string.h>

#include "tests/unit/cluster_world.h"
#include "tests/unit/unit.h"

#define TCP  DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_TCP
#define RDMA DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA
#define AUTO DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_AUTO
#define UNKNOWN DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_UNKNOWN
#define KERNEL DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL
#define RELAY DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY
#define BY_SOURCE DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE

static int notice_say(struct world *world, uint64_t host_id, const char *text)
{
    Drover__MigrationNotice notice = DROVER__MIGRATION_NOTICE__INIT;
    notice.vm_id = 1;
    notice.next_epoch = world_vm(world, 1)->migration->next_epoch;
    notice.host_id = host_id;
    notice.incarnation = world_host(world, host_id)->incarnation;
    notice.text = (char *)(uintptr_t)text;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_NOTICE;
    command.migration_notice = &notice;
    return world_apply(world, &command);
}

static void test_rdma_must_be_allowed_by_name(void **state)
{
    struct world *world = *state;
    assert_refused(world_begin_over(world, 1, 2, RDMA), DROVER_EWRONGSTATE);
    assert_non_null(strstr(world->result.text, "drover cluster set allow-unencrypted-rdma on"));
    assert_refused(world_begin_over(world, 1, 2, AUTO + 1), DROVER_EBADINPUT);
    assert_done(world_begin_over(world, 1, 2, AUTO)); /* the encrypted way, then */
    assert_int_equal(world_vm(world, 1)->migration->transport, TCP);
    assert_done(world_abort(world, 1, BY_SOURCE));

    assert_refused(world_allow_rdma(world, 2), DROVER_EBADINPUT);
    assert_done(world_allow_rdma(world, 1));
    assert_done(world_allow_rdma(world, 1)); /* that is nothing new */
    assert_int_equal(world_event_count(world, "cluster.changed"), 1);
    assert_done(world_begin_over(world, 1, 2, AUTO));
    assert_int_equal(world_vm(world, 1)->migration->transport, RDMA);
    assert_done(world_abort(world, 1, BY_SOURCE));
    assert_done(world_begin(world, 1, 2)); /* nobody asked for it */
    assert_int_equal(world_vm(world, 1)->migration->transport, TCP);
    assert_done(world_ready_rdma(world, 1, "10.0.0.2:5", ""));
    assert_string_equal(world_vm(world, 1)->migration->rdma_address, "");
    assert_done(world_abort(world, 1, BY_SOURCE));

    assert_done(world_allow_rdma(world, 0));
    assert_refused(world_begin_over(world, 1, 2, RDMA), DROVER_EWRONGSTATE);
}

static void test_unknown_setting_is_refused(void **state)
{
    struct world *world = *state;
    Drover__ClusterSet set = DROVER__CLUSTER_SET__INIT;
    set.setting = (Drover__ClusterSetting)7;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_SET;
    command.cluster_set = &set;
    assert_refused(world_apply(world, &command), DROVER_EBADINPUT);
}

static void test_ready_tells_where_rdma_is_taken(void **state)
{
    struct world *world = *state;
    assert_done(world_allow_rdma(world, 1));
    assert_done(world_begin_over(world, 1, 2, RDMA));
    assert_refused(world_ready_rdma(world, 1, "nowhere", ""), DROVER_EBADINPUT);
    assert_refused(world_ready_rdma(world, 1, "10.1.0.2:1#a b", ""), DROVER_EBADINPUT);
    assert_refused(world_ready_rdma(world, 1, "10.1.0.2:1#0123456789012345678901234567890123456789", ""),
                   DROVER_EBADINPUT);
    assert_done(world_ready_rdma(world, 1, "10.1.0.2:18515#0123456789abcdef0123456789abcdef", ""));
    assert_string_equal(world_vm(world, 1)->migration->rdma_address, "10.1.0.2:18515#0123456789abcdef0123456789abcdef");
    assert_int_equal(world_event_count(world, "migration.notice"), 0);
}

static void test_fallback_is_told_once_and_kept_with_the_figures(void **state)
{
    struct world *world = *state;
    assert_done(world_allow_rdma(world, 1));
    assert_done(world_begin_over(world, 1, 2, RDMA));
    assert_done(world_ready_rdma(world, 1, "", "over TCP: no device"));
    assert_string_equal(world_vm(world, 1)->migration->notice,
                        "over TCP: no device (host 'host2')");
    assert_refused(notice_say(world, 2, "x"), DROVER_EBADINPUT); /* not the source */
    assert_done(notice_say(world, 1, "over TCP: other"));
    assert_int_equal(world_event_count(world, "migration.notice"), 1);
    assert_done(world_migrated(world, 1));
    assert_string_equal(world_vm(world, 1)->last_migration->notice,
                        "over TCP: no device (host 'host2')");
}

static void test_source_tells_of_a_fallback(void **state)
{
    struct world *world = *state;
    assert_done(world_allow_rdma(world, 1));
    assert_done(world_begin_over(world, 1, 2, RDMA));
    assert_done(world_ready_rdma(world, 1, "10.1.0.2:18515#0123456789abcdef0123456789abcdef", ""));
    assert_done(notice_say(world, 1, "over TCP: can't connect"));
    assert_done(notice_say(world, 1, "over TCP: can't connect"));
    assert_int_equal(world_event_count(world, "migration.notice"), 1);
    assert_done(world_migrated(world, 1));
    assert_string_equal(world_vm(world, 1)->last_migration->notice,
                        "over TCP: can't connect (host 'host1')");
}

static void test_who_encrypted_is_told_and_kept_with_the_figures(void **state)
{
    static const struct {
        Drover__MoveEncryption source, target;
        const char *text;
    } moves[] = {
        {KERNEL, KERNEL, ", encrypted by the kernel on both sides"},
        {RELAY, RELAY, ", encrypted by a relay on both sides"},
        {KERNEL, RELAY, ", encrypted by the kernel at its source and by a relay at its target"},
        {UNKNOWN, RELAY, ", encrypted by a relay at its target"},
        {KERNEL, UNKNOWN, ", encrypted by the kernel at its source"},
        {UNKNOWN, UNKNOWN, "a pause of 56.7 ms"},
        {(Drover__MoveEncryption)7, UNKNOWN, "a pause of 56.7 ms"},
    };
    struct world *world = *state;
    for (unsigned i = 0; i < sizeof(moves) / sizeof(moves[0]); i++) {
        uint64_t target = world_vm(world, 1)->owner_host_id == 1 ? 2 : 1;
        assert_done(world_begin(world, 1, target));
        assert_done(world_ready(world, 1));
        assert_done(world_migrated_encrypted(world, 1, moves[i].source, moves[i].target));
        const char *text = world_event_text(world, "migration.done");
        assert_string_equal(text + strlen(text) - strlen(moves[i].text), moves[i].text);
        const Drover__MigrationFigures *figures = world_vm(world, 1)->last_migration;
        assert_int_equal(figures->source_encryption, moves[i].source);
        assert_int_equal(figures->target_encryption, moves[i].target);
    }
}

static void test_all_judge_as_a_member_that_knows_no_transports(void **state)
{
    struct world *world = *state;
    world_old_host(world, 3);
    assert_refused(world_allow_rdma(world, 1), DROVER_EWRONGSTATE);
    assert_done(world_begin_over(world, 1, 2, RDMA)); /* which it takes for any move */
    assert_int_equal(world_vm(world, 1)->migration->transport, TCP);
    assert_refused(notice_say(world, 1, "x"), DROVER_EBADINPUT);
}

static void test_an_old_member_that_comes_back_ends_what_was_allowed(void **state)
{
    struct world *world = *state;
    assert_done(world_allow_rdma(world, 1));
    world_old_host(world, 3);
    assert_done(world_begin_over(world, 1, 2, RDMA));
    assert_int_equal(world_vm(world, 1)->migration->transport, TCP);
}

int main(void)
{
#define ON_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup_vm, world_teardown)
    const struct CMUnitTest tests[] = {
        ON_WORLD(test_rdma_must_be_allowed_by_name),
        ON_WORLD(test_unknown_setting_is_refused),
        ON_WORLD(test_ready_tells_where_rdma_is_taken),
        ON_WORLD(test_fallback_is_told_once_and_kept_with_the_figures),
        ON_WORLD(test_source_tells_of_a_fallback),
        ON_WORLD(test_who_encrypted_is_told_and_kept_with_the_figures),
        ON_WORLD(test_all_judge_as_a_member_that_knows_no_transports),
        ON_WORLD(test_an_old_member_that_comes_back_ends_what_was_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
