/* Archives made in memory, imports of them, and a look at the result. */
#ifndef TESTS_UNIT_IMAGE_SUPPORT_H
#define TESTS_UNIT_IMAGE_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <archive.h>
#include <archive_entry.h>
#include <cmocka.h>
#include <ext2fs/ext2fs.h>

#include "base/err.h"
#include "image/import.h"

/* --- writing archives with libarchive --- */

struct tar {
	struct archive *a;
	struct archive_entry *e; /* the entry being described */
	int fd;
};

/* format: "pax", "gnutar", "ustar"; filter: "none", "gzip", "xz", "zstd", "bzip2". */
void tar_begin(struct tar *t, const char *format, const char *filter);
/* Describes an entry; attributes may be added through t->e before tar_put. */
void tar_entry(struct tar *t, const char *path, uint32_t mode);
void tar_put(struct tar *t, const void *data, size_t len);
void tar_file(struct tar *t, const char *path, uint32_t mode, const char *text);
void tar_dir(struct tar *t, const char *path, uint32_t mode);
void tar_symlink(struct tar *t, const char *path, const char *target);
void tar_hardlink(struct tar *t, const char *path, const char *target);
/* The archive's descriptor, at its start; caller closes. */
int tar_end(struct tar *t);
/* All that a root file system must have. */
void tar_root(struct tar *t);

/* --- writing headers by hand --- */

struct raw {
	uint8_t *p;
	size_t len, cap;
};

/* One ustar header, checksum right. */
void raw_header(struct raw *r, const char *name, char type, uint64_t size, const char *linkname);
void raw_bytes(struct raw *r, const void *p, size_t n); /* padded to 512 */
/* A pax extended header with one "key=value". */
void raw_pax(struct raw *r, const char *record);
void raw_end(struct raw *r);
int raw_fd(struct raw *r); /* frees r */

/* --- importing --- */

struct image {
	int fd;
	char path[64];
	struct wslx_import_result res;
	struct wslx_err err;
	int r;
	ext2_filsys fs;
};

/* Imports in_fd (closed) into a new image of 256 MiB, or as params say. */
void image_import(struct image *im, int in_fd);
void image_import_with(struct image *im, int in_fd, struct wslx_import_params *p);
/* Succeeded, and e2fsck -fn has nothing to say; opens it. */
void image_check(struct image *im);
void image_free(struct image *im);
/* Failed with -code, and the message has this text. */
void image_assert_fails(struct image *im, int code, const char *text);

ext2_ino_t image_find(struct image *im, const char *path); /* 0: not there; the last link is not followed */
void image_stat(struct image *im, const char *path, struct ext2_inode_large *ret);
/* A regular file's content or a link's target, NUL-terminated; caller frees. */
char *image_read(struct image *im, const char *path, size_t *ret_len);
void image_assert_text(struct image *im, const char *path, const char *text);
/* -1: none. */
int image_xattr(struct image *im, const char *path, const char *name, void *buf, size_t size);

int run_program(const char *const *argv); /* exit status; output is dropped */
int make_temp(void);

#endif
