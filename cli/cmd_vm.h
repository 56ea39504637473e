/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of `drover vm`. */
#ifndef DROVER_CLI_CMD_VM_H
#define DROVER_CLI_CMD_VM_H

#include "cli/cli.h"

extern const char cli_vm_create_help[];
extern const char cli_vm_apply_help[];
extern const char cli_vm_migrate_help[];
int cli_vm_create(struct cli *cli, int argc, char **argv);
int cli_vm_apply(struct cli *cli, int argc, char **argv);
int cli_vm_console(struct cli *cli, int argc, char **argv);
int cli_vm_migrate(struct cli *cli, int argc, char **argv);
/* CLI_OK if argv[index] is the last argument, and can be the name of a VM. */
int cli_vm_check_name(const char *verb, int argc, char **argv, int index);
/* Prints a VM, as JSON or for people. Borrows `vm`. Returns CLI_OK. */
int cli_vm_show_answer(struct cli *cli, const json_t *vm);
/* Prints how a move went for people, each line after `title`. */
void cli_vm_show_figures(const json_t *figures, const char *title);

#endif
