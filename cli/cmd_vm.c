/* SPDX-License-Identifier: Apache-2.0 */
/* drover vm: its commands; those that take one call each are here. */
#include "cli/cmd_vm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/id.h"
#include "cli/table.h"
#include "cli/vm_wait.h"

enum { OPTION_NO_WAIT = 1, OPTION_TIMEOUT };

static int table_vms(const json_t *vms)
{
    static const char *const titles[] = {"NAME",   "STATE", "HOST",   "EPOCH", "CPUS",
                                         "MEMORY", "HA",    "REASON", NULL};
    struct table *table = table_create(titles);
    if (table == NULL) {
        return cli_fail("out of memory");
    }
    size_t index;
    json_t *vm;
    int failed = 0;
    json_array_foreach(vms, index, vm)
    {
        const json_t *spec = json_object_get(vm, "spec");
        const char *reason = cli_text(vm, "reason");
        failed |= table_cell(table, "%s", cli_text(vm, "name"));
        failed |= table_cell(table, "%s", cli_text(vm, "state"));
        failed |= table_cell(table, "%s", cli_text(vm, "host"));
        failed |= table_cell(table, "%" PRIu64, cli_number(vm, "epoch"));
        failed |= table_cell(table, "%" PRIu64, cli_number(spec, "cpus"));
        failed |= table_cell(table, "%s", cli_text(spec, "memory"));
        failed |= table_cell(table, "%s",
                             json_is_true(json_object_get(spec, "ha")) ? "yes" : "no");
        failed |= table_cell(table, "%s", strcmp(reason, "-") == 0 ? "" : reason);
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
        return cli_usage("vm list", "what is %s?", argv[1]);
    }
    json_t *answer = NULL;
    int status = cli_call(cli, "GET", NULL, &answer, "/vms");
    if (status != CLI_OK) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        status = table_vms(json_object_get(answer, "vms"));
    }
    json_decref(answer);
    return status;
}

int cli_vm_check_name(const char *verb, int argc, char **argv, int index)
{
    if (index + 1 != argc || !id_name_valid(argv[index])) {
        return cli_usage(verb, "give the name of one VM (`drover vm list`)");
    }
    return CLI_OK;
}

static int run_show(struct cli *cli, int argc, char **argv)
{
    int status = cli_vm_check_name("vm show", argc, argv, 1);
    json_t *vm = NULL;
    if (status == CLI_OK) {
        status = cli_call(cli, "GET", NULL, &vm, "/vms/%s", argv[1]);
    }
    if (status == CLI_OK) {
        status = cli_vm_show_answer(cli, vm);
    }
    json_decref(vm);
    return status;
}

/* One of the actions without a body: posts it, waits for `state`, shows the VM. */
static int act(struct cli *cli, int argc, char **argv, const char *action,
               const char *state)
{
    static const struct option known[] = {
        {"no-wait", no_argument, NULL, OPTION_NO_WAIT},
        {"timeout", required_argument, NULL, OPTION_TIMEOUT},
        {NULL, 0, NULL, 0},
    };
    char verb[32];
    (void)snprintf(verb, sizeof(verb), "vm %s", action);
    uint64_t timeout_s = CLI_WAIT_S_DEFAULT;
    bool wait = true;
    int option;
    while ((option = getopt_long(argc, argv, ":", known, NULL)) != -1) {
        if (option == OPTION_NO_WAIT) {
            wait = false;
        } else if (option != OPTION_TIMEOUT) {
            return cli_bad_option(verb, argv, option);
        } else if (cli_parse_number(verb, "--timeout", optarg, 1, 86400, &timeout_s) !=
                   CLI_OK) {
            return CLI_USAGE;
        }
    }
    int status = cli_vm_check_name(verb, argc, argv, optind);
    if (status != CLI_OK) {
        return status;
    }
    json_t *vm = NULL;
    status = cli_call(cli, "POST", NULL, &vm, "/vms/%s/%s", argv[optind], action);
    if (status == CLI_OK && wait) {
        status = vm_wait_state(cli, argv[optind], state, (unsigned)timeout_s, &vm);
    }
    if (status == CLI_OK) {
        status = cli_vm_show_answer(cli, vm);
    }
    json_decref(vm);
    return status;
}

static int run_start(struct cli *cli, int argc, char **argv)
{
    return act(cli, argc, argv, "start", "running");
}

static int run_stop(struct cli *cli, int argc, char **argv)
{
    return act(cli, argc, argv, "stop", "stopped");
}

static int run_kill(struct cli *cli, int argc, char **argv)
{
    return act(cli, argc, argv, "kill", "stopped");
}

static int run_pause(struct cli *cli, int argc, char **argv)
{
    return act(cli, argc, argv, "pause", "paused");
}

static int run_resume(struct cli *cli, int argc, char **argv)
{
    return act(cli, argc, argv, "resume", "running");
}

static int simple(struct cli *cli, int argc, char **argv, const char *verb,
                  const char *method, const char *action, const char *done)
{
    int status = cli_vm_check_name(verb, argc, argv, 1);
    json_t *vm = NULL;
    if (status == CLI_OK) {
        status = cli_call(cli, method, NULL, &vm, "/vms/%s%s", argv[1], action);
    }
    if (status == CLI_OK && cli->json) {
        cli_print_json(vm);
    } else if (status == CLI_OK) {
        (void)printf("%s %s\n", done, argv[1]);
    }
    json_decref(vm);
    return status;
}

static int run_balloon(struct cli *cli, int argc, char **argv)
{
    static const char verb[] = "vm balloon";
    if (argc != 3 || !id_name_valid(argv[1])) {
        return cli_usage(verb, "give the name of one VM and a size (512M), or `all`");
    }
    bool all = strcmp(argv[2], "all") == 0;
    json_t *body = json_pack("{s:s}", "memory", all ? "" : argv[2]);
    if (body == NULL) {
        return cli_usage(verb, "the size is no UTF-8 text");
    }
    json_t *vm = NULL;
    int status = cli_call(cli, "POST", body, &vm, "/vms/%s/balloon", argv[1]);
    if (status == CLI_OK) {
        status = cli_vm_show_answer(cli, vm);
    }
    json_decref(vm);
    return status;
}

static int run_cancel(struct cli *cli, int argc, char **argv)
{
    return simple(cli, argc, argv, "vm cancel", "POST", "/cancel",
                  "cancelling the migration of");
}

static int run_delete(struct cli *cli, int argc, char **argv)
{
    return simple(cli, argc, argv, "vm delete", "DELETE", "", "deleted");
}

#define WAIT_HELP                                                                        \
    "\n  --no-wait          do not wait for it\n  --timeout SECONDS  how long to wait "  \
    "(default 120)\n"

static const struct cli_command commands[] = {
    {"create", cli_vm_create, "describes a VM and starts it", cli_vm_create_help},
    {"apply", cli_vm_apply, "creates the VM that a YAML file describes",
     cli_vm_apply_help},
    {"list", run_list, "all VMs", "usage: drover vm list [--json]\n"},
    {"show", run_show, "one VM", "usage: drover vm show VM [--json]\n"},
    {"start", run_start, "starts a stopped VM",
     "usage: drover vm start VM [--no-wait] [--timeout SECONDS]\n" WAIT_HELP},
    {"stop", run_stop,
     "presses the power button; ends it after 60 s if the guest has not",
     "usage: drover vm stop VM [--no-wait] [--timeout SECONDS]\n" WAIT_HELP},
    {"kill", run_kill, "ends a VM at once, like pulling its plug",
     "usage: drover vm kill VM [--no-wait] [--timeout SECONDS]\n" WAIT_HELP},
    {"pause", run_pause, "holds a VM where it stands",
     "usage: drover vm pause VM [--no-wait] [--timeout SECONDS]\n" WAIT_HELP},
    {"resume", run_resume, "lets a paused VM go on",
     "usage: drover vm resume VM [--no-wait] [--timeout SECONDS]\n" WAIT_HELP},
    {"migrate", cli_vm_migrate, "moves a running VM to another host", cli_vm_migrate_help},
    {"balloon", run_balloon, "takes memory from a running guest, or gives it back",
     "usage: drover vm balloon VM SIZE|all\n"
     "\n"
     "  SIZE   memory that the guest shall have (512M), at most what it is described "
     "with\n"
     "\n"
     "The guest gives memory back as it can (it needs the virtio_balloon driver; `drover "
     "vm show VM` tells what it has),\n"
     "and keeps what it needs when it runs short.\n"},
    {"cancel", run_cancel, "cancels a migration that is under way",
     "usage: drover vm cancel VM\n"},
    {"console", cli_vm_console, "the VM's serial port on this terminal",
     "usage: drover vm console [--lines N | --no-history] VM\n"
     "\n"
     "From any host of the cluster. What the guest wrote last (64 KiB) is shown first; "
     "--lines N: its last N lines\n"
     "only; --no-history: nothing of it. Several may look at once. Ctrl-] leaves; when "
     "stdin is no terminal, it ends\n"
     "after stdin and a second of silence.\n"},
    {"delete", run_delete, "forgets a stopped VM; its disks are not touched",
     "usage: drover vm delete VM\n"},
    {NULL, NULL, NULL, NULL},
};

const struct cli_noun *cli_vm_noun(void)
{
    static const struct cli_noun noun = {"vm", "virtual machines", commands};
    return &noun;
}
