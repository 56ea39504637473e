/* SPDX-License-Identifier: Apache-2.0 */
/* droverd's settings: file, command line, defaults. */
#include "node-agent/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/id.h"
#include "fencing/timing.h"

#define LINE_SIZE_MAX  2048
#define LINE_COUNT_MAX 1000

enum setting_kind {
    SETTING_NAME,    /* of a host */
    SETTING_ADDRESS, /* HOST:PORT */
    SETTING_PATH,    /* absolute */
    SETTING_TEXT,
    SETTING_MS,
    SETTING_BYTES,
    SETTING_BOOL,
};

struct setting {
    const char *key;
    enum setting_kind kind;
    size_t offset, size;
    const char *value_name, *help;
};

#define SETTING(key, kind, field, value_name, help)                                      \
    {                                                                                    \
        key, kind, offsetof(struct agent_config, field),                                 \
            sizeof(((struct agent_config *)NULL)->field), value_name, help               \
    }

static const struct setting settings[] = {
    SETTING("name", SETTING_NAME, name, "NAME",
            "this host's name in the cluster [its hostname]"),
    SETTING("address", SETTING_ADDRESS, address, "HOST:PORT",
            "where the other hosts reach this one [its first address, port 7400]"),
    SETTING("listen", SETTING_ADDRESS, listen, "IP:PORT",
            "where to listen [what address says]"),
    SETTING("api-address", SETTING_ADDRESS, api_address, "HOST:PORT",
            "where the API is served over TLS [the host of address, port 7401]"),
    SETTING("state-dir", SETTING_PATH, state_dir, "DIR",
            "keys, certificates and the replicated log [/var/lib/drover]"),
    SETTING("run-dir", SETTING_PATH, run_dir, "DIR",
            "sockets, one folder per VM [/run/drover]"),
    SETTING("vmm-path", SETTING_PATH, vmm_path, "FILE",
            "the drover-vmm program [beside droverd, else in PATH]"),
    SETTING("bridge", SETTING_TEXT, bridge, "NAME",
            "bridge of VMs that name none [none]"),
    SETTING("watchdog", SETTING_TEXT, watchdog, "DEVICE|none",
            "watchdog of this host [/dev/watchdog]"),
    SETTING("lease-ms", SETTING_MS, lease_ms, "MS",
            "lease of a cluster that is made on this host [5000]"),
    SETTING("memory-reserve", SETTING_BYTES, memory_reserve_bytes, "SIZE",
            "memory that VMs may not use [512M]"),
    SETTING("migration-bandwidth", SETTING_BYTES, move_bandwidth, "SIZE",
            "bytes a second for VMs that leave, 0: all [3/4 of the network card's]"),
    SETTING("rdma-address", SETTING_TEXT, rdma_address, "IP",
            "where VMs that are moved over RDMA come in [the host of address]"),
    SETTING("witness", SETTING_BOOL, witness, NULL, "vote, but run no VMs"),
    SETTING("debug", SETTING_BOOL, debug, NULL, "log more"),
};
#define SETTING_COUNT (sizeof(settings) / sizeof(settings[0]))

/* Of earlier releases, which did nothing with them: a configuration file that has one is
 * still good. */
static const char *const obsolete[] = {"api-token-file"};

static int parse_bytes(const char *value, uint64_t *ret_bytes)
{
    if (!isdigit((unsigned char)*value)) {
        return DROVER_EBADINPUT;
    }
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(value, &end, 10);
    unsigned shift = 0;
    switch (*end) {
    case '\0':
        break;
    case 'K':
        shift = 10;
        break;
    case 'M':
        shift = 20;
        break;
    case 'G':
        shift = 30;
        break;
    default:
        return DROVER_EBADINPUT;
    }
    if (errno != 0 || (*end != '\0' && end[1] != '\0') || number > UINT64_MAX >> shift) {
        return DROVER_EBADINPUT;
    }
    *ret_bytes = (uint64_t)number << shift;
    return 0;
}

static int parse_bool(const char *value, bool *ret_value)
{
    if (strcmp(value, "yes") == 0 || strcmp(value, "true") == 0 ||
        strcmp(value, "on") == 0) {
        *ret_value = true;
        return 0;
    }
    if (strcmp(value, "no") == 0 || strcmp(value, "false") == 0 ||
        strcmp(value, "off") == 0) {
        *ret_value = false;
        return 0;
    }
    return DROVER_EBADINPUT;
}

static int set_text(const struct setting *setting, char *at, const char *value,
                    const char *where, struct error *err)
{
    if (strlen(value) >= setting->size) {
        return error_set(err, DROVER_EBADINPUT,
                         "%s: %s is longer than %zu characters: shorten it", where,
                         setting->key, setting->size - 1);
    }
    if (setting->kind == SETTING_NAME && !id_name_valid(value)) {
        return error_set(err, DROVER_EBADINPUT,
                         "%s: name '%s': use 1 to 63 of a-z, 0-9 and '-', a letter or "
                         "digit at both ends",
                         where, value);
    }
    if (setting->kind == SETTING_PATH && value[0] != '/') {
        return error_set(err, DROVER_EBADINPUT, "%s: %s '%s': give an absolute path",
                         where, setting->key, value);
    }
    if (setting->kind == SETTING_ADDRESS) {
        char host[LIMIT_ADDRESS_SIZE];
        unsigned port = 0;
        unsigned default_port = strcmp(setting->key, "api-address") == 0
                                    ? CONFIG_API_PORT_DEFAULT
                                    : CONFIG_PEER_PORT_DEFAULT;
        struct error why = {0};
        if (config_split_address(value, default_port, host, &port, &why) != 0) {
            return error_set(err, DROVER_EBADINPUT, "%s: %s: %s", where, setting->key,
                             why.text);
        }
        if (config_join_address(host, port, at, setting->size) != 0) {
            return error_set(err, DROVER_EBADINPUT, "%s: %s is too long: shorten it",
                             where, setting->key);
        }
        return 0;
    }
    (void)snprintf(at, setting->size, "%s", value);
    return 0;
}

int config_set(struct agent_config *config, const char *key, const char *value,
               const char *where, struct error *err)
{
    const struct setting *setting = NULL;
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(settings[i].key, key) == 0) {
            setting = &settings[i];
        }
    }
    for (size_t i = 0; i < sizeof(obsolete) / sizeof(obsolete[0]); i++) {
        if (strcmp(obsolete[i], key) == 0) {
            return 0;
        }
    }
    if (setting == NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "%s: unknown setting '%s': see droverd --help", where, key);
    }
    char *at = (char *)config + setting->offset;
    uint64_t number = 0;
    switch (setting->kind) {
    case SETTING_BOOL:
        if (parse_bool(value, (bool *)at) != 0) {
            return error_set(err, DROVER_EBADINPUT, "%s: %s: write yes or no, not '%s'",
                             where, key, value);
        }
        return 0;
    case SETTING_BYTES:
        if (parse_bytes(value, (uint64_t *)at) != 0) {
            return error_set(err, DROVER_EBADINPUT,
                             "%s: %s '%s': write a size such as 512M or 2G", where, key,
                             value);
        }
        return 0;
    case SETTING_MS:
        if (parse_bytes(value, &number) != 0 || number < TIMING_LEASE_MS_MIN ||
            number > TIMING_LEASE_MS_MAX) {
            return error_set(err, DROVER_EBADINPUT,
                             "%s: %s '%s': write milliseconds from %u to %u", where, key,
                             value, TIMING_LEASE_MS_MIN, TIMING_LEASE_MS_MAX);
        }
        *(uint32_t *)at = (uint32_t)number;
        return 0;
    default:
        return set_text(setting, at, value, where, err);
    }
}

int config_split_address(const char *text, unsigned default_port,
                         char ret_host[LIMIT_ADDRESS_SIZE], unsigned *ret_port,
                         struct error *err)
{
    const char *host = text;
    const char *after = NULL;
    size_t host_size = 0;
    if (*text == '[') {
        host = text + 1;
        after = strchr(host, ']');
        host_size = after == NULL ? 0 : (size_t)(after++ - host);
    } else {
        host_size = strcspn(text, ":");
        after = text + host_size;
    }
    if (host_size == 0 || host_size >= LIMIT_ADDRESS_SIZE || after == NULL ||
        (*after != '\0' && *after != ':') || strcspn(host, " \t/") < host_size) {
        return error_set(err, DROVER_EBADINPUT,
                         "'%.100s': write HOST:PORT or [IPV6]:PORT", text);
    }
    unsigned long port = default_port;
    if (*after == ':') {
        char *end = NULL;
        errno = 0;
        port = isdigit((unsigned char)after[1]) ? strtoul(after + 1, &end, 10) : 0;
        if (errno != 0 || port == 0 || port > 65535 || *end != '\0') {
            return error_set(err, DROVER_EBADINPUT,
                             "'%.100s': the port must be a number from 1 to 65535", text);
        }
    }
    memcpy(ret_host, host, host_size);
    ret_host[host_size] = '\0';
    *ret_port = (unsigned)port;
    return 0;
}

int config_join_address(const char *host, unsigned port, char *ret_text, size_t size)
{
    bool v6 = strchr(host, ':') != NULL;
    char text[LIMIT_ADDRESS_SIZE + 16];
    int used = snprintf(text, sizeof(text), "%s%s%s:%u", v6 ? "[" : "", host,
                        v6 ? "]" : "", port);
    if (used < 0 || (size_t)used >= size || (size_t)used >= sizeof(text)) {
        return DROVER_ELIMIT;
    }
    memcpy(ret_text, text, (size_t)used + 1);
    return 0;
}

/* ---- the file ---- */

static char *trim(char *text)
{
    while (isspace((unsigned char)*text)) {
        text++;
    }
    size_t size = strlen(text);
    while (size > 0 && isspace((unsigned char)text[size - 1])) {
        text[--size] = '\0';
    }
    return text;
}

static int load_line(struct agent_config *config, char *line, const char *where,
                     struct error *err)
{
    char *text = trim(line);
    if (*text == '\0' || *text == '#') {
        return 0;
    }
    char *equals = strchr(text, '=');
    if (equals == NULL) {
        return error_set(err, DROVER_EBADINPUT, "%s: '%.60s': write KEY = VALUE", where,
                         text);
    }
    *equals = '\0';
    char *value = trim(equals + 1);
    size_t size = strlen(value);
    if (size >= 2 && value[0] == '"' && value[size - 1] == '"') {
        value[size - 1] = '\0';
        value++;
    }
    return config_set(config, trim(text), value, where, err);
}

static void close_file(FILE **file)
{
    if (*file != NULL) {
        (void)fclose(*file); /* only read */
    }
}

static int load_file(struct agent_config *config, const char *path, bool must_exist,
                     struct error *err)
{
    CLEANUP(close_file) FILE *file = fopen(path, "re");
    if (file == NULL) {
        if (errno == ENOENT && !must_exist) {
            return 0;
        }
        int code = -errno;
        return error_set(err, code, "%s: cannot be read: %s", path, strerror(errno));
    }
    char line[LINE_SIZE_MAX];
    for (unsigned number = 1; fgets(line, sizeof(line), file) != NULL; number++) {
        char where[LIMIT_PATH_SIZE + 16];
        (void)snprintf(where, sizeof(where), "%s:%u", path, number);
        if (number > LINE_COUNT_MAX || (strchr(line, '\n') == NULL && !feof(file))) {
            return error_set(
                err, DROVER_EBADINPUT,
                "%s: the line or the file is too long: is this droverd's configuration?",
                where);
        }
        int rv = load_line(config, line, where, err);
        if (rv != 0) {
            return rv;
        }
    }
    if (ferror(file)) {
        return error_set(err, -EIO, "%s: cannot be read: is it a file?", path);
    }
    return 0;
}

/* ---- the command line ---- */

static int apply_option(struct agent_config *config, int argc, char **argv, int *index,
                        struct error *err)
{
    const char *option = argv[*index];
    char key[64];
    if (strncmp(option, "--", 2) != 0 || strlen(option) >= sizeof(key)) {
        return error_set(err, DROVER_EBADINPUT,
                         "'%.60s': no such option: see droverd --help", option);
    }
    (void)snprintf(key, sizeof(key), "%s", option + 2);
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(settings[i].key, key) != 0) {
            continue;
        }
        if (settings[i].kind == SETTING_BOOL) {
            return config_set(config, key, "yes", option, err);
        }
        if (*index + 1 >= argc) {
            return error_set(err, DROVER_EBADINPUT, "%s: a value is missing: %s %s",
                             option, option, settings[i].value_name);
        }
        return config_set(config, key, argv[++*index], option, err);
    }
    return error_set(err, DROVER_EBADINPUT, "'%s': no such option: see droverd --help",
                     option);
}

/* --config must be known before the rest. */
static int find_file(int argc, char **argv, const char **ret_path, struct error *err)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--config") != 0) {
            continue;
        }
        if (i + 1 >= argc) {
            return error_set(err, DROVER_EBADINPUT,
                             "--config: a value is missing: --config FILE");
        }
        *ret_path = argv[i + 1];
    }
    return 0;
}

static enum config_action action_of(const char *option)
{
    if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0) {
        return CONFIG_ACTION_HELP;
    }
    if (strcmp(option, "--version") == 0) {
        return CONFIG_ACTION_VERSION;
    }
    return strcmp(option, "--print-timing") == 0 ? CONFIG_ACTION_PRINT_TIMING
                                                 : CONFIG_ACTION_RUN;
}

int config_load(int argc, char **argv, struct agent_config *ret_config,
                enum config_action *ret_action, struct error *err)
{
    struct agent_config config = {
        .state_dir = "/var/lib/drover",
        .run_dir = "/run/drover",
        .watchdog = "/dev/watchdog",
        .lease_ms = TIMING_LEASE_MS_DEFAULT,
        .memory_reserve_bytes = UINT64_C(512) << 20,
        .move_bandwidth = CONFIG_MOVE_BANDWIDTH_AUTO,
    };
    enum config_action action = CONFIG_ACTION_RUN;
    for (int i = 1; i < argc; i++) {
        if (action_of(argv[i]) != CONFIG_ACTION_RUN) {
            action = action_of(argv[i]);
        }
    }
    const char *path = NULL;
    int rv = 0;
    if (action == CONFIG_ACTION_RUN || action == CONFIG_ACTION_PRINT_TIMING) {
        rv = find_file(argc, argv, &path, err);
        rv = rv != 0 ? rv
                     : load_file(&config, path != NULL ? path : CONFIG_PATH_DEFAULT,
                                 path != NULL, err);
        for (int i = 1; rv == 0 && i < argc; i++) {
            if (strcmp(argv[i], "--config") == 0) {
                i++;
            } else if (action_of(argv[i]) == CONFIG_ACTION_RUN) {
                rv = apply_option(&config, argc, argv, &i, err);
            }
        }
    }
    if (rv == 0 && action == CONFIG_ACTION_RUN) {
        rv = config_fill_defaults(&config, err);
    }
    if (rv == 0) {
        *ret_config = config;
        *ret_action = action;
    }
    return rv;
}

int config_help(char *text, size_t size)
{
    int used =
        snprintf(text, size,
                 "droverd runs on every host of a Drover cluster: it keeps the cluster's "
                 "state, runs this\n"
                 "host's virtual machines and serves the API that `drover` speaks.\n\n"
                 "usage: droverd [--config FILE] [--SETTING VALUE]...\n"
                 "       droverd --print-timing [--lease-ms MS]\n"
                 "       droverd --version | --help\n\n"
                 "Each setting stands in %s as KEY = VALUE, or on the command line, "
                 "which wins:\n\n",
                 CONFIG_PATH_DEFAULT);
    for (size_t i = 0; i < SETTING_COUNT && used >= 0 && (size_t)used < size; i++) {
        char option[64];
        (void)snprintf(option, sizeof(option), "--%s %s", settings[i].key,
                       settings[i].value_name != NULL ? settings[i].value_name : "");
        used += snprintf(text + used, size - (size_t)used, "  %-26s %s\n", option,
                         settings[i].help);
    }
    if (used >= 0 && (size_t)used < size) {
        used += snprintf(text + used, size - (size_t)used,
                         "\nThen, on the first host: `drover cluster init`; for each "
                         "other host: `drover cluster token`\n"
                         "there, and `drover cluster join TOKEN` here.\n");
    }
    return used;
}
