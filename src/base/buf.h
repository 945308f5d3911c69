/*
 * Growable byte buffer with a hard upper bound: input from outside can never
 * make it grow past `max`.
 */
#ifndef WSLX_BASE_BUF_H
#define WSLX_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct wslx_buf {
	uint8_t *data;
	size_t len;
	size_t cap;
	size_t max;
};

static inline void wslx_buf_init(struct wslx_buf *b, size_t max)
{
	*b = (struct wslx_buf) { .max = max };
}
void wslx_buf_free(struct wslx_buf *b);
/* -EMSGSIZE past max, -ENOMEM. */
WSLX_MUST_CHECK int wslx_buf_append(struct wslx_buf *b, const void *p, size_t n);
WSLX_MUST_CHECK int wslx_buf_reserve(struct wslx_buf *b, size_t extra);
/* Drops n bytes from the front. */
void wslx_buf_consume(struct wslx_buf *b, size_t n);
WSLX_MUST_CHECK int wslx_buf_put_u8(struct wslx_buf *b, uint8_t v);
WSLX_MUST_CHECK int wslx_buf_put_le16(struct wslx_buf *b, uint16_t v);
WSLX_MUST_CHECK int wslx_buf_put_le32(struct wslx_buf *b, uint32_t v);
WSLX_MUST_CHECK int wslx_buf_put_le64(struct wslx_buf *b, uint64_t v);

#endif
