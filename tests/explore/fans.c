/* Many channels, one reader: participants 1 and 3 send, 2 waits for both at once. */
#include <errno.h>

#include "portal/atomic.h"
#include "portal/gate_inline.h"
#include "world.h"

static unsigned got[PARTS]; /* by sender */
static bool ended[PARTS];

static void setup_fan(void)
{
	setup_base();
	join(0, &side[1], 2, PORTAL_RECORDS, 0, 1);
	join(1, &side[2], 1, PORTAL_RECORDS, 1, 0);
	join(2, &side[3], 2, PORTAL_RECORDS, 2, 3);
	join(3, &side[2], 3, PORTAL_RECORDS, 3, 2);
	for (unsigned i = 0; i < PARTS; i++) {
		got[i] = 0;
		ended[i] = false;
	}
}

static void setup_fan_bell(void)
{
	setup_fan();
	for (unsigned i = 1; i < PARTS; i++)
		side[i].ops = &ex_bell;
}

static void send_from(unsigned who, unsigned n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t r[2] = { who, i };

		ex_assert(portal_send(&chan[who - 1], (uint32_t)i, r, sizeof(r), PORTAL_FOREVER) == 0);
	}
}

static void send_first(void)
{
	send_from(1, 2);
}

static void send_third(void)
{
	send_from(3, 1);
}

/* What came up has a record, to be had now or after a rest, or has ended. */
static void take(portal_chan *c)
{
	unsigned who = c->peer;
	uint64_t r[2] = { 0, 0 };
	size_t n = 0;
	uint32_t type = 77;
	int e = portal_recv(c, &type, r, sizeof(r), &n, 0);

	if (e == -EPIPE) {
		ended[who] = true;
		return;
	}
	/* The region is to rest: it stays there. */
	if (e == -EAGAIN && m.hdr.quiesce)
		return;
	ex_assert(e == 0 && n == sizeof(r) && r[0] == who && r[1] == got[who] && type == got[who]);
	got[who]++;
}

/* Waits until so many have come from each, or it has ended. */
static void fan_in(unsigned first, unsigned third)
{
	portal_fanin *f = NULL;

	ex_assert(portal_fanin_new(&side[2], &f) == 0);
	ex_assert(portal_fanin_add(f, &chan[1]) == 0 && portal_fanin_add(f, &chan[3]) == 0);
	while ((!ended[1] && got[1] < first) || (!ended[3] && got[3] < third)) {
		portal_chan *c = NULL;

		ex_assert(portal_fanin_wait(f, NULL, PORTAL_FOREVER, &c) == 0 && c);
		take(c);
		if (ended[c->peer])
			portal_fanin_remove(f, c);
	}
	portal_fanin_free(f);
}

static void collect(void)
{
	fan_in(2, 1);
	ex_assert(got[1] == 2 && got[3] == 1);
	ex_assert(!m.rx[1].sleeping && !m.rx[3].sleeping);
}

/* ---- one of them closes: its record first, then its end, and nobody sleeps through it ---- */

static void send_and_close(void)
{
	send_from(1, 1);
	PORTAL_STORE_SEQ(&m.links[1].life, PORTAL_LIFE(2, PORTAL_LINK_FREE));
	host_event(2);
}

static void collect_to_end(void)
{
	fan_in(2, 0);
	ex_assert(got[1] == 1 && ended[1] && !ended[3]);
}

/* ---- one of them dies: the other one's records arrive ---- */

static void collect_from_dying(void)
{
	fan_in(2, 1);
	ex_assert(got[3] == 1 && !ended[3] && (got[1] == 2 || (ended[1] && ex_crashed(0))));
	over = true;
}

static bool dead_or_over(void)
{
	return ex_crashed(0) || over;
}

static void fan_reaper(void)
{
	ex_await(dead_or_over);
	if (ex_crashed(0))
		host_buries(1);
}

/* ---- the reader dies: nobody waits for it ---- */

static void send_to_dying(void)
{
	for (uint64_t i = 0; i < 3; i++) {
		uint64_t r[2] = { 1, i };
		int e = portal_send(&chan[0], (uint32_t)i, r, sizeof(r), PORTAL_FOREVER);

		ex_assert(e == 0 || (e == -EPIPE && ex_crashed(1)));
		if (e < 0)
			return;
	}
}

static void collect_or_die(void)
{
	fan_in(3, 0);
	over = true;
}

static bool reader_dead_or_over(void)
{
	return ex_crashed(1) || over;
}

static void reader_reaper(void)
{
	ex_await(reader_dead_or_over);
	if (ex_crashed(1))
		host_buries(2);
}

/* ---- who waits for many acknowledges rest as well ---- */

static void setup_fan_quiesce(void)
{
	setup_fan();
	m.ctl[1].state = m.ctl[2].state = PORTAL_CTL_ATTACHED;
}

static void send_and_linger(void)
{
	send_from(1, 1);
	linger(1);
}

static void collect_and_linger(void)
{
	fan_in(1, 0);
	linger(2);
}

static bool at_rest(void)
{
	return m.ctl[1].quiesce_ack == 1 && m.ctl[2].quiesce_ack == 1;
}

static void fan_quiescer(void)
{
	uint64_t tail;

	PORTAL_STORE_SEQ(&m.hdr.quiesce, 1);
	host_event(1);
	host_event(2);
	ex_await(at_rest);
	tail = m.rx[1].tail;
	ex_freeze(1, m.tx, sizeof(m.tx) + sizeof(m.rx) + sizeof(m.data));
	for (unsigned i = 0; i < 3; i++)
		(void)PORTAL_LOAD_ACQ(&m.tx[0].head);
	ex_assert(m.rx[1].tail == tail);
	ex_thaw();
	PORTAL_STORE_SEQ(&m.hdr.quiesce, 2);
	over = true;
	host_event(1);
	host_event(2);
}

const struct scenario fan_scenarios[] = {
	{ .name = "fanin",
	  .fibers = 3,
	  .preemptions = 2,
	  .pauses_once = true,
	  .setup = setup_fan,
	  .fiber = { send_first, collect, send_third } },
	{ .name = "fanin-bell",
	  .fibers = 3,
	  .preemptions = 2,
	  .pauses_once = true,
	  .setup = setup_fan_bell,
	  .fiber = { send_first, collect, send_third } },
	{ .name = "fanin-close",
	  .fibers = 2,
	  .preemptions = 2,
	  .pauses_once = true,
	  .setup = setup_fan,
	  .fiber = { send_and_close, collect_to_end } },
	{ .name = "fanin-crash-sender",
	  .fibers = 4,
	  .preemptions = 1,
	  .crashable = 1,
	  .pauses_once = true,
	  .setup = setup_fan,
	  .fiber = { send_first, collect_from_dying, send_third, fan_reaper } },
	{ .name = "fanin-crash-reader",
	  .fibers = 3,
	  .preemptions = 1,
	  .crashable = 2,
	  .pauses_once = true,
	  .setup = setup_fan,
	  .fiber = { send_to_dying, collect_or_die, reader_reaper } },
	{ .name = "fanin-quiesce",
	  .fibers = 3,
	  .preemptions = 2,
	  .store_points = true,
	  .pauses_once = true,
	  .setup = setup_fan_quiesce,
	  .fiber = { send_and_linger, collect_and_linger, fan_quiescer } },
	{ 0 },
};
