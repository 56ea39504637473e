/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing of drover-vmm's command line. */
#include "vmm/options/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "migration/times.h"
#include "vmm/machine.h"
#include "vmm/options/options_firmware.h"

const char options_help[] =
    "drover-vmm: runs one virtual machine on KVM\n"
    "\n"
    "  drover-vmm --name NAME --memory SIZE --cpus N (--kernel FILE | --firmware KIND) "
    "--control PATH\n"
    "             [OPTION]...\n"
    "  drover-vmm control PATH ORDER...       (drover-vmm control --help)\n"
    "\n"
    "The machine\n"
    "  --name NAME            letters, digits and dashes: for logs and status\n"
    "  --memory SIZE          such as 512M or 4G\n"
    "  --cpus N               1 to 64\n"
    "  --cpu MODEL            x86-64-v2, x86-64-v3, x86-64-v4: the same on unlike hosts; "
    "host (default)\n"
    "  --cpu-weight N         share of the host's processors, 1 to 10000 (others: 100)\n"
    "  --cpu-quota PERCENT    at most so much: 100 is one processor\n"
    "  --cpu-affinity LIST    the host's processors to run on, such as 0-3,5\n"
    "  --huge-pages           memory of 2 MiB pages that the host has set aside\n"
    "  --prealloc             all memory at once, at the start\n"
    "  --mergeable            equal pages of several VMs are kept once (KSM); raw disks only\n"
    "  --machine N            devices as in an older release: 1 is 0.1's (2, the newest)\n"
    "  --kernel FILE          a Linux bzImage, or an ELF file with a PVH entry\n"
    "  --initrd FILE\n"
    "  --cmdline TEXT         kernel arguments, such as \"console=ttyS0 root=/dev/vda\"\n"
    "  --firmware bios|uefi|FILE      boot from a disk by SeaBIOS (Debian package seabios), "
    "OVMF\n"
    "                                 (package ovmf), or an image of one of them\n"
    "  --vars FILE            keeps the variables of UEFI firmware (a file or block device); made when missing\n"
    "  --uuid UUID            of the machine, shown by firmware (default: by its name)\n"
    "  --firmware-log FILE    what firmware writes to its debug port\n"
    "  --disk FILE[,format=F][,ro][,direct][,serial=TEXT][,queues=N][,iops=N][,bps=SIZE]\n"
    "       [,boot=N][,key=FILE]\n"
    "                         an image or block device: /dev/vda, /dev/vdb...; F: raw, qcow2,\n"
    "                         luks, vmdk, vdi, vhdx; also nbd://HOST:PORT/NAME and\n"
    "                         nbd+unix:///NAME?socket=PATH; iops, bps: limits per second;\n"
    "                         key: file with the passphrase of an encrypted image\n"
    "  --cdrom FILE[,boot=N]          ISO image in a CD-ROM drive; boot=1 is tried first\n"
    "  --net tap=NAME[,mac=MAC][,queues=N][,mtu=N][,bps=SIZE][,vhost=on|off|auto]\n"
    "        [,any-mac][,boot=N]\n"
    "                         bps: bytes a second, each way; any-mac: frames from other\n"
    "                         addresses pass; vhost: the kernel moves packets (auto)\n"
    "  --vsock cid=N,unix=PATH        streams: programs here connect to PATH and write\n"
    "                         \"CONNECT PORT\"; the guest's go to PATH_PORT\n"
    "  --serial stdio|none|file:PATH|unix:PATH    (default stdio; there, Ctrl-A x ends "
    "the VM)\n"
    "  --console none|file:PATH|unix:PATH         hvc0 of the guest (default none)\n"
    "  --on-panic stop|reset|pause|ignore         when the guest's kernel has crashed (stop)\n"
    "\n";

const char options_help_rest[] =
    "Control\n"
    "  --control PATH         socket for orders\n"
    "  --paused               do not start before `control PATH resume`\n"
    "  --incoming tcp:HOST:PORT       wait for a guest that another drover-vmm sends\n"
    "  --incoming rdma:HOST:PORT      ... or over RDMA; neither is encrypted: only in a\n"
    "                                 network of your own\n"
    "  --incoming handed              its connections come by order: droverd encrypts them\n"
    "  --incoming-rdma HOST:PORT      ... or over RDMA, not encrypted, straight from the other\n"
    "                                 VMM; without a device, by order only\n"
    "  --rdma                 it can be moved over RDMA\n"
    "  --incoming file:DIR[,force]    the guest of a snapshot; `force`: although a disk was "
    "written\n"
    "                         since, or it is a cluster's\n"
    "  --patience MS          in a move: how long the other side may be silent while the\n"
    "                         guest stands (2000); more on slow hosts\n"
    "\n"
    "Jail (docs/jail.md), when started by root\n"
    "  --user NAME            whom the VM runs as: a user or a number (default: a number "
    "of its own)\n"
    "  --no-jail              one process with all rights, to look for faults\n"
    "  --jail-log             system calls that the jail forbids are logged and pass\n"
    "\n"
    "In a cluster\n"
    "  --vm-id N --epoch N    orders of other VMs and older epochs are refused\n"
    "  --ha                   run only while a lease lasts; frozen until the first one "
    "comes\n"
    "\n"
    "  --help, --version\n"
    "\n"
    "Example: a Debian kernel with its console here\n"
    "  drover-vmm --name one --memory 512M --cpus 2 --kernel /boot/vmlinuz-6.1.0-amd64 "
    "\\\n"
    "      --initrd initrd.img --cmdline \"console=ttyS0\" --disk one.raw \\\n"
    "      --control /run/one.sock\n";

enum option_key {
    KEY_NAME = 256,
    KEY_MEMORY,
    KEY_CPUS,
    KEY_MACHINE,
    KEY_KERNEL,
    KEY_INITRD,
    KEY_CMDLINE,
    KEY_DISK,
    KEY_VSOCK,
    KEY_NET,
    KEY_SERIAL,
    KEY_CONSOLE,
    KEY_CONTROL,
    KEY_INCOMING,
    KEY_INCOMING_RDMA,
    KEY_RDMA,
    KEY_PAUSED,
    KEY_VM_ID,
    KEY_EPOCH,
    KEY_PATIENCE,
    KEY_HA,
    KEY_USER,
    KEY_NO_JAIL,
    KEY_JAIL_LOG,
    KEY_ON_PANIC,
    KEY_HELP,
    KEY_VERSION,
};

static const struct option long_options[] = {
    {"name", required_argument, NULL, KEY_NAME},
    {"memory", required_argument, NULL, KEY_MEMORY},
    {"cpus", required_argument, NULL, KEY_CPUS},
    {"machine", required_argument, NULL, KEY_MACHINE},
    {"kernel", required_argument, NULL, KEY_KERNEL},
    {"initrd", required_argument, NULL, KEY_INITRD},
    {"cmdline", required_argument, NULL, KEY_CMDLINE},
    {"firmware", required_argument, NULL, OPTIONS_KEY_FIRMWARE},
    {"vars", required_argument, NULL, OPTIONS_KEY_VARS},
    {"uuid", required_argument, NULL, OPTIONS_KEY_UUID},
    {"firmware-log", required_argument, NULL, OPTIONS_KEY_FIRMWARE_LOG},
    {"cpu", required_argument, NULL, OPTIONS_KEY_CPU},
    {"cpu-weight", required_argument, NULL, OPTIONS_KEY_CPU_WEIGHT},
    {"cpu-quota", required_argument, NULL, OPTIONS_KEY_CPU_QUOTA},
    {"cpu-affinity", required_argument, NULL, OPTIONS_KEY_CPU_AFFINITY},
    {"huge-pages", no_argument, NULL, OPTIONS_KEY_HUGE_PAGES},
    {"mergeable", no_argument, NULL, OPTIONS_KEY_MERGEABLE},
    {"prealloc", no_argument, NULL, OPTIONS_KEY_PREALLOC},
    {"disk", required_argument, NULL, KEY_DISK},
    {"cdrom", required_argument, NULL, OPTIONS_KEY_CDROM},
    {"net", required_argument, NULL, KEY_NET},
    {"vsock", required_argument, NULL, KEY_VSOCK},
    {"serial", required_argument, NULL, KEY_SERIAL},
    {"console", required_argument, NULL, KEY_CONSOLE},
    {"control", required_argument, NULL, KEY_CONTROL},
    {"incoming", required_argument, NULL, KEY_INCOMING},
    {"incoming-rdma", required_argument, NULL, KEY_INCOMING_RDMA},
    {"rdma", no_argument, NULL, KEY_RDMA},
    {"paused", no_argument, NULL, KEY_PAUSED},
    {"user", required_argument, NULL, KEY_USER},
    {"no-jail", no_argument, NULL, KEY_NO_JAIL},
    {"jail-log", no_argument, NULL, KEY_JAIL_LOG},
    {"vm-id", required_argument, NULL, KEY_VM_ID},
    {"epoch", required_argument, NULL, KEY_EPOCH},
    {"patience", required_argument, NULL, KEY_PATIENCE},
    {"ha", no_argument, NULL, KEY_HA},
    {"on-panic", required_argument, NULL, KEY_ON_PANIC},
    {"help", no_argument, NULL, KEY_HELP},
    {"version", no_argument, NULL, KEY_VERSION},
    {NULL, 0, NULL, 0},
};

static int number_parse(const char *text, uint64_t *ret_number)
{
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    /* strtoull() itself takes signs and blanks. */
    if (errno != 0 || text[0] < '0' || text[0] > '9' || *end != '\0') {
        return DROVER_EBADINPUT;
    }
    *ret_number = number;
    return 0;
}

int options_size_parse(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    size_t size = strlen(text);
    if (size == 0 || size > 24) {
        return DROVER_EBADINPUT;
    }
    char digits[32];
    memcpy(digits, text, size + 1);
    unsigned shift = 0;
    const char *unit = strchr(units, digits[size - 1]);
    if (unit != NULL && *unit != '\0') {
        shift = 10 * ((unsigned)(unit - units) + 1);
        digits[size - 1] = '\0';
    }
    uint64_t number = 0;
    if (number_parse(digits, &number) < 0 || number == 0 ||
        number > UINT64_MAX >> shift >> 1) {
        return DROVER_EBADINPUT;
    }
    *ret_bytes = number << shift;
    return 0;
}

static int disk_parse(const char *text, struct options *options, struct error *err)
{
    if (options->disk_count == LIMIT_VM_DISKS) {
        return error_set(err, DROVER_EBADINPUT, "more than %d disks: give fewer --disk",
                         LIMIT_VM_DISKS);
    }
    int result = options_disk_parse(text, &options->disks[options->disk_count], err);
    if (result < 0) {
        return result;
    }
    options->disk_count++;
    return 0;
}

static int net_parse(const char *text, struct options *options, struct error *err)
{
    if (options->net_count == LIMIT_VM_NICS) {
        return error_set(err, DROVER_EBADINPUT, "more than %d networks: give fewer --net",
                         LIMIT_VM_NICS);
    }
    int result = options_net_parse(text, &options->nets[options->net_count], err);
    if (result < 0) {
        return result;
    }
    options->net_count++;
    return 0;
}

static int number_option(const char *option, const char *text, uint64_t least,
                         uint64_t most, uint64_t *ret_number, struct error *err)
{
    uint64_t number = 0;
    if (number_parse(text, &number) < 0 || number < least || number > most) {
        return error_set(err, DROVER_EBADINPUT, "%s %s: give a number from %llu to %llu",
                         option, text, (unsigned long long)least,
                         (unsigned long long)most);
    }
    *ret_number = number;
    return 0;
}

static int machine_option(int key, const char *text, struct options *options,
                          struct error *err)
{
    uint64_t number = 0;
    int result = 0;
    switch (key) {
    case KEY_NAME:
        options->name = text;
        return id_name_valid(text)
                   ? 0
                   : error_set(err, DROVER_EBADINPUT,
                               "--name %s: give 1 to 63 small letters, digits and dashes",
                               text);
    case KEY_MEMORY:
        result = options_size_parse(text, &options->memory_bytes);
        return result == 0
                   ? 0
                   : error_set(err, result, "--memory %s: give a size such as 512M or 4G",
                               text);
    case KEY_CPUS:
        result = number_option("--cpus", text, 1, LIMIT_VCPUS, &number, err);
        options->cpus = (unsigned)number;
        return result;
    case KEY_MACHINE:
        result = number_option("--machine", text, MACHINE_OLDEST, MACHINE_NEWEST, &number, err);
        options->machine = (unsigned)number;
        return result;
    case KEY_KERNEL:
        options->kernel = text;
        return 0;
    case KEY_INITRD:
        options->initrd = text;
        return 0;
    case KEY_CMDLINE:
        options->cmdline = text;
        return 0;
    case KEY_DISK:
        return disk_parse(text, options, err);
    case KEY_VSOCK:
        return options_vsock_parse(text, &options->vsock, err);
    default: /* KEY_NET */
        return net_parse(text, options, err);
    }
}

static int control_option(int key, const char *text, struct options *options,
                          struct error *err)
{
    switch (key) {
    case KEY_SERIAL:
        options->serial = text;
        return 0;
    case KEY_CONSOLE:
        if (strcmp(text, "none") != 0 && strncmp(text, "file:", 5) != 0 &&
            strncmp(text, "unix:", 5) != 0) {
            return error_set(err, DROVER_EBADINPUT,
                             "--console %s: give none, file:PATH or unix:PATH", text);
        }
        options->console = text;
        return 0;
    case KEY_CONTROL:
        options->control = text;
        return 0;
    case KEY_INCOMING:
        options->incoming = text;
        options->rdma = options->rdma || strncmp(text, "rdma:", 5) == 0;
        return 0;
    case KEY_INCOMING_RDMA:
        options->incoming_rdma = text;
        options->rdma = true;
        return 0;
    case KEY_RDMA:
        options->rdma = true;
        return 0;
    case KEY_PAUSED:
        options->paused = true;
        return 0;
    case KEY_HA:
        options->ha = true;
        return 0;
    case KEY_VM_ID:
        return number_option("--vm-id", text, 1, UINT64_MAX, &options->vm_id, err);
    case KEY_EPOCH:
        return number_option("--epoch", text, 1, UINT64_MAX, &options->epoch, err);
    case KEY_PATIENCE:
        return number_option("--patience", text, MIGRATION_PATIENCE_MS_MIN,
                             MIGRATION_PATIENCE_MS_MAX, &options->patience_ms, err);
    case KEY_USER:
        options->user = text;
        return 0;
    case KEY_NO_JAIL:
        options->no_jail = true;
        return 0;
    case KEY_JAIL_LOG:
        options->jail_log = true;
        return 0;
    case KEY_ON_PANIC:
        return panic_policy_parse(text, &options->on_panic) == 0
                   ? 0
                   : error_set(err, DROVER_EBADINPUT,
                               "--on-panic %s: give stop, reset, pause or ignore", text);
    case KEY_HELP:
        options->action = OPTIONS_ACTION_HELP;
        return 0;
    default:
        options->action = OPTIONS_ACTION_VERSION;
        return 0;
    }
}

static int whole_judge(const struct options *options, struct error *err)
{
    if (options->action != OPTIONS_ACTION_RUN) {
        return 0;
    }
    const struct {
        bool missing;
        const char *option;
    } needed[] = {
        {options->name == NULL, "--name NAME"},
        {options->memory_bytes == 0, "--memory SIZE"},
        {options->cpus == 0, "--cpus N"},
        {options->kernel == NULL && options->firmware == NULL,
         "--kernel FILE or --firmware KIND"},
        {options->control == NULL, "--control PATH"},
    };
    for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        if (needed[i].missing) {
            return error_set(err, DROVER_EBADINPUT,
                             "%s is missing; see drover-vmm --help", needed[i].option);
        }
    }
    if ((options->vm_id == 0) != (options->epoch == 0)) {
        return error_set(err, DROVER_EBADINPUT,
                         "--vm-id and --epoch belong together: give both");
    }
    if (options->no_jail && (options->jail_log || options->user != NULL)) {
        return error_set(err, DROVER_EBADINPUT,
                         "--no-jail contradicts --user and --jail-log: leave out one");
    }
    if (options->ha && options->vm_id == 0) {
        return error_set(err, DROVER_EBADINPUT, "--ha needs --vm-id and --epoch");
    }
    bool handed = options->incoming != NULL && strncmp(options->incoming, "handed", 6) == 0;
    if (options->incoming_rdma != NULL && !handed) {
        return error_set(err, DROVER_EBADINPUT,
                         "--incoming-rdma goes with --incoming handed: else give --incoming "
                         "rdma:HOST:PORT");
    }
    int result = machine_judge(options, err);
    result = result < 0 ? result : options_firmware_judge(options, err);
    return result < 0 ? result : options_cpu_judge(options, err);
}

int options_parse(int argc, char **argv, struct options *ret_options, struct error *err)
{
    *ret_options = (struct options){.serial = "stdio", .console = "none", .machine = MACHINE_NEWEST};
    opterr = 0;
    optind = 0; /* begins anew */
    int key;
    while ((key = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
        if (key == ':') {
            return error_set(err, DROVER_EBADINPUT,
                             "%s needs a value; see drover-vmm --help", argv[optind - 1]);
        }
        if (key == '?') {
            return error_set(err, DROVER_EBADINPUT,
                             "unknown option %s; see drover-vmm --help",
                             argv[optind - 1]);
        }
        int result;
        if (key >= OPTIONS_KEY_CPU_FIRST && key <= OPTIONS_KEY_CPU_LAST) {
            result = options_cpu_option(key, optarg, ret_options, err);
        } else if (key == OPTIONS_KEY_CDROM) {
            result = options_cdrom_parse(optarg, ret_options, err);
        } else if (key >= OPTIONS_KEY_FIRMWARE && key <= OPTIONS_KEY_FIRMWARE_LAST) {
            result = options_firmware_option(key, optarg, ret_options);
        } else {
            result = key <= KEY_NET ? machine_option(key, optarg, ret_options, err)
                                    : control_option(key, optarg, ret_options, err);
        }
        if (result < 0) {
            return result;
        }
    }
    if (optind < argc) {
        return error_set(err, DROVER_EBADINPUT, "what is \"%s\"? See drover-vmm --help",
                         argv[optind]);
    }
    return whole_judge(ret_options, err);
}
