#include "vmm/supervisor/qmp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"

#define MAX_PENDING 8
#define READ_SIZE 4096

struct pending {
	uint64_t id; /* 0 = free */
	wslx_qmp_reply_fn fn;
	void *opaque;
};

struct wslx_qmp {
	struct wslx_loop *loop;
	int fd;
	struct wslx_watch *watch;
	wslx_qmp_event_fn event;
	void *opaque;
	struct wslx_buf in;
	struct pending pending[MAX_PENDING];
	uint64_t next_id;
};

/* QEMU's end, or its nonsense: its exit says more to whoever supervises it. */
static void close_now(struct wslx_qmp *q)
{
	wslx_watch_free(q->watch);
	q->watch = NULL;
	wslx_close(&q->fd);
	for (size_t i = 0; i < MAX_PENDING; i++) {
		struct pending p = q->pending[i];

		q->pending[i] = (struct pending) { 0 };
		if (p.id && p.fn)
			p.fn(p.opaque, -ECONNRESET);
	}
}

static void on_reply(struct wslx_qmp *q, json_t *msg, int err)
{
	json_int_t id = json_integer_value(json_object_get(msg, "id"));

	if (err < 0) {
		const char *desc = json_string_value(json_object_get(json_object_get(msg, "error"), "desc"));

		log_warn("QEMU refused a command: %.200s", desc ? desc : "?");
	}
	for (size_t i = 0; id > 0 && i < MAX_PENDING; i++) {
		struct pending p = q->pending[i];

		if (p.id != (uint64_t)id)
			continue;
		q->pending[i] = (struct pending) { 0 };
		if (p.fn)
			p.fn(p.opaque, err);
		break;
	}
}

static int on_line(struct wslx_qmp *q, const char *p, size_t n)
{
	json_t *msg = json_loadb(p, n, 0, NULL);
	const char *event;

	if (!json_is_object(msg)) {
		json_decref(msg);
		return -EPROTO;
	}
	event = json_string_value(json_object_get(msg, "event"));
	if (event)
		q->event(q->opaque, event, json_object_get(msg, "data"));
	else if (json_object_get(msg, "return"))
		on_reply(q, msg, 0);
	else if (json_object_get(msg, "error"))
		on_reply(q, msg, -EIO);
	json_decref(msg);
	return 0;
}

static int take_lines(struct wslx_qmp *q)
{
	for (;;) {
		uint8_t *nl = q->in.len ? memchr(q->in.data, '\n', q->in.len) : NULL;
		size_t n;
		int r;

		if (!nl)
			return 0;
		n = (size_t)(nl - q->in.data);
		r = n && q->in.data[0] != '\r' ? on_line(q, (const char *)q->in.data, n) : 0;
		if (r < 0)
			return r;
		wslx_buf_consume(&q->in, n + 1);
	}
}

/* 1: read something, 0: nothing there, -errno: it is over. */
static int read_some(struct wslx_qmp *q)
{
	uint8_t buf[READ_SIZE];
	ssize_t n = read(q->fd, buf, sizeof(buf));
	int r;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ENODATA;
	r = wslx_buf_append(&q->in, buf, (size_t)n);
	if (r == 0)
		r = take_lines(q);
	return r < 0 ? r : 1;
}

static void on_readable(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_qmp *q = opaque;

	if (read_some(q) < 0)
		close_now(q);
}

void wslx_qmp_drain(struct wslx_qmp *q)
{
	int r = 1;

	while (q->fd >= 0 && r > 0)
		r = read_some(q);
	if (q->fd >= 0)
		close_now(q);
}

int wslx_qmp_execute(struct wslx_qmp *q, const char *command, wslx_qmp_reply_fn fn, void *opaque)
{
	char line[128];
	size_t i = 0;
	ssize_t r;
	int n;

	if (q->fd < 0)
		return -ECONNRESET;
	while (i < MAX_PENDING && q->pending[i].id)
		i++;
	if (i == MAX_PENDING)
		return -EBUSY;
	q->next_id++;
	n = snprintf(line, sizeof(line), "{\"execute\":\"%s\",\"id\":%llu}\n", command, (unsigned long long)q->next_id);
	/* Tens of bytes, and few under way: if they do not fit, QEMU hangs. */
	r = wslx_send_fds(q->fd, line, (size_t)n, NULL, 0, 0);
	if (r < 0)
		return (int)r;
	if (r != n)
		return -EIO;
	q->pending[i] = (struct pending) { .id = q->next_id, .fn = fn, .opaque = opaque };
	return 0;
}

int wslx_qmp_new(struct wslx_loop *loop, int fd, wslx_qmp_event_fn event, void *opaque, struct wslx_qmp **ret)
{
	struct wslx_qmp *q = calloc(1, sizeof(*q));
	int r;

	if (!q) {
		close(fd);
		return -ENOMEM;
	}
	q->loop = loop;
	q->fd = fd;
	q->event = event;
	q->opaque = opaque;
	wslx_buf_init(&q->in, WSLX_QMP_LINE_MAX);
	r = wslx_fd_nonblock(fd, 1);
	if (r == 0)
		r = wslx_loop_watch(loop, fd, EPOLLIN, on_readable, q, &q->watch);
	/* Commands and events start with this; the greeting need not be awaited. */
	if (r == 0)
		r = wslx_qmp_execute(q, "qmp_capabilities", NULL, NULL);
	if (r < 0) {
		wslx_qmp_free(q);
		return r;
	}
	*ret = q;
	return 0;
}

void wslx_qmp_free(struct wslx_qmp *q)
{
	if (!q)
		return;
	wslx_watch_free(q->watch);
	wslx_close(&q->fd);
	wslx_buf_free(&q->in);
	free(q);
}
