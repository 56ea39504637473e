/* SPDX-License-Identifier: Apache-2.0 */
/* `drover-vmm control PATH ORDER`: gives one order to a running VMM and prints what
 * became of it. */
#ifndef DROVER_VMM_CONTROL_CONTROL_CLIENT_H
#define DROVER_VMM_CONTROL_CONTROL_CLIENT_H

#include <jansson.h>

#include "proto/control.pb-c.h"

/* argv[0] is "control". Returns the process's exit status: 0 only if the order was
 * carried out. */
int control_client_main(int argc, char **argv);

/* The status as people's programs read it; a new reference, NULL when out of memory. */
json_t *control_json_status(const Drover__VmStatus *status);
json_t *control_json_migration(const Drover__VmMigrationStatus *migration);
json_t *control_json_snapshot(const Drover__VmSnapshotStatus *snapshot);

#endif
