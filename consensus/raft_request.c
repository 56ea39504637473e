/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent asks of raft: propose, barrier, changes of the voters, transfer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "consensus/raft_private.h"

static struct raft_request *request_create(struct raft_node *node,
                                           enum raft_request_kind kind,
                                           raft_node_done done, void *owner)
{
    struct raft_request *request = calloc(1, sizeof(*request));
    if (request == NULL) {
        return NULL;
    }
    request->node = node;
    request->kind = kind;
    request->done = done;
    request->owner = owner;
    /* At the end, so that they are answered in the order in which they were made. */
    struct raft_request **at = &node->requests;
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = request;
    return request;
}

static void request_free(struct raft_request *request)
{
    struct raft_request **at = &request->node->requests;
    while (*at != request) {
        CHECK(*at != NULL);
        at = &(*at)->next;
    }
    *at = request->next;
    free(request->address);
    free(request);
}

/* Told in the loop's next phase, at the latest after libraft's next tick. */
static void answer(struct raft_request *request, int error)
{
    CHECK(!request->answered);
    request->answered = true;
    request->error = error;
}

void raft_request_tell(struct raft_node *node)
{
    for (;;) {
        struct raft_request *request = node->requests;
        while (request != NULL && !request->answered) {
            request = request->next;
        }
        if (request == NULL) {
            return;
        }
        raft_node_done done = request->done;
        void *owner = request->owner;
        int error = request->error;
        struct apply_result result = request->result;
        bool proposed = request->kind == RAFT_REQUEST_PROPOSE;
        uint64_t index = proposed                                ? request->apply.index
                         : request->kind == RAFT_REQUEST_BARRIER ? request->barrier.index
                                                                 : 0;
        request_free(request);
        done(owner, error, index, proposed && error == 0 ? &result : NULL);
    }
}

static bool may_ask(const struct raft_node *node)
{
    return node->started && !node->halted && !node->raft_closing &&
           raft_state((struct raft *)(uintptr_t)&node->raft) == RAFT_LEADER;
}

/* ---- commands and barriers --------------------------------------------------------- */

void raft_request_applied(struct raft_node *node, uint64_t index,
                          const struct apply_result *result)
{
    for (struct raft_request *at = node->requests; at != NULL; at = at->next) {
        if (at->kind == RAFT_REQUEST_PROPOSE && !at->answered &&
            at->apply.index == index) {
            at->result = *result;
            at->applied = true;
            return;
        }
    }
}

static void on_applied(struct raft_apply *apply, int status, void *result)
{
    struct raft_request *request = apply->data;
    int rv = raft_error_from(status);
    /* A halted node applies nothing: committed, but what came of it is not known here. */
    answer(request, rv == 0 && !request->applied ? DROVER_ETIMEDOUT2 : rv);
}

int raft_node_propose(struct raft_node *node, const void *data, size_t size,
                      raft_node_done done, void *owner)
{
    if (!may_ask(node)) {
        return DROVER_ENOTLEADER;
    }
    struct raft_buffer entry;
    int rv = raft_entry_encode(data, size, &entry);
    if (rv != 0) {
        return rv;
    }
    struct raft_request *request =
        request_create(node, RAFT_REQUEST_PROPOSE, done, owner);
    if (request == NULL) {
        raft_free(entry.base);
        return -ENOMEM;
    }
    request->apply.data = request;
    rv = raft_apply(&node->raft, &request->apply, &entry, 1, on_applied);
    if (rv != 0) {
        raft_free(entry.base);
        request_free(request);
    }
    return raft_error_from(rv);
}

static void on_barrier(struct raft_barrier *barrier, int status)
{
    struct raft_request *request = barrier->data;
    int rv = raft_error_from(status);
    answer(request, rv == 0 && request->node->halted ? DROVER_ECANCELLED : rv);
}

int raft_node_barrier(struct raft_node *node, raft_node_done done, void *owner)
{
    if (!may_ask(node)) {
        return DROVER_ENOTLEADER;
    }
    struct raft_request *request =
        request_create(node, RAFT_REQUEST_BARRIER, done, owner);
    if (request == NULL) {
        return -ENOMEM;
    }
    request->barrier.data = request;
    int rv = raft_barrier(&node->raft, &request->barrier, on_barrier);
    if (rv != 0) {
        request_free(request);
    }
    return raft_error_from(rv);
}

/* ---- changes of the configuration -------------------------------------------------- */

static const struct raft_server *find_server(const struct raft_node *node,
                                             uint64_t host_id)
{
    const struct raft_configuration *configuration = &node->raft.configuration;
    for (unsigned i = 0; i < configuration->n; i++) {
        if (configuration->servers[i].id == host_id) {
            return &configuration->servers[i];
        }
    }
    return NULL;
}

static void change_answer(struct raft_request *request, int error)
{
    request->node->changing = false;
    answer(request, error);
}

static int promote(struct raft_request *request);

static void on_changed(struct raft_change *change, int status)
{
    struct raft_request *request = change->data;
    int rv = raft_error_from(status);
    if (rv == 0 && request->kind == RAFT_REQUEST_ADD) {
        rv = promote(request);
        if (rv == 0) {
            return;
        }
    }
    change_answer(request, rv);
}

static int promote(struct raft_request *request)
{
    struct raft_node *node = request->node;
    if (!may_ask(node)) {
        return DROVER_ENOTLEADER;
    }
    request->kind = RAFT_REQUEST_PROMOTE;
    int rv = raft_assign(&node->raft, &request->change, request->host_id, RAFT_VOTER,
                         on_changed);
    if (rv != 0 && node->raft.legacy.change == &request->change) {
        node->raft.legacy.change =
            NULL; /* libraft 0.22 leaves it behind when it refuses */
    }
    return raft_error_from(rv);
}

static struct raft_request *change_create(struct raft_node *node,
                                          enum raft_request_kind kind, uint64_t host_id,
                                          raft_node_done done, void *owner,
                                          int *ret_error)
{
    if (!may_ask(node)) {
        *ret_error = DROVER_ENOTLEADER;
        return NULL;
    }
    if (node->changing) {
        *ret_error = -EBUSY;
        return NULL;
    }
    struct raft_request *request = request_create(node, kind, done, owner);
    if (request == NULL) {
        *ret_error = -ENOMEM;
        return NULL;
    }
    request->host_id = host_id;
    request->change.data = request;
    node->changing = true;
    return request;
}

/* The end of raft_node_add_voter() and raft_node_remove(): `rv` is ours. */
static int change_started(struct raft_request *request, int rv)
{
    if (rv != 0) {
        request->node->changing = false;
        request_free(request);
    }
    return rv;
}

int raft_node_add_voter(struct raft_node *node, uint64_t host_id, const char *address,
                        raft_node_done done, void *owner)
{
    int rv = 0;
    struct raft_request *request =
        change_create(node, RAFT_REQUEST_ADD, host_id, done, owner, &rv);
    if (request == NULL) {
        return rv;
    }
    const struct raft_server *server = find_server(node, host_id);
    if (server != NULL && server->role == RAFT_VOTER) {
        change_answer(request, 0);
        return 0;
    }
    if (server != NULL) {
        return change_started(request,
                              promote(request)); /* an earlier try had come so far */
    }
    rv = raft_add(&node->raft, &request->change, host_id, address, on_changed);
    return change_started(request, raft_error_from(rv));
}

int raft_node_remove(struct raft_node *node, uint64_t host_id, raft_node_done done,
                     void *owner)
{
    int rv = 0;
    struct raft_request *request =
        change_create(node, RAFT_REQUEST_REMOVE, host_id, done, owner, &rv);
    if (request == NULL) {
        return rv;
    }
    if (find_server(node, host_id) == NULL) {
        change_answer(request, 0);
        return 0;
    }
    rv = raft_remove(&node->raft, &request->change, host_id, on_changed);
    return change_started(request, raft_error_from(rv));
}

/* ---- transfer ---------------------------------------------------------------------- */

static void on_transferred(struct raft_transfer *transfer)
{
    struct raft_request *request = transfer->data;
    raft_id leader_id = 0;
    const char *address;
    raft_leader(&request->node->raft, &leader_id, &address);
    answer(request, leader_id == transfer->id ? 0 : DROVER_ETIMEDOUT2);
}

int raft_node_transfer(struct raft_node *node, uint64_t host_id, raft_node_done done,
                       void *owner)
{
    if (!may_ask(node)) {
        return DROVER_ENOTLEADER;
    }
    struct raft_request *request =
        request_create(node, RAFT_REQUEST_TRANSFER, done, owner);
    if (request == NULL) {
        return -ENOMEM;
    }
    request->transfer.data = request;
    int rv = raft_transfer(&node->raft, &request->transfer, host_id, on_transferred);
    if (rv != 0) {
        request_free(request);
    }
    return raft_error_from(rv);
}
