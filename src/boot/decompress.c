/* One front for the compression formats of kernels and modules. */
#include "boot/internal.h"

#include <bzlib.h>
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define CHUNK ((size_t)1 << 20)
#define LZMA_MEMORY (512 * WSLX_MIB)
#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_BLOCK (8 * WSLX_MIB) /* the legacy format's fixed block size */

struct job {
	const uint8_t *in;
	size_t len;
	wslx_sink_fn sink;
	void *opaque;
	uint8_t *out; /* CHUNK bytes */
};

static int emit(struct job *j, size_t n)
{
	return n ? j->sink(j->opaque, j->out, n) : 0;
}

static int run_gzip(struct job *j)
{
	z_stream z = { .next_in = (Bytef *)(uintptr_t)j->in, .avail_in = (uInt)j->len };
	int r = 0, zr;

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return -ENOMEM;
	do {
		z.next_out = j->out;
		z.avail_out = CHUNK;
		zr = inflate(&z, Z_NO_FLUSH);
		if (zr != Z_OK && zr != Z_STREAM_END)
			r = zr == Z_MEM_ERROR ? -ENOMEM : -EBADMSG;
		else
			r = emit(j, CHUNK - z.avail_out);
	} while (r == 0 && zr != Z_STREAM_END);
	inflateEnd(&z);
	return r;
}

static int run_bzip2(struct job *j)
{
	bz_stream b = { .next_in = (char *)(uintptr_t)j->in, .avail_in = (unsigned)j->len };
	int r = 0, br;

	if (BZ2_bzDecompressInit(&b, 0, 0) != BZ_OK)
		return -ENOMEM;
	do {
		b.next_out = (char *)j->out;
		b.avail_out = CHUNK;
		br = BZ2_bzDecompress(&b);
		if (br != BZ_OK && br != BZ_STREAM_END)
			r = br == BZ_MEM_ERROR ? -ENOMEM : -EBADMSG;
		else if (br == BZ_OK && !b.avail_in && b.avail_out)
			r = -EBADMSG; /* wants more than there is */
		else
			r = emit(j, CHUNK - b.avail_out);
	} while (r == 0 && br != BZ_STREAM_END);
	BZ2_bzDecompressEnd(&b);
	return r;
}

static int run_lzma(struct job *j, bool alone)
{
	lzma_stream l = LZMA_STREAM_INIT;
	lzma_ret lr;
	int r = 0;

	/* The stream decoder knows the BCJ filter that kernels are packed with. */
	lr = alone ? lzma_alone_decoder(&l, LZMA_MEMORY) : lzma_stream_decoder(&l, LZMA_MEMORY, 0);
	if (lr != LZMA_OK)
		return -ENOMEM;
	l.next_in = j->in;
	l.avail_in = j->len;
	do {
		l.next_out = j->out;
		l.avail_out = CHUNK;
		lr = lzma_code(&l, LZMA_FINISH);
		if (lr != LZMA_OK && lr != LZMA_STREAM_END)
			r = lr == LZMA_MEM_ERROR ? -ENOMEM : -EBADMSG;
		else
			r = emit(j, CHUNK - l.avail_out);
	} while (r == 0 && lr != LZMA_STREAM_END);
	lzma_end(&l);
	return r;
}

static int run_zstd(struct job *j)
{
	ZSTD_DCtx *d = ZSTD_createDCtx();
	ZSTD_inBuffer in = { j->in, j->len, 0 };
	size_t left;
	int r = 0;

	if (!d)
		return -ENOMEM;
	do {
		ZSTD_outBuffer out = { j->out, CHUNK, 0 };

		left = ZSTD_decompressStream(d, &out, &in);
		if (ZSTD_isError(left))
			r = -EBADMSG;
		else if (left && in.pos == in.size && out.pos < CHUNK)
			r = -EBADMSG; /* wants more than there is */
		else
			r = emit(j, out.pos);
	} while (r == 0 && left);
	ZSTD_freeDCtx(d);
	return r;
}

/*
 * Linux' lib/decompress_unlz4.c: blocks of up to 8 MiB, each behind its
 * compressed length.  The kernel's build appends four bytes (the unpacked
 * length), which is less than any block with its length can have.
 */
static int run_lz4(struct job *j)
{
	cleanup_free char *block = malloc(LZ4_BLOCK);
	size_t at = 4;
	int r = 0;

	if (!block)
		return -ENOMEM;
	while (r == 0 && j->len - at > 4) {
		uint32_t n = wslx_get_le32(j->in + at);
		int out;

		at += 4;
		if (n == LZ4_LEGACY_MAGIC) /* concatenated archives */
			continue;
		if (!n || n > j->len - at || n > INT32_MAX)
			return -EBADMSG;
		out = LZ4_decompress_safe((const char *)j->in + at, block, (int)n, (int)LZ4_BLOCK);
		if (out < 0)
			return -EBADMSG;
		r = out ? j->sink(j->opaque, (const uint8_t *)block, (size_t)out) : 0;
		at += n;
	}
	return r;
}

static bool starts_with(const struct job *j, const char *magic, size_t n)
{
	return j->len >= n && !memcmp(j->in, magic, n);
}

int wslx_decompress(const uint8_t *in, size_t len, wslx_sink_fn sink, void *opaque)
{
	cleanup_free uint8_t *out = NULL;
	struct job j = { in, len, sink, opaque, NULL };

	if (len > INT32_MAX)
		return -EFBIG;
	out = malloc(CHUNK);
	if (!out)
		return -ENOMEM;
	j.out = out;
	if (starts_with(&j, "\x1f\x8b", 2))
		return run_gzip(&j);
	if (starts_with(&j,
			"\xfd"
			"7zXZ",
			6))
		return run_lzma(&j, false);
	if (starts_with(&j, "\x28\xb5\x2f\xfd", 4))
		return run_zstd(&j);
	if (starts_with(&j, "\x02\x21\x4c\x18", 4))
		return run_lz4(&j);
	if (starts_with(&j, "BZh", 3))
		return run_bzip2(&j);
	if (starts_with(&j, "\x5d\0\0", 3))
		return run_lzma(&j, true);
	return -ENOTSUP;
}
