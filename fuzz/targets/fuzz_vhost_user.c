/*
 * The vhost-user server in front of a vsock device: messages with and without
 * descriptors, well-formed and not, in any order, and a guest that scribbles on
 * its rings meanwhile.
 * Input: a list of steps, each a byte and its arguments.
 */
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "dev/vhost_user/msg.h"
#include "dev/vhost_user/server.h"
#include "dev/virtio/vsock.h"
#include "mini_driver.h"
#include "os/linux/fd.h"

#define MEM (256u << 10)
#define UVA 0x7f0000000000ull

struct state {
	struct wslx_loop *loop;
	struct wslx_vhost_user *server;
	struct wslx_vdev *d;
	int sock, memfd, unsealed, kick;
	struct mini m; /* only for its ring layout */
	bool closed;
};

static void on_closed(void *opaque, int err)
{
	((struct state *)opaque)->closed = true;
}

static void send_msg(struct state *s, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
		     uint32_t said_size, const int *fds, size_t n_fds)
{
	uint8_t buf[VHU_HDR_LEN + 512];

	wslx_put_le32(buf, request);
	wslx_put_le32(buf + 4, flags);
	wslx_put_le32(buf + 8, said_size);
	memcpy(buf + VHU_HDR_LEN, payload, size);
	if (wslx_send_fds(s->sock, buf, VHU_HDR_LEN + size, fds, n_fds, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		s->closed = true;
}

static size_t pick_fds(struct state *s, struct input *in, int fds[10])
{
	uint8_t k = in_u8(in);
	size_t n = (k & 15) % 10;

	for (size_t i = 0; i < n; i++)
		fds[i] = k & 64 ? s->kick : k & 128 ? s->unsealed : s->memfd;
	return n;
}

static void raw_message(struct state *s, struct input *in)
{
	uint8_t payload[512];
	int fds[10];
	uint8_t request = in_u8(in), shape = in_u8(in);
	size_t n_fds = pick_fds(s, in, fds);
	uint32_t size = (uint32_t)in_bytes(in, payload, in_u16(in) % sizeof(payload));

	send_msg(s, request & 0x80 ? in_u32(in) : request % 48, shape & 1 ? in_u32(in) : VHU_VERSION | (shape & 8),
		 payload, size, shape & 2 ? in_u32(in) : size, fds, n_fds);
}

/* What a front end would send, with one field off now and then. */
static void good_message(struct state *s, uint8_t what, struct input *in)
{
	uint8_t p[200] = { 0 }, odd = in_u8(in);
	uint32_t q = what < 20 ? odd & 3 : in_u8(in), request, size = 8; /* a vring there may not be */
	int *fd = NULL;

	switch (what % 10) {
	case 0:
		request = VHU_SET_FEATURES;
		wslx_put_le64(p, WSLX_VIRTIO_F_VERSION_1 | (odd & 4 ? VHU_F_PROTOCOL_FEATURES : 0) |
					 (odd & 8 ? WSLX_VIRTIO_F_EVENT_IDX : 0));
		break;
	case 1:
		request = VHU_SET_MEM_TABLE;
		size = 8 + VHU_REGION_LEN;
		p[0] = 1;
		wslx_put_le64(p + 16, MEM);
		wslx_put_le64(p + 24, UVA);
		if (odd & 16)
			wslx_put_le64(p + 8 + (odd & 3) * 8, (uint64_t)in_u32(in) << (odd & 32));
		fd = &s->memfd;
		break;
	case 2:
		request = VHU_SET_VRING_NUM;
		wslx_put_le32(p, q);
		wslx_put_le32(p + 4, odd & 16 ? in_u16(in) : MINI_RING);
		break;
	case 3:
		request = VHU_SET_VRING_BASE;
		wslx_put_le32(p, q);
		wslx_put_le32(p + 4, in_u8(in));
		break;
	case 4:
		request = VHU_SET_VRING_ADDR;
		size = 40;
		wslx_put_le32(p, q);
		wslx_put_le64(p + 8, UVA + MINI_DESC(q));
		wslx_put_le64(p + 16, UVA + MINI_USED(q));
		wslx_put_le64(p + 24, UVA + MINI_AVAIL(q));
		if (odd & 16)
			wslx_put_le64(p + 8 + (odd >> 5) % 3 * 8, UVA + in_u32(in));
		break;
	case 5:
		request = odd & 16 ? VHU_SET_VRING_CALL : odd & 32 ? VHU_SET_VRING_ERR : VHU_SET_VRING_KICK;
		wslx_put_le64(p, q);
		fd = &s->kick;
		break;
	case 6:
		request = VHU_SET_VRING_ENABLE;
		wslx_put_le32(p, q);
		wslx_put_le32(p + 4, odd >> 4 != 0);
		break;
	case 7:
		request = VHU_GET_VRING_BASE;
		wslx_put_le32(p, q);
		break;
	case 8:
		request = odd & 16 ? VHU_GET_CONFIG : VHU_SET_CONFIG;
		wslx_put_le32(p, odd & 7);
		wslx_put_le32(p + 4, odd & 32 ? in_u32(in) : 1);
		size = VHU_CONFIG_HDR_LEN + 1;
		break;
	default:
		request = VHU_SET_PROTOCOL_FEATURES;
		wslx_put_le64(p, VHU_PF_CONFIG | VHU_PF_REPLY_ACK);
		break;
	}
	send_msg(s, request, VHU_VERSION | (odd & 64 ? VHU_FLAG_NEED_REPLY : 0), p, size, size, fd, fd ? 1 : 0);
}

/* A round takes one message. */
static void serve(struct state *s, unsigned rounds)
{
	for (unsigned i = 0; i < rounds && !s->closed; i++)
		wslx_loop_once(s->loop, 0);
}

static void step(struct state *s, struct input *in)
{
	static const uint64_t one = 1;
	uint8_t cmd = in_u8(in), drop[1024];

	switch (cmd & 7) {
	case 0:
		raw_message(s, in);
		break;
	case 1:
	case 2:
	case 3:
		good_message(s, cmd >> 3, in);
		break;
	case 4:
		mini_garbage(&s->m, cmd >> 3 & 1, in);
		break;
	case 5:
		mini_add(&s->m, cmd >> 3 & 1, MINI_BUFFERS + in_u16(in), 44 + in_u8(in), in_u8(in), !(cmd & 8));
		break;
	case 6:
		in_bytes(in, s->m.mem + MINI_BUFFERS + (cmd >> 3) * 8, 44);
		break;
	default:
		if (write(s->kick, &one, sizeof(one)) < 0)
			(void)0;
		break;
	}
	if (!(cmd & 0x80))
		serve(s, 4);
	while (recv(s->sock, drop, sizeof(drop), MSG_DONTWAIT) > 0)
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	static struct state s;
	struct wslx_vsock_params vp = { .guest_cid = 3, .listen_fd = -1, .max_conns = 4 };
	struct wslx_vhost_user_params p = { .closed = on_closed, .opaque = &s };
	int sv[2];

	wslx_log_init("fuzz", -1, WSLX_LOG_ERROR);
	memset(&s, 0, sizeof(s));
	mini_check(wslx_loop_new(&s.loop) == 0);
	vp.loop = s.loop;
	mini_check(wslx_vsock_new(&vp, &s.d) == 0);
	mini_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == 0);
	s.sock = sv[0];
	p.fd = sv[1];
	p.vdev = s.d;
	mini_check(wslx_vhost_user_new(&p, &s.server) == 0);
	s.memfd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	s.unsealed = memfd_create("ram", MFD_CLOEXEC);
	mini_check(s.memfd >= 0 && s.unsealed >= 0 && ftruncate(s.memfd, MEM) == 0 && ftruncate(s.unsealed, MEM) == 0);
	mini_check(fcntl(s.memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	s.m.mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED, s.memfd, 0);
	mini_check(s.m.mem != MAP_FAILED);
	s.m.garbage = true; /* rings stop and restart anywhere */
	s.kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (unsigned i = 0; in.n && i < 300 && !s.closed; i++)
		step(&s, &in);
	serve(&s, 64);
	wslx_vhost_user_free(s.server);
	s.d->ops->free(s.d);
	wslx_loop_free(s.loop);
	munmap(s.m.mem, MEM);
	close(s.sock);
	close(s.memfd);
	close(s.unsealed);
	close(s.kick);
	return 0;
}
