/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging, for programs (libraries return errors instead). One line per event on stderr:
 * level, program, text, then who/what/why fields as key=value. Under systemd the line
 * carries the journal's priority prefix. Any thread: each line is one write(2).
 */
#ifndef DROVER_BASE_LOG_H
#define DROVER_BASE_LOG_H

enum log_level {
    LOG_LEVEL_ERROR = 3,  /* cluster or VM harmed */
    LOG_LEVEL_WARN = 4,   /* harmed but handled */
    LOG_LEVEL_NOTICE = 5, /* state changed */
    LOG_LEVEL_INFO = 6,   /* helps trouble-shooting */
    LOG_LEVEL_DEBUG = 7,
};

/* Visible because programs embed it; set up with log_init(). */
struct log {
    const char *program;
    enum log_level level; /* lines above it are dropped */
    int fd;
    int journal; /* lines start with "<N>" */
};

void log_init(struct log *log, const char *program, enum log_level level);
void log_line(const struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(log, ...)  log_line((log), LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(log, ...)   log_line((log), LOG_LEVEL_WARN, __VA_ARGS__)
#define log_notice(log, ...) log_line((log), LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(log, ...)   log_line((log), LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(log, ...)  log_line((log), LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
