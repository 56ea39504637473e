/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster state of three hosts, h1 to h3, for tests of what is decided upon it. */
#ifndef DROVER_TESTS_UNIT_SMALL_CLUSTER_H
#define DROVER_TESTS_UNIT_SMALL_CLUSTER_H

#include <stdint.h>

#include "consensus/cluster_state.h"

struct small_cluster {
    struct cluster_state *state;
    uint64_t index;
    Drover__MigrationTransport transport; /* of moves from now on */
};

/* All three up, under boot "boot" and run "run1". */
void small_cluster_init(struct small_cluster *cluster);
void small_cluster_done(struct small_cluster *cluster);
/* Applies it; returns how it was judged. */
int small_cluster_apply(struct small_cluster *cluster, const Drover__Command *command);
void small_cluster_up(struct small_cluster *cluster, uint64_t host_id,
                      const char *boot_id, const char *incarnation, uint64_t watchdog_ms);
/* A new VM set for HA, wanted running; returns its id. */
uint64_t small_cluster_vm(struct small_cluster *cluster);
void small_cluster_assign(struct small_cluster *cluster, uint64_t vm_id,
                          uint64_t host_id);
void small_cluster_wanted(struct small_cluster *cluster, uint64_t vm_id,
                          Drover__VmWanted wanted);
/* Its owner says that it runs. */
void small_cluster_started(struct small_cluster *cluster, uint64_t vm_id);
/* From its owner to `target`, BEGUN; then READY at SMALL_CLUSTER_URI. */
void small_cluster_migrate(struct small_cluster *cluster, uint64_t vm_id,
                           uint64_t target);
void small_cluster_drain(struct small_cluster *cluster, uint64_t host_id);
void small_cluster_ready(struct small_cluster *cluster, uint64_t vm_id);
/* RDMA is allowed, and asked for by moves from now on; it is ready at SMALL_CLUSTER_RDMA. */
void small_cluster_rdma(struct small_cluster *cluster);
#define SMALL_CLUSTER_URI "tcp:10.0.0.9:900"
#define SMALL_CLUSTER_RDMA "10.1.0.9:18515"

#endif
