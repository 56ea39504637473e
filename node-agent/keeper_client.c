/* SPDX-License-Identifier: Apache-2.0 */
/* droverd's side of the watchdog's keeper: finds it or starts it, and tells it the lease.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "node-agent/frame_link.h"
#include "node-agent/keeper.h"
#include "node-agent/vmm_folder.h"
#include "node-agent/vmm_process.h"
#include "proto/run.pb-c.h"

#define RETRY_MS 20
#define START_AGAIN_MS                                                                   \
    300 /* less than any watchdog: one too many ends by itself, by the lock */
#define RELEASE_MS        5000
#define FRAME_LIMIT_BYTES 65536
#define KEEPER_TEXT_SIZE  400

struct keeper_client {
    uv_loop_t *loop;
    uv_timer_t timer;
    struct frame_link *link;
    bool connected; /* and its status has come */
    char run_directory[VMM_FOLDER_SOCKET_SIZE];
    char device[LIMIT_PATH_SIZE];
    char program[LIMIT_PATH_SIZE];
    uint32_t watchdog_ms;
    uint64_t deadline_ns;
    uint64_t started_ms; /* when a keeper was last started; 0: never */
    int pidfd;           /* of the last one that we started; -1 */
    const struct keeper_client_ops *ops;
    void *owner;
    void (*released)(void *owner, int error, const char *text);
    void *release_owner;
    uint64_t release_until_ms;
    bool gone_is_well; /* it was released: no new one */
    void (*closed)(void *owner);
    void *closed_owner;
};

static void on_timer(uv_timer_t *timer);

static void arm(struct keeper_client *client, uint64_t wait_ms)
{
    uv_update_time(client->loop);
    int rv = uv_timer_start(&client->timer, on_timer, wait_ms, 0);
    CHECK(rv == 0);
}

/* ---- sending
 * ------------------------------------------------------------------------------------ */

static void transmit(struct keeper_client *client, const Drover__KeeperRequest *request)
{
    uint8_t packed[64];
    size_t size = drover__keeper_request__pack(request, packed);
    /* Not sent: the lease is told again with its next extension. */
    (void)frame_link_send(client->link, packed, size);
}

static void send_lease(struct keeper_client *client)
{
    Drover__KeeperRequest request = DROVER__KEEPER_REQUEST__INIT;
    Drover__KeeperLease lease = DROVER__KEEPER_LEASE__INIT;
    lease.deadline_ns = client->deadline_ns;
    request.what_case = DROVER__KEEPER_REQUEST__WHAT_LEASE;
    request.lease = &lease;
    transmit(client, &request);
}

/* ---- the connection
 * ------------------------------------------------------------------------------ */

static void release_done(struct keeper_client *client, int error, const char *text)
{
    void (*released)(void *owner, int error, const char *text) = client->released;
    client->released = NULL;
    released(client->release_owner, error, text);
}

static void drop(struct keeper_client *client)
{
    bool was_connected = client->connected;
    frame_link_close(client->link);
    client->link = NULL;
    client->connected = false;
    if (client->gone_is_well) {
        return;
    }
    arm(client, RETRY_MS);
    if (was_connected) {
        client->ops->lost(client->owner,
                          "the watchdog's keeper has ended, or cut the connection");
    }
}

static bool link_take(void *owner, const uint8_t *payload, size_t size)
{
    struct keeper_client *client = owner;
    char text[KEEPER_TEXT_SIZE];
    Drover__KeeperStatus *status = drover__keeper_status__unpack(NULL, size, payload);
    if (status == NULL) {
        return false;
    }
    (void)snprintf(text, sizeof(text), "%s", status->text);
    uint32_t watchdog_ms = status->watchdog_ms;
    int error = status->error;
    bool answer = status->release_answer;
    drover__keeper_status__free_unpacked(status, NULL);
    if (answer) {
        client->gone_is_well = error == 0;
        if (client->released != NULL) {
            release_done(client, error, text);
        }
        return true;
    }
    if (!client->connected) {
        client->connected = true;
        if (client->deadline_ns != 0) {
            send_lease(client);
        }
        client->ops->ready(client->owner, watchdog_ms, text);
    }
    return true;
}

/* ---- a new keeper
 * -------------------------------------------------------------------------------- */

static void start_keeper(struct keeper_client *client)
{
    char log_path[VMM_FOLDER_PATH_SIZE];
    char watchdog[16];
    char ended[64];
    char text[ERROR_TEXT_SIZE + 64];
    struct error err = {0};
    int pid = 0;
    static char option[] = "--keeper";
    if (client->pidfd >= 0) {
        vmm_process_reap(client->pidfd, ended, sizeof(ended));
        (void)close(client->pidfd);
        client->pidfd = -1;
    }
    (void)snprintf(log_path, sizeof(log_path), "%s/keeper.log", client->run_directory);
    (void)snprintf(watchdog, sizeof(watchdog), "%u", client->watchdog_ms);
    char *argv[] = {client->program, option,   client->run_directory,
                    client->device,  watchdog, NULL};
    client->started_ms = clock_now_ms();
    int rv = vmm_process_spawn(argv, -1, log_path, &pid, &client->pidfd, &err);
    if (rv != 0) {
        client->pidfd = -1;
        (void)snprintf(text, sizeof(text), "the watchdog's keeper can't be started: %s",
                       err.text);
        client->ops->lost(client->owner, text);
    }
}

static void link_connected(void *owner)
{
    (void)owner; /* its status comes by itself */
}

static void link_ended(void *owner, enum frame_link_end end)
{
    struct keeper_client *client = owner;
    drop(client);
    bool due =
        client->started_ms == 0 || clock_now_ms() >= client->started_ms + START_AGAIN_MS;
    if (end == FRAME_LINK_UNREACHED && due && client->closed == NULL) {
        start_keeper(client);
    }
}

static void try_connect(struct keeper_client *client)
{
    static const struct frame_link_ops ops = {
        .connected = link_connected, .take = link_take, .ended = link_ended};
    char path[VMM_FOLDER_SOCKET_SIZE + 16];
    (void)snprintf(path, sizeof(path), "%s/keeper.sock", client->run_directory);
    const struct frame_link_config config = {.loop = client->loop,
                                             .path = path,
                                             .limit_bytes = FRAME_LIMIT_BYTES,
                                             .ops = &ops,
                                             .owner = client};
    if (frame_link_open(&config, &client->link) < 0) {
        arm(client, RETRY_MS);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct keeper_client *client = timer->data;
    if (client->released != NULL) {
        uint64_t now_ms = clock_now_ms();
        if (!client->connected || now_ms >= client->release_until_ms) {
            release_done(client, DROVER_ETIMEDOUT2,
                         "the watchdog's keeper does not answer");
        } else {
            arm(client, client->release_until_ms - now_ms);
        }
        return;
    }
    if (client->link == NULL && !client->gone_is_well) {
        try_connect(client);
    }
}

/* ---- what droverd asks of it
 * --------------------------------------------------------------------- */

int keeper_client_create(const struct keeper_client_config *config,
                         struct keeper_client **ret_client, struct error *err)
{
    struct keeper_client *client = calloc(1, sizeof(*client));
    if (client == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    client->loop = config->loop;
    client->ops = config->ops;
    client->owner = config->owner;
    client->watchdog_ms = config->options.watchdog_ms;
    client->pidfd = -1;
    char own[LIMIT_PATH_SIZE];
    ssize_t length = readlink("/proc/self/exe", own, sizeof(own) - 1);
    own[length > 0 ? length : 0] = '\0';
    /* Replaced by an upgrade, it has no path any more, but still its link. */
    const char *self = access(own, X_OK) == 0 ? own : "/proc/self/exe";
    const char *program = config->program == NULL ? self : config->program;
    size_t room = sizeof(client->run_directory) - sizeof("/keeper.sock");
    if (strlen(config->options.run_directory) >= room ||
        strlen(config->options.device) >= sizeof(client->device) ||
        strlen(program) >= sizeof(client->program)) {
        free(client);
        return error_set(err, DROVER_ELIMIT,
                         "%s is too long: set a shorter run directory",
                         config->options.run_directory);
    }
    (void)snprintf(client->run_directory, sizeof(client->run_directory), "%s",
                   config->options.run_directory);
    (void)snprintf(client->device, sizeof(client->device), "%s", config->options.device);
    (void)snprintf(client->program, sizeof(client->program), "%s", program);
    int rv = uv_timer_init(client->loop, &client->timer);
    CHECK(rv == 0); /* libuv: always */
    client->timer.data = client;
    arm(client, 0);
    *ret_client = client;
    return 0;
}

void keeper_client_lease(struct keeper_client *client, uint64_t deadline_ns)
{
    CHECK(client->closed == NULL);
    if (deadline_ns <= client->deadline_ns) {
        return; /* a deadline never moves backwards */
    }
    client->deadline_ns = deadline_ns;
    if (client->connected) {
        send_lease(client);
    }
}

void keeper_client_release(struct keeper_client *client,
                           void (*done)(void *owner, int error, const char *text),
                           void *owner)
{
    CHECK(client->closed == NULL && client->released == NULL && done != NULL);
    client->released = done;
    client->release_owner = owner;
    client->release_until_ms = clock_now_ms() + RELEASE_MS;
    if (client->connected) {
        Drover__KeeperRequest request = DROVER__KEEPER_REQUEST__INIT;
        Drover__KeeperRelease release = DROVER__KEEPER_RELEASE__INIT;
        request.what_case = DROVER__KEEPER_REQUEST__WHAT_RELEASE;
        request.release = &release;
        transmit(client, &request);
    }
    arm(client, client->connected ? RELEASE_MS : 0);
}

static void timer_closed(uv_handle_t *handle)
{
    struct keeper_client *client = handle->data;
    client->closed(client->closed_owner);
}

void keeper_client_close(struct keeper_client *client, void (*closed)(void *owner),
                         void *owner)
{
    CHECK(client->closed == NULL && closed != NULL);
    frame_link_close(client->link);
    client->link = NULL;
    client->closed = closed;
    client->closed_owner = owner;
    uv_close((uv_handle_t *)&client->timer, timer_closed);
}

void keeper_client_free(struct keeper_client *client)
{
    if (client == NULL) {
        return;
    }
    if (client->pidfd >= 0) {
        (void)close(client->pidfd);
    }
    free(client);
}
