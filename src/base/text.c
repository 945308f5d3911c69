#include "base/text.h"

#include <errno.h>
#include <string.h>

/* Bytes that follow a first one; -1: no first one. */
static int tail_of(uint8_t c)
{
	if (c < 0x80)
		return 0;
	if (c < 0xc2 || c > 0xf4)
		return -1;
	return c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
}

/* The second byte's range is smaller after some: no overlong forms, no
 * surrogates, nothing past U+10FFFF. */
static bool second_ok(uint8_t first, uint8_t c)
{
	uint8_t lo = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
	uint8_t hi = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;

	return c >= lo && c <= hi;
}

int wslx_utf8_next(const void *p, size_t n, uint32_t *ret)
{
	static const uint8_t first_bits[] = { 0x7f, 0x1f, 0x0f, 0x07 };
	const uint8_t *s = p;
	int tail = tail_of(s[0]);

	if (tail < 0)
		return 0;
	uint32_t c = s[0] & first_bits[tail];

	for (int i = 1; i <= tail; i++) {
		if ((size_t)i == n)
			return -EAGAIN;
		if (i == 1 ? !second_ok(s[0], s[1]) : (s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	*ret = c;
	return tail + 1;
}

void wslx_sanitize(char *s)
{
	size_t n = strlen(s);

	while (n) {
		uint32_t c = 0;
		int k = wslx_utf8_next(s, n, &c);
		bool bad = k <= 0 || wslx_is_control(c);

		for (int i = 0; i < (k > 0 ? k : 1); i++, s++, n--)
			if (bad)
				*s = '?';
	}
}
