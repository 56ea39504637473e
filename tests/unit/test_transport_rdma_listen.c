/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A listener that takes RDMA beside connections that are handed to it, as a cluster's
 * arrivals do, on a connection manager that only plays one.
 */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "migration/transport_rdma.h"
#include "migration/transport_rdma_setup.h"
#include "migration/transport_rdma_wire.h"

#define PORT 4711

/* The manager's functions have no owner. */
static struct fake {
    struct rdma_cm_event event;
    struct rdma_cm_id request;
    uint8_t said[RDMA_HELLO_SIZE];
    bool no_address; /* no device has it */
    unsigned rejected, destroyed, acknowledged;
} fake;

struct fixture {
    struct transport_rdma *rdma;
    struct transport_listener *listener;
    struct rdma_event_channel *own; /* the listener's, once it was moved there */
};

static int fake_create(struct rdma_event_channel *channel, struct rdma_cm_id **ret_id,
                       void *context, enum rdma_port_space space)
{
    struct rdma_cm_id *id = calloc(1, sizeof(*id));
    assert_true(id != NULL && context == NULL && space == RDMA_PS_TCP);
    id->channel = channel;
    *ret_id = id;
    return 0;
}

static int fake_destroy(struct rdma_cm_id *id)
{
    fake.destroyed++;
    if (id != &fake.request) {
        free(id);
    }
    return 0;
}

static int fake_migrate(struct rdma_cm_id *id, struct rdma_event_channel *channel)
{
    id->channel = channel;
    return 0;
}

static int fake_bind(struct rdma_cm_id *id, struct sockaddr *address)
{
    assert_true(id != NULL && address->sa_family == AF_INET);
    errno = EADDRNOTAVAIL;
    return fake.no_address ? -1 : 0;
}

static int fake_listen(struct rdma_cm_id *id, int backlog)
{
    assert_true(id != NULL && backlog > 0);
    return 0;
}

static __be16 fake_port(struct rdma_cm_id *id)
{
    assert_non_null(id);
    return htons(PORT);
}

static int fake_event(struct rdma_event_channel *channel, struct rdma_cm_event **ret_event)
{
    eventfd_t value;
    assert_int_equal(eventfd_read(channel->fd, &value), 0);
    *ret_event = &fake.event;
    return 0;
}

static int fake_acknowledge(struct rdma_cm_event *event)
{
    assert_ptr_equal(event, &fake.event);
    fake.acknowledged++;
    return 0;
}

static int fake_reject(struct rdma_cm_id *id, const void *data, uint8_t size)
{
    assert_ptr_equal(id, &fake.request);
    assert_true(data == NULL && size == 0);
    fake.rejected++;
    return 0;
}

static struct rdma_event_channel *channel_new(void)
{
    struct rdma_event_channel *channel = calloc(1, sizeof(*channel));
    assert_non_null(channel);
    channel->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(channel->fd >= 0);
    return channel;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = {0};
    fake = (struct fake){0};
    f->rdma = calloc(1, sizeof(*f->rdma));
    assert_int_equal(pthread_mutex_init(&f->rdma->lock, NULL), 0);
    f->rdma->library.manager.create_id = fake_create;
    f->rdma->library.manager.destroy_id = fake_destroy;
    f->rdma->library.manager.migrate_id = fake_migrate;
    f->rdma->library.manager.bind_addr = fake_bind;
    f->rdma->library.manager.listen = fake_listen;
    f->rdma->library.manager.get_src_port = fake_port;
    f->rdma->library.manager.get_cm_event = fake_event;
    f->rdma->library.manager.ack_cm_event = fake_acknowledge;
    f->rdma->library.manager.reject = fake_reject;
    f->rdma->nursery = channel_new();
    f->own = channel_new();
    f->rdma->channels[f->rdma->channel_count++] = f->own;
    assert_int_equal(
        transport_rdma_listen(f->rdma, "127.0.0.1:0", "h:7400", &f->listener, &err), 0);
    assert_int_equal(rdma_listener_move(f->rdma), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    transport_listener_close(f->listener);
    transport_rdma_close(f->rdma);
    free(f);
    return 0;
}

static void begin(struct fixture *f)
{
    struct error err = {0};
    assert_int_equal(rdma_listener_begin(f->rdma, &err), 0);
}

static int accept_for(struct fixture *f, uint32_t wait_ms, struct transport_link **ret_link)
{
    return f->listener->ops->accept(f->listener, -1, wait_ms, 1000, ret_link);
}

static void assert_takes_what_is_handed(struct fixture *f)
{
    int fds[2];
    struct transport_link *link = NULL;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(f->listener->ops->give(f->listener, fds[0]), 0);
    assert_int_equal(accept_for(f, 10, &link), DROVER_ETIMEDOUT2); /* it says nothing */
    assert_int_equal(write(fds[1], "x", 1), 1);
    assert_int_equal(accept_for(f, 1000, &link), 0);
    assert_null(link->ops->offer); /* so nothing is placed, and it counts as encrypted */
    transport_link_close(link);
    (void)close(fds[1]);
}

static void test_it_says_where_it_listens_by_number_and_what_is_handed_comes_in(void **state)
{
    struct fixture *f = *state;
    char text[TRANSPORT_URI_SIZE];
    f->listener->ops->uri(f->listener, text);
    assert_string_equal(text, "handed:h:7400");
    transport_rdma_listener_address(f->listener, text);
    assert_string_equal(text, "");
    begin(f);
    transport_rdma_listener_address(f->listener, text);
    assert_memory_equal(text, "127.0.0.1:4711#", 15);
    assert_int_equal(strlen(text), 15 + RDMA_KEY_TEXT);
    assert_takes_what_is_handed(f);
}

static void test_without_its_address_it_takes_what_is_handed(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    char text[TRANSPORT_URI_SIZE];
    fake.no_address = true;
    assert_int_equal(rdma_listener_begin(f->rdma, &err), -EADDRNOTAVAIL);
    assert_non_null(strstr(err.text, "127.0.0.1:0"));
    transport_rdma_listener_address(f->listener, text);
    assert_string_equal(text, "");
    assert_takes_what_is_handed(f);
}

static void test_a_stranger_by_rdma_is_rejected_and_waited_on(void **state)
{
    struct fixture *f = *state;
    struct transport_link *link = NULL;
    begin(f);
    rdma_hello_encode(fake.said, "0123456789abcdef0123456789abcdef"); /* a key that he guessed */
    fake.event = (struct rdma_cm_event){.event = RDMA_CM_EVENT_CONNECT_REQUEST,
                                        .id = &fake.request};
    fake.event.param.conn.private_data = fake.said;
    fake.event.param.conn.private_data_len = sizeof(fake.said);
    assert_int_equal(eventfd_write(f->own->fd, 1), 0);
    assert_int_equal(accept_for(f, 20, &link), DROVER_ETIMEDOUT2);
    assert_int_equal(fake.rejected, 1);
    assert_int_equal(fake.acknowledged, 1);
    assert_int_equal(fake.destroyed, 1);
    memset(fake.said, 0, sizeof(fake.said)); /* and one who has no hello of ours */
    assert_int_equal(eventfd_write(f->own->fd, 1), 0);
    assert_int_equal(accept_for(f, 20, &link), DROVER_ETIMEDOUT2);
    assert_int_equal(fake.rejected, 2);
    assert_takes_what_is_handed(f);
}

static void test_waiting_ends_by_order(void **state)
{
    struct fixture *f = *state;
    struct transport_link *link = NULL;
    int cancel_fd = eventfd(1, EFD_CLOEXEC);
    begin(f);
    assert_int_equal(
        f->listener->ops->accept(f->listener, cancel_fd, UINT32_MAX, 1000, &link),
        DROVER_ECANCELLED);
    (void)close(cancel_fd);
}

int main(void)
{
#define LISTENS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        LISTENS(test_it_says_where_it_listens_by_number_and_what_is_handed_comes_in),
        LISTENS(test_without_its_address_it_takes_what_is_handed),
        LISTENS(test_a_stranger_by_rdma_is_rejected_and_waited_on),
        LISTENS(test_waiting_ends_by_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
