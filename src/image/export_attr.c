/* Extended attributes, and ACLs out of their system.posix_acl_* form. */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "image/export_internal.h"

#define ACL_VERSION 2
#define ACL_HEAD 4
#define ACL_ENTRY 8
#define ACL_TEXT 5 /* times that an entry's text is as long, at most */
#define RECORD 24u /* bytes around a name and its value */
#define SYSTEM "system."

static int tag_of(unsigned tag)
{
	switch (tag) {
	case 0x01:
		return ARCHIVE_ENTRY_ACL_USER_OBJ;
	case 0x02:
		return ARCHIVE_ENTRY_ACL_USER;
	case 0x04:
		return ARCHIVE_ENTRY_ACL_GROUP_OBJ;
	case 0x08:
		return ARCHIVE_ENTRY_ACL_GROUP;
	case 0x10:
		return ARCHIVE_ENTRY_ACL_MASK;
	case 0x20:
		return ARCHIVE_ENTRY_ACL_OTHER;
	default:
		return 0;
	}
}

static int add_acl(struct export *e, int type, const uint8_t *p, size_t n)
{
	if (n < ACL_HEAD || (n - ACL_HEAD) % ACL_ENTRY || wslx_get_le32(p) != ACL_VERSION)
		return wslx_export_damaged(e, "an ACL of an unknown form");
	int r = wslx_export_use_attr(e, n * ACL_TEXT);

	if (r < 0)
		return r;
	for (size_t at = ACL_HEAD; at < n; at += ACL_ENTRY) {
		unsigned tag = wslx_get_le16(p + at), perm = wslx_get_le16(p + at + 2);
		int t = tag_of(tag);
		bool named = t == ARCHIVE_ENTRY_ACL_USER || t == ARCHIVE_ENTRY_ACL_GROUP;

		if (!t || perm > 7)
			return wslx_export_damaged(e, "an ACL of an unknown form");
		if (archive_entry_acl_add_entry(e->entry, type, (int)perm, t,
						named ? (int)wslx_get_le32(p + at + 4) : -1, NULL) != ARCHIVE_OK)
			return wslx_err_sys(e->err, ENOMEM, "cannot export %.200s", e->path);
	}
	return 0;
}

struct attrs {
	struct export *e;
	struct ext2_xattr_handle *h;
	int r;
};

/* The iterator shows it as it lies on the disk; this in the kernel's form. */
static int take_acl(struct attrs *x, int type, const char *name)
{
	void *value = NULL;
	size_t len = 0;
	errcode_t c = ext2fs_xattr_get(x->h, name, &value, &len);
	int r = c ? wslx_export_ext2_error(x->e, c) : add_acl(x->e, type, value, len);

	ext2fs_free_mem(&value);
	return r;
}

/* Each counts, whether it is archived or not: it was read, from an inode of its
 * own perhaps, which any number of others may name. */
static int on_attr(char *name, char *value, size_t len, void *opaque)
{
	struct attrs *x = opaque;

	x->r = wslx_export_use_attr(x->e, RECORD + strlen(name) + len);
	if (x->r < 0)
		return XATTR_ABORT;
	if (!strcmp(name, "system.posix_acl_access"))
		x->r = take_acl(x, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, name);
	else if (!strcmp(name, "system.posix_acl_default"))
		x->r = take_acl(x, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, name);
	else if (strncmp(name, SYSTEM, strlen(SYSTEM)) != 0) /* the rest of those is the file system's own */
		archive_entry_xattr_add_entry(x->e->entry, name, value, len);
	return x->r < 0 ? XATTR_ABORT : 0;
}

int wslx_export_attrs(struct export *e, ext2_ino_t ino)
{
	struct attrs x = { .e = e };
	int r = wslx_walk_step(&e->walk);
	errcode_t c;

	if (r < 0)
		return r;
	c = ext2fs_xattrs_open(e->fs, ino, &x.h);
	if (c)
		return wslx_export_ext2_error(e, c);
	c = ext2fs_xattrs_read(x.h);
	if (!c)
		c = ext2fs_xattrs_iterate(x.h, on_attr, &x);
	ext2fs_xattrs_close(&x.h);
	return x.r < 0 ? x.r : c ? wslx_export_ext2_error(e, c) : 0;
}
