/* Pausing and resuming, and what can go wrong with it. */
#include "machine.h"

#include <stdlib.h>
#include <unistd.h>

static void test_failed_pause_is_undone(void **state)
{
	struct machine m;

	/* The processors do not stop as they should: they go on, and so do the distros. */
	start_ready(&m, "refuse-stop", 0, 0);
	call_fails(&m, "Pause", "{}", "io.wslx.Machine.Failed");
	wait_console(&m, "PAUSE\nSTOP\nGO\nRESUME\n");
	expect_state(&m, "running");
	call_ok(&m, "StopDistro", "{\"name\":\"m1\"}");
	end_in_order(&m);
}

static void test_refused_resume(void **state)
{
	struct machine m;

	/* Thawing fails once, twice: the machine is called paused, and it is tried again. */
	start_ready(&m, "refuse-resume", 0, 0);
	call_ok(&m, "Pause", "{}");
	call_fails(&m, "Resume", "{}", "io.wslx.Machine.Failed");
	expect_state(&m, "paused");
	wait_state(&m, "running");
	wait_console(&m, "GO\nRESUME\nRESUME\nRESUME\n");
	end_in_order(&m);

	start_ready(&m, "refuse-resume", 0, 0);
	call_ok(&m, "Pause", "{}");
	call_fails(&m, "Resume", "{}", "io.wslx.Machine.Failed");
	call_fails(&m, "Resume", "{}", "io.wslx.Machine.Failed");
	call_ok(&m, "Resume", "{}");
	expect_state(&m, "running");
	call_ok(&m, "Resume", "{}");
	end_in_order(&m);
}

/* The distros' file systems cannot be written back: the pause never gets there. */
static void test_stuck_pause(void **state)
{
	struct machine m;
	json_t *j;
	int fd;

	/* Resume ends it. */
	start_ready(&m, "stuck-pause", 0, 0);
	fd = control_client(&m);
	send_call(fd, "Pause", "{}");
	wait_console(&m, "PAUSE\n");
	call_fails(&m, "Pause", "{}", "io.wslx.Machine.NotReady");
	call_ok(&m, "Resume", "{}");
	j = read_answer(fd);
	assert_string_equal(json_text(j, "error"), "io.wslx.Machine.Failed");
	json_decref(j);
	close(fd);
	expect_state(&m, "running");
	/* The agent never answered that one: there is no second. */
	call_fails(&m, "Pause", "{}", "io.wslx.Machine.NotReady");
	end_in_order(&m);

	/* So does the time limit, */
	start_ready(&m, "stuck-pause", 50, 0);
	call_fails(&m, "Pause", "{}", "io.wslx.Machine.Failed");
	wait_console(&m, "PAUSE\nRESUME\n");
	end_in_order(&m);

	/* and the end of who asked. */
	start_ready(&m, "stuck-pause", 0, 0);
	fd = control_client(&m);
	send_call(fd, "Pause", "{}");
	wait_console(&m, "PAUSE\n");
	close(fd);
	wait_console(&m, "PAUSE\nRESUME\n");
	end_in_order(&m);

	/* A machine that is to end goes on first. */
	start_ready(&m, "stuck-pause", 0, 0);
	fd = control_client(&m);
	send_call(fd, "Pause", "{}");
	wait_console(&m, "PAUSE\n");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	close(fd);
	machine_remove(&m);
}

static void test_terminate_paused(void **state)
{
	struct machine m;
	char *s;

	start_ready(&m, "normal", 0, 0);
	call_ok(&m, "Pause", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	s = read_state(&m, "console.log");
	assert_non_null(strstr(s, "PAUSE\nSTOP\nGO\nRESUME\nSHUTDOWN\n"));
	free(s);
	machine_remove(&m);

	start_ready(&m, "normal", 0, 0);
	call_ok(&m, "Pause", "{}");
	call_ok(&m, "Terminate", "{\"force\":true}");
	assert_int_equal(wait_end(&m), 0);
	s = read_state(&m, "console.log");
	assert_null(strstr(s, "SHUTDOWN\n"));
	free(s);
	machine_remove(&m);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_failed_pause_is_undone),
		cmocka_unit_test(test_refused_resume),
		cmocka_unit_test(test_stuck_pause),
		cmocka_unit_test(test_terminate_paused),
	};

	machine_main(argc, argv);
	return cmocka_run_group_tests_name("pause", tests, NULL, NULL);
}
