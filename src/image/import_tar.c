/*
 * Tar archives.  libarchive reads the format (ustar, pax, GNU, v7); the source
 * thread feeds it; src/image/ext4.c takes the entries.
 */
#include <archive.h>
#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "image/import_internal.h"
#include "image/import_peek.h"

#define TAR_BLOCK 512u
#define CONF_MAX ((size_t)64 << 10)

struct tar {
	const struct wslx_import_params *p;
	struct wslx_source *src;
	const void *first;
	size_t first_len;
	struct wslx_ext4 *fs;
	struct archive *a;
	struct wslx_import_acls *acls;
	struct wslx_peek peek;
	char path[201]; /* of the last entry, for messages */
	struct wslx_import_meter meter;
	struct timespec now;
	uint64_t free_bytes; /* what file contents may take */
	uint64_t fed;        /* bytes given to libarchive */
	uint64_t header;     /* and of those, for the next header; see next_header */
	bool in_header;
	bool last_zero; /* the last 512 of them are zero */
	bool ended;     /* the source's end was seen */
	int error;      /* of the source, or -ECANCELED */
	struct wslx_err *err;
};

bool wslx_import_is_tar(const uint8_t *p, size_t n)
{
	uint32_t sum = 0;

	if (n < TAR_BLOCK || p[0] == 0)
		return false;
	/* POSIX.1-2017 pax, "ustar Header Block": the checksum field counts as blanks. */
	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += i >= 148 && i < 156 ? ' ' : p[i];
	uint32_t want = 0;
	size_t i = 148;

	while (i < 156 && p[i] == ' ')
		i++;
	for (; i < 156 && p[i] >= '0' && p[i] <= '7'; i++)
		want = want * 8 + (uint32_t)(p[i] - '0');
	return want == sum;
}

static void note_end(struct tar *t, const uint8_t *p, size_t n)
{
	static const uint8_t zero[TAR_BLOCK];

	t->fed += n;
	/* Every block but the last is full, and the last may be a few bytes. */
	if (n >= TAR_BLOCK)
		t->last_zero = memcmp(p + n - TAR_BLOCK, zero, TAR_BLOCK) == 0;
	else if (t->last_zero)
		t->last_zero = memcmp(p, zero, n) == 0;
}

/* What is wrong with the next entry, whose name is not known yet. */
static void peek_fail(struct tar *t, int r)
{
	if (t->path[0])
		wslx_err_prefix(t->err, "the entry after '%s'", t->path);
	else
		wslx_err_prefix(t->err, "the first entry");
	t->error = r;
}

static ssize_t feed(struct archive *a, void *opaque, const void **ret)
{
	struct tar *t = opaque;
	ssize_t n;

	if (t->first) {
		*ret = t->first;
		t->first = NULL;
		n = (ssize_t)t->first_len;
	} else {
		wslx_peek_keep(&t->peek);
		do {
			t->meter.now.done = wslx_source_read_bytes(t->src);
			t->error = wslx_import_tick(&t->meter, false, t->err);
			if (t->error < 0)
				return -1;
			n = wslx_source_next(t->src, ret);
		} while (n == -EAGAIN);
	}
	if (n < 0) {
		t->error = wslx_source_error(t->src, t->err);
		archive_set_error(a, EIO, "source");
		return -1;
	}
	if (n > 0) {
		int r = wslx_peek_block(&t->peek, *ret, (size_t)n, t->err);

		if (r < 0) {
			peek_fail(t, r);
			return -1;
		}
	}
	if (t->in_header && n > 0) {
		if (t->header > WSLX_ARCHIVE_HEADER_MAX) {
			t->error = wslx_err_set(t->err, E2BIG, "an entry's header is larger than %" PRIu64 " MiB",
						WSLX_ARCHIVE_HEADER_MAX >> 20);
			return -1;
		}
		t->header += (uint64_t)n;
	}
	if (n == 0)
		t->ended = true;
	else
		note_end(t, *ret, (size_t)n);
	return n;
}

static int archive_fail(struct tar *t, const char *path)
{
	const char *what = archive_error_string(t->a);

	if (t->error < 0)
		return t->error;
	if (!what)
		what = "unknown error";
	if (path)
		return wslx_err_set(t->err, EBADMSG, "corrupt or truncated archive at entry '%.200s': %s", path, what);
	return wslx_err_set(t->err, EBADMSG, "corrupt or truncated archive: %s", what);
}

static struct timespec time_of(bool set, time_t sec, long nsec, struct timespec other)
{
	return set ? (struct timespec) { .tv_sec = sec, .tv_nsec = nsec } : other;
}

static void get_attr(struct tar *t, struct archive_entry *entry, struct wslx_ext4_attr *a)
{
	int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);

	memset(a, 0, sizeof(*a));
	a->mode = (uint32_t)archive_entry_mode(entry);
	a->uid = (uint32_t)uid;
	a->gid = (uint32_t)gid;
	a->mtime = time_of(archive_entry_mtime_is_set(entry), archive_entry_mtime(entry),
			   archive_entry_mtime_nsec(entry), t->now);
	a->atime = time_of(archive_entry_atime_is_set(entry), archive_entry_atime(entry),
			   archive_entry_atime_nsec(entry), a->mtime);
	a->ctime = t->now;
	a->rdev_major = (uint32_t)archive_entry_rdevmajor(entry);
	a->rdev_minor = (uint32_t)archive_entry_rdevminor(entry);
}

static int check_entry(struct tar *t, struct archive_entry *entry, const char *path)
{
	int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
	int64_t size = archive_entry_size(entry);

	/* The last value means "nobody at all" to the kernel. */
	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return wslx_err_set(t->err, EBADMSG, "entry '%.200s' has an impossible owner", path);
	if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
		return 0;
	if (size < 0 || (uint64_t)size > t->p->size)
		return wslx_err_set(t->err, E2BIG,
				    "entry '%.200s' claims %" PRId64 " bytes, more than the disk's %" PRIu64 " GiB",
				    path, size, t->p->size >> 30);
	/* A sparse file's holes take no room. */
	if (!archive_entry_sparse_count(entry) && (uint64_t)size > t->free_bytes)
		return wslx_err_set(t->err, ENOSPC,
				    "entry '%.200s' needs %" PRId64 " MiB, but only %" PRIu64
				    " MiB are left to use on the host's disk" WSLX_PLACE_FMT,
				    path, (size >> 20) + 1, t->free_bytes >> 20, WSLX_PLACE(t->p->place));
	return 0;
}

static int add_xattrs(struct tar *t, struct archive_entry *entry, struct wslx_ext4_node *n, const char *path)
{
	const char *name;
	const void *value;
	size_t len;

	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &len) == ARCHIVE_OK) {
		int r = wslx_ext4_xattr(t->fs, n, name, value, len);

		/* Names that Linux has no place for (of other systems) are left out, as
		 * tar leaves them out. */
		if (r == -EOPNOTSUPP)
			continue;
		if (r == -E2BIG)
			return wslx_err_set(t->err, E2BIG,
					    "entry '%.200s': its extended attributes exceed 4 KiB, "
					    "more than ext4 holds",
					    path);
		if (r == -ENOBUFS)
			return wslx_err_set(t->err, E2BIG,
					    "too many entries: more than %" PRIu64 " MiB of names and attributes",
					    t->p->max_memory >> 20);
		if (r < 0)
			return wslx_err_sys(t->err, -r, "entry '%.200s': extended attribute '%.64s'", path, name);
	}
	return 0;
}

static int copy_data(struct tar *t, struct archive_entry *entry, struct wslx_ext4_node *n, const char *path)
{
	const void *p;
	size_t len;
	int64_t off;
	int r;

	for (;;) {
		int a = archive_read_data_block(t->a, &p, &len, &off);

		if (a == ARCHIVE_EOF)
			break;
		if (a != ARCHIVE_OK || off < 0)
			return archive_fail(t, path);
		if (!len)
			continue;
		r = wslx_ext4_write(t->fs, n, (uint64_t)off, p, len, t->err);
		if (r < 0) {
			wslx_err_prefix(t->err, "entry '%.200s'", path);
			return r;
		}
	}
	return wslx_ext4_end_file(t->fs, n, (uint64_t)archive_entry_size(entry), t->err);
}

static int import_entry(struct tar *t, struct archive_entry *entry)
{
	const char *path = archive_entry_pathname(entry), *target = archive_entry_symlink(entry);
	const char *hardlink = archive_entry_hardlink(entry);
	struct wslx_ext4_attr attr;
	struct wslx_ext4_node *n;
	int r;

	if (!path || !*path)
		return wslx_err_set(t->err, EBADMSG, "an entry without a name");
	snprintf(t->path, sizeof(t->path), "%s", path);
	r = check_entry(t, entry, path);
	if (r < 0)
		return r;
	if (hardlink)
		return wslx_ext4_link(t->fs, path, hardlink, t->err);
	get_attr(t, entry, &attr);
	switch (archive_entry_filetype(entry)) {
	case AE_IFREG:
	case AE_IFDIR:
	case AE_IFLNK:
	case AE_IFCHR:
	case AE_IFBLK:
	case AE_IFIFO:
	case AE_IFSOCK:
		break;
	default:
		return wslx_err_set(t->err, EBADMSG, "entry '%.200s' is of an unknown type", path);
	}
	r = wslx_ext4_add(t->fs, path, &attr, target, &n, t->err);
	if (r < 0 || !n)
		return r;
	r = add_xattrs(t, entry, n, path);
	if (r == 0)
		r = wslx_import_acl_note(&t->acls, t->fs, n, entry, t->peek.entries, t->err);
	if (r == 0 && archive_entry_filetype(entry) == AE_IFREG)
		r = copy_data(t, entry, n, path);
	return r;
}

/* What libarchive reads in here it keeps, outside our memory limit: feed counts
 * it.  The rest of the entry before, which it would skip in here, is none of it. */
static int next_header(struct tar *t, struct archive_entry **ret)
{
	int a = t->meter.now.entries ? archive_read_data_skip(t->a) : ARCHIVE_OK;

	if (a != ARCHIVE_OK && a != ARCHIVE_WARN)
		return a;
	int r = wslx_peek_begin(&t->peek, (uint64_t)archive_filter_bytes(t->a, 0), t->err);

	if (r < 0) {
		peek_fail(t, r);
		return ARCHIVE_FATAL;
	}
	t->header = 0;
	t->in_header = true;
	a = archive_read_next_header(t->a, ret);
	t->in_header = false;
	return a;
}

static int import_entries(struct tar *t)
{
	struct archive_entry *entry;

	for (;;) {
		int a = next_header(t, &entry);
		int r;

		if (a == ARCHIVE_EOF)
			return 0;
		/* Warnings are about names in another charset: taken as they are. */
		if (a != ARCHIVE_OK && a != ARCHIVE_WARN)
			return archive_fail(t, NULL);
		if (++t->meter.now.entries % 256 == 0) {
			r = wslx_import_tick(&t->meter, false, t->err);
			if (r < 0)
				return r;
		}
		r = import_entry(t, entry);
		if (r < 0)
			return r;
	}
}

/*
 * The rest of the stream, so that a compressed one has shown its checksum, and
 * the writer of a pipe can end.  An archive that just stops, without the
 * zeros that end one, was cut short.
 */
static int drain(struct tar *t)
{
	uint64_t used = (uint64_t)archive_filter_bytes(t->a, 0), more = 0;
	uint64_t fed = t->fed;
	const void *p;

	while (!t->ended && more < WSLX_IMPORT_DRAIN_MAX) {
		ssize_t n = feed(t->a, t, &p);

		if (n < 0)
			return t->error;
		more += (uint64_t)n;
	}
	if (t->ended && used >= fed && more == 0 && !t->last_zero)
		return wslx_err_set(t->err, EBADMSG, "truncated archive: it lacks its end mark");
	return 0;
}

static int check_root(struct tar *t)
{
	struct wslx_ext4_node *etc = wslx_ext4_lookup(t->fs, "etc");

	if (!t->meter.now.entries)
		return wslx_err_set(t->err, EINVAL, "the archive is empty");
	if ((!etc || !S_ISDIR(wslx_ext4_mode(etc))) && !wslx_ext4_lookup(t->fs, "bin/sh"))
		return wslx_err_set(t->err, EINVAL, "not a root file system: the archive has neither /etc nor /bin/sh");
	return 0;
}

static void read_conf(struct tar *t, struct wslx_import_result *ret)
{
	struct wslx_ext4_node *n = wslx_ext4_lookup(t->fs, "etc/wsl-distribution.conf");
	cleanup_free char *text = NULL;
	size_t len;

	if (n && wslx_ext4_read(t->fs, n, CONF_MAX, &text, &len) == 0)
		wslx_import_parse_conf(text, len, ret);
}

static int open_archive(struct tar *t)
{
	t->a = archive_read_new();
	if (!t->a)
		return wslx_err_sys(t->err, ENOMEM, "cannot read the archive");
	if (archive_read_support_format_tar(t->a) != ARCHIVE_OK ||
	    archive_read_open(t->a, t, NULL, feed, NULL) != ARCHIVE_OK)
		return archive_fail(t, NULL);
	return 0;
}

static int run(struct tar *t, struct wslx_import_result *ret)
{
	int r = open_archive(t);

	if (r == 0)
		r = import_entries(t);
	if (r == 0)
		r = drain(t);
	if (r == 0)
		r = check_root(t);
	if (r == 0)
		r = wslx_import_acl_apply(t->acls, t->fs, &t->p->task, t->err);
	if (r < 0)
		return r;
	read_conf(t, ret);
	ret->data_bytes = wslx_ext4_bytes(t->fs);
	r = wslx_ext4_finish(t->fs, t->err);
	t->meter.now.done = wslx_source_read_bytes(t->src);
	if (r == 0)
		r = wslx_import_tick(&t->meter, true, t->err);
	return r;
}

int wslx_import_tar(const struct wslx_import_params *p, struct wslx_source *src, const void *first, size_t first_len,
		    struct wslx_import_result *ret, struct wslx_err *err)
{
	struct tar t = { .p = p, .src = src, .first = first, .first_len = first_len, .err = err };
	struct wslx_ext4_params fs = {
		.fd = p->out_fd,
		.size = p->size,
		.max_entries = p->max_entries,
		.max_memory = p->max_memory,
		.place = p->place,
		.task = &p->task,
	};
	locale_t plain, before;
	int r;

	r = wslx_import_room(p, &t.free_bytes, err);
	if (r < 0)
		return r;
	fs.max_bytes = t.free_bytes;
	clock_gettime(CLOCK_REALTIME, &t.now);
	t.meter = (struct wslx_import_meter) {
		.task = &p->task,
		.now = { .what = "importing", .total = wslx_source_total_bytes(src) },
	};
	/* Names are bytes.  In a UTF-8 locale libarchive would normalize them, and
	 * two that differ for the kernel could become one. */
	plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	if (!plain)
		return wslx_err_sys(err, ENOMEM, "cannot read the archive");
	before = uselocale(plain);
	r = wslx_ext4_new(&fs, &t.fs, err);
	if (r == 0)
		r = run(&t, ret);
	ret->entries = t.meter.now.entries;
	archive_read_free(t.a);
	wslx_peek_free(&t.peek);
	uselocale(before);
	freelocale(plain);
	wslx_import_acl_free(t.acls, t.fs);
	wslx_ext4_free(t.fs);
	return r;
}
