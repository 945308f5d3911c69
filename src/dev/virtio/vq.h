/*
 * Split virtqueues (virtio 1.2, section 2.7), device side: one checked queue
 * selector and one bounded chain walker serve all devices.
 *
 * Trust boundary: the rings and descriptors live in guest memory.  A
 * descriptor is copied once and validated as a copy; a chain has at most
 * WSLX_VQ_MAX_CHAIN buffers whatever its links say; every buffer is inside
 * guest memory when wslx_vq_pop returns it; readable buffers come before
 * writable ones.  Indices are masked by the ring size fixed at enable time.
 *
 * Threads: a queue is used by its device's loop thread only.
 */
#ifndef WSLX_DEV_VIRTIO_VQ_H
#define WSLX_DEV_VIRTIO_VQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/macros.h"
#include "mem/gm.h"

#define WSLX_VQ_MAX_CHAIN 256 /* buffers in one chain, indirect ones included */

struct wslx_vq {
	bool enabled;
	bool event_idx;
	uint16_t size; /* power of two, 1..WSLX_VQ_MAX_SIZE */
	struct wslx_gpa desc, avail, used;
	const struct wslx_gm *gm;
	/* Host pointers to the rings, checked once at enable for their whole length. */
	void *desc_hva, *avail_hva, *used_hva;
	uint16_t last_avail; /* next avail index to take */
	uint16_t used_idx;   /* next used index to publish */
	uint16_t signalled;  /* used index at the last notification (EVENT_IDX) */
	bool signalled_valid;
};

struct wslx_chain {
	uint16_t head;
	unsigned n_out, n_in; /* iov[0..n_out) readable by the device, then n_in writable */
	uint64_t out_len, in_len;
	struct iovec iov[WSLX_VQ_MAX_CHAIN];
};

/* Checks addresses, alignment and size and enables the queue with fresh
 * indices.  0, -EINVAL or -EFAULT. */
WSLX_MUST_CHECK int wslx_vq_enable(struct wslx_vq *vq, const struct wslx_gm *gm, uint16_t size, struct wslx_gpa desc,
				   struct wslx_gpa avail, struct wslx_gpa used, bool event_idx);
void wslx_vq_disable(struct wslx_vq *vq);

/* Takes the next available chain.  1: *chain is filled; 0: empty; -errno:
 * malformed, the device must be marked broken. */
WSLX_MUST_CHECK int wslx_vq_pop(struct wslx_vq *vq, struct wslx_chain *chain);
/* Walks again the chain of a head that was popped and not pushed yet.  0 or -errno. */
WSLX_MUST_CHECK int wslx_vq_rewalk(struct wslx_vq *vq, uint16_t head, struct wslx_chain *chain);
/* Puts back the chain popped last (nothing pushed since).  Several times in a
 * row: the last ones, newest first. */
void wslx_vq_unpop(struct wslx_vq *vq);
/* Returns a chain to the driver; written: bytes stored into its writable part. */
void wslx_vq_push(struct wslx_vq *vq, uint16_t head, uint32_t written);
/* The same for n chains that the driver must find used all at once (5.1.6.4).
 * n <= the ring's size, which holds for chains that were popped. */
void wslx_vq_push_many(struct wslx_vq *vq, const uint16_t *heads, const uint32_t *written, unsigned n);
/* Did pushes since the last call cross what the driver wants to hear of?
 * Includes the barrier of 2.7.7.2. */
WSLX_MUST_CHECK bool wslx_vq_should_notify(struct wslx_vq *vq);
/* Ask for / do without kicks.  enable returns true if buffers arrived in
 * between: poll again. */
WSLX_MUST_CHECK bool wslx_vq_enable_kick(struct wslx_vq *vq);
void wslx_vq_disable_kick(struct wslx_vq *vq);

/* Byte cursors over part of a chain: copy and advance; return bytes copied,
 * which is less than n only at the end of the buffers. */
size_t wslx_iov_read(const struct iovec *iov, unsigned n_iov, uint64_t off, void *buf, size_t n);
size_t wslx_iov_write(const struct iovec *iov, unsigned n_iov, uint64_t off, const void *buf, size_t n);

#endif
