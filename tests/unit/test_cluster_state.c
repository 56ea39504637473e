/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster's beginning, tokens, hosts, deaths, events, snapshots. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cluster_world.h"
#include "tests/unit/unit.h"

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/limits.h"

#define STOPPED  DROVER__VM_WANTED__VM_WANTED_STOPPED
#define LEASE    DROVER__PROOF_KIND__PROOF_LEASE_WATCHDOG
#define POWER    DROVER__PROOF_KIND__PROOF_POWER_OFF
#define OPERATOR DROVER__PROOF_KIND__PROOF_OPERATOR
#define UP       DROVER__HOST_STATE__HOST_STATE_UP
#define DEAD     DROVER__HOST_STATE__HOST_STATE_DEAD
#define JOINING  DROVER__HOST_STATE__HOST_STATE_JOINING

/* ---- beginning --------------------------------------------------------------------- */

static void test_nothing_but_init_works_without_a_cluster(void **state)
{
    struct world *world = *state;
    assert_refused(world_vm_create(world, "web", NULL, true), DROVER_EWRONGSTATE);
    assert_non_null(strstr(world->result.text, "drover cluster init"));
    assert_done(world_cluster_init(world));
    assert_int_equal(world->result.result_id, 1);
    assert_int_equal(world_host(world, 1)->state, JOINING);
}

static void test_second_init_is_refused(void **state)
{
    struct world *world = *state;
    assert_done(world_cluster_init(world));
    assert_refused(world_cluster_init(world), DROVER_EEXISTS);
}

static void test_what_is_no_command_is_refused(void **state)
{
    struct world *world = *state;
    struct apply_result result;
    world_hosts(world, 1);
    static const char *const bad[] = {"", "\xff", "\x52\x7f", "\x52\x01",
                                      "junk that is no protobuf"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(cluster_state_apply(world->state, ++world->index, bad[i],
                                             strlen(bad[i]), &result),
                         0);
        assert_int_equal(result.error, DROVER_EMALFORMED);
        assert_true(result.text[0] != '\0');
    }
    assert_int_equal(cluster_state_apply(world->state, ++world->index, NULL, 0, &result),
                     0);
    assert_int_equal(result.error, DROVER_EMALFORMED);
}

/* ---- requests that are asked again ----------------------------------------------------
 */

static int create_keyed(struct world *world, const char *key, uint64_t digest,
                        const char *name)
{
    Drover__VmSpec spec = DROVER__VM_SPEC__INIT;
    spec.name = (char *)(uintptr_t)name;
    spec.memory_bytes = 128 * MIB;
    spec.cpus = 1;
    spec.kernel = (char *)(uintptr_t) "/k";
    Drover__VmCreate create = DROVER__VM_CREATE__INIT;
    create.spec = &spec;
    create.wanted = STOPPED;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.request_id = (char *)(uintptr_t)key;
    command.request_digest = digest;
    command.what_case = DROVER__COMMAND__WHAT_VM_CREATE;
    command.vm_create = &create;
    return world_apply(world, &command);
}

static void test_repeated_request_gets_the_first_answer(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    assert_done(create_keyed(world, "key-1", 7, "web"));
    uint64_t vm_id = world->result.result_id;
    assert_done(create_keyed(world, "key-1", 7, "web"));
    assert_int_equal(world->result.result_id, vm_id);
    assert_int_equal(cluster_state_view(world->state)->n_vms, 1);
    assert_int_equal(world_event_count(world, "vm.created"), 1);
    /* Also when the VM is long gone: it is not made again. */
    assert_done(world_vm_delete(world, vm_id));
    assert_done(create_keyed(world, "key-1", 7, "web"));
    assert_int_equal(world->result.result_id, vm_id);
    assert_int_equal(cluster_state_view(world->state)->n_vms, 0);
}

static void test_request_id_is_for_one_request(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    assert_done(create_keyed(world, "key-1", 7, "web"));
    assert_refused(create_keyed(world, "key-1", 8, "db"), DROVER_EEXISTS);
    assert_non_null(strstr(world->result.text, "key-1"));
    assert_refused(create_keyed(world, "a b", 8, "db"), DROVER_EBADINPUT);
    char longest[LIMIT_REQUEST_ID_SIZE + 1] = {0};
    memset(longest, 'x', LIMIT_REQUEST_ID_SIZE);
    assert_refused(create_keyed(world, longest, 8, "db"), DROVER_EBADINPUT);
    longest[LIMIT_REQUEST_ID_SIZE - 1] = '\0';
    assert_done(create_keyed(world, longest, 8, "db"));
}

static void test_refused_request_is_judged_anew(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    assert_done(create_keyed(world, "", 0, "web"));
    uint64_t first = world->result.result_id;
    assert_refused(create_keyed(world, "key-1", 7, "web"), DROVER_EEXISTS);
    assert_done(world_vm_delete(world, first));
    assert_done(create_keyed(world, "key-1", 7, "web"));
    assert_true(world->result.result_id != first);
}

static void test_requests_are_remembered_by_snapshots_and_for_a_day(void **state)
{
    struct world *world = *state;
    CLEANUP(buffer_done) struct buffer saved = {0};
    struct error err = {0};
    char name[32];
    world_hosts(world, 1);
    assert_done(create_keyed(world, "key-1", 7, "web"));
    assert_int_equal(cluster_state_save(world->state, &saved), 0);
    assert_int_equal(cluster_state_load(world->state, saved.data, saved.size, &err), 0);
    assert_non_null(cluster_state_request(world->state, "key-1"));
    world->now_unix_ms += LIMIT_REQUEST_MS - 1000;
    assert_done(create_keyed(world, "key-2", 8, "db"));
    assert_non_null(cluster_state_request(world->state, "key-1"));
    world->now_unix_ms += 2000;
    assert_done(create_keyed(world, "key-3", 9, "mail"));
    assert_null(cluster_state_request(world->state, "key-1"));
    assert_non_null(cluster_state_request(world->state, "key-2"));
    assert_non_null(cluster_state_request(world->state, "key-3"));
    for (unsigned i = 0; i < LIMIT_REQUESTS; i++) {
        (void)snprintf(name, sizeof(name), "more-%u", i);
        assert_done(create_keyed(world, name, i, name));
    }
    assert_int_equal(cluster_state_view(world->state)->n_requests, LIMIT_REQUESTS);
    assert_null(cluster_state_request(world->state, "key-3"));
    assert_non_null(cluster_state_request(world->state, "more-0"));
}

/* ---- tokens ------------------------------------------------------------------------ */

static void test_token_admits_one_host(void **state)
{
    struct world *world = *state;
    assert_done(world_cluster_init(world));
    assert_done(world_token(world, "t1", world->now_unix_ms + 1000));
    assert_done(world_host_add(world, "t1", "b", "10.0.0.2:7000"));
    assert_int_equal(world->result.result_id, 2);
    assert_refused(world_host_add(world, "t1", "c", "10.0.0.3:7000"), DROVER_ETOKEN);
    assert_non_null(strstr(world->result.text, "drover cluster token"));
    assert_int_equal(cluster_state_view(world->state)->n_hosts, 2);
}

static void test_same_host_may_ask_again_until_it_is_up(void **state)
{
    struct world *world = *state;
    assert_done(world_cluster_init(world));
    assert_done(world_token(world, "t1", world->now_unix_ms + 1000));
    assert_done(world_host_add(world, "t1", "b", "10.0.0.2:7000"));
    assert_done(world_host_add(world, "t1", "b", "10.0.0.2:7000"));
    assert_int_equal(world->result.result_id, 2);
    assert_done(world_host_up(world, 2, "boot2", "run2"));
    assert_refused(world_host_add(world, "t1", "b", "10.0.0.2:7000"), DROVER_ETOKEN);
}

static void test_expired_or_unknown_token_is_refused(void **state)
{
    struct world *world = *state;
    assert_done(world_cluster_init(world));
    assert_done(world_token(world, "t1", world->now_unix_ms + 1000));
    world->now_unix_ms += 1000;
    assert_refused(world_host_add(world, "t1", "b", "10.0.0.2:7000"), DROVER_ETOKEN);
    assert_non_null(strstr(world->result.text, "expired"));
    assert_refused(world_host_add(world, "t2", "b", "10.0.0.2:7000"), DROVER_ETOKEN);
    assert_refused(world_token(world, "t3", world->now_unix_ms), DROVER_EBADINPUT);
}

static void test_token_with_the_wrong_secret_is_refused(void **state)
{
    struct world *world = *state;
    assert_done(world_cluster_init(world));
    assert_done(world_token(world, "t1", world->now_unix_ms + 1000));
    uint8_t wrong[32] = "something else";
    Drover__HostAdd add = DROVER__HOST_ADD__INIT;
    add.token_id = (char *)"t1";
    add.secret_sha256 = (ProtobufCBinaryData){.data = wrong, .len = sizeof(wrong)};
    add.name = (char *)"b";
    add.address = (char *)"10.0.0.2:7000";
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_ADD;
    command.host_add = &add;
    assert_refused(world_apply(world, &command), DROVER_ETOKEN);
    add.secret_sha256.len = 0;
    assert_refused(world_apply(world, &command), DROVER_ETOKEN);
}

static void test_old_tokens_make_room_for_new_ones(void **state)
{
    struct world *world = *state;
    assert_done(world_cluster_init(world));
    char token[16];
    for (unsigned i = 0; i < LIMIT_TOKENS; i++) {
        (void)snprintf(token, sizeof(token), "t%u", i);
        assert_done(world_token(world, token, world->now_unix_ms + 1000 + i));
    }
    assert_refused(world_token(world, "more", world->now_unix_ms + 9000), DROVER_ELIMIT);
    world->now_unix_ms += 1000; /* the first one expires */
    assert_done(world_token(world, "more", world->now_unix_ms + 9000));
    assert_int_equal(cluster_state_view(world->state)->n_tokens, LIMIT_TOKENS);
    assert_refused(world_token(world, "more", world->now_unix_ms + 9000), DROVER_EEXISTS);
}

static void test_host_names_and_addresses_are_unique_and_valid(void **state)
{
    struct world *world = *state;
    assert_done(world_cluster_init(world));
    assert_done(world_token(world, "t1", world->now_unix_ms + 1000));
    assert_refused(world_host_add(world, "t1", "host1", "10.0.0.2:7000"), DROVER_EEXISTS);
    assert_refused(world_host_add(world, "t1", "b", "10.0.0.1:7000"), DROVER_EEXISTS);
    static const char *const names[] = {"", "B", "b_c", "-b", "b-", "b c", "b\nc"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_refused(world_host_add(world, "t1", names[i], "10.0.0.2:7000"),
                       DROVER_EBADINPUT);
    }
    static const char *const addresses[] = {
        "", ":7000", "a", "a:", "a:0", "a:65536", "a:7o", "a b:7"};
    for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
        assert_refused(world_host_add(world, "t1", "b", addresses[i]), DROVER_EBADINPUT);
    }
    assert_done(world_host_add(world, "t1", "b", "[fd00::2]:7000")); /* none used it up */
}

static void test_cluster_takes_so_many_hosts(void **state)
{
    struct world *world = *state;
    world_hosts(world, LIMIT_HOSTS);
    assert_done(world_token(world, "t", world->now_unix_ms + 1000));
    assert_refused(world_host_add(world, "t", "more", "10.0.1.1:7000"), DROVER_ELIMIT);
    assert_done(world_host_remove(world, 7));
    assert_done(world_host_add(world, "t", "more", "10.0.1.1:7000"));
    assert_int_equal(world->result.result_id,
                     LIMIT_HOSTS + 1); /* ids are never used again */
}

/* ---- hosts ------------------------------------------------------------------------- */

static void test_host_comes_up_and_back(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    assert_int_equal(world_host(world, 2)->state, UP);
    assert_done(world_host_up(world, 2, "boot2", "run2b"));
    assert_int_equal(world_event_count(world, "host.agent_restarted"), 1);
    assert_done(world_host_up(world, 2, "boot2b", "run2c"));
    assert_int_equal(world_event_count(world, "host.rebooted"), 1);
    assert_done(world_host_dead(world, 2, POWER));
    assert_int_equal(world_host(world, 2)->state, DEAD);
    assert_done(world_host_up(world, 2, "boot2c", "run2d"));
    assert_int_equal(world_host(world, 2)->state, UP);
    assert_refused(world_host_up(world, 3, "boot3", "run3"), DROVER_ENOTFOUND);
    assert_refused(world_host_up(world, 2, "", "run3"), DROVER_EBADINPUT);
    assert_refused(world_host_up(world, 2, "boot", ""), DROVER_EBADINPUT);
}

static void test_repeated_host_up_is_no_news(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    size_t events = cluster_state_view(world->state)->n_events;
    assert_done(world_host_up(world, 2, "boot2", "run2"));
    assert_int_equal(cluster_state_view(world->state)->n_events, events);
}

static int dead_with(struct world *world, const Drover__Proof *proof, const char *boot,
                     const char *run)
{
    Drover__HostDead dead = DROVER__HOST_DEAD__INIT;
    dead.host_id = 2;
    dead.boot_id = (char *)(uintptr_t)boot;
    dead.incarnation = (char *)(uintptr_t)run;
    dead.proof = (Drover__Proof *)(uintptr_t)proof;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_DEAD;
    command.host_dead = &dead;
    return world_apply(world, &command);
}

static void test_host_that_came_back_meanwhile_is_not_dead(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    Drover__Proof proof;
    world_proof(world, 2, LEASE, &proof);
    assert_refused(dead_with(world, &proof, "boot1", "run2"), DROVER_ECONFLICT);
    assert_refused(dead_with(world, &proof, "boot2", "run1"), DROVER_ECONFLICT);
    assert_int_equal(world_host(world, 2)->state, UP);
    assert_done(dead_with(world, &proof, "boot2", "run2"));
    assert_int_equal(world_host(world, 2)->proof_index, world->index);
}

static void test_no_host_is_dead_without_a_proof_that_holds(void **state)
{
    struct world *world = *state;
    world_hosts(world, 3);
    Drover__Proof good, proof;
    world_proof(world, 2, LEASE, &good);
    assert_refused(dead_with(world, NULL, "boot2", "run2"), DROVER_EBADINPUT);
#define ASSERT_BROKEN(change)                                                            \
    do {                                                                                 \
        proof = good;                                                                    \
        change;                                                                          \
        assert_refused(dead_with(world, &proof, "boot2", "run2"), DROVER_EBADINPUT);     \
    } while (0)
    ASSERT_BROKEN(proof.kind = DROVER__PROOF_KIND__PROOF_UNSPECIFIED);
    ASSERT_BROKEN(proof.kind = (Drover__ProofKind)17);
    ASSERT_BROKEN(proof.silent_ms = 7499);
    ASSERT_BROKEN(proof.lease_ms = 4999);
    ASSERT_BROKEN(proof.watchdog_ms = 1999);
    ASSERT_BROKEN(proof.term = 0);
    ASSERT_BROKEN(proof.leader_host_id = 0);
    ASSERT_BROKEN(proof.leader_host_id = 2); /* nobody judges himself */
    ASSERT_BROKEN(proof.leader_host_id = 9);
    ASSERT_BROKEN(proof.margin_ms = UINT64_MAX);
    ASSERT_BROKEN((proof.kind = POWER, proof.detail = (char *)""));
    ASSERT_BROKEN((proof.kind = OPERATOR, proof.detail = (char *)""));
    assert_int_equal(world_host(world, 2)->state, UP);
    assert_done(dead_with(world, &good, "boot2", "run2"));
    assert_refused(dead_with(world, &good, "boot2", "run2"), DROVER_EWRONGSTATE);
}

static void test_silence_proves_nothing_without_an_armed_watchdog(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    Drover__HostUp up = DROVER__HOST_UP__INIT;
    up.host_id = 2;
    up.boot_id = (char *)"boot2";
    up.incarnation = (char *)"run2";
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_UP;
    command.host_up = &up;
    assert_done(world_apply(world, &command));
    assert_refused(world_host_dead(world, 2, LEASE), DROVER_EBADINPUT);
    assert_non_null(strstr(world->result.text, "no armed watchdog"));
    assert_done(world_host_dead(world, 2, POWER));
}

static void test_host_that_was_never_up_does_not_die(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    assert_done(world_token(world, "t", world->now_unix_ms + 1000));
    assert_done(world_host_add(world, "t", "b", "10.0.0.2:7000"));
    assert_refused(world_host_dead(world, 2, OPERATOR), DROVER_EWRONGSTATE);
}

static void test_death_takes_ha_vms_and_leaves_the_others(void **state)
{
    struct world *world = *state;
    world_hosts(world, 3);
    uint64_t ha = world_running_vm(world, "ha", 2, true);
    uint64_t plain = world_running_vm(world, "plain", 2, false);
    uint64_t other = world_running_vm(world, "other", 3, true);
    assert_done(world_host_dead(world, 2, LEASE));
    uint64_t proof_index = world->index;

    assert_int_equal(world_vm(world, ha)->owner_host_id, 0);
    assert_int_equal(world_vm(world, ha)->proof_index, proof_index);
    assert_int_equal(world_vm(world, plain)->owner_host_id, 2);
    assert_int_equal(world_vm(world, plain)->proof_index, 0);
    assert_non_null(strstr(world_vm(world, plain)->last_error, "not set for HA"));
    assert_int_equal(world_vm(world, other)->owner_host_id, 3);
    assert_int_equal(world_event_count(world, "vm.taken"), 1);
    assert_int_equal(world_event_count(world, "vm.lost"), 1);

    assert_done(world_assign(world, ha, 3)); /* elsewhere, under a new epoch */
    assert_int_equal(world_vm(world, ha)->epoch, 2);
    assert_int_equal(world_vm(world, ha)->proof_index, proof_index);
    assert_refused(world_assign(world, plain, 3), DROVER_ECONFLICT);

    assert_done(world_host_up(world, 2, "boot2b", "run2b"));
    assert_string_equal(world_vm(world, plain)->last_error, "");
    assert_int_equal(world_vm(world, plain)->owner_host_id, 2);
}

static void test_dead_host_has_no_say(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    uint64_t plain = world_running_vm(world, "plain", 2, false);
    assert_done(world_host_dead(world, 2, LEASE));
    assert_refused(world_stopped(world, plain, 1, 2, true), DROVER_EWRONGSTATE);
    assert_refused(world_started(world, plain, 1, 2), DROVER_EWRONGSTATE);
}

static void test_removing_a_fenced_host_releases_its_vms(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    uint64_t plain = world_running_vm(world, "plain", 2, false);
    assert_refused(world_host_remove(world, 2), DROVER_EINUSE);
    assert_non_null(strstr(world->result.text, "drover node drain host2"));
    assert_done(world_host_dead(world, 2, LEASE));
    /* Its silence does not prove that a VM which is never frozen has stopped. */
    assert_refused(world_host_remove(world, 2), DROVER_EINUSE);
    assert_non_null(strstr(world->result.text, "start that host again"));
    assert_done(
        world_host_dead(world, 2, OPERATOR)); /* a stronger proof counts even now */
    uint64_t proof_index = world->index;
    assert_done(world_host_remove(world, 2));
    assert_null(world_host(world, 2));
    assert_int_equal(world_vm(world, plain)->owner_host_id, 0);
    assert_int_equal(world_vm(world, plain)->wanted, STOPPED);
    assert_int_equal(world_vm(world, plain)->proof_index, proof_index);
}

static void test_last_host_stays(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    assert_refused(world_host_remove(world, 1), DROVER_EINUSE);
    assert_refused(world_host_remove(world, 5), DROVER_ENOTFOUND);
}

static void test_drained_host_gets_no_vm(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    assert_done(world_vm_create(world, "web", NULL, true));
    assert_done(world_host_drain(world, 2, true));
    assert_done(world_host_drain(world, 2, true));
    assert_int_equal(world_event_count(world, "host.draining"), 1);
    assert_refused(world_assign(world, 1, 2), DROVER_EWRONGSTATE);
    assert_done(world_host_drain(world, 2, false));
    assert_done(world_assign(world, 1, 2));
    assert_refused(world_host_drain(world, 9, true), DROVER_ENOTFOUND);
}

/* ---- events, snapshots ------------------------------------------------------------- */

static int add_event(struct world *world, const char *kind, const char *text)
{
    Drover__Event event = DROVER__EVENT__INIT;
    event.kind = (char *)(uintptr_t)kind;
    event.text = (char *)(uintptr_t)text;
    event.index = 12345; /* not for the proposer to say */
    Drover__EventAdd add = DROVER__EVENT_ADD__INIT;
    add.event = &event;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_EVENT_ADD;
    command.event_add = &add;
    return world_apply(world, &command);
}

static void test_events_are_kept_up_to_a_limit(void **state)
{
    struct world *world = *state;
    world_hosts(world, 1);
    for (unsigned i = 0; i < LIMIT_EVENTS + 10; i++) {
        assert_done(add_event(world, "vm.frozen", "a text\twith a tab"));
    }
    const Drover__ClusterState *view = cluster_state_view(world->state);
    assert_int_equal(view->n_events, LIMIT_EVENTS);
    assert_int_equal(view->events[LIMIT_EVENTS - 1]->index, world->index);
    assert_int_equal(view->events[LIMIT_EVENTS - 1]->unix_ms, world->now_unix_ms);
    assert_int_equal(view->events[0]->index, world->index - LIMIT_EVENTS + 1);
    assert_string_equal(view->events[0]->text, "a text with a tab");
    assert_refused(add_event(world, "", "x"), DROVER_EBADINPUT);
    assert_refused(add_event(world, "no spaces", "x"), DROVER_EBADINPUT);
}

static void test_snapshot_gives_the_same_state_back(void **state)
{
    struct world *world = *state;
    world_hosts(world, 3);
    (void)world_running_vm(world, "web", 1, true);
    assert_done(world_begin(world, 1, 2));
    CLEANUP(buffer_done) struct buffer saved = {0};
    CLEANUP(buffer_done) struct buffer again = {0};
    assert_int_equal(cluster_state_save(world->state, &saved), 0);
    struct error err = {0};
    struct cluster_state *loaded;
    assert_int_equal(cluster_state_create(&loaded), 0);
    assert_int_equal(cluster_state_load(loaded, saved.data, saved.size, &err), 0);
    assert_int_equal(cluster_state_save(loaded, &again), 0);
    assert_int_equal(saved.size, again.size);
    assert_memory_equal(saved.data, again.data, saved.size);
    cluster_state_free(loaded);
}

static void test_damaged_snapshot_is_refused_and_changes_nothing(void **state)
{
    struct world *world = *state;
    world_hosts(world, 2);
    CLEANUP(buffer_done) struct buffer saved = {0};
    assert_int_equal(cluster_state_save(world->state, &saved), 0);
    struct error err = {0};
    for (size_t i = 0; i < saved.size; i++) { /* the checksum finds each */
        saved.data[i] ^= 0x20;
        assert_true(cluster_state_load(world->state, saved.data, saved.size, &err) < 0);
        assert_true(err.text[0] != '\0');
        saved.data[i] ^= 0x20;
    }
    for (size_t size = 0; size < saved.size; size += 7) {
        assert_int_equal(cluster_state_load(world->state, saved.data, size, &err),
                         DROVER_EMALFORMED);
    }
    assert_int_equal(buffer_append(&saved, "x", 1), 0);
    assert_int_equal(cluster_state_load(world->state, saved.data, saved.size, &err),
                     DROVER_EMALFORMED);
    assert_int_equal(cluster_state_view(world->state)->n_hosts, 2);
}

int main(void)
{
#define ON_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)
    const struct CMUnitTest tests[] = {
        ON_WORLD(test_nothing_but_init_works_without_a_cluster),
        ON_WORLD(test_second_init_is_refused),
        ON_WORLD(test_what_is_no_command_is_refused),
        ON_WORLD(test_repeated_request_gets_the_first_answer),
        ON_WORLD(test_request_id_is_for_one_request),
        ON_WORLD(test_refused_request_is_judged_anew),
        ON_WORLD(test_requests_are_remembered_by_snapshots_and_for_a_day),
        ON_WORLD(test_token_admits_one_host),
        ON_WORLD(test_same_host_may_ask_again_until_it_is_up),
        ON_WORLD(test_expired_or_unknown_token_is_refused),
        ON_WORLD(test_token_with_the_wrong_secret_is_refused),
        ON_WORLD(test_old_tokens_make_room_for_new_ones),
        ON_WORLD(test_host_names_and_addresses_are_unique_and_valid),
        ON_WORLD(test_cluster_takes_so_many_hosts),
        ON_WORLD(test_host_comes_up_and_back),
        ON_WORLD(test_repeated_host_up_is_no_news),
        ON_WORLD(test_host_that_came_back_meanwhile_is_not_dead),
        ON_WORLD(test_no_host_is_dead_without_a_proof_that_holds),
        ON_WORLD(test_silence_proves_nothing_without_an_armed_watchdog),
        ON_WORLD(test_host_that_was_never_up_does_not_die),
        ON_WORLD(test_death_takes_ha_vms_and_leaves_the_others),
        ON_WORLD(test_dead_host_has_no_say),
        ON_WORLD(test_removing_a_fenced_host_releases_its_vms),
        ON_WORLD(test_last_host_stays),
        ON_WORLD(test_drained_host_gets_no_vm),
        ON_WORLD(test_events_are_kept_up_to_a_limit),
        ON_WORLD(test_snapshot_gives_the_same_state_back),
        ON_WORLD(test_damaged_snapshot_is_refused_and_changes_nothing),
    };
    return cmocka_run_group_tests_name("cluster_state", tests, NULL, NULL);
}
