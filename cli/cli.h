/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the commands of `drover` share: the connection, how to print, how to wait, how to
 * fail. A command returns its exit status: 0 only when it did what was asked, 1 when it
 * failed, 2 when it was used wrongly.
 */
#ifndef DROVER_CLI_CLI_H
#define DROVER_CLI_CLI_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define CLI_OK    0
#define CLI_FAIL  1
#define CLI_USAGE 2

#define CLI_WAIT_S_DEFAULT 120u

struct client;
struct client_config;

struct cli {
    struct client *client;
    const struct client_config *config; /* of the client */
    bool json;                          /* print the API's objects, not tables */
    bool quiet;                         /* no progress */
};

/* A command behind its noun: `drover vm list`. argv[0] is the verb. */
struct cli_command {
    const char *verb;
    int (*run)(struct cli *cli, int argc, char **argv);
    const char *summary; /* one line */
    const char *help;    /* the rest of --help: usage, options, examples */
};

struct cli_noun {
    const char *name;
    const char *summary;
    const struct cli_command *commands; /* ends with verb NULL */
};

const struct cli_noun *cli_cluster_noun(void);
const struct cli_noun *cli_node_noun(void);
const struct cli_noun *cli_vm_noun(void);
/* `drover events` has no verb. */
int cli_events(struct cli *cli, int argc, char **argv);
const char *cli_events_help(void);

/* "drover: TEXT" on stderr, one line; returns CLI_FAIL. */
int cli_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same for wrong use, with where to find help; returns CLI_USAGE. `verb` is empty for drover itself. */
int cli_usage(const char *verb, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* getopt_long() said '?' or ':'. Tells which option, returns CLI_USAGE. */
int cli_bad_option(const char *verb, char **argv, int option);

/* All strings in it, so that they can be printed on a terminal (text_plain()). */
void cli_texts_plain(json_t *value);
/* Calls the API; on failure the reason is on stderr and CLI_FAIL is returned. `path` is a
 * format. `body` is stolen (may be NULL). */
int cli_call(struct cli *cli, const char *method, json_t *body, json_t **ret_answer,
             const char *path, ...) __attribute__((format(printf, 5, 6)));
/* Prints as JSON on stdout. */
void cli_print_json(const json_t *value);
/* Text of a field, "-" if it is missing, null or empty. */
const char *cli_text(const json_t *object, const char *key);
uint64_t cli_number(const json_t *object, const char *key);
/* "2026-11-22 14:03:05.123" (local time) into `text`. */
#define CLI_TIME_SIZE 32
const char *cli_time(uint64_t unix_ms, char text[CLI_TIME_SIZE]);
/* "512M"; whole units only, else with one decimal. */
#define CLI_SIZE_SIZE 24
const char *cli_size(uint64_t bytes, char text[CLI_SIZE_SIZE]);
/* A whole number in [least, most]; CLI_USAGE with the reason otherwise. */
int cli_parse_number(const char *verb, const char *option, const char *text,
                     uint64_t least, uint64_t most, uint64_t *ret_value);
/* From now on SIGINT does not end the program, but is told by cli_sleep_ms(). */
void cli_catch_interrupt(void);
/* Sleeps; true at once when an interrupt came that was to be caught. */
bool cli_sleep_ms(unsigned ms);
/* Whether progress is shown: stderr is a terminal, and neither --json nor --quiet. */
bool cli_shows_progress(const struct cli *cli);

#endif
