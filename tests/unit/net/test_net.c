/* The net device against a driver made by hand and a peer on a socketpair. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "dev/virtio/net.h"
#include "dev/virtio/net_internal.h"
#include "fake_driver.h"

#define RX_LEN 1536
#define TX_LEN 70000

struct fixture {
	struct wslx_loop *loop;
	struct wslx_vdev *d;
	struct fake_driver drv;
	uint64_t rx_gpa[WSLX_VQ_MAX_SIZE];
	uint32_t rx_size[WSLX_VQ_MAX_SIZE];
	uint64_t tx_gpa;
	int peer; /* the other end of the back end */
	unsigned n_down;
	bool heal; /* put in a new back end from net_down */
};

static const uint8_t mac[6] = { 2, 0, 0, 1, 2, 3 };

static void on_down(void *opaque)
{
	struct fixture *f = opaque;
	int sv[2];

	f->n_down++;
	if (!f->heal)
		return;
	close(f->peer);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	f->peer = sv[1];
	assert_int_equal(wslx_net_set_backend(f->d, sv[0]), 0);
}

static void start_driver(struct fixture *f, uint64_t features)
{
	fake_driver_negotiate(&f->drv, features);
	fake_driver_queue(&f->drv, NET_Q_RX, 64);
	fake_driver_queue(&f->drv, NET_Q_TX, 64);
	fake_driver_start(&f->drv);
}

static void make(struct fixture *f, uint16_t mtu)
{
	struct wslx_net_params p = { .backend = WSLX_NET_BACKEND_STREAM, .mtu = mtu, .net_down = on_down, .opaque = f };
	int sv[2];

	memset(f, 0, sizeof(*f));
	assert_int_equal(wslx_loop_new(&f->loop), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	f->peer = sv[1];
	p.loop = f->loop;
	p.fd = sv[0];
	memcpy(p.mac, mac, sizeof(mac));
	assert_int_equal(wslx_net_new(&p, &f->d), 0);
	fake_driver_init(&f->drv, f->d, 8 << 20);
	f->tx_gpa = fake_driver_alloc(&f->drv, TX_LEN, 16);
}

static int setup(void **state)
{
	static struct fixture f;

	make(&f, 0);
	start_driver(&f, ~0ull);
	*state = &f;
	return 0;
}

static int setup_unmerged(void **state)
{
	static struct fixture f;

	make(&f, 1500);
	start_driver(&f, ~(NET_F_MRG_RXBUF | NET_F_GUEST_CSUM | WSLX_VIRTIO_F_EVENT_IDX));
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fake_driver_free(&f->drv);
	f->d->ops->free(f->d);
	wslx_loop_free(f->loop);
	close(f->peer);
	return 0;
}

static void pump(struct fixture *f)
{
	for (int i = 0; i < 6; i++)
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
}

static void add_rx(struct fixture *f, unsigned n, uint32_t size)
{
	for (unsigned i = 0; i < n; i++) {
		struct fake_buf b = { fake_driver_alloc(&f->drv, size, 16), size, true };
		int head = fake_driver_add(&f->drv, NET_Q_RX, &b, 1, false);

		assert_true(head >= 0);
		f->rx_gpa[head] = b.gpa;
		f->rx_size[head] = size;
	}
	fake_driver_kick(&f->drv, NET_Q_RX);
}

/* One received frame, put together from its buffers; -1: none. */
static int take_rx(struct fixture *f, uint8_t hdr[NET_HDR_LEN], uint8_t *data)
{
	uint16_t head;
	uint32_t len;
	int total = 0;
	unsigned n;

	pump(f);
	if (!fake_driver_used(&f->drv, NET_Q_RX, &head, &len))
		return -1;
	assert_true(len > NET_HDR_LEN && len <= f->rx_size[head]);
	memcpy(hdr, fake_driver_ptr(&f->drv, f->rx_gpa[head], len), NET_HDR_LEN);
	memcpy(data, (uint8_t *)fake_driver_ptr(&f->drv, f->rx_gpa[head], len) + NET_HDR_LEN, len - NET_HDR_LEN);
	total = (int)len - NET_HDR_LEN;
	n = wslx_get_le16(hdr + NET_HDR_NUM_BUFFERS);
	assert_true(n >= 1);
	while (--n) {
		/* All buffers of a frame become visible together. */
		assert_true(fake_driver_used(&f->drv, NET_Q_RX, &head, &len));
		memcpy(data + total, fake_driver_ptr(&f->drv, f->rx_gpa[head], len), len);
		total += (int)len;
	}
	return total;
}

static void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(i * 13 + seed * 7 + (i >> 8));
}

static void peer_send(struct fixture *f, const uint8_t *data, uint32_t len)
{
	uint8_t buf[4 + 65536 + 100];
	uint32_t be = htonl(len);

	memcpy(buf, &be, 4);
	memcpy(buf + 4, data, len);
	assert_int_equal(send(f->peer, buf, 4 + len, MSG_DONTWAIT | MSG_NOSIGNAL), 4 + len);
}

/* Header and payload in separate descriptors, as Linux sends them. */
static bool guest_send(struct fixture *f, const uint8_t *data, uint32_t len)
{
	struct fake_buf b[2] = { { fake_driver_alloc(&f->drv, NET_HDR_LEN, 4), NET_HDR_LEN, false },
				 { fake_driver_alloc(&f->drv, len, 4), len, false } };

	memcpy(fake_driver_ptr(&f->drv, b[1].gpa, len), data, len);
	if (fake_driver_add(&f->drv, NET_Q_TX, b, 2, false) < 0)
		return false;
	fake_driver_kick(&f->drv, NET_Q_TX);
	return true;
}

static unsigned reap_tx(struct fixture *f)
{
	uint16_t head;
	uint32_t len;
	unsigned n = 0;

	pump(f);
	while (fake_driver_used(&f->drv, NET_Q_TX, &head, &len))
		n++;
	return n;
}

/* Exactly n bytes from the device. */
static void peer_read(struct fixture *f, void *buf, size_t n)
{
	size_t got = 0;

	for (int i = 0; i < 10000 && got < n; i++) {
		ssize_t r = recv(f->peer, (char *)buf + got, n - got, MSG_DONTWAIT);

		if (r > 0)
			got += (size_t)r;
		else
			pump(f);
	}
	assert_int_equal(got, n);
}

static void peer_expect(struct fixture *f, const uint8_t *data, uint32_t len)
{
	static uint8_t buf[70000];
	uint32_t be;

	peer_read(f, &be, 4);
	assert_int_equal(ntohl(be), len);
	peer_read(f, buf, len);
	assert_memory_equal(buf, data, len);
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
	uint64_t features = f->d->ops->features(f->d);

	assert_int_equal(fake_driver_config(&f->drv, 0, 6), wslx_get_le32(mac) | (uint64_t)wslx_get_le16(mac + 4)
											 << 32);
	assert_int_equal(fake_driver_config(&f->drv, 6, 2), NET_S_LINK_UP);
	assert_true(features & NET_F_MAC);
	/* A stream peer computes no checksums for the guest. */
	assert_false(features & (NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_GUEST_TSO4 | NET_F_MTU));
}

static void test_receive(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[1500], hdr[NET_HDR_LEN], got[1500];

	add_rx(f, 8, RX_LEN);
	for (unsigned i = 0; i < 5; i++) {
		uint32_t len = i ? 100 * i : 14;

		fill(frame, len, i);
		peer_send(f, frame, len);
		assert_int_equal(take_rx(f, hdr, got), len);
		assert_memory_equal(got, frame, len);
		assert_int_equal(hdr[0], NET_HDR_F_DATA_VALID);
		assert_int_equal(hdr[1], 0);
	}
	assert_int_equal(take_rx(f, hdr, got), -1);
}

static void test_receive_in_pieces(void **state)
{
	struct fixture *f = *state;
	uint8_t wire[4 + 60] = { 0, 0, 0, 60 }, hdr[NET_HDR_LEN], got[1500];

	fill(wire + 4, 60, 1);
	add_rx(f, 2, RX_LEN);
	for (size_t i = 0; i < sizeof(wire); i++) {
		assert_int_equal(take_rx(f, hdr, got), -1);
		assert_int_equal(write(f->peer, wire + i, 1), 1);
	}
	assert_int_equal(take_rx(f, hdr, got), 60);
	assert_memory_equal(got, wire + 4, 60);
}

static void test_receive_merged(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[65535], got[70000];
	uint8_t hdr[NET_HDR_LEN];

	fill(frame, sizeof(frame), 3);
	peer_send(f, frame, sizeof(frame));
	/* Too few buffers: nothing is used until there are enough. */
	add_rx(f, 20, RX_LEN);
	assert_int_equal(take_rx(f, hdr, got), -1);
	add_rx(f, 30, RX_LEN);
	assert_int_equal(take_rx(f, hdr, got), sizeof(frame));
	assert_int_equal(wslx_get_le16(hdr + NET_HDR_NUM_BUFFERS), (sizeof(frame) + NET_HDR_LEN + RX_LEN - 1) / RX_LEN);
	assert_memory_equal(got, frame, sizeof(frame));
}

static void test_receive_unmerged(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[3000], got[3000];
	uint8_t hdr[NET_HDR_LEN];

	assert_int_equal(fake_driver_config(&f->drv, 10, 2), 1500);
	add_rx(f, 4, RX_LEN);
	peer_send(f, frame, 1518);
	assert_int_equal(take_rx(f, hdr, got), 1518);
	assert_int_equal(hdr[0], 0);
	peer_send(f, frame, 1519); /* beyond the MTU */
	peer_send(f, frame, 3000);
	assert_int_equal(take_rx(f, hdr, got), -1);
	assert_int_equal(stat_of(f, "rx_dropped"), 2);
	/* A buffer that is too small for the frame keeps its place. */
	peer_send(f, frame, 100);
	assert_int_equal(take_rx(f, hdr, got), 100);
}

static void test_receive_blocks_without_buffers(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[1000], hdr[NET_HDR_LEN], got[1500];
	unsigned sent = 0, back = 0;

	fill(frame, sizeof(frame), 9);
	/* Back-pressure reaches the peer. */
	for (int i = 0; i < 10000; i++) {
		uint8_t wire[4 + sizeof(frame)] = { 0, 0, sizeof(frame) >> 8, sizeof(frame) & 255 };
		ssize_t r;

		memcpy(wire + 4, frame, sizeof(frame));
		r = send(f->peer, wire, sizeof(wire), MSG_DONTWAIT);
		if (r < 0)
			break;
		assert_int_equal(r, sizeof(wire));
		sent++;
		pump(f);
	}
	assert_in_range(sent, 50, 5000);
	/* With nothing to do, the device does not ask to be woken. */
	assert_int_equal(wslx_watch_events(CONTAINER_OF(f->d, struct wslx_net, d)->watch), 0);
	while (back < sent) {
		add_rx(f, 32, RX_LEN);
		for (unsigned i = 0; i < 32 && back < sent; i++, back++) {
			assert_int_equal(take_rx(f, hdr, got), sizeof(frame));
			assert_memory_equal(got, frame, sizeof(frame));
		}
		/* The tests' allocator never frees: start over. */
		f->drv.next = f->tx_gpa + TX_LEN + (64 << 10);
	}
	assert_int_equal(take_rx(f, hdr, got), -1);
}

static void test_bad_length_drops_the_peer(void **state)
{
	static const uint8_t bad[][4] = { { 0, 0, 0, 0 }, { 0, 0, 0, 13 }, { 0, 1, 0, 4 }, { 255, 255, 255, 255 } };
	struct fixture *f = *state;

	f->heal = true;
	add_rx(f, 4, RX_LEN);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		uint8_t frame[20] = { 0 }, hdr[NET_HDR_LEN], got[1500];

		assert_int_equal(write(f->peer, bad[i], 4), 4);
		pump(f);
		assert_int_equal(f->n_down, i + 1);
		/* on_down put in a new one: traffic goes on. */
		peer_send(f, frame, sizeof(frame));
		assert_int_equal(take_rx(f, hdr, got), sizeof(frame));
	}
	assert_false(f->d->broken);
}

static void test_transmit(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[65535];
	static const uint32_t sizes[] = { 14, 60, 1514, 9000, 65535 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill(frame, sizes[i], i);
		assert_true(guest_send(f, frame, sizes[i]));
		peer_expect(f, frame, sizes[i]);
		assert_int_equal(reap_tx(f), 1);
	}
	assert_int_equal(f->n_down, 0);
}

static void test_transmit_nonsense(void **state)
{
	struct fixture *f = *state;
	struct fake_buf b = { f->tx_gpa, 0, false };
	static const uint32_t sizes[] = { 1, 11, 12, 13, 25, 12 + 65536, TX_LEN };
	uint8_t frame[64] = { 1, 2, 3 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		b.len = sizes[i];
		assert_true(fake_driver_add(&f->drv, NET_Q_TX, &b, 1, false) >= 0);
	}
	fake_driver_kick(&f->drv, NET_Q_TX);
	assert_int_equal(reap_tx(f), ARRAY_SIZE(sizes));
	assert_int_equal(stat_of(f, "tx_dropped"), ARRAY_SIZE(sizes));
	assert_true(guest_send(f, frame, sizeof(frame)));
	peer_expect(f, frame, sizeof(frame));
}

static void test_transmit_blocks(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[9000];
	unsigned sent = 0, done = 0;

	/* The peer does not read: the queue stands still at a bounded amount. */
	for (;;) {
		fill(frame, sizeof(frame), sent);
		if (!guest_send(f, frame, sizeof(frame)))
			break;
		sent++;
		done += reap_tx(f);
		f->drv.next -= (NET_HDR_LEN + sizeof(frame)) * (f->drv.next > (7u << 20));
	}
	assert_true(done < sent);
	assert_true(CONTAINER_OF(f->d, struct wslx_net, d)->want_out);
	for (unsigned i = 0; i < sent; i++) {
		uint8_t head[4], body[sizeof(frame)];

		peer_read(f, head, 4);
		assert_int_equal(wslx_get_le32(head), htonl(sizeof(frame)));
		peer_read(f, body, sizeof(body));
		if (i < 8) {
			fill(frame, sizeof(frame), i);
			assert_memory_equal(body, frame, sizeof(frame));
		}
	}
	done += reap_tx(f);
	assert_int_equal(done, sent);
}

static void test_peer_dies(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[60] = { 0 }, hdr[NET_HDR_LEN], got[1500];
	unsigned changes = f->drv.config_changes;
	int sv[2];

	add_rx(f, 4, RX_LEN);
	peer_send(f, frame, sizeof(frame));
	close(f->peer);
	assert_int_equal(take_rx(f, hdr, got), sizeof(frame)); /* sent before its death */
	pump(f);
	assert_int_equal(f->n_down, 1);
	assert_int_equal(fake_driver_config(&f->drv, 6, 2), 0);
	assert_true(f->drv.config_changes > changes);
	/* The guest sends into the void meanwhile. */
	for (int i = 0; i < 30; i++)
		assert_true(guest_send(f, frame, sizeof(frame)));
	assert_int_equal(reap_tx(f), 30);
	changes = f->drv.config_changes;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	f->peer = sv[1];
	assert_int_equal(wslx_net_set_backend(f->d, sv[0]), 0);
	assert_int_equal(fake_driver_config(&f->drv, 6, 2), NET_S_LINK_UP);
	assert_int_equal(f->drv.config_changes, changes + 1);
	assert_true(guest_send(f, frame, sizeof(frame)));
	peer_expect(f, frame, sizeof(frame));
	peer_send(f, frame, sizeof(frame));
	assert_int_equal(take_rx(f, hdr, got), sizeof(frame));
	assert_int_equal(f->n_down, 1);
}

static void test_peer_dies_without_driver(void **state)
{
	struct fixture *f = *state;

	fake_driver_stop(&f->drv);
	close(f->peer);
	pump(f);
	assert_int_equal(f->n_down, 1);
	f->peer = -1;
	start_driver(f, ~0ull);
	assert_int_equal(fake_driver_config(&f->drv, 6, 2), 0);
}

static void test_peer_dies_while_blocked(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[60] = { 0 };

	peer_send(f, frame, sizeof(frame)); /* no receive buffers */
	pump(f);
	close(f->peer);
	pump(f);
	assert_int_equal(f->n_down, 1);
	f->peer = -1;
}

static void test_set_backend_refuses(void **state)
{
	struct fixture *f = *state;
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(wslx_net_set_backend(f->d, sv[0]), -EPROTOTYPE);
	close(sv[1]);
	assert_int_equal(fake_driver_config(&f->drv, 6, 2), 0);
	assert_int_equal(wslx_net_set_backend(f->d, -1), 0);
	pump(f);
	assert_int_equal(f->n_down, 0); /* the owner did it itself */
}

static void test_reset_keeps_framing(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[60000];
	uint8_t hdr[NET_HDR_LEN], got[1500];
	unsigned sent = 0;

	fill(frame, sizeof(frame), 1);
	while (!CONTAINER_OF(f->d, struct wslx_net, d)->pending_len) {
		assert_true(guest_send(f, frame, sizeof(frame)));
		sent++;
		reap_tx(f);
	}
	fake_driver_stop(&f->drv);
	start_driver(f, ~0ull);
	for (unsigned i = 0; i < sent; i++)
		peer_expect(f, frame, sizeof(frame));
	assert_true(guest_send(f, frame, 100));
	peer_expect(f, frame, 100);
	add_rx(f, 1, RX_LEN);
	peer_send(f, frame, 100);
	assert_int_equal(take_rx(f, hdr, got), 100);
}

static void test_quiesce(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[60] = { 0 }, hdr[NET_HDR_LEN], got[1500];
	char c;

	add_rx(f, 4, RX_LEN);
	f->d->ops->quiesce(f->d);
	peer_send(f, frame, sizeof(frame));
	assert_true(guest_send(f, frame, sizeof(frame)));
	assert_int_equal(take_rx(f, hdr, got), -1);
	assert_int_equal(recv(f->peer, &c, 1, MSG_DONTWAIT | MSG_PEEK), -1);
	f->d->ops->resume(f->d);
	assert_int_equal(take_rx(f, hdr, got), sizeof(frame));
	peer_expect(f, frame, sizeof(frame));
}

static void test_broken(void **state)
{
	struct fixture *f = *state;
	struct fake_buf b = { f->tx_gpa, 12, true };
	uint8_t frame[60] = { 0 };

	assert_true(fake_driver_add(&f->drv, NET_Q_RX, &b, 1, false) >= 0); /* room for a header only */
	fake_driver_kick(&f->drv, NET_Q_RX);
	peer_send(f, frame, sizeof(frame));
	pump(f);
	assert_true(f->d->broken);
	assert_int_equal(f->n_down, 0);
	fake_driver_stop(&f->drv);
	start_driver(f, ~0ull);
	fake_driver_publish(&f->drv, NET_Q_TX, 500);
	fake_driver_kick(&f->drv, NET_Q_TX);
	pump(f);
	assert_true(f->d->broken);
}

/* Needs the right to make an interface; elsewhere there is nothing to test. */
static void test_tap(void **state)
{
	cleanup_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC), s = -1;
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	struct wslx_net_params p = { .backend = WSLX_NET_BACKEND_TAP };
	struct fixture f = { .peer = -1 };
	uint8_t frame[60] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 0, 0x45 };
	uint8_t hdr[NET_HDR_LEN];
	static uint8_t got[70000];

	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0)
		skip();
	s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(wslx_loop_new(&f.loop), 0);
	p.loop = f.loop;
	p.fd = fd;
	assert_int_equal(wslx_net_new(&p, &f.d), 0);
	(void)TAKE_FD(fd);
	assert_true(f.d->ops->features(f.d) & NET_F_HOST_TSO4);
	assert_true(f.d->ops->features(f.d) & NET_F_GUEST_TSO4);
	fake_driver_init(&f.drv, f.d, 8 << 20);
	f.tx_gpa = fake_driver_alloc(&f.drv, TX_LEN, 16);
	start_driver(&f, ~0ull);
	add_rx(&f, 60, RX_LEN);
	/* Interface down: frames are refused and dropped, the device lives. */
	assert_true(guest_send(&f, frame, sizeof(frame)));
	assert_int_equal(reap_tx(&f), 1);
	ifr.ifr_flags = IFF_UP;
	if (ioctl(s, SIOCSIFFLAGS, &ifr) == 0) {
		assert_true(guest_send(&f, frame, sizeof(frame)));
		assert_int_equal(reap_tx(&f), 1);
		assert_int_equal(stat_of(&f, "tx_frames"), 1);
		/* The kernel announces itself on a new interface (IPv6), if enabled. */
		while (take_rx(&f, hdr, got) > 0)
			;
	}
	assert_false(f.d->broken);
	fake_driver_free(&f.drv);
	f.d->ops->free(f.d);
	wslx_loop_free(f.loop);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
#define TU(fn) cmocka_unit_test_setup_teardown(fn, setup_unmerged, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_config),
		T(test_receive),
		T(test_receive_in_pieces),
		T(test_receive_merged),
		TU(test_receive_unmerged),
		T(test_receive_blocks_without_buffers),
		T(test_bad_length_drops_the_peer),
		T(test_transmit),
		T(test_transmit_nonsense),
		T(test_transmit_blocks),
		TU(test_transmit),
		T(test_peer_dies),
		T(test_peer_dies_without_driver),
		T(test_peer_dies_while_blocked),
		T(test_set_backend_refuses),
		T(test_reset_keeps_framing),
		T(test_quiesce),
		T(test_broken),
		cmocka_unit_test(test_tap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
