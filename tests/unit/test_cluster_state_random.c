/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thousands of random commands, sensible and senseless, on two states: both stay equal
 * and valid, the right to run a VM passes by the allowed ways only, and a snapshot gives
 * the same state back. DROVER_TEST_SEED replays a run.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/unit.h"

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/id.h"
#include "base/limits.h"
#include "consensus/cluster_state.h"
#include "tests/unit/cluster_scribe.h"

#define COMMAND_COUNT 30000u

struct right {
    uint64_t owner_id, epoch, epoch_high, proof_index;
};

/* ---- what must hold from one command to the next ----------------------------------- */

static void remember(const Drover__ClusterState *view, struct right rights[],
                     size_t *ret_ids)
{
    *ret_ids = view->next_vm_id;
    memset(rights, 0, (LIMIT_VMS + 1) * sizeof(*rights));
    for (size_t i = 0; i < view->n_vms && view->vms[i]->vm_id <= LIMIT_VMS; i++) {
        const Drover__VmRecord *vm = view->vms[i];
        rights[vm->vm_id] = (struct right){.owner_id = vm->owner_host_id,
                                           .epoch = vm->epoch,
                                           .epoch_high = vm->epoch_high,
                                           .proof_index = vm->proof_index};
    }
}

static void check_right(const struct right *before, const Drover__VmRecord *now, int what,
                        const Drover__ClusterState *view)
{
    assert_true(now->epoch >= before->epoch);
    assert_true(now->epoch_high >= before->epoch_high);
    if (now->owner_host_id == before->owner_id) {
        return;
    }
    if (now->owner_host_id == 0) {
        bool by_word = what == DROVER__COMMAND__WHAT_VM_STOPPED;
        bool by_proof = what == DROVER__COMMAND__WHAT_HOST_DEAD ||
                        what == DROVER__COMMAND__WHAT_MIGRATION_ABORT ||
                        what == DROVER__COMMAND__WHAT_HOST_UP ||
                        what == DROVER__COMMAND__WHAT_HOST_REMOVE;
        assert_true(by_word || by_proof);
        assert_true(by_word ||
                    (now->proof_index != 0 && now->proof_index <= view->applied_index));
        return;
    }
    assert_true(now->epoch > before->epoch); /* the right passed */
    assert_true(now->epoch > before->epoch_high || before->owner_id != 0);
    assert_int_equal(what, before->owner_id == 0 ? DROVER__COMMAND__WHAT_VM_ASSIGN
                                                 : DROVER__COMMAND__WHAT_MIGRATION_DONE);
}

static void save(const struct cluster_state *state, struct buffer *out)
{
    out->size = 0;
    assert_int_equal(cluster_state_save(state, out), 0);
}

static void begin(struct cluster_state *state)
{
    uint8_t pem[] = "pem";
    Drover__HostRecord host = DROVER__HOST_RECORD__INIT;
    host.name = (char *)"host0";
    host.address = (char *)"host:7000";
    Drover__ClusterInit init = DROVER__CLUSTER_INIT__INIT;
    init.cluster_id = (char *)"random";
    init.lease_ms = 5000;
    init.ca_certificate_pem = init.ca_key_pem =
        (ProtobufCBinaryData){.data = pem, .len = 3};
    init.first_host = &host;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_INIT;
    command.cluster_init = &init;
    CLEANUP(buffer_done) struct buffer encoded = {0};
    struct apply_result result;
    assert_int_equal(command_encode(&command, &encoded), 0);
    assert_int_equal(cluster_state_apply(state, 1, encoded.data, encoded.size, &result),
                     0);
    assert_int_equal(result.error, 0);
}

struct run {
    struct scribe scribe;
    struct cluster_state *one, *other;
    struct right rights[LIMIT_VMS + 1];
    struct buffer encoded, saved, saved_other;
    unsigned done_counts[64];
};

static void step(struct run *run, uint64_t index)
{
    struct scribe *scribe = &run->scribe;
    size_t ids;
    remember(cluster_state_view(run->one), run->rights, &ids);
    scribe_write(scribe, cluster_state_view(run->one), 1000 + index * 10);
    int what = (int)scribe->command.what_case;
    run->encoded.size = 0;
    assert_int_equal(command_encode(&scribe->command, &run->encoded), 0);
    if (scribe_below(scribe, 50) == 0 &&
        run->encoded.size > 0) { /* a bad disk, or a bad member */
        run->encoded.data[scribe_below(scribe, (unsigned)run->encoded.size)] ^=
            (uint8_t)(1u << scribe_below(scribe, 8));
        what = 0;
    }
    struct apply_result result, result_other;
    assert_int_equal(cluster_state_apply(run->one, index, run->encoded.data,
                                         run->encoded.size, &result),
                     0);
    assert_int_equal(cluster_state_apply(run->other, index, run->encoded.data,
                                         run->encoded.size, &result_other),
                     0);
    assert_int_equal(result.error, result_other.error);
    assert_string_equal(result.text, result_other.text);
    struct error err = {0};
    if (!cluster_state_valid(run->one, &err)) {
        fail_msg("entry %" PRIu64 ": %s", index, err.text);
    }
    if (result.error == 0 && what != 0) {
        run->done_counts[what]++;
        const Drover__ClusterState *view = cluster_state_view(run->one);
        for (size_t i = 0; i < view->n_vms && view->vms[i]->vm_id < ids; i++) {
            check_right(&run->rights[view->vms[i]->vm_id], view->vms[i], what, view);
        }
    }
}

/* The other state goes on from a snapshot. */
static void reload(struct run *run)
{
    struct error err = {0};
    save(run->one, &run->saved);
    save(run->other, &run->saved_other);
    assert_int_equal(run->saved.size, run->saved_other.size);
    assert_memory_equal(run->saved.data, run->saved_other.data, run->saved.size);
    cluster_state_free(run->other);
    assert_int_equal(cluster_state_create(&run->other), 0);
    assert_int_equal(
        cluster_state_load(run->other, run->saved.data, run->saved.size, &err), 0);
    save(run->other, &run->saved_other);
    assert_int_equal(run->saved.size, run->saved_other.size);
    assert_memory_equal(run->saved.data, run->saved_other.data, run->saved.size);
}

static void test_random_commands_keep_all_rules(void **state)
{
    struct run *run = calloc(1, sizeof(*run));
    const char *wanted = getenv("DROVER_TEST_SEED");
    uint64_t seed = 0;
    assert_non_null(run);
    assert_int_equal(id_random_bytes(&seed, sizeof(seed)), 0);
    if (wanted != NULL) {
        seed = strtoull(wanted, NULL, 0);
    }
    print_message("seed: DROVER_TEST_SEED=%" PRIu64 "\n", seed);
    run->scribe.random = seed;
    assert_int_equal(cluster_state_create(&run->one), 0);
    assert_int_equal(cluster_state_create(&run->other), 0);
    begin(run->one);
    begin(run->other);
    for (uint64_t index = 2; index < COMMAND_COUNT; index++) {
        step(run, index);
        if (index % 499 == 0) {
            reload(run);
        }
    }
    if (getenv("DROVER_TEST_COUNTS") != NULL) {
        for (unsigned what = 0; what < 64; what++) {
            if (run->done_counts[what] != 0) {
                print_message("%u: %u\n", what, run->done_counts[what]);
            }
        }
    }
    /* The run has been somewhere: each kind of command was accepted now and then. */
    for (int what = 11; what <= 40; what++) {
        bool exists = what <= 16 || (what >= 20 && what <= 26) ||
                      (what >= 30 && what <= 34) || what == 40;
        if (exists && run->done_counts[what] == 0) {
            fail_msg("no command of kind %d was ever accepted", what);
        }
    }
    cluster_state_free(run->one);
    cluster_state_free(run->other);
    buffer_done(&run->encoded);
    buffer_done(&run->saved);
    buffer_done(&run->saved_other);
    free(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_commands_keep_all_rules),
    };
    return cmocka_run_group_tests_name("cluster_state_random", tests, NULL, NULL);
}
