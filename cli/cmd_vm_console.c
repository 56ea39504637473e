/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drover vm console: to the VM's own host, wherever this runs. On a host, another host's
 * API is asked with this host's own certificate.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"
#include "cli/client.h"
#include "cli/cmd_vm.h"
#include "cli/console.h"

#define VERB      "vm console"
#define LINES_MAX 65536

/* Where droverd keeps what it shows to others (docs/api.md). */
#define STATE_FOLDER "/var/lib/drover/"

enum option_key {
    OPTION_LINES = 256,
    OPTION_NO_HISTORY,
};

/* The VM's host, and its API's address when that is not the host that was asked. */
static int find_host(struct cli *cli, const char *name, char url[LIMIT_PATH_SIZE])
{
    json_t *vm = NULL;
    json_t *cluster = NULL;
    json_t *node = NULL;
    int status = cli_call(cli, "GET", NULL, &vm, "/vms/%s", name);
    if (status == CLI_OK) {
        status = cli_call(cli, "GET", NULL, &cluster, "/cluster");
    }
    url[0] = '\0';
    if (status == CLI_OK && json_is_null(json_object_get(vm, "host"))) {
        status = cli_fail("%s runs nowhere: start it (drover vm start %s)", name, name);
    } else if (status == CLI_OK &&
               strcmp(cli_text(vm, "host"), cli_text(cluster, "node")) != 0) {
        status = cli_call(cli, "GET", NULL, &node, "/nodes/%s", cli_text(vm, "host"));
        if (status == CLI_OK) {
            (void)snprintf(url, LIMIT_PATH_SIZE, "https://%s",
                           cli_text(node, "api_address"));
        }
    }
    json_decref(vm);
    json_decref(cluster);
    json_decref(node);
    return status;
}

static int parse(int argc, char **argv, struct console_options *ret_options)
{
    static const struct option options[] = {
        {"lines", required_argument, NULL, OPTION_LINES},
        {"no-history", no_argument, NULL, OPTION_NO_HISTORY},
        {NULL, 0, NULL, 0},
    };
    uint64_t lines = 0;
    int status = CLI_OK;
    int option;
    *ret_options = (struct console_options){.lines = CONSOLE_ALL_LINES};
    optind = 0;
    while (status == CLI_OK &&
           (option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        switch (option) {
        case OPTION_LINES:
            status = cli_parse_number(VERB, "--lines", optarg, 0, LINES_MAX, &lines);
            ret_options->lines = (unsigned)lines;
            break;
        case OPTION_NO_HISTORY:
            ret_options->lines = 0;
            break;
        default:
            return cli_bad_option(VERB, argv, option);
        }
    }
    if (status == CLI_OK && (optind + 1 != argc || !id_name_valid(argv[optind]))) {
        status = cli_usage(VERB, "give the name of one VM (`drover vm list`)");
    }
    return status;
}

int cli_vm_console(struct cli *cli, int argc, char **argv)
{
    struct console_options options;
    char url[LIMIT_PATH_SIZE];
    int status = parse(argc, argv, &options);
    const char *name = status == CLI_OK ? argv[optind] : "";
    if (status == CLI_OK) {
        status = find_host(cli, name, url);
    }
    if (status != CLI_OK) {
        return status;
    }
    struct client_config config = *cli->config;
    if (url[0] != '\0') {
        config.url = url;
        options.peer = true;
    }
    if (config.url != NULL && config.certificate_path == NULL) {
        config.ca_path = STATE_FOLDER "ca.pem";
        config.certificate_path = STATE_FOLDER "host.pem";
        config.key_path = STATE_FOLDER "host.key";
        if (access(config.key_path, R_OK) != 0) {
            return cli_fail("the console of %s is at %s, and %s can't be read: run this "
                            "as root, or give --ca, --cert and --key",
                            name, url, config.key_path);
        }
    }
    if (isatty(STDIN_FILENO) == 1) {
        (void)fprintf(stderr, "console of %s: Ctrl-] leaves it\n", name);
    }
    struct error err = {0};
    return console_run(&config, name, &options, &err) == 0 ? CLI_OK
                                                           : cli_fail("%s", err.text);
}
