/*
 * A participant, the victim, whose peer writes anything anywhere it may write,
 * between any two of its calls; and a host that serves the same peer's mailbox,
 * gives and takes rights, brings everybody to rest, and sees the peer go and
 * another one come.  The peer, the liar, is honest until its rings are there.
 *
 * What a VMM would do is done here: arenas are mapped as the host's table says.
 *
 * Besides memory errors it finds a record or room for one that is not in its ring.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wslx/portal.h>

#include "input.h"
#include "portal/atomic.h"
#include "portal/host.h"
#include "portal/internal.h"

#define SEGMENTS 16u
#define LENGTH (SEGMENTS * PORTAL_SEGMENT_SIZE)
#define MAX_STEPS 256
#define PER_SERVICE 2
#define POLITE_NS INT64_C(2000000)
#define N_MINE 8
/* Longer than a spin, so that there is something asleep; nobody comes but who is named in `meanwhile`. */
#define WAIT_NS INT64_C(100000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct side {
	unsigned index;
	portal *p;
	uint8_t *base;
	/* As last mapped. */
	struct {
		uint64_t life;
		enum wslx_portal_access access;
	} have[PORTAL_MAX_ARENAS];
};

enum { RECORDS, BYTES, CALLS, N_CHANS };
static const char *const services[N_CHANS] = { "svc", "bytes", "rpc" };

static portal_host *host;
static struct side victim, liar;
static portal_listener *listeners[CALLS];
static portal_chan *accepted[CALLS][PER_SERVICE], *chans[N_CHANS];
static portal_fanin *fanin;
static portal_rpc_server *server;
static struct portal_rpc_request request;
static struct portal_handle mine[N_MINE];
static uint8_t meanwhile; /* what the liar does while the victim waits */

static void must(bool good)
{
	if (!good)
		abort();
}

/* ---- the transport --------------------------------------------------------------------- */

static void put(struct side *s, const struct wslx_host_arena *a, int prot, int flags, int fd)
{
	must(mmap(s->base + a->first * PORTAL_SEGMENT_SIZE, a->segments * PORTAL_SEGMENT_SIZE, prot, flags | MAP_FIXED,
		  fd, 0) != MAP_FAILED);
}

/* What somebody had of a dead one it keeps, and of its own that was revoked. */
static void map_arenas(struct side *s)
{
	for (unsigned i = 0; s->base && i < PORTAL_MAX_ARENAS; i++) {
		const struct wslx_host_arena *a = &host->arena[i];
		enum wslx_portal_access access = wslx_host_access(host, s->index, i);

		if (!a->life && i)
			continue;
		if (s->have[i].life == a->life && s->have[i].access == access)
			continue;
		s->have[i].life = a->life;
		s->have[i].access = access;
		if (access != PORTAL_ACCESS_NONE)
			put(s, a, access == PORTAL_ACCESS_WRITE ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
			    access == PORTAL_ACCESS_WRITE ? a->fd : a->ro);
		else if (a->owner != s->index && PORTAL_LIFE_STATE(a->life) != PORTAL_ARENA_DEAD)
			put(s, a, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	}
}

/* What the victim does while the liar still waits politely. */
static void serve(void)
{
	for (unsigned l = 0; l < CALLS; l++)
		for (unsigned i = 0; listeners[l] && i < PER_SERVICE; i++)
			if (!accepted[l][i] && portal_accept(listeners[l], 0, &accepted[l][i]) == 0)
				(void)portal_fanin_add(fanin, accepted[l][i]);
	if (server && request.client == 0 && portal_rpc_next(server, &request, 0) < 0)
		request = (struct portal_rpc_request) { 0 };
}

static void act_meanwhile(void)
{
	static uint8_t buf[4096];
	uint8_t what = meanwhile;
	size_t n;

	meanwhile = 0;
	if (what == 1 && chans[RECORDS])
		(void)portal_send(chans[RECORDS], 1, "record", 6, 0);
	else if (what == 2 && chans[RECORDS])
		(void)portal_recv(chans[RECORDS], NULL, buf, sizeof(buf), &n, 0);
	else if (what == 3 && chans[BYTES])
		(void)portal_write(chans[BYTES], "bytes", 5, &n, 0);
}

/* Nobody else is there to end a quiesce that a call waits out. */
static void bell_wait(void *ctx, const struct portal_wait *w, size_t n, int64_t timeout_ns)
{
	(void)portal_host_resume(host);
	if (ctx == &liar)
		serve();
	else
		act_meanwhile();
}

static void bell_wake(void *ctx, unsigned to, const uint32_t *word)
{
	struct side *s = ctx;

	(void)portal_host_kick(host, s->index, to);
}

static const struct portal_doorbell_ops bell = { .wait = bell_wait, .wake = bell_wake };

/* ---- life ------------------------------------------------------------------------------- */

static bool attach(struct side *s)
{
	struct portal_host_member m = { .size = sizeof(m), .name = "p", .kind = PORTAL_KIND_GUEST, .segments = 2 };
	struct portal_attach_mapped a = { .size = sizeof(a), .length = LENGTH, .doorbell = &bell, .doorbell_ctx = s };

	*s = (struct side) { 0 };
	if (portal_host_add(host, &m, &s->index) < 0)
		return false; /* no room: objects have it */
	s->base = mmap(NULL, LENGTH, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(s->base != MAP_FAILED);
	a.base = s->base;
	a.participant = s->index;
	a.generation = PORTAL_LIFE_GENERATION(host->life[s->index]);
	map_arenas(s);
	must(portal_attach_mapped(&a, &s->p) == 0);
	return true;
}

static void detach(struct side *s)
{
	portal_detach(s->p);
	if (s->base)
		munmap(s->base, LENGTH);
	*s = (struct side) { 0 };
}

/* Later in vain, perhaps: the victim was revoked, or has no room. */
static void liar_connect(int64_t timeout)
{
	for (unsigned i = 0; liar.p && i < N_CHANS; i++)
		if (!chans[i] && portal_connect(liar.p, services[i], i == CALLS ? 65536 : 4096, timeout, &chans[i]) < 0)
			return;
}

static void liar_leave(void)
{
	unsigned index = liar.index;

	for (unsigned i = 0; i < N_CHANS; i++) {
		portal_chan_free(chans[i]);
		chans[i] = NULL;
	}
	detach(&liar);
	if (index)
		(void)portal_host_remove(host, index);
	map_arenas(&victim);
}

static void victim_forgets(void)
{
	for (unsigned l = 0; l < CALLS; l++) {
		for (unsigned i = 0; i < PER_SERVICE; i++) {
			if (accepted[l][i])
				portal_fanin_remove(fanin, accepted[l][i]);
			portal_chan_free(accepted[l][i]);
			accepted[l][i] = NULL;
		}
	}
}

static void start(void)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "fuzz", .segments = SEGMENTS };
	struct portal_listen bytes = { .size = sizeof(bytes), .kind = PORTAL_BYTES, .tx_capacity = 1024 };

	request = (struct portal_rpc_request) { 0 };
	memset(mine, 0, sizeof(mine));
	must(portal_host_create(&hp, &host) == 0 && attach(&victim) && attach(&liar));
	map_arenas(&victim);
	must(portal_fanin_new(victim.p, &fanin) == 0 && portal_rpc_serve(victim.p, "rpc", &server) == 0);
	must(portal_listen(victim.p, "svc", NULL, &listeners[RECORDS]) == 0);
	must(portal_listen(victim.p, "bytes", &bytes, &listeners[BYTES]) == 0);
	liar_connect(PORTAL_FOREVER);
}

static void stop(void)
{
	victim_forgets();
	portal_rpc_server_free(server);
	server = NULL;
	portal_fanin_free(fanin);
	for (unsigned l = 0; l < CALLS; l++) {
		portal_listener_free(listeners[l]);
		listeners[l] = NULL;
	}
	liar_leave();
	detach(&victim);
	portal_host_destroy(host);
}

/* ---- the liar ---------------------------------------------------------------------------- */

static uint64_t offset_of(struct portal_handle h)
{
	return ((uint64_t)h.segment << PORTAL_SEGMENT_SHIFT) + h.offset;
}

/* Somewhere in the liar's arena, more often where it matters. */
static uint64_t place(struct input *in)
{
	uint64_t arena = liar.p ? liar.p->own_off : PORTAL_SEGMENT_SIZE;
	uint8_t which = in_u8(in);
	uint16_t off = in_u16(in);
	const portal_chan *c = chans[which / 6 % N_CHANS];

	switch (which % 6) {
	case 0:
		return arena + off % sizeof(struct portal_control);
	case 1:
		return arena + PORTAL_LINKS_OFF + off % (4 * sizeof(struct portal_link));
	case 2:
		return c ? offset_of(c->block_h) + off % 256 : arena;
	case 3:
		return c ? offset_of(c->data_h) + off % 1024 : arena;
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

	if (liar.p)
		in_bytes(in, liar.base + at, n % 16 + 1);
}

/* An index that is a little off, or that it sleeps. */
static void lie(struct input *in)
{
	uint8_t which = in_u8(in);
	int8_t by = (int8_t)in_u8(in);
	portal_chan *c = chans[which % N_CHANS];

	if (!c)
		return;
	switch (which / N_CHANS % 4) {
	case 0:
		PORTAL_STORE_SEQ(&c->tx.tx->head, c->tx.tx->head + (uint64_t)(int64_t)by);
		break;
	case 1:
		PORTAL_STORE_SEQ(&c->rx.rx->tail, c->rx.rx->tail + (uint64_t)(int64_t)by);
		break;
	case 2:
		PORTAL_STORE_SEQ(&c->rx.rx->sleeping, (uint32_t)by);
		break;
	default:
		PORTAL_STORE_SEQ(&c->tx.tx->sleeping, (uint32_t)by);
		break;
	}
}

/* A request that looks like one, of the host. */
static void ask(struct input *in)
{
	static const char *const names[] = { "svc", "x", "y", "object", "", "n0" };
	uint8_t what = in_u8(in), name = in_u8(in);
	struct portal_request q = { .op = what % 4, .kind = 1 + what / 4 % 3, .tag = what };
	uint64_t at = place(in);

	if (!liar.p)
		return;
	q.handle = (struct portal_handle) {
		.region = liar.p->geo.tag + (what >> 7),
		.segment = (uint32_t)(at >> PORTAL_SEGMENT_SHIFT) + (name >> 7),
		.offset = (uint32_t)(at & (PORTAL_SEGMENT_SIZE - 1)),
		.generation = in_u8(in),
	};
	q.size = in_u32(in) % (3 * PORTAL_SEGMENT_SIZE);
	memcpy(q.name, names[name % ARRAY_SIZE(names)], strlen(names[name % ARRAY_SIZE(names)]));
	memcpy(&liar.p->ctl->request, &q, sizeof(q));
	PORTAL_STORE_SEQ(&liar.p->ctl->request_seq, liar.p->ctl->request_seq + 1);
	(void)portal_host_kick(host, liar.index, 0);
}

static void liar_sends(struct input *in)
{
	static const uint8_t blank[4096];
	uint8_t n = in_u8(in);
	size_t done;

	if (n & 1 && chans[BYTES])
		(void)portal_write(chans[BYTES], blank, n * 8u, &done, 0);
	else if (chans[RECORDS])
		(void)portal_send(chans[RECORDS], n, blank, n * 8u, 0);
}

static void liar_receives(uint8_t which)
{
	static uint8_t buf[65536];
	portal_chan *c = chans[which % N_CHANS];
	size_t n;

	if (c && c->kind == PORTAL_BYTES)
		(void)portal_read(c, buf, sizeof(buf), &n, 0);
	else if (c)
		(void)portal_recv(c, NULL, buf, sizeof(buf), &n, 0);
}

/* Requests, cancellations, and what is neither.  Few numbers, so that they meet again. */
static void call(struct input *in)
{
	static uint8_t text[sizeof(struct portal_rpc_header) + 256];
	uint8_t what = in_u8(in), id = in_u8(in), n = in_u8(in);
	struct portal_rpc_header h = { .id = id % 16, .method = what, .budget_ns = what & 0x40 ? 1 + id / 16 : 0 };
	uint32_t type = what % 8 ? what % 8 % 2 ? PORTAL_RPC_REQUEST : PORTAL_RPC_CANCEL : PORTAL_RPC_RESPONSE;
	unsigned times = what & 0x80 ? n : 1;

	for (unsigned i = 0; chans[CALLS] && i < times; i++) {
		if (what & 0x80)
			h.id = id + i;
		memcpy(text, &h, sizeof(h));
		(void)portal_send(chans[CALLS], type, text, what & 0x20 ? n % sizeof(h) : sizeof(h) + n, 0);
	}
}

/* ---- the victim ---------------------------------------------------------------------------- */

static unsigned sum(const void *p, size_t n)
{
	unsigned s = 0;

	for (size_t i = 0; i < n; i++)
		s += ((const volatile uint8_t *)p)[i];
	return s;
}

/* In the ring, and nowhere behind it. */
static void check_span(const uint8_t *ring, uint64_t mask, const void *at, size_t n)
{
	const uint8_t *start = at;

	must(start >= ring && start <= ring + mask + 1 && n <= (size_t)(ring + mask + 1 - start));
}

static void receive_bytes(portal_chan *c, uint8_t how, int64_t timeout)
{
	uint8_t buf[256];
	const void *at;
	size_t n = 0;

	if (how & 2) {
		if (portal_read(c, buf, how % sizeof(buf), &n, timeout) == 0)
			sum(buf, n);
	} else if (portal_read_span(c, &at, &n, timeout) == 0) {
		check_span(c->rx.data, c->rx.mask, at, n);
		sum(at, n);
		(void)portal_consumed(c, how & 4 ? n : n / 2);
	}
}

static void receive(portal_chan *c, uint8_t how)
{
	int64_t timeout = how & 0x80 ? WAIT_NS : 0;
	uint8_t buf[256];
	const void *at;
	size_t n = 0;

	if (!c)
		return;
	meanwhile = how >> 5 & 3;
	if (how & 1) {
		receive_bytes(c, how, timeout);
	} else if (how & 2) {
		if (portal_recv(c, NULL, buf, how & 4 ? 16 : sizeof(buf), &n, timeout) == 0)
			sum(buf, n);
	} else if (portal_peek(c, NULL, &at, &n, timeout) == 0) {
		check_span(c->rx.data, c->rx.mask, at, n);
		sum(at, n);
		if (how & 4)
			(void)portal_release(c);
	}
}

static void transmit(struct input *in, portal_chan *c)
{
	static const uint8_t blank[4096];
	uint8_t how = in_u8(in), n = in_u8(in);
	int64_t timeout = how & 0x80 ? WAIT_NS : 0;
	size_t done = 0;
	void *at;

	if (!c)
		return;
	meanwhile = how >> 5 & 3;
	switch (how % 4) {
	case 0:
		(void)portal_send(c, how, blank, n * 16u, timeout);
		break;
	case 1:
		(void)portal_write(c, blank, n * 16u, &done, timeout);
		break;
	case 2:
		if (portal_reserve(c, n, &at, timeout) < 0)
			break;
		check_span(c->tx.data, c->tx.mask, at, n);
		memset(at, how, n);
		(void)portal_commit(c, how, how & 4 ? n : n + 1u);
		if (how & 8)
			(void)portal_flush(c);
		break;
	default:
		if (portal_write_span(c, &at, &done, timeout) < 0)
			break;
		check_span(c->tx.data, c->tx.mask, at, done);
		(void)portal_wrote(c, how & 4 ? done : done + 1);
		break;
	}
}

static void look_at_all(uint8_t how)
{
	portal_chan *c = NULL;

	meanwhile = how >> 6;
	if (portal_fanin_wait(fanin, how & 1 ? listeners[RECORDS] : NULL, how & 2 ? WAIT_NS : 0, &c) == 0 && c)
		receive(c, how >> 2 & 0xfe ? how >> 2 : c->kind == PORTAL_BYTES);
}

/* Now or later, and some too long; the server may have no room for it. */
static void answer(struct input *in)
{
	static const uint8_t blank[40000];
	uint8_t how = in_u8(in);
	struct portal_bytes out = { .data = blank, .size = how & 0x80 ? how * 150u : how % 64 };

	if (!request.client)
		request.client = portal_rpc_next(server, &request, how & 1 ? WAIT_NS : 0) == 0 ? request.client : 0;
	if (!request.client)
		return;
	(void)portal_rpc_cancelled(server, &request);
	if (how & 2)
		(void)portal_rpc_reply(server, &request, -(int)how, how & 4 ? NULL : &out);
	request.client = 0;
}

static void resolve(struct input *in)
{
	uint64_t at = place(in);
	struct portal_handle h = {
		.region = victim.p->geo.tag,
		.segment = (uint32_t)(at >> PORTAL_SEGMENT_SHIFT),
		.offset = (uint32_t)(at & (PORTAL_SEGMENT_SIZE - 1)),
		.generation = in_u32(in),
	};
	size_t n = in_u32(in) % (4 * PORTAL_SEGMENT_SIZE);
	const void *p;

	/* What the liar says of itself, or the victim's own. */
	if (n & 1 && chans[RECORDS])
		h.generation = chans[RECORDS]->data_h.generation;
	if (portal_resolve(victim.p, n % 16 == 2 ? mine[h.generation % N_MINE] : h, n, &p) == 0)
		sum(p, n);
}

static void use_memory(struct input *in)
{
	static const uint32_t sizes[] = { 0, 1, 64, 100, 5000, 16384, 16385, 70000, 1u << 20, 3u << 20, 9u << 20 };
	uint8_t how = in_u8(in), size = in_u8(in);
	struct portal_handle *h = &mine[how / 8 % N_MINE];
	uint32_t n = sizes[size % ARRAY_SIZE(sizes)];
	unsigned times = size & 0x80 ? 40 : 1;
	void *at;

	switch (how % 8) {
	case 0:
	case 1:
		/* What is not kept fills the heap up. */
		for (unsigned i = 0; i < times; i++)
			if (portal_alloc(victim.p, n, h, &at) == 0)
				memset(at, 0, n < 64 ? n : 64);
		break;
	case 2:
		(void)portal_free(victim.p, *h);
		break;
	case 3:
		h->offset ^= 1u << (size % 24);
		break;
	case 4:
		if (portal_resolve_own(victim.p, *h, n, &at) == 0)
			memset(at, how, n);
		break;
	default:
		h->generation += size % 4;
		break;
	}
}

static void use_names(struct input *in)
{
	char name[] = "n0";
	uint8_t how = in_u8(in), size = in_u8(in);
	struct portal_handle *h = &mine[size % N_MINE];
	struct portal_object o;

	name[1] = (char)('0' + how / 8 % 3);
	switch (how % 8) {
	case 0:
	case 1:
		(void)portal_publish(victim.p, how & 0x80 ? "" : name, *h, size, 0);
		break;
	case 2:
		(void)portal_unpublish(victim.p, name);
		break;
	case 3:
		(void)portal_create(victim.p, name, size * 64u, h, NULL);
		break;
	case 4:
		(void)portal_wait_for(victim.p, name, WAIT_NS, &o);
		break;
	default:
		(void)portal_open(victim.p, how & 0x80 ? "object" : name, &o);
		break;
	}
}

static void look_at_names(void)
{
	struct portal_object o;
	uint32_t cursor = 0;
	const void *p;
	void *rw;

	while (portal_next(victim.p, &cursor, &o) == 0) {
		if (portal_map(victim.p, &o, &p, &rw) < 0)
			continue;
		sum(p, o.size < 4096 ? o.size : 4096);
		if (rw && o.size)
			*(volatile uint8_t *)rw = 1;
	}
}

/* ---- the host ---------------------------------------------------------------------------- */

static void decide(struct input *in)
{
	uint8_t what = in_u8(in), how = in_u8(in);
	unsigned who = how & 1 ? victim.index : liar.index;
	char name[] = "object0";

	name[6] = (char)('0' + how / 2 % 2);
	switch (what % 8) {
	case 0:
		(void)portal_host_object(host, name, 1 + how / 4 % 2, how & 8 ? who : 0,
					 how & 16 ? PORTAL_EVERYBODY : UINT64_C(1) << who);
		break;
	case 1:
	case 2:
		(void)portal_host_grant(host, name, who, how / 4 % 3, 0);
		break;
	case 3:
		(void)portal_host_unpublish(host, how & 4 ? "n0" : name);
		break;
	case 4:
		(void)portal_host_quiesce(host, 0, NULL);
		break;
	case 5:
		(void)portal_host_resume(host);
		break;
	case 6:
		if (how > 0xf0)
			(void)portal_host_revoke(host, who, 0);
		break;
	default:
		(void)portal_host_seen(host, 0);
		break;
	}
}

/* The liar goes, and perhaps another one comes. */
static void come_and_go(uint8_t how)
{
	if (how & 1)
		liar_leave();
	if (how & 2)
		victim_forgets();
	if (how & 4 && !liar.p && attach(&liar))
		map_arenas(&victim);
	if (how & 8)
		liar_connect(POLITE_NS);
}

/* ---- the program ------------------------------------------------------------------------ */

static void step(struct input *in)
{
	uint8_t op = in_u8(in), how;

	switch (op % 20) {
	case 0:
	case 1:
		scribble(in);
		break;
	case 2:
	case 3:
		how = in_u8(in);
		receive(accepted[op / 20 % CALLS][op / 40 % PER_SERVICE], how);
		break;
	case 4:
	case 5:
		transmit(in, accepted[op / 20 % CALLS][op / 40 % PER_SERVICE]);
		break;
	case 6:
		serve();
		break;
	case 7:
		resolve(in);
		break;
	case 8:
	case 9:
		answer(in);
		break;
	case 10:
		ask(in);
		break;
	case 11:
		(void)portal_poll(victim.p, op & 0x80 ? WAIT_NS : 0);
		look_at_names();
		break;
	case 12:
		liar_sends(in);
		break;
	case 13:
		liar_receives(in_u8(in));
		break;
	case 14:
		call(in);
		break;
	case 15:
		lie(in);
		break;
	case 16:
		look_at_all(in_u8(in));
		break;
	case 17:
		use_memory(in);
		break;
	case 18:
		use_names(in);
		break;
	default:
		if (op / 20 % 2)
			decide(in);
		else
			come_and_go(in_u8(in));
		break;
	}
	map_arenas(&victim);
	map_arenas(&liar);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct input in = { data, n };

	start();
	for (unsigned i = 0; i < MAX_STEPS && in.n; i++)
		step(&in);
	stop();
	return 0;
}
