/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster state of three hosts, made by the commands that make real ones. */
#include "tests/unit/small_cluster.h"

#include <stdio.h>

#include "base/buffer.h"
#include "base/check.h"

#define NOW_MS UINT64_C(1700000000000)

int small_cluster_apply(struct small_cluster *cluster, const Drover__Command *command)
{
    Drover__Command dated = *command;
    dated.at_unix_ms = NOW_MS;
    uint8_t data[4096];
    size_t size = drover__command__get_packed_size(&dated);
    CHECK(size <= sizeof(data));
    (void)drover__command__pack(&dated, data); /* fills `size` */
    struct apply_result result;
    CHECK(cluster_state_apply(cluster->state, ++cluster->index, data, size, &result) ==
          0);
    return result.error;
}

static void apply(struct small_cluster *cluster, const Drover__Command *command)
{
    CHECK(small_cluster_apply(cluster, command) == 0);
}

void small_cluster_up(struct small_cluster *cluster, uint64_t host_id,
                      const char *boot_id, const char *incarnation, uint64_t watchdog_ms)
{
    Drover__HostUp up = DROVER__HOST_UP__INIT;
    up.host_id = host_id;
    up.boot_id = (char *)(uintptr_t)boot_id;
    up.incarnation = (char *)(uintptr_t)incarnation;
    up.memory_bytes = UINT64_C(8) << 30;
    up.cpus = 4;
    up.watchdog_ms = watchdog_ms;
    up.postcopy = true;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_UP;
    command.host_up = &up;
    apply(cluster, &command);
}

static void add_host(struct small_cluster *cluster, unsigned number)
{
    uint8_t hash[32] = {(uint8_t)number};
    char name[8], address[32];
    (void)snprintf(name, sizeof(name), "h%u", number);
    (void)snprintf(address, sizeof(address), "10.0.0.%u:7400", number);
    Drover__TokenCreate token = DROVER__TOKEN_CREATE__INIT;
    token.token_id = name;
    token.secret_sha256 = (ProtobufCBinaryData){sizeof(hash), hash};
    token.expires_unix_ms = NOW_MS + 1000;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_TOKEN_CREATE;
    command.token_create = &token;
    apply(cluster, &command);
    Drover__HostAdd add = DROVER__HOST_ADD__INIT;
    add.token_id = name;
    add.secret_sha256 = token.secret_sha256;
    add.name = name;
    add.address = address;
    command.what_case = DROVER__COMMAND__WHAT_HOST_ADD;
    command.host_add = &add;
    apply(cluster, &command);
}

void small_cluster_init(struct small_cluster *cluster)
{
    *cluster = (struct small_cluster){0};
    CHECK(cluster_state_create(&cluster->state) == 0);
    uint8_t pem[3] = {'p', 'e', 'm'};
    Drover__HostRecord first = DROVER__HOST_RECORD__INIT;
    first.name = (char *)(uintptr_t) "h1";
    first.address = (char *)(uintptr_t) "10.0.0.1:7400";
    Drover__ClusterInit init = DROVER__CLUSTER_INIT__INIT;
    init.cluster_id = (char *)(uintptr_t) "small";
    init.ca_certificate_pem = (ProtobufCBinaryData){sizeof(pem), pem};
    init.ca_key_pem = init.ca_certificate_pem;
    init.lease_ms = 5000;
    init.first_host = &first;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_INIT;
    command.cluster_init = &init;
    apply(cluster, &command);
    add_host(cluster, 2);
    add_host(cluster, 3);
    for (uint64_t host = 1; host <= 3; host++) {
        small_cluster_up(cluster, host, "boot", "run1", 2000);
    }
}

void small_cluster_done(struct small_cluster *cluster)
{
    cluster_state_free(cluster->state);
}

uint64_t small_cluster_vm(struct small_cluster *cluster)
{
    Drover__VmSpec spec = DROVER__VM_SPEC__INIT;
    char name[32];
    (void)snprintf(name, sizeof(name), "vm-%llu", (unsigned long long)cluster->index);
    spec.name = name;
    spec.memory_bytes = UINT64_C(1) << 30;
    spec.cpus = 1;
    spec.kernel = (char *)(uintptr_t) "/boot/vmlinuz";
    spec.ha = true;
    Drover__VmCreate create = DROVER__VM_CREATE__INIT;
    create.spec = &spec;
    create.wanted = DROVER__VM_WANTED__VM_WANTED_RUNNING;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_CREATE;
    command.vm_create = &create;
    apply(cluster, &command);
    const Drover__ClusterState *view = cluster_state_view(cluster->state);
    return view->vms[view->n_vms - 1]->vm_id;
}

void small_cluster_assign(struct small_cluster *cluster, uint64_t vm_id, uint64_t host_id)
{
    Drover__VmAssign assign = DROVER__VM_ASSIGN__INIT;
    assign.vm_id = vm_id;
    assign.expected_epoch_high = cluster_state_vm(cluster->state, vm_id)->epoch_high;
    assign.host_id = host_id;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_ASSIGN;
    command.vm_assign = &assign;
    apply(cluster, &command);
}

void small_cluster_wanted(struct small_cluster *cluster, uint64_t vm_id,
                          Drover__VmWanted wanted)
{
    Drover__VmSetWanted set = DROVER__VM_SET_WANTED__INIT;
    set.vm_id = vm_id;
    set.wanted = wanted;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_SET_WANTED;
    command.vm_set_wanted = &set;
    apply(cluster, &command);
}

void small_cluster_started(struct small_cluster *cluster, uint64_t vm_id)
{
    const Drover__VmRecord *vm = cluster_state_vm(cluster->state, vm_id);
    Drover__VmStarted started = DROVER__VM_STARTED__INIT;
    started.vm_id = vm_id;
    started.epoch = vm->epoch;
    started.host_id = vm->owner_host_id;
    started.incarnation = (char *)(uintptr_t) "run1";
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_STARTED;
    command.vm_started = &started;
    apply(cluster, &command);
}

void small_cluster_drain(struct small_cluster *cluster, uint64_t host_id)
{
    Drover__HostDrain drain = DROVER__HOST_DRAIN__INIT;
    drain.host_id = host_id;
    drain.draining = true;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_DRAIN;
    command.host_drain = &drain;
    apply(cluster, &command);
}

void small_cluster_migrate(struct small_cluster *cluster, uint64_t vm_id, uint64_t target)
{
    small_cluster_started(cluster, vm_id);
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__MigrationBegin begin = DROVER__MIGRATION_BEGIN__INIT;
    begin.vm_id = vm_id;
    begin.expected_epoch = cluster_state_vm(cluster->state, vm_id)->epoch;
    begin.target_host_id = target;
    begin.transport = cluster->transport;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_BEGIN;
    command.migration_begin = &begin;
    apply(cluster, &command);
}

void small_cluster_rdma(struct small_cluster *cluster)
{
    Drover__ClusterSet set = DROVER__CLUSTER_SET__INIT;
    set.setting = DROVER__CLUSTER_SETTING__CLUSTER_SETTING_ALLOW_UNENCRYPTED_RDMA;
    set.value = 1;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_SET;
    command.cluster_set = &set;
    apply(cluster, &command);
    cluster->transport = DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA;
}

void small_cluster_ready(struct small_cluster *cluster, uint64_t vm_id)
{
    const Drover__Migration *migration =
        cluster_state_vm(cluster->state, vm_id)->migration;
    Drover__MigrationReady ready = DROVER__MIGRATION_READY__INIT;
    ready.vm_id = vm_id;
    ready.next_epoch = migration->next_epoch;
    ready.host_id = migration->target_host_id;
    ready.incarnation = (char *)(uintptr_t) "run1";
    ready.uri = (char *)(uintptr_t)SMALL_CLUSTER_URI;
    ready.rdma_address = (char *)(uintptr_t)SMALL_CLUSTER_RDMA; /* taken if it was asked for */
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_READY;
    command.migration_ready = &ready;
    apply(cluster, &command);
}
