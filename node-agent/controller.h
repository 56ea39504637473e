/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the leader decides: leases (granted only after a majority confirmed, in a round
 * that began after the request came, that it knows no later term), who is proven dead,
 * where VMs go. Pure: the world is `ops`, time is an argument (CLOCK_BOOTTIME ms), the
 * replicated state is read-only. Used by droverd and by the simulation alike. One thread.
 */
#ifndef DROVER_NODE_AGENT_CONTROLLER_H
#define DROVER_NODE_AGENT_CONTROLLER_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/peer.pb-c.h"

struct cluster_state;
struct controller;
struct timing;

/* Called from inside controller_*(); must not call back into it. All messages are
 * borrowed. */
struct controller_ops {
    /* To raft. Its end comes by controller_proposal_done() with the same id, later. */
    void (*propose)(void *owner, uint64_t proposal_id, const Drover__Command *command);
    void (*send_confirm)(void *owner, uint64_t host_id,
                         const Drover__ConfirmRequest *request);
    void (*send_lease_reply)(void *owner, uint64_t host_id,
                             const Drover__LeaseReply *reply);
    /* The ids of raft's voters now; returns how many. */
    unsigned (*voters)(void *owner, uint64_t *ret_ids, unsigned size);
    /* Worth a log line, not a decision. */
    void (*note)(void *owner, const char *text);
};

int controller_create(const struct timing *timing, uint64_t own_host_id,
                      const struct controller_ops *ops, void *owner,
                      struct controller **ret_controller);
void controller_free(struct controller *controller);

/* This host leads `term` and has applied a barrier of that term. Everything known from
 * before is forgotten; no host is called dead before a whole lease, its watchdog and the
 * margin have passed from now. */
void controller_lead(struct controller *controller, uint64_t term, uint64_t now_ms);
/* It does not lead any more (or not yet again): nothing is granted or proposed from now
 * on. */
void controller_follow(struct controller *controller);
bool controller_leads(const struct controller *controller);

/* From a host (this one too), its identity checked against its certificate. */
void controller_lease_request(struct controller *controller,
                              const struct cluster_state *state,
                              const Drover__LeaseRequest *request, uint64_t now_ms);
void controller_confirm_reply(struct controller *controller,
                              const struct cluster_state *state,
                              const Drover__ConfirmReply *reply, uint64_t now_ms);
void controller_proposal_done(struct controller *controller, uint64_t proposal_id,
                              int error, uint64_t now_ms);
/* After each applied command, and at the latest when the last call said so. Returns ms
 * until it wants to be called again. */
uint32_t controller_tick(struct controller *controller, const struct cluster_state *state,
                         uint64_t now_ms);

/* For `list` and `show`: last report of a VM by a host (NULL: none), who reported it, and
 * when. */
const Drover__VmStatus *controller_observed(const struct controller *controller,
                                            uint64_t vm_id, uint64_t *ret_host_id,
                                            uint64_t *ret_at_ms);
/* A host's lease is current as far as the leader knows: it may be given VMs. */
bool controller_host_usable(const struct controller *controller, uint64_t host_id,
                            uint64_t now_ms);
/* ms since the host was heard of in this term; UINT64_MAX: not yet. */
uint64_t controller_host_silent_ms(const struct controller *controller, uint64_t host_id,
                                   uint64_t now_ms);

#endif
