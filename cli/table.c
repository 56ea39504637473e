/* SPDX-License-Identifier: Apache-2.0 */
/* Tables for people. */
#include "cli/table.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct table {
    unsigned column_count;
    size_t cell_count;
    size_t capacity;
    char **cells; /* titles first */
};

static int add(struct table *table, char *text)
{
    if (table->cell_count == table->capacity) {
        size_t capacity = table->capacity == 0 ? 64 : 2 * table->capacity;
        char **cells = realloc(table->cells, capacity * sizeof(*cells));
        if (cells == NULL) {
            free(text);
            return -ENOMEM;
        }
        table->cells = cells;
        table->capacity = capacity;
    }
    table->cells[table->cell_count++] = text;
    return 0;
}

struct table *table_create(const char *const *titles)
{
    struct table *table = calloc(1, sizeof(*table));
    if (table == NULL) {
        return NULL;
    }
    while (titles[table->column_count] != NULL &&
           table->column_count < TABLE_COLUMNS_MAX) {
        if (table_cell(table, "%s", titles[table->column_count]) != 0) {
            table_free(table);
            return NULL;
        }
        table->column_count++;
    }
    return table;
}

void table_free(struct table *table)
{
    if (table == NULL) {
        return;
    }
    for (size_t i = 0; i < table->cell_count; i++) {
        free(table->cells[i]);
    }
    free(table->cells);
    free(table);
}

int table_cell(struct table *table, const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int size = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (size < 0) {
        return -ENOMEM;
    }
    for (char *c = text; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f) {
            *c = '?'; /* what a guest or a peer wrote must not steer the terminal */
        }
    }
    return add(table, text);
}

void table_print(const struct table *table, FILE *out)
{
    size_t widths[TABLE_COLUMNS_MAX] = {0};
    for (size_t i = 0; i < table->cell_count; i++) {
        size_t width = strlen(table->cells[i]);
        size_t *widest = &widths[i % table->column_count];
        *widest = width > *widest ? width : *widest;
    }
    for (size_t i = 0; i < table->cell_count; i++) {
        unsigned column = (unsigned)(i % table->column_count);
        if (column + 1 == table->column_count) {
            (void)fprintf(out, "%s\n", table->cells[i]);
        } else {
            (void)fprintf(out, "%-*s  ", (int)widths[column], table->cells[i]);
        }
    }
}
