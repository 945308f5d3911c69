/* Kernels that panic, and lines that only look like it. */
#include "machine.h"

#include <stdlib.h>

#include "base/loop.h"

static void test_panic_later(void **state)
{
	struct machine m;
	char *s;

	machine_setup(&m, "late-panic");
	machine_start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	s = read_state(&m, "events");
	assert_non_null(strstr(s, "Kernel panic - not syncing: late"));
	free(s);
	machine_remove(&m);

	/* Another processor still ran the agent when the kernel panicked. */
	machine_setup(&m, "answering-panic");
	m.panic_wait_ms = 5000;
	machine_start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);

	/* One that hangs instead of resetting. */
	machine_setup(&m, "hanging-panic");
	m.panic_wait_ms = 50;
	machine_start(&m);
	expect_ready(&m);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);

	/* Anybody may print that line: the machine lives on. */
	machine_setup(&m, "joke");
	m.panic_wait_ms = 50;
	machine_start(&m);
	expect_ready(&m);
	while (!has_panic(&m))
		call_ok(&m, "Ping", "{}");
	while (has_panic(&m))
		call_ok(&m, "Ping", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);
}

/* A line that looks like a panic, when nobody can say that it is none. */
static void test_panic_line_at_rest(void **state)
{
	struct machine m;
	int64_t end;

	start_ready(&m, "joke-before-pause", 0, 50);
	call_ok(&m, "Pause", "{}");
	while (!has_panic(&m))
		call_ok(&m, "Ping", "{}");
	for (end = wslx_now_ms() + 300; wslx_now_ms() < end;)
		expect_state(&m, "paused");
	call_ok(&m, "Resume", "{}");
	while (has_panic(&m))
		call_ok(&m, "Ping", "{}");
	expect_state(&m, "running");
	end_in_order(&m);

	start_ready(&m, "long-goodbye", 0, 50);
	end_in_order(&m);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_panic_later),
		cmocka_unit_test(test_panic_line_at_rest),
	};

	machine_main(argc, argv);
	return cmocka_run_group_tests_name("panic", tests, NULL, NULL);
}
