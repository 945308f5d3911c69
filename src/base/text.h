/* Text that came from outside, before anyone is shown it. */
#ifndef WSLX_BASE_TEXT_H
#define WSLX_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

/* The character that p starts with (n > 0): its length in bytes, 0 when that
 * is no UTF-8 (RFC 3629), -EAGAIN when it may become some with more bytes. */
WSLX_MUST_CHECK int wslx_utf8_next(const void *p, size_t n, uint32_t *ret);

/* Does a terminal obey it?  C0, DEL, C1 (8-bit escape sequences). */
static inline bool wslx_is_control(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0);
}

/* Replaces each byte of a control character, and each that is no UTF-8, by
 * '?'. */
void wslx_sanitize(char *s);

#endif
