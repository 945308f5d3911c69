/*
 * Block back ends: asynchronous storage behind a disk device.
 *
 * Threads: everything but opening and freeing happens on the thread of `loop`.
 * Opening makes all that is ever needed (rings, threads, buffers); do it
 * before the process confines itself.  Afterwards a back end uses only
 *   io_uring path:    io_uring_enter, read (of its eventfd)
 *   thread-pool path: preadv, preadv2, pwritev, pwritev2, fdatasync, fallocate,
 *                     futex, read and write (of its eventfd), ppoll
 * and never allocates.
 *
 * Trust boundary: offsets and lengths were checked against `size` by the
 * device; the back end checks again and answers -EINVAL.  The iovecs point
 * into guest memory, which the guest may change during the transfer.
 *
 * A full host disk (ENOSPC, EDQUOT) is no error: the request is parked and
 * tried again every second, with a rate-limited log line, until there is room.
 * Only a flush that finds it full fails, as after any other error: then what
 * had been accepted could not be written back, and is lost.
 */
#ifndef WSLX_DEV_BACKEND_BLOCK_H
#define WSLX_DEV_BACKEND_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/loop.h"
#include "base/macros.h"

#define WSLX_BLOCK_SECTOR 512u
#define WSLX_BLOCK_MAX_IOV 256u
#define WSLX_BLOCK_DEPTH 128u /* requests worked on at a time unless told otherwise */
#define WSLX_BLOCK_MAX_DEPTH 1024u

enum wslx_block_op {
	WSLX_BLOCK_READ,
	WSLX_BLOCK_WRITE,
	WSLX_BLOCK_FLUSH, /* all writes completed before this was submitted are stable */
	WSLX_BLOCK_DISCARD,
	WSLX_BLOCK_WRITE_ZEROES,
};

/* Owned by the submitter and left in place until done() is called. */
struct wslx_block_req {
	enum wslx_block_op op;
	bool unmap; /* WRITE_ZEROES: storage may be released */
	uint64_t off, len;
	/* READ, WRITE: covers len bytes.  The back end consumes the array. */
	struct iovec *iov;
	unsigned n_iov;
	/* result: 0 or -errno.  Loop thread, never from inside submit(). */
	void (*done)(struct wslx_block_req *r, int result);
	struct wslx_block_req *next; /* private to the back end */
};

struct wslx_block;

struct wslx_block_ops {
	void (*submit)(struct wslx_block *b, struct wslx_block_req *r);
	void (*commit)(struct wslx_block *b);
	void (*drain)(struct wslx_block *b, bool cancel);
	void (*resume)(struct wslx_block *b);
	void (*free)(struct wslx_block *b);
};

struct wslx_block_stats {
	uint64_t reads, writes, flushes, discards;
	uint64_t read_bytes, written_bytes;
	uint64_t errors;
	uint64_t syncs;       /* of the file; two for a flush of an overlay, none with no_sync */
	uint64_t parked;      /* requests waiting for room on the host's disk, now */
	uint64_t parked_ever; /* how often one had to wait */
};

struct wslx_block {
	const struct wslx_block_ops *ops;
	const char *engine; /* "io_uring" or "threads" */
	uint64_t size;      /* bytes, a multiple of 512 */
	bool readonly;
	uint32_t granularity; /* bytes: discards smaller than this do nothing */
	struct wslx_block_stats stats;
	/* Called after each batch of done() calls; set by the device.  May be NULL. */
	void (*batch_end)(void *opaque);
	void *batch_opaque;
	/* The host's disk is full and requests wait, or has room again: on the
	 * loop's thread, at each change.  Set by the owner; may be NULL. */
	void (*host_full)(void *opaque, bool full);
	void *host_full_opaque;
};

/* Queues r; nothing needs to start before commit. */
static inline void wslx_block_submit(struct wslx_block *b, struct wslx_block_req *r)
{
	b->ops->submit(b, r);
}

/* Starts what was submitted.  (Requests submitted from done() start by themselves.) */
static inline void wslx_block_commit(struct wslx_block *b)
{
	b->ops->commit(b);
}

/* Waits until nothing touches the submitters' buffers any more, calling done()
 * meanwhile.  Parked requests: with cancel they end with -ENOSPC; without,
 * they stay parked, untouched until resume.  Until then nothing is done that
 * was not submitted. */
static inline void wslx_block_drain(struct wslx_block *b, bool cancel)
{
	b->ops->drain(b, cancel);
}

/* After drain: go on. */
static inline void wslx_block_resume(struct wslx_block *b)
{
	b->ops->resume(b);
}

/* Drains with cancel, makes metadata stable, releases.  NULL is fine. */
static inline void wslx_block_free(struct wslx_block *b)
{
	if (b)
		b->ops->free(b);
}

struct wslx_raw_params {
	struct wslx_loop *loop; /* borrowed */
	int fd;                 /* regular file or block device; taken on success */
	bool readonly;
	bool no_io_uring; /* use the thread pool even if io_uring works */
	bool no_sync;     /* flush does nothing: for contents nobody needs after a power loss */
	unsigned depth;   /* 0 = WSLX_BLOCK_DEPTH */
};

/* -EINVAL: not a file or block device, or shorter than a sector; -EACCES:
 * descriptor not open for writing although not readonly. */
WSLX_MUST_CHECK int wslx_raw_open(const struct wslx_raw_params *p, struct wslx_block **ret);

#endif
