/*
 * RPC, the one who is called.
 *
 * Theory of operation.  A listener, a fan-in, and for each client a queue of
 * requests that nobody has seen yet, and a table of those that were handed out
 * and have no answer.  Everything in a client's ring goes into its queue before
 * the next request is taken from there, so that one which it has cancelled since
 * is not begun.  But a queue has no more than MAX_BYTES: the rest stays in the
 * ring, which nobody looks at until some of the queue are handed out.  What it
 * cancels leaves queue and table at once: an honest client with as many calls
 * under way as it can have never has more in both.
 *
 * A request's time runs from when it is in the queue: the client's clock is not
 * ours.  One whose time is over when its turn comes is answered here.
 *
 * Clients take turns.  A turn is as many requests as were in the queue when it
 * began; then the rings of all are looked at.
 *
 * An answer that finds the ring full is kept and sent later.  A client whose
 * answers might be too many to keep gets nothing more done until it reads, and so
 * holds up itself alone.
 *
 * Trust boundary: clients.  Whatever breaks the format costs its sender the
 * connection.  What fills its ring as fast as it is read costs others no more
 * than a ring's length between two looks at them and at the clock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "portal/atomic.h"
#include "portal/gate_inline.h"
#include "portal/internal.h"
#include "portal/ring_inline.h"

#define MAX_CLIENTS 64u                    /* bits */
#define MAX_OPEN 128u                      /* requests of one client without an answer */
#define MAX_KEPT 128u                      /* answers of one client that were not sent yet, or may come to that */
#define MAX_BYTES (UINT64_C(1) << 20)      /* of one client's requests in its queue, and less than one record more */
#define MAX_CAPACITY (UINT64_C(256) << 10) /* of its ring; portal_rpc_connect() makes a quarter of that */
#define ROUNDS (2 * MAX_CLIENTS)           /* that bring nothing to hand out, for one who does not wait */
#define RETRY_NS INT64_C(200000)

struct kept {
	struct kept *next;
	int64_t deadline; /* of a request; -1: none */
	size_t size;
	uint8_t data[];
};

struct queue {
	struct kept *first, **last;
	unsigned n;
	uint64_t bytes;
};

struct open_request {
	uint64_t id;
	int64_t deadline;
};

struct client {
	portal_chan *c; /* NULL: free */
	uint64_t serial;
	struct queue in, out;
	bool stopped; /* not in the fan-in, as `in` is full */
	unsigned n_open;
	struct open_request open[MAX_OPEN];
};

struct portal_rpc_server {
	portal *p;
	portal_listener *l;
	portal_fanin *f;
	uint64_t serial;
	struct kept *current; /* what the last request points into */
	uint64_t asking;      /* clients with something in `in` */
	uint64_t unsent;      /* and in `out` */
	unsigned turn, batch; /* whose turn it is, and for how many requests */
	int64_t now;          /* 0: not asked yet since it was waited for something */
	struct client clients[MAX_CLIENTS];
};

static void queue_add(struct queue *q, struct kept *k)
{
	if (!q->first)
		q->last = &q->first;
	k->next = NULL;
	*q->last = k;
	q->last = &k->next;
	q->n++;
	q->bytes += k->size;
}

static struct kept *queue_take(struct queue *q)
{
	struct kept *k = q->first;

	if (k) {
		q->first = k->next;
		q->n--;
		q->bytes -= k->size;
	}
	return k;
}

static void queue_clear(struct queue *q)
{
	struct kept *k;

	while ((k = queue_take(q)))
		free(k);
}

static struct kept *new_kept(size_t n)
{
	struct kept *k = malloc(sizeof(*k) + n);

	if (k)
		k->size = n;
	return k;
}

int portal_rpc_serve(portal *p, const char *service, portal_rpc_server **ret)
{
	const struct portal_listen params = { .size = sizeof(params), .max_capacity = MAX_CAPACITY };
	portal_rpc_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->p = p;
	r = portal_fanin_new(p, &s->f);
	if (r == 0)
		r = portal_listen(p, service, &params, &s->l);
	if (r < 0) {
		portal_fanin_free(s->f);
		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

static unsigned number_of(const portal_rpc_server *s, const struct client *cl)
{
	return (unsigned)(cl - s->clients);
}

static uint64_t bit_of(const portal_rpc_server *s, const struct client *cl)
{
	return UINT64_C(1) << number_of(s, cl);
}

static void drop(portal_rpc_server *s, struct client *cl)
{
	portal_fanin_remove(s->f, cl->c);
	portal_chan_free(cl->c);
	queue_clear(&cl->in);
	queue_clear(&cl->out);
	s->asking &= ~bit_of(s, cl);
	s->unsent &= ~bit_of(s, cl);
	*cl = (struct client) { 0 };
}

void portal_rpc_server_free(portal_rpc_server *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (s->clients[i].c)
			drop(s, &s->clients[i]);
	free(s->current);
	portal_listener_free(s->l);
	portal_fanin_free(s->f);
	free(s);
}

static void accept_all(portal_rpc_server *s)
{
	portal_chan *c;

	while (portal_accept(s->l, 0, &c) == 0) {
		unsigned i = 0;

		while (i < MAX_CLIENTS && s->clients[i].c)
			i++;
		if (i == MAX_CLIENTS || portal_fanin_add(s->f, c) < 0) {
			portal_chan_free(c);
			continue;
		}
		s->clients[i].c = c;
		/* Its place is in it. */
		s->clients[i].serial = ++s->serial * MAX_CLIENTS + i;
		c->serial = i;
	}
}

static struct client *client_of(portal_rpc_server *s, uint64_t serial)
{
	struct client *cl = &s->clients[serial % MAX_CLIENTS];

	return cl->c && cl->serial == serial ? cl : NULL;
}

/* ---- the table of what was handed out ---- */

static struct open_request *find_open(struct client *cl, uint64_t id)
{
	for (unsigned i = 0; i < cl->n_open; i++)
		if (cl->open[i].id == id)
			return &cl->open[i];
	return NULL;
}

static void close_open(struct client *cl, struct open_request *o)
{
	if (o)
		*o = cl->open[--cl->n_open];
}

/* ---- time ---- */

static int64_t now(portal_rpc_server *s)
{
	if (!s->now)
		s->now = wslx_portal_now();
	return s->now;
}

static bool is_late(portal_rpc_server *s, int64_t deadline)
{
	return deadline >= 0 && now(s) >= deadline;
}

static int64_t deadline_of(portal_rpc_server *s, uint64_t budget)
{
	int64_t at;

	if (!budget || budget > INT64_MAX || __builtin_add_overflow(now(s), (int64_t)budget, &at))
		return -1;
	return at;
}

/* ---- answers ---- */

/* Is there sure to be a place for one more, when all that were handed out are answered? */
static bool can_answer(const struct client *cl)
{
	return cl->out.n + cl->n_open < MAX_KEPT;
}

static bool fits(const portal_chan *c, size_t n)
{
	return n <= c->tx.mask && wslx_portal_record_size(n) <= (c->tx.mask + 1) / 2;
}

/* Was it the client's doing that nothing was sent, or the end of either?  Anything else passes: there is no room yet,
 * or this process has no descriptor or memory left to take note of the region's news. */
static bool is_over(int r)
{
	return r == -EPIPE || r == -EPROTO || r == -EACCES;
}

/* Sends, or keeps.  -EMSGSIZE; anything else: drop the client. */
static int answer(portal_rpc_server *s, struct client *cl, const struct portal_rpc_header *h,
		  const struct portal_bytes *out)
{
	size_t n = out ? out->size : 0;
	struct kept *k;

	if (n > SIZE_MAX - sizeof(*h) || !fits(cl->c, sizeof(*h) + n))
		return -EMSGSIZE;
	if (!cl->out.first) {
		void *room;
		int r = portal_reserve(cl->c, sizeof(*h) + n, &room, 0);

		if (r == 0) {
			wslx_portal_copy_out(room, h, sizeof(*h));
			if (n)
				wslx_portal_copy_out((uint8_t *)room + sizeof(*h), out->data, n);
			r = portal_commit(cl->c, PORTAL_RPC_RESPONSE, sizeof(*h) + n);
			(void)portal_flush(cl->c);
			return r;
		}
		if (is_over(r))
			return r;
	}
	k = cl->out.n < MAX_KEPT ? new_kept(sizeof(*h) + n) : NULL;
	if (!k)
		return -ENOMEM;
	memcpy(k->data, h, sizeof(*h));
	if (n)
		memcpy(k->data + sizeof(*h), out->data, n);
	queue_add(&cl->out, k);
	s->unsent |= bit_of(s, cl);
	return 0;
}

/* Sends what waits for room.  0 also if it still has to. */
static int push(portal_rpc_server *s, struct client *cl)
{
	while (cl->out.first) {
		int r = portal_send(cl->c, PORTAL_RPC_RESPONSE, cl->out.first->data, cl->out.first->size, 0);

		if (r < 0)
			return is_over(r) ? r : 0;
		free(queue_take(&cl->out));
	}
	s->unsent &= ~bit_of(s, cl);
	return 0;
}

/* True: some still wait for room. */
static bool push_all(portal_rpc_server *s)
{
	for (uint64_t left = s->unsent; left; left &= left - 1) {
		struct client *cl = &s->clients[__builtin_ctzll(left)];

		if (push(s, cl) < 0)
			drop(s, cl);
	}
	return s->unsent;
}

/* ---- from the ring into the queue ---- */

static void remove_queued(portal_rpc_server *s, struct client *cl, uint64_t id)
{
	for (struct kept **at = &cl->in.first; *at;) {
		struct kept *k = *at;
		struct portal_rpc_header h;

		memcpy(&h, k->data, sizeof(h));
		if (h.id != id) {
			at = &k->next;
			continue;
		}
		*at = k->next;
		if (!*at)
			cl->in.last = at;
		cl->in.n--;
		cl->in.bytes -= k->size;
		free(k);
	}
	if (!cl->in.first)
		s->asking &= ~bit_of(s, cl);
}

/* The client does not wait for that any more, whether we have begun with it or not. */
static void cancel(portal_rpc_server *s, struct client *cl, uint64_t id)
{
	close_open(cl, find_open(cl, id));
	remove_queued(s, cl, id);
}

/* Room for another request?  Those whose time is over need none, though nobody has said so. */
static bool has_place(portal_rpc_server *s, struct client *cl)
{
	for (unsigned i = cl->n_open; i-- && cl->in.n + cl->n_open >= MAX_OPEN;)
		if (is_late(s, cl->open[i].deadline))
			close_open(cl, &cl->open[i]);
	return cl->in.n + cl->n_open < MAX_OPEN;
}

static int enqueue(portal_rpc_server *s, struct client *cl, struct kept *k)
{
	struct portal_rpc_header h;

	memcpy(&h, k->data, sizeof(h));
	if (!has_place(s, cl)) {
		free(k);
		return -EPROTO;
	}
	k->deadline = deadline_of(s, h.budget_ns);
	queue_add(&cl->in, k);
	s->asking |= bit_of(s, cl);
	return 0;
}

/* One record from the ring into the client's queue.  -EAGAIN: none; anything else: drop the client. */
static int pull(portal_rpc_server *s, struct client *cl)
{
	uint64_t before = cl->c->rx.pos;
	struct portal_rpc_header h;
	const void *at;
	struct kept *k;
	uint32_t type;
	size_t n;
	int r = portal_peek(cl->c, &type, &at, &n, 0);

	if (r < 0)
		return r;
	if (n < sizeof(h) || (type != PORTAL_RPC_REQUEST && type != PORTAL_RPC_CANCEL))
		return -EPROTO;
	if (type == PORTAL_RPC_CANCEL) {
		wslx_portal_copy_in(&h, at, sizeof(h));
		r = wslx_portal_received(cl->c, before, 0);
		if (r == 0)
			cancel(s, cl, h.id);
		return r;
	}
	k = new_kept(n);
	if (!k)
		return -ENOMEM;
	wslx_portal_copy_in(k->data, at, n);
	r = wslx_portal_received(cl->c, before, 0);
	if (r < 0) {
		free(k);
		return r;
	}
	return enqueue(s, cl, k);
}

static bool can_be_served(const struct client *cl)
{
	return cl->in.first && can_answer(cl);
}

static bool has_room(const struct client *cl)
{
	return cl->in.bytes < MAX_BYTES;
}

/* Who has no room does not come up: it would again and again. */
static void watch(portal_rpc_server *s, struct client *cl)
{
	if (has_room(cl) != cl->stopped)
		return;
	cl->stopped = !cl->stopped;
	if (cl->stopped)
		portal_fanin_remove(s->f, cl->c);
	else
		(void)!portal_fanin_add(s->f, cl->c); /* there is a place for each client */
}

/* All that there is room for, of what was in the ring when this began: a ring's length.  Below 0: drop the client; one
 * that has gone only when its last request was handed out. */
static int pull_all(portal_rpc_server *s, struct client *cl)
{
	uint64_t last = cl->c->rx.pos + cl->c->rx.mask;
	int r = 0;

	while (r == 0 && has_room(cl) && cl->c->rx.pos <= last)
		r = wslx_portal_rx_ready(&cl->c->rx) ? pull(s, cl) : -EAGAIN;
	watch(s, cl);
	if (r == -EAGAIN || cl->stopped)
		return can_be_served(cl) ? 0 : wslx_portal_chan_alive(cl->c);
	return r;
}

/* ---- from the queue to the caller ---- */

static void give(portal_rpc_server *s, struct client *cl, struct kept *k, const struct portal_rpc_header *h,
		 struct portal_rpc_request *ret)
{
	cl->open[cl->n_open++] = (struct open_request) { .id = h->id, .deadline = k->deadline };
	*ret = (struct portal_rpc_request) {
		.client = cl->serial,
		.id = h->id,
		.method = h->method,
		.peer = portal_chan_peer(cl->c),
		.budget_ns = k->deadline < 0 ? PORTAL_FOREVER : k->deadline - now(s),
		.in = { k->data + sizeof(*h), k->size - sizeof(*h), h->bulk, h->bulk_size },
	};
	free(s->current);
	s->current = k;
}

/* The first of the client's queue that is in time.  1: there it is; 0: none; below 0: drop the client. */
static int hand_out(portal_rpc_server *s, struct client *cl, struct portal_rpc_request *ret)
{
	while (can_be_served(cl)) {
		struct kept *k = queue_take(&cl->in);
		struct portal_rpc_header h, over = { .status = -ETIMEDOUT };
		int r;

		if (!cl->in.first)
			s->asking &= ~bit_of(s, cl);
		watch(s, cl);
		memcpy(&h, k->data, sizeof(h));
		if (find_open(cl, h.id)) {
			free(k);
			return -EPROTO;
		}
		if (!is_late(s, k->deadline)) {
			give(s, cl, k, &h, ret);
			return 1;
		}
		free(k);
		over.id = h.id;
		over.method = h.method;
		r = answer(s, cl, &over, NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Of the client whose turn it is, if it still is.  True: *ret is a request. */
static bool serve_turn(portal_rpc_server *s, struct portal_rpc_request *ret)
{
	struct client *cl = &s->clients[s->turn];
	int r;

	if (!s->batch || !(s->asking >> s->turn & 1))
		return false;
	r = pull_all(s, cl);
	if (r == 0)
		r = hand_out(s, cl, ret);
	if (r < 0)
		drop(s, cl);
	s->batch = r > 0 ? s->batch - 1 : 0;
	return r > 0;
}

/* Those who have asked for something and can be served. */
static uint64_t who_asks(const portal_rpc_server *s)
{
	uint64_t who = s->asking;

	for (uint64_t left = who; left; left &= left - 1)
		if (!can_answer(&s->clients[__builtin_ctzll(left)]))
			who &= ~(left & -left);
	return who;
}

/* The one of them who comes after the last.  False: nobody. */
static bool next_turn(portal_rpc_server *s)
{
	uint64_t who = who_asks(s), after = who & (UINT64_MAX << s->turn << 1);

	s->batch = 0;
	if (!who)
		return false;
	s->turn = (unsigned)__builtin_ctzll(after ? after : who);
	s->batch = s->clients[s->turn].in.n;
	return true;
}

/* Looks after all of them; waits if nobody has asked for anything. */
static int look_around(portal_rpc_server *s, int64_t left)
{
	portal_chan *c = NULL;
	int r;

	r = portal_fanin_wait(s->f, s->l, left, &c);
	s->now = 0;
	if (r < 0)
		return r;
	if (!c) {
		accept_all(s);
		return 0;
	}
	if (pull_all(s, &s->clients[c->serial]) < 0)
		drop(s, &s->clients[c->serial]);
	return 0;
}

int portal_rpc_next(portal_rpc_server *s, struct portal_rpc_request *ret, int64_t timeout_ns)
{
	int64_t deadline = timeout_ns > 0 ? wslx_portal_deadline(timeout_ns) : timeout_ns;
	unsigned rounds = 0;

	s->now = 0;
	while (!serve_turn(s, ret)) {
		bool unsent = push_all(s);
		int64_t left = who_asks(s) ? 0 : wslx_portal_left(deadline);
		int r;

		if (unsent && (left < 0 || left > RETRY_NS))
			left = RETRY_NS;
		r = look_around(s, left);
		if (next_turn(s) || (r == 0 && (rounds++ < ROUNDS || wslx_portal_left(deadline))))
			continue;
		if (r == 0)
			r = -EAGAIN;
		if ((r == -EAGAIN || r == -ETIMEDOUT) && unsent && wslx_portal_left(deadline))
			continue;
		return r == -EAGAIN && timeout_ns ? -ETIMEDOUT : r;
	}
	return 0;
}

int portal_rpc_reply(portal_rpc_server *s, const struct portal_rpc_request *req, int status,
		     const struct portal_bytes *out)
{
	struct portal_rpc_header h = { .id = req->id, .method = req->method, .status = status };
	struct client *cl = client_of(s, req->client);
	struct open_request *o = cl ? find_open(cl, req->id) : NULL;
	int r;

	if (!o)
		return 0;
	if (out) {
		h.bulk = out->bulk;
		h.bulk_size = out->bulk_size;
	}
	r = answer(s, cl, &h, out);
	if (r == -EMSGSIZE)
		return r;
	close_open(cl, o);
	if (r < 0)
		drop(s, cl);
	return 0;
}

int portal_rpc_cancelled(portal_rpc_server *s, const struct portal_rpc_request *req)
{
	struct client *cl = client_of(s, req->client);
	struct open_request *o;

	if (!cl)
		return 1;
	s->now = 0;
	if (pull_all(s, cl) < 0) {
		drop(s, cl);
		return 1;
	}
	o = find_open(cl, req->id);
	if (o && is_late(s, o->deadline)) {
		close_open(cl, o);
		o = NULL;
	}
	return !o || wslx_portal_chan_alive(cl->c) < 0;
}
