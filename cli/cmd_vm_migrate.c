/* SPDX-License-Identifier: Apache-2.0 */
/* drover vm migrate: what a move shall be like, and its report. */
#include "cli/cmd_vm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/id.h"
#include "cli/vm_wait.h"

#define MIGRATION_WAIT_S 3600u

const char cli_vm_migrate_help[] =
    "usage: drover vm migrate VM [--to HOST] [--max-downtime MS] [--deadline SECONDS] "
    "[--predict]\n"
    "                        [--transport tcp|rdma|auto]\n"
    "                        [--post-copy auto|never|now] [--no-wait] [--timeout "
    "SECONDS]\n"
    "\n"
    "  --to HOST          where to (--target is the same); else the cluster chooses\n"
    "  --max-downtime MS  the longest pause that the guest may see\n"
    "  --deadline S       how long the whole move may take\n"
    "  --predict          measure guest and network, tell what the move would be like, "
    "and move nothing\n"
    "  --transport tcp    encrypted (the default)\n"
    "  --transport rdma   over RDMA, NOT encrypted: only if `drover cluster set "
    "allow-unencrypted-rdma on` allows\n"
    "                     it; where a host can't, over TCP, encrypted, with a notice\n"
    "  --transport auto   rdma where the cluster allows it, else tcp\n"
    "  --post-copy WHEN   let the guest run on the target before all its memory is "
    "there: "
    "never (default),\n"
    "                     auto (if the goals can't be met otherwise), or now. Until all "
    "has come it needs both\n"
    "                     hosts: a lost link is waited for, a lost source starts the VM "
    "anew\n"
    "  --no-wait          do not wait for the end\n"
    "  --timeout SECONDS  how long to wait for it (default 3600); the move goes on after that\n"
    "\n"
    "Shows progress on a terminal. Ctrl-C cancels the move: the VM runs on where it "
    "was (in post-copy it is too late for that).\n";

enum {
    OPTION_TO = 1,
    OPTION_MAX_DOWNTIME,
    OPTION_DEADLINE,
    OPTION_PREDICT,
    OPTION_TRANSPORT,
    OPTION_POST_COPY,
    OPTION_NO_WAIT,
    OPTION_TIMEOUT
};

struct migrate_options {
    json_t *body;
    bool wait;
    bool predict;
    uint64_t timeout_s;
};

static int parse_transport(json_t *body, const char *text)
{
    if (strcmp(text, "tcp") != 0 && strcmp(text, "rdma") != 0 &&
        strcmp(text, "auto") != 0) {
        return cli_usage("vm migrate", "--transport takes tcp, rdma or auto");
    }
    return json_object_set_new(body, "transport", json_string(text)) == 0
               ? CLI_OK
               : cli_fail("out of memory");
}

static int parse_postcopy(const char *verb, const char *when, json_t *body)
{
    if (strcmp(when, "auto") != 0 && strcmp(when, "never") != 0 &&
        strcmp(when, "now") != 0) {
        return cli_usage(verb, "--post-copy takes auto, never or now");
    }
    return json_object_set_new(body, "postcopy", json_string(when)) == 0
               ? CLI_OK
               : cli_fail("out of memory");
}

static int parse_goal(const char *verb, int option, const char *text, json_t *body)
{
    bool deadline = option == OPTION_DEADLINE;
    uint64_t number = 0;
    int status = cli_parse_number(verb, deadline ? "--deadline" : "--max-downtime", text,
                                  1, UINT32_MAX, &number);
    if (status == CLI_OK &&
        json_object_set_new(body, deadline ? "deadline_s" : "max_downtime_ms",
                            json_integer((json_int_t)number)) != 0) {
        status = cli_fail("out of memory");
    }
    return status;
}

static int parse_migrate(int argc, char **argv, struct migrate_options *options)
{
    static const char verb[] = "vm migrate";
    static const struct option known[] = {
        {"to", required_argument, NULL, OPTION_TO},
        {"target", required_argument, NULL, OPTION_TO},
        {"max-downtime", required_argument, NULL, OPTION_MAX_DOWNTIME},
        {"deadline", required_argument, NULL, OPTION_DEADLINE},
        {"predict", no_argument, NULL, OPTION_PREDICT},
        {"transport", required_argument, NULL, OPTION_TRANSPORT},
        {"post-copy", required_argument, NULL, OPTION_POST_COPY},
        {"no-wait", no_argument, NULL, OPTION_NO_WAIT},
        {"timeout", required_argument, NULL, OPTION_TIMEOUT},
        {NULL, 0, NULL, 0},
    };
    int status = CLI_OK;
    int option;
    while (status == CLI_OK &&
           (option = getopt_long(argc, argv, ":", known, NULL)) != -1) {
        switch (option) {
        case OPTION_TO:
            status = id_name_valid(optarg)
                         ? CLI_OK
                         : cli_usage(verb, "--to takes the name of a host");
            if (status == CLI_OK &&
                json_object_set_new(options->body, "target", json_string(optarg)) != 0) {
                status = cli_fail("out of memory");
            }
            break;
        case OPTION_MAX_DOWNTIME:
        case OPTION_DEADLINE:
            status = parse_goal(verb, option, optarg, options->body);
            break;
        case OPTION_POST_COPY:
            status = parse_postcopy(verb, optarg, options->body);
            break;
        case OPTION_PREDICT:
            options->predict = true;
            if (json_object_set_new(options->body, "predict_only", json_true()) != 0) {
                status = cli_fail("out of memory");
            }
            break;
        case OPTION_TRANSPORT:
            status = parse_transport(options->body, optarg);
            break;
        case OPTION_NO_WAIT:
            options->wait = false;
            break;
        case OPTION_TIMEOUT:
            status = cli_parse_number(verb, "--timeout", optarg, 1, 86400,
                                      &options->timeout_s);
            break;
        default:
            return cli_bad_option(verb, argv, option);
        }
    }
    return status != CLI_OK ? status : cli_vm_check_name(verb, argc, argv, optind);
}

int cli_vm_migrate(struct cli *cli, int argc, char **argv)
{
    struct migrate_options options = {
        .body = json_object(), .wait = true, .timeout_s = MIGRATION_WAIT_S};
    int status = parse_migrate(argc, argv, &options);
    if (status != CLI_OK) {
        json_decref(options.body);
        return status;
    }
    const char *name = argv[optind];
    json_t *before = NULL, *vm = NULL;
    status = cli_call(cli, "POST", options.body, &before, "/vms/%s/migrate", name);
    if (status == CLI_OK && options.wait) {
        status = vm_wait_migration(cli, name, before, (unsigned)options.timeout_s, &vm);
        const json_t *figures = json_object_get(vm, "last_migration");
        if (status == CLI_OK && !cli->json && !options.predict) {
            (void)printf("%s moved from %s to %s\n", name, cli_text(before, "host"),
                         cli_text(vm, "host"));
            cli_vm_show_figures(figures, "         ");
        }
    }
    bool foretold = options.predict && options.wait; /* which was printed */
    if (status == CLI_OK && !foretold && (cli->json || !options.wait)) {
        status = cli_vm_show_answer(cli, options.wait ? vm : before);
    }
    json_decref(before);
    json_decref(vm);
    return status;
}
