/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP for the API: libwebsockets on the agent's loop. One session per connection, one
 * request of it at a time. */
#include "node-agent/api.h"

#include <errno.h>
#include <libwebsockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/limits.h"
#include "node-agent/api_console.h"
#include "node-agent/api_core.h"
#include "node-agent/api_internal.h"

#define CHUNK_BYTES     16384
#define HEADER_BYTES    2048
#define CONNECTIONS_MAX 512

/* lws' memory, zeroed by it; ours is freed at the end of each request. */
struct session {
    struct lws *wsi;
    struct api *api;
    struct api_call *call; /* under way */
    bool dispatched;
    char method[8];
    char path[API_PATH_SIZE + 1];
    char key[LIMIT_REQUEST_ID_SIZE + 1]; /* one more, to see what is too long */
    struct buffer body;
    bool too_large;
    unsigned status; /* of an answer; 0: none yet */
    char *answer;
    size_t answer_size, answer_sent;
    bool head_sent;
};

struct api {
    const struct api_console_ops *console; /* first: api_console.h */
    struct api_console_ops console_ops;
    struct lws_context *context;
    struct api_core *core;
    struct lws_vhost *unix_vhost;
    struct lws_vhost *tls_vhost;
    void (*closed)(void *owner);
    void *closed_owner;
};

/* ---- one request
 * ----------------------------------------------------------------------------- */

static void session_reset(struct session *session)
{
    if (session->call != NULL) {
        api_call_cancel(TAKE(session->call));
    }
    buffer_done(&session->body);
    free(session->answer);
    *session = (struct session){0};
}

static void set_answer(struct session *session, unsigned status, const char *body,
                       size_t size)
{
    session->answer = malloc(size + 1);
    session->answer_size = session->answer == NULL ? 0 : size;
    session->status = session->answer == NULL ? 500 : status;
    if (session->answer != NULL) {
        memcpy(session->answer, body, size);
        session->answer[size] = '\0';
    }
    (void)lws_callback_on_writable(session->wsi);
}

static void on_answer(void *request, unsigned status, const char *body, size_t size)
{
    struct session *session = request;
    session->call = NULL;
    set_answer(session, status, body, size);
}

static void refuse(struct session *session, int error, const char *text)
{
    unsigned status = 0;
    char *body = api_error_text(error, text, &status);
    set_answer(session, status, body == NULL ? "" : body,
               body == NULL ? 0 : strlen(body));
    free(body);
}

static void dispatch(struct session *session)
{
    if (session->dispatched) {
        return;
    }
    session->dispatched = true;
    lws_set_timeout(session->wsi, NO_PENDING_TIMEOUT, 0); /* the core has its own */
    if (session->too_large) {
        refuse(session, -EMSGSIZE, "the body is larger than 1 MiB: send less");
        return;
    }
    const struct api_incoming incoming = {
        .method = session->method,
        .path = session->path,
        .body = session->body.data,
        .body_size = session->body.size,
        .key = session->key,
    };
    int rv = session->api->closed != NULL
                 ? DROVER_ECLOSED
                 : api_core_serve(session->api->core, &incoming, on_answer, session,
                                  &session->call);
    if (rv != 0) {
        refuse(session, rv,
               rv == DROVER_ELIMIT ? "too many requests at once: try again" : NULL);
    }
}

/* Method and path with query, as they came. */
static void read_head(struct session *session, struct lws *wsi)
{
    static const struct {
        int method;
        const char *name;
    } methods[] = {
        {LWSHUMETH_GET, "GET"},         {LWSHUMETH_POST, "POST"},
        {LWSHUMETH_PUT, "PUT"},         {LWSHUMETH_PATCH, "PATCH"},
        {LWSHUMETH_DELETE, "DELETE"},   {LWSHUMETH_HEAD, "HEAD"},
        {LWSHUMETH_OPTIONS, "OPTIONS"},
    };
    char *uri = NULL;
    int uri_size = 0;
    int method = lws_http_get_uri_and_method(wsi, &uri, &uri_size);
    (void)snprintf(session->method, sizeof(session->method), "?");
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        if (methods[i].method == method) {
            (void)snprintf(session->method, sizeof(session->method), "%s",
                           methods[i].name);
        }
    }
    size_t used = (size_t)snprintf(session->path, sizeof(session->path), "%.*s",
                                   uri == NULL ? 0 : uri_size, uri == NULL ? "" : uri);
    char part[API_PATH_SIZE];
    for (int i = 0; used < sizeof(session->path); i++) {
        int size =
            lws_hdr_copy_fragment(wsi, part, sizeof(part), WSI_TOKEN_HTTP_URI_ARGS, i);
        if (size <= 0) {
            break;
        }
        used += (size_t)snprintf(session->path + used, sizeof(session->path) - used,
                                 "%c%s", i == 0 ? '?' : '&', part);
    }
}

/* What is too long is cut to what is still too long. */
static void read_key(struct session *session, struct lws *wsi)
{
    static const char name[] = "idempotency-key:";
    int size = lws_hdr_custom_length(wsi, name, (int)strlen(name));
    if (size <= 0) {
        return;
    }
    if (size >= (int)sizeof(session->key)) {
        memset(session->key, 'x', sizeof(session->key) - 1);
    } else if (lws_hdr_custom_copy(wsi, session->key, sizeof(session->key), name,
                                   (int)strlen(name)) != size) {
        (void)snprintf(session->key, sizeof(session->key), "?"); /* refused */
    }
}

static void begin(struct session *session, struct lws *wsi)
{
    char length[32] = "";
    session_reset(session);
    session->wsi = wsi;
    session->api = lws_context_user(lws_get_context(wsi));
    buffer_init(&session->body, LIMIT_API_BODY_BYTES);
    read_head(session, wsi);
    read_key(session, wsi);
    bool chunked = lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0;
    (void)lws_hdr_copy(wsi, length, sizeof(length), WSI_TOKEN_HTTP_CONTENT_LENGTH);
    unsigned long long announced = strtoull(length, NULL, 10);
    if (chunked) {
        session->dispatched = true;
        refuse(session, DROVER_EBADINPUT,
               "a chunked body is not possible: send it with Content-Length");
    } else if (announced > LIMIT_API_BODY_BYTES) {
        session->too_large = true;
        dispatch(session);
    } else if (announced == 0) {
        dispatch(session);
    }
}

static void add_body(struct session *session, const void *data, size_t size)
{
    if (session->dispatched) {
        return; /* refused already: the rest is not wanted */
    }
    if (buffer_append(&session->body, data, size) != 0) {
        session->too_large = true;
    }
}

/* ---- the answer
 * ------------------------------------------------------------------------------ */

static int send_head(struct session *session)
{
    uint8_t head[LWS_PRE + HEADER_BYTES];
    uint8_t *start = head + LWS_PRE;
    uint8_t *at = start;
    uint8_t *end = head + sizeof(head) - 1;
    static const char no_store[] = "no-store";
    if (lws_add_http_common_headers(session->wsi, session->status, "application/json",
                                    session->answer_size, &at, end) != 0 ||
        lws_add_http_header_by_token(session->wsi, WSI_TOKEN_HTTP_CACHE_CONTROL,
                                     (const uint8_t *)no_store, (int)strlen(no_store),
                                     &at, end) != 0 ||
        lws_finalize_write_http_header(session->wsi, start, &at, end) != 0) {
        return -1;
    }
    session->head_sent = true;
    return 0;
}

/* Nonzero: lws closes the connection. */
static int on_writable(struct session *session)
{
    if (session->status == 0) {
        return 0;
    }
    if (!session->head_sent) {
        if (send_head(session) != 0) {
            return -1;
        }
        if (session->answer_size > 0) {
            (void)lws_callback_on_writable(session->wsi);
            return 0;
        }
    }
    uint8_t chunk[LWS_PRE + CHUNK_BYTES];
    size_t left = session->answer_size - session->answer_sent;
    size_t size = left < CHUNK_BYTES ? left : CHUNK_BYTES;
    memcpy(chunk + LWS_PRE, session->answer + session->answer_sent, size);
    bool last = size == left;
    if (size > 0 && lws_write(session->wsi, chunk + LWS_PRE, size,
                              last ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) < (int)size) {
        return -1;
    }
    session->answer_sent += size;
    if (!last) {
        (void)lws_callback_on_writable(session->wsi);
        return 0;
    }
    bool unread = session->too_large; /* bytes that nobody will read are in the way */
    struct lws *wsi = session->wsi;
    session_reset(session);
    return unread || lws_http_transaction_completed(wsi) != 0 ? -1 : 0;
}

static int on_http(struct lws *wsi, enum lws_callback_reasons reason, void *user,
                   void *in, size_t size)
{
    struct session *session = user;
    switch (reason) {
    case LWS_CALLBACK_OPENSSL_PERFORM_CLIENT_CERT_VERIFICATION:
        /* libwebsockets takes our word in place of OpenSSL's, which is `size`: 0 would
         * let every certificate pass. */
        return size == 1 ? 0 : 1;
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        return -1; /* a WebSocket without a subprotocol of ours */
    case LWS_CALLBACK_HTTP:
        begin(session, wsi);
        return 0;
    case LWS_CALLBACK_HTTP_BODY:
        add_body(session, in, size);
        return 0;
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        dispatch(session);
        return 0;
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return on_writable(session);
    case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
    case LWS_CALLBACK_CLOSED_HTTP:
        if (session != NULL) {
            session_reset(session);
        }
        return 0;
    default:
        return lws_callback_http_dummy(wsi, reason, user, in, size);
    }
}

/* ---- life
 * ------------------------------------------------------------------------------------ */

static const struct lws_protocols protocols[] = {
    {.name = "http",
     .callback = on_http,
     .per_session_data_size = sizeof(struct session)},
    {.name = API_CONSOLE_PROTOCOL,
     .callback = api_console_callback,
     .per_session_data_size = API_CONSOLE_SESSION_SIZE},
    {0},
};

static int find_console(void *owner, const char *path, char *ret_socket_path, size_t size,
                        struct error *err)
{
    return api_core_console(owner, path, ret_socket_path, size, err);
}

static int listen_unix(struct api *api, const char *path, struct error *err)
{
    struct lws_context_creation_info info = {0};
    if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
        return error_set(err, DROVER_ELIMIT,
                         "%s is too long for a socket: set a shorter one", path);
    }
    info.vhost_name = "unix";
    info.protocols = protocols;
    info.iface = path;
    info.unix_socket_perms = "root:root";
    info.options =
        LWS_SERVER_OPTION_UNIX_SOCK | LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND;
    mode_t mask = umask(0117); /* 0660 from its first moment on */
    api->unix_vhost = lws_create_vhost(api->context, &info);
    (void)umask(mask);
    if (api->unix_vhost == NULL) {
        return error_set(
            err, -EADDRNOTAVAIL,
            "can't listen on %s: does its folder exist, and may droverd write to it?",
            path);
    }
    return 0;
}

int api_create(const struct api_config *config, struct api **ret_api, struct error *err)
{
    struct lws_context_creation_info info = {0};
    void *loops[] = {config->loop};
    struct api *api = calloc(1, sizeof(*api));
    if (api == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    lws_set_log_level(LLL_ERR, NULL);
    info.port = CONTEXT_PORT_NO_LISTEN;
    info.foreign_loops = loops;
    info.user = api;
    info.fd_limit_per_thread = CONNECTIONS_MAX;
    info.options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS |
                   LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT |
                   LWS_SERVER_OPTION_UV_NO_SIGSEGV_SIGFPE_SPIN;
    api->context = lws_create_context(&info);
    if (api->context == NULL) {
        free(api);
        return error_set(err, -ENOSYS,
                         "can't start the HTTP server: install libwebsockets-evlib-uv");
    }
    int rv = api_core_create(config->loop, config->backend, config->owner, &api->core);
    api->console_ops = (struct api_console_ops){config->loop, find_console, api->core};
    api->console = &api->console_ops;
    rv = rv != 0 ? error_set(err, rv, "out of memory")
                 : listen_unix(api, config->socket_path, err);
    if (rv != 0) {
        lws_context_destroy(api->context);
        return rv; /* only at the start of droverd, which ends then: core and api are not
                      freed */
    }
    *ret_api = api;
    return 0;
}

int api_listen_tls(struct api *api, const char *address, const char *ca_file,
                   const char *certificate_file, const char *key_file, struct error *err)
{
    struct lws_context_creation_info info = {0};
    char host[LIMIT_ADDRESS_SIZE];
    const char *colon = strrchr(address, ':');
    CHECK(api->tls_vhost == NULL);
    if (colon == NULL || (size_t)(colon - address) >= sizeof(host)) {
        return error_set(err, DROVER_EBADINPUT, "%s: give HOST:PORT for the API",
                         address);
    }
    (void)snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
    struct in_addr ipv4;
    bool one = inet_pton(AF_INET, host, &ipv4) == 1 && ipv4.s_addr != 0;
    info.vhost_name = "tls";
    info.protocols = protocols;
    info.port = atoi(colon + 1);
    info.iface = one ? host : NULL; /* by name, or by IPv6: on all */
    info.ssl_ca_filepath = ca_file;
    info.ssl_cert_filepath = certificate_file;
    info.ssl_private_key_filepath = key_file;
    info.ssl_options_set = (long)(SSL_OP_NO_SSLv3 | SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1);
    info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT |
                   LWS_SERVER_OPTION_REQUIRE_VALID_OPENSSL_CLIENT_CERT |
                   LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND;
    if (one) {
        /* Else libwebsockets takes no notice of the address, and listens on all. */
        info.options |= LWS_SERVER_OPTION_DISABLE_IPV6;
    }
    api->tls_vhost = lws_create_vhost(api->context, &info);
    if (api->tls_vhost == NULL) {
        return error_set(err, -EADDRNOTAVAIL,
                         "can't serve the API on %s: is the port in use, or are %s, %s "
                         "or %s unreadable?",
                         address, certificate_file, key_file, ca_file);
    }
    return 0;
}

void api_state_changed(struct api *api)
{
    api_core_changed(api->core);
}

/* A request of another host: its answer goes back as a message. */
struct served {
    api_forwarded answer;
    void *request;
};

static void on_served(void *owner, unsigned status, const char *body, size_t size)
{
    struct served *served = owner;
    served->answer(served->request, 0, "", status, body, size);
    free(served);
}

int api_serve_forward(struct api *api, const Drover__ApiForward *message,
                      api_forwarded answer, void *request)
{
    if (api->closed != NULL) {
        return DROVER_ECLOSED;
    }
    struct served *served = calloc(1, sizeof(*served));
    if (served == NULL) {
        return -ENOMEM;
    }
    *served = (struct served){answer, request};
    const struct api_incoming incoming = {
        .method = message->method,
        .path = message->path,
        .body = message->body.data,
        .body_size = message->body.len,
        .key = message->key,
        .forwarded = true,
    };
    int rv = api_core_serve(api->core, &incoming, on_served, served, NULL);
    if (rv != 0) {
        free(served);
    }
    return rv;
}

void api_close(struct api *api, void (*closed)(void *owner), void *owner)
{
    CHECK(api->closed == NULL && closed != NULL);
    api->closed = closed;
    api->closed_owner = owner;
    lws_context_destroy(api->context);
    api_core_close(api->core, closed, owner);
}

void api_free(struct api *api)
{
    if (api != NULL) {
        /* On a loop that is not its own, libwebsockets frees what it has only when it is asked again. */
        lws_context_destroy(api->context);
        api_core_free(api->core);
        free(api);
    }
}
