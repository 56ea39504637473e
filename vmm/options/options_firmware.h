/* SPDX-License-Identifier: Apache-2.0 */
/* The options of firmware and boot order, judged. Pure. */
#ifndef DROVER_VMM_OPTIONS_OPTIONS_FIRMWARE_H
#define DROVER_VMM_OPTIONS_OPTIONS_FIRMWARE_H

#include <stddef.h>

struct error;
struct options;

/* Keys of getopt_long(), in a range of their own. */
enum options_firmware_key {
    OPTIONS_KEY_FIRMWARE = 720,
    OPTIONS_KEY_VARS,
    OPTIONS_KEY_UUID,
    OPTIONS_KEY_FIRMWARE_LOG,
    OPTIONS_KEY_FIRMWARE_LAST = OPTIONS_KEY_FIRMWARE_LOG,
};

/* One option of the range above. */
int options_firmware_option(int key, const char *text, struct options *options);
/* What contradicts each other. */
int options_firmware_judge(const struct options *options, struct error *err);
/* The N of boot=N; `option` names it in errors. */
int options_boot_parse(const char *option, const char *number, unsigned *ret_boot,
                       struct error *err);

#endif
