/* Shared by the export*.c files; not for others. */
#ifndef WSLX_IMAGE_EXPORT_INTERNAL_H
#define WSLX_IMAGE_EXPORT_INTERNAL_H

#include <archive.h>
#include <archive_entry.h>
#include <ext2fs/ext2fs.h>

#include "image/export.h"
#include "image/import_internal.h"
#include "image/walk.h"

#define EXPORT_PATH_MAX 4095u

struct export
{
	const struct wslx_export_params *p;
	ext2_filsys fs;
	struct wslx_walk walk;
	struct archive *a;
	struct archive_entry *entry;
	uint8_t *met;            /* a bit for each inode that was met already */
	void *seen;              /* tsearch(3): those with several names, by inode */
	uint64_t memory;         /* of names */
	uint64_t data, data_max; /* bytes of content: so far, and what the disk has room for */
	uint64_t attrs;          /* of attributes, targets and long names: the same limit */
	uint64_t written, room;  /* bytes of the archive: so far, and what the host has room for */
	uint8_t *buf;            /* EXPORT_BUF bytes */
	const uint8_t *zeros;    /* EXPORT_ZEROS bytes of address space, NULL = none */
	struct wslx_import_meter meter;
	struct wslx_export_result result;
	int write_error; /* of the output */
	bool failed, full;
	char path[EXPORT_PATH_MAX + 1]; /* of the current entry, "./..." */
	size_t path_len;
	struct wslx_err *err;
};

#define EXPORT_BUF ((size_t)1 << 20)
/* A file may be 16 TiB of nothing, and a hostile disk may have many of them. */
#define EXPORT_ZEROS ((size_t)1 << 30)

/* --- export.c --- */

/* "PATH: what": -EBADMSG. */
int wslx_export_damaged(struct export *e, const char *what);
int wslx_export_ext2_error(struct export *e, errcode_t c);
/* libarchive's last word, or that of the output. */
int wslx_export_archive_error(struct export *e);
/* a: what a call to libarchive returned.  0, or as above. */
WSLX_MUST_CHECK int wslx_export_archive_check(struct export *e, int a);
/* Counts n bytes of memory. */
WSLX_MUST_CHECK int wslx_export_use_memory(struct export *e, uint64_t n);
/* Counts n bytes of what goes into an entry's headers. */
WSLX_MUST_CHECK int wslx_export_use_attr(struct export *e, uint64_t n);
/* The same, for a path or target, which if short has its place there anyway. */
WSLX_MUST_CHECK int wslx_export_use_name(struct export *e, uint64_t n);

/* --- export_tree.c --- */

WSLX_MUST_CHECK int wslx_export_tree(struct export *e);
/* Writes the header in e->entry. */
WSLX_MUST_CHECK int wslx_export_header(struct export *e);
void wslx_export_seen_free(void *seen);

/* --- export_file.c --- */

/* Writes the header in e->entry, completed by size and holes, and the content. */
WSLX_MUST_CHECK int wslx_export_file(struct export *e, ext2_ino_t ino, struct ext2_inode_large *inode);

/* --- export_attr.c --- */

/* Adds extended attributes and ACLs to e->entry. */
WSLX_MUST_CHECK int wslx_export_attrs(struct export *e, ext2_ino_t ino);

#endif
