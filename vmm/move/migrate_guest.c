/* SPDX-License-Identifier: Apache-2.0 */
/* The operations that the migration engine needs of a VM (migration/guest.h). */
#include "vmm/move/migrate_guest.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "proto/device_state.pb-c.h"
#include "vmm/device.h"
#include "vmm/firmware/flash.h"
#include "vmm/host/event_loop.h"
#include "vmm/kvm/kvm_cpu_describe.h"
#include "vmm/machine.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/move/migrate_missing.h"
#include "vmm/virtio/virtio_block.h"
#include "vmm/vm.h"

/* Ahead of the VmDeviceState: version (u32), flags (u32), big endian. */
#define STATE_VERSION     1u
#define STATE_HEADER_SIZE 8u
#define STATE_FLAG_PAUSED 1u /* an operator's pause moves with the guest */

#define DEVICES_MAX 64u
/* How long the word that the guest runs waits for its first entry, and how often it
 * looks. */
#define ENTRY_WAIT_NS (100 * NS_PER_MS)
#define ENTRY_LOOK_US 20u
#define NS_PER_US     UINT64_C(1000)

static struct migrate_guest *self_of(struct migration_guest *guest)
{
    return (struct migrate_guest *)guest; /* the first member */
}

static struct vm *vm_of(struct migration_guest *guest)
{
    return self_of(guest)->vm;
}

/* Disks and UEFI variables: all, or none. */
static int storage_lock(struct vm *vm, struct error *err)
{
    int rv = virtio_block_lock(vm_devices(vm), err);
    if (rv == 0) {
        rv = flash_lock(vm, err);
        if (rv != 0) {
            struct error again = {0};
            (void)virtio_block_unlock(vm_devices(vm), &again); /* the first error counts */
        }
    }
    return rv;
}

static int storage_unlock(struct vm *vm, struct error *err)
{
    int rv = virtio_block_unlock(vm_devices(vm), err);
    if (rv == 0) {
        rv = flash_unlock(vm, err);
        if (rv != 0) {
            struct error again = {0};
            (void)virtio_block_lock(vm_devices(vm), &again);
        }
    }
    return rv;
}

/* ---- both sides -------------------------------------------------------------------- */

static unsigned region_count(struct migration_guest *guest)
{
    return guest_ram_region_count(vm_ram(vm_of(guest)));
}

static void region(struct migration_guest *guest, unsigned index,
                   struct migration_region *ret_region)
{
    const struct guest_ram_region *from = guest_ram_region(vm_ram(vm_of(guest)), index);
    *ret_region = (struct migration_region){
        .gpa = from->gpa, .size_bytes = from->size_bytes, .host = from->host};
}

/* The machine as the guest sees it; `names` has DEVICES_MAX entries. */
static int machine_describe(struct vm *vm, char **names,
                            Drover__MachineConfig *ret_machine)
{
    const struct vm_config *config = vm_config(vm);
    drover__machine_config__init(ret_machine);
    ret_machine->memory_bytes = guest_ram_size(vm_ram(vm));
    ret_machine->cpus = config->cpus;
    ret_machine->name = (char *)config->name; /* only read */
    ret_machine->machine = config->machine;
    ret_machine->devices = names;
    for (struct device *device = vm_devices(vm); device != NULL; device = device->next) {
        if (device->ops->save == NULL) {
            continue;
        }
        if (ret_machine->n_devices == DEVICES_MAX) {
            return DROVER_ELIMIT;
        }
        names[ret_machine->n_devices++] = (char *)device->ops->name; /* only read */
    }
    return 0;
}

static int config_save(struct migration_guest *guest, struct buffer *out)
{
    char *names[DEVICES_MAX];
    struct kvm_cpu_description cpu;
    Drover__MachineConfig machine;
    int rv = machine_describe(vm_of(guest), names, &machine);
    if (rv != 0) {
        return rv;
    }
    kvm_cpu_describe(vm_of(guest), &cpu, &machine);
    size_t size = drover__machine_config__get_packed_size(&machine);
    rv = buffer_reserve(out, size);
    if (rv == 0) {
        out->size += drover__machine_config__pack(&machine, out->data + out->size);
    }
    return rv;
}

/* ---- source ------------------------------------------------------------------------ */

static int populated(struct migration_guest *guest, unsigned index, uint64_t from,
                     uint64_t *ret_start, uint64_t *ret_end)
{
    return guest_ram_populated(vm_ram(vm_of(guest)), index, from, ret_start, ret_end);
}

static int dirty_start(struct migration_guest *guest)
{
    int rv = vm_dirty_log_start(vm_of(guest));
    self_of(guest)->tracking = rv == 0;
    return rv;
}

static unsigned vcpu_count(struct migration_guest *guest)
{
    return vm_vcpu_count(vm_of(guest));
}

static int throttle(struct migration_guest *guest, unsigned vcpu, unsigned percent)
{
    return vm_vcpu_throttle(vm_of(guest), vcpu, percent);
}

static int rehearse(struct migration_guest *guest,
                    struct migration_rehearsal *ret_rehearsal)
{
    struct vm_rehearsal rehearsal;
    int rv = vm_rehearse(vm_of(guest), &rehearsal);
    if (rv == 0) {
        *ret_rehearsal = (struct migration_rehearsal){
            .stop_us = rehearsal.stop_ns / NS_PER_US,
            .drain_us = rehearsal.drain_ns / NS_PER_US,
            .enter_us = rehearsal.enter_ns / NS_PER_US,
            .early_us = rehearsal.early_ns / NS_PER_US,
            .save_us = rehearsal.save_ns / NS_PER_US,
            .load_us = rehearsal.load_ns / NS_PER_US,
            .state_bytes = rehearsal.state_bytes,
        };
    }
    return rv;
}

static int rehearse_load(struct migration_guest *guest, uint64_t *ret_us)
{
    uint64_t load_ns = 0;
    int rv = vm_rehearse_load(vm_of(guest), &load_ns);
    if (rv == 0) {
        *ret_us = load_ns / NS_PER_US;
    }
    return rv;
}

static void dirty_stop(struct migration_guest *guest)
{
    /* The engine does so itself; a guest that stays slow would be a riddle. */
    for (unsigned i = 0; i < vm_vcpu_count(vm_of(guest)); i++) {
        (void)vm_vcpu_throttle(vm_of(guest), i, 0); /* then it was never throttled */
    }
    if (!self_of(guest)->tracking) {
        return;
    }
    self_of(guest)->tracking = false;
    int rv = vm_dirty_log_stop(vm_of(guest));
    if (rv != 0) {
        log_warn(vm_log(vm_of(guest)),
                 "the dirty log stays on: the guest runs slower vm=%s err=%s",
                 vm_config(vm_of(guest))->name, err_text(rv));
    }
}

static uint64_t given_back(struct migration_guest *guest)
{
    return guest_ram_discards(vm_ram(vm_of(guest)));
}

static int dirty_fetch(struct migration_guest *guest, unsigned index, uint64_t *bitmap,
                       uint64_t first_page, uint64_t page_count)
{
    return vm_dirty_log_fetch(vm_of(guest), index, bitmap, first_page, page_count);
}

static int dirty_peek(struct migration_guest *guest, unsigned index, uint64_t *bitmap)
{
    return vm_dirty_log_peek(vm_of(guest), index, bitmap);
}

static int dirty_forget(struct migration_guest *guest, unsigned index,
                        const uint64_t *bitmap, uint64_t first_page, uint64_t page_count)
{
    return vm_dirty_log_forget(vm_of(guest), index, bitmap, first_page, page_count);
}

/* Main loop: the VM is quiet. */
static void became_quiet(struct vm *vm, void *owner)
{
    struct migrate_guest *self = owner;
    (void)eventfd_write(self->quiet_fd, 1); /* full means that it is readable */
}

static int stop_begin(struct migration_guest *guest)
{
    struct migrate_guest *self = self_of(guest);
    eventfd_t count;
    (void)eventfd_read(self->quiet_fd,
                       &count); /* of an earlier stop; mostly there is none */
    return vm_hold_set(self->vm, self->hold, became_quiet, self);
}

static int stop_wait(struct migration_guest *guest, uint32_t wait_ms,
                     uint64_t *ret_stopped_ns)
{
    struct migrate_guest *self = self_of(guest);
    struct pollfd quiet = {.fd = self->quiet_fd, .events = POLLIN};
    if (poll(&quiet, 1, (int)wait_ms) < 0 && errno != EINTR) {
        return -errno;
    }
    /* The hold keeps it so; that it was quiet once, before an earlier hold was cleared,
     * is not enough. */
    if ((quiet.revents & POLLIN) == 0 || !vm_quiet(self->vm)) {
        return -EAGAIN;
    }
    *ret_stopped_ns = vm_last_exit_ns(self->vm);
    return 0;
}

static int save(struct migration_guest *guest, struct buffer *out)
{
    struct vm *vm = vm_of(guest);
    uint32_t flags = (vm_holds(vm) & VM_HOLD_OPERATOR) != 0 ? STATE_FLAG_PAUSED : 0;
    int rv = buffer_append_u32(out, STATE_VERSION);
    rv = rv != 0 ? rv : buffer_append_u32(out, flags);
    return rv != 0 ? rv : vm_save(vm, out);
}

static int release(struct migration_guest *guest, struct error *err)
{
    return storage_unlock(vm_of(guest), err);
}

/* Called with all vCPUs out: what is seen here can't change before the go. */
static int may_hand_over(struct migration_guest *guest, struct error *err)
{
    struct vm *vm = vm_of(guest);
    unsigned holds = vm_holds(vm);
    if (vm_ended(vm) || (holds & VM_HOLD_SHUTDOWN) != 0) {
        return error_set(err, DROVER_EWRONGSTATE, "the guest has ended meanwhile");
    }
    /* The hold follows the deadline; the deadline itself is looked at too. */
    bool over = vm_config(vm)->ha && clock_now_ns() >= vm_lease_deadline_ns(vm);
    if (over || (holds & VM_HOLD_LEASE) != 0) {
        return error_set(err, DROVER_ENOLEASE,
                         "this host's lease ran out: it may not hand the guest over");
    }
    return 0;
}

static void handed_over(struct migration_guest *guest)
{
    vm_handed_over_set(vm_of(guest), true);
}

static void go_on(struct migration_guest *guest)
{
    struct vm *vm = vm_of(guest);
    struct error err = {0};
    if (self_of(guest)->hold != VM_HOLD_HANDOVER) {
        vm_hold_clear(vm, self_of(guest)->hold); /* nothing was released */
        return;
    }
    if (storage_lock(vm, &err) != 0) {
        /* The go was not sent, or the cluster says that it never arrived: nobody else
         * runs this guest. */
        log_error(vm_log(vm), "goes on without its disks' locks vm=%s why=%s",
                  vm_config(vm)->name, err.text);
    }
    vm_handed_over_set(vm, false);
    vm_hold_clear(vm, self_of(guest)->hold);
}

/* ---- target ------------------------------------------------------------------------ */

static int machines_compare(const Drover__MachineConfig *theirs,
                            const Drover__MachineConfig *ours, struct error *err)
{
    if (theirs->memory_bytes != ours->memory_bytes || theirs->cpus != ours->cpus) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest has %u vCPUs and %" PRIu64
                         " MiB of memory, the target %u and %" PRIu64
                         " MiB; start it with the same --cpus and --memory",
                         theirs->cpus, theirs->memory_bytes >> 20, ours->cpus,
                         ours->memory_bytes >> 20);
    }
    /* Before the devices, which follow from it. */
    uint32_t machine = theirs->machine == 0 ? MACHINE_OLDEST : theirs->machine;
    if (machine != ours->machine) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest's machine is of version %u, the target's of %u; "
                         "start the target with --machine %u (or a newer release)",
                         machine, ours->machine, machine);
    }
    for (size_t i = 0; i < theirs->n_devices || i < ours->n_devices; i++) {
        const char *their = i < theirs->n_devices ? theirs->devices[i] : "nothing";
        const char *our = i < ours->n_devices ? ours->devices[i] : "nothing";
        if (strcmp(their, our) != 0) {
            return error_set(
                err, DROVER_EBADINPUT,
                "device %zu of the guest is %.40s, of the target %s; start it with the "
                "same disks and networks in the same order",
                i, their, our);
        }
    }
    return 0;
}

static int config_compare(struct migration_guest *guest, const uint8_t *config,
                          size_t size, struct error *err)
{
    char *names[DEVICES_MAX];
    Drover__MachineConfig ours;
    int rv = machine_describe(vm_of(guest), names, &ours);
    if (rv != 0) {
        return error_set(err, rv, "the target has too many devices");
    }
    Drover__MachineConfig *theirs = drover__machine_config__unpack(NULL, size, config);
    if (theirs == NULL) {
        return error_set(err, DROVER_EMALFORMED,
                         "the description of the machine is garbled");
    }
    rv = machines_compare(theirs, &ours, err);
    rv = rv != 0 ? rv : kvm_cpu_compare(vm_of(guest), theirs, err);
    drover__machine_config__free_unpacked(theirs, NULL);
    return rv;
}

static uint32_t read_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static int load(struct migration_guest *guest, const uint8_t *state, size_t size,
                struct error *err)
{
    struct vm *vm = vm_of(guest);
    if (size < STATE_HEADER_SIZE) {
        return error_set(err, DROVER_EMALFORMED, "the devices' state is cut short");
    }
    uint32_t version = read_u32(state);
    uint32_t flags = read_u32(state + 4);
    if (version != STATE_VERSION || (flags & ~STATE_FLAG_PAUSED) != 0) {
        return error_set(err, DROVER_EVERSION,
                         "the devices' state has version %u, this program reads %u: "
                         "update the older host",
                         version, STATE_VERSION);
    }
    CHECK((vm_holds(vm) & VM_HOLD_INCOMING) != 0);
    int rv = vm_load(vm, state + STATE_HEADER_SIZE, size - STATE_HEADER_SIZE, err);
    if (rv == 0 && (flags & STATE_FLAG_PAUSED) != 0) {
        rv = vm_hold_set(vm, VM_HOLD_OPERATOR, NULL, NULL);
        rv = rv != 0 ? error_set(err, rv, "can't pause the guest: %s", err_text(rv)) : 0;
    }
    return rv;
}

static void clear(struct migration_guest *guest, unsigned index, uint64_t first_page,
                  uint64_t page_count)
{
    struct guest_ram *ram = vm_ram(vm_of(guest));
    guest_ram_zero(ram, guest_ram_region(ram, index)->gpa + first_page * GUEST_PAGE_SIZE,
                   page_count * GUEST_PAGE_SIZE);
}

static void back(struct migration_guest *guest, unsigned index, uint64_t first_page,
                 uint64_t page_count)
{
    struct guest_ram *ram = vm_ram(vm_of(guest));
    guest_ram_back(ram, guest_ram_region(ram, index)->gpa + first_page * GUEST_PAGE_SIZE,
                   page_count * GUEST_PAGE_SIZE);
}

static void hold_memory(struct migration_guest *guest, bool hold)
{
    guest_ram_hold(vm_ram(vm_of(guest)), hold);
}

static int claim(struct migration_guest *guest, struct error *err)
{
    struct vm *vm = vm_of(guest);
    if (vm_ended(vm)) {
        return error_set(err, DROVER_EWRONGSTATE, "the target was told to quit");
    }
    return storage_lock(vm, err);
}

static void go_expected(struct migration_guest *guest)
{
    vm_go_expected(vm_of(guest));
}

static void start(struct migration_guest *guest, uint64_t *ret_entered_ns)
{
    struct vm *vm = vm_of(guest);
    uint64_t start_ns = clock_now_ns();
    uint64_t now_ns = start_ns;
    uint64_t entered_ns = 0;
    vm_hold_clear(vm, VM_HOLD_INCOMING);
    /* A guest that is paused, or has no lease here yet, does not enter: it has arrived
     * all the same. */
    while (entered_ns == 0 && vm_holds(vm) == 0 && now_ns < start_ns + ENTRY_WAIT_NS) {
        (void)usleep(ENTRY_LOOK_US); /* a shorter sleep does no harm */
        entered_ns = vm_first_entry_ns(vm);
        now_ns = clock_now_ns();
    }
    *ret_entered_ns = entered_ns != 0 ? entered_ns : now_ns;
}

/* Main loop. */
static void arrived(void *owner)
{
    vm_arrived(owner);
}

static void announce(struct migration_guest *guest)
{
    struct vm *vm = vm_of(guest);
    int rv = event_loop_post(vm_main_loop(vm), arrived, vm);
    if (rv != 0) {
        log_error(vm_log(vm), "the guest's addresses are not announced vm=%s err=%s",
                  vm_config(vm)->name, err_text(rv));
    }
}

static void abandon(struct migration_guest *guest)
{
    struct vm *vm = vm_of(guest);
    struct error err = {0};
    if (storage_unlock(vm, &err) != 0) {
        /* Nothing was written here, so nothing is lost; the locks end with the process.
         */
        log_warn(vm_log(vm), "the disks stay locked until this process ends vm=%s why=%s",
                 vm_config(vm)->name, err.text);
    }
}

static const struct migration_guest_ops ops = {
    .region_count = region_count,
    .region = region,
    .config_save = config_save,
    .populated = populated,
    .given_back = given_back,
    .dirty_start = dirty_start,
    .dirty_stop = dirty_stop,
    .dirty_fetch = dirty_fetch,
    .dirty_peek = dirty_peek,
    .dirty_forget = dirty_forget,
    .vcpu_count = vcpu_count,
    .throttle = throttle,
    .rehearse = rehearse,
    .rehearse_load = rehearse_load,
    .stop_begin = stop_begin,
    .stop_wait = stop_wait,
    .save = save,
    .release = release,
    .may_hand_over = may_hand_over,
    .handed_over = handed_over,
    .go_on = go_on,
    .config_compare = config_compare,
    .load = load,
    .clear = clear,
    .back = back,
    .hold_memory = hold_memory,
    .claim = claim,
    .go_expected = go_expected,
    .start = start,
    .announce = announce,
    .abandon = abandon,
    .missing_possible = migrate_missing_possible,
    .missing_begin = migrate_missing_begin,
    .missing_add = migrate_missing_add,
    .missing_wait = migrate_missing_wait,
    .missing_place = migrate_missing_place,
    .missing_end = migrate_missing_end,
};

int migrate_guest_init(struct migrate_guest *guest, struct vm *vm, enum vm_hold hold)
{
    *guest = (struct migrate_guest){.guest.ops = &ops, .vm = vm, .hold = hold, .uffd = -1};
    guest->quiet_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return guest->quiet_fd < 0 ? -errno : 0;
}

void migrate_guest_done(struct migrate_guest *guest)
{
    cleanup_fd(&guest->quiet_fd);
}
