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
#include "vmm/host/unix_socket.h"
#include "vmm/move/snapshot_folder.h"
#include "vmm/options/options.h"
#include "vmm/state.h"

#define READ_SIZE    16384
#define MIB          1048576.0
#define US_PER_MS    1000.0
#define EXIT_USAGE   2
#define DEADLINE_MAX 86400

static const char help[] =
    "drover-vmm control PATH ORDER: gives an order to the VM whose control socket is "
    "PATH, and\n"
    "prints how it stands as JSON. The exit status is 0 only if the order was carried "
    "out.\n"
    "\n"
    "  status                how it stands\n"
    "  pause                 stop the vCPUs; done when they stand and all I/O is "
    "drained\n"
    "  resume                go on\n"
    "  stop                  press the power button: the guest shuts down by itself\n"
    "  quit                  switch off at once\n"
    "  migrate tcp:HOST:PORT|rdma:HOST:PORT [--max-downtime MS] [--deadline S] [--streams N]\n"
    "          [--bandwidth SIZE] [--post-copy auto|never|now]\n"
    "                        move the guest to the drover-vmm that waits there "
    "(--incoming),\n"
    "                        over N connections (1 to 8, default 2); at most SIZE bytes a "
    "second, such\n"
    "                        as 100M, while the guest runs. rdma needs --rdma, else it "
    "falls back to TCP;\n"
    "                        neither is encrypted. Post-copy: the guest runs there before "
    "all of its\n"
    "                        memory is; auto: if it can't be moved else\n"
    "  migrate-resume tcp:HOST:PORT\n"
    "                        a new connection for a post-copy that lost its own\n"
    "  migrate-limit SIZE|none       another --bandwidth for the migration under way\n"
    "  cancel                of a migration: the guest stays here. Where it arrived by "
    "post-copy\n"
    "                        and its source is gone for good: the guest is given up\n"
    "  reclaim               after a handover that nobody confirmed: the other side "
    "never ran it\n"
    "  balloon SIZE          memory that the guest shall have, such as 512M\n"
    "  snapshot DIR          save memory and devices' state to a new folder; disks are not "
    "copied!\n"
    "                        Restored by drover-vmm --incoming file:DIR, with the disks as "
    "they are now\n";

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

/* All that a request may point to. */
struct order {
    Drover__ControlRequest request;
    Drover__ControlMigrate migrate;
    Drover__ControlMigrateLinks links;
    Drover__ControlSnapshot snapshot;
    Drover__ControlBalloon balloon;
    Drover__ControlMigrateLimit limit;
    char uri[MOVE_LINK_URI_SIZE];
    struct unix_files files; /* go with it */
};

static int number_parse(const char *option, const char *text, unsigned long most,
                        uint32_t *ret_number, struct error *err)
{
    char *end = NULL;
    errno = 0;
    unsigned long number = text == NULL ? 0 : strtoul(text, &end, 10);
    if (text == NULL || errno != 0 || end == text || *end != '\0' || number == 0 ||
        number > most || text[0] == '-') {
        return error_set(err, DROVER_EBADINPUT, "%s needs a number from 1 to %lu", option,
                         most);
    }
    *ret_number = (uint32_t)number;
    return 0;
}

static int postcopy_parse(const char *text, Drover__MigratePostcopy *ret_postcopy,
                          struct error *err)
{
    static const char *const words[] = {
        [DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_AUTO] = "auto",
        [DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_NEVER] = "never",
        [DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_NOW] = "now",
    };
    for (unsigned i = 0; text != NULL && i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret_postcopy = (Drover__MigratePostcopy)i;
            return 0;
        }
    }
    return error_set(err, DROVER_EBADINPUT, "--post-copy needs auto, never or now");
}

/* A new connection for an interrupted post-copy. */
static int resume_parse(int count, char **words, struct order *order, struct error *err)
{
    if (count != 1) {
        return error_set(err, DROVER_EBADINPUT,
                         "migrate-resume needs the target, as migrate did: tcp:HOST:PORT");
    }
    order->migrate.uri = words[0];
    order->migrate.streams = 1;
    order->request.order_case = DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS;
    order->request.migrate_links = &order->links;
    return 0;
}

static int compress_parse(const char *text, Drover__MigrateCompress *ret_mode,
                          struct error *err)
{
    static const char *const words[] = {"auto", "never", "always"}; /* by number */
    for (unsigned i = 0; text != NULL && i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret_mode = (Drover__MigrateCompress)i;
            return 0;
        }
    }
    return error_set(err, DROVER_EBADINPUT, "--compress needs auto, never or always");
}

static int migrate_parse(int count, char **words, struct order *order, struct error *err)
{
    if (count < 1) {
        return error_set(err, DROVER_EBADINPUT, "migrate needs a target: tcp:HOST:PORT or rdma:HOST:PORT");
    }
    order->migrate.uri = words[0];
    for (int i = 1; i < count; i += 2) {
        const char *value = i + 1 < count ? words[i + 1] : NULL;
        int result = DROVER_EBADINPUT;
        if (strcmp(words[i], "--predict") == 0) {
            order->migrate.predict_only = true;
            i--; /* takes no value */
            continue;
        }
        if (strcmp(words[i], "--max-downtime") == 0) {
            result = number_parse(words[i], value, UINT32_MAX,
                                  &order->migrate.max_downtime_ms, err);
        } else if (strcmp(words[i], "--deadline") == 0) {
            result = number_parse(words[i], value, DEADLINE_MAX,
                                  &order->migrate.deadline_s, err);
        } else if (strcmp(words[i], "--compress") == 0) {
            result = compress_parse(value, &order->migrate.compress, err);
        } else if (strcmp(words[i], "--bandwidth") == 0) {
            result = value == NULL
                         ? DROVER_EBADINPUT
                         : options_size_parse(value,
                                              &order->migrate.bandwidth_bytes_per_second);
            if (result < 0) {
                (void)error_set(err, result,
                                "--bandwidth needs bytes per second, such as 100M");
            }
        } else if (strcmp(words[i], "--post-copy") == 0) {
            result = postcopy_parse(value, &order->migrate.postcopy, err);
        } else if (strcmp(words[i], "--streams") == 0) {
            result = number_parse(words[i], value, UNIX_FILES_MAX,
                                  &order->migrate.streams, err);
        } else {
            (void)error_set(err, result,
                            "unknown option %s; see drover-vmm control --help", words[i]);
        }
        if (result < 0) {
            return result;
        }
    }
    order->request.order_case = DROVER__CONTROL_REQUEST__ORDER_MIGRATE;
    order->request.migrate = &order->migrate;
    return 0;
}

static int limit_parse(int count, char **words, struct order *order, struct error *err)
{
    uint64_t bytes = 0;
    bool none = count == 1 && strcmp(words[0], "none") == 0;
    if (count != 1 || (!none && options_size_parse(words[0], &bytes) < 0)) {
        return error_set(err, DROVER_EBADINPUT,
                         "migrate-limit needs bytes per second, such as 100M, or none");
    }
    order->limit.bandwidth_bytes_per_second = bytes;
    order->request.order_case = DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LIMIT;
    order->request.migrate_limit = &order->limit;
    return 0;
}

static int balloon_parse(int count, char **words, struct order *order, struct error *err)
{
    uint64_t bytes = 0;
    if (count != 1 || options_size_parse(words[0], &bytes) < 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "balloon needs the memory that the guest shall have, such as "
                         "512M");
    }
    order->balloon.memory_bytes = bytes;
    order->request.order_case = DROVER__CONTROL_REQUEST__ORDER_BALLOON;
    order->request.balloon = &order->balloon;
    return 0;
}

/* Orders without arguments; their messages are empty. */
static const struct simple_order {
    const char *word;
    Drover__ControlRequest__OrderCase order_case;
} simple_orders[] = {
    {"status", DROVER__CONTROL_REQUEST__ORDER_STATUS},
    {"pause", DROVER__CONTROL_REQUEST__ORDER_PAUSE},
    {"resume", DROVER__CONTROL_REQUEST__ORDER_RESUME},
    {"stop", DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON},
    {"quit", DROVER__CONTROL_REQUEST__ORDER_QUIT},
    {"cancel", DROVER__CONTROL_REQUEST__ORDER_MIGRATE_CANCEL},
    {"reclaim", DROVER__CONTROL_REQUEST__ORDER_RECLAIM},
};

static void simple_fill(Drover__ControlRequest *request)
{
    static Drover__ControlStatus status = DROVER__CONTROL_STATUS__INIT;
    static Drover__ControlPause pause = DROVER__CONTROL_PAUSE__INIT;
    static Drover__ControlResume resume = DROVER__CONTROL_RESUME__INIT;
    static Drover__ControlPowerButton button = DROVER__CONTROL_POWER_BUTTON__INIT;
    static Drover__ControlQuit quit = DROVER__CONTROL_QUIT__INIT;
    static Drover__ControlMigrateCancel cancel = DROVER__CONTROL_MIGRATE_CANCEL__INIT;
    static Drover__ControlReclaim reclaim = DROVER__CONTROL_RECLAIM__INIT;
    switch (request->order_case) {
    case DROVER__CONTROL_REQUEST__ORDER_STATUS:
        request->status = &status;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_PAUSE:
        request->pause = &pause;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_RESUME:
        request->resume = &resume;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON:
        request->power_button = &button;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_QUIT:
        request->quit = &quit;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE_CANCEL:
        request->migrate_cancel = &cancel;
        break;
    default:
        request->reclaim = &reclaim;
        break;
    }
}

static int order_parse(int count, char **words, struct order *order, struct error *err)
{
    drover__control_request__init(&order->request);
    drover__control_migrate__init(&order->migrate);
    drover__control_migrate_links__init(&order->links);
    drover__control_snapshot__init(&order->snapshot);
    drover__control_balloon__init(&order->balloon);
    drover__control_migrate_limit__init(&order->limit);
    if (strcmp(words[0], "migrate") == 0) {
        return migrate_parse(count - 1, words + 1, order, err);
    }
    if (strcmp(words[0], "migrate-resume") == 0) {
        return resume_parse(count - 1, words + 1, order, err);
    }
    if (strcmp(words[0], "migrate-limit") == 0) {
        return limit_parse(count - 1, words + 1, order, err);
    }
    if (strcmp(words[0], "balloon") == 0) {
        return balloon_parse(count - 1, words + 1, order, err);
    }
    if (strcmp(words[0], "snapshot") == 0 && count == 1) {
        return error_set(err, DROVER_EBADINPUT, "snapshot needs a directory");
    }
    if (strcmp(words[0], "snapshot") == 0 && count == 2) {
        order->snapshot.directory = words[1];
        order->request.order_case = DROVER__CONTROL_REQUEST__ORDER_SNAPSHOT;
        order->request.snapshot = &order->snapshot;
        return 0;
    }
    for (unsigned i = 0; i < sizeof(simple_orders) / sizeof(simple_orders[0]); i++) {
        if (strcmp(words[0], simple_orders[i].word) == 0) {
            if (count > 1) {
                return error_set(err, DROVER_EBADINPUT,
                                 "%s takes nothing more: what is \"%s\"? See drover-vmm "
                                 "control --help",
                                 words[0], words[1]);
            }
            order->request.order_case = simple_orders[i].order_case;
            simple_fill(&order->request);
            return 0;
        }
    }
    return error_set(err, DROVER_EBADINPUT,
                     "unknown order \"%s\"; see drover-vmm control --help", words[0]);
}

/* A VMM in its jail opens nothing: what the order needs is opened here. */
static int descriptors_open(struct order *order, struct error *err)
{
    if (order->request.order_case != DROVER__CONTROL_REQUEST__ORDER_MIGRATE &&
        order->request.order_case != DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS) {
        return 0;
    }
    int result = move_link_number(order->migrate.uri, order->uri, err);
    if (result < 0) {
        return result;
    }
    order->migrate.uri = order->uri;
    return move_links_open(order->migrate.uri, false, order->migrate.streams,
                           &order->files, err);
}

static enum follow follow_of(const struct order *order)
{
    switch (order->request.order_case) {
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE:
        return FOLLOW_MIGRATION;
    case DROVER__CONTROL_REQUEST__ORDER_SNAPSHOT:
        return FOLLOW_SNAPSHOT;
    default:
        return FOLLOW_NOTHING;
    }
}

static int client_run(const char *path, struct order *order, struct error *err)
{
    CLEANUP(client_done) struct client client = {.fd = -1};
    int result = unix_socket_connect(path, &client.fd, err);
    if (result < 0) {
        return result;
    }
    if (order->request.order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE &&
        !order->migrate.predict_only) {
        client.resume_uri = order->migrate.uri;
    }
    client.is_terminal = isatty(STDERR_FILENO) == 1;
    client.predicts = order->migrate.predict_only;
    enum follow follows = follow_of(order);
    if (follows != FOLLOW_NOTHING) {
        Drover__ControlRequest subscribe = DROVER__CONTROL_REQUEST__INIT;
        Drover__ControlSubscribe nothing = DROVER__CONTROL_SUBSCRIBE__INIT;
        subscribe.request_id = 1;
        subscribe.order_case = DROVER__CONTROL_REQUEST__ORDER_SUBSCRIBE;
        subscribe.subscribe = &nothing;
        result = request_send(&client, &subscribe, NULL, err);
    }
    order->request.request_id = 2;
    order->request.descriptors = order->files.count;
    result =
        result < 0 ? result : request_send(&client, &order->request, &order->files, err);
    return result < 0 ? result
                      : answer_wait(&client, order->request.request_id, follows, err);
}

/* The files are made by this process, for the VMM may be jailed. */
static int snapshot_run(const char *path, struct order *order, struct error *err)
{
    struct snapshot_folder folder;
    int result =
        snapshot_folder_make(&folder, order->snapshot.directory, &order->files, err);
    if (result < 0) {
        return result;
    }
    result = client_run(path, order, err);
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
        (void)fputs(help, stdout);
        return 0;
    }
    if (argc < 3) {
        (void)fputs(
            "drover-vmm control: give PATH and an order; see drover-vmm control --help\n",
            stderr);
        return EXIT_USAGE;
    }
    struct error err = {0};
    struct order order = {0};
    int result = order_parse(argc - 2, argv + 2, &order, &err);
    if (result < 0) {
        (void)fprintf(stderr, "drover-vmm control: %s\n", err.text);
        return EXIT_USAGE;
    }
    bool snapshots = follow_of(&order) == FOLLOW_SNAPSHOT;
    result = descriptors_open(&order, &err);
    result = result < 0  ? result
             : snapshots ? snapshot_run(argv[1], &order, &err)
                         : client_run(argv[1], &order, &err);
    unix_files_done(&order.files);
    if (result < 0) {
        (void)fprintf(stderr, "drover-vmm control: %s\n", err.text);
        return EXIT_FAILURE;
    }
    return 0;
}
