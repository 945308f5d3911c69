/* Shared by the overlay*.c files and their tests. */
#ifndef WSLX_DEV_BACKEND_OVERLAY_INTERNAL_H
#define WSLX_DEV_BACKEND_OVERLAY_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "dev/backend/aio.h"
#include "dev/backend/overlay.h"

/* File layout; docs/overlay-format.md. */
#define OV_MAGIC_LEN 8u /* "WSLXOVLY" */
#define OV_VERSION 1u
#define OV_HEADER_LEN 4096u
#define OV_CLUSTER_BITS 16u
#define OV_CLUSTER WSLX_OVERLAY_CLUSTER
#define OV_TABLE_OFFSET OV_CLUSTER
#define OV_PAGE ((uint64_t)4096) /* the table is written in pages */
#define OV_PER_PAGE (OV_PAGE / 8)

/* Table entries; any other value is the file offset of a cluster. */
#define OV_UNMAPPED 0u
#define OV_ZERO 1u

/* Everything follows from the virtual size. */
struct ov_geometry {
	uint64_t virtual_size;
	uint64_t n_entries;
	uint64_t n_pages; /* of the table */
	uint64_t data_offset;
	uint64_t max_clusters; /* in the file */
};

/* The checked copy of a file's table, and which of its clusters are taken. */
struct ov_map {
	struct ov_geometry g;
	uint64_t *table; /* n_pages * OV_PER_PAGE entries, host byte order */
	uint64_t *used;  /* bitmap of max_clusters bits */
	uint64_t n_mapped, n_zero, n_used;
	uint64_t file_size;
};

static inline uint64_t ov_bytes_of_bits(uint64_t bits)
{
	return (bits + 63) / 64 * 8;
}

static inline bool ov_bit(const uint64_t *map, uint64_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static inline void ov_bit_set(uint64_t *map, uint64_t i)
{
	map[i / 64] |= (uint64_t)1 << (i % 64);
}

static inline void ov_bit_clear(uint64_t *map, uint64_t i)
{
	map[i / 64] &= ~((uint64_t)1 << (i % 64));
}

/* First i in [from, n) whose bit is `value`, else n. */
uint64_t wslx_ov_bit_find(const uint64_t *map, uint64_t from, uint64_t n, bool value);

/* Address space that costs memory only where it is touched. */
WSLX_MUST_CHECK int wslx_ov_reserve(uint64_t bytes, void *ret);
void wslx_ov_release(void *p, uint64_t bytes);

WSLX_MUST_CHECK int wslx_ov_geometry(uint64_t virtual_size, struct ov_geometry *ret);
/* Reads and checks header and table.  Free the map in any case. */
WSLX_MUST_CHECK int wslx_ov_load(int fd, struct ov_map *ret, struct wslx_err *err);
void wslx_ov_map_free(struct ov_map *m);

#define OV_MAX_BOUNCE 16u
/* A table that changed is written after this time even if nobody flushes. */
#define OV_IDLE_COMMIT_MS 5000u

struct overlay;

/* One request of the device being worked on. */
struct ov_slot {
	struct wslx_aio_req a;
	struct wslx_block_req *req;
	struct overlay *ov;
	struct ov_slot *next; /* free, flush or space list */
	bool active;          /* holds [first, last] */
	bool exclusive;       /* changes the mapping of these clusters */
	uint64_t first, last; /* clusters */
	uint64_t off, len;    /* what is left of the request */
	struct iovec *iov;
	unsigned n_iov;
	uint8_t *bounce; /* one cluster; exclusive writes only */
	/* The step in progress. */
	void (*step_done)(struct ov_slot *s);
	uint64_t step_len;
	uint64_t cluster, phys, n_clusters; /* being allocated */
	struct iovec bounce_iov;
	struct iovec sub[WSLX_BLOCK_MAX_IOV];
};

enum ov_commit_state { OV_IDLE, OV_SYNC_DATA, OV_WRITE_TABLE, OV_SYNC_TABLE, OV_PUNCH };

struct ov_commit {
	struct wslx_aio_req a;
	enum ov_commit_state state;
	uint64_t *shadow;  /* copies of the pages being written */
	uint64_t *pages;   /* bitmap: still to be written */
	uint64_t *freeing; /* bitmap: clusters that are free once the table is stable */
	uint64_t next_page, next_cluster;
	uint64_t run; /* pages or clusters in the request under way */
	bool wrote;
	bool again; /* wanted once more afterwards */
	struct iovec iov;
	struct ov_slot *flushes; /* answered by this commit */
};

struct overlay {
	struct wslx_block b;
	struct wslx_aio *aio;
	struct ov_map map;
	uint64_t base_size; /* 0 = no base */
	bool no_sync;
	int failed;   /* -errno of a commit that failed for good */
	bool closing; /* the commit under way is the last */

	unsigned depth;
	struct ov_slot *slots, *free_slots;
	unsigned n_slots; /* slots[0..n_slots) have been used */
	uint8_t *bounce_mem;
	uint8_t *bounce[OV_MAX_BOUNCE];
	unsigned n_bounce;
	struct wslx_block_req *wait, **wait_tail; /* not admitted yet, in order */
	struct ov_slot *space;                    /* need a commit to get clusters back */
	struct ov_slot *flushes;                  /* for the next commit */

	uint64_t hint;   /* no cluster before this one is free */
	uint64_t *dirty; /* bitmap of table pages */
	uint64_t n_dirty;
	uint64_t *freed; /* bitmap of clusters whose release is not stable yet */
	uint64_t n_freed;
	struct wslx_timer *idle; /* commits what nobody flushed */
	struct ov_commit commit;
};

typedef int (*ov_aio_new_fn)(const struct wslx_aio_params *p, struct wslx_aio **ret);
/* wslx_overlay_open with another I/O engine. */
WSLX_MUST_CHECK int wslx_ov_open(const struct wslx_overlay_params *p, ov_aio_new_fn aio_new, struct wslx_block **ret,
				 struct wslx_err *err);

/* overlay.c */
void wslx_ov_slot_finish(struct ov_slot *s, int result);
/* The same from the loop, so that done() is never called inside submit(). */
void wslx_ov_slot_end_later(struct ov_slot *s, int result);
void wslx_ov_slot_step(struct ov_slot *s);
void wslx_ov_admit(struct overlay *ov);

/* overlay_map.c: changes of the table; commits are scheduled from there. */
static inline uint64_t ov_cluster_offset(const struct overlay *ov, uint64_t phys)
{
	return ov->map.g.data_offset + (phys << OV_CLUSTER_BITS);
}
static inline uint64_t ov_phys(const struct overlay *ov, uint64_t entry)
{
	return (entry - ov->map.g.data_offset) >> OV_CLUSTER_BITS;
}
/* Up to want clusters in a row.  Returns how many, 0 = none left. */
uint64_t wslx_ov_alloc(struct overlay *ov, uint64_t want, uint64_t *ret_phys);
/* Gives clusters back that were never entered into the table. */
void wslx_ov_unalloc(struct overlay *ov, uint64_t phys, uint64_t n);
/* Table entry i becomes entry; a cluster it held is released by the next commit. */
void wslx_ov_set(struct overlay *ov, uint64_t i, uint64_t entry);

/* overlay_commit.c */
void wslx_ov_commit_start(struct overlay *ov);

#endif
