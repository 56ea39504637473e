/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reliable, ordered byte stream between two VMMs; one file per kind. A link belongs to
 * one thread. Every wait ends with progress, an error, the given time without progress,
 * or the cancel descriptor becoming readable.
 */
#ifndef DROVER_MIGRATION_TRANSPORT_H
#define DROVER_MIGRATION_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct error;
struct transport_link;
struct transport_listener;

#define TRANSPORT_IOV_MAX  1024 /* entries per call, the kernel's own bound */
#define TRANSPORT_PLACE_BYTES (2u * 1024 * 1024)
#define TRANSPORT_URI_SIZE 192  /* "tcp:HOST:PORT", with the final NUL */

#define TRANSPORT_REGIONS_MAX 8 /* as many as a guest's memory has */

/* Memory as offer() gets it. */
struct transport_region {
    uint8_t *host;
    uint64_t size_bytes;
};

struct transport_piece {
    uint64_t offset; /* in the region */
    uint64_t size;
};

struct transport_link_ops {
    /*
     * Sends all of it, straight from where it lies; entries are changed. `ret_accepted`
     * (set on every return, may be NULL) says how many bytes may have left: 0 on an error
     * means that the peer can't have got any. DROVER_ETIMEDOUT2, DROVER_ECANCELLED,
     * DROVER_ECLOSED or -errno.
     */
    int (*send)(struct transport_link *link, struct iovec *iov, unsigned count,
                uint32_t idle_ms, size_t *ret_accepted);
    /* At least one byte into `iov` (left unchanged). DROVER_ECLOSED at the end of the
     * stream. */
    int (*recv)(struct transport_link *link, const struct iovec *iov, unsigned count,
                uint32_t wait_ms, size_t *ret_size);
    /* From now on waits end on this descriptor too; -1: on none. */
    void (*set_cancel)(struct transport_link *link, int cancel_fd);
    void (*close)(struct transport_link *link);

    /*
     * Optional, all or none: memory straight into the peer's, for links that can.
     * offer() once, before anything is placed: the regions that are read from, or
     * (`writable`) that the peer may write to. They must stay as they are until close():
     * nothing in them may be given back to the host.
     */
    int (*offer)(struct transport_link *link, const struct transport_region *regions,
                 unsigned count, bool writable);
    /*
     * Source: these pieces of one TRANSPORT_PLACE_BYTES (aligned) go to the same place in
     * the peer's region; what is sent afterwards arrives behind them. `ask`: the peer may
     * be asked for a place that it has not told yet. DROVER_ENOTFOUND: they can't, send
     * them as bytes of the stream. Else as send().
     */
    int (*place)(struct transport_link *link, unsigned region,
                 const struct transport_piece *pieces, unsigned count, bool ask,
                 uint32_t idle_ms);
    /* Source: a number that the peer finds in marked() once all that was placed before is
     * in place. */
    int (*mark)(struct transport_link *link, uint32_t value, uint32_t idle_ms);
    uint32_t (*marked)(struct transport_link *link);
    /* Target: from its return on the peer writes to nothing any more; what can't be
     * stopped otherwise is disconnected. */
    void (*seal)(struct transport_link *link);
};

/* First member of each kind's own struct. */
struct transport_link {
    const struct transport_link_ops *ops;
};

struct transport_listener_ops {
    /* `wait_ms` UINT32_MAX: for ever. */
    int (*accept)(struct transport_listener *listener, int cancel_fd, uint32_t wait_ms,
                  uint32_t idle_ms, struct transport_link **ret_link);
    /* Takes a connection that accept() shall return, on success. NULL: of this kind
     * nothing is handed over. Any thread. DROVER_ELIMIT. */
    int (*give)(struct transport_listener *listener, int fd);
    /* With the real port. */
    void (*uri)(struct transport_listener *listener, char ret_uri[TRANSPORT_URI_SIZE]);
    void (*close)(struct transport_listener *listener);
};

struct transport_listener {
    const struct transport_listener_ops *ops;
};

struct transport_ops {
    const char *scheme; /* "tcp", "handed" */
    /* `address` is what follows "SCHEME:". `idle_ms`: how soon a peer without power is
     * noticed. */
    int (*connect)(const char *address, int cancel_fd, uint32_t wait_ms, uint32_t idle_ms,
                   struct transport_link **ret_link, struct error *err);
    /* A socket that somebody else has connected, or begun to connect, to `address`. Takes
     * `fd`. As connect() else. NULL: not of this kind. */
    int (*adopt)(int fd, const char *address, int cancel_fd, uint32_t wait_ms,
                 uint32_t idle_ms, struct transport_link **ret_link, struct error *err);
    int (*listen)(const char *address, struct transport_listener **ret_listener,
                  struct error *err);
};

const struct transport_ops *transport_tcp(void);
/* "handed:": connections come with orders, both ways; they are the cluster's, and encrypted. */
const struct transport_ops *transport_handed(void);
/* A link over any stream socket that stands already. Takes `fd`. 0 or -ENOMEM. */
int transport_socket_adopt(int fd, int cancel_fd, struct transport_link **ret_link);

/* Of a listener of TCP's: readable when accept() would not wait. */
int transport_tcp_listener_fd(const struct transport_listener *listener);
/* Whoever connects is shown by accept() once he has said something. */
int transport_tcp_listener_defer(struct transport_listener *listener, struct error *err);

/*
 * As accept() of a listener of "handed:", but whoever connects is shown once he has said
 * something, and `other_fd` is waited for, too: -EAGAIN when it is readable.
 */
int transport_handed_accept(struct transport_listener *listener, int other_fd,
                            int cancel_fd, uint32_t wait_ms,
                            struct transport_link **ret_link);

/* The kind that `uri` names, and its address part (inside `uri`); DROVER_EBADINPUT with
 * what is allowed. */
int transport_find(const char *uri, const struct transport_ops **ret_ops,
                   const char **ret_address, struct error *err);

/* Reads on until the peer closes, for a moment at most: closing with unread input would reset
 * the connection, and lose what was said last. */
void transport_link_linger(struct transport_link *link, uint32_t ms);
void transport_link_close(struct transport_link *link);             /* NULL is fine */
void transport_listener_close(struct transport_listener *listener); /* NULL is fine */

#endif
