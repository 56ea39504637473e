/* SPDX-License-Identifier: Apache-2.0 */
/* One round of the keeper's question to the VMMs of this host. */
#include "node-agent/keeper_round.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/limits.h"
#include "fencing/keeper_policy.h"
#include "node-agent/vmm_folder.h"
#include "proto/frame.h"

/* One VMM that has been asked. */
struct question {
    uint64_t vm_id, epoch;
    int fd; /* -1: answered, or gone */
    struct buffer in;
};

struct round {
    const char *run_directory;
    struct question *questions;
    struct pollfd *polls; /* one more than questions: the last is watch_fd */
    size_t count, capacity;
    size_t open;
    bool runs; /* one of them runs, or may */
};

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        (void)close(fd);
        fd = -1;
    }
    return fd;
}

static bool send_question(int fd, uint64_t vm_id, uint64_t epoch)
{
    uint8_t packed[128];
    Drover__ControlMessage message = DROVER__CONTROL_MESSAGE__INIT;
    Drover__ControlRequest request = DROVER__CONTROL_REQUEST__INIT;
    Drover__ControlStatus status = DROVER__CONTROL_STATUS__INIT;
    struct buffer out = {0};
    request.request_id = 1;
    request.vm_id = vm_id;
    request.epoch = epoch;
    request.order_case = DROVER__CONTROL_REQUEST__ORDER_STATUS;
    request.status = &status;
    message.what_case = DROVER__CONTROL_MESSAGE__WHAT_REQUEST;
    message.request = &request;
    size_t size = drover__control_message__pack(&message, packed);
    bool sent = frame_encode(&out, FRAME_KIND_CONTROL, packed, size,
                             LIMIT_CONTROL_FRAME_BYTES) == 0 &&
                send(fd, out.data, out.size, MSG_NOSIGNAL) == (ssize_t)out.size;
    buffer_done(&out);
    return sent;
}

static bool is_gone(const struct round *round, uint64_t vm_id, uint64_t epoch)
{
    return vmm_folder_held(round->run_directory, vm_id, epoch) == 0;
}

static bool bound_to_lease(const struct round *round, uint64_t vm_id, uint64_t epoch)
{
    Drover__VmmRecord *record = NULL;
    if (vmm_folder_record_load(round->run_directory, vm_id, epoch, &record) != 0) {
        return true; /* not known: so it may be */
    }
    bool ha = record->ha;
    drover__vmm_record__free_unpacked(record, NULL);
    return ha;
}

static bool make_room(struct round *round)
{
    if (round->count < round->capacity) {
        return true;
    }
    size_t capacity = round->capacity == 0 ? 16 : 2 * round->capacity;
    struct question *questions =
        realloc(round->questions, capacity * sizeof(*round->questions));
    round->questions = questions == NULL ? round->questions : questions;
    struct pollfd *polls = realloc(round->polls, (capacity + 1) * sizeof(*round->polls));
    round->polls = polls == NULL ? round->polls : polls;
    if (questions == NULL || polls == NULL) {
        return false;
    }
    round->capacity = capacity;
    return true;
}

static void ask(struct round *round, uint64_t vm_id, uint64_t epoch)
{
    char path[VMM_FOLDER_SOCKET_SIZE];
    if (is_gone(round, vm_id, epoch) || !bound_to_lease(round, vm_id, epoch)) {
        return;
    }
    int fd = -1;
    if (make_room(round) && vmm_folder_path(round->run_directory, vm_id, epoch,
                                            "control.sock", path, sizeof(path)) == 0) {
        fd = connect_to(path);
    }
    if (fd >= 0 && send_question(fd, vm_id, epoch)) {
        round->questions[round->count++] = (struct question){vm_id, epoch, fd, {0}};
        round->open++;
        return;
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    round->runs = round->runs || !is_gone(round, vm_id, epoch);
}

static void ask_all(struct round *round)
{
    char path[VMM_FOLDER_PATH_SIZE];
    uint64_t vm_id = 0;
    uint64_t epoch = 0;
    (void)snprintf(path, sizeof(path), "%s/vms", round->run_directory);
    DIR *directory = opendir(path);
    if (directory == NULL) {
        round->runs = errno != ENOENT; /* no such folder: droverd never started any */
        return;
    }
    const struct dirent *entry = NULL;
    while (errno = 0, (entry = readdir(directory)) != NULL) {
        if (vmm_folder_parse(entry->d_name, &vm_id, &epoch)) {
            ask(round, vm_id, epoch);
        }
    }
    round->runs = round->runs || errno != 0;
    (void)closedir(directory);
}

static void end_question(struct round *round, struct question *question, bool still)
{
    (void)close(question->fd);
    question->fd = -1;
    round->open--;
    round->runs =
        round->runs || (!still && !is_gone(round, question->vm_id, question->epoch));
}

/* 1: still; 0: runs, or speaks nonsense; -1: not known yet. */
static int judge(const struct question *question)
{
    const uint8_t *payload = NULL;
    size_t size = 0;
    size_t frame_size = 0;
    int rv = frame_decode(&question->in, FRAME_KIND_CONTROL, LIMIT_CONTROL_FRAME_BYTES,
                          &payload, &size, &frame_size);
    if (rv <= 0) {
        return rv == 0 ? -1 : 0;
    }
    Drover__ControlMessage *message =
        drover__control_message__unpack(NULL, size, payload);
    int still = 0;
    if (message != NULL && message->what_case == DROVER__CONTROL_MESSAGE__WHAT_REPLY &&
        message->reply->status != NULL) {
        const Drover__VmStatus *status = message->reply->status;
        still = status->vm_id == question->vm_id && status->epoch == question->epoch &&
                keeper_policy_vm_is_still(status);
    }
    drover__control_message__free_unpacked(message, NULL);
    return still;
}

static void hear(struct round *round, struct question *question)
{
    uint8_t data[4096];
    ssize_t got = read(question->fd, data, sizeof(data));
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0 || buffer_append(&question->in, data, (size_t)got) != 0) {
        end_question(round, question, false);
        return;
    }
    int still = judge(question);
    if (still >= 0) {
        end_question(round, question, still == 1);
    }
}

/* True: watch_fd has something. */
static bool hear_all(struct round *round, uint64_t end_ms, int watch_fd)
{
    while (round->open > 0 && !round->runs) {
        uint64_t now_ms = clock_now_ms();
        for (size_t i = 0; i < round->count; i++) {
            round->polls[i] =
                (struct pollfd){.fd = round->questions[i].fd, .events = POLLIN};
        }
        round->polls[round->count] = (struct pollfd){.fd = watch_fd, .events = POLLIN};
        int ready = now_ms >= end_ms
                        ? 0
                        : poll(round->polls, round->count + 1, (int)(end_ms - now_ms));
        if (ready == 0 || (ready < 0 && errno != EINTR)) {
            round->runs = true; /* silence */
            return false;
        }
        if (ready > 0 && round->polls[round->count].revents != 0) {
            return true;
        }
        for (size_t i = 0; ready > 0 && i < round->count; i++) {
            if (round->polls[i].revents != 0 && round->questions[i].fd >= 0) {
                hear(round, &round->questions[i]);
            }
        }
    }
    return false;
}

bool keeper_round(const char *run_directory, uint64_t end_ms, int watch_fd,
                  bool *ret_all_still)
{
    struct round round = {.run_directory = run_directory};
    ask_all(&round);
    bool interrupted = hear_all(&round, end_ms, watch_fd);
    for (size_t i = 0; i < round.count; i++) {
        if (round.questions[i].fd >= 0) {
            (void)close(round.questions[i].fd);
        }
        buffer_done(&round.questions[i].in);
    }
    free(round.questions);
    free(round.polls);
    *ret_all_still = !round.runs && !interrupted;
    return interrupted;
}
