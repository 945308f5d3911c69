/* wslx-portal as a process; see broker.h. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/paths.h"
#include "os/linux/sandbox.h"
#include "os/linux/startup.h"
#include "portal/broker/broker.h"
#include "vmm/supervisor/report.h"

/* Room for 100,000 names where the region is large; it takes memory as it fills, but also a place in each guest's
 * window, so it is at most a sixteenth of the region. */
#define NAME_SLOTS_MAX (1u << 17)
#define NAME_SLOTS_MIN (1u << 10)
/* Two a arena, one a participant, and a few. */
#define FDS_WANTED 2048

struct options {
	const char *folder, *name;
	uint32_t segments;
	int ready, lock, log;
};

static int parse_segments(const char *s, uint32_t *ret)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(s, &end, 10);
	if (errno || end == s || *end || v < 2 || v > (long)PORTAL_MAX_SEGMENTS) {
		fprintf(stderr, "wslx-portal: --segments: '%s' is not a number from 2 to %u\n", s, PORTAL_MAX_SEGMENTS);
		return -EINVAL;
	}
	*ret = (uint32_t)v;
	return 0;
}

/* 0: go on, 1: done, -errno: said why. */
static int parse_options(int argc, char **argv, struct options *o)
{
	const char *segments = NULL;
	const struct wslx_startup s = {
		.program = "wslx-portal",
		.usage = "usage: wslx-portal --folder=DIR --name=NAME [--segments=N] [--ready=FD] [--lock=FD] "
			 "[--log=FD]\n"
			 "Keeps one Portal region; started by wslx. See docs/portal.md.\n",
		.options = { { "folder", .text = &o->folder },
			     { "name", .text = &o->name },
			     { "segments", .text = &segments },
			     { "ready", .fd = &o->ready },
			     { "lock", .fd = &o->lock },
			     { "log", .fd = &o->log } },
	};
	int r;

	*o = (struct options) { .ready = -1, .lock = -1, .log = -1 };
	r = wslx_startup_parse(&s, argc, argv);
	if (r == 0 && (!o->folder || o->folder[0] != '/' || !o->name || strchr(o->name, '/'))) {
		fputs(s.usage, stderr);
		r = -EINVAL;
	}
	return r == 0 && segments ? parse_segments(segments, &o->segments) : r;
}

/* ---- running --------------------------------------------------------------------- */

static struct wslx_loop *loop_of_signals;

static void on_signal(int sig)
{
	wslx_loop_stop(loop_of_signals, 0);
}

static void catch_signals(struct wslx_loop *loop)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal };

	loop_of_signals = loop;
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
}

static void on_host(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	int r = portal_host_dispatch(opaque, 0);

	if (r < 0)
		log_guest("cannot serve participants: %s", strerror(-r));
}

static int confine(const char *folder, struct wslx_err *err)
{
	cleanup_close int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (dir < 0)
		return wslx_err_sys(err, errno, "cannot open %s", folder);
	/* Reads /dev/urandom, at the first object. */
	json_object_seed(0);
	r = wslx_sandbox_prepare_in(dir, err);
	return r < 0 ? r : wslx_sandbox_enter(WSLX_SANDBOX_PORTAL, err);
}

struct region {
	portal_host *host;
	struct wslx_loop *loop;
	struct wslx_watch *watch;
	struct broker *broker;
};

static uint32_t name_slots(uint32_t segments)
{
	uint64_t room = (segments ? (uint64_t)segments << PORTAL_SEGMENT_SHIFT : UINT64_MAX) / 16;
	uint32_t slots = NAME_SLOTS_MAX;

	while (slots > NAME_SLOTS_MIN && slots * sizeof(struct portal_name) > room)
		slots /= 2;
	return slots;
}

static int make_region(const struct options *o, struct region *g, struct wslx_err *err)
{
	cleanup_free char *sock = wslx_path("%s/%s.sock", o->folder, o->name);
	cleanup_free char *ctl = wslx_path("%s/%s.ctl", o->folder, o->name);
	const struct portal_host_params p = { .size = sizeof(p),
					      .name = o->name,
					      .path = sock,
					      .segments = o->segments,
					      .name_slots = name_slots(o->segments) };
	int r = sock && ctl ? 0 : -ENOMEM;

	if (r == 0)
		r = portal_host_create(&p, &g->host);
	if (r == 0)
		r = wslx_loop_new(&g->loop);
	if (r == 0)
		r = wslx_loop_watch(g->loop, portal_host_fd(g->host), EPOLLIN, on_host, g->host, &g->watch);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make the region '%s'", o->name);
	r = wslx_broker_new(g->loop, g->host, o->name, ctl, &g->broker, err);
	if (r < 0)
		return r;
	catch_signals(g->loop);
	return confine(o->folder, err);
}

/* The lock's file last, while the lock is still held: whoever finds none begins anew. */
static void end_region(const struct options *o, struct region *g)
{
	cleanup_free char *lock = wslx_path("%s/%s.lock", o->folder, o->name);

	wslx_watch_free(g->watch);
	portal_host_destroy(g->host);
	wslx_broker_free(g->broker);
	wslx_loop_free(g->loop);
	if (lock && o->lock >= 0)
		unlink(lock);
}

static int run(const struct options *o)
{
	struct wslx_report report;
	struct region g = { 0 };
	struct wslx_err err = { 0 };
	json_t *none = json_array();
	int r;

	wslx_report_init(&report, o->ready);
	r = make_region(o, &g, &err);
	if (r < 0) {
		log_error("%s", err.msg);
		wslx_report_failed(&report, err.msg, NULL, 0);
	} else {
		wslx_report_ready(&report, NULL, none, NULL);
		r = wslx_loop_run(g.loop);
	}
	json_decref(none);
	wslx_report_free(&report);
	end_region(o, &g);
	return r < 0;
}

int main(int argc, char **argv)
{
	struct options o;
	int r = parse_options(argc, argv, &o);

	if (r != 0)
		return r < 0 ? 2 : 0;
	r = wslx_startup_detach(o.log, (const int[]) { o.ready, o.lock }, 2);
	if (r < 0) {
		fprintf(stderr, "wslx-portal: cannot detach: %s\n", strerror(-r));
		return 1;
	}
	prctl(PR_SET_NAME, "wslx-portal");
	wslx_log_init("wslx-portal", STDERR_FILENO, WSLX_LOG_INFO);
	(void)!wslx_startup_raise_fds(FDS_WANTED); /* with fewer there is room for fewer participants */
	return run(&o);
}
