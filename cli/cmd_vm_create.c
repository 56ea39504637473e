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
    OPTION_VARS,
    OPTION_CPU_MODEL,
    OPTION_CPU_WEIGHT,
    OPTION_CPU_QUOTA,
    OPTION_CPU_AFFINITY,
    OPTION_HUGE_PAGES,
    OPTION_MERGEABLE,
    OPTION_PREALLOC,
    OPTION_VSOCK,
    OPTION_ON_PANIC,
    OPTION_CDROM,
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
    "usage: drover vm create NAME --memory SIZE (--kernel FILE [--initrd FILE] "
    "[--cmdline TEXT] |\n"
    "                        --firmware bios|uefi|FILE [--vars FILE]) [OPTION]...\n"
    "\n"
    "Every path is the same on every host that may run the VM.\n"
    "\n"
    "  --memory SIZE    512M, 4G...\n"
    "  --cpus N         1 to 64 (default 1)\n"
    "  --firmware NAME  boots from its disks, as any computer does\n"
    "  --vars FILE      UEFI's variables, made when missing (default: beside the first "
    "disk)\n"
    "  --disk PATH[,OPTION]...\n"
    "                   raw file, block device, nbd://HOST:PORT/NAME. Options: "
    "format=raw|qcow2|luks|vmdk|vdi|vhdx,\n"
    "                   ro, direct (past the host's cache), serial=TEXT, queues=N, "
    "iops=N, bandwidth=SIZE (a second),\n"
    "                   boot=N (place in the boot order), key=FILE (of an encrypted "
    "image)\n"
    "  --cdrom PATH[,boot=N]\n"
    "  --net default|OPTION[,OPTION]...\n"
    "                   a network card on a bridge of the host. Options: bridge=NAME, "
    "mac=MAC, queues=N, mtu=N,\n"
    "                   bandwidth=SIZE (a second, each way), any-mac (it may send from "
    "other addresses), boot=N, vhost=on|off\n"
    "  --cpu-model x86-64-v2|x86-64-v3|x86-64-v4|host\n"
    "                   a processor that unlike hosts can give (default host: only moves "
    "between like hosts)\n"
    "  --cpu-weight N   share of a busy host, 1 to 10000 (100 is usual)\n"
    "  --cpu-quota N    at most N percent of one processor\n"
    "  --cpu-affinity LIST\n"
    "                   only on these processors of the host: 0-3,8\n"
    "  --huge-pages, --mergeable, --prealloc\n"
    "                   memory in huge pages; equal pages kept once (KSM); all of it "
    "taken at the start\n"
    "  --vsock CID      a socket to the host\n"
    "  --on-panic stop|reset|pause|ignore\n"
    "                   when the guest's kernel has crashed (default stop)\n"
    "  --no-ha          is not restarted on another host when its own dies, and runs on "
    "when that has no lease\n"
    "  --no-start       only describe it\n"
    "  --no-wait        do not wait until it runs (at most --timeout seconds, default "
    "120)\n"
    "\n"
    "examples:\n"
    "  drover vm create web --memory 512M --cpus 2 --kernel /srv/vmlinuz --initrd "
    "/srv/initrd.img \\\n"
    "      --cmdline 'root=/dev/vda console=ttyS0' --disk /srv/web.img --net default\n"
    "  drover vm create db --memory 4G --cpus 2 --firmware uefi --disk "
    "/srv/db.qcow2,format=qcow2 \\\n"
    "      --cdrom /srv/installer.iso,boot=1 --net default\n";

const char cli_vm_apply_help[] =
    "usage: drover vm apply -f|--file FILE [--no-wait] [--timeout SECONDS]\n"
    "\n"
    "Creates the VM that the YAML file describes. A stopped VM of that name gets this "
    "description; a running one\n"
    "must be stopped first if anything differs. \"-\" reads stdin. Fields: docs/api.md.\n"
    "Waits until it runs, at most --timeout seconds (default 120), unless --no-wait is given.\n"
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

static int set_number(const char *verb, json_t *body, const char *option,
                      const char *field, const char *value, uint64_t most)
{
    uint64_t number = 0;
    if (cli_parse_number(verb, option, value, 1, most, &number) != CLI_OK) {
        return CLI_USAGE;
    }
    return json_object_set_new(body, field, json_integer((json_int_t)number)) == 0
               ? CLI_OK
               : cli_fail("out of memory");
}

static int set_flag(json_t *body, const char *field, bool value)
{
    return json_object_set_new(body, field, json_boolean(value)) == 0
               ? CLI_OK
               : cli_fail("out of memory");
}

static int take_limit(int option, const char *value, json_t *body,
                      struct create_options *options)
{
    static const char verb[] = "vm create";
    switch (option) {
    case OPTION_CPU_MODEL:
        return set_text(verb, body, "cpu_model", value);
    case OPTION_CPU_WEIGHT:
        return set_number(verb, body, "--cpu-weight", "cpu_weight", value, 10000);
    case OPTION_CPU_QUOTA:
        return set_number(verb, body, "--cpu-quota", "cpu_quota", value,
                          UINT64_C(100) * LIMIT_VCPUS);
    case OPTION_CPU_AFFINITY:
        return set_text(verb, body, "cpu_affinity", value);
    case OPTION_HUGE_PAGES:
        return set_flag(body, "huge_pages", true);
    case OPTION_MERGEABLE:
        return set_flag(body, "mergeable", true);
    case OPTION_PREALLOC:
        return set_flag(body, "prealloc", true);
    case OPTION_VSOCK:
        return set_number(verb, body, "--vsock", "vsock_cid", value, UINT32_MAX - 1);
    case OPTION_ON_PANIC:
        return set_text(verb, body, "on_panic", value);
    default:
        return cli_parse_number(verb, "--timeout", value, 1, 86400, &options->timeout_s);
    }
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
        return set_text(verb, body, "firmware", value);
    case OPTION_VARS:
        return set_text(verb, body, "vars", value);
    case OPTION_CDROM:
        return add_to_list(verb, body, "disks", value, vm_spec_cdrom);
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
        return take_limit(option, value, body, options);
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
        {"vars", required_argument, NULL, OPTION_VARS},
        {"cpu-model", required_argument, NULL, OPTION_CPU_MODEL},
        {"cpu-weight", required_argument, NULL, OPTION_CPU_WEIGHT},
        {"cpu-quota", required_argument, NULL, OPTION_CPU_QUOTA},
        {"cpu-affinity", required_argument, NULL, OPTION_CPU_AFFINITY},
        {"huge-pages", no_argument, NULL, OPTION_HUGE_PAGES},
        {"mergeable", no_argument, NULL, OPTION_MERGEABLE},
        {"prealloc", no_argument, NULL, OPTION_PREALLOC},
        {"vsock", required_argument, NULL, OPTION_VSOCK},
        {"on-panic", required_argument, NULL, OPTION_ON_PANIC},
        {"cdrom", required_argument, NULL, OPTION_CDROM},
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
