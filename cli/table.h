/* SPDX-License-Identifier: Apache-2.0 */
/* Tables for people: rows of texts, columns as wide as their widest. One thread. */
#ifndef DROVER_CLI_TABLE_H
#define DROVER_CLI_TABLE_H

#include <stdio.h>

#define TABLE_COLUMNS_MAX 10

struct table;

/* `titles` ends with NULL; they are copied. NULL when out of memory. */
struct table *table_create(const char *const *titles);
void table_free(struct table *table);
/* One printf-formatted cell; cells fill rows from the left. 0 or -ENOMEM. Control
 * characters become '?'. */
int table_cell(struct table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void table_print(const struct table *table, FILE *out);

#endif
