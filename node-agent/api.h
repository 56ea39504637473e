/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP API of docs/api.md: libwebsockets on the agent's libuv loop, on a unix socket
 * and, once the host is a member, on TLS. It knows the agent only by `struct
 * api_backend`. Loop thread only.
 *
 * Writes, and reads of what only the leader knows, are answered by the leader: elsewhere
 * the request is handed to backend->forward(), and comes in at the leader by
 * api_serve_forward().
 */
#ifndef DROVER_NODE_AGENT_API_H
#define DROVER_NODE_AGENT_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "proto/peer.pb-c.h"

struct api;
struct cluster_state;
struct error;

/* This host, as the API shows it. */
struct api_self {
    uint64_t host_id;        /* 0: not in a cluster */
    uint64_t leader_host_id; /* 0: none known */
    uint64_t term;
    bool leads; /* and has applied a barrier of this term: may answer for the cluster */
    uint64_t lease_deadline_ms; /* CLOCK_BOOTTIME; 0: none */
    uint32_t watchdog_ms;
    const char *watchdog_text; /* why there is none; may be NULL */
    const char *failure; /* why this member of a cluster can't go on for now; NULL: it can */
};

struct api_init {
    const char *name;        /* of this host */
    const char *address;     /* "HOST:PORT" of its agent */
    const char *api_address; /* "HOST:PORT" of its TLS API */
    uint32_t lease_ms;       /* 0: default */
};

struct api_join {
    const char *token; /* text: join_token.h */
    const char *name;
    const char *address;
    const char *api_address;
    bool witness;
};

/* A host's removal; the request's key and digest, as in Command. */
struct api_removal {
    uint64_t host_id;
    const char *request_id;
    uint64_t request_digest;
};

/* `error` 0, or a code with `text` (one line that says what to do). */
typedef void (*api_done)(void *request, int error, const char *text, uint64_t result_id);
/* `error` 0 and the leader's answer; or it could not be had, with `text`. */
typedef void (*api_forwarded)(void *request, int error, const char *text, unsigned status,
                              const void *body, size_t size);

/*
 * What the API needs of the agent. Operations with a callback return 0 and call it
 * exactly once, later; or fail with one line in `err` and never call it. Arguments are
 * borrowed during the call.
 */
struct api_backend {
    /* The replicated state as applied here; never NULL (version 0: no cluster yet). */
    const struct cluster_state *(*state)(void *owner);
    void (*self)(void *owner, struct api_self *ret_self);
    /* While this host leads (self.leads): controller_observed(),
     * controller_host_usable(), controller_host_silent_ms(). */
    const Drover__VmStatus *(*observed)(void *owner, uint64_t vm_id,
                                        uint64_t *ret_host_id, uint64_t *ret_at_ms);
    bool (*host_usable)(void *owner, uint64_t host_id);
    uint64_t (*host_silent_ms)(void *owner, uint64_t host_id);

    /* While this host leads: one command through raft, with the text and the result of
     * its apply. DROVER_ETIMEDOUT2 by the callback: it may have been applied. */
    int (*propose)(void *owner, const Drover__Command *command, api_done done,
                   void *request, struct error *err);
    /* While it does not: to the leader, wherever. request_id is filled in by the agent.
     * DROVER_ENOLEADER if there is none. */
    int (*forward)(void *owner, const Drover__ApiForward *message,
                   api_forwarded forwarded, void *request, struct error *err);
    /* Makes a new cluster with this host in it: CA, certificate, raft's bootstrap,
     * ClusterInit. result_id: the host's. */
    int (*cluster_init)(void *owner, const struct api_init *init, api_done done,
                        void *request, struct error *err);
    /* Joins this host to the token's cluster. `done` when it is a member whose HostUp is
     * applied here. */
    int (*cluster_join)(void *owner, const struct api_join *join, api_done done,
                        void *request, struct error *err);
    /* While it leads: takes a host out of raft and of the state. */
    int (*member_remove)(void *owner, const struct api_removal *removal, api_done done,
                         void *request, struct error *err);
    /* Path of the serial socket of a VM that runs on this host:
     * vmm_supervisor_serial_path(). */
    int (*serial_path)(void *owner, uint64_t vm_id, uint64_t epoch, char *ret_path,
                       size_t size);
};

struct api_config {
    uv_loop_t *loop;
    const char
        *socket_path; /* "/run/drover/api.sock": made 0660, a stale one is replaced */
    const struct api_backend *backend;
    void *owner;
};

/* Listens on the unix socket. Copies the config. Fails in one line (path, permissions,
 * libwebsockets' uv plugin missing). */
int api_create(const struct api_config *config, struct api **ret_api, struct error *err);
/* Listens on TLS too, with the host's certificate; clients must show one of the cluster's
 * CA. PEM files are read now. */
int api_listen_tls(struct api *api, const char *address, const char *ca_file,
                   const char *certificate_file, const char *key_file, struct error *err);
/* After each applied command, and when the leader changed: wakes those who follow events.
 */
void api_state_changed(struct api *api);

/* At the leader: a request that another host forwarded. `answer` once, later. Copies
 * `message`. */
int api_serve_forward(struct api *api, const Drover__ApiForward *message,
                      api_forwarded answer, void *request);

/* Ends all requests; `closed` once, later. Free it after the loop has run out of handles, and
 * after the backend has called back for all that it was asked. */
void api_close(struct api *api, void (*closed)(void *owner), void *owner);
void api_free(struct api *api);

#endif
