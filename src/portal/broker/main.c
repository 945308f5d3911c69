/* wslx-portal as a process; see broker.h. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "os/linux/paths.h"
#include "os/linux/sandbox.h"
#include "portal/broker/broker.h"

static const char usage[] = "usage: wslx-portal --folder=DIR --name=NAME [--segments=N] [--ready=FD] [--lock=FD] "
			    "[--log=FD]\n"
			    "Keeps one Portal region; started by wslx. See docs/portal.md.\n";

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

static int parse_number(const char *option, const char *s, long min, long max, long *ret)
{
	char *end;

	errno = 0;
	*ret = strtol(s, &end, 10);
	if (!errno && end != s && !*end && *ret >= min && *ret <= max)
		return 0;
	fprintf(stderr, "wslx-portal: --%s: '%s' is not a number from %ld to %ld\n", option, s, min, max);
	return -EINVAL;
}

static int parse_fd(const char *option, const char *s, int *ret)
{
	long v;
	int r = parse_number(option, s, 3, 1 << 20, &v);

	if (r == 0 && wslx_fd_cloexec((int)v, 1) < 0) {
		fprintf(stderr, "wslx-portal: --%s: '%s' is not an open descriptor\n", option, s);
		r = -EINVAL;
	}
	if (r == 0)
		*ret = (int)v;
	return r;
}

/* 0: go on, 1: done, -errno: said why. */
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option long_options[] = {
		{ "folder", required_argument, NULL, 'f' },
		{ "name", required_argument, NULL, 'n' },
		{ "segments", required_argument, NULL, 's' },
		{ "ready", required_argument, NULL, 'r' },
		{ "lock", required_argument, NULL, 'k' },
		{ "log", required_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	int c, r = 0;
	long v;

	*o = (struct options) { .ready = -1, .lock = -1, .log = -1 };
	while (r == 0 && (c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (c) {
		case 'f':
			o->folder = optarg;
			break;
		case 'n':
			o->name = optarg;
			break;
		case 's':
			r = parse_number("segments", optarg, 2, PORTAL_MAX_SEGMENTS, &v);
			o->segments = r == 0 ? (uint32_t)v : 0;
			break;
		case 'r':
			r = parse_fd("ready", optarg, &o->ready);
			break;
		case 'k':
			r = parse_fd("lock", optarg, &o->lock);
			break;
		case 'l':
			r = parse_fd("log", optarg, &o->log);
			break;
		case 'h':
			fputs(usage, stdout);
			return 1;
		case 'V':
			puts("wslx-portal " WSLX_VERSION);
			return 1;
		default:
			r = -EINVAL;
			break;
		}
	}
	if (r == 0 && (!o->folder || o->folder[0] != '/' || !o->name || strchr(o->name, '/') || optind < argc)) {
		fputs(usage, stderr);
		r = -EINVAL;
	}
	return r;
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

static void say(const struct options *o, json_t *line)
{
	cleanup_free char *text = json_dumps(line, JSON_COMPACT);

	/* A reader that went away changes nothing. */
	if (text && o->ready >= 0 && wslx_write_full(o->ready, text, strlen(text)) == 0)
		(void)!write(o->ready, "\n", 1);
	json_decref(line);
}

static void raise_limits(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < FDS_WANTED) {
		l.rlim_cur = l.rlim_max < FDS_WANTED ? l.rlim_max : FDS_WANTED;
		(void)!setrlimit(RLIMIT_NOFILE, &l);
	}
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
	struct region g = { 0 };
	struct wslx_err err = { 0 };
	int r = make_region(o, &g, &err);

	if (r < 0) {
		log_error("%s", err.msg);
		say(o, json_pack("{s:s, s:s}", "event", "failed", "message", err.msg));
	} else {
		say(o, json_pack("{s:s, s:i, s:[]}", "event", "ready", "pid", (int)getpid(), "warnings"));
		if (o->ready >= 0)
			close(o->ready);
		r = wslx_loop_run(g.loop);
	}
	end_region(o, &g);
	return r < 0;
}

int main(int argc, char **argv)
{
	struct options o;
	int r = parse_options(argc, argv, &o);

	if (r != 0)
		return r < 0 ? 2 : 0;
	umask(077);
	if (chdir("/") < 0)
		return 1;
	prctl(PR_SET_NAME, "wslx-portal");
	wslx_log_init("wslx-portal", o.log >= 0 ? o.log : STDERR_FILENO, WSLX_LOG_INFO);
	raise_limits();
	return run(&o);
}
