/* SPDX-License-Identifier: Apache-2.0 */
/* State machines as tables. */
#include "base/state_table.h"

#include "base/check.h"

bool state_table_allows(const struct state_table *table, unsigned from, unsigned to)
{
    CHECK(table->count <= 64);
    return from < table->count && to < table->count &&
           (table->rows[from].next & STATE_BIT(to)) != 0;
}

void state_table_move(const struct state_table *table, unsigned *state, unsigned to)
{
    CHECK(state_table_allows(table, *state, to));
    *state = to;
}

const char *state_table_name(const struct state_table *table, unsigned state)
{
    return state < table->count ? table->rows[state].name : "?";
}
