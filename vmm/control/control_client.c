/* SPDX-License-Identifier: Apache-2.0 */
/* The client of the control socket. Prints one JSON object on stdout, errors in one line
 * on stderr. */
#include "vmm/control/control_client.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "proto/frame.h"
#include "proto/move_link.h"
#include "proto/unix_files.h"
#include "vmm/control/control_request.h"
#include "vmm/host/unix_socket.h"
#include "vmm/move/snapshot_folder.h"
#include "vmm/state.h"

#define READ_SIZE      16384
#define MIB            1048576.0
#define US_PER_MS      1000.0
#define EXIT_USAGE     2
#define RESUME_EACH_MS UINT64_C(1000)
#define RESUME_REQUEST 3

struct client {
    int fd;
    struct buffer in;
    bool is_terminal; /* progress goes to stderr */
    const char *resume_uri; /* of a move; NULL: nothing is resumed */
    uint64_t resumed_ms;    /* when that was last tried */
    bool predicts;    /* the order is to predict a move, not to make it */
};

static void client_done(struct client *client)
{
    cleanup_fd(&client->fd);
    buffer_done(&client->in);
}

/* `files` go with it (NULL: nothing), and stays the caller's. */
static int request_send(struct client *client, Drover__ControlRequest *request,
                        const struct unix_files *files, struct error *err)
{
    CLEANUP(buffer_done) struct buffer packed = {0};
    CLEANUP(buffer_done) struct buffer frame = {0};
    Drover__ControlMessage message = DROVER__CONTROL_MESSAGE__INIT;
    message.what_case = DROVER__CONTROL_MESSAGE__WHAT_REQUEST;
    message.request = request;
    int result = state_pack(&message.base, &packed);
    result = result < 0 ? result
                        : frame_encode(&frame, FRAME_KIND_CONTROL, packed.data,
                                       packed.size, LIMIT_CONTROL_FRAME_BYTES);
    for (size_t sent = 0; result == 0 && sent < frame.size;) {
        const struct unix_files none = {0};
        ssize_t count =
            unix_files_send(client->fd, frame.data + sent, frame.size - sent,
                            sent == 0 && files != NULL ? files : &none, MSG_NOSIGNAL);
        if (count < 0 && count != -EINTR) {
            result = (int)count;
        }
        sent += count > 0 ? (size_t)count : 0;
    }
    return result < 0
               ? error_set(err, result, "cannot send the order: %s", err_text(result))
               : 0;
}

/* The next message; the caller frees it. */
static int message_receive(struct client *client, Drover__ControlMessage **ret_message,
                           struct error *err)
{
    for (;;) {
        const uint8_t *payload = NULL;
        size_t size = 0;
        size_t frame_size = 0;
        int result =
            frame_decode(&client->in, FRAME_KIND_CONTROL, LIMIT_CONTROL_FRAME_BYTES,
                         &payload, &size, &frame_size);
        if (result > 0) {
            *ret_message = drover__control_message__unpack(NULL, size, payload);
            buffer_consume(&client->in, frame_size);
            return *ret_message != NULL
                       ? 0
                       : error_set(err, DROVER_EMALFORMED, "malformed answer");
        }
        result = result < 0 ? result : buffer_reserve(&client->in, READ_SIZE);
        if (result < 0) {
            return error_set(err, result, "cannot read the answer: %s", err_text(result));
        }
        ssize_t got = recv(client->fd, client->in.data + client->in.size, READ_SIZE, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return error_set(err, DROVER_ECLOSED, "the VMM went away without an answer");
        }
        client->in.size += (size_t)got;
    }
}

static void json_print(json_t *object)
{
    if (object != NULL) {
        (void)json_dumpf(object, stdout, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
        (void)putchar('\n');
        json_decref(object);
    }
}

static bool migration_final(Drover__VmMigrationState state)
{
    return state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE ||
           state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED ||
           state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CANCELLED ||
           state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN;
}

static void progress_show(const struct client *client,
                          const Drover__VmMigrationStatus *migration)
{
    if (!client->is_terminal) {
        return;
    }
    (void)fprintf(
        stderr,
        "\rround %u: %.1f MiB left of %.1f, %.1f MiB/s, dirtied %.1f MiB/s, throttled "
        "%u %%, predicted pause %.1f ms   ",
        migration->round, (double)migration->bytes_remaining / MIB,
        (double)migration->bytes_total / MIB, (double)migration->bytes_per_second / MIB,
        (double)migration->dirty_bytes_per_second / MIB, migration->throttle_percent,
        migration->figures == NULL
            ? 0
            : (double)migration->figures->predicted_downtime_us / US_PER_MS);
    if (migration_final(migration->state)) {
        (void)fputc('\n', stderr);
    }
}

/* True if it was the last word of a migration, which is printed then. */
static bool migration_follow(const struct client *client,
                             const Drover__VmMigrationStatus *migration, int *ret_result,
                             struct error *err)
{
    if (migration == NULL) {
        return false;
    }
    progress_show(client, migration);
    if (!migration_final(migration->state)) {
        return false;
    }
    json_print(control_json_migration(migration));
    if (client->predicts &&
        migration->state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CANCELLED &&
        migration->predicted_total_ms != 0) {
        *ret_result = 0;
        return true;
    }
    *ret_result = migration->state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE
                      ? 0
                      : error_set(err, DROVER_ECANCELLED, "the guest was not moved: %s",
                                  migration->error);
    return true;
}

/* True if it was the last word of a snapshot, which is printed then. */
static bool snapshot_follow(const struct client *client,
                            const Drover__VmSnapshotStatus *snapshot, int *ret_result,
                            struct error *err)
{
    if (snapshot == NULL || snapshot->state == DROVER__VM_SNAPSHOT_STATE__VM_SNAPSHOT_NONE) {
        return false;
    }
    if (snapshot->state == DROVER__VM_SNAPSHOT_STATE__VM_SNAPSHOT_RUNS) {
        if (client->is_terminal) {
            (void)fprintf(stderr, "\r%.1f MiB left of %.1f   ",
                          (double)snapshot->bytes_remaining / MIB,
                          (double)snapshot->bytes_total / MIB);
        }
        return false;
    }
    if (snapshot->state == DROVER__VM_SNAPSHOT_STATE__VM_SNAPSHOT_DONE) {
        json_print(control_json_snapshot(snapshot));
    } else {
        *ret_result = error_set(err, DROVER_ECANCELLED, "no snapshot was taken: %s",
                                snapshot->error);
    }
    return true;
}

enum follow {
    FOLLOW_NOTHING,
    FOLLOW_MIGRATION,
    FOLLOW_SNAPSHOT,
};

/* True if it was the last word of what is followed. */
static bool status_follow(const struct client *client, enum follow what,
                          const Drover__VmStatus *status, int *ret_result,
                          struct error *err)
{
    if (status == NULL) {
        return false;
    }
    return what == FOLLOW_MIGRATION
               ? migration_follow(client, status->migration, ret_result, err)
               : snapshot_follow(client, status->snapshot, ret_result, err);
}

/* A post-copy that lost its connection gets another from here, as it got the first. */
static void migration_resume(struct client *client, const Drover__VmStatus *status)
{
    uint64_t now_ms = clock_now_ms();
    const Drover__VmMigrationStatus *migration =
        status != NULL ? status->migration : NULL;
    if (client->resume_uri == NULL || migration == NULL || !migration->interrupted ||
        migration->state != DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY ||
        now_ms < client->resumed_ms + RESUME_EACH_MS) {
        return;
    }
    client->resumed_ms = now_ms;
    struct error err;
    struct unix_files files = {0};
    Drover__ControlMigrateLinks links = DROVER__CONTROL_MIGRATE_LINKS__INIT;
    Drover__ControlRequest request = DROVER__CONTROL_REQUEST__INIT;
    request.request_id = RESUME_REQUEST;
    request.order_case = DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS;
    request.migrate_links = &links;
    if (move_links_open(client->resume_uri, true, 1, &files, &err) == 0) {
        request.descriptors = files.count;
        (void)request_send(client, &request, &files, &err); /* the next event tells */
        unix_files_done(&files);
    }
}

/* One answer to the request; then, for long work, events until its end. */
static int answer_wait(struct client *client, uint64_t request_id, enum follow follows,
                       struct error *err)
{
    bool replied = false;
    int result = 0;
    bool over = false;
    while (!over) {
        Drover__ControlMessage *message = NULL;
        int received = message_receive(client, &message, err);
        if (received < 0) {
            return received;
        }
        if (message->what_case == DROVER__CONTROL_MESSAGE__WHAT_REPLY &&
            message->reply->request_id == request_id) {
            const Drover__ControlReply *reply = message->reply;
            replied = true;
            if (reply->error != 0) {
                result = error_set(err, reply->error, "%s", reply->message);
                over = true;
            } else if (follows == FOLLOW_NOTHING) {
                json_print(reply->status != NULL ? control_json_status(reply->status)
                                                 : NULL);
                over = true;
            } else {
                over = status_follow(client, follows, reply->status, &result, err);
            }
        } else if (message->what_case == DROVER__CONTROL_MESSAGE__WHAT_EVENT && replied) {
            migration_resume(client, message->event->status);
            over = status_follow(client, follows, message->event->status, &result, err);
        }
        drover__control_message__free_unpacked(message, NULL);
    }
    return result;
}

/* A VMM in its jail opens nothing: what the order needs is opened here. */
static int descriptors_open(struct control_request *request, struct error *err)
{
    if (request->message.order_case != DROVER__CONTROL_REQUEST__ORDER_MIGRATE &&
        request->message.order_case != DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS) {
        return 0;
    }
    int result = move_link_number(request->migrate.uri, request->uri, err);
    if (result < 0) {
        return result;
    }
    request->migrate.uri = request->uri;
    return move_links_open(request->migrate.uri, false, request->migrate.streams,
                           &request->files, err);
}

static enum follow follow_of(const struct control_request *request)
{
    switch (request->message.order_case) {
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE:
        return FOLLOW_MIGRATION;
    case DROVER__CONTROL_REQUEST__ORDER_SNAPSHOT:
        return FOLLOW_SNAPSHOT;
    default:
        return FOLLOW_NOTHING;
    }
}

static int client_run(const char *path, struct control_request *request,
                      struct error *err)
{
    CLEANUP(client_done) struct client client = {.fd = -1};
    int result = unix_socket_connect(path, &client.fd, err);
    if (result < 0) {
        return result;
    }
    if (request->message.order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE &&
        !request->migrate.predict_only) {
        client.resume_uri = request->migrate.uri;
    }
    client.is_terminal = isatty(STDERR_FILENO) == 1;
    client.predicts = request->migrate.predict_only;
    enum follow follows = follow_of(request);
    if (follows != FOLLOW_NOTHING) {
        Drover__ControlRequest subscribe = DROVER__CONTROL_REQUEST__INIT;
        Drover__ControlSubscribe nothing = DROVER__CONTROL_SUBSCRIBE__INIT;
        subscribe.request_id = 1;
        subscribe.order_case = DROVER__CONTROL_REQUEST__ORDER_SUBSCRIBE;
        subscribe.subscribe = &nothing;
        result = request_send(&client, &subscribe, NULL, err);
    }
    request->message.request_id = 2;
    request->message.descriptors = request->files.count;
    result = result < 0
                 ? result
                 : request_send(&client, &request->message, &request->files, err);
    return result < 0 ? result
                      : answer_wait(&client, request->message.request_id, follows, err);
}

/* The files are made by this process, for the VMM may be jailed. */
static int snapshot_run(const char *path, struct control_request *request,
                        struct error *err)
{
    struct snapshot_folder folder;
    int result =
        snapshot_folder_make(&folder, request->snapshot.directory, &request->files, err);
    if (result < 0) {
        return result;
    }
    result = client_run(path, request, err);
    result = result < 0 ? result : snapshot_folder_finish(&folder, err);
    if (result < 0) {
        snapshot_folder_abandon(&folder);
    }
    snapshot_folder_close(&folder);
    return result;
}

int control_client_main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        (void)fputs(control_request_help(), stdout);
        return 0;
    }
    if (argc < 3) {
        (void)fputs(
            "drover-vmm control: give PATH and an order; see drover-vmm control --help\n",
            stderr);
        return EXIT_USAGE;
    }
    struct error err = {0};
    struct control_request request;
    int result = control_request_parse(argc - 2, argv + 2, &request, &err);
    if (result < 0) {
        (void)fprintf(stderr, "drover-vmm control: %s\n", err.text);
        return EXIT_USAGE;
    }
    bool snapshots = follow_of(&request) == FOLLOW_SNAPSHOT;
    result = descriptors_open(&request, &err);
    result = result < 0  ? result
             : snapshots ? snapshot_run(argv[1], &request, &err)
                         : client_run(argv[1], &request, &err);
    unix_files_done(&request.files);
    if (result < 0) {
        (void)fprintf(stderr, "drover-vmm control: %s\n", err.text);
        return EXIT_FAILURE;
    }
    return 0;
}
