/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Under `make check`: the fuzzer's kept inputs once more, as libFuzzer would run them. For a
 * fuzzer with a main() of its own.
 */
#ifndef DROVER_TESTS_FUZZ_REPLAY_H
#define DROVER_TESTS_FUZZ_REPLAY_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define FUZZ_REPLAY_BYTES 8192u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* All of tests/fuzz/corpus/`name`; how many they were. */
static unsigned fuzz_replay(const char *name)
{
    const char *top = getenv("srcdir"); /* automake's */
    char path[512];
    int length = snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s",
                          top == NULL ? "." : top, name);
    CHECK(length > 0 && (size_t)length < sizeof(path));
    DIR *folder = opendir(path);
    unsigned count = 0;
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        char file_path[sizeof(path) + sizeof(entry->d_name) + 2];
        static uint8_t data[FUZZ_REPLAY_BYTES];
        (void)snprintf(file_path, sizeof(file_path), "%s/%s", path, entry->d_name); /* fits */
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(file_path, "rb");
        if (file != NULL) {
            size_t size = fread(data, 1, sizeof(data), file);
            (void)fclose(file); /* was only read */
            (void)LLVMFuzzerTestOneInput(data, size); /* always 0 */
            count++;
        }
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    return count;
}

#endif
