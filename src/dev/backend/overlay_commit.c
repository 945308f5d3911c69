/*
 * Making the overlay's table stable.
 *
 * One commit runs at a time:
 *   copy the changed table pages aside and take note of the released clusters
 *   SYNC_DATA    fdatasync: all data the copies point to is stable
 *   WRITE_TABLE  write the copies, a run of pages at a time
 *   SYNC_TABLE   fdatasync: the copies are stable; flushes are answered
 *   PUNCH        give the released clusters' storage back; now they are free
 * Entries enter the table in memory only when their data has been written, so
 * whatever subset of unsynced writes a crash loses, a table page on disk
 * points only to clusters that hold what they should.  A page torn in the
 * middle mixes old and new entries, each sound: a released cluster is not
 * used again before PUNCH.
 *
 * Giving storage back can take long, if a guest discarded a large disk in small
 * pieces, and nothing depends on it.  So it goes on by runs of bounded length,
 * and what is left when the back end drains (a pause, a reset) waits for the
 * next commit; only the one at the end goes through.
 *
 * A commit that fails because the wait for room on the host's disk was
 * cancelled is taken back and can be repeated.  Any other failure is for good:
 * after a failed fdatasync, be it for lack of room, the kernel no longer knows
 * what is stable, so the table is never written again and every flush fails.
 */
#include <errno.h>

#include "dev/backend/overlay_internal.h"

#define MAX_PUNCH 2048u /* clusters at a time: 128 MiB */

static void next_step(struct overlay *ov);

static struct overlay *ov_of(struct wslx_aio_req *a)
{
	return CONTAINER_OF(a, struct overlay, commit.a);
}

static void answer_flushes(struct overlay *ov, int result)
{
	while (ov->commit.flushes) {
		struct ov_slot *s = ov->commit.flushes;

		ov->commit.flushes = s->next;
		wslx_ov_slot_finish(s, result);
	}
}

/* Slots that wait for free clusters try again. */
static void wake_space(struct overlay *ov)
{
	struct ov_slot *s = ov->space;

	ov->space = NULL;
	while (s) {
		struct ov_slot *next = s->next;

		wslx_ov_slot_step(s);
		s = next;
	}
}

static void end(struct overlay *ov)
{
	struct ov_commit *c = &ov->commit;

	c->state = OV_IDLE;
	wake_space(ov);
	if (c->again || ov->flushes) {
		c->again = false;
		wslx_ov_commit_start(ov);
	}
}

/* The clusters that this commit has not freed are for the next one. */
static void keep_freeing(struct overlay *ov)
{
	struct ov_commit *c = &ov->commit;
	uint64_t i;

	wslx_timer_arm(ov->idle, OV_IDLE_COMMIT_MS);
	for (i = wslx_ov_bit_find(c->freeing, 0, ov->map.g.max_clusters, true); i < ov->map.g.max_clusters;
	     i = wslx_ov_bit_find(c->freeing, i + 1, ov->map.g.max_clusters, true)) {
		ov_bit_clear(c->freeing, i);
		ov_bit_set(ov->freed, i);
		ov->n_freed++;
	}
}

static void take_back(struct overlay *ov)
{
	struct ov_commit *c = &ov->commit;
	uint64_t i;

	for (i = wslx_ov_bit_find(c->pages, 0, ov->map.g.n_pages, true); i < ov->map.g.n_pages;
	     i = wslx_ov_bit_find(c->pages, i + 1, ov->map.g.n_pages, true)) {
		ov_bit_clear(c->pages, i);
		if (!ov_bit(ov->dirty, i)) {
			ov_bit_set(ov->dirty, i);
			ov->n_dirty++;
		}
	}
	keep_freeing(ov);
}

static void fail(struct overlay *ov, int result)
{
	struct ov_commit *c = &ov->commit;

	if (result != -ENOSPC || c->state == OV_SYNC_DATA || c->state == OV_SYNC_TABLE)
		ov->failed = result;
	take_back(ov);
	/* Still not idle: a flush submitted by one that ends here waits. */
	answer_flushes(ov, result);
	c->again = false;
	c->state = OV_IDLE;
	/* No commit will free clusters for these. */
	wake_space(ov);
	if (ov->flushes)
		wslx_ov_commit_start(ov);
}

static void on_done(struct wslx_aio_req *a, int result)
{
	struct overlay *ov = ov_of(a);
	struct ov_commit *c = &ov->commit;

	switch (c->state) {
	case OV_IDLE:
		return;
	case OV_WRITE_TABLE:
		if (result == 0)
			for (uint64_t i = 0; i < c->run; i++)
				ov_bit_clear(c->pages, c->next_page + i);
		break;
	case OV_PUNCH:
		/* Without the hole the cluster merely keeps its storage. */
		result = 0;
		for (uint64_t i = 0; i < c->run; i++)
			ov_bit_clear(c->freeing, c->next_cluster + i);
		wslx_ov_unalloc(ov, c->next_cluster, c->run);
		break;
	default:
		break;
	}
	if (result < 0)
		fail(ov, result);
	else
		next_step(ov);
}

static void submit(struct overlay *ov, enum wslx_aio_op op, uint64_t off, uint64_t len, void *buf)
{
	struct ov_commit *c = &ov->commit;

	c->iov = (struct iovec) { .iov_base = buf, .iov_len = (size_t)len };
	c->a = (struct wslx_aio_req) { .op = op, .off = off, .len = len, .iov = &c->iov, .n_iov = 1, .done = on_done };
	if (op == WSLX_AIO_SYNC && ov->no_sync)
		wslx_aio_defer(ov->aio, &c->a, 0);
	else
		wslx_aio_submit(ov->aio, &c->a);
}

static bool write_some(struct overlay *ov)
{
	struct ov_commit *c = &ov->commit;
	uint64_t n = ov->map.g.n_pages;
	uint64_t i = wslx_ov_bit_find(c->pages, c->next_page, n, true);

	if (i == n)
		return false;
	c->next_page = i;
	c->run = wslx_ov_bit_find(c->pages, i, n, false) - i;
	c->wrote = true;
	submit(ov, WSLX_AIO_WRITE, OV_TABLE_OFFSET + i * OV_PAGE, c->run * OV_PAGE, c->shadow + i * OV_PER_PAGE);
	return true;
}

static bool punch_some(struct overlay *ov)
{
	struct ov_commit *c = &ov->commit;
	uint64_t n = ov->map.g.max_clusters;
	uint64_t i = wslx_ov_bit_find(c->freeing, c->next_cluster, n, true);

	if (i == n)
		return false;
	c->next_cluster = i;
	c->run = wslx_ov_bit_find(c->freeing, i, WSLX_MIN(n, i + MAX_PUNCH), false) - i;
	submit(ov, WSLX_AIO_PUNCH, ov_cluster_offset(ov, i), c->run << OV_CLUSTER_BITS, NULL);
	return true;
}

static void next_step(struct overlay *ov)
{
	struct ov_commit *c = &ov->commit;

	switch (c->state) {
	case OV_IDLE:
		return;
	case OV_SYNC_DATA:
		c->state = OV_WRITE_TABLE;
		__attribute__((fallthrough));
	case OV_WRITE_TABLE:
		if (write_some(ov))
			return;
		if (c->wrote) {
			c->state = OV_SYNC_TABLE;
			submit(ov, WSLX_AIO_SYNC, 0, 0, NULL);
			return;
		}
		__attribute__((fallthrough));
	case OV_SYNC_TABLE:
		c->state = OV_PUNCH;
		answer_flushes(ov, 0);
		__attribute__((fallthrough));
	case OV_PUNCH:
		if (ov->aio->cancel && !ov->closing) {
			keep_freeing(ov);
			end(ov);
		} else if (!punch_some(ov)) {
			end(ov);
		}
		return;
	}
}

/* Moves the dirty pages and the released clusters into the commit. */
static void gather(struct overlay *ov)
{
	struct ov_commit *c = &ov->commit;
	uint64_t i;

	for (i = wslx_ov_bit_find(ov->dirty, 0, ov->map.g.n_pages, true); i < ov->map.g.n_pages;
	     i = wslx_ov_bit_find(ov->dirty, i + 1, ov->map.g.n_pages, true)) {
		for (uint64_t k = 0; k < OV_PER_PAGE; k++)
			c->shadow[i * OV_PER_PAGE + k] = htole64(ov->map.table[i * OV_PER_PAGE + k]);
		ov_bit_clear(ov->dirty, i);
		ov_bit_set(c->pages, i);
	}
	ov->n_dirty = 0;
	if (!ov->n_freed)
		return;
	for (i = wslx_ov_bit_find(ov->freed, 0, ov->map.g.max_clusters, true); i < ov->map.g.max_clusters;
	     i = wslx_ov_bit_find(ov->freed, i + 1, ov->map.g.max_clusters, true)) {
		ov_bit_clear(ov->freed, i);
		ov_bit_set(c->freeing, i);
	}
	ov->n_freed = 0;
}

void wslx_ov_commit_start(struct overlay *ov)
{
	struct ov_commit *c = &ov->commit;

	if (c->state != OV_IDLE) {
		c->again = true;
		return;
	}
	if (ov->failed) {
		while (ov->flushes) {
			struct ov_slot *s = ov->flushes;

			ov->flushes = s->next;
			wslx_ov_slot_end_later(s, -EIO);
		}
		return;
	}
	c->flushes = ov->flushes;
	ov->flushes = NULL;
	wslx_timer_disarm(ov->idle);
	gather(ov);
	c->next_page = c->next_cluster = 0;
	c->wrote = false;
	c->state = OV_SYNC_DATA;
	submit(ov, WSLX_AIO_SYNC, 0, 0, NULL);
}
