/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drover-vmm: one VM. Started by root it is two processes (process.h): the launcher, and
 * the VMM, which opens all that has a name, enters its jail, and only then looks at what
 * guests and peers have made. The machine is put together in a fixed order, and
 * taken apart in the other.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/control/control.h"
#include "vmm/control/control_client.h"
#include "vmm/devices/ahci.h"
#include "vmm/devices/panic.h"
#include "vmm/devices/platform.h"
#include "vmm/devices/serial.h"
#include "vmm/firmware/firmware.h"
#include "vmm/host/event_loop.h"
#include "vmm/host/serial_host.h"
#include "vmm/jail/broker.h"
#include "vmm/machine.h"
#include "vmm/move/migrate.h"
#include "vmm/move/migrate_rdma.h"
#include "vmm/options/options.h"
#include "vmm/process.h"
#include "vmm/storage/storage_broker.h"
#include "vmm/virtio/virtio_balloon.h"
#include "vmm/virtio/virtio_block.h"
#include "vmm/virtio/virtio_console.h"
#include "vmm/virtio/virtio_net.h"
#include "vmm/virtio/virtio_rng.h"
#include "vmm/virtio/virtio_vsock.h"
#include "vmm/virtio/vsock_host.h"
#include "vmm/vm.h"

#define EXIT_USAGE 2
/* Once the VM has ended, so that whoever watches the control socket reads how. */
#define FAREWELL_NS (200 * NS_PER_MS)

struct program {
    struct options options;
    struct log log;
    struct process process;
    struct vm *vm;
    struct storage_broker *storage; /* NULL: no disk needs a daemon */
    struct serial_host *serial_host;
    struct serial_host *console_host;
    struct migrate *migrate;
    struct migrate_rdma *rdma; /* migrate's; NULL: none */
    struct control *control;
    struct event_source *farewell; /* timer */
    bool leaving;
    int signal_fd;
    struct event_source *signal_source;
};

static void farewell_over(void *owner)
{
    struct program *program = owner;
    event_loop_stop(vm_main_loop(program->vm));
}

/*
 * A VM of a cluster that failed stays until it is told to quit: the agent must be able to
 * ask what became of it.
 */
static void vm_changed(struct vm *vm, void *owner)
{
    struct program *program = owner;
    control_vm_changed(program->control);
    bool stays = vm_failed(vm) && program->options.vm_id != 0 && !vm_quit_wanted(vm) &&
                 !migrate_guest_lost(program->migrate);
    if (program->leaving || stays || !vm_ended(vm) || !vm_quiet(vm)) {
        return;
    }
    program->leaving = true;
    char reason[256];
    vm_end_reason(vm, reason, sizeof(reason));
    log_notice(&program->log, "the VM has ended: %s vm=%s", reason,
               program->options.name);
    if (event_loop_timer_set(program->farewell, clock_now_ns() + FAREWELL_NS) < 0) {
        event_loop_stop(vm_main_loop(vm));
    }
}

static void person_quits(void *owner)
{
    struct program *program = owner;
    migrate_quit(program->migrate);
    vm_quit(program->vm);
}

static void signalled(void *owner, uint32_t epoll_events)
{
    struct program *program = owner;
    struct signalfd_siginfo info = {0};
    (void)epoll_events;
    if (read(program->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        log_notice(&program->log, "signal %u: switching off vm=%s", info.ssi_signo,
                   program->options.name);
        migrate_quit(program->migrate);
        vm_quit(program->vm);
    }
}

/* SIGTERM and its like switch the VM off in an orderly way. Before any thread is made:
 * they inherit the mask. */
static int signals_take(struct program *program)
{
    sigset_t signals;
    CHECK(sigemptyset(&signals) == 0 && sigaddset(&signals, SIGTERM) == 0 &&
          sigaddset(&signals, SIGINT) == 0 && sigaddset(&signals, SIGHUP) == 0);
    CHECK(pthread_sigmask(SIG_BLOCK, &signals, NULL) == 0);
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    program->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    return program->signal_fd < 0 ? -errno : 0;
}

/* A daemon for a disk that is not raw. */
static int storage_add(struct program *program, const struct options_disk *disk,
                       struct virtio_block_config *config, struct error *err)
{
    if (program->storage == NULL) {
        program->storage = storage_broker_create(program->process.broker);
    }
    if (program->storage == NULL) {
        return error_set(err, -ENOMEM, "no memory for disk %s", disk->path);
    }
    config->storage = storage_broker_ops();
    config->storage_owner = program->storage;
    return storage_broker_add(program->storage, disk->path, &config->storage_index, err);
}

static int disks_create(struct program *program, struct error *err)
{
    const struct options *options = &program->options;
    for (unsigned i = 0; i < options->disk_count; i++) {
        const struct options_disk *disk = &options->disks[i];
        struct virtio_block_config config = {
            .path = disk->path,
            .format = disk->format,
            .queues = disk->queues,
            .requests_per_s = disk->requests_per_s,
            .bytes_per_s = disk->bytes_per_s,
            .read_only = disk->read_only,
            .direct = disk->direct,
            .serial = disk->serial[0] != '\0' ? disk->serial : NULL,
            .unlocked = options->incoming != NULL,
            .lock_fd = program->process.has_lock ? PROCESS_LOCK_FD : 0,
        };
        int result = 0;
        if (storage_needs_daemon(disk->path, disk->format)) {
            result = storage_add(program, disk, &config, err);
        }
        result = result < 0 ? result : virtio_block_create(program->vm, &config, err);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

static int cdroms_create(struct program *program, struct error *err)
{
    const struct options *options = &program->options;
    struct ahci_config config = {.cdrom_count = options->cdrom_count};
    static_assert(OPTIONS_CDROMS_MAX == AHCI_CDROMS_MAX, "a port for each drive");
    for (unsigned i = 0; i < options->cdrom_count; i++) {
        config.cdroms[i] = options->cdroms[i].path;
        config.boot[i] = options->cdroms[i].boot;
    }
    return config.cdrom_count == 0 ? 0 : ahci_create(program->vm, &config, err);
}

static int nets_create(struct program *program, struct error *err)
{
    const struct options *options = &program->options;
    for (unsigned i = 0; i < options->net_count; i++) {
        const struct options_net *net = &options->nets[i];
        struct virtio_net_config config = {.tap = net->tap,
                                           .has_mac = net->has_mac,
                                           .queues = net->queues,
                                           .mtu = net->mtu,
                                           .bytes_per_s = net->bytes_per_s,
                                           .vhost = net->vhost,
                                           .any_mac = net->any_mac};
        memcpy(config.mac, net->mac, sizeof(config.mac));
        int result = virtio_net_create(program->vm, &config, err);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

static size_t serial_port_input(void *port, const uint8_t *data, size_t size)
{
    return serial_input(port, data, size);
}

static size_t console_port_input(void *port, const uint8_t *data, size_t size)
{
    return virtio_console_input(port, data, size);
}

/* One end of a line of the guest's, as an option names it. */
static int line_create(struct program *program, const char *where,
                       struct serial_host **ret_host, struct error *err)
{
    int result = serial_host_create(vm_main_loop(program->vm), where, person_quits,
                                    program, ret_host, err);
    if (result == 0 && strncmp(where, "unix:", 5) == 0) {
        unsigned id = 0;
        /* Without it the socket's file would only be stale. */
        (void)broker_allow(program->process.broker, BROKER_REMOVE_AT_END, where + 5, &id);
    }
    return result;
}

static int console_create(struct program *program, struct error *err)
{
    int result =
        line_create(program, program->options.console, &program->console_host, err);
    if (result < 0) {
        return result;
    }
    const struct virtio_console_config config = {
        .output = serial_host_output,
        .input_room = serial_host_input_room,
        .owner = program->console_host,
    };
    struct device *console = NULL;
    result = virtio_console_create(program->vm, &config, &console, err);
    if (result == 0) {
        serial_host_attach(program->console_host, console_port_input, console);
    }
    return result;
}

static int vsock_create(struct program *program, struct error *err)
{
    const struct options_vsock *vsock = &program->options.vsock;
    struct virtio_vsock_config config = {.cid = vsock->cid};
    if (vsock->cid == 0) {
        return 0;
    }
    int result = vsock_host_open(program->process.broker, vsock->path, &config, err);
    return result < 0 ? result : virtio_vsock_create(program->vm, &config, err);
}

/* The order is part of the contract of save and load. */
static int devices_create(struct program *program, struct error *err)
{
    struct vm *vm = program->vm;
    int result =
        line_create(program, program->options.serial, &program->serial_host, err);
    if (result < 0) {
        return result;
    }
    const struct serial_config serial_config = {
        .output = serial_host_output,
        .input_room = serial_host_input_room,
        .owner = program->serial_host,
    };
    struct serial *serial = NULL;
    result = serial_create(vm, &serial_config, &serial, err);
    if (result < 0) {
        return result;
    }
    serial_host_attach(program->serial_host, serial_port_input, serial);
    result = platform_create(vm, err);
    if (result == 0 && machine_has_panic_device(program->options.machine)) {
        result = panic_create(vm, program->options.on_panic, err);
    }
    result = result < 0 ? result : cdroms_create(program, err);
    result = result < 0 ? result : disks_create(program, err);
    result = result < 0 ? result : nets_create(program, err);
    result = result < 0 ? result : virtio_rng_create(vm, err);
    result = result < 0 ? result : console_create(program, err);
    if (result == 0 && machine_has_balloon(program->options.machine)) {
        result = virtio_balloon_create(vm, err);
    }
    result = result < 0 ? result : vsock_create(program, err);
    return result < 0 ? result : firmware_options_create(vm, &program->options, err);
}

static int machine_create(struct program *program, struct error *err)
{
    const struct options *options = &program->options;
    const struct vm_config config = {
        .name = options->name,
        .memory_bytes = options->memory_bytes,
        .huge_pages = options->huge_pages,
        .mergeable = options->mergeable,
        .preallocated = options->preallocated,
        .cpus = options->cpus,
        .machine = options->machine,
        .cpu_model = options->cpu_model,
        .cpu_affinity = &options->cpu_affinity,
        .kernel = options->kernel,
        .initrd = options->initrd,
        .cmdline = options->cmdline,
        .vm_id = options->vm_id,
        .epoch = options->epoch,
        .ha = options->ha,
        .incoming = options->incoming != NULL,
        .paused = options->paused,
        .broker = program->process.broker,
        .seccomp = process_seccomp(&program->process),
    };
    int result = vm_create(&config, &program->log, &program->vm, err);
    return result < 0 ? result : devices_create(program, err);
}

static int loop_join(struct program *program, struct error *err)
{
    struct event_loop *loop = vm_main_loop(program->vm);
    int result =
        event_loop_timer_create(loop, farewell_over, program, &program->farewell);
    if (result == 0) {
        result = event_loop_add(loop, program->signal_fd, EPOLLIN, signalled, program,
                                &program->signal_source);
    }
    return result < 0 ? error_set(err, result, "cannot start: %s", err_text(result)) : 0;
}

/*
 * All that has a name on this host is opened here, with the rights of who started the
 * program. The control socket comes last; whoever connects is answered once the VM is
 * ready, an arrival's listener included.
 */
static int program_open(struct program *program, struct error *err)
{
    int result = machine_create(program, err);
    result = result < 0 ? result : loop_join(program, err);
    if (result < 0) {
        return result;
    }
    if (program->options.rdma) {
        result = migrate_rdma_create(&program->log, program->options.name, &program->rdma);
    }
    if (result == 0) {
        result = migrate_create(program->vm, (uint32_t)program->options.patience_ms,
                                program->rdma, &program->migrate);
    }
    if (result < 0) {
        return error_set(err, result, "cannot prepare for migration: %s",
                         err_text(result));
    }
    for (unsigned i = 0; i < program->options.disk_count; i++) {
        /* There is room for all that the options can name. */
        CHECK(migrate_disk_add(program->migrate, program->options.disks[i].path) == 0);
    }
    if (program->options.incoming != NULL) {
        result = migrate_listen(program->migrate, program->options.incoming,
                                program->options.incoming_rdma, err);
    }
    return result < 0 ? result
                      : control_create(program->vm, program->migrate,
                                       program->options.control, &program->control, err);
}

/* The guest does not enter before vm_run(): whatever fails up to there leaves nothing
 * behind. */
static int program_start(struct program *program, struct error *err)
{
    int result = signals_take(program);
    if (result < 0) {
        return error_set(err, result, "cannot take signals: %s", err_text(result));
    }
    result = program_open(program, err);
    result = result < 0 ? result : process_confine(&program->process,
                                                   program->rdma != NULL
                                                       ? migrate_rdma_settle
                                                       : NULL,
                                                   program->rdma, err);
    result = result < 0 ? result : vm_start(program->vm, err);
    if (result == 0 && program->options.incoming != NULL) {
        result = migrate_await(program->migrate, err);
    }
    if (result == 0) {
        vm_observe(program->vm, vm_changed, program);
    }
    return result;
}

static void program_done(struct program *program)
{
    migrate_free(program->migrate);
    if (program->vm != NULL) {
        vm_observe(program->vm, NULL, NULL);
        vm_stop(program->vm);
        event_loop_remove(program->farewell);
        event_loop_remove(program->signal_source);
    }
    control_free(program->control);
    serial_host_free(program->serial_host);
    serial_host_free(program->console_host);
    vm_free(program->vm);
    storage_broker_free(program->storage);
    cleanup_fd(&program->signal_fd);
}

static int run(struct program *program)
{
    struct error err = {0};
    int status = EXIT_FAILURE;
    if (program_start(program, &err) < 0) {
        (void)fprintf(stderr, "drover-vmm: %s\n", err.text);
    } else {
        log_notice(&program->log, "started vm=%s cpus=%u memory_mib=%" PRIu64,
                   program->options.name, program->options.cpus,
                   program->options.memory_bytes >> 20);
        int result = vm_run(program->vm);
        struct panic_status panic;
        panic_status(program->vm, &panic);
        bool bad = result < 0 || vm_failed(program->vm) || panic.ended ||
                   !vm_quiet(program->vm);
        status = bad ? EXIT_FAILURE : EXIT_SUCCESS;
    }
    if (migrate_memory_missing(program->migrate)) {
        /* Threads may wait for memory for good: nobody waits for them. None gets other
         * memory instead: what it has under way might reach the disk. Nor is anything
         * freed that one of them may use; storage daemons end with this process. */
        process_leave(&program->process);
        _exit(status);
    }
    program_done(program);
    return status;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "control") == 0) {
        return control_client_main(argc - 1, argv + 1);
    }
    struct program program = {.signal_fd = -1};
    struct error err = {0};
    log_init(&program.log, "drover-vmm", LOG_LEVEL_NOTICE);
    if (options_parse(argc, argv, &program.options, &err) < 0) {
        (void)fprintf(stderr, "drover-vmm: %s\n", err.text);
        return EXIT_USAGE;
    }
    switch (program.options.action) {
    case OPTIONS_ACTION_HELP:
        (void)fputs(options_help, stdout);
        (void)fputs(options_help_rest, stdout);
        return EXIT_SUCCESS;
    case OPTIONS_ACTION_VERSION:
        (void)puts("drover-vmm " DROVER_VERSION);
        return EXIT_SUCCESS;
    case OPTIONS_ACTION_RUN:
        break;
    }
    bool is_vmm = true;
    int status = EXIT_FAILURE;
    int result = process_init(&program.options, &program.log, &program.process, &err);
    result =
        result < 0 ? result : process_split(&program.process, &is_vmm, &status, &err);
    if (result < 0) {
        (void)fprintf(stderr, "drover-vmm: %s\n", err.text);
    } else if (is_vmm) {
        status = run(&program);
    }
    process_done(&program.process);
    return status;
}
