/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One host of the cluster: joins raft, peers, the decisions (controller, host_core), the VMMs and the
 * API on one libuv loop. This header is what the API and main() may ask of it. Loop thread only.
 */
#ifndef DROVER_NODE_AGENT_AGENT_H
#define DROVER_NODE_AGENT_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "proto/peer.pb-c.h"

struct agent;
struct agent_config; /* node-agent/config.h */
struct cluster_state;
struct controller;
struct error;
struct log;

enum agent_phase {
    AGENT_PHASE_ALONE,   /* no cluster yet: only init, join and status are served */
    AGENT_PHASE_FORMING, /* init or join is under way */
    AGENT_PHASE_MEMBER,
    AGENT_PHASE_FAILED,  /* raft can't go on (full disk, ...): agent_failure() says what to do */
};

/* Borrows `config` and `log` for the agent's life. */
int agent_create(uv_loop_t *loop, const struct agent_config *config, const struct log *log,
                 struct agent **ret_agent, struct error *err);
/* The start order of the whole daemon is written out in this function. */
int agent_start(struct agent *agent, struct error *err);
/* Leaves the VMMs running. `closed` is called once, when the loop holds nothing of the agent any more; then free. */
void agent_close(struct agent *agent, void (*closed)(void *owner), void *owner);
void agent_free(struct agent *agent);

/* ---- what is so ------------------------------------------------------------------------- */

uv_loop_t *agent_loop(const struct agent *agent);
const struct log *agent_log(const struct agent *agent);
const struct agent_config *agent_config(const struct agent *agent);
enum agent_phase agent_phase(const struct agent *agent);
const char *agent_phase_text(enum agent_phase phase); /* "alone", "forming", "member", "failed" */
const char *agent_failure(const struct agent *agent); /* empty when nothing failed */
uint64_t agent_host_id(const struct agent *agent);    /* 0: no member yet */
const char *agent_name(const struct agent *agent);
/* As far as applied here; never NULL: version 0 and empty while this host is no member. */
const struct cluster_state *agent_state(const struct agent *agent);
/* Leads, and has applied all that was committed before: only then controller_*() tells anything and the state is
 * not older than what any user has been told. */
bool agent_leads(const struct agent *agent);
/* Who leads as far as this host knows; 0: nobody. `*ret_address` (may be NULL) is valid until the next loop turn. */
uint64_t agent_leader(const struct agent *agent, const char **ret_address);
/* For controller_observed(), controller_host_usable(), controller_host_silent_ms(); NULL while this host is no member. */
const struct controller *agent_controller(const struct agent *agent);
/* The last status of each VMM of this host itself, for `status` and metrics; NULL: none such. */
const Drover__VmStatus *agent_local_vm(const struct agent *agent, uint64_t vm_id);
/* Until when the host's lease is in force (CLOCK_BOOTTIME ms); 0: no lease. */
uint64_t agent_lease_deadline_ms(const struct agent *agent);
/* PEM files for the API's TLS; they exist from AGENT_PHASE_MEMBER on. */
const char *agent_certificate_path(const struct agent *agent);
const char *agent_key_path(const struct agent *agent);
const char *agent_ca_path(const struct agent *agent);

/* ---- what can be asked of it -------------------------------------------------------------
 * Each `done` is called exactly once, later, never inside the call; if the call itself returns an error (text in
 * `err`), never. `text` is one line that says what to do; empty when error is 0. Messages are copied. */

/* error 0: applied at `index`. A refusal has the code and the text of the state machine. DROVER_ENOLEADER and
 * DROVER_ETIMEDOUT2: not known whether it will be applied yet. From any host: goes to the leader. at_unix_ms is set there. */
typedef void (*agent_proposed)(void *owner, int error, const char *text, uint64_t index,
                               uint64_t result_id);
int agent_propose(struct agent *agent, const Drover__Command *command, agent_proposed done, void *owner,
                  struct error *err);

/* Sends an API request to the leader (waits for one a while), where api_forwarded() answers it. `body` is borrowed
 * for the call. error != 0: no answer (status and body are 0 then). */
struct agent_forward_request {
    const char *method, *path; /* path with its query */
    const char *role;          /* already judged here: "viewer", "operator", "admin" */
    const void *body;
    size_t body_size;
};
typedef void (*agent_forwarded)(void *owner, int error, const char *text, unsigned status,
                                const void *body, size_t size);
int agent_forward(struct agent *agent, const struct agent_forward_request *request,
                  agent_forwarded done, void *owner, struct error *err);

/* Makes a cluster with this host as its first; only in AGENT_PHASE_ALONE. name NULL: the configured one; lease_ms 0: default. */
typedef void (*agent_done)(void *owner, int error, const char *text);
int agent_cluster_init(struct agent *agent, const char *name, uint32_t lease_ms, agent_done done,
                       void *owner, struct error *err);
/* Joins the cluster that made `token`; only in AGENT_PHASE_ALONE. name NULL: the configured one. */
int agent_cluster_join(struct agent *agent, const char *token, const char *name, bool witness,
                       agent_done done, void *owner, struct error *err);
/* A new one-time token, valid for `valid_s` seconds (0: one hour). From any member. `token` is its text, NULL on error. */
typedef void (*agent_token_made)(void *owner, int error, const char *text, const char *token,
                                 uint64_t expires_unix_ms);
int agent_token_create(struct agent *agent, uint32_t valid_s, agent_token_made done, void *owner,
                       struct error *err);
/* Takes a host out of the cluster (refused while it owns VMs); leader only: forward it there. Done when the state and raft have dropped it. */
int agent_host_remove(struct agent *agent, uint64_t host_id, agent_done done, void *owner,
                      struct error *err);

/* ---- what the agent asks of the API (node-agent/api.h) -------------------------------------
 * api_create(agent, ...) and api_start() at the agent's start; api_close() at its end;
 * api_phase_changed(api) when agent_phase() or who leads changes (TLS comes up with AGENT_PHASE_MEMBER);
 * api_state_changed(api) after commands were applied (events --follow, waiting requests);
 * api_forwarded(api, method, path, role, body, size, reply(reply_owner, status, body, size), reply_owner). */

#endif
