/* The compressions of archives, as one kind of object each. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bzlib.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "image/source.h"

/* What a stream may ask for: xz -9 needs 65 MiB a thread, zstd --ultra 128. */
#define XZ_MEMORY ((uint64_t)512 << 20)
#define CHUNK_MAX ((size_t)1 << 30) /* zlib and bzip2 count in unsigned int */

struct wslx_decoder {
	const struct wslx_decoder_ops *ops;
	union {
		z_stream gz;
		bz_stream bz;
		lzma_stream xz;
		ZSTD_DStream *zst;
	};
};

static unsigned chunk(size_t n)
{
	return (unsigned)(n < CHUNK_MAX ? n : CHUNK_MAX);
}

static int gz_init(struct wslx_decoder *d)
{
	memset(&d->gz, 0, sizeof(d->gz));
	return inflateInit2(&d->gz, 15 + 16) == Z_OK ? 0 : -ENOMEM;
}

static int gz_step(struct wslx_decoder *d, const uint8_t **in, size_t *in_len, uint8_t **out, size_t *out_len,
		   int finish)
{
	unsigned n_in = chunk(*in_len), n_out = chunk(*out_len);

	d->gz.next_in = (uint8_t *)(uintptr_t)*in;
	d->gz.avail_in = n_in;
	d->gz.next_out = *out;
	d->gz.avail_out = n_out;
	int r = inflate(&d->gz, Z_NO_FLUSH);

	*in += n_in - d->gz.avail_in;
	*in_len -= n_in - d->gz.avail_in;
	*out += n_out - d->gz.avail_out;
	*out_len -= n_out - d->gz.avail_out;
	if (r == Z_STREAM_END)
		return 1;
	if (r == Z_MEM_ERROR)
		return -ENOMEM;
	return r == Z_OK || r == Z_BUF_ERROR ? 0 : -EBADMSG;
}

static void gz_end(struct wslx_decoder *d)
{
	inflateEnd(&d->gz);
}

static int bz_init(struct wslx_decoder *d)
{
	memset(&d->bz, 0, sizeof(d->bz));
	return BZ2_bzDecompressInit(&d->bz, 0, 0) == BZ_OK ? 0 : -ENOMEM;
}

static int bz_step(struct wslx_decoder *d, const uint8_t **in, size_t *in_len, uint8_t **out, size_t *out_len,
		   int finish)
{
	unsigned n_in = chunk(*in_len), n_out = chunk(*out_len);

	d->bz.next_in = (char *)(uintptr_t)*in;
	d->bz.avail_in = n_in;
	d->bz.next_out = (char *)*out;
	d->bz.avail_out = n_out;
	int r = BZ2_bzDecompress(&d->bz);

	*in += n_in - d->bz.avail_in;
	*in_len -= n_in - d->bz.avail_in;
	*out += n_out - d->bz.avail_out;
	*out_len -= n_out - d->bz.avail_out;
	if (r == BZ_STREAM_END)
		return 1;
	if (r == BZ_MEM_ERROR)
		return -ENOMEM;
	return r == BZ_OK ? 0 : -EBADMSG;
}

static void bz_end(struct wslx_decoder *d)
{
	BZ2_bzDecompressEnd(&d->bz);
}

/* Blocks of a stream that has several (xz -T) are decoded in parallel. */
static int xz_init(struct wslx_decoder *d)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	lzma_mt mt = {
		.flags = 0,
		.threads = cpus < 1   ? 1
			   : cpus > 8 ? 8
				      : (uint32_t)cpus,
		.memlimit_threading = XZ_MEMORY,
		.memlimit_stop = XZ_MEMORY,
	};

	d->xz = (lzma_stream)LZMA_STREAM_INIT;
	return lzma_stream_decoder_mt(&d->xz, &mt) == LZMA_OK ? 0 : -ENOMEM;
}

static int xz_step(struct wslx_decoder *d, const uint8_t **in, size_t *in_len, uint8_t **out, size_t *out_len,
		   int finish)
{
	d->xz.next_in = *in;
	d->xz.avail_in = *in_len;
	d->xz.next_out = *out;
	d->xz.avail_out = *out_len;
	lzma_ret r = lzma_code(&d->xz, finish ? LZMA_FINISH : LZMA_RUN);

	*in = d->xz.next_in;
	*in_len = d->xz.avail_in;
	*out = d->xz.next_out;
	*out_len = d->xz.avail_out;
	if (r == LZMA_STREAM_END)
		return 1;
	if (r == LZMA_MEM_ERROR || r == LZMA_MEMLIMIT_ERROR)
		return -ENOMEM;
	return r == LZMA_OK || r == LZMA_BUF_ERROR ? 0 : -EBADMSG;
}

static void xz_end(struct wslx_decoder *d)
{
	lzma_end(&d->xz);
}

static int zst_init(struct wslx_decoder *d)
{
	d->zst = ZSTD_createDStream();
	return d->zst ? 0 : -ENOMEM;
}

static int zst_step(struct wslx_decoder *d, const uint8_t **in, size_t *in_len, uint8_t **out, size_t *out_len,
		    int finish)
{
	ZSTD_inBuffer i = { .src = *in, .size = *in_len };
	ZSTD_outBuffer o = { .dst = *out, .size = *out_len };
	size_t r = ZSTD_decompressStream(d->zst, &o, &i);

	*in += i.pos;
	*in_len -= i.pos;
	*out += o.pos;
	*out_len -= o.pos;
	if (ZSTD_isError(r))
		return ZSTD_getErrorCode(r) == ZSTD_error_memory_allocation ? -ENOMEM : -EBADMSG;
	return r == 0;
}

static void zst_end(struct wslx_decoder *d)
{
	ZSTD_freeDStream(d->zst);
}

static const uint8_t gz_magic[] = { 0x1f, 0x8b, 8 };
static const uint8_t bz_magic[] = { 'B', 'Z', 'h' };
static const uint8_t xz_magic[] = { 0xfd, '7', 'z', 'X', 'Z', 0 };
static const uint8_t zst_magic[] = { 0x28, 0xb5, 0x2f, 0xfd };

static const struct wslx_decoder_ops decoders[] = {
	{ "gzip", gz_magic, sizeof(gz_magic), gz_init, gz_step, gz_end },
	{ "bzip2", bz_magic, sizeof(bz_magic), bz_init, bz_step, bz_end },
	{ "xz", xz_magic, sizeof(xz_magic), xz_init, xz_step, xz_end },
	{ "zstd", zst_magic, sizeof(zst_magic), zst_init, zst_step, zst_end },
};

const struct wslx_decoder_ops *wslx_decoder_detect(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < ARRAY_SIZE(decoders); i++)
		if (n >= decoders[i].magic_len && memcmp(p, decoders[i].magic, decoders[i].magic_len) == 0)
			return &decoders[i];
	/* zstd's skippable frames, as pzstd puts them in front (RFC 8878, 3.1.2). */
	if (n >= 4 && (p[0] & 0xf0) == 0x50 && p[1] == 0x2a && p[2] == 0x4d && p[3] == 0x18)
		return &decoders[3];
	return NULL;
}

struct wslx_decoder *wslx_decoder_new(const struct wslx_decoder_ops *ops)
{
	struct wslx_decoder *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->ops = ops;
	if (ops->init(d) < 0) {
		free(d);
		return NULL;
	}
	return d;
}

void wslx_decoder_free(struct wslx_decoder *d)
{
	if (!d)
		return;
	d->ops->end(d);
	free(d);
}
