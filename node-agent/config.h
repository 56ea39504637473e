/* SPDX-License-Identifier: Apache-2.0 */
/*
 * droverd's settings: a file of "key = value" lines (/etc/drover/droverd.conf) and the command line, which wins.
 * Every mistake is told in one line with file and line number. Pure but for reading the file.
 */
#ifndef DROVER_NODE_AGENT_CONFIG_H
#define DROVER_NODE_AGENT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"

struct error;

#define CONFIG_PATH_DEFAULT      "/etc/drover/droverd.conf"
#define CONFIG_PEER_PORT_DEFAULT 7400u
#define CONFIG_API_PORT_DEFAULT  7401u

/* Not set: by the network card's speed. */
#define CONFIG_MOVE_BANDWIDTH_AUTO UINT64_MAX

struct agent_config {
    char name[LIMIT_NAME_SIZE];            /* of this host; default: the first label of its hostname */
    char address[LIMIT_ADDRESS_SIZE];      /* HOST:PORT that other hosts reach this one at; default: first global address, port 7400 */
    char listen[LIMIT_ADDRESS_SIZE];       /* IP:PORT to listen at; empty: where the host is to be reached */
    char api_address[LIMIT_ADDRESS_SIZE];  /* HOST:PORT of the API over TLS; default: the address's host, port 7401 */
    char state_dir[LIMIT_PATH_SIZE];       /* /var/lib/drover */
    char run_dir[LIMIT_PATH_SIZE];         /* /run/drover: API socket (api.sock), a folder per VMM */
    char rdma_address[LIMIT_NAME_SIZE];    /* of the card that VMs come in by over RDMA; empty: the address's host */
    char vmm_path[LIMIT_PATH_SIZE];        /* drover-vmm beside droverd, else in PATH */
    char bridge[LIMIT_NAME_SIZE];          /* default bridge of VMs' NICs; empty: none */
    char watchdog[LIMIT_PATH_SIZE];        /* device, or "none" */
    uint32_t lease_ms;                     /* for `cluster init` when it names none */
    uint64_t move_bandwidth;               /* for VMs that leave, bytes/s; 0: no limit */
    uint64_t memory_reserve_bytes;         /* of the host's memory, not for VMs */
    bool witness;                          /* votes, runs no VMs */
    bool debug;
};

enum config_action {
    CONFIG_ACTION_RUN,
    CONFIG_ACTION_HELP,
    CONFIG_ACTION_VERSION,
    CONFIG_ACTION_PRINT_TIMING,
};

/* Defaults, then the file that --config names (or the default one, if it exists), then the rest of the command line. */
int config_load(int argc, char **argv, struct agent_config *ret_config, enum config_action *ret_action,
                struct error *err);
/* One setting; `where` ("FILE:LINE" or "--NAME") starts the error text. */
int config_set(struct agent_config *config, const char *key, const char *value, const char *where,
               struct error *err);
/* The text of --help, cut to size; returns its whole length. */
int config_help(char *text, size_t size);

/* Splits "HOST:PORT" or "[V6]:PORT" (port optional: `default_port`); DROVER_EBADINPUT with the reason. */
int config_split_address(const char *text, unsigned default_port, char ret_host[LIMIT_ADDRESS_SIZE],
                         unsigned *ret_port, struct error *err);
/* Its reverse: brackets around IPv6; DROVER_ELIMIT when it does not fit. */
int config_join_address(const char *host, unsigned port, char *ret_text, size_t size);
/* What is still empty is looked up on this host (its name, its address, where drover-vmm is). */
int config_fill_defaults(struct agent_config *config, struct error *err);

#endif
