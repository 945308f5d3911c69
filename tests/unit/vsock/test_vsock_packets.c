/* The vsock device against a driver made by hand: data, credit, and hostile packets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "support.h"

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

static struct fixture *flooded;

/* In place of on_request: the owner refuses, and the guest asks again. */
static void ask_again(void *opaque, uint32_t id, uint32_t port)
{
	struct vsock_hdr h = guest_hdr(VSOCK_OP_REQUEST, ++flooded->n_asked, 1024);
	struct fake_buf b = { flooded->tx_gpa, VSOCK_HDR_LEN, false };
	uint16_t head;
	uint32_t len;

	assert_true(flooded->n_asked < 10000);
	wslx_vsock_connect_done(flooded->d, id, -1);
	wslx_vsock_hdr_encode(&h, fake_driver_ptr(&flooded->drv, b.gpa, VSOCK_HDR_LEN));
	(void)fake_driver_used(&flooded->drv, VSOCK_Q_TX, &head, &len);
	assert_true(fake_driver_add(&flooded->drv, VSOCK_Q_TX, &b, 1, false) >= 0);
}

static void on_turn(struct wslx_timer *t, void *opaque)
{
	++*(unsigned *)opaque;
	wslx_timer_arm(t, 0);
}

/* The guest always has another packet: others on the loop get their turn. */
static void test_loop_turns(void **state)
{
	struct fixture *f = *state;
	struct vsock_hdr h = guest_hdr(VSOCK_OP_REQUEST, 0, 1024);
	struct fake_buf b = { 0, VSOCK_HDR_LEN, false };
	struct wslx_timer *t;
	unsigned turns = 0;

	teardown(state);
	make(f, 4096);
	CONTAINER_OF(f->d, struct wslx_vsock, d)->connect_request = ask_again;
	flooded = f;
	b.gpa = f->tx_gpa;
	wslx_vsock_hdr_encode(&h, fake_driver_ptr(&f->drv, b.gpa, VSOCK_HDR_LEN));
	assert_true(fake_driver_add(&f->drv, VSOCK_Q_TX, &b, 1, false) >= 0);
	fake_driver_kick(&f->drv, VSOCK_Q_TX);
	assert_int_equal(wslx_loop_timer(f->loop, on_turn, &turns, &t), 0);
	wslx_timer_arm(t, 0);
	for (unsigned i = 1; i <= 10; i++) {
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
		assert_int_equal(turns, i);
		assert_int_equal(f->n_asked, VSOCK_BUDGET * i);
	}
	wslx_timer_free(t);
}

/* The guest picks both ports, and knows how they are hashed, but not the key. */
static void test_ports_do_not_collide(void **state)
{
	enum { N = 4096 };
	struct fixture *f = *state;
	static uint8_t load[N];
	struct fixture other;
	void *other_state = &other;
	struct wslx_vsock *v;
	unsigned same = 0;

	teardown(state);
	make(f, N);
	make(&other, N);
	v = CONTAINER_OF(f->d, struct wslx_vsock, d);
	for (unsigned shift = 0; shift <= 20; shift += 4) {
		memset(load, 0, sizeof(load));
		for (uint32_t i = 0; i < N; i++) {
			uint32_t b = wslx_vsock_bucket(v, i << shift, 1);

			assert_true(b < N);
			assert_true(++load[b] < 20); /* by chance some 7 share one */
			same += b == wslx_vsock_bucket(CONTAINER_OF(other.d, struct wslx_vsock, d), i << shift, 1);
		}
	}
	assert_true(same < 100);
	teardown(&other_state);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_backlog_and_window),
		T(test_window_violation),
		T(test_credit_updates),
		T(test_guest_credit),
		T(test_turns),
		T(test_lies),
		T(test_foreign_cid_is_refused),
		T(test_wrong_state),
		T(test_answers_are_bounded),
		T(test_broken_queue),
		T(test_small_rx_buffer),
		T(test_ports_do_not_collide),
		T(test_loop_turns),
		T(test_bulk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
