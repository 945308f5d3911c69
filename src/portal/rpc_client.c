/*
 * RPC, the caller.
 *
 * Theory of operation.  A call has a slot; its id is the slot and a count that
 * never comes twice, so an answer that is late, doubled or made up finds
 * nobody.  Whoever waits for one answer puts others that come in between into
 * private memory of their slots.
 *
 * Trust boundary: an answer's header is copied and its length is the record's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "portal/atomic.h"
#include "portal/internal.h"

#define SLOTS 128u

struct call {
	uint64_t id; /* 0: free */
	int64_t deadline;
	bool done, cancelled;
	struct portal_rpc_header answer;
	uint8_t *data;
	size_t size;
};

struct portal_rpc {
	portal_chan *c;
	uint64_t count;
	struct call calls[SLOTS];
	/* Cancelled, and the ring was full: the server is told before it gets another call, so these are never more
	 * than there are slots. */
	uint64_t owed[SLOTS];
	unsigned n_owed;
};

int portal_rpc_who(const portal_rpc *r, struct portal_who *ret)
{
	return portal_chan_who(r->c, ret);
}

int portal_rpc_connect(portal *p, const char *service, int64_t timeout_ns, portal_rpc **ret)
{
	portal_rpc *r = calloc(1, sizeof(*r));
	int e;

	if (!r)
		return -ENOMEM;
	e = portal_connect(p, service, 0, timeout_ns, &r->c);
	if (e == 0 && r->c->kind != PORTAL_RECORDS) {
		portal_chan_free(r->c);
		e = -EINVAL;
	}
	if (e < 0) {
		free(r);
		return e;
	}
	*ret = r;
	return 0;
}

static void end_call(struct call *c)
{
	free(c->data);
	*c = (struct call) { 0 };
}

void portal_rpc_free(portal_rpc *r)
{
	if (!r)
		return;
	for (unsigned i = 0; i < SLOTS; i++)
		end_call(&r->calls[i]);
	portal_chan_free(r->c);
	free(r);
}

static struct call *call_of(portal_rpc *r, uint64_t id)
{
	struct call *c = &r->calls[id % SLOTS];

	return id && c->id == id ? c : NULL;
}

static int64_t left_of(int64_t deadline)
{
	return deadline < 0 ? PORTAL_FOREVER : wslx_portal_left(deadline);
}

/* Room for a record.  What of its budget is spent with waiting, the server need not think it has. */
static int reserve(portal_rpc *r, struct portal_rpc_header *h, size_t n, int64_t deadline, void **ret)
{
	int e = portal_reserve(r->c, sizeof(*h) + n, ret, 0);
	int64_t left;

	if (e != -EAGAIN || !deadline)
		return e;
	left = left_of(deadline);
	e = left ? portal_reserve(r->c, sizeof(*h) + n, ret, left) : -ETIMEDOUT;
	if (e == 0 && h->budget_ns) {
		left = left_of(deadline);
		h->budget_ns = left ? (uint64_t)left : 1;
	}
	return e;
}

static int put(portal_rpc *r, uint32_t type, struct portal_rpc_header *h, const struct portal_bytes *in,
	       int64_t deadline)
{
	size_t n = in ? in->size : 0;
	uint8_t *at;
	void *room;
	int e = reserve(r, h, n, deadline, &room);

	if (e < 0)
		return e;
	at = room;
	wslx_portal_copy_out(at, h, sizeof(*h));
	if (n)
		wslx_portal_copy_out(at + sizeof(*h), in->data, n);
	e = portal_commit(r->c, type, sizeof(*h) + n);
	(void)portal_flush(r->c);
	return e;
}

/* Tells the server what it was not told yet. */
static int pay(portal_rpc *r, int64_t deadline)
{
	while (r->n_owed) {
		struct portal_rpc_header h = { .id = r->owed[r->n_owed - 1] };
		int e = put(r, PORTAL_RPC_CANCEL, &h, NULL, deadline);

		if (e < 0)
			return e;
		r->n_owed--;
	}
	return 0;
}

/* The same before a request.  Nor is what that took the server's to spend. */
static int pay_first(portal_rpc *r, struct portal_rpc_header *h, int64_t deadline)
{
	int64_t left;
	int e;

	if (!r->n_owed)
		return 0;
	e = pay(r, deadline);
	if (e < 0 || !h->budget_ns)
		return e;
	left = left_of(deadline);
	h->budget_ns = (uint64_t)left;
	return left ? 0 : -ETIMEDOUT;
}

int portal_rpc_start(portal_rpc *r, uint32_t method, const struct portal_bytes *in, int64_t timeout_ns,
		     uint64_t *ret_id)
{
	struct portal_rpc_header h = { .method = method, .budget_ns = timeout_ns > 0 ? (uint64_t)timeout_ns : 0 };
	struct call *c;
	unsigned tries = 0;
	int e;

	do
		c = &r->calls[++r->count % SLOTS];
	while (c->id && ++tries < SLOTS);
	if (c->id)
		return -EBUSY;
	h.id = r->count;
	if (in) {
		h.bulk = in->bulk;
		h.bulk_size = in->bulk_size;
	}
	*c = (struct call) { .id = h.id, .deadline = wslx_portal_deadline(timeout_ns) };
	e = pay_first(r, &h, c->deadline);
	if (e == 0)
		e = put(r, PORTAL_RPC_REQUEST, &h, in, c->deadline);
	if (e < 0) {
		end_call(c);
		return e;
	}
	*ret_id = h.id;
	return 0;
}

/* Where an answer goes: the caller's buffer if it waits for this one and it is long enough, else private memory. */
static int keep(struct call *c, const struct portal_rpc_header *h, const uint8_t *data, size_t n, void *buf, size_t cap)
{
	c->answer = *h;
	c->size = n;
	if (!n)
		return 0;
	if (buf && n <= cap) {
		wslx_portal_copy_in(buf, data, n);
		return 0;
	}
	c->data = malloc(n);
	if (!c->data)
		return -ENOMEM;
	wslx_portal_copy_in(c->data, data, n);
	return 0;
}

/* The record's room is given back, or e says why not.  An answer that was the server's is one all the same: its record
 * comes once more, and finds nobody then. */
static void settle(struct call *c, int e)
{
	c->done = e != -EPIPE;
	if (c->done)
		return;
	free(c->data);
	c->data = NULL;
}

/* One record from the server. */
static int take(portal_rpc *r, const struct call *wanted, void *buf, size_t cap, int64_t timeout_ns)
{
	uint64_t before = r->c->rx.pos;
	struct portal_rpc_header h;
	const void *at;
	uint32_t type;
	size_t n;
	struct call *c;
	int e = portal_peek(r->c, &type, &at, &n, timeout_ns);

	if (e < 0)
		return e;
	if (type != PORTAL_RPC_RESPONSE || n < sizeof(h)) {
		e = wslx_portal_received(r->c, before, timeout_ns);
		return e < 0 ? e : -EPROTO;
	}
	wslx_portal_copy_in(&h, at, sizeof(h));
	c = call_of(r, h.id);
	if (!c || c->done || c->cancelled)
		return wslx_portal_received(r->c, before, timeout_ns);
	e = keep(c, &h, (const uint8_t *)at + sizeof(h), n - sizeof(h), c == wanted ? buf : NULL, cap);
	if (e < 0) {
		r->c->rx.pos = before;
		return e;
	}
	/* Who has what he wants does not wait until the region goes on. */
	e = wslx_portal_received(r->c, before, c == wanted ? 0 : timeout_ns);
	settle(c, e);
	return c == wanted && c->done ? 0 : e;
}

/* Whatever comes that is not its answer, it waits no longer than was said.  What was in the ring when time was over may
 * be the answer: a ring's length is looked at. */
static int await(portal_rpc *r, const struct call *c, void *buf, size_t cap)
{
	const struct wslx_portal_rxe *rx = &r->c->rx;
	uint64_t last = UINT64_MAX;
	int e = 0;

	while (!c->done && e == 0) {
		int64_t left = left_of(c->deadline);

		if (left == 0 && last == UINT64_MAX)
			last = rx->pos + rx->mask;
		e = rx->pos <= last ? take(r, c, buf, cap, left) : -EAGAIN;
	}
	return e == -EAGAIN ? -ETIMEDOUT : e;
}

int portal_rpc_finish(portal_rpc *r, uint64_t id, void *buf, size_t cap, struct portal_bytes *out, int *ret_status)
{
	struct call *c = call_of(r, id);
	int e;

	if (!c)
		return -ENOENT;
	if (!c->done && !c->cancelled)
		(void)pay(r, 0);
	e = c->cancelled ? -ECANCELED : await(r, c, buf, cap);
	/* The answer is here, or still in the ring. */
	if (e == -ENOMEM)
		return e;
	/* Whatever ends it here, the server does not count it any more. */
	if (e < 0)
		(void)portal_rpc_cancel(r, id);
	if (e == 0 && c->size > cap) {
		if (out)
			*out = (struct portal_bytes) { .size = c->size };
		return -EMSGSIZE;
	}
	if (e == 0) {
		if (c->data)
			memcpy(buf, c->data, c->size);
		if (out)
			*out = (struct portal_bytes) { buf, c->size, c->answer.bulk, c->answer.bulk_size };
		*ret_status = c->answer.status > 0 ? -EPROTO : c->answer.status;
	}
	end_call(c);
	return e;
}

int portal_rpc_cancel(portal_rpc *r, uint64_t id)
{
	struct call *c = call_of(r, id);
	int e;

	if (!c)
		return -ENOENT;
	if (c->cancelled)
		return 0;
	c->cancelled = true;
	if (c->done)
		return 0;
	r->owed[r->n_owed++] = id;
	e = pay(r, 0);
	return e == -EAGAIN ? 0 : e;
}

int portal_rpc_call(portal_rpc *r, uint32_t method, const struct portal_bytes *in, void *buf, size_t cap,
		    struct portal_bytes *out, int64_t timeout_ns)
{
	uint64_t id = 0;
	struct call *c;
	int status = 0;
	int e = portal_rpc_start(r, method, in, timeout_ns, &id);

	if (e == 0)
		e = portal_rpc_finish(r, id, buf, cap, out, &status);
	/* Nobody else could ask for the answer again. */
	c = call_of(r, id);
	if (c) {
		(void)portal_rpc_cancel(r, id);
		end_call(c);
	}
	return e < 0 ? e : status;
}
