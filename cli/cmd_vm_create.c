/* SPDX-License-Identifier: Apache-2.0 */
/* drover vm create, drover vm apply. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"
#include "cli/cmd_vm.h"
#include "cli/vm_file.h"
#include "cli/vm_spec.h"
#include "cli/vm_wait.h"

enum {
    OPTION_NAME = 1,
    OPTION_MEMORY,
    OPTION_CPUS,
    OPTION_KERNEL,
    OPTION_INITRD,
    OPTION_CMDLINE,
    OPTION_FIRMWARE,
    OPTION_DISK,
    OPTION_NET,
    OPTION_NO_HA,
    OPTION_NO_START,
    OPTION_NO_WAIT,
    OPTION_TIMEOUT,
};

struct create_options {
    bool start, wait;
    uint64_t timeout_s;
};

const char cli_vm_create_help[] =
    "usage: drover vm create NAME --memory SIZE --kernel FILE [--initrd FILE] "
    "[--cmdline TEXT]\n"
    "                        [--cpus N] [--disk PATH[,ro][,direct]]... [--net "
    "default|[bridge=NAME][,mac=MAC]]...\n"
    "                        [--no-ha] [--no-start] [--no-wait] [--timeout SECONDS]\n"
    "\n"
    "  --memory SIZE    512M, 4G...\n"
    "  --disk PATH      raw file or block device; the same path on every host that may "
    "run the VM. ro: read-only;\n"
    "                   direct: past the host's cache (always so for block devices)\n"
    "  --net            a network card on a bridge of the host\n"
    "  --no-ha          is not restarted on another host when its own dies, and runs on "
    "when that has no lease\n"
    "  --no-start       only describe it\n"
    "  --no-wait        do not wait until it runs (at most --timeout seconds, default "
    "120)\n"
    "\n"
    "example:\n"
    "  drover vm create web --memory 512M --cpus 2 --kernel /srv/vmlinuz --initrd "
    "/srv/initrd.img \\\n"
    "      --cmdline 'root=/dev/vda console=ttyS0' --disk /srv/web.img --net default\n";

const char cli_vm_apply_help[] =
    "usage: drover vm apply -f FILE [--no-wait] [--timeout SECONDS]\n"
    "\n"
    "Creates the VM that the YAML file describes, unless it is there already, just so. "
    "\"-\" reads stdin.\n"
    "\n"
    "  name: web\n"
    "  memory: 512M\n"
    "  cpus: 2\n"
    "  kernel: /srv/vmlinuz\n"
    "  initrd: /srv/initrd.img\n"
    "  cmdline: root=/dev/vda console=ttyS0\n"
    "  disks:\n"
    "    - path: /srv/web.img\n"
    "  nics:\n"
    "    - bridge: br0\n"
    "  ha: true\n";

static int add_to_list(const char *verb, json_t *body, const char *key, const char *text,
                       int (*parse)(const char *, json_t **, struct error *))
{
    struct error err = {0};
    json_t *item = NULL;
    if (parse(text, &item, &err) != 0) {
        return cli_usage(verb, "%s", err.text);
    }
    json_t *list = json_object_get(body, key);
    if (list == NULL) {
        list = json_array();
        if (json_object_set_new(body, key, list) != 0) {
            json_decref(item);
            return cli_fail("out of memory");
        }
    }
    return json_array_append_new(list, item) == 0 ? CLI_OK : cli_fail("out of memory");
}

static int set_text(const char *verb, json_t *body, const char *key, const char *text)
{
    return json_object_set_new(body, key, json_string(text)) == 0
               ? CLI_OK
               : cli_usage(verb, "%s is no UTF-8 text", key);
}

static int take_option(int option, const char *value, json_t *body,
                       struct create_options *options)
{
    static const char verb[] = "vm create";
    uint64_t number = 0;
    switch (option) {
    case OPTION_NAME:
        return set_text(verb, body, "name", value);
    case OPTION_MEMORY:
        return set_text(verb, body, "memory", value);
    case OPTION_CPUS:
        if (cli_parse_number(verb, "--cpus", value, 1, LIMIT_VCPUS, &number) != CLI_OK) {
            return CLI_USAGE;
        }
        return json_object_set_new(body, "cpus", json_integer((json_int_t)number)) == 0
                   ? CLI_OK
                   : CLI_FAIL;
    case OPTION_KERNEL:
        return set_text(verb, body, "kernel", value);
    case OPTION_INITRD:
        return set_text(verb, body, "initrd", value);
    case OPTION_CMDLINE:
        return set_text(verb, body, "cmdline", value);
    case OPTION_FIRMWARE:
        return cli_usage(
            verb, "--firmware is not supported yet: boot a kernel with --kernel FILE");
    case OPTION_DISK:
        return add_to_list(verb, body, "disks", value, vm_spec_disk);
    case OPTION_NET:
        return add_to_list(verb, body, "nics", value, vm_spec_nic);
    case OPTION_NO_HA:
        return json_object_set_new(body, "ha", json_false()) == 0 ? CLI_OK : CLI_FAIL;
    case OPTION_NO_START:
        options->start = false;
        return CLI_OK;
    case OPTION_NO_WAIT:
        options->wait = false;
        return CLI_OK;
    default:
        return cli_parse_number(verb, "--timeout", value, 1, 86400, &options->timeout_s);
    }
}

static int parse_create(int argc, char **argv, json_t *body,
                        struct create_options *options)
{
    static const struct option known[] = {
        {"name", required_argument, NULL, OPTION_NAME},
        {"memory", required_argument, NULL, OPTION_MEMORY},
        {"cpus", required_argument, NULL, OPTION_CPUS},
        {"kernel", required_argument, NULL, OPTION_KERNEL},
        {"initrd", required_argument, NULL, OPTION_INITRD},
        {"cmdline", required_argument, NULL, OPTION_CMDLINE},
        {"firmware", required_argument, NULL, OPTION_FIRMWARE},
        {"disk", required_argument, NULL, OPTION_DISK},
        {"net", required_argument, NULL, OPTION_NET},
        {"no-ha", no_argument, NULL, OPTION_NO_HA},
        {"no-start", no_argument, NULL, OPTION_NO_START},
        {"no-wait", no_argument, NULL, OPTION_NO_WAIT},
        {"timeout", required_argument, NULL, OPTION_TIMEOUT},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, ":", known, NULL)) != -1) {
        if (option == '?' || option == ':') {
            return cli_bad_option("vm create", argv, option);
        }
        int status = take_option(option, optarg, body, options);
        if (status != CLI_OK) {
            return status;
        }
    }
    if (optind < argc && set_text("vm create", body, "name", argv[optind++]) != CLI_OK) {
        return CLI_USAGE;
    }
    if (optind < argc) {
        return cli_usage("vm create", "what is %s?", argv[optind]);
    }
    if (json_object_get(body, "name") == NULL ||
        json_object_get(body, "memory") == NULL) {
        return cli_usage("vm create", "a name and --memory are needed");
    }
    return CLI_OK;
}

/* The VM is recorded: waits for it if wanted, and shows it. Takes `vm`. */
static int finish(struct cli *cli, json_t *vm, const struct create_options *options)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "%s", cli_text(vm, "name"));
    int status = CLI_OK;
    if (options->start && options->wait) {
        status = vm_wait_state(cli, name, "running", (unsigned)options->timeout_s, &vm);
    }
    if (status == CLI_OK) {
        status = cli_vm_show_answer(cli, vm);
    }
    json_decref(vm);
    return status;
}

int cli_vm_create(struct cli *cli, int argc, char **argv)
{
    struct create_options options = {
        .start = true, .wait = true, .timeout_s = CLI_WAIT_S_DEFAULT};
    json_t *body = json_object();
    int status = parse_create(argc, argv, body, &options);
    if (status == CLI_OK &&
        json_object_set_new(body, "start", json_boolean(options.start)) != 0) {
        status = cli_fail("out of memory");
    }
    if (status != CLI_OK) {
        json_decref(body);
        return status;
    }
    json_t *vm = NULL;
    status = cli_call(cli, "POST", body, &vm, "/vms");
    return status != CLI_OK ? status : finish(cli, vm, &options);
}

int cli_vm_apply(struct cli *cli, int argc, char **argv)
{
    static const struct option known[] = {
        {"file", required_argument, NULL, 'f'},
        {"no-wait", no_argument, NULL, OPTION_NO_WAIT},
        {"timeout", required_argument, NULL, OPTION_TIMEOUT},
        {NULL, 0, NULL, 0},
    };
    struct create_options options = {
        .start = true, .wait = true, .timeout_s = CLI_WAIT_S_DEFAULT};
    const char *path = NULL;
    int option;
    while ((option = getopt_long(argc, argv, ":f:", known, NULL)) != -1) {
        if (option == '?' || option == ':') {
            return cli_bad_option("vm apply", argv, option);
        }
        if (option == 'f') {
            path = optarg;
        } else if (take_option(option, optarg, NULL, &options) != CLI_OK) {
            return CLI_USAGE;
        }
    }
    if (path == NULL || optind < argc) {
        return cli_usage("vm apply", "give one file with -f");
    }
    struct error err = {0};
    json_t *body = NULL;
    if (vm_file_load(path, &body, &err) != 0) {
        return cli_fail("%s", err.text);
    }
    const char *name = json_string_value(json_object_get(body, "name"));
    if (name == NULL || !id_name_valid(name)) {
        json_decref(body);
        return cli_fail("%s: `name` is missing, or is not 1 to 63 of a-z, 0-9 and -",
                        path);
    }
    char name_copy[64];
    (void)snprintf(name_copy, sizeof(name_copy), "%s", name);
    const json_t *start = json_object_get(body, "start");
    options.start = start == NULL || json_is_true(start);
    json_t *vm = NULL;
    int status = cli_call(cli, "PUT", body, &vm, "/vms/%s", name_copy);
    return status != CLI_OK ? status : finish(cli, vm, &options);
}
