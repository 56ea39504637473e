/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hosts with their agents' moves (node-agent/moves.h) in one loop, over real TLS on the
 * loopback: what each of them was asked and told is counted. For tests.
 */
#ifndef DROVER_TESTS_UNIT_MOVES_FIXTURE_H
#define DROVER_TESTS_UNIT_MOVES_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node-agent/moves.h"
#include "node-agent/peers.h"
#include "tests/unit/pki_fixture.h"

#define MOVES_WAIT_MS 20000
#define MOVES_OPEN_MS 10000 /* emulated machines need seconds for two handshakes */

struct moves_host {
    struct moves_fixture *fixture;
    struct peers *peers;
    struct moves *moves;
    struct tls_context *context;
    struct peer_self self;
    char listen[32];
    uint64_t refuses; /* a host that is no member */
    int judgement;
    unsigned judged, arrived, opened, failed, refused;
    struct move_wish wish;
    struct move_socket socket;
    int error;
    char text[256];
    unsigned closed;
};

struct moves_fixture {
    uv_loop_t loop;
    struct pki_fixture pki, other_pki;
    struct moves_host hosts[3];
    unsigned count;
    bool relay_only;
    uint32_t open_ms;
};

/* Relays only, unless `relay_only` is taken back before a host is made. */
int moves_fixture_setup(void **state);
int moves_fixture_teardown(void **state);

/* One more, with a certificate of `pki`; all of them trust the fixture's own. */
struct moves_host *moves_fixture_host(struct moves_fixture *f, uint64_t host_id,
                                      struct pki_fixture *pki);
/* Closes it, which the teardown does else. */
void moves_fixture_close(struct moves_host *host);
/* Until the counter has come so far, or the time is over. */
void moves_fixture_run(struct moves_fixture *f, const unsigned *counter, unsigned wanted,
                       unsigned ms);
/* As host `host_id`, which should be `to`: stream 1 of VM 7, epoch 3. */
struct move_dial *moves_fixture_dial(struct moves_host *from, const struct moves_host *to,
                                     uint64_t host_id);
/* A connection from host 1 to host 2; its ends are the hosts' `socket.fd`, blocking. */
void moves_fixture_connect(struct moves_fixture *f);
/* Fails unless the source has told the target by what it encrypts. */
void moves_fixture_told(const struct moves_host *one, const struct moves_host *two);
/* Fails unless the end of the stream comes, or a reset. */
void moves_fixture_ends(int fd);

#endif
