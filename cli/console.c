/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's serial console on this terminal. */
#include "cli/console.h"

#include <errno.h>
#include <libwebsockets.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/err.h"
#include "base/limits.h"
#include "cli/client.h"

#define TYPED_SIZE   4096u
#define RECEIVE_SIZE 4096u
#define PORT_DEFAULT 7401
#define HISTORY_SIZE 65536 /* what the port keeps */
#define PAUSE_US     (300 * LWS_US_PER_MS)
#define LINGER_US    LWS_US_PER_SEC /* after the end of a stdin that is no terminal */

struct console {
    struct lws *link;
    struct lws *input;
    lws_sorted_usec_list_t linger;
    uint8_t typed[LWS_PRE + TYPED_SIZE]; /* waits to be sent */
    size_t typed_size;
    bool connected, over;
    /* What the guest wrote before comes at once, and unmarked: all that arrives before a
     * pause. Only when not all of it shall be shown. */
    bool gathering;
    bool peer;
    unsigned lines;
    lws_sorted_usec_list_t pause;
    uint8_t history[HISTORY_SIZE];
    size_t history_size;
    int error;
    char reason[ERROR_TEXT_SIZE];
};

static void history_show(struct console *console);

static void end(struct console *console, int error, const char *reason)
{
    if (!console->over && console->gathering) {
        history_show(console);
    }
    if (!console->over) {
        console->over = true;
        console->error = error;
        (void)snprintf(console->reason, sizeof(console->reason), "%s", reason);
    }
}

static void linger_over(lws_sorted_usec_list_t *timer)
{
    struct console *console = lws_container_of(timer, struct console, linger);
    end(console, 0, "");
}

static void linger(struct console *console)
{
    lws_sul_schedule(lws_get_context(console->link), 0, &console->linger, linger_over,
                     LINGER_US);
}

/* ---- stdin ---------------------------------------------------------------------------
 */

static int take_typed(struct console *console)
{
    size_t room = TYPED_SIZE - console->typed_size;
    if (!console->connected || room == 0) {
        (void)lws_rx_flow_control(console->input,
                                  0); /* until there is somewhere to put it */
        return 0;
    }
    uint8_t *at = console->typed + LWS_PRE + console->typed_size;
    ssize_t got = read(STDIN_FILENO, at, room);
    if (got < 0) {
        return errno == EINTR || errno == EAGAIN ? 0 : -1;
    }
    const uint8_t *escape = memchr(at, CONSOLE_ESCAPE, (size_t)got);
    if (escape != NULL && isatty(STDIN_FILENO)) {
        end(console, 0, "");
        return 0;
    }
    if (got == 0) {
        linger(console);
        return -1;
    }
    console->typed_size += (size_t)got;
    (void)lws_callback_on_writable(console->link);
    return 0;
}

static int on_input(struct lws *wsi, enum lws_callback_reasons reason, void *user,
                    void *in, size_t size)
{
    struct console *console = lws_context_user(lws_get_context(wsi));
    switch (reason) {
    case LWS_CALLBACK_RAW_RX_FILE:
        return take_typed(console);
    case LWS_CALLBACK_RAW_CLOSE_FILE:
        console->input = NULL;
        return 0;
    default:
        return 0;
    }
}

/* ---- the link ------------------------------------------------------------------------
 */

static int show(struct console *console, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(STDOUT_FILENO, data, size);
        if (written < 0 && errno != EINTR) {
            end(console, -errno, "stdout can't be written");
            return -1;
        }
        if (written > 0) {
            data += written;
            size -= (size_t)written;
        }
    }
    return 0;
}

static void history_show(struct console *console)
{
    size_t at = console->history_size;
    unsigned lines = console->lines;
    console->gathering = false;
    /* An unfinished line counts, so that a prompt is seen. */
    while (lines > 0 && at > 0) {
        at--;
        bool ends = at > 0 && console->history[at - 1] == '\n';
        lines -= ends ? 1 : 0;
    }
    (void)show(console, console->history + at, console->history_size - at);
}

static void pause_over(lws_sorted_usec_list_t *timer)
{
    struct console *console = lws_container_of(timer, struct console, pause);
    if (console->gathering) {
        history_show(console);
    }
}

static int received(struct console *console, const uint8_t *data, size_t size)
{
    if (!console->gathering) {
        return show(console, data, size);
    }
    if (size > HISTORY_SIZE - console->history_size) {
        history_show(console); /* more than there can be of it: the guest writes on */
        return show(console, data, size);
    }
    memcpy(console->history + console->history_size, data, size);
    console->history_size += size;
    lws_sul_schedule(lws_get_context(console->link), 0, &console->pause, pause_over,
                     PAUSE_US);
    return 0;
}

static int send_typed(struct console *console)
{
    if (console->typed_size == 0) {
        return 0;
    }
    int sent = lws_write(console->link, console->typed + LWS_PRE, console->typed_size,
                         LWS_WRITE_BINARY);
    if (sent < 0) {
        return -1;
    }
    console->typed_size = 0; /* lws keeps what the socket did not take */
    if (console->input != NULL) {
        (void)lws_rx_flow_control(console->input, 1);
    }
    return 0;
}

static int on_link(struct lws *wsi, enum lws_callback_reasons reason, void *user,
                   void *in, size_t size)
{
    struct console *console = lws_context_user(lws_get_context(wsi));
    switch (reason) {
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        console->connected = true;
        if (console->gathering) {
            lws_sul_schedule(lws_get_context(wsi), 0, &console->pause, pause_over, PAUSE_US);
        }
        if (console->input != NULL) {
            (void)lws_rx_flow_control(console->input, 1);
        }
        return 0;
    case LWS_CALLBACK_CLIENT_RECEIVE:
        return received(console, in, size);
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        return send_typed(console);
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        end(console, -ECONNREFUSED,
            in != NULL ? in : "the console's host does not answer");
        return 0;
    case LWS_CALLBACK_CLIENT_CLOSED:
        end(console, DROVER_ECLOSED,
            "the console was closed: the VM has stopped, or moved to another host");
        return 0;
    default:
        return 0;
    }
}

static const struct lws_protocols protocols[] = {
    {.name = "drover-console", .callback = on_link, .rx_buffer_size = RECEIVE_SIZE},
    {.name = "input", .callback = on_input},
    {0},
};

static struct lws_context *create_context(const struct client_config *config,
                                          struct console *console)
{
    struct lws_context_creation_info info = {0};
    info.port = CONTEXT_PORT_NO_LISTEN;
    info.protocols = protocols;
    info.user = console;
    info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT |
                   LWS_SERVER_OPTION_SKIP_SERVER_CANONICAL_NAME;
    info.client_ssl_ca_filepath = config->ca_path;
    info.client_ssl_cert_filepath = config->certificate_path;
    info.client_ssl_private_key_filepath = config->key_path;
    lws_set_log_level(0, NULL); /* what fails is told by us, once */
    return lws_create_context(&info);
}

/* "https://HOST:PORT" into its parts. */
static int split_url(const char *url, char *host, size_t size, int *port)
{
    static const char scheme[] = "https://";
    if (strncmp(url, scheme, sizeof(scheme) - 1) != 0) {
        return DROVER_EBADINPUT;
    }
    if (snprintf(host, size, "%s", url + sizeof(scheme) - 1) >= (int)size) {
        return DROVER_ELIMIT;
    }
    host[strcspn(host, "/")] = '\0';
    char *colon = strrchr(host, ':');
    *port = PORT_DEFAULT;
    if (colon != NULL && strchr(colon, ']') == NULL) {
        *colon = '\0';
        *port = atoi(colon + 1);
    }
    return *port > 0 && *port < 65536 ? 0 : DROVER_EBADINPUT;
}

static int open_link(struct lws_context *context, const struct client_config *config,
                     const char *vm_name, struct console *console, struct error *err)
{
    char path[LIMIT_PATH_SIZE], address[LIMIT_PATH_SIZE];
    struct lws_client_connect_info info = {.context = context, .port = PORT_DEFAULT};
    (void)snprintf(path, sizeof(path), "/api/v1/vms/%s/console", vm_name);
    if (config->url == NULL) {
        (void)snprintf(address, sizeof(address), "+%s",
                       config->socket_path); /* a unix socket's */
        info.host = "localhost";
    } else if (split_url(config->url, address, sizeof(address), &info.port) != 0) {
        return error_set(err, DROVER_EBADINPUT, "--url %s: give https://HOST:PORT",
                         config->url);
    } else {
        /* Hosts know each other by the cluster's CA, not by names in DNS. */
        info.ssl_connection =
            LCCSCF_USE_SSL |
            (console->peer ? LCCSCF_SKIP_SERVER_CERT_HOSTNAME_CHECK : 0);
        info.host = address;
    }
    info.address = address;
    info.path = path;
    info.origin = info.host;
    info.protocol = protocols[0].name;
    info.local_protocol_name = protocols[0].name;
    info.pwsi = &console->link;
    if (lws_client_connect_via_info(&info) == NULL) {
        return error_set(err, -ECONNREFUSED, "no answer at %s: is droverd running there?",
                         config->url != NULL ? config->url : config->socket_path);
    }
    return 0;
}

static int open_input(struct lws_context *context, struct console *console,
                      struct error *err)
{
    /* lws closes what it adopts: stdin itself stays ours. */
    lws_sock_file_fd_type fd = {.filefd = dup(STDIN_FILENO)};
    if (fd.filefd < 0) {
        return error_set(err, -errno, "stdin can't be used: %s", strerror(errno));
    }
    console->input =
        lws_adopt_descriptor_vhost(lws_get_vhost_by_name(context, "default"),
                                   LWS_ADOPT_RAW_FILE_DESC, fd, protocols[1].name, NULL);
    if (console->input == NULL) {
        return error_set(err, -EIO,
                         "stdin can't be watched: is it a terminal, a pipe or a file?");
    }
    return 0;
}

static bool make_raw(struct termios *before)
{
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, before) != 0) {
        return false;
    }
    struct termios raw = *before;
    cfmakeraw(&raw);
    return tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

int console_run(const struct client_config *config, const char *vm_name,
                const struct console_options *options, struct error *err)
{
    struct console *console = calloc(1, sizeof(*console));
    struct lws_context *context =
        console == NULL ? NULL : create_context(config, console);
    if (context == NULL) {
        free(console);
        return error_set(err, -ENOMEM,
                         "the console can't start: is memory left, and are --ca, --cert "
                         "and --key right?");
    }
    console->lines = options->lines;
    console->gathering = options->lines != CONSOLE_ALL_LINES;
    console->peer = options->peer;
    int rv = open_link(context, config, vm_name, console, err);
    if (rv == 0) {
        rv = open_input(context, console, err);
    }
    if (rv == 0) {
        struct termios before;
        bool raw = make_raw(&before);
        while (!console->over && lws_service(context, 0) >= 0) {
        }
        if (raw) {
            (void)tcsetattr(STDIN_FILENO, TCSANOW,
                            &before); /* nothing better can be done */
        }
        rv = console->error == 0 ? 0
                                 : error_set(err, console->error, "%s", console->reason);
    }
    lws_context_destroy(context);
    free(console);
    return rv;
}
