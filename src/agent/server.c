/* Children and life of the agent's core; see guest.h. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/core.h"
#include "base/cleanup.h"
#include "base/log.h"

/* ---- children ---- */

static struct child **child_slot(struct wslx_guest *g, pid_t pid)
{
	struct child **pp = &g->children[(unsigned)pid % CHILD_BUCKETS];

	while (*pp && (*pp)->pid != pid)
		pp = &(*pp)->next;
	return pp;
}

int wslx_guest_watch_child(struct wslx_guest *g, pid_t pid, wslx_guest_child_fn fn, void *opaque)
{
	struct child *ch = calloc(1, sizeof(*ch));

	if (!ch)
		return -ENOMEM;
	*ch = (struct child) { .pid = pid, .fn = fn, .opaque = opaque };
	ch->next = g->children[(unsigned)pid % CHILD_BUCKETS];
	g->children[(unsigned)pid % CHILD_BUCKETS] = ch;
	return 0;
}

void wslx_guest_forget_child(struct wslx_guest *g, pid_t pid)
{
	struct child **pp = child_slot(g, pid), *ch = *pp;

	if (!ch)
		return;
	*pp = ch->next;
	free(ch);
}

static void on_signal(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_guest *g = opaque;
	struct signalfd_siginfo si;
	int status;
	pid_t pid;

	while (read(fd, &si, sizeof(si)) == sizeof(si))
		;
	/* One SIGCHLD may stand for many; as PID 1 we reap strangers too. */
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct child **pp = child_slot(g, pid), *ch = *pp;

		if (!ch)
			continue;
		*pp = ch->next;
		ch->fn(ch->opaque, pid, status);
		free(ch);
	}
}

/* ---- work in a child ---- */

struct work {
	struct wslx_guest *g;
	wslx_guest_done_fn done;
	void *opaque;
	int fd; /* text comes here */
};

static void on_work_end(void *opaque, pid_t pid, int status)
{
	struct work *w = opaque;
	char text[WSLX_AGENT_TEXT_MAX + 1];
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
	/* Written whole before the end, and smaller than a pipe. */
	ssize_t n = read(w->fd, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = 0;
	close(w->fd);
	w->done(w->opaque, code, text);
	free(w);
}

pid_t wslx_guest_work(struct wslx_guest *g, wslx_guest_work_fn work, void *work_opaque, wslx_guest_done_fn done,
		      void *opaque)
{
	struct work *w = calloc(1, sizeof(*w));
	int fds[2], r;
	pid_t pid;

	if (!w)
		return -ENOMEM;
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
		r = -errno;
		free(w);
		return r;
	}
	pid = wslx_guest_fork(0, -1, -1);
	if (pid == 0) {
		char text[WSLX_AGENT_TEXT_MAX + 1] = "";
		int code = work(work_opaque, text, sizeof(text));

		if (*text && write(fds[1], text, strlen(text)) < 0)
			code = code ? code : EIO;
		_exit(code);
	}
	close(fds[1]);
	*w = (struct work) { .g = g, .done = done, .opaque = opaque, .fd = fds[0] };
	r = pid < 0 ? pid : wslx_guest_watch_child(g, pid, on_work_end, w);
	if (r < 0) {
		close(fds[0]);
		free(w);
		return r;
	}
	return pid;
}

/* ---- replies ---- */

void wslx_guest_reply(struct wslx_guest *g, const struct wslx_guest_call *call, uint16_t type,
		      const struct wslx_buf *body)
{
	struct conn *c = wslx_conn_find(g, call->conn);

	if (c)
		wslx_conn_send(c, type, call->channel, call->id, body ? body->data : NULL, body ? body->len : 0);
}

void wslx_guest_reply_ok(struct wslx_guest *g, const struct wslx_guest_call *call)
{
	wslx_guest_reply(g, call, WSLX_AGENT_OK, NULL);
}

void wslx_guest_reply_error(struct wslx_guest *g, const struct wslx_guest_call *call, int code, const char *fmt, ...)
{
	struct wslx_agent_error e = { .code = code, .exit_status = -1 };
	struct wslx_buf b;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e.text, sizeof(e.text), fmt, ap);
	va_end(ap);
	wslx_buf_init(&b, WSLX_AGENT_PAYLOAD_MAX);
	if (wslx_agent_error_encode(&b, &e) == 0)
		wslx_guest_reply(g, call, WSLX_AGENT_ERROR, &b);
	wslx_buf_free(&b);
}

void wslx_guest_event(struct wslx_guest *g, const struct wslx_agent_event *ev)
{
	struct wslx_buf b;

	wslx_buf_init(&b, WSLX_AGENT_PAYLOAD_MAX);
	if (wslx_agent_event_encode(&b, ev) == 0)
		for (struct conn *c = g->conns, *next; c; c = next) {
			next = c->next;
			if (c->control && c->hello_seen)
				wslx_conn_send(c, WSLX_AGENT_EVENT, 0, 0, b.data, b.len);
		}
	wslx_buf_free(&b);
}

/* ---- life ---- */

int wslx_guest_new(struct wslx_loop *loop, const struct wslx_guest_ops *ops, void *opaque, struct wslx_guest **ret)
{
	struct wslx_guest *g = calloc(1, sizeof(*g));
	sigset_t mask;
	int r;

	if (!g)
		return -ENOMEM;
	g->loop = loop;
	g->ops = ops;
	g->opaque = opaque;
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	signal(SIGPIPE, SIG_IGN);
	g->sigfd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	r = g->sigfd < 0 ? -errno : wslx_loop_watch(loop, g->sigfd, EPOLLIN, on_signal, g, &g->sig_watch);
	if (r < 0) {
		wslx_guest_free(g);
		return r;
	}
	*ret = g;
	return 0;
}

void wslx_guest_free(struct wslx_guest *g)
{
	if (!g)
		return;
	while (g->conns)
		wslx_conn_drop(g->conns);
	for (unsigned i = 0; i < CHILD_BUCKETS; i++)
		while (g->children[i]) {
			struct child *ch = g->children[i];

			g->children[i] = ch->next;
			free(ch);
		}
	wslx_watch_free(g->sig_watch);
	wslx_close(&g->sigfd);
	free(g);
}

void wslx_guest_set_hello(struct wslx_guest *g, const struct wslx_agent_hello *h)
{
	g->hello = *h;
	g->hello.version_min = WSLX_AGENT_VERSION_MIN;
	g->hello.version_max = WSLX_AGENT_VERSION_MAX;
}
