/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decisions of host h1 (node-agent/host_core.h) in a cluster of three, L being 5 s:
 * what it orders and states is noted, and VMMs say what a test wants. For tests; the
 * names are short, as they are made of them.
 */
#ifndef DROVER_TESTS_UNIT_HOST_FIXTURE_H
#define DROVER_TESTS_UNIT_HOST_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "node-agent/host_core.h"
#include "tests/unit/small_cluster.h"

#define HOST_SELF      1
#define HOST_BANDWIDTH UINT64_C(100000000)

struct host_fixture {
    struct small_cluster cluster;
    struct host_core *core;
    uint64_t now_ms, sequence, deadline_ns;
    unsigned starts, incoming, requests;
    uint64_t started_epoch;
    unsigned orders[32]; /* by order_case */
    /* As ordered last: */
    uint64_t lease_ns;
    uint64_t bandwidth[8]; /* by VM */
    Drover__MigratePostcopy postcopy;
    char rdma[64]; /* or stated */
    /* As stated last: */
    uint64_t proposal_id;
    Drover__Command__WhatCase proposed;
    Drover__MigrationAbortBy abort_by;
    Drover__MoveEncryption source_encryption, target_encryption;
    bool powered_off, depends, lost;
    char notice[64];
    /* Of VMMs from now on: */
    const char *says_notice, *says_rdma;
    bool says_interrupted;
};

int host_fixture_setup(void **state);
int host_fixture_teardown(void **state);
#define HOST_TEST(name)                                                                  \
    cmocka_unit_test_setup_teardown(name, host_fixture_setup, host_fixture_teardown)

/* The agent's next run; the one before is freed. */
void host_fixture_new_run(struct host_fixture *f, const char *incarnation);
void tick(struct host_fixture *f);
/* The lease that was asked for last. */
void grant(struct host_fixture *f, uint64_t required_index);
/* Ticks on to the next request for a lease, and grants it. */
void renew(struct host_fixture *f, uint64_t required_index);
/* Scanned, and with a lease in force. */
void settle(struct host_fixture *f);
/* What a VMM says. `next_epoch` 0: not which move it is about. */
void says_move_of(struct host_fixture *f, uint64_t vm_id, uint64_t epoch,
                  Drover__VmRunState run_state, Drover__VmMigrationState move,
                  uint64_t next_epoch);
void says_move(struct host_fixture *f, uint64_t vm_id, uint64_t epoch,
               Drover__VmRunState run_state, Drover__VmMigrationState move);
void says(struct host_fixture *f, uint64_t vm_id, uint64_t epoch,
          Drover__VmRunState run_state);
/* A VM that runs here under epoch 1, and is known to; returns its id. */
uint64_t running_vm(struct host_fixture *f);
/* The statement that is out ends; time goes on until the next may be made. */
void proposal_ends(struct host_fixture *f, int error);
void assert_orders(struct host_fixture *f, unsigned order_case, unsigned count);

#endif
