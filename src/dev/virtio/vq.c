/*
 * Split virtqueues, device side (virtio 1.2, section 2.7).
 *
 * The driver runs on other CPUs at the same time, so ring words are read and
 * written with atomics, once each:
 *   - the avail index is an acquire load: what it covers was written before;
 *   - the used index is a release store: its element was written before;
 *   - between publishing our index and looking at what the driver wants to
 *     hear of (and between asking for kicks and looking for new buffers) stands
 *     a full fence, because each side stores one word and loads the other's
 *     (2.7.7.2, 2.7.10).
 */
#include "dev/virtio/vq.h"

#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "dev/dev.h"

#define DESC_SIZE 16u
#define DESC_F_NEXT 1u
#define DESC_F_WRITE 2u
#define DESC_F_INDIRECT 4u
#define AVAIL_F_NO_INTERRUPT 1u
#define USED_F_NO_NOTIFY 1u

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

static uint16_t load16(const void *p, int order)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, order));
}

static void store16(void *p, uint16_t v, int order)
{
	__atomic_store_n((uint16_t *)p, htole16(v), order);
}

static void *at(void *base, size_t off)
{
	return (char *)base + off;
}

/* Layouts of 2.7.6 and 2.7.8: flags, idx, ring[size], event. */
static void *avail_ring(const struct wslx_vq *vq, uint16_t i)
{
	return at(vq->avail_hva, 4 + (size_t)2 * (i & (vq->size - 1u)));
}

static void *used_event(const struct wslx_vq *vq)
{
	return at(vq->avail_hva, 4 + (size_t)2 * vq->size);
}

static void *used_ring(const struct wslx_vq *vq, uint16_t i)
{
	return at(vq->used_hva, 4 + (size_t)8 * (i & (vq->size - 1u)));
}

static void *avail_event(const struct wslx_vq *vq)
{
	return at(vq->used_hva, 4 + (size_t)8 * vq->size);
}

int wslx_vq_enable(struct wslx_vq *vq, const struct wslx_gm *gm, uint16_t size, struct wslx_gpa desc,
		   struct wslx_gpa avail, struct wslx_gpa used, bool event_idx)
{
	struct wslx_vq q = { .size = size, .desc = desc, .avail = avail, .used = used, .gm = gm };
	int r;

	if (!size || size > WSLX_VQ_MAX_SIZE || (size & (size - 1)))
		return -EINVAL;
	if (desc.v % 16 || avail.v % 2 || used.v % 4)
		return -EINVAL;
	r = wslx_gm_slice(gm, desc, (uint64_t)DESC_SIZE * size, &q.desc_hva);
	if (r == 0)
		r = wslx_gm_slice(gm, avail, 6 + (uint64_t)2 * size, &q.avail_hva);
	if (r == 0)
		r = wslx_gm_slice(gm, used, 6 + (uint64_t)8 * size, &q.used_hva);
	if (r < 0)
		return r;
	/* Atomics need host alignment too; an imported region could lack it. */
	if ((uintptr_t)q.desc_hva % 16 || (uintptr_t)q.avail_hva % 2 || (uintptr_t)q.used_hva % 4)
		return -EINVAL;
	q.enabled = true;
	q.event_idx = event_idx;
	*vq = q;
	return 0;
}

/* The indices stay: a vhost-user front end asks for them after the stop. */
void wslx_vq_disable(struct wslx_vq *vq)
{
	vq->enabled = false;
}

static void load_desc(const void *p, struct desc *ret)
{
	const uint64_t *w = p;
	uint64_t lo = le64toh(__atomic_load_n(&w[0], __ATOMIC_RELAXED));
	uint64_t hi = le64toh(__atomic_load_n(&w[1], __ATOMIC_RELAXED));

	ret->addr = lo;
	ret->len = (uint32_t)hi;
	ret->flags = (uint16_t)(hi >> 32);
	ret->next = (uint16_t)(hi >> 48);
}

/* One buffer to the end of the chain.  Empty buffers carry nothing and are left out. */
static int add_buffer(const struct wslx_vq *vq, struct wslx_chain *c, const struct desc *d)
{
	bool writable = d->flags & DESC_F_WRITE;
	unsigned n = c->n_out + c->n_in;
	void *p;
	int r;

	/* 2.7.4.2: the driver places writable buffers after all readable ones. */
	if (!writable && c->n_in)
		return -EPROTO;
	if (!d->len)
		return 0;
	if (n == WSLX_VQ_MAX_CHAIN)
		return -EPROTO;
	r = wslx_gm_slice(vq->gm, wslx_gpa(d->addr), d->len, &p);
	if (r < 0)
		return r;
	c->iov[n] = (struct iovec) { .iov_base = p, .iov_len = d->len };
	if (writable) {
		c->n_in++;
		c->in_len += d->len;
	} else {
		c->n_out++;
		c->out_len += d->len;
	}
	return 0;
}

/* Walks the table that an indirect descriptor points to (2.7.5.3).  *steps
 * bounds the walk whatever the links say. */
static int walk_indirect(const struct wslx_vq *vq, struct wslx_chain *c, const struct desc *ind, unsigned *steps)
{
	uint32_t n = ind->len / DESC_SIZE;
	uint32_t i = 0;

	if (!n || ind->len % DESC_SIZE || (ind->flags & DESC_F_NEXT))
		return -EPROTO;
	for (;;) {
		uint8_t raw[DESC_SIZE] __attribute__((aligned(8)));
		struct desc d;
		int r;

		if ((*steps)++ == WSLX_VQ_MAX_CHAIN)
			return -EPROTO;
		if (ind->addr > UINT64_MAX - (uint64_t)i * DESC_SIZE)
			return -EFAULT;
		r = wslx_gm_read(vq->gm, wslx_gpa(ind->addr + (uint64_t)i * DESC_SIZE), raw, sizeof(raw));
		if (r < 0)
			return r;
		load_desc(raw, &d);
		if (d.flags & DESC_F_INDIRECT)
			return -EPROTO;
		r = add_buffer(vq, c, &d);
		if (r < 0)
			return r;
		if (!(d.flags & DESC_F_NEXT))
			return 0;
		if (d.next >= n)
			return -EPROTO;
		i = d.next;
	}
}

static int walk(const struct wslx_vq *vq, struct wslx_chain *c)
{
	uint16_t i = c->head;
	unsigned steps = 0;

	for (;;) {
		struct desc d;
		int r;

		if (steps++ == WSLX_VQ_MAX_CHAIN)
			return -EPROTO;
		load_desc(at(vq->desc_hva, (size_t)DESC_SIZE * i), &d);
		/* An indirect descriptor ends the chain; its own WRITE flag
		 * means nothing (2.7.5.3.2). */
		if (d.flags & DESC_F_INDIRECT) {
			steps--; /* it is not a buffer itself */
			return walk_indirect(vq, c, &d, &steps);
		}
		r = add_buffer(vq, c, &d);
		if (r < 0)
			return r;
		if (!(d.flags & DESC_F_NEXT))
			return 0;
		if (d.next >= vq->size)
			return -EPROTO;
		i = d.next;
	}
}

int wslx_vq_rewalk(struct wslx_vq *vq, uint16_t head, struct wslx_chain *c)
{
	if (!vq->enabled || head >= vq->size)
		return -EPROTO;
	c->head = head;
	c->n_out = c->n_in = 0;
	c->out_len = c->in_len = 0;
	return walk(vq, c);
}

int wslx_vq_pop(struct wslx_vq *vq, struct wslx_chain *c)
{
	uint16_t idx, head;
	int r;

	if (!vq->enabled)
		return 0;
	idx = load16(at(vq->avail_hva, 2), __ATOMIC_ACQUIRE);
	if (idx == vq->last_avail)
		return 0;
	if ((uint16_t)(idx - vq->last_avail) > vq->size)
		return -EPROTO;
	head = load16(avail_ring(vq, vq->last_avail), __ATOMIC_RELAXED);
	r = wslx_vq_rewalk(vq, head, c);
	if (r < 0)
		return r;
	vq->last_avail++;
	return 1;
}

void wslx_vq_unpop(struct wslx_vq *vq)
{
	vq->last_avail--;
}

void wslx_vq_push(struct wslx_vq *vq, uint16_t head, uint32_t written)
{
	uint64_t *elem;

	if (!vq->enabled)
		return;
	/* id and len of 2.7.8 lie on 4-byte alignment only. */
	elem = used_ring(vq, vq->used_idx);
	__atomic_store_n((uint32_t *)(void *)elem, htole32(head), __ATOMIC_RELAXED);
	__atomic_store_n((uint32_t *)(void *)elem + 1, htole32(written), __ATOMIC_RELAXED);
	vq->used_idx++;
	store16(at(vq->used_hva, 2), vq->used_idx, __ATOMIC_RELEASE);
}

void wslx_vq_push_many(struct wslx_vq *vq, const uint16_t *heads, const uint32_t *written, unsigned n)
{
	if (!vq->enabled || !n)
		return;
	for (unsigned i = 0; i < n; i++) {
		uint32_t *elem = used_ring(vq, (uint16_t)(vq->used_idx + i));

		__atomic_store_n(elem, htole32(heads[i]), __ATOMIC_RELAXED);
		__atomic_store_n(elem + 1, htole32(written[i]), __ATOMIC_RELAXED);
	}
	vq->used_idx = (uint16_t)(vq->used_idx + n);
	store16(at(vq->used_hva, 2), vq->used_idx, __ATOMIC_RELEASE);
}

bool wslx_vq_should_notify(struct wslx_vq *vq)
{
	uint16_t event, old = vq->signalled, new = vq->used_idx;
	bool valid = vq->signalled_valid;

	if (!vq->enabled || (valid && old == new))
		return false;
	atomic_thread_fence(memory_order_seq_cst);
	vq->signalled = new;
	vq->signalled_valid = true;
	if (!vq->event_idx)
		return !(load16(vq->avail_hva, __ATOMIC_RELAXED) & AVAIL_F_NO_INTERRUPT);
	event = load16(used_event(vq), __ATOMIC_RELAXED);
	/* Did used_idx pass event on its way from old to new? (2.7.10) */
	return !valid || (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

bool wslx_vq_enable_kick(struct wslx_vq *vq)
{
	if (!vq->enabled)
		return false;
	if (vq->event_idx)
		store16(avail_event(vq), vq->last_avail, __ATOMIC_RELAXED);
	else
		store16(vq->used_hva, 0, __ATOMIC_RELAXED);
	atomic_thread_fence(memory_order_seq_cst);
	return load16(at(vq->avail_hva, 2), __ATOMIC_ACQUIRE) != vq->last_avail;
}

void wslx_vq_disable_kick(struct wslx_vq *vq)
{
	/* With event indices, not moving avail_event is enough. */
	if (vq->enabled && !vq->event_idx)
		store16(vq->used_hva, USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}
