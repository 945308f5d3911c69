#include "base/buf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

void wslx_buf_free(struct wslx_buf *b)
{
	free(b->data);
	b->data = NULL;
	b->len = b->cap = 0;
}

int wslx_buf_reserve(struct wslx_buf *b, size_t extra)
{
	size_t need, cap;
	uint8_t *p;

	if (__builtin_add_overflow(b->len, extra, &need) || need > b->max)
		return -EMSGSIZE;
	if (need <= b->cap)
		return 0;
	cap = b->cap ? b->cap : 64;
	while (cap < need)
		cap = cap > b->max / 2 ? b->max : cap * 2;
	p = realloc(b->data, cap);
	if (!p)
		return -ENOMEM;
	b->data = p;
	b->cap = cap;
	return 0;
}

int wslx_buf_append(struct wslx_buf *b, const void *p, size_t n)
{
	int r = wslx_buf_reserve(b, n);

	if (r < 0)
		return r;
	if (n)
		memcpy(b->data + b->len, p, n);
	b->len += n;
	return 0;
}

void wslx_buf_consume(struct wslx_buf *b, size_t n)
{
	if (n >= b->len) {
		b->len = 0;
		return;
	}
	memmove(b->data, b->data + n, b->len - n);
	b->len -= n;
}

int wslx_buf_put_u8(struct wslx_buf *b, uint8_t v)
{
	return wslx_buf_append(b, &v, 1);
}

int wslx_buf_put_le16(struct wslx_buf *b, uint16_t v)
{
	uint8_t p[2];

	wslx_put_le16(p, v);
	return wslx_buf_append(b, p, sizeof(p));
}

int wslx_buf_put_le32(struct wslx_buf *b, uint32_t v)
{
	uint8_t p[4];

	wslx_put_le32(p, v);
	return wslx_buf_append(b, p, sizeof(p));
}

int wslx_buf_put_le64(struct wslx_buf *b, uint64_t v)
{
	uint8_t p[8];

	wslx_put_le64(p, v);
	return wslx_buf_append(b, p, sizeof(p));
}
