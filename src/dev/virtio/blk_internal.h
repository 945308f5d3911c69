/* Shared by the blk*.c files only. */
#ifndef WSLX_DEV_VIRTIO_BLK_INTERNAL_H
#define WSLX_DEV_VIRTIO_BLK_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "dev/dev.h"
#include "dev/virtio/blk.h"

/* virtio 1.2, 5.2.3: feature bits. */
#define BLK_F_SEG_MAX (1ull << 2)
#define BLK_F_RO (1ull << 5)
#define BLK_F_BLK_SIZE (1ull << 6)
#define BLK_F_FLUSH (1ull << 9)
#define BLK_F_TOPOLOGY (1ull << 10)
#define BLK_F_CONFIG_WCE (1ull << 11)
#define BLK_F_MQ (1ull << 12)
#define BLK_F_DISCARD (1ull << 13)
#define BLK_F_WRITE_ZEROES (1ull << 14)

/* 5.2.6: request types and status. */
#define BLK_T_IN 0u
#define BLK_T_OUT 1u
#define BLK_T_FLUSH 4u
#define BLK_T_GET_ID 8u
#define BLK_T_DISCARD 11u
#define BLK_T_WRITE_ZEROES 13u
#define BLK_S_OK 0u
#define BLK_S_IOERR 1u
#define BLK_S_UNSUPP 2u
#define BLK_WZ_F_UNMAP 1u

#define BLK_HDR_LEN 16u
#define BLK_SEG_LEN 16u
#define BLK_QUEUE_SIZE 256u
/* Of the walker's buffers one is the header, one the status. */
#define BLK_SEG_MAX (WSLX_VQ_MAX_CHAIN - 2)
#define BLK_MAX_RANGES 32u             /* in one discard or write-zeroes request */
#define BLK_MAX_RANGE_SECTORS 4194304u /* 2 GiB */
/* What the back end gets at a time of one request, in bytes.  Between two
 * slices a pause or a reset is seen, however much the request asks for.  Larger
 * than what Linux sends by default (1280 KiB, later 4 MiB), so mostly there is
 * one slice. */
#define BLK_SLICE (4 * WSLX_MIB)
#define BLK_SLICE_ZEROES (16 * WSLX_MIB)
#define BLK_SLICE_DISCARD (128 * WSLX_MIB)
#define BLK_SLICE_ALIGN WSLX_MIB /* where one ends: no back end's cluster is cut */
/* All slices under way: what a pause waits for. */
#define BLK_MAX_IN_FLIGHT (64 * WSLX_MIB)
#define BLK_CONFIG_LEN 96u
#define BLK_CONFIG_WRITEBACK 32u

struct blk;

/* A request from its pop to its push. */
struct blk_slot {
	struct wslx_block_req b;
	struct blk *blk;
	struct blk_slot *next;
	uint16_t queue;
	uint32_t type;
	uint64_t sector;
	uint64_t data_len; /* bytes read into or written from the data buffers */
	uint8_t *status;   /* in guest memory */
	bool flushing;     /* write-through: the data is written, the flush runs */
	/* What is left of the data, or of the current range, and where its slice
	 * is to be cut from: iov (NULL for a range) behind `passed` bytes. */
	enum wslx_block_op op;
	uint64_t off, left, passed;
	struct iovec *iov;
	unsigned n_iov;
	uint64_t weight; /* of the slice under way, in blk->in_flight */
	unsigned range, n_ranges;
	uint8_t ranges[BLK_MAX_RANGES * BLK_SEG_LEN]; /* copied once */
	struct wslx_chain chain;
	struct iovec slice[WSLX_VQ_MAX_CHAIN];
};

struct blk {
	struct wslx_vdev d;
	char name[32];
	char serial[WSLX_BLK_SERIAL_LEN];
	struct wslx_block *backend;
	bool readonly;
	bool writeback; /* as configured by the driver */
	bool paused;
	bool processing;
	uint32_t starved;   /* bit a queue: has requests, but no slot or no time was left */
	uint64_t in_flight; /* bytes */
	uint32_t pushed;    /* bit a queue: used buffers not announced yet */
	struct wslx_timer *work;
	unsigned depth, n_slots;
	struct blk_slot *slots, *free_slots;
	struct blk_slot *held; /* given up for a pause, to be done after it */
	uint64_t bad_requests;
	uint64_t window_bytes; /* of reads and writes: from and to Portal's window itself */
};

static inline struct blk *blk_of(struct wslx_vdev *d)
{
	return CONTAINER_OF(d, struct blk, d);
}

/* blk_config.c */
uint64_t wslx_blk_features(struct wslx_vdev *d);
void wslx_blk_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len);
void wslx_blk_config_write(struct wslx_vdev *d, uint32_t off, const void *buf, uint32_t len);
/* Must a write be stable when it is reported done? (5.2.5.2) */
bool wslx_blk_write_through(const struct blk *blk);

/* blk_req.c: takes up the request in s->chain.  Returns false when the chain
 * is malformed beyond an answer. */
WSLX_MUST_CHECK bool wslx_blk_request(struct blk_slot *s);

/* blk.c: gives the chain back with a status. */
void wslx_blk_finish(struct blk_slot *s, uint8_t status);
/* A request that a pause or a reset cut short: after a pause it starts anew. */
void wslx_blk_hold(struct blk_slot *s);

#endif
