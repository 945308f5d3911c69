/*
 * RPC, the one who is called.
 *
 * Theory of operation.  A listener, a fan-in, and for each client a table of
 * the requests that have no answer yet.  Requests are copied out of the ring
 * before anybody looks at them.  An answer that finds the ring full is kept
 * and sent later; a client that lets too many of them pile up is dropped, so
 * that one who does not read cannot hold up the others.
 *
 * Trust boundary: clients.  Whatever breaks the format costs its sender the
 * connection.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "portal/atomic.h"
#include "portal/internal.h"

#define MAX_CLIENTS 64u
#define MAX_OPEN 128u /* requests of one client */
#define MAX_KEPT 128u /* records of one client, either way */
#define RETRY_NS INT64_C(200000)

struct kept {
	struct kept *next;
	uint32_t type;
	size_t size;
	uint8_t data[];
};

struct queue {
	struct kept *first, **last;
	unsigned n;
};

struct open_request {
	uint64_t id;
	int64_t deadline;
	bool used, cancelled;
};

struct client {
	portal_chan *c; /* NULL: free */
	uint64_t serial;
	struct queue in, out;
	struct open_request open[MAX_OPEN];
};

struct portal_rpc_server {
	portal *p;
	portal_listener *l;
	portal_fanin *f;
	uint64_t serial;
	struct kept *current; /* what the last request points into */
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
}

static struct kept *queue_take(struct queue *q)
{
	struct kept *k = q->first;

	if (k) {
		q->first = k->next;
		q->n--;
	}
	return k;
}

static void queue_clear(struct queue *q)
{
	struct kept *k;

	while ((k = queue_take(q)))
		free(k);
}

static struct kept *new_kept(uint32_t type, size_t n)
{
	struct kept *k = malloc(sizeof(*k) + n);

	if (k) {
		k->type = type;
		k->size = n;
	}
	return k;
}

int portal_rpc_serve(portal *p, const char *service, portal_rpc_server **ret)
{
	portal_rpc_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->p = p;
	r = portal_fanin_new(p, &s->f);
	if (r == 0)
		r = portal_listen(p, service, NULL, &s->l);
	if (r < 0) {
		portal_fanin_free(s->f);
		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

static void drop(portal_rpc_server *s, struct client *cl)
{
	portal_fanin_remove(s->f, cl->c);
	portal_chan_free(cl->c);
	queue_clear(&cl->in);
	queue_clear(&cl->out);
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
		s->clients[i].serial = ++s->serial;
		c->serial = i;
	}
}

static struct open_request *find_open(struct client *cl, uint64_t id)
{
	for (unsigned i = 0; i < MAX_OPEN; i++)
		if (cl->open[i].used && cl->open[i].id == id)
			return &cl->open[i];
	return NULL;
}

static struct client *client_of(portal_rpc_server *s, uint64_t serial)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (s->clients[i].c && s->clients[i].serial == serial)
			return &s->clients[i];
	return NULL;
}

/* The client does not wait for that any more, whether we have begun with it or not. */
static void cancel(struct client *cl, uint64_t id)
{
	struct open_request *o = find_open(cl, id);

	if (o)
		o->cancelled = true;
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
		free(k);
	}
}

/* One record from the ring into the client's queue.  -EAGAIN: none; anything else: drop the client. */
static int pull(struct client *cl)
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
	k = new_kept(type, n);
	if (!k)
		return -ENOMEM;
	wslx_portal_copy_in(k->data, at, n);
	memcpy(&h, k->data, sizeof(h));
	r = wslx_portal_received(cl->c, before, 0);
	if (r == 0 && type == PORTAL_RPC_REQUEST) {
		queue_add(&cl->in, k);
		return 0;
	}
	free(k);
	if (r == 0)
		cancel(cl, h.id);
	return r;
}

/* Sends what waits for room.  0 also if there still is none. */
static int push(struct client *cl)
{
	while (cl->out.first) {
		int r = portal_send(cl->c, cl->out.first->type, cl->out.first->data, cl->out.first->size, 0);

		if (r == -EAGAIN)
			return 0;
		if (r < 0)
			return r;
		free(queue_take(&cl->out));
	}
	return 0;
}

static bool push_all(portal_rpc_server *s)
{
	bool left = false;

	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct client *cl = &s->clients[i];

		if (!cl->c || !cl->out.first)
			continue;
		if (push(cl) < 0)
			drop(s, cl);
		else
			left |= cl->out.first != NULL;
	}
	return left;
}

/* Hands out the first of the client's queue. */
static int hand_out(portal_rpc_server *s, struct client *cl, struct portal_rpc_request *ret)
{
	struct kept *k = queue_take(&cl->in);
	struct portal_rpc_header h;
	unsigned i = 0;

	memcpy(&h, k->data, sizeof(h));
	while (i < MAX_OPEN && cl->open[i].used)
		i++;
	if (i == MAX_OPEN || find_open(cl, h.id)) {
		free(k);
		return -EPROTO;
	}
	cl->open[i] = (struct open_request) { .id = h.id, .deadline = -1, .used = true };
	if (h.budget_ns && h.budget_ns <= INT64_MAX)
		cl->open[i].deadline = wslx_portal_deadline((int64_t)h.budget_ns);
	*ret = (struct portal_rpc_request) {
		.client = cl->serial,
		.id = h.id,
		.method = h.method,
		.peer = portal_chan_peer(cl->c),
		.budget_ns = cl->open[i].deadline < 0 ? PORTAL_FOREVER : (int64_t)h.budget_ns,
		.in = { k->data + sizeof(h), k->size - sizeof(h), h.bulk, h.bulk_size },
	};
	free(s->current);
	s->current = k;
	return 0;
}

static struct client *with_request(portal_rpc_server *s)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (s->clients[i].c && s->clients[i].in.first)
			return &s->clients[i];
	return NULL;
}

int portal_rpc_next(portal_rpc_server *s, struct portal_rpc_request *ret, int64_t timeout_ns)
{
	int64_t deadline = timeout_ns > 0 ? wslx_portal_deadline(timeout_ns) : timeout_ns;

	for (;;) {
		struct client *cl = with_request(s);
		portal_chan *c = NULL;
		bool waits;
		int64_t left;
		int r;

		if (cl) {
			if (hand_out(s, cl, ret) == 0)
				return 0;
			drop(s, cl);
			continue;
		}
		waits = push_all(s);
		left = wslx_portal_left(deadline);
		if (waits && (left < 0 || left > RETRY_NS))
			left = RETRY_NS;
		r = portal_fanin_wait(s->f, s->l, left, &c);
		if (r == -ETIMEDOUT && waits && wslx_portal_left(deadline))
			continue;
		if (r < 0)
			return r == -EAGAIN && timeout_ns ? -ETIMEDOUT : r;
		if (!c) {
			accept_all(s);
			continue;
		}
		cl = &s->clients[c->serial];
		r = pull(cl);
		if (r < 0 && r != -EAGAIN)
			drop(s, cl);
	}
}

int portal_rpc_reply(portal_rpc_server *s, const struct portal_rpc_request *req, int status,
		     const struct portal_bytes *out)
{
	struct portal_rpc_header h = { .id = req->id, .method = req->method, .status = status };
	struct client *cl = client_of(s, req->client);
	struct open_request *o = cl ? find_open(cl, req->id) : NULL;
	size_t n = out ? out->size : 0;
	struct kept *k;
	bool cancelled;

	if (!o)
		return 0;
	cancelled = o->cancelled;
	o->used = false;
	if (cancelled)
		return 0;
	if (out) {
		h.bulk = out->bulk;
		h.bulk_size = out->bulk_size;
	}
	if (!cl->out.first) {
		void *room;
		int r = portal_reserve(cl->c, sizeof(h) + n, &room, 0);

		if (r == 0) {
			wslx_portal_copy_out(room, &h, sizeof(h));
			if (n)
				wslx_portal_copy_out((uint8_t *)room + sizeof(h), out->data, n);
			r = portal_commit(cl->c, PORTAL_RPC_RESPONSE, sizeof(h) + n);
			(void)portal_flush(cl->c);
			return r;
		}
		if (r == -EMSGSIZE)
			return r;
		if (r != -EAGAIN) {
			drop(s, cl);
			return 0;
		}
	}
	k = cl->out.n < MAX_KEPT ? new_kept(PORTAL_RPC_RESPONSE, sizeof(h) + n) : NULL;
	if (!k) {
		drop(s, cl);
		return 0;
	}
	memcpy(k->data, &h, sizeof(h));
	if (n)
		memcpy(k->data + sizeof(h), out->data, n);
	queue_add(&cl->out, k);
	return 0;
}

int portal_rpc_cancelled(portal_rpc_server *s, const struct portal_rpc_request *req)
{
	struct client *cl = client_of(s, req->client);
	struct open_request *o;
	int r = 0;

	while (cl && cl->in.n < MAX_KEPT && r == 0)
		r = pull(cl);
	if (cl && r < 0 && r != -EAGAIN)
		drop(s, cl);
	cl = client_of(s, req->client);
	o = cl ? find_open(cl, req->id) : NULL;
	return !o || o->cancelled || (o->deadline > 0 && wslx_portal_left(o->deadline) == 0);
}
