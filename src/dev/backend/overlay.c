/*
 * Copy-on-write block back end over a base image.
 *
 * Theory of operation.  A request is admitted when it has a slot and does not
 * conflict with another one: requests that change which cluster holds what
 * (first writes, discards, zeroing) are exclusive on the clusters they touch.
 * So an admitted request can trust the table for its range.  It then goes
 * through its range step by step, each step being one transfer of clusters of
 * one kind that lie together in the file: own cluster, base, or zeroes.  A
 * first write of a whole cluster goes straight to a new cluster; of a part, it
 * goes through a bounce buffer that is filled from the base first.  Only when
 * the data is written does the table in memory point to it; when that becomes
 * stable is overlay_commit.c's affair.
 *
 * Threads: all on the loop's thread.  Nothing is allocated after open.
 *
 * Trust boundary: the table was checked at load; offsets and lengths of
 * requests are checked against the virtual size on admission.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "dev/backend/overlay_internal.h"

enum kind { OWN, BASE, ZEROES };

static struct overlay *ov_of(struct wslx_block *b)
{
	return CONTAINER_OF(b, struct overlay, b);
}

static enum kind kind_at(const struct overlay *ov, uint64_t cluster)
{
	uint64_t e = ov->map.table[cluster];

	if (e > OV_ZERO)
		return OWN;
	if (e == OV_ZERO || (cluster << OV_CLUSTER_BITS) >= ov->base_size)
		return ZEROES;
	return BASE;
}

/* How much of [off, off + len) is of the same kind as its start and, where it
 * has storage, lies together. */
static uint64_t extent(const struct overlay *ov, uint64_t off, uint64_t len, enum kind *ret_kind, uint64_t *ret_pos)
{
	uint64_t c = off >> OV_CLUSTER_BITS;
	uint64_t in = off & (OV_CLUSTER - 1);
	enum kind kind = kind_at(ov, c);
	uint64_t n = OV_CLUSTER - in;

	for (uint64_t i = 1; n < len && kind_at(ov, c + i) == kind; i++) {
		if (kind == OWN && ov->map.table[c + i] != ov->map.table[c] + (i << OV_CLUSTER_BITS))
			break;
		n += OV_CLUSTER;
	}
	n = WSLX_MIN(n, len);
	*ret_kind = kind;
	*ret_pos = off;
	if (kind == OWN)
		*ret_pos = ov->map.table[c] + in;
	/* The base may end inside its last cluster. */
	if (kind == BASE && off >= ov->base_size)
		*ret_kind = ZEROES;
	else if (kind == BASE && n > ov->base_size - off)
		n = ov->base_size - off;
	return n;
}

/* ---- steps ------------------------------------------------------------ */

static void step(struct ov_slot *s);

/* The request moves on by n bytes. */
static void advance(struct ov_slot *s, uint64_t n)
{
	s->off += n;
	s->len -= n;
	if (s->req->op == WSLX_BLOCK_READ || s->req->op == WSLX_BLOCK_WRITE)
		wslx_aio_advance(&s->iov, &s->n_iov, n);
}

static void on_step(struct wslx_aio_req *a, int result)
{
	struct ov_slot *s = CONTAINER_OF(a, struct ov_slot, a);

	if (result < 0) {
		wslx_ov_unalloc(s->ov, s->phys, s->n_clusters);
		s->n_clusters = 0;
		wslx_ov_slot_finish(s, result);
		return;
	}
	s->step_done(s);
}

static void moved(struct ov_slot *s)
{
	advance(s, s->step_len);
	step(s);
}

static void submit(struct ov_slot *s, enum wslx_aio_op op, unsigned file, uint64_t pos, uint64_t len, struct iovec *iov,
		   unsigned n_iov, void (*then)(struct ov_slot *s))
{
	s->step_done = then;
	s->a = (struct wslx_aio_req) { .op = op,
				       .file = file,
				       .off = pos,
				       .len = len,
				       .iov = iov,
				       .n_iov = n_iov,
				       .must_zero = true,
				       .done = on_step };
	wslx_aio_submit(s->ov->aio, &s->a);
}

/* The first len bytes of what is left of the request's buffers, as s->sub. */
static bool cut(struct ov_slot *s, uint64_t len, unsigned *ret_n)
{
	unsigned n = 0;

	for (; n < s->n_iov && len; n++) {
		s->sub[n] = s->iov[n];
		if (s->sub[n].iov_len > len)
			s->sub[n].iov_len = (size_t)len;
		len -= s->sub[n].iov_len;
	}
	*ret_n = n;
	return len == 0;
}

/* Transfers the next n bytes of the request at pos of a file. */
static void transfer(struct ov_slot *s, enum wslx_aio_op op, unsigned file, uint64_t pos, uint64_t n,
		     void (*then)(struct ov_slot *s))
{
	unsigned n_iov;

	s->step_len = n;
	if (!cut(s, n, &n_iov)) {
		wslx_ov_slot_end_later(s, -EINVAL);
		return;
	}
	submit(s, op, file, pos, n, s->sub, n_iov, then);
}

static bool fill_zeroes(struct ov_slot *s, uint64_t n)
{
	unsigned n_iov;

	if (!cut(s, n, &n_iov))
		return false;
	for (unsigned i = 0; i < n_iov; i++)
		memset(s->sub[i].iov_base, 0, s->sub[i].iov_len);
	return true;
}

static void step_read(struct ov_slot *s)
{
	while (s->len) {
		enum kind kind;
		uint64_t pos;
		uint64_t n = extent(s->ov, s->off, s->len, &kind, &pos);

		if (kind != ZEROES) {
			transfer(s, WSLX_AIO_READ, kind == OWN ? 0 : 1, pos, n, moved);
			return;
		}
		if (!fill_zeroes(s, n)) {
			wslx_ov_slot_end_later(s, -EINVAL);
			return;
		}
		advance(s, n);
	}
	wslx_ov_slot_end_later(s, 0);
}

/* New clusters are written: the table may point to them. */
static void map_clusters(struct ov_slot *s)
{
	for (uint64_t i = 0; i < s->n_clusters; i++)
		wslx_ov_set(s->ov, s->cluster + i, ov_cluster_offset(s->ov, s->phys + i));
	s->n_clusters = 0;
	moved(s);
}

/* Gets up to want clusters, or lets the slot wait for a commit to free some. */
static bool allocate(struct ov_slot *s, uint64_t want)
{
	struct overlay *ov = s->ov;

	s->cluster = s->off >> OV_CLUSTER_BITS;
	s->n_clusters = wslx_ov_alloc(ov, want, &s->phys);
	if (s->n_clusters)
		return true;
	if (ov->failed || ov->aio->cancel) {
		wslx_ov_slot_end_later(s, ov->failed ? -EIO : -ENOSPC);
		return false;
	}
	s->next = ov->space;
	ov->space = s;
	wslx_ov_commit_start(ov);
	return false;
}

/* The bounce buffer holds the old contents: add the new ones and write it. */
static void bounce_filled(struct ov_slot *s)
{
	uint64_t in = s->off & (OV_CLUSTER - 1);
	uint64_t done = 0;
	unsigned n_iov;

	s->step_len = WSLX_MIN(OV_CLUSTER - in, s->len);
	if (s->req->op == WSLX_BLOCK_WRITE) {
		if (!cut(s, s->step_len, &n_iov)) {
			wslx_ov_unalloc(s->ov, s->phys, s->n_clusters);
			s->n_clusters = 0;
			wslx_ov_slot_finish(s, -EINVAL);
			return;
		}
		for (unsigned i = 0; i < n_iov; i++) {
			memcpy(s->bounce + in + done, s->sub[i].iov_base, s->sub[i].iov_len);
			done += s->sub[i].iov_len;
		}
	} else {
		memset(s->bounce + in, 0, s->step_len);
	}
	s->bounce_iov = (struct iovec) { s->bounce, OV_CLUSTER };
	submit(s, WSLX_AIO_WRITE, 0, ov_cluster_offset(s->ov, s->phys), OV_CLUSTER, &s->bounce_iov, 1, map_clusters);
}

/* Part of a cluster without storage: copy up, change, write as a whole. */
static void copy_up(struct ov_slot *s)
{
	uint64_t start = s->off & ~(OV_CLUSTER - 1);
	enum kind kind;
	uint64_t pos, n;

	if (!allocate(s, 1))
		return;
	n = extent(s->ov, start, OV_CLUSTER, &kind, &pos);
	if (kind != BASE)
		n = 0;
	memset(s->bounce + n, 0, OV_CLUSTER - n);
	s->bounce_iov = (struct iovec) { s->bounce, (size_t)n };
	/* An empty read ends as well, through the loop. */
	submit(s, WSLX_AIO_READ, 1, pos, n, &s->bounce_iov, 1, bounce_filled);
}

static void step_write(struct ov_slot *s)
{
	struct overlay *ov = s->ov;
	uint64_t in = s->off & (OV_CLUSTER - 1);
	uint64_t c = s->off >> OV_CLUSTER_BITS;
	enum kind kind;
	uint64_t pos, n;

	if (!s->len) {
		wslx_ov_slot_end_later(s, 0);
		return;
	}
	if (ov->map.table[c] > OV_ZERO) {
		n = extent(ov, s->off, s->len, &kind, &pos);
		transfer(s, WSLX_AIO_WRITE, 0, pos, n, moved);
		return;
	}
	if (in || s->len < OV_CLUSTER) {
		copy_up(s);
		return;
	}
	for (n = 1; n < s->len >> OV_CLUSTER_BITS && ov->map.table[c + n] <= OV_ZERO;)
		n++;
	if (allocate(s, n))
		transfer(s, WSLX_AIO_WRITE, 0, ov_cluster_offset(ov, s->phys), s->n_clusters << OV_CLUSTER_BITS,
			 map_clusters);
}

/* Does the step at s->off take in all of its cluster that the disk shows? */
static bool whole_cluster(const struct ov_slot *s, uint64_t n)
{
	uint64_t end = s->off + n;

	return !(s->off & (OV_CLUSTER - 1)) && (!(end & (OV_CLUSTER - 1)) || end == s->ov->b.size);
}

/* DISCARD and WRITE_ZEROES, a cluster at a time. */
static void step_zero(struct ov_slot *s)
{
	bool discard = s->req->op == WSLX_BLOCK_DISCARD;
	struct overlay *ov = s->ov;

	while (s->len) {
		uint64_t c = s->off >> OV_CLUSTER_BITS;
		uint64_t in = s->off & (OV_CLUSTER - 1);
		uint64_t n = WSLX_MIN(OV_CLUSTER - in, s->len);
		enum kind kind = kind_at(ov, c);
		bool whole = whole_cluster(s, n);

		if (kind == OWN && whole && (discard || s->req->unmap)) {
			wslx_ov_set(ov, c, OV_ZERO);
		} else if (kind == OWN && !discard) {
			s->step_len = n;
			submit(s, WSLX_AIO_ZERO, 0, ov->map.table[c] + in, n, NULL, 0, moved);
			return;
		} else if (kind == BASE && !discard && whole) {
			wslx_ov_set(ov, c, OV_ZERO);
		} else if (kind == BASE && !discard) {
			copy_up(s);
			return;
		}
		/* What else is discarded keeps its contents, which is allowed. */
		advance(s, n);
	}
	wslx_ov_slot_end_later(s, 0);
}

static void step(struct ov_slot *s)
{
	switch (s->req->op) {
	case WSLX_BLOCK_READ:
		step_read(s);
		return;
	case WSLX_BLOCK_WRITE:
		step_write(s);
		return;
	case WSLX_BLOCK_DISCARD:
	case WSLX_BLOCK_WRITE_ZEROES:
		step_zero(s);
		return;
	case WSLX_BLOCK_FLUSH:
		s->next = s->ov->flushes;
		s->ov->flushes = s;
		wslx_ov_commit_start(s->ov);
		return;
	}
}

void wslx_ov_slot_step(struct ov_slot *s)
{
	step(s);
}

/* ---- admission -------------------------------------------------------- */

static void on_end(struct wslx_aio_req *a, int result)
{
	wslx_ov_slot_finish(CONTAINER_OF(a, struct ov_slot, a), result);
}

/* Ends the request from the loop, so that done() is never called from submit. */
void wslx_ov_slot_end_later(struct ov_slot *s, int result)
{
	s->a = (struct wslx_aio_req) { .done = on_end };
	if (s->n_clusters) {
		wslx_ov_unalloc(s->ov, s->phys, s->n_clusters);
		s->n_clusters = 0;
	}
	wslx_aio_defer(s->ov->aio, &s->a, result);
}

void wslx_ov_slot_finish(struct ov_slot *s, int result)
{
	struct wslx_block_req *r = s->req;
	struct overlay *ov = s->ov;

	if (s->bounce)
		ov->bounce[ov->n_bounce++] = s->bounce;
	s->bounce = NULL;
	s->active = false;
	s->next = ov->free_slots;
	ov->free_slots = s;
	if (result < 0)
		ov->b.stats.errors++;
	wslx_ov_admit(ov);
	r->done(r, result);
}

static void count(struct overlay *ov, const struct wslx_block_req *r)
{
	struct wslx_block_stats *st = &ov->b.stats;

	switch (r->op) {
	case WSLX_BLOCK_READ:
		st->reads++;
		st->read_bytes += r->len;
		break;
	case WSLX_BLOCK_WRITE:
		st->written_bytes += r->len;
		__attribute__((fallthrough));
	case WSLX_BLOCK_WRITE_ZEROES:
		st->writes++;
		break;
	case WSLX_BLOCK_FLUSH:
		st->flushes++;
		break;
	case WSLX_BLOCK_DISCARD:
		st->discards++;
		break;
	}
}

struct range {
	uint64_t first, last;
	bool any, exclusive;
};

/* Does r change the mapping of its clusters? */
static struct range range_of(const struct overlay *ov, const struct wslx_block_req *r)
{
	struct range g = { 0 };

	if (r->op == WSLX_BLOCK_FLUSH || !r->len)
		return g;
	g.any = true;
	g.first = r->off >> OV_CLUSTER_BITS;
	g.last = (r->off + r->len - 1) >> OV_CLUSTER_BITS;
	if (r->op == WSLX_BLOCK_READ)
		return g;
	g.exclusive = r->op != WSLX_BLOCK_WRITE;
	for (uint64_t c = g.first; c <= g.last && !g.exclusive; c++)
		g.exclusive = ov->map.table[c] <= OV_ZERO;
	return g;
}

static bool conflict(const struct range *a, const struct range *b)
{
	return a->any && b->any && (a->exclusive || b->exclusive) && a->first <= b->last && b->first <= a->last;
}

static bool busy(const struct overlay *ov, const struct range *g)
{
	for (unsigned i = 0; i < ov->n_slots; i++) {
		const struct ov_slot *s = &ov->slots[i];
		struct range other = { s->first, s->last, true, s->exclusive };

		if (s->active && conflict(g, &other))
			return true;
	}
	return false;
}

/* Must r wait for one that came before it and waits as well? */
static bool behind(const struct overlay *ov, const struct wslx_block_req *r, const struct range *g)
{
	for (const struct wslx_block_req *w = ov->wait; w && w != r; w = w->next) {
		struct range other = range_of(ov, w);

		if (conflict(g, &other))
			return true;
	}
	return false;
}

static int check(const struct overlay *ov, const struct wslx_block_req *r)
{
	if (r->op == WSLX_BLOCK_FLUSH)
		return 0;
	if (!wslx_range_ok(r->off, r->len, ov->b.size) || r->n_iov > WSLX_BLOCK_MAX_IOV)
		return -EINVAL;
	if (ov->b.readonly && r->op != WSLX_BLOCK_READ)
		return -EROFS;
	return 0;
}

static bool have_slot(const struct overlay *ov)
{
	return ov->free_slots || ov->n_slots < ov->depth;
}

/* Slots are made as they are first needed: most disks never need many. */
static struct ov_slot *take_slot(struct overlay *ov)
{
	struct ov_slot *s = ov->free_slots;

	if (s) {
		ov->free_slots = s->next;
		return s;
	}
	s = &ov->slots[ov->n_slots++];
	s->ov = ov;
	return s;
}

/* Starts r unless it has to wait. */
static bool try_start(struct overlay *ov, struct wslx_block_req *r)
{
	int e = check(ov, r);
	struct range g = { 0 };
	struct ov_slot *s;

	if (!have_slot(ov))
		return false;
	if (e == 0) {
		g = range_of(ov, r);
		if (busy(ov, &g) || behind(ov, r, &g) || (g.exclusive && !ov->n_bounce))
			return false;
	}
	s = take_slot(ov);
	s->req = r;
	s->active = g.any;
	s->exclusive = g.exclusive;
	s->first = g.first;
	s->last = g.last;
	s->bounce = g.exclusive ? ov->bounce[--ov->n_bounce] : NULL;
	s->off = r->off;
	s->len = r->len;
	s->iov = r->iov;
	s->n_iov = r->n_iov;
	s->n_clusters = 0;
	count(ov, r);
	if (e < 0 || (r->op == WSLX_BLOCK_FLUSH && ov->b.readonly))
		wslx_ov_slot_end_later(s, e);
	else
		step(s);
	return true;
}

void wslx_ov_admit(struct overlay *ov)
{
	struct wslx_block_req **at = &ov->wait;

	while (*at && have_slot(ov)) {
		struct wslx_block_req *r = *at, *next = r->next;

		if (try_start(ov, r)) {
			*at = next;
			if (!next)
				ov->wait_tail = at;
		} else {
			at = &r->next;
		}
	}
}

/* ---- back end --------------------------------------------------------- */

static void ov_submit(struct wslx_block *b, struct wslx_block_req *r)
{
	struct overlay *ov = ov_of(b);
	struct wslx_block_req **at = ov->wait_tail;

	r->next = NULL;
	*at = r;
	ov->wait_tail = &r->next;
	/* Those that wait already would still wait: nothing has ended. */
	if (try_start(ov, r)) {
		*at = NULL;
		ov->wait_tail = at;
	}
}

static void ov_commit(struct wslx_block *b)
{
	wslx_aio_commit(ov_of(b)->aio);
}

static void ov_drain(struct wslx_block *b, bool cancel)
{
	struct overlay *ov = ov_of(b);

	wslx_aio_set_cancel(ov->aio, cancel);
	wslx_aio_set_paused(ov->aio, true);
	while (wslx_aio_busy(ov->aio))
		wslx_aio_wait(ov->aio);
	wslx_aio_set_cancel(ov->aio, false);
}

static void ov_resume(struct wslx_block *b)
{
	wslx_aio_set_paused(ov_of(b)->aio, false);
}

static void on_idle(struct wslx_timer *t, void *opaque)
{
	struct overlay *ov = opaque;

	if (ov->aio->paused) {
		wslx_timer_arm(ov->idle, OV_IDLE_COMMIT_MS);
	} else if ((ov->n_dirty || ov->n_freed) && !ov->failed) {
		wslx_ov_commit_start(ov);
		wslx_aio_commit(ov->aio);
	}
}

static void ov_free(struct wslx_block *b)
{
	struct overlay *ov = ov_of(b);
	const struct ov_geometry *g = &ov->map.g;

	ov->closing = true;
	if (ov->aio) {
		ov_drain(b, true);
		if ((ov->n_dirty || ov->n_freed) && !ov->failed) {
			wslx_ov_commit_start(ov);
			ov_drain(b, true);
		}
	}
	wslx_aio_free(ov->aio);
	wslx_timer_free(ov->idle);
	wslx_ov_release(ov->bounce_mem, OV_MAX_BOUNCE * OV_CLUSTER);
	wslx_ov_release(ov->slots, ov->depth * sizeof(*ov->slots));
	wslx_ov_release(ov->dirty, ov_bytes_of_bits(g->n_pages));
	wslx_ov_release(ov->freed, ov_bytes_of_bits(g->max_clusters));
	wslx_ov_release(ov->commit.shadow, g->n_pages * OV_PAGE);
	wslx_ov_release(ov->commit.pages, ov_bytes_of_bits(g->n_pages));
	wslx_ov_release(ov->commit.freeing, ov_bytes_of_bits(g->max_clusters));
	wslx_ov_map_free(&ov->map);
	free(ov);
}

static const struct wslx_block_ops ov_ops = {
	.submit = ov_submit,
	.commit = ov_commit,
	.drain = ov_drain,
	.resume = ov_resume,
	.free = ov_free,
};

static int make_slots(struct overlay *ov)
{
	int r = wslx_ov_reserve(ov->depth * sizeof(*ov->slots), &ov->slots);

	if (r == 0)
		r = wslx_ov_reserve(OV_MAX_BOUNCE * OV_CLUSTER, &ov->bounce_mem);
	if (r < 0)
		return r;
	/* In such an order that the first ones are used again and again. */
	for (unsigned i = OV_MAX_BOUNCE; i > 0; i--)
		ov->bounce[ov->n_bounce++] = ov->bounce_mem + (i - 1) * OV_CLUSTER;
	return 0;
}

static int make_maps(struct overlay *ov)
{
	const struct ov_geometry *g = &ov->map.g;
	int r = wslx_ov_reserve(ov_bytes_of_bits(g->n_pages), &ov->dirty);

	if (r == 0)
		r = wslx_ov_reserve(ov_bytes_of_bits(g->max_clusters), &ov->freed);
	if (r == 0)
		r = wslx_ov_reserve(g->n_pages * OV_PAGE, &ov->commit.shadow);
	if (r == 0)
		r = wslx_ov_reserve(ov_bytes_of_bits(g->n_pages), &ov->commit.pages);
	if (r == 0)
		r = wslx_ov_reserve(ov_bytes_of_bits(g->max_clusters), &ov->commit.freeing);
	return r;
}

static int probe_fds(const struct wslx_overlay_params *p, uint64_t *ret_base_size, struct wslx_err *err)
{
	int mode = fcntl(p->fd, F_GETFL);
	struct stat st;
	off_t end;

	if (mode < 0)
		return wslx_err_sys(err, errno, "the overlay's descriptor");
	if ((mode & O_ACCMODE) == O_WRONLY || (!p->readonly && (mode & O_ACCMODE) != O_RDWR))
		return wslx_err_set(err, EACCES, "the overlay is not open for %s",
				    p->readonly ? "reading" : "reading and writing");
	*ret_base_size = 0;
	if (p->base_fd < 0)
		return 0;
	if (fstat(p->base_fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot examine the overlay's base");
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return wslx_err_set(err, EINVAL, "the overlay's base is neither a file nor a block device");
	end = lseek(p->base_fd, 0, SEEK_END);
	if (end < 0)
		return wslx_err_sys(err, errno, "cannot examine the overlay's base");
	*ret_base_size = (uint64_t)end;
	return 0;
}

static int open_parts(struct overlay *ov, const struct wslx_overlay_params *p, ov_aio_new_fn aio_new,
		      struct wslx_err *err)
{
	struct wslx_aio_params ap = { .loop = p->loop,
				      .block = &ov->b,
				      .fds = { p->fd, p->base_fd },
				      .depth = ov->depth + 1, /* and the commit's */
				      .no_io_uring = p->no_io_uring };
	int r = wslx_ov_load(p->fd, &ov->map, err);

	if (r < 0)
		return r;
	ov->b.size = ov->map.g.virtual_size;
	r = make_slots(ov);
	if (r == 0)
		r = make_maps(ov);
	if (r == 0)
		r = wslx_loop_timer(p->loop, on_idle, ov, &ov->idle);
	if (r == 0)
		r = aio_new(&ap, &ov->aio);
	return r < 0 ? wslx_err_sys(err, -r, "cannot set the overlay up") : 0;
}

int wslx_ov_open(const struct wslx_overlay_params *p, ov_aio_new_fn aio_new, struct wslx_block **ret,
		 struct wslx_err *err)
{
	struct overlay *ov;
	uint64_t base_size = 0;
	int r;

	if (p->depth > WSLX_BLOCK_MAX_DEPTH)
		return wslx_err_set(err, EINVAL, "overlay depth %u is too large", p->depth);
	r = probe_fds(p, &base_size, err);
	if (r < 0)
		return r;
	ov = calloc(1, sizeof(*ov));
	if (!ov)
		return wslx_err_sys(err, ENOMEM, "cannot set the overlay up");
	ov->b = (struct wslx_block) { .ops = &ov_ops, .readonly = p->readonly, .granularity = (uint32_t)OV_CLUSTER };
	ov->base_size = base_size;
	ov->no_sync = p->no_sync;
	ov->depth = p->depth ? p->depth : WSLX_BLOCK_DEPTH;
	ov->wait_tail = &ov->wait;
	r = open_parts(ov, p, aio_new, err);
	if (r < 0) {
		ov_free(&ov->b);
		return r;
	}
	*ret = &ov->b;
	return 0;
}

int wslx_overlay_open(const struct wslx_overlay_params *p, struct wslx_block **ret, struct wslx_err *err)
{
	return wslx_ov_open(p, wslx_aio_new, ret, err);
}
