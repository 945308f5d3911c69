/*
 * SipHash-2-4 of one 64-bit word (Aumasson and Bernstein, 2012).
 *
 * For hash tables whose keys somebody hostile picks: without the key nobody
 * can tell which of them collide, however many were tried.
 */
#ifndef WSLX_BASE_SIPHASH_H
#define WSLX_BASE_SIPHASH_H

#include <stdint.h>

struct wslx_siphash_key {
	uint64_t k0, k1; /* secret, random */
};

/* The hash of v's eight bytes in little-endian order. */
uint64_t wslx_siphash_u64(const struct wslx_siphash_key *key, uint64_t v);

#endif
