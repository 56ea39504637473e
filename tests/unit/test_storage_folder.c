/* SPDX-License-Identifier: Apache-2.0 */
/* The socket of a storage daemon that was taken over, seen from its launcher. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "vmm/storage/storage_folder.h"

#define PEERS_MAX 8
#define HANGS_S   20 /* then the signal ends the test */

struct place {
    char folder[STORAGE_FOLDER_SIZE];
    char socket[STORAGE_FOLDER_SIZE + sizeof(STORAGE_FOLDER_SOCKET) + 1];
    int fd; /* of the folder */
    int listener;
};

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_true(strlen(path) < sizeof(address.sun_path));
    (void)strcpy(address.sun_path, path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 0), 0);
    return fd;
}

static int place_make(void **state)
{
    struct place *place = calloc(1, sizeof(*place));

    assert_non_null(place);
    (void)alarm(HANGS_S);
    assert_int_equal(storage_folder_make(place->folder), 0);
    (void)snprintf(place->socket, sizeof(place->socket), "%s/" STORAGE_FOLDER_SOCKET,
                   place->folder);
    place->fd = open(place->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(place->fd >= 0);
    place->listener = listen_at(place->socket);
    *state = place;
    return 0;
}

static int place_remove(void **state)
{
    struct place *place = *state;

    (void)alarm(0);
    assert_int_equal(close(place->listener), 0);
    assert_int_equal(close(place->fd), 0);
    assert_int_equal(unlink(place->socket), 0);
    assert_int_equal(rmdir(place->folder), 0);
    free(place);
    return 0;
}

static void test_the_socket_is_reached_by_folder_or_by_name(void **state)
{
    const struct place *place = *state;
    int fd = -1;

    assert_int_equal(storage_folder_connect(place->fd, NULL, &fd), 0);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    int peer = accept(place->listener, NULL, NULL);
    assert_true(peer >= 0);
    assert_int_equal(close(peer), 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(storage_folder_connect(-1, place->folder, &fd), 0);
    assert_int_equal(close(fd), 0);
}

static void test_who_accepts_nobody_is_not_waited_for(void **state)
{
    const struct place *place = *state;
    int fds[PEERS_MAX];
    unsigned count = 0;
    int ret = 0;

    while (ret == 0 && count < PEERS_MAX) {
        ret = storage_folder_connect(place->fd, NULL, &fds[count]);
        count += ret == 0;
    }
    assert_int_equal(ret, -EAGAIN);
    while (count > 0) {
        assert_int_equal(close(fds[--count]), 0);
    }
}

static void test_a_link_is_not_followed(void **state)
{
    const struct place *place = *state;
    char other[sizeof(place->folder) + 8];
    int fd = -1;

    (void)snprintf(other, sizeof(other), "%s/other", place->folder);
    assert_int_equal(rename(place->socket, other), 0);
    assert_int_equal(symlink(other, place->socket), 0);
    assert_int_equal(storage_folder_connect(place->fd, NULL, &fd), DROVER_EMALFORMED);
    assert_int_equal(rename(other, place->socket), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_socket_is_reached_by_folder_or_by_name,
                                        place_make, place_remove),
        cmocka_unit_test_setup_teardown(test_who_accepts_nobody_is_not_waited_for,
                                        place_make, place_remove),
        cmocka_unit_test_setup_teardown(test_a_link_is_not_followed, place_make,
                                        place_remove),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
