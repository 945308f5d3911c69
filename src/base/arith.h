/*
 * Checked arithmetic.  Every sum or product that involves a number from
 * outside a trust boundary goes through these; a false return means overflow
 * and leaves *ret undefined.
 */
#ifndef WSLX_BASE_ARITH_H
#define WSLX_BASE_ARITH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

WSLX_MUST_CHECK static inline bool wslx_add_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
	return !__builtin_add_overflow(a, b, ret);
}

WSLX_MUST_CHECK static inline bool wslx_mul_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
	return !__builtin_mul_overflow(a, b, ret);
}

/* What is left of a when b is taken away: 0 if b is more. */
static inline uint64_t wslx_sub_sat_u64(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Is [off, off + len) inside [0, size)?  An empty range at size is inside. */
WSLX_MUST_CHECK static inline bool wslx_range_ok(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

/* align must be a power of two. */
WSLX_MUST_CHECK static inline bool wslx_align_up(uint64_t v, uint64_t align, uint64_t *ret)
{
	if (__builtin_add_overflow(v, align - 1, ret))
		return false;
	*ret &= ~(align - 1);
	return true;
}

static inline uint64_t wslx_align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

#endif
