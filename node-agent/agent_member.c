/* SPDX-License-Identifier: Apache-2.0 */
/* What exists while this host is in a cluster: made in one written order, unmade as a
 * whole. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "node-agent/agent_private.h"

static void member_free(struct agent_member *member)
{
    if (member == NULL) {
        return;
    }
    propose_free(member->propose);
    host_core_free(member->core);
    controller_free(member->controller);
    vmm_supervisor_free(member->supervisor);
    keeper_client_free(member->keeper);
    join_server_free(member->joins);
    peers_free(member->peers);
    moves_free(member->moves);
    raft_node_free(member->raft);
    raft_transport_free(member->transport);
    tls_context_free(member->tls);
    cluster_state_free(member->state);
    free(member);
}

/* ---- unmaking ---- */

static void stopped(struct agent *agent)
{
    member_free(agent->member);
    agent->member = NULL;
    agent->state_changed = true;
    void (*then)(struct agent *) = agent->member_stopped;
    agent->member_stopped = NULL;
    if (agent->retire) {
        agent->retire = false;
        struct error err = {0};
        if (state_dir_retire(&agent->dir, &err) != 0) {
            log_error(agent->log, "%s", err.text);
        }
        drover__host_identity__free_unpacked(agent->identity, NULL);
        agent->identity = NULL;
        agent->phase = AGENT_PHASE_ALONE;
    }
    if (then != NULL) {
        then(agent);
    }
    agent_wake(agent);
}

static void part_closed(void *owner)
{
    struct agent *agent = owner;
    CHECK(agent->member->closing > 0);
    if (--agent->member->closing == 0) {
        agent->member->closing = 1; /* stays unusable until it is freed */
        stopped(agent);
    }
}

static void raft_closed(void *owner)
{
    struct agent *agent = owner;
    if (agent->member->transport != NULL) {
        raft_transport_close(agent->member->transport, part_closed, agent);
    } else {
        part_closed(agent);
    }
}

void agent_member_stop(struct agent *agent, void (*then)(struct agent *agent))
{
    struct agent_member *member = agent->member;
    CHECK(member != NULL);
    if (then != NULL) {
        agent->member_stopped = then;
    }
    if (member->closing > 0) {
        return;
    }
    member->closing = 1;
    if (member->leads) {
        member->leads = false;
        controller_follow(member->controller);
    }
    if (member->peers != NULL) {
        member->closing++;
        peers_close(member->peers, part_closed, agent);
    }
    if (member->moves != NULL) {
        member->closing++;
        agent_move_stop(agent, part_closed, agent);
    }
    if (member->joins != NULL) {
        member->closing++;
        join_server_close(member->joins, part_closed, agent);
    }
    if (member->supervisor != NULL) {
        member->closing++;
        vmm_supervisor_close(member->supervisor, part_closed, agent);
    }
    if (member->keeper != NULL) {
        member->closing++;
        keeper_client_close(member->keeper, part_closed, agent);
    }
    member->closing++;
    if (member->raft != NULL) {
        raft_node_close(member->raft, raft_closed, agent);
    } else {
        raft_closed(agent);
    }
    part_closed(agent);
}

/* ---- failing ---- */

struct stop_later {
    struct agent_deferred deferred;
};

static void run_stop(struct agent *agent, struct agent_deferred *deferred)
{
    free(deferred);
    if (agent->member != NULL) {
        agent_member_stop(agent, NULL);
    }
}

void agent_member_fail(struct agent *agent, const char *text)
{
    if (agent->member == NULL || agent->member->closing > 0 || agent->retry_at_ms != 0) {
        return;
    }
    (void)snprintf(agent->failure, sizeof(agent->failure), "%s", text);
    log_error(agent->log, "this host can't go on, trying again in %u s err=%s",
              AGENT_RETRY_MS / 1000, agent->failure);
    agent->phase = AGENT_PHASE_FAILED;
    agent->retry_at_ms = clock_now_ms() + AGENT_RETRY_MS;
    agent->state_changed = true;
    /* It may come from inside a decision: nothing is unmade under its feet. */
    struct stop_later *later = calloc(1, sizeof(*later));
    CHECK(later != NULL); /* no memory for this: the process is better off anew */
    later->deferred.run = run_stop;
    agent_defer(agent, &later->deferred);
}

/* ---- making ---- */

static int make_decisions(struct agent *agent, struct error *err)
{
    struct agent_member *member = agent->member;
    int rv = timing_from_lease(agent->identity->lease_ms, &member->timing, err);
    if (rv != 0) {
        return rv;
    }
    rv = cluster_state_create(&member->state);
    rv = rv != 0 ? rv
                 : controller_create(&member->timing, agent->identity->host_id,
                                     agent_controller_ops(), agent, &member->controller);
    rv = rv != 0 ? rv : propose_create(agent_propose_ops(), agent, &member->propose);
    rv = rv != 0 ? rv : join_server_create(agent_join_ops(), agent, &member->joins);
    rv = rv != 0 ? rv : id_random_text(member->incarnation);
    return rv == 0 ? 0 : error_set(err, rv, "droverd can't be set up: %s", err_text(rv));
}

static int make_connections(struct agent *agent, struct error *err)
{
    struct agent_member *member = agent->member;
    struct tls_files files = {.ca_path = agent->dir.ca_path,
                              .certificate_path = agent->dir.certificate_path,
                              .key_path = agent->dir.key_path};
    int rv = tls_context_create_member(&files, &member->tls, err);
    if (rv != 0) {
        return rv;
    }
    rv = agent_move_start(agent);
    if (rv != 0) {
        return error_set(err, rv, "droverd can't be set up: %s", err_text(rv));
    }
    struct raft_transport_config transport = {.loop = agent->loop,
                                              .context = member->tls,
                                              .self = &member->self,
                                              .open_ms = member->timing.peer_idle_ms,
                                              .ack_ms = member->timing.peer_idle_ms};
    return raft_transport_create(&transport, &member->transport, err);
}

static int make_raft(struct agent *agent, bool bootstrap, struct error *err)
{
    struct agent_member *member = agent->member;
    int rv = state_dir_make_raft(&agent->dir, err);
    if (rv != 0) {
        return rv;
    }
    struct raft_node_config config;
    agent_raft_config(agent, &config);
    rv = raft_node_create(&config, &member->raft, err);
    if (rv == 0 && bootstrap) {
        rv = raft_node_bootstrap(member->raft, err);
        rv = rv == DROVER_EEXISTS ? 0 : rv; /* a former try got so far */
    }
    return rv;
}

/* Where the others reach this host; on all addresses when that is a name. */
static int listen_address(const char *configured, const char *address,
                          char ret_listen[LIMIT_ADDRESS_SIZE], struct error *err)
{
    char host[LIMIT_ADDRESS_SIZE];
    unsigned port = 0;
    struct in6_addr ip;
    int rv = config_split_address(configured[0] != '\0' ? configured : address,
                                  CONFIG_PEER_PORT_DEFAULT, host, &port, err);
    if (rv != 0) {
        return rv;
    }
    bool literal =
        inet_pton(AF_INET, host, &ip) == 1 || inet_pton(AF_INET6, host, &ip) == 1;
    return config_join_address(literal ? host : "0.0.0.0", port, ret_listen,
                               LIMIT_ADDRESS_SIZE);
}

/* getaddrinfo() may wait for a name server: only done while this host has nothing to run.
 */
static int check_resolves(const char *host, struct error *err)
{
    struct in6_addr ip;
    if (inet_pton(AF_INET, host, &ip) == 1 || inet_pton(AF_INET6, host, &ip) == 1) {
        return 0;
    }
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    bool number =
        strspn(host, "0123456789.") == strlen(host); /* 10.1 is 10.0.0.1 there */
    if (number || getaddrinfo(host, NULL, &hints, &found) != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "address: '%.100s' is no IP address and no name that this host "
                         "can look up: correct --address",
                         host);
    }
    freeaddrinfo(found);
    return 0;
}

static int check_binds(const char *listen, struct error *err)
{
    char host[LIMIT_ADDRESS_SIZE];
    char service[8];
    unsigned port = 0;
    int rv = config_split_address(listen, CONFIG_PEER_PORT_DEFAULT, host, &port, err);
    if (rv != 0) {
        return rv;
    }
    (void)snprintf(service, sizeof(service), "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host, service, &hints, &found) != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "can't listen at '%s': give an IP address with --listen",
                         listen);
    }
    CLEANUP(cleanup_fd)
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) != 0) {
        rv = -errno;
    }
    freeaddrinfo(found);
    if (rv == -EADDRINUSE) {
        return error_set(err, rv,
                         "can't listen at %s: another program does (another droverd?)",
                         listen);
    }
    return rv == 0 ? 0
                   : error_set(err, rv,
                               "can't listen at %s: %s: is it an address of this host?",
                               listen, strerror(-rv));
}

int agent_member_check_address(const struct agent *agent, const char *address,
                               struct error *err)
{
    char host[LIMIT_ADDRESS_SIZE];
    char listen[LIMIT_ADDRESS_SIZE];
    unsigned port = 0;
    int rv = config_split_address(address, CONFIG_PEER_PORT_DEFAULT, host, &port, err);
    rv = rv != 0 ? rv : check_resolves(host, err);
    rv = rv != 0 ? rv : listen_address(agent->config->listen, address, listen, err);
    return rv != 0 ? rv : check_binds(listen, err);
}

static int listen_to_peers(struct agent *agent, struct error *err)
{
    struct agent_member *member = agent->member;
    char listen[LIMIT_ADDRESS_SIZE];
    int rv = listen_address(agent->config->listen, agent->identity->address, listen, err);
    if (rv != 0) {
        return rv;
    }
    struct peers_config config = {
        .loop = agent->loop,
        .context = member->tls,
        .self = &member->self,
        .listen = listen,
        .open_ms = member->timing.peer_idle_ms,
        .idle_ms = member->timing.peer_idle_ms,
        .redial_ms_max = member->timing.renew_ms,
        .ops = agent_peers_ops(),
        .owner = agent,
    };
    return peers_create(&config, &member->peers, err);
}

int agent_member_start(struct agent *agent, bool bootstrap, struct error *err)
{
    CHECK(agent->member == NULL && agent->identity != NULL);
    struct agent_member *member = calloc(1, sizeof(*member));
    if (member == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    agent->member = member;
    agent->retry_at_ms = 0;
    int rv = make_decisions(agent, err);
    member->self = (struct peer_self){.cluster_id = agent->identity->cluster_id,
                                      .host_id = agent->identity->host_id,
                                      .boot_id = agent->boot_id,
                                      .incarnation = member->incarnation,
                                      .address = agent->identity->address};
    rv = rv != 0 ? rv : make_connections(agent, err);
    rv = rv != 0 ? rv : make_raft(agent, bootstrap, err);
    /* From here on others may reach this host; nothing is answered before raft has loaded
     * its log. */
    rv = rv != 0 ? rv : raft_node_start(member->raft, err);
    rv = rv != 0 ? rv : listen_to_peers(agent, err);
    rv = rv != 0 ? rv : agent_host_start(agent, err);
    if (rv != 0) {
        return rv; /* the caller unmakes what there is: agent_member_stop() */
    }
    agent->failure[0] = '\0';
    log_notice(agent->log,
               "member of cluster=%s as host=%" PRIu64 " name=%s address=%s lease_ms=%u",
               agent->identity->cluster_id, agent->identity->host_id,
               agent->identity->name, agent->identity->address, member->timing.lease_ms);
    agent_wake(agent);
    return 0;
}
