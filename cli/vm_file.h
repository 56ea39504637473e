/* SPDX-License-Identifier: Apache-2.0 */
/* A VM described in a YAML file (libfyaml), with the fields of the API's JSON. */
#ifndef DROVER_CLI_VM_FILE_H
#define DROVER_CLI_VM_FILE_H

#include <jansson.h>

struct error;

/* Reads the one document of `path` ("-": stdin). Scalars become numbers or booleans where
 * the API wants them, texts else: the API judges the rest. DROVER_EBADINPUT with file and
 * line; -errno when it can't be read. The caller owns the object. */
int vm_file_load(const char *path, json_t **ret_vm, struct error *err);

#endif
