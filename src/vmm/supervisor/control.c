#include "vmm/supervisor/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/listener.h"
#include "base/log.h"
#include "os/linux/fd.h"

/* A reply may be larger than a call: statistics of many devices. */
#define OUT_MAX (1u << 20)

struct client {
	struct client *next, *prev;
	struct wslx_control *control;
	int fd;
	struct wslx_watch *watch;
	struct wslx_buf in, out;
	struct wslx_call *call;
	bool eof; /* it will send no more */
};

struct wslx_call {
	struct client *client; /* NULL: gone */
	bool oneway;
};

struct wslx_control {
	struct wslx_control_params p;
	char *path, *interface;
	int fd;
	struct wslx_listener *listener;
	struct client *clients;
	size_t n_clients;
};

static const char service_description[] =
	"# The Varlink Service Interface\n"
	"interface org.varlink.service\n\n"
	"method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)\n"
	"method GetInterfaceDescription(interface: string) -> (description: string)\n\n"
	"error InterfaceNotFound (interface: string)\n"
	"error MethodNotFound (method: string)\n"
	"error MethodNotImplemented (method: string)\n"
	"error InvalidParameter (parameter: string)\n";

/* ---- clients ------------------------------------------------------------------ */

static void listen_again(struct wslx_control *c)
{
	if (c->listener)
		wslx_listener_hold(c->listener, c->n_clients >= WSLX_CONTROL_MAX_CLIENTS);
}

static void client_free(struct client *cl)
{
	struct wslx_control *c = cl->control;
	struct wslx_call *call = cl->call;

	if (call)
		call->client = NULL;
	wslx_watch_free(cl->watch);
	wslx_close(&cl->fd);
	wslx_buf_free(&cl->in);
	wslx_buf_free(&cl->out);
	if (cl->prev)
		cl->prev->next = cl->next;
	else
		c->clients = cl->next;
	if (cl->next)
		cl->next->prev = cl->prev;
	c->n_clients--;
	free(cl);
	listen_again(c);
	/* Who wants no answer need not stay. */
	if (call && !call->oneway && c->p.gone)
		c->p.gone(c->p.opaque, call);
}

/* Reads while there is nothing to do for it, writes while there is something to say. */
static void update_events(struct client *cl)
{
	uint32_t ev = 0;

	if (cl->out.len)
		ev |= EPOLLOUT;
	if (!cl->call && !cl->out.len && !cl->eof)
		ev |= EPOLLIN;
	wslx_watch_set_events(cl->watch, ev);
}

/* 0, or -errno when the client is of no use any more. */
static int flush_out(struct client *cl)
{
	while (cl->out.len) {
		ssize_t n = wslx_send_fds(cl->fd, cl->out.data, cl->out.len, NULL, 0, MSG_DONTWAIT);

		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return (int)n;
		wslx_buf_consume(&cl->out, (size_t)n);
	}
	return 0;
}

/* Takes msg. */
static int queue_message(struct client *cl, json_t *msg)
{
	cleanup_free char *s = msg ? json_dumps(msg, JSON_COMPACT) : NULL;

	json_decref(msg);
	if (!s)
		return -ENOMEM;
	return wslx_buf_append(&cl->out, s, strlen(s) + 1); /* with its NUL */
}

/* ---- answers ---------------------------------------------------------------------- */

static void answer(struct wslx_call *call, json_t *msg)
{
	struct client *cl = call->client;
	bool oneway = call->oneway;

	free(call);
	if (!cl) {
		json_decref(msg);
		return;
	}
	cl->call = NULL;
	if (oneway) {
		json_decref(msg);
	} else if (queue_message(cl, msg) < 0 || flush_out(cl) < 0) {
		/* Freed from the loop, not under the feet of a method's caller. */
		cl->out.len = 0;
		cl->eof = true;
		shutdown(cl->fd, SHUT_RDWR);
	}
	/* Look for the next call even if nothing new arrives. */
	wslx_watch_set_events(cl->watch, EPOLLIN | EPOLLOUT);
}

bool wslx_call_is_oneway(const struct wslx_call *call)
{
	return call->oneway;
}

void wslx_call_reply(struct wslx_call *call, json_t *params)
{
	answer(call, json_pack("{s:o}", "parameters", params ? params : json_object()));
}

void wslx_call_error(struct wslx_call *call, const char *name, json_t *params)
{
	answer(call, json_pack("{s:s, s:o}", "error", name, "parameters", params ? params : json_object()));
}

void wslx_call_invalid(struct wslx_call *call, const char *parameter)
{
	wslx_call_error(call, "org.varlink.service.InvalidParameter", json_pack("{s:s}", "parameter", parameter));
}

/* ---- calls ------------------------------------------------------------------------- */

static void get_info(struct wslx_control *c, struct wslx_call *call)
{
	wslx_call_reply(call, json_pack("{s:s, s:s, s:s, s:s, s:[s, s]}", "vendor", "WSLX", "product",
					c->p.product ? c->p.product : "wslx-vmm", "version", WSLX_VERSION, "url", "",
					"interfaces", "org.varlink.service", c->interface));
}

static void get_description(struct wslx_control *c, struct wslx_call *call, json_t *params)
{
	const char *name = json_string_value(json_object_get(params, "interface"));

	if (!name)
		wslx_call_invalid(call, "interface");
	else if (!strcmp(name, c->interface))
		wslx_call_reply(call, json_pack("{s:s}", "description", c->p.description));
	else if (!strcmp(name, "org.varlink.service"))
		wslx_call_reply(call, json_pack("{s:s}", "description", service_description));
	else
		wslx_call_error(call, "org.varlink.service.InterfaceNotFound", json_pack("{s:s}", "interface", name));
}

static void dispatch(struct wslx_control *c, struct wslx_call *call, const char *method, json_t *params)
{
	const char *dot = strrchr(method, '.');
	size_t n = dot ? (size_t)(dot - method) : 0;
	bool ours = dot && n == strlen(c->interface) && !strncmp(method, c->interface, n);

	for (size_t i = 0; ours && i < c->p.n_methods; i++) {
		if (!strcmp(dot + 1, c->p.methods[i].name)) {
			c->p.methods[i].fn(c->p.opaque, call, params);
			return;
		}
	}
	if (!strcmp(method, "org.varlink.service.GetInfo"))
		get_info(c, call);
	else if (!strcmp(method, "org.varlink.service.GetInterfaceDescription"))
		get_description(c, call, params);
	else if (ours || (dot && n == strlen("org.varlink.service") && !strncmp(method, "org.varlink.service", n)))
		wslx_call_error(call, "org.varlink.service.MethodNotFound", json_pack("{s:s}", "method", method));
	else
		wslx_call_error(call, "org.varlink.service.InterfaceNotFound",
				json_pack("{s:s%}", "interface", method, n));
}

static int on_call(struct client *cl, const char *p, size_t n)
{
	json_t *msg = json_loadb(p, n, JSON_REJECT_DUPLICATES, NULL);
	json_t *params = json_object_get(msg, "parameters");
	const char *method = json_string_value(json_object_get(msg, "method"));
	json_t *none = NULL;
	int r = -EPROTO;

	if (json_is_object(msg) && method && (!params || json_is_object(params) || json_is_null(params))) {
		struct wslx_call *call = calloc(1, sizeof(*call));

		r = -ENOMEM;
		if (call) {
			call->client = cl;
			call->oneway = json_is_true(json_object_get(msg, "oneway"));
			cl->call = call;
			if (!json_is_object(params))
				params = none = json_object();
			dispatch(cl->control, call, method, params);
			r = 0;
		}
	}
	json_decref(none);
	json_decref(msg);
	return r;
}

/* Takes the next whole message, unless a call is under way. */
static int take_messages(struct client *cl)
{
	while (!cl->call && !cl->out.len && cl->in.len) {
		uint8_t *nul = memchr(cl->in.data, '\0', cl->in.len);
		cleanup_free char *msg = NULL;
		size_t n;
		int r;

		if (!nul)
			return cl->in.len >= WSLX_CONTROL_MESSAGE_MAX ? -EMSGSIZE : 0;
		n = (size_t)(nul - cl->in.data);
		msg = malloc(n + 1);
		if (!msg)
			return -ENOMEM;
		memcpy(msg, cl->in.data, n + 1);
		wslx_buf_consume(&cl->in, n + 1);
		r = on_call(cl, msg, n);
		if (r < 0)
			return r;
	}
	return 0;
}

/* 1, 0: nothing there, -errno. */
static int read_in(struct client *cl)
{
	size_t room = WSLX_CONTROL_MESSAGE_MAX - cl->in.len;
	char buf[4096];
	ssize_t n;

	if (!room)
		return 0;
	n = recv(cl->fd, buf, WSLX_MIN(room, sizeof(buf)), MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0) {
		cl->eof = true;
		return 0;
	}
	return wslx_buf_append(&cl->in, buf, (size_t)n) < 0 ? -ENOMEM : 1;
}

static void on_client(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct client *cl = opaque;
	int r = flush_out(cl);

	/* Gone for good; what it sent before is still taken, if it waits for nothing. */
	if (r == 0 && (events & (EPOLLHUP | EPOLLERR)) && (cl->call || cl->out.len))
		r = -ECONNRESET;
	if (r == 0 && !cl->call && !cl->out.len && !cl->eof) {
		r = read_in(cl);
		r = r < 0 ? r : 0;
	}
	if (r == 0)
		r = take_messages(cl);
	if (r < 0 || (cl->eof && !cl->call && !cl->out.len)) {
		client_free(cl);
		return;
	}
	update_events(cl);
}

/* ---- the socket ------------------------------------------------------------------------ */

static int peer_allowed(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return 0;
	return cred.uid == geteuid() || cred.uid == 0;
}

int wslx_control_adopt(struct wslx_control *c, int fd)
{
	struct client *cl = calloc(1, sizeof(*cl));
	int r;

	if (!cl) {
		close(fd);
		return -ENOMEM;
	}
	cl->control = c;
	cl->fd = fd;
	wslx_buf_init(&cl->in, WSLX_CONTROL_MESSAGE_MAX);
	wslx_buf_init(&cl->out, OUT_MAX);
	r = wslx_loop_watch(c->p.loop, fd, EPOLLIN, on_client, cl, &cl->watch);
	if (r < 0) {
		close(fd);
		free(cl);
		return r;
	}
	cl->next = c->clients;
	if (cl->next)
		cl->next->prev = cl;
	c->clients = cl;
	c->n_clients++;
	listen_again(c);
	return 0;
}

static void on_accept(void *opaque, int fd, const struct sockaddr *peer, socklen_t peer_len)
{
	if (!peer_allowed(fd))
		close(fd);
	else if (wslx_control_adopt(opaque, fd) < 0)
		log_warn("a control connection was dropped: out of memory");
}

static int open_socket(struct wslx_control *c, struct wslx_err *err)
{
	int r;

	c->fd = wslx_unix_listen(c->path, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 64);
	if (c->fd < 0)
		return wslx_err_sys(err, -c->fd, "cannot listen at %s", c->path);
	r = wslx_listener_new(c->p.loop, c->fd, on_accept, c, &c->listener);
	return r < 0 ? wslx_err_sys(err, -r, "cannot listen at %s", c->path) : 0;
}

int wslx_control_new(const struct wslx_control_params *p, struct wslx_control **ret, struct wslx_err *err)
{
	struct wslx_control *c = calloc(1, sizeof(*c));
	int r = 0;

	if (!c)
		return wslx_err_sys(err, ENOMEM, "control socket");
	c->p = *p;
	c->fd = -1;
	c->interface = strdup(p->interface);
	c->path = p->path ? strdup(p->path) : NULL;
	if (!c->interface || (p->path && !c->path))
		r = wslx_err_sys(err, ENOMEM, "control socket");
	else if (p->path)
		r = open_socket(c, err);
	if (r < 0) {
		wslx_control_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void wslx_control_close_door(struct wslx_control *c)
{
	wslx_listener_free(TAKE_PTR(c->listener));
	if (c->fd >= 0)
		unlink(c->path);
	wslx_close(&c->fd);
}

size_t wslx_control_n_clients(const struct wslx_control *c)
{
	return c->n_clients;
}

void wslx_control_free(struct wslx_control *c)
{
	if (!c)
		return;
	c->p.gone = NULL;
	wslx_control_close_door(c);
	while (c->clients) {
		(void)!flush_out(c->clients);
		client_free(c->clients);
	}
	free(c->path);
	free(c->interface);
	free(c);
}
