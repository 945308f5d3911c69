#include "manager/gone.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "manager/lock.h"
#include "manager/machine.h"

#define EVENTS "events"
#define TAIL_MAX 8192
#define POLL_MS 10
/* From the broken connection until the machine shows that it has ended. */
#define SETTLE_MS 3000
/* A machine that has said that it panicked ends for sure. */
#define PANIC_MS 15000
#define TRIES_MAX 5

enum fate {
	FATE_RUNS, /* as if nothing had happened */
	FATE_CRASHED,
	FATE_STOPPED,
	FATE_STOPPING,
	FATE_REBOOTS,
	FATE_KILLED,
};

static int open_events(struct wslx_manager *m, const char *name)
{
	cleanup_free char *path = wslx_path("%s/" EVENTS, name);

	return path ? openat(m->machines_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
}

/* How much has happened by now. */
static off_t events_size(struct wslx_manager *m, const char *name)
{
	cleanup_close int fd = open_events(m, name);
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 ? st.st_size : 0;
}

/* One line of `events`, if it is about an end. */
static void take_event(const char *line, enum fate *fate, char *text, size_t size)
{
	json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	const char *event = json_string_value(json_object_get(o, "event"));
	const char *what = json_string_value(json_object_get(o, "text"));

	if (event && !strcmp(event, "crashed")) {
		*fate = FATE_CRASHED;
		snprintf(text, size, "%s", what ? what : "");
	} else if (event && !strcmp(event, "stopped")) {
		*fate = FATE_STOPPED;
	} else if (event && !strcmp(event, "reboot")) {
		*fate = FATE_REBOOTS;
	}
	json_decref(o);
}

/* What `events` says of an end since it was `from` bytes long. */
static enum fate read_events(struct wslx_manager *m, const char *name, off_t from, char *text, size_t size)
{
	cleanup_close int fd = open_events(m, name);
	enum fate fate = FATE_RUNS;
	char buf[TAIL_MAX + 1], *line = buf, *nl;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return fate;
	if (st.st_size < from) /* a new one */
		from = 0;
	n = pread(fd, buf, TAIL_MAX, WSLX_MAX(from, st.st_size - TAIL_MAX));
	buf[n > 0 ? n : 0] = '\0';
	for (; (nl = strchr(line, '\n')); line = nl + 1) {
		*nl = '\0';
		take_event(line, &fate, text, size);
	}
	return fate;
}

static bool lock_held(struct wslx_manager *m, const char *name)
{
	cleanup_free char *path = wslx_path("%s/" WSLX_LOCK_FILE, name);

	return path && wslx_lock_held(m->run_fd, path) > 0;
}

/* Waits until the machine has shown what the broken connection foretold. */
static enum fate await_fate(struct wslx_manager *m, const char *name, off_t from, char *text, size_t size)
{
	cleanup_free char *sock = wslx_machine_socket(m, name, WSLX_CONTROL_SOCKET);
	int64_t start = wslx_now_ms(), limit = SETTLE_MS;
	enum fate seems = FATE_RUNS;

	while (sock && wslx_now_ms() - start < limit) {
		const struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };
		/* Before the events are read: they are complete when it is free. */
		bool held = lock_held(m, name);
		enum fate fate = read_events(m, name, from, text, size);
		struct wslx_machine_info info;

		if (fate != FATE_RUNS)
			return fate;
		if (!held)
			return FATE_KILLED;
		if (wslx_control_info(sock, &info, NULL) == 0) {
			/* Asked for, or because of what `events` will say. */
			if (info.state == WSLX_MACHINE_STOPPING)
				seems = FATE_STOPPING;
			if (info.state == WSLX_MACHINE_PAUSED)
				return FATE_RUNS;
			if (info.panicked)
				limit = PANIC_MS;
		}
		nanosleep(&ts, NULL);
	}
	return seems;
}

static void explain(struct wslx_manager *m, const char *name, enum fate fate, const char *crash, const char *when,
		    struct wslx_err *err)
{
	static const char *const words[] = {
		[FATE_STOPPED] = "it was stopped",
		[FATE_STOPPING] = "it is being stopped",
		[FATE_REBOOTS] = "it starts again",
		[FATE_KILLED] = "its supervisor was killed",
	};

	if (fate == FATE_RUNS) /* then what the connection said is all there is */
		return;
	if (fate != FATE_CRASHED)
		wslx_err_set(err, ECONNRESET, "the machine went away %s: %s", when, words[fate]);
	else if (wslx_throwaway_is(m, name))
		wslx_err_set(err, ECONNRESET, "the machine went away %s: %s", when, crash);
	else
		wslx_err_set(err, ECONNRESET, "the machine went away %s: %s; its console: wslx logs %s", when, crash,
			     name);
}

/* How a process ends that is stopped with its machine, unless it says goodbye itself. */
static bool may_be_the_machines_end(int status)
{
	return status == 128 + SIGTERM || status == 128 + SIGKILL || status == 128 + SIGHUP;
}

/* It has ended in good order; but whoever sees only its status wonders who killed it. */
static void say_if_stopped(struct wslx_manager *m, const char *name, off_t from, const struct wslx_session_params *p)
{
	cleanup_free char *sock = wslx_machine_socket(m, name, WSLX_CONTROL_SOCKET);
	struct wslx_machine_info info = { .state = WSLX_MACHINE_RUNNING };
	char crash[768] = "";

	if (sock && wslx_control_info(sock, &info, NULL) == 0
		    ? info.state == WSLX_MACHINE_STOPPING
		    : read_events(m, name, from, crash, sizeof(crash)) == FATE_STOPPED)
		p->warning(p->opaque, "the command was ended: the machine is being stopped");
}

int wslx_machine_session(struct wslx_manager *m, const char *name, const struct wslx_session_params *p,
			 struct wslx_machine_session *s, struct wslx_err *err)
{
	static const char *const when[] = {
		[WSLX_SESSION_LOST_BEFORE] = "before the command ran",
		[WSLX_SESSION_LOST_STARTING] = "while the command was started, and it may have run",
		[WSLX_SESSION_LOST_RUNNING] = "while the command ran",
	};
	off_t from = events_size(m, name);
	enum wslx_session_loss loss;
	char crash[768] = "";
	enum fate fate;
	int r = wslx_session_run(p, &s->status, &loss, err);

	s->again = false;
	if (r == 0 && p->warning && may_be_the_machines_end(s->status))
		say_if_stopped(m, name, from, p);
	if (r == 0 || loss == WSLX_SESSION_KEPT)
		return r;
	fate = await_fate(m, name, from, crash, sizeof(crash));
	explain(m, name, fate, crash, when[loss], err);
	/* One that seems well, and yet does not take the command, gets one more. */
	if (loss == WSLX_SESSION_LOST_BEFORE)
		s->again = ++s->tries < (fate == FATE_RUNS ? 2 : TRIES_MAX);
	return r;
}
