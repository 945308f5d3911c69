/* The whole of it: mke2fs, limits, finishing.  See ext4.h. */
#include "image/ext4_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/arith.h"
#include "image/place.h"
#include "image/proc.h"

#define FEATURES                                                                                                       \
	"none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,"           \
	"extra_isize,metadata_csum"
#define JOURNAL_MIB 64
#define MALLOC_OVERHEAD 16

static const char plain_features[] = FEATURES;
static const char journal_features[] = FEATURES ",has_journal";

void *ext4w_alloc_mem(struct wslx_ext4 *e, size_t n)
{
	if (e->max_memory && e->memory + n + MALLOC_OVERHEAD > e->max_memory) {
		errno = E2BIG;
		return NULL;
	}
	void *p = calloc(1, n);

	if (p)
		e->memory += n + MALLOC_OVERHEAD;
	else
		errno = ENOMEM;
	return p;
}

void ext4w_free_mem(struct wslx_ext4 *e, void *p, size_t n)
{
	if (!p)
		return;
	free(p);
	e->memory -= n + MALLOC_OVERHEAD;
}

void *wslx_ext4_alloc(struct wslx_ext4 *e, size_t n)
{
	return ext4w_alloc_mem(e, n);
}

void wslx_ext4_release(struct wslx_ext4 *e, void *p, size_t n)
{
	ext4w_free_mem(e, p, n);
}

/* What an empty file system takes is what must be free. */
static bool host_full(int fd)
{
	struct statvfs vfs;

	return fstatvfs(fd, &vfs) == 0 && vfs.f_blocks && (uint64_t)vfs.f_bavail * vfs.f_frsize < 16 * WSLX_MIB;
}

int ext4w_fail(struct wslx_ext4 *e, int r, struct wslx_err *err)
{
	switch (r) {
	case -E2BIG:
		return wslx_err_set(err, E2BIG,
				    "too many entries: more than %" PRIu64 ", or more than %" PRIu64
				    " MiB of names and attributes",
				    e->max_entries, e->max_memory >> 20);
	case -EDQUOT:
		/* Without an explicit limit this is what the host had free, less a reserve. */
		return wslx_err_set(err, ENOSPC,
				    "the content does not fit: there is space for %" PRIu64
				    " MiB on the host" WSLX_PLACE_FMT " and for %u files on the disk",
				    e->max_bytes >> 20, WSLX_PLACE(e->place), e->fs->super->s_inodes_count);
	case -ENOSPC:
		if (host_full(e->fd))
			return wslx_err_set(err, ENOSPC, "no space left on the host's disk" WSLX_PLACE_FMT,
					    WSLX_PLACE(e->place));
		return wslx_err_set(err, ENOSPC, "the content does not fit a disk of %llu MiB",
				    ext2fs_blocks_count(e->fs->super) * EXT4W_BLOCK >> 20);
	case -ECANCELED:
		return wslx_err_set(err, ECANCELED, "interrupted");
	default:
		return wslx_err_sys(err, -r, "cannot write the disk image");
	}
}

static int make_fs(const struct wslx_ext4_params *p, struct wslx_err *err)
{
	char path[64], size[32], ratio[32], journal[32];
	/* One inode per 16 KiB as usual; less on disks of which most stays empty. */
	uint64_t per_inode = p->size >= 256 * WSLX_GIB ? 32768 : 16384;
	const char *argv[32] = { "mke2fs",
				 "-q",
				 "-F",
				 "-t",
				 "ext4",
				 "-b",
				 "4096",
				 "-I",
				 "256",
				 "-m",
				 "0",
				 "-e",
				 "remount-ro",
				 "-O",
				 plain_features,
				 "-i",
				 ratio,
				 "-E",
				 "lazy_itable_init=1,lazy_journal_init=1,nodiscard" };
	size_t n = 19;
	const char *env[] = { "MKE2FS_CONFIG=/dev/null", "MKE2FS_SYNC=0", NULL };

	while (p->inodes && per_inode > 1024 && p->size / per_inode < p->inodes + 64)
		per_inode /= 2;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->fd);
	snprintf(size, sizeof(size), "%" PRIu64 "k", p->size / 1024);
	snprintf(ratio, sizeof(ratio), "%" PRIu64, per_inode);
	if (!p->read_only) {
		snprintf(journal, sizeof(journal), "size=%u", p->size >= 2 * WSLX_GIB ? JOURNAL_MIB : 4u);
		argv[n++] = "-J";
		argv[n++] = journal;
		argv[14] = journal_features;
	}
	if (p->label) {
		argv[n++] = "-L";
		argv[n++] = p->label;
	}
	argv[n++] = path;
	argv[n++] = size;

	struct wslx_proc_params run = {
		.argv = argv, .package = "e2fsprogs", .env = env, .keep_fd = p->fd, .dir_fd = -1, .stdout_fd = -1
	};

	int r = wslx_proc_run(&run, p->task, NULL, err);

	/* It says "short write" and the like. */
	if (r == -ENOSPC || (r == -ECHILD && host_full(p->fd)))
		r = wslx_err_set(err, ENOSPC, "no space left on the host's disk" WSLX_PLACE_FMT, WSLX_PLACE(p->place));
	return r;
}

static int open_fs(struct wslx_ext4 *e, struct wslx_err *err)
{
	char path[64];
	errcode_t c;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", e->fd);
	c = ext2fs_open(path, EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &e->fs);
	if (!c)
		c = ext2fs_read_bitmaps(e->fs);
	if (c)
		return wslx_err_set(err, EIO, "cannot open the new file system: %s", error_message(c));
	const struct ext2_super_block *sb = e->fs->super;

	if (e->fs->blocksize != EXT4W_BLOCK || EXT2_INODE_SIZE(sb) != EXT4W_INODE ||
	    sb->s_first_ino != EXT4W_FIRST_INO || !ext2fs_has_feature_metadata_csum(e->fs->super) ||
	    sb->s_def_hash_version != EXT2_HASH_HALF_MD4)
		return wslx_err_set(err, EIO, "mke2fs made another kind of file system than asked for");
	e->hash_version = EXT2_HASH_HALF_MD4 + (sb->s_flags & EXT2_FLAGS_UNSIGNED_HASH ? 3 : 0);
	return 0;
}

/* mke2fs's root and lost+found give their blocks back: ours take their place. */
static int drop_initial(struct wslx_ext4 *e, struct wslx_err *err)
{
	static const ext2_ino_t inos[] = { EXT4W_ROOT_INO, EXT4W_FIRST_INO };

	for (size_t i = 0; i < ARRAY_SIZE(inos); i++) {
		struct ext2_inode inode;
		ext2_extent_handle_t h;
		struct ext2fs_extent x;
		errcode_t c = ext2fs_read_inode(e->fs, inos[i], &inode);

		if (!c)
			c = ext2fs_extent_open2(e->fs, inos[i], &inode, &h);
		if (c)
			return wslx_err_set(err, EIO, "cannot read the new file system: %s", error_message(c));
		for (c = ext2fs_extent_get(h, EXT2_EXTENT_ROOT, &x); !c; c = ext2fs_extent_get(h, EXT2_EXTENT_NEXT, &x))
			if ((x.e_flags & EXT2_EXTENT_FLAGS_LEAF) && !(x.e_flags & EXT2_EXTENT_FLAGS_SECOND_VISIT))
				ext2fs_block_alloc_stats_range(e->fs, x.e_pblk, x.e_len, -1);
		ext2fs_extent_free(h);
	}
	return 0;
}

int wslx_ext4_new(const struct wslx_ext4_params *p, struct wslx_ext4 **ret, struct wslx_err *err)
{
	struct wslx_ext4_params params = *p;
	struct wslx_ext4 *e;
	struct stat st;
	int r;

	initialize_ext2_error_table();
	params.size &= ~(uint64_t)(EXT4W_BLOCK - 1);
	if (fstat(p->fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size != 0)
		return wslx_err_set(err, EINVAL, "a disk image is made in an empty regular file only");
	if (ftruncate(p->fd, (off_t)params.size) < 0)
		return wslx_err_sys(err, errno, "cannot make a disk image of %" PRIu64 " GiB", params.size >> 30);
	r = make_fs(&params, err);
	if (r < 0)
		return r;
	e = calloc(1, sizeof(*e));
	if (!e)
		return wslx_err_sys(err, ENOMEM, "cannot make a disk image");
	e->fd = p->fd;
	e->read_only = p->read_only;
	e->max_entries = p->max_entries;
	e->max_memory = p->max_memory;
	e->max_bytes = p->max_bytes;
	e->place = p->place;
	e->task = p->task;
	r = open_fs(e, err);
	if (r == 0)
		r = drop_initial(e, err);
	if (r == 0) {
		r = ext4w_tree_init(e);
		if (r == 0)
			r = ext4w_writer_start(&e->out, e->fd);
		if (r < 0)
			r = ext4w_fail(e, r, err);
	}
	if (r < 0) {
		wslx_ext4_free(e);
		return r;
	}
	*ret = e;
	return 0;
}

void wslx_ext4_free(struct wslx_ext4 *e)
{
	if (!e)
		return;
	ext4w_writer_stop(&e->out);
	ext4w_tree_free(e);
	for (size_t i = 0; i < EXT4W_EA_CACHE; i++)
		free(e->ea[i].data);
	free(e->inodes);
	if (e->fs) {
		/* Finished or not: nothing more goes to the file. */
		e->fs->flags &= ~(EXT2_FLAG_DIRTY | EXT2_FLAG_CHANGED | EXT2_FLAG_BB_DIRTY | EXT2_FLAG_IB_DIRTY);
		ext2fs_free(e->fs);
	}
	free(e);
}

int wslx_ext4_finish(struct wslx_ext4 *e, struct wslx_err *err)
{
	int r = ext4w_tree_number(e);

	if (r < 0)
		return ext4w_fail(e, r, err);
	for (struct wslx_ext4_node *dir = e->root; dir; dir = dir->dir->queue) {
		if (wslx_task_cancelled(e->task))
			return ext4w_fail(e, -ECANCELED, err);
		r = ext4w_dir_write(e, dir, err);
		if (r < 0)
			return r;
	}
	r = ext4w_inodes_write(e, err);
	if (r < 0)
		return r;
	/* The backups of superblock and descriptors stay as mke2fs wrote them: they
	 * describe the same layout, and fsck recounts what has changed since. */
	e->fs->flags |= EXT2_FLAG_MASTER_SB_ONLY;
	errcode_t c = ext2fs_write_bitmaps(e->fs);

	if (!c)
		c = ext2fs_flush2(e->fs, EXT2_FLAG_FLUSH_NO_SYNC);
	if (c)
		return c == ENOSPC || c == EIO
			       ? ext4w_fail(e, -(int)c, err)
			       : wslx_err_set(err, EIO, "cannot complete the file system: %s", error_message(c));
	return 0;
}
