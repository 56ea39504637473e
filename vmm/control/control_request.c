/* SPDX-License-Identifier: Apache-2.0 */
/* The orders of `drover-vmm control`, word by word. */
#include "vmm/control/control_request.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "vmm/options/options.h"

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
    "  migrate tcp:HOST:PORT|rdma:HOST:PORT [--max-downtime MS] [--deadline S] "
    "[--streams N]\n"
    "          [--bandwidth SIZE] [--compress auto|never|always] [--predict]\n"
    "          [--post-copy auto|never|now]\n"
    "                        move the guest to the drover-vmm that waits there "
    "(--incoming),\n"
    "                        over N connections (1 to 8, default 2); at most SIZE bytes "
    "a "
    "second, such\n"
    "                        as 100M, while the guest runs. rdma needs --rdma, else it "
    "falls back to TCP;\n"
    "                        neither is encrypted. Compressed (auto) where the link is "
    "what limits\n"
    "                        the move. Predict: measure guest and link, tell what the "
    "move would be\n"
    "                        like, and move nothing. Post-copy: the guest runs there "
    "before all of\n"
    "                        its memory is; auto: if it can't be moved else\n"
    "  migrate-resume tcp:HOST:PORT\n"
    "                        a new connection for a post-copy that lost its own\n"
    "  migrate-limit SIZE|none       another --bandwidth for the migration under way\n"
    "  cancel                of a migration: the guest stays here. Where it arrived by "
    "post-copy\n"
    "                        and its source is gone for good: the guest is given up\n"
    "  reclaim               after a handover that nobody confirmed: the other side "
    "never ran it\n"
    "  balloon SIZE          memory that the guest shall have, such as 512M\n"
    "  snapshot DIR          save memory and devices' state to a new folder; disks are "
    "not "
    "copied!\n"
    "                        Restored by drover-vmm --incoming file:DIR, with the disks "
    "as "
    "they are now\n";

const char *control_request_help(void)
{
    return help;
}

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
static int resume_parse(int count, char **words, struct control_request *request,
                        struct error *err)
{
    if (count != 1) {
        return error_set(
            err, DROVER_EBADINPUT,
            "migrate-resume needs the target, as migrate did: tcp:HOST:PORT");
    }
    request->migrate.uri = words[0];
    request->migrate.streams = 1;
    request->message.order_case = DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS;
    request->message.migrate_links = &request->links;
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

static int migrate_parse(int count, char **words, struct control_request *request,
                         struct error *err)
{
    if (count < 1) {
        return error_set(err, DROVER_EBADINPUT,
                         "migrate needs a target: tcp:HOST:PORT or rdma:HOST:PORT");
    }
    request->migrate.uri = words[0];
    for (int i = 1; i < count; i += 2) {
        const char *value = i + 1 < count ? words[i + 1] : NULL;
        int result = DROVER_EBADINPUT;
        if (strcmp(words[i], "--predict") == 0) {
            request->migrate.predict_only = true;
            i--; /* takes no value */
            continue;
        }
        if (strcmp(words[i], "--max-downtime") == 0) {
            result = number_parse(words[i], value, UINT32_MAX,
                                  &request->migrate.max_downtime_ms, err);
        } else if (strcmp(words[i], "--deadline") == 0) {
            result = number_parse(words[i], value, DEADLINE_MAX,
                                  &request->migrate.deadline_s, err);
        } else if (strcmp(words[i], "--compress") == 0) {
            result = compress_parse(value, &request->migrate.compress, err);
        } else if (strcmp(words[i], "--bandwidth") == 0) {
            result = value == NULL
                         ? DROVER_EBADINPUT
                         : options_size_parse(
                               value, &request->migrate.bandwidth_bytes_per_second);
            if (result < 0) {
                (void)error_set(err, result,
                                "--bandwidth needs bytes per second, such as 100M");
            }
        } else if (strcmp(words[i], "--post-copy") == 0) {
            result = postcopy_parse(value, &request->migrate.postcopy, err);
        } else if (strcmp(words[i], "--streams") == 0) {
            result = number_parse(words[i], value, UNIX_FILES_MAX,
                                  &request->migrate.streams, err);
        } else {
            (void)error_set(err, result,
                            "unknown option %s; see drover-vmm control --help", words[i]);
        }
        if (result < 0) {
            return result;
        }
    }
    request->message.order_case = DROVER__CONTROL_REQUEST__ORDER_MIGRATE;
    request->message.migrate = &request->migrate;
    return 0;
}

static int limit_parse(int count, char **words, struct control_request *request,
                       struct error *err)
{
    uint64_t bytes = 0;
    bool none = count == 1 && strcmp(words[0], "none") == 0;
    if (count != 1 || (!none && options_size_parse(words[0], &bytes) < 0)) {
        return error_set(err, DROVER_EBADINPUT,
                         "migrate-limit needs bytes per second, such as 100M, or none");
    }
    request->limit.bandwidth_bytes_per_second = bytes;
    request->message.order_case = DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LIMIT;
    request->message.migrate_limit = &request->limit;
    return 0;
}

static int balloon_parse(int count, char **words, struct control_request *request,
                         struct error *err)
{
    uint64_t bytes = 0;
    if (count != 1 || options_size_parse(words[0], &bytes) < 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "balloon needs the memory that the guest shall have, such as "
                         "512M");
    }
    request->balloon.memory_bytes = bytes;
    request->message.order_case = DROVER__CONTROL_REQUEST__ORDER_BALLOON;
    request->message.balloon = &request->balloon;
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

static void simple_fill(Drover__ControlRequest *message)
{
    static Drover__ControlStatus status = DROVER__CONTROL_STATUS__INIT;
    static Drover__ControlPause pause = DROVER__CONTROL_PAUSE__INIT;
    static Drover__ControlResume resume = DROVER__CONTROL_RESUME__INIT;
    static Drover__ControlPowerButton button = DROVER__CONTROL_POWER_BUTTON__INIT;
    static Drover__ControlQuit quit = DROVER__CONTROL_QUIT__INIT;
    static Drover__ControlMigrateCancel cancel = DROVER__CONTROL_MIGRATE_CANCEL__INIT;
    static Drover__ControlReclaim reclaim = DROVER__CONTROL_RECLAIM__INIT;
    switch (message->order_case) {
    case DROVER__CONTROL_REQUEST__ORDER_STATUS:
        message->status = &status;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_PAUSE:
        message->pause = &pause;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_RESUME:
        message->resume = &resume;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON:
        message->power_button = &button;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_QUIT:
        message->quit = &quit;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE_CANCEL:
        message->migrate_cancel = &cancel;
        break;
    default:
        message->reclaim = &reclaim;
        break;
    }
}

int control_request_parse(int count, char **words, struct control_request *request,
                          struct error *err)
{
    *request = (struct control_request){0};
    drover__control_request__init(&request->message);
    drover__control_migrate__init(&request->migrate);
    drover__control_migrate_links__init(&request->links);
    drover__control_snapshot__init(&request->snapshot);
    drover__control_balloon__init(&request->balloon);
    drover__control_migrate_limit__init(&request->limit);
    if (strcmp(words[0], "migrate") == 0) {
        return migrate_parse(count - 1, words + 1, request, err);
    }
    if (strcmp(words[0], "migrate-resume") == 0) {
        return resume_parse(count - 1, words + 1, request, err);
    }
    if (strcmp(words[0], "migrate-limit") == 0) {
        return limit_parse(count - 1, words + 1, request, err);
    }
    if (strcmp(words[0], "balloon") == 0) {
        return balloon_parse(count - 1, words + 1, request, err);
    }
    if (strcmp(words[0], "snapshot") == 0 && count == 1) {
        return error_set(err, DROVER_EBADINPUT, "snapshot needs a directory");
    }
    if (strcmp(words[0], "snapshot") == 0 && count == 2) {
        request->snapshot.directory = words[1];
        request->message.order_case = DROVER__CONTROL_REQUEST__ORDER_SNAPSHOT;
        request->message.snapshot = &request->snapshot;
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
            request->message.order_case = simple_orders[i].order_case;
            simple_fill(&request->message);
            return 0;
        }
    }
    return error_set(err, DROVER_EBADINPUT,
                     "unknown order \"%s\"; see drover-vmm control --help", words[0]);
}
