/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the leader: each ends exactly once, and never says "not done" of what may
 * have been done. */
#include "tests/unit/unit.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "node-agent/propose.h"

struct fixture {
    struct propose *propose;
    uint64_t leader;
    int send_error;
    unsigned sent_count;
    uint64_t sent_to, sent_id;
    unsigned done_count;
    int error;
    uint64_t index, result_id;
    unsigned status;
};

static uint64_t leader(void *owner)
{
    return ((struct fixture *)owner)->leader;
}

static int send_message(void *owner, uint64_t host_id, const Drover__PeerMessage *message)
{
    struct fixture *fixture = owner;
    if (fixture->send_error != 0) {
        return fixture->send_error;
    }
    fixture->sent_count++;
    fixture->sent_to = host_id;
    fixture->sent_id = message->what_case == DROVER__PEER_MESSAGE__WHAT_PROPOSE
                           ? message->propose->request_id
                           : message->api_forward->request_id;
    return 0;
}

static const struct propose_ops ops = {.leader = leader, .send = send_message};

static void done(void *owner, const struct propose_answer *answer)
{
    struct fixture *fixture = owner;
    fixture->done_count++;
    fixture->error = answer->error;
    fixture->index = answer->index;
    fixture->result_id = answer->result_id;
    fixture->status = answer->status;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_int_equal(propose_create(&ops, fixture, &fixture->propose), 0);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    propose_free(fixture->propose);
    free(fixture);
    return 0;
}

static void submit(struct fixture *fixture, uint64_t now_ms)
{
    Drover__HostDrain drain = DROVER__HOST_DRAIN__INIT;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_DRAIN;
    command.host_drain = &drain;
    assert_int_equal(
        propose_command(fixture->propose, &command, now_ms, 1000, done, fixture), 0);
    assert_int_equal(fixture->done_count, 0);
}

static void reply(struct fixture *fixture, uint64_t from, int error, uint64_t now_ms)
{
    Drover__ProposeReply answer = DROVER__PROPOSE_REPLY__INIT;
    answer.request_id = fixture->sent_id;
    answer.error = error;
    answer.index = 77;
    answer.result_id = 5;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_PROPOSE_REPLY;
    message.propose_reply = &answer;
    propose_received(fixture->propose, from, &message, now_ms);
}

static void test_waits_for_a_leader_then_is_answered(void **state)
{
    struct fixture *fixture = *state;
    submit(fixture, 0);
    assert_int_equal(propose_tick(fixture->propose, 0), 1000);
    assert_int_equal(fixture->sent_count, 0);
    fixture->leader = 3;
    (void)propose_tick(fixture->propose, 100);
    assert_int_equal(fixture->sent_count, 1);
    assert_int_equal(fixture->sent_to, 3);
    reply(fixture, 3, 0, 110);
    assert_int_equal(fixture->done_count, 1);
    assert_int_equal(fixture->error, 0);
    assert_int_equal(fixture->index, 77);
    assert_int_equal(fixture->result_id, 5);
}

static void test_asks_again_when_told_that_it_is_not_the_leader(void **state)
{
    struct fixture *fixture = *state;
    fixture->leader = 2;
    submit(fixture, 0);
    (void)propose_tick(fixture->propose, 0);
    reply(fixture, 2, DROVER_ENOTLEADER, 10);
    assert_int_equal(fixture->done_count, 0);
    fixture->leader = 3;
    (void)propose_tick(fixture->propose, 10);
    assert_int_equal(
        fixture->sent_count,
        1); /* not at once: no busy loop between two that point at each other */
    (void)propose_tick(fixture->propose, 100);
    assert_int_equal(fixture->sent_count, 2);
    assert_int_equal(fixture->sent_to, 3);
}

static void test_answer_of_another_host_is_ignored(void **state)
{
    struct fixture *fixture = *state;
    fixture->leader = 2;
    submit(fixture, 0);
    (void)propose_tick(fixture->propose, 0);
    reply(fixture, 3, 0, 10);
    assert_int_equal(fixture->done_count, 0);
}

static void forward(struct fixture *fixture, const char *method, const char *key)
{
    Drover__ApiForward request = DROVER__API_FORWARD__INIT;
    request.method = (char *)(uintptr_t)method;
    request.path = (char *)(uintptr_t) "/api/v1/vms";
    request.key = (char *)(uintptr_t)key;
    assert_int_equal(propose_forward(fixture->propose, &request, 0, 1000, done, fixture),
                     0);
    (void)propose_tick(fixture->propose, 0);
}

static void test_request_with_a_key_goes_to_the_next_leader(void **state)
{
    struct fixture *fixture = *state;
    fixture->leader = 2;
    forward(fixture, "POST", "key-1");
    assert_int_equal(fixture->sent_to, 2);
    propose_lost(fixture->propose, 2, false, 10);
    assert_int_equal(fixture->done_count, 0);
    fixture->leader = 3; /* also when the connection with it stands, and it is silent */
    (void)propose_tick(fixture->propose, 100);
    assert_int_equal(fixture->sent_to, 3);
    fixture->leader = 1;
    (void)propose_tick(fixture->propose, 110);
    assert_int_equal(fixture->sent_to, 1);
    assert_int_equal(fixture->sent_count, 3);
    /* Lost at the very end: it may have been done. */
    propose_lost(fixture->propose, 1, false, 990);
    fixture->leader = 0;
    (void)propose_tick(fixture->propose, 1000);
    assert_int_equal(fixture->done_count, 1);
    assert_int_equal(fixture->error, DROVER_ETIMEDOUT2);
}

static void test_request_without_a_key_is_sent_once(void **state)
{
    struct fixture *fixture = *state;
    fixture->leader = 2;
    forward(fixture, "POST", "");
    propose_lost(fixture->propose, 2, false, 10);
    assert_int_equal(fixture->done_count, 1);
    assert_int_equal(fixture->error, DROVER_ETIMEDOUT2);
    forward(fixture, "GET", "");
    propose_lost(fixture->propose, 2, false, 10);
    assert_int_equal(fixture->done_count, 1); /* reads do no harm */
}

static void test_lost_leader_means_unknown_but_unsent_means_again(void **state)
{
    struct fixture *fixture = *state;
    fixture->leader = 2;
    submit(fixture, 0);
    (void)propose_tick(fixture->propose, 0);
    propose_lost(fixture->propose, 2, true, 10);
    assert_int_equal(fixture->done_count, 0);
    (void)propose_tick(fixture->propose, 100);
    assert_int_equal(fixture->sent_count, 2);
    propose_lost(fixture->propose, 9, false, 110); /* somebody else's connection */
    assert_int_equal(fixture->done_count, 0);
    propose_lost(fixture->propose, 2, false, 120);
    assert_int_equal(fixture->done_count, 1);
    assert_int_equal(fixture->error, DROVER_ETIMEDOUT2);
}

static void test_time_limit_tells_sent_from_unsent(void **state)
{
    struct fixture *fixture = *state;
    submit(fixture, 0);
    (void)propose_tick(fixture->propose, 1000);
    assert_int_equal(fixture->error, DROVER_ENOLEADER);
    fixture->done_count = 0;
    fixture->leader = 2;
    submit(fixture, 2000);
    (void)propose_tick(fixture->propose, 2000);
    (void)propose_tick(fixture->propose, 3000);
    assert_int_equal(fixture->done_count, 1);
    assert_int_equal(fixture->error, DROVER_ETIMEDOUT2);
    reply(fixture, 2, 0, 3001); /* too late: nobody is called twice */
    assert_int_equal(fixture->done_count, 1);
}

static void test_forwarded_request_is_answered_once(void **state)
{
    struct fixture *fixture = *state;
    Drover__ApiForward forward = DROVER__API_FORWARD__INIT;
    forward.method = (char *)"GET";
    forward.path = (char *)"/api/v1/vms";
    fixture->leader = 2;
    assert_int_equal(propose_forward(fixture->propose, &forward, 0, 1000, done, fixture),
                     0);
    (void)propose_tick(fixture->propose, 0);
    Drover__ApiForwardReply answer = DROVER__API_FORWARD_REPLY__INIT;
    answer.request_id = fixture->sent_id;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_API_FORWARD_REPLY;
    message.api_forward_reply = &answer;
    propose_received(fixture->propose, 2, &message, 1); /* status 0: "not the leader" */
    assert_int_equal(fixture->done_count, 0);
    (void)propose_tick(fixture->propose, 100);
    answer.status = 200;
    propose_received(fixture->propose, 2, &message, 101);
    assert_int_equal(fixture->done_count, 1);
    assert_int_equal(fixture->status, 200);
}

static void test_too_many_are_refused_and_the_end_ends_all(void **state)
{
    struct fixture *fixture = *state;
    Drover__HostDrain drain = DROVER__HOST_DRAIN__INIT;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_DRAIN;
    command.host_drain = &drain;
    for (unsigned i = 0; i < PROPOSE_COUNT_MAX; i++) {
        assert_int_equal(
            propose_command(fixture->propose, &command, 0, 1000, done, fixture), 0);
    }
    assert_int_equal(propose_command(fixture->propose, &command, 0, 1000, done, fixture),
                     DROVER_ELIMIT);
    propose_free(fixture->propose);
    fixture->propose = NULL;
    assert_int_equal(fixture->done_count, PROPOSE_COUNT_MAX);
    assert_int_equal(fixture->error, DROVER_ECANCELLED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_waits_for_a_leader_then_is_answered),
        TEST(test_asks_again_when_told_that_it_is_not_the_leader),
        TEST(test_answer_of_another_host_is_ignored),
        TEST(test_request_with_a_key_goes_to_the_next_leader),
        TEST(test_request_without_a_key_is_sent_once),
        TEST(test_lost_leader_means_unknown_but_unsent_means_again),
        TEST(test_time_limit_tells_sent_from_unsent),
        TEST(test_forwarded_request_is_answered_once),
        TEST(test_too_many_are_refused_and_the_end_ends_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
