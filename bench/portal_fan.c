/*
 * Records of many to one, against as many bare rings that one reader looks through, in batches that take turns.  There
 * may be fewer processors than writers, so a bare end that finds nothing to do gives its processor away.
 */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "portal/atomic.h"
#include "portal_bench.h"

#define MOST 8u
#define RECORDS 4000u /* a batch, of all writers together */
#define SLOTS 512u
#define IN_A_ROW 64u

static struct fan {
	_Alignas(128) uint32_t phase; /* batches that may be written, bare and ring alternating */
	struct {
		_Alignas(128) uint64_t head;
		_Alignas(128) uint64_t tail;
		_Alignas(128) uint8_t slots[SLOTS][64];
	} ring[MOST];
} * fan;
static unsigned me, writers;

static void wait_phase(uint32_t phase)
{
	while (PORTAL_LOAD_ACQ(&fan->phase) < phase)
		sched_yield();
}

/* ---- a writer ---- */

static void bare_write(void)
{
	uint64_t payload[8] = { 0 }, head = fan->ring[me].head;

	for (unsigned i = 0; i < RECORDS / writers; i++) {
		while (head - PORTAL_LOAD_ACQ(&fan->ring[me].tail) == SLOTS)
			sched_yield();
		memcpy(fan->ring[me].slots[head % SLOTS], payload, 64);
		PORTAL_STORE_REL(&fan->ring[me].head, ++head);
	}
}

static void fan_peer(void)
{
	uint64_t payload[8] = { 0 };
	portal_chan *c;
	portal *p = attach(0);

	must(portal_connect(p, "fan", 0, PORTAL_FOREVER, &c), "connect");
	for (unsigned i = 0; i < rounds; i++) {
		wait_phase(2 * i + 1);
		bare_write();
		wait_phase(2 * i + 2);
		for (unsigned k = 0; k < RECORDS / writers; k++)
			must(portal_send(c, 0, payload, 64, PORTAL_FOREVER), "send");
	}
	wait_phase(2 * rounds + 1); /* all is read */
	portal_chan_free(c);
}

/* ---- the reader ---- */

static unsigned bare_take(unsigned r)
{
	uint64_t payload[8], head = PORTAL_LOAD_ACQ(&fan->ring[r].head), tail = fan->ring[r].tail;
	unsigned n;

	for (n = 0; n < IN_A_ROW && tail != head; n++) {
		memcpy(payload, fan->ring[r].slots[tail % SLOTS], 64);
		PORTAL_STORE_REL(&fan->ring[r].tail, ++tail);
	}
	return n;
}

static void bare_read(void)
{
	for (unsigned i = 0; i < RECORDS;) {
		unsigned before = i;

		for (unsigned r = 0; r < writers; r++)
			i += bare_take(r);
		if (i == before)
			sched_yield();
	}
}

static void fanin_read(portal_fanin *f)
{
	portal_chan *from;
	uint64_t buf[8];
	size_t k;

	for (unsigned i = 0; i < RECORDS;) {
		must(portal_fanin_wait(f, NULL, PORTAL_FOREVER, &from), "wait");
		for (unsigned n = 0; n < IN_A_ROW && portal_recv(from, NULL, buf, sizeof(buf), &k, 0) == 0; n++)
			i++;
	}
}

static void measure(portal_fanin *f)
{
	double *v[2] = { calloc(rounds, sizeof(double)), calloc(rounds, sizeof(double)) };

	for (unsigned i = 0; i < rounds; i++) {
		uint64_t t[3];

		t[0] = now();
		PORTAL_STORE_REL(&fan->phase, 2 * i + 1);
		bare_read();
		t[1] = now();
		PORTAL_STORE_REL(&fan->phase, 2 * i + 2);
		fanin_read(f);
		t[2] = now();
		v[0][i] = (double)(t[1] - t[0]) / RECORDS;
		v[1][i] = (double)(t[2] - t[1]) / RECORDS;
	}
	printf("fan.%u.bare %.1f\nfan.%u.portal %.1f\n", writers, at(v[0], rounds, 0.5), writers,
	       at(v[1], rounds, 0.5));
	free(v[0]);
	free(v[1]);
}

static void fan_in(void)
{
	portal_chan *c[MOST];
	portal_listener *l;
	portal_fanin *f;
	int pid[MOST];
	portal *p = attach(0);

	memset(fan, 0, sizeof(*fan));
	must(portal_fanin_new(p, &f), "fanin");
	must(portal_listen(p, "fan", NULL, &l), "listen");
	for (me = 0; me < writers; me++)
		pid[me] = start_child(fan_peer);
	for (unsigned i = 0; i < writers; i++) {
		must(portal_accept(l, PORTAL_FOREVER, &c[i]), "accept");
		must(portal_fanin_add(f, c[i]), "add");
	}
	measure(f);
	PORTAL_STORE_REL(&fan->phase, 2 * rounds + 1);
	for (unsigned i = 0; i < writers; i++) {
		waitpid(pid[i], NULL, 0);
		portal_fanin_remove(f, c[i]);
		portal_chan_free(c[i]);
	}
	portal_listener_free(l);
	portal_fanin_free(f);
	portal_detach(p);
}

void bench_fan(void)
{
	fan = shared(sizeof(*fan));
	start_broker(4096, 0, 0);
	for (writers = 1; writers <= MOST; writers *= 2)
		fan_in();
}
