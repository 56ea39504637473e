/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times a program up to a text on its standard output, for tests/bench/boot_init.py:
 * static, in a lab host.
 *
 *   timeuntil SECONDS TEXT PROGRAM [ARGUMENT]...
 *
 * Prints the microseconds from right before the program's start to the last byte of TEXT,
 * and ends the program. Status 1, and the end of what came, if TEXT does not come in
 * time.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT_SIZE (1u << 20)
#define SHOWN_SIZE  400

static uint64_t now_us(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

static void program_run(char **words, const int *ends)
{
    int nothing = open("/dev/null", O_RDWR);
    if (nothing >= 0 && dup2(nothing, 0) == 0 && dup2(ends[1], 1) == 1) {
        (void)close(ends[0]);
        (void)execvp(words[0], words);
    }
    _exit(127);
}

/* Reads until `text` or the end of the time. Returns whether it came. */
static int text_wait(int fd, const char *text, uint64_t end_us, char *output)
{
    size_t have = 0;
    while (have < OUTPUT_SIZE - 1 && now_us() < end_us) {
        struct pollfd one = {.fd = fd, .events = POLLIN};
        if (poll(&one, 1, (int)((end_us - now_us()) / 1000) + 1) <= 0) {
            continue;
        }
        ssize_t got = read(fd, output + have, OUTPUT_SIZE - 1 - have);
        if (got <= 0) {
            return 0;
        }
        size_t before = have < strlen(text) ? have : strlen(text);
        have += (size_t)got;
        output[have] = '\0';
        if (memmem(output + have - (size_t)got - before, (size_t)got + before, text,
                   strlen(text)) != NULL) {
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    static char output[OUTPUT_SIZE];
    int ends[2];
    if (argc < 4 || pipe(ends) < 0) {
        (void)fprintf(stderr, "usage: timeuntil SECONDS TEXT PROGRAM [ARGUMENT]...\n");
        return 2;
    }
    uint64_t began_us = now_us();
    pid_t pid = fork();
    if (pid == 0) {
        program_run(argv + 3, ends);
    }
    (void)close(ends[1]);
    int came = text_wait(ends[0], argv[2],
                         began_us + strtoull(argv[1], NULL, 10) * 1000000, output);
    uint64_t took_us = now_us() - began_us;
    (void)kill(pid, SIGTERM); /* a launcher passes it on */
    for (int i = 0; i < 100 && waitpid(pid, NULL, WNOHANG) == 0; i++) {
        (void)usleep(20000);
    }
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    if (!came) {
        size_t size = strlen(output);
        (void)printf("no %s: %s\n", argv[2],
                     size > SHOWN_SIZE ? output + size - SHOWN_SIZE : output);
        return 1;
    }
    (void)printf("%llu\n", (unsigned long long)took_us);
    return 0;
}
