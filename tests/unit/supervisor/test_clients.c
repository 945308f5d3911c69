/* The control socket's clients. */
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"

static const char oneway[] = "{\"method\":\"io.wslx.Machine.WaitReady\",\"oneway\":true}";

static void expect_hangup(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, 0);

	assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

static void test_control_clients(void **state)
{
	cleanup_free char *big = malloc(70000);
	struct machine m;
	int fds[20], fd;
	json_t *j;

	machine_setup(&m, "normal");
	machine_start(&m);
	expect_ready(&m);
	fd = control_client(&m);
	assert_int_equal(wslx_write_full(fd, "nonsense", 9), 0);
	expect_hangup(fd);
	close(fd);
	fd = control_client(&m);
	assert_non_null(big);
	memset(big, ' ', 70000);
	(void)!send(fd, big, 70000, MSG_NOSIGNAL);
	expect_hangup(fd);
	close(fd);
	/* Many calls at once, answered in order. */
	fd = control_client(&m);
	for (int i = 0; i < 50; i++)
		send_call(fd, i & 1 ? "Ping" : "Nope", "{}");
	for (int i = 0; i < 50; i++) {
		j = read_answer(fd);
		assert_int_equal(json_object_get(j, "error") != NULL, !(i & 1));
		json_decref(j);
	}
	close(fd);
	/* Clients that never read delay nobody. */
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = control_client(&m);
		for (int k = 0; k < 20; k++)
			send_call(fds[i], "org.varlink.service.GetInterfaceDescription",
				  "{\"interface\":\"io.wslx.Machine\"}");
	}
	call_ok(&m, "Ping", "{}");
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	call_fails(&m, "org.varlink.other.Method", "{}", "org.varlink.service.InterfaceNotFound");
	call_fails(&m, "Terminate", "{\"force\":1}", "org.varlink.service.InvalidParameter");
	call_fails(&m, "Terminate", "{\"timeout_ms\":-1}", "org.varlink.service.InvalidParameter");
	call_ok(&m, "org.varlink.service.GetInfo", "{}");
	call_ok(&m, "Terminate", "{}");
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);
}

/* Those who wait for a machine that is not up yet, and go away, leave nothing
 * behind: after a thousand of them there is still a place. */
static void test_waiters_go_away(void **state)
{
	struct machine m;
	json_t *j;
	int fd;

	machine_setup(&m, "silent");
	m.c.boot_timeout_ms = 20000;
	machine_start(&m);
	close(await_client(&m));
	for (int i = 0; i < 1100; i++) {
		fd = control_client(&m);
		send_call(fd, "WaitReady", "{}");
		/* Answered calls on another connection: it has been taken. */
		call_ok(&m, "Ping", "{}");
		close(fd);
	}
	/* Who wants no answer does not wait: its next call is answered. */
	fd = control_client(&m);
	assert_int_equal(wslx_write_full(fd, oneway, sizeof(oneway)), 0);
	send_call(fd, "Ping", "{}");
	json_decref(read_answer(fd));
	close(fd);
	fd = control_client(&m);
	send_call(fd, "WaitReady", "{}");
	call_ok(&m, "Terminate", "{}");
	j = read_answer(fd);
	assert_non_null(strstr(json_text(json_object_get(j, "parameters"), "message"), "stopped while it started"));
	json_decref(j);
	close(fd);
	expect_failed(&m, "stopped while it started", NULL);
	/* Which the guest's console says nothing about. */
	assert_non_null(strstr(m.lines, "\"console\":[]"));
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);
}

/* Somebody waits for a machine that another started, and that fails. */
static void test_wait_ready_fails(void **state)
{
	struct machine m;
	json_t *j;
	int fd;

	machine_setup(&m, "silent");
	m.c.boot_timeout_ms = 1000;
	machine_start(&m);
	fd = await_client(&m);
	send_call(fd, "WaitReady", "{}");
	j = read_answer(fd);
	assert_string_equal(json_text(j, "error"), "io.wslx.Machine.Failed");
	assert_non_null(strstr(json_text(json_object_get(j, "parameters"), "message"), "time-out"));
	json_decref(j);
	close(fd);
	expect_failed(&m, "time-out", NULL);
	assert_int_equal(wait_end(&m), 1);
	machine_remove(&m);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_control_clients),
		cmocka_unit_test(test_wait_ready_fails),
		cmocka_unit_test(test_waiters_go_away),
	};

	machine_main(argc, argv);
	return cmocka_run_group_tests_name("clients", tests, NULL, NULL);
}
