#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "front_end.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"

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

int fe_make_memfd(unsigned seals)
{
	int fd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, MEM_SIZE), 0);
	if (seals)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

int fe_setup(void **state)
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
	f.memfd = fe_make_memfd(F_SEAL_SHRINK);
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

int fe_teardown(void **state)
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

void fe_pump(struct fixture *f)
{
	for (int i = 0; i < 6; i++)
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
}

void fe_send_msg(struct fixture *f, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
		 const int *fds, size_t n_fds)
{
	uint8_t buf[VHU_HDR_LEN + 1024];

	wslx_put_le32(buf, request);
	wslx_put_le32(buf + 4, flags | VHU_VERSION);
	wslx_put_le32(buf + 8, size);
	if (size)
		memcpy(buf + VHU_HDR_LEN, payload, size);
	assert_int_equal(wslx_send_fds(f->fd, buf, VHU_HDR_LEN + size, fds, n_fds, MSG_NOSIGNAL), VHU_HDR_LEN + size);
	fe_pump(f);
}

uint32_t fe_recv_reply(struct fixture *f, uint32_t request, void *buf, size_t size)
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

uint64_t fe_get_u64(struct fixture *f, uint32_t request)
{
	uint8_t p[8];

	fe_send_msg(f, request, 0, NULL, 0, NULL, 0);
	assert_int_equal(fe_recv_reply(f, request, p, 8), 8);
	return wslx_get_le64(p);
}

void fe_set_u64(struct fixture *f, uint32_t request, uint64_t v, const int *fd)
{
	uint8_t p[8];

	wslx_put_le64(p, v);
	fe_send_msg(f, request, 0, p, 8, fd, fd ? 1 : 0);
}

void fe_set_state(struct fixture *f, uint32_t request, uint32_t index, uint32_t num)
{
	uint8_t p[8];

	wslx_put_le32(p, index);
	wslx_put_le32(p + 4, num);
	fe_send_msg(f, request, 0, p, 8, NULL, 0);
}

uint32_t fe_get_base(struct fixture *f, uint32_t index)
{
	uint8_t p[8];

	fe_set_state(f, VHU_GET_VRING_BASE, index, 0);
	assert_int_equal(fe_recv_reply(f, VHU_GET_VRING_BASE, p, 8), 8);
	assert_int_equal(wslx_get_le32(p), index);
	return wslx_get_le32(p + 4);
}

void fe_put_region(uint8_t *p, uint64_t gpa, uint64_t size, uint64_t uva, uint64_t off)
{
	wslx_put_le64(p, gpa);
	wslx_put_le64(p + 8, size);
	wslx_put_le64(p + 16, uva);
	wslx_put_le64(p + 24, off);
}

void fe_set_mem(struct fixture *f, int fd)
{
	uint8_t p[8 + VHU_REGION_LEN] = { 1 };

	fe_put_region(p + 8, GPA, MEM_SIZE, UVA, 0);
	fe_send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), &fd, 1);
}

void fe_set_addr(struct fixture *f, uint32_t q, uint64_t desc, uint64_t avail, uint64_t used)
{
	uint8_t p[40] = { 0 };

	wslx_put_le32(p, q);
	wslx_put_le64(p + 8, desc);
	wslx_put_le64(p + 16, used);
	wslx_put_le64(p + 24, avail);
	fe_send_msg(f, VHU_SET_VRING_ADDR, 0, p, sizeof(p), NULL, 0);
}

void fe_set_ring(struct fixture *f, uint32_t q, uint32_t base)
{
	fe_set_state(f, VHU_SET_VRING_NUM, q, RING);
	fe_set_state(f, VHU_SET_VRING_BASE, q, base);
	fe_set_addr(f, q, UVA + DESC(q), UVA + AVAIL(q), UVA + USED(q));
	fe_set_u64(f, VHU_SET_VRING_KICK, q, &f->kick[q]);
	fe_set_u64(f, VHU_SET_VRING_CALL, q, &f->call[q]);
	fe_set_u64(f, VHU_SET_VRING_ERR, q, &f->err[q]);
}

void fe_handshake(struct fixture *f)
{
	uint64_t features = fe_get_u64(f, VHU_GET_FEATURES);

	assert_int_equal(features, F_TOY | WSLX_VIRTIO_F_EVENT_IDX | WSLX_VIRTIO_F_VERSION_1 | VHU_F_PROTOCOL_FEATURES);
	fe_set_u64(f, VHU_SET_PROTOCOL_FEATURES, fe_get_u64(f, VHU_GET_PROTOCOL_FEATURES), NULL);
	fe_send_msg(f, VHU_SET_OWNER, 0, NULL, 0, NULL, 0);
	fe_set_u64(f, VHU_SET_FEATURES, F_TOY | WSLX_VIRTIO_F_VERSION_1 | VHU_F_PROTOCOL_FEATURES, NULL);
	fe_set_mem(f, f->memfd);
}

void fe_start(struct fixture *f)
{
	fe_handshake(f);
	for (uint32_t q = 0; q < N_QUEUES; q++)
		fe_set_ring(f, q, 0);
	for (uint32_t q = 0; q < N_QUEUES; q++)
		fe_set_state(f, VHU_SET_VRING_ENABLE, q, 1);
	assert_false(f->closed);
	assert_true(f->toy.d.active);
}

uint64_t fe_take(int fd)
{
	uint64_t n = 0;

	if (read(fd, &n, sizeof(n)) < 0)
		return 0;
	return n;
}

void fe_put_desc(struct fixture *f, unsigned q, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t *p = f->mem + DESC(q) + 16 * i;

	wslx_put_le64(p, gpa);
	wslx_put_le32(p + 8, len);
	wslx_put_le16(p + 12, flags);
	wslx_put_le16(p + 14, next);
}

void fe_submit(struct fixture *f, unsigned q)
{
	static const uint64_t one = 1;
	uint8_t *avail = f->mem + AVAIL(q);

	memcpy(f->mem + DATA(q), "\x01\x02\x03\x04", 4);
	memset(f->mem + DATA(q) + 16, 0, 4);
	fe_put_desc(f, q, 0, GPA + DATA(q), 4, 1, 1);
	fe_put_desc(f, q, 1, GPA + DATA(q) + 16, 4, 2, 0);
	wslx_put_le16(avail + 4 + 2 * (f->avail[q] % RING), 0);
	wslx_put_le16(avail + 2, ++f->avail[q]);
	assert_int_equal(write(f->kick[q], &one, 8), 8);
	fe_pump(f);
}

void fe_round_trip(struct fixture *f, unsigned q)
{
	fe_submit(f, q);
	assert_int_equal(wslx_get_le16(f->mem + USED(q) + 2), f->avail[q]);
	assert_memory_equal(f->mem + DATA(q) + 16, "\xfe\xfd\xfc\xfb", 4);
	assert_true(fe_take(f->call[q]) > 0);
}

void fe_expect_closed(struct fixture *f, int err)
{
	fe_pump(f);
	assert_true(f->closed);
	assert_int_equal(f->closed_err, err);
	assert_false(f->toy.d.active);
	for (unsigned q = 0; q < N_QUEUES; q++)
		assert_false(f->toy.d.vq[q].enabled);
}
