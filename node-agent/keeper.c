/* SPDX-License-Identifier: Apache-2.0 */
/* The watchdog's keeper: one process, one thread, poll(). */
#include "node-agent/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/log.h"
#include "fencing/keeper_policy.h"
#include "fencing/watchdog_device.h"
#include "node-agent/keeper_round.h"
#include "node-agent/vmm_folder.h"
#include "proto/frame.h"
#include "proto/run.pb-c.h"

#define IDLE_MS    1000
#define DEVICE_MAX 10u /* times the wanted time-out: timing_watchdog_max_ms() */

struct keeper {
    const struct keeper_options *options;
    struct log log;
    struct watchdog_device *device; /* NULL: none */
    char device_text[ERROR_TEXT_SIZE];
    struct keeper_policy policy; /* with a device */
    int lock_fd, listener_fd, signal_fd;
    int client_fd; /* droverd; -1: not there */
    struct buffer in;
    bool ending;   /* asked to end by a signal, as when the host shuts down */
    bool finished; /* the device is disarmed: nothing is left to keep */
};

/* ---- droverd's side of the line
 * --------------------------------------------------------------- */

static void drop_client(struct keeper *keeper)
{
    if (keeper->client_fd >= 0) {
        (void)close(keeper->client_fd);
        keeper->client_fd = -1;
        buffer_consume(&keeper->in, keeper->in.size);
    }
    if (keeper->device == NULL) {
        keeper->finished =
            true; /* the next droverd starts a new one, which may find a device */
    }
}

static void send_status(struct keeper *keeper, const Drover__KeeperStatus *status)
{
    uint8_t packed[1024];
    struct buffer out = {0};
    size_t size = drover__keeper_status__get_packed_size(status);
    CHECK(size <= sizeof(packed)); /* its texts are of our own */
    (void)drover__keeper_status__pack(status, packed);
    int rv =
        frame_encode(&out, FRAME_KIND_CONTROL, packed, size, LIMIT_CONTROL_FRAME_BYTES);
    if (rv != 0 ||
        send(keeper->client_fd, out.data, out.size, MSG_NOSIGNAL) != (ssize_t)out.size) {
        drop_client(keeper);
    }
    buffer_done(&out);
}

static void tell_status(struct keeper *keeper, bool release_answer, int error,
                        const char *text)
{
    Drover__KeeperStatus status = DROVER__KEEPER_STATUS__INIT;
    bool armed = keeper->device != NULL;
    status.watchdog_ms = armed ? watchdog_device_timeout_ms(keeper->device) : 0;
    status.text = (char *)text;
    status.pid = getpid();
    status.release_answer = release_answer;
    status.error = error;
    send_status(keeper, &status);
}

/* ---- the end
 * ----------------------------------------------------------------------------------- */

/* Disarms if no VM can run. 0: finished. */
static int try_finish(struct keeper *keeper, struct error *err)
{
    bool all_still = false;
    if (keeper->device == NULL) {
        keeper->finished = true;
        return 0;
    }
    uint64_t end_ms = clock_now_ms() + keeper->policy.feed_ms;
    (void)keeper_round(keeper->options->run_directory, end_ms, -1, &all_still);
    if (!all_still) {
        return error_set(
            err, DROVER_EINUSE,
            "a VM that is set for HA runs on this host, or does not answer: move it "
            "away or stop it first");
    }
    int rv = watchdog_device_disarm(keeper->device, err);
    if (rv == 0) {
        keeper->finished = true;
    }
    return rv;
}

static void on_signal(struct keeper *keeper)
{
    struct signalfd_siginfo info;
    if (read(keeper->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        keeper->ending = true;
        log_notice(&keeper->log, "asked to end: goes on until no VM needs the watchdog");
    }
}

/* ---- what droverd says
 * ------------------------------------------------------------------------- */

static bool take_request(struct keeper *keeper, const uint8_t *payload, size_t size)
{
    Drover__KeeperRequest *request = drover__keeper_request__unpack(NULL, size, payload);
    if (request == NULL) {
        return false;
    }
    bool good = true;
    if (request->what_case == DROVER__KEEPER_REQUEST__WHAT_LEASE) {
        if (keeper->device != NULL) {
            keeper_policy_lease(&keeper->policy, request->lease->deadline_ns / NS_PER_MS);
        }
    } else if (request->what_case == DROVER__KEEPER_REQUEST__WHAT_RELEASE) {
        struct error err = {0};
        int rv = try_finish(keeper, &err);
        tell_status(keeper, true, rv, err.text);
    } else {
        good = false;
    }
    drover__keeper_request__free_unpacked(request, NULL);
    return good;
}

static void hear_client(struct keeper *keeper)
{
    uint8_t data[4096];
    ssize_t got = read(keeper->client_fd, data, sizeof(data));
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0 || buffer_append(&keeper->in, data, (size_t)got) != 0) {
        drop_client(keeper);
        return;
    }
    while (keeper->client_fd >= 0) {
        const uint8_t *payload = NULL;
        size_t size = 0;
        size_t frame_size = 0;
        int rv = frame_decode(&keeper->in, FRAME_KIND_CONTROL, LIMIT_CONTROL_FRAME_BYTES,
                              &payload, &size, &frame_size);
        if (rv == 0) {
            return;
        }
        if (rv < 0 || !take_request(keeper, payload, size)) {
            log_warn(&keeper->log,
                     "droverd sends what is no request: its connection is cut");
            drop_client(keeper);
            return;
        }
        if (keeper->client_fd >= 0) {
            buffer_consume(&keeper->in, frame_size);
        }
    }
}

static void take_client(struct keeper *keeper)
{
    int fd = accept4(keeper->listener_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    if (keeper->client_fd >= 0) {
        /* There is one droverd: the other one is dead, and its end has not been seen yet.
         */
        (void)close(keeper->client_fd);
        buffer_consume(&keeper->in, keeper->in.size);
    }
    keeper->client_fd = fd;
    tell_status(keeper, false, 0, keeper->device_text);
}

/* Waits for droverd, a signal, or the time. */
static void attend(struct keeper *keeper, uint32_t wait_ms)
{
    struct pollfd polls[] = {
        {.fd = keeper->listener_fd, .events = POLLIN},
        {.fd = keeper->client_fd, .events = POLLIN},
        {.fd = keeper->signal_fd, .events = POLLIN},
    };
    if (poll(polls, 3, (int)wait_ms) <= 0) {
        return;
    }
    if (polls[2].revents != 0) {
        on_signal(keeper);
    }
    if (polls[1].revents != 0) {
        hear_client(keeper);
    }
    if (polls[0].revents != 0) {
        take_client(keeper);
    }
}

/* ---- the loop
 * ---------------------------------------------------------------------------------- */

static void step(struct keeper *keeper)
{
    uint32_t wait_ms = IDLE_MS;
    if (keeper->device == NULL) {
        attend(keeper, wait_ms);
        return;
    }
    uint64_t now_ms = clock_now_ms();
    switch (keeper_policy_next(&keeper->policy, now_ms, &wait_ms)) {
    case KEEPER_STEP_FEED: {
        int rv = watchdog_device_feed(keeper->device);
        if (rv != 0) {
            log_error(&keeper->log, "the watchdog can't be fed err=%s", err_text(rv));
        }
        keeper_policy_fed(&keeper->policy, now_ms);
        break;
    }
    case KEEPER_STEP_ASK: {
        uint64_t number = keeper_policy_ask(&keeper->policy, now_ms);
        bool all_still = false;
        bool interrupted =
            keeper_round(keeper->options->run_directory, now_ms + keeper->policy.feed_ms,
                         keeper->client_fd, &all_still);
        if (interrupted) {
            hear_client(keeper); /* a lease, most likely */
        }
        keeper_policy_answered(&keeper->policy, number, all_still);
        attend(keeper, 0);
        break;
    }
    case KEEPER_STEP_WAIT:
        attend(keeper, wait_ms < IDLE_MS ? wait_ms : IDLE_MS);
        break;
    }
    struct error err = {0};
    if (keeper->ending && !keeper->finished && try_finish(keeper, &err) == -EPERM) {
        keeper->ending = false; /* can't be disarmed: nothing but feeding is left */
        log_warn(&keeper->log, "%s", err.text);
    }
}

/* ---- the beginning
 * ------------------------------------------------------------------------------ */

static int take_lock(const char *run_directory)
{
    char path[VMM_FOLDER_PATH_SIZE];
    int length = snprintf(path, sizeof(path), "%s/keeper.lock", run_directory);
    if (length < 0 || (size_t)length >= sizeof(path)) {
        return DROVER_ELIMIT;
    }
    CLEANUP(cleanup_fd) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        return -errno;
    }
    return take_fd(&fd);
}

static int listen_on(const char *run_directory)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s/keeper.sock",
                          run_directory);
    if (length < 0 || (size_t)length >= sizeof(address.sun_path)) {
        return DROVER_ELIMIT;
    }
    (void)unlink(address.sun_path); /* of a keeper that is gone: we hold the lock */
    CLEANUP(cleanup_fd)
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0177);
    int rv = fd < 0 ? -1 : bind(fd, (const struct sockaddr *)&address, sizeof(address));
    (void)umask(mask);
    if (rv != 0 || listen(fd, 8) != 0) {
        return -errno;
    }
    return take_fd(&fd);
}

/* The kernel must neither swap it out, nor starve it, nor choose it when memory runs out.
 */
static void be_unshakable(struct keeper *keeper)
{
    struct sched_param param = {.sched_priority = 1};
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        log_warn(&keeper->log, "can't lock memory err=%s", strerror(errno));
    }
    if (sched_setscheduler(0, SCHED_RR, &param) != 0) {
        log_warn(&keeper->log, "can't run with real-time priority err=%s",
                 strerror(errno));
    }
    CLEANUP(cleanup_fd) int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "-1000", 5) != 5) {
        log_warn(&keeper->log, "can't be spared when memory runs out err=%s",
                 strerror(errno));
    }
}

static void open_device(struct keeper *keeper, const struct watchdog_device_ops *ops,
                        void *owner)
{
    struct error err = {0};
    const struct keeper_options *options = keeper->options;
    if (strcmp(options->device, "none") == 0) {
        (void)snprintf(keeper->device_text, sizeof(keeper->device_text),
                       "none is wanted by the configuration");
        return;
    }
    int rv = watchdog_device_open(options->device, options->watchdog_ms,
                                  DEVICE_MAX * options->watchdog_ms, ops, owner,
                                  &keeper->device, &err);
    if (rv != 0) {
        (void)snprintf(keeper->device_text, sizeof(keeper->device_text), "%s", err.text);
        log_warn(&keeper->log, "no watchdog is armed why=%s", err.text);
        return;
    }
    uint32_t armed_ms = watchdog_device_timeout_ms(keeper->device);
    (void)snprintf(keeper->device_text, sizeof(keeper->device_text), "%s (%s)",
                   options->device, watchdog_device_name(keeper->device));
    keeper_policy_init(&keeper->policy, options->watchdog_ms, armed_ms);
    log_notice(&keeper->log, "the watchdog is armed device=%s timeout_ms=%u",
               options->device, armed_ms);
}

static int block_signals(void)
{
    sigset_t set;
    (void)sigemptyset(&set); /* none of these can fail */
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int keeper_main(const struct keeper_options *options,
                const struct watchdog_device_ops *ops, void *owner)
{
    struct keeper keeper = {.options = options, .client_fd = -1};
    log_init(&keeper.log, "droverd-keeper", LOG_LEVEL_INFO);
    buffer_init(&keeper.in, LIMIT_CONTROL_FRAME_BYTES + FRAME_HEADER_SIZE + 8192);
    keeper.lock_fd = take_lock(options->run_directory);
    if (keeper.lock_fd == -EAGAIN || keeper.lock_fd == -EACCES) {
        return EXIT_SUCCESS; /* there is one: it is found by its socket */
    }
    keeper.listener_fd = keeper.lock_fd < 0 ? -1 : listen_on(options->run_directory);
    keeper.signal_fd = block_signals();
    if (keeper.lock_fd < 0 || keeper.listener_fd < 0 || keeper.signal_fd < 0) {
        log_error(&keeper.log, "can't listen on %s/keeper.sock err=%s",
                  options->run_directory, strerror(errno));
        return EXIT_FAILURE;
    }
    be_unshakable(&keeper);
    open_device(&keeper, ops, owner);
    while (!keeper.finished && !(keeper.ending && keeper.device == NULL)) {
        step(&keeper);
    }
    log_notice(&keeper.log, "ends: nothing is left to keep");
    watchdog_device_free(keeper.device);
    buffer_done(&keeper.in);
    if (keeper.client_fd >= 0) {
        (void)close(keeper.client_fd);
    }
    (void)close(keeper.signal_fd);
    (void)close(keeper.listener_fd);
    (void)close(keeper.lock_fd);
    return EXIT_SUCCESS;
}

int keeper_main_arguments(int argc, char **argv)
{
    if (argc != 5 || atoi(argv[4]) <= 0) {
        (void)fprintf(stderr, "droverd: --keeper is started by droverd itself\n");
        return 2;
    }
    const struct keeper_options options = {.run_directory = argv[2],
                                           .device = argv[3],
                                           .watchdog_ms = (uint32_t)atoi(argv[4])};
    return keeper_main(&options, NULL, NULL);
}
