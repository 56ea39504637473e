/* SPDX-License-Identifier: Apache-2.0 */
/* How raft stands, in our words. */
#include <errno.h>

#include "consensus/raft_private.h"

int raft_error_from(int status)
{
    switch (status) {
    case 0:
        return 0;
    case RAFT_NOMEM:
        return -ENOMEM;
    case RAFT_NOTLEADER:
    case RAFT_LEADERSHIPLOST:
        return DROVER_ENOTLEADER;
    case RAFT_CANTCHANGE:
    case RAFT_BUSY:
        return -EBUSY;
    case RAFT_NOSPACE:
        return DROVER_ENOSPACE;
    case RAFT_CANCELED:
    case RAFT_SHUTDOWN:
        return DROVER_ECANCELLED;
    case RAFT_NOCONNECTION:
        return DROVER_ETIMEDOUT2;
    case RAFT_DUPLICATEID:
    case RAFT_DUPLICATEADDRESS:
    case RAFT_CANTBOOTSTRAP:
        return DROVER_EEXISTS;
    case RAFT_BADID:
    case RAFT_NOTFOUND:
        return DROVER_ENOTFOUND;
    case RAFT_TOOBIG:
    case RAFT_TOOMANY:
    case RAFT_NAMETOOLONG:
        return DROVER_ELIMIT;
    case RAFT_CORRUPT:
    case RAFT_MALFORMED:
        return DROVER_EMALFORMED;
    default:
        return -EIO;
    }
}

/* libraft's getters lack the const. */
static struct raft *raft_of(const struct raft_node *node)
{
    return (struct raft *)(uintptr_t)&node->raft;
}

static bool is_live(const struct raft_node *node)
{
    return node->started && !node->halted && !node->raft_closing;
}

enum raft_node_role raft_node_role(const struct raft_node *node)
{
    if (!is_live(node)) {
        return RAFT_NODE_ROLE_UNAVAILABLE;
    }
    switch (raft_state(raft_of(node))) {
    case RAFT_FOLLOWER:
        return RAFT_NODE_ROLE_FOLLOWER;
    case RAFT_CANDIDATE:
        return RAFT_NODE_ROLE_CANDIDATE;
    case RAFT_LEADER:
        return RAFT_NODE_ROLE_LEADER;
    default:
        return RAFT_NODE_ROLE_UNAVAILABLE;
    }
}

uint64_t raft_node_term(const struct raft_node *node)
{
    return raft_current_term(&node->raft);
}

uint64_t raft_node_leader(const struct raft_node *node, const char **ret_address)
{
    raft_id id = 0;
    const char *address = NULL;
    if (is_live(node)) {
        raft_leader(raft_of(node), &id, &address);
    }
    if (ret_address != NULL) {
        *ret_address = id != 0 ? address : NULL;
    }
    return id;
}

unsigned raft_node_voters(const struct raft_node *node, uint64_t *ret_ids, unsigned size)
{
    const struct raft_configuration *configuration = &node->raft.configuration;
    unsigned count = 0;
    for (unsigned i = 0; !node->raft_closed && i < configuration->n; i++) {
        if (configuration->servers[i].role == RAFT_VOTER) {
            if (count < size) {
                ret_ids[count] = configuration->servers[i].id;
            }
            count++;
        }
    }
    return count;
}
