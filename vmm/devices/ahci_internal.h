/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by ahci.c (the controller), ahci_port.c (registers of a port), ahci_command.c
 * (what is issued to a port), ahci_io.c (reading images) and ahci_state.c only. The
 * controller's lock guards all of it; vCPU threads touch registers, the I/O loop serves
 * commands. Names of registers and bits are those of Serial ATA AHCI 1.3.1.
 */
#ifndef DROVER_VMM_DEVICES_AHCI_INTERNAL_H
#define DROVER_VMM_DEVICES_AHCI_INTERNAL_H

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>

#include "vmm/device.h"
#include "vmm/devices/ahci.h"
#include "vmm/devices/atapi.h"
#include "vmm/devices/cdrom_image.h"

#define AHCI_SLOTS       32
#define AHCI_CHUNK_BYTES (64u * 1024u)
#define AHCI_RETRY_MS    10
#define AHCI_BROKEN_LOGS 8

/* A port's registers, as offsets from its own. */
#define AHCI_PORT_CLB  0x00
#define AHCI_PORT_CLBU 0x04
#define AHCI_PORT_FB   0x08
#define AHCI_PORT_FBU  0x0c
#define AHCI_PORT_IS   0x10
#define AHCI_PORT_IE   0x14
#define AHCI_PORT_CMD  0x18
#define AHCI_PORT_TFD  0x20
#define AHCI_PORT_SIG  0x24
#define AHCI_PORT_SSTS 0x28
#define AHCI_PORT_SCTL 0x2c
#define AHCI_PORT_SERR 0x30
#define AHCI_PORT_CI   0x38
#define AHCI_PORT_SIZE 0x80

/* Bits of PxIS and PxIE. */
#define AHCI_IS_DHRS UINT32_C(0x00000001) /* a register FIS has come */
#define AHCI_IS_PSS  UINT32_C(0x00000002) /* a PIO setup FIS has come */
#define AHCI_IS_DPS  UINT32_C(0x00000020) /* a PRD with its interrupt bit is done */
#define AHCI_IS_OFS  UINT32_C(0x01000000) /* more data than the PRDs have room for */
#define AHCI_IS_HBFS UINT32_C(0x20000000) /* the guest's memory was not there */
#define AHCI_IS_TFES UINT32_C(0x40000000) /* the device reports an error */
#define AHCI_IE_MASK UINT32_C(0xfdc000ff)

/* Bits of PxCMD. */
#define AHCI_CMD_ST       UINT32_C(0x00000001) /* commands are served */
#define AHCI_CMD_CLO      UINT32_C(0x00000008)
#define AHCI_CMD_FRE      UINT32_C(0x00000010) /* FISes are stored */
#define AHCI_CMD_FR       UINT32_C(0x00004000)
#define AHCI_CMD_CR       UINT32_C(0x00008000)
#define AHCI_CMD_WRITABLE UINT32_C(0x07000017) /* ST SUD POD FRE ATAPI DLAE ALPE */

/* The task file's status. */
#define AHCI_STATUS_BSY 0x80
#define AHCI_STATUS_DRQ 0x08

#define AHCI_SIGNATURE UINT32_C(0xeb140101) /* of a packet device */
#define AHCI_LINK_UP   UINT32_C(0x00000113) /* PxSSTS: device there, 1.5 Gbit/s, active */
#define AHCI_LINK_OFF  UINT32_C(0x00000004)

/* A read under way: blocks of the image to the guest, in pieces. */
struct ahci_transfer {
    bool active;
    unsigned slot;
    uint64_t header_gpa; /* of its command header */
    uint64_t table_gpa;  /* of its command table */
    unsigned prd_count;
    unsigned prd_index;  /* of the entry that is filled next */
    uint32_t prd_used;   /* bytes of it that are full */
    uint32_t done_bytes; /* of the whole command, as in the header */
    bool prd_interrupt;  /* an entry that is full asked for one */
    bool overflow;
    uint32_t block; /* next one to read */
    uint32_t blocks_left;
    uint8_t fis[20]; /* of the command */
};

struct ahci_port {
    struct ahci *ahci;
    unsigned index;
    struct cdrom_image image;
    struct atapi_drive drive;
    uint64_t list_gpa;
    uint64_t fis_gpa;
    uint32_t is, ie, cmd, tfd, sig, ssts, sctl, ci;
    bool signature_due; /* the device's first FIS has not been stored yet */
    bool soft_reset;    /* the guest holds SRST */
    bool failed;        /* no command is served before ST was cleared */
    unsigned next_slot; /* where the search for the next command begins */
    struct ahci_transfer transfer;
    bool in_flight; /* a read into `buffer` is with the host's kernel */
    bool stale;     /* ... and nobody wants it any more */
    uint32_t in_flight_bytes;
    bool error_logged;
    uint8_t *buffer; /* AHCI_CHUNK_BYTES */
};

struct ahci {
    struct device device;
    struct vm *vm;
    struct pci_function *function;
    pthread_mutex_t lock;
    uint32_t ghc; /* IE only */
    uint32_t is;
    atomic_bool stopped;
    struct io_uring ring;
    bool ring_ready;
    int event_fd; /* completions are there, or a vCPU has issued a command */
    struct event_source *event_source;
    struct event_source *retry_timer;
    unsigned broken_count; /* lines that were logged */
    uint8_t *buffers;
    unsigned port_count;
    struct ahci_port ports[AHCI_CDROMS_MAX];
};

static inline void ahci_lock(struct ahci *ahci)
{
    int result = pthread_mutex_lock(&ahci->lock);
    (void)result; /* fails only if the mutex is broken */
}

static inline void ahci_unlock(struct ahci *ahci)
{
    int result = pthread_mutex_unlock(&ahci->lock);
    (void)result;
}

static inline uint32_t ahci_get32(const uint8_t *data)
{
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
           (uint32_t)data[3] << 24;
}

static inline void ahci_set32(uint8_t *data, uint32_t value)
{
    data[0] = (uint8_t)value;
    data[1] = (uint8_t)(value >> 8);
    data[2] = (uint8_t)(value >> 16);
    data[3] = (uint8_t)(value >> 24);
}

/* ---- ahci.c: ports' interrupts have changed; the I/O loop has work ---- */
void ahci_interrupt_update(struct ahci *ahci);
void ahci_kick(struct ahci *ahci);
/* A guest's mistake, for the log. */
void ahci_log_broken(struct ahci_port *port, const char *how);

/* ---- ahci_port.c ---- */
uint32_t ahci_port_read(const struct ahci_port *port, unsigned offset);
void ahci_port_write(struct ahci_port *port, unsigned offset, uint32_t value);
/* As after power-on, but for the tray and the addresses that the guest gave. */
void ahci_port_reset(struct ahci_port *port);
/* The same, addresses included. */
void ahci_port_power_on(struct ahci_port *port);
/* The device presents itself, once FISes are stored. */
void ahci_port_signature(struct ahci_port *port);
/* Sets bits of PxIS. */
void ahci_port_interrupt(struct ahci_port *port, uint32_t bits);
/* The guest's memory is not where it said: nothing is served until it clears ST. */
void ahci_port_fail(struct ahci_port *port, const char *how);
/* Stores a FIS of 20 bytes in the guest's memory, if it wants any. */
void ahci_port_fis(struct ahci_port *port, unsigned offset, const uint8_t fis[20]);
#define AHCI_FIS_PIO_AT      0x20
#define AHCI_FIS_REGISTER_AT 0x40

/* ---- ahci_command.c ---- */
/* Takes the next issued command and serves it, or begins its transfer. False: none. */
bool ahci_command_next(struct ahci_port *port);
/* `size` bytes of the port's buffer have been read from the image. */
void ahci_command_data(struct ahci_port *port, uint32_t size);
void ahci_command_read_failed(struct ahci_port *port);

/* ---- ahci_io.c ---- */
int ahci_io_init(struct ahci *ahci, struct error *err);
void ahci_io_done(struct ahci *ahci);
void ahci_io_stop(struct device *device);
bool ahci_io_drained(struct device *device);
void ahci_io_start(struct device *device);

/* ---- ahci_state.c ---- */
int ahci_save(struct device *device, struct buffer *out);
int ahci_load(struct device *device, uint32_t version, const uint8_t *payload,
              size_t size, struct error *err);

#endif
