/* Where the data of an inode lies.  See walk.h. */
#include "image/walk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/arith.h"

#define RUNS_MAX ((size_t)4 << 20)
#define CANCEL_EVERY 1024u /* a step may read a block */

void wslx_walk_init(struct wslx_walk *w, ext2_filsys fs, const struct wslx_walk_limits *limits)
{
	w->fs = fs;
	w->limits = *limits;
	w->visits = ext2fs_blocks_count(fs->super) * limits->times;
	w->pieces = WSLX_MIN(w->visits, limits->pieces);
	w->blocks = WSLX_MIN(w->visits, limits->blocks);
}

int wslx_walk_damaged(const struct wslx_walk *w, const char *what)
{
	return wslx_err_set(w->err, EBADMSG, "%s is damaged: %.200s: %s", w->subject, w->path, what);
}

int wslx_walk_too_much(const struct wslx_walk *w, uint64_t limit, const char *things)
{
	return wslx_err_set(w->err, E2BIG, "%s is too much to look through: %.200s: more than %" PRIu64 " %s",
			    w->subject, w->path, limit, things);
}

int wslx_walk_ext2_error(const struct wslx_walk *w, errcode_t c)
{
	if (c == EXT2_ET_NO_MEMORY)
		return wslx_err_sys(w->err, ENOMEM, "cannot read %.200s", w->path);
	return wslx_walk_damaged(w, error_message(c));
}

int wslx_walk_step(struct wslx_walk *w)
{
	if (++w->steps % CANCEL_EVERY == 0 && wslx_task_cancelled(w->task))
		return wslx_err_set(w->err, ECANCELED, "interrupted");
	return 0;
}

/* One inode's. */
struct taking {
	struct wslx_walk *w;
	struct wslx_runs *runs;
	uint64_t end;        /* of the file, in blocks */
	uint64_t max_blocks; /* of data */
	uint64_t next;       /* what follows may not lie before this block of the file */
	bool below;          /* the next is the first of a node, and must lie at next */
	int r;
};

/* A node or a piece of data is visited.  Each is a block at least, so that a
 * sound disk has no more of them than blocks. */
static int visit(struct taking *t)
{
	struct wslx_walk *w = t->w;

	if (!w->pieces)
		return w->limits.pieces < w->visits ? wslx_walk_too_much(w, w->limits.pieces, "pieces")
						    : wslx_walk_damaged(w, "more pieces than the disk has blocks");
	w->pieces--;
	return wslx_walk_step(w);
}

static int check_place(const struct taking *t, uint64_t pblk, uint64_t len)
{
	uint64_t blocks = ext2fs_blocks_count(t->w->fs->super);

	if (pblk < t->w->fs->super->s_first_data_block || pblk >= blocks || len > blocks - pblk)
		return wslx_walk_damaged(t->w, "data outside the disk");
	return 0;
}

/* A child begins where its parent says, and behind the child before: so no
 * child can be named twice. */
static int check_order(struct taking *t, uint64_t lblk, uint64_t len)
{
	if (lblk < t->next || (t->below && lblk != t->next))
		return wslx_walk_damaged(t->w, "data out of order");
	t->next = lblk + len;
	return 0;
}

static int append(struct taking *t, const struct wslx_run *x)
{
	struct wslx_runs *l = t->runs;
	struct wslx_run *last = l->n ? &l->v[l->n - 1] : NULL;

	if (last && last->lblk + last->len == x->lblk && last->pblk + last->len == x->pblk) {
		last->len += x->len;
		return 0;
	}
	if (l->n == RUNS_MAX)
		return wslx_err_set(t->w->err, E2BIG, "%.200s is in more than %zu pieces", t->w->path, RUNS_MAX);
	if (l->n == l->cap) {
		struct wslx_run *more = reallocarray(l->v, l->cap * 2 + 64, sizeof(*more));

		if (!more)
			return wslx_err_sys(t->w->err, ENOMEM, "cannot read %.200s", t->w->path);
		l->v = more;
		l->cap = l->cap * 2 + 64;
	}
	l->v[l->n++] = *x;
	return 0;
}

/* Checks, clips to the file's size, and keeps. */
static int take(struct taking *t, uint64_t lblk, uint64_t pblk, uint64_t len, bool unwritten)
{
	int r = check_place(t, pblk, len);

	if (r == 0)
		r = len ? check_order(t, lblk, len) : wslx_walk_damaged(t->w, "a piece of nothing");
	/* What is unwritten reads as zeros, so it may as well be a hole; behind the
	 * end is what was allocated ahead. */
	if (r < 0 || unwritten || lblk >= t->end)
		return r;
	len = WSLX_MIN(len, t->end - lblk);
	if (len > t->max_blocks - t->runs->blocks)
		return wslx_walk_damaged(t->w, "more data than the disk has room for");
	t->runs->blocks += len;
	return append(t, &(struct wslx_run) { lblk, pblk, len });
}

static int take_extent(struct taking *t, const struct ext2fs_extent *x)
{
	bool leaf = x->e_flags & EXT2_EXTENT_FLAGS_LEAF;
	int r;

	if (x->e_flags & EXT2_EXTENT_FLAGS_SECOND_VISIT) {
		/* On the way up.  The kernel has no empty nodes either. */
		return t->below ? wslx_walk_damaged(t->w, "a node of nothing") : 0;
	}
	r = visit(t);
	if (r < 0)
		return r;
	r = leaf ? take(t, x->e_lblk, x->e_pblk, x->e_len, x->e_flags & EXT2_EXTENT_FLAGS_UNINIT)
		 : check_order(t, x->e_lblk, 0);
	t->below = !leaf;
	return r;
}

static int take_extents(struct taking *t, ext2_ino_t ino, struct ext2_inode_large *inode)
{
	ext2_extent_handle_t h;
	struct ext2fs_extent x;
	errcode_t c = ext2fs_extent_open2(t->w->fs, ino, (struct ext2_inode *)inode, &h);
	int r = 0;

	if (c)
		return wslx_walk_ext2_error(t->w, c);
	c = ext2fs_extent_get(h, EXT2_EXTENT_ROOT, &x);
	while (!c && (r = take_extent(t, &x)) == 0)
		c = ext2fs_extent_get(h, EXT2_EXTENT_NEXT, &x);
	ext2fs_extent_free(h);
	if (r == 0 && c != EXT2_ET_EXTENT_NO_NEXT && c != EXT2_ET_NO_CURRENT_NODE)
		return wslx_walk_ext2_error(t->w, c);
	return r;
}

/* count: below zero for the blocks that hold the addresses of others. */
static int on_block(ext2_filsys fs, blk64_t *blk, e2_blkcnt_t count, blk64_t ref, int ref_offset, void *opaque)
{
	struct taking *t = opaque;

	if (!*blk)
		return 0;
	t->r = visit(t);
	if (t->r == 0)
		t->r = count < 0 ? check_place(t, *blk, 1) : take(t, (uint64_t)count, *blk, 1, false);
	return t->r < 0 ? BLOCK_ABORT : 0;
}

/* ext2's and ext3's way. */
static int take_blocks(struct taking *t, ext2_ino_t ino)
{
	errcode_t c = ext2fs_block_iterate3(t->w->fs, ino, BLOCK_FLAG_READ_ONLY, NULL, on_block, t);

	return t->r < 0 ? t->r : c ? wslx_walk_ext2_error(t->w, c) : 0;
}

int wslx_walk_runs(struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *inode, uint64_t max_blocks,
		   struct wslx_runs *ret)
{
	uint64_t bs = w->fs->blocksize, size = EXT2_I_SIZE(inode);
	struct taking t = { .w = w, .runs = ret, .end = size / bs + !!(size % bs), .max_blocks = max_blocks };

	*ret = (struct wslx_runs) { 0 };
	return inode->i_flags & EXT4_EXTENTS_FL ? take_extents(&t, ino, inode) : take_blocks(&t, ino);
}
