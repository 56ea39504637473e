/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by virtio_vsock.c (the device), vsock_io.c (packets from the guest),
 * vsock_receive.c (packets to it), vsock_socket.c (the host's sockets) and
 * vsock_connection.c only. The device's lock guards all of it.
 */
#ifndef DROVER_VMM_VIRTIO_VSOCK_IO_H
#define DROVER_VMM_VIRTIO_VSOCK_IO_H

#include "vmm/virtio/virtio.h"
#include "vmm/virtio/virtio_vsock.h"
#include "vmm/virtio/vsock_packet.h"

#define VSOCK_QUEUE_SIZE    128
#define VSOCK_BUFFER_BYTES  (128u * 1024u) /* from the guest to a slow host program */
#define VSOCK_PACKET_MAX    (64u * 1024u)  /* data of one packet to the guest */
#define VSOCK_RUN_PACKETS   64             /* then other devices get their turn */
#define VSOCK_RUN_ACCEPTS   16
#define VSOCK_RESETS_MAX    64 /* for packets of no connection; then the guest waits */
#define VSOCK_GREETING_SIZE 32 /* "CONNECT 4294967295\n" */
#define VSOCK_EVENTS        32 /* of sockets, looked at in one go */
#define VSOCK_HOST_PORT_MIN 0x40000000u

enum {
    VSOCK_QUEUE_RECEIVE = 0, /* to the guest */
    VSOCK_QUEUE_TRANSMIT = 1,
    VSOCK_QUEUE_EVENT = 2,
    VSOCK_QUEUE_COUNT = 3,
};

/*
 *   FREE ---> GREETING ---> ASKING ---> OPEN ---> ENDING ---> FREE
 *    |   host connects  line read  guest   |  the host's end is closed; waits
 *    |                             agrees  |  for the guest's reset
 *    '------------ guest connects ---------'
 */
enum vsock_state {
    VSOCK_STATE_FREE,
    VSOCK_STATE_GREETING, /* a host program has connected; its port is not known yet */
    VSOCK_STATE_ASKING,   /* the guest was asked, or is about to be */
    VSOCK_STATE_OPEN,
    VSOCK_STATE_ENDING,
};

/* What a connection has to tell the guest, beside its data; in this order. */
enum vsock_pending {
    VSOCK_PENDING_REQUEST = 1 << 0,
    VSOCK_PENDING_RESPONSE = 1 << 1,
    VSOCK_PENDING_CREDIT_UPDATE = 1 << 2,
    VSOCK_PENDING_CREDIT_REQUEST = 1 << 3,
    VSOCK_PENDING_SHUTDOWN = 1 << 4,
    VSOCK_PENDING_RESET = 1 << 5, /* and then it is free */
};

struct vsock_connection {
    enum vsock_state state;
    unsigned pending;  /* an OR of enum vsock_pending */
    int fd;            /* of the host's program, or -1 */
    bool readable;     /* the socket may have more, as far as we know */
    bool writable;     /* it may take more */
    bool hung_up;      /* its program has closed it */
    bool read_ended;   /* end of file was read, or the guest takes no more */
    bool write_ending; /* the guest sends no more: shut down once all is written */
    unsigned shutdown; /* flags told to the guest, or about to be */
    unsigned guest_shutdown;
    uint32_t guest_port, host_port;
    /* Credit (5.10.6.3), counted modulo 2^32. */
    uint32_t guest_buffer_bytes, guest_forwarded_bytes; /* as the guest said last */
    uint32_t sent_bytes;                                /* to the guest */
    uint32_t received_bytes;                            /* from the guest */
    uint32_t forwarded_bytes;                           /* of them, to the program */
    uint32_t told_forwarded_bytes;
    bool credit_requested;
    /* A ring in vsock->buffers: what the program did not take yet. */
    uint32_t buffer_start, buffer_used;
    bool buffer_touched;
};

struct vsock_reset {
    uint32_t guest_port, host_port;
};

struct virtio_vsock {
    struct virtio_device virtio;
    struct virtio_vsock_config config;
    int epoll_fd; /* of all sockets; the I/O loop listens to it */
    struct event_source *source;
    bool acceptable;  /* somebody may wait at listen_fd */
    bool reset_event; /* the guest is to be told that its connections are gone */
    bool limit_logged;
    uint32_t next_host_port;
    unsigned next_connection;  /* round robin of the receive queue */
    unsigned connection_limit; /* none from here on was ever used */
    unsigned reset_first, reset_count;
    struct vsock_reset resets[VSOCK_RESETS_MAX];
    struct virtqueue_chain chain;
    uint8_t *buffers; /* VSOCK_BUFFER_BYTES each; not backed until used */
    struct vsock_connection connections[VIRTIO_VSOCK_CONNECTIONS_MAX];
};

/* ---- vsock_connection.c --------------------------------------------------- */

struct vsock_connection *vsock_connection_find(struct virtio_vsock *vsock,
                                               uint32_t guest_port, uint32_t host_port);
/* A free one in `state`, which takes `fd` and hears of it; NULL when there is none, or
 * none of the host's resources: then `fd` is closed. */
struct vsock_connection *vsock_connection_open(struct virtio_vsock *vsock, int fd,
                                               enum vsock_state state);
/* Closes the host's end, if it is still there. */
void vsock_connection_hang_up(struct vsock_connection *connection);
/* Closes it, forgets all. */
void vsock_connection_free(struct virtio_vsock *vsock,
                           struct vsock_connection *connection);
void vsock_connections_free(struct virtio_vsock *vsock);
uint8_t *vsock_connection_buffer(struct virtio_vsock *vsock,
                                 const struct vsock_connection *connection);
/* How many bytes the guest can take now. */
uint32_t vsock_connection_credit(const struct vsock_connection *connection);
uint32_t vsock_host_port_next(struct virtio_vsock *vsock);

/* ---- vsock_socket.c ------------------------------------------------------- */

/* I/O loop: a look at what has happened to the sockets. */
void vsock_sockets_look(struct virtio_vsock *vsock);
/* Takes in host programs that have connected, and reads what they want. */
void vsock_accept(struct virtio_vsock *vsock);
/* Tells the host program that the guest has accepted. False if it is gone. */
bool vsock_greeting_answer(struct vsock_connection *connection);
/* Writes what the guest has sent: from the buffer, then `count` vectors, the rest of
 * which goes into the buffer (room was judged). False: the program is gone. */
bool vsock_write(struct virtio_vsock *vsock, struct vsock_connection *connection,
                 const struct iovec *vectors, int count);

/* ---- vsock_receive.c ------------------------------------------------------ */

/* True if there is more for the guest, and buffers may be there. */
bool vsock_receive(struct virtio_vsock *vsock);

/* ---- vsock_io.c ----------------------------------------------------------- */

/* I/O loop: all that can be done. */
void vsock_run(struct virtio_vsock *vsock);

#endif
