#include "manager/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "base/loop.h"
#include "os/linux/fd.h"

/* Who can be asked. */
struct service {
	const char *interface, *what;
};

static const struct service machine = { "io.wslx.Machine", "the machine" };
static const struct service region = { "io.wslx.Portal", "the region" };

#define MESSAGE_MAX ((size_t)64 * 1024)
#define INFO_TIMEOUT_MS 3000

static int set_timeout(int fd, int which, int64_t ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000 };

	return setsockopt(fd, SOL_SOCKET, which, &tv, sizeof(tv)) < 0 ? -errno : 0;
}

/* Reads up to the NUL that ends the reply. */
static int read_reply(int fd, int64_t deadline, struct wslx_buf *in)
{
	for (;;) {
		char part[4096];
		int64_t left = deadline - wslx_now_ms();
		ssize_t n;
		int r;

		if (left <= 0)
			return -ETIMEDOUT;
		r = set_timeout(fd, SO_RCVTIMEO, left);
		if (r < 0)
			return r;
		n = recv(fd, part, sizeof(part), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (n == 0)
			return -ECONNRESET;
		r = wslx_buf_append(in, part, (size_t)n);
		if (r < 0)
			return -EPROTO;
		if (part[n - 1] == '\0')
			return 0;
		/* One call, one reply: nothing may follow the NUL. */
		if (memchr(part, '\0', (size_t)n))
			return -EPROTO;
	}
}

static int exchange(const char *sock_path, const char *text, unsigned timeout_ms, json_t **ret)
{
	int64_t deadline = wslx_now_ms() + timeout_ms;
	cleanup_close int fd = wslx_unix_connect_within(sock_path, SOCK_STREAM, timeout_ms);
	struct wslx_buf in;
	int r = 0;

	if (fd < 0)
		return fd;
	wslx_buf_init(&in, MESSAGE_MAX);
	if (send(fd, text, strlen(text) + 1, MSG_NOSIGNAL) != (ssize_t)strlen(text) + 1)
		r = errno == EAGAIN ? -ETIMEDOUT : -ECONNRESET;
	if (r == 0)
		r = read_reply(fd, deadline, &in);
	if (r == 0) {
		*ret = json_loads((const char *)in.data, JSON_REJECT_DUPLICATES, NULL);
		r = json_is_object(*ret) ? 0 : -EPROTO;
	}
	wslx_buf_free(&in);
	return r;
}

/* A varlink error as -errno, with its own words if it has some. */
static int reply_error(const struct service *s, const char *name, const json_t *params, const char *method,
		       struct wslx_err *err)
{
	json_int_t code = json_integer_value(json_object_get(params, "code"));
	const char *message = json_string_value(json_object_get(params, "message"));
	const char *dot = strrchr(name, '.');

	name = dot ? dot + 1 : name;
	if (!strcmp(name, "NotReady")) {
		const char *state = json_string_value(json_object_get(params, "state"));

		return wslx_err_set(err, EAGAIN, "%s is %s", s->what, state ? state : "not ready");
	}
	if (!strcmp(name, "NotSupported") || !strcmp(name, "MethodNotFound") || !strcmp(name, "InterfaceNotFound"))
		return wslx_err_set(err, EOPNOTSUPP, "%s cannot do this (%s)", s->what, method);
	return wslx_err_set(err, code > 0 && code < 4096 ? (int)code : EIO, "%s", message ? message : name);
}

static int call_service(const struct service *s, const char *sock_path, const char *method, json_t *params,
			unsigned timeout_ms, json_t **ret, struct wslx_err *err)
{
	cleanup_json json_t *call = json_object(), *reply = NULL;
	cleanup_free char *name = NULL, *text = NULL;
	const char *error;
	json_t *out;
	int r;

	if (asprintf(&name, "%s.%s", s->interface, method) < 0)
		name = NULL;
	r = json_object_set_new(call, "method", json_string(name));
	if (params)
		r |= json_object_set_new(call, "parameters", params);
	text = r ? NULL : json_dumps(call, JSON_COMPACT);
	if (!text)
		return wslx_err_sys(err, ENOMEM, "cannot ask %s", s->what);
	r = exchange(sock_path, text, timeout_ms, &reply);
	if (r < 0)
		return wslx_err_sys(err, -r, "no answer from %s", sock_path);
	out = json_object_get(reply, "parameters");
	error = json_string_value(json_object_get(reply, "error"));
	if (error)
		return reply_error(s, error, out, method, err);
	if (ret)
		*ret = out ? json_incref(out) : json_object();
	return 0;
}

int wslx_control_call(const char *sock_path, const char *method, json_t *params, unsigned timeout_ms, json_t **ret,
		      struct wslx_err *err)
{
	return call_service(&machine, sock_path, method, params, timeout_ms, ret, err);
}

int wslx_control_call_region(const char *sock_path, const char *method, json_t *params, unsigned timeout_ms,
			     json_t **ret, struct wslx_err *err)
{
	return call_service(&region, sock_path, method, params, timeout_ms, ret, err);
}

static int64_t get_int(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static const char *get_text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static const char *const state_names[] = {
	[WSLX_MACHINE_STOPPED] = "stopped", [WSLX_MACHINE_STARTING] = "starting", [WSLX_MACHINE_RUNNING] = "running",
	[WSLX_MACHINE_PAUSED] = "paused",   [WSLX_MACHINE_STOPPING] = "stopping",
};

const char *wslx_machine_state_name(enum wslx_machine_state s)
{
	return state_names[s];
}

int wslx_control_info(const char *sock_path, struct wslx_machine_info *ret, struct wslx_err *err)
{
	cleanup_json json_t *o = NULL;
	struct wslx_machine_info info = { .state = WSLX_MACHINE_STARTING };
	int64_t pid;
	int r = wslx_control_call(sock_path, "Info", NULL, INFO_TIMEOUT_MS, &o, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(state_names); i++)
		if (!strcmp(get_text(o, "state"), state_names[i]))
			info.state = (enum wslx_machine_state)i;
	if (wslx_engine_parse(get_text(o, "engine"), &info.engine) < 0)
		info.engine = WSLX_ENGINE_AUTO;
	pid = get_int(o, "pid");
	info.pid = pid > 1 && pid < INT32_MAX ? (pid_t)pid : 0;
	info.uptime_ms = get_int(o, "uptime_ms");
	info.boots = get_int(o, "boots");
	info.cpus = (unsigned)get_int(o, "cpus");
	info.memory = (uint64_t)get_int(o, "memory");
	snprintf(info.kernel, sizeof(info.kernel), "%s", get_text(o, "kernel"));
	info.panicked = *get_text(o, "panic");
	info.host_disk_full = json_is_true(json_object_get(o, "host_disk_full"));
	*ret = info;
	return 0;
}
