/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands of `drover` share. */
#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/text.h"
#include "cli/client.h"

static void print_error(const char *format, va_list arguments)
{
    char text[2 * ERROR_TEXT_SIZE];
    (void)vsnprintf(text, sizeof(text), format, arguments);
    text_plain(text);
    (void)fprintf(stderr, "drover: %s\n", text);
}

int cli_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_error(format, arguments);
    va_end(arguments);
    return CLI_FAIL;
}

int cli_usage(const char *verb, const char *format, ...)
{
    char text[ERROR_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (verb[0] == '\0') {
        (void)cli_fail("%s (see --help)", text);
    } else {
        (void)cli_fail("%s: %s (see --help)", verb, text);
    }
    return CLI_USAGE;
}

int cli_bad_option(const char *verb, char **argv, int option)
{
    if (option == ':') {
        return cli_usage(verb, "%s needs a value", argv[optind - 1]);
    }
    return cli_usage(verb, "no such option: %s", argv[optind - 1]);
}

void cli_texts_plain(json_t *value)
{
    const char *key;
    size_t index;
    json_t *part;
    json_object_foreach(value, key, part)
    {
        cli_texts_plain(part);
    }
    json_array_foreach(value, index, part)
    {
        cli_texts_plain(part);
    }
    char *copy = json_is_string(value) ? strdup(json_string_value(value)) : NULL;
    if (copy != NULL) {
        text_plain(copy);
        if (strcmp(copy, json_string_value(value)) != 0) {
            (void)json_string_set(value, copy); /* without memory it stays as it is */
        }
        free(copy);
    }
}

int cli_call(struct cli *cli, const char *method, json_t *body, json_t **ret_answer,
             const char *path, ...)
{
    char whole_path[LIMIT_PATH_SIZE];
    va_list arguments;
    va_start(arguments, path);
    int size = vsnprintf(whole_path, sizeof(whole_path), path, arguments);
    va_end(arguments);
    struct error err = {0};
    int rv =
        size < 0 || (size_t)size >= sizeof(whole_path)
            ? error_set(&err, DROVER_ELIMIT, "the request's path is too long")
            : client_call(cli->client, method, whole_path, body, ret_answer, NULL, &err);
    json_decref(body);
    if (rv == 0 && !cli->json) {
        cli_texts_plain(*ret_answer); /* it is for a terminal */
    }
    return rv == 0 ? CLI_OK : cli_fail("%s", err.text);
}

void cli_print_json(const json_t *value)
{
    (void)json_dumpf(value, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    (void)putchar('\n');
}

const char *cli_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text == NULL || text[0] == '\0' ? "-" : text;
}

uint64_t cli_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    double number = json_number_value(value);
    if (json_is_integer(value)) {
        json_int_t whole = json_integer_value(value);
        return whole > 0 ? (uint64_t)whole : 0;
    }
    return number > 0 ? (uint64_t)(number + 0.5) : 0;
}

const char *cli_time(uint64_t unix_ms, char text[CLI_TIME_SIZE])
{
    time_t seconds = (time_t)(unix_ms / MS_PER_S);
    struct tm local = {0};
    (void)localtime_r(&seconds, &local);
    size_t size = strftime(text, CLI_TIME_SIZE, "%Y-%m-%d %H:%M:%S", &local);
    (void)snprintf(text + size, CLI_TIME_SIZE - size, ".%03u",
                   (unsigned)(unix_ms % MS_PER_S));
    return text;
}

const char *cli_size(uint64_t bytes, char text[CLI_SIZE_SIZE])
{
    static const char units[] = {'K', 'M', 'G', 'T'};
    unsigned unit = 0;
    double value = (double)bytes / 1024;
    while (value >= 1024 && unit + 1 < sizeof(units)) {
        value /= 1024;
        unit++;
    }
    bool whole = value == (double)(uint64_t)value;
    (void)snprintf(text, CLI_SIZE_SIZE, whole ? "%.0f%c" : "%.1f%c", value, units[unit]);
    return text;
}

int cli_parse_number(const char *verb, const char *option, const char *text,
                     uint64_t least, uint64_t most, uint64_t *ret_value)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value < least ||
        value > most) {
        return cli_usage(verb, "%s: \"%s\" is not a whole number from %llu to %llu",
                         option, text, (unsigned long long)least,
                         (unsigned long long)most);
    }
    *ret_value = value;
    return CLI_OK;
}

static sigset_t interrupt_set(void)
{
    sigset_t set;
    (void)sigemptyset(&set); /* can't fail */
    (void)sigaddset(&set, SIGINT);
    return set;
}

void cli_catch_interrupt(void)
{
    sigset_t set = interrupt_set();
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
}

bool cli_sleep_ms(unsigned ms)
{
    struct timespec rest = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000L};
    sigset_t set = interrupt_set();
    return sigtimedwait(&set, NULL, &rest) == SIGINT;
}

bool cli_shows_progress(const struct cli *cli)
{
    return !cli->json && !cli->quiet && isatty(STDERR_FILENO) == 1;
}
