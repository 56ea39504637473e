/* SPDX-License-Identifier: Apache-2.0 */
/* `drover`: finds the command, opens the connection, runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "cli/cli.h"
#include "cli/client.h"

#define SOCKET_PATH_DEFAULT "/run/drover/api.sock"
#define REQUEST_TIMEOUT_S   90u

static const char usage_head[] =
    "drover - a cluster of servers that runs virtual machines\n"
    "\n"
    "usage: drover [--json] [--socket PATH | --url URL --ca FILE --cert FILE --key FILE] "
    "COMMAND\n"
    "\n";

static const char usage_tail[] =
    "  events             what happened, oldest first; --follow goes on\n"
    "\n"
    "  --json             print the API's JSON objects instead of tables\n"
    "  --quiet            no progress on stderr\n"
    "  --socket PATH      droverd's unix socket (default $DROVER_SOCKET, "
    "else " SOCKET_PATH_DEFAULT ")\n"
    "  --url URL          https://HOST:7401 of any host, with the cluster's CA and a "
    "certificate of it\n"
    "  --request-id ID    before COMMAND: asked again with the same ID (1 to 64 of A-Z, "
    "a-z, "
    "0-9, '.', '_', '-'),\n"
    "                     by any host, a command that was carried out is not carried out "
    "again: "
    "for scripts that\n"
    "                     got no answer; remembered for a day. Each command has one of "
    "its own "
    "without it.\n"
    "  --version\n"
    "\n"
    "`drover COMMAND --help` tells more, for example `drover vm create --help`.\n"
    "Exit status: 0 only when it did what was asked, 1 when it failed, 2 when it was "
    "used wrongly.\n"
    "\n"
    "A cluster of three, from nothing:\n"
    "  first host    drover cluster init --name n1 --address 10.0.0.1\n"
    "                drover cluster token\n"
    "  other hosts   drover cluster join TOKEN --name n2 --address 10.0.0.2\n"
    "  any host      drover vm create web --memory 512M --kernel /srv/vmlinuz --disk "
    "/srv/web.img\n";

static const struct cli_noun *noun_at(unsigned index)
{
    switch (index) {
    case 0:
        return cli_cluster_noun();
    case 1:
        return cli_node_noun();
    case 2:
        return cli_vm_noun();
    default:
        return NULL;
    }
}

static void print_verbs(FILE *out, const struct cli_noun *noun)
{
    for (const struct cli_command *command = noun->commands; command->verb != NULL;
         command++) {
        char name[40];
        (void)snprintf(name, sizeof(name), "%s %s", noun->name, command->verb);
        (void)fprintf(out, "  %-17s  %s\n", name, command->summary);
    }
}

static void print_usage(FILE *out)
{
    (void)fputs(usage_head, out);
    for (unsigned i = 0; noun_at(i) != NULL; i++) {
        print_verbs(out, noun_at(i));
    }
    (void)fputs(usage_tail, out);
}

static int run_verb(struct cli *cli, const struct cli_noun *noun, int argc, char **argv)
{
    if (argc < 1 || strcmp(argv[0], "--help") == 0) {
        FILE *out = argc < 1 ? stderr : stdout;
        (void)fprintf(out, "drover %s - %s\n\n", noun->name, noun->summary);
        print_verbs(out, noun);
        return argc < 1 ? CLI_USAGE : CLI_OK;
    }
    for (const struct cli_command *command = noun->commands; command->verb != NULL;
         command++) {
        if (strcmp(command->verb, argv[0]) != 0) {
            continue;
        }
        for (int i = 1; i < argc; i++) {
            if (strcmp(argv[i], "--help") == 0) {
                (void)printf("%s\n\n%s", command->summary, command->help);
                return CLI_OK;
            }
        }
        return command->run(cli, argc, argv);
    }
    return cli_usage(noun->name, "no such command: %s", argv[0]);
}

static int run_command(struct cli *cli, int argc, char **argv)
{
    for (unsigned i = 0; noun_at(i) != NULL; i++) {
        if (strcmp(noun_at(i)->name, argv[0]) == 0) {
            return run_verb(cli, noun_at(i), argc - 1, argv + 1);
        }
    }
    if (strcmp(argv[0], "events") == 0) {
        for (int i = 1; i < argc; i++) {
            if (strcmp(argv[i], "--help") == 0) {
                (void)fputs(cli_events_help(), stdout);
                return CLI_OK;
            }
        }
        return cli_events(cli, argc, argv);
    }
    (void)cli_fail("no such command: %s (drover --help lists them)", argv[0]);
    return CLI_USAGE;
}

enum {
    OPTION_SOCKET = 1,
    OPTION_URL,
    OPTION_CA,
    OPTION_CERT,
    OPTION_KEY,
    OPTION_REQUEST
};

/* --json and --quiet may stand anywhere: takes them out of argv. */
static int take_flags(struct cli *cli, int argc, char **argv)
{
    int kept = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            cli->json = true;
        } else if (strcmp(argv[i], "--quiet") == 0) {
            cli->quiet = true;
        } else {
            argv[kept++] = argv[i];
        }
    }
    argv[kept] = NULL;
    return kept;
}

static int parse_global(struct client_config *config, int argc, char **argv)
{
    static const struct option options[] = {
        {"socket", required_argument, NULL, OPTION_SOCKET},
        {"url", required_argument, NULL, OPTION_URL},
        {"ca", required_argument, NULL, OPTION_CA},
        {"cert", required_argument, NULL, OPTION_CERT},
        {"key", required_argument, NULL, OPTION_KEY},
        {"request-id", required_argument, NULL, OPTION_REQUEST},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "+:h", options, NULL)) != -1) {
        switch (option) {
        case OPTION_SOCKET:
            config->socket_path = optarg;
            break;
        case OPTION_URL:
            config->url = optarg;
            break;
        case OPTION_CA:
            config->ca_path = optarg;
            break;
        case OPTION_CERT:
            config->certificate_path = optarg;
            break;
        case OPTION_KEY:
            config->key_path = optarg;
            break;
        case OPTION_REQUEST:
            config->request_id = optarg;
            break;
        case 'h':
            print_usage(stdout);
            exit(CLI_OK);
        case 'v':
            (void)puts("drover " DROVER_VERSION);
            exit(CLI_OK);
        default:
            return cli_bad_option("", argv, option);
        }
    }
    if (config->request_id != NULL &&
        (config->request_id[0] == '\0' ||
         strspn(config->request_id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                    "0123456789._-") != strlen(config->request_id))) {
        return cli_usage("", "--request-id: use letters, digits, '.', '_' and '-'");
    }
    if (config->url != NULL &&
        (config->ca_path == NULL || config->certificate_path == NULL ||
         config->key_path == NULL)) {
        return cli_usage("", "--url needs --ca, --cert and --key");
    }
    return CLI_OK;
}

int main(int argc, char **argv)
{
    struct cli cli = {0};
    argc = take_flags(&cli, argc, argv);
    const char *socket_path = getenv("DROVER_SOCKET");
    struct client_config config = {
        .socket_path = socket_path != NULL ? socket_path : SOCKET_PATH_DEFAULT,
        .timeout_s = REQUEST_TIMEOUT_S,
    };
    int status = parse_global(&config, argc, argv);
    if (status != CLI_OK) {
        return status;
    }
    if (optind >= argc) {
        print_usage(stderr);
        return CLI_USAGE;
    }
    cli.config = &config;
    struct error err = {0};
    if (client_create(&config, &cli.client, &err) != 0) {
        return cli_fail("%s", err.text);
    }
    int first = optind;
    optind =
        0; /* each command reads its own options, in any order (getopt starts anew) */
    status = run_command(&cli, argc - first, argv + first);
    client_free(cli.client);
    if (fflush(stdout) != 0 && status == CLI_OK) {
        status = cli_fail("stdout can't be written");
    }
    return status;
}
