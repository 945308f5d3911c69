/* A participant whose peer writes anything anywhere it may write, between any two of its calls; and a host that serves
 * the same peer's mailbox. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wslx/portal.h>

#include "input.h"
#include "portal/internal.h"

#define SEGMENTS 16u
#define LENGTH (SEGMENTS * PORTAL_SEGMENT_SIZE)

struct side {
	unsigned index;
	portal *p;
	uint8_t *base;
};

static portal_host *host;
static struct side victim, liar;
static portal_listener *listener;
static portal_chan *accepted[2], *chan;
static portal_rpc_server *server;
static portal_rpc *rpc;

/* What the victim does while the liar still waits politely. */
static void serve(void)
{
	struct portal_rpc_request q;

	for (unsigned i = 0; i < 2; i++)
		if (!accepted[i] && listener && portal_accept(listener, 0, &accepted[i]) < 0)
			break;
	if (server)
		(void)portal_rpc_next(server, &q, 0);
}

static void bell_wait(void *ctx, const struct portal_wait *w, size_t n, int64_t timeout_ns)
{
	if (ctx == &liar)
		serve();
}

static void bell_wake(void *ctx, unsigned to, const uint32_t *word)
{
	struct side *s = ctx;

	(void)portal_host_kick(host, s->index, to);
}

static const struct portal_doorbell_ops bell = { .wait = bell_wait, .wake = bell_wake };

static void map_arena(struct side *s, unsigned a, uint32_t first, uint32_t segments, int writable)
{
	int fd = portal_host_arena_fd(host, a, writable);

	if (fd < 0 || mmap(s->base + first * PORTAL_SEGMENT_SIZE, segments * PORTAL_SEGMENT_SIZE,
			   writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		abort();
	close(fd);
}

static void attach(struct side *s)
{
	struct portal_attach_mapped a = { .size = sizeof(a), .length = LENGTH, .generation = 1 };

	s->base = mmap(NULL, LENGTH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->base == MAP_FAILED)
		abort();
	map_arena(s, 0, 0, 1, 0);
	for (unsigned i = 1; i <= 2; i++)
		map_arena(s, i, 1 + 2 * (i - 1), 2, s->index == i);
	a.base = s->base;
	a.participant = s->index;
	a.doorbell = &bell;
	a.doorbell_ctx = s;
	if (portal_attach_mapped(&a, &s->p) < 0)
		abort();
}

static void start(void)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "fuzz", .segments = SEGMENTS };
	struct portal_host_member m = { .size = sizeof(m), .name = "p", .kind = PORTAL_KIND_GUEST, .segments = 2 };

	if (portal_host_create(&hp, &host) < 0 || portal_host_add(host, &m, &victim.index) < 0 ||
	    portal_host_add(host, &m, &liar.index) < 0)
		abort();
	attach(&victim);
	attach(&liar);
	if (portal_listen(victim.p, "svc", NULL, &listener) < 0 || portal_rpc_serve(victim.p, "rpc", &server) < 0)
		abort();
	/* The liar is honest until the rings are there. */
	if (portal_connect(liar.p, "svc", 4096, PORTAL_FOREVER, &chan) < 0 ||
	    portal_rpc_connect(liar.p, "rpc", PORTAL_FOREVER, &rpc) < 0)
		abort();
}

static void stop(void)
{
	for (unsigned i = 0; i < 2; i++) {
		portal_chan_free(accepted[i]);
		accepted[i] = NULL;
	}
	portal_rpc_server_free(server);
	portal_listener_free(listener);
	portal_rpc_free(rpc);
	portal_chan_free(chan);
	portal_detach(victim.p);
	portal_detach(liar.p);
	portal_host_destroy(host);
	munmap(victim.base, LENGTH);
	munmap(liar.base, LENGTH);
}

/* Somewhere in the liar's arena, more often where it matters. */
static uint64_t place(struct input *in)
{
	uint64_t arena = liar.p->own_off, block;
	uint8_t which = in_u8(in);
	uint16_t off = in_u16(in);

	block = ((uint64_t)chan->block_h.segment << PORTAL_SEGMENT_SHIFT) + chan->block_h.offset;
	switch (which % 6) {
	case 0:
		return arena + off % sizeof(struct portal_control);
	case 1:
		return arena + PORTAL_LINKS_OFF + off % (4 * sizeof(struct portal_link));
	case 2:
		return block + off % 1024;
	case 3:
		return ((uint64_t)chan->data_h.segment << PORTAL_SEGMENT_SHIFT) + chan->data_h.offset + off % 4096;
	case 4:
		return arena + PORTAL_CHUNKS_OFF + off % 512;
	default:
		return arena + (uint64_t)off * 61 % (2 * PORTAL_SEGMENT_SIZE - 16);
	}
}

static void scribble(struct input *in)
{
	uint64_t at = place(in);
	uint8_t n = in_u8(in);

	in_bytes(in, liar.base + at, n % 16 + 1);
}

static unsigned sum(const void *p, size_t n)
{
	unsigned s = 0;

	for (size_t i = 0; i < n; i++)
		s += ((const volatile uint8_t *)p)[i];
	return s;
}

static void receive(portal_chan *c, uint8_t how)
{
	uint8_t buf[256];
	const void *at;
	size_t n;

	if (!c)
		return;
	if (how & 1) {
		if (portal_recv(c, NULL, buf, sizeof(buf), &n, 0) == 0)
			sum(buf, n);
	} else if (portal_peek(c, NULL, &at, &n, 0) == 0) {
		sum(at, n);
		(void)portal_release(c);
	}
}

static void answer(void)
{
	struct portal_rpc_request q;

	if (portal_rpc_next(server, &q, 0) < 0)
		return;
	sum(q.in.data, q.in.size);
	(void)portal_rpc_cancelled(server, &q);
	(void)portal_rpc_reply(server, &q, 0, &q.in);
}

static void resolve(struct input *in)
{
	uint64_t at = place(in);
	struct portal_handle h = {
		.region = liar.p->geo.tag,
		.segment = (uint32_t)(at >> PORTAL_SEGMENT_SHIFT),
		.offset = (uint32_t)(at & (PORTAL_SEGMENT_SIZE - 1)),
		.generation = in_u32(in),
	};
	const void *p;
	size_t n = in_u32(in) % (4 * PORTAL_SEGMENT_SIZE);

	if (portal_resolve(victim.p, h, n, &p) == 0)
		sum(p, n);
}

static void names(void)
{
	struct portal_object o;
	uint32_t cursor = 0;
	const void *p;

	while (portal_next(victim.p, &cursor, &o) == 0)
		if (portal_map(victim.p, &o, &p, NULL) == 0)
			sum(p, o.size);
}

static void step(struct input *in)
{
	static const uint8_t blank[512];
	uint8_t op = in_u8(in);
	struct portal_object o;
	uint64_t id;

	switch (op % 11) {
	case 0:
	case 1:
		scribble(in);
		break;
	case 2:
		receive(accepted[0], op);
		break;
	case 3:
		if (accepted[0])
			(void)portal_send(accepted[0], op, blank, in_u8(in) * 2u, 0);
		break;
	case 4:
		serve();
		receive(accepted[1], op);
		break;
	case 5:
		resolve(in);
		break;
	case 6:
		answer();
		break;
	case 7:
		(void)portal_host_kick(host, liar.index, 0);
		break;
	case 8:
		(void)portal_poll(victim.p, 0);
		names();
		break;
	case 9:
		(void)portal_send(chan, op, blank, in_u8(in), 0);
		break;
	default:
		(void)portal_rpc_start(rpc, op, &(struct portal_bytes) { .data = blank, .size = in_u8(in) }, 0, &id);
		if (portal_open(victim.p, "svc", &o) < 0)
			abort();
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct input in = { data, n };

	start();
	for (unsigned i = 0; i < 256 && in.n; i++)
		step(&in);
	stop();
	return 0;
}
