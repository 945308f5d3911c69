/*
 * The least of a virtio driver, for fuzz targets: rings at fixed addresses of a
 * small guest memory, descriptors reused in turn, nothing reclaimed by hand.
 * Also the reader that cuts a fuzzer's input into numbers.
 */
#ifndef WSLX_FUZZ_MINI_DRIVER_H
#define WSLX_FUZZ_MINI_DRIVER_H

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/dev.h"

struct input {
	const uint8_t *p;
	size_t n;
};

static inline uint8_t in_u8(struct input *in)
{
	if (!in->n)
		return 0;
	in->n--;
	return *in->p++;
}

static inline uint16_t in_u16(struct input *in)
{
	uint8_t lo = in_u8(in);

	return (uint16_t)(lo | in_u8(in) << 8);
}

static inline uint32_t in_u32(struct input *in)
{
	uint16_t lo = in_u16(in);

	return lo | (uint32_t)in_u16(in) << 16;
}

static inline size_t in_bytes(struct input *in, void *buf, size_t n)
{
	if (n > in->n)
		n = in->n;
	memcpy(buf, in->p, n);
	in->p += n;
	in->n -= n;
	return n;
}

#define MINI_MEM (1u << 20)
#define MINI_RING 16u
#define MINI_QUEUES 4u
/* Rings in the first 64 KiB, 16 KiB a queue; the rest is for buffers. */
#define MINI_DESC(q) (0x4000u * (q))
#define MINI_AVAIL(q) (MINI_DESC(q) + 0x1000u)
#define MINI_USED(q) (MINI_DESC(q) + 0x2000u)
#define MINI_BUFFERS 0x10000u

struct mini {
	struct wslx_gm *gm;
	struct wslx_vdev *d;
	uint8_t *mem;
	uint16_t avail[MINI_QUEUES];
	/* Which chains the device holds, and how much it may write into them.
	 * Nothing of it means anything once the rings hold garbage. */
	bool garbage;
	uint16_t seen[MINI_QUEUES]; /* used elements checked */
	bool held[MINI_QUEUES][MINI_RING];
	uint32_t room[MINI_QUEUES][MINI_RING];
};

static void mini_interrupt(void *transport, unsigned q)
{
}

static void mini_nothing(void *transport)
{
}

static const struct wslx_transport_ops mini_transport = {
	.interrupt = mini_interrupt,
	.config_changed = mini_nothing,
	.needs_reset = mini_nothing,
};

static inline void mini_check(bool ok)
{
	if (!ok)
		abort();
}

static inline void mini_start(struct mini *m, unsigned n_queues, uint64_t features)
{
	m->d->acked = (m->d->ops->features(m->d) & features) | WSLX_VIRTIO_F_VERSION_1;
	memset(m->mem, 0, MINI_BUFFERS);
	m->garbage = false;
	for (unsigned q = 0; q < n_queues; q++) {
		m->avail[q] = m->seen[q] = 0;
		memset(m->held[q], 0, sizeof(m->held[q]));
		mini_check(wslx_vq_enable(&m->d->vq[q], m->gm, MINI_RING, wslx_gpa(MINI_DESC(q)),
					  wslx_gpa(MINI_AVAIL(q)), wslx_gpa(MINI_USED(q)),
					  m->d->acked & WSLX_VIRTIO_F_EVENT_IDX) == 0);
	}
	mini_check(m->d->ops->activate(m->d) == 0);
	m->d->active = true;
}

static inline void mini_stop(struct mini *m)
{
	m->d->ops->reset(m->d);
	m->d->active = m->d->broken = false;
	for (unsigned q = 0; q < MINI_QUEUES; q++)
		wslx_vq_disable(&m->d->vq[q]);
}

static inline void mini_init(struct mini *m, struct wslx_vdev *d)
{
	void *p;

	memset(m, 0, sizeof(*m));
	mini_check(wslx_gm_new(WSLX_GM_PRIVATE, MINI_MEM, &m->gm) == 0);
	mini_check(wslx_gm_slice(m->gm, wslx_gpa(0), MINI_MEM, &p) == 0);
	m->mem = p;
	m->d = d;
	d->gm = m->gm;
	d->transport_ops = &mini_transport;
	d->transport = m;
}

static inline void mini_fini(struct mini *m)
{
	mini_stop(m);
	m->d->ops->free(m->d);
	wslx_gm_free(m->gm);
}

static inline void mini_desc(struct mini *m, unsigned q, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags,
			     uint16_t next)
{
	uint8_t *p = m->mem + MINI_DESC(q) + 16 * (i % MINI_RING);

	wslx_put_le64(p, gpa);
	wslx_put_le32(p + 8, len);
	wslx_put_le16(p + 12, flags);
	wslx_put_le16(p + 14, next);
}

static inline void mini_publish(struct mini *m, unsigned q, uint16_t head)
{
	wslx_put_le16(m->mem + MINI_AVAIL(q) + 4 + 2 * (m->avail[q] % MINI_RING), head);
	wslx_put_le16(m->mem + MINI_AVAIL(q) + 2, ++m->avail[q]);
}

/* The device gave back only what it held, once, and did not write more than it could. */
static inline void mini_check_used(struct mini *m, unsigned q)
{
	uint16_t used = wslx_get_le16(m->mem + MINI_USED(q) + 2);

	while (!m->garbage && m->seen[q] != used) {
		const uint8_t *e = m->mem + MINI_USED(q) + 4 + 8 * (m->seen[q]++ % MINI_RING);
		uint32_t head = wslx_get_le32(e);

		mini_check(head < MINI_RING && m->held[q][head]);
		mini_check(wslx_get_le32(e + 4) <= m->room[q][head]);
		m->held[q][head] = false;
	}
}

/* One or two buffers of the same direction; false when the ring is full. */
static inline bool mini_add(struct mini *m, unsigned q, uint64_t gpa, uint32_t len, uint32_t len2, bool write)
{
	uint16_t used = wslx_get_le16(m->mem + MINI_USED(q) + 2);
	uint16_t i = (uint16_t)(2 * m->avail[q] % MINI_RING), w = write ? 2 : 0;

	mini_check_used(m, q);
	if ((uint16_t)(m->avail[q] - used) >= MINI_RING / 2 || (m->held[q][i] && !m->garbage))
		return false;
	m->held[q][i] = true;
	m->room[q][i] = write ? len + len2 : 0;
	mini_desc(m, q, i, gpa, len, (uint16_t)(w | (len2 ? 1 : 0)), (uint16_t)(i + 1));
	if (len2)
		mini_desc(m, q, i + 1u, gpa + len, len2, w, 0);
	mini_publish(m, q, i);
	return true;
}

/* A descriptor, an avail entry or an index out of the input. */
static inline void mini_garbage(struct mini *m, unsigned q, struct input *in)
{
	uint8_t what = in_u8(in);

	m->garbage = true;
	if (what & 1) {
		uint64_t gpa = in_u32(in);
		uint32_t len = in_u32(in);
		uint16_t flags = in_u16(in);

		mini_desc(m, q, what >> 1, gpa, len, flags, in_u16(in) % (2 * MINI_RING));
	}
	if (what & 2)
		mini_publish(m, q, in_u8(in) % (MINI_RING + 2));
	if ((what & 0xfc) == 0xfc)
		wslx_put_le16(m->mem + MINI_AVAIL(q) + 2, in_u16(in));
}

#endif
