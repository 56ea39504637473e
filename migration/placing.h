/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory straight into the peer's, over links that can (transport.h): who offers what to
 * whom, and which extents go that way.
 */
#ifndef DROVER_MIGRATION_PLACING_H
#define DROVER_MIGRATION_PLACING_H

#include <stdbool.h>
#include <stdint.h>

struct extent;
struct migration_guest;
struct transport_link;

/*
 * Lets a link read guest memory, or (`writable`, the target's) write it, if it can; true
 * if so. From then on, and until placing_end() after all links are closed, the guest's
 * memory is not given back to the host.
 */
bool placing_begin(struct transport_link *link, struct migration_guest *guest,
                   bool writable);
/* `begun`: how often placing_begin() was true. */
void placing_end(struct migration_guest *guest, unsigned begun);
/*
 * The data of an extent. 0; DROVER_ENOTFOUND: it must go over the stream. `ask`: there is
 * time to ask the peer for a place.
 */
int placing_send(struct transport_link *link, const struct extent *extent, bool ask,
                 uint32_t idle_ms);

#endif
