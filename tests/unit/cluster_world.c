/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster state to which a test gives commands. */
#include "tests/unit/cluster_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/unit.h"

#include "base/buffer.h"
#include "base/cleanup.h"

#define SECRET_SIZE 32

void world_init(struct world *world)
{
    *world = (struct world){.now_unix_ms = 1000000};
    assert_int_equal(cluster_state_create(&world->state), 0);
}

void world_done(struct world *world)
{
    cluster_state_free(world->state);
    world->state = NULL;
}

/* All but the index of the last command. */
static void save_but_index(const struct world *world, struct buffer *out)
{
    Drover__ClusterState copy = *cluster_state_view(world->state);
    copy.applied_index = 0;
    size_t size = drover__cluster_state__get_packed_size(&copy);
    assert_int_equal(buffer_reserve(out, size), 0);
    assert_int_equal(drover__cluster_state__pack(&copy, out->data), size);
    out->size = size;
}

int world_setup(void **state)
{
    static struct world world;
    world_init(&world);
    *state = &world;
    return 0;
}

int world_setup_vm(void **state)
{
    (void)world_setup(state);
    world_hosts(*state, 3);
    assert_int_equal(world_running_vm(*state, "web", 1, true), 1);
    return 0;
}

int world_teardown(void **state)
{
    world_done(*state);
    return 0;
}

int world_apply(struct world *world, const Drover__Command *command)
{
    CLEANUP(buffer_done) struct buffer encoded = {0};
    CLEANUP(buffer_done) struct buffer before = {0};
    CLEANUP(buffer_done) struct buffer after = {0};
    Drover__Command timed = *command;
    timed.at_unix_ms = world->now_unix_ms;
    assert_int_equal(command_encode(&timed, &encoded), 0);
    save_but_index(world, &before);
    assert_int_equal(cluster_state_apply(world->state, ++world->index, encoded.data,
                                         encoded.size, &world->result),
                     0);
    save_but_index(world, &after);
    assert_int_equal(cluster_state_applied_index(world->state), world->index);
    if (world->result.error != 0) {
        assert_int_equal(before.size, after.size);
        assert_memory_equal(before.data, after.data, before.size);
        assert_true(world->result.text[0] != '\0');
        assert_null(strchr(world->result.text, '\n'));
        assert_int_equal(world->result.result_id, 0);
    } else {
        assert_int_equal(world->result.text[0], '\0');
    }
    struct error err = {0};
    if (!cluster_state_valid(world->state, &err)) {
        fail_msg("after command %d: %s", command->what_case, err.text);
    }
    return world->result.error;
}

#define COMMAND(member, case_, value)                                                    \
    Drover__Command command = DROVER__COMMAND__INIT;                                     \
    command.what_case = DROVER__COMMAND__WHAT_##case_;                                   \
    command.member = (value)

/* protobuf-c's strings lack the const. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static ProtobufCBinaryData secret_of(const char *token_id, uint8_t secret[SECRET_SIZE])
{
    memset(secret, 0, SECRET_SIZE);
    (void)snprintf((char *)secret, SECRET_SIZE, "secret of %.16s", token_id);
    return (ProtobufCBinaryData){.data = secret, .len = SECRET_SIZE};
}

int world_cluster_init(struct world *world)
{
    uint8_t pem[] = "-----BEGIN";
    Drover__HostRecord host = DROVER__HOST_RECORD__INIT;
    host.name = text_of("host1");
    host.address = text_of("10.0.0.1:7000");
    Drover__ClusterInit init = DROVER__CLUSTER_INIT__INIT;
    init.cluster_id = text_of("0123456789abcdef");
    init.lease_ms = 5000;
    init.ca_certificate_pem = init.ca_key_pem =
        (ProtobufCBinaryData){.data = pem, .len = sizeof(pem)};
    init.first_host = &host;
    COMMAND(cluster_init, CLUSTER_INIT, &init);
    return world_apply(world, &command);
}

int world_token(struct world *world, const char *token_id, uint64_t expires_unix_ms)
{
    uint8_t secret[SECRET_SIZE];
    Drover__TokenCreate create = DROVER__TOKEN_CREATE__INIT;
    create.token_id = text_of(token_id);
    create.secret_sha256 = secret_of(token_id, secret);
    create.expires_unix_ms = expires_unix_ms;
    COMMAND(token_create, TOKEN_CREATE, &create);
    return world_apply(world, &command);
}

int world_host_add(struct world *world, const char *token_id, const char *name,
                   const char *address)
{
    uint8_t secret[SECRET_SIZE];
    Drover__HostAdd add = DROVER__HOST_ADD__INIT;
    add.token_id = text_of(token_id);
    add.secret_sha256 = secret_of(token_id, secret);
    add.name = text_of(name);
    add.address = text_of(address);
    COMMAND(host_add, HOST_ADD, &add);
    return world_apply(world, &command);
}

int world_host_up(struct world *world, uint64_t host_id, const char *boot,
                  const char *run)
{
    Drover__HostUp up = DROVER__HOST_UP__INIT;
    up.host_id = host_id;
    up.boot_id = text_of(boot);
    up.incarnation = text_of(run);
    up.memory_bytes = 1024 * MIB;
    up.cpus = 4;
    up.watchdog_ms = 2000;
    up.version = text_of("0.1.0");
    up.postcopy = true;
    COMMAND(host_up, HOST_UP, &up);
    return world_apply(world, &command);
}

void world_proof(const struct world *world, uint64_t host_id, Drover__ProofKind kind,
                 Drover__Proof *ret_proof)
{
    drover__proof__init(ret_proof);
    ret_proof->kind = kind;
    ret_proof->detail = text_of("lease and watchdog have run out");
    ret_proof->silent_ms = 8000;
    ret_proof->lease_ms = 5000;
    ret_proof->watchdog_ms = 2000;
    ret_proof->margin_ms = 500;
    ret_proof->leader_host_id = host_id == 1 ? 2 : 1;
    ret_proof->term = 3;
}

void world_old_host(struct world *world, uint64_t host_id)
{
    Drover__HostUp up = DROVER__HOST_UP__INIT;
    up.host_id = host_id;
    up.boot_id = world_host(world, host_id)->boot_id;
    up.incarnation = text_of("older");
    up.memory_bytes = UINT64_C(1) << 30;
    COMMAND(host_up, HOST_UP, &up);
    assert_done(world_apply(world, &command));
}

int world_host_dead(struct world *world, uint64_t host_id, Drover__ProofKind kind)
{
    const Drover__HostRecord *host = world_host(world, host_id);
    Drover__Proof proof;
    world_proof(world, host_id, kind, &proof);
    Drover__HostDead dead = DROVER__HOST_DEAD__INIT;
    dead.host_id = host_id;
    dead.boot_id = host == NULL ? text_of("") : host->boot_id;
    dead.incarnation = host == NULL ? text_of("") : host->incarnation;
    dead.proof = &proof;
    COMMAND(host_dead, HOST_DEAD, &dead);
    return world_apply(world, &command);
}

int world_host_remove(struct world *world, uint64_t host_id)
{
    Drover__HostRemove remove = DROVER__HOST_REMOVE__INIT;
    remove.host_id = host_id;
    COMMAND(host_remove, HOST_REMOVE, &remove);
    return world_apply(world, &command);
}

int world_host_drain(struct world *world, uint64_t host_id, bool draining)
{
    Drover__HostDrain drain = DROVER__HOST_DRAIN__INIT;
    drain.host_id = host_id;
    drain.draining = draining;
    COMMAND(host_drain, HOST_DRAIN, &drain);
    return world_apply(world, &command);
}

int world_vm_create(struct world *world, const char *name, const char *disk, bool ha)
{
    Drover__DiskSpec disk_spec = DROVER__DISK_SPEC__INIT;
    Drover__DiskSpec *disks[] = {&disk_spec};
    Drover__NicSpec nic = DROVER__NIC_SPEC__INIT;
    Drover__NicSpec *nics[] = {&nic};
    Drover__VmSpec spec = DROVER__VM_SPEC__INIT;
    disk_spec.path = text_of(disk != NULL ? disk : "");
    spec.name = text_of(name);
    spec.memory_bytes = 128 * MIB;
    spec.cpus = 1;
    spec.kernel = text_of("/boot/vmlinuz");
    spec.disks = disks;
    spec.n_disks = disk != NULL ? 1 : 0;
    spec.nics = nics;
    spec.n_nics = 1;
    spec.ha = ha;
    Drover__VmCreate create = DROVER__VM_CREATE__INIT;
    create.spec = &spec;
    create.wanted = DROVER__VM_WANTED__VM_WANTED_RUNNING;
    COMMAND(vm_create, VM_CREATE, &create);
    return world_apply(world, &command);
}

int world_wanted(struct world *world, uint64_t vm_id, Drover__VmWanted wanted)
{
    Drover__VmSetWanted set = DROVER__VM_SET_WANTED__INIT;
    set.vm_id = vm_id;
    set.wanted = wanted;
    COMMAND(vm_set_wanted, VM_SET_WANTED, &set);
    return world_apply(world, &command);
}

int world_vm_delete(struct world *world, uint64_t vm_id)
{
    Drover__VmDelete delete = DROVER__VM_DELETE__INIT;
    delete.vm_id = vm_id;
    COMMAND(vm_delete, VM_DELETE, &delete);
    return world_apply(world, &command);
}

int world_assign(struct world *world, uint64_t vm_id, uint64_t host_id)
{
    const Drover__VmRecord *vm = world_vm(world, vm_id);
    Drover__VmAssign assign = DROVER__VM_ASSIGN__INIT;
    assign.vm_id = vm_id;
    assign.expected_epoch_high = vm == NULL ? 0 : vm->epoch_high;
    assign.host_id = host_id;
    assign.why = text_of("it is wanted");
    COMMAND(vm_assign, VM_ASSIGN, &assign);
    return world_apply(world, &command);
}

static char *run_of(const struct world *world, uint64_t host_id)
{
    const Drover__HostRecord *host = world_host(world, host_id);
    return host == NULL ? text_of("") : host->incarnation;
}

int world_started(struct world *world, uint64_t vm_id, uint64_t epoch, uint64_t host_id)
{
    Drover__VmStarted started = DROVER__VM_STARTED__INIT;
    started.vm_id = vm_id;
    started.epoch = epoch;
    started.host_id = host_id;
    started.incarnation = run_of(world, host_id);
    COMMAND(vm_started, VM_STARTED, &started);
    return world_apply(world, &command);
}

int world_stopped(struct world *world, uint64_t vm_id, uint64_t epoch, uint64_t host_id,
                  bool powered_off)
{
    Drover__VmStopped stopped = DROVER__VM_STOPPED__INIT;
    stopped.vm_id = vm_id;
    stopped.epoch = epoch;
    stopped.host_id = host_id;
    stopped.incarnation = run_of(world, host_id);
    stopped.reason =
        text_of(powered_off ? "the guest powered off" : "the VMM has crashed");
    stopped.guest_powered_off = powered_off;
    COMMAND(vm_stopped, VM_STOPPED, &stopped);
    return world_apply(world, &command);
}

int world_begin(struct world *world, uint64_t vm_id, uint64_t target_id)
{
    return world_begin_over(world, vm_id, target_id,
                            DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_TCP);
}

int world_allow_rdma(struct world *world, uint64_t value)
{
    Drover__ClusterSet set = DROVER__CLUSTER_SET__INIT;
    set.setting = DROVER__CLUSTER_SETTING__CLUSTER_SETTING_ALLOW_UNENCRYPTED_RDMA;
    set.value = value;
    COMMAND(cluster_set, CLUSTER_SET, &set);
    return world_apply(world, &command);
}

int world_begin_over(struct world *world, uint64_t vm_id, uint64_t target_id,
                     Drover__MigrationTransport transport)
{
    const Drover__VmRecord *vm = world_vm(world, vm_id);
    Drover__MigrationBegin begin = DROVER__MIGRATION_BEGIN__INIT;
    begin.vm_id = vm_id;
    begin.expected_epoch = vm == NULL ? 0 : vm->epoch;
    begin.target_host_id = target_id;
    begin.transport = transport;
    COMMAND(migration_begin, MIGRATION_BEGIN, &begin);
    return world_apply(world, &command);
}

static uint64_t next_epoch_of(const struct world *world, uint64_t vm_id)
{
    const Drover__VmRecord *vm = world_vm(world, vm_id);
    return vm == NULL || vm->migration == NULL ? 0 : vm->migration->next_epoch;
}

static uint64_t target_of(const struct world *world, uint64_t vm_id)
{
    const Drover__VmRecord *vm = world_vm(world, vm_id);
    return vm == NULL || vm->migration == NULL ? 0 : vm->migration->target_host_id;
}

int world_ready(struct world *world, uint64_t vm_id)
{
    return world_ready_rdma(world, vm_id, "", "");
}

int world_ready_rdma(struct world *world, uint64_t vm_id, const char *address,
                     const char *notice)
{
    Drover__MigrationReady ready = DROVER__MIGRATION_READY__INIT;
    ready.vm_id = vm_id;
    ready.next_epoch = next_epoch_of(world, vm_id);
    ready.host_id = target_of(world, vm_id);
    ready.incarnation = run_of(world, ready.host_id);
    ready.uri = text_of("tcp:10.0.0.2:4444");
    ready.rdma_address = text_of(address);
    ready.notice = text_of(notice);
    COMMAND(migration_ready, MIGRATION_READY, &ready);
    return world_apply(world, &command);
}

int world_cancel(struct world *world, uint64_t vm_id)
{
    Drover__MigrationCancel cancel = DROVER__MIGRATION_CANCEL__INIT;
    cancel.vm_id = vm_id;
    cancel.next_epoch = next_epoch_of(world, vm_id);
    COMMAND(migration_cancel, MIGRATION_CANCEL, &cancel);
    return world_apply(world, &command);
}

int world_migrated(struct world *world, uint64_t vm_id)
{
    return world_migrated_encrypted(world, vm_id,
                                    DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_UNKNOWN,
                                    DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_UNKNOWN);
}

int world_migrated_encrypted(struct world *world, uint64_t vm_id,
                             Drover__MoveEncryption source, Drover__MoveEncryption target)
{
    Drover__MigrationFigures figures = DROVER__MIGRATION_FIGURES__INIT;
    figures.total_ms = 1234;
    figures.downtime_us = 56700;
    figures.source_encryption = source;
    figures.target_encryption = target;
    Drover__MigrationDone done = DROVER__MIGRATION_DONE__INIT;
    done.vm_id = vm_id;
    done.next_epoch = next_epoch_of(world, vm_id);
    done.host_id = target_of(world, vm_id);
    done.incarnation = run_of(world, done.host_id);
    done.figures = &figures;
    COMMAND(migration_done, MIGRATION_DONE, &done);
    return world_apply(world, &command);
}

int world_abort(struct world *world, uint64_t vm_id, Drover__MigrationAbortBy by)
{
    const Drover__VmRecord *vm = world_vm(world, vm_id);
    bool target = by == DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET ||
                  by == DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE;
    Drover__MigrationAbort abort_ = DROVER__MIGRATION_ABORT__INIT;
    abort_.vm_id = vm_id;
    abort_.next_epoch = next_epoch_of(world, vm_id);
    abort_.host_id = target       ? target_of(world, vm_id)
                     : vm != NULL ? vm->owner_host_id
                                  : 0;
    abort_.incarnation = run_of(world, abort_.host_id);
    abort_.by = by;
    abort_.reason = text_of("the stream broke");
    COMMAND(migration_abort, MIGRATION_ABORT, &abort_);
    return world_apply(world, &command);
}

void world_hosts(struct world *world, unsigned host_count)
{
    assert_int_equal(world_cluster_init(world), 0);
    for (unsigned i = 1; i <= host_count; i++) {
        char name[16], address[32], boot[16], run[16];
        (void)snprintf(name, sizeof(name), "host%u", i);
        (void)snprintf(address, sizeof(address), "10.0.0.%u:7000", i);
        (void)snprintf(boot, sizeof(boot), "boot%u", i);
        (void)snprintf(run, sizeof(run), "run%u", i);
        if (i > 1) {
            assert_int_equal(world_token(world, name, world->now_unix_ms + 1000), 0);
            assert_int_equal(world_host_add(world, name, name, address), 0);
            assert_int_equal(world->result.result_id, i);
        }
        assert_int_equal(world_host_up(world, i, boot, run), 0);
    }
}

uint64_t world_running_vm(struct world *world, const char *name, uint64_t host_id,
                          bool ha)
{
    char disk[64];
    (void)snprintf(disk, sizeof(disk), "/srv/%s.img", name);
    assert_int_equal(world_vm_create(world, name, disk, ha), 0);
    uint64_t vm_id = world->result.result_id;
    assert_int_equal(world_assign(world, vm_id, host_id), 0);
    assert_int_equal(world_started(world, vm_id, 1, host_id), 0);
    return vm_id;
}

const Drover__VmRecord *world_vm(const struct world *world, uint64_t vm_id)
{
    return cluster_state_vm(world->state, vm_id);
}

const Drover__HostRecord *world_host(const struct world *world, uint64_t host_id)
{
    return cluster_state_host(world->state, host_id);
}

const char *world_event_text(const struct world *world, const char *kind)
{
    const Drover__ClusterState *view = cluster_state_view(world->state);
    const char *text = NULL;
    for (size_t i = 0; i < view->n_events; i++) {
        text = strcmp(view->events[i]->kind, kind) == 0 ? view->events[i]->text : text;
    }
    return text;
}

unsigned world_event_count(const struct world *world, const char *kind)
{
    const Drover__ClusterState *view = cluster_state_view(world->state);
    unsigned count = 0;
    for (size_t i = 0; i < view->n_events; i++) {
        count += strcmp(view->events[i]->kind, kind) == 0;
    }
    return count;
}
