/* SPDX-License-Identifier: Apache-2.0 */
/* The 16550A's registers. Sending takes no time, so the transmitter is always empty. */
#include "vmm/devices/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/layout.h"
#include "vmm/state.h"
#include "vmm/vm.h"

#define FIFO_SIZE                                                                        \
    64 /* more than the chip's 16: guests don't see it, typists notice it                \
        */
#define PORTS 8

#define REG_DATA 0 /* divisor low while LCR_DLAB */
#define REG_IER  1 /* divisor high while LCR_DLAB */
#define REG_IIR  2 /* FCR when written */
#define REG_LCR  3
#define REG_MCR  4
#define REG_LSR  5
#define REG_MSR  6
#define REG_SCR  7

#define IER_RECEIVED     0x01
#define IER_SENT         0x02
#define IER_MASK         0x0f
#define IIR_NONE         0x01
#define IIR_SENT         0x02
#define IIR_RECEIVED     0x04
#define IIR_FIFO_ENABLED 0xc0
#define FCR_ENABLE       0x01
#define FCR_CLEAR_INPUT  0x02
#define LCR_DLAB         0x80
#define MCR_OUT2         0x08 /* lets the interrupt out on a PC */
#define MCR_LOOP         0x10
#define MCR_MASK         0x1f
#define LSR_DATA         0x01
#define LSR_SENT         0x60 /* holding and shift register empty */
#define MSR_READY        0xb0 /* carrier, data set ready, clear to send */

struct serial {
    struct device device;
    struct vm *vm;
    struct serial_config config;
    pthread_mutex_t lock; /* of all below */
    uint8_t ier, fcr, lcr, mcr, scr;
    uint16_t divisor;
    bool sent_pending; /* "transmitter empty" not yet acknowledged */
    bool line;         /* the interrupt's level */
    unsigned fifo_start, fifo_count;
    uint8_t fifo[FIFO_SIZE];
};

static void lock(struct serial *serial)
{
    CHECK(pthread_mutex_lock(&serial->lock) == 0);
}

static void unlock(struct serial *serial)
{
    CHECK(pthread_mutex_unlock(&serial->lock) == 0);
}

static uint8_t interrupt_cause(const struct serial *serial)
{
    if ((serial->ier & IER_RECEIVED) != 0 && serial->fifo_count > 0) {
        return IIR_RECEIVED;
    }
    if ((serial->ier & IER_SENT) != 0 && serial->sent_pending) {
        return IIR_SENT;
    }
    return IIR_NONE;
}

static void line_update(struct serial *serial)
{
    bool line = interrupt_cause(serial) != IIR_NONE && (serial->mcr & MCR_OUT2) != 0;
    if (line != serial->line) {
        serial->line = line;
        vm_irq_set(serial->vm, LAYOUT_IRQ_COM1, line);
    }
}

static bool fifo_push(struct serial *serial, uint8_t byte)
{
    if (serial->fifo_count == FIFO_SIZE) {
        return false;
    }
    serial->fifo[(serial->fifo_start + serial->fifo_count) % FIFO_SIZE] = byte;
    serial->fifo_count++;
    return true;
}

static uint8_t fifo_pop(struct serial *serial)
{
    if (serial->fifo_count == 0) {
        return 0;
    }
    uint8_t byte = serial->fifo[serial->fifo_start];
    serial->fifo_start = (serial->fifo_start + 1) % FIFO_SIZE;
    serial->fifo_count--;
    return byte;
}

static uint8_t modem_status(const struct serial *serial)
{
    if ((serial->mcr & MCR_LOOP) == 0) {
        return MSR_READY;
    }
    /* Looped back: RTS, DTR, OUT1, OUT2 come in as CTS, DSR, RI, DCD. */
    uint8_t mcr = serial->mcr;
    return (uint8_t)((mcr & 0x02) << 3 | (mcr & 0x01) << 5 | (mcr & 0x04) << 4 |
                     (mcr & 0x08) << 4);
}

static uint8_t interrupt_identify(struct serial *serial)
{
    uint8_t cause = interrupt_cause(serial);
    if (cause == IIR_SENT) {
        serial->sent_pending = false; /* reading it acknowledges */
    }
    return cause | ((serial->fcr & FCR_ENABLE) != 0 ? IIR_FIFO_ENABLED : 0);
}

/* Under lock. */
static uint8_t register_read(struct serial *serial, uint64_t reg)
{
    bool divisor = (serial->lcr & LCR_DLAB) != 0;
    switch (reg) {
    case REG_DATA:
        return divisor ? (uint8_t)serial->divisor : fifo_pop(serial);
    case REG_IER:
        return divisor ? (uint8_t)(serial->divisor >> 8) : serial->ier;
    case REG_IIR:
        return interrupt_identify(serial);
    case REG_LCR:
        return serial->lcr;
    case REG_MCR:
        return serial->mcr;
    case REG_LSR:
        return LSR_SENT | (serial->fifo_count > 0 ? LSR_DATA : 0);
    case REG_MSR:
        return modem_status(serial);
    default:
        return serial->scr;
    }
}

static void serial_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct serial *serial = owner;
    memset(data, 0xff, size);
    lock(serial);
    unsigned before = serial->fifo_count;
    data[0] = register_read(serial, offset);
    bool room = serial->fifo_count < before;
    line_update(serial);
    unlock(serial);
    if (room && serial->config.input_room != NULL) {
        serial->config.input_room(serial->config.owner);
    }
}

/* Under lock. True if the byte is to go out. */
static bool data_write(struct serial *serial, uint8_t value)
{
    if ((serial->lcr & LCR_DLAB) != 0) {
        serial->divisor = (uint16_t)((serial->divisor & 0xff00) | value);
        return false;
    }
    serial->sent_pending = true;
    if ((serial->mcr & MCR_LOOP) != 0) {
        (void)fifo_push(serial, value); /* an overrun, as on the chip */
        return false;
    }
    return true;
}

static void ier_write(struct serial *serial, uint8_t value)
{
    if ((serial->lcr & LCR_DLAB) != 0) {
        serial->divisor = (uint16_t)((serial->divisor & 0x00ff) | value << 8);
        return;
    }
    if ((value & ~serial->ier & IER_SENT) != 0) {
        serial->sent_pending =
            true; /* switching it on tells that the transmitter is empty */
    }
    serial->ier = value & IER_MASK;
}

static void serial_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct serial *serial = owner;
    uint8_t value = data[0];
    bool goes_out = false;
    (void)size;
    lock(serial);
    switch (offset) {
    case REG_DATA:
        goes_out = data_write(serial, value);
        break;
    case REG_IER:
        ier_write(serial, value);
        break;
    case REG_IIR:
        serial->fcr = value & FCR_ENABLE;
        if ((value & FCR_CLEAR_INPUT) != 0) {
            serial->fifo_count = 0;
        }
        break;
    case REG_LCR:
        serial->lcr = value;
        break;
    case REG_MCR:
        serial->mcr = value & MCR_MASK;
        break;
    case REG_SCR:
        serial->scr = value;
        break;
    default:
        break; /* LSR and MSR are read only */
    }
    line_update(serial);
    unlock(serial);
    if (goes_out) {
        serial->config.output(serial->config.owner, &value, 1);
    }
}

size_t serial_input(struct serial *serial, const uint8_t *data, size_t size)
{
    size_t taken = 0;
    lock(serial);
    while (taken < size && (serial->mcr & MCR_LOOP) == 0 &&
           fifo_push(serial, data[taken])) {
        taken++;
    }
    line_update(serial);
    unlock(serial);
    return taken;
}

static void registers_reset(struct serial *serial)
{
    serial->ier = 0;
    serial->fcr = 0;
    serial->lcr = 3; /* 8N1 */
    serial->mcr = 0;
    serial->scr = 0;
    serial->divisor = 12;
    serial->sent_pending = false;
    serial->fifo_start = 0;
    serial->fifo_count = 0;
}

static void serial_reset(struct device *device)
{
    struct serial *serial = (struct serial *)device;
    lock(serial);
    registers_reset(serial);
    line_update(serial);
    unlock(serial);
}

static int serial_save(struct device *device, struct buffer *out)
{
    struct serial *serial = (struct serial *)device;
    uint8_t input[FIFO_SIZE];
    lock(serial);
    for (unsigned i = 0; i < serial->fifo_count; i++) {
        input[i] = serial->fifo[(serial->fifo_start + i) % FIFO_SIZE];
    }
    Drover__SerialState state = DROVER__SERIAL_STATE__INIT;
    state.ier = serial->ier;
    state.fcr = serial->fcr;
    state.lcr = serial->lcr;
    state.mcr = serial->mcr;
    state.scr = serial->scr;
    state.divisor = serial->divisor;
    state.sent_pending = serial->sent_pending;
    state.input = (ProtobufCBinaryData){.len = serial->fifo_count, .data = input};
    unlock(serial);
    return state_pack(&state.base, out);
}

static int serial_load(struct device *device, uint32_t version, const uint8_t *payload,
                       size_t size, struct error *err)
{
    struct serial *serial = (struct serial *)device;
    (void)version; /* 1 is the first */
    Drover__SerialState *state = drover__serial_state__unpack(NULL, size, payload);
    if (state == NULL || state->input.len > FIFO_SIZE) {
        drover__serial_state__free_unpacked(state, NULL);
        return error_set(err, DROVER_EMALFORMED, "the saved serial port is malformed");
    }
    lock(serial);
    serial->ier = state->ier & IER_MASK;
    serial->fcr = state->fcr & FCR_ENABLE;
    serial->lcr = (uint8_t)state->lcr;
    serial->mcr = state->mcr & MCR_MASK;
    serial->scr = (uint8_t)state->scr;
    serial->divisor = (uint16_t)state->divisor;
    serial->sent_pending = state->sent_pending;
    serial->fifo_start = 0;
    serial->fifo_count = (unsigned)state->input.len;
    if (state->input.len > 0) {
        memcpy(serial->fifo, state->input.data, state->input.len);
    }
    line_update(serial);
    unlock(serial);
    drover__serial_state__free_unpacked(state, NULL);
    return 0;
}

static void serial_free(struct device *device)
{
    struct serial *serial = (struct serial *)device;
    bus_remove(vm_port_bus(serial->vm), LAYOUT_PORT_COM1);
    (void)pthread_mutex_destroy(&serial->lock); /* nobody uses it any more */
    free(serial);
}

static const struct bus_ops serial_bus_ops = {.read = serial_read, .write = serial_write};

static const struct device_ops serial_device_ops = {
    .name = "serial",
    .version = 1,
    .save = serial_save,
    .load = serial_load,
    .reset = serial_reset,
    .free = serial_free,
};

int serial_create(struct vm *vm, const struct serial_config *config,
                  struct serial **ret_serial, struct error *err)
{
    CHECK(config->output != NULL);
    struct serial *serial = calloc(1, sizeof(*serial));
    if (serial == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    serial->device.ops = &serial_device_ops;
    serial->vm = vm;
    serial->config = *config;
    registers_reset(serial);
    int result =
        bus_add(vm_port_bus(vm), LAYOUT_PORT_COM1, PORTS, &serial_bus_ops, serial);
    if (result < 0) {
        free(serial);
        return error_set(err, result, "cannot add the serial port: %s", err_text(result));
    }
    CHECK(pthread_mutex_init(&serial->lock, NULL) == 0);
    vm_device_add(vm, &serial->device);
    *ret_serial = serial;
    return 0;
}
