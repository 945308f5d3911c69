/*
 * What it costs to wake a peer: round trips in which each end sleeps in the kernel when it is its turn, against two
 * words of shared memory with FUTEX_WAIT and FUTEX_WAKE.
 *
 * Before each send there is a pause, in which the other end gives up looking and goes to sleep.  The pauses do not
 * count: a way is from before the send until the other has the message, by the clock that both see.
 */
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "portal/atomic.h"
#include "portal_bench.h"

/* Several times what the longest looking takes (src/portal/spin.h). */
#define PAUSE_US 500

enum { BARE, RING, KINDS };

struct message {
	uint64_t sent, took; /* this way, and the way before */
};

struct mailbox {
	_Alignas(128) uint32_t number;
	struct message m;
};

static struct mailbox *there, *back;

static void bare_send(struct mailbox *b, const struct message *m)
{
	b->m = *m;
	PORTAL_STORE_REL(&b->number, b->number + 1);
	syscall(SYS_futex, &b->number, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void bare_recv(struct mailbox *b, uint32_t seen, struct message *m)
{
	while (PORTAL_LOAD_ACQ(&b->number) == seen)
		syscall(SYS_futex, &b->number, FUTEX_WAIT, seen, NULL, NULL, 0);
	*m = b->m;
}

static void send_message(portal_chan *c, int kind, struct mailbox *b, uint64_t took)
{
	struct message m = { .took = took };

	usleep(PAUSE_US);
	m.sent = now();
	if (kind == BARE)
		bare_send(b, &m);
	else
		must(portal_send(c, 0, &m, sizeof(m), PORTAL_FOREVER), "send");
}

/* seen: how many messages there have been in the bare mailbox. */
static uint64_t recv_message(portal_chan *c, int kind, struct mailbox *b, uint32_t seen, uint64_t *took_before)
{
	struct message m;
	uint64_t at_;
	size_t n;

	if (kind == BARE)
		bare_recv(b, seen, &m);
	else
		must(portal_recv(c, NULL, &m, sizeof(m), &n, PORTAL_FOREVER), "recv");
	at_ = now();
	*took_before = m.took;
	return at_ - m.sent;
}

/* A trip takes 2 ms. */
static unsigned trips(void)
{
	return (rounds + 3) / 4;
}

static void asleep_peer(void)
{
	uint64_t unused;
	portal_chan *c;
	portal *p;

	pin(1);
	p = attach(0);
	c = serve_one(p, "asleep");
	for (unsigned i = 0; i < trips(); i++)
		for (int k = 0; k < KINDS; k++)
			send_message(c, k, back, recv_message(c, k, there, i, &unused));
}

void bench_asleep(void)
{
	static const char *const name[KINDS] = { "bare", "ring" };
	double *v[KINDS] = { calloc(trips(), sizeof(double)), calloc(trips(), sizeof(double)) };
	portal_chan *c;
	portal *p;

	there = shared(sizeof(*there));
	back = shared(sizeof(*back));
	start_broker(4096, 0, 0);
	start_child(asleep_peer);
	pin(0);
	p = attach(0);
	must(portal_connect(p, "asleep", 0, PORTAL_FOREVER, &c), "connect");
	for (unsigned i = 0; i < trips(); i++) {
		for (int k = 0; k < KINDS; k++) {
			uint64_t one_way, other_way;

			send_message(c, k, there, 0);
			one_way = recv_message(c, k, back, i, &other_way);
			v[k][i] = (double)(one_way + other_way);
		}
	}
	for (int k = 0; k < KINDS; k++)
		printf("asleep.%s.p50 %.0f\n", name[k], at(v[k], trips(), 0.5));
}
