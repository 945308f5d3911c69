/* Folders, and what every entry has. */
#include <errno.h>
#include <inttypes.h>
#include <search.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "image/export_internal.h"

#define ENTRIES_MAX WSLX_IMPORT_ENTRIES_DEFAULT
#define TREE_NODE 48u /* what tsearch(3) allocates for each */

/* ---- What was met already ---- */

/* A file with several names.  A tree, because whoever chooses the numbers could
 * make a hash table degenerate. */
struct seen {
	ext2_ino_t ino;
	uint32_t names; /* so far */
	char path[];
};

static int compare_seen(const void *a, const void *b)
{
	ext2_ino_t x = ((const struct seen *)a)->ino, y = ((const struct seen *)b)->ino;

	return (x > y) - (x < y);
}

static int note(struct export *e, ext2_ino_t ino)
{
	size_t size = sizeof(struct seen) + e->path_len + 1;
	int r = wslx_export_use_memory(e, size + TREE_NODE);
	struct seen *x;

	if (r < 0)
		return r;
	x = calloc(1, size);
	if (!x)
		return wslx_err_sys(e->err, ENOMEM, "cannot export");
	x->ino = ino;
	x->names = 1;
	strcpy(x->path, e->path);
	if (tsearch(x, &e->seen, compare_seen))
		return 0;
	free(x);
	return wslx_err_sys(e->err, ENOMEM, "cannot export");
}

/* A bit for each inode, of which only the pages that are used are there. */
static int make_met(struct export *e)
{
	size_t size = (size_t)e->fs->super->s_inodes_count / 8 + 1;
	int r = wslx_export_use_memory(e, size);

	if (r < 0)
		return r;
	e->met = calloc(1, size);
	return e->met ? 0 : wslx_err_sys(e->err, ENOMEM, "cannot export");
}

/* 1: met before, under *first; 0: it is noted now.  No inode is met more often
 * than it has names, or each of them could be a whole file. */
static int meet(struct export *e, ext2_ino_t ino, const struct ext2_inode_large *inode, const char **first)
{
	bool folder = S_ISDIR(inode->i_mode);
	struct seen key = { .ino = ino }, **found;

	if (!(e->met[ino / 8] & 1u << ino % 8)) {
		e->met[ino / 8] |= (uint8_t)(1u << ino % 8);
		return folder || inode->i_links_count == 1 ? 0 : note(e, ino);
	}
	if (folder)
		return wslx_export_damaged(e, "a folder in two places");
	found = tfind(&key, &e->seen, compare_seen);
	if (!found || ++(*found)->names > inode->i_links_count)
		return wslx_export_damaged(e, "a file with more names than it has links");
	*first = (*found)->path;
	return 1;
}

void wslx_export_seen_free(void *seen)
{
	tdestroy(seen, free);
}

/* ---- An entry ---- */

static struct timespec time_of(uint32_t seconds, uint32_t extra, bool has_extra)
{
	struct timespec ts = { .tv_sec = (int32_t)seconds };

	if (has_extra) {
		ts.tv_sec += (int64_t)(extra & 3) << 32;
		ts.tv_nsec = extra >> 2;
	}
	/* A nanosecond too many is no reason to lose the file. */
	if (ts.tv_nsec > 999999999)
		ts.tv_nsec = 0;
	return ts;
}

static void set_device(struct archive_entry *a, const struct ext2_inode_large *inode)
{
	uint32_t old = inode->i_block[0], dev = inode->i_block[1];

	archive_entry_set_rdevmajor(a, old ? (old >> 8) & 0xff : (dev >> 8) & 0xfff);
	archive_entry_set_rdevminor(a, old ? old & 0xff : (dev & 0xff) | ((dev >> 12) & 0xfff00));
}

static void set_common(struct export *e, const struct ext2_inode_large *inode)
{
	bool extra = inode->i_extra_isize >= sizeof(inode->i_extra_isize) + sizeof(inode->i_checksum_hi) +
						     sizeof(inode->i_ctime_extra) + sizeof(inode->i_mtime_extra) &&
		     EXT2_INODE_SIZE(e->fs->super) > EXT2_GOOD_OLD_INODE_SIZE;
	struct timespec mtime = time_of(inode->i_mtime, inode->i_mtime_extra, extra);

	archive_entry_clear(e->entry);
	archive_entry_set_pathname(e->entry, e->path);
	archive_entry_set_mode(e->entry, inode->i_mode);
	archive_entry_set_uid(e->entry, inode_uid(*inode));
	archive_entry_set_gid(e->entry, inode_gid(*inode));
	archive_entry_set_mtime(e->entry, mtime.tv_sec, mtime.tv_nsec);
	archive_entry_set_size(e->entry, 0);
}

/* Surrogates, which UTF-8 does not have. */
static bool has_surrogate(const char *s)
{
	while (s && (s = strchr(s, '\xed')))
		if ((unsigned char)*++s >= 0xa0)
			return true;
	return false;
}

/* libarchive makes one character of two surrogates, the one thing that it does
 * not leave alone.  A name that it cannot convert makes it leave all of the entry's:
 * the group's does, which a reader that does not know it passes over for the number. */
int wslx_export_header(struct export *e)
{
	const char *target = archive_entry_symlink(e->entry);

	if (has_surrogate(e->path) || has_surrogate(target ? target : archive_entry_hardlink(e->entry)))
		archive_entry_set_gname(e->entry, "\xff");
	return wslx_export_archive_check(e, archive_write_header(e->a, e->entry));
}

static int put_link(struct export *e, const char *first)
{
	int r = wslx_export_use_name(e, strlen(first));

	if (r < 0)
		return r;
	archive_entry_set_hardlink(e->entry, first);
	return wslx_export_header(e);
}

static int put_content(struct export *e, ext2_ino_t ino, struct ext2_inode_large *inode)
{
	char target[WSLX_WALK_TARGET_MAX + 1];
	int r;

	switch (inode->i_mode & S_IFMT) {
	case S_IFREG:
		return wslx_export_file(e, ino, inode);
	case S_IFLNK:
		r = wslx_walk_target(&e->walk, ino, inode, target);
		if (r == 0)
			r = wslx_export_use_name(e, strlen(target));
		if (r < 0)
			return r;
		archive_entry_set_symlink(e->entry, target);
		return wslx_export_header(e);
	case S_IFCHR:
	case S_IFBLK:
		set_device(e->entry, inode);
		return wslx_export_header(e);
	default:
		return wslx_export_header(e);
	}
}

static int count_entry(struct export *e)
{
	if (++e->result.entries > ENTRIES_MAX)
		return wslx_err_set(e->err, E2BIG, "more than %" PRIu64 " files", (uint64_t)ENTRIES_MAX);
	e->meter.now.entries = e->result.entries;
	return e->result.entries % 64 ? 0 : wslx_import_tick(&e->meter, false, e->err);
}

static int put_folder(struct export *e, ext2_ino_t dir, struct ext2_inode_large *inode);

/* The inode under e->path, and what is in it. */
static int put_inode(struct export *e, ext2_ino_t ino)
{
	struct ext2_inode_large inode;
	const char *first = NULL;
	bool folder;
	int r = wslx_walk_inode(&e->walk, ino, &inode);

	if (r < 0)
		return r;
	folder = S_ISDIR(inode.i_mode);
	if (S_ISSOCK(inode.i_mode)) {
		e->result.sockets++;
		return 0;
	}
	if (!folder && !S_ISREG(inode.i_mode) && !S_ISLNK(inode.i_mode) && !S_ISCHR(inode.i_mode) &&
	    !S_ISBLK(inode.i_mode) && !S_ISFIFO(inode.i_mode))
		return wslx_export_damaged(e, "a file of an unknown type");
	if (!folder && !inode.i_links_count)
		return wslx_export_damaged(e, "a file that was deleted");
	r = count_entry(e);
	if (r == 0)
		r = wslx_export_use_name(e, e->path_len);
	if (r == 0)
		r = meet(e, ino, &inode, &first);
	if (r < 0)
		return r;
	set_common(e, &inode);
	if (r)
		return put_link(e, first);
	r = wslx_export_attrs(e, ino);
	if (r == 0)
		r = put_content(e, ino, &inode);
	return r < 0 || !folder ? r : put_folder(e, ino, &inode);
}

/* ---- Folders ---- */

struct name {
	ext2_ino_t ino;
	char text[];
};

struct list {
	struct export *e;
	struct name **names;
	size_t n, cap;
	uint64_t memory;
};

static int add_name(struct list *l, ext2_ino_t ino, const char *text, size_t len)
{
	size_t size = sizeof(struct name) + len + 1;
	struct name *x, **more;

	if (l->n == l->cap) {
		more = reallocarray(l->names, l->cap * 2 + 16, sizeof(*more));
		if (!more)
			return wslx_err_sys(l->e->err, ENOMEM, "cannot export");
		l->names = more;
		l->cap = l->cap * 2 + 16;
	}
	x = malloc(size);
	if (!x)
		return wslx_err_sys(l->e->err, ENOMEM, "cannot export");
	x->ino = ino;
	memcpy(x->text, text, len);
	x->text[len] = '\0';
	l->names[l->n++] = x;
	l->memory += size + 2 * sizeof(*more);
	return wslx_export_use_memory(l->e, size + 2 * sizeof(*more));
}

static int on_name(ext2_ino_t ino, const char *name, size_t len, void *opaque)
{
	struct list *l = opaque;

	if ((len == 1 && name[0] == '.') || (len == 2 && !memcmp(name, "..", 2)))
		return 0;
	if (!len || memchr(name, '/', len) || memchr(name, '\0', len))
		return wslx_export_damaged(l->e, "a name that cannot be");
	return add_name(l, ino, name, len);
}

static int compare(const void *a, const void *b)
{
	return strcmp((*(struct name *const *)a)->text, (*(struct name *const *)b)->text);
}

static void free_list(struct list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->names[i]);
	free(l->names);
	l->e->memory -= l->memory;
}

/* Depth is bounded by the length of a path. */
static int put_name(struct export *e, const struct name *x)
{
	size_t len = e->path_len, n = strlen(x->text);
	int r;

	if (len + 1 + n > EXPORT_PATH_MAX)
		return wslx_err_set(e->err, ENAMETOOLONG, "the path of a file in %.200s... is longer than %u bytes",
				    e->path, EXPORT_PATH_MAX);
	e->path[len] = '/';
	memcpy(e->path + len + 1, x->text, n + 1);
	e->path_len = len + 1 + n;
	r = put_inode(e, x->ino);
	if (r == 0) { /* an error names the path */
		e->path_len = len;
		e->path[len] = '\0';
	}
	return r;
}

static int put_folder(struct export *e, ext2_ino_t dir, struct ext2_inode_large *inode)
{
	struct list l = { .e = e };
	int r = wslx_walk_folder(&e->walk, dir, inode, on_name, &l);

	/* The same archive each time, whatever the order on the disk. */
	if (r == 0 && l.n)
		qsort(l.names, l.n, sizeof(*l.names), compare);
	for (size_t i = 0; r == 0 && i < l.n; i++)
		r = put_name(e, l.names[i]);
	free_list(&l);
	return r;
}

int wslx_export_tree(struct export *e)
{
	struct ext2_inode_large inode;
	int r;

	strcpy(e->path, ".");
	e->path_len = 1;
	r = make_met(e);
	if (r == 0)
		r = wslx_walk_inode(&e->walk, EXT2_ROOT_INO, &inode);
	if (r == 0 && !S_ISDIR(inode.i_mode))
		return wslx_export_damaged(e, "the root is no folder");
	return r < 0 ? r : put_inode(e, EXT2_ROOT_INO);
}
