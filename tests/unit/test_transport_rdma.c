/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of the RDMA transport needs no device: its messages, the credits, the registration
 * of guest memory (on verbs that only count), and who may say what about places.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "migration/transport_rdma_internal.h"
#include "migration/transport_rdma_memory.h"
#include "tests/unit/unit.h"

/* ---- messages ---------------------------------------------------------------------- */

static void test_messages_come_back_as_they_went(void **state)
{
    uint8_t message[RDMA_HEADER_SIZE + 7] = {0};
    struct rdma_header header = {.type = RDMA_DATA, .credits = 9, .size = 7};
    struct rdma_header back = {0};
    rdma_header_encode(message, &header);
    assert_int_equal(rdma_header_decode(message, sizeof(message), &back), 0);
    assert_memory_equal(&header, &back, sizeof(back));

    uint8_t payload[RDMA_KEY_SIZE];
    struct rdma_key key = {.region = 1,
                           .granted = true,
                           .chunk = 77,
                           .address = UINT64_C(0x7f0011223344),
                           .key = 0xcafe};
    struct rdma_key key_back = {0};
    rdma_key_encode(payload, &key);
    assert_int_equal(rdma_key_decode(payload, sizeof(payload), &key_back), 0);
    assert_true(key_back.region == 1 && key_back.granted && key_back.chunk == 77 &&
                key_back.address == key.address && key_back.key == 0xcafe);

    uint8_t hello[RDMA_HELLO_SIZE + 40] = {0}; /* connection managers add zeros */
    struct rdma_hello hello_back;
    rdma_hello_encode(hello, "0123456789abcdef0123456789abcdef");
    assert_int_equal(rdma_hello_decode(hello, sizeof(hello), &hello_back), 0);
    assert_int_equal(hello_back.buffer_bytes, RDMA_BUFFER_BYTES);
    assert_string_equal(hello_back.key, "0123456789abcdef0123456789abcdef");
    /* by a build that knows no keys */
    assert_int_equal(rdma_hello_decode(hello, RDMA_HELLO_LEAST, &hello_back), 0);
    assert_string_equal(hello_back.key, "");
    rdma_hello_encode(hello, "");
    assert_int_equal(rdma_hello_decode(hello, sizeof(hello), &hello_back), 0);
    assert_string_equal(hello_back.key, "");
}

static void test_senseless_messages_are_refused(void **state)
{
    uint8_t message[RDMA_BUFFER_BYTES + 1] = {0};
    struct rdma_header header = {.type = RDMA_DATA, .size = 100};
    struct rdma_header back;
    rdma_header_encode(message, &header);
    /* shorter or longer than it says */
    assert_int_equal(rdma_header_decode(message, RDMA_HEADER_SIZE + 99, &back),
                     DROVER_EMALFORMED);
    assert_int_equal(rdma_header_decode(message, RDMA_HEADER_SIZE + 101, &back),
                     DROVER_EMALFORMED);
    assert_int_equal(rdma_header_decode(message, 3, &back), DROVER_EMALFORMED);
    assert_int_equal(rdma_header_decode(message, sizeof(message), &back),
                     DROVER_EMALFORMED);
    /* of no kind, and of a kind that has another size */
    for (unsigned type = 0; type < 256; type++) {
        message[0] = (uint8_t)type;
        assert_int_equal(rdma_header_decode(message, RDMA_HEADER_SIZE + 100, &back),
                         type == RDMA_DATA ? 0 : DROVER_EMALFORMED);
    }
    /* more credits than there are buffers */
    header.credits = RDMA_BUFFERS + 1;
    rdma_header_encode(message, &header);
    assert_int_equal(rdma_header_decode(message, RDMA_HEADER_SIZE + 100, &back),
                     DROVER_EMALFORMED);
    uint8_t hello[RDMA_HELLO_SIZE];
    struct rdma_hello theirs;
    rdma_hello_encode(hello, "");
    hello[5]++;
    assert_int_equal(rdma_hello_decode(hello, sizeof(hello), &theirs), DROVER_EVERSION);
    hello[0]++;
    assert_int_equal(rdma_hello_decode(hello, sizeof(hello), &theirs), DROVER_EMALFORMED);
    assert_int_equal(rdma_hello_decode(hello, 4, &theirs), DROVER_EMALFORMED);
}

/* ---- credits ----------------------------------------------------------------------- */

struct end {
    struct rdma_credits credits;
    unsigned buffers; /* free to receive into */
    struct {
        enum rdma_message type;
        uint16_t credits;
    } way[2 * RDMA_BUFFERS]; /* sent to it, and not there yet */
    unsigned way_count;
    unsigned sent, received;
};

static bool end_send(struct end *from, struct end *to, enum rdma_message type)
{
    if (!rdma_credits_may_send(&from->credits, type)) {
        return false;
    }
    assert_true(to->way_count < 2 * RDMA_BUFFERS);
    to->way[to->way_count].type = type;
    to->way[to->way_count++].credits = rdma_credits_send(&from->credits);
    from->sent += type == RDMA_DATA;
    return true;
}

static void end_receive(struct end *end)
{
    if (end->way_count == 0) {
        return;
    }
    assert_true(end->buffers > 0); /* else the device would have had to wait */
    assert_int_equal(rdma_credits_take(&end->credits, end->way[0].credits), 0);
    end->received += end->way[0].type == RDMA_DATA;
    memmove(end->way, end->way + 1, --end->way_count * sizeof(end->way[0]));
    end->credits.owed++; /* consumed at once */
}

static void test_two_ends_that_both_send_never_lock_each_other_out(void **state)
{
    struct end ends[2] = {{.credits.there = RDMA_BUFFERS, .buffers = RDMA_BUFFERS},
                          {.credits.there = RDMA_BUFFERS, .buffers = RDMA_BUFFERS}};
    unsigned seed = 4711;
    for (unsigned step = 0; step < 200000; step++) {
        seed = seed * 1103515245u + 12345u;
        struct end *one = &ends[seed >> 16 & 1];
        struct end *other = one == &ends[0] ? &ends[1] : &ends[0];
        switch (seed >> 20 & 7) {
        case 0:
        case 1:
        case 2:
            (void)end_send(one, other, RDMA_DATA);
            break;
        case 3:
            (void)end_send(one, other, one == &ends[0] ? RDMA_ASK : RDMA_KEY);
            break;
        case 4:
            if (rdma_credits_must_tell(&one->credits)) {
                (void)end_send(one, other, RDMA_CREDIT);
            }
            break;
        default:
            end_receive(one);
            break;
        }
        /* Never more under way to an end than it has buffers for. */
        assert_true(ends[0].way_count <= RDMA_BUFFERS &&
                    ends[1].way_count <= RDMA_BUFFERS);
    }
    assert_true(ends[0].received > 10000 && ends[1].received > 10000);
}

static void test_a_peer_that_gives_more_credits_than_there_are_is_caught(void **state)
{
    struct rdma_credits credits = {.there = RDMA_BUFFERS - 2};
    assert_int_equal(rdma_credits_take(&credits, 3), DROVER_EMALFORMED);
    assert_int_equal(rdma_credits_take(&credits, 2), 0);
    assert_int_equal(rdma_credits_take(&credits, 1), DROVER_EMALFORMED);
}

/* ---- memory ------------------------------------------------------------------------ */

/* What the verbs below were called with. A real device stands where `context` points. */
static struct {
    unsigned domains, registered, fail_from;
    int access;
} seen;

static struct ibv_pd *alloc_pd(struct ibv_context *context)
{
    (void)context;
    seen.domains++;
    return calloc(1, sizeof(struct ibv_pd));
}

static int dealloc_pd(struct ibv_pd *pd)
{
    assert_int_equal(seen.registered, 0); /* a real one would refuse */
    seen.domains--;
    free(pd);
    return 0;
}

static struct ibv_mr *reg_mr(struct ibv_pd *pd, void *address, size_t size, int access)
{
    (void)pd;
    if (seen.fail_from != 0 && seen.registered + 1 >= seen.fail_from) {
        errno = ENOMEM;
        return NULL;
    }
    struct ibv_mr *mr = calloc(1, sizeof(*mr));
    assert_non_null(mr);
    mr->addr = address;
    mr->length = size;
    mr->rkey = ++seen.registered;
    seen.access = access;
    return mr;
}

static int dereg_mr(struct ibv_mr *mr)
{
    seen.registered--;
    free(mr);
    return 0;
}

static const struct rdma_library library = {.verbs = {.alloc_pd = alloc_pd,
                                                      .dealloc_pd = dealloc_pd,
                                                      .reg_mr = reg_mr,
                                                      .dereg_mr = dereg_mr}};
static uint8_t guest_memory[64];
static const struct transport_region regions[] = {
    {.host = guest_memory, .size_bytes = 3 * RDMA_CHUNK_BYTES + 4096},
    {.host = guest_memory + 32, .size_bytes = 4096},
};

static void test_a_chunk_is_registered_once_for_all_links_and_forgotten_with_the_last(
    void **state)
{
    struct ibv_context device = {0};
    struct ibv_context other_device = {0};
    struct rdma_memory *memory = NULL;
    struct ibv_pd *one = NULL;
    struct ibv_pd *two = NULL;
    struct ibv_mr *mr = NULL;
    struct ibv_mr *again = NULL;
    memset(&seen, 0, sizeof(seen));
    assert_int_equal(rdma_memory_create(&library, &memory), 0);
    assert_int_equal(rdma_memory_join(memory, &device, &one), 0);
    assert_int_equal(rdma_memory_join(memory, &device, &two), 0);
    assert_ptr_equal(one, two);
    assert_int_equal(rdma_memory_join(memory, &other_device, &two), -EXDEV);
    /* nothing is offered yet */
    assert_int_equal(rdma_memory_chunk(memory, 0, 0, &mr), DROVER_EBADINPUT);
    assert_int_equal(rdma_memory_offer(memory, regions, 2, true), 0);
    assert_int_equal(rdma_memory_offer(memory, regions, 2, true), 0);
    assert_int_equal(rdma_memory_offer(memory, regions, 2, false), DROVER_EINUSE);
    assert_int_equal(rdma_memory_offer(memory, regions, 1, true), DROVER_EINUSE);
    assert_int_equal(seen.registered, 0); /* only when needed */
    assert_int_equal(rdma_memory_chunk(memory, 0, 3, &mr), 0);
    assert_int_equal(mr->length, 4096); /* the last one ends with the region */
    assert_int_equal(seen.access, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    assert_int_equal(rdma_memory_chunk(memory, 0, 3, &again), 0);
    assert_ptr_equal(mr, again);
    assert_int_equal(seen.registered, 1);
    assert_int_equal(rdma_memory_chunk(memory, 0, 4, &mr), DROVER_EBADINPUT);
    assert_int_equal(rdma_memory_chunk(memory, 1, 1, &mr), DROVER_EBADINPUT);
    assert_int_equal(rdma_memory_chunk(memory, 2, 0, &mr), DROVER_EBADINPUT);
    assert_int_equal(rdma_memory_chunk(memory, 65535, UINT32_MAX, &mr), DROVER_EBADINPUT);
    rdma_memory_leave(memory);
    assert_int_equal(seen.registered, 1);
    rdma_memory_leave(memory);
    assert_int_equal(seen.registered, 0);
    assert_int_equal(seen.domains, 0);
    /* the next move: the peer may only read what this side sends from */
    assert_int_equal(rdma_memory_join(memory, &other_device, &one), 0);
    assert_int_equal(rdma_memory_offer(memory, regions, 1, false), 0);
    assert_int_equal(rdma_memory_chunk(memory, 0, 0, &mr), 0);
    assert_int_equal(seen.access, 0);
    seen.fail_from = 2;
    assert_int_equal(rdma_memory_chunk(memory, 0, 1, &mr), -ENOMEM);
    seen.fail_from = 0;
    assert_int_equal(rdma_memory_chunk(memory, 0, 1, &mr), 0);
    rdma_memory_leave(memory);
    assert_int_equal(seen.registered, 0);
    rdma_memory_free(memory);
}

/* ---- places ------------------------------------------------------------------------ */

static int say(struct rdma_link *link, enum rdma_message type, const struct rdma_key *key)
{
    uint8_t payload[RDMA_KEY_SIZE];
    struct rdma_header header = {.type = type, .size = RDMA_KEY_SIZE};
    rdma_key_encode(payload, key);
    return rdma_place_message(link, &header, payload);
}

static void test_a_source_takes_only_the_keys_that_it_asked_for(void **state)
{
    struct rdma_place places[4] = {0};
    struct rdma_link link = {
        .offered = true, .places = {[1] = places}, .place_count = {[1] = 4}};
    struct rdma_key key = {.region = 1, .granted = true, .chunk = 2, .key = 5};
    assert_int_equal(say(&link, RDMA_KEY, &key), DROVER_EMALFORMED);
    places[2].state = RDMA_PLACE_ASKED;
    assert_int_equal(say(&link, RDMA_KEY, &key), 0);
    assert_true(places[2].state == RDMA_PLACE_GRANTED && places[2].key == 5);
    assert_int_equal(say(&link, RDMA_KEY, &key), DROVER_EMALFORMED); /* twice */
    places[3].state = RDMA_PLACE_ASKED;
    key = (struct rdma_key){.region = 1, .chunk = 3};
    assert_int_equal(say(&link, RDMA_KEY, &key), 0);
    assert_int_equal(places[3].state, RDMA_PLACE_REFUSED);
    key.chunk = 4;
    assert_int_equal(say(&link, RDMA_KEY, &key), DROVER_EMALFORMED);
    key = (struct rdma_key){.region = TRANSPORT_REGIONS_MAX, .chunk = 0};
    assert_int_equal(say(&link, RDMA_KEY, &key), DROVER_EMALFORMED);
    key = (struct rdma_key){.region = 0, .chunk = 0};
    assert_int_equal(say(&link, RDMA_KEY, &key), DROVER_EMALFORMED);
    assert_int_equal(say(&link, RDMA_ASK, &key), DROVER_EMALFORMED); /* a target's */
}

static void test_a_target_remembers_only_so_many_questions(void **state)
{
    struct rdma_link link = {.passive = true};
    struct rdma_key key = {.region = 9, .chunk = 1};
    for (unsigned i = 0; i < RDMA_BUFFERS; i++) {
        assert_int_equal(say(&link, RDMA_ASK, &key), 0);
    }
    assert_int_equal(say(&link, RDMA_ASK, &key), DROVER_EMALFORMED);
    assert_int_equal(say(&link, RDMA_KEY, &key), DROVER_EMALFORMED); /* a source's */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_come_back_as_they_went),
        cmocka_unit_test(test_senseless_messages_are_refused),
        cmocka_unit_test(test_two_ends_that_both_send_never_lock_each_other_out),
        cmocka_unit_test(test_a_peer_that_gives_more_credits_than_there_are_is_caught),
        cmocka_unit_test(
            test_a_chunk_is_registered_once_for_all_links_and_forgotten_with_the_last),
        cmocka_unit_test(test_a_source_takes_only_the_keys_that_it_asked_for),
        cmocka_unit_test(test_a_target_remembers_only_so_many_questions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
