#include "boot/aml.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

#define AML_MAX (64 * WSLX_KIB)

void wslx_aml_init(struct wslx_aml *a)
{
	a->err = 0;
	wslx_buf_init(&a->b, AML_MAX);
}

void wslx_aml_free(struct wslx_aml *a)
{
	wslx_buf_free(&a->b);
}

static void put(struct wslx_aml *a, const void *p, size_t n)
{
	if (!a->err)
		a->err = wslx_buf_append(&a->b, p, n);
}

void wslx_aml_byte(struct wslx_aml *a, uint8_t v)
{
	put(a, &v, 1);
}

static void put_le16(struct wslx_aml *a, uint16_t v)
{
	uint8_t raw[2];

	wslx_put_le16(raw, v);
	put(a, raw, sizeof(raw));
}

static void put_le32(struct wslx_aml *a, uint32_t v)
{
	uint8_t raw[4];

	wslx_put_le32(raw, v);
	put(a, raw, sizeof(raw));
}

static void put_le64(struct wslx_aml *a, uint64_t v)
{
	uint8_t raw[8];

	wslx_put_le64(raw, v);
	put(a, raw, sizeof(raw));
}

void wslx_aml_path(struct wslx_aml *a, const char *path)
{
	put(a, path, strlen(path));
}

void wslx_aml_int(struct wslx_aml *a, uint64_t v)
{
	if (v <= 1) {
		wslx_aml_byte(a, (uint8_t)v); /* ZeroOp, OneOp */
	} else if (v <= UINT8_MAX) {
		wslx_aml_byte(a, 0x0a);
		wslx_aml_byte(a, (uint8_t)v);
	} else if (v <= UINT16_MAX) {
		wslx_aml_byte(a, 0x0b);
		put_le16(a, (uint16_t)v);
	} else if (v <= UINT32_MAX) {
		wslx_aml_byte(a, 0x0c);
		put_le32(a, (uint32_t)v);
	} else {
		wslx_aml_byte(a, 0x0e);
		put_le64(a, v);
	}
}

void wslx_aml_name(struct wslx_aml *a, const char *name)
{
	wslx_aml_byte(a, 0x08);
	wslx_aml_path(a, name);
}

static unsigned hex(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* ACPI 6.5, 19.6.36: three letters of 5 bits and four hex digits, big-endian. */
void wslx_aml_eisaid(struct wslx_aml *a, const char *id)
{
	unsigned letters = ((id[0] - 0x40u) << 10) | ((id[1] - 0x40u) << 5) | (id[2] - 0x40u);
	uint8_t raw[4] = {
		(uint8_t)(letters >> 8),
		(uint8_t)letters,
		(uint8_t)(hex(id[3]) << 4 | hex(id[4])),
		(uint8_t)(hex(id[5]) << 4 | hex(id[6])),
	};

	wslx_aml_byte(a, 0x0c);
	put(a, raw, sizeof(raw));
}

/* ACPI 6.5, 20.2.4: PkgLength counts itself. */
static size_t encode_pkg_length(size_t content, uint8_t raw[4])
{
	size_t n = content + 1 < 0x40 ? 1 : content + 2 < 0x1000 ? 2 : 3;
	size_t total = content + n;

	if (n == 1) {
		raw[0] = (uint8_t)total;
		return 1;
	}
	raw[0] = (uint8_t)((n - 1) << 6 | (total & 0xf));
	for (size_t i = 1; i < n; i++)
		raw[i] = (uint8_t)(total >> (8 * i - 4));
	return n;
}

void wslx_aml_close(struct wslx_aml *a, size_t mark)
{
	size_t content = a->b.len - mark, n;
	uint8_t raw[4];

	if (a->err)
		return;
	n = encode_pkg_length(content, raw);
	put(a, raw, n); /* makes the room */
	if (a->err)
		return;
	memmove(a->b.data + mark + n, a->b.data + mark, content);
	memcpy(a->b.data + mark, raw, n);
}

size_t wslx_aml_scope(struct wslx_aml *a, const char *path)
{
	size_t mark;

	wslx_aml_byte(a, 0x10);
	mark = a->b.len;
	wslx_aml_path(a, path);
	return mark;
}

size_t wslx_aml_device(struct wslx_aml *a, const char *name)
{
	size_t mark;

	wslx_aml_byte(a, 0x5b);
	wslx_aml_byte(a, 0x82);
	mark = a->b.len;
	wslx_aml_path(a, name);
	return mark;
}

size_t wslx_aml_method(struct wslx_aml *a, const char *name, unsigned args)
{
	size_t mark;

	wslx_aml_byte(a, 0x14);
	mark = a->b.len;
	wslx_aml_path(a, name);
	wslx_aml_byte(a, (uint8_t)args);
	return mark;
}

size_t wslx_aml_package(struct wslx_aml *a, unsigned n)
{
	size_t mark;

	wslx_aml_byte(a, 0x12);
	mark = a->b.len;
	wslx_aml_byte(a, (uint8_t)n);
	return mark;
}

size_t wslx_aml_if(struct wslx_aml *a)
{
	wslx_aml_byte(a, 0xa0);
	return a->b.len;
}

size_t wslx_aml_else(struct wslx_aml *a)
{
	wslx_aml_byte(a, 0xa1);
	return a->b.len;
}

void wslx_aml_buffer(struct wslx_aml *a, const void *p, size_t n)
{
	size_t mark;

	wslx_aml_byte(a, 0x11);
	mark = a->b.len;
	wslx_aml_int(a, n);
	put(a, p, n);
	wslx_aml_close(a, mark);
}

void wslx_aml_dword_field(struct wslx_aml *a, uint8_t source, unsigned off, const char *name)
{
	wslx_aml_byte(a, 0x8a);
	wslx_aml_byte(a, source);
	wslx_aml_int(a, off);
	wslx_aml_path(a, name);
}

size_t wslx_aml_crs(struct wslx_aml *a)
{
	wslx_aml_name(a, "_CRS");
	wslx_aml_byte(a, 0x11);
	return a->b.len;
}

void wslx_aml_crs_end(struct wslx_aml *a, size_t mark)
{
	uint8_t size[3] = { 0x0b };

	wslx_aml_byte(a, 0x79); /* end tag; checksum 0 = none */
	wslx_aml_byte(a, 0);
	if (a->err)
		return;
	/* BufferSize comes before the bytes, and counts them only. */
	wslx_put_le16(size + 1, (uint16_t)(a->b.len - mark));
	put(a, size, sizeof(size));
	if (a->err)
		return;
	memmove(a->b.data + mark + sizeof(size), a->b.data + mark, a->b.len - mark - sizeof(size));
	memcpy(a->b.data + mark, size, sizeof(size));
	wslx_aml_close(a, mark);
}

void wslx_aml_io(struct wslx_aml *a, uint16_t port, uint8_t len)
{
	wslx_aml_byte(a, 0x47);
	wslx_aml_byte(a, 1); /* decodes 16 bits */
	put_le16(a, port);
	put_le16(a, port);
	wslx_aml_byte(a, 1);
	wslx_aml_byte(a, len);
}

void wslx_aml_fixed32(struct wslx_aml *a, uint32_t base, uint32_t len)
{
	wslx_aml_byte(a, 0x86);
	put_le16(a, 9);
	wslx_aml_byte(a, 0); /* read-only: not for others to place things in */
	put_le32(a, base);
	put_le32(a, len);
}

void wslx_aml_irq(struct wslx_aml *a, uint32_t gsi)
{
	wslx_aml_byte(a, 0x89);
	put_le16(a, 6);
	wslx_aml_byte(a, 0x03); /* consumer, edge, active high, exclusive */
	wslx_aml_byte(a, 1);
	put_le32(a, gsi);
}

#define SPACE_MEMORY 0
#define SPACE_IO 1
#define SPACE_BUS 2
#define RANGE_FLAGS 0x0c  /* producer, positive decode, both ends fixed */
#define MEMORY_FLAGS 0x01 /* read-write, not cacheable, not prefetchable */
#define IO_FLAGS 0x03     /* the entire range */

static void word_range(struct wslx_aml *a, uint8_t space, uint8_t flags, uint16_t first, uint16_t last)
{
	wslx_aml_byte(a, 0x88);
	put_le16(a, 13);
	wslx_aml_byte(a, space);
	wslx_aml_byte(a, RANGE_FLAGS);
	wslx_aml_byte(a, flags);
	put_le16(a, 0);
	put_le16(a, first);
	put_le16(a, last);
	put_le16(a, 0);
	put_le16(a, (uint16_t)(last - first + 1));
}

void wslx_aml_bus_range(struct wslx_aml *a, uint16_t first, uint16_t last)
{
	word_range(a, SPACE_BUS, 0, first, last);
}

void wslx_aml_io_range(struct wslx_aml *a, uint16_t first, uint16_t last)
{
	word_range(a, SPACE_IO, IO_FLAGS, first, last);
}

void wslx_aml_mem32_range(struct wslx_aml *a, uint32_t first, uint32_t last)
{
	wslx_aml_byte(a, 0x87);
	put_le16(a, 23);
	wslx_aml_byte(a, SPACE_MEMORY);
	wslx_aml_byte(a, RANGE_FLAGS);
	wslx_aml_byte(a, MEMORY_FLAGS);
	put_le32(a, 0);
	put_le32(a, first);
	put_le32(a, last);
	put_le32(a, 0);
	put_le32(a, last - first + 1);
}

void wslx_aml_mem64_range(struct wslx_aml *a, uint64_t first, uint64_t last)
{
	wslx_aml_byte(a, 0x8a);
	put_le16(a, 43);
	wslx_aml_byte(a, SPACE_MEMORY);
	wslx_aml_byte(a, RANGE_FLAGS);
	wslx_aml_byte(a, MEMORY_FLAGS);
	put_le64(a, 0);
	put_le64(a, first);
	put_le64(a, last);
	put_le64(a, 0);
	put_le64(a, last - first + 1);
}
