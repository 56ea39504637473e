/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State machines as tables: per state a name and the states that may follow. A move that
 * the table does not allow is the programmer's error and aborts.
 */
#ifndef DROVER_BASE_STATE_TABLE_H
#define DROVER_BASE_STATE_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#define STATE_BIT(state) (UINT64_C(1) << (state))

struct state_row {
    const char *name;
    uint64_t next; /* STATE_BIT() of each state that may follow */
};

struct state_table {
    const char *name;
    const struct state_row *rows;
    unsigned count; /* at most 64 */
};

bool state_table_allows(const struct state_table *table, unsigned from, unsigned to);
/* Sets *state to `to`; aborts if the table forbids it. */
void state_table_move(const struct state_table *table, unsigned *state, unsigned to);
/* The state's name, or "?" for a number outside the table. */
const char *state_table_name(const struct state_table *table, unsigned state);

#endif
