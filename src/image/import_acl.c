/*
 * POSIX ACLs of archive entries, into the system.posix_acl_* form.
 *
 * An ACL may give a user or group by name only.  Names mean what the imported
 * system's own etc/passwd and etc/group say.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <archive.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/import_internal.h"

#define MAX_NOTED 65536u
#define MAX_ENTRIES 256u /* more do not fit a block */
#define MAX_FILE ((size_t)4 << 20)

#define TAG_USER_OBJ 0x01
#define TAG_USER 0x02
#define TAG_GROUP_OBJ 0x04
#define TAG_GROUP 0x08
#define TAG_MASK 0x10
#define TAG_OTHER 0x20

struct noted {
	struct wslx_ext4_node *node;
	struct archive_entry *entry;
};

struct wslx_import_acls {
	struct noted *list;
	size_t n, cap;
};

struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
};

struct names {
	char *passwd, *group; /* contents; NULL = none */
};

int wslx_import_acl_note(struct wslx_import_acls **acls, struct wslx_ext4_node *n, struct archive_entry *entry,
			 struct wslx_err *err)
{
	struct wslx_import_acls *a = *acls;

	if (!(archive_entry_acl_types(entry) & ARCHIVE_ENTRY_ACL_TYPE_POSIX1E))
		return 0;
	if (!a) {
		a = calloc(1, sizeof(*a));
		if (!a)
			return wslx_err_sys(err, ENOMEM, "cannot keep an ACL");
		*acls = a;
	}
	if (a->n == MAX_NOTED)
		return wslx_err_set(err, E2BIG, "more than %u entries with ACLs", MAX_NOTED);
	if (a->n == a->cap) {
		size_t cap = a->cap ? a->cap * 2 : 64;
		struct noted *list = realloc(a->list, cap * sizeof(*list));

		if (!list)
			return wslx_err_sys(err, ENOMEM, "cannot keep an ACL");
		a->list = list;
		a->cap = cap;
	}
	struct archive_entry *copy = archive_entry_clone(entry);

	if (!copy)
		return wslx_err_sys(err, ENOMEM, "cannot keep an ACL");
	wslx_ext4_pin(n);
	a->list[a->n++] = (struct noted) { .node = n, .entry = copy };
	return 0;
}

/* "name:x:ID:..." */
static bool lookup(const char *text, const char *name, uint32_t *ret)
{
	size_t len = strlen(name);

	/* Also of a system that does without the files. */
	if (!text && strcmp(name, "root") == 0) {
		*ret = 0;
		return true;
	}

	for (const char *p = text; p && *p;) {
		const char *next = strchr(p, '\n');

		if (strncmp(p, name, len) == 0 && p[len] == ':') {
			const char *id = strchr(p + len + 1, ':');

			if (id && (!next || id < next) && id[1] >= '0' && id[1] <= '9') {
				unsigned long long v = strtoull(id + 1, NULL, 10);

				*ret = (uint32_t)v;
				return v < UINT32_MAX;
			}
		}
		p = next ? next + 1 : NULL;
	}
	return false;
}

static int by_tag_and_id(const void *a, const void *b)
{
	const struct acl_entry *x = a, *y = b;

	if (x->tag != y->tag)
		return x->tag < y->tag ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int collect(struct archive_entry *entry, int type, const struct names *names, struct acl_entry *list,
		   size_t *ret_n, struct wslx_err *err)
{
	int t, perm, tag, id;
	const char *name;
	size_t n = 0;

	while (archive_entry_acl_next(entry, type, &t, &perm, &tag, &id, &name) == ARCHIVE_OK) {
		struct acl_entry x = { .perm = (uint16_t)(perm & 7), .id = UINT32_MAX };

		if (n == MAX_ENTRIES)
			return wslx_err_set(err, E2BIG, "its ACL has more than %u entries", MAX_ENTRIES);
		switch (tag) {
		case ARCHIVE_ENTRY_ACL_USER_OBJ:
			x.tag = TAG_USER_OBJ;
			break;
		case ARCHIVE_ENTRY_ACL_GROUP_OBJ:
			x.tag = TAG_GROUP_OBJ;
			break;
		case ARCHIVE_ENTRY_ACL_MASK:
			x.tag = TAG_MASK;
			break;
		case ARCHIVE_ENTRY_ACL_OTHER:
			x.tag = TAG_OTHER;
			break;
		case ARCHIVE_ENTRY_ACL_USER:
		case ARCHIVE_ENTRY_ACL_GROUP:
			x.tag = tag == ARCHIVE_ENTRY_ACL_USER ? TAG_USER : TAG_GROUP;
			if (id >= 0)
				x.id = (uint32_t)id;
			else if (!name || !lookup(x.tag == TAG_USER ? names->passwd : names->group, name, &x.id))
				return wslx_err_set(err, EINVAL,
						    "its ACL names the %s '%.64s', whom the archive's %s "
						    "does not have",
						    x.tag == TAG_USER ? "user" : "group", name ? name : "",
						    x.tag == TAG_USER ? "/etc/passwd" : "/etc/group");
			break;
		default:
			continue;
		}
		list[n++] = x;
	}
	*ret_n = n;
	return 0;
}

/* Sorts, checks that the obligatory entries are there once, adds a missing
 * mask; -EINVAL.  *ret_mask: the mask's permissions. */
static int complete(struct acl_entry *list, size_t *n, uint16_t *ret_mask)
{
	unsigned objs = 0;
	uint16_t mask = 0;
	bool named = false, has_mask = false;

	for (size_t i = 0; i < *n; i++) {
		uint16_t tag = list[i].tag;

		if (tag == TAG_USER || tag == TAG_GROUP) {
			named = true;
		} else {
			if (objs & tag)
				return -EINVAL;
			objs |= tag;
		}
		if (tag == TAG_MASK) {
			has_mask = true;
			*ret_mask = list[i].perm;
		}
		if (tag & (TAG_USER | TAG_GROUP | TAG_GROUP_OBJ))
			mask |= list[i].perm;
	}
	if ((objs & (TAG_USER_OBJ | TAG_GROUP_OBJ | TAG_OTHER)) != (TAG_USER_OBJ | TAG_GROUP_OBJ | TAG_OTHER))
		return -EINVAL;
	if (!has_mask) {
		*ret_mask = mask;
		if (named)
			list[(*n)++] = (struct acl_entry) { .tag = TAG_MASK, .perm = mask, .id = UINT32_MAX };
	}
	qsort(list, *n, sizeof(*list), by_tag_and_id);
	for (size_t i = 1; i < *n; i++)
		if (list[i].tag == list[i - 1].tag && list[i].id == list[i - 1].id)
			return -EINVAL;
	return 0;
}

static int apply_one(struct wslx_ext4 *e, struct wslx_ext4_node *node, struct archive_entry *entry, int type,
		     const struct names *names, struct wslx_err *err)
{
	struct acl_entry list[MAX_ENTRIES + 1];
	uint8_t value[4 + 8 * (MAX_ENTRIES + 1)];
	bool access = type == ARCHIVE_ENTRY_ACL_TYPE_ACCESS;
	uint16_t mask = 0;
	size_t n = 0;

	/* None, or no more than the mode says. */
	if (archive_entry_acl_reset(entry, type) == 0)
		return 0;
	int r = collect(entry, type, names, list, &n, err);

	if (r < 0)
		return r;
	r = complete(list, &n, &mask);
	if (r == 0) {
		wslx_put_le32(value, 2);
		for (size_t i = 0; i < n; i++) {
			wslx_put_le16(value + 4 + i * 8, list[i].tag);
			wslx_put_le16(value + 6 + i * 8, list[i].perm);
			wslx_put_le32(value + 8 + i * 8, list[i].id);
		}
		r = wslx_ext4_xattr(e, node, access ? "system.posix_acl_access" : "system.posix_acl_default", value,
				    4 + n * 8);
	}
	if (r < 0)
		return wslx_err_set(err, -r, "its ACL is malformed or too long");
	/* The mode's group bits are the mask (acl(5)); libarchive has the owning
	 * group's there. */
	if (access)
		wslx_ext4_set_group_bits(node, mask);
	return 0;
}

static char *read_text(struct wslx_ext4 *e, const char *path)
{
	struct wslx_ext4_node *n = wslx_ext4_lookup(e, path);
	char *text = NULL;
	size_t len;

	return n && wslx_ext4_read(e, n, MAX_FILE, &text, &len) == 0 ? text : NULL;
}

int wslx_import_acl_apply(struct wslx_import_acls *acls, struct wslx_ext4 *e, struct wslx_err *err)
{
	static const int types[] = { ARCHIVE_ENTRY_ACL_TYPE_ACCESS, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT };
	int r = 0;

	if (!acls)
		return 0;
	cleanup_free char *passwd = read_text(e, "etc/passwd");
	cleanup_free char *group = read_text(e, "etc/group");
	struct names names = { .passwd = passwd, .group = group };

	for (; acls->n && r == 0; acls->n--) {
		struct noted *x = &acls->list[acls->n - 1];

		if (wslx_ext4_unpin(e, x->node))
			for (size_t i = 0; i < ARRAY_SIZE(types) && r == 0; i++)
				r = apply_one(e, x->node, x->entry, types[i], &names, err);
		if (r < 0) {
			const char *path = archive_entry_pathname(x->entry);

			wslx_err_prefix(err, "entry '%.200s'", path ? path : "?");
		}
		archive_entry_free(x->entry);
	}
	return r;
}

void wslx_import_acl_free(struct wslx_import_acls *acls, struct wslx_ext4 *e)
{
	if (!acls)
		return;
	for (size_t i = 0; i < acls->n; i++) {
		(void)wslx_ext4_unpin(e, acls->list[i].node);
		archive_entry_free(acls->list[i].entry);
	}
	free(acls->list);
	free(acls);
}
