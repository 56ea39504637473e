/* SPDX-License-Identifier: Apache-2.0 */
/* --cdrom FILE[,boot=N] */
#include "vmm/options/options_cdrom.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "vmm/options/options.h"

int options_cdrom_parse(const char *text, struct options *options, struct error *err)
{
    if (options->cdrom_count == OPTIONS_CDROMS_MAX) {
        return error_set(err, DROVER_EBADINPUT,
                         "more than %d CD-ROM drives: give fewer --cdrom",
                         OPTIONS_CDROMS_MAX);
    }
    struct options_cdrom *cdrom = &options->cdroms[options->cdrom_count];
    size_t path_size = strcspn(text, ",");
    if (path_size == 0 || path_size >= sizeof(cdrom->path)) {
        return error_set(err, DROVER_EBADINPUT, "--cdrom %s: give FILE[,boot=N]", text);
    }
    *cdrom = (struct options_cdrom){.boot = 0};
    memcpy(cdrom->path, text, path_size);
    const char *rest = text + path_size;
    if (*rest != '\0') {
        char *end = NULL;
        unsigned long boot = 0;
        bool named = strncmp(rest, ",boot=", 6) == 0 && rest[6] >= '0' && rest[6] <= '9';
        boot = named ? strtoul(rest + 6, &end, 10) : 0;
        if (boot < 1 || boot > OPTIONS_BOOT_MAX || *end != '\0') {
            return error_set(err, DROVER_EBADINPUT,
                             "--cdrom %s: only boot=N may follow the file, 1 to %d", text,
                             OPTIONS_BOOT_MAX);
        }
        cdrom->boot = (unsigned)boot;
    }
    options->cdrom_count++;
    return 0;
}
