#include "vmm/supervisor/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define LINE_MAX_ 1024
#define CHUNK 4096
/* A full pipe holds as many reads. */
#define DRAIN_READS 64

struct wslx_relay {
	const char *program;
	int fd;
	struct wslx_watch *watch;
	struct wslx_timer *again; /* armed: the pipe is left alone */
	char line[LINE_MAX_];
	size_t len;
	int64_t window_ms; /* when it began; 0 = none yet */
	unsigned count;    /* lines in it */
};

static void stop(struct wslx_relay *r)
{
	wslx_watch_free(TAKE_PTR(r->watch));
	wslx_timer_disarm(r->again);
	wslx_close(&r->fd);
}

/* The name it gives itself is replaced by the one that it has. */
static const char *without_name(const struct wslx_relay *r)
{
	size_t n = strlen(r->program);

	return !strncmp(r->line, r->program, n) && !strncmp(r->line + n, ": ", 2) ? r->line + n + 2 : r->line;
}

static void end_line(struct wslx_relay *r)
{
	int64_t now = wslx_now_ms();

	if (!r->len)
		return;
	r->line[r->len] = '\0';
	r->len = 0;
	if (!r->window_ms || now - r->window_ms >= WSLX_RELAY_WINDOW_MS) {
		r->window_ms = now;
		r->count = 0;
	}
	if (++r->count <= WSLX_RELAY_LINES)
		wslx_log_relay(r->program, without_name(r));
	else if (r->count == WSLX_RELAY_LINES + 1)
		wslx_log_relay(r->program, "(more was said than is written down)");
}

static void take(struct wslx_relay *r, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '\n')
			end_line(r);
		else if (r->len < sizeof(r->line) - 1) /* the rest of a longer one is dropped */
			r->line[r->len++] = p[i] ? p[i] : '?';
	}
}

/* 1: there may be more, 0: nothing now, -1: the end. */
static int read_some(struct wslx_relay *r)
{
	char buf[CHUNK];
	ssize_t n = read(r->fd, buf, sizeof(buf));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0)
		return -1;
	take(r, buf, (size_t)n);
	return 1;
}

void wslx_relay_drain(struct wslx_relay *r)
{
	for (int i = 0; r->fd >= 0 && i < DRAIN_READS; i++)
		if (read_some(r) <= 0)
			break;
	end_line(r);
}

static void on_readable(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_relay *r = opaque;

	if (!(events & EPOLLIN) || read_some(r) < 0) {
		/* Nobody writes any more; what is left is a pipe full at most. */
		wslx_relay_drain(r);
		stop(r);
		return;
	}
	if (r->count > WSLX_RELAY_LINES) {
		int64_t left = r->window_ms + WSLX_RELAY_WINDOW_MS - wslx_now_ms();

		wslx_watch_set_events(r->watch, 0);
		wslx_timer_arm(r->again, left > 0 ? (uint64_t)left : 0);
	}
}

static void on_again(struct wslx_timer *t, void *opaque)
{
	struct wslx_relay *r = opaque;

	wslx_watch_set_events(r->watch, EPOLLIN);
}

int wslx_relay_new(struct wslx_loop *loop, const char *program, int *ret_fd, struct wslx_relay **ret)
{
	struct wslx_relay *r = calloc(1, sizeof(*r));
	cleanup_close int theirs = -1;
	int pipefd[2], x;

	if (!r)
		return -ENOMEM;
	r->program = program;
	r->fd = -1;
	x = pipe2(pipefd, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
	if (x == 0) {
		r->fd = pipefd[0];
		theirs = pipefd[1];
		x = wslx_loop_timer(loop, on_again, r, &r->again);
	}
	if (x == 0)
		x = wslx_loop_watch(loop, r->fd, EPOLLIN, on_readable, r, &r->watch);
	if (x < 0) {
		wslx_relay_free(r);
		return x;
	}
	*ret_fd = TAKE_FD(theirs);
	*ret = r;
	return 0;
}

void wslx_relay_free(struct wslx_relay *r)
{
	if (!r)
		return;
	wslx_watch_free(r->watch);
	wslx_timer_free(r->again);
	wslx_close(&r->fd);
	free(r);
}
