#include "support.h"

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
#include "os/linux/fd.h"

static void on_request(void *opaque, uint32_t id, uint32_t port)
{
	struct fixture *f = opaque;

	f->asked_id = id;
	f->asked_port = port;
	f->n_asked++;
}

void start_driver(struct fixture *f)
{
	fake_driver_negotiate(&f->drv, ~0ull);
	fake_driver_queue(&f->drv, VSOCK_Q_RX, 64);
	fake_driver_queue(&f->drv, VSOCK_Q_TX, 64);
	fake_driver_queue(&f->drv, VSOCK_Q_EVENT, 4);
	fake_driver_start(&f->drv);
}

void make(struct fixture *f, unsigned max_conns)
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

int setup(void **state)
{
	static struct fixture f;

	make(&f, 0);
	*state = &f;
	return 0;
}

int teardown(void **state)
{
	struct fixture *f = *state;

	fake_driver_free(&f->drv);
	f->d->ops->free(f->d);
	wslx_loop_free(f->loop);
	unlink(f->path);
	rmdir(f->dir);
	return 0;
}

void pump(struct fixture *f)
{
	for (int i = 0; i < 8; i++)
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
}

void add_rx(struct fixture *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct fake_buf b = { fake_driver_alloc(&f->drv, RX_LEN, 16), RX_LEN, true };
		int head = fake_driver_add(&f->drv, VSOCK_Q_RX, &b, 1, false);

		assert_true(head >= 0);
		f->rx_gpa[head] = b.gpa;
	}
	fake_driver_kick(&f->drv, VSOCK_Q_RX);
}

bool try_rx(struct fixture *f, struct pkt *ret)
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

void expect_rx(struct fixture *f, enum vsock_op op, struct pkt *ret)
{
	assert_true(try_rx(f, ret));
	assert_int_equal(ret->h.op, op);
}

void expect_silence(struct fixture *f)
{
	struct pkt p;

	assert_false(try_rx(f, &p));
}

void tx_raw(struct fixture *f, const struct vsock_hdr *h, const void *data, uint32_t data_len)
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

struct vsock_hdr guest_hdr(enum vsock_op op, uint32_t guest_port, uint32_t host_port)
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

void tx(struct fixture *f, enum vsock_op op, uint32_t guest_port, uint32_t host_port)
{
	struct vsock_hdr h = guest_hdr(op, guest_port, host_port);

	tx_raw(f, &h, NULL, 0);
}

void tx_shutdown(struct fixture *f, uint32_t guest_port, uint32_t host_port, uint32_t flags)
{
	struct vsock_hdr h = guest_hdr(VSOCK_OP_SHUTDOWN, guest_port, host_port);

	h.flags = flags;
	tx_raw(f, &h, NULL, 0);
}

void tx_data(struct fixture *f, uint32_t guest_port, uint32_t host_port, const void *data, uint32_t len)
{
	struct vsock_hdr h = guest_hdr(VSOCK_OP_RW, guest_port, host_port);

	h.len = len;
	tx_raw(f, &h, data, len);
}

int host_connect(struct fixture *f, uint32_t port, uint32_t *ret_host_port)
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

int guest_connect(struct fixture *f, uint32_t guest_port)
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

uint64_t stat_of(struct fixture *f, const char *name)
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
