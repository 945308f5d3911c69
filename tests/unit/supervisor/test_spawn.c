/* Starting programs: what they inherit, what they lose, what is said when it fails. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "os/linux/spawn.h"
#include "vmm/supervisor/agent.h"
#include "vmm/supervisor/passt.h"

struct outcome {
	char out[4096];
	struct wslx_exit_status st;
};

static void run_with(struct wslx_spawn *s, const char *script, struct outcome *o)
{
	char *argv[] = { (char *)"sh", (char *)"-c", (char *)(uintptr_t)script, NULL };
	cleanup_close int rd = -1, wr = -1, pidfd = -1;
	struct wslx_err err = { 0 };
	int p[2];
	ssize_t r;
	size_t n = 0;
	pid_t pid;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	rd = p[0];
	wr = p[1];
	s->path = "/bin/sh";
	s->argv = argv;
	s->stdin_fd = -1;
	s->stdout_fd = s->stderr_fd = wr;
	if (wslx_spawn(s, &pid, &pidfd, &err) < 0)
		fail_msg("%s", err.msg);
	wslx_close(&wr);
	while (n < sizeof(o->out) - 1 && (r = read(rd, o->out + n, sizeof(o->out) - 1 - n)) > 0)
		n += (size_t)r;
	o->out[n] = '\0';
	assert_int_equal(wslx_reap(pidfd, &o->st), 0);
	s->argv = NULL;
}

static void test_inherits_only_what_is_named(void **state)
{
	int kept = open("/dev/null", O_RDONLY | O_CLOEXEC), other = open("/dev/null", O_RDONLY);
	struct wslx_spawn s = { .keep = &kept, .n_keep = 1 };
	char script[256];
	struct outcome o;

	assert_true(kept > 2 && other > 2);
	setenv("SECRET_TOKEN", "x", 1);
	snprintf(script, sizeof(script),
		 "[ -e /proc/$$/fd/%d ] && [ ! -e /proc/$$/fd/%d ] && [ -z \"$SECRET_TOKEN\" ] && echo good", kept,
		 other);
	run_with(&s, script, &o);
	assert_string_equal(o.out, "good\n");
	assert_int_equal(o.st.status, 0);
	run_with(&s, "kill -TERM $$", &o);
	assert_int_equal(o.st.signal, SIGTERM);
	run_with(&s, "exit 7", &o);
	assert_int_equal(o.st.status, 7);
	close(kept);
	close(other);
}

static void test_failure_is_explained(void **state)
{
	char *argv[] = { (char *)"x", NULL };
	struct wslx_spawn s = {
		.path = "/no/such/program", .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1
	};
	struct wslx_err err = { 0 };
	int bad = 1000, pidfd;
	pid_t pid;

	assert_int_equal(wslx_spawn(&s, &pid, &pidfd, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/no/such/program"));
	assert_non_null(strstr(err.msg, "execute"));
	s.path = "/bin/true";
	s.keep = &bad;
	s.n_keep = 1;
	assert_int_equal(wslx_spawn(&s, &pid, &pidfd, &err), -EBADF);
}

static void test_drops_rights(void **state)
{
	struct wslx_spawn s = { .drop_rights = true };
	struct outcome o;

	run_with(&s, "grep NoNewPrivs /proc/self/status; id -u", &o);
	assert_non_null(strstr(o.out, "NoNewPrivs:\t1"));
	if (geteuid() == 0)
		assert_non_null(strstr(o.out, "65534"));
}

static void test_sees_system_files_only(void **state)
{
	char path[] = "/tmp/wslx-test-XXXXXX", script[256];
	cleanup_close int fd = mkstemp(path);
	struct wslx_spawn s = { .system_files_only = true };
	struct outcome o;
	int kept;

	assert_true(fd > 2);
	assert_int_equal(wslx_write_full(fd, "hello\n", 6), 0);
	/* In the file's name and through a descriptor that was passed on. */
	kept = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(script, sizeof(script), "cat %s", path);
	run_with(&s, script, &o);
	if (o.st.status == 0) { /* a kernel without Landlock */
		assert_string_equal(o.out, "hello\n");
	} else {
		assert_non_null(strstr(o.out, "denied"));
		s.keep = &kept;
		s.n_keep = 1;
		snprintf(script, sizeof(script), "cat /proc/self/fd/%d; echo x >%s.new || echo cannot", kept, path);
		run_with(&s, script, &o);
		assert_non_null(strstr(o.out, "hello"));
		assert_non_null(strstr(o.out, "cannot"));
	}
	close(kept);
	unlink(path);
}

static void test_find_program(void **state)
{
	char *path = NULL, real[PATH_MAX];

	assert_non_null(realpath("/bin/sh", real));
	setenv("PATH", "relative:/nowhere::/bin", 1);
	assert_int_equal(wslx_find_program("sh", &path), 0);
	assert_string_equal(path, real);
	free(path);
	assert_int_equal(wslx_find_program("no-such-program", &path), -ENOENT);
	setenv("PATH", "/usr/bin:/bin", 1);
}

static void test_passt_arguments(void **state)
{
	struct wslx_net_config net = { .mode = WSLX_NET_PASST, .n_publish = 2 };
	char **argv, all[2048] = "";

	net.publish[0] = (struct wslx_publish) { .host_port = 8080, .guest_port = 80, .host_addr = "127.0.0.1" };
	net.publish[1] = (struct wslx_publish) { .udp = true, .host_port = 53, .guest_port = 5353 };
	assert_int_equal(wslx_passt_args("/usr/bin/passt", &net, 9, &argv), 0);
	for (char **a = argv; *a; a++)
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s ", *a);
	assert_non_null(strstr(all, "--fd=9 "));
	assert_non_null(strstr(all, "--no-map-gw "));
	assert_non_null(strstr(all, "-t 127.0.0.1/8080:80 "));
	/* Nobody but this host reaches a port for which no address was given. */
	assert_non_null(strstr(all, "-u 127.0.0.1/53:5353 "));
	wslx_passt_args_free(argv);
}

static void test_publish_check(void **state)
{
	struct wslx_net_config net = { .mode = WSLX_NET_PASST, .n_publish = 1 };
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	struct wslx_err err = { 0 };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	net.publish[0] = (struct wslx_publish) { .host_port = ntohs(a.sin_port), .guest_port = 1 };
	assert_int_equal(wslx_publish_check(&net, &err), -EADDRINUSE);
	assert_non_null(strstr(err.msg, "cannot publish TCP port"));
	strcpy(net.publish[0].host_addr, "localhost");
	assert_int_equal(wslx_publish_check(&net, &err), -EINVAL);
	close(fd);
	strcpy(net.publish[0].host_addr, "127.0.0.1");
	assert_int_equal(wslx_publish_check(&net, &err), 0);
}

static void check_hostname(const char *name, const char *want)
{
	char host[WSLX_AGENT_HOSTNAME_MAX + 1];

	wslx_hostname_from(name, host);
	assert_string_equal(host, want);
}

static void test_hostname(void **state)
{
	check_hostname("debian", "debian");
	check_hostname("My_Distro.12", "My-Distro-12");
	check_hostname("..x..", "x");
	check_hostname("___", "wslx");
	check_hostname("a123456789b123456789c123456789d123456789e123456789f123456789g123456789",
		       "a123456789b123456789c123456789d123456789e123456789f123456789g12");
}

static void test_resolv(void **state)
{
	struct wslx_agent_config m = { 0 };

	wslx_resolv_parse("# nameserver 192.0.2.9\nsearch old\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n"
			  "nameserver ::1\n nameserver\tfd00::1\nnameserver nonsense\nsearch a.example b.example\n",
			  true, &m);
	assert_int_equal(m.n_dns, 2);
	assert_string_equal(m.dns[0], "192.0.2.1");
	assert_string_equal(m.dns[1], "fd00::1");
	assert_int_equal(m.n_search, 2);
	assert_string_equal(m.search[1], "b.example");
	memset(&m, 0, sizeof(m));
	wslx_resolv_parse("nameserver 192.0.2.1\n", false, &m);
	assert_int_equal(m.n_dns, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inherits_only_what_is_named),
		cmocka_unit_test(test_failure_is_explained),
		cmocka_unit_test(test_drops_rights),
		cmocka_unit_test(test_sees_system_files_only),
		cmocka_unit_test(test_find_program),
		cmocka_unit_test(test_passt_arguments),
		cmocka_unit_test(test_publish_check),
		cmocka_unit_test(test_hostname),
		cmocka_unit_test(test_resolv),
	};

	return cmocka_run_group_tests_name("spawn", tests, NULL, NULL);
}
