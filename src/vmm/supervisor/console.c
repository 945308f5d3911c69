#include "vmm/supervisor/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/logfile.h"

#define CHUNK 16384
#define LOG_NAME "console.log"
#define LOG_RETRY_MS 1000

struct wslx_conlog {
	struct wslx_loop *loop;
	int dirfd, log_fd, fd;
	struct wslx_watch *watch;
	size_t log_size;
	int64_t retry_ms; /* not before: after a log could not be made */
	void (*on_panic)(void *opaque, const char *line);
	void *opaque;
	char ring[WSLX_CONSOLE_LINES][WSLX_CONSOLE_LINE_MAX];
	size_t n_lines; /* ever completed */
	char line[WSLX_CONSOLE_LINE_MAX];
	size_t line_len;
};

/* A log that cannot be made is a pity, not a reason to end the machine. */
static int open_log(struct wslx_conlog *c)
{
	int fd;

	wslx_close(&c->log_fd);
	fd = wslx_logfile_next(c->dirfd, LOG_NAME);
	if (fd < 0)
		return fd;
	c->log_fd = fd;
	c->log_size = 0;
	return 0;
}

static void write_log(struct wslx_conlog *c, const char *p, size_t n)
{
	if (c->log_fd < 0 || c->log_size + n > WSLX_CONSOLE_LOG_MAX) {
		int64_t now = wslx_now_ms();

		if (now < c->retry_ms)
			return;
		if (open_log(c) < 0)
			c->retry_ms = now + LOG_RETRY_MS;
	}
	if (c->log_fd < 0)
		return;
	if (wslx_write_full(c->log_fd, p, n) == 0)
		c->log_size += n;
}

static void end_line(struct wslx_conlog *c)
{
	if (!c->line_len)
		return;
	memcpy(c->ring[c->n_lines % WSLX_CONSOLE_LINES], c->line, c->line_len + 1);
	c->n_lines++;
	c->line_len = 0;
	if (c->on_panic && strstr(c->line, "Kernel panic - not syncing"))
		c->on_panic(c->opaque, c->line);
}

static void add_char(struct wslx_conlog *c, char ch)
{
	if (ch == '\n') {
		end_line(c);
		return;
	}
	if (ch == '\r')
		return;
	if (c->line_len == sizeof(c->line) - 1)
		end_line(c);
	if (ch == '\t')
		ch = ' ';
	c->line[c->line_len++] = ch >= 0x20 && ch < 0x7f ? ch : '?';
	c->line[c->line_len] = '\0';
}

void wslx_conlog_feed(struct wslx_conlog *c, const char *p, size_t n)
{
	write_log(c, p, n);
	for (size_t i = 0; i < n; i++)
		add_char(c, p[i]);
}

static void detach(struct wslx_conlog *c)
{
	wslx_watch_free(c->watch);
	c->watch = NULL;
	wslx_close(&c->fd);
}

/* 1: there may be more, 0: nothing now, -1: the end. */
static int read_some(struct wslx_conlog *c)
{
	char buf[CHUNK];
	ssize_t n = read(c->fd, buf, sizeof(buf));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0)
		return -1;
	wslx_conlog_feed(c, buf, (size_t)n);
	return 1;
}

static void on_readable(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_conlog *c = opaque;

	if (read_some(c) < 0)
		detach(c);
}

int wslx_conlog_attach(struct wslx_conlog *c, int fd)
{
	int r;

	detach(c);
	c->fd = fd;
	r = wslx_fd_nonblock(fd, 1);
	if (r == 0)
		r = wslx_loop_watch(c->loop, fd, EPOLLIN, on_readable, c, &c->watch);
	if (r < 0)
		detach(c);
	return r;
}

/* A pipe and a socket buffer hold less than this many reads. */
#define DRAIN_READS 256

void wslx_conlog_drain(struct wslx_conlog *c)
{
	for (int i = 0; c->fd >= 0 && i < DRAIN_READS; i++) {
		int r = read_some(c);

		if (r < 0)
			detach(c);
		if (r <= 0)
			break;
	}
	end_line(c);
}

size_t wslx_conlog_lines(const struct wslx_conlog *c, const char *ret[WSLX_CONSOLE_LINES + 1])
{
	size_t n = WSLX_MIN(c->n_lines, (size_t)WSLX_CONSOLE_LINES);

	for (size_t i = 0; i < n; i++)
		ret[i] = c->ring[(c->n_lines - n + i) % WSLX_CONSOLE_LINES];
	if (c->line_len)
		ret[n++] = c->line;
	return n;
}

int wslx_conlog_new(struct wslx_loop *loop, const char *dir, void (*on_panic)(void *opaque, const char *line),
		    void *opaque, struct wslx_conlog **ret, struct wslx_err *err)
{
	struct wslx_conlog *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return wslx_err_sys(err, ENOMEM, "console");
	c->loop = loop;
	c->log_fd = c->fd = -1;
	c->on_panic = on_panic;
	c->opaque = opaque;
	c->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->dirfd < 0) {
		r = wslx_err_sys(err, errno, "cannot open the state folder %s", dir);
	} else {
		r = open_log(c);
		if (r < 0)
			wslx_err_sys(err, -r, "cannot make %s/%s", dir, LOG_NAME);
	}
	if (r < 0) {
		wslx_conlog_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void wslx_conlog_free(struct wslx_conlog *c)
{
	if (!c)
		return;
	detach(c);
	wslx_close(&c->log_fd);
	wslx_close(&c->dirfd);
	free(c);
}
