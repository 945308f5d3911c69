/* The link between supervisor and child, and the child's parameters. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "os/linux/fd.h"
#include "vmm/child.h"
#include "vmm/link.h"

static int setup(void **state)
{
	int *pair = test_malloc(2 * sizeof(int));

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	*state = pair;
	return 0;
}

static int teardown(void **state)
{
	int *pair = *state;

	close(pair[0]);
	close(pair[1]);
	test_free(pair);
	return 0;
}

static void test_round_trip(void **state)
{
	struct wslx_link_msg out = { .type = WSLX_LINK_STATS_REPLY, .id = 7, .a = 1ull << 40, .b = 3, .fd = -1 };
	struct wslx_link_msg in;
	int *pair = *state;

	memset(out.text, 't', WSLX_LINK_TEXT_MAX);
	out.text_len = WSLX_LINK_TEXT_MAX;
	assert_int_equal(wslx_link_recv(pair[1], &in), -EAGAIN);
	assert_int_equal(wslx_link_send(pair[0], &out), 0);
	assert_int_equal(wslx_link_recv(pair[1], &in), 1);
	assert_int_equal(in.type, out.type);
	assert_int_equal(in.id, 7);
	assert_true(in.a == 1ull << 40 && in.b == 3);
	assert_int_equal(in.text_len, WSLX_LINK_TEXT_MAX);
	assert_int_equal(strlen(in.text), WSLX_LINK_TEXT_MAX);
	assert_int_equal(in.fd, -1);
	out.text_len++;
	assert_int_equal(wslx_link_send(pair[0], &out), -EMSGSIZE);
}

static void test_descriptor(void **state)
{
	struct wslx_link_msg out = { .type = WSLX_LINK_NET_FD }, in;
	int *pair = *state, fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	out.fd = fds[1];
	assert_int_equal(wslx_link_send(pair[0], &out), 0);
	assert_int_equal(wslx_link_recv(pair[1], &in), 1);
	assert_true(in.fd >= 0 && in.fd != fds[1]);
	assert_true(fcntl(in.fd, F_GETFD) & FD_CLOEXEC);
	close(in.fd);
	out.fd = -1;
	assert_int_equal(wslx_link_send(pair[0], &out), -EBADF);
	/* Types without one never carry one, whatever the field says. */
	out = (struct wslx_link_msg) { .type = WSLX_LINK_STOP, .fd = fds[0] };
	assert_int_equal(wslx_link_send(pair[0], &out), 0);
	assert_int_equal(wslx_link_recv(pair[1], &in), 1);
	assert_int_equal(in.fd, -1);
	close(fds[0]);
	close(fds[1]);
}

static void raw_send(int sock, const void *buf, size_t n, int fd)
{
	assert_int_equal(wslx_send_fds(sock, buf, n, &fd, fd >= 0, 0), n);
}

static void test_malformed(void **state)
{
	uint8_t buf[28 + WSLX_LINK_TEXT_MAX + 2] = { 0 };
	struct wslx_link_msg in;
	int *pair = *state;

	wslx_put_le32(buf, WSLX_LINK_STOP);
	raw_send(pair[0], buf, 27, -1); /* short */
	assert_int_equal(wslx_link_recv(pair[1], &in), -EPROTO);
	wslx_put_le32(buf + 24, 1); /* text that is not there */
	raw_send(pair[0], buf, 28, -1);
	assert_int_equal(wslx_link_recv(pair[1], &in), -EPROTO);
	wslx_put_le32(buf + 24, UINT32_MAX);
	raw_send(pair[0], buf, 29, -1);
	assert_int_equal(wslx_link_recv(pair[1], &in), -EPROTO);
	wslx_put_le32(buf + 24, WSLX_LINK_TEXT_MAX + 1); /* too much text */
	raw_send(pair[0], buf, 28 + WSLX_LINK_TEXT_MAX + 1, -1);
	assert_int_equal(wslx_link_recv(pair[1], &in), -EPROTO);
	wslx_put_le32(buf + 24, 0); /* a descriptor where none belongs */
	raw_send(pair[0], buf, 28, STDERR_FILENO);
	assert_int_equal(wslx_link_recv(pair[1], &in), -EPROTO);
	wslx_put_le32(buf, WSLX_LINK_NET_FD); /* and none where one does */
	raw_send(pair[0], buf, 28, -1);
	assert_int_equal(wslx_link_recv(pair[1], &in), -EPROTO);
	close(pair[0]);
	assert_int_equal(wslx_link_recv(pair[1], &in), 0);
	pair[0] = dup(pair[1]);
}

static struct wslx_child_disk disks[] = {
	{ .fd = 20, .base_fd = -1, .format = WSLX_DISK_RAW, .serial = "root", .queues = 2, .vhost_fd = -1 },
	{ .fd = 21,
	  .base_fd = 22,
	  .format = WSLX_DISK_OVERLAY,
	  .readonly = true,
	  .no_sync = true,
	  .serial = "0123456789abcdefghij",
	  .vhost_fd = 30 },
};

static const struct wslx_child_params sample = {
	.link_fd = 3,
	.console_fd = 4,
	.vsock_fd = 5,
	.vsock_vhost_fd = -1,
	.guest_cid = 42,
	.disks = disks,
	.n_disks = ARRAY_SIZE(disks),
	.cpus = 2,
	.memory = 512 * WSLX_MIB,
	.kvm_fd = 6,
	.kernel_fd = 7,
	.initramfs_fd = -1,
	.cmdline = (char *)"console=ttyS0 \"quoted\"",
	.net_mode = WSLX_NET_PASST,
	.net_fd = 8,
	.mac = { 0x52, 0x54, 0, 0xab, 0xcd, 0xef },
	.test_hooks = true,
};

static void test_params(void **state)
{
	struct wslx_child_params *p;
	struct wslx_err err;
	char *json;

	assert_int_equal(wslx_child_params_encode(&sample, &json), 0);
	assert_int_equal(wslx_child_params_decode(json, strlen(json), &p, &err), 0);
	free(json);
	assert_int_equal(p->link_fd, 3);
	assert_int_equal(p->console_fd, 4);
	assert_int_equal(p->vsock_fd, 5);
	assert_int_equal(p->vsock_vhost_fd, -1);
	assert_true(p->guest_cid == 42);
	assert_int_equal(p->n_disks, 2);
	assert_int_equal(p->disks[0].queues, 2);
	assert_false(p->disks[0].readonly);
	assert_false(p->disks[0].no_sync);
	assert_true(p->disks[1].no_sync);
	assert_int_equal(p->disks[1].base_fd, 22);
	assert_int_equal(p->disks[1].format, WSLX_DISK_OVERLAY);
	assert_true(p->disks[1].readonly);
	assert_string_equal(p->disks[1].serial, "0123456789abcdefghij");
	assert_int_equal(p->disks[1].vhost_fd, 30);
	assert_int_equal(p->cpus, 2);
	assert_true(p->memory == 512 * WSLX_MIB);
	assert_false(p->shared_memory);
	assert_int_equal(p->kernel_fd, 7);
	assert_int_equal(p->initramfs_fd, -1);
	assert_string_equal(p->cmdline, sample.cmdline);
	assert_int_equal(p->net_mode, WSLX_NET_PASST);
	assert_memory_equal(p->mac, sample.mac, 6);
	assert_false(p->no_io_uring);
	assert_true(p->test_hooks);
	wslx_child_params_free(p);
	wslx_child_params_free(NULL);
}

/* Each replacement makes the sample wrong. */
static void test_bad_params(void **state)
{
	static const struct {
		const char *find, *put;
	} cases[] = {
		{ "\"link_fd\":3", "\"link_fd\":-2" },
		{ "\"link_fd\":3", "\"link_fd\":\"3\"" },
		{ "\"link_fd\":3", "\"link_xx\":3" },
		{ "\"link_fd\":3", "\"link_fd\":3,\"extra\":1" },
		{ "\"link_fd\":3", "\"link_fd\":99999" },
		{ "\"guest_cid\":42", "\"guest_cid\":2" },
		{ "\"guest_cid\":42", "\"guest_cid\":-1" },
		{ "\"cpus\":2", "\"cpus\":65" },
		{ "\"cpus\":2", "\"cpus\":-1" },
		{ "\"net_mode\":1", "\"net_mode\":9" },
		{ "52:54:00:ab:cd:ef", "52:54:00:ab:cd:eg" },
		{ "52:54:00:ab:cd:ef", "52:54:00:ab:cd" },
		{ "52:54:00:ab:cd:ef", "52:54:00:ab:cd: f" },
		{ "0123456789abcdefghij", "0123456789abcdefghijk" },
		{ "\"format\":1", "\"format\":2" },
		{ "\"queues\":2", "\"queues\":1000" },
		{ "\"base_fd\":22", "\"base_fd\":-7" },
		{ "{", "" },
	};
	char *json, bad[4096];

	assert_int_equal(wslx_child_params_encode(&sample, &json), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *at = strstr(json, cases[i].find);
		struct wslx_child_params *p;
		struct wslx_err err = { 0 };

		assert_non_null(at);
		snprintf(bad, sizeof(bad), "%.*s%s%s", (int)(at - json), json, cases[i].put,
			 at + strlen(cases[i].find));
		assert_int_equal(wslx_child_params_decode(bad, strlen(bad), &p, &err), -EINVAL);
		assert_true(strlen(err.msg) > 0);
	}
	free(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_descriptor, setup, teardown),
		cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
		cmocka_unit_test(test_params),
		cmocka_unit_test(test_bad_params),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
