/* Channels, closing, crashing, lying peers, names. */
#include <errno.h>
#include <string.h>

#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/gate_inline.h"
#include "world.h"

struct world m;
portal side[PARTS];
portal_chan chan[4];
unsigned received;
bool over;

/* Arenas do not change here, and each participant's is at the segment of its number. */
static uint32_t epoch;
static uint16_t arena_of[PARTS][PARTS];

void join(unsigned i, portal *p, unsigned peer, uint32_t kind, unsigned mine, unsigned theirs)
{
	portal_chan *c = &chan[i];

	*c = (portal_chan) { .p = p, .kind = kind, .peer = peer, .peer_generation = 1 };
	c->peer_arena = (uint16_t)peer;
	c->peer_arena_generation = 1;
	c->peer_link = &m.links[peer];
	c->peer_link_life = PORTAL_LIFE(1, PORTAL_LINK_OPEN);
	wslx_portal_txe_init(&c->tx, &m.tx[mine], &m.rx[theirs], m.data[mine], CAPACITY);
	wslx_portal_rxe_init(&c->rx, &m.rx[mine], &m.tx[theirs], m.data[theirs], CAPACITY);
	c->spin.limit = 0;
	wslx_portal_gate_add(p, &c->gate);
}

static void setup_side(unsigned i)
{
	portal *p = &side[i];

	*p = (portal) { .hdr = &m.hdr, .parts = m.parts, .self = i, .generation = 1, .ctl = &m.ctl[i] };
	p->ops = &ex_doorbell;
	p->ops_ctx = m.parts;
	p->sock = -1;
	p->epoch_word = &epoch;
	p->arena_of = arena_of[i];
	for (unsigned k = 0; k < PARTS; k++) {
		p->view[k].life = PORTAL_LIFE(1, PORTAL_ARENA_LIVE);
		p->view[k].first = k;
		p->view[k].segments = 1;
		arena_of[i][k] = (uint16_t)k;
	}
	m.parts[i].life = PORTAL_LIFE(1, PORTAL_PART_LIVE);
	m.parts[i].kind = PORTAL_KIND_PROCESS;
	m.links[i].life = PORTAL_LIFE(1, PORTAL_LINK_OPEN);
}

void setup_base(void)
{
	memset(&m, 0, offsetof(struct world, parts[PARTS]));
	ex_region(&m, offsetof(struct world, parts[PARTS]));
	ex_region(chan, sizeof(chan));
	ex_quiet(&epoch, sizeof(epoch));
	ex_quiet(side, sizeof(side)); /* the epoch seen last, which threads of one process share */
	ex_quiet(arena_of, sizeof(arena_of));
	ex_quiet(&m.parts[PARTS], sizeof(m) - offsetof(struct world, parts[PARTS]));
	m.hdr.host = PORTAL_HOST_UP;
	received = 0;
	over = ex_no_membarrier = false;
	for (unsigned i = 1; i < PARTS; i++)
		setup_side(i);
}

void setup_pair_of(uint32_t kind)
{
	setup_base();
	join(0, &side[1], 2, kind, 0, 1);
	join(1, &side[2], 1, kind, 1, 0);
}

void setup_records(void)
{
	setup_pair_of(PORTAL_RECORDS);
}

static void setup_bell(void)
{
	setup_records();
	side[1].ops = side[2].ops = &ex_bell;
}

static void setup_fenced(void)
{
	setup_records();
	for (unsigned i = 0; i < 2; i++)
		chan[i].tx.light = chan[i].tx.fenced = chan[i].rx.light = chan[i].rx.fenced = true;
}

static void setup_bytes(void)
{
	setup_pair_of(PORTAL_BYTES);
}

void host_event(unsigned i)
{
	PORTAL_STORE_SEQ(&m.parts[i].event, m.parts[i].event + 1);
	ex_doorbell.wake(NULL, i, &m.parts[i].event);
}

void host_buries(unsigned i)
{
	PORTAL_STORE_SEQ(&m.parts[i].life, PORTAL_LIFE(1, PORTAL_PART_DEAD));
	for (unsigned k = 1; k < PARTS; k++)
		if (k != i && PORTAL_LIFE_STATE(m.parts[k].life) == PORTAL_PART_LIVE)
			host_event(k);
}

void place_is_taken(unsigned seen_by, unsigned whose)
{
	side[seen_by].view[whose].life = PORTAL_LIFE(2, PORTAL_ARENA_LIVE);
}

/* Others' news come to whoever waits for them. */
void linger(unsigned participant)
{
	for (;;) {
		uint32_t ev = wslx_portal_event(&side[participant]);

		if (over)
			return;
		ex_assert(wslx_portal_await_event(&side[participant], ev, -1) == 0);
	}
}

/* ---- records: none lost, doubled or torn; nobody sleeps for ever ---- */

int send_one(uint64_t i)
{
	uint64_t r[2] = { i, ~i };

	return portal_send(&chan[0], (uint32_t)i, r, sizeof(r), PORTAL_FOREVER);
}

static void produce(void)
{
	for (uint64_t i = 0; i < RECORDS; i++)
		if (send_one(i) < 0)
			return;
}

int receive_one(void)
{
	uint64_t r[2] = { 77, 77 };
	uint32_t type = 77;
	size_t n = 0;
	int e = portal_recv(&chan[1], &type, r, sizeof(r), &n, PORTAL_FOREVER);

	if (e < 0)
		return e;
	ex_assert(n == 16 && type == received && r[0] == received && r[1] == ~r[0]);
	received++;
	return 0;
}

static void consume(void)
{
	for (unsigned i = 0; i < RECORDS; i++)
		ex_assert(receive_one() == 0);
}

static void check_idle(void)
{
	ex_assert(received == RECORDS);
	ex_assert(!m.rx[1].sleeping && !m.tx[0].sleeping);
}

/* ---- closing: everything that was sent arrives before the end does ---- */

static void produce_and_close(void)
{
	ex_assert(send_one(0) == 0);
	ex_assert(send_one(1) == 0);
	PORTAL_STORE_SEQ(&m.links[1].life, PORTAL_LIFE(2, PORTAL_LINK_FREE));
	host_event(2);
}

static void consume_to_end(void)
{
	int e;

	do
		e = receive_one();
	while (e == 0);
	ex_assert(e == -EPIPE);
	ex_assert(received == 2);
}

/* ---- crashing at any step: the other gets whole records, then an error ---- */

static bool somebody_ended(void)
{
	return ex_crashed(0) || ex_crashed(1) || over;
}

static void reaper(void)
{
	ex_await(somebody_ended);
	for (unsigned i = 0; i < 2; i++) {
		if (!ex_crashed(i))
			continue;
		PORTAL_STORE_SEQ(&m.parts[i + 1].life, PORTAL_LIFE(1, PORTAL_PART_DEAD));
		host_event(2 - i);
	}
}

static void produce_or_die(void)
{
	for (uint64_t i = 0; i < RECORDS; i++) {
		int e = send_one(i);

		ex_assert(e == 0 || (e == -EPIPE && ex_crashed(1)));
		if (e < 0)
			return;
	}
}

static void consume_or_die(void)
{
	while (received < RECORDS) {
		int e = receive_one();

		ex_assert(e == 0 || (e == -EPIPE && ex_crashed(0)));
		if (e < 0)
			return;
	}
	over = true;
}

/* ---- the place of the dead is used again: its bytes are no one's that we know ---- */

static void taker(void)
{
	static const struct portal_record rec[2] = { { 16, 0 }, { 16, 1 } };
	static const uint64_t other[2] = { 0, 42 };

	ex_await(somebody_ended);
	if (!ex_crashed(0))
		return;
	PORTAL_STORE_SEQ(&m.parts[1].life, PORTAL_LIFE(1, PORTAL_PART_DEAD));
	host_event(2);
	/* Whoever maps says so first, under a lock; then there are a stranger's records, good ones and bad. */
	place_is_taken(2, 1);
	for (unsigned i = 0; i < 2; i++) {
		wslx_portal_copy_out(m.data[0] + 24 * i, &rec[i], 8);
		wslx_portal_copy_out(m.data[0] + 24 * i + 8, other, 16);
	}
	PORTAL_STORE_SEQ(&m.tx[0].head, 48);
	PORTAL_STORE_SEQ(&m.tx[0].head, 72);
	ex_doorbell.wake(NULL, 2, (const uint32_t *)(const void *)&m.tx[0].head);
}

/* ---- bytes ---- */

#define BYTES 80u

static void write_bytes(void)
{
	uint8_t b[40];
	size_t done = 0, n;

	while (done < BYTES) {
		size_t k = BYTES - done < sizeof(b) ? BYTES - done : sizeof(b);
		int e;

		for (size_t i = 0; i < k; i++)
			b[i] = (uint8_t)(done + i + 1);
		e = portal_write(&chan[0], b, k, &n, PORTAL_FOREVER);
		if (e == -EPIPE && ex_crashed(1))
			return;
		ex_assert(e == 0 && n >= 1 && n <= k);
		done += n;
	}
}

/* Of a writer that dies: the first ones, as they were, then the end. */
static void read_bytes(void)
{
	uint8_t b[48];
	size_t done = 0, n;

	while (done < BYTES) {
		int e = portal_read(&chan[1], b, sizeof(b), &n, PORTAL_FOREVER);

		if (e == -EPIPE && ex_crashed(0))
			return;
		ex_assert(e == 0 && n >= 1);
		for (size_t i = 0; i < n; i++)
			ex_assert(b[i] == (uint8_t)(done + i + 1));
		done += n;
	}
	received = RECORDS;
	over = true;
}

/* ---- lying peers: an error, and never a step outside ---- */

static void liar_producer(void)
{
	static const struct portal_record bad[] = { { 17, 0 }, { 60, 0 }, { 0x7fffffff, 0 }, { PORTAL_PAD, 0 } };

	for (unsigned i = 0; i < 4; i++) {
		wslx_portal_copy_out(m.data[0], &bad[i], 8);
		PORTAL_STORE_SEQ(&m.tx[0].head, 24);
		ex_doorbell.wake(NULL, 2, (const uint32_t *)(const void *)&m.tx[0].head);
	}
}

static void wary_consumer(void)
{
	uint64_t r[2];
	size_t n;
	int e = portal_recv(&chan[1], NULL, r, sizeof(r), &n, PORTAL_FOREVER);

	ex_assert(e == -EPROTO || (e == -EMSGSIZE && n == 17 - 1));
	ex_assert(chan[1].rx.pos <= chan[1].rx.head);
}

static void liar_index(void)
{
	PORTAL_STORE_SEQ(&m.tx[0].head, CAPACITY + 8);
	ex_doorbell.wake(NULL, 2, (const uint32_t *)(const void *)&m.tx[0].head);
}

static void wary_of_index(void)
{
	uint64_t r[2];
	size_t n;

	ex_assert(portal_recv(&chan[1], NULL, r, sizeof(r), &n, PORTAL_FOREVER) == -EPROTO);
}

static void liar_consumer(void)
{
	PORTAL_STORE_SEQ(&m.rx[1].tail, 72);
	ex_doorbell.wake(NULL, 1, (const uint32_t *)(const void *)&m.rx[1].tail);
}

static void wary_producer(void)
{
	int e = 0;

	for (uint64_t i = 0; i < 4 && e == 0; i++)
		e = send_one(i);
	ex_assert(e == -EPROTO);
}

/* A header that is good at the first look and changes after. */
static void flipping_producer(void)
{
	struct portal_record good = { 16, 0 }, bad = { 0x100000, 0 };

	wslx_portal_copy_out(m.data[0], &good, 8);
	PORTAL_STORE_SEQ(&m.tx[0].head, 24);
	ex_doorbell.wake(NULL, 2, (const uint32_t *)(const void *)&m.tx[0].head);
	wslx_portal_copy_out(m.data[0], &bad, 8);
}

static void steady_consumer(void)
{
	uint64_t r[2];
	size_t n;
	int e = portal_recv(&chan[1], NULL, r, sizeof(r), &n, PORTAL_FOREVER);

	ex_assert(e == -EPROTO || (e == 0 && n == 16));
	ex_assert(chan[1].rx.pos <= chan[1].rx.head && m.rx[1].tail <= 24);
}

/* ---- names: a copy belongs together ---- */

static uint32_t free_slots[4], next_places[8];
static struct wslx_portal_directory directory;
static struct wslx_portal_names readers;

static void add_name(const char *name, uint64_t size)
{
	struct portal_name n = { .kind = PORTAL_OBJECT, .size = size, .tag = (uint32_t)size };

	strcpy(n.name, name);
	ex_assert(wslx_portal_directory_add(&directory, &n) == 0);
}

static void remove_name(const char *name)
{
	struct portal_name n;
	uint32_t slot;

	ex_assert(wslx_portal_lookup(&readers, name, &n, &slot) == 0);
	wslx_portal_directory_remove(&directory, slot);
}

/* Two names whose searches begin at the same place of the index, the last but one; and one that begins, and lies, right
 * behind them. */
static char collide[2][2], behind[2];

static void put_name(const char *name, unsigned slot, unsigned at)
{
	struct portal_name *e = &m.names[slot];

	e->state = PORTAL_NAME_LIVE;
	e->kind = PORTAL_OBJECT;
	e->generation = 1;
	strcpy(e->name, name);
	e->size = e->tag = 100 + slot;
	m.index[at] = (uint32_t)(wslx_portal_name_hash(name) >> 56) << 24 | (slot + 1);
}

static void setup_names(void)
{
	unsigned n = 0;

	setup_base();
	directory = (struct wslx_portal_directory) { .table = m.names,
						     .index = m.index,
						     .index_seq = &m.hdr.index_seq,
						     .end = &m.hdr.names_end,
						     .slots = 4,
						     .index_slots = 8,
						     .free = free_slots,
						     .next = next_places };
	readers = wslx_portal_directory_names(&directory);
	behind[0] = 0;
	for (char c = 'A'; n < 2 || !behind[0]; c++) {
		char s[2] = { c, 0 };
		unsigned at = wslx_portal_name_hash(s) & 7;

		if (at == 6 && n < 2)
			memcpy(collide[n++], s, 2);
		else if (at == 0)
			memcpy(behind, s, 2);
	}
	/* Before the fibers run: straight into memory. */
	put_name(collide[0], 0, 6);
	put_name(collide[1], 1, 7);
	put_name(behind, 2, 0);
	m.hdr.names_end = directory.top = directory.used = 3;
}

/* The same name again: in the same slot, with other contents. */
static void name_writer(void)
{
	remove_name(collide[0]);
	add_name(collide[0], 103);
}

/* These are there all the time. */
static void look_for_those_that_stay(void)
{
	struct portal_name n;

	ex_assert(wslx_portal_lookup(&readers, collide[1], &n, NULL) == 0 && n.size == 101 && n.tag == 101);
	ex_assert(wslx_portal_lookup(&readers, behind, &n, NULL) == 0 && n.size == 102);
}

static void name_reader(void)
{
	struct portal_name n;
	int e;

	look_for_those_that_stay();
	e = wslx_portal_lookup(&readers, collide[0], &n, NULL);
	ex_assert(e == 0 || e == -ENOENT);
	ex_assert(e < 0 || ((n.size == 100 || n.size == 103) && n.tag == n.size && n.kind == PORTAL_OBJECT));
}

/* Runs first, so that it can stop with a slot's number in its hands. */
static void name_reader_early(void)
{
	struct portal_name n;
	int e = wslx_portal_lookup(&readers, collide[0], &n, NULL);

	ex_assert(e == 0 || e == -ENOENT || (e == -EAGAIN && ex_crashed(1)));
	ex_assert(e < 0 || ((n.size == 100 || n.size == 103) && n.tag == n.size && n.kind == PORTAL_OBJECT));
}

static void name_remover(void)
{
	remove_name(collide[0]);
}

static void name_reader_of_one(void)
{
	struct portal_name n;

	ex_assert(wslx_portal_lookup(&readers, collide[1], &n, NULL) == 0 && n.size == 101 && n.tag == 101);
}

/* Its owner leaves: the index is laid out anew, and what lay behind the name moves up. */
static void setup_names_drop(void)
{
	setup_names();
	m.names[0].owner = 1;
	m.names[0].owner_generation = 1;
}

static void name_dropper(void)
{
	ex_assert(wslx_portal_directory_drop(&directory, 1, 1) == 1);
}

static void name_reader_of_dropped(void)
{
	struct portal_name n;
	int e = wslx_portal_lookup(&readers, collide[0], &n, NULL);

	ex_assert(e == -ENOENT || (e == 0 && n.size == 100 && n.owner == 1));
	look_for_those_that_stay();
}

const struct scenario basic_scenarios[] = {
	{ .name = "records",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_records,
	  .fiber = { produce, consume },
	  .check = check_idle },
	{ .name = "records-bell",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_bell,
	  .fiber = { produce, consume },
	  .check = check_idle },
	{ .name = "records-fenced",
	  .fibers = 2,
	  .preemptions = 2,
	  .store_points = true,
	  .setup = setup_fenced,
	  .fiber = { produce, consume },
	  .check = check_idle },
	{ .name = "records-pso",
	  .fibers = 2,
	  .preemptions = 2,
	  .pso = true,
	  .setup = setup_records,
	  .fiber = { produce, consume },
	  .check = check_idle },
	{ .name = "close",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_records,
	  .fiber = { produce_and_close, consume_to_end } },
	{ .name = "crash-producer",
	  .fibers = 3,
	  .preemptions = 1,
	  .crashable = 1,
	  .setup = setup_records,
	  .fiber = { produce_or_die, consume_or_die, reaper } },
	{ .name = "crash-consumer",
	  .fibers = 3,
	  .preemptions = 1,
	  .crashable = 2,
	  .setup = setup_records,
	  .fiber = { produce_or_die, consume_or_die, reaper } },
	{ .name = "reuse",
	  .fibers = 3,
	  .preemptions = 1,
	  .crashable = 1,
	  .setup = setup_records,
	  .fiber = { produce_or_die, consume_or_die, taker } },
	{ .name = "bytes",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_bytes,
	  .fiber = { write_bytes, read_bytes },
	  .check = check_idle },
	{ .name = "liar-records",
	  .fibers = 2,
	  .preemptions = 3,
	  .setup = setup_records,
	  .fiber = { liar_producer, wary_consumer } },
	{ .name = "liar-head",
	  .fibers = 2,
	  .preemptions = 3,
	  .setup = setup_records,
	  .fiber = { liar_index, wary_of_index } },
	{ .name = "liar-tail",
	  .fibers = 2,
	  .preemptions = 3,
	  .setup = setup_records,
	  .fiber = { wary_producer, liar_consumer } },
	{ .name = "flip",
	  .fibers = 2,
	  .preemptions = 3,
	  .setup = setup_records,
	  .fiber = { flipping_producer, steady_consumer } },
	{ .name = "names", .fibers = 2, .preemptions = 2, .setup = setup_names, .fiber = { name_writer, name_reader } },
	{ .name = "names-pso",
	  .fibers = 2,
	  .preemptions = 2,
	  .pso = true,
	  .setup = setup_names,
	  .fiber = { name_writer, name_reader } },
	{ .name = "names-again",
	  .fibers = 2,
	  .preemptions = 4,
	  .setup = setup_names,
	  .fiber = { name_reader_early, name_writer } },
	{ .name = "names-move",
	  .fibers = 2,
	  .preemptions = 3,
	  .setup = setup_names,
	  .fiber = { name_remover, name_reader_of_one } },
	{ .name = "names-drop",
	  .fibers = 2,
	  .preemptions = 3,
	  .setup = setup_names_drop,
	  .fiber = { name_dropper, name_reader_of_dropped } },
	{ .name = "names-drop-pso",
	  .fibers = 2,
	  .preemptions = 2,
	  .pso = true,
	  .setup = setup_names_drop,
	  .fiber = { name_dropper, name_reader_of_dropped } },
	{ .name = "names-crash",
	  .fibers = 2,
	  .preemptions = 1,
	  .crashable = 2,
	  .setup = setup_names,
	  .fiber = { name_reader_early, name_writer } },
	{ .name = "bytes-crash-writer",
	  .fibers = 3,
	  .preemptions = 1,
	  .crashable = 1,
	  .setup = setup_bytes,
	  .fiber = { write_bytes, read_bytes, reaper } },
	{ .name = "bytes-crash-reader",
	  .fibers = 3,
	  .preemptions = 1,
	  .crashable = 2,
	  .setup = setup_bytes,
	  .fiber = { write_bytes, read_bytes, reaper } },
	{ 0 },
};
