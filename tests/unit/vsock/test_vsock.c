/* The vsock device against a driver made by hand: how connections begin and end. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "support.h"

static void test_config(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fake_driver_config(&f->drv, 0, 8), CID);
	assert_int_equal(f->d->id, WSLX_VIRTIO_ID_VSOCK);
}

static void test_host_connects(void **state)
{
	struct fixture *f = *state;
	uint32_t hp;
	struct pkt p;
	char buf[64];
	int fd;

	add_rx(f, 8);
	fd = host_connect(f, 5000, &hp);
	assert_int_equal(write(fd, "to guest", 8), 8);
	expect_rx(f, VSOCK_OP_RW, &p);
	assert_int_equal(p.h.len, 8);
	assert_memory_equal(p.data, "to guest", 8);
	tx_data(f, 5000, hp, "to host", 7);
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 7);
	assert_memory_equal(buf, "to host", 7);
	/* Host half-closes, guest still sends, then closes. */
	shutdown(fd, SHUT_WR);
	expect_rx(f, VSOCK_OP_SHUTDOWN, &p);
	assert_int_equal(p.h.flags, VSOCK_SHUT_SEND);
	tx_data(f, 5000, hp, "last", 4);
	tx_shutdown(f, 5000, hp, VSOCK_SHUT_BOTH);
	expect_rx(f, VSOCK_OP_RST, &p);
	assert_int_equal(p.h.src_port, hp);
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 4);
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 0);
	close(fd);
	expect_silence(f);
	assert_int_equal(stat_of(f, "connections"), 0);
}

static void test_guest_refuses(void **state)
{
	struct fixture *f = *state;
	cleanup_close int fd = wslx_unix_connect(f->path, SOCK_STREAM | SOCK_CLOEXEC);
	struct pkt p;
	char c;

	add_rx(f, 8);
	assert_int_equal(write(fd, "CONNECT 9\n", 10), 10);
	expect_rx(f, VSOCK_OP_REQUEST, &p);
	tx(f, VSOCK_OP_RST, 9, p.h.src_port);
	assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), 0);
	assert_int_equal(stat_of(f, "connections"), 0);
}

static void test_bad_lines(void **state)
{
	static const char *const bad[] = { "CONNECT x\n",
					   "CONNECT \n",
					   "CONNECT 4294967295\n",
					   "connect 1\n",
					   "\n",
					   "CONNECT 1 \n",
					   "CONNECT 00000000000000000000000001\n" };
	struct fixture *f = *state;
	char c;

	add_rx(f, 8);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cleanup_close int fd = wslx_unix_connect(f->path, SOCK_STREAM | SOCK_CLOEXEC);

		assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
		pump(f);
		assert_true(recv(fd, &c, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET);
	}
	expect_silence(f);
}

static void test_line_in_pieces_and_early_data(void **state)
{
	struct fixture *f = *state;
	cleanup_close int fd = wslx_unix_connect(f->path, SOCK_STREAM | SOCK_CLOEXEC);
	struct pkt p;

	add_rx(f, 8);
	assert_int_equal(write(fd, "CONN", 4), 4);
	expect_silence(f);
	assert_int_equal(write(fd, "ECT 10\nearly", 12), 12);
	expect_rx(f, VSOCK_OP_REQUEST, &p);
	tx(f, VSOCK_OP_RESPONSE, 10, p.h.src_port);
	expect_rx(f, VSOCK_OP_RW, &p);
	assert_memory_equal(p.data, "early", 5);
	assert_int_equal(p.h.len, 5);
}

static void test_clients_are_bounded(void **state)
{
	struct fixture *f = *state;
	int fds[VSOCK_MAX_CLIENTS + 1];
	struct pkt p;

	add_rx(f, 8);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = wslx_unix_connect(f->path, SOCK_STREAM | SOCK_CLOEXEC);
		pump(f);
	}
	assert_int_equal(CONTAINER_OF(f->d, struct wslx_vsock, d)->n_clients, VSOCK_MAX_CLIENTS);
	assert_int_equal(write(fds[VSOCK_MAX_CLIENTS], "CONNECT 3\n", 10), 10);
	expect_silence(f);
	close(fds[0]); /* makes room */
	expect_rx(f, VSOCK_OP_REQUEST, &p);
	for (size_t i = 1; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

static void test_guest_connects(void **state)
{
	struct fixture *f = *state;
	struct pkt p;
	char buf[8];
	int fd;

	add_rx(f, 8);
	fd = guest_connect(f, 600);
	tx_data(f, 600, 1024, "abc", 3);
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 3);
	/* Both ends half-close: the device ends the connection. */
	tx_shutdown(f, 600, 1024, VSOCK_SHUT_SEND);
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 0);
	expect_silence(f);
	assert_int_equal(write(fd, "xy", 2), 2);
	shutdown(fd, SHUT_WR);
	expect_rx(f, VSOCK_OP_RW, &p);
	expect_rx(f, VSOCK_OP_SHUTDOWN, &p);
	assert_int_equal(p.h.flags, VSOCK_SHUT_BOTH);
	tx(f, VSOCK_OP_RST, 600, 1024);
	expect_silence(f);
	assert_int_equal(stat_of(f, "connections"), 0);
	close(fd);
	/* The port is free again. */
	close(guest_connect(f, 600));
}

static void test_guest_connect_refused_or_abandoned(void **state)
{
	struct fixture *f = *state;
	struct pkt p;
	uint32_t id;
	int sv[2];
	char c;

	add_rx(f, 8);
	tx(f, VSOCK_OP_REQUEST, 700, 1024);
	wslx_vsock_connect_done(f->d, f->asked_id, -1);
	expect_rx(f, VSOCK_OP_RST, &p);
	assert_int_equal(p.h.dst_port, 700);

	tx(f, VSOCK_OP_REQUEST, 701, 1024);
	id = f->asked_id;
	tx(f, VSOCK_OP_RST, 701, 1024);
	/* The same port at once, while the first answer is outstanding. */
	tx(f, VSOCK_OP_REQUEST, 701, 1024);
	assert_int_equal(f->n_asked, 3);
	assert_int_not_equal(f->asked_id, id);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	wslx_vsock_connect_done(f->d, id, sv[0]);
	assert_int_equal(recv(sv[1], &c, 1, MSG_DONTWAIT), 0);
	close(sv[1]);
	wslx_vsock_connect_done(f->d, id, -1); /* twice is once too often: ignored */
	expect_silence(f);
	wslx_vsock_connect_done(f->d, f->asked_id, -1);
	expect_rx(f, VSOCK_OP_RST, &p);
	/* Nonsense ids. */
	wslx_vsock_connect_done(f->d, 0xffffffff, -1);
	wslx_vsock_connect_done(f->d, 0, -1);
	assert_int_equal(stat_of(f, "connections"), 0);
}

static void test_unanswered_requests_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct pkt p;

	add_rx(f, 8);
	for (uint32_t i = 0; i < VSOCK_MAX_UNANSWERED; i++) {
		tx(f, VSOCK_OP_REQUEST, 1000 + i, 1024);
		tx(f, VSOCK_OP_RST, 1000 + i, 1024); /* leaving does not help */
	}
	assert_int_equal(f->n_asked, VSOCK_MAX_UNANSWERED);
	tx(f, VSOCK_OP_REQUEST, 999, 1024);
	assert_int_equal(f->n_asked, VSOCK_MAX_UNANSWERED);
	expect_rx(f, VSOCK_OP_RST, &p);
	wslx_vsock_connect_done(f->d, f->asked_id, -1);
	tx(f, VSOCK_OP_REQUEST, 999, 1024);
	assert_int_equal(f->n_asked, VSOCK_MAX_UNANSWERED + 1);
}

static void test_host_closes(void **state)
{
	struct fixture *f = *state;
	struct pkt p;
	int fd;

	add_rx(f, 8);
	fd = guest_connect(f, 930);
	assert_int_equal(write(fd, "rest", 4), 4);
	close(fd);
	/* What was written before still arrives, then both directions end. */
	do {
		assert_true(try_rx(f, &p));
		if (p.h.op == VSOCK_OP_RW)
			assert_memory_equal(p.data, "rest", 4);
	} while (p.h.op != VSOCK_OP_SHUTDOWN || p.h.flags != VSOCK_SHUT_BOTH);
	tx_data(f, 930, 1024, "late", 4); /* into the void, not an error */
	expect_silence(f);
	tx(f, VSOCK_OP_RST, 930, 1024);
	assert_int_equal(stat_of(f, "connections"), 0);
}

static void test_guest_stops_reading(void **state)
{
	struct fixture *f = *state;
	struct pkt p;
	int fd;

	add_rx(f, 8);
	fd = guest_connect(f, 931);
	tx_shutdown(f, 931, 1024, VSOCK_SHUT_RCV);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT), -1);
	assert_int_equal(errno, EPIPE);
	expect_rx(f, VSOCK_OP_SHUTDOWN, &p);
	assert_int_equal(p.h.flags, VSOCK_SHUT_SEND);
	close(fd);
}

static void expect_event(struct fixture *f)
{
	struct fake_buf b = { fake_driver_alloc(&f->drv, 4, 4), 4, true };
	uint16_t head;
	uint32_t len;

	memset(fake_driver_ptr(&f->drv, b.gpa, 4), 0xff, 4);
	assert_true(fake_driver_add(&f->drv, VSOCK_Q_EVENT, &b, 1, false) >= 0);
	fake_driver_kick(&f->drv, VSOCK_Q_EVENT);
	pump(f);
	assert_true(fake_driver_used(&f->drv, VSOCK_Q_EVENT, &head, &len));
	assert_int_equal(len, 4);
	assert_int_equal(wslx_get_le32(fake_driver_ptr(&f->drv, b.gpa, 4)), 0);
}

static void test_reset(void **state)
{
	struct fixture *f = *state;
	uint32_t hp;
	char c;
	int a, b;

	add_rx(f, 8);
	a = guest_connect(f, 950);
	b = host_connect(f, 951, &hp);
	tx(f, VSOCK_OP_REQUEST, 952, 1024);
	tx_data(f, 950, 1024, "out", 3);
	fake_driver_stop(&f->drv);
	wslx_vsock_connect_done(f->d, f->asked_id, -1);
	assert_int_equal(recv(a, &c, 1, MSG_DONTWAIT), 1); /* was delivered before */
	assert_int_equal(recv(b, &c, 1, MSG_DONTWAIT), 0);
	assert_int_equal(stat_of(f, "connections"), 0);
	close(a);
	close(b);
	/* Without a driver clients are turned away. */
	a = wslx_unix_connect(f->path, SOCK_STREAM | SOCK_CLOEXEC);
	assert_int_equal(write(a, "CONNECT 5\n", 10), 10);
	pump(f);
	assert_int_equal(recv(a, &c, 1, MSG_DONTWAIT), 0);
	close(a);
	start_driver(f);
	expect_event(f);
	add_rx(f, 8);
	close(guest_connect(f, 950));
}

static void test_quiesce(void **state)
{
	struct fixture *f = *state;
	struct pkt p;
	int fd;

	add_rx(f, 8);
	fd = guest_connect(f, 960);
	f->d->ops->quiesce(f->d);
	assert_int_equal(write(fd, "held", 4), 4);
	expect_silence(f);
	f->d->ops->resume(f->d);
	expect_rx(f, VSOCK_OP_RW, &p);
	close(fd);
}

static void test_slots_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct pkt p;
	int fds[4];

	teardown(state);
	make(f, 4);
	add_rx(f, 8);
	for (uint32_t i = 0; i < 4; i++)
		fds[i] = guest_connect(f, 1 + i);
	tx(f, VSOCK_OP_REQUEST, 50, 1024);
	expect_rx(f, VSOCK_OP_RST, &p);
	assert_int_equal(f->n_asked, 4);
	tx_shutdown(f, 2, 1024, VSOCK_SHUT_BOTH);
	expect_rx(f, VSOCK_OP_RST, &p);
	close(guest_connect(f, 50));
	for (unsigned i = 0; i < 4; i++)
		close(fds[i]);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_config),
		T(test_host_connects),
		T(test_guest_refuses),
		T(test_bad_lines),
		T(test_line_in_pieces_and_early_data),
		T(test_clients_are_bounded),
		T(test_guest_connects),
		T(test_guest_connect_refused_or_abandoned),
		T(test_unanswered_requests_are_bounded),
		T(test_host_closes),
		T(test_guest_stops_reading),
		T(test_reset),
		T(test_quiesce),
		T(test_slots_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
