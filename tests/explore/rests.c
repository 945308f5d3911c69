/* Quiesce: whoever publishes, receives or waits, and the host that wants rest. */
#include <errno.h>
#include <string.h>

#include "portal/atomic.h"
#include "portal/gate_inline.h"
#include "world.h"

/* ---- quiesce: two threads of participant 1, the host ---- */

static void setup_quiesce(void)
{
	setup_base();
	join(0, &side[1], 2, PORTAL_RECORDS, 0, 1);
	join(2, &side[1], 2, PORTAL_RECORDS, 2, 3);
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
	linger(1);
}

/* Nobody waits for news there: the one who is last at rest has to find that he is. */
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

/* ---- quiesce, and one that dies in it: the host gets its rest, and the other one whole records ---- */

static void setup_quiesce_pair(void)
{
	setup_pair_of(PORTAL_RECORDS);
	m.ctl[1].state = m.ctl[2].state = PORTAL_CTL_ATTACHED;
}

static bool sent;

static void sender_that_dies(void)
{
	sent = false;
	(void)send_one(0);
	sent = true;
	linger(1);
}

static void receiver_at_rest(void)
{
	int e = receive_one();

	ex_assert(e == 0 || (e == -EPIPE && ex_crashed(0)));
	linger(2);
}

static bool both_at_rest(void)
{
	return (ex_crashed(0) || m.ctl[1].quiesce_ack == 1) && m.ctl[2].quiesce_ack == 1;
}

static bool sent_or_dead(void)
{
	return ex_crashed(0) || (sent && received);
}

static void quiescer_of_two(void)
{
	uint64_t tail;

	PORTAL_STORE_SEQ(&m.hdr.quiesce, 1);
	host_event(1);
	host_event(2);
	ex_await(both_at_rest);
	tail = m.rx[1].tail;
	ex_freeze(1, m.tx, sizeof(m.tx) + sizeof(m.rx) + sizeof(m.data));
	for (unsigned i = 0; i < 3; i++)
		(void)PORTAL_LOAD_ACQ(&m.tx[0].head);
	ex_assert(m.rx[1].tail == tail);
	ex_thaw();
	PORTAL_STORE_SEQ(&m.hdr.quiesce, 2);
	host_event(1);
	host_event(2);
	ex_await(sent_or_dead);
	if (ex_crashed(0))
		host_buries(1);
	over = true;
	host_event(1);
	host_event(2);
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

const struct scenario rest_scenarios[] = {
	{ .name = "quiesce",
	  .fibers = 3,
	  .preemptions = 2,
	  .store_points = true,
	  .together = 3,
	  .setup = setup_quiesce,
	  .fiber = { sender_a, sender_b, quiescer } },
	{ .name = "quiesce-late",
	  .fibers = 2,
	  .preemptions = 2,
	  .store_points = true,
	  .setup = setup_quiesce_late,
	  .fiber = { sender_that_attaches, quiescer } },
	{ .name = "quiesce-crash",
	  .fibers = 3,
	  .preemptions = 1,
	  .crashable = 1,
	  .setup = setup_quiesce_pair,
	  .fiber = { sender_that_dies, receiver_at_rest, quiescer_of_two } },
	{ .name = "quiesce-alone",
	  .fibers = 3,
	  .preemptions = 2,
	  .store_points = true,
	  .together = 3,
	  .setup = setup_quiesce_alone,
	  .fiber = { sends_and_goes, sender_b, quiescer } },
	{ .name = "quiesce-recv",
	  .fibers = 3,
	  .preemptions = 2,
	  .store_points = true,
	  .together = 3,
	  .setup = setup_quiesce_recv,
	  .fiber = { impatient, sender_b, quiescer },
	  .check = check_received },
	{ .name = "quiesce-wait",
	  .fibers = 2,
	  .preemptions = 3,
	  .setup = setup_quiesce_wait,
	  .fiber = { patient, quiescer_then_sender },
	  .check = check_received },
	{ 0 },
};
