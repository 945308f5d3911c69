/* The device server as a process: `wslx-vmm --child=devices` without QEMU. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "dev/vhost_user/msg.h"
#include "vmm/child.h"
#include "vmm/link.h"

#define WINDOW (64 * WSLX_MIB)

struct fixture {
	pid_t pid;
	int link, blk, vsock, window;
};

static int setup(void **state)
{
	static struct fixture f;
	int link[2], blk[2], vsock[2], disk = memfd_create("disk", MFD_CLOEXEC);

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, blk), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, vsock), 0);
	assert_true(disk >= 0 && ftruncate(disk, 1 << 20) == 0);
	f.window = memfd_create("window", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(f.window >= 0 && ftruncate(f.window, WINDOW) == 0);
	assert_int_equal(fcntl(f.window, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	f.pid = fork();
	assert_true(f.pid >= 0);
	if (f.pid == 0) {
		struct wslx_child_disk d = {
			.fd = disk,
			.base_fd = -1,
			.format = WSLX_DISK_RAW,
			.serial = "root",
			.queues = 2,
			.vhost_fd = blk[1],
		};
		struct wslx_child_params p = {
			.link_fd = link[1],
			.console_fd = -1,
			.vsock_fd = -1,
			.vsock_vhost_fd = vsock[1],
			.guest_cid = 3,
			.disks = &d,
			.n_disks = 1,
			.window = WINDOW,
			.window_fd = f.window,
			.test_hooks = true,
		};

		close(link[0]);
		close(blk[0]);
		close(vsock[0]);
		/* No exit handlers: a leak check cannot work inside the sandbox. */
		_exit(wslx_devices_main(&p));
	}
	close(link[1]);
	close(blk[1]);
	close(vsock[1]);
	close(disk);
	f.link = link[0];
	f.blk = blk[0];
	f.vsock = vsock[0];
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	wslx_close(&f->link);
	wslx_close(&f->blk);
	wslx_close(&f->vsock);
	wslx_close(&f->window);
	if (f->pid > 0) {
		kill(f->pid, SIGKILL);
		waitpid(f->pid, NULL, 0);
	}
	return 0;
}

static void expect(struct fixture *f, uint32_t type, struct wslx_link_msg *m)
{
	struct pollfd p = { .fd = f->link, .events = POLLIN };

	assert_int_equal(poll(&p, 1, 30000), 1);
	assert_int_equal(wslx_link_recv(f->link, m), 1);
	assert_int_equal(m->type, type);
}

static void request(struct fixture *f, uint32_t type, uint32_t id)
{
	struct wslx_link_msg m = { .type = type, .id = id, .fd = -1 };

	assert_int_equal(wslx_link_send(f->link, &m), 0);
}

static void expect_exit(struct fixture *f, int status)
{
	int st;

	assert_int_equal(waitpid(f->pid, &st, 0), f->pid);
	f->pid = 0;
	assert_true(WIFEXITED(st));
	assert_int_equal(WEXITSTATUS(st), status);
}

static void test_serves_and_reports(void **state)
{
	static const uint8_t get_features[VHU_HDR_LEN] = { VHU_GET_FEATURES, 0, 0, 0, VHU_VERSION };
	struct fixture *f = *state;
	static struct wslx_link_msg m;
	uint8_t reply[VHU_HDR_LEN + 8];

	expect(f, WSLX_LINK_READY, &m);
	assert_int_equal(write(f->blk, get_features, sizeof(get_features)), sizeof(get_features));
	assert_int_equal(recv(f->blk, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
	assert_true(wslx_get_le64(reply + VHU_HDR_LEN) & VHU_F_PROTOCOL_FEATURES);
	assert_int_equal(write(f->vsock, get_features, sizeof(get_features)), sizeof(get_features));
	assert_int_equal(recv(f->vsock, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
	request(f, WSLX_LINK_STATS, 5);
	expect(f, WSLX_LINK_STATS_REPLY, &m);
	assert_int_equal(m.id, 5);
	assert_non_null(strstr(m.text, "blk0.reads 0\n"));
	assert_non_null(strstr(m.text, "vsock.connections 0\n"));
	request(f, WSLX_LINK_PAUSE, 6);
	expect(f, WSLX_LINK_PAUSED, &m);
	request(f, WSLX_LINK_RESUME, 7);
	expect(f, WSLX_LINK_PAUSED, &m);
	assert_int_equal(m.id, 7);
	request(f, WSLX_LINK_TEST_CONFINEMENT, 8);
	expect(f, WSLX_LINK_PAUSED, &m);
	assert_int_equal(m.a, 0);
	assert_int_equal(m.b, 0);
	request(f, WSLX_LINK_STOP, 0);
	expect_exit(f, 0);
}

static void map(struct fixture *f, uint64_t first, uint64_t segments, uint64_t kind, int fd, uint64_t want)
{
	static struct wslx_link_msg m;
	static uint32_t id;

	m = (struct wslx_link_msg) {
		.type = WSLX_LINK_WINDOW_MAP, .id = ++id, .a = first | segments << 32, .b = kind, .fd = fd
	};
	assert_int_equal(wslx_link_send(f->link, &m), 0);
	expect(f, WSLX_LINK_WINDOW_MAPPED, &m);
	assert_int_equal(m.id, id);
	assert_int_equal(m.a, want);
}

/* Confined as it is, it maps what it is told to, and nothing outside the window. */
static void test_window(void **state)
{
	struct fixture *f = *state;
	static struct wslx_link_msg m;
	cleanup_close int loose = memfd_create("loose", MFD_CLOEXEC);

	assert_int_equal(ftruncate(loose, 4 * WSLX_MIB), 0);
	expect(f, WSLX_LINK_READY, &m);
	map(f, 1, 2, WSLX_WINDOW_WRITE, f->window, 0);
	map(f, 29, 2, WSLX_WINDOW_READ, f->window, 0);
	map(f, 1, 30, WSLX_WINDOW_OWN, f->window, 0);
	map(f, 0, 1, WSLX_WINDOW_OWN, f->window, EINVAL);
	map(f, 30, 2, WSLX_WINDOW_READ, f->window, EINVAL);
	map(f, 1, 1, WSLX_WINDOW_READ, loose, EINVAL);
	map(f, UINT32_MAX, UINT32_MAX, 77, f->window, EINVAL);
	request(f, WSLX_LINK_TEST_CONFINEMENT, 8);
	expect(f, WSLX_LINK_PAUSED, &m);
	assert_int_equal(m.a, 0);
	request(f, WSLX_LINK_STOP, 0);
	expect_exit(f, 0);
}

static void test_ends_with_qemu(void **state)
{
	struct fixture *f = *state;
	static struct wslx_link_msg m;

	expect(f, WSLX_LINK_READY, &m);
	wslx_close(&f->blk);
	request(f, WSLX_LINK_STATS, 1);
	expect(f, WSLX_LINK_STATS_REPLY, &m); /* one connection is left */
	wslx_close(&f->vsock);
	expect_exit(f, 0);
}

static void test_ends_with_the_supervisor(void **state)
{
	struct fixture *f = *state;
	static struct wslx_link_msg m;

	expect(f, WSLX_LINK_READY, &m);
	wslx_close(&f->link);
	expect_exit(f, 0);
}

static void test_broken_protocol(void **state)
{
	struct fixture *f = *state;
	static struct wslx_link_msg m;
	char c;

	expect(f, WSLX_LINK_READY, &m);
	assert_int_equal(write(f->vsock, "garbage in here", 15), 15);
	expect(f, WSLX_LINK_FAILED, &m);
	assert_non_null(strstr(m.text, "vsock"));
	expect_exit(f, 1);
	assert_int_equal(recv(f->blk, &c, 1, 0), 0);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_serves_and_reports),       T(test_window),          T(test_ends_with_qemu),
		T(test_ends_with_the_supervisor), T(test_broken_protocol),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
