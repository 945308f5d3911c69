/*
 * POSIX ACLs of archive entries, into the system.posix_acl_* form.
 *
 * An ACL may give a user or group by name only.  Names mean what the imported
 * system's own etc/passwd and etc/group say, and those may come last: until
 * then ACLs are kept in a compact form, each name once, within the tree's
 * memory limit.
 */
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include <archive.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/import_internal.h"
#include "image/import_peek.h"

#define MAX_ENTRIES WSLX_IMPORT_ACL_MAX
#define MAX_NAME 256u
#define MAX_PATH 200u /* of an entry, for messages */
#define MAX_FILE ((size_t)4 << 20)
#define TREE_NODE 48u /* what tsearch(3) allocates for each */

#define TAG_USER_OBJ 0x01
#define TAG_USER 0x02
#define TAG_GROUP_OBJ 0x04
#define TAG_GROUP 0x08
#define TAG_MASK 0x10
#define TAG_OTHER 0x20

enum { ACCESS = PEEK_ACL_ACCESS, DEFAULT = PEEK_ACL_DEFAULT, N_TYPES };
static const int archive_types[N_TYPES] = { ARCHIVE_ENTRY_ACL_TYPE_ACCESS, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT };
static const char *const attr_names[N_TYPES] = { "system.posix_acl_access", "system.posix_acl_default" };

/* A user or group whose number is to be found. */
struct acl_name {
	struct acl_name *next;
	const char *text; /* the own one, but for a key to search with */
	uint16_t tag;     /* TAG_USER or TAG_GROUP */
	bool found;
	uint32_t id;
	char own[];
};

struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
	const struct acl_name *name; /* NULL: id is it */
};

struct noted {
	struct noted *next;
	struct wslx_ext4_node *node;
	size_t size;       /* of this */
	size_t n[N_TYPES]; /* entries of each kind, one kind after the other */
	char path[MAX_PATH + 1];
	struct acl_entry list[];
};

struct wslx_import_acls {
	struct noted *first, **last;
	struct acl_name *names;
	/* tsearch(3): a hash table could be made to degenerate */
	void *by_name;
	void *by_node; /* the last that was noted of each */
};

static int no_memory(struct wslx_err *err)
{
	if (errno == E2BIG)
		return wslx_err_set(err, E2BIG, "too many ACLs: more names and attributes than the limit");
	return wslx_err_sys(err, ENOMEM, "cannot keep an ACL");
}

static int compare_names(const void *a, const void *b)
{
	const struct acl_name *x = a, *y = b;

	return x->tag != y->tag ? (x->tag < y->tag ? -1 : 1) : strcmp(x->text, y->text);
}

static struct acl_name *find_name(const struct wslx_import_acls *a, uint16_t tag, const char *text)
{
	struct acl_name key = { .tag = tag, .text = text }, **found = tfind(&key, &a->by_name, compare_names);

	return found ? *found : NULL;
}

static size_t name_size(const char *text)
{
	return sizeof(struct acl_name) + strlen(text) + 1 + TREE_NODE;
}

static int keep_name(struct wslx_import_acls *a, struct wslx_ext4 *e, uint16_t tag, const char *text,
		     const struct acl_name **ret, struct wslx_err *err)
{
	struct acl_name *x = find_name(a, tag, text);

	if (!x) {
		x = wslx_ext4_alloc(e, name_size(text));
		if (!x)
			return no_memory(err);
		strcpy(x->own, text);
		x->text = x->own;
		x->tag = tag;
		if (!tsearch(x, &a->by_name, compare_names)) {
			wslx_ext4_release(e, x, name_size(text));
			return wslx_err_sys(err, ENOMEM, "cannot keep an ACL");
		}
		x->next = a->names;
		a->names = x;
	}
	*ret = x;
	return 0;
}

static int compare_nodes(const void *a, const void *b)
{
	const struct noted *x = a, *y = b;
	uintptr_t p = (uintptr_t)x->node, q = (uintptr_t)y->node;

	return p < q ? -1 : p > q;
}

/* A folder may come again, and is then as its last entry says: with the ACLs of
 * that one, or with none.  Returns where to keep what is noted now. */
static struct noted **forget(const struct wslx_import_acls *a, struct wslx_ext4_node *node)
{
	struct noted key = { .node = node }, **found = tfind(&key, &a->by_node, compare_nodes);

	if (found)
		memset((*found)->n, 0, sizeof((*found)->n));
	return found;
}

static uint16_t tag_of(int tag)
{
	switch (tag) {
	case ARCHIVE_ENTRY_ACL_USER_OBJ:
		return TAG_USER_OBJ;
	case ARCHIVE_ENTRY_ACL_USER:
		return TAG_USER;
	case ARCHIVE_ENTRY_ACL_GROUP_OBJ:
		return TAG_GROUP_OBJ;
	case ARCHIVE_ENTRY_ACL_GROUP:
		return TAG_GROUP;
	case ARCHIVE_ENTRY_ACL_MASK:
		return TAG_MASK;
	case ARCHIVE_ENTRY_ACL_OTHER:
		return TAG_OTHER;
	default:
		return 0;
	}
}

/* Who a user's or group's entry is for. */
static int take_id(struct wslx_import_acls *a, struct wslx_ext4 *e, struct acl_entry *x, int id, const char *name,
		   struct wslx_err *err)
{
	if (id >= 0) {
		x->id = (uint32_t)id;
		return 0;
	}
	if (!name || !*name || strlen(name) > MAX_NAME)
		return wslx_err_set(err, EINVAL, "its ACL is malformed: a %s without a number, and %s",
				    x->tag == TAG_USER ? "user" : "group",
				    name && *name ? "with too long a name" : "without a name");
	return keep_name(a, e, x->tag, name, &x->name, err);
}

static int collect(struct wslx_import_acls *a, struct wslx_ext4 *e, struct archive_entry *entry, int type,
		   struct acl_entry *list, size_t *ret_n, struct wslx_err *err)
{
	int t, perm, tag, id, r;
	const char *name;
	size_t n = 0;

	*ret_n = 0;
	/* None, or no more than the mode says. */
	if (archive_entry_acl_reset(entry, type) == 0)
		return 0;
	while (archive_entry_acl_next(entry, type, &t, &perm, &tag, &id, &name) == ARCHIVE_OK) {
		struct acl_entry x = { .tag = tag_of(tag), .perm = (uint16_t)(perm & 7), .id = UINT32_MAX };

		if (!x.tag)
			continue;
		if (n == MAX_ENTRIES)
			return wslx_err_set(err, E2BIG, "its ACL has more than %u entries", MAX_ENTRIES);
		if (x.tag == TAG_USER || x.tag == TAG_GROUP) {
			r = take_id(a, e, &x, id, name, err);
			if (r < 0)
				return r;
		}
		list[n++] = x;
	}
	*ret_n = n;
	return 0;
}

/* Entries that libarchive does not understand it leaves out.  The three that the
 * mode holds are not counted when they are alone. */
static int check_whole(struct archive_entry *entry, const size_t written[N_TYPES], struct wslx_err *err)
{
	size_t n[N_TYPES], free_of_charge, total;

	for (size_t i = 0; i < N_TYPES; i++)
		n[i] = (size_t)archive_entry_acl_count(entry, archive_types[i]);
	free_of_charge = n[ACCESS] ? 0 : WSLX_MIN(written[ACCESS], (size_t)3);
	total = n[ACCESS] + n[DEFAULT] + free_of_charge;
	/* The access ACL's text may have default entries too. */
	if (written[DEFAULT] > n[DEFAULT] || written[ACCESS] + written[DEFAULT] > total)
		return wslx_err_set(err, EINVAL, "its ACL is malformed: it has entries that cannot be read");
	return 0;
}

static int keep(struct wslx_import_acls *a, struct wslx_ext4 *e, struct wslx_ext4_node *node,
		struct archive_entry *entry, struct wslx_err *err)
{
	struct acl_entry list[N_TYPES * MAX_ENTRIES];
	const char *path = archive_entry_pathname(entry);
	size_t n[N_TYPES], total = 0;

	for (size_t i = 0; i < N_TYPES; i++) {
		int r = collect(a, e, entry, archive_types[i], list + total, &n[i], err);

		if (r < 0)
			return r;
		total += n[i];
	}
	struct noted **slot = forget(a, node);

	if (!total)
		return 0;
	size_t size = sizeof(struct noted) + total * sizeof(*list) + TREE_NODE;
	struct noted *x = wslx_ext4_alloc(e, size);

	if (!x)
		return no_memory(err);
	x->node = node;
	x->size = size;
	memcpy(x->n, n, sizeof(n));
	memcpy(x->list, list, total * sizeof(*list));
	strncat(x->path, path ? path : "?", MAX_PATH);
	if (slot) {
		*slot = x;
	} else if (!tsearch(x, &a->by_node, compare_nodes)) {
		wslx_ext4_release(e, x, size);
		return wslx_err_sys(err, ENOMEM, "cannot keep an ACL");
	}
	wslx_ext4_pin(node);
	*a->last = x;
	a->last = &x->next;
	return 0;
}

int wslx_import_acl_note(struct wslx_import_acls **acls, struct wslx_ext4 *e, struct wslx_ext4_node *n,
			 struct archive_entry *entry, const size_t written[N_TYPES], struct wslx_err *err)
{
	int r = check_whole(entry, written, err);

	if (r < 0)
		goto fail;
	if (!(archive_entry_acl_types(entry) & ARCHIVE_ENTRY_ACL_TYPE_POSIX1E)) {
		if (*acls)
			(void)forget(*acls, n);
		return 0;
	}
	if (!*acls) {
		*acls = calloc(1, sizeof(**acls));
		if (!*acls)
			return wslx_err_sys(err, ENOMEM, "cannot keep an ACL");
		(*acls)->last = &(*acls)->first;
	}
	r = keep(*acls, e, n, entry, err);
fail:
	if (r < 0)
		wslx_err_prefix(err, "entry '%.200s'", archive_entry_pathname(entry));
	return r;
}

static int by_tag_and_id(const void *a, const void *b)
{
	const struct acl_entry *x = a, *y = b;

	if (x->tag != y->tag)
		return x->tag < y->tag ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
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

static int resolve(struct acl_entry *list, size_t n, struct wslx_err *err)
{
	for (size_t i = 0; i < n; i++) {
		const struct acl_name *name = list[i].name;

		if (name && !name->found)
			return wslx_err_set(err, EINVAL,
					    "its ACL names the %s '%.64s', whom the archive's %s does not have",
					    name->tag == TAG_USER ? "user" : "group", name->text,
					    name->tag == TAG_USER ? "/etc/passwd" : "/etc/group");
		if (name)
			list[i].id = name->id;
	}
	return 0;
}

static int apply_one(struct wslx_ext4 *e, struct wslx_ext4_node *node, const struct acl_entry *from, size_t n, int type,
		     struct wslx_err *err)
{
	struct acl_entry list[MAX_ENTRIES + 1];
	uint8_t value[4 + 8 * (MAX_ENTRIES + 1)];
	uint16_t mask = 0;

	if (!n)
		return 0;
	memcpy(list, from, n * sizeof(*list));
	int r = resolve(list, n, err);

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
		r = wslx_ext4_xattr(e, node, attr_names[type], value, 4 + n * 8);
	}
	if (r == -ENOBUFS || r == -ENOMEM) {
		errno = r == -ENOBUFS ? E2BIG : ENOMEM;
		return no_memory(err);
	}
	if (r < 0)
		return wslx_err_set(err, -r, "its ACL is malformed or too long");
	/* The mode's group bits are the mask (acl(5)); libarchive has the owning
	 * group's there. */
	if (type == ACCESS)
		wslx_ext4_set_group_bits(node, mask);
	return 0;
}

/* The numbers of the noted names of one kind, of "name:x:ID:..." lines. */
static int look_up(const struct wslx_import_acls *a, struct wslx_ext4 *e, const char *path, uint16_t tag,
		   const struct wslx_task *task, struct wslx_err *err)
{
	struct wslx_ext4_node *file = wslx_ext4_lookup(e, path);
	cleanup_free char *text = NULL;
	char *save, *line, *colon;
	struct acl_name *x;
	size_t len;

	if (!file || wslx_ext4_read(e, file, MAX_FILE, &text, &len) < 0) {
		/* Also a system that does without the files has one. */
		x = find_name(a, tag, "root");
		if (x)
			x->found = true;
		return 0;
	}
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (wslx_task_cancelled(task))
			return wslx_err_set(err, ECANCELED, "interrupted");
		colon = strchr(line, ':');
		if (!colon)
			continue;
		*colon = 0;
		x = find_name(a, tag, line);
		colon = strchr(colon + 1, ':');
		if (!x || x->found || !colon || colon[1] < '0' || colon[1] > '9')
			continue;
		unsigned long long v = strtoull(colon + 1, NULL, 10);

		x->found = v < UINT32_MAX;
		x->id = (uint32_t)v;
	}
	return 0;
}

int wslx_import_acl_apply(struct wslx_import_acls *acls, struct wslx_ext4 *e, const struct wslx_task *task,
			  struct wslx_err *err)
{
	if (!acls)
		return 0;
	int r = look_up(acls, e, "etc/passwd", TAG_USER, task, err);

	if (r == 0)
		r = look_up(acls, e, "etc/group", TAG_GROUP, task, err);
	while (acls->first && r == 0) {
		struct noted *x = acls->first;
		const struct acl_entry *list = x->list;

		if (wslx_task_cancelled(task))
			return wslx_err_set(err, ECANCELED, "interrupted");
		if (wslx_ext4_unpin(e, x->node))
			for (int i = 0; i < N_TYPES && r == 0; i++) {
				r = apply_one(e, x->node, list, x->n[i], i, err);
				list += x->n[i];
			}
		if (r < 0)
			wslx_err_prefix(err, "entry '%.200s'", x->path);
		acls->first = x->next;
		wslx_ext4_release(e, x, x->size);
	}
	return r;
}

static void keep_node(void *node)
{
}

void wslx_import_acl_free(struct wslx_import_acls *acls, struct wslx_ext4 *e)
{
	if (!acls)
		return;
	while (acls->first) {
		struct noted *x = acls->first;

		acls->first = x->next;
		(void)wslx_ext4_unpin(e, x->node);
		wslx_ext4_release(e, x, x->size);
	}
	/* The trees' own nodes only. */
	tdestroy(acls->by_name, keep_node);
	tdestroy(acls->by_node, keep_node);
	while (acls->names) {
		struct acl_name *x = acls->names;

		acls->names = x->next;
		wslx_ext4_release(e, x, name_size(x->text));
	}
	free(acls);
}
