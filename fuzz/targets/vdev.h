/*
 * A hostile driver for any virtio device: the input is a program of steps that
 * write guest memory, build chains good and bad, kick, reset, pause.
 *
 * Queue q has its rings at 0x1000 * (q + 1), 16 entries.  Memory is 1 MiB.
 *
 * Besides memory errors it finds answers that the device does not owe: each
 * used element must be the head of a chain that was published and not answered
 * yet, and say no more bytes than the chain had room for.  (Not after the input
 * wrote rings or tables itself, or had the device write there: buffers of sound
 * chains lie between 0x40000 and 0x80000.)
 */
#ifndef WSLX_FUZZ_VDEV_H
#define WSLX_FUZZ_VDEV_H

#include <stdlib.h>

#include "base/bytes.h"
#include "base/log.h"
#include "dev/dev.h"
#include "input.h"

#define FZ_MEM ((uint64_t)1 << 20)
#define FZ_SIZE 16u
#define FZ_DESC(q) (0x1000u * ((uint64_t)(q) + 1))
#define FZ_AVAIL(q) (FZ_DESC(q) + 0x400)
#define FZ_USED(q) (FZ_DESC(q) + 0x800)
#define FZ_MAX_STEPS 200u

static struct wslx_gm *fz_gm;
static struct wslx_loop *fz_loop;
static uint8_t *fz_mem;
static bool fz_rings_spoilt;
static struct {
	uint16_t last_used;
	unsigned owed[FZ_SIZE]; /* by head */
	unsigned outstanding;
	bool rewritten; /* descriptors changed while the device could hold them */
} fz_queue[WSLX_VDEV_MAX_QUEUES];

static inline void fz_interrupt(void *transport, unsigned q)
{
}

static inline void fz_event(void *transport)
{
}

static const struct wslx_transport_ops fz_transport = {
	.interrupt = fz_interrupt,
	.config_changed = fz_event,
	.needs_reset = fz_event,
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	void *p;

	wslx_log_init("fuzz", 2, WSLX_LOG_ERROR);
	if (wslx_gm_new(WSLX_GM_PRIVATE, FZ_MEM, &fz_gm) < 0 || wslx_loop_new(&fz_loop) < 0 ||
	    wslx_gm_slice(fz_gm, wslx_gpa(0), FZ_MEM, &p) < 0)
		abort();
	fz_mem = p;
	return 0;
}

static inline void fz_stop(struct wslx_vdev *d)
{
	d->ops->reset(d);
	d->active = d->broken = false;
	for (unsigned q = 0; q < d->n_queues; q++)
		wslx_vq_disable(&d->vq[q]);
}

static inline void fz_start(struct wslx_vdev *d, uint64_t wanted, uint8_t queues)
{
	fz_stop(d);
	memset(fz_queue, 0, sizeof(fz_queue));
	fz_rings_spoilt = false;
	d->acked = (d->ops->features(d) & wanted) | WSLX_VIRTIO_F_VERSION_1;
	for (unsigned q = 0; q < d->n_queues; q++) {
		memset(fz_mem + FZ_AVAIL(q), 0, 0x800);
		if (queues >> (q % 8) & 1)
			continue;
		if (wslx_vq_enable(&d->vq[q], fz_gm, FZ_SIZE, wslx_gpa(FZ_DESC(q)), wslx_gpa(FZ_AVAIL(q)),
				   wslx_gpa(FZ_USED(q)), d->acked & WSLX_VIRTIO_F_EVENT_IDX) < 0)
			abort();
	}
	if (d->ops->activate(d) == 0)
		d->active = true;
}

static inline void fz_publish(unsigned q, uint16_t head)
{
	uint8_t *avail = fz_mem + FZ_AVAIL(q);
	uint16_t idx = wslx_get_le16(avail + 2);

	wslx_put_le16(avail + 4 + 2 * (idx % FZ_SIZE), head);
	wslx_put_le16(avail + 2, (uint16_t)(idx + 1));
	if (head < FZ_SIZE)
		fz_queue[q].owed[head]++;
	/* More than a ring holds: used elements overwrite each other unseen. */
	if (++fz_queue[q].outstanding > FZ_SIZE)
		fz_rings_spoilt = true;
}

/* Bytes that the device may write into a chain. */
static inline uint64_t fz_room(unsigned q, uint16_t head)
{
	uint64_t table = FZ_DESC(q), room = 0;
	uint16_t i = head;

	for (unsigned steps = 0; steps < WSLX_VQ_MAX_CHAIN + 2; steps++) {
		uint64_t at = table + 16u * (uint64_t)i;
		uint16_t flags;

		if (at > FZ_MEM - 16)
			return UINT64_MAX;
		flags = wslx_get_le16(fz_mem + at + 12);
		i = wslx_get_le16(fz_mem + at + 14);
		if (flags & 4) {
			table = wslx_get_le64(fz_mem + at);
			if (table > FZ_MEM)
				return UINT64_MAX;
			i = 0;
			continue;
		}
		if (flags & 2)
			room += wslx_get_le32(fz_mem + at + 8);
		if (!(flags & 1))
			return room;
	}
	return UINT64_MAX;
}

static inline void fz_check_used(const struct wslx_vdev *d)
{
	for (unsigned q = 0; q < d->n_queues && !fz_rings_spoilt; q++) {
		const uint8_t *used = fz_mem + FZ_USED(q);
		uint16_t idx = wslx_get_le16(used + 2);

		for (; fz_queue[q].last_used != idx; fz_queue[q].last_used++) {
			const uint8_t *e = used + 4 + 8 * (fz_queue[q].last_used % FZ_SIZE);
			uint32_t head = wslx_get_le32(e);

			if (head >= FZ_SIZE || !fz_queue[q].owed[head]--)
				abort();
			if (!fz_queue[q].rewritten && wslx_get_le32(e + 4) > fz_room(q, (uint16_t)head))
				abort();
			fz_queue[q].outstanding--;
		}
		if (!fz_queue[q].outstanding)
			fz_queue[q].rewritten = false;
	}
}

static inline void fz_put_desc(uint64_t at, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	for (unsigned q = 0; q < WSLX_VDEV_MAX_QUEUES; q++)
		fz_queue[q].rewritten |= fz_queue[q].outstanding != 0;
	wslx_put_le64(fz_mem + at, addr);
	wslx_put_le32(fz_mem + at + 8, len);
	wslx_put_le16(fz_mem + at + 12, flags);
	wslx_put_le16(fz_mem + at + 14, next);
}

static inline void fz_touched(uint64_t at, uint64_t len)
{
	if (at < 0x40000 || at + len > 0x80000)
		fz_rings_spoilt = true;
}

/* A chain of up to 8 buffers, well linked, in the ring or in a table. */
static inline void fz_chain(struct input *in, unsigned q)
{
	uint8_t how = in_u8(in);
	unsigned n = 1 + how % 8;
	uint16_t first = (how >> 3) & 7;
	bool indirect = how & 0x40;
	uint64_t table = indirect ? 0x80000 + 0x1000 * (uint64_t)q : FZ_DESC(q) + 16u * first;

	for (unsigned i = 0; i < n; i++) {
		uint64_t addr = 0x40000 + (uint64_t)in_u16(in) * 4;
		uint32_t len = in_u16(in);
		uint8_t flags = in_u8(in);

		if (flags & 0x40)
			len <<= 8;
		fz_touched(addr, len);
		fz_put_desc(table + 16 * i, addr, len, (uint16_t)((flags & 2) | (i + 1 < n)),
			    (uint16_t)((indirect ? 0 : first) + i + 1));
	}
	if (indirect)
		fz_put_desc(FZ_DESC(q) + 16u * first, table, 16 * n, 4, 0);
	fz_publish(q, first);
}

static inline void fz_pump(void)
{
	for (unsigned i = 0; i < 8; i++)
		if (wslx_loop_once(fz_loop, 0) < 0)
			abort();
}

/* The device's configuration, from and to memory that is just as long as the access. */
static inline void fz_config(struct wslx_vdev *d, struct input *in)
{
	uint32_t off = in_u8(in), len = 1 + in_u8(in) % 8;
	uint8_t *buf = malloc(len);

	if (!buf)
		abort();
	in_bytes(in, buf, len);
	if (d->ops->config_write && off + len <= d->config_len)
		d->ops->config_write(d, off, buf, len);
	if (off + len <= d->config_len)
		d->ops->config_read(d, off, buf, len);
	free(buf);
}

/* Carries out the input; special: a step of the device's own, for codes >= 12.
 * Leaves the device reset. */
static inline void fz_run(struct wslx_vdev *d, struct input *in,
			  void (*special)(struct wslx_vdev *d, struct input *in, unsigned q))
{
	memset(fz_mem, 0, FZ_MEM);
	d->gm = fz_gm;
	d->transport_ops = &fz_transport;
	fz_start(d, ~0ull, 0);
	for (unsigned step = 0; in->n && step < FZ_MAX_STEPS; step++) {
		uint8_t code = in_u8(in);
		unsigned q = (code >> 4) % d->n_queues;

		switch (code & 15) {
		case 0: {
			uint32_t at = in_u32(in) % (uint32_t)(FZ_MEM - 256);
			uint8_t len = in_u8(in);

			in_bytes(in, fz_mem + at, len);
			fz_touched(at, len);
			break;
		}
		case 1:
		case 2:
			d->ops->kick(d, q);
			break;
		case 3:
			fz_pump();
			break;
		case 4: {
			uint64_t wanted = in_u64(in);

			fz_start(d, wanted, in_u8(in));
			break;
		}
		case 5:
			fz_config(d, in);
			break;
		case 6:
			d->ops->quiesce(d);
			break;
		case 7:
			d->ops->resume(d);
			break;
		case 8:
		case 9:
			fz_chain(in, q);
			break;
		case 10:
			fz_publish(q, in_u16(in));
			break;
		case 11: {
			struct wslx_stat st[4];

			if (d->ops->stats)
				(void)d->ops->stats(d, st, in_u8(in) % 5);
			break;
		}
		default:
			if (special)
				special(d, in, q);
			break;
		}
		fz_check_used(d);
	}
	fz_pump();
	fz_check_used(d);
	fz_stop(d);
	fz_check_used(d);
}

#endif
