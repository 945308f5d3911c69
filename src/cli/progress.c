#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/loop.h"
#include "cli/cli.h"

#define BAR_WIDTH 30

static bool drawn;

static bool on_terminal(void)
{
	static int known = -1;

	if (known < 0)
		known = isatty(STDERR_FILENO);
	return known;
}

static size_t columns(void)
{
	struct winsize ws;

	return ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 20 ? ws.ws_col : 80;
}

void cli_progress_clear(void)
{
	if (drawn)
		fputs("\r\033[K", stderr);
	drawn = false;
}

void cli_progress_line(const char *fmt, ...)
{
	char line[256];
	size_t max = columns() - 1;
	va_list ap;

	if (!on_terminal())
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (strlen(line) > max)
		line[max] = '\0';
	fprintf(stderr, "\r%s\033[K", line);
	fflush(stderr);
	drawn = true;
}

/* ---- Where nobody watches a bar ---- */

/* A log that is silent for minutes looks like a program that hangs; a moment's
 * work needs no lines. */
#define QUIET_MS 5000
#define REPEAT_MS 10000

bool cli_progress_due(struct cli_progress_log *l, const char *what, int64_t now)
{
	if (!l->begun)
		l->begun = now;
	if (now - l->begun < QUIET_MS)
		return false;
	if (l->what && !strcmp(what, l->what) && now - l->last < REPEAT_MS)
		return false;
	l->last = now;
	l->what = what;
	return true;
}

static void write_line(const struct wslx_progress *p, void *opaque)
{
	static struct cli_progress_log log;
	int64_t now = wslx_now_ms();
	char done[16];

	if (!cli_progress_due(&log, p->what, now))
		return;
	cli_format_size(p->done, done);
	fprintf(stderr, "wslx: %s (%s%s%" PRId64 " s)\n", p->what, p->done ? done : "", p->done ? ", " : "",
		(now - log.begun) / 1000);
}

/* ---- On a terminal ---- */

static void draw(const struct wslx_progress *p, void *opaque)
{
	char done[16], total[16], bar[BAR_WIDTH + 1];
	unsigned percent, full;

	cli_format_size(p->done, done);
	if (!p->total) {
		if (p->done)
			cli_progress_line("%s: %s, %" PRIu64 " files", p->what, done, p->entries);
		else
			cli_progress_line("%s ...", p->what);
		return;
	}
	cli_format_size(p->total, total);
	percent = p->done >= p->total ? 100 : (unsigned)((double)p->done * 100 / (double)p->total);
	full = percent * BAR_WIDTH / 100;
	memset(bar, '.', BAR_WIDTH);
	memset(bar, '#', full);
	bar[BAR_WIDTH] = '\0';
	if (p->entries)
		cli_progress_line("%s [%s] %3u %% of %s, %" PRIu64 " files", p->what, bar, percent, total, p->entries);
	else
		cli_progress_line("%s [%s] %3u %% of %s", p->what, bar, percent, total);
}

struct wslx_task cli_progress_task(void)
{
	return (struct wslx_task) {
		.progress = on_terminal() ? draw : write_line,
		.cancel = &cli_interrupt.signal,
	};
}
