/* SPDX-License-Identifier: Apache-2.0 */
/* drover cluster: init, status, set, token, join, remove. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/id.h"
#include "cli/cli.h"

/* As the API judges again. */
#define LEASE_MS_MIN 2000u
#define LEASE_MS_MAX 60000u

enum {
    OPTION_NAME = 1,
    OPTION_ADDRESS,
    OPTION_API_ADDRESS,
    OPTION_LEASE_MS,
    OPTION_WITNESS,
    OPTION_VALID
};

static const struct option member_options[] = {
    {"name", required_argument, NULL, OPTION_NAME},
    {"address", required_argument, NULL, OPTION_ADDRESS},
    {"api-address", required_argument, NULL, OPTION_API_ADDRESS},
    {"lease-ms", required_argument, NULL, OPTION_LEASE_MS},
    {"witness", no_argument, NULL, OPTION_WITNESS},
    {NULL, 0, NULL, 0},
};

/* Reads the options that init and join share into `body`. */
static int parse_member(const char *verb, int argc, char **argv, json_t *body)
{
    uint64_t number = 0;
    int option;
    while ((option = getopt_long(argc, argv, ":", member_options, NULL)) != -1) {
        int rv = 0;
        switch (option) {
        case OPTION_NAME:
            rv = json_object_set_new(body, "name", json_string(optarg));
            break;
        case OPTION_ADDRESS:
            rv = json_object_set_new(body, "address", json_string(optarg));
            break;
        case OPTION_API_ADDRESS:
            rv = json_object_set_new(body, "api_address", json_string(optarg));
            break;
        case OPTION_LEASE_MS:
            if (cli_parse_number(verb, "--lease-ms", optarg, LEASE_MS_MIN, LEASE_MS_MAX,
                                 &number) != CLI_OK) {
                return CLI_USAGE;
            }
            rv = json_object_set_new(body, "lease_ms", json_integer((json_int_t)number));
            break;
        case OPTION_WITNESS:
            rv = json_object_set_new(body, "witness", json_true());
            break;
        default:
            return cli_bad_option(verb, argv, option);
        }
        if (rv != 0) {
            return cli_usage(verb, "a value is no UTF-8 text");
        }
    }
    return CLI_OK;
}

static int print_membership(struct cli *cli, json_t *answer, const char *what)
{
    if (cli->json) {
        cli_print_json(answer);
    } else {
        (void)printf("%s %s as host %s (id %" PRIu64 ")\n", what,
                     cli_text(answer, "cluster_id"), cli_text(answer, "name"),
                     cli_number(answer, "host_id"));
    }
    json_decref(answer);
    return CLI_OK;
}

static int run_init(struct cli *cli, int argc, char **argv)
{
    json_t *body = json_object();
    int status = parse_member("cluster init", argc, argv, body);
    if (status == CLI_OK && optind < argc) {
        status = cli_usage("cluster init", "what is %s?", argv[optind]);
    }
    if (status != CLI_OK) {
        json_decref(body);
        return status;
    }
    json_t *answer = NULL;
    status = cli_call(cli, "POST", body, &answer, "/cluster/init");
    return status != CLI_OK ? status : print_membership(cli, answer, "made cluster");
}

static int run_join(struct cli *cli, int argc, char **argv)
{
    json_t *body = json_object();
    int status = parse_member("cluster join", argc, argv, body);
    if (status == CLI_OK && optind + 1 != argc) {
        status = cli_usage("cluster join",
                           "give one token, as `drover cluster token` printed it");
    }
    if (status == CLI_OK &&
        json_object_set_new(body, "token", json_string(argv[optind])) != 0) {
        status = cli_usage("cluster join", "the token is no text");
    }
    if (status != CLI_OK) {
        json_decref(body);
        return status;
    }
    json_t *answer = NULL;
    status = cli_call(cli, "POST", body, &answer, "/cluster/join");
    return status != CLI_OK ? status : print_membership(cli, answer, "joined cluster");
}

static int run_token(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {
        {"valid", required_argument, NULL, OPTION_VALID},
        {NULL, 0, NULL, 0},
    };
    uint64_t valid_s = 3600;
    int option;
    while ((option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (option != OPTION_VALID) {
            return cli_bad_option("cluster token", argv, option);
        }
        if (cli_parse_number("cluster token", "--valid", optarg, 60, 604800, &valid_s) !=
            CLI_OK) {
            return CLI_USAGE;
        }
    }
    if (optind < argc) {
        return cli_usage("cluster token", "what is %s?", argv[optind]);
    }
    json_t *body = json_pack("{s:I}", "valid_s", (json_int_t)valid_s);
    json_t *answer = NULL;
    int status = cli_call(cli, "POST", body, &answer, "/cluster/tokens");
    if (status != CLI_OK) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        (void)printf("%s\n", cli_text(answer, "token"));
    }
    json_decref(answer);
    return CLI_OK;
}

static void print_status(const json_t *answer)
{
    if (!json_is_true(json_object_get(answer, "formed"))) {
        (void)printf("This host is in no cluster. `drover cluster init` makes one, "
                     "`drover cluster join` joins one.\n");
        return;
    }
    const json_t *ha = json_object_get(answer, "ha");
    (void)printf("cluster   %s\n", cli_text(answer, "cluster_id"));
    (void)printf("this host %s\n", cli_text(answer, "node"));
    (void)printf("leader    %s (term %" PRIu64 ")\n", cli_text(answer, "leader"),
                 cli_number(answer, "term"));
    (void)printf("voters    %" PRIu64 " of %" PRIu64 " up; %" PRIu64 " more may fail\n",
                 cli_number(answer, "voters_up"), cli_number(answer, "voters"),
                 cli_number(answer, "failures_tolerated"));
    (void)printf("lease     %" PRIu64 " ms\n", cli_number(answer, "lease_ms"));
    if (json_is_true(json_object_get(ha, "on"))) {
        (void)printf("HA        on\n");
    } else {
        (void)printf("HA        off: %s\n", cli_text(ha, "why"));
    }
    (void)printf("VMs       %" PRIu64 " of %" PRIu64 " running\n",
                 cli_number(answer, "vms_running"), cli_number(answer, "vms"));
    if (json_is_true(json_object_get(json_object_get(answer, "settings"),
                                     "allow_unencrypted_rdma"))) {
        (void)printf("RDMA      allowed for moves that ask for it: they are not encrypted\n");
    }
    if (json_is_true(json_object_get(answer, "stale"))) {
        (void)printf("No leader: this is what the host last knew.\n");
    }
}

static int run_status(struct cli *cli, int argc, char **argv)
{
    if (argc > 1) {
        return cli_usage("cluster status", "what is %s?", argv[1]);
    }
    json_t *answer = NULL;
    int status = cli_call(cli, "GET", NULL, &answer, "/cluster");
    if (status != CLI_OK) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        print_status(answer);
    }
    json_decref(answer);
    return CLI_OK;
}

/* What can be set: as people write it, and as the API does. */
static const struct setting {
    const char *name, *field;
} settings[] = {
    {"allow-unencrypted-rdma", "allow_unencrypted_rdma"},
};

static const struct setting *setting_find(const char *name)
{
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (strcmp(name, settings[i].name) == 0) {
            return &settings[i];
        }
    }
    return NULL;
}

static int run_set(struct cli *cli, int argc, char **argv)
{
    if (argc != 3) {
        return cli_usage("cluster set",
                         "give a setting and a value: allow-unencrypted-rdma on|off");
    }
    const struct setting *setting = setting_find(argv[1]);
    bool on = strcmp(argv[2], "on") == 0;
    if (setting == NULL) {
        return cli_usage("cluster set", "no setting %s: there is allow-unencrypted-rdma",
                         argv[1]);
    }
    if (!on && strcmp(argv[2], "off") != 0) {
        return cli_usage("cluster set", "%s is on or off, not %s", setting->name, argv[2]);
    }
    json_t *answer = NULL;
    int status = cli_call(cli, "PUT", json_pack("{s:b}", setting->field, (int)on), &answer,
                          "/cluster/settings");
    if (status != CLI_OK) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        (void)printf("%s is %s\n", setting->name,
                     json_is_true(json_object_get(answer, setting->field)) ? "on" : "off");
    }
    json_decref(answer);
    return CLI_OK;
}

static int run_remove(struct cli *cli, int argc, char **argv)
{
    if (argc != 2 || !id_name_valid(argv[1])) {
        return cli_usage("cluster remove",
                         "give the name of one host (`drover node list`)");
    }
    json_t *answer = NULL;
    int status = cli_call(cli, "DELETE", NULL, &answer, "/cluster/members/%s", argv[1]);
    if (status != CLI_OK) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        (void)printf("removed host %s\n", argv[1]);
    }
    json_decref(answer);
    return CLI_OK;
}

static const struct cli_command commands[] = {
    {"init", run_init, "makes a new cluster of this host alone",
     "usage: drover cluster init [--address HOST[:PORT]] [--name NAME] [--api-address "
     "HOST:PORT] [--lease-ms MS]\n"
     "\n"
     "  --address HOST[:PORT]  this host's address for the other hosts (default: as droverd is configured,\n"
     "                         else its first one; port 7400)\n"
     "  --name NAME            its name in the cluster (default: the system's host "
     "name)\n"
     "  --api-address ADDRESS  where its HTTPS API listens (port 7401)\n"
     "  --lease-ms MS          2000 to 60000, default 5000: how long a host may run VMs "
     "without a word from\n"
     "                         the cluster. All the cluster's times follow from it; 5000 "
     "restarts a lost VM in 10 s\n"
     "\n"
     "example: drover cluster init --name n1 --address 10.0.0.1\n"},
    {"status", run_status, "who leads, how many hosts may fail, whether HA is on",
     "usage: drover cluster status [--json]\n"},
    {"set", run_set, "changes a setting of the whole cluster",
     "usage: drover cluster set allow-unencrypted-rdma on|off\n"
     "\n"
     "on: VMs may be moved over RDMA (`drover vm migrate NAME --transport rdma`), which nobody "
     "encrypts, and which lets\n"
     "a VMM use the host's RDMA devices: only on a network of your own. It counts for VMs that "
     "are started, or moved\n"
     "here, from then on. off (the default): no move begins that way any more.\n"
     "`drover cluster status --json` shows it.\n"},
    {"token", run_token, "prints a one-time token with which one host may join",
     "usage: drover cluster token [--valid SECONDS]\n"
     "\n"
     "The token carries the fingerprint of the cluster's CA: give it to the new host "
     "over a channel that you trust.\n"
     "It works once, for one hour unless --valid says otherwise (60 to 604800).\n"},
    {"join", run_join, "joins this host to the cluster of a token",
     "usage: drover cluster join TOKEN [--address HOST[:PORT]] [--name NAME] "
     "[--api-address HOST:PORT] [--witness]\n"
     "\n"
     "Run it on the host that is to join. With --witness it votes, but runs no VMs (for "
     "clusters of two).\n"
     "\n"
     "example: drover cluster join drover1.… --name n2 --address 10.0.0.2\n"},
    {"remove", run_remove, "takes a host out of the cluster for good",
     "usage: drover cluster remove HOST\n"
     "\n"
     "Refused while the host has VMs: `drover node drain HOST` first.\n"},
    {NULL, NULL, NULL, NULL},
};

const struct cli_noun *cli_cluster_noun(void)
{
    static const struct cli_noun noun = {"cluster", "the cluster as a whole", commands};
    return &noun;
}
