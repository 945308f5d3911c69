/* What is written into the state folder. */
#include "machine.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "vmm/supervisor/console.h"
#include "vmm/supervisor/vmmlog.h"

/* A log that cannot be renamed or made for a while goes on when it can. */
static void test_console_log_comes_back(void **state)
{
	static char chunk[1 << 16];
	struct wslx_conlog *c;
	struct wslx_loop *loop;
	struct machine m;
	char old[128];
	bool found = false;

	machine_setup(&m, "normal");
	snprintf(old, sizeof(old), "%s/console.log.1", m.state);
	memset(chunk, '.', sizeof(chunk));
	assert_int_equal(wslx_loop_new(&loop), 0);
	assert_int_equal(wslx_conlog_new(loop, m.state, NULL, NULL, &c, NULL), 0);
	assert_int_equal(mkdir(old, 0700), 0);
	for (int i = 0; i < 20; i++)
		wslx_conlog_feed(c, chunk, sizeof(chunk));
	assert_int_equal(rmdir(old), 0);
	while (!found) {
		char *s;

		wslx_conlog_feed(c, "back again\n", 11);
		s = read_state(&m, "console.log");
		found = strstr(s, "back again");
		free(s);
	}
	wslx_conlog_free(c);
	wslx_loop_free(loop);
	machine_remove(&m);
}

/* Starts it, and waits until its child has talked. */
static char *talk(struct machine *m, const char *fake)
{
	machine_setup(m, fake);
	m->log = true;
	machine_start(m);
	expect_ready(m);
	wait_console(m, "talked\n");
	call_ok(m, "Terminate", "{}");
	assert_int_equal(wait_end(m), 0);
	return read_state(m, "vmm.log");
}

static void test_child_talks_through_a_pipe(void **state)
{
	struct machine m;
	char *s = talk(&m, "talk");

	assert_non_null(strstr(s, "wslx-vmm[vmm]: warn: a ?[31mred line\n"));
	/* Under its own name, whatever it claims. */
	assert_non_null(strstr(s, "\nwslx-vmm[vmm]: wslx-vmm: error: forged\n"));
	assert_non_null(strstr(s, "\nwslx-vmm[vmm]: no end\n"));
	free(s);
	machine_remove(&m);
}

/* Twenty million bytes: the child is not kept waiting, and the log is not filled. */
static void test_child_talks_too_much(void **state)
{
	struct machine m;
	char *s = talk(&m, "talk-much");

	assert_true(strlen(s) < 100000);
	assert_non_null(strstr(s, "(more was said than is written down)"));
	free(s);
	machine_remove(&m);
}

/* A full vmm.log is followed by another, and the one before is kept. */
static void test_vmm_log_is_bounded(void **state)
{
	int saved = dup(STDERR_FILENO), fd;
	struct wslx_vmmlog *v;
	struct machine m;
	char path[128], *s;

	machine_setup(&m, "normal");
	snprintf(path, sizeof(path), "%s/vmm.log", m.state);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(saved >= 0 && fd >= 0);
	assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
	close(fd);
	assert_int_equal(wslx_vmmlog_new(m.state, 4096, &v, NULL), 0);
	for (int i = 0; i < 1000; i++)
		log_error("line %d", i);
	/* The last one fits the new file. */
	wslx_log_relay("child", "the last line");
	wslx_vmmlog_free(v);
	assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
	close(saved);
	s = read_state(&m, "vmm.log");
	assert_true(strlen(s) < 4200);
	assert_non_null(strstr(s, "child: the last line\n"));
	free(s);
	s = read_state(&m, "vmm.log.1");
	assert_true(strlen(s) >= 4096 && strlen(s) < 4200);
	free(s);
	machine_remove(&m);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_console_log_comes_back),
		cmocka_unit_test(test_child_talks_through_a_pipe),
		cmocka_unit_test(test_child_talks_too_much),
		cmocka_unit_test(test_vmm_log_is_bounded),
	};

	machine_main(argc, argv);
	return cmocka_run_group_tests_name("logs", tests, NULL, NULL);
}
