/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watchdog's keeper: a process (`droverd --keeper`) that holds the host's watchdog
 * device and outlives droverd. It feeds until the lease's deadline that droverd tells it;
 * after that it asks each VMM under RUN/vms by its control socket and feeds only while
 * all VMMs that are bound to a lease say that they are frozen (fencing/keeper_policy.h).
 * droverd speaks to it over RUN/keeper.sock by `struct keeper_client`. One keeper per run
 * directory, by RUN/keeper.lock.
 */
#ifndef DROVER_NODE_AGENT_KEEPER_H
#define DROVER_NODE_AGENT_KEEPER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct error;
struct keeper_client;
struct watchdog_device_ops;

struct keeper_options {
    const char *run_directory;
    const char
        *device; /* "/dev/watchdog"; "none": keeps no device, as on hosts without one */
    uint32_t watchdog_ms; /* wanted time-out: timing.watchdog_ms */
};

/* The keeper's whole life: returns the process's exit code. `ops` NULL: the real device.
 * It must be called before the process has threads; blocks SIGTERM and SIGINT, which ask
 * it to end when no VM needs it any more. */
int keeper_main(const struct keeper_options *options,
                const struct watchdog_device_ops *ops, void *owner);
/* The same from `droverd --keeper RUN DEVICE WATCHDOG_MS`, as keeper_client starts it. */
int keeper_main_arguments(int argc, char **argv);

/* From the loop, never from inside keeper_client_*(). */
struct keeper_client_ops {
    /* Connected, first or anew. `watchdog_ms`: the armed time-out; 0: none, `text` says
     * why. */
    void (*ready)(void *owner, uint32_t watchdog_ms, const char *text);
    /* The connection is lost (keeper died: the host is about to be reset if a watchdog
     * was armed). A new keeper is started by itself. */
    void (*lost)(void *owner, const char *text);
};

struct keeper_client_config {
    uv_loop_t *loop;
    struct keeper_options options;
    const char *program; /* droverd's own path; NULL: /proc/self/exe */
    const struct keeper_client_ops *ops;
    void *owner;
};

/* Finds the keeper of this run directory or starts one, in a session of its own. Copies
 * the config. */
int keeper_client_create(const struct keeper_client_config *config,
                         struct keeper_client **ret_client, struct error *err);
/* The lease's deadline (CLOCK_BOOTTIME ns), as from host_core's lease_changed. Repeated
 * by itself after a new connection. */
void keeper_client_lease(struct keeper_client *client, uint64_t deadline_ns);
/* A planned end: the keeper disarms the device and ends, if it finds no VMM that is bound
 * to a lease and not frozen; `done` with 0, or DROVER_EINUSE with its reason: it goes on
 * then. */
void keeper_client_release(struct keeper_client *client,
                           void (*done)(void *owner, int error, const char *text),
                           void *owner);
/* Lets go of the keeper, which lives on; `closed` once, later, then free. */
void keeper_client_close(struct keeper_client *client, void (*closed)(void *owner),
                         void *owner);
void keeper_client_free(struct keeper_client *client);

#endif
