/* SPDX-License-Identifier: Apache-2.0 */
/* QMP with a daemon that says what it likes. */
#include "tests/unit/unit.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "vmm/storage/storage_qmp.h"

#define GREETING    "{\"QMP\": {}}\n"
#define ANSWER      "{\"return\": {}}\n"
#define ORDERS_MAX  100000
#define HANGS_S     20 /* then the signal ends the test */
#define DEADLINE_MS 1000

struct talk {
    struct storage_qmp qmp;
    int daemon_fd;
};

static void say(const struct talk *talk, const char *text)
{
    assert_int_equal(send(talk->daemon_fd, text, strlen(text), MSG_NOSIGNAL),
                     strlen(text));
}

static void talk_begin(struct talk *talk)
{
    int pair[2];

    (void)alarm(HANGS_S);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    talk->daemon_fd = pair[1];
    say(talk, GREETING ANSWER);
    assert_int_equal(storage_qmp_open(&talk->qmp, pair[0], clock_now_ms() + DEADLINE_MS),
                     0);
}

static void talk_end(struct talk *talk)
{
    storage_qmp_close(&talk->qmp);
    assert_int_equal(close(talk->daemon_fd), 0);
    (void)alarm(0);
}

static int order(struct talk *talk)
{
    char reason[ERROR_TEXT_SIZE];

    return storage_qmp_order(&talk->qmp, "query-version", NULL,
                             clock_now_ms() + DEADLINE_MS, reason);
}

/* It answers what it has not read: who orders must not wait for room. */
static void test_who_reads_nothing_is_not_waited_for(void **state)
{
    struct talk talk;
    int ret = 0;

    (void)state;
    talk_begin(&talk);
    for (unsigned i = 0; ret == 0 && i < ORDERS_MAX; i++) {
        say(&talk, ANSWER);
        ret = order(&talk);
    }
    assert_int_equal(ret, DROVER_ECLOSED);
    talk_end(&talk);
}

static void test_who_says_nothing_is_not_waited_for_long(void **state)
{
    struct talk talk;

    (void)state;
    talk_begin(&talk);
    assert_int_equal(order(&talk), DROVER_ETIMEDOUT2);
    talk_end(&talk);
}

static void test_what_is_no_answer_is_refused(void **state)
{
    struct talk talk;

    (void)state;
    talk_begin(&talk);
    say(&talk, "[1]\n");
    assert_int_equal(order(&talk), DROVER_EMALFORMED);
    for (unsigned i = 0; i <= STORAGE_QMP_LINES; i++) {
        say(&talk, "{\"event\": \"X\"}\n");
    }
    assert_int_equal(order(&talk), DROVER_EMALFORMED);
    talk_end(&talk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_reads_nothing_is_not_waited_for),
        cmocka_unit_test(test_who_says_nothing_is_not_waited_for_long),
        cmocka_unit_test(test_what_is_no_answer_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
