/*
 * Block allocation, the writer thread, and file contents.
 *
 * Blocks are taken from one free run after the other, in ascending order, so
 * what is written is one rising sequence of blocks and goes to the file in
 * buffers of 2 MiB.  The thread only ever sees full buffers; a buffer belongs
 * to the builder while it is `cur`, else to the queue.
 */
#include "image/ext4_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "os/linux/fd.h"

static void *writer_main(void *arg)
{
	struct ext4w_writer *w = arg;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		while (!w->queued && !w->stop)
			pthread_cond_wait(&w->work, &w->lock);
		if (!w->queued)
			break;
		struct ext4w_buf b = w->buf[w->head];
		int r = w->error;

		pthread_mutex_unlock(&w->lock);
		if (!r)
			r = wslx_pwrite_full(w->fd, b.data, b.len, (off_t)b.off);
		/* Starts the disk early: the final fsync then has little left. */
		if (!r)
			sync_file_range(w->fd, (off_t)b.off, (off_t)b.len, SYNC_FILE_RANGE_WRITE);
		pthread_mutex_lock(&w->lock);
		if (r && !w->error)
			w->error = r;
		w->head = (w->head + 1) % EXT4W_BUFS;
		w->queued--;
		pthread_cond_signal(&w->idle);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int ext4w_writer_start(struct ext4w_writer *w, int fd)
{
	sigset_t all, old;

	w->fd = fd;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->work, NULL);
	pthread_cond_init(&w->idle, NULL);
	for (unsigned i = 0; i < EXT4W_BUFS; i++) {
		void *p;

		if (posix_memalign(&p, EXT4W_BLOCK, EXT4W_BUF_SIZE))
			return -ENOMEM;
		w->buf[i].data = p;
	}
	/* Signals are the program's own business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = pthread_create(&w->thread, NULL, writer_main, w);

	pthread_sigmask(SIG_SETMASK, &old, NULL);
	w->started = r == 0;
	return -r;
}

void ext4w_writer_stop(struct ext4w_writer *w)
{
	if (w->started) {
		pthread_mutex_lock(&w->lock);
		w->stop = true;
		pthread_cond_signal(&w->work);
		pthread_mutex_unlock(&w->lock);
		pthread_join(w->thread, NULL);
		w->started = false;
	}
	for (unsigned i = 0; i < EXT4W_BUFS; i++) {
		free(w->buf[i].data);
		w->buf[i].data = NULL;
	}
}

int ext4w_writer_flush(struct ext4w_writer *w)
{
	int r;

	if (!w->cur_open)
		return 0;
	w->cur_open = false;
	pthread_mutex_lock(&w->lock);
	w->queued++;
	pthread_cond_signal(&w->work);
	w->cur = (w->cur + 1) % EXT4W_BUFS;
	/* The next buffer is free when not all are queued. */
	while (w->queued == EXT4W_BUFS)
		pthread_cond_wait(&w->idle, &w->lock);
	r = w->error;
	pthread_mutex_unlock(&w->lock);
	return r;
}

int ext4w_writer_drain(struct ext4w_writer *w)
{
	int r = ext4w_writer_flush(w);

	if (r < 0)
		return r;
	pthread_mutex_lock(&w->lock);
	while (w->queued)
		pthread_cond_wait(&w->idle, &w->lock);
	r = w->error;
	pthread_mutex_unlock(&w->lock);
	return r;
}

int ext4w_stage(struct wslx_ext4 *e, uint64_t blk, uint32_t want, uint8_t **ret, uint32_t *ret_n)
{
	struct ext4w_writer *w = &e->out;
	struct ext4w_buf *b = &w->buf[w->cur];
	uint64_t off = blk * EXT4W_BLOCK;

	if (w->cur_open && (b->off + b->len != off || b->len + EXT4W_BLOCK > EXT4W_BUF_SIZE)) {
		int r = ext4w_writer_flush(w);

		if (r < 0)
			return r;
		b = &w->buf[w->cur];
	}
	if (!w->cur_open) {
		b->off = off;
		b->len = 0;
		w->cur_open = true;
	}
	size_t room = (EXT4W_BUF_SIZE - b->len) / EXT4W_BLOCK;

	*ret = b->data + b->len;
	*ret_n = want < room ? want : (uint32_t)room;
	b->len += (size_t)*ret_n * EXT4W_BLOCK;
	return 0;
}

void ext4w_commit_run(struct wslx_ext4 *e)
{
	/* The library takes counts of the width blk_t, 32 bits. */
	while (e->run_done < e->run_at) {
		uint64_t n = e->run_at - e->run_done;

		if (n > 1u << 30)
			n = 1u << 30;
		ext2fs_block_alloc_stats_range(e->fs, e->run_done, (blk_t)n, +1);
		e->run_done += n;
	}
}

static int next_run(struct wslx_ext4 *e)
{
	uint64_t last = ext2fs_blocks_count(e->fs->super) - 1;
	blk64_t first, end;

	ext4w_commit_run(e);
	for (;;) {
		if (e->run_at <= last &&
		    ext2fs_find_first_zero_block_bitmap2(e->fs->block_map, e->run_at, last, &first) == 0)
			break;
		/* What replaced files gave back lies behind. */
		if (!e->freed)
			return -ENOSPC;
		e->freed = false;
		e->run_at = e->run_done = e->fs->super->s_first_data_block;
	}
	if (ext2fs_find_first_set_block_bitmap2(e->fs->block_map, first, last, &end))
		end = last + 1;
	e->run_at = e->run_done = first;
	e->run_end = end;
	return 0;
}

int ext4w_take(struct wslx_ext4 *e, uint32_t want, uint64_t *ret_blk, uint32_t *ret_n)
{
	if (e->max_bytes && e->allocated >= e->max_bytes)
		return -EDQUOT;
	if (e->run_at >= e->run_end) {
		int r = next_run(e);

		if (r < 0)
			return r;
	}
	uint64_t n = e->run_end - e->run_at;

	*ret_n = want < n ? want : (uint32_t)n;
	*ret_blk = e->run_at;
	e->run_at += *ret_n;
	e->allocated += (uint64_t)*ret_n * EXT4W_BLOCK;
	return 0;
}

int ext4w_take_run(struct wslx_ext4 *e, uint32_t want, uint64_t *ret_blk)
{
	for (;;) {
		uint32_t n;
		int r = ext4w_take(e, want, ret_blk, &n);

		if (r < 0)
			return r;
		if (n == want)
			return 0;
		/* Too short: leave it free and look behind it. */
		e->run_at -= n;
		ext4w_commit_run(e);
		e->run_at = e->run_done = e->run_end;
	}
}

void ext4w_give_back(struct wslx_ext4 *e, uint64_t blk, uint32_t n)
{
	ext4w_commit_run(e);
	ext2fs_block_alloc_stats_range(e->fs, blk, n, -1);
	e->freed = true;
	/* `allocated` stays: an archive that replaces one file for ever still
	 * meets the limit.  Small pieces are not worth a stop of the writer. */
	if ((uint64_t)n * EXT4W_BLOCK >= WSLX_MIB && ext4w_writer_drain(&e->out) == 0)
		(void)fallocate(e->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(blk * EXT4W_BLOCK),
				(off_t)n * EXT4W_BLOCK);
}

int ext4w_add_extent(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint32_t lblk, uint64_t pblk, uint32_t len)
{
	struct ext4w_extent *last = n->n_extents ? &n->extents[n->n_extents - 1] : NULL;

	n->blocks += len;
	if (last && last->lblk + last->len == lblk && last->pblk + last->len == pblk && last->len < EXT4W_EXTENT_MAX) {
		uint32_t room = EXT4W_EXTENT_MAX - last->len;
		uint32_t more = len < room ? len : room;

		last->len += more;
		lblk += more;
		pblk += more;
		len -= more;
	}
	while (len) {
		uint32_t part = len < EXT4W_EXTENT_MAX ? len : EXT4W_EXTENT_MAX;

		if (n->n_extents == n->cap_extents) {
			uint32_t cap = n->cap_extents ? n->cap_extents * 2 : 1;
			struct ext4w_extent *bigger = ext4w_alloc_mem(e, cap * sizeof(*bigger));

			if (!bigger)
				return -errno;
			if (n->n_extents)
				memcpy(bigger, n->extents, n->n_extents * sizeof(*bigger));
			ext4w_free_mem(e, n->extents, n->cap_extents * sizeof(*bigger));
			n->extents = bigger;
			n->cap_extents = cap;
		}
		n->extents[n->n_extents++] = (struct ext4w_extent) { .lblk = lblk, .len = part, .pblk = pblk };
		lblk += part;
		pblk += part;
		len -= part;
	}
	return 0;
}

int ext4w_append_block(struct wslx_ext4 *e, struct wslx_ext4_node *n, const void *block)
{
	uint64_t blk;
	uint32_t one;
	uint8_t *p;
	int r = ext4w_take(e, 1, &blk, &one);

	if (r == 0)
		r = ext4w_stage(e, blk, 1, &p, &one);
	if (r < 0)
		return r;
	memcpy(p, block, EXT4W_BLOCK);
	return ext4w_add_extent(e, n, n->blocks, blk, 1);
}

static void close_block(struct wslx_ext4 *e)
{
	if (!e->open_block)
		return;
	memset(e->open_block + e->open_fill, 0, EXT4W_BLOCK - e->open_fill);
	e->open_block = NULL;
}

static int open_block(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint32_t lblk)
{
	uint64_t blk;
	uint32_t one;
	uint8_t *p;

	close_block(e);
	int r = ext4w_take(e, 1, &blk, &one);

	if (r == 0)
		r = ext4w_stage(e, blk, 1, &p, &one);
	if (r < 0)
		return r;
	e->open_block = p;
	e->open_lblk = lblk;
	e->open_fill = 0;
	return ext4w_add_extent(e, n, lblk, blk, 1);
}

#define ZERO_RUN 16u /* blocks: shorter runs of zeros are not worth an extent */

static bool is_zero(const uint8_t *p, size_t n)
{
	return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* Whole blocks. */
static int write_blocks(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint32_t lblk, const uint8_t *p, uint32_t count)
{
	while (count) {
		uint32_t part = count, got, room;
		uint64_t blk;
		uint8_t *to;

		if (lblk % ZERO_RUN == 0 && count >= ZERO_RUN && is_zero(p, ZERO_RUN * EXT4W_BLOCK)) {
			lblk += ZERO_RUN;
			p += ZERO_RUN * EXT4W_BLOCK;
			count -= ZERO_RUN;
			continue;
		}
		/* Up to where the next run of zeros may start. */
		if (part > ZERO_RUN - lblk % ZERO_RUN)
			part = ZERO_RUN - lblk % ZERO_RUN;
		int r = ext4w_take(e, part, &blk, &got);

		if (r < 0)
			return r;
		r = ext4w_add_extent(e, n, lblk, blk, got);
		if (r < 0)
			return r;
		lblk += got;
		count -= got;
		while (got) {
			r = ext4w_stage(e, blk, got, &to, &room);
			if (r < 0)
				return r;
			memcpy(to, p, (size_t)room * EXT4W_BLOCK);
			p += (size_t)room * EXT4W_BLOCK;
			blk += room;
			got -= room;
		}
	}
	return 0;
}

int wslx_ext4_write(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint64_t off, const void *data, size_t len,
		    struct wslx_err *err)
{
	const uint8_t *p = data;
	uint64_t end;
	int r = 0;

	if (e->file != n) {
		if (e->file || !ext4w_is_reg(n) || n->n_extents)
			return wslx_err_set(err, EINVAL, "a file's content came out of order");
		e->file = n;
		e->file_pos = 0;
	}
	if (off < e->file_pos)
		return wslx_err_set(err, EBADMSG, "a file's parts overlap");
	if (__builtin_add_overflow(off, len, &end) || end / EXT4W_BLOCK >= UINT32_MAX)
		return wslx_err_set(err, EFBIG, "a file is larger than ext4 allows");
	e->bytes += len;
	while (len && r == 0) {
		uint32_t lblk = (uint32_t)(off / EXT4W_BLOCK), in = (uint32_t)(off % EXT4W_BLOCK);
		bool opened = e->open_block && e->open_lblk == lblk;
		size_t part;

		if (!opened && in == 0 && len >= EXT4W_BLOCK) {
			close_block(e);
			part = len - len % EXT4W_BLOCK;
			/* In pieces, so that the count fits and the walk stays bounded. */
			if (part > 64 * WSLX_MIB)
				part = 64 * WSLX_MIB;
			r = write_blocks(e, n, lblk, p, (uint32_t)(part / EXT4W_BLOCK));
		} else {
			if (!opened)
				r = open_block(e, n, lblk);
			if (r < 0)
				break;
			part = EXT4W_BLOCK - in;
			if (part > len)
				part = len;
			memset(e->open_block + e->open_fill, 0, in - e->open_fill);
			memcpy(e->open_block + in, p, part);
			e->open_fill = in + (uint32_t)part;
			if (e->open_fill == EXT4W_BLOCK)
				e->open_block = NULL;
		}
		off += part;
		p += part;
		len -= part;
	}
	e->file_pos = end;
	return r < 0 ? ext4w_fail(e, r, err) : 0;
}

int wslx_ext4_end_file(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint64_t size, struct wslx_err *err)
{
	close_block(e);
	if (e->file == n && size < e->file_pos)
		size = e->file_pos;
	e->file = NULL;
	if (size / EXT4W_BLOCK >= UINT32_MAX)
		return wslx_err_set(err, EFBIG, "a file is larger than ext4 allows");
	n->size = size;
	return 0;
}

uint64_t wslx_ext4_bytes(const struct wslx_ext4 *e)
{
	return e->bytes;
}

int wslx_ext4_read(struct wslx_ext4 *e, struct wslx_ext4_node *n, size_t max, char **ret, size_t *ret_len)
{
	char *text;
	int r;

	if (!ext4w_is_reg(n))
		return -EINVAL;
	if (n->size > max)
		return -EFBIG;
	r = ext4w_writer_drain(&e->out);
	if (r < 0)
		return r;
	text = calloc(1, (size_t)n->size + 1);
	if (!text)
		return -ENOMEM;
	for (uint32_t i = 0; i < n->n_extents && r == 0; i++) {
		const struct ext4w_extent *x = &n->extents[i];
		uint64_t off = (uint64_t)x->lblk * EXT4W_BLOCK, len = (uint64_t)x->len * EXT4W_BLOCK;

		if (off >= n->size)
			break;
		if (len > n->size - off)
			len = n->size - off;
		r = wslx_pread_full(e->fd, text + off, (size_t)len, (off_t)(x->pblk * EXT4W_BLOCK));
	}
	if (r < 0) {
		free(text);
		return r;
	}
	*ret = text;
	*ret_len = (size_t)n->size;
	return 0;
}
