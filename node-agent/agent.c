/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's life: its start in one written order, its end in the reverse one. */
#include "node-agent/agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "consensus/cluster_state.h"
#include "node-agent/agent_private.h"

const char *agent_phase_text(enum agent_phase phase)
{
    static const char *const texts[] = {
        [AGENT_PHASE_ALONE] = "alone",
        [AGENT_PHASE_FORMING] = "forming",
        [AGENT_PHASE_MEMBER] = "member",
        [AGENT_PHASE_FAILED] = "failed",
    };
    return texts[phase];
}

int agent_create(uv_loop_t *loop, const struct agent_config *config,
                 const struct log *log, struct agent **ret_agent, struct error *err)
{
    struct agent *agent = calloc(1, sizeof(*agent));
    if (agent == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    agent->loop = loop;
    agent->config = config;
    agent->log = log;
    agent->dir.lock_fd = -1;
    agent->run_lock_fd = -1;
    int rv = cluster_state_create(&agent->empty_state);
    if (rv != 0) {
        free(agent);
        return error_set(err, rv, "out of memory");
    }
    *ret_agent = agent;
    return 0;
}

void agent_free(struct agent *agent)
{
    if (agent == NULL) {
        return;
    }
    CHECK(agent->member == NULL && agent->join == NULL);
    if (agent->identity != NULL) {
        drover__host_identity__free_unpacked(agent->identity, NULL);
    }
    api_free(agent->api);
    cluster_state_free(agent->empty_state);
    state_dir_close(&agent->dir);
    if (agent->run_lock_fd >= 0) {
        (void)close(agent->run_lock_fd); /* gives the lock up */
    }
    free(agent);
}

/* ---- start ---- */

/* Locked before the API's socket is made anew in it, and its VMMs are taken over. */
static int open_run_dir(struct agent *agent, struct error *err)
{
    const char *path = agent->config->run_dir;
    if (mkdir(path, 0755) != 0 && errno != EEXIST) {
        int code = -errno;
        return error_set(
            err, code,
            "%s: can't be made: %s: run droverd as root or give another --run-dir", path,
            strerror(-code));
    }
    return state_dir_lock(path, "droverd.lock", "--run-dir", &agent->run_lock_fd, err);
}

static int start_api(struct agent *agent, struct error *err)
{
    char path[LIMIT_PATH_SIZE + 16];
    (void)snprintf(path, sizeof(path), "%s/api.sock", agent->config->run_dir);
    struct api_config config = {.loop = agent->loop,
                                .socket_path = path,
                                .backend = agent_api_backend(),
                                .owner = agent};
    return api_create(&config, &agent->api, err);
}

/* With what is on disk: nothing yet, a cluster whose making was cut short, or a member.
 */
static int start_member(struct agent *agent, struct error *err)
{
    int rv = state_dir_load_identity(&agent->dir, &agent->identity, err);
    if (rv == -ENOENT) {
        err->code = 0;
        err->text[0] = '\0';
        agent->phase = AGENT_PHASE_ALONE;
        log_notice(agent->log, "this host is in no cluster yet: 'drover cluster init' "
                               "makes one, 'drover cluster join TOKEN' joins one");
        return 0;
    }
    if (rv != 0) {
        return rv;
    }
    char ca_key[LIMIT_PATH_SIZE + 32];
    (void)snprintf(ca_key, sizeof(ca_key), "%s/" STATE_DIR_CA_KEY, agent->dir.path);
    bool half_made = access(ca_key, F_OK) == 0;
    agent->phase = AGENT_PHASE_MEMBER;
    rv = agent_member_start(agent, half_made, err);
    if (rv != 0) {
        agent_member_fail(
            agent, err->text); /* and is tried again: a full disk may have room later */
        return 0;
    }
    agent_api_listen(agent);
    return 0;
}

int agent_start(struct agent *agent, struct error *err)
{
    int rv = id_boot_text(agent->boot_id);
    if (rv != 0) {
        return error_set(err, rv, "the host's boot id can't be read: %s", err_text(rv));
    }
    rv = state_dir_open(agent->config->state_dir, &agent->dir, err);
    rv = rv != 0 ? rv : open_run_dir(agent, err);
    if (rv != 0) {
        return rv;
    }
    agent_turn_start(agent);
    rv = start_api(agent, err);
    return rv != 0 ? rv : start_member(agent, err);
}

/* ---- end ---- */

static void on_turn_closed(uv_handle_t *handle)
{
    struct agent *agent = handle->data;
    agent_deferred_drop(agent);
    agent->closed(agent->closed_owner);
}

static void on_api_closed(void *owner)
{
    struct agent *agent = owner;
    uv_close((uv_handle_t *)&agent->turn, on_turn_closed);
}

static void close_api(struct agent *agent)
{
    if (agent->api != NULL) {
        api_close(agent->api, on_api_closed, agent);
    } else {
        on_api_closed(agent);
    }
}

/* The API goes last: until then each of its requests gets its answer. */
void agent_close(struct agent *agent, void (*closed)(void *owner), void *owner)
{
    CHECK(agent->closed == NULL);
    agent->closed = closed;
    agent->closed_owner = owner;
    agent_waiter_end(&agent->forming, DROVER_ECANCELLED, "droverd is stopping", 0);
    agent_waiter_end(&agent->removal, DROVER_ECANCELLED, "droverd is stopping", 0);
    if (agent->join != NULL) {
        join_client_cancel(agent->join);
    }
    if (agent->member != NULL) {
        agent_member_stop(agent, close_api);
    } else {
        close_api(agent);
    }
}
