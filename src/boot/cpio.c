/* newc cpio archives (Linux Documentation/driver-api/early-userspace/buffer-format.rst). */
#include "boot/initramfs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "os/linux/fd.h"

#define HEADER_LEN 110
#define NAME_MAX_LEN 4096

void wslx_cpio_init(struct wslx_cpio *c, int fd)
{
	*c = (struct wslx_cpio) { .fd = fd };
}

static int put(struct wslx_cpio *c, const void *p, size_t n)
{
	int r = n ? wslx_write_full(c->fd, p, n) : 0;

	c->off += n;
	return r;
}

static int pad(struct wslx_cpio *c)
{
	static const uint8_t zero[4];

	return put(c, zero, (size_t)(-c->off & 3));
}

static int entry(struct wslx_cpio *c, const char *path, uint32_t mode, const void *data, size_t len, uint32_t major,
		 uint32_t minor)
{
	size_t name_len = strlen(path) + 1;
	char header[HEADER_LEN + 1];
	int r;

	if (name_len > NAME_MAX_LEN)
		return -ENAMETOOLONG;
	if (len > UINT32_MAX)
		return -EFBIG;
	/* Times and owners are 0: the same input gives the same bytes. */
	snprintf(header, sizeof(header), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", ++c->ino, mode,
		 0u, 0u, S_ISDIR(mode) ? 2u : 1u, 0u, (uint32_t)len, 0u, 0u, major, minor, (uint32_t)name_len, 0u);
	r = put(c, header, HEADER_LEN);
	if (r == 0)
		r = put(c, path, name_len);
	if (r == 0)
		r = pad(c);
	if (r == 0)
		r = put(c, data, len);
	return r == 0 ? pad(c) : r;
}

int wslx_cpio_add(struct wslx_cpio *c, const char *path, uint32_t mode, const void *data, size_t len)
{
	return entry(c, path, mode, data, len, 0, 0);
}

int wslx_cpio_add_node(struct wslx_cpio *c, const char *path, uint32_t mode, uint32_t major, uint32_t minor)
{
	return entry(c, path, mode, NULL, 0, major, minor);
}

int wslx_cpio_end(struct wslx_cpio *c)
{
	c->ino = (uint32_t)-1; /* the trailer has inode 0 */
	return entry(c, "TRAILER!!!", 0, NULL, 0, 0, 0);
}
