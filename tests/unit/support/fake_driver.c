#include "fake_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define CHECK(cond)                                                                                                    \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: fake driver: %s\n", __FILE__, __LINE__, #cond);                        \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

static void interrupt(void *transport, unsigned q)
{
	((struct fake_driver *)transport)->q[q].interrupts++;
}

static void config_changed(void *transport)
{
	((struct fake_driver *)transport)->config_changes++;
}

static void needs_reset(void *transport)
{
	((struct fake_driver *)transport)->needs_reset++;
}

static const struct wslx_transport_ops ops = {
	.interrupt = interrupt,
	.config_changed = config_changed,
	.needs_reset = needs_reset,
};

void fake_driver_init(struct fake_driver *f, struct wslx_vdev *d, uint64_t mem_size)
{
	memset(f, 0, sizeof(*f));
	CHECK(wslx_gm_new(WSLX_GM_PRIVATE, mem_size, &f->gm) == 0);
	f->mem_size = mem_size;
	f->next = 4096; /* address 0 stays unused */
	f->d = d;
	if (d) {
		d->gm = f->gm;
		d->transport_ops = &ops;
		d->transport = f;
	}
}

void fake_driver_free(struct fake_driver *f)
{
	if (f->d) {
		fake_driver_stop(f);
		f->d->gm = NULL;
		f->d->transport_ops = NULL;
	}
	wslx_gm_free(f->gm);
	f->gm = NULL;
}

void *fake_driver_ptr(struct fake_driver *f, uint64_t gpa, uint64_t len)
{
	void *p;

	CHECK(wslx_gm_slice(f->gm, wslx_gpa(gpa), len, &p) == 0);
	return p;
}

uint64_t fake_driver_alloc(struct fake_driver *f, uint64_t size, uint64_t align)
{
	uint64_t gpa = (f->next + align - 1) & ~(align - 1);

	CHECK(size && gpa <= f->mem_size && size <= f->mem_size - gpa);
	f->next = gpa + size;
	memset(fake_driver_ptr(f, gpa, size), 0, size);
	return gpa;
}

void fake_driver_negotiate(struct fake_driver *f, uint64_t wanted)
{
	f->d->acked = (f->d->ops->features(f->d) & wanted) | WSLX_VIRTIO_F_VERSION_1;
}

void fake_driver_queue(struct fake_driver *f, unsigned q, uint16_t size)
{
	struct fake_queue *fq = &f->q[q];

	memset(fq, 0, sizeof(*fq));
	fq->size = size;
	fq->desc = fake_driver_alloc(f, (uint64_t)16 * size, 16);
	fq->avail = fake_driver_alloc(f, 6 + (uint64_t)2 * size, 2);
	fq->used = fake_driver_alloc(f, 6 + (uint64_t)8 * size, 4);
	for (unsigned i = 0; i < size; i++)
		fq->free[i] = (uint16_t)(size - 1 - i);
	fq->n_free = size;
	if (f->d)
		CHECK(wslx_vq_enable(&f->d->vq[q], f->gm, size, wslx_gpa(fq->desc), wslx_gpa(fq->avail),
				     wslx_gpa(fq->used), f->d->acked & WSLX_VIRTIO_F_EVENT_IDX) == 0);
}

void fake_driver_start(struct fake_driver *f)
{
	CHECK(f->d->ops->activate(f->d) == 0);
	f->d->active = true;
}

void fake_driver_stop(struct fake_driver *f)
{
	f->d->ops->reset(f->d);
	f->d->active = false;
	f->d->broken = false;
	f->d->acked = 0;
	for (unsigned i = 0; i < WSLX_VDEV_MAX_QUEUES; i++)
		wslx_vq_disable(&f->d->vq[i]);
}

uint64_t fake_driver_config(struct fake_driver *f, uint32_t off, uint32_t len)
{
	uint8_t raw[8] = { 0 };

	CHECK(len <= 8 && off + len <= f->d->config_len);
	f->d->ops->config_read(f->d, off, raw, len);
	return wslx_get_le64(raw);
}

static void put_desc(void *table, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t *p = (uint8_t *)table + (size_t)16 * i;

	wslx_put_le64(p, addr);
	wslx_put_le32(p + 8, len);
	wslx_put_le16(p + 12, flags);
	wslx_put_le16(p + 14, next);
}

void fake_driver_desc(struct fake_driver *f, unsigned q, uint16_t i, uint64_t addr, uint32_t len, uint16_t flags,
		      uint16_t next)
{
	CHECK(i < f->q[q].size);
	put_desc(fake_driver_ptr(f, f->q[q].desc, (uint64_t)16 * f->q[q].size), i, addr, len, flags, next);
}

void fake_driver_set_avail_idx(struct fake_driver *f, unsigned q, uint16_t idx)
{
	f->q[q].avail_idx = idx;
	__atomic_store_n((uint16_t *)fake_driver_ptr(f, f->q[q].avail + 2, 2), htole16(idx), __ATOMIC_RELEASE);
}

void fake_driver_publish(struct fake_driver *f, unsigned q, uint16_t head)
{
	struct fake_queue *fq = &f->q[q];

	wslx_put_le16(fake_driver_ptr(f, fq->avail + 4 + (uint64_t)2 * (fq->avail_idx % fq->size), 2), head);
	fake_driver_set_avail_idx(f, q, (uint16_t)(fq->avail_idx + 1));
}

int fake_driver_add(struct fake_driver *f, unsigned q, const struct fake_buf *bufs, unsigned n, bool indirect)
{
	struct fake_queue *fq = &f->q[q];
	uint16_t idx[WSLX_VQ_MAX_SIZE];
	void *table;

	CHECK(n >= 1 && n <= WSLX_VQ_MAX_SIZE);
	if (fq->n_free < (indirect ? 1 : n))
		return -1;
	if (indirect) {
		uint64_t gpa = fake_driver_alloc(f, (uint64_t)16 * n, 16);

		idx[0] = fq->free[--fq->n_free];
		fake_driver_desc(f, q, idx[0], gpa, 16 * n, FAKE_DESC_F_INDIRECT, 0);
		table = fake_driver_ptr(f, gpa, (uint64_t)16 * n);
		for (unsigned i = 0; i < n; i++)
			put_desc(table, i, bufs[i].gpa, bufs[i].len,
				 (uint16_t)((bufs[i].write ? FAKE_DESC_F_WRITE : 0) |
					    (i + 1 < n ? FAKE_DESC_F_NEXT : 0)),
				 (uint16_t)(i + 1));
	} else {
		for (unsigned i = 0; i < n; i++)
			idx[i] = fq->free[--fq->n_free];
		for (unsigned i = 0; i < n; i++)
			fake_driver_desc(f, q, idx[i], bufs[i].gpa, bufs[i].len,
					 (uint16_t)((bufs[i].write ? FAKE_DESC_F_WRITE : 0) |
						    (i + 1 < n ? FAKE_DESC_F_NEXT : 0)),
					 i + 1 < n ? idx[i + 1] : 0);
	}
	fake_driver_publish(f, q, idx[0]);
	return idx[0];
}

void fake_driver_kick(struct fake_driver *f, unsigned q)
{
	f->d->ops->kick(f->d, q);
}

/* Gives the descriptors of a chain built by fake_driver_add back. */
static void free_chain(struct fake_driver *f, unsigned q, uint32_t head)
{
	struct fake_queue *fq = &f->q[q];
	uint32_t i = head;

	for (unsigned n = 0; n < fq->size; n++) {
		uint8_t *p = fake_driver_ptr(f, fq->desc + (uint64_t)16 * i, 16);
		uint16_t flags = wslx_get_le16(p + 12);

		CHECK(i < fq->size && fq->n_free < fq->size);
		fq->free[fq->n_free++] = (uint16_t)i;
		if (!(flags & FAKE_DESC_F_NEXT))
			return;
		i = wslx_get_le16(p + 14);
	}
}

bool fake_driver_used(struct fake_driver *f, unsigned q, uint16_t *head, uint32_t *len)
{
	struct fake_queue *fq = &f->q[q];
	uint16_t idx = le16toh(__atomic_load_n((uint16_t *)fake_driver_ptr(f, fq->used + 2, 2), __ATOMIC_ACQUIRE));
	uint8_t *p;

	if (idx == fq->last_used)
		return false;
	p = fake_driver_ptr(f, fq->used + 4 + (uint64_t)8 * (fq->last_used % fq->size), 8);
	*head = (uint16_t)wslx_get_le32(p);
	*len = wslx_get_le32(p + 4);
	fq->last_used++;
	free_chain(f, q, *head);
	return true;
}

bool fake_driver_wait(struct fake_driver *f, unsigned q, uint16_t *head, uint32_t *len)
{
	int64_t end = wslx_now_ms() + 10000;

	for (;;) {
		if (fake_driver_used(f, q, head, len))
			return true;
		if (wslx_now_ms() > end)
			return false;
		CHECK(wslx_loop_once(f->d->loop, 100) == 0);
	}
}

void fake_driver_set_used_event(struct fake_driver *f, unsigned q, uint16_t idx)
{
	wslx_put_le16(fake_driver_ptr(f, f->q[q].avail + 4 + (uint64_t)2 * f->q[q].size, 2), idx);
}

uint16_t fake_driver_avail_event(struct fake_driver *f, unsigned q)
{
	return wslx_get_le16(fake_driver_ptr(f, f->q[q].used + 4 + (uint64_t)8 * f->q[q].size, 2));
}

void fake_driver_set_avail_flags(struct fake_driver *f, unsigned q, uint16_t flags)
{
	wslx_put_le16(fake_driver_ptr(f, f->q[q].avail, 2), flags);
}

uint16_t fake_driver_used_flags(struct fake_driver *f, unsigned q)
{
	return wslx_get_le16(fake_driver_ptr(f, f->q[q].used, 2));
}
