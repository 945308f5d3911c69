/* Shared by the ext4_*.c files; not for others. */
#ifndef WSLX_IMAGE_EXT4_INTERNAL_H
#define WSLX_IMAGE_EXT4_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ext2fs/ext2fs.h>

#include "image/ext4.h"

#define EXT4W_BLOCK 4096u
#define EXT4W_INODE 256u
#define EXT4W_EXTRA_ISIZE 32u
#define EXT4W_FIRST_INO 11u /* lost+found, if there is one, else the first file */
#define EXT4W_ROOT_INO 2u
#define EXT4W_NAME_MAX 255u
#define EXT4W_PATH_MAX 4095u
#define EXT4W_LINK_MAX 65000u
#define EXT4W_EXTENT_MAX 32768u /* blocks in one initialized extent */
#define EXT4W_CSUM_TAIL 12u     /* directory leaf: a fake entry that holds the checksum */

struct ext4w_extent {
	uint32_t lblk;
	uint32_t len;
	uint64_t pblk;
};

struct ext4w_xattr {
	struct ext4w_xattr *next;
	uint8_t index;
	uint8_t name_len;
	uint16_t value_len;
	char data[]; /* name, value */
};

struct ext4w_dentry {
	struct ext4w_dentry *prev, *next; /* within the folder, in order of arrival */
	struct ext4w_dentry *hash_next;
	struct wslx_ext4_node *dir;
	struct wslx_ext4_node *node;
	uint32_t hash, minor; /* half-MD4 of the name with the file system's seed */
	uint8_t name_len;
	char name[];
};

struct ext4w_dir {
	struct ext4w_dentry *first, *last;
	struct wslx_ext4_node *parent; /* the root is its own */
	struct wslx_ext4_node *queue;  /* next folder of a breadth-first walk */
	uint32_t count;
	uint32_t subdirs;
};

struct wslx_ext4_node {
	struct wslx_ext4_attr attr;
	uint32_t ino;    /* 0 until the tree is complete */
	uint32_t nlink;  /* names; a folder: 1 while it is in the tree */
	uint32_t pins;   /* wslx_ext4_pin */
	uint32_t blocks; /* data blocks */
	uint64_t size;
	uint64_t ea_block;
	struct ext4w_extent *extents;
	uint32_t n_extents, cap_extents;
	struct ext4w_xattr *xattrs;
	struct ext4w_dir *dir; /* S_IFDIR */
	char *target;          /* S_IFLNK */
};

/* The writer thread's buffers. */
#define EXT4W_BUFS 4u
#define EXT4W_BUF_SIZE ((size_t)2 << 20)

struct ext4w_buf {
	uint8_t *data;
	uint64_t off;
	size_t len;
};

struct ext4w_writer {
	int fd;
	bool started;
	pthread_t thread;
	pthread_mutex_t lock; /* guards what follows but the contents of the current buffer */
	pthread_cond_t work, idle;
	struct ext4w_buf buf[EXT4W_BUFS];
	unsigned head;   /* next for the thread */
	unsigned queued; /* from head on */
	int error;       /* first one; sticky */
	bool stop;
	unsigned cur;  /* builder's own: buffer being filled */
	bool cur_open; /* builder's own */
};

#define EXT4W_EA_CACHE 512u
struct ext4w_ea {
	uint8_t *data; /* one block */
	uint64_t pblk;
	uint32_t refs;
};

struct wslx_ext4 {
	int fd;
	ext2_filsys fs;
	bool read_only;
	uint64_t max_entries, max_memory, max_bytes;
	const char *place;
	const struct wslx_task *task;
	uint64_t entries, memory, allocated, bytes;
	int hash_version;

	/* tree */
	struct wslx_ext4_node *root;
	struct ext4w_dentry **table;
	size_t table_size; /* power of two */
	size_t n_dentries;
	char *cache_path; /* folder of the entry before */
	size_t cache_len;
	struct wslx_ext4_node *cache_dir;

	/* blocks: [run_done, run_at) taken but not yet in the bitmap, [run_at, run_end) free */
	uint64_t run_done, run_at, run_end;
	bool freed; /* since the walk over the free blocks began */
	struct ext4w_writer out;

	/* file being written */
	struct wslx_ext4_node *file;
	uint64_t file_pos;
	uint8_t *open_block; /* in the writer's current buffer; NULL = none */
	uint32_t open_lblk;
	uint32_t open_fill;

	/* finishing */
	struct wslx_ext4_node **inodes; /* [ino - EXT4W_FIRST_INO] */
	uint32_t n_inodes, cap_inodes;
	struct ext4w_ea ea[EXT4W_EA_CACHE];
};

static inline bool ext4w_is_dir(const struct wslx_ext4_node *n)
{
	return (n->attr.mode & LINUX_S_IFMT) == LINUX_S_IFDIR;
}

static inline bool ext4w_is_link(const struct wslx_ext4_node *n)
{
	return (n->attr.mode & LINUX_S_IFMT) == LINUX_S_IFLNK;
}

static inline bool ext4w_is_reg(const struct wslx_ext4_node *n)
{
	return (n->attr.mode & LINUX_S_IFMT) == LINUX_S_IFREG;
}

/* --- ext4.c --- */

/* malloc, zeroed, within the memory limit: NULL with errno ENOMEM or E2BIG. */
void *ext4w_alloc_mem(struct wslx_ext4 *e, size_t n);
void ext4w_free_mem(struct wslx_ext4 *e, void *p, size_t n);
/* Fills err for the codes that the limits and the file give. */
int ext4w_fail(struct wslx_ext4 *e, int r, struct wslx_err *err);

/* --- ext4_blocks.c --- */

WSLX_MUST_CHECK int ext4w_writer_start(struct ext4w_writer *w, int fd);
void ext4w_writer_stop(struct ext4w_writer *w);
/* Hands the current buffer to the thread. */
WSLX_MUST_CHECK int ext4w_writer_flush(struct ext4w_writer *w);
/* ... and waits until everything is in the file. */
WSLX_MUST_CHECK int ext4w_writer_drain(struct ext4w_writer *w);

/* Up to want adjacent blocks; at least one.  -ENOSPC: the disk is full;
 * -EDQUOT: max_bytes is reached. */
WSLX_MUST_CHECK int ext4w_take(struct wslx_ext4 *e, uint32_t want, uint64_t *ret_blk, uint32_t *ret_n);
/* Exactly want adjacent blocks. */
WSLX_MUST_CHECK int ext4w_take_run(struct wslx_ext4 *e, uint32_t want, uint64_t *ret_blk);
/* Notes what was taken in bitmap and group descriptors. */
void ext4w_commit_run(struct wslx_ext4 *e);
void ext4w_give_back(struct wslx_ext4 *e, uint64_t blk, uint32_t n);
/* Room for up to want blocks at blk in the current buffer: at least one.  The
 * bytes are whatever they were; the caller fills all of them before the next
 * call of a function here. */
WSLX_MUST_CHECK int ext4w_stage(struct wslx_ext4 *e, uint64_t blk, uint32_t want, uint8_t **ret, uint32_t *ret_n);
WSLX_MUST_CHECK int ext4w_add_extent(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint32_t lblk, uint64_t pblk,
				     uint32_t len);
/* One whole block of a node's content at lblk (== its number of blocks). */
WSLX_MUST_CHECK int ext4w_append_block(struct wslx_ext4 *e, struct wslx_ext4_node *n, const void *block);

/* --- ext4_tree.c --- */

WSLX_MUST_CHECK int ext4w_tree_init(struct wslx_ext4 *e);
void ext4w_tree_free(struct wslx_ext4 *e);
void ext4w_drop_content(struct wslx_ext4 *e, struct wslx_ext4_node *n);
/* Numbers the inodes into e->inodes, and links the folders by dir->queue. */
WSLX_MUST_CHECK int ext4w_tree_number(struct wslx_ext4 *e);

/* --- ext4_dir.c --- */

WSLX_MUST_CHECK int ext4w_dir_write(struct wslx_ext4 *e, struct wslx_ext4_node *dir, struct wslx_err *err);
uint32_t ext4w_csum(struct wslx_ext4 *e, uint32_t ino, const void *p, size_t n);

/* --- ext4_xattr.c --- */

void ext4w_xattrs_free(struct wslx_ext4 *e, struct wslx_ext4_node *n);
/* Puts a node's attributes into the inode's own room and, what does not fit,
 * into a block (n->ea_block), shared with others that have the same. */
WSLX_MUST_CHECK int ext4w_xattrs_write(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint8_t inode[EXT4W_INODE]);
WSLX_MUST_CHECK int ext4w_xattrs_flush(struct wslx_ext4 *e);

/* --- ext4_inode.c --- */

/* Writes all inodes and brings bitmaps and descriptors up to date. */
WSLX_MUST_CHECK int ext4w_inodes_write(struct wslx_ext4 *e, struct wslx_err *err);

#endif
