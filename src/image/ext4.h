/*
 * Writing a whole ext4 file system in one pass.
 *
 * Theory of operation.  mke2fs(8) makes an empty file system in the caller's
 * file.  The tree of names and inodes is then built up in memory while file
 * contents stream straight to their final blocks, one file after the other, so
 * that each file is one run of blocks unless it has holes.  Directories,
 * extent trees, extended attributes and the inode table are written at the
 * end, when every number in them is known: each directory whole, sorted by
 * hash, with its index; each inode table block once.  Bitmaps, group
 * descriptors and superblock are libext2fs's.
 *
 * Memory: about 300 bytes an inode with one name; accounted for, with a limit.
 *
 * Threads: the caller's thread builds; one thread of ours writes buffers to
 * the file.  Every call is made on the caller's thread.
 *
 * Trust boundary: names, sizes, targets and attributes may come from a hostile
 * archive.  Paths are resolved inside the tree only: `..` in an entry's name is
 * refused, links are followed as in a chroot.
 */
#ifndef WSLX_IMAGE_EXT4_H
#define WSLX_IMAGE_EXT4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/err.h"
#include "base/macros.h"
#include "image/task.h"

struct wslx_ext4;
struct wslx_ext4_node; /* an inode */

struct wslx_ext4_params {
	int fd;               /* empty regular file, O_RDWR; borrowed */
	uint64_t size;        /* bytes; rounded down to 4096 */
	const char *label;    /* volume label; NULL = none */
	bool read_only;       /* no journal, no room to grow: for images that are only read */
	uint64_t inodes;      /* at least this many; 0 = by size */
	uint64_t max_entries; /* 0 = no limit */
	uint64_t max_memory;  /* bytes; 0 = no limit */
	uint64_t max_bytes;   /* of data blocks written; 0 = no limit */
	const char *place;    /* for messages: the folder that fd is in; NULL = not said; lives as long as the writer */
	const struct wslx_task *task;
};

struct wslx_ext4_attr {
	uint32_t mode; /* type and permissions */
	uint32_t uid, gid;
	struct timespec mtime, atime, ctime;
	uint32_t rdev_major, rdev_minor; /* character and block devices */
};

WSLX_MUST_CHECK int wslx_ext4_new(const struct wslx_ext4_params *p, struct wslx_ext4 **ret, struct wslx_err *err);
/* Frees without finishing: the file's content is then worthless.  NULL is fine. */
void wslx_ext4_free(struct wslx_ext4 *e);

/* Makes the entry `path` as tar(1) would with --keep-directory-symlink:
 * missing parents are made, a file replaces what is there but for a folder
 * that is not empty, a folder is merged with the one that is there.  *ret is
 * NULL when a symbolic link to a folder stands in a folder's place: it stays,
 * and so do the attributes of what it points to. */
WSLX_MUST_CHECK int wslx_ext4_add(struct wslx_ext4 *e, const char *path, const struct wslx_ext4_attr *attr,
				  const char *symlink_target, struct wslx_ext4_node **ret, struct wslx_err *err);
/* A further name for the file `target`. */
WSLX_MUST_CHECK int wslx_ext4_link(struct wslx_ext4 *e, const char *path, const char *target, struct wslx_err *err);

/* Content of a regular file just added, in ascending order; what is left out
 * becomes a hole.  Only one file at a time; end gives it its size. */
WSLX_MUST_CHECK int wslx_ext4_write(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint64_t off, const void *data,
				    size_t len, struct wslx_err *err);
WSLX_MUST_CHECK int wslx_ext4_end_file(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint64_t size,
				       struct wslx_err *err);

/* name: full ("security.capability").  -EOPNOTSUPP when ext4 has no place for
 * such a name, -E2BIG when all of a file's attributes exceed one block, -ENOBUFS
 * over the memory limit. */
WSLX_MUST_CHECK int wslx_ext4_xattr(struct wslx_ext4 *e, struct wslx_ext4_node *n, const char *name, const void *value,
				    size_t len);

/* Follows links inside the tree; NULL when there is no such file. */
struct wslx_ext4_node *wslx_ext4_lookup(struct wslx_ext4 *e, const char *path);
uint32_t wslx_ext4_mode(const struct wslx_ext4_node *n);
/* rwx of the group: the mask, where there is an ACL. */
void wslx_ext4_set_group_bits(struct wslx_ext4_node *n, uint32_t rwx);
/* A regular file's content, NUL-terminated; -EFBIG past max.  Caller frees. */
WSLX_MUST_CHECK int wslx_ext4_read(struct wslx_ext4 *e, struct wslx_ext4_node *n, size_t max, char **ret,
				   size_t *ret_len);

/* Writes all metadata.  Afterwards only wslx_ext4_free. */
WSLX_MUST_CHECK int wslx_ext4_finish(struct wslx_ext4 *e, struct wslx_err *err);

/* Keeps a node from being freed when its last name goes. */
void wslx_ext4_pin(struct wslx_ext4_node *n);
/* False: it had no name left, and is gone now. */
bool wslx_ext4_unpin(struct wslx_ext4 *e, struct wslx_ext4_node *n);

/* Zeroed memory for what is kept about the tree, within max_memory: NULL with
 * errno ENOMEM or E2BIG.  n: the same for both; NULL is fine. */
void *wslx_ext4_alloc(struct wslx_ext4 *e, size_t n);
void wslx_ext4_release(struct wslx_ext4 *e, void *p, size_t n);

/* File data accepted so far. */
uint64_t wslx_ext4_bytes(const struct wslx_ext4 *e);

#endif
