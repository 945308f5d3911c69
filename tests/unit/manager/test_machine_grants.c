/* Regions that a machine has: given, taken back and narrowed, against a supervisor that only pretends. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "machines.h"
#include "manager/lock.h"
#include "manager/machine.h"
#include "manager/portal.h"
#include "os/linux/fd.h"

static void set_grants(struct home *h, const char *grant)
{
	struct wslx_distro *d = malloc(sizeof(*d));

	assert_int_equal(wslx_distro_find(h->m, "one", d, NULL), 0);
	assert_int_equal(wslx_settings_set(&d->settings, "portal", grant, NULL), 0);
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	free(d);
}

/* A machine that cannot be told may come back to the region: that is no success, now or when tried again. */
static void test_revoke_says_if_the_machine_is_not_told(void **state)
{
	struct wslx_revocation done;
	struct home *h = *state;
	struct wslx_err err = { 0 };

	set_grants(h, "reg:8M");
	setenv("FAKE_VMM", "stubborn", 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	for (int i = 0; i < 2; i++) {
		assert_true(wslx_region_revoke(h->m, "reg", "one", &done, &err) < 0);
		assert_non_null(strstr(err.msg, "'one' may still have the region's memory: not now"));
	}
	assert_int_equal(wslx_machine_stop(h->m, "one", true, NULL), 0);
	assert_int_equal(wslx_region_revoke(h->m, "reg", "one", &done, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "no grant"));
	/* One without a window has nothing. */
	unsetenv("FAKE_VMM");
	set_grants(h, "reg:8M");
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(wslx_region_revoke(h->m, "reg", "one", &done, NULL), 0);
	assert_int_equal(wslx_region_revoke(h->m, "reg", "one", &done, NULL), -ENOENT);
	assert_int_equal(wslx_region_revoke(h->m, "reg", "nosuch", &done, NULL), -ENOENT);
}

/* What the fake machine was started with. */
static void started_with(struct home *h, char ret[256])
{
	cleanup_free char *path = wslx_path("%s/grants", h->dir);
	cleanup_free char *text = NULL;
	size_t n;

	assert_int_equal(wslx_read_file(AT_FDCWD, path, 255, &text, &n), 0);
	snprintf(ret, 256, "%s", text);
}

/* One that does not answer, perhaps because it is starting: it has nothing, and finds that it must not join. */
static void test_revoke_from_a_machine_that_does_not_answer(void **state)
{
	struct home *h = *state;
	cleanup_free char *sock = wslx_machine_socket(h->m, "one", WSLX_CONTROL_SOCKET);
	cleanup_free char *mark = wslx_machine_socket(h->m, "one", WSLX_REVOKED_DIR "/reg");
	cleanup_free char *away = wslx_path("%s.away", sock), *grants = wslx_path("%s/grants", h->dir);
	struct wslx_revocation done;
	char with[256];

	set_grants(h, "reg:8M");
	setenv("FAKE_VMM_GRANTS", grants, 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	started_with(h, with);
	assert_string_equal(with, "reg ");
	assert_int_equal(wslx_machine_supervisor(h->m, "nosuch"), 0);
	assert_true(wslx_machine_supervisor(h->m, "one") > 0);
	assert_int_equal(rename(sock, away), 0);
	assert_int_equal(wslx_region_revoke(h->m, "reg", "one", &done, NULL), 0);
	assert_true(done.silent && !done.had);
	assert_int_equal(access(mark, F_OK), 0);
	assert_int_equal(wslx_region_revoke(h->m, "reg", "one", &done, NULL), -ENOENT);
	assert_int_equal(rename(away, sock), 0);
	/* The next one has heard of it by its settings. */
	assert_int_equal(wslx_machine_stop(h->m, "one", true, NULL), 0);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_true(access(mark, F_OK) < 0);
	started_with(h, with);
	assert_string_equal(with, "");
	unsetenv("FAKE_VMM_GRANTS");
}

/* Anything that changes after a start has read the settings, while it waits for the machine before to end. */
static void test_settings_change_while_a_start_waits(void **state)
{
	struct home *h = *state;
	cleanup_free char *grants = wslx_path("%s/grants", h->dir);
	struct wslx_distro *d = malloc(sizeof(*d));
	struct wslx_revocation done;
	struct wslx_machine_info info;
	int lock, status;
	char with[256];
	pid_t pid;

	set_grants(h, "reg:8M");
	assert_int_equal(mkdirat(h->m->run_fd, "one", 0700), 0);
	lock = wslx_lock_take(h->m->run_fd, "one/" WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, false);
	assert_true(lock >= 0);
	assert_int_equal(wslx_distro_find(h->m, "one", d, NULL), 0);
	setenv("FAKE_VMM_GRANTS", grants, 1);
	pid = fork();
	if (pid == 0) {
		close(lock);
		home_reopen(h);
		_exit(wslx_machine_start(h->m, d, NULL, NULL) == 0 ? 0 : 1);
	}
	assert_int_equal(wslx_region_revoke(h->m, "reg", "one", &done, NULL), 0);
	assert_int_equal(wslx_distro_find(h->m, "one", d, NULL), 0);
	d->settings.memory = 128 * WSLX_MIB;
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	assert_int_equal(starts(h), 0);
	close(lock);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	started_with(h, with);
	assert_string_equal(with, "");
	wslx_machine_query(h->m, "one", &info);
	assert_true(info.memory == 128 * WSLX_MIB);
	unsetenv("FAKE_VMM_GRANTS");
	free(d);
}

/* One change after the other: what another one has stored it may not have said yet. */
static void test_grants_change_one_at_a_time(void **state)
{
	struct home *h = *state;
	struct wslx_distro *d = malloc(sizeof(*d));
	struct wslx_revocation done;
	int lock, status;
	pid_t pid;

	set_grants(h, "reg:8M");
	assert_int_equal(start(h, NULL, NULL), 0);
	lock = wslx_lock_take(h->m->run_fd, "one/" WSLX_GRANTS_LOCK, WSLX_LOCK_EXCLUSIVE, false);
	assert_true(lock >= 0);
	pid = fork();
	if (pid == 0) {
		close(lock);
		home_reopen(h);
		_exit(wslx_region_revoke(h->m, "reg", "ONE", &done, NULL) == 0 ? 0 : 1);
	}
	usleep(300000);
	assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
	assert_int_equal(wslx_distro_find(h->m, "one", d, NULL), 0);
	assert_int_equal(d->settings.n_grants, 1);
	close(lock);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(wslx_distro_find(h->m, "one", d, NULL), 0);
	assert_int_equal(d->settings.n_grants, 0);
	free(d);
}

/* A region that is there, without a broker to ask.  Its lock, for the caller to close. */
static int region_there(struct home *h)
{
	cleanup_free char *dir = wslx_path("%s/" WSLX_REGION_DIR, h->m->paths.shared);
	cleanup_close int fd = -1;
	int lock;

	assert_true(mkdir(dir, 0700) == 0 || errno == EEXIST);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	lock = wslx_lock_take(fd, "reg.lock", WSLX_LOCK_EXCLUSIVE, false);
	assert_true(lock >= 0);
	return lock;
}

/* What the fake machine's PortalSync has been told since the last time. */
static void said(struct home *h, const char *want)
{
	cleanup_free char *text = NULL;

	assert_int_equal(wslx_read_file(AT_FDCWD, getenv("FAKE_VMM_SAID"), 4096, &text, NULL), 0);
	assert_string_equal(text, want);
	assert_int_equal(truncate(getenv("FAKE_VMM_SAID"), 0), 0);
}

/* The settings say so already, because that was stored before it failed; the machine writes all the same. */
static void test_read_only_is_tried_again(void **state)
{
	struct home *h = *state;
	cleanup_free char *file = wslx_path("%s/said", h->dir);
	struct wslx_grant g;
	int region = region_there(h);
	bool later;

	set_grants(h, "reg:ro");
	assert_int_equal(wslx_grant_parse("reg:ro", &g, NULL), 0);
	setenv("FAKE_VMM_SAID", file, 1);
	setenv("FAKE_VMM", "portal", 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(wslx_region_grant(h->m, "one", &g, &later, NULL), 0);
	assert_false(later);
	said(h, "? none none none none ro ");
	/* Nothing is taken away from one that only reads. */
	assert_int_equal(wslx_region_grant(h->m, "one", &g, &later, NULL), 0);
	assert_false(later);
	said(h, "? ro ");
	assert_int_equal(wslx_machine_stop(h->m, "one", true, NULL), 0);
	setenv("FAKE_VMM", "portal-rw", 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(wslx_region_grant(h->m, "one", &g, &later, NULL), -EIO);
	/* One without a window has nothing that it could write to. */
	assert_int_equal(wslx_machine_stop(h->m, "one", true, NULL), 0);
	unsetenv("FAKE_VMM");
	assert_int_equal(start(h, NULL, NULL), 0);
	assert_int_equal(wslx_region_grant(h->m, "one", &g, &later, NULL), 0);
	assert_true(later);
	close(region);
}

/* Its broker is gone, or cannot be asked; what the machine had it may have still. */
static void test_revoke_waits_for_the_machine(void **state)
{
	struct home *h = *state;
	cleanup_free char *file = wslx_path("%s/said", h->dir);
	struct wslx_revocation done;

	setenv("FAKE_VMM_SAID", file, 1);
	setenv("FAKE_VMM", "portal", 1);
	for (int i = 0; i < 2; i++) {
		int region = i ? region_there(h) : -1;

		set_grants(h, "reg:8M");
		assert_int_equal(start(h, NULL, NULL), 0);
		assert_int_equal(wslx_region_revoke(h->m, "reg", "one", &done, NULL), 0);
		assert_true(done.had && !done.silent);
		said(h, "none none none none ");
		assert_int_equal(wslx_machine_stop(h->m, "one", true, NULL), 0);
		if (i)
			close(region);
	}
}

/* The clock of this program and what is linked into it, but not of loop.c's own: each look at it may take a second. */
static int64_t looks_ms;
int64_t __real_wslx_now_ms(void);
int64_t __wrap_wslx_now_ms(void);

int64_t __wrap_wslx_now_ms(void)
{
	static int64_t passed;

	passed += looks_ms;
	return __real_wslx_now_ms() + passed;
}

/* The host is so slow that the machine takes minutes: it goes on, and nothing says that it has failed. */
static void test_revoke_waits_for_a_slow_machine(void **state)
{
	struct home *h = *state;
	cleanup_free char *file = wslx_path("%s/said", h->dir);
	struct wslx_revocation done;
	struct wslx_err err = { 0 };

	setenv("FAKE_VMM_SAID", file, 1);
	setenv("FAKE_VMM", "portal", 1);
	/* Three looks at the clock each: well within the five minutes, which count the host's own time, too. */
	setenv("FAKE_VMM_CLEARING", "85", 1);
	set_grants(h, "reg:8M");
	assert_int_equal(start(h, NULL, NULL), 0);
	unsetenv("FAKE_VMM_CLEARING");
	looks_ms = 1000;
	if (wslx_region_revoke(h->m, "reg", "one", &done, &err) < 0)
		fail_msg("%s", err.msg);
	looks_ms = 0;
	assert_true(done.had && !done.silent);
}

/* How often it is still looked for a machine, before its end is let go on: 0: it is on its own. */
static int looks_left;
void __real_wslx_machine_query(struct wslx_manager *m, const char *name, struct wslx_machine_info *ret);
void __wrap_wslx_machine_query(struct wslx_manager *m, const char *name, struct wslx_machine_info *ret);

void __wrap_wslx_machine_query(struct wslx_manager *m, const char *name, struct wslx_machine_info *ret)
{
	if (looks_left && !--looks_left) {
		int gate = open(getenv("FAKE_VMM_GATE"), O_WRONLY | O_CLOEXEC);

		assert_true(gate >= 0);
		close(gate);
		/* Waits for it. */
		close(wslx_lock_take(m->run_fd, "one/" WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, true));
	}
	__real_wslx_machine_query(m, name, ret);
}

/* Its control socket is closed, and its lock not free yet: it can neither be told nor is it gone. */
static void test_revoke_waits_for_the_end_of_a_machine(void **state)
{
	struct home *h = *state;
	cleanup_free char *gate = wslx_path("%s/gate", h->dir);
	struct wslx_revocation done;
	struct wslx_err err = { 0 };
	struct wslx_grant g;
	int region = region_there(h);
	bool later;

	assert_int_equal(mkfifo(gate, 0600), 0);
	setenv("FAKE_VMM_GATE", gate, 1);
	setenv("FAKE_VMM", "ending", 1);
	set_grants(h, "reg:8M");
	assert_int_equal(start(h, NULL, NULL), 0);
	looks_left = 5;
	if (wslx_region_revoke(h->m, "reg", "one", &done, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(looks_left, 0);
	/* Likewise one that is told that it only reads. */
	assert_int_equal(wslx_grant_parse("reg:ro", &g, NULL), 0);
	assert_int_equal(start(h, NULL, NULL), 0);
	looks_left = 5;
	if (wslx_region_grant(h->m, "one", &g, &later, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(looks_left, 0);
	/* It is not waited for longer than for others. */
	assert_int_equal(start(h, NULL, NULL), 0);
	looks_ms = 1000;
	assert_true(wslx_region_revoke(h->m, "reg", "one", &done, &err) < 0);
	looks_ms = 0;
	assert_non_null(strstr(err.msg, "may still have the region's memory"));
	looks_left = 1;
	assert_int_equal(wslx_region_revoke(h->m, "reg", "one", &done, &err), -ENOENT);
	unsetenv("FAKE_VMM_GATE");
	close(region);
}

static int check_kept(struct home *h, const struct wslx_settings *old, const struct wslx_settings *now,
		      struct wslx_err *err)
{
	cleanup_close int lock = -1;

	return wslx_region_check_kept(h->m, "one", old->grants, old->n_grants, now, &lock, err);
}

static void test_settings_do_not_drop_what_a_machine_has(void **state)
{
	struct home *h = *state;
	struct wslx_settings old = wslx_settings_default, now = old;
	struct wslx_err err = { 0 };
	int64_t start_ms;

	assert_int_equal(wslx_settings_set(&old, "portal", "reg:8M", NULL), 0);
	assert_int_equal(check_kept(h, &old, &now, NULL), 0);
	/* It is not asked: others wait for the registry meanwhile. */
	setenv("FAKE_VMM", "deaf", 1);
	assert_int_equal(start(h, NULL, NULL), 0);
	start_ms = wslx_now_ms();
	assert_int_equal(check_kept(h, &old, &now, &err), -EBUSY);
	assert_true(wslx_now_ms() - start_ms < 2500);
	assert_non_null(strstr(err.msg, "portal revoke"));
	assert_int_equal(wslx_settings_set(&now, "portal", "reg:ro", NULL), 0);
	assert_int_equal(check_kept(h, &old, &now, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "portal grant"));
	/* More, or the same, from its next start. */
	assert_int_equal(wslx_settings_set(&now, "portal", "reg:16M", NULL), 0);
	assert_int_equal(wslx_settings_set(&now, "portal", "more:ro", NULL), 0);
	assert_int_equal(check_kept(h, &old, &now, NULL), 0);
}

/* A machine that is started while settings are changed has the new ones. */
static void test_no_start_between_looking_and_storing(void **state)
{
	struct home *h = *state;
	cleanup_free char *grants = wslx_path("%s/grants", h->dir);
	struct wslx_settings now = wslx_settings_default;
	struct wslx_distro *d = malloc(sizeof(*d));
	int lock = -1, status;
	char with[256];
	pid_t pid;

	set_grants(h, "reg:8M");
	setenv("FAKE_VMM_GRANTS", grants, 1);
	assert_int_equal(wslx_distro_find(h->m, "one", d, NULL), 0);
	assert_int_equal(wslx_region_check_kept(h->m, "one", d->settings.grants, 1, &d->settings, &lock, NULL), 0);
	assert_int_equal(lock, -1);
	assert_int_equal(wslx_region_check_kept(h->m, "one", d->settings.grants, 1, &now, &lock, NULL), 0);
	assert_true(lock >= 0);
	pid = fork();
	if (pid == 0) {
		close(lock);
		home_reopen(h);
		_exit(start(h, NULL, NULL) == 0 ? 0 : 1);
	}
	usleep(200000);
	d->settings.n_grants = 0;
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	close(lock);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	started_with(h, with);
	assert_string_equal(with, "");
	unsetenv("FAKE_VMM_GRANTS");
	free(d);
}

#define T(f) cmocka_unit_test_setup_teardown(f, machines_setup, machines_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_revoke_says_if_the_machine_is_not_told),
		T(test_revoke_from_a_machine_that_does_not_answer),
		T(test_settings_change_while_a_start_waits),
		T(test_grants_change_one_at_a_time),
		T(test_read_only_is_tried_again),
		T(test_revoke_waits_for_the_machine),
		T(test_revoke_waits_for_a_slow_machine),
		T(test_revoke_waits_for_the_end_of_a_machine),
		T(test_settings_do_not_drop_what_a_machine_has),
		T(test_no_start_between_looking_and_storing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
