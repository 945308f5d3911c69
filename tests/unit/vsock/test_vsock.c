/* The vsock device against a driver made by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "dev/virtio/vsock.h"
#include "dev/virtio/vsock_internal.h"
#include "fake_driver.h"
#include "os/linux/fd.h"

#define CID 77
#define RX_LEN (VSOCK_HDR_LEN + 4096)
#define TX_MAX (300 * 1024)
#define GUEST_WINDOW (1024 * 1024)

struct fixture {
	struct wslx_loop *loop;
	struct wslx_vdev *d;
	struct fake_driver drv;
	char dir[64], path[96];
	uint64_t rx_gpa[WSLX_VQ_MAX_SIZE];
	uint64_t tx_gpa;
	uint32_t asked_id, asked_port;
	unsigned n_asked;
};

struct pkt {
	struct vsock_hdr h;
	uint8_t data[4096];
};

static void on_request(void *opaque, uint32_t id, uint32_t port)
{
	struct fixture *f = opaque;

	f->asked_id = id;
	f->asked_port = port;
	f->n_asked++;
}

static void start_driver(struct fixture *f)
{
	fake_driver_negotiate(&f->drv, ~0ull);
	fake_driver_queue(&f->drv, VSOCK_Q_RX, 64);
	fake_driver_queue(&f->drv, VSOCK_Q_TX, 64);
	fake_driver_queue(&f->drv, VSOCK_Q_EVENT, 4);
	fake_driver_start(&f->drv);
}

static void make(struct fixture *f, unsigned max_conns)
{
	struct wslx_vsock_params p = {
		.guest_cid = CID, .connect_request = on_request, .opaque = f, .max_conns = max_conns
	};

	memset(f, 0, sizeof(*f));
	strcpy(f->dir, "/tmp/wslx-vsock-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	assert_int_equal(wslx_loop_new(&f->loop), 0);
	p.loop = f->loop;
	p.listen_fd = wslx_unix_listen(f->path, SOCK_STREAM | SOCK_CLOEXEC, 64);
	assert_true(p.listen_fd >= 0);
	assert_int_equal(wslx_vsock_new(&p, &f->d), 0);
	fake_driver_init(&f->drv, f->d, 8 << 20);
	f->tx_gpa = fake_driver_alloc(&f->drv, TX_MAX, 16);
	start_driver(f);
}

static int setup(void **state)
{
	static struct fixture f;

	make(&f, 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fake_driver_free(&f->drv);
	f->d->ops->free(f->d);
	wslx_loop_free(f->loop);
	unlink(f->path);
	rmdir(f->dir);
	return 0;
}

static void pump(struct fixture *f)
{
	for (int i = 0; i < 8; i++)
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
}

static void add_rx(struct fixture *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct fake_buf b = { fake_driver_alloc(&f->drv, RX_LEN, 16), RX_LEN, true };
		int head = fake_driver_add(&f->drv, VSOCK_Q_RX, &b, 1, false);

		assert_true(head >= 0);
		f->rx_gpa[head] = b.gpa;
	}
	fake_driver_kick(&f->drv, VSOCK_Q_RX);
}

/* Takes a packet to the guest if there is one, and gives the buffer back. */
static bool try_rx(struct fixture *f, struct pkt *ret)
{
	uint16_t head;
	uint32_t len;
	struct fake_buf b = { 0, RX_LEN, true };
	uint8_t *p;

	pump(f);
	if (!fake_driver_used(&f->drv, VSOCK_Q_RX, &head, &len))
		return false;
	b.gpa = f->rx_gpa[head];
	p = fake_driver_ptr(&f->drv, b.gpa, RX_LEN);
	wslx_vsock_hdr_decode(p, &ret->h);
	assert_int_equal(len, VSOCK_HDR_LEN + ret->h.len);
	assert_int_equal(ret->h.src_cid, WSLX_VSOCK_HOST_CID);
	assert_int_equal(ret->h.dst_cid, CID);
	memcpy(ret->data, p + VSOCK_HDR_LEN, ret->h.len);
	head = (uint16_t)fake_driver_add(&f->drv, VSOCK_Q_RX, &b, 1, false);
	f->rx_gpa[head] = b.gpa;
	fake_driver_kick(&f->drv, VSOCK_Q_RX);
	return true;
}

static void expect_rx(struct fixture *f, enum vsock_op op, struct pkt *ret)
{
	assert_true(try_rx(f, ret));
	assert_int_equal(ret->h.op, op);
}

static void expect_silence(struct fixture *f)
{
	struct pkt p;

	assert_false(try_rx(f, &p));
}

static void tx_raw(struct fixture *f, const struct vsock_hdr *h, const void *data, uint32_t data_len)
{
	uint8_t *p = fake_driver_ptr(&f->drv, f->tx_gpa, TX_MAX);
	struct fake_buf b[2] = { { f->tx_gpa, VSOCK_HDR_LEN, false }, { f->tx_gpa + VSOCK_HDR_LEN, data_len, false } };
	uint16_t head;
	uint32_t len;

	wslx_vsock_hdr_encode(h, p);
	if (data_len)
		memcpy(p + VSOCK_HDR_LEN, data, data_len);
	assert_true(fake_driver_add(&f->drv, VSOCK_Q_TX, b, data_len ? 2 : 1, false) >= 0);
	fake_driver_kick(&f->drv, VSOCK_Q_TX);
	pump(f);
	assert_true(fake_driver_used(&f->drv, VSOCK_Q_TX, &head, &len));
	assert_int_equal(len, 0);
}

static struct vsock_hdr guest_hdr(enum vsock_op op, uint32_t guest_port, uint32_t host_port)
{
	return (struct vsock_hdr) {
		.src_cid = CID,
		.dst_cid = WSLX_VSOCK_HOST_CID,
		.src_port = guest_port,
		.dst_port = host_port,
		.type = VSOCK_TYPE_STREAM,
		.op = (uint16_t)op,
		.buf_alloc = GUEST_WINDOW,
	};
}

static void tx(struct fixture *f, enum vsock_op op, uint32_t guest_port, uint32_t host_port)
{
	struct vsock_hdr h = guest_hdr(op, guest_port, host_port);

	tx_raw(f, &h, NULL, 0);
}

static void tx_shutdown(struct fixture *f, uint32_t guest_port, uint32_t host_port, uint32_t flags)
{
	struct vsock_hdr h = guest_hdr(VSOCK_OP_SHUTDOWN, guest_port, host_port);

	h.flags = flags;
	tx_raw(f, &h, NULL, 0);
}

static void tx_data(struct fixture *f, uint32_t guest_port, uint32_t host_port, const void *data, uint32_t len)
{
	struct vsock_hdr h = guest_hdr(VSOCK_OP_RW, guest_port, host_port);

	h.len = len;
	tx_raw(f, &h, data, len);
}

/* A host client that is connected to guest port `port`. */
static int host_connect(struct fixture *f, uint32_t port, uint32_t *ret_host_port)
{
	char line[64];
	struct pkt p;
	int fd = wslx_unix_connect(f->path, SOCK_STREAM | SOCK_CLOEXEC);
	int n = snprintf(line, sizeof(line), "CONNECT %u\n", port);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, line, (size_t)n), n);
	expect_rx(f, VSOCK_OP_REQUEST, &p);
	assert_int_equal(p.h.dst_port, port);
	assert_true(p.h.buf_alloc > 0);
	*ret_host_port = p.h.src_port;
	tx(f, VSOCK_OP_RESPONSE, port, p.h.src_port);
	n = (int)recv(fd, line, sizeof(line) - 1, MSG_DONTWAIT);
	assert_true(n > 0);
	line[n] = '\0';
	assert_string_equal(strncmp(line, "OK ", 3) == 0 ? "OK " : line, "OK ");
	assert_int_equal(strtoul(line + 3, NULL, 10), p.h.src_port);
	return fd;
}

/* A guest connection to host port 1024; returns the host's end. */
static int guest_connect(struct fixture *f, uint32_t guest_port)
{
	struct pkt p;
	int sv[2];
	unsigned n = f->n_asked;

	tx(f, VSOCK_OP_REQUEST, guest_port, 1024);
	assert_int_equal(f->n_asked, n + 1);
	assert_int_equal(f->asked_port, 1024);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	wslx_vsock_connect_done(f->d, f->asked_id, sv[0]);
	expect_rx(f, VSOCK_OP_RESPONSE, &p);
	assert_int_equal(p.h.dst_port, guest_port);
	return sv[1];
}

static uint64_t stat_of(struct fixture *f, const char *name)
{
	struct wslx_stat st[32];
	size_t n = f->d->ops->stats(f->d, st, 32);

	for (size_t i = 0; i < n; i++) {
		if (strcmp(st[i].name, name) == 0)
			return st[i].value;
	}
	fail();
	return 0;
}

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

static void fill_pattern(uint8_t *p, size_t n, size_t pos)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)((pos + i) * 7 >> 2);
}

/* The host does not read: the guest fills its window and no more; then all
 * arrives in order, with credit updates, and the end of file after it. */
static void test_backlog_and_window(void **state)
{
	struct fixture *f = *state;
	static uint8_t block[32 * 1024], got[1024 * 1024], want[1024 * 1024];
	size_t sent = 0, have = 0;
	uint32_t window, fwd = 0;
	struct pkt p;
	int fd;

	add_rx(f, 8);
	fd = guest_connect(f, 800);
	window = CONTAINER_OF(f->d, struct wslx_vsock, d)->conns[0].buf_alloc;
	assert_int_equal(window, 256 * 1024);
	/* The socket's own buffer takes some, then the window fills. */
	for (;;) {
		while (try_rx(f, &p))
			fwd = p.h.fwd_cnt;
		if (sent + sizeof(block) - fwd > window)
			break;
		fill_pattern(block, sizeof(block), sent);
		tx_data(f, 800, 1024, block, sizeof(block));
		sent += sizeof(block);
		assert_true(sent <= sizeof(got));
	}
	assert_true(sent >= window);
	tx_shutdown(f, 800, 1024, VSOCK_SHUT_BOTH);
	expect_rx(f, VSOCK_OP_RST, &p);
	assert_int_equal(stat_of(f, "connections"), 1); /* lingers */
	for (;;) {
		ssize_t n = recv(fd, got + have, sizeof(got) - have, MSG_DONTWAIT);

		if (n == 0)
			break;
		if (n > 0)
			have += (size_t)n;
		pump(f);
	}
	assert_int_equal(have, sent);
	fill_pattern(want, sent, 0);
	assert_memory_equal(got, want, sent);
	assert_int_equal(stat_of(f, "connections"), 0);
	close(fd);
}

static void test_window_violation(void **state)
{
	struct fixture *f = *state;
	static uint8_t block[64 * 1024];
	struct pkt p = { 0 };
	int fd;

	add_rx(f, 16);
	fd = guest_connect(f, 801);
	for (int i = 0; i < 20 && p.h.op != VSOCK_OP_RST; i++) {
		tx_data(f, 801, 1024, block, sizeof(block));
		while (p.h.op != VSOCK_OP_RST && try_rx(f, &p))
			;
	}
	assert_int_equal(p.h.op, VSOCK_OP_RST);
	assert_int_equal(stat_of(f, "connections"), 0);
	close(fd);
}

static void test_credit_updates(void **state)
{
	struct fixture *f = *state;
	static uint8_t block[64 * 1024];
	struct pkt p;
	int fd;

	add_rx(f, 8);
	fd = guest_connect(f, 802);
	tx_data(f, 802, 1024, block, sizeof(block));
	while (recv(fd, block, sizeof(block), MSG_DONTWAIT) > 0)
		;
	expect_silence(f); /* less than half a window: not worth a packet */
	tx_data(f, 802, 1024, block, sizeof(block));
	expect_rx(f, VSOCK_OP_CREDIT_UPDATE, &p);
	assert_int_equal(p.h.fwd_cnt, 2 * sizeof(block));
	tx(f, VSOCK_OP_CREDIT_REQUEST, 802, 1024);
	expect_rx(f, VSOCK_OP_CREDIT_UPDATE, &p);
	close(fd);
}

/* The guest's window: nothing beyond it, one request for more, no polling. */
static void test_guest_credit(void **state)
{
	struct fixture *f = *state;
	struct vsock_hdr h = guest_hdr(VSOCK_OP_CREDIT_UPDATE, 803, 1024);
	struct pkt p;
	int fd;

	add_rx(f, 8);
	fd = guest_connect(f, 803);
	h.buf_alloc = 10;
	tx_raw(f, &h, NULL, 0);
	assert_int_equal(write(fd, "0123456789abcdef", 16), 16);
	expect_rx(f, VSOCK_OP_RW, &p);
	assert_int_equal(p.h.len, 10);
	expect_rx(f, VSOCK_OP_CREDIT_REQUEST, &p);
	expect_silence(f);
	tx_raw(f, &h, NULL, 0); /* an answer that grants nothing starts no ping-pong */
	expect_silence(f);
	h.fwd_cnt = 8;
	tx_raw(f, &h, NULL, 0);
	expect_rx(f, VSOCK_OP_RW, &p);
	assert_int_equal(p.h.len, 6);
	assert_memory_equal(p.data, "abcdef", 6);
	/* Credit that went backwards, and a window that shrank. */
	h.fwd_cnt = 1000;
	h.buf_alloc = 1;
	tx_raw(f, &h, NULL, 0);
	assert_int_equal(write(fd, "x", 1), 1);
	pump(f);
	close(fd);
}

static void test_turns(void **state)
{
	struct fixture *f = *state;
	static uint8_t block[64 * 1024];
	struct pkt p;
	unsigned seen[2] = { 0 };
	int a, b;

	add_rx(f, 2);
	a = guest_connect(f, 810);
	b = guest_connect(f, 811);
	assert_int_equal(send(a, block, sizeof(block), MSG_DONTWAIT), sizeof(block));
	assert_int_equal(send(b, block, sizeof(block), MSG_DONTWAIT), sizeof(block));
	for (int i = 0; i < 16; i++) {
		expect_rx(f, VSOCK_OP_RW, &p);
		seen[p.h.dst_port - 810]++;
	}
	assert_true(seen[0] >= 6 && seen[1] >= 6);
	close(a);
	close(b);
}

static void test_lies(void **state)
{
	struct fixture *f = *state;
	struct vsock_hdr h;
	struct pkt p;
	uint8_t junk[100] = { 0 };
	struct fake_buf b = { f->tx_gpa, 20, false };
	uint16_t head;
	uint32_t len;

	add_rx(f, 8);
	h = guest_hdr(VSOCK_OP_REQUEST, 1, 1024); /* somebody else's CID */
	h.src_cid = CID + 1;
	tx_raw(f, &h, NULL, 0);
	expect_silence(f);
	h = guest_hdr(VSOCK_OP_RW, 1, 1024); /* longer than its buffers */
	h.len = 101;
	tx_raw(f, &h, junk, sizeof(junk));
	h.len = UINT32_MAX;
	tx_raw(f, &h, junk, sizeof(junk));
	expect_silence(f);
	h = guest_hdr(VSOCK_OP_RW, 1, 1024); /* no such connection */
	tx_raw(f, &h, NULL, 0);
	expect_rx(f, VSOCK_OP_RST, &p);
	assert_int_equal(p.h.src_port, 1024);
	assert_int_equal(p.h.dst_port, 1);
	h = guest_hdr(VSOCK_OP_RST, 1, 1024); /* no RST for an RST */
	tx_raw(f, &h, NULL, 0);
	expect_silence(f);
	h = guest_hdr(VSOCK_OP_REQUEST, 1, 1024); /* a type we do not speak */
	h.type = 2;
	tx_raw(f, &h, NULL, 0);
	expect_rx(f, VSOCK_OP_RST, &p);
	assert_int_equal(p.h.type, 2);
	/* A header cut short. */
	assert_true(fake_driver_add(&f->drv, VSOCK_Q_TX, &b, 1, false) >= 0);
	fake_driver_kick(&f->drv, VSOCK_Q_TX);
	pump(f);
	assert_true(fake_driver_used(&f->drv, VSOCK_Q_TX, &head, &len));
	expect_silence(f);
	assert_int_equal(f->n_asked, 0);
	assert_false(f->d->broken);
}

static void test_foreign_cid_is_refused(void **state)
{
	struct fixture *f = *state;
	struct vsock_hdr h = guest_hdr(VSOCK_OP_REQUEST, 5, 6);
	uint16_t head;
	uint32_t len;
	uint8_t *q;

	add_rx(f, 1);
	h.dst_cid = 9;
	tx_raw(f, &h, NULL, 0);
	pump(f);
	assert_true(fake_driver_used(&f->drv, VSOCK_Q_RX, &head, &len));
	q = fake_driver_ptr(&f->drv, f->rx_gpa[head], RX_LEN);
	wslx_vsock_hdr_decode(q, &h);
	assert_int_equal(h.op, VSOCK_OP_RST);
	assert_int_equal(h.src_cid, 9);
}

static void test_wrong_state(void **state)
{
	static const enum vsock_op bad[] = { VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE, VSOCK_OP_INVALID, (enum vsock_op)99 };
	struct fixture *f = *state;
	struct pkt p;
	char c;

	add_rx(f, 8);
	for (uint32_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = guest_connect(f, 900 + i);

		tx(f, bad[i], 900 + i, 1024);
		expect_rx(f, VSOCK_OP_RST, &p);
		assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), 0);
		close(fd);
	}
	/* Data and responses before the owner has answered. */
	for (uint32_t i = 0; i < 2; i++) {
		tx(f, VSOCK_OP_REQUEST, 910 + i, 1024);
		tx(f, i ? VSOCK_OP_RW : VSOCK_OP_RESPONSE, 910 + i, 1024);
		expect_rx(f, VSOCK_OP_RST, &p);
		wslx_vsock_connect_done(f->d, f->asked_id, -1);
		expect_silence(f);
	}
	/* Data after the guest's own end of file. */
	close(guest_connect(f, 920));
	while (try_rx(f, &p))
		;
	tx_data(f, 920, 1024, "x", 1);
	tx_shutdown(f, 920, 1024, VSOCK_SHUT_SEND);
	tx_data(f, 920, 1024, "x", 1);
	pump(f);
	assert_int_equal(CONTAINER_OF(f->d, struct wslx_vsock, d)->n_unanswered, 0);
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

/* Answers that find no receive buffers stop the transmit queue, and no more. */
static void test_answers_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct fake_buf b = { f->tx_gpa, VSOCK_HDR_LEN, false };
	struct vsock_hdr h = guest_hdr(VSOCK_OP_RW, 1, 1);
	unsigned sent = 0, done = 0, answers = 0;
	struct pkt p;
	uint16_t head;
	uint32_t len;

	wslx_vsock_hdr_encode(&h, fake_driver_ptr(&f->drv, f->tx_gpa, VSOCK_HDR_LEN));
	while (sent < VSOCK_RST_RING + 50) {
		while (sent < VSOCK_RST_RING + 50 && fake_driver_add(&f->drv, VSOCK_Q_TX, &b, 1, false) >= 0)
			sent++;
		fake_driver_kick(&f->drv, VSOCK_Q_TX);
		pump(f);
		while (fake_driver_used(&f->drv, VSOCK_Q_TX, &head, &len))
			done++;
	}
	assert_int_equal(done, VSOCK_RST_RING);
	add_rx(f, 16);
	while (try_rx(f, &p))
		answers++;
	while (fake_driver_used(&f->drv, VSOCK_Q_TX, &head, &len))
		done++;
	assert_int_equal(done, sent);
	assert_int_equal(answers, sent);
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

static void test_broken_queue(void **state)
{
	struct fixture *f = *state;

	fake_driver_publish(&f->drv, VSOCK_Q_TX, 9999);
	fake_driver_kick(&f->drv, VSOCK_Q_TX);
	pump(f);
	assert_true(f->d->broken);
	assert_int_equal(f->drv.needs_reset, 1);
	fake_driver_stop(&f->drv);
	start_driver(f);
	add_rx(f, 4);
	close(guest_connect(f, 1));
}

static void test_small_rx_buffer(void **state)
{
	struct fixture *f = *state;
	struct fake_buf b = { fake_driver_alloc(&f->drv, 44, 4), 44, true };

	assert_true(fake_driver_add(&f->drv, VSOCK_Q_RX, &b, 1, false) >= 0);
	fake_driver_kick(&f->drv, VSOCK_Q_RX);
	tx(f, VSOCK_OP_RW, 1, 1);
	assert_true(f->d->broken);
}

/* Bulk data in both directions through several connections at once. */
static void test_bulk(void **state)
{
	struct fixture *f = *state;
	enum { N = 20 };
	static uint8_t block[16384];
	int fd[N];
	size_t sent[N] = { 0 }, got[N] = { 0 };
	uint32_t fwd[N] = { 0 };
	bool busy = true;

	add_rx(f, 32);
	for (uint32_t i = 0; i < N; i++)
		fd[i] = guest_connect(f, 2000 + i);
	while (busy) {
		struct pkt p;

		busy = false;
		for (uint32_t i = 0; i < N; i++) {
			ssize_t n;

			if (sent[i] == 10 * sizeof(block))
				continue;
			busy = true;
			fill_pattern(block, sizeof(block), sent[i]);
			n = send(fd[i], block, sizeof(block), MSG_DONTWAIT);
			if (n > 0)
				sent[i] += (size_t)n;
		}
		while (try_rx(f, &p)) {
			uint32_t i = p.h.dst_port - 2000;
			struct vsock_hdr h = guest_hdr(VSOCK_OP_CREDIT_UPDATE, p.h.dst_port, 1024);

			if (p.h.op != VSOCK_OP_RW)
				continue;
			fill_pattern(block, p.h.len, got[i]);
			assert_memory_equal(p.data, block, p.h.len);
			got[i] += p.h.len;
			fwd[i] += p.h.len;
			h.fwd_cnt = fwd[i];
			tx_raw(f, &h, NULL, 0);
		}
	}
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(got[i], sent[i]);
		close(fd[i]);
	}
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
		T(test_backlog_and_window),
		T(test_window_violation),
		T(test_credit_updates),
		T(test_guest_credit),
		T(test_turns),
		T(test_lies),
		T(test_foreign_cid_is_refused),
		T(test_wrong_state),
		T(test_host_closes),
		T(test_guest_stops_reading),
		T(test_answers_are_bounded),
		T(test_reset),
		T(test_quiesce),
		T(test_slots_are_bounded),
		T(test_broken_queue),
		T(test_small_rx_buffer),
		T(test_bulk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
