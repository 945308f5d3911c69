/* Whoever is revoked while it waits for others, or waits after that, hears of it: for them it is dead, and nobody would
 * come any more. */
#include "support.h"

#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "portal/atomic.h"
#include "portal/host.h"
#include "portal/internal.h"
#include "portal/ring_inline.h"

struct waiter {
	const char *what;
	/* Opens what it takes, says so, and waits without end; then once more without waiting, for which it gives the
	 * same answer. */
	int (*run)(struct waiter *w);
	bool offers; /* it waits when its offer is in its link table */
	bool asks;   /* it waits when the host is to tell it of new names */
	bool parks;  /* it waits when it has come to rest */
	portal *p;
	portal_host *host;
	int ready[2];
};

/* Of somebody who never answers, nor writes. */
static portal_listener *deaf, *mute;

static void say_ready(struct waiter *w)
{
	assert_int_equal(write(w->ready[1], "", 1), 1);
}

static int both(int first, int second)
{
	if (first == second)
		return first;
	fprintf(stderr, "%s, and then %s\n", strerror(-first), strerror(-second));
	return 1;
}

static int in_accept(struct waiter *w)
{
	portal_listener *l;
	portal_chan *c;
	int r;

	assert_int_equal(portal_listen(w->p, "door", NULL, &l), 0);
	say_ready(w);
	r = portal_accept(l, PORTAL_FOREVER, &c);
	r = both(r, portal_accept(l, 0, &c));
	portal_listener_free(l);
	return r;
}

static int in_fanin_wait(struct waiter *w)
{
	portal_listener *l;
	portal_fanin *f;
	portal_chan *c;
	int r;

	assert_int_equal(portal_listen(w->p, "door", NULL, &l), 0);
	assert_int_equal(portal_fanin_new(w->p, &f), 0);
	say_ready(w);
	/* It returns at first, and whenever somebody may be at the door. */
	while ((r = portal_fanin_wait(f, l, PORTAL_FOREVER, &c)) == 0)
		if (portal_accept(l, 0, &c) == 0)
			return 1;
	r = both(r, portal_fanin_wait(f, l, 0, &c));
	portal_fanin_free(f);
	portal_listener_free(l);
	return r;
}

static int in_rpc_next(struct waiter *w)
{
	struct portal_rpc_request q;
	portal_rpc_server *s;
	int r;

	assert_int_equal(portal_rpc_serve(w->p, "door", &s), 0);
	say_ready(w);
	r = portal_rpc_next(s, &q, PORTAL_FOREVER);
	r = both(r, portal_rpc_next(s, &q, 0));
	portal_rpc_server_free(s);
	return r;
}

static int in_connect(struct waiter *w)
{
	portal_chan *c;
	int r;

	say_ready(w);
	r = portal_connect(w->p, "deaf", 0, PORTAL_FOREVER, &c);
	return both(r, portal_connect(w->p, "deaf", 0, SEC / 100, &c));
}

/* Nobody has that name. */
static int in_connect_early(struct waiter *w)
{
	portal_chan *c;
	int r;

	say_ready(w);
	r = portal_connect(w->p, "nobody", 0, PORTAL_FOREVER, &c);
	return both(r, portal_connect(w->p, "nobody", 0, SEC / 100, &c));
}

static int in_rpc_connect(struct waiter *w)
{
	portal_rpc *c;
	int r;

	say_ready(w);
	r = portal_rpc_connect(w->p, "nobody", PORTAL_FOREVER, &c);
	return both(r, portal_rpc_connect(w->p, "nobody", SEC / 100, &c));
}

static int in_recv(struct waiter *w)
{
	portal_chan *c;
	char buf[8];
	size_t n;
	int r;

	assert_int_equal(portal_connect(w->p, "mute", 0, LONG, &c), 0);
	say_ready(w);
	r = portal_recv(c, NULL, buf, sizeof(buf), &n, PORTAL_FOREVER);
	r = both(r, portal_recv(c, NULL, buf, sizeof(buf), &n, 0));
	portal_chan_free(c);
	return r;
}

static void quiesce(struct waiter *w)
{
	struct portal_quiesce q;

	/* Some come to rest, some do not. */
	(void)!portal_host_quiesce(w->host, 0, &q);
	say_ready(w);
}

/* The region is quiesced until it was revoked. */
static int in_send(struct waiter *w)
{
	portal_chan *c;
	int r;

	assert_int_equal(portal_connect(w->p, "mute", 0, LONG, &c), 0);
	quiesce(w);
	r = portal_send(c, 1, "x", 1, PORTAL_FOREVER);
	r = both(r, portal_send(c, 1, "x", 1, 0));
	assert_int_equal(portal_host_resume(w->host), 0);
	portal_chan_free(c);
	return r;
}

static int in_alloc(struct waiter *w)
{
	struct portal_handle h;
	int r;

	quiesce(w);
	r = portal_alloc(w->p, 64, &h, NULL);
	r = both(r, portal_alloc(w->p, 64, &h, NULL));
	/* It waits for news all the same. */
	while (portal_poll(w->p, 1) != -ETIMEDOUT)
		sched_yield();
	assert_int_equal(portal_host_resume(w->host), 0);
	return r;
}

static void *run(void *arg)
{
	struct waiter *w = arg;

	return (void *)(intptr_t)w->run(w);
}

/* As many as connect to the mute one. */
static portal_chan *accepted[2];

static void *accept_all(void *arg)
{
	for (size_t i = 0; i < ARRAY_SIZE(accepted); i++)
		(void)!portal_accept(mute, LONG, &accepted[i]);
	return NULL;
}

static void revoke_while(struct broker *b, struct waiter *w)
{
	struct timespec limit;
	struct portal_info info;
	pthread_t t;
	char byte;
	void *r;

	assert_int_equal(pipe(w->ready), 0);
	w->host = b->h;
	w->p = broker_attach(b, "waiter");
	assert_non_null(w->p);
	portal_get_info(w->p, &info);
	assert_int_equal(pthread_create(&t, NULL, run, w), 0);
	assert_int_equal(read(w->ready[0], &byte, 1), 1);
	while (w->offers && !PORTAL_LOAD_ACQ(&w->p->ctl->links_seq))
		sched_yield();
	while (w->asks && !PORTAL_LOAD_SEQ(&w->p->ctl->name_waiters))
		sched_yield();
	while (w->parks && !(PORTAL_LOAD_ACQ(&w->p->ctl->quiesce_ack) & 1))
		sched_yield();
	/* The others need not take note for this. */
	(void)!portal_host_revoke(b->h, info.self, 0);
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += LONG / SEC;
	if (pthread_timedjoin_np(t, &r, &limit) != 0)
		fail_msg("%s still waits %d s after it was revoked", w->what, (int)(LONG / SEC));
	if ((intptr_t)r != -EACCES)
		fail_msg("%s: %s", w->what, strerror(-(int)(intptr_t)r));
	portal_detach(w->p);
	close(w->ready[0]);
	close(w->ready[1]);
}

static void whoever_waits_hears_of_it(void **state)
{
	struct waiter waiters[] = {
		{ .what = "portal_accept", .run = in_accept },
		{ .what = "portal_fanin_wait", .run = in_fanin_wait },
		{ .what = "portal_rpc_next", .run = in_rpc_next },
		{ .what = "portal_connect", .run = in_connect, .offers = true },
		{ .what = "portal_connect, no such name", .run = in_connect_early, .asks = true },
		{ .what = "portal_rpc_connect", .run = in_rpc_connect, .asks = true },
		{ .what = "portal_recv", .run = in_recv },
		{ .what = "portal_send", .run = in_send, .parks = true },
		{ .what = "portal_alloc", .run = in_alloc, .parks = true },
	};
	struct broker b;
	pthread_t t;
	portal *p;

	broker_start(&b, NULL);
	p = broker_attach(&b, "other");
	assert_non_null(p);
	assert_int_equal(portal_listen(p, "deaf", NULL, &deaf), 0);
	assert_int_equal(portal_listen(p, "mute", NULL, &mute), 0);
	assert_int_equal(pthread_create(&t, NULL, accept_all, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(waiters); i++)
		revoke_while(&b, &waiters[i]);
	pthread_join(t, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(accepted); i++)
		portal_chan_free(accepted[i]);
	portal_listener_free(deaf);
	portal_listener_free(mute);
	portal_detach(p);
	broker_end(&b);
}

/* ---- what it goes on writing ---- */

struct pair {
	struct broker b;
	portal *writer, *reader;
	portal_listener *l;
	portal_chan *out, *in;
	unsigned writer_i;
};

static void *connect_reader(void *arg)
{
	struct pair *d = arg;

	return (void *)(intptr_t)portal_connect(d->reader, "svc", 0, LONG, &d->in);
}

static void pair_start(struct pair *d)
{
	struct portal_info info;
	pthread_t t;
	void *r;

	*d = (struct pair) { 0 };
	broker_start(&d->b, NULL);
	d->writer = broker_attach(&d->b, "writer");
	d->reader = broker_attach(&d->b, "reader");
	assert_non_null(d->writer);
	assert_non_null(d->reader);
	portal_get_info(d->writer, &info);
	d->writer_i = info.self;
	assert_int_equal(portal_listen(d->writer, "svc", NULL, &d->l), 0);
	assert_int_equal(pthread_create(&t, NULL, connect_reader, d), 0);
	assert_int_equal(portal_accept(d->l, LONG, &d->out), 0);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, 0);
	/* Both have seen all there is. */
	assert_int_equal(portal_poll(d->writer, 0), 0);
	assert_int_equal(portal_poll(d->reader, 0), 0);
}

static void pair_end(struct pair *d)
{
	portal_chan_free(d->in);
	portal_chan_free(d->out);
	portal_listener_free(d->l);
	portal_detach(d->reader);
	portal_detach(d->writer);
	broker_end(&d->b);
}

static int writes(struct pair *d, int i)
{
	return portal_send(d->out, 1, &i, sizeof(i), LONG);
}

static int reads(struct pair *d, int *ret)
{
	size_t n;

	return portal_recv(d->in, NULL, ret, sizeof(*ret), &n, LONG);
}

/* It has not looked, and its peer is never at the end of what there is: the first thing that it takes after the
 * revocation tells it, and those that wait for it. */
static void a_reader_that_never_waits(void **state)
{
	struct pair d;
	int got = 0;

	pair_start(&d);
	for (int i = 0; i < 3; i++)
		assert_int_equal(writes(&d, i), 0);
	assert_int_equal(reads(&d, &got), 0);
	assert_int_equal(got, 0);
	assert_int_equal(portal_host_revoke(d.b.h, d.writer_i, 0), -ETIMEDOUT);
	/* In its old memory. */
	assert_int_equal(writes(&d, 3), 0);
	assert_int_equal(reads(&d, &got), -EPIPE);
	assert_int_equal(PORTAL_LOAD_ACQ(&d.reader->ctl->epoch_seen), PORTAL_LOAD_ACQ(&d.reader->hdr->epoch));
	/* It writes on, and is itself the only one who has not seen it; but it is dead. */
	assert_int_equal(writes(&d, 4), 0);
	assert_int_equal(portal_host_seen(d.b.h, LONG), 0);
	assert_int_equal(reads(&d, &got), -EPIPE);
	pair_end(&d);
}

/* The copy is of some moment, and the reader was further: that is the end, and not a broken format. */
static void the_copy_is_behind_its_reader(void **state)
{
	struct pair d;
	int got;

	pair_start(&d);
	/* The reader's view is of before, its ring's indices are of after the copy. */
	assert_int_equal(writes(&d, 0), 0);
	assert_int_equal(portal_host_revoke(d.b.h, d.writer_i, 0), -ETIMEDOUT);
	assert_int_equal(writes(&d, 1), 0);
	assert_int_equal(wslx_portal_rx_ready(&d.in->rx), 1);
	assert_int_equal(portal_poll(d.reader, 0), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(reads(&d, &got), -EPIPE);
	pair_end(&d);
}

/* ---- in what order ---- */

struct witness {
	portal_host *h;
	unsigned i;
	bool exchanged, alive, named;
};

/* Whatever a participant is woken for, it may look at everything: what it finds in an exchanged arena is not a live
 * one's, nor found by name. */
static void witnesses(void *opaque, int arena)
{
	struct witness *w = opaque;

	for (unsigned a = 1; w->i && a < PORTAL_MAX_ARENAS; a++) {
		const struct portal_arena *e = &w->h->arenas[a];

		if (e->owner != w->i || PORTAL_LIFE_STATE(PORTAL_LOAD_ACQ(&e->life)) != PORTAL_ARENA_REVOKED)
			continue;
		w->exchanged = true;
		w->alive |= PORTAL_LIFE_STATE(PORTAL_LOAD_ACQ(&w->h->parts[w->i].life)) == PORTAL_PART_LIVE;
		w->named |= w->h->names.used != 0;
	}
}

static void dead_before_its_memory_is_exchanged(void **state)
{
	struct portal_host_member m = { .size = sizeof(m), .name = "witness", .segments = 1, .notify = witnesses };
	struct witness w = { 0 };
	struct portal_info info;
	struct broker b;
	unsigned i;
	portal *p;

	broker_start(&b, NULL);
	w.h = b.h;
	m.opaque = &w;
	assert_int_equal(portal_host_add(b.h, &m, &i), 0);
	p = broker_attach(&b, "writer");
	assert_non_null(p);
	assert_int_equal(portal_create(p, "thing", 64, NULL, NULL), 0);
	portal_get_info(p, &info);
	pthread_mutex_lock(&b.h->lock);
	w.i = info.self;
	pthread_mutex_unlock(&b.h->lock);
	(void)!portal_host_revoke(b.h, info.self, 0);
	pthread_mutex_lock(&b.h->lock);
	assert_true(w.exchanged);
	assert_false(w.alive);
	assert_false(w.named);
	pthread_mutex_unlock(&b.h->lock);
	portal_detach(p);
	broker_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whoever_waits_hears_of_it),
		cmocka_unit_test(a_reader_that_never_waits),
		cmocka_unit_test(the_copy_is_behind_its_reader),
		cmocka_unit_test(dead_before_its_memory_is_exchanged),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
