/* SPDX-License-Identifier: Apache-2.0 */
/* Save and load of the AHCI controller with its drives. All is judged before any of it is
 * taken over. */
#include <errno.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/pci.h"
#include "vmm/devices/ahci_internal.h"
#include "vmm/state.h"

#define SENSE_KEY_MAX 0xf

struct saved_port {
    Drover__AhciPortState message;
    Drover__CdromDriveState drive;
};

static void port_save(const struct ahci_port *port, struct saved_port *ret_saved)
{
    Drover__AhciPortState *message = &ret_saved->message;
    Drover__CdromDriveState *drive = &ret_saved->drive;
    drover__ahci_port_state__init(message);
    drover__cdrom_drive_state__init(drive);
    message->list_gpa = port->list_gpa;
    message->fis_gpa = port->fis_gpa;
    message->is = port->is;
    message->ie = port->ie;
    message->cmd = port->cmd;
    message->tfd = port->tfd;
    message->sig = port->sig;
    message->ssts = port->ssts;
    message->sctl = port->sctl;
    message->ci = port->ci;
    message->signature_due = port->signature_due;
    message->soft_reset = port->soft_reset;
    message->failed = port->failed;
    message->drive = drive;
    drive->block_count = port->drive.block_count;
    drive->tray_open = port->drive.tray_open;
    drive->tray_locked = port->drive.tray_locked;
    drive->attention = port->drive.attention;
    drive->sense_key = port->drive.sense_key;
    drive->sense_code = port->drive.sense_code;
}

int ahci_save(struct device *device, struct buffer *out)
{
    struct ahci *ahci = (struct ahci *)device;
    Drover__AhciState state = DROVER__AHCI_STATE__INIT;
    struct saved_port saved[AHCI_CDROMS_MAX];
    Drover__AhciPortState *ports[AHCI_CDROMS_MAX];
    CLEANUP(buffer_done) struct buffer pci = {0};
    int result = pci_function_save(ahci->function, &pci);
    if (result < 0) {
        return result;
    }
    ahci_lock(ahci);
    state.ghc = ahci->ghc;
    state.is = ahci->is;
    state.n_ports = ahci->port_count;
    state.ports = ports;
    for (unsigned i = 0; i < ahci->port_count; i++) {
        port_save(&ahci->ports[i], &saved[i]);
        ports[i] = &saved[i].message;
    }
    ahci_unlock(ahci);
    state.pci = (ProtobufCBinaryData){.len = pci.size, .data = pci.data};
    return state_pack(&state.base, out);
}

static int malformed(struct error *err, const char *how)
{
    return error_set(err, DROVER_EMALFORMED, "the saved AHCI controller is malformed: %s",
                     how);
}

static int port_judge(const struct ahci_port *port, const Drover__AhciPortState *message,
                      struct error *err)
{
    const Drover__CdromDriveState *drive = message->drive;
    if (drive == NULL || drive->sense_key > SENSE_KEY_MAX ||
        drive->sense_code > UINT16_MAX) {
        return malformed(err, "a drive");
    }
    if (drive->block_count != port->drive.block_count) {
        return error_set(err, DROVER_EBADINPUT,
                         "CD-ROM image %s has %u blocks here, %u where the guest comes "
                         "from: is it the same image?",
                         port->image.path, port->drive.block_count, drive->block_count);
    }
    bool link_known = message->ssts == AHCI_LINK_UP || message->ssts == AHCI_LINK_OFF ||
                      message->ssts == 0;
    bool idle = (message->cmd & AHCI_CMD_ST) != 0 || message->ci == 0;
    if (!link_known || !idle || message->tfd > UINT16_MAX ||
        (message->cmd & ~AHCI_CMD_WRITABLE) != 0 || message->sctl > 0xfff ||
        (message->ie & ~AHCI_IE_MASK) != 0 || (message->list_gpa & 0x3ff) != 0 ||
        (message->fis_gpa & 0xff) != 0) {
        return malformed(err, "a port");
    }
    return 0;
}

static void port_load(struct ahci_port *port, const Drover__AhciPortState *message)
{
    const Drover__CdromDriveState *drive = message->drive;
    ahci_port_power_on(port);
    port->list_gpa = message->list_gpa;
    port->fis_gpa = message->fis_gpa;
    port->is = message->is;
    port->ie = message->ie;
    port->cmd = message->cmd;
    port->tfd = message->tfd;
    port->sig = message->sig;
    port->ssts = message->ssts;
    port->sctl = message->sctl;
    port->ci = message->ci;
    port->signature_due = message->signature_due;
    port->soft_reset = message->soft_reset;
    port->failed = message->failed;
    port->drive.tray_open = drive->tray_open;
    port->drive.tray_locked = drive->tray_locked;
    port->drive.attention = drive->attention;
    port->drive.sense_key = (uint8_t)drive->sense_key;
    port->drive.sense_code = (uint16_t)drive->sense_code;
}

static int state_judge(const struct ahci *ahci, const Drover__AhciState *state,
                       struct error *err)
{
    if (state->n_ports != ahci->port_count) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest has %zu CD-ROM drives, this VM has %u: give the same "
                         "--cdrom on both",
                         state->n_ports, ahci->port_count);
    }
    if ((state->ghc & ~2u) != 0 || state->is >> ahci->port_count != 0) {
        return malformed(err, "a register");
    }
    for (unsigned i = 0; i < ahci->port_count; i++) {
        int result = port_judge(&ahci->ports[i], state->ports[i], err);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

int ahci_load(struct device *device, uint32_t version, const uint8_t *payload,
              size_t size, struct error *err)
{
    struct ahci *ahci = (struct ahci *)device;
    (void)version; /* 1 is the first */
    Drover__AhciState *state = drover__ahci_state__unpack(NULL, size, payload);
    if (state == NULL) {
        return malformed(err, "it can't be decoded");
    }
    int result = state_judge(ahci, state, err);
    if (result == 0) {
        result = pci_function_load(ahci->function, state->pci.data,
                                   (uint32_t)state->pci.len, err);
    }
    if (result == 0) {
        ahci_lock(ahci);
        ahci->ghc = state->ghc;
        ahci->is = state->is;
        for (unsigned i = 0; i < ahci->port_count; i++) {
            port_load(&ahci->ports[i], state->ports[i]);
        }
        ahci_unlock(ahci);
    }
    drover__ahci_state__free_unpacked(state, NULL);
    return result;
}
