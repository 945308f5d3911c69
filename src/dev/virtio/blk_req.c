/*
 * virtio-blk: one request (virtio 1.2, 5.2.6).
 *
 * Trust boundary: header and ranges are copied once and the copies checked.
 * The layout of buffers is the driver's choice (2.7.4.1), so the header is the
 * first 16 readable bytes and the status the last writable one, wherever they
 * lie.
 *
 * A request may ask for any amount: a chain's buffers may overlap, and the
 * limits in the configuration are what a driver is to respect, not what it
 * does.  So it is carried out in slices, one after the other, and may be cut
 * short between them.
 */
#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "dev/virtio/blk_internal.h"
#include "dev/virtio/iov.h"

static void next_range(struct blk_slot *s);

static void submit(struct blk_slot *s, enum wslx_block_op op)
{
	s->b.op = op;
	wslx_block_submit(s->blk->backend, &s->b);
}

static uint64_t slice_len(const struct blk_slot *s)
{
	uint64_t max = BLK_SLICE;

	if (s->op == WSLX_BLOCK_WRITE_ZEROES)
		max = BLK_SLICE_ZEROES;
	else if (s->op == WSLX_BLOCK_DISCARD)
		max = BLK_SLICE_DISCARD;
	return s->left <= max ? s->left : wslx_align_down(s->off + max, BLK_SLICE_ALIGN) - s->off;
}

/* The whole of the data goes as it is; a part of it as a copy of its iovecs. */
static void cut_data(struct blk_slot *s, uint64_t len)
{
	uint64_t have;

	s->b.iov = s->iov;
	s->b.n_iov = s->n_iov;
	if (!s->iov || (!s->passed && len == s->left))
		return;
	s->b.iov = s->slice;
	s->b.n_iov = wslx_iov_slice(s->iov, s->n_iov, s->passed, len, s->slice, ARRAY_SIZE(s->slice), &have);
}

static void next_slice(struct blk_slot *s)
{
	uint64_t len = slice_len(s);

	cut_data(s, len);
	s->b.off = s->off;
	s->b.len = len;
	s->off += len;
	s->left -= len;
	s->passed += len;
	/* A discard moves no data. */
	s->weight = s->op == WSLX_BLOCK_DISCARD ? WSLX_MIN(len, (uint64_t)BLK_SLICE) : len;
	s->blk->in_flight += s->weight;
	submit(s, s->op);
}

/* Drops the last byte of the writable buffers, the status, and remembers
 * where it is. */
static void cut_status(struct blk_slot *s)
{
	struct wslx_chain *c = &s->chain;
	struct iovec *last = &c->iov[c->n_out + c->n_in - 1];

	last->iov_len--;
	s->status = (uint8_t *)last->iov_base + last->iov_len;
	if (!last->iov_len)
		c->n_in--;
	c->in_len--;
}

/* Drops the header from the readable buffers. */
static void cut_header(struct blk_slot *s, struct iovec **iov, unsigned *n_iov)
{
	uint64_t n = BLK_HDR_LEN;

	*iov = s->chain.iov;
	*n_iov = s->chain.n_out;
	while (*n_iov && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		(*iov)++;
		(*n_iov)--;
	}
	if (*n_iov) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= (size_t)n;
	}
	s->chain.out_len -= BLK_HDR_LEN;
}

/* Byte range of n_bytes at s->sector, or false. */
static bool sectors_ok(const struct blk *blk, uint64_t sector, uint64_t n_bytes, uint64_t *ret_off)
{
	if (n_bytes % WSLX_BLOCK_SECTOR)
		return false;
	return wslx_mul_u64(sector, WSLX_BLOCK_SECTOR, ret_off) && wslx_range_ok(*ret_off, n_bytes, blk->backend->size);
}

static void on_done(struct wslx_block_req *b, int result)
{
	struct blk_slot *s = CONTAINER_OF(b, struct blk_slot, b);
	struct blk *blk = s->blk;

	blk->in_flight -= s->weight;
	s->weight = 0;
	/* It was waiting for room on the host's disk. */
	if (result == -ENOSPC && blk->paused && blk->d.active) {
		wslx_blk_hold(s);
		return;
	}
	if (result < 0) {
		s->data_len = 0;
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	if (s->left || s->range < s->n_ranges) {
		if (blk->paused || blk->d.broken || !blk->d.active)
			wslx_blk_hold(s);
		else if (s->left)
			next_slice(s);
		else
			next_range(s);
		return;
	}
	if (!s->flushing && s->type != BLK_T_IN && s->type != BLK_T_FLUSH && wslx_blk_write_through(blk)) {
		s->flushing = true;
		submit(s, WSLX_BLOCK_FLUSH);
		return;
	}
	wslx_blk_finish(s, BLK_S_OK);
}

/* Shows that O_DIRECT I/O of the guest's goes to a region without a copy. */
static void count_window(struct blk_slot *s)
{
	const struct wslx_gm *gm = s->blk->d.vq[s->queue].gm;

	for (unsigned i = 0; i < s->n_iov; i++)
		if (wslx_gm_in_borrowed(gm, s->iov[i].iov_base))
			s->blk->window_bytes += s->iov[i].iov_len;
}

static void do_read(struct blk_slot *s)
{
	struct wslx_chain *c = &s->chain;

	s->data_len = c->in_len;
	if (!sectors_ok(s->blk, s->sector, c->in_len, &s->off)) {
		s->data_len = 0;
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	s->iov = c->iov + c->n_out;
	s->n_iov = c->n_in;
	s->left = c->in_len;
	s->op = WSLX_BLOCK_READ;
	count_window(s);
	next_slice(s);
}

static void do_write(struct blk_slot *s)
{
	struct wslx_chain *c = &s->chain;

	/* 5.2.6.2: a write to a read-only device fails. */
	if (s->blk->readonly) {
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	cut_header(s, &s->iov, &s->n_iov);
	s->left = c->out_len;
	if (!sectors_ok(s->blk, s->sector, c->out_len, &s->off)) {
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	s->op = WSLX_BLOCK_WRITE;
	count_window(s);
	next_slice(s);
}

/* Checks one range of a discard or write-zeroes request (5.2.6.2). */
static uint8_t check_range(const struct blk_slot *s, const uint8_t *p)
{
	uint64_t off, sector = wslx_get_le64(p);
	uint32_t n = wslx_get_le32(p + 8), flags = wslx_get_le32(p + 12);

	if (flags & ~(s->type == BLK_T_WRITE_ZEROES ? BLK_WZ_F_UNMAP : 0u))
		return BLK_S_UNSUPP;
	if (n > BLK_MAX_RANGE_SECTORS || !sectors_ok(s->blk, sector, (uint64_t)n * WSLX_BLOCK_SECTOR, &off))
		return BLK_S_IOERR;
	return BLK_S_OK;
}

static void next_range(struct blk_slot *s)
{
	const uint8_t *p = s->ranges + BLK_SEG_LEN * s->range++;

	s->off = wslx_get_le64(p) * WSLX_BLOCK_SECTOR;
	s->left = (uint64_t)wslx_get_le32(p + 8) * WSLX_BLOCK_SECTOR;
	s->b.unmap = wslx_get_le32(p + 12) & BLK_WZ_F_UNMAP;
	s->op = s->type == BLK_T_DISCARD ? WSLX_BLOCK_DISCARD : WSLX_BLOCK_WRITE_ZEROES;
	next_slice(s);
}

/* All ranges are checked before the first one is carried out. */
static void do_ranges(struct blk_slot *s)
{
	uint64_t len = s->chain.out_len - BLK_HDR_LEN;
	uint8_t status = BLK_S_OK;

	if (s->blk->readonly || !len || len % BLK_SEG_LEN || len > sizeof(s->ranges)) {
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	if (wslx_iov_read(s->chain.iov, s->chain.n_out, BLK_HDR_LEN, s->ranges, (size_t)len) != len) {
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	s->n_ranges = (unsigned)(len / BLK_SEG_LEN);
	for (unsigned i = 0; i < s->n_ranges && status == BLK_S_OK; i++)
		status = check_range(s, s->ranges + BLK_SEG_LEN * i);
	if (status != BLK_S_OK) {
		wslx_blk_finish(s, status);
		return;
	}
	next_range(s);
}

static void do_get_id(struct blk_slot *s)
{
	struct blk *blk = s->blk;

	s->data_len = wslx_iov_write(s->chain.iov + s->chain.n_out, s->chain.n_in, 0, blk->serial, sizeof(blk->serial));
	wslx_blk_finish(s, BLK_S_OK);
}

bool wslx_blk_request(struct blk_slot *s)
{
	uint8_t h[BLK_HDR_LEN];

	if (!s->chain.in_len || wslx_iov_read(s->chain.iov, s->chain.n_out, 0, h, sizeof(h)) != sizeof(h))
		return false;
	cut_status(s);
	s->type = wslx_get_le32(h);
	s->sector = wslx_get_le64(h + 8);
	s->data_len = 0;
	s->flushing = false;
	s->range = s->n_ranges = 0;
	s->left = s->passed = s->weight = 0;
	s->iov = NULL;
	s->n_iov = 0;
	s->b = (struct wslx_block_req) { .done = on_done };
	switch (s->type) {
	case BLK_T_IN:
		do_read(s);
		break;
	case BLK_T_OUT:
		do_write(s);
		break;
	case BLK_T_FLUSH:
		submit(s, WSLX_BLOCK_FLUSH);
		break;
	case BLK_T_GET_ID:
		do_get_id(s);
		break;
	case BLK_T_DISCARD:
	case BLK_T_WRITE_ZEROES:
		do_ranges(s);
		break;
	default:
		wslx_blk_finish(s, BLK_S_UNSUPP);
		break;
	}
	return true;
}
