#include "image/export.h"

#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/export_internal.h"
#include "image/proc.h"
#include "os/linux/fd.h"

#define SB_AT 1024
#define SB_INCOMPAT 96
#define MEMORY_MAX WSLX_GIB
#define OUT_BLOCK (64 * 1024)
#define XZ_LEVEL "3"
#define XZ_THREADS_MAX 8L
#define HEADER_NAME 100u /* a name that has its place in the header */

/* A disk may claim 16 TiB, which costs whoever made it nothing.  Pieces: all the
 * blocks of a disk of the usual size, 1 TiB.  Blocks of folders: two for each of
 * the entries that an archive may have. */
static const struct wslx_walk_limits limits = {
	.times = 1,
	.pieces = (uint64_t)1 << 28,
	.blocks = 2 * WSLX_IMPORT_ENTRIES_DEFAULT,
};

/* ---- Errors and limits ---- */

int wslx_export_damaged(struct export *e, const char *what)
{
	return wslx_walk_damaged(&e->walk, what);
}

int wslx_export_ext2_error(struct export *e, errcode_t c)
{
	return wslx_walk_ext2_error(&e->walk, c);
}

int wslx_export_archive_error(struct export *e)
{
	const char *text = archive_error_string(e->a), *name = e->p->out_name;

	if (e->full)
		return wslx_err_set(e->err, ENOSPC,
				    "the archive%s%.400s needs more than the %" PRIu64
				    " MiB that are left to use on the host's disk",
				    name ? " " : "", name ? name : "", e->room >> 20);
	if (e->write_error)
		return wslx_err_sys(e->err, e->write_error, "cannot write the archive%s%.400s", name ? " " : "",
				    name ? name : "");
	return wslx_err_set(e->err, EIO, "cannot archive %.200s: %s", e->path, text ? text : "no reason given");
}

int wslx_export_use_memory(struct export *e, uint64_t n)
{
	e->memory += n;
	if (e->memory <= MEMORY_MAX)
		return 0;
	return wslx_err_set(e->err, E2BIG, "too many files: more than %" PRIu64 " MiB of names",
			    (uint64_t)(MEMORY_MAX / WSLX_MIB));
}

int wslx_export_use_attr(struct export *e, uint64_t n)
{
	if (n > e->data_max - e->attrs)
		return wslx_export_damaged(e, "more attributes than the disk has room for");
	e->attrs += n;
	return (e->attrs - n) / WSLX_MIB == e->attrs / WSLX_MIB ? 0 : wslx_import_tick(&e->meter, false, e->err);
}

int wslx_export_use_name(struct export *e, uint64_t n)
{
	return n <= HEADER_NAME ? 0 : wslx_export_use_attr(e, n);
}

/* ---- The journal ---- */

int wslx_export_is_dirty(int disk_fd)
{
	uint8_t sb[1024];
	int r = wslx_pread_full(disk_fd, sb, sizeof(sb), SB_AT);

	return r < 0 ? r : !!(wslx_get_le32(sb + SB_INCOMPAT) & EXT3_FEATURE_INCOMPAT_RECOVER);
}

int wslx_export_replay(int disk_fd, const struct wslx_task *task, struct wslx_err *err)
{
	char path[64];
	const char *const argv[] = { "e2fsck", "-p", "-E", "journal_only", path, NULL };
	const struct wslx_proc_params run = {
		.argv = argv, .package = "e2fsprogs", .keep_fd = disk_fd, .dir_fd = -1, .stdout_fd = -1
	};
	struct wslx_err why = { 0 };
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", disk_fd);
	r = wslx_proc_run(&run, task, NULL, &why);
	/* It also says by its status that it did something. */
	if (r != -ECANCELED && wslx_export_is_dirty(disk_fd) == 0)
		return 0;
	return wslx_err_set(err, why.code ? why.code : EIO, "%s", why.msg[0] ? why.msg : "e2fsck left the journal");
}

/* ---- The archive ---- */

/* Once libarchive has seen an error it frees no longer all that it has: so one
 * of ours is noted, and looked for after each call.  At the end of a failed
 * export nothing more may come out, lest it look like a whole archive. */
static la_ssize_t write_out(struct archive *a, void *opaque, const void *data, size_t n)
{
	struct export *e = opaque;

	if (e->failed)
		return -1;
	if (!e->write_error && n > e->room - e->written) {
		e->full = true;
		e->write_error = ENOSPC;
	}
	e->written += n;
	if (!e->write_error)
		e->write_error = -wslx_write_full(e->p->out_fd, data, n);
	return (la_ssize_t)n;
}

int wslx_export_archive_check(struct export *e, int a)
{
	/* Warnings are about names in another charset: written as they are. */
	if (!e->write_error && (a == ARCHIVE_OK || a == ARCHIVE_WARN))
		return 0;
	return wslx_export_archive_error(e);
}

/* Level 6, xz's own, gains a tenth in size and takes twice as long.  A thread has
 * about 50 MiB; there are two at least, so that the archive is cut into the same
 * blocks wherever it is made. */
static int add_xz(struct archive *a)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	char threads[16];
	int r = archive_write_add_filter_xz(a);

	snprintf(threads, sizeof(threads), "%ld", WSLX_MAX(2L, WSLX_MIN(cpus, XZ_THREADS_MAX)));
	if (r == ARCHIVE_OK)
		r = archive_write_set_filter_option(a, "xz", "compression-level", XZ_LEVEL);
	if (r == ARCHIVE_OK)
		r = archive_write_set_filter_option(a, "xz", "threads", threads);
	return r;
}

static int set_filter(struct archive *a, enum wslx_export_format format)
{
	switch (format) {
	case WSLX_EXPORT_TAR_GZ:
		return archive_write_add_filter_gzip(a);
	case WSLX_EXPORT_TAR_XZ:
		return add_xz(a);
	case WSLX_EXPORT_TAR:
		break;
	}
	return archive_write_add_filter_none(a);
}

static const uint8_t *map_zeros(void)
{
	void *p = mmap(NULL, EXPORT_ZEROS, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int open_archive(struct export *e)
{
	e->a = archive_write_new();
	e->entry = archive_entry_new();
	e->buf = malloc(EXPORT_BUF);
	e->zeros = map_zeros();
	if (!e->a || !e->entry || !e->buf || !e->zeros)
		return wslx_err_sys(e->err, ENOMEM, "cannot export");
	if (archive_write_set_format_pax(e->a) != ARCHIVE_OK || set_filter(e->a, e->p->format) != ARCHIVE_OK ||
	    /* The one of the two spellings that tar(1) knows as well. */
	    archive_write_set_format_option(e->a, "pax", "xattrheader", "SCHILY") != ARCHIVE_OK ||
	    archive_write_set_bytes_per_block(e->a, OUT_BLOCK) != ARCHIVE_OK ||
	    archive_write_set_bytes_in_last_block(e->a, 1) != ARCHIVE_OK ||
	    archive_write_open(e->a, e, NULL, write_out, NULL) != ARCHIVE_OK)
		return wslx_export_archive_error(e);
	return 0;
}

/* ---- The file system ---- */

static int open_disk(struct export *e)
{
	struct stat st;
	uint64_t size;
	char path[64];
	int r;

	if (fstat(e->p->disk_fd, &st) < 0)
		return wslx_err_sys(e->err, errno, "cannot read the disk");
	/* Before libext2fs allocates by the numbers in there. */
	r = wslx_import_image_size(e->p->disk_fd, 0, (uint64_t)st.st_size, &size, e->err);
	if (r == 0)
		r = wslx_export_is_dirty(e->p->disk_fd);
	if (r < 0)
		return r;
	if (r)
		return wslx_err_set(e->err, EBUSY, "the disk's journal has not been replayed");
	initialize_ext2_error_table();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", e->p->disk_fd);
	errcode_t c = ext2fs_open(path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &e->fs);

	if (c)
		return wslx_err_set(e->err, EBADMSG, "the disk's file system is damaged or of an unknown kind: %s",
				    error_message(c));
	e->data_max = size;
	wslx_walk_init(&e->walk, e->fs, &limits);
	e->meter.now.total = size - WSLX_MIN(ext2fs_free_blocks_count(e->fs->super) * e->fs->blocksize, size);
	return 0;
}

/* How large the archive may become: a pipe's reader has its own limits. */
static int find_room(struct export *e)
{
	struct stat st;
	int r = 0;

	e->room = UINT64_MAX;
	if (fstat(e->p->out_fd, &st) < 0)
		return wslx_err_sys(e->err, errno, "cannot write the archive");
	if (S_ISREG(st.st_mode))
		r = wslx_import_free_space(e->p->out_fd, &e->room);
	if (e->p->max_bytes)
		e->room = WSLX_MIN(e->room, e->p->max_bytes);
	return r < 0 ? wslx_err_sys(e->err, -r, "cannot look at the archive") : 0;
}

static int run(struct export *e)
{
	int r = open_disk(e);

	if (r == 0)
		r = find_room(e);

	if (r == 0)
		r = open_archive(e);
	if (r == 0)
		r = wslx_export_tree(e);
	if (r == 0)
		r = wslx_export_archive_check(e, archive_write_close(e->a));
	return r == 0 ? wslx_import_tick(&e->meter, true, e->err) : r;
}

/* Names are bytes, and what libarchive takes them for is the locale's matter.  In
 * this one those that are UTF-8 are written as they are, which is what pax
 * headers hold, and an entry with another one is marked hdrcharset=BINARY; in the
 * C locale every name beyond ASCII would be, and tar(1) warns of each mark. */
static locale_t names_locale(void)
{
	locale_t l = newlocale(LC_ALL_MASK, "C.UTF-8", (locale_t)0);

	return l ? l : newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

int wslx_export(const struct wslx_export_params *p, struct wslx_export_result *ret, struct wslx_err *err)
{
	struct export *e = calloc(1, sizeof(*e));
	locale_t names = names_locale(), before;
	int r;

	if (!e || !names) {
		free(e);
		if (names)
			freelocale(names);
		return wslx_err_sys(err, ENOMEM, "cannot export");
	}
	e->p = p;
	e->err = err;
	e->meter.task = &p->task;
	e->walk = (struct wslx_walk) {
		.task = &p->task, .subject = "the disk's file system", .path = e->path, .err = err
	};
	e->meter.now.what = "exporting";
	before = uselocale(names);
	r = run(e);
	e->failed = r < 0;
	archive_entry_free(e->entry);
	archive_write_free(e->a);
	uselocale(before);
	freelocale(names);
	if (e->fs)
		ext2fs_free(e->fs);
	wslx_export_seen_free(e->seen);
	*ret = e->result;
	if (e->zeros)
		munmap((void *)(uintptr_t)e->zeros, EXPORT_ZEROS);
	free(e->met);
	free(e->buf);
	free(e);
	return r;
}
