/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of an arriving guest that is not there yet (migration/guest.h, post-copy), by
 * userfaultfd. */
#ifndef DROVER_VMM_MOVE_MIGRATE_MISSING_H
#define DROVER_VMM_MOVE_MIGRATE_MISSING_H

#include <stdint.h>

struct error;
struct migration_guest;

int migrate_missing_possible(struct migration_guest *guest, struct error *err);
int migrate_missing_begin(struct migration_guest *guest, struct error *err);
int migrate_missing_add(struct migration_guest *guest, unsigned region,
                        uint64_t first_page, uint64_t page_count);
int migrate_missing_wait(struct migration_guest *guest, int stop_fd, unsigned *ret_region,
                         uint64_t *ret_page);
int migrate_missing_place(struct migration_guest *guest, unsigned region,
                          uint64_t first_page, uint64_t page_count, const uint8_t *data);
void migrate_missing_end(struct migration_guest *guest);

#endif
