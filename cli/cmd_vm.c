/* SPDX-License-Identifier: Apache-2.0 */
/* drover vm: list, show, start, stop, kill, pause, resume, migrate, cancel, console,
 * delete. */
#include "cli/cmd_vm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/id.h"
#include "cli/table.h"
#include "cli/vm_wait.h"

#define MIGRATION_WAIT_S 3600u

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

static void print_text(const json_t *object, const char *before, const char *field)
{
    const char *text = json_string_value(json_object_get(object, field));
    if (text != NULL && text[0] != '\0') {
        (void)printf("%s%s", before, text);
    }
}

static void print_number(const json_t *object, const char *before, const char *field)
{
    if (cli_number(object, field) != 0) {
        (void)printf("%s%" PRIu64, before, cli_number(object, field));
    }
}

static void print_flag(const json_t *object, const char *text, const char *field)
{
    if (json_is_true(json_object_get(object, field))) {
        (void)printf("%s", text);
    }
}

static void print_disk(const json_t *disk)
{
    bool cdrom = json_is_true(json_object_get(disk, "cdrom"));
    (void)printf("%s%s", cdrom ? "CD-ROM    " : "disk      ", cli_text(disk, "path"));
    print_text(disk, ", ", "format");
    print_flag(disk, ", read-only", "readonly");
    print_flag(disk, ", direct", "direct");
    print_text(disk, ", serial ", "serial");
    print_number(disk, ", queues ", "queues");
    print_number(disk, ", IOPS at most ", "iops");
    print_text(disk, ", bytes a second at most ", "bandwidth");
    print_number(disk, ", boot ", "boot");
    print_text(disk, ", key in ", "key_file");
    (void)printf("\n");
}

static void print_nic(const json_t *nic)
{
    (void)printf("network   bridge %s, %s", cli_text(nic, "bridge"),
                 cli_text(nic, "mac"));
    print_number(nic, ", queues ", "queues");
    print_number(nic, ", MTU ", "mtu");
    print_text(nic, ", bytes a second at most ", "bandwidth");
    print_flag(nic, ", any MAC", "any_mac");
    print_number(nic, ", boot ", "boot");
    print_text(nic, ", vhost ", "vhost");
    (void)printf("\n");
}

static void print_guest_memory(const json_t *vm)
{
    char size[CLI_SIZE_SIZE];
    const json_t *seen = json_object_get(vm, "guest_memory");
    const char *wanted = cli_text(vm, "memory_wanted");
    if (strcmp(wanted, cli_text(json_object_get(vm, "spec"), "memory")) != 0) {
        (void)printf("balloon   %s wanted", wanted);
        if (json_is_object(seen)) {
            (void)printf(", %s now", cli_size(cli_number(seen, "actual_bytes"), size));
        }
        (void)printf("\n");
    }
    if (cli_number(seen, "total_bytes") != 0) {
        (void)printf("in guest  %s free", cli_size(cli_number(seen, "free_bytes"), size));
        (void)printf(", %s available",
                     cli_size(cli_number(seen, "available_bytes"), size));
        (void)printf(" of %s\n", cli_size(cli_number(seen, "total_bytes"), size));
    }
}

static void print_spec(const json_t *spec)
{
    size_t index;
    json_t *item;
    (void)printf("memory    %s", cli_text(spec, "memory"));
    print_flag(spec, ", huge pages", "huge_pages");
    print_flag(spec, ", mergeable", "mergeable");
    print_flag(spec, ", preallocated", "prealloc");
    (void)printf("\nCPUs      %" PRIu64, cli_number(spec, "cpus"));
    print_text(spec, ", ", "cpu_model");
    print_number(spec, ", weight ", "cpu_weight");
    print_number(spec, ", percent at most ", "cpu_quota");
    print_text(spec, ", on processors ", "cpu_affinity");
    (void)printf("\nHA        %s\n",
                 json_is_true(json_object_get(spec, "ha")) ? "yes" : "no");
    if (strcmp(cli_text(spec, "firmware"), "-") != 0) {
        (void)printf("firmware  %s", cli_text(spec, "firmware"));
        print_text(spec, ", variables in ", "vars");
        (void)printf("\n");
    } else {
        (void)printf("kernel    %s\n", cli_text(spec, "kernel"));
        (void)printf("initrd    %s\n", cli_text(spec, "initrd"));
        (void)printf("cmdline   %s\n", cli_text(spec, "cmdline"));
    }
    json_array_foreach(json_object_get(spec, "disks"), index, item)
    {
        print_disk(item);
    }
    json_array_foreach(json_object_get(spec, "nics"), index, item)
    {
        print_nic(item);
    }
    if (cli_number(spec, "vsock_cid") != 0) {
        (void)printf("vsock     CID %" PRIu64 "\n", cli_number(spec, "vsock_cid"));
    }
    if (strcmp(cli_text(spec, "on_panic"), "-") != 0) {
        (void)printf("on panic  %s\n", cli_text(spec, "on_panic"));
    }
}

/* Which agents of older versions, and moves that met one, do not tell. */
static void print_encryption(const json_t *encryption, const char *title)
{
    const char *source = cli_text(encryption, "source");
    const char *target = cli_text(encryption, "target");
    bool known = strcmp(source, "kernel") == 0 || strcmp(source, "relay") == 0 ||
                 strcmp(target, "kernel") == 0 || strcmp(target, "relay") == 0;
    if (known) {
        (void)printf("%s encrypted at its source by: %s, at its target by: %s\n", title,
                     source, target);
    }
}

static void print_figures(const json_t *figures, const char *title)
{
    char sent[CLI_SIZE_SIZE];
    (void)printf(
        "%s total %" PRIu64 " ms, downtime %.1f ms (predicted %.1f ms), %s sent, %" PRIu64
        " rounds\n",
        title, cli_number(figures, "total_ms"),
        json_number_value(json_object_get(figures, "downtime_ms")),
        json_number_value(json_object_get(figures, "predicted_downtime_ms")),
        cli_size(cli_number(figures, "bytes_sent"), sent), cli_number(figures, "rounds"));
    if (cli_number(figures, "postcopy_pages") != 0) {
        (void)printf("%s after the guest ran on its target: %" PRIu64 " pages\n", title,
                     cli_number(figures, "postcopy_pages"));
    }
    if (strcmp(cli_text(figures, "transport"), "rdma") == 0) {
        (void)printf("%s over RDMA: this move was not encrypted\n", title);
    } else {
        print_encryption(json_object_get(figures, "encryption"), title);
    }
    if (strcmp(cli_text(figures, "notice"), "-") != 0) {
        (void)printf("%s notice: %s\n", title, cli_text(figures, "notice"));
    }
}

int cli_vm_show_answer(struct cli *cli, const json_t *vm)
{
    if (cli->json) {
        cli_print_json(vm);
        return CLI_OK;
    }
    (void)printf("name      %s (id %" PRIu64 ")\n", cli_text(vm, "name"),
                 cli_number(vm, "id"));
    (void)printf("state     %s, wanted %s\n", cli_text(vm, "state"),
                 cli_text(vm, "wanted"));
    if (strcmp(cli_text(vm, "reason"), "-") != 0) {
        (void)printf("reason    %s\n", cli_text(vm, "reason"));
    }
    (void)printf("host      %s, epoch %" PRIu64 "\n", cli_text(vm, "host"),
                 cli_number(vm, "epoch"));
    print_number(vm, "crashes   ", "panics");
    (void)printf("%s", cli_number(vm, "panics") != 0 ? "\n" : "");
    print_spec(json_object_get(vm, "spec"));
    print_guest_memory(vm);
    const json_t *migration = json_object_get(vm, "migration");
    if (json_is_object(migration)) {
        (void)printf("migration %s -> %s, %s, %" PRIu64 " %%\n",
                     cli_text(migration, "source"), cli_text(migration, "target"),
                     cli_text(migration, "phase"),
                     cli_number(migration, "progress_percent"));
    }
    const json_t *postcopy = json_object_get(vm, "postcopy");
    if (json_is_object(postcopy)) {
        char left[CLI_SIZE_SIZE];
        (void)printf("post-copy memory is still on %s%s: %s\n",
                     cli_text(postcopy, "source"),
                     json_is_true(json_object_get(postcopy, "lost")) ? ", which is lost"
                     : json_is_true(json_object_get(postcopy, "interrupted"))
                         ? ", the connection is lost"
                         : "",
                     cli_size(cli_number(postcopy, "bytes_remaining"), left));
    }
    const json_t *figures = json_object_get(vm, "last_migration");
    if (json_is_object(figures)) {
        print_figures(figures, "last move");
    }
    return CLI_OK;
}

static int check_name(const char *verb, int argc, char **argv, int index)
{
    if (index + 1 != argc || !id_name_valid(argv[index])) {
        return cli_usage(verb, "give the name of one VM (`drover vm list`)");
    }
    return CLI_OK;
}

static int run_show(struct cli *cli, int argc, char **argv)
{
    int status = check_name("vm show", argc, argv, 1);
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
    int status = check_name(verb, argc, argv, optind);
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

struct migrate_options {
    json_t *body;
    bool wait;
    bool predict;
    uint64_t timeout_s;
};

static int parse_transport(json_t *body, const char *text)
{
    if (strcmp(text, "tcp") != 0 && strcmp(text, "rdma") != 0 && strcmp(text, "auto") != 0) {
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
    uint64_t number = 0;
    int status = CLI_OK;
    int option;
    while (status == CLI_OK &&
           (option = getopt_long(argc, argv, ":", known, NULL)) != -1) {
        const char *key = option == OPTION_DEADLINE ? "deadline_s" : "max_downtime_ms";
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
            status = cli_parse_number(
                verb, option == OPTION_DEADLINE ? "--deadline" : "--max-downtime", optarg,
                1, UINT32_MAX, &number);
            if (status == CLI_OK &&
                json_object_set_new(options->body, key,
                                    json_integer((json_int_t)number)) != 0) {
                status = cli_fail("out of memory");
            }
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
    return status != CLI_OK ? status : check_name(verb, argc, argv, optind);
}

static int run_migrate(struct cli *cli, int argc, char **argv)
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
            print_figures(figures, "         ");
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

static int simple(struct cli *cli, int argc, char **argv, const char *verb,
                  const char *method, const char *action, const char *done)
{
    int status = check_name(verb, argc, argv, 1);
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
    {"migrate", run_migrate, "moves a running VM to another host",
     "usage: drover vm migrate VM [--to HOST] [--max-downtime MS] [--deadline SECONDS] "
     "[--predict]\n"
     "                        [--transport tcp|rdma|auto]\n"
     "                        [--post-copy auto|never|now] [--no-wait] [--timeout SECONDS]\n"
     "\n"
     "  --to HOST          where to; else the cluster chooses\n"
     "  --max-downtime MS  the longest pause that the guest may see\n"
     "  --deadline S       how long the whole move may take\n"
     "  --predict          measure guest and network, tell what the move would be like, "
     "and move nothing\n"
     "  --transport tcp    encrypted (the default)\n"
     "  --transport rdma   over RDMA, NOT encrypted: only if `drover cluster set "
     "allow-unencrypted-rdma on` allows\n"
     "                     it; where a host can't, over TCP, encrypted, with a notice\n"
     "  --transport auto   rdma where the cluster allows it, else tcp\n"
     "  --post-copy WHEN   let the guest run on the target before all its memory is there: "
     "never (default),\n"
     "                     auto (if the goals can't be met otherwise), or now. Until all "
     "has come it needs both\n"
     "                     hosts: a lost link is waited for, a lost source starts the VM "
     "anew\n"
     "  --no-wait          do not wait for the end\n"
     "\n"
     "Shows progress on a terminal. Ctrl-C cancels the move: the VM runs on where it "
     "was (in post-copy it is too late for that).\n"},
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
