/* The vhost-user server against a front end made by hand, over a socket pair. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "dev/vhost_user/server_internal.h"
#include "dev/vhost_user/msg.h"
#include "dev/vhost_user/server.h"
#include "os/linux/fd.h"

#define MEM_SIZE (1u << 20)
#define GPA 0x100000u         /* of the memory, as descriptors see it */
#define UVA 0x7f0000000000ull /* of the memory, as the front end says it is mapped */
#define RING 8
#define N_QUEUES 2
/* Layout of each ring within the memory. */
#define DESC(q) (0x1000u + 0x4000u * (q))
#define AVAIL(q) (DESC(q) + 0x1000u)
#define USED(q) (DESC(q) + 0x2000u)
#define DATA(q) (DESC(q) + 0x3000u)
#define F_TOY (1ull << 5)

/* A device that turns every byte it reads around and counts what it is told. */
struct toy {
	struct wslx_vdev d;
	unsigned n_activate, n_reset, n_quiesce, n_resume, n_kick;
	bool quiesced;
	uint8_t config[16];
};

struct fixture {
	struct wslx_loop *loop;
	struct toy toy;
	struct wslx_vhost_user *s;
	int fd, memfd;
	uint8_t *mem;
	int kick[N_QUEUES], call[N_QUEUES], err[N_QUEUES];
	uint16_t avail[N_QUEUES];
	bool closed;
	int closed_err;
};

static struct toy *toy_of(struct wslx_vdev *d)
{
	return CONTAINER_OF(d, struct toy, d);
}

static uint64_t toy_features(struct wslx_vdev *d)
{
	return F_TOY | WSLX_VIRTIO_F_EVENT_IDX;
}

static void toy_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
	assert_true(off + len <= d->config_len);
	memcpy(buf, toy_of(d)->config + off, len);
}

static void toy_config_write(struct wslx_vdev *d, uint32_t off, const void *buf, uint32_t len)
{
	assert_true(off + len <= d->config_len);
	memcpy(toy_of(d)->config + off, buf, len);
}

static int toy_activate(struct wslx_vdev *d)
{
	toy_of(d)->n_activate++;
	return 0;
}

static void toy_kick(struct wslx_vdev *d, unsigned q)
{
	static struct wslx_chain c;
	int r;

	toy_of(d)->n_kick++;
	if (toy_of(d)->quiesced || d->broken)
		return;
	while ((r = wslx_vq_pop(&d->vq[q], &c)) == 1) {
		uint8_t b[64];
		size_t n = wslx_iov_read(c.iov, c.n_out, 0, b, sizeof(b));

		for (size_t i = 0; i < n; i++)
			b[i] = (uint8_t)~b[i];
		n = wslx_iov_write(c.iov + c.n_out, c.n_in, 0, b, n);
		wslx_vq_push(&d->vq[q], c.head, (uint32_t)n);
	}
	if (r < 0)
		wslx_vdev_broken(d, "toy");
	wslx_vdev_notify_used(d, q);
}

static void toy_reset(struct wslx_vdev *d)
{
	toy_of(d)->n_reset++;
	toy_of(d)->quiesced = false;
}

static void toy_quiesce(struct wslx_vdev *d)
{
	toy_of(d)->n_quiesce++;
	toy_of(d)->quiesced = true;
}

static void toy_resume(struct wslx_vdev *d)
{
	toy_of(d)->n_resume++;
	toy_of(d)->quiesced = false;
}

static const struct wslx_vdev_ops toy_ops = {
	.features = toy_features,
	.config_read = toy_config_read,
	.config_write = toy_config_write,
	.activate = toy_activate,
	.kick = toy_kick,
	.reset = toy_reset,
	.quiesce = toy_quiesce,
	.resume = toy_resume,
};

static void on_closed(void *opaque, int err)
{
	struct fixture *f = opaque;

	assert_false(f->closed);
	f->closed = true;
	f->closed_err = err;
}

static int make_memfd(unsigned seals)
{
	int fd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, MEM_SIZE), 0);
	if (seals)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static int setup(void **state)
{
	static struct fixture f;
	struct wslx_vhost_user_params p = { .vdev = &f.toy.d, .closed = on_closed, .opaque = &f };
	int sv[2];

	memset(&f, 0, sizeof(f));
	assert_int_equal(wslx_loop_new(&f.loop), 0);
	f.toy.d = (struct wslx_vdev) {
		.ops = &toy_ops,
		.name = "toy",
		.n_queues = N_QUEUES,
		.queue_max = { RING, RING },
		.config_len = 16,
		.loop = f.loop,
	};
	for (uint8_t i = 0; i < 16; i++)
		f.toy.config[i] = (uint8_t)(i + 1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	f.fd = sv[0];
	p.fd = sv[1];
	assert_int_equal(wslx_vhost_user_new(&p, &f.s), 0);
	f.memfd = make_memfd(F_SEAL_SHRINK);
	f.mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f.memfd, 0);
	assert_true(f.mem != MAP_FAILED);
	for (unsigned q = 0; q < N_QUEUES; q++) {
		f.kick[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		f.call[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		f.err[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	wslx_vhost_user_free(f->s);
	munmap(f->mem, MEM_SIZE);
	close(f->memfd);
	close(f->fd);
	for (unsigned q = 0; q < N_QUEUES; q++) {
		close(f->kick[q]);
		close(f->call[q]);
		close(f->err[q]);
	}
	wslx_loop_free(f->loop);
	return 0;
}

static void pump(struct fixture *f)
{
	for (int i = 0; i < 6; i++)
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
}

static void send_msg(struct fixture *f, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
		     const int *fds, size_t n_fds)
{
	uint8_t buf[VHU_HDR_LEN + 1024];

	wslx_put_le32(buf, request);
	wslx_put_le32(buf + 4, flags | VHU_VERSION);
	wslx_put_le32(buf + 8, size);
	if (size)
		memcpy(buf + VHU_HDR_LEN, payload, size);
	assert_int_equal(wslx_send_fds(f->fd, buf, VHU_HDR_LEN + size, fds, n_fds, MSG_NOSIGNAL), VHU_HDR_LEN + size);
	pump(f);
}

/* The payload of the answer to request. */
static uint32_t recv_reply(struct fixture *f, uint32_t request, void *buf, size_t size)
{
	uint8_t raw[VHU_HDR_LEN + 1024];
	ssize_t n = recv(f->fd, raw, sizeof(raw), MSG_DONTWAIT);

	assert_true(n >= VHU_HDR_LEN);
	assert_int_equal(wslx_get_le32(raw), request);
	assert_int_equal(wslx_get_le32(raw + 4), VHU_VERSION | VHU_FLAG_REPLY);
	assert_int_equal(n, VHU_HDR_LEN + wslx_get_le32(raw + 8));
	assert_true((size_t)n - VHU_HDR_LEN <= size);
	memcpy(buf, raw + VHU_HDR_LEN, (size_t)n - VHU_HDR_LEN);
	return (uint32_t)n - VHU_HDR_LEN;
}

static uint64_t get_u64(struct fixture *f, uint32_t request)
{
	uint8_t p[8];

	send_msg(f, request, 0, NULL, 0, NULL, 0);
	assert_int_equal(recv_reply(f, request, p, 8), 8);
	return wslx_get_le64(p);
}

static void set_u64(struct fixture *f, uint32_t request, uint64_t v, const int *fd)
{
	uint8_t p[8];

	wslx_put_le64(p, v);
	send_msg(f, request, 0, p, 8, fd, fd ? 1 : 0);
}

static void set_state(struct fixture *f, uint32_t request, uint32_t index, uint32_t num)
{
	uint8_t p[8];

	wslx_put_le32(p, index);
	wslx_put_le32(p + 4, num);
	send_msg(f, request, 0, p, 8, NULL, 0);
}

static uint32_t get_base(struct fixture *f, uint32_t index)
{
	uint8_t p[8];

	set_state(f, VHU_GET_VRING_BASE, index, 0);
	assert_int_equal(recv_reply(f, VHU_GET_VRING_BASE, p, 8), 8);
	assert_int_equal(wslx_get_le32(p), index);
	return wslx_get_le32(p + 4);
}

static void put_region(uint8_t *p, uint64_t gpa, uint64_t size, uint64_t uva, uint64_t off)
{
	wslx_put_le64(p, gpa);
	wslx_put_le64(p + 8, size);
	wslx_put_le64(p + 16, uva);
	wslx_put_le64(p + 24, off);
}

static void set_mem(struct fixture *f, int fd)
{
	uint8_t p[8 + VHU_REGION_LEN] = { 1 };

	put_region(p + 8, GPA, MEM_SIZE, UVA, 0);
	send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), &fd, 1);
}

static void set_addr(struct fixture *f, uint32_t q, uint64_t desc, uint64_t avail, uint64_t used)
{
	uint8_t p[40] = { 0 };

	wslx_put_le32(p, q);
	wslx_put_le64(p + 8, desc);
	wslx_put_le64(p + 16, used);
	wslx_put_le64(p + 24, avail);
	send_msg(f, VHU_SET_VRING_ADDR, 0, p, sizeof(p), NULL, 0);
}

static void set_ring(struct fixture *f, uint32_t q, uint32_t base)
{
	set_state(f, VHU_SET_VRING_NUM, q, RING);
	set_state(f, VHU_SET_VRING_BASE, q, base);
	set_addr(f, q, UVA + DESC(q), UVA + AVAIL(q), UVA + USED(q));
	set_u64(f, VHU_SET_VRING_KICK, q, &f->kick[q]);
	set_u64(f, VHU_SET_VRING_CALL, q, &f->call[q]);
	set_u64(f, VHU_SET_VRING_ERR, q, &f->err[q]);
}

static void handshake(struct fixture *f)
{
	uint64_t features = get_u64(f, VHU_GET_FEATURES);

	assert_int_equal(features, F_TOY | WSLX_VIRTIO_F_EVENT_IDX | WSLX_VIRTIO_F_VERSION_1 | VHU_F_PROTOCOL_FEATURES);
	set_u64(f, VHU_SET_PROTOCOL_FEATURES, get_u64(f, VHU_GET_PROTOCOL_FEATURES), NULL);
	send_msg(f, VHU_SET_OWNER, 0, NULL, 0, NULL, 0);
	set_u64(f, VHU_SET_FEATURES, F_TOY | WSLX_VIRTIO_F_VERSION_1 | VHU_F_PROTOCOL_FEATURES, NULL);
	set_mem(f, f->memfd);
}

static void start(struct fixture *f)
{
	handshake(f);
	for (uint32_t q = 0; q < N_QUEUES; q++)
		set_ring(f, q, 0);
	for (uint32_t q = 0; q < N_QUEUES; q++)
		set_state(f, VHU_SET_VRING_ENABLE, q, 1);
	assert_false(f->closed);
	assert_true(f->toy.d.active);
}

static uint64_t take(int fd)
{
	uint64_t n = 0;

	if (read(fd, &n, sizeof(n)) < 0)
		return 0;
	return n;
}

static void put_desc(struct fixture *f, unsigned q, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags,
		     uint16_t next)
{
	uint8_t *p = f->mem + DESC(q) + 16 * i;

	wslx_put_le64(p, gpa);
	wslx_put_le32(p + 8, len);
	wslx_put_le16(p + 12, flags);
	wslx_put_le16(p + 14, next);
}

/* One request through queue q: 4 bytes there, 4 back. */
static void submit(struct fixture *f, unsigned q)
{
	static const uint64_t one = 1;
	uint8_t *avail = f->mem + AVAIL(q);

	memcpy(f->mem + DATA(q), "\x01\x02\x03\x04", 4);
	memset(f->mem + DATA(q) + 16, 0, 4);
	put_desc(f, q, 0, GPA + DATA(q), 4, 1, 1);
	put_desc(f, q, 1, GPA + DATA(q) + 16, 4, 2, 0);
	wslx_put_le16(avail + 4 + 2 * (f->avail[q] % RING), 0);
	wslx_put_le16(avail + 2, ++f->avail[q]);
	assert_int_equal(write(f->kick[q], &one, 8), 8);
	pump(f);
}

static void round_trip(struct fixture *f, unsigned q)
{
	submit(f, q);
	assert_int_equal(wslx_get_le16(f->mem + USED(q) + 2), f->avail[q]);
	assert_memory_equal(f->mem + DATA(q) + 16, "\xfe\xfd\xfc\xfb", 4);
	assert_true(take(f->call[q]) > 0);
}

static void expect_closed(struct fixture *f, int err)
{
	pump(f);
	assert_true(f->closed);
	assert_int_equal(f->closed_err, err);
	assert_false(f->toy.d.active);
	for (unsigned q = 0; q < N_QUEUES; q++)
		assert_false(f->toy.d.vq[q].enabled);
}

static void test_requests(void **state)
{
	struct fixture *f = *state;

	start(f);
	assert_int_equal(get_u64(f, VHU_GET_QUEUE_NUM), N_QUEUES);
	assert_int_equal(f->toy.n_activate, 1);
	assert_int_equal(f->toy.d.acked, F_TOY | WSLX_VIRTIO_F_VERSION_1);
	for (int i = 0; i < 20; i++) {
		round_trip(f, 0);
		round_trip(f, 1);
	}
	close(f->fd);
	f->fd = -1;
	expect_closed(f, 0);
	assert_int_equal(f->toy.n_reset, 1);
}

static void test_waits_for_enable(void **state)
{
	struct fixture *f = *state;

	handshake(f);
	set_ring(f, 0, 0);
	submit(f, 0); /* early: must not be lost */
	assert_false(f->toy.d.active);
	set_state(f, VHU_SET_VRING_ENABLE, 0, 1);
	assert_true(f->toy.d.active);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 1);
	set_state(f, VHU_SET_VRING_ENABLE, 0, 0);
	submit(f, 0);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 1);
	set_state(f, VHU_SET_VRING_ENABLE, 0, 1);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 2);
	assert_int_equal(f->toy.n_activate, 1);
}

static void test_old_front_end(void **state)
{
	struct fixture *f = *state;

	/* Without protocol features a ring runs once it has its kick. */
	get_u64(f, VHU_GET_FEATURES);
	set_u64(f, VHU_SET_FEATURES, WSLX_VIRTIO_F_VERSION_1, NULL);
	set_mem(f, f->memfd);
	set_ring(f, 0, 0);
	assert_true(f->toy.d.active);
	round_trip(f, 0);
	set_ring(f, 1, 0);
	round_trip(f, 1);
	assert_int_equal(f->toy.n_activate, 1);
	assert_int_equal(f->toy.n_reset, 0);
}

static void stop(struct fixture *f, uint32_t want0, uint32_t want1)
{
	assert_int_equal(get_base(f, 0), want0);
	assert_int_equal(get_base(f, 1), want1);
	assert_true(f->toy.quiesced);
}

static void restart(struct fixture *f, uint32_t base0, uint32_t base1)
{
	set_u64(f, VHU_SET_FEATURES, F_TOY | WSLX_VIRTIO_F_VERSION_1 | VHU_F_PROTOCOL_FEATURES, NULL);
	set_mem(f, f->memfd);
	set_ring(f, 0, base0);
	set_ring(f, 1, base1);
	set_state(f, VHU_SET_VRING_ENABLE, 0, 1);
	set_state(f, VHU_SET_VRING_ENABLE, 1, 1);
}

static void test_stop_and_continue(void **state)
{
	struct fixture *f = *state;

	start(f);
	round_trip(f, 0);
	round_trip(f, 0);
	round_trip(f, 1);
	stop(f, 2, 1);
	submit(f, 0);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 2);
	restart(f, 2, 1);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 3);
	round_trip(f, 0);
	round_trip(f, 1);
	assert_int_equal(f->toy.n_activate, 1);
	assert_int_equal(f->toy.n_reset, 0);
}

static void test_stop_and_new_driver(void **state)
{
	struct fixture *f = *state;

	start(f);
	round_trip(f, 0);
	stop(f, 1, 0);
	memset(f->mem, 0, MEM_SIZE);
	memset(f->avail, 0, sizeof(f->avail));
	restart(f, 0, 0);
	assert_int_equal(f->toy.n_reset, 1);
	assert_int_equal(f->toy.n_activate, 2);
	round_trip(f, 0);
	round_trip(f, 1);
}

static void test_reset_device(void **state)
{
	struct fixture *f = *state;

	start(f);
	round_trip(f, 0);
	send_msg(f, VHU_RESET_DEVICE, 0, NULL, 0, NULL, 0);
	assert_int_equal(f->toy.n_reset, 1);
	assert_false(f->toy.d.active);
	assert_false(f->closed);
}

static void test_config(void **state)
{
	struct fixture *f = *state;
	uint8_t p[VHU_CONFIG_HDR_LEN + 60] = { 0 }, r[100];

	/* More than the device has: zeroes behind it. */
	wslx_put_le32(p, 4);
	wslx_put_le32(p + 4, 20);
	send_msg(f, VHU_GET_CONFIG, 0, p, VHU_CONFIG_HDR_LEN + 20, NULL, 0);
	assert_int_equal(recv_reply(f, VHU_GET_CONFIG, r, sizeof(r)), VHU_CONFIG_HDR_LEN + 20);
	assert_int_equal(r[VHU_CONFIG_HDR_LEN], 5);
	assert_int_equal(r[VHU_CONFIG_HDR_LEN + 11], 16);
	assert_int_equal(r[VHU_CONFIG_HDR_LEN + 12], 0);
	wslx_put_le32(p, 15);
	wslx_put_le32(p + 4, 1);
	p[VHU_CONFIG_HDR_LEN] = 99;
	send_msg(f, VHU_SET_CONFIG, 0, p, VHU_CONFIG_HDR_LEN + 1, NULL, 0);
	assert_int_equal(f->toy.config[15], 99);
	wslx_put_le32(p, 16); /* behind the end */
	send_msg(f, VHU_SET_CONFIG, 0, p, VHU_CONFIG_HDR_LEN + 1, NULL, 0);
	expect_closed(f, -EPROTO);
}

static void test_reply_ack(void **state)
{
	struct fixture *f = *state;
	uint8_t p[8] = { 0 }, r[8];

	handshake(f);
	wslx_put_le32(p + 4, RING);
	send_msg(f, VHU_SET_VRING_NUM, VHU_FLAG_NEED_REPLY, p, 8, NULL, 0);
	assert_int_equal(recv_reply(f, VHU_SET_VRING_NUM, r, 8), 8);
	assert_int_equal(wslx_get_le64(r), 0);
	/* No second answer to what has one anyway. */
	send_msg(f, VHU_GET_QUEUE_NUM, VHU_FLAG_NEED_REPLY, NULL, 0, NULL, 0);
	recv_reply(f, VHU_GET_QUEUE_NUM, r, 8);
	assert_int_equal(recv(f->fd, r, 1, MSG_DONTWAIT), -1);
}

static void test_config_change_and_error(void **state)
{
	struct fixture *f = *state;
	uint8_t raw[64];
	int sv[2];

	start(f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	send_msg(f, VHU_SET_BACKEND_REQ_FD, 0, NULL, 0, &sv[1], 1);
	close(sv[1]);
	f->toy.d.transport_ops->config_changed(f->toy.d.transport);
	assert_int_equal(recv(sv[0], raw, sizeof(raw), MSG_DONTWAIT), VHU_HDR_LEN);
	assert_int_equal(wslx_get_le32(raw), VHU_BACKEND_CONFIG_CHANGE);
	close(sv[0]);
	/* A ring that is nonsense breaks the device, not the connection. */
	put_desc(f, 0, 0, 0x10, 4, 0, 0);
	wslx_put_le16(f->mem + AVAIL(0) + 2, 1);
	f->toy.d.ops->kick(&f->toy.d, 0);
	assert_true(f->toy.d.broken);
	assert_true(take(f->err[0]) > 0);
	assert_false(f->closed);
}

static void test_memory_table_changes(void **state)
{
	struct fixture *f = *state;
	cleanup_close int second = make_memfd(F_SEAL_SHRINK);
	uint8_t p[8 + 2 * VHU_REGION_LEN] = { 2 };
	int fds[2] = { f->memfd, second };

	start(f);
	round_trip(f, 0);
	/* The same memory and more, while the rings run. */
	put_region(p + 8, GPA, MEM_SIZE, UVA, 0);
	put_region(p + 8 + VHU_REGION_LEN, GPA + MEM_SIZE, MEM_SIZE, UVA + MEM_SIZE, 0);
	send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), fds, 2);
	assert_int_equal(f->toy.n_reset, 0);
	round_trip(f, 0);
	assert_int_equal(wslx_gm_n_regions(f->toy.d.gm), 2);
	/* Other memory under the rings: a reset, and on with what is there. */
	p[0] = 1;
	put_region(p + 8, GPA, MEM_SIZE, UVA, 0);
	send_msg(f, VHU_SET_MEM_TABLE, 0, p, 8 + VHU_REGION_LEN, &second, 1);
	assert_int_equal(f->toy.n_reset, 1);
	assert_int_equal(f->toy.n_activate, 2);
	assert_int_equal(wslx_gm_n_regions(f->toy.d.gm), 1);
	assert_false(f->closed);
}

/* Memory that the process has mapped already is used where it is, and stays. */
static void test_window(void **state)
{
	struct fixture *f = *state;
	cleanup_close int second = make_memfd(F_SEAL_SHRINK);
	uint8_t *w = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->memfd, 0);
	uint8_t p[8 + VHU_REGION_LEN] = { 1 };

	assert_true(w != MAP_FAILED);
	f->s->window = (struct wslx_vhost_window) { w, MEM_SIZE, f->memfd };
	start(f);
	assert_ptr_equal(wslx_gm_region(f->toy.d.gm, 0)->host, w);
	round_trip(f, 0);
	set_mem(f, second);
	assert_ptr_not_equal(wslx_gm_region(f->toy.d.gm, 0)->host, w);
	w[0] = 1;
	/* A part of it, and more than there is. */
	put_region(p + 8, GPA, MEM_SIZE - 4096, UVA, 4096);
	send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), &f->memfd, 1);
	assert_ptr_equal(wslx_gm_region(f->toy.d.gm, 0)->host, w + 4096);
	put_region(p + 8, GPA, MEM_SIZE, UVA, 4096);
	send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), &f->memfd, 1);
	expect_closed(f, -EINVAL);
	wslx_vhost_user_free(TAKE_PTR(f->s));
	w[MEM_SIZE - 1] = 1;
	munmap(w, MEM_SIZE);
}

static void test_unsealed_memory(void **state)
{
	struct fixture *f = *state;
	cleanup_close int fd = make_memfd(0);

	set_mem(f, fd);
	expect_closed(f, -EPERM);
}

static void test_short_memory(void **state)
{
	struct fixture *f = *state;
	uint8_t p[8 + VHU_REGION_LEN] = { 1 };

	put_region(p + 8, GPA, 2 * MEM_SIZE, UVA, 0);
	send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), &f->memfd, 1);
	expect_closed(f, -EINVAL);
}

/* Each of these, sent after the handshake, ends the connection. */
static void test_malformed(void **state)
{
	static const struct {
		uint32_t request, flags, size;
		uint64_t words[5];
		unsigned n_fds;
	} bad[] = {
		{ .request = 0 },
		{ .request = 99 },
		{ .request = VHU_SET_FEATURES, .size = 4 },
		{ .request = VHU_SET_FEATURES, .size = 8, .words = { 1 } },
		{ .request = VHU_SET_PROTOCOL_FEATURES, .size = 8, .words = { 1ull << 60 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 2 | 8ull << 32 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 0xffffffff | 8ull << 32 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 0 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 3ull << 32 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 65536ull << 32 } },
		{ .request = VHU_SET_VRING_BASE, .size = 8, .words = { 65536ull << 32 } },
		{ .request = VHU_SET_VRING_ADDR, .size = 40, .words = { 2 } },
		{ .request = VHU_SET_VRING_ADDR, .size = 32 },
		{ .request = VHU_SET_VRING_ADDR, .size = 40, .words = { 1ull << 32 } },
		{ .request = VHU_SET_VRING_ENABLE, .size = 8, .words = { 2ull << 32 } },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .words = { 0 } },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .words = { 0 }, .n_fds = 2 },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .words = { 5 }, .n_fds = 1 },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .words = { 1 << 10 }, .n_fds = 1 },
		{ .request = VHU_SET_VRING_CALL, .size = 8, .words = { VHU_VRING_NOFD }, .n_fds = 1 },
		{ .request = VHU_GET_VRING_BASE, .size = 8, .words = { 7 } },
		{ .request = VHU_GET_CONFIG, .size = 12, .words = { 1ull << 32 } },
		{ .request = VHU_GET_CONFIG, .size = 12, .words = { 257 } },
		{ .request = VHU_GET_CONFIG, .size = 12, .words = { 0xfffffff0 | 0x20ull << 32 } },
		{ .request = VHU_GET_CONFIG, .size = 8 },
		{ .request = VHU_SET_MEM_TABLE, .size = 8, .words = { 1 }, .n_fds = 1 },
		{ .request = VHU_SET_MEM_TABLE, .size = 8, .words = { 0 } },
		{ .request = VHU_SET_MEM_TABLE, .size = 40, .words = { 1, GPA, MEM_SIZE, UVA } },
		{ .request = VHU_SET_MEM_TABLE, .size = 40, .words = { 1, UINT64_MAX, MEM_SIZE, UVA }, .n_fds = 1 },
		{ .request = VHU_SET_MEM_TABLE, .size = 40, .words = { 1, GPA, 0, UVA }, .n_fds = 1 },
		{ .request = VHU_SET_MEM_TABLE, .size = 40, .words = { 9 }, .n_fds = 1 },
		{ .request = VHU_SET_BACKEND_REQ_FD },
		{ .request = VHU_GET_FEATURES, .n_fds = 1 },
		{ .request = VHU_GET_FEATURES, .flags = VHU_FLAG_REPLY },
		{ .request = VHU_GET_FEATURES, .flags = 2 },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .n_fds = VHU_MAX_FDS + 1 },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		uint8_t p[40];
		int fds[VHU_MAX_FDS + 1];

		for (unsigned k = 0; k < 5; k++)
			wslx_put_le64(p + 8 * k, bad[i].words[k]);
		for (size_t k = 0; k < ARRAY_SIZE(fds); k++)
			fds[k] = f->memfd;
		handshake(f);
		assert_false(f->closed);
		send_msg(f, bad[i].request, bad[i].flags, p, bad[i].size, fds, bad[i].n_fds);
		if (!f->closed)
			print_error("message %zu was accepted\n", i);
		assert_true(f->closed);
		assert_true(f->closed_err < 0);
		teardown(state);
		setup(state);
	}
}

static void test_addresses_outside_memory(void **state)
{
	struct fixture *f = *state;
	static const uint64_t off[] = { MEM_SIZE, MEM_SIZE - 16, UINT64_MAX - UVA - 7, 0 - UVA, 8 };

	for (size_t i = 0; i < ARRAY_SIZE(off); i++) {
		for (unsigned which = 0; which < 3; which++) {
			uint64_t a[3] = { UVA + DESC(0), UVA + AVAIL(0), UVA + USED(0) };

			/* Offset 8 is misaligned for descriptors only; end - 16 is
			 * enough room for none of the three. */
			if (off[i] == 8 && which)
				continue;
			a[which] = UVA + off[i];
			handshake(f);
			set_ring(f, 0, 0);
			set_addr(f, 0, a[0], a[1], a[2]);
			assert_false(f->closed);
			set_state(f, VHU_SET_VRING_ENABLE, 0, 1);
			assert_true(f->closed);
			teardown(state);
			setup(state);
		}
	}
}

static void test_changes_under_a_running_ring(void **state)
{
	struct fixture *f = *state;

	start(f);
	set_addr(f, 0, UVA + DESC(0), UVA + AVAIL(0), UVA + USED(0));
	expect_closed(f, -EPROTO);
}

static void test_message_in_pieces(void **state)
{
	struct fixture *f = *state;
	uint8_t m[VHU_HDR_LEN] = { VHU_GET_QUEUE_NUM, 0, 0, 0, VHU_VERSION }, r[8];

	for (size_t i = 0; i < sizeof(m); i++) {
		assert_int_equal(recv(f->fd, r, 1, MSG_DONTWAIT), -1);
		assert_int_equal(write(f->fd, m + i, 1), 1);
		pump(f);
	}
	assert_int_equal(recv_reply(f, VHU_GET_QUEUE_NUM, r, 8), 8);
	assert_int_equal(write(f->fd, m, 5), 5);
	shutdown(f->fd, SHUT_WR);
	expect_closed(f, -EPROTO);
}

static void test_front_end_that_does_not_read(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 100000 && !f->closed; i++) {
		uint8_t m[VHU_HDR_LEN] = { VHU_GET_QUEUE_NUM, 0, 0, 0, VHU_VERSION };

		if (send(f->fd, m, sizeof(m), MSG_NOSIGNAL) < 0)
			break;
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
	}
	expect_closed(f, -EPROTO);
}

/* A front end that always has another message does not keep the loop to itself. */
static void test_turns(void **state)
{
	uint8_t m[5 * VHU_HDR_LEN] = { 0 }, raw[256];
	struct fixture *f = *state;

	for (unsigned i = 0; i < 5; i++) {
		m[i * VHU_HDR_LEN] = VHU_GET_QUEUE_NUM;
		m[i * VHU_HDR_LEN + 4] = VHU_VERSION;
	}
	assert_int_equal(write(f->fd, m, sizeof(m)), sizeof(m));
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
		assert_int_equal(recv(f->fd, raw, sizeof(raw), MSG_DONTWAIT), VHU_HDR_LEN + 8);
	}
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_requests),
		T(test_waits_for_enable),
		T(test_old_front_end),
		T(test_stop_and_continue),
		T(test_stop_and_new_driver),
		T(test_reset_device),
		T(test_config),
		T(test_reply_ack),
		T(test_config_change_and_error),
		T(test_memory_table_changes),
		T(test_window),
		T(test_unsealed_memory),
		T(test_short_memory),
		T(test_malformed),
		T(test_addresses_outside_memory),
		T(test_changes_under_a_running_ring),
		T(test_message_in_pieces),
		T(test_front_end_that_does_not_read),
		T(test_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
