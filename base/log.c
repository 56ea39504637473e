/* SPDX-License-Identifier: Apache-2.0 */
/* One line per event on stderr. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

#define LINE_SIZE 1024

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR:
        return "error";
    case LOG_LEVEL_WARN:
        return "warn";
    case LOG_LEVEL_NOTICE:
        return "notice";
    case LOG_LEVEL_INFO:
        return "info";
    case LOG_LEVEL_DEBUG:
        return "debug";
    }
    return "?";
}

void log_init(struct log *log, const char *program, enum log_level level)
{
    *log = (struct log){
        .program = program,
        .level = level,
        .fd = STDERR_FILENO,
        .journal = getenv("JOURNAL_STREAM") != NULL,
    };
}

static int format_head(const struct log *log, enum log_level level, char *line)
{
    if (log->journal) {
        return snprintf(line, LINE_SIZE, "<%d>", (int)level);
    }
    struct timespec now = {0};
    struct tm utc = {0};
    (void)clock_gettime(CLOCK_REALTIME,
                        &now); /* a log line is worth more than its time */
    (void)gmtime_r(&now.tv_sec, &utc);
    return snprintf(line, LINE_SIZE, "%02d:%02d:%02d.%03ld %s %s: ", utc.tm_hour,
                    utc.tm_min, utc.tm_sec, now.tv_nsec / 1000000, log->program,
                    level_name(level));
}

void log_line(const struct log *log, enum log_level level, const char *format, ...)
{
    if (level > log->level) {
        return;
    }
    char line[LINE_SIZE];
    int head = format_head(log, level, line);
    va_list arguments;
    va_start(arguments, format);
    int body = vsnprintf(line + head, (size_t)(LINE_SIZE - head - 1), format, arguments);
    va_end(arguments);
    size_t size = strnlen(line, LINE_SIZE - 2);
    if (body < 0) {
        return;
    }
    line[size] = '\0';
    text_plain(line); /* input that is quoted must not forge lines */
    line[size] = '\n';
    ssize_t written = write(log->fd, line, size + 1);
    (void)written; /* nobody is left to tell */
}
