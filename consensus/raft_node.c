/* SPDX-License-Identifier: Apache-2.0 */
/* A raft server's life on the loop: create, start, tell, close. */
#include "consensus/raft_node.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "consensus/raft_private.h"

#define MIB          (UINT64_C(1) << 20)
#define DISK_MIB_MIN 32u /* libraft prepares two files of 8 MiB, and closes a third */
#define CAPACITY_KIB_MIN                                                                 \
    4096u /* libraft's own threshold: below it, it takes no entries */
#define SHORT_OF_DISK_MS           2000u
#define DISK_RETRY_MS              5000u /* raft_guard.c needs a good part of it */
#define SNAPSHOT_THRESHOLD_DEFAULT 1024u
/* Far more than a host falls behind by a restart: libraft 0.22.1 crashes on a snapshot
 * that comes while it takes its own. */
#define SNAPSHOT_TRAILING_DEFAULT 8192u

/* ---- telling ----------------------------------------------------------------------- */

void raft_node_halt(struct raft_node *node, int error, const char *format, ...)
{
    if (node->halted) {
        return;
    }
    node->halted = true;
    char text[ERROR_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments); /* cut is fine */
    va_end(arguments);
    (void)error_set(&node->failure, error, "%s", text);
}

static void on_raft_closed(struct raft *raft);

static void close_raft(struct raft_node *node)
{
    if (node->raft_initialized && !node->raft_closing) {
        node->raft_closing = true;
        raft_close(&node->raft, on_raft_closed);
        raft_guard_release(node);
    }
}

static void tell_failure(struct raft_node *node)
{
    if (!node->halted || node->failure_told) {
        return;
    }
    node->failure_told = true;
    close_raft(node);
    if (node->config.failed != NULL) {
        node->config.failed(node->config.owner, node->failure.code, node->failure.text);
    }
}

static uint64_t disk_free_mib(const char *directory)
{
    struct statvfs disk;
    if (statvfs(directory, &disk) != 0) {
        return 0;
    }
    return (uint64_t)disk.f_bavail * disk.f_frsize / MIB;
}

/* libraft tries again by itself for as long as it takes; people must hear of it. */
static void watch_disk(struct raft_node *node)
{
    if (!node->started || node->halted || node->raft_closing) {
        return;
    }
    uint64_t now_ms = uv_now(node->config.loop);
    if (node->io.capacity >= CAPACITY_KIB_MIN) {
        node->short_of_disk_since_ms = 0;
        node->short_of_disk_told = false;
        return;
    }
    if (node->short_of_disk_since_ms == 0) {
        node->short_of_disk_since_ms = now_ms;
    }
    if (node->short_of_disk_told ||
        now_ms - node->short_of_disk_since_ms < SHORT_OF_DISK_MS) {
        return;
    }
    node->short_of_disk_told = true;
    if (node->config.failed != NULL) {
        struct error err;
        uint64_t free_mib = disk_free_mib(node->config.directory);
        (void)error_set(
            &err, DROVER_ENOSPACE,
            "raft can't prepare files in %s (%llu MiB free there): free at least "
            "%u MiB; until then this host stores no more of the cluster's log",
            node->config.directory, (unsigned long long)free_mib, DISK_MIB_MIN);
        node->config.failed(node->config.owner, err.code, err.text);
    }
}

static void tell_changes(struct raft_node *node)
{
    enum raft_node_role role = raft_node_role(node);
    uint64_t term = raft_node_term(node);
    uint64_t leader_id = raft_node_leader(node, NULL);
    if (role == node->role && term == node->term && leader_id == node->leader_id) {
        return;
    }
    node->role = role;
    node->term = term;
    node->leader_id = leader_id;
    if (node->config.changed != NULL) {
        node->config.changed(node->config.owner);
    }
}

void raft_node_tell(struct raft_node *node)
{
    if (node->telling) {
        return;
    }
    node->telling = true;
    /* Any of the callbacks may close the node; what was asked is answered even then. */
    raft_fsm_tell_applied(node);
    if (!node->closing) {
        raft_guard_look(node);
        watch_disk(node);
    }
    if (!node->closing) {
        tell_failure(node);
    }
    raft_request_tell(node);
    if (!node->closing && node->started) {
        tell_changes(node);
    }
    node->telling = false;
}

static void on_prepare(uv_prepare_t *handle)
{
    raft_node_tell(handle->data);
}

static void on_check(uv_check_t *handle)
{
    raft_node_tell(handle->data);
}

/* ---- opening ----------------------------------------------------------------------- */

static int check_directory(const struct raft_node_config *config, struct error *err)
{
    struct stat directory;
    if (stat(config->directory, &directory) != 0) {
        return error_set(err, -errno,
                         "raft's folder %s: %s; make it, for root alone (mode 0700)",
                         config->directory, err_text(-errno));
    }
    if (!S_ISDIR(directory.st_mode)) {
        return error_set(err, -ENOTDIR, "%s is not a folder: name one for raft's files",
                         config->directory);
    }
    if (access(config->directory, R_OK | W_OK | X_OK) != 0) {
        return error_set(err, -errno,
                         "raft's folder %s can't be written to (%s): run droverd as "
                         "root, or mend its mode",
                         config->directory, err_text(-errno));
    }
    uint64_t free_mib = disk_free_mib(config->directory);
    if (free_mib < DISK_MIB_MIN) {
        return error_set(
            err, DROVER_ENOSPACE,
            "the disk of raft's folder %s has %llu MiB left: free at least %u MiB",
            config->directory, (unsigned long long)free_mib, DISK_MIB_MIN);
    }
    return 0;
}

static int lock_directory(struct raft_node *node, struct error *err)
{
    const char *directory = node->config.directory;
    char path[PATH_MAX];
    int length = snprintf(path, sizeof(path), "%s/lock", directory);
    if (length < 0 || (size_t)length >= sizeof(path)) {
        return error_set(err, -ENAMETOOLONG, "raft's folder %s: choose a shorter path",
                         directory);
    }
    node->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (node->lock_fd < 0) {
        return error_set(err, -errno, "%s: %s; mend the folder's mode", path,
                         err_text(-errno));
    }
    if (flock(node->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        return error_set(err, -errno,
                         "raft's folder %s is in use by another droverd: stop that "
                         "one first",
                         directory);
    }
    return 0;
}

static int open_raft(struct raft_node *node, struct error *err)
{
    const struct raft_node_config *config = &node->config;
    raft_transport_init(node);
    raft_fsm_init(node);
    int rv = raft_uv_init(&node->io, config->loop, config->directory, &node->transport);
    if (rv != 0) {
        return error_set(err, raft_error_from(rv), "raft's folder %s: %s",
                         config->directory, node->io.errmsg);
    }
    raft_guard_init(node);
    rv = raft_init(&node->raft, &node->io, &node->fsm, config->host_id, config->address);
    if (rv != 0) {
        raft_uv_close(&node->io);
        return error_set(
            err, raft_error_from(rv),
            "the files in raft's folder %s can't be used (%s): mend the disk, or "
            "move them away and join the cluster anew",
            config->directory, raft_errmsg(&node->raft));
    }
    node->raft_initialized = true;
    raft_guard_find_timers(node);
    raft_set_heartbeat_timeout(&node->raft, config->heartbeat_ms);
    raft_set_election_timeout(&node->raft, config->election_ms);
    raft_set_pre_vote(&node->raft, true);
    raft_set_snapshot_threshold(&node->raft, config->snapshot_threshold != 0
                                                 ? config->snapshot_threshold
                                                 : SNAPSHOT_THRESHOLD_DEFAULT);
    raft_set_snapshot_trailing(&node->raft, config->snapshot_trailing != 0
                                                ? config->snapshot_trailing
                                                : SNAPSHOT_TRAILING_DEFAULT);
    raft_uv_set_disk_retry(&node->io, DISK_RETRY_MS);
    raft_uv_set_connect_retry_delay(&node->io, config->election_ms / 2 + 1);
    return 0;
}

/* Frees what does not need the loop any more. */
static void release(struct raft_node *node)
{
    if (node->lock_fd >= 0) {
        (void)close(node->lock_fd); /* and with it the lock */
    }
    free((void *)(uintptr_t)node->config.directory);
    free((void *)(uintptr_t)node->config.address);
    free(node);
}

static void release_pointer(struct raft_node **node)
{
    if (*node != NULL) {
        release(*node);
    }
}

int raft_node_create(const struct raft_node_config *config, struct raft_node **ret_node,
                     struct error *err)
{
    CHECK(config->host_id != 0 && config->state != NULL && config->transport != NULL);
    CHECK(config->heartbeat_ms > 0 && config->heartbeat_ms < config->election_ms);
    CLEANUP(release_pointer) struct raft_node *node = calloc(1, sizeof(*node));
    if (node == NULL) {
        return error_set(err, -ENOMEM, "no memory for raft: free some on this host");
    }
    node->lock_fd = -1;
    node->config = *config;
    node->config.directory = strdup(config->directory);
    node->config.address = strdup(config->address);
    if (node->config.directory == NULL || node->config.address == NULL) {
        return error_set(err, -ENOMEM, "no memory for raft: free some on this host");
    }
    int rv = check_directory(config, err);
    if (rv == 0) {
        rv = lock_directory(node, err);
    }
    if (rv != 0) {
        return rv;
    }
    rv = open_raft(node, err);
    if (rv != 0) {
        return rv;
    }
    CHECK(uv_prepare_init(config->loop, &node->prepare) == 0); /* these two can't fail */
    CHECK(uv_check_init(config->loop, &node->check) == 0);
    node->prepare.data = node;
    node->check.data = node;
    node->handles_open = 2;
    *ret_node = TAKE(node);
    return 0;
}

int raft_node_bootstrap(struct raft_node *node, struct error *err)
{
    CHECK(!node->started);
    struct raft_configuration configuration;
    raft_configuration_init(&configuration);
    int rv = raft_configuration_add(&configuration, node->config.host_id,
                                    node->config.address, RAFT_VOTER);
    if (rv == 0) {
        rv = raft_bootstrap(&node->raft, &configuration);
    }
    raft_configuration_close(&configuration);
    if (rv == RAFT_CANTBOOTSTRAP) {
        return error_set(
            err, DROVER_EEXISTS,
            "raft's folder %s has a cluster already: start droverd with it, or move "
            "it away to begin anew",
            node->config.directory);
    }
    if (rv != 0) {
        return error_set(err, raft_error_from(rv),
                         "raft can't begin in %s (%s): mend the disk",
                         node->config.directory, node->io.errmsg);
    }
    return 0;
}

int raft_node_start(struct raft_node *node, struct error *err)
{
    CHECK(!node->started);
    /* Before libraft's own handles of these kinds: the loop calls the later ones
     * first. */
    CHECK(uv_prepare_start(&node->prepare, on_prepare) == 0);
    CHECK(uv_check_start(&node->check, on_check) == 0);
    int rv = raft_start(&node->raft);
    if (node->halted) {
        node->failure_told = true;
        return error_set(err, node->failure.code, "%s", node->failure.text);
    }
    if (rv != 0) {
        return error_set(
            err, raft_error_from(rv),
            "raft can't read its files in %s (%s): mend the disk, or move them away "
            "and join the cluster anew",
            node->config.directory, raft_errmsg(&node->raft));
    }
    node->started = true;
    return 0;
}

/* ---- closing ----------------------------------------------------------------------- */

static void maybe_closed(struct raft_node *node)
{
    if (!node->closing || !node->raft_closed || node->handles_open > 0) {
        return;
    }
    raft_request_tell(node);
    CHECK(node->requests == NULL);
    node->closed(node->closed_owner);
}

static void on_raft_closed(struct raft *raft)
{
    struct raft_node *node =
        (struct raft_node *)((char *)raft - offsetof(struct raft_node, raft));
    raft_uv_close(&node->io);
    node->raft_closed = true;
    maybe_closed(node);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct raft_node *node = handle->data;
    node->handles_open--;
    maybe_closed(node);
}

void raft_node_close(struct raft_node *node, void (*closed)(void *owner), void *owner)
{
    CHECK(!node->closing);
    node->closing = true;
    node->closed = closed;
    node->closed_owner = owner;
    uv_close((uv_handle_t *)&node->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&node->check, on_handle_closed);
    close_raft(node);
}

void raft_node_free(struct raft_node *node)
{
    if (node == NULL) {
        return;
    }
    CHECK(node->raft_closed && node->handles_open == 0 && node->requests == NULL);
    raft_fsm_drop_applied(node);
    release(node);
}
