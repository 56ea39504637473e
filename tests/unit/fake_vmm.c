/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that speaks the control protocol but runs no guest, for the faults that a
 * real drover-vmm can't be brought to. The VM's name chooses: "dies" complains and ends,
 * "mute" never listens, "hangs" does not end on a quit, "liar" reports another epoch,
 * "garbage" answers with noise, "frozen" is frozen; any other name behaves.
 */
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/limits.h"
#include "proto/control.pb-c.h"
#include "proto/frame.h"

struct fake {
    const char *name;
    const char *control;
    const char *incoming;
    uint64_t vm_id, epoch;
    bool ha;
    Drover__VmRunState run_state;
    int fd;
};

static void send_message(const struct fake *fake, const Drover__ControlMessage *message)
{
    uint8_t packed[4096];
    struct buffer out = {0};
    size_t size = drover__control_message__pack(message, packed);
    if (frame_encode(&out, FRAME_KIND_CONTROL, packed, size, LIMIT_CONTROL_FRAME_BYTES) ==
            0 &&
        write(fake->fd, out.data, out.size) < 0) {
        perror("write");
    }
    buffer_done(&out);
}

static void fill_status(const struct fake *fake, Drover__VmStatus *status)
{
    status->name = (char *)fake->name;
    status->vm_id = fake->vm_id;
    status->epoch = fake->epoch + (strcmp(fake->name, "liar") == 0 ? 1 : 0);
    status->run_state = fake->run_state;
    status->pid = getpid();
    status->lease_deadline_ns = fake->ha ? 1 : 0;
    if (fake->incoming != NULL) {
        status->incoming_uri = (char *)"tcp:127.0.0.1:49152";
    }
}

static void send_event(struct fake *fake, bool powered_off)
{
    Drover__ControlMessage message = DROVER__CONTROL_MESSAGE__INIT;
    Drover__ControlEvent event = DROVER__CONTROL_EVENT__INIT;
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    fill_status(fake, &status);
    status.guest_powered_off = powered_off;
    status.reason = (char *)(powered_off ? "the guest powered off" : "");
    event.status = &status;
    message.what_case = DROVER__CONTROL_MESSAGE__WHAT_EVENT;
    message.event = &event;
    send_message(fake, &message);
}

/* False: the process is to end. */
static bool serve_request(struct fake *fake, const Drover__ControlRequest *request)
{
    Drover__ControlMessage message = DROVER__CONTROL_MESSAGE__INIT;
    Drover__ControlReply reply = DROVER__CONTROL_REPLY__INIT;
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    bool quit = request->order_case == DROVER__CONTROL_REQUEST__ORDER_QUIT;
    if (quit && strcmp(fake->name, "hangs") == 0) {
        return true;
    }
    if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_PAUSE) {
        fake->run_state = DROVER__VM_RUN_STATE__VM_RUN_PAUSED;
    } else if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_RECLAIM) {
        reply.error = -5023;
        reply.message = (char *)"there is nothing to reclaim";
    } else if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON ||
               quit) {
        fake->run_state = DROVER__VM_RUN_STATE__VM_RUN_STOPPED;
    }
    fill_status(fake, &status);
    reply.request_id = request->request_id;
    reply.status = &status;
    message.what_case = DROVER__CONTROL_MESSAGE__WHAT_REPLY;
    message.reply = &reply;
    send_message(fake, &message);
    if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON) {
        send_event(fake, true);
        return false;
    }
    return !quit;
}

/* False: the process is to end. */
static bool serve_client(struct fake *fake)
{
    struct buffer in = {0};
    bool go_on = true;
    while (go_on) {
        const uint8_t *payload = NULL;
        size_t size = 0;
        size_t frame_size = 0;
        int rv = frame_decode(&in, FRAME_KIND_CONTROL, LIMIT_CONTROL_FRAME_BYTES,
                              &payload, &size, &frame_size);
        if (rv == 0) {
            uint8_t data[4096];
            ssize_t got = read(fake->fd, data, sizeof(data));
            if (got <= 0 || buffer_append(&in, data, (size_t)got) != 0) {
                break;
            }
            continue;
        }
        Drover__ControlMessage *message =
            rv < 0 ? NULL : drover__control_message__unpack(NULL, size, payload);
        if (message == NULL ||
            message->what_case != DROVER__CONTROL_MESSAGE__WHAT_REQUEST) {
            break;
        }
        if (strcmp(fake->name, "garbage") == 0) {
            (void)!write(fake->fd, "this is not a frame of ours at all", 34);
        } else {
            go_on = serve_request(fake, message->request);
        }
        drover__control_message__free_unpacked(message, NULL);
        buffer_consume(&in, frame_size);
    }
    buffer_done(&in);
    return go_on;
}

/* A client each, as the real one can: its state is a client's own, which is enough here. */
static void *serve_thread(void *argument)
{
    struct fake *client = argument;
    bool go_on = serve_client(client);
    (void)close(client->fd);
    free(client);
    if (!go_on) {
        exit(0);
    }
    return NULL;
}

static const char *option(int argc, char **argv, const char *name)
{
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            return argv[i + 1];
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct fake fake = {
        .name = option(argc, argv, "--name"),
        .control = option(argc, argv, "--control"),
        .incoming = option(argc, argv, "--incoming"),
        .vm_id = strtoull(option(argc, argv, "--vm-id"), NULL, 10),
        .epoch = strtoull(option(argc, argv, "--epoch"), NULL, 10),
        .run_state = DROVER__VM_RUN_STATE__VM_RUN_RUNNING,
    };
    (void)signal(SIGPIPE, SIG_IGN);
    for (int i = 1; i < argc; i++) {
        fake.ha = fake.ha || strcmp(argv[i], "--ha") == 0;
    }
    if (strcmp(fake.name, "frozen") == 0) {
        fake.run_state = DROVER__VM_RUN_STATE__VM_RUN_FROZEN;
    }
    if (strcmp(fake.name, "dies") == 0) {
        (void)fprintf(
            stderr,
            "drover-vmm: starting\n<3>drover-vmm: error: kernel /no/such: give a path\n");
        return 1;
    }
    while (strcmp(fake.name, "mute") == 0) {
        (void)pause();
    }
    if (fake.incoming != NULL) {
        fake.run_state = DROVER__VM_RUN_STATE__VM_RUN_INCOMING;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%.107s", fake.control);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(listener, 4) != 0) {
        perror(fake.control);
        return 1;
    }
    while (true) {
        int fd = accept(listener, NULL, NULL);
        struct fake *client = malloc(sizeof(*client));
        pthread_t thread;
        if (fd < 0 || client == NULL) {
            return 1;
        }
        *client = fake;
        client->fd = fd;
        if (pthread_create(&thread, NULL, serve_thread, client) != 0 ||
            pthread_detach(thread) != 0) {
            return 1;
        }
    }
}
