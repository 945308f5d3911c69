/*
 * The sandbox, each case in a process of its own: what must be possible is,
 * what must not be is denied or kills.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"
#include "os/linux/fd.h"
#include "os/linux/sandbox.h"

/* Runs fn in a child and returns its wait status. */
static int in_child(int (*fn)(void))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(fn());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static int enter(enum wslx_sandbox_profile profile)
{
	struct wslx_err err = { 0 };

	if (wslx_sandbox_enter(profile, &err) == 0)
		return 0;
	fprintf(stderr, "%s\n", err.msg);
	return -1;
}

static int leaks_vmm(void)
{
	return enter(WSLX_SANDBOX_VMM) < 0 ? 255 : (int)wslx_sandbox_test();
}

static int leaks_devices(void)
{
	return enter(WSLX_SANDBOX_DEVICES) < 0 ? 255 : (int)wslx_sandbox_test();
}

static int leaks_without(void)
{
	return (int)wslx_sandbox_test();
}

static void test_leaks(void **state)
{
	int status = in_child(leaks_without);

	/* The test itself must see what is open. */
	assert_true(WIFEXITED(status) && (WEXITSTATUS(status) & WSLX_SANDBOX_LEAK_OPEN));
	assert_int_equal(in_child(leaks_vmm), 0);
	assert_int_equal(in_child(leaks_devices), 0);
}

static void on_post(void *opaque)
{
	*(int *)opaque = 1;
}

/* Everyday work of a device. */
static int work(void)
{
	int fd = memfd_create("disk", MFD_CLOEXEC), pair[2], ran = 0;
	struct wslx_loop *loop;
	char buf[64] = "data";
	struct stat st;
	void *p;

	if (fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 || wslx_loop_new(&loop) < 0)
		return 1;
	if (enter(WSLX_SANDBOX_DEVICES) < 0)
		return 2;
	if (pwrite(fd, buf, 4096 > sizeof(buf) ? sizeof(buf) : 4096, 0) < 0 || fdatasync(fd) < 0)
		return 3;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0 || wslx_fd_stat(fd, &st) < 0)
		return 4;
	if (send(pair[0], "x", 1, MSG_NOSIGNAL) != 1 || recv(pair[1], buf, 1, 0) != 1)
		return 5;
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED || munmap(p, 4096) < 0)
		return 6;
	if (wslx_loop_post(loop, on_post, &ran) < 0 || wslx_loop_once(loop, 100) < 0 || !ran)
		return 7;
	free(malloc(4 << 20));
	if (fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0 || !(fcntl(pair[0], F_GETFL) & O_NONBLOCK))
		return 8;
	if (fcntl(pair[0], F_SETFD, FD_CLOEXEC) < 0 || fcntl(pair[0], F_DUPFD_CLOEXEC, 3) < 0)
		return 9;
	return fcntl(fd, F_GET_SEALS) < 0 ? 10 : 0;
}

static void test_work(void **state)
{
	assert_int_equal(in_child(work), 0);
}

static int exec_memory(void)
{
	if (enter(WSLX_SANDBOX_VMM) < 0)
		return 1;
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? 2 : 0;
}

static int protect_exec(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (enter(WSLX_SANDBOX_VMM) < 0)
		return 1;
	return mprotect(p, 4096, PROT_READ | PROT_EXEC) < 0 ? 2 : 0;
}

static int other_ioctl(void)
{
	if (enter(WSLX_SANDBOX_VMM) < 0)
		return 1;
	/* TIOCSTI, the classic. */
	return syscall(SYS_ioctl, 0, 0x5412, "x") < 0 && errno == EPERM ? 2 : 0;
}

static int signal_others(void)
{
	if (enter(WSLX_SANDBOX_VMM) < 0)
		return 1;
	return syscall(SYS_tgkill, getppid(), getppid(), 0) < 0 ? 2 : 0;
}

static int trace(void)
{
	if (enter(WSLX_SANDBOX_DEVICES) < 0)
		return 1;
	return syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0) < 0 ? 2 : 0;
}

static int fcntl_async(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	if (enter(WSLX_SANDBOX_VMM) < 0)
		return 1;
	return fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC) < 0 ? 2 : 0;
}

static int fcntl_owner(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	if (enter(WSLX_SANDBOX_DEVICES) < 0)
		return 1;
	return fcntl(fd, F_SETOWN, getppid()) < 0 ? 2 : 0;
}

static int fcntl_signal(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	if (enter(WSLX_SANDBOX_DEVICES) < 0)
		return 1;
	return fcntl(fd, F_SETSIG, SIGKILL) < 0 ? 2 : 0;
}

static void test_kills(void **state)
{
	static int (*const cases[])(void) = { exec_memory, protect_exec, other_ioctl, signal_others,
					      trace,       fcntl_async,  fcntl_owner, fcntl_signal };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int status = in_child(cases[i]);

		if (WSLX_SANDBOX_LENIENT)
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 2);
		else
			assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	}
}

static int go_fd;

static void *other_thread(void *opaque)
{
	eventfd_t n;

	if (eventfd_read(go_fd, &n) < 0)
		return (void *)1;
	return open("/etc/passwd", O_RDONLY | O_CLOEXEC) < 0 ? NULL : (void *)1;
}

/* A thread made before is confined as well. */
static int threads(void)
{
	pthread_t t;
	void *leaked;

	go_fd = eventfd(0, EFD_CLOEXEC);
	if (pthread_create(&t, NULL, other_thread, NULL) || enter(WSLX_SANDBOX_VMM) < 0)
		return 1;
	eventfd_write(go_fd, 1);
	pthread_join(t, &leaked);
	return leaked ? 2 : 0;
}

static void test_threads(void **state)
{
	assert_int_equal(in_child(threads), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_leaks),
		cmocka_unit_test(test_work),
		cmocka_unit_test(test_kills),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
