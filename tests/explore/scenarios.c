/* What is explored: channels, closing, crashing, lying peers, names, quiesce. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "explore.h"
#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/gate_inline.h"
#include "portal/internal.h"

#define CAPACITY 64u /* two records of 24 bytes, and a pad */
#define RECORDS 3u

/* Two participants (1: producer, 2: consumer) and what the host writes. */
static struct {
	struct portal_header hdr;
	struct portal_participant parts[4];
	struct portal_control ctl[3];
	struct portal_link links[4];
	struct portal_tx tx[4];
	struct portal_rx rx[4];
	_Alignas(64) uint8_t data[4][CAPACITY];
	struct portal_name names[4];
	uint32_t index[8];
} m;

static portal side[3]; /* by participant */
static portal_chan chan[4];
static unsigned received;
static bool over;

/* Stand-ins for arenas.c: nothing is mapped here. */
int wslx_portal_refresh(portal *p)
{
	return 0;
}

bool wslx_portal_behind(const portal *p)
{
	return false;
}

/* Is a dead participant's memory another's by now? */
static bool place_taken;

int wslx_portal_chan_place(portal_chan *c)
{
	return place_taken ? -EPIPE : 0;
}

static void join(unsigned i, portal *p, unsigned peer, uint32_t kind, struct portal_tx *tx, struct portal_rx *rx,
		 uint8_t *out, const struct portal_tx *ptx, const struct portal_rx *prx, const uint8_t *in)
{
	portal_chan *c = &chan[i];

	*c = (portal_chan) { .p = p, .kind = kind, .peer = peer, .peer_generation = 1 };
	c->peer_link = &m.links[peer];
	c->peer_link_life = PORTAL_LIFE(1, PORTAL_LINK_OPEN);
	wslx_portal_txe_init(&c->tx, tx, prx, out, CAPACITY);
	wslx_portal_rxe_init(&c->rx, rx, ptx, in, CAPACITY);
	c->spin.limit = 0;
	wslx_portal_gate_add(p, &c->gate);
}

static void setup_base(void)
{
	memset(&m, 0, sizeof(m));
	memset(side, 0, sizeof(side));
	ex_region(&m, sizeof(m));
	ex_region(chan, sizeof(chan));
	m.hdr.host = PORTAL_HOST_UP;
	received = 0;
	over = place_taken = ex_no_membarrier = false;
	for (unsigned i = 1; i <= 2; i++) {
		side[i].hdr = &m.hdr;
		side[i].parts = m.parts;
		side[i].self = i;
		side[i].ctl = &m.ctl[i];
		side[i].ops = &ex_doorbell;
		side[i].sock = -1;
		m.parts[i].life = PORTAL_LIFE(1, PORTAL_PART_LIVE);
		m.parts[i].kind = PORTAL_KIND_PROCESS;
		m.links[i].life = PORTAL_LIFE(1, PORTAL_LINK_OPEN);
	}
}

static void setup_pair_of(uint32_t kind)
{
	setup_base();
	join(0, &side[1], 2, kind, &m.tx[0], &m.rx[0], m.data[0], &m.tx[1], &m.rx[1], m.data[1]);
	join(1, &side[2], 1, kind, &m.tx[1], &m.rx[1], m.data[1], &m.tx[0], &m.rx[0], m.data[0]);
}

static void setup_records(void)
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

static void host_event(unsigned i)
{
	PORTAL_STORE_SEQ(&m.parts[i].event, m.parts[i].event + 1);
	ex_doorbell.wake(NULL, i, &m.parts[i].event);
}

/* ---- records: none lost, doubled or torn; nobody sleeps for ever ---- */

static int send_one(uint64_t i)
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

static int receive_one(void)
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
	place_taken = true;
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

		for (size_t i = 0; i < k; i++)
			b[i] = (uint8_t)(done + i + 1);
		ex_assert(portal_write(&chan[0], b, k, &n, PORTAL_FOREVER) == 0 && n >= 1 && n <= k);
		done += n;
	}
}

static void read_bytes(void)
{
	uint8_t b[48];
	size_t done = 0, n;

	while (done < BYTES) {
		ex_assert(portal_read(&chan[1], b, sizeof(b), &n, PORTAL_FOREVER) == 0 && n >= 1);
		for (size_t i = 0; i < n; i++)
			ex_assert(b[i] == (uint8_t)(done + i + 1));
		done += n;
	}
	received = RECORDS;
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

/* ---- quiesce: two threads of participant 1, the host ---- */

static void setup_quiesce(void)
{
	setup_base();
	join(0, &side[1], 2, PORTAL_RECORDS, &m.tx[0], &m.rx[0], m.data[0], &m.tx[1], &m.rx[1], m.data[1]);
	join(2, &side[1], 2, PORTAL_RECORDS, &m.tx[2], &m.rx[2], m.data[2], &m.tx[3], &m.rx[3], m.data[3]);
	m.ctl[1].state = PORTAL_CTL_ATTACHED;
}

static void setup_quiesce_late(void)
{
	setup_quiesce();
	m.ctl[1].state = 0;
}

/* membarrier is forbidden: nothing is flushed by it. */
static void setup_quiesce_alone(void)
{
	setup_quiesce();
	side[1].no_membarrier = ex_no_membarrier = true;
}

static void sender(unsigned c)
{
	uint64_t r[2] = { 1, 2 };

	ex_assert(portal_send(&chan[c], 0, r, sizeof(r), PORTAL_FOREVER) == 0);
	/* Others' news come to whoever waits for them. */
	for (;;) {
		uint32_t ev = wslx_portal_event(&side[1]);

		if (over)
			return;
		ex_assert(wslx_portal_await_event(&side[1], ev, -1) == 0);
	}
}

/* ... unless nobody does: the one who is last at rest has to find that he is. */
static void sends_and_goes(void)
{
	uint64_t r[2] = { 1, 2 };

	ex_assert(portal_send(&chan[0], 0, r, sizeof(r), PORTAL_FOREVER) == 0);
}

static void sender_a(void)
{
	sender(0);
}

static void sender_b(void)
{
	sender(2);
}

static void sender_that_attaches(void)
{
	wslx_portal_gate_open(&side[1]);
	sender(0);
}

static bool acknowledged(void)
{
	return m.ctl[1].quiesce_ack == m.hdr.quiesce;
}

static void quiescer(void)
{
	PORTAL_STORE_SEQ(&m.hdr.quiesce, 1);
	host_event(1);
	if (!wslx_portal_gate_at_rest(&m.ctl[1], 1))
		ex_await(acknowledged);
	ex_freeze(3, m.tx, sizeof(m.tx) + sizeof(m.rx) + sizeof(m.data));
	for (unsigned i = 0; i < 3; i++)
		(void)PORTAL_LOAD_ACQ(&m.tx[0].head);
	ex_thaw();
	PORTAL_STORE_SEQ(&m.hdr.quiesce, 2);
	over = true;
	host_event(1);
}

/* ---- quiesce: who receives without waiting, and another thread ---- */

static bool must_not_wait;

static void watched_wait(void *ctx, const struct portal_wait *words, size_t n, int64_t timeout_ns)
{
	ex_assert(!must_not_wait || ex_self() != 0);
	ex_doorbell.wait(ctx, words, n, timeout_ns);
}

static void watched_wake(void *ctx, unsigned to, const uint32_t *word)
{
	ex_doorbell.wake(ctx, to, word);
}

static const struct portal_doorbell_ops watched = { .wait = watched_wait, .wake = watched_wake };

/* The peer's record is there from the beginning. */
static void setup_quiesce_recv(void)
{
	static const struct portal_record rec = { 16, 0 };
	static const uint64_t payload[2] = { 0, ~UINT64_C(0) };

	setup_quiesce();
	memcpy(m.data[1], &rec, sizeof(rec));
	memcpy(m.data[1] + sizeof(rec), payload, sizeof(payload));
	m.tx[1].head = 24;
	side[1].ops = &watched;
	must_not_wait = false;
}

static int try_to_receive(void)
{
	uint64_t r[2] = { 77, 77 };
	uint32_t type = 77;
	size_t n = 0;
	int e;

	must_not_wait = true;
	e = portal_recv(&chan[0], &type, r, sizeof(r), &n, 0);
	must_not_wait = false;
	ex_assert(e == -EAGAIN || (e == 0 && n == 16 && type == 0 && r[0] == 0 && r[1] == ~r[0]));
	return e;
}

static void impatient(void)
{
	for (;;) {
		uint32_t ev = wslx_portal_event(&side[1]);

		if (try_to_receive() == 0)
			received++;
		ex_assert(received <= 1);
		if (over)
			break;
		ex_assert(wslx_portal_await_event(&side[1], ev, -1) == 0);
	}
	if (!received && try_to_receive() == 0)
		received++;
}

static void check_received(void)
{
	ex_assert(received == 1);
}

/* ---- quiesce: who waits for a record that comes after it ---- */

static void setup_quiesce_wait(void)
{
	setup_records();
	m.ctl[2].state = PORTAL_CTL_ATTACHED;
}

static void patient(void)
{
	ex_assert(receive_one() == 0);
}

static bool acknowledged_by_2(void)
{
	return m.ctl[2].quiesce_ack == m.hdr.quiesce;
}

static void quiescer_then_sender(void)
{
	PORTAL_STORE_SEQ(&m.hdr.quiesce, 1);
	host_event(2);
	ex_await(acknowledged_by_2);
	ex_freeze(1, m.tx, sizeof(m.tx) + sizeof(m.rx) + sizeof(m.data));
	for (unsigned i = 0; i < 3; i++)
		(void)PORTAL_LOAD_ACQ(&m.tx[0].head);
	ex_thaw();
	PORTAL_STORE_SEQ(&m.hdr.quiesce, 2);
	host_event(2);
	ex_assert(send_one(0) == 0);
}

static const struct scenario scenarios[] = {
	{ "records", 2, 2, false, 0, false, setup_records, { produce, consume }, check_idle },
	{ "records-bell", 2, 2, false, 0, false, setup_bell, { produce, consume }, check_idle },
	{ "records-fenced", 2, 2, false, 0, true, setup_fenced, { produce, consume }, check_idle },
	{ "records-pso", 2, 2, true, 0, false, setup_records, { produce, consume }, check_idle },
	{ "quiesce-alone", 3, 2, false, 0, true, setup_quiesce_alone, { sends_and_goes, sender_b, quiescer }, NULL },
	{ "close", 2, 2, false, 0, false, setup_records, { produce_and_close, consume_to_end }, NULL },
	{ "crash-producer", 3, 2, false, 1, false, setup_records, { produce_or_die, consume_or_die, reaper }, NULL },
	{ "crash-consumer", 3, 2, false, 2, false, setup_records, { produce_or_die, consume_or_die, reaper }, NULL },
	{ "reuse", 3, 2, false, 1, false, setup_records, { produce_or_die, consume_or_die, taker }, NULL },
	{ "bytes", 2, 2, false, 0, false, setup_bytes, { write_bytes, read_bytes }, check_idle },
	{ "liar-records", 2, 3, false, 0, false, setup_records, { liar_producer, wary_consumer }, NULL },
	{ "liar-head", 2, 3, false, 0, false, setup_records, { liar_index, wary_of_index }, NULL },
	{ "liar-tail", 2, 3, false, 0, false, setup_records, { wary_producer, liar_consumer }, NULL },
	{ "flip", 2, 3, false, 0, false, setup_records, { flipping_producer, steady_consumer }, NULL },
	{ "names", 2, 2, false, 0, false, setup_names, { name_writer, name_reader }, NULL },
	{ "names-pso", 2, 2, true, 0, false, setup_names, { name_writer, name_reader }, NULL },
	{ "names-again", 2, 4, false, 0, false, setup_names, { name_reader_early, name_writer }, NULL },
	{ "names-move", 2, 3, false, 0, false, setup_names, { name_remover, name_reader_of_one }, NULL },
	{ "names-drop", 2, 3, false, 0, false, setup_names_drop, { name_dropper, name_reader_of_dropped }, NULL },
	{ "names-drop-pso", 2, 2, true, 0, false, setup_names_drop, { name_dropper, name_reader_of_dropped }, NULL },
	{ "names-crash", 2, 2, false, 2, false, setup_names, { name_reader_early, name_writer }, NULL },
	{ "quiesce", 3, 2, false, 0, true, setup_quiesce, { sender_a, sender_b, quiescer }, NULL },
	{ "quiesce-late", 2, 2, false, 0, true, setup_quiesce_late, { sender_that_attaches, quiescer }, NULL },
	{ "quiesce-recv", 3, 2, false, 0, true, setup_quiesce_recv, { impatient, sender_b, quiescer }, check_received },
	{ "quiesce-wait",
	  2,
	  3,
	  false,
	  0,
	  false,
	  setup_quiesce_wait,
	  { patient, quiescer_then_sender },
	  check_received },
};

int main(int argc, char **argv)
{
	uint64_t limit = argc > 2 ? strtoull(argv[2], NULL, 10) : 2000000;

	for (unsigned i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
		uint64_t runs;

		if (argc > 1 && strcmp(argv[1], scenarios[i].name) && strcmp(argv[1], "all"))
			continue;
		runs = explore(&scenarios[i], limit);
		printf("%s: %llu runs%s\n", scenarios[i].name, (unsigned long long)runs,
		       runs >= limit ? " (cut off)" : "");
	}
	return 0;
}
