/*
 * Extended attributes (Linux Documentation/filesystems/ext4/attributes.rst).
 *
 * What fits goes into the inode's own 96 spare bytes, the rest into one block.
 * Equal blocks are shared: labels and default ACLs repeat over whole trees.
 * POSIX ACLs come in the form of the system.posix_acl_* attributes and are
 * kept in ext4's own, shorter one.
 */
#include "image/ext4_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <ext2fs/ext2_ext_attr.h>

#include "base/bytes.h"

#define INDEX_ACL_ACCESS 2
#define INDEX_ACL_DEFAULT 3
#define ENTRY_LEN 16u
#define HEADER_LEN 32u
#define INODE_AT (128 + EXT4W_EXTRA_ISIZE) /* magic; entries 4 bytes on */
#define EA_REFS_MAX 1024u

static const struct prefix {
	uint8_t index;
	const char *text;
} prefixes[] = {
	{ 1, "user." },
	{ 4, "trusted." },
	{ 6, "security." },
};

static uint32_t pad4(uint32_t n)
{
	return (n + 3) & ~3u;
}

static size_t cost(const struct ext4w_xattr *x)
{
	return sizeof(*x) + x->name_len + x->value_len;
}

void ext4w_xattrs_free(struct wslx_ext4 *e, struct wslx_ext4_node *n)
{
	struct ext4w_xattr *next;

	for (struct ext4w_xattr *x = n->xattrs; x; x = next) {
		next = x->next;
		ext4w_free_mem(e, x, cost(x));
	}
	n->xattrs = NULL;
}

/* From include/uapi/linux/posix_acl_xattr.h, version 2, to fs/ext4/acl.h,
 * version 1: entries without a name lose their id. */
static int acl_to_disk(const uint8_t *p, size_t len, uint8_t *out, size_t *ret_len)
{
	size_t at = 4;

	if (len < 4 || (len - 4) % 8 || wslx_get_le32(p) != 2)
		return -EINVAL;
	wslx_put_le32(out, 1);
	for (size_t i = 4; i < len; i += 8) {
		uint16_t tag = wslx_get_le16(p + i), perm = wslx_get_le16(p + i + 2);

		if (perm & ~7u)
			return -EINVAL;
		wslx_put_le16(out + at, tag);
		wslx_put_le16(out + at + 2, perm);
		at += 4;
		switch (tag) {
		case 0x02: /* ACL_USER */
		case 0x08: /* ACL_GROUP */
			wslx_put_le32(out + at, wslx_get_le32(p + i + 4));
			at += 4;
			break;
		case 0x01: /* ACL_USER_OBJ */
		case 0x04: /* ACL_GROUP_OBJ */
		case 0x10: /* ACL_MASK */
		case 0x20: /* ACL_OTHER */
			break;
		default:
			return -EINVAL;
		}
	}
	*ret_len = at;
	return 0;
}

/* The order that Linux expects in a block: index, length of the name, name. */
static int order(const struct ext4w_xattr *a, uint8_t index, const char *name, size_t name_len)
{
	if (a->index != index)
		return a->index < index ? -1 : 1;
	if (a->name_len != name_len)
		return a->name_len < name_len ? -1 : 1;
	return memcmp(a->data, name, name_len);
}

static int put(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint8_t index, const char *name, const void *value,
	       size_t len)
{
	size_t name_len = strlen(name);
	struct ext4w_xattr **p = &n->xattrs, *x;

	if (name_len > 255 || len > EXT4W_BLOCK)
		return -E2BIG;
	while (*p && order(*p, index, name, name_len) < 0)
		p = &(*p)->next;
	if (*p && order(*p, index, name, name_len) == 0) {
		x = *p;
		*p = x->next;
		ext4w_free_mem(e, x, cost(x));
	}
	/* All of them must fit one block, should the inode have room for none. */
	uint32_t total = HEADER_LEN + 4 + ENTRY_LEN + pad4((uint32_t)name_len) + pad4((uint32_t)len);

	for (x = n->xattrs; x; x = x->next)
		total += ENTRY_LEN + pad4(x->name_len) + pad4(x->value_len);
	if (total > EXT4W_BLOCK)
		return -E2BIG;
	x = ext4w_alloc_mem(e, sizeof(*x) + name_len + len);
	if (!x)
		return -errno == -E2BIG ? -ENOBUFS : -errno;
	x->index = index;
	x->name_len = (uint8_t)name_len;
	x->value_len = (uint16_t)len;
	memcpy(x->data, name, name_len);
	if (len)
		memcpy(x->data + name_len, value, len);
	x->next = *p;
	*p = x;
	return 0;
}

int wslx_ext4_xattr(struct wslx_ext4 *e, struct wslx_ext4_node *n, const char *name, const void *value, size_t len)
{
	bool access = strcmp(name, "system.posix_acl_access") == 0;

	if (access || strcmp(name, "system.posix_acl_default") == 0) {
		uint8_t disk[EXT4W_BLOCK];
		size_t disk_len;

		if (len > sizeof(disk))
			return -E2BIG;
		int r = acl_to_disk(value, len, disk, &disk_len);

		if (r < 0)
			return r;
		return put(e, n, access ? INDEX_ACL_ACCESS : INDEX_ACL_DEFAULT, "", disk, disk_len);
	}
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
		size_t plen = strlen(prefixes[i].text);

		if (strncmp(name, prefixes[i].text, plen) == 0 && name[plen])
			return put(e, n, prefixes[i].index, name + plen, value, len);
	}
	return -EOPNOTSUPP;
}

/* An area that entries fill from the front and values from the back. */
struct area {
	uint8_t *base; /* value offsets count from here */
	uint32_t at;   /* end of the entries */
	uint32_t end;  /* start of the values */
};

static bool area_put(struct area *a, const struct ext4w_xattr *x, bool hashed)
{
	uint32_t entry = ENTRY_LEN + pad4(x->name_len), value = pad4(x->value_len);

	/* Four zero bytes end the entries. */
	if (a->at + entry + 4 + value > a->end)
		return false;
	uint8_t *p = a->base + a->at;

	if (value) {
		a->end -= value;
		memcpy(a->base + a->end, x->data + x->name_len, x->value_len);
	}
	p[0] = x->name_len;
	p[1] = x->index;
	wslx_put_le16(p + 2, (uint16_t)(value ? a->end : 0));
	wslx_put_le32(p + 8, x->value_len);
	memcpy(p + ENTRY_LEN, x->data, x->name_len);
	if (hashed) {
		union {
			struct ext2_ext_attr_entry entry;
			uint8_t raw[ENTRY_LEN + 256];
		} copy = { 0 };

		memcpy(copy.raw, p, ENTRY_LEN + x->name_len);
		wslx_put_le32(p + 12, ext2fs_ext_attr_hash_entry(&copy.entry, a->base + a->end));
	}
	a->at += entry;
	return true;
}

static int write_ea(struct wslx_ext4 *e, struct ext4w_ea *ea)
{
	uint8_t *p;
	uint32_t one;

	if (!ea->data)
		return 0;
	wslx_put_le32(ea->data + 4, ea->refs);
	if (ext2fs_ext_attr_block_csum_set(e->fs, 0, ea->pblk, (struct ext2_ext_attr_header *)(void *)ea->data))
		return -EIO;
	int r = ext4w_stage(e, ea->pblk, 1, &p, &one);

	if (r < 0)
		return r;
	memcpy(p, ea->data, EXT4W_BLOCK);
	return 0;
}

int ext4w_xattrs_flush(struct wslx_ext4 *e)
{
	int r = 0;

	for (size_t i = 0; i < EXT4W_EA_CACHE && r == 0; i++)
		r = write_ea(e, &e->ea[i]);
	return r;
}

/* The block with this content (refcount and checksum still zero). */
static int share_ea(struct wslx_ext4 *e, const uint8_t *block, uint64_t *ret)
{
	struct ext4w_ea *ea = &e->ea[wslx_get_le32(block + 12) % EXT4W_EA_CACHE];
	uint32_t one;
	int r;

	if (ea->data && ea->refs < EA_REFS_MAX &&
	    memcmp(ea->data + HEADER_LEN, block + HEADER_LEN, EXT4W_BLOCK - HEADER_LEN) == 0) {
		ea->refs++;
		*ret = ea->pblk;
		return 0;
	}
	r = write_ea(e, ea);
	if (r < 0)
		return r;
	if (!ea->data) {
		ea->data = malloc(EXT4W_BLOCK);
		if (!ea->data)
			return -ENOMEM;
	}
	memcpy(ea->data, block, EXT4W_BLOCK);
	ea->refs = 1;
	r = ext4w_take(e, 1, &ea->pblk, &one);
	*ret = ea->pblk;
	return r;
}

int ext4w_xattrs_write(struct wslx_ext4 *e, struct wslx_ext4_node *n, uint8_t inode[EXT4W_INODE])
{
	uint8_t block[EXT4W_BLOCK] = { 0 };
	struct area in = { .base = inode + INODE_AT + 4, .at = 0, .end = EXT4W_INODE - INODE_AT - 4 };
	struct area out = { .base = block, .at = HEADER_LEN, .end = EXT4W_BLOCK };

	for (const struct ext4w_xattr *x = n->xattrs; x; x = x->next)
		if (!area_put(&in, x, false) && !area_put(&out, x, true))
			return -E2BIG;
	if (in.at)
		wslx_put_le32(inode + INODE_AT, EXT2_EXT_ATTR_MAGIC);
	if (out.at == HEADER_LEN)
		return 0;
	wslx_put_le32(block, EXT2_EXT_ATTR_MAGIC);
	wslx_put_le32(block + 8, 1); /* h_blocks */

	/* h_hash over the entries' hashes, as fs/ext4/xattr.c rehashes. */
	uint32_t hash = 0;

	for (uint32_t at = HEADER_LEN; at < out.at; at += ENTRY_LEN + pad4(block[at])) {
		uint32_t h = wslx_get_le32(block + at + 12);

		if (!h) {
			hash = 0;
			break;
		}
		hash = (hash << 16) ^ (hash >> 16) ^ h;
	}
	wslx_put_le32(block + 12, hash);
	return share_ea(e, block, &n->ea_block);
}
