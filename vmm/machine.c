/* SPDX-License-Identifier: Apache-2.0 */
/* What the older versions of the machine don't have. */
#include "vmm/machine.h"

#include <stddef.h>

#include "base/err.h"
#include "vmm/options/options.h"

int machine_judge(const struct options *options, struct error *err)
{
    if (machine_has_chipset(options->machine)) {
        return 0;
    }
    const struct {
        bool given;
        const char *option;
    } newer[] = {
        {options->firmware != NULL, "--firmware"},
        {options->cdrom_count != 0, "--cdrom"},
        {options->vsock.cid != 0, "--vsock"},
        {options->on_panic != PANIC_POLICY_STOP, "--on-panic"},
    };
    for (size_t i = 0; i < sizeof(newer) / sizeof(newer[0]); i++) {
        if (newer[i].given) {
            return error_set(err, DROVER_EBADINPUT,
                             "--machine %u has no %s: leave out one of the two",
                             options->machine, newer[i].option);
        }
    }
    return 0;
}
