/* What is written into the state folder. */
#include "machine.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/loop.h"
#include "vmm/supervisor/console.h"

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

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_console_log_comes_back),
	};

	machine_main(argc, argv);
	return cmocka_run_group_tests_name("logs", tests, NULL, NULL);
}
