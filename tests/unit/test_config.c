/* SPDX-License-Identifier: Apache-2.0 */
/* droverd's settings: file, command line, and that each mistake says where it is and what
 * to do. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "node-agent/config.h"

struct fixture {
    char path[64];
    struct agent_config config;
    enum config_action action;
    struct error err;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    (void)snprintf(fixture->path, sizeof(fixture->path), "/tmp/drover-config-XXXXXX");
    int fd = mkstemp(fixture->path);
    assert_true(fd >= 0);
    (void)close(fd);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    (void)unlink(fixture->path);
    free(fixture);
    return 0;
}

static int load(struct fixture *fixture, const char *text, const char *option,
                const char *value)
{
    FILE *file = fopen(fixture->path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    char *argv[] = {(char *)"droverd", (char *)"--config", fixture->path,
                    (char *)option,    (char *)value,      NULL};
    int argc = option == NULL ? 3 : value == NULL ? 4 : 5;
    fixture->err = (struct error){0};
    return config_load(argc, argv, &fixture->config, &fixture->action, &fixture->err);
}

static void assert_refused(struct fixture *fixture, const char *text, const char *said)
{
    assert_int_equal(load(fixture, text, NULL, NULL), DROVER_EBADINPUT);
    if (strstr(fixture->err.text, said) == NULL) {
        fail_msg("'%s' is not in '%s'", said, fixture->err.text);
    }
}

static void test_file_is_read_and_command_line_wins(void **state)
{
    struct fixture *fixture = *state;
    const char *text =
        "# a comment\n\n name = n1\naddress = \"10.1.2.3\"\nwatchdog=none\n"
        "memory-reserve = 2G\nwitness = yes\nlease-ms = 3000\n"
        "api-token-file = /etc/drover/tokens\n"; /* which release 0.1 took */
    assert_int_equal(load(fixture, text, "--name", "other"), 0);
    assert_int_equal(fixture->action, CONFIG_ACTION_RUN);
    assert_string_equal(fixture->config.name, "other");
    assert_string_equal(fixture->config.address, "10.1.2.3:7400");
    assert_string_equal(fixture->config.listen, "");
    assert_string_equal(fixture->config.api_address, "10.1.2.3:7401");
    assert_string_equal(fixture->config.watchdog, "none");
    assert_string_equal(fixture->config.state_dir, "/var/lib/drover");
    assert_true(fixture->config.memory_reserve_bytes == UINT64_C(2) << 30);
    assert_true(fixture->config.witness);
    assert_int_equal(fixture->config.lease_ms, 3000);
}

static void test_each_mistake_names_its_line(void **state)
{
    struct fixture *fixture = *state;
    assert_refused(fixture, "name = n1\nnonsense\n", ":2: 'nonsense': write KEY = VALUE");
    assert_refused(fixture, "colour = red\n", ":1: unknown setting 'colour'");
    assert_refused(fixture, "name = Bad_Name\n", ":1: name 'Bad_Name'");
    assert_refused(fixture, "\n\nstate-dir = var/lib\n",
                   ":3: state-dir 'var/lib': give an absolute path");
    assert_refused(fixture, "address = host:99999\n",
                   "the port must be a number from 1 to 65535");
    assert_refused(fixture, "lease-ms = 10\n", "write milliseconds from ");
    assert_refused(fixture, "memory-reserve = lots\n", "write a size such as 512M or 2G");
    assert_refused(fixture, "witness = perhaps\n", "write yes or no");
}

static void test_unknown_option_and_missing_value_are_told(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(load(fixture, "", "--nonsense", "1"), DROVER_EBADINPUT);
    assert_non_null(strstr(fixture->err.text, "droverd --help"));
    assert_int_equal(load(fixture, "", "--name", NULL), DROVER_EBADINPUT);
    assert_non_null(strstr(fixture->err.text, "--name NAME"));
}

static void test_a_named_file_must_exist(void **state)
{
    struct fixture *fixture = *state;
    char *argv[] = {(char *)"droverd", (char *)"--config",
                    (char *)"/nonexistent/droverd.conf", NULL};
    assert_int_not_equal(
        config_load(3, argv, &fixture->config, &fixture->action, &fixture->err), 0);
    assert_non_null(strstr(fixture->err.text, "/nonexistent/droverd.conf"));
}

static void test_addresses_split_and_join(void **state)
{
    char host[LIMIT_ADDRESS_SIZE], text[LIMIT_ADDRESS_SIZE];
    unsigned port = 0;
    assert_int_equal(config_split_address("[fe80::1]:80", 1, host, &port, NULL), 0);
    assert_string_equal(host, "fe80::1");
    assert_int_equal(port, 80);
    assert_int_equal(config_join_address(host, port, text, sizeof(text)), 0);
    assert_string_equal(text, "[fe80::1]:80");
    assert_int_equal(config_split_address("h", 7400, host, &port, NULL), 0);
    assert_int_equal(port, 7400);
    static const char *const bad[] = {"",    ":80",  "[::1",  "h:",    "h:0",
                                      "h:x", "h:1x", "a b:1", "[::1]x"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(config_split_address(bad[i], 1, host, &port, NULL),
                         DROVER_EBADINPUT);
    }
    assert_int_equal(config_join_address("host", 1, text, 5), DROVER_ELIMIT);
}

static void test_help_and_version_need_no_valid_file(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(load(fixture, "nonsense\n", "--help", NULL), 0);
    assert_int_equal(fixture->action, CONFIG_ACTION_HELP);
    char text[8192];
    int size = config_help(text, sizeof(text));
    assert_in_range(size, 500, sizeof(text) - 1);
    assert_non_null(strstr(text, "--state-dir DIR"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_file_is_read_and_command_line_wins, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_each_mistake_names_its_line, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_unknown_option_and_missing_value_are_told,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_named_file_must_exist, setup, teardown),
        cmocka_unit_test(test_addresses_split_and_join),
        cmocka_unit_test_setup_teardown(test_help_and_version_need_no_valid_file, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
