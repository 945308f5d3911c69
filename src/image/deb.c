/*
 * A Debian kernel package, taken apart without dpkg: an ar archive whose last
 * member is a compressed tar (deb(5)).
 *
 * Trust boundary: the package is whatever file the user gave.  Two kinds of
 * its entries are used, regular files only, under names that we check.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "boot/unpack.h"
#include "image/import_peek.h"
#include "image/kernel_internal.h"
#include "image/source.h"
#include "os/linux/fd.h"

#define AR_MAGIC 8u
#define AR_HEADER 60u
#define AR_MEMBERS 16u /* a package has three */

struct deb {
	struct wslx_source *src;
	struct wslx_staging *s;
	char *version;
	size_t version_size;
	bool has_kernel;
	bool in_header;  /* libarchive reads a header: it keeps all of it */
	uint64_t header; /* bytes of it */
	struct wslx_peek peek;
	int error;
	struct wslx_err *err;
};

/* Puts the file offset at the data member's content. */
static int find_data(int fd, struct wslx_err *err)
{
	uint64_t at = AR_MAGIC;

	for (unsigned i = 0; i < AR_MEMBERS; i++) {
		char h[AR_HEADER + 1] = { 0 }, *end;

		if (wslx_pread_full(fd, h, AR_HEADER, (off_t)at) < 0 || h[58] != '`' || h[59] != '\n')
			break;
		at += AR_HEADER;
		if (strncmp(h, "data.tar", 8) == 0)
			return lseek(fd, (off_t)at, SEEK_SET) < 0 ? wslx_err_sys(err, errno, "cannot read") : 0;
		h[58] = 0;
		unsigned long long size = strtoull(h + 48, &end, 10);

		if (end == h + 48 || size > WSLX_KERNEL_BYTES_MAX)
			break;
		at += size + (size & 1);
	}
	return wslx_err_set(err, EINVAL, "a damaged Debian package: no data.tar in it");
}

static ssize_t feed(struct archive *a, void *opaque, const void **ret)
{
	struct deb *d = opaque;
	ssize_t n;

	wslx_peek_keep(&d->peek);
	do {
		if (wslx_task_cancelled(d->s->task)) {
			d->error = wslx_err_set(d->err, ECANCELED, "interrupted");
			return -1;
		}
		n = wslx_source_next(d->src, ret);
	} while (n == -EAGAIN);
	if (n < 0) {
		d->error = wslx_source_error(d->src, d->err);
		return -1;
	}
	if (d->in_header && d->header > WSLX_ARCHIVE_HEADER_MAX) {
		d->error = wslx_err_set(d->err, E2BIG, "the package has a file whose header is larger than %u MiB",
					(unsigned)(WSLX_ARCHIVE_HEADER_MAX >> 20));
		return -1;
	}
	d->header += (uint64_t)n;
	if (n > 0)
		d->error = wslx_peek_block(&d->peek, *ret, (size_t)n, d->err);
	if (d->error < 0) {
		wslx_err_prefix(d->err, "a file of the package");
		return -1;
	}
	return n;
}

static int take_file(struct deb *d, struct archive *a, const char *to)
{
	cleanup_close int fd = -1;
	const void *p;
	size_t len;
	int64_t off;
	int r = wslx_staging_create(d->s, to, &fd), c;

	if (r < 0)
		return wslx_err_sys(d->err, -r, "cannot unpack '%.200s'", to);
	while ((c = archive_read_data_block(a, &p, &len, &off)) == ARCHIVE_OK) {
		d->s->bytes += len;
		if (d->s->bytes > WSLX_KERNEL_BYTES_MAX)
			return wslx_err_set(d->err, E2BIG, "the package holds more than a kernel can need");
		r = wslx_pwrite_full(fd, p, len, off);
		if (r < 0)
			return wslx_err_sys(d->err, -r, "cannot unpack '%.200s'", to);
	}
	if (c != ARCHIVE_EOF && d->error == 0)
		return wslx_err_set(d->err, EBADMSG, "a damaged Debian package: %s", archive_error_string(a));
	return d->error;
}

/* "boot/vmlinuz-VERSION", "lib/modules/VERSION/..." and its usr/lib form. */
static int take_entry(struct deb *d, struct archive *a, struct archive_entry *entry)
{
	const char *path = archive_entry_pathname(entry);
	static const char vmlinuz[] = "boot/vmlinuz-", modules[] = "lib/modules/";

	if (!path || archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
		return 0;
	if (strncmp(path, "./", 2) == 0)
		path += 2;
	if (strncmp(path, "usr/lib/modules/", 16) == 0)
		path += 4;
	if (strncmp(path, vmlinuz, sizeof(vmlinuz) - 1) == 0) {
		const char *version = path + sizeof(vmlinuz) - 1;

		if (d->has_kernel || strlen(version) >= d->version_size || !wslx_kernel_version_ok(version))
			return wslx_err_set(d->err, EINVAL, "not a kernel package: it has '%.200s'", path);
		strcpy(d->version, version);
		d->has_kernel = true;
		return take_file(d, a, "vmlinuz");
	}
	if (strncmp(path, modules, sizeof(modules) - 1) == 0)
		return take_file(d, a, path);
	return 0;
}

/* As import_tar.c's: a file that is left out is skipped before, and not counted. */
static int next_header(struct deb *d, struct archive *a, bool first, struct archive_entry **ret)
{
	int c = first ? ARCHIVE_OK : archive_read_data_skip(a);

	if (c != ARCHIVE_OK && c != ARCHIVE_WARN)
		return c;
	d->error = wslx_peek_begin(&d->peek, (uint64_t)archive_filter_bytes(a, 0), d->err);
	if (d->error < 0) {
		wslx_err_prefix(d->err, "a file of the package");
		return ARCHIVE_FATAL;
	}
	d->header = 0;
	d->in_header = true;
	c = archive_read_next_header(a, ret);
	d->in_header = false;
	return c;
}

static int stage(struct deb *d, struct archive *a)
{
	struct archive_entry *entry;
	bool first = true;
	int r = 0, c;

	if (archive_read_support_format_tar(a) != ARCHIVE_OK || archive_read_open(a, d, NULL, feed, NULL) != ARCHIVE_OK)
		c = ARCHIVE_FATAL;
	else
		while ((c = next_header(d, a, first, &entry)) == ARCHIVE_OK || c == ARCHIVE_WARN) {
			first = false;
			r = take_entry(d, a, entry);
			if (r < 0)
				return r;
		}
	if (d->error < 0)
		return d->error;
	if (c != ARCHIVE_EOF)
		return wslx_err_set(d->err, EBADMSG, "a damaged Debian package: %s", archive_error_string(a));
	if (!d->has_kernel)
		return wslx_err_set(d->err, EINVAL,
				    "a Debian package without a kernel (a metapackage? its dependency is the kernel)");
	return 0;
}

int wslx_deb_stage_kernel(int deb_fd, struct wslx_staging *s, char *version, size_t version_size, struct wslx_err *err)
{
	struct deb d = { .s = s, .version = version, .version_size = version_size, .err = err };
	struct archive *a;
	int r = find_data(deb_fd, err);

	if (r < 0)
		return r;
	r = wslx_source_open(deb_fd, &d.src);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read");
	a = archive_read_new();
	r = a ? stage(&d, a) : wslx_err_sys(err, ENOMEM, "cannot read");
	archive_read_free(a);
	wslx_peek_free(&d.peek);
	wslx_source_close(d.src);
	return r;
}
