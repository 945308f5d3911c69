/*
 * Reading an ext4 file system that someone hostile made: where the data of an
 * inode lies, what a folder names, where a path leads.
 *
 * libext2fs follows a tree of blocks wherever it leads, and each node of it may
 * name one child many times: some hundred bytes then are work for years.  Here
 * each node and piece counts against the blocks that there are, must come
 * behind the one before, and is a chance to be cancelled.  How many blocks there
 * are is the file system's own word too, which a sparse file makes cheap: so
 * there is a number as well that none of them may exceed.
 */
#ifndef WSLX_IMAGE_WALK_H
#define WSLX_IMAGE_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ext2fs/ext2fs.h>

#include "base/err.h"
#include "base/macros.h"
#include "image/task.h"

#define WSLX_WALK_TARGET_MAX 4095u

/* How much may be visited, whatever the file system claims. */
struct wslx_walk_limits {
	unsigned times;  /* how often each of its blocks */
	uint64_t pieces; /* nodes and pieces of data, all in all */
	uint64_t blocks; /* of folders: the same */
};

struct wslx_walk {
	ext2_filsys fs;
	const struct wslx_task *task;
	const char *subject; /* for messages: "the disk's file system" */
	const char *path;    /* the same: what is looked at */
	uint64_t pieces;     /* nodes and pieces of data that may still be visited */
	uint64_t blocks;     /* of folders: the same */
	uint64_t visits;     /* of all blocks, as often as one may be visited */
	struct wslx_walk_limits limits;
	unsigned steps;
	struct wslx_err *err;
};

void wslx_walk_init(struct wslx_walk *w, ext2_filsys fs, const struct wslx_walk_limits *limits);

/* "SUBJECT is damaged: PATH: what": -EBADMSG. */
int wslx_walk_damaged(const struct wslx_walk *w, const char *what);
/* "SUBJECT is too much to look through: PATH: more than LIMIT things": -E2BIG. */
int wslx_walk_too_much(const struct wslx_walk *w, uint64_t limit, const char *things);
int wslx_walk_ext2_error(const struct wslx_walk *w, errcode_t c);

/* --- walk.c --- */

struct wslx_run {
	uint64_t lblk, pblk, len;
};

/* In order, within the disk, and none behind the file's size. */
struct wslx_runs {
	struct wslx_run *v;
	size_t n, cap;
	uint64_t blocks; /* in all runs */
};

/* Of an inode without inline data.  max_blocks: more than that is damage.
 * -E2BIG: too many pieces.  On an error too, free ret->v. */
WSLX_MUST_CHECK int wslx_walk_runs(struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *inode,
				   uint64_t max_blocks, struct wslx_runs *ret);
/* -ECANCELED, now and then. */
WSLX_MUST_CHECK int wslx_walk_step(struct wslx_walk *w);

/* --- walk_dir.c --- */

/* One name, "." and ".." too, not NUL-terminated; anything but 0 ends the walk. */
typedef int (*wslx_walk_name_fn)(ext2_ino_t ino, const char *name, size_t len, void *opaque);

/* 0, or what fn returned; -E2BIG: too many blocks, of all folders that were walked. */
WSLX_MUST_CHECK int wslx_walk_folder(struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *inode,
				     wslx_walk_name_fn fn, void *opaque);
WSLX_MUST_CHECK int wslx_walk_inode(const struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *ret);
/* The first size bytes of small content, wherever it is. */
WSLX_MUST_CHECK int wslx_walk_read(const struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *inode, void *buf,
				   size_t size);
/* A symbolic link's target; ret holds WSLX_WALK_TARGET_MAX + 1 bytes. */
WSLX_MUST_CHECK int wslx_walk_target(const struct wslx_walk *w, ext2_ino_t ino, struct ext2_inode_large *inode,
				     char *ret);
/* Is there something under this absolute path, links followed?  1, 0; -errno. */
WSLX_MUST_CHECK int wslx_walk_exists(struct wslx_walk *w, const char *path);

#endif
