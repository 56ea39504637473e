/* SPDX-License-Identifier: Apache-2.0 */
/* What drover-vmm's command line says of firmware and boot order. */
#include "vmm/options/options_firmware.h"

#include "base/err.h"
#include "vmm/options/options.h"

int options_firmware_option(int key, const char *text, struct options *options)
{
    switch (key) {
    case OPTIONS_KEY_FIRMWARE:
        options->firmware = text;
        return 0;
    case OPTIONS_KEY_VARS:
        options->vars = text;
        return 0;
    case OPTIONS_KEY_UUID:
        options->uuid = text;
        return 0;
    default:
        options->firmware_log = text;
        return 0;
    }
}

int options_firmware_judge(const struct options *options, struct error *err)
{
    if (options->firmware != NULL) {
        if (options->kernel != NULL || options->initrd != NULL ||
            options->cmdline != NULL) {
            return error_set(err, DROVER_EBADINPUT,
                             "--firmware boots from a disk: leave out --kernel, --initrd "
                             "and --cmdline, or --firmware");
        }
        return 0;
    }
    if (options->vars != NULL || options->uuid != NULL || options->firmware_log != NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "--vars, --uuid and --firmware-log need --firmware");
    }
    return 0;
}

int options_boot_parse(const char *option, const char *number, unsigned *ret_boot,
                       struct error *err)
{
    unsigned value = 0;
    for (const char *at = number; *at != '\0' && value <= OPTIONS_BOOT_MAX; at++) {
        if (*at < '0' || *at > '9') {
            value = 0;
            break;
        }
        value = value * 10 + (unsigned)(*at - '0');
    }
    if (value == 0 || value > OPTIONS_BOOT_MAX) {
        return error_set(err, DROVER_EBADINPUT,
                         "%s: boot=%s: give a number from 1 (tried first) to %d", option,
                         number, OPTIONS_BOOT_MAX);
    }
    *ret_boot = value;
    return 0;
}
