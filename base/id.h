/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Identities. Hosts and VMs are numbered by the cluster's state (uint64_t, never used
 * again, 0 = none); clusters, boots and agent runs are random texts.
 */
#ifndef DROVER_BASE_ID_H
#define DROVER_BASE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ID_TEXT_SIZE 40 /* a UUID or 32 hex digits, with the final NUL */

/* Fills `data` from getrandom(2); 0 or -errno. */
int id_random_bytes(void *data, size_t size);
/* 32 random hex digits and NUL; 0 or -errno. */
int id_random_text(char ret_text[ID_TEXT_SIZE]);
/* The kernel's boot id: changes with each boot of the host; 0 or -errno. */
int id_boot_text(char ret_text[ID_TEXT_SIZE]);
/* Names of hosts and VMs: 1 to 63 of [a-z0-9-], a letter or digit at both ends (RFC 1123
 * label). */
bool id_name_valid(const char *name);

#endif
