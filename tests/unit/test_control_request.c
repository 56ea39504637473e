/* SPDX-License-Identifier: Apache-2.0 */
/* The words of an order, and what --help says of them. */
#include "tests/unit/unit.h"

#include <string.h>

#include "base/err.h"
#include "vmm/control/control_request.h"

#define WORDS_MAX 4

static int parse(const char *const *words, struct control_request *request)
{
    char *copy[WORDS_MAX] = {NULL};
    int count = 0;
    struct error err = {0};

    for (; count < WORDS_MAX && words[count] != NULL; count++) {
        copy[count] = (char *)words[count]; /* only read */
    }
    return control_request_parse(count, copy, request, &err);
}

static void test_each_option_of_a_move_is_taken_and_explained(void **state)
{
    static const char *const options[][2] = {
        {"--max-downtime", "5"}, {"--deadline", "9"},      {"--streams", "3"},
        {"--bandwidth", "100M"}, {"--compress", "always"}, {"--post-copy", "now"},
        {"--predict", NULL},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        const char *const words[WORDS_MAX] = {"migrate", "tcp:host:1", options[i][0],
                                              options[i][1]};
        struct control_request request;

        if (parse(words, &request) != 0) {
            fail_msg("%s is not taken", options[i][0]);
        }
        if (strstr(control_request_help(), options[i][0]) == NULL) {
            fail_msg("--help does not name %s", options[i][0]);
        }
    }
}

static void test_each_order_is_taken_and_explained(void **state)
{
    static const char *const orders[][2] = {
        {"status", NULL},
        {"pause", NULL},
        {"resume", NULL},
        {"stop", NULL},
        {"quit", NULL},
        {"migrate", "tcp:host:1"},
        {"cancel", NULL},
        {"reclaim", NULL},
        {"migrate-resume", "tcp:host:1"},
        {"migrate-limit", "none"},
        {"balloon", "64M"},
        {"snapshot", "folder"},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        const char *const words[WORDS_MAX] = {orders[i][0], orders[i][1]};
        struct control_request request;

        if (parse(words, &request) != 0) {
            fail_msg("%s is not taken", orders[i][0]);
        }
        char line[32] = "\n  ";
        (void)strcat(line, orders[i][0]);
        if (strstr(control_request_help(), line) == NULL) {
            fail_msg("--help does not name %s", orders[i][0]);
        }
    }
}

static void test_orders_that_make_no_sense_are_refused(void **state)
{
    static const char *const orders[][WORDS_MAX] = {
        {"migrate"},
        {"migrate", "tcp:host:1", "--streams", "0"},
        {"migrate", "tcp:host:1", "--streams"},
        {"migrate", "tcp:host:1", "--compress", "perhaps"},
        {"migrate", "tcp:host:1", "--unknown", "1"},
        {"migrate-limit", "much"},
        {"balloon", "-1"},
        {"snapshot"},
        {"jump"},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        struct control_request request;

        if (parse(orders[i], &request) != DROVER_EBADINPUT) {
            fail_msg("%s, number %u, is taken", orders[i][0], i);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_option_of_a_move_is_taken_and_explained),
        cmocka_unit_test(test_each_order_is_taken_and_explained),
        cmocka_unit_test(test_orders_that_make_no_sense_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
