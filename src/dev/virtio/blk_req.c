/*
 * virtio-blk: one request (virtio 1.2, 5.2.6).
 *
 * Trust boundary: header and ranges are copied once and the copies checked.
 * The layout of buffers is the driver's choice (2.7.4.1), so the header is the
 * first 16 readable bytes and the status the last writable one, wherever they
 * lie.
 */
#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "dev/virtio/blk_internal.h"

static void next_range(struct blk_slot *s);

static void submit(struct blk_slot *s, enum wslx_block_op op)
{
	s->b.op = op;
	wslx_block_submit(s->blk->backend, &s->b);
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

	/* It was waiting for room on the host's disk. */
	if (result == -ENOSPC && s->blk->paused && s->blk->d.active) {
		wslx_blk_hold(s);
		return;
	}
	if (result < 0) {
		s->data_len = 0;
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	if (s->range < s->n_ranges) {
		next_range(s);
		return;
	}
	if (!s->flushing && s->type != BLK_T_IN && s->type != BLK_T_FLUSH && wslx_blk_write_through(s->blk)) {
		s->flushing = true;
		submit(s, WSLX_BLOCK_FLUSH);
		return;
	}
	wslx_blk_finish(s, BLK_S_OK);
}

static void do_read(struct blk_slot *s)
{
	struct wslx_chain *c = &s->chain;

	s->data_len = c->in_len;
	if (!sectors_ok(s->blk, s->sector, c->in_len, &s->b.off)) {
		s->data_len = 0;
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	s->b.iov = c->iov + c->n_out;
	s->b.n_iov = c->n_in;
	s->b.len = c->in_len;
	submit(s, WSLX_BLOCK_READ);
}

static void do_write(struct blk_slot *s)
{
	struct wslx_chain *c = &s->chain;

	/* 5.2.6.2: a write to a read-only device fails. */
	if (s->blk->readonly) {
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	cut_header(s, &s->b.iov, &s->b.n_iov);
	s->b.len = c->out_len;
	if (!sectors_ok(s->blk, s->sector, c->out_len, &s->b.off)) {
		wslx_blk_finish(s, BLK_S_IOERR);
		return;
	}
	submit(s, WSLX_BLOCK_WRITE);
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

	s->b.iov = NULL;
	s->b.n_iov = 0;
	s->b.off = wslx_get_le64(p) * WSLX_BLOCK_SECTOR;
	s->b.len = (uint64_t)wslx_get_le32(p + 8) * WSLX_BLOCK_SECTOR;
	s->b.unmap = wslx_get_le32(p + 12) & BLK_WZ_F_UNMAP;
	submit(s, s->type == BLK_T_DISCARD ? WSLX_BLOCK_DISCARD : WSLX_BLOCK_WRITE_ZEROES);
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
