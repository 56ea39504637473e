/* SPDX-License-Identifier: Apache-2.0 */
/* droverd: the agent of one host. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uv.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "fencing/timing.h"
#include "node-agent/agent.h"
#include "node-agent/config.h"
#include "node-agent/keeper.h"

#define EXIT_USAGE 2

struct daemon {
    uv_loop_t loop;
    uv_signal_t terminate, interrupt;
    struct agent *agent;
    struct log log;
    bool closing;
};

static void on_closed(void *owner)
{
    struct daemon *daemon = owner;
    log_notice(&daemon->log, "stopped");
}

static void stop(struct daemon *daemon)
{
    if (daemon->closing) {
        return;
    }
    daemon->closing = true;
    log_notice(&daemon->log, "stopping: VMs run on, those with HA until their lease's "
                             "deadline unless droverd is back by then");
    uv_close((uv_handle_t *)&daemon->terminate, NULL);
    uv_close((uv_handle_t *)&daemon->interrupt, NULL);
    agent_close(daemon->agent, on_closed, daemon);
}

static void on_signal(uv_signal_t *signal, int number)
{
    stop(signal->data);
}

static int run(struct daemon *daemon, const struct agent_config *config)
{
    struct error err = {0};
    log_init(&daemon->log, "droverd", config->debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
    CHECK(uv_loop_init(&daemon->loop) == 0);
    CHECK(uv_signal_init(&daemon->loop, &daemon->terminate) == 0);
    CHECK(uv_signal_init(&daemon->loop, &daemon->interrupt) == 0);
    daemon->terminate.data = daemon;
    daemon->interrupt.data = daemon;
    CHECK(uv_signal_start(&daemon->terminate, on_signal, SIGTERM) == 0);
    CHECK(uv_signal_start(&daemon->interrupt, on_signal, SIGINT) == 0);
    if (agent_create(&daemon->loop, config, &daemon->log, &daemon->agent, &err) != 0) {
        log_error(&daemon->log, "%s", err.text);
        return EXIT_FAILURE;
    }
    int rv = agent_start(daemon->agent, &err);
    if (rv != 0) {
        log_error(&daemon->log, "%s", err.text);
        exit(EXIT_FAILURE); /* from here: what was half started is freed by the process's
                               end, and is still held for whoever looks for leaks */
    }
    CHECK(uv_run(&daemon->loop, UV_RUN_DEFAULT) == 0);
    agent_free(daemon->agent);
    CHECK(uv_loop_close(&daemon->loop) == 0);
    return EXIT_SUCCESS;
}

static void print_help(void)
{
    char text[8192];
    (void)config_help(text, sizeof(text));
    (void)fputs(text, stdout);
}

static int print_timing(const struct agent_config *config)
{
    struct timing timing;
    struct error err = {0};
    if (timing_from_lease(config->lease_ms, &timing, &err) != 0) {
        (void)fprintf(stderr, "droverd: %s\n", err.text);
        return EXIT_USAGE;
    }
    char text[4096];
    timing_print(&timing, text, sizeof(text));
    (void)fputs(text, stdout);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct agent_config config;
    enum config_action action = CONFIG_ACTION_RUN;
    struct error err = {0};
    (void)umask(0077);
    (void)signal(SIGPIPE, SIG_IGN); /* told by write() */
    if (argc > 1 && strcmp(argv[1], "--keeper") == 0) {
        return keeper_main_arguments(argc, argv);
    }
    if (config_load(argc, argv, &config, &action, &err) != 0) {
        (void)fprintf(stderr, "droverd: %s\n", err.text);
        return EXIT_USAGE;
    }
    switch (action) {
    case CONFIG_ACTION_HELP:
        print_help();
        return EXIT_SUCCESS;
    case CONFIG_ACTION_VERSION:
        (void)printf("droverd %s\n", DROVER_VERSION);
        return EXIT_SUCCESS;
    case CONFIG_ACTION_PRINT_TIMING:
        return print_timing(&config);
    case CONFIG_ACTION_RUN:
        break;
    }
    struct daemon daemon = {0};
    return run(&daemon, &config);
}
