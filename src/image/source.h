/*
 * The bytes of an archive, decompressed by a thread of its own.
 *
 * Theory of operation.  The thread reads the file or pipe, tells the
 * compression by the first bytes (gzip, xz, zstd, bzip2, else none) and fills
 * blocks of 1 MiB; the consumer takes them in order.  A queue of a few blocks
 * decouples the two.  One lock guards the queue; a block's bytes belong to the
 * side that holds it.
 *
 * Trust boundary: the bytes are from outside.  A stream that is cut short or
 * fails its checksum ends in an error, never in a plain end.
 */
#ifndef WSLX_IMAGE_SOURCE_H
#define WSLX_IMAGE_SOURCE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/macros.h"

struct wslx_source;

/* Most that libarchive may read for one entry's header, long names, attributes
 * and sparse map included.  It keeps all of them in memory (some 80 bytes for a
 * map's 4), and 1 MiB is its own limit for each kind but the map. */
#define WSLX_ARCHIVE_HEADER_MAX (16 * WSLX_MIB)

/* in_fd: borrowed until close. */
WSLX_MUST_CHECK int wslx_source_open(int in_fd, struct wslx_source **ret);
/* Stops the thread; NULL is fine. */
void wslx_source_close(struct wslx_source *s);

/* The next block, valid until the call after; every block but the last is
 * full.  Returns its length, 0 at the end, -errno.  -EAGAIN: nothing for a
 * tenth of a second; call again. */
WSLX_MUST_CHECK ssize_t wslx_source_next(struct wslx_source *s, const void **ret);
/* After -errno: what it was. */
int wslx_source_error(struct wslx_source *s, struct wslx_err *err);

uint64_t wslx_source_read_bytes(const struct wslx_source *s);     /* of the file, compressed */
uint64_t wslx_source_total_bytes(const struct wslx_source *s);    /* 0 = not known */
const char *wslx_source_compression(const struct wslx_source *s); /* "gzip"; "" = none; after the first block */

/* --- decode.c --- */

struct wslx_decoder;
struct wslx_decoder_ops {
	const char *name;
	const uint8_t *magic;
	size_t magic_len;
	WSLX_MUST_CHECK int (*init)(struct wslx_decoder *d);
	/* Moves the four along.  1: a stream has ended; 0: go on; -EBADMSG, -ENOMEM. */
	WSLX_MUST_CHECK int (*step)(struct wslx_decoder *d, const uint8_t **in, size_t *in_len, uint8_t **out,
				    size_t *out_len, int finish);
	void (*end)(struct wslx_decoder *d);
};
struct wslx_decoder *wslx_decoder_new(const struct wslx_decoder_ops *ops); /* NULL: out of memory */
void wslx_decoder_free(struct wslx_decoder *d);
const struct wslx_decoder_ops *wslx_decoder_detect(const uint8_t *p, size_t n);

#endif
