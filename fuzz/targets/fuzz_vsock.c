/*
 * virtio-vsock: the guest's packets, rings and buffers, together with host
 * programs that connect, write, read, half-close and vanish.
 * Input: a list of steps, each a byte and its arguments.
 */
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "dev/virtio/vsock.h"
#include "dev/virtio/vsock_internal.h"
#include "mini_driver.h"

#define PEERS 8
#define ASKED 8
#define RX_BUF 0x40000u
#define TX_BUF 0x80000u

struct state {
	struct mini m;
	struct wslx_loop *loop;
	struct sockaddr_un addr;
	socklen_t addr_len;
	int peer[PEERS];
	uint32_t asked[ASKED];
	unsigned n_asked;
};

static void on_request(void *opaque, uint32_t id, uint32_t port)
{
	struct state *s = opaque;

	if (port & 1) {
		wslx_vsock_connect_done(s->m.d, id, -1);
		return;
	}
	s->asked[s->n_asked++ % ASKED] = id;
}

static uint32_t pick_port(uint8_t v)
{
	/* A few guest and host ports, and those handed to host clients. */
	return v & 0x80 ? VSOCK_HOST_PORT_FIRST + (v & 7) : v & 15;
}

static void guest_packet(struct state *s, struct input *in)
{
	uint8_t *p = s->m.mem + TX_BUF, shape = in_u8(in);
	uint32_t n = in_u16(in) % 8192;
	struct vsock_hdr h = {
		.src_cid = shape & 1 ? in_u8(in) : 3,
		.dst_cid = shape & 2 ? in_u8(in) : WSLX_VSOCK_HOST_CID,
		.src_port = pick_port(in_u8(in)),
		.dst_port = pick_port(in_u8(in)),
		.len = shape & 4 ? in_u32(in) : n,
		.type = shape & 8 ? in_u8(in) : VSOCK_TYPE_STREAM,
		.op = in_u8(in) % 10,
		.flags = in_u8(in),
		.buf_alloc = shape & 16 ? in_u32(in) : 65536,
		.fwd_cnt = shape & 32 ? in_u32(in) : 0,
	};

	wslx_vsock_hdr_encode(&h, p);
	mini_add(&s->m, VSOCK_Q_TX, TX_BUF, shape & 64 ? in_u8(in) : VSOCK_HDR_LEN, n, false);
}

static void answer(struct state *s, struct input *in)
{
	uint32_t id = s->asked[in_u8(in) % ASKED];
	uint8_t k = in_u8(in);
	int sv[2], fd = -1, small = 4096;

	if (k & 1 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0) {
		fd = sv[0];
		/* Little room, so that the backlog is used. */
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
		wslx_close(&s->peer[k / 2 % PEERS]);
		s->peer[k / 2 % PEERS] = sv[1];
	}
	wslx_vsock_connect_done(s->m.d, id, fd);
}

static void client(struct state *s, struct input *in)
{
	char line[40];
	uint8_t k = in_u8(in);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	size_t n;

	if (fd < 0 || connect(fd, (struct sockaddr *)&s->addr, s->addr_len) < 0) {
		wslx_close(&fd);
		return;
	}
	if (k & 0x80) {
		n = in_bytes(in, line, k & 31);
	} else {
		memcpy(line, "CONNECT 1\n", 10);
		line[8] = (char)('0' + (k & 7));
		n = 10;
	}
	if (send(fd, line, n, MSG_NOSIGNAL) < 0)
		(void)0;
	wslx_close(&s->peer[k % PEERS]);
	s->peer[k % PEERS] = fd;
}

static void peer_step(struct state *s, struct input *in)
{
	static char buf[16384];
	uint8_t k = in_u8(in);
	int *fd = &s->peer[k % PEERS];

	if (*fd < 0)
		return;
	switch (k >> 4) {
	case 0:
		wslx_close(fd);
		break;
	case 1:
		shutdown(*fd, SHUT_WR);
		break;
	case 2:
		shutdown(*fd, SHUT_RD);
		break;
	case 3:
	case 4:
		if (recv(*fd, buf, sizeof(buf), MSG_DONTWAIT) < 0)
			(void)0;
		break;
	default:
		if (send(*fd, buf, 1 + in_u16(in) % sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			(void)0;
		break;
	}
}

static void check(struct state *s)
{
	struct wslx_vsock *v = CONTAINER_OF(s->m.d, struct wslx_vsock, d);
	unsigned n = 0, unanswered = 0;

	for (unsigned i = 0; i < v->n_slots_used; i++) {
		const struct vsock_conn *c = &v->conns[i];

		if (c->state == CONN_FREE)
			continue;
		n++;
		unanswered += c->state == CONN_GUEST_WAIT || c->state == CONN_GUEST_GONE;
		mini_check(c->backlog_len <= c->buf_alloc);
		mini_check(c->rx_cnt - c->fwd_cnt == c->backlog_len);
		mini_check(c->fd >= 0 || !c->watch);
	}
	mini_check(n == v->n_conns && unanswered == v->n_unanswered);
	mini_check(v->n_clients <= VSOCK_MAX_CLIENTS && v->rst_len <= VSOCK_RST_RING);
	for (unsigned q = 0; q < VSOCK_N_QUEUES; q++)
		mini_check_used(&s->m, q);
}

static void step(struct state *s, struct input *in)
{
	uint8_t cmd = in_u8(in);

	switch (cmd & 15) {
	case 0:
	case 1:
	case 2:
		guest_packet(s, in);
		break;
	case 3:
	case 4:
		mini_add(&s->m, VSOCK_Q_RX, RX_BUF + (cmd >> 4) * 0x2000u,
			 cmd & 64 ? VSOCK_HDR_LEN + 100 : VSOCK_HDR_LEN, 4096, true);
		break;
	case 5:
		mini_add(&s->m, VSOCK_Q_EVENT, RX_BUF, 4, 0, true);
		break;
	case 6:
		answer(s, in);
		break;
	case 7:
		client(s, in);
		break;
	case 8:
	case 9:
		peer_step(s, in);
		break;
	case 10:
		mini_garbage(&s->m, cmd >> 4 & 3 ? VSOCK_Q_TX : cmd >> 6, in);
		break;
	case 11:
		mini_stop(&s->m);
		mini_start(&s->m, VSOCK_N_QUEUES, cmd & 16 ? ~0ull : ~WSLX_VIRTIO_F_EVENT_IDX);
		break;
	case 13:
		if (cmd & 16)
			s->m.d->ops->quiesce(s->m.d);
		else
			s->m.d->ops->resume(s->m.d);
		break;
	default:
		break;
	}
	for (unsigned q = 0; q < VSOCK_N_QUEUES; q++)
		s->m.d->ops->kick(s->m.d, q);
	if (!(cmd & 0x80)) {
		wslx_loop_once(s->loop, 0);
		check(s);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	static struct state s;
	struct wslx_vsock_params p = { .guest_cid = 3, .connect_request = on_request, .opaque = &s, .max_conns = 12 };

	wslx_log_init("fuzz", -1, WSLX_LOG_ERROR);
	memset(&s, 0, sizeof(s));
	for (unsigned i = 0; i < PEERS; i++)
		s.peer[i] = -1;
	mini_check(wslx_loop_new(&s.loop) == 0);
	/* Binding to no name at all picks a free abstract one. */
	p.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	s.addr.sun_family = AF_UNIX;
	s.addr_len = sizeof(s.addr);
	mini_check(p.listen_fd >= 0 && bind(p.listen_fd, (struct sockaddr *)&s.addr, sizeof(sa_family_t)) == 0);
	mini_check(listen(p.listen_fd, 16) == 0 &&
		   getsockname(p.listen_fd, (struct sockaddr *)&s.addr, &s.addr_len) == 0);
	p.loop = s.loop;
	struct wslx_vdev *d;
	mini_check(wslx_vsock_new(&p, &d) == 0);
	mini_init(&s.m, d);
	mini_start(&s.m, VSOCK_N_QUEUES, ~0ull);
	for (unsigned i = 0; in.n && i < 400; i++)
		step(&s, &in);
	wslx_loop_once(s.loop, 0);
	check(&s);
	mini_fini(&s.m);
	wslx_loop_free(s.loop);
	for (unsigned i = 0; i < PEERS; i++)
		wslx_close(&s.peer[i]);
	return 0;
}
