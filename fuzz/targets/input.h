/* Taking a fuzzer's input apart; past its end everything is zero. */
#ifndef WSLX_FUZZ_INPUT_H
#define WSLX_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct input {
	const uint8_t *p;
	size_t n;
};

static inline void in_bytes(struct input *in, void *buf, size_t n)
{
	size_t have = n < in->n ? n : in->n;

	memset(buf, 0, n);
	if (have)
		memcpy(buf, in->p, have);
	in->p += have;
	in->n -= have;
}

static inline uint64_t in_le(struct input *in, size_t n)
{
	uint8_t b[8];
	uint64_t v = 0;

	in_bytes(in, b, n);
	for (size_t i = 0; i < n; i++)
		v |= (uint64_t)b[i] << (8 * i);
	return v;
}

static inline uint8_t in_u8(struct input *in)
{
	return (uint8_t)in_le(in, 1);
}

static inline uint16_t in_u16(struct input *in)
{
	return (uint16_t)in_le(in, 2);
}

static inline uint32_t in_u32(struct input *in)
{
	return (uint32_t)in_le(in, 4);
}

static inline uint64_t in_u64(struct input *in)
{
	return in_le(in, 8);
}

#endif
