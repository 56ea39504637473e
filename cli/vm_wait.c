/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting until the cluster has done what was asked of a VM. */
#include "cli/vm_wait.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"

#define POLL_MS 200u
#define PATIENCE_MS                                                                      \
    10000u /* so long may a VM be without owner, or failing, before that is the answer   \
            */

static int poll_vm(struct cli *cli, const char *name, json_t **vm)
{
    json_t *next = NULL;
    int status = cli_call(cli, "GET", NULL, &next, "/vms/%s", name);
    if (status == CLI_OK) {
        json_decref(*vm);
        *vm = next;
    }
    return status;
}

static bool is_stuck(const char *state)
{
    return strcmp(state, "failed") == 0 || strcmp(state, "unowned") == 0;
}

int vm_wait_state(struct cli *cli, const char *name, const char *state,
                  unsigned timeout_s, json_t **ret_vm)
{
    uint64_t start_ms = clock_now_ms();
    uint64_t stuck_since_ms = 0;
    for (;;) {
        int status = poll_vm(cli, name, ret_vm);
        if (status != CLI_OK) {
            return status;
        }
        const char *now = cli_text(*ret_vm, "state");
        uint64_t now_ms = clock_now_ms();
        if (strcmp(now, state) == 0) {
            return CLI_OK;
        }
        stuck_since_ms = !is_stuck(now)        ? 0
                         : stuck_since_ms == 0 ? now_ms
                                               : stuck_since_ms;
        bool has_reason = strcmp(cli_text(*ret_vm, "reason"), "-") != 0;
        if (stuck_since_ms != 0 && ((strcmp(now, "failed") == 0 && has_reason) ||
                                    now_ms - stuck_since_ms > PATIENCE_MS)) {
            return cli_fail("%s is %s: %s", name, now, cli_text(*ret_vm, "reason"));
        }
        if (now_ms - start_ms > timeout_s * MS_PER_S) {
            return cli_fail(
                "%s is still %s after %u s (%s): `drover events --vm %s` tells more",
                name, now, timeout_s, cli_text(*ret_vm, "reason"), name);
        }
        (void)cli_sleep_ms(POLL_MS);
    }
}

static void show_progress(const json_t *migration)
{
    char rate[CLI_SIZE_SIZE], dirty[CLI_SIZE_SIZE], left[CLI_SIZE_SIZE];
    (void)fprintf(stderr,
                  "\r%-10s round %" PRIu64 "  %3" PRIu64
                  " %%  %s left  %s/s over %" PRIu64
                  ", guest writes %s/s, throttled %" PRIu64
                  " %%, predicted pause %.1f ms   ",
                  cli_text(migration, "phase"), cli_number(migration, "round"),
                  cli_number(migration, "progress_percent"),
                  cli_size(cli_number(migration, "bytes_remaining"), left),
                  cli_size(cli_number(migration, "bytes_per_second"), rate),
                  cli_number(migration, "streams"),
                  cli_size(cli_number(migration, "dirty_bytes_per_second"), dirty),
                  cli_number(migration, "throttle_percent"),
                  json_number_value(json_object_get(migration, "predicted_downtime_ms")));
}

/*
 * What has happened to a VM since its migration was asked for (`before`: that request's
 * answer), until it was seen as `vm`. The host that is asked for events answers from its
 * own copy of the log, a moment behind the leader, who answered before: it is told how
 * far to wait.
 */
static int events_between(struct cli *cli, const char *name, const json_t *before,
                          const json_t *vm, json_t **ret_answer)
{
    /* The answer to a repeated request may be younger than what it did: look at all. */
    bool under_way = json_is_object(json_object_get(before, "migration"));
    uint64_t after = under_way ? cli_number(before, "applied_index") : 0;
    return cli_call(cli, "GET", NULL, ret_answer,
                    "/events?vm=%s&limit=1000&after=%" PRIu64 "&applied_index=%" PRIu64,
                    name, after, cli_number(vm, "applied_index"));
}

/* How the source's word begins that only wanted to know (migration/goals.c). */
#define PREDICTED "predicted only: "

/* Why the last migration of this VM was aborted, from the events: a prediction, maybe. */
static int tell_abort(struct cli *cli, const char *name, const json_t *before,
                      const json_t *vm)
{
    json_t *answer = NULL;
    bool predicts = json_is_true(
        json_object_get(json_object_get(before, "migration"), "predict_only"));
    if (events_between(cli, name, before, vm, &answer) != CLI_OK) {
        return CLI_FAIL;
    }
    const char *why = "it was not moved, and the reason is no longer among the events";
    size_t index;
    json_t *event;
    json_array_foreach(json_object_get(answer, "events"), index, event)
    {
        if (strcmp(cli_text(event, "kind"), "migration.aborted") == 0) {
            why = cli_text(event, "text");
        }
    }
    const char *foretold = strstr(why, PREDICTED);
    int status = CLI_OK;
    if (predicts && foretold != NULL && cli->json) {
        json_t *object = json_pack("{s:s, s:s}", "vm", name, "prediction",
                                   foretold + strlen(PREDICTED));
        cli_print_json(object);
        json_decref(object);
    } else if (predicts && foretold != NULL) {
        (void)printf("%s: %s\n", name, foretold + strlen(PREDICTED));
    } else {
        status = cli_fail("%s is %s on %s: %s", name, cli_text(vm, "state"),
                          cli_text(vm, "host"), why);
    }
    json_decref(answer);
    return status;
}

/* A repeated request may find its migration at an end: only the events tell which. */
static bool last_was_done(struct cli *cli, const char *name, const json_t *before,
                          const json_t *vm)
{
    json_t *answer = NULL;
    bool done = false;
    if (events_between(cli, name, before, vm, &answer) != CLI_OK) {
        return false;
    }
    size_t index;
    json_t *event;
    json_array_foreach(json_object_get(answer, "events"), index, event)
    {
        const char *kind = cli_text(event, "kind");
        done = strcmp(kind, "migration.done") == 0 ||
               (done && strcmp(kind, "migration.aborted") != 0);
    }
    json_decref(answer);
    return done;
}

/* The rest of the memory follows, and nobody can take that back. */
static int wait_postcopy(struct cli *cli, const char *name, uint64_t deadline_ms,
                         json_t **ret_vm)
{
    bool progress = cli_shows_progress(cli);
    int status = CLI_OK;
    while (status == CLI_OK && json_is_object(json_object_get(*ret_vm, "postcopy"))) {
        const json_t *postcopy = json_object_get(*ret_vm, "postcopy");
        char left[CLI_SIZE_SIZE];
        if (progress) {
            (void)fprintf(stderr, "\rruns on %s, its memory follows from %s: %s left%s   ",
                          cli_text(*ret_vm, "host"), cli_text(postcopy, "source"),
                          cli_size(cli_number(postcopy, "bytes_remaining"), left),
                          json_is_true(json_object_get(postcopy, "interrupted"))
                              ? ", the connection is lost"
                              : "");
        }
        if (clock_now_ms() > deadline_ms || cli_sleep_ms(POLL_MS)) {
            return cli_fail("%s runs on %s, and its memory still follows from %s, which it "
                            "needs until then: look with `drover vm show %s`",
                            name, cli_text(*ret_vm, "host"), cli_text(postcopy, "source"),
                            name);
        }
        status = poll_vm(cli, name, ret_vm);
    }
    return status;
}

/* Whether a guest that needed memory of another host got it, by the events. */
static int tell_postcopy(struct cli *cli, const char *name, uint64_t epoch,
                         const json_t *before, const json_t *vm)
{
    json_t *answer = NULL;
    if (events_between(cli, name, before, vm, &answer) != CLI_OK) {
        return CLI_FAIL;
    }
    const char *lost = NULL;
    size_t index;
    json_t *event;
    json_array_foreach(json_object_get(answer, "events"), index, event)
    {
        const char *kind = cli_text(event, "kind");
        if (strcmp(kind, "migration.lost") == 0 && cli_number(event, "epoch") == epoch) {
            lost = cli_text(event, "text");
        }
    }
    int status = lost == NULL ? CLI_OK : cli_fail("%s", lost);
    json_decref(answer);
    return status;
}

static int cancel(struct cli *cli, const char *name)
{
    json_t *answer = NULL;
    int status = cli_call(cli, "POST", NULL, &answer, "/vms/%s/cancel", name);
    json_decref(answer);
    return status;
}

int vm_wait_migration(struct cli *cli, const char *name, const json_t *before,
                      unsigned timeout_s, json_t **ret_vm)
{
    uint64_t start_ms = clock_now_ms();
    const char *target = cli_text(json_object_get(before, "migration"), "target");
    bool progress = cli_shows_progress(cli), shown = false;
    cli_catch_interrupt();
    for (;;) {
        int status = poll_vm(cli, name, ret_vm);
        if (status != CLI_OK) {
            return status;
        }
        const json_t *migration = json_object_get(*ret_vm, "migration");
        if (!json_is_object(migration)) {
            break;
        }
        if (progress) {
            show_progress(migration);
            shown = true;
        }
        if (clock_now_ms() - start_ms > timeout_s * MS_PER_S) {
            return cli_fail("%s is still being moved after %u s: look with `drover vm "
                            "show %s`, end it with `drover vm cancel %s`",
                            name, timeout_s, name, name);
        }
        if (cli_sleep_ms(POLL_MS)) {
            (void)cancel(cli, name); /* it may be over already: the next look tells */
        }
    }
    if (shown) {
        (void)fputs("\n", stderr);
    }
    bool moved = strcmp(cli_text(*ret_vm, "host"), target) == 0 &&
                 cli_number(*ret_vm, "epoch") > cli_number(before, "epoch");
    moved = moved || (!json_is_object(json_object_get(before, "migration")) &&
                      last_was_done(cli, name, before, *ret_vm));
    if (moved && json_is_object(json_object_get(*ret_vm, "postcopy"))) {
        uint64_t epoch = cli_number(*ret_vm, "epoch");
        int status = wait_postcopy(cli, name, start_ms + timeout_s * MS_PER_S, ret_vm);
        if (progress) {
            (void)fputs("\n", stderr);
        }
        return status == CLI_OK ? tell_postcopy(cli, name, epoch, before, *ret_vm)
                                : status;
    }
    return moved ? CLI_OK : tell_abort(cli, name, before, *ret_vm);
}
