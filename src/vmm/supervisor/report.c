#include "vmm/supervisor/report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"

#define EVENTS_MAX 65536

void wslx_report_init(struct wslx_report *r, int ready_fd)
{
	*r = (struct wslx_report) { .ready_fd = ready_fd };
	if (ready_fd >= 0)
		wslx_fd_nonblock(ready_fd, 1);
}

void wslx_report_free(struct wslx_report *r)
{
	wslx_close(&r->ready_fd);
	free(r->events_dir);
	r->events_dir = NULL;
}

/* Takes j. */
static void say(struct wslx_report *r, json_t *j)
{
	cleanup_free char *s = j && r->ready_fd >= 0 ? json_dumps(j, JSON_COMPACT) : NULL;
	cleanup_free char *line = NULL;
	int n;

	json_decref(j);
	if (!s)
		return;
	n = asprintf(&line, "%s\n", s);
	if (n < 0)
		return;
	/* Whole lines or nothing: a reader that lags 64 KiB behind is not reading. */
	if (write(r->ready_fd, line, (size_t)n) != n)
		wslx_close(&r->ready_fd);
}

void wslx_report_progress(struct wslx_report *r, const char *what)
{
	say(r, json_pack("{s:s, s:s}", "event", "progress", "what", what));
}

void wslx_report_ready(struct wslx_report *r, const char *engine, json_t *warnings, json_t *timings)
{
	say(r, json_pack("{s:s, s:i, s:s*, s:O, s:O*}", "event", "ready", "pid", (int)getpid(), "engine", engine,
			 "warnings", warnings, "timings", timings));
	wslx_close(&r->ready_fd);
}

/* Paths may hold any byte; JSON holds UTF-8. */
static json_t *text_json(const char *s)
{
	json_t *j = json_string(s);
	cleanup_free char *copy = NULL;

	if (j)
		return j;
	copy = strdup(s);
	for (char *c = copy; c && *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	return json_string(copy ? copy : "");
}

void wslx_report_failed(struct wslx_report *r, const char *message, const char *const *console, size_t n_console)
{
	json_t *lines = json_array();

	for (size_t i = 0; i < n_console; i++)
		json_array_append_new(lines, json_string(console[i]));
	say(r, json_pack("{s:s, s:o, s:o}", "event", "failed", "message", text_json(message), "console", lines));
	wslx_close(&r->ready_fd);
}

static int open_events(const char *dir)
{
	cleanup_free char *path = NULL, *old = NULL;
	struct stat st;

	if (asprintf(&path, "%s/events", dir) < 0 || asprintf(&old, "%s/events.1", dir) < 0)
		return -ENOMEM;
	if (stat(path, &st) == 0 && st.st_size > EVENTS_MAX && rename(path, old) < 0)
		return -errno;
	return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
}

void wslx_report_event(struct wslx_report *r, const char *event, const char *text)
{
	cleanup_close int fd = r->events_dir ? open_events(r->events_dir) : -1;
	cleanup_free char *s = NULL, *line = NULL;
	time_t now = time(NULL);
	char when[32] = "";
	json_t *j;
	struct tm tm;

	log_info("%s%s%s", event, text[0] ? ": " : "", text);
	if (fd < 0)
		return;
	if (gmtime_r(&now, &tm))
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	j = json_pack("{s:s, s:s, s:o}", "time", when, "event", event, "text", text_json(text));
	s = j ? json_dumps(j, JSON_COMPACT) : NULL;
	json_decref(j);
	if (s && asprintf(&line, "%s\n", s) >= 0 && wslx_write_full(fd, line, strlen(line)) < 0)
		log_debug("event not written");
}
