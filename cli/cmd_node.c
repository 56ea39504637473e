/* SPDX-License-Identifier: Apache-2.0 */
/* drover node: list, show, drain, undrain. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/id.h"
#include "cli/cli.h"
#include "cli/table.h"

#define DRAIN_POLL_MS 500u

static int table_nodes(const json_t *nodes)
{
    static const char *const titles[] = {"NAME",   "STATE", "LEADER",   "VMS",     "CPUS",
                                         "MEMORY", "USED",  "WATCHDOG", "ADDRESS", NULL};
    struct table *table = table_create(titles);
    if (table == NULL) {
        return cli_fail("out of memory");
    }
    size_t index;
    json_t *node;
    int failed = 0;
    json_array_foreach(nodes, index, node)
    {
        char used[CLI_SIZE_SIZE];
        bool draining = json_is_true(json_object_get(node, "draining"));
        failed |= table_cell(table, "%s", cli_text(node, "name"));
        failed |= table_cell(table, "%s%s", cli_text(node, "state"),
                             draining ? ", draining" : "");
        failed |= table_cell(table, "%s",
                             json_is_true(json_object_get(node, "leader")) ? "yes" : "");
        failed |= table_cell(table, "%zu", json_array_size(json_object_get(node, "vms")));
        failed |= table_cell(table, "%" PRIu64, cli_number(node, "cpus"));
        failed |= table_cell(table, "%s", cli_text(node, "memory"));
        failed |= table_cell(table, "%s",
                             cli_size(cli_number(node, "memory_used_bytes"), used));
        failed |=
            cli_number(node, "watchdog_ms") == 0
                ? table_cell(table, "none")
                : table_cell(table, "%" PRIu64 " ms", cli_number(node, "watchdog_ms"));
        failed |= table_cell(table, "%s", cli_text(node, "address"));
    }
    if (failed == 0) {
        table_print(table, stdout);
    }
    table_free(table);
    return failed == 0 ? CLI_OK : cli_fail("out of memory");
}

static int run_list(struct cli *cli, int argc, char **argv)
{
    if (argc > 1) {
        return cli_usage("node list", "what is %s?", argv[1]);
    }
    json_t *answer = NULL;
    int status = cli_call(cli, "GET", NULL, &answer, "/nodes");
    if (status != CLI_OK) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        status = table_nodes(json_object_get(answer, "nodes"));
    }
    json_decref(answer);
    return status;
}

static void print_node(const json_t *node)
{
    char used[CLI_SIZE_SIZE];
    (void)printf("name      %s (id %" PRIu64 ")%s\n", cli_text(node, "name"),
                 cli_number(node, "id"),
                 json_is_true(json_object_get(node, "witness")) ? ", witness" : "");
    (void)printf("state     %s%s%s\n", cli_text(node, "state"),
                 json_is_true(json_object_get(node, "leader")) ? ", leader" : "",
                 json_is_true(json_object_get(node, "draining")) ? ", draining" : "");
    (void)printf("address   %s, API %s\n", cli_text(node, "address"),
                 cli_text(node, "api_address"));
    (void)printf("memory    %s, %s of it given to VMs\n", cli_text(node, "memory"),
                 cli_size(cli_number(node, "memory_used_bytes"), used));
    (void)printf("CPUs      %" PRIu64 "\n", cli_number(node, "cpus"));
    if (cli_number(node, "watchdog_ms") == 0) {
        (void)printf(
            "watchdog  none armed: its VMs can't be restarted elsewhere by themselves\n");
    } else {
        (void)printf("watchdog  %" PRIu64 " ms\n", cli_number(node, "watchdog_ms"));
    }
    (void)printf("version   %s\n", cli_text(node, "version"));
    (void)printf("VMs      ");
    size_t index;
    json_t *vm;
    json_array_foreach(json_object_get(node, "vms"), index, vm)
    {
        (void)printf(" %s", json_string_value(vm) != NULL ? json_string_value(vm) : "?");
    }
    (void)printf("\n");
    const json_t *proof = json_object_get(node, "proof");
    if (json_is_object(proof)) {
        (void)printf("last death %s: %s (judged by %s)\n", cli_text(proof, "kind"),
                     cli_text(proof, "detail"), cli_text(proof, "judged_by"));
    }
}

static int fetch_node(struct cli *cli, const char *verb, int argc, char **argv,
                      const char *method, const char *action, json_t **ret_node)
{
    if (argc != 2 || !id_name_valid(argv[1])) {
        return cli_usage(verb, "give the name of one host (`drover node list`)");
    }
    return cli_call(cli, method, NULL, ret_node, "/nodes/%s%s", argv[1], action);
}

static int show_and_free(struct cli *cli, json_t *node)
{
    if (cli->json) {
        cli_print_json(node);
    } else {
        print_node(node);
    }
    json_decref(node);
    return CLI_OK;
}

static int run_show(struct cli *cli, int argc, char **argv)
{
    json_t *node = NULL;
    int status = fetch_node(cli, "node show", argc, argv, "GET", "", &node);
    return status != CLI_OK ? status : show_and_free(cli, node);
}

/* VMs that are on it, or have left it and still need memory that is there. */
static size_t vms_left(const json_t *node)
{
    return json_array_size(json_object_get(node, "vms")) +
           json_array_size(json_object_get(node, "memory_of"));
}

/* Waits until the host has no VMs left. An interrupt takes the drain back. */
static int wait_drained(struct cli *cli, const char *name, json_t *node)
{
    size_t last = SIZE_MAX;
    while (vms_left(node) > 0) {
        size_t left = vms_left(node);
        if (left != last && cli_shows_progress(cli)) {
            (void)fprintf(stderr, "%s: %zu VMs left\n", name, left);
        }
        last = left;
        json_decref(node);
        node = NULL;
        if (cli_sleep_ms(DRAIN_POLL_MS)) {
            if (cli_call(cli, "POST", NULL, &node, "/nodes/%s/undrain", name) != CLI_OK) {
                return CLI_FAIL;
            }
            json_decref(node);
            return cli_fail("cancelled: %s is not draining any more", name);
        }
        if (cli_call(cli, "GET", NULL, &node, "/nodes/%s", name) != CLI_OK) {
            return CLI_FAIL;
        }
        if (!json_is_true(json_object_get(node, "draining"))) {
            json_decref(node);
            return cli_fail("somebody has taken the drain of %s back", name);
        }
    }
    return show_and_free(cli, node);
}

static int run_drain(struct cli *cli, int argc, char **argv)
{
    json_t *node = NULL;
    int status = fetch_node(cli, "node drain", argc, argv, "POST", "/drain", &node);
    if (status != CLI_OK) {
        return status;
    }
    cli_catch_interrupt();
    return wait_drained(cli, argv[1], node);
}

static int run_undrain(struct cli *cli, int argc, char **argv)
{
    json_t *node = NULL;
    int status = fetch_node(cli, "node undrain", argc, argv, "POST", "/undrain", &node);
    return status != CLI_OK ? status : show_and_free(cli, node);
}

static const struct cli_command commands[] = {
    {"list", run_list, "all hosts", "usage: drover node list [--json]\n"},
    {"show", run_show, "one host", "usage: drover node show HOST [--json]\n"},
    {"drain", run_drain, "moves all VMs away from a host, and gives it no new ones",
     "usage: drover node drain HOST\n"
     "\n"
     "For maintenance. Waits until the host is empty; Ctrl-C takes the drain back.\n"},
    {"undrain", run_undrain, "lets a host have VMs again",
     "usage: drover node undrain HOST\n"},
    {NULL, NULL, NULL, NULL},
};

const struct cli_noun *cli_node_noun(void)
{
    static const struct cli_noun noun = {"node", "the cluster's hosts", commands};
    return &noun;
}
