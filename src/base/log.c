#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

#define LIMIT_WINDOW_MS 10000
#define LIMIT_BURST 10

static const char *log_program = "wslx";
static int log_fd = STDERR_FILENO;
static enum wslx_log_level log_level = WSLX_LOG_WARN;

static const char *const level_names[] = { "error", "warn", "info", "debug" };

void wslx_log_init(const char *program, int fd, enum wslx_log_level level)
{
	const char *env = getenv("WSLX_LOG");

	log_program = program;
	log_fd = fd;
	log_level = level;
	for (unsigned i = 0; env && i < ARRAY_SIZE(level_names); i++)
		if (!strcmp(env, level_names[i]))
			log_level = (enum wslx_log_level)i;
}

static struct {
	size_t limit, n;
	void (*fn)(void *opaque);
	void *opaque;
} on_size;

void wslx_log_on_size(size_t bytes, void (*fn)(void *opaque), void *opaque)
{
	on_size.limit = bytes;
	on_size.n = 0;
	on_size.fn = fn;
	on_size.opaque = opaque;
}

/* n bytes at `line`, one more behind them. */
static void write_line(char *line, size_t n)
{
	line[n++] = '\n';
	if (write(log_fd, line, n) < 0)
		(void)0; /* nowhere left to report it */
	if (!on_size.fn)
		return;
	on_size.n += n;
	if (on_size.n >= on_size.limit) {
		on_size.n = 0;
		on_size.fn(on_size.opaque);
	}
}

WSLX_PRINTF(2, 0)
static void log_line(enum wslx_log_level level, const char *fmt, va_list ap)
{
	char line[1200];
	int saved = errno;
	int head, body;

	head = snprintf(line, sizeof(line) - 1, "%s: %s: ", log_program, level_names[level]);
	if (head < 0)
		return;
	body = vsnprintf(line + head, sizeof(line) - 1 - (size_t)head, fmt, ap);
	if (body < 0)
		return;
	wslx_sanitize(line);
	write_line(line, strlen(line));
	errno = saved;
}

void wslx_log_relay(const char *program, const char *text)
{
	char line[1200];
	int saved = errno;

	if (snprintf(line, sizeof(line) - 1, "%s: %s", program, text) >= 0) {
		wslx_sanitize(line);
		write_line(line, strlen(line));
	}
	errno = saved;
}

void wslx_log(enum wslx_log_level level, const char *fmt, ...)
{
	va_list ap;

	if (level > log_level)
		return;
	va_start(ap, fmt);
	log_line(level, fmt, ap);
	va_end(ap);
}

bool wslx_log_limited(struct wslx_log_limit *lim, enum wslx_log_level level, const char *fmt, ...)
{
	struct timespec ts;
	int64_t now;
	va_list ap;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
	if (now - lim->window_start_ms > LIMIT_WINDOW_MS || !lim->window_start_ms) {
		lim->window_start_ms = now;
		lim->count = 0;
	}
	if (lim->count >= LIMIT_BURST)
		return false;
	lim->count++;
	if (level <= log_level) {
		va_start(ap, fmt);
		log_line(level, fmt, ap);
		va_end(ap);
	}
	return true;
}
