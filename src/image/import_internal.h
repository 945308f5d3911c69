/* Shared by import.c and its parts; not for others. */
#ifndef WSLX_IMAGE_IMPORT_INTERNAL_H
#define WSLX_IMAGE_IMPORT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <archive_entry.h>

#include "image/ext4.h"
#include "image/import.h"
#include "image/place.h"
#include "image/source.h"

/* One import's way of saying how far it is, and of hearing that it must end. */
struct wslx_import_meter {
	const struct wslx_task *task;
	struct wslx_progress now;
	int64_t last_ms;
};
/* Cheap; -ECANCELED with a message when cancelled. */
int wslx_import_tick(struct wslx_import_meter *m, bool last, struct wslx_err *err);

/* What the host has free where fd is, less a sixteenth of it, at most 512 MiB,
 * so that it can go on.  -errno. */
WSLX_MUST_CHECK int wslx_import_free_space(int fd, uint64_t *ret);
/* Bytes that may be put on the disk: max_bytes, and the above. */
WSLX_MUST_CHECK int wslx_import_room(const struct wslx_import_params *p, uint64_t *ret, struct wslx_err *err);

/* The host has no room any more: -ENOSPC. */
int wslx_import_full(const struct wslx_import_params *p, struct wslx_err *err);

/* What is still unpacked behind the end of an archive or image, to see its
 * checksum. */
#define WSLX_IMPORT_DRAIN_MAX (64 * WSLX_MIB)

/* --- import_tar.c --- */

/* first: the source's first block, already fetched. */
WSLX_MUST_CHECK int wslx_import_tar(const struct wslx_import_params *p, struct wslx_source *src, const void *first,
				    size_t first_len, struct wslx_import_result *ret, struct wslx_err *err);
/* Do these bytes start with a tar header? */
bool wslx_import_is_tar(const uint8_t *p, size_t n);

/* --- import_acl.c --- */

/* ACLs may name users whom only the archive's own etc/passwd knows, and that
 * file may come later: they are put into the tree at its end. */
struct wslx_import_acls;
/* written: how many entries the archive's texts have, access and default.  An entry without an ACL
 * takes away what an earlier one said of the same node. */
WSLX_MUST_CHECK int wslx_import_acl_note(struct wslx_import_acls **acls, struct wslx_ext4 *e, struct wslx_ext4_node *n,
					 struct archive_entry *entry, const size_t written[2], struct wslx_err *err);
WSLX_MUST_CHECK int wslx_import_acl_apply(struct wslx_import_acls *acls, struct wslx_ext4 *e,
					  const struct wslx_task *task, struct wslx_err *err);
void wslx_import_acl_free(struct wslx_import_acls *acls, struct wslx_ext4 *e);

/* --- import_ext4.c --- */

/* The size of the file system that begins at start, by its superblock, whose
 * numbers are then good to be allocated by. */
WSLX_MUST_CHECK int wslx_import_image_size(int fd, off_t start, uint64_t file_size, uint64_t *ret,
					   struct wslx_err *err);
bool wslx_import_is_ext4(const uint8_t *p, size_t n);
WSLX_MUST_CHECK int wslx_import_image_file(const struct wslx_import_params *p, struct wslx_import_result *ret,
					   struct wslx_err *err);
WSLX_MUST_CHECK int wslx_import_image_stream(const struct wslx_import_params *p, struct wslx_source *src,
					     const void *first, size_t first_len, struct wslx_import_result *ret,
					     struct wslx_err *err);

/* --- import_refuse.c --- */

/* -EINVAL: says what these bytes are, which begin what was given, and what to do. */
int wslx_import_refuse(const uint8_t *p, size_t n, struct wslx_err *err);
bool wslx_import_all_zero(const uint8_t *p, size_t n);
/* The first block was nothing but zeros: the same, by what follows. */
int wslx_import_refuse_zeros(struct wslx_source *src, struct wslx_import_meter *m, struct wslx_err *err);

/* --- wslconf.c --- */

/* The oobe section of a wsl-distribution.conf; what is malformed is left out. */
void wslx_import_parse_conf(const char *text, size_t len, struct wslx_import_result *ret);

#endif
