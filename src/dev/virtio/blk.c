/*
 * virtio-blk (virtio 1.2, section 5.2): queues and slots.
 *
 * Theory of operation.  All queues of a disk are served on one loop thread;
 * several of them only save the guest's CPUs a lock.  A chain popped from a
 * queue occupies a slot until its status is written and the chain is pushed
 * back.  When slots run out, when much data is under way, or a queue kept the
 * loop busy for a whole round, the queue is marked starved and looked at again
 * later.  Used buffers are announced once per batch of completions.
 *
 * Pause: whatever is in flight ends first, which is a slice (blk_req.c) of each
 * request and a bounded amount in all.  The rest of a larger request, and one
 * that waits for room on the host's disk, would take as long as they like, and
 * guest memory may be mapped anew before the device goes on; so such a request
 * is given up, only its head is kept, and it is taken up from the start
 * afterwards.
 *
 * Reset: the same, but what is given up is forgotten, so that afterwards nothing
 * touches guest memory; the driver hears nothing of it any more.
 *
 * Trust boundary: see blk_req.c and vq.h.
 */
#include "dev/virtio/blk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dev/virtio/blk_internal.h"

/* Requests taken from one queue before other watches get their turn. */
#define ROUND 256u
#define PCI_CLASS_STORAGE_OTHER 0x018000u

static struct blk_slot *take_slot(struct blk *blk)
{
	struct blk_slot *s = blk->free_slots;

	if (s) {
		blk->free_slots = s->next;
		return s;
	}
	if (blk->n_slots == blk->depth)
		return NULL;
	/* Made as they are first needed: most disks never need many. */
	s = &blk->slots[blk->n_slots++];
	s->blk = blk;
	return s;
}

static void put_slot(struct blk_slot *s)
{
	s->next = s->blk->free_slots;
	s->blk->free_slots = s;
}

void wslx_blk_finish(struct blk_slot *s, uint8_t status)
{
	struct blk *blk = s->blk;
	bool data_in = s->type == BLK_T_IN || s->type == BLK_T_GET_ID;
	uint64_t written;

	if (status != BLK_S_OK)
		blk->bad_requests++;
	if (blk->d.active && !blk->d.broken) {
		*(volatile uint8_t *)s->status = status;
		/* 2.7.8.2: only so many bytes, from the first, are known to be
		 * written; the status lies behind all data. */
		written = status == BLK_S_OK || !data_in ? s->data_len + 1 : 0;
		wslx_vq_push(&blk->d.vq[s->queue], s->chain.head,
			     written > UINT32_MAX ? UINT32_MAX : (uint32_t)written);
		blk->pushed |= 1u << s->queue;
	}
	put_slot(s);
	if (blk->starved && !blk->processing)
		wslx_timer_arm(blk->work, 0);
}

void wslx_blk_hold(struct blk_slot *s)
{
	s->next = s->blk->held;
	s->blk->held = s;
}

static void announce(struct blk *blk)
{
	uint32_t pushed = blk->pushed;

	blk->pushed = 0;
	while (pushed) {
		unsigned q = (unsigned)__builtin_ctz(pushed);

		pushed &= pushed - 1;
		if (blk->d.active && !blk->d.broken)
			wslx_vdev_notify_used(&blk->d, q);
	}
}

static void on_batch_end(void *opaque)
{
	announce(opaque);
}

static bool data_room(const struct blk *blk)
{
	return blk->in_flight < BLK_MAX_IN_FLIGHT;
}

/* Takes chains until the queue is empty.  False: starved. */
static bool drain_queue(struct blk *blk, unsigned q, unsigned *budget)
{
	struct wslx_vq *vq = &blk->d.vq[q];

	for (;;) {
		struct blk_slot *s;
		int r;

		if (!*budget || !data_room(blk))
			return false;
		s = take_slot(blk);
		if (!s)
			return false;
		s->queue = (uint16_t)q;
		r = wslx_vq_pop(vq, &s->chain);
		if (r <= 0) {
			put_slot(s);
			if (r < 0)
				wslx_vdev_broken(&blk->d, "malformed virtqueue");
			return true;
		}
		(*budget)--;
		if (!wslx_blk_request(s)) {
			put_slot(s);
			wslx_vdev_broken(&blk->d, "request without header or status");
			return true;
		}
	}
}

/* Takes up again what a pause cut short, of the queues that run. */
static void restart_held(struct blk *blk)
{
	struct blk_slot *s = blk->held;

	blk->held = NULL;
	while (s) {
		struct blk_slot *next = s->next;
		struct wslx_vq *vq = &blk->d.vq[s->queue];

		if (!vq->enabled) {
			wslx_blk_hold(s);
		} else if (blk->d.broken) {
			put_slot(s);
		} else if (wslx_vq_rewalk(vq, s->chain.head, &s->chain) < 0 || !wslx_blk_request(s)) {
			put_slot(s);
			wslx_vdev_broken(&blk->d, "request changed during a pause");
		}
		s = next;
	}
}

static void process(struct blk *blk, unsigned q)
{
	struct wslx_vq *vq = &blk->d.vq[q];
	unsigned budget = ROUND;

	if (!blk->d.active || blk->d.broken || blk->paused || !vq->enabled)
		return;
	blk->processing = true;
	blk->starved &= ~(1u << q);
	if (blk->held)
		restart_held(blk);
	while (!blk->d.broken) {
		wslx_vq_disable_kick(vq);
		if (!drain_queue(blk, q, &budget)) {
			blk->starved |= 1u << q;
			break;
		}
		if (blk->d.broken || !wslx_vq_enable_kick(vq))
			break;
	}
	blk->processing = false;
	wslx_block_commit(blk->backend);
	announce(blk);
	/* Out of slots or with enough under way: whoever ends arms the timer. */
	if (blk->starved && data_room(blk) && (blk->free_slots || blk->n_slots < blk->depth))
		wslx_timer_arm(blk->work, 0);
}

static void on_work(struct wslx_timer *t, void *opaque)
{
	struct blk *blk = opaque;
	uint32_t starved = blk->starved;

	while (starved) {
		unsigned q = (unsigned)__builtin_ctz(starved);

		starved &= starved - 1;
		process(blk, q);
	}
}

static void blk_kick(struct wslx_vdev *d, unsigned q)
{
	if (q < d->n_queues)
		process(blk_of(d), q);
}

static void process_all(struct blk *blk)
{
	for (unsigned q = 0; q < blk->d.n_queues; q++)
		process(blk, q);
}

static int blk_activate(struct wslx_vdev *d)
{
	d->active = true;
	d->broken = false;
	/* The driver may have queued requests before DRIVER_OK. */
	process_all(blk_of(d));
	return 0;
}

static void blk_reset(struct wslx_vdev *d)
{
	struct blk *blk = blk_of(d);

	d->active = false;
	d->broken = false;
	wslx_timer_disarm(blk->work);
	wslx_block_drain(blk->backend, true);
	while (blk->held) {
		struct blk_slot *s = blk->held;

		blk->held = s->next;
		put_slot(s);
	}
	blk->starved = blk->pushed = 0;
	blk->writeback = true;
	blk->paused = false;
	wslx_block_resume(blk->backend);
}

static void blk_quiesce(struct wslx_vdev *d)
{
	struct blk *blk = blk_of(d);

	blk->paused = true;
	wslx_timer_disarm(blk->work);
	wslx_block_drain(blk->backend, true);
	announce(blk);
}

static void blk_resume(struct wslx_vdev *d)
{
	struct blk *blk = blk_of(d);

	if (!blk->paused)
		return;
	blk->paused = false;
	wslx_block_resume(blk->backend);
	process_all(blk);
}

static size_t blk_stats(struct wslx_vdev *d, struct wslx_stat *ret, size_t max)
{
	struct blk *blk = blk_of(d);
	const struct wslx_block_stats *st = &blk->backend->stats;
	const struct wslx_stat all[] = {
		{ "reads", st->reads },           { "writes", st->writes },
		{ "flushes", st->flushes },       { "discards", st->discards },
		{ "read_bytes", st->read_bytes }, { "written_bytes", st->written_bytes },
		{ "errors", st->errors },         { "refused", blk->bad_requests },
		{ "parked", st->parked },         { "parked_ever", st->parked_ever },
		{ "syncs", st->syncs },           { "window_bytes", blk->window_bytes },
	};
	size_t n = WSLX_MIN(max, ARRAY_SIZE(all));

	memcpy(ret, all, n * sizeof(all[0]));
	return n;
}

static void blk_free(struct wslx_vdev *d)
{
	struct blk *blk;

	if (!d)
		return;
	blk = blk_of(d);
	d->active = false;
	wslx_timer_free(blk->work);
	wslx_block_free(blk->backend);
	if (blk->slots)
		munmap(blk->slots, blk->depth * sizeof(*blk->slots));
	free(blk);
}

static const struct wslx_vdev_ops blk_ops = {
	.features = wslx_blk_features,
	.config_read = wslx_blk_config_read,
	.config_write = wslx_blk_config_write,
	.activate = blk_activate,
	.kick = blk_kick,
	.reset = blk_reset,
	.quiesce = blk_quiesce,
	.resume = blk_resume,
	.free = blk_free,
	.stats = blk_stats,
};

static int init(struct blk *blk, const struct wslx_blk_params *p)
{
	void *slots;

	snprintf(blk->name, sizeof(blk->name), "%s", p->name ? p->name : "blk");
	if (p->serial)
		memcpy(blk->serial, p->serial, strnlen(p->serial, sizeof(blk->serial)));
	blk->depth = p->depth ? p->depth : WSLX_BLOCK_DEPTH;
	blk->writeback = true;
	blk->readonly = p->readonly || p->backend->readonly;
	blk->d = (struct wslx_vdev) {
		.ops = &blk_ops,
		.name = blk->name,
		.id = WSLX_VIRTIO_ID_BLK,
		.class_code = PCI_CLASS_STORAGE_OTHER,
		.n_queues = p->queues ? p->queues : 1,
		.config_len = BLK_CONFIG_LEN,
		.loop = p->loop,
	};
	for (unsigned i = 0; i < blk->d.n_queues; i++)
		blk->d.queue_max[i] = BLK_QUEUE_SIZE;
	/* Large, and mostly never touched. */
	slots = mmap(NULL, blk->depth * sizeof(*blk->slots), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (slots == MAP_FAILED)
		return -errno;
	/* Nor is it to become a huge page at the first touch. */
	(void)madvise(slots, blk->depth * sizeof(*blk->slots), MADV_NOHUGEPAGE);
	blk->slots = slots;
	return wslx_loop_timer(p->loop, on_work, blk, &blk->work);
}

int wslx_blk_new(const struct wslx_blk_params *p, struct wslx_vdev **ret)
{
	struct blk *blk;
	int r;

	if (!p->backend || p->queues > WSLX_BLK_MAX_QUEUES || p->depth > WSLX_BLOCK_MAX_DEPTH)
		return -EINVAL;
	if (p->serial && strlen(p->serial) > WSLX_BLK_SERIAL_LEN)
		return -EINVAL;
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return -ENOMEM;
	r = init(blk, p);
	if (r < 0) {
		blk_free(&blk->d);
		return r;
	}
	blk->backend = p->backend;
	blk->backend->batch_end = on_batch_end;
	blk->backend->batch_opaque = blk;
	*ret = &blk->d;
	return 0;
}
