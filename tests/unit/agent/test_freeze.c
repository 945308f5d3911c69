/* The agent's PAUSE and RESUME, on cgroup files of our own: freeze.c is compiled with its own DIR_CGROUP. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/machine.h"
#include "agentc/agentc.h"
#include "base/log.h"
#include "os/linux/fd.h"

/* The agent's call, not this machine's disks. */
void sync(void)
{
}

struct world {
	struct machine m;
	struct distro d;
	struct wslx_agentc *conn;
	int pause_code, resume_code;
	bool pause_answered, resume_answered;
};

static void put(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(wslx_write_full(fd, text, strlen(text)), 0);
	close(fd);
}

static char freeze_value(void)
{
	char *text, c;

	assert_int_equal(wslx_read_file(AT_FDCWD, "distro/d/cgroup.freeze", 16, &text, NULL), 0);
	c = text[0];
	free(text);
	return c;
}

static void request(void *opaque, const struct wslx_guest_call *call, const struct wslx_agent_msg *m)
{
	freeze_request(opaque, call, m->h.type == WSLX_AGENT_PAUSE);
}

static void lost(void *opaque)
{
}

static void on_pause(void *opaque, const struct wslx_agentc_reply *r)
{
	struct world *w = opaque;

	w->pause_answered = true;
	w->pause_code = r->code;
}

static void on_resume(void *opaque, const struct wslx_agentc_reply *r)
{
	struct world *w = opaque;

	w->resume_answered = true;
	w->resume_code = r->code;
}

static void setup(struct world *w)
{
	static const struct wslx_guest_ops ops = { .request = request, .control_lost = lost };
	static const struct wslx_agentc_events none;
	int pair[2];

	memset(w, 0, sizeof(*w));
	w->d = (struct distro) { .m = &w->m, .state = DISTRO_RUNNING, .root_fd = -1 };
	strcpy(w->d.params.name, "d");
	w->m.distros = &w->d;
	put("distro/d/cgroup.freeze", "0");
	put("distro/d/cgroup.events", "populated 1\nfrozen 0\n");
	assert_int_equal(wslx_loop_new(&w->m.loop), 0);
	assert_int_equal(wslx_guest_new(w->m.loop, &ops, &w->m, &w->m.guest), 0);
	wslx_guest_set_hello(w->m.guest, &(struct wslx_agent_hello) { .agent_version = "test" });
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(wslx_guest_serve(w->m.guest, pair[0], true), 0);
	assert_int_equal(wslx_agentc_new(w->m.loop, pair[1], &none, w, &w->conn), 0);
}

static void teardown(struct world *w)
{
	wslx_agentc_free(w->conn);
	wslx_guest_free(w->m.guest);
	wslx_loop_free(w->m.loop);
}

static void ask_pause(struct world *w)
{
	w->pause_answered = false;
	assert_int_equal(wslx_agentc_pause(w->conn, on_pause, w), 0);
}

static void ask_resume(struct world *w)
{
	w->resume_answered = false;
	assert_int_equal(wslx_agentc_resume(w->conn, on_resume, w), 0);
}

/* A file changes without an event. */
#define UNTIL(w, cond)                                                                                                 \
	while (!(cond))                                                                                                \
	assert_int_equal(wslx_loop_once((w)->m.loop, 10), 0)

static void pause_and_resume(void **state)
{
	struct world w;

	setup(&w);
	put("distro/d/cgroup.events", "populated 1\nfrozen 1\n");
	ask_pause(&w);
	UNTIL(&w, w.pause_answered);
	assert_int_equal(w.pause_code, 0);
	assert_int_equal(freeze_value(), '1');
	assert_true(w.m.paused);
	ask_pause(&w);
	UNTIL(&w, w.pause_answered);
	assert_int_equal(w.pause_code, -EALREADY);
	ask_resume(&w);
	UNTIL(&w, w.resume_answered);
	assert_int_equal(w.resume_code, 0);
	assert_int_equal(freeze_value(), '0');
	assert_false(w.m.paused);
	/* No error if nothing is paused. */
	ask_resume(&w);
	UNTIL(&w, w.resume_answered);
	assert_int_equal(w.resume_code, 0);
	teardown(&w);
}

/* The processes never come to rest: so the child still works when RESUME comes. */
static void resume_overtakes_pause(void **state)
{
	struct world w;

	setup(&w);
	ask_pause(&w);
	UNTIL(&w, w.m.freeze && freeze_value() == '1');
	ask_resume(&w);
	UNTIL(&w, w.resume_answered && w.pause_answered);
	assert_int_equal(w.resume_code, 0);
	assert_int_equal(w.pause_code, -ECANCELED);
	assert_false(w.m.paused);
	UNTIL(&w, !w.m.freeze && !w.m.thaws);
	assert_int_equal(freeze_value(), '0');
	assert_false(w.m.paused);
	/* The next one is as any. */
	put("distro/d/cgroup.events", "populated 1\nfrozen 1\n");
	ask_pause(&w);
	UNTIL(&w, w.pause_answered);
	assert_int_equal(w.pause_code, 0);
	assert_int_equal(freeze_value(), '1');
	teardown(&w);
}

static void the_end_overtakes_pause(void **state)
{
	struct world w;

	setup(&w);
	ask_pause(&w);
	UNTIL(&w, w.m.freeze && freeze_value() == '1');
	freeze_thaw_now(&w.m);
	w.m.ending = true;
	assert_int_equal(freeze_value(), '0');
	UNTIL(&w, w.pause_answered && !w.m.freeze && !w.m.thaws);
	assert_int_equal(freeze_value(), '0');
	ask_resume(&w);
	UNTIL(&w, w.resume_answered);
	assert_int_equal(w.resume_code, 0);
	teardown(&w);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(pause_and_resume),
		cmocka_unit_test(resume_overtakes_pause),
		cmocka_unit_test(the_end_overtakes_pause),
	};
	char dir[] = "/tmp/wslx-test-XXXXXX";
	int r;

	wslx_log_init("test", STDERR_FILENO, WSLX_LOG_ERROR);
	if (!mkdtemp(dir) || chdir(dir) < 0 || mkdir("distro", 0700) < 0 || mkdir("distro/d", 0700) < 0)
		return 1;
	r = cmocka_run_group_tests_name("freeze", tests, NULL, NULL);
	unlink("distro/d/cgroup.freeze");
	unlink("distro/d/cgroup.events");
	rmdir("distro/d");
	rmdir("distro");
	rmdir(dir);
	return r;
}
