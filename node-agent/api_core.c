/* SPDX-License-Identifier: Apache-2.0 */
/* The API without HTTP: calls, their answers, the way to the leader. */
#include "node-agent/api_core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/limits.h"
#include "consensus/cluster_state.h"
#include "node-agent/api_internal.h"
#include "node-agent/json_reader.h"

#define CALLS_MAX    1024
#define AGAIN_MS     100u   /* before a request is served once more */
#define AGAIN_MAX_MS 30000u /* how long */

static void on_timer(uv_timer_t *timer);

/* ---- errors
 * -------------------------------------------------------------------------------- */

struct error_row {
    int error;
    unsigned status;
    const char *code;
};

static const struct error_row error_rows[] = {
    {DROVER_EBADINPUT, 400, "bad_input"},    {DROVER_EMALFORMED, 400, "bad_input"},
    {DROVER_ELIMIT, 400, "bad_input"},       {DROVER_ETOKEN, 401, "bad_token"},
    {DROVER_ENOTFOUND, 404, "not_found"},    {-EOPNOTSUPP, 405, "bad_method"},
    {DROVER_ECONFLICT, 409, "conflict"},     {DROVER_EWRONGSTATE, 409, "conflict"},
    {DROVER_EINUSE, 409, "conflict"},        {DROVER_EHANDEDOVER, 409, "conflict"},
    {DROVER_ESTALEEPOCH, 409, "conflict"},   {-EBUSY, 409, "conflict"},
    {DROVER_EEXISTS, 409, "exists"},         {DROVER_ENOCAPACITY, 409, "no_capacity"},
    {DROVER_ENOLEASE, 409, "conflict"},      {-ENOTCONN, 409, "no_cluster"},
    {-EMSGSIZE, 413, "too_large"},           {DROVER_ENOLEADER, 503, "no_leader"},
    {DROVER_ENOTLEADER, 503, "leader_lost"}, {DROVER_ETIMEDOUT2, 504, "timeout"},
};

char *api_error_text(int error, const char *text, unsigned *ret_status)
{
    const struct error_row internal = {error, 500, "internal"};
    const struct error_row *row = &internal;
    for (size_t i = 0; i < sizeof(error_rows) / sizeof(error_rows[0]); i++) {
        if (error_rows[i].error == error) {
            row = &error_rows[i];
            break;
        }
    }
    *ret_status = row->status;
    text = text == NULL || text[0] == '\0' ? err_text(error) : text;
    json_t *object = json_pack("{s:{s:s, s:o}}", "error", "code", row->code, "message",
                               json_text(text));
    char *body = object == NULL ? NULL : json_dumps(object, JSON_COMPACT);
    json_decref(object);
    return body;
}

/* ---- calls
 * --------------------------------------------------------------------------------- */

static void call_free(struct api_call *call)
{
    struct api_core *core = call->core;
    if (call->previous == NULL) {
        core->calls = call->next;
    } else {
        call->previous->next = call->next;
    }
    if (call->next != NULL) {
        call->next->previous = call->previous;
    }
    core->call_count--;
    json_decref(call->body);
    free(call->raw_body);
    free(call->answer_text);
    explicit_bzero(call->secret_text, sizeof(call->secret_text));
    free(call);
}

static void plan(struct api_core *core)
{
    uint64_t now_ms = clock_now_ms();
    uint64_t at_ms = UINT64_MAX;
    for (const struct api_call *call = core->calls; call != NULL; call = call->next) {
        if (call->state == API_CALL_STATE_DONE) {
            at_ms = now_ms;
        } else if (call->state == API_CALL_STATE_WAITING && call->wait_until_ms < at_ms) {
            at_ms = call->wait_until_ms;
        }
    }
    if (core->closed != NULL || at_ms == UINT64_MAX) {
        return;
    }
    uv_update_time(core->loop);
    int rv =
        uv_timer_start(&core->timer, on_timer, at_ms > now_ms ? at_ms - now_ms : 0, 0);
    CHECK(rv == 0);
}

static void done(struct api_call *call, unsigned status, char *text)
{
    CHECK(call->state != API_CALL_STATE_DONE);
    static const char no_memory[] =
        "{\"error\":{\"code\":\"internal\",\"message\":\"out of memory\"}}";
    if (text == NULL) {
        text = strdup(no_memory);
        status = 500;
    }
    call->state = API_CALL_STATE_DONE;
    call->status = status;
    call->answer_text = text;
    call->answer_size = text == NULL ? 0 : strlen(text);
    plan(call->core);
}

void api_finish(struct api_call *call, unsigned status, json_t *object)
{
    char *text = object == NULL ? NULL : json_dumps(object, JSON_COMPACT);
    json_decref(object);
    done(call, status, text);
}

void api_fail(struct api_call *call, int error, const char *text)
{
    unsigned status = 0;
    char *body = api_error_text(error, text, &status);
    done(call, status, body);
}

void api_wait(struct api_call *call, uint64_t until_ms)
{
    call->state = API_CALL_STATE_WAITING;
    call->wait_until_ms = until_ms;
    plan(call->core);
}

/* ---- requests with a key
 * ------------------------------------------------------------------- */

/* FNV-1a: it finds a mistake, not an attack. */
static uint64_t digest_add(uint64_t digest, const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        digest = (digest ^ ((const uint8_t *)data)[i]) * UINT64_C(0x100000001b3);
    }
    return digest;
}

static uint64_t digest_of(const struct api_call *call)
{
    uint64_t digest = UINT64_C(0xcbf29ce484222325);
    digest = digest_add(digest, call->method, strlen(call->method) + 1);
    digest = digest_add(digest, call->path, strlen(call->path) + 1);
    return digest_add(digest, call->raw_body, call->raw_size);
}

static bool call_keyed(const struct api_call *call)
{
    return call->key[0] != '\0' && call->route->repeat != NULL;
}

/* Here, unless it was carried out before. */
static void handle(struct api_call *call)
{
    const Drover__RequestRecord *before =
        call_keyed(call) ? cluster_state_request(api_state(call), call->key) : NULL;
    if (before == NULL) {
        call->route->handle(call);
    } else if (before->digest != call->digest) {
        api_fail(call, DROVER_EEXISTS,
                 "the Idempotency-Key was used for another request: choose another");
    } else {
        call->subject_id = before->subject_id;
        call->route->repeat(call, before->subject_id);
    }
}

/* ---- the backend's answers
 * ----------------------------------------------------------------- */

/*
 * The leadership has moved. With a key the request may be repeated, whether it was
 * carried out or not: here, or by the host that has passed it on. Returns whether it will
 * be.
 */
static bool serve_again(struct api_call *call, int error)
{
    uint64_t now_ms = clock_now_ms();
    bool unknown = error == DROVER_ETIMEDOUT2;
    if (!call_keyed(call) || (!unknown && error != DROVER_ENOTLEADER)) {
        return false;
    }
    if (call->forwarded) {
        done(call, 0, strdup(""));
        return true;
    }
    call->again_until_ms =
        call->again_until_ms == 0 ? now_ms + AGAIN_MAX_MS : call->again_until_ms;
    if (now_ms >= call->again_until_ms) {
        return false;
    }
    call->again = true;
    api_wait(call, now_ms + AGAIN_MS);
    return true;
}

void api_backend_done(void *request, int error, const char *text, uint64_t result_id)
{
    struct api_call *call = request;
    CHECK(call->lent);
    call->lent = false;
    if (error != 0 && call->answer != NULL && serve_again(call, error)) {
        return;
    }
    if (error != 0) {
        api_fail(call, error, text);
    } else {
        call->then(call, result_id);
    }
}

void api_propose(struct api_call *call, const Drover__Command *command,
                 void (*then)(struct api_call *call, uint64_t result_id))
{
    struct error err = {0};
    Drover__Command tagged = *command;
    if (call_keyed(call) && !call->partly) {
        tagged.request_id = call->key;
        tagged.request_digest = call->digest;
    }
    call->then = then;
    call->lent = true;
    int rv = call->core->backend->propose(call->core->owner, &tagged, api_backend_done,
                                          call, &err);
    if (rv != 0) {
        call->lent = false;
        if (!serve_again(call, rv)) {
            api_fail(call, rv, err.text);
        }
    }
}

/* The leader's answer, with this host's name in it: it is the one that was asked. NULL:
 * leave the answer as it is. */
static char *name_this_host(struct api_call *call, const char *body, size_t size)
{
    json_t *object = json_loadb(body, size, 0, NULL);
    const char *name = json_host_name(api_state(call), api_self_of(call).host_id);
    char *text = NULL;
    if (object != NULL && name != NULL &&
        json_object_set_new(object, "node", json_string(name)) == 0) {
        text = json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER);
    }
    json_decref(object);
    return text;
}

static void on_forwarded(void *request, int error, const char *text, unsigned status,
                         const void *body, size_t size)
{
    struct api_call *call = request;
    CHECK(call->lent);
    call->lent = false;
    bool unreachable = error == DROVER_ENOLEADER || error == DROVER_ENOTLEADER ||
                       error == DROVER_ETIMEDOUT2 || error == DROVER_ECLOSED;
    if (error != 0 && unreachable && strcmp(call->method, "GET") == 0) {
        call->route->handle(call); /* what this host last knew */
        return;
    }
    if (error != 0) {
        api_fail(call, error == DROVER_ECLOSED ? DROVER_ENOTLEADER : error, text);
        return;
    }
    if (status == 200 && (call->route->flags & API_ROUTE_NAMES_HOST) != 0) {
        char *named = name_this_host(call, body, size);
        if (named != NULL) {
            done(call, status, named);
            return;
        }
    }
    char *copy = malloc(size + 1);
    if (copy != NULL) {
        memcpy(copy, body, size);
        copy[size] = '\0';
    }
    done(call, status, copy);
}

static void pass_on(struct api_call *call)
{
    struct error err = {0};
    Drover__ApiForward message = DROVER__API_FORWARD__INIT;
    message.method = call->method;
    message.path = call->path;
    message.body.data = call->raw_body;
    message.body.len = call->raw_size;
    message.key = call->key;
    message.role = (char *)"admin"; /* both ways in are for administrators as yet */
    call->lent = true;
    int rv = call->core->backend->forward(call->core->owner, &message, on_forwarded, call,
                                          &err);
    if (rv != 0) {
        on_forwarded(call, rv, err.text, 0, NULL, 0);
    }
}

/* ---- what the handlers ask
 * ----------------------------------------------------------------- */

const struct cluster_state *api_state(const struct api_call *call)
{
    return call->core->backend->state(call->core->owner);
}

struct api_self api_self_of(const struct api_call *call)
{
    struct api_self self = {0};
    call->core->backend->self(call->core->owner, &self);
    return self;
}

struct json_host_seen api_host_seen(const struct api_call *call, uint64_t host_id)
{
    const struct api_core *core = call->core;
    struct api_self self = api_self_of(call);
    struct json_host_seen seen = {
        .leads = self.leads,
        .silent_ms = UINT64_MAX,
        .leader_host_id = self.leader_host_id,
    };
    if (self.leads) {
        seen.usable = core->backend->host_usable(core->owner, host_id);
        seen.silent_ms = core->backend->host_silent_ms(core->owner, host_id);
    }
    return seen;
}

struct json_vm_seen api_vm_seen(const struct api_call *call, const Drover__VmRecord *vm)
{
    const struct api_core *core = call->core;
    struct json_vm_seen seen = {.leads = api_self_of(call).leads,
                                .owner_silent_ms = UINT64_MAX};
    uint64_t at_ms = 0;
    if (!seen.leads) {
        return seen;
    }
    seen.status = core->backend->observed(core->owner, vm->vm_id, &seen.host_id, &at_ms);
    if (vm->owner_host_id != 0) {
        const Drover__ClusterState *view = cluster_state_view(api_state(call));
        seen.owner_silent_ms =
            core->backend->host_silent_ms(core->owner, vm->owner_host_id);
        seen.owner_silent = seen.owner_silent_ms > view->lease_ms;
    }
    return seen;
}

/* ---- serve
 * --------------------------------------------------------------------------------- */

static int read_body(struct api_call *call, struct error *err)
{
    if (call->raw_size == 0) {
        call->body = json_object();
        return call->body == NULL ? -ENOMEM : 0;
    }
    if (call->raw_size > LIMIT_API_BODY_BYTES) {
        return error_set(err, -EMSGSIZE, "the body is larger than %u bytes: send less",
                         LIMIT_API_BODY_BYTES);
    }
    if (strcmp(call->method, "GET") == 0 || strcmp(call->method, "DELETE") == 0) {
        return error_set(err, DROVER_EBADINPUT, "%s takes no body: send none",
                         call->method);
    }
    return json_parse_object(call->raw_body, call->raw_size, &call->body, err);
}

/* Here, or at the leader. */
static void serve(struct api_call *call)
{
    struct api_self self = api_self_of(call);
    if (self.leads || self.host_id == 0 || (call->route->flags & API_ROUTE_LOCAL) != 0) {
        handle(call);
    } else if (call->forwarded) {
        done(call, 0, strdup("")); /* leadership has just moved: nothing was done */
    } else {
        pass_on(call);
    }
}

static void dispatch(struct api_call *call)
{
    struct error err = {0};
    int rv = api_route_cut(call, &err);
    if (rv == 0 && call->key[0] != '\0' && !cluster_state_request_id_valid(call->key)) {
        rv = error_set(&err, DROVER_EBADINPUT,
                       "an Idempotency-Key has 1 to %d of A-Z, a-z, 0-9, '.', '_', '-'",
                       LIMIT_REQUEST_ID_SIZE - 1);
    }
    if (rv == 0) {
        call->route = api_route_find(call, &err);
        rv = call->route == NULL ? err.code : read_body(call, &err);
    }
    if (rv != 0) {
        api_fail(call, rv, err.text);
        return;
    }
    struct api_self self = api_self_of(call);
    unsigned flags = call->route->flags;
    if (self.host_id == 0 && (flags & API_ROUTE_NO_CLUSTER) == 0) {
        api_fail(call, -ENOTCONN,
                 "this host is in no cluster yet: 'drover cluster init' makes "
                 "one, 'drover cluster join' joins one");
        return;
    }
    if (self.host_id != 0 && self.failure != NULL) {
        /* It has no state to answer from: "no VMs" or "no cluster" would be a lie. */
        api_fail(call, DROVER_ENOLEADER, self.failure);
        return;
    }
    call->digest = digest_of(call);
    serve(call);
}

int api_core_serve(struct api_core *core, const struct api_incoming *incoming,
                   api_answer answer, void *request, struct api_call **ret_call)
{
    CHECK(core->closed == NULL);
    if (core->call_count == CALLS_MAX) {
        return DROVER_ELIMIT;
    }
    struct api_call *call = calloc(1, sizeof(*call));
    void *raw = incoming->body_size == 0 ? NULL : malloc(incoming->body_size);
    if (call == NULL || (raw == NULL && incoming->body_size != 0)) {
        free(call);
        return -ENOMEM;
    }
    if (raw != NULL) {
        memcpy(raw, incoming->body, incoming->body_size);
    }
    call->core = core;
    call->raw_body = raw;
    call->raw_size = incoming->body_size;
    call->forwarded = incoming->forwarded;
    call->answer = answer;
    call->request = request;
    (void)snprintf(call->method, sizeof(call->method), "%s", incoming->method);
    bool key_fits = incoming->key == NULL || strlen(incoming->key) < sizeof(call->key);
    (void)snprintf(call->key, sizeof(call->key), "%s",
                   !key_fits               ? "?"
                   : incoming->key == NULL ? ""
                                           : incoming->key);
    (void)snprintf(call->path, sizeof(call->path), "%s", incoming->path);
    call->next = core->calls;
    if (call->next != NULL) {
        call->next->previous = call;
    }
    core->calls = call;
    core->call_count++;
    if (ret_call != NULL) {
        *ret_call = call;
    }
    if (strlen(incoming->path) >= sizeof(call->path)) {
        api_fail(call, DROVER_EBADINPUT, "the path is too long");
    } else {
        dispatch(call);
    }
    return 0;
}

void api_call_cancel(struct api_call *call)
{
    call->answer = NULL;
    if (!call->lent) {
        call_free(call);
    }
}

/* ---- answers, later
 * ------------------------------------------------------------------------- */

/* One call whose answer is ready; NULL: none. */
static struct api_call *find_done(const struct api_core *core)
{
    struct api_call *call = core->calls;
    while (call != NULL && call->state != API_CALL_STATE_DONE) {
        call = call->next;
    }
    return call;
}

static void wake(struct api_core *core, uint64_t now_ms, bool all)
{
    struct api_call *next = NULL;
    for (struct api_call *call = core->calls; call != NULL; call = next) {
        next = call->next;
        if (call->state == API_CALL_STATE_WAITING &&
            (all || call->wait_until_ms <= now_ms)) {
            call->state = API_CALL_STATE_HANDLING;
            if (call->again) {
                call->again = false;
                serve(call);
            } else {
                call->route->handle(call);
            }
        }
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct api_core *core = timer->data;
    wake(core, clock_now_ms(), false);
    struct api_call *call = NULL;
    /* Each answer may bring the next request of its connection, or the end of others. */
    for (unsigned i = 0; i < CALLS_MAX && (call = find_done(core)) != NULL; i++) {
        api_answer answer = call->answer;
        void *request = call->request;
        unsigned status = call->status;
        char *text = TAKE(call->answer_text);
        size_t size = call->answer_size;
        call_free(call);
        if (answer != NULL) {
            answer(request, status, text == NULL ? "" : text, size);
        }
        free(text);
    }
    plan(core);
}

void api_core_changed(struct api_core *core)
{
    if (core->closed == NULL) {
        wake(core, clock_now_ms(), true);
    }
}

/* ---- life
 * ----------------------------------------------------------------------------------- */

int api_core_create(uv_loop_t *loop, const struct api_backend *backend, void *owner,
                    struct api_core **ret_core)
{
    struct api_core *core = calloc(1, sizeof(*core));
    if (core == NULL) {
        return -ENOMEM;
    }
    core->loop = loop;
    core->backend = backend;
    core->owner = owner;
    int rv = uv_timer_init(loop, &core->timer);
    CHECK(rv == 0); /* libuv: always */
    core->timer.data = core;
    *ret_core = core;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct api_core *core = handle->data;
    core->timer_closed = true;
    core->closed(core->closed_owner);
}

void api_core_close(struct api_core *core, void (*closed)(void *owner), void *owner)
{
    CHECK(core->closed == NULL && closed != NULL);
    core->closed = closed;
    core->closed_owner = owner;
    static const char ends[] =
        "{\"error\":{\"code\":\"leader_lost\",\"message\":\"this host's "
        "droverd is ending: ask another\"}}";
    for (struct api_call *call = core->calls; call != NULL; call = call->next) {
        if (call->answer != NULL) {
            api_answer answer = call->answer;
            call->answer = NULL;
            answer(call->request, 503, ends, strlen(ends));
        }
    }
    uv_close((uv_handle_t *)&core->timer, on_closed);
}

/* The backend must have given back all calls that were lent to it. */
void api_core_free(struct api_core *core)
{
    if (core == NULL) {
        return;
    }
    while (core->calls != NULL) {
        call_free(core->calls);
    }
    free(core);
}
