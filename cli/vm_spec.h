/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's description as JSON, from the texts of --disk and --net. Pure; the caller owns
 * what is returned. */
#ifndef DROVER_CLI_VM_SPEC_H
#define DROVER_CLI_VM_SPEC_H

#include <jansson.h>

struct error;

/* "PATH[,format=NAME][,ro]...". DROVER_EBADINPUT with the reason. */
int vm_spec_disk(const char *text, json_t **ret_disk, struct error *err);
/* "PATH[,boot=N]" */
int vm_spec_cdrom(const char *text, json_t **ret_disk, struct error *err);
/* "[bridge=NAME][,mac=MAC]..." or "default". */
int vm_spec_nic(const char *text, json_t **ret_nic, struct error *err);

#endif
