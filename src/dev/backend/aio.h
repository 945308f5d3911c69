/*
 * Asynchronous file I/O under the block back ends: one interface over
 * io_uring and a thread pool.  Private to this folder and its tests.
 *
 * Theory of operation.  The owner embeds wslx_aio_req in slots of its own and
 * keeps at most `depth` of them submitted.  An engine runs each request's
 * system call; wslx_aio_complete() on the loop thread then continues short
 * transfers, retries what was interrupted, falls back where the file system
 * cannot punch or zero, and parks requests that found the host's disk full.
 * A sync is never parked: whatever made it fail, data may be lost already.
 *
 * Threads: all calls on the loop's thread.  done() is called from the loop
 * (events, timers) or from wslx_aio_wait, never from submit or commit.
 */
#ifndef WSLX_DEV_BACKEND_AIO_H
#define WSLX_DEV_BACKEND_AIO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/loop.h"
#include "base/macros.h"
#include "dev/backend/block.h"

#define WSLX_AIO_MAX_FILES 2

enum wslx_aio_op {
	WSLX_AIO_READ, /* an end of file before len bytes is -EIO */
	WSLX_AIO_WRITE,
	WSLX_AIO_SYNC,  /* fdatasync; its first failure is its result, also a full disk */
	WSLX_AIO_PUNCH, /* release [off, off + len); reads as zeroes if must_zero */
	WSLX_AIO_ZERO,  /* zeroes, storage kept */
};

struct wslx_aio_req {
	enum wslx_aio_op op;
	unsigned file;
	bool must_zero;
	uint64_t off, len;
	struct iovec *iov; /* READ, WRITE: consumed; covers len bytes */
	unsigned n_iov;
	void (*done)(struct wslx_aio_req *r, int result);
	/* Private. */
	struct wslx_aio_req *next;
	int result;
	bool by_write; /* ZERO carried out as writes of zeroes */
	bool waited;   /* was parked once */
	struct iovec zero_iov;
};

struct wslx_aio;

struct wslx_aio_ops {
	const char *name;
	/* Takes r; runs it at the latest after commit. */
	void (*start)(struct wslx_aio *a, struct wslx_aio_req *r);
	/* 0, or -errno when it must be tried again. */
	int (*commit)(struct wslx_aio *a);
	/* Calls wslx_aio_complete for all that has ended; wait: for at least one. */
	void (*reap)(struct wslx_aio *a, bool wait);
	void (*free)(struct wslx_aio *a);
};

struct wslx_aio_list {
	struct wslx_aio_req *head, **tail;
};

struct wslx_aio {
	const struct wslx_aio_ops *ops;
	struct wslx_block *block; /* whose stats and batch_end to use */
	struct wslx_loop *loop;
	int fds[WSLX_AIO_MAX_FILES]; /* owned; -1 = none */
	unsigned depth, active;
	bool cancel, paused;
	bool ended; /* something was done in this batch */
	struct wslx_aio_list parked, deferred;
	struct wslx_timer *retry;    /* parked requests */
	struct wslx_timer *deliver;  /* deferred results */
	struct wslx_timer *recommit; /* the engine could not take all */
	bool full;                   /* the host's disk, as far as known */
	int64_t full_log_ms;         /* when that was last logged; 0 = never */
};

struct wslx_aio_params {
	struct wslx_loop *loop;
	struct wslx_block *block;
	int fds[WSLX_AIO_MAX_FILES]; /* taken on success */
	unsigned depth;
	bool no_io_uring;
};

/* io_uring if allowed and wanted, else threads. */
WSLX_MUST_CHECK int wslx_aio_new(const struct wslx_aio_params *p, struct wslx_aio **ret);
/* Nothing may be submitted any more. */
void wslx_aio_free(struct wslx_aio *a);

void wslx_aio_submit(struct wslx_aio *a, struct wslx_aio_req *r);
/* Ends r with result without any I/O, soon. */
void wslx_aio_defer(struct wslx_aio *a, struct wslx_aio_req *r, int result);
void wslx_aio_commit(struct wslx_aio *a);

/* Anything running or deferred?  Parked requests do not count. */
bool wslx_aio_busy(const struct wslx_aio *a);
/* Waits for at least one request to end, if any is busy. */
void wslx_aio_wait(struct wslx_aio *a);
/* From now on a full disk is an error; parked requests end with -ENOSPC. */
void wslx_aio_set_cancel(struct wslx_aio *a, bool cancel);
/* Parked requests are not retried while paused. */
void wslx_aio_set_paused(struct wslx_aio *a, bool paused);

/* For engines. */
int wslx_aio_init(struct wslx_aio *a, const struct wslx_aio_ops *ops, const struct wslx_aio_params *p);
void wslx_aio_fini(struct wslx_aio *a);
void wslx_aio_complete(struct wslx_aio *a, struct wslx_aio_req *r, int result);
/* The engine's descriptor was readable. */
void wslx_aio_event(struct wslx_aio *a);
WSLX_MUST_CHECK int wslx_aio_uring_new(const struct wslx_aio_params *p, struct wslx_aio **ret);
/* Test hook: tries to open a file through the ring, in which nothing else is.
 * The request's result: -EACCES, unless the restriction leaks. */
WSLX_MUST_CHECK int wslx_aio_uring_try_open(struct wslx_aio *a);
WSLX_MUST_CHECK int wslx_aio_threads_new(const struct wslx_aio_params *p, struct wslx_aio **ret);

/* Drops the first n bytes of an iovec array in place. */
void wslx_aio_advance(struct iovec **iov, unsigned *n_iov, uint64_t n);

#endif
