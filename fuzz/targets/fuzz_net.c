/*
 * virtio-net over a stream or a tap: the guest's rings and frames together with
 * a peer that sends anything, stops reading, and dies.
 * Input: a byte that selects back end and features, then a list of steps.
 *
 * The tap is a socket that keeps packets apart; ioctl() here answers for it.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "dev/virtio/net.h"
#include "dev/virtio/net_internal.h"
#include "mini_driver.h"

#define RX_BUF 0x20000u
#define TX_BUF 0x80000u

/* What kind of tap there is: 1 = with virtio headers, 2 = knows the offloads, 4 = forgets them. */
static uint8_t tap_kind;

int ioctl(int fd, unsigned long req, ...)
{
	unsigned long arg;
	va_list ap;

	va_start(ap, req);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	switch (req) {
	case TUNGETIFF:
		((struct ifreq *)arg)->ifr_flags = (short)(IFF_TAP | IFF_NO_PI | (tap_kind & 1 ? IFF_VNET_HDR : 0));
		return 0;
	case TUNSETVNETHDRSZ:
	case TUNSETVNETLE:
		return 0;
	case TUNSETOFFLOAD:
		if (!arg || ((tap_kind & 2) && !(tap_kind & 4 && arg != 1)))
			return 0;
		errno = EINVAL;
		return -1;
	default:
		errno = ENOTTY;
		return -1;
	}
}

struct state {
	struct mini m;
	bool tap;
	struct wslx_loop *loop;
	int peer;
	bool heal;
};

static void new_backend(struct state *s)
{
	int sv[2], small = 4096;

	mini_check(socketpair(AF_UNIX, (s->tap ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) ==
		   0);
	setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	wslx_close(&s->peer);
	s->peer = sv[1];
	/* A tap that can do less than the guest was promised is refused. */
	mini_check(wslx_net_set_backend(s->m.d, sv[0]) == 0 || s->tap);
}

static void on_down(void *opaque)
{
	struct state *s = opaque;

	if (s->heal)
		new_backend(s);
}

static void peer_sends(struct state *s, struct input *in)
{
	static uint8_t buf[4 + 70000];
	uint8_t kind = in_u8(in);
	uint32_t len = kind & 1 ? in_u8(in) + 14u : in_u16(in);
	size_t n = 4 + len;

	/* A well-formed frame, one with a wrong length, or raw bytes. */
	buf[0] = buf[1] = 0;
	buf[2] = (uint8_t)(len >> 8);
	buf[3] = (uint8_t)len;
	if (kind & 2)
		in_bytes(in, buf, 4);
	if (kind & 4)
		n = in_bytes(in, buf, kind >> 3);
	if (send(s->peer, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		(void)0;
}

static void peer_reads(struct state *s)
{
	static uint8_t buf[65536];

	if (recv(s->peer, buf, sizeof(buf), MSG_DONTWAIT) < 0)
		(void)0;
}

static void check(struct state *s)
{
	const struct wslx_net *n = CONTAINER_OF(s->m.d, struct wslx_net, d);

	mini_check((uint64_t)n->stage_off + n->stage_len <= NET_STAGE_LEN);
	mini_check((uint64_t)n->pending_off + n->pending_len <= 4 + NET_FRAME_MAX);
	mini_check((n->fd >= 0) == (n->watch != NULL));
	for (unsigned q = 0; q < NET_N_QUEUES; q++)
		mini_check_used(&s->m, q);
}

static void step(struct state *s, struct input *in)
{
	uint8_t cmd = in_u8(in);
	uint32_t len;

	switch (cmd & 15) {
	case 0:
	case 1:
		peer_sends(s, in);
		break;
	case 2:
	case 3:
		mini_add(&s->m, NET_Q_RX, RX_BUF + (cmd >> 4) * 0x1000u, NET_HDR_LEN, 1 + in_u16(in) % 4096, true);
		break;
	case 4:
	case 5:
		len = in_u16(in);
		mini_add(&s->m, NET_Q_TX, TX_BUF, cmd & 64 ? in_u8(in) : NET_HDR_LEN, len, false);
		break;
	case 6:
		mini_add(&s->m, NET_Q_RX, RX_BUF, 1 + in_u16(in), 0, true);
		break;
	case 7:
	case 8:
		peer_reads(s);
		break;
	case 9:
		mini_garbage(&s->m, cmd >> 4 & 1, in);
		break;
	case 10:
		mini_stop(&s->m);
		mini_start(&s->m, NET_N_QUEUES, in_u8(in) & 1 ? ~0ull : ~(NET_F_MRG_RXBUF | WSLX_VIRTIO_F_EVENT_IDX));
		break;
	case 11:
		shutdown(s->peer, cmd & 16 ? SHUT_WR : SHUT_RDWR);
		break;
	case 12:
		if (cmd & 16)
			tap_kind = cmd >> 5 & 7;
		new_backend(s);
		break;
	case 13:
		if (cmd & 16)
			s->m.d->ops->quiesce(s->m.d);
		else
			s->m.d->ops->resume(s->m.d);
		break;
	case 14:
		mini_check(wslx_net_set_backend(s->m.d, -1) == 0);
		break;
	default:
		break;
	}
	for (unsigned q = 0; q < NET_N_QUEUES; q++)
		s->m.d->ops->kick(s->m.d, q);
	if (!(cmd & 0x80)) {
		wslx_loop_once(s->loop, 0);
		wslx_loop_once(s->loop, 0);
		check(s);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	static struct state s;
	uint8_t mode = in_u8(&in);
	struct wslx_net_params p = {
		.backend = mode & 8 ? WSLX_NET_BACKEND_TAP : WSLX_NET_BACKEND_STREAM,
		.fd = -1,
		.mtu = mode & 1 ? 1500 : 0,
		.net_down = on_down,
		.opaque = &s,
	};
	struct wslx_vdev *d;

	wslx_log_init("fuzz", -1, WSLX_LOG_ERROR);
	memset(&s, 0, sizeof(s));
	s.peer = -1;
	s.heal = mode & 2;
	s.tap = mode & 8;
	tap_kind = mode >> 4 & 7;
	mini_check(wslx_loop_new(&s.loop) == 0);
	p.loop = s.loop;
	mini_check(wslx_net_new(&p, &d) == 0);
	mini_init(&s.m, d);
	new_backend(&s);
	mini_start(&s.m, NET_N_QUEUES, mode & 4 ? ~0ull : ~(NET_F_MRG_RXBUF | WSLX_VIRTIO_F_EVENT_IDX));
	for (unsigned i = 0; in.n && i < 400; i++)
		step(&s, &in);
	wslx_loop_once(s.loop, 0);
	check(&s);
	s.heal = false;
	mini_fini(&s.m);
	wslx_loop_free(s.loop);
	wslx_close(&s.peer);
	return 0;
}
