/* Shared by the tests of this folder. */
#ifndef WSLX_TESTS_BLK_SUPPORT_H
#define WSLX_TESTS_BLK_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dev/backend/aio.h"
#include "dev/backend/block.h"

/* A deterministic generator: the same seed gives the same test. */
static inline uint64_t rnd(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ull;
	uint64_t z = *state;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* An unlinked file of `size` bytes on a real file system; the fd. */
int temp_file(uint64_t size);

/* A request together with its end. */
struct op {
	struct wslx_block_req r;
	struct iovec iov[4];
	uint8_t *buf;
	bool done;
	int result;
	void (*on_done)(struct op *op);
};

void op_init(struct op *op, enum wslx_block_op kind, uint64_t off, uint64_t len);
/* Points the iovecs at op->buf (len bytes), in n pieces. */
void op_buffer(struct op *op, uint8_t *buf, unsigned n);
/* Submits one and pumps the loop until it ends; its result. */
int op_run(struct wslx_loop *loop, struct wslx_block *b, struct op *op);
void op_wait(struct wslx_loop *loop, struct op *op);

/*
 * An I/O engine that does everything itself, in random order, when it is
 * waited for, and records it.  Faults can be injected.
 */
enum rec_kind { REC_WRITE, REC_PUNCH, REC_SYNC, REC_MARK };

struct rec {
	enum rec_kind kind;
	uint64_t off, len;
	uint8_t *data; /* REC_WRITE */
	int mark;
};

struct recorder {
	bool enabled;
	uint64_t seed;
	struct rec *log;
	size_t n, cap;
	/* Called before each operation; nonzero: the result instead of doing it. */
	int (*fault)(const struct wslx_aio_req *r);
};

extern struct recorder recorder;
int record_aio_new(const struct wslx_aio_params *p, struct wslx_aio **ret);
void recorder_mark(int mark);
void recorder_clear(void);

#endif
