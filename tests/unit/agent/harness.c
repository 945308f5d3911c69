#include "harness.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/guest.h"

static int place(void *opaque, const char *distro, struct wslx_guest_place *ret, char *text, size_t size)
{
	if (!strcmp(distro, "absent")) {
		snprintf(text, size, "no distro '%s' runs here", distro);
		return -ENOENT;
	}
	return 0;
}

static void lost(void *opaque)
{
	wslx_loop_stop(opaque, 0);
}

static void status(void *opaque, struct wslx_agent_status *st)
{
	st->uptime_ms = 1234;
	st->distros = calloc(1, sizeof(*st->distros));
	st->n_distros = 1;
	strcpy(st->distros[0].name, "deb\nian");
}

static int sync_work(void *opaque, char *text, size_t size)
{
	snprintf(text, size, "worked");
	return 0;
}

struct waiting {
	struct wslx_guest *g;
	struct wslx_guest_call call;
};
static struct wslx_guest *the_guest;

static void sync_done(void *opaque, int code, const char *text)
{
	struct waiting *w = opaque;

	if (code || strcmp(text, "worked"))
		wslx_guest_reply_error(w->g, &w->call, EIO, "work gave %d %s", code, text);
	else
		wslx_guest_reply_ok(w->g, &w->call);
	free(w);
}

static void request(void *opaque, const struct wslx_guest_call *call, const struct wslx_agent_msg *m)
{
	struct waiting *w;

	if (m->h.type != WSLX_AGENT_SYNC) {
		wslx_guest_reply_error(the_guest, call, EBUSY, "type %u", m->h.type);
		return;
	}
	w = calloc(1, sizeof(*w));
	*w = (struct waiting) { the_guest, *call };
	if (wslx_guest_work(the_guest, sync_work, NULL, sync_done, w) < 0)
		abort();
}

static const struct wslx_guest_ops ops = {
	.request = request,
	.place = place,
	.status = status,
	.control_lost = lost,
};

static void agent_main(int fd)
{
	struct wslx_agent_hello h = { .caps = WSLX_AGENT_CAP_EXEC, .agent_version = "test" };
	struct wslx_loop *loop;
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (wslx_loop_new(&loop) < 0 || wslx_guest_new(loop, &ops, loop, &the_guest) < 0)
		abort();
	wslx_guest_set_hello(the_guest, &h);
	if (wslx_guest_serve(the_guest, fd, true) < 0)
		abort();
	r = wslx_loop_run(loop);
	wslx_guest_free(the_guest);
	wslx_loop_free(loop);
	exit(r);
}

static void on_closed(void *opaque, const struct wslx_err *err)
{
	struct agent *a = opaque;

	a->closed = true;
	a->closed_err = *err;
}

static void on_event(void *opaque, const struct wslx_agent_event *ev)
{
	struct agent *a = opaque;

	a->event = *ev;
	a->n_events++;
}

static void on_ready(void *opaque, const struct wslx_agent_hello *h)
{
	assert_string_equal(h->agent_version, "test");
}

void agent_start_raw(struct agent *a)
{
	int sv[2];

	memset(a, 0, sizeof(*a));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	a->pid = fork();
	assert_true(a->pid >= 0);
	if (a->pid == 0) {
		close(sv[0]);
		agent_main(sv[1]);
	}
	close(sv[1]);
	a->raw_fd = sv[0];
	signal(SIGPIPE, SIG_IGN);
}

void agent_start(struct agent *a)
{
	static const struct wslx_agentc_events events = { .ready = on_ready, .closed = on_closed, .event = on_event };

	agent_start_raw(a);
	assert_int_equal(wslx_loop_new(&a->loop), 0);
	assert_int_equal(wslx_agentc_new(a->loop, a->raw_fd, &events, a, &a->c), 0);
	a->raw_fd = -1;
	while (!wslx_agentc_is_ready(a->c) && !a->closed)
		assert_int_equal(wslx_loop_once(a->loop, 60000), 0);
	assert_false(a->closed);
}

void agent_stop(struct agent *a)
{
	int st;

	wslx_agentc_free(a->c);
	wslx_loop_free(a->loop);
	if (!a->c)
		close(a->raw_fd);
	assert_int_equal(waitpid(a->pid, &st, 0), a->pid);
	/* A sanitizer's finding in the agent shows here. */
	assert_true(WIFEXITED(st));
	assert_int_equal(WEXITSTATUS(st), 0);
}

void agent_until(struct agent *a, const bool *flag)
{
	while (!*flag) {
		int64_t end = wslx_now_ms() + 60000;

		assert_int_equal(wslx_loop_once(a->loop, 60000), 0);
		assert_true(*flag || wslx_now_ms() < end);
	}
}

/* ---- runs ---- */

static void on_started(void *opaque, const struct wslx_agent_started *st)
{
	struct run *r = opaque;

	r->started = true;
	r->pid = st->pid;
	r->n_warnings = st->n_warnings;
	if (st->n_warnings)
		snprintf(r->warning, sizeof(r->warning), "%s", st->warnings[0]);
}

static void on_data(void *opaque, unsigned s, const uint8_t *p, size_t n)
{
	struct run *r = opaque;

	if (r->bulk_left || r->bulk_seen) {
		for (size_t i = 0; i < n; i++)
			r->sum_out = r->sum_out * 31 + p[i];
		r->bulk_seen += n;
	} else {
		r->out[s] = realloc(r->out[s], r->n_out[s] + n + 1);
		assert_non_null(r->out[s]);
		memcpy(r->out[s] + r->n_out[s], p, n);
		r->out[s][r->n_out[s] + n] = 0;
	}
	r->n_out[s] += n;
	if (!r->hold)
		wslx_agentc_exec_consumed(r->e, s, n);
}

static void on_eof(void *opaque, unsigned s)
{
	((struct run *)opaque)->eof[s] = true;
}

static uint8_t pattern(size_t left)
{
	return (uint8_t)(left * 2654435761u >> 13);
}

static void on_writable(void *opaque, unsigned s)
{
	struct run *r = opaque;

	while (s == WSLX_STREAM_STDIN && r->bulk_left) {
		static uint8_t buf[60000];
		size_t n = WSLX_MIN(r->bulk_left, wslx_agentc_exec_room(r->e, s));

		n = WSLX_MIN(n, sizeof(buf));
		for (size_t i = 0; i < n; i++) {
			buf[i] = pattern(r->bulk_left - i);
			r->sum_in = r->sum_in * 31 + buf[i];
		}
		assert_int_equal(wslx_agentc_exec_write(r->e, s, buf, n), n);
		r->bulk_left -= n;
		if (!n)
			return;
		if (!r->bulk_left)
			wslx_agentc_exec_close(r->e, s);
	}
	while (s == r->in_stream && r->in_left) {
		long n = wslx_agentc_exec_write(r->e, s, r->in, r->in_left);

		if (n <= 0)
			return;
		r->in += n;
		r->in_left -= (size_t)n;
	}
	if (s == r->in_stream && r->in_close && !r->in_left)
		wslx_agentc_exec_close(r->e, s);
}

static void on_stopped(void *opaque, unsigned s)
{
	assert_int_equal(s, WSLX_STREAM_STDIN);
	((struct run *)opaque)->stopped = true;
}

static void on_exited(void *opaque, const struct wslx_agentc_exit *x)
{
	struct run *r = opaque;

	assert_false(r->exited);
	r->exited = true;
	r->x = *x;
	snprintf(r->text, sizeof(r->text), "%s", x->text);
	r->x.text = r->text;
}

static const struct wslx_agentc_exec_ops run_ops = {
	.started = on_started,
	.data = on_data,
	.eof = on_eof,
	.writable = on_writable,
	.stopped = on_stopped,
	.exited = on_exited,
};

void run_params(struct run *r, struct agent *a, const struct wslx_agent_exec *m)
{
	r->a = a;
	assert_int_equal(wslx_agentc_exec_start(a->c, m, &run_ops, r, &r->e), 0);
}

void run_start(struct run *r, struct agent *a, const char *const *argv, uint32_t flags, const char *modes)
{
	struct wslx_agent_exec m = { .argv = argv, .flags = flags, .cwd = "/" };

	for (int i = 0; i < 3; i++)
		m.streams[i] = modes[i] == 't'   ? WSLX_STREAM_IS_TTY
			       : modes[i] == 'p' ? WSLX_STREAM_PIPE
						 : WSLX_STREAM_NULL;
	if (flags & WSLX_EXEC_TTY) {
		m.term = "xterm";
		m.winsize = (struct wslx_agent_winsize) { .rows = 33, .cols = 101 };
	}
	run_params(r, a, &m);
}

void run_wait(struct run *r)
{
	agent_until(r->a, &r->exited);
}

void run_free(struct run *r)
{
	wslx_agentc_exec_free(r->e);
	for (unsigned i = 0; i < WSLX_STREAM_COUNT; i++)
		free(r->out[i]);
	memset(r, 0, sizeof(*r));
}
