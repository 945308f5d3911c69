/* The net device shares its loop: whatever guest and peer do, others get their turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/virtio/net.h"
#include "dev/virtio/net_internal.h"
#include "fake_driver.h"

#define FRAME 60
#define ROUNDS 10

struct fixture {
	struct wslx_loop *loop;
	struct wslx_vdev *d;
	struct fake_driver drv;
	struct wslx_timer *other;
	unsigned turns;
	uint64_t gpa;
	int peer;
	unsigned n_sent, n_reads;
};

static struct fixture f;

static void guest_send(void)
{
	struct fake_buf b = { f.gpa, NET_HDR_LEN + FRAME, false };
	uint16_t head;
	uint32_t len;

	(void)fake_driver_used(&f.drv, NET_Q_TX, &head, &len);
	assert_true(fake_driver_add(&f.drv, NET_Q_TX, &b, 1, false) >= 0);
}

/* In place of the C library's: the peer takes everything, and meanwhile the
 * guest adds as many frames again. */
int sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags)
{
	for (unsigned i = 0; i < n; i++) {
		guest_send();
		m[i].msg_len = 4 + FRAME;
	}
	f.n_sent += n;
	assert_true(f.n_sent < 100000);
	return (int)n;
}

/* In place of the C library's: the peer sends long frames a byte at a time, and
 * has always another one. */
ssize_t recv(int fd, void *buf, size_t n, int flags)
{
	static const uint8_t prefix[4] = { 0, 0, 0xea, 0x60 };
	unsigned at = f.n_reads++ % (4 + 60000);

	assert_true(n > 0 && f.n_reads < 100000);
	*(uint8_t *)buf = at < sizeof(prefix) ? prefix[at] : 0;
	return 1;
}

static void on_turn(struct wslx_timer *t, void *opaque)
{
	f.turns++;
	wslx_timer_arm(t, 0);
}

static int setup(void **state)
{
	struct wslx_net_params p = { .backend = WSLX_NET_BACKEND_STREAM, .mac = { 2, 0, 0, 1, 2, 3 } };
	int sv[2];

	memset(&f, 0, sizeof(f));
	assert_int_equal(wslx_loop_new(&f.loop), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	f.peer = sv[1];
	p.loop = f.loop;
	p.fd = sv[0];
	assert_int_equal(wslx_net_new(&p, &f.d), 0);
	fake_driver_init(&f.drv, f.d, 8 << 20);
	fake_driver_negotiate(&f.drv, ~0ull);
	fake_driver_queue(&f.drv, NET_Q_RX, 64);
	fake_driver_queue(&f.drv, NET_Q_TX, 64);
	fake_driver_start(&f.drv);
	f.gpa = fake_driver_alloc(&f.drv, 4096, 16);
	assert_int_equal(wslx_loop_once(f.loop, 0), 0);
	assert_int_equal(wslx_loop_timer(f.loop, on_turn, NULL, &f.other), 0);
	wslx_timer_arm(f.other, 0);
	return 0;
}

static int teardown(void **state)
{
	wslx_timer_free(f.other);
	fake_driver_free(&f.drv);
	f.d->ops->free(f.d);
	wslx_loop_free(f.loop);
	close(f.peer);
	return 0;
}

static void test_guest_sends_without_pause(void **state)
{
	for (unsigned i = 0; i < 16; i++)
		guest_send();
	fake_driver_kick(&f.drv, NET_Q_TX);
	for (unsigned i = 1; i <= ROUNDS; i++) {
		assert_int_equal(wslx_loop_once(f.loop, 0), 0);
		assert_int_equal(f.turns, i);
		assert_true(f.n_sent >= NET_BUDGET * i && f.n_sent < NET_BUDGET * (i + 1));
	}
}

static void test_peer_sends_bytewise(void **state)
{
	assert_int_equal(write(f.peer, "x", 1), 1); /* an event; recv() says what comes */
	for (unsigned i = 1; i <= ROUNDS; i++) {
		assert_int_equal(wslx_loop_once(f.loop, 0), 0);
		assert_int_equal(f.turns, i);
		assert_int_equal(f.n_reads, NET_BUDGET * i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_guest_sends_without_pause, setup, teardown),
		cmocka_unit_test_setup_teardown(test_peer_sends_bytewise, setup, teardown),
	};

	return cmocka_run_group_tests_name("net_turns", tests, NULL, NULL);
}
