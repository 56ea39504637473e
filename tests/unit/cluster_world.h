/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster state to which a test gives commands; after each one, its invariants are
 * checked. For tests. */
#ifndef DROVER_TESTS_UNIT_CLUSTER_WORLD_H
#define DROVER_TESTS_UNIT_CLUSTER_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "consensus/cluster_state.h"

#define MIB (UINT64_C(1) << 20)

struct world {
    struct cluster_state *state;
    uint64_t index;
    uint64_t now_unix_ms;
    struct apply_result result; /* of the last command */
};

void world_init(struct world *world);
void world_done(struct world *world);
/* Fixtures: an empty one; one with three hosts and VM 1 set for HA, which runs on host 1. */
int world_setup(void **state);
int world_setup_vm(void **state);
int world_teardown(void **state);

/* Applies; the result's error. Fails the test when the state is not valid afterwards,
 * or a refusal has changed it. */
int world_apply(struct world *world, const Drover__Command *command);

/* All give the result's error, and 0 for done. */
int world_cluster_init(struct world *world);
int world_token(struct world *world, const char *token_id, uint64_t expires_unix_ms);
int world_host_add(struct world *world, const char *token_id, const char *name,
                   const char *address);
int world_host_up(struct world *world, uint64_t host_id, const char *boot,
                  const char *run);
/* Up again, but of a release that knows neither post-copy, nor settings and transports. */
void world_old_host(struct world *world, uint64_t host_id);
int world_host_dead(struct world *world, uint64_t host_id, Drover__ProofKind kind);
int world_host_remove(struct world *world, uint64_t host_id);
int world_host_drain(struct world *world, uint64_t host_id, bool draining);
int world_vm_create(struct world *world, const char *name, const char *disk, bool ha);
int world_wanted(struct world *world, uint64_t vm_id, Drover__VmWanted wanted);
int world_vm_delete(struct world *world, uint64_t vm_id);
int world_assign(struct world *world, uint64_t vm_id, uint64_t host_id);
/* Spoken by a host's current run. */
int world_started(struct world *world, uint64_t vm_id, uint64_t epoch, uint64_t host_id);
int world_stopped(struct world *world, uint64_t vm_id, uint64_t epoch, uint64_t host_id,
                  bool powered_off);
int world_begin(struct world *world, uint64_t vm_id, uint64_t target_id);
int world_begin_over(struct world *world, uint64_t vm_id, uint64_t target_id,
                     Drover__MigrationTransport transport);
int world_ready(struct world *world, uint64_t vm_id);
/* By RDMA at `address`; "": not, because of `notice`. */
int world_ready_rdma(struct world *world, uint64_t vm_id, const char *address,
                     const char *notice);
int world_allow_rdma(struct world *world, uint64_t value);
int world_cancel(struct world *world, uint64_t vm_id);
int world_migrated(struct world *world, uint64_t vm_id);
int world_migrated_encrypted(struct world *world, uint64_t vm_id,
                             Drover__MoveEncryption source, Drover__MoveEncryption target);
int world_abort(struct world *world, uint64_t vm_id, Drover__MigrationAbortBy by);

/* Host 1 .. `host_count`, all up, with boots "boot1" .. and 1 GiB each; watchdogs
 * armed. */
void world_hosts(struct world *world, unsigned host_count);
/* A VM of 128 MiB that runs on the host. Its id. */
uint64_t world_running_vm(struct world *world, const char *name, uint64_t host_id,
                          bool ha);

const Drover__VmRecord *world_vm(const struct world *world, uint64_t vm_id);
const Drover__HostRecord *world_host(const struct world *world, uint64_t host_id);
/* The text of the last one; NULL: there is none. */
const char *world_event_text(const struct world *world, const char *kind);
/* How many events of this kind there are. */
unsigned world_event_count(const struct world *world, const char *kind);

/* A proof that holds for this host. */
void world_proof(const struct world *world, uint64_t host_id, Drover__ProofKind kind,
                 Drover__Proof *ret_proof);

#define assert_refused(expression, code)                                                 \
    do {                                                                                 \
        assert_int_equal((expression), (code));                                          \
        assert_true(world->result.text[0] != '\0');                                      \
    } while (0)
#define assert_done(expression) assert_int_equal((expression), 0)

#endif
