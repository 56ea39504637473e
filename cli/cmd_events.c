/* SPDX-License-Identifier: Apache-2.0 */
/* drover events. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/id.h"
#include "cli/cli.h"

#define FOLLOW_WAIT_MS 30000u
#define LIMIT_DEFAULT  100u
#define LIMIT_MAX      1000u

enum { OPTION_FOLLOW = 1, OPTION_AFTER, OPTION_LIMIT, OPTION_VM, OPTION_NODE };

struct query {
    bool follow;
    bool has_after;
    uint64_t after;
    uint64_t limit;
    const char *vm, *node;
};

const char *cli_events_help(void)
{
    return "what happened in the cluster, oldest first\n"
           "\n"
           "usage: drover events [--follow] [--after INDEX] [--limit N] [--vm NAME] "
           "[--node NAME] [--json]\n"
           "\n"
           "  --follow        go on with each new event, until Ctrl-C\n"
           "  --after INDEX   only events behind this one (the first column)\n"
           "  --limit N       at most N (default 100, at most 1000): the latest, or the "
           "first behind --after\n"
           "  --vm, --node    only what concerns this VM or host\n"
           "\n"
           "With --json each event is one object on one line.\n";
}

static int parse(int argc, char **argv, struct query *query)
{
    static const struct option options[] = {
        {"follow", no_argument, NULL, OPTION_FOLLOW},
        {"after", required_argument, NULL, OPTION_AFTER},
        {"limit", required_argument, NULL, OPTION_LIMIT},
        {"vm", required_argument, NULL, OPTION_VM},
        {"node", required_argument, NULL, OPTION_NODE},
        {NULL, 0, NULL, 0},
    };
    int status = CLI_OK;
    int option;
    while (status == CLI_OK &&
           (option = getopt_long(argc, argv, ":f", options, NULL)) != -1) {
        switch (option) {
        case 'f':
        case OPTION_FOLLOW:
            query->follow = true;
            break;
        case OPTION_AFTER:
            query->has_after = true;
            status = cli_parse_number("events", "--after", optarg, 0, UINT64_MAX,
                                      &query->after);
            break;
        case OPTION_LIMIT:
            status = cli_parse_number("events", "--limit", optarg, 1, LIMIT_MAX,
                                      &query->limit);
            break;
        case OPTION_VM:
            query->vm = optarg;
            break;
        case OPTION_NODE:
            query->node = optarg;
            break;
        default:
            return cli_bad_option("events", argv, option);
        }
    }
    if (status != CLI_OK) {
        return status;
    }
    if ((query->vm != NULL && !id_name_valid(query->vm)) ||
        (query->node != NULL && !id_name_valid(query->node))) {
        return cli_usage("events", "--vm and --node take names");
    }
    return optind == argc ? CLI_OK : cli_usage("events", "what is %s?", argv[optind]);
}

static void print_event(const struct cli *cli, const json_t *event)
{
    if (cli->json) {
        (void)json_dumpf(event, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
        (void)putchar('\n');
        return;
    }
    char when[CLI_TIME_SIZE];
    (void)printf("%6" PRIu64 "  %s  %-22s  %s\n", cli_number(event, "index"),
                 cli_time(cli_number(event, "unix_ms"), when), cli_text(event, "kind"),
                 cli_text(event, "text"));
    const json_t *proof = json_object_get(event, "proof");
    if (json_is_object(proof)) {
        (void)printf("%6s  proof: %s, %s (judged by %s, term %" PRIu64 ")\n", "",
                     cli_text(proof, "kind"), cli_text(proof, "detail"),
                     cli_text(proof, "judged_by"), cli_number(proof, "term"));
    }
}

static int fetch(struct cli *cli, const struct query *query, unsigned wait_ms,
                 json_t **ret_answer)
{
    char after[40] = "";
    if (query->has_after) {
        (void)snprintf(after, sizeof(after), "&after=%" PRIu64, query->after);
    }
    return cli_call(
        cli, "GET", NULL, ret_answer, "/events?limit=%" PRIu64 "%s&wait_ms=%u%s%s%s%s",
        query->limit, after, wait_ms, query->vm != NULL ? "&vm=" : "",
        query->vm != NULL ? query->vm : "", query->node != NULL ? "&node=" : "",
        query->node != NULL ? query->node : "");
}

int cli_events(struct cli *cli, int argc, char **argv)
{
    struct query query = {.limit = LIMIT_DEFAULT};
    int status = parse(argc, argv, &query);
    unsigned wait_ms = 0;
    while (status == CLI_OK) {
        json_t *answer = NULL;
        status = fetch(cli, &query, wait_ms, &answer);
        if (status != CLI_OK) {
            return status;
        }
        size_t index;
        json_t *event;
        json_array_foreach(json_object_get(answer, "events"), index, event)
        {
            print_event(cli, event);
        }
        (void)fflush(stdout);
        query.has_after = true;
        query.after = cli_number(answer, "last_index");
        json_decref(answer);
        if (!query.follow) {
            break;
        }
        wait_ms = FOLLOW_WAIT_MS;
    }
    return status;
}
