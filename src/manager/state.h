/*
 * The JSON descriptions in the data folder: distro.json, kernel.json,
 * image.json, config.json.
 *
 * Trust boundary: written by us, but the files may be damaged, edited by hand,
 * copied from elsewhere, or made by a newer release.  Decoding is strict
 * (unknown members, wrong types, numbers out of range are errors that name the
 * member) and bounded; a higher "version" is refused with a line that says so.
 */
#ifndef WSLX_MANAGER_STATE_H
#define WSLX_MANAGER_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "image/kernel.h"
#include "manager/settings.h"

/* More than any description of ours needs. */
#define WSLX_STATE_FILE_MAX ((size_t)64 * 1024)
#define WSLX_DISTRO_ID_LEN 16

struct wslx_distro {
	char name[WSLX_NAME_MAX + 1];
	/* Random, hexadecimal: disk serial number and MAC address come from it, so
	 * that they stay when the distro is renamed. */
	char id[WSLX_DISTRO_ID_LEN + 1];
	int64_t created;     /* seconds since 1970 */
	uint64_t disk_size;  /* virtual */
	int64_t default_uid; /* of /etc/wsl-distribution.conf; -1 = none */
	struct wslx_settings settings;
};

struct wslx_config {
	char default_distro[WSLX_NAME_MAX + 1]; /* "" = none */
};

/* A cached image: what `wslx run FILE` imported. */
struct wslx_image {
	char id[WSLX_DISTRO_ID_LEN + 1];
	char source[4096]; /* absolute path */
	uint64_t source_size, source_ino;
	int64_t source_mtime_ns;
	uint64_t disk_size;
	int64_t default_uid;
};

/* Decoders: 0 or -EINVAL with one line that does not name the file. */
WSLX_MUST_CHECK int wslx_distro_decode(const char *json, size_t len, struct wslx_distro *ret, struct wslx_err *err);
WSLX_MUST_CHECK int wslx_config_decode(const char *json, size_t len, struct wslx_config *ret, struct wslx_err *err);
WSLX_MUST_CHECK int wslx_image_decode(const char *json, size_t len, struct wslx_image *ret, struct wslx_err *err);
WSLX_MUST_CHECK int wslx_kernel_decode(const char *json, size_t len, struct wslx_kernel_info *ret,
				       struct wslx_err *err);
/* Encoders: text with a final newline; the caller frees.  NULL = no memory. */
char *wslx_distro_encode(const struct wslx_distro *d);
char *wslx_config_encode(const struct wslx_config *c);
char *wslx_image_encode(const struct wslx_image *i);
char *wslx_kernel_encode(const struct wslx_kernel_info *k);

/* WSLX_DISTRO_ID_LEN random hexadecimal digits. */
WSLX_MUST_CHECK int wslx_id_new(char id[WSLX_DISTRO_ID_LEN + 1]);

#endif
