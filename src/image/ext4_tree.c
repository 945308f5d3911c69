/*
 * The tree of names.  Every name is a dentry, every file an inode ("node");
 * dentries are found through one hash table keyed by folder and half-MD4 of
 * the name, the hash that the directory index needs later anyway.  Its seed is
 * random, so an archive cannot aim for one slot.
 *
 * Nothing here recurses: an archive may nest folders as deep as it likes.
 */
#include "image/ext4_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_LINKS 40u            /* as Linux */
#define MAX_WALK ((size_t)65536) /* bytes of a path with all links expanded */

static size_t slot_of(const struct wslx_ext4 *e, const struct wslx_ext4_node *dir, uint32_t hash)
{
	uint64_t h = ((uint64_t)(uintptr_t)dir >> 4) * 0x9e3779b97f4a7c15u;

	h = (h ^ hash) * 0xff51afd7ed558ccdu;
	return (size_t)(h >> 20) & (e->table_size - 1);
}

static int hash_name(struct wslx_ext4 *e, const char *name, size_t len, uint32_t *hash, uint32_t *minor)
{
	ext2_dirhash_t h, m;

	if (ext2fs_dirhash2(e->hash_version, name, (int)len, NULL, 0, e->fs->super->s_hash_seed, &h, &m))
		return -EINVAL;
	*hash = h;
	*minor = m;
	return 0;
}

static struct ext4w_dentry *find(struct wslx_ext4 *e, struct wslx_ext4_node *dir, const char *name, size_t len)
{
	uint32_t hash, minor;

	if (len > EXT4W_NAME_MAX || hash_name(e, name, len, &hash, &minor) < 0)
		return NULL;
	for (struct ext4w_dentry *d = e->table[slot_of(e, dir, hash)]; d; d = d->hash_next)
		if (d->hash == hash && d->dir == dir && d->name_len == len && memcmp(d->name, name, len) == 0)
			return d;
	return NULL;
}

static int grow_table(struct wslx_ext4 *e)
{
	size_t old = e->table_size, size = old ? old * 2 : 4096;
	struct ext4w_dentry **before = e->table;
	struct ext4w_dentry **table = ext4w_alloc_mem(e, size * sizeof(*table));

	if (!table)
		return -errno;
	e->table = table;
	e->table_size = size;
	for (size_t i = 0; i < old; i++) {
		struct ext4w_dentry *next;

		for (struct ext4w_dentry *d = before[i]; d; d = next) {
			size_t s = slot_of(e, d->dir, d->hash);

			next = d->hash_next;
			d->hash_next = table[s];
			table[s] = d;
		}
	}
	ext4w_free_mem(e, before, old * sizeof(*before));
	return 0;
}

void ext4w_drop_content(struct wslx_ext4 *e, struct wslx_ext4_node *n)
{
	for (uint32_t i = 0; i < n->n_extents; i++)
		ext4w_give_back(e, n->extents[i].pblk, n->extents[i].len);
	ext4w_free_mem(e, n->extents, n->cap_extents * sizeof(*n->extents));
	n->extents = NULL;
	n->n_extents = n->cap_extents = 0;
	n->blocks = 0;
}

static void free_node(struct wslx_ext4 *e, struct wslx_ext4_node *n)
{
	ext4w_free_mem(e, n->extents, n->cap_extents * sizeof(*n->extents));
	ext4w_xattrs_free(e, n);
	if (n->target)
		ext4w_free_mem(e, n->target, n->size + 1);
	ext4w_free_mem(e, n->dir, sizeof(*n->dir));
	ext4w_free_mem(e, n, sizeof(*n));
}

void wslx_ext4_pin(struct wslx_ext4_node *n)
{
	n->pins++;
}

bool wslx_ext4_unpin(struct wslx_ext4 *e, struct wslx_ext4_node *n)
{
	n->pins--;
	if (n->nlink)
		return true;
	if (!n->pins)
		free_node(e, n);
	return false;
}

static void drop_name(struct wslx_ext4_node *n, struct wslx_ext4 *e, bool give_back)
{
	if (--n->nlink)
		return;
	if (give_back)
		ext4w_drop_content(e, n);
	if (!n->pins)
		free_node(e, n);
}

static struct wslx_ext4_node *new_node(struct wslx_ext4 *e, const struct wslx_ext4_attr *attr)
{
	struct wslx_ext4_node *n = ext4w_alloc_mem(e, sizeof(*n));

	if (!n)
		return NULL;
	n->attr = *attr;
	if (ext4w_is_dir(n)) {
		n->dir = ext4w_alloc_mem(e, sizeof(*n->dir));
		if (!n->dir) {
			ext4w_free_mem(e, n, sizeof(*n));
			return NULL;
		}
	}
	return n;
}

/* Gives a node a name; the name must be free. */
static int insert(struct wslx_ext4 *e, struct wslx_ext4_node *dir, const char *name, size_t len,
		  struct wslx_ext4_node *n)
{
	uint32_t hash, minor;

	if (!len || len > EXT4W_NAME_MAX)
		return -ENAMETOOLONG;
	if (e->max_entries && e->n_dentries >= e->max_entries)
		return -E2BIG;
	if (e->n_dentries >= e->table_size) {
		int r = grow_table(e);

		if (r < 0)
			return r;
	}
	int r = hash_name(e, name, len, &hash, &minor);

	if (r < 0)
		return r;
	struct ext4w_dentry *d = ext4w_alloc_mem(e, sizeof(*d) + len);

	if (!d)
		return -errno;
	d->dir = dir;
	d->node = n;
	d->hash = hash;
	d->minor = minor;
	d->name_len = (uint8_t)len;
	memcpy(d->name, name, len);
	d->prev = dir->dir->last;
	if (d->prev)
		d->prev->next = d;
	else
		dir->dir->first = d;
	dir->dir->last = d;
	dir->dir->count++;

	size_t s = slot_of(e, dir, hash);

	d->hash_next = e->table[s];
	e->table[s] = d;
	e->n_dentries++;
	n->nlink++;
	if (n->dir) {
		n->dir->parent = dir;
		dir->dir->subdirs++;
	}
	return 0;
}

static void forget_cache(struct wslx_ext4 *e)
{
	e->cache_dir = NULL;
}

static void remove_name(struct wslx_ext4 *e, struct ext4w_dentry *d)
{
	struct ext4w_dentry **p = &e->table[slot_of(e, d->dir, d->hash)];
	struct ext4w_dir *dir = d->dir->dir;
	struct wslx_ext4_node *n = d->node;

	while (*p != d)
		p = &(*p)->hash_next;
	*p = d->hash_next;
	if (d->prev)
		d->prev->next = d->next;
	else
		dir->first = d->next;
	if (d->next)
		d->next->prev = d->prev;
	else
		dir->last = d->prev;
	dir->count--;
	if (n->dir)
		dir->subdirs--;
	e->n_dentries--;
	ext4w_free_mem(e, d, sizeof(*d) + d->name_len);
	/* A folder or a link on the way to it may be what went. */
	forget_cache(e);
	drop_name(n, e, true);
}

static const struct wslx_ext4_attr *default_dir(void)
{
	static struct wslx_ext4_attr attr;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	attr = (struct wslx_ext4_attr) { .mode = S_IFDIR | 0755, .mtime = now, .atime = now, .ctime = now };
	return &attr;
}

static int make_dir(struct wslx_ext4 *e, struct wslx_ext4_node *dir, const char *name, size_t len,
		    struct wslx_ext4_node **ret)
{
	struct wslx_ext4_node *n = new_node(e, default_dir());

	if (!n)
		return -errno;
	int r = insert(e, dir, name, len, n);

	if (r < 0) {
		free_node(e, n);
		return r;
	}
	*ret = n;
	return 0;
}

/*
 * Walks path from the root, links followed inside the tree.  With create,
 * missing folders are made; a link that leads nowhere gets its folder made.
 * At the end *ret is the node.
 */
static int walk(struct wslx_ext4 *e, const char *path, size_t len, bool create, struct wslx_ext4_node **ret)
{
	struct wslx_ext4_node *cur = e->root;
	unsigned links = 0;
	char *buf = NULL;
	const char *p = path, *end = path + len;
	int r = 0;

	while (p < end) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		size_t n = (size_t)((slash ? slash : end) - p);
		const char *name = p;

		p = slash ? slash + 1 : end;
		if (n == 0 || (n == 1 && name[0] == '.'))
			continue;
		if (!cur->dir) {
			r = -ENOTDIR;
			break;
		}
		if (n == 2 && name[0] == '.' && name[1] == '.') {
			cur = cur->dir->parent;
			continue;
		}
		struct ext4w_dentry *d = find(e, cur, name, n);

		if (!d) {
			r = create ? make_dir(e, cur, name, n, &cur) : -ENOENT;
			if (r < 0)
				break;
			continue;
		}
		if (!ext4w_is_link(d->node)) {
			cur = d->node;
			continue;
		}
		const char *target = d->node->target;
		size_t tlen = strlen(target), rest = (size_t)(end - p);

		if (++links > MAX_LINKS || tlen + rest + 2 > MAX_WALK) {
			r = -ELOOP;
			break;
		}
		char *more = malloc(tlen + rest + 2);

		if (!more) {
			r = -ENOMEM;
			break;
		}
		memcpy(more, target, tlen);
		more[tlen] = '/';
		memcpy(more + tlen + 1, p, rest);
		free(buf);
		buf = more;
		p = more;
		end = more + tlen + 1 + rest;
		if (target[0] == '/')
			cur = e->root;
	}
	free(buf);
	if (r == 0)
		*ret = cur;
	return r;
}

/* Checks an entry's path and cuts it into folder and name; "" and 0 for the
 * root itself. */
static int split(const char *path, size_t *dir_len, const char **name, size_t *name_len)
{
	size_t len = strlen(path);

	if (len > EXT4W_PATH_MAX)
		return -ENAMETOOLONG;
	for (const char *p = path; *p;) {
		size_t n = strcspn(p, "/");

		if (n == 2 && p[0] == '.' && p[1] == '.')
			return -EPERM;
		if (n > EXT4W_NAME_MAX)
			return -ENAMETOOLONG;
		p += n;
		p += strspn(p, "/");
	}
	for (;;) {
		while (len && path[len - 1] == '/')
			len--;
		if (len && path[len - 1] == '.' && (len == 1 || path[len - 2] == '/'))
			len--;
		else
			break;
	}
	size_t at = len;

	while (at && path[at - 1] != '/')
		at--;
	*dir_len = at;
	*name = path + at;
	*name_len = len - at;
	return 0;
}

static int find_parent(struct wslx_ext4 *e, const char *path, size_t dir_len, struct wslx_ext4_node **ret)
{
	struct wslx_ext4_node *dir;

	if (e->cache_dir && dir_len == e->cache_len && memcmp(path, e->cache_path, dir_len) == 0) {
		*ret = e->cache_dir;
		return 0;
	}
	int r = walk(e, path, dir_len, true, &dir);

	if (r < 0)
		return r;
	if (!dir->dir)
		return -ENOTDIR;
	memcpy(e->cache_path, path, dir_len);
	e->cache_len = dir_len;
	e->cache_dir = dir;
	*ret = dir;
	return 0;
}

static int tree_fail(struct wslx_ext4 *e, int r, const char *path, struct wslx_err *err)
{
	switch (r) {
	case -EPERM:
		return wslx_err_set(err, EPERM, "hostile entry '%.200s': its name leads out of the root by '..'", path);
	case -ENAMETOOLONG:
		return wslx_err_set(err, ENAMETOOLONG,
				    "entry '%.200s...': a name longer than %u or a path longer than %u bytes", path,
				    EXT4W_NAME_MAX, EXT4W_PATH_MAX);
	case -ENOTDIR:
		return wslx_err_set(err, ENOTDIR, "entry '%.200s': a part of its path is not a folder", path);
	case -ELOOP:
		return wslx_err_set(err, ELOOP, "entry '%.200s': too many symbolic links on its path", path);
	case -ENOTEMPTY:
		return wslx_err_set(err, ENOTEMPTY, "entry '%.200s' would replace a folder that is not empty", path);
	case -ENOENT:
		return wslx_err_set(err, ENOENT, "entry '%.200s' is a hard link to a file that is not there", path);
	case -EMLINK:
		return wslx_err_set(err, EMLINK, "entry '%.200s': more than %u hard links to one file", path,
				    EXT4W_LINK_MAX);
	default:
		return ext4w_fail(e, r, err);
	}
}

/* A name's present holder makes room.  *ret_kept: it is a folder, or a link to
 * one, that a new folder merges with. */
static int make_room(struct wslx_ext4 *e, const char *path, struct ext4w_dentry *d, bool new_is_dir, bool *ret_kept)
{
	struct wslx_ext4_node *to;

	*ret_kept = false;
	if (new_is_dir &&
	    (d->node->dir || (ext4w_is_link(d->node) && walk(e, path, strlen(path), false, &to) == 0 && to->dir))) {
		*ret_kept = true;
		return 0;
	}
	if (d->node->dir && d->node->dir->count)
		return -ENOTEMPTY;
	remove_name(e, d);
	return 0;
}

static int add_at(struct wslx_ext4 *e, struct wslx_ext4_node *dir, const char *name, size_t len,
		  const struct wslx_ext4_attr *attr, const char *target, struct wslx_ext4_node **ret)
{
	struct wslx_ext4_node *n = new_node(e, attr);
	int r = 0;

	if (!n)
		return -errno;
	if (ext4w_is_link(n)) {
		size_t tlen = strlen(target);

		n->target = ext4w_alloc_mem(e, tlen + 1);
		if (n->target) {
			memcpy(n->target, target, tlen);
			n->size = tlen;
		} else {
			r = -errno;
		}
	}
	if (r == 0)
		r = insert(e, dir, name, len, n);
	if (r < 0) {
		free_node(e, n);
		return r;
	}
	*ret = n;
	return 0;
}

int wslx_ext4_add(struct wslx_ext4 *e, const char *path, const struct wslx_ext4_attr *attr, const char *symlink_target,
		  struct wslx_ext4_node **ret, struct wslx_err *err)
{
	struct wslx_ext4_node *dir;
	const char *name;
	size_t dir_len, len;
	bool is_dir = S_ISDIR(attr->mode), kept;

	*ret = NULL;
	if (S_ISLNK(attr->mode) && (!symlink_target || !*symlink_target || strlen(symlink_target) > EXT4W_PATH_MAX))
		return wslx_err_set(err, EBADMSG, "entry '%.200s': a symbolic link with an empty or overlong target",
				    path);
	int r = split(path, &dir_len, &name, &len);

	if (r == 0 && !len) {
		if (!is_dir)
			return wslx_err_set(err, EPERM, "hostile entry '%.200s': the root must be a folder", path);
		e->root->attr = *attr;
		ext4w_xattrs_free(e, e->root);
		*ret = e->root;
		return 0;
	}
	if (r == 0)
		r = find_parent(e, path, dir_len, &dir);
	if (r < 0)
		return tree_fail(e, r, path, err);
	struct ext4w_dentry *d = find(e, dir, name, len);

	if (d) {
		r = make_room(e, path, d, is_dir, &kept);
		if (r < 0)
			return tree_fail(e, r, path, err);
		if (kept) {
			if (d->node->dir) {
				d->node->attr = *attr;
				ext4w_xattrs_free(e, d->node);
				*ret = d->node;
			}
			return 0;
		}
	}
	r = add_at(e, dir, name, len, attr, symlink_target, ret);
	return r < 0 ? tree_fail(e, r, path, err) : 0;
}

int wslx_ext4_link(struct wslx_ext4 *e, const char *path, const char *target, struct wslx_err *err)
{
	struct wslx_ext4_node *dir, *tdir, *n;
	const char *name, *tname;
	size_t dir_len, len, tdir_len, tlen;
	bool kept;
	int r = split(target, &tdir_len, &tname, &tlen);

	if (r == 0)
		r = split(path, &dir_len, &name, &len);
	if (r == 0 && !len)
		r = -EPERM;
	/* As link(2): the last part of the target is not followed. */
	if (r == 0)
		r = walk(e, target, tdir_len, false, &tdir);
	struct ext4w_dentry *td = r == 0 && tdir->dir && tlen ? find(e, tdir, tname, tlen) : NULL;

	if (r == 0 && (!td || td->node->dir))
		r = -ENOENT;
	if (r == 0)
		r = find_parent(e, path, dir_len, &dir);
	if (r < 0)
		return tree_fail(e, r, path, err);
	n = td->node;
	if (n->nlink >= EXT4W_LINK_MAX)
		return tree_fail(e, -EMLINK, path, err);
	struct ext4w_dentry *d = find(e, dir, name, len);

	if (d && d->node == n)
		return 0;
	if (d)
		r = make_room(e, path, d, false, &kept);
	if (r == 0)
		r = insert(e, dir, name, len, n);
	return r < 0 ? tree_fail(e, r, path, err) : 0;
}

struct wslx_ext4_node *wslx_ext4_lookup(struct wslx_ext4 *e, const char *path)
{
	struct wslx_ext4_node *n;

	return walk(e, path, strlen(path), false, &n) == 0 ? n : NULL;
}

uint32_t wslx_ext4_mode(const struct wslx_ext4_node *n)
{
	return n->attr.mode;
}

void wslx_ext4_set_group_bits(struct wslx_ext4_node *n, uint32_t rwx)
{
	n->attr.mode = (n->attr.mode & ~(uint32_t)S_IRWXG) | (rwx & 7) << 3;
}

int ext4w_tree_init(struct wslx_ext4 *e)
{
	struct wslx_ext4_node *n;
	int r = grow_table(e);

	if (r < 0)
		return r;
	e->cache_path = malloc(EXT4W_PATH_MAX + 1);
	e->root = new_node(e, default_dir());
	if (!e->cache_path || !e->root)
		return -ENOMEM;
	e->root->nlink = 1;
	e->root->dir->parent = e->root;
	if (e->read_only)
		return 0;
	r = make_dir(e, e->root, "lost+found", 10, &n);
	if (r == 0)
		n->attr.mode = S_IFDIR | 0700;
	return r;
}

void ext4w_tree_free(struct wslx_ext4 *e)
{
	struct wslx_ext4_node *dir = e->root, *last = dir;

	if (dir)
		dir->dir->queue = NULL;
	while (dir) {
		struct ext4w_dentry *d = dir->dir->first, *next_d;
		struct wslx_ext4_node *next;

		for (; d; d = next_d) {
			next_d = d->next;
			if (d->node->dir) {
				last->dir->queue = d->node;
				last = d->node;
				last->dir->queue = NULL;
			} else {
				d->node->pins = 0;
				drop_name(d->node, e, false);
			}
			ext4w_free_mem(e, d, sizeof(*d) + d->name_len);
		}
		next = dir->dir->queue;
		free_node(e, dir);
		dir = next;
	}
	ext4w_free_mem(e, e->table, e->table_size * sizeof(*e->table));
	free(e->cache_path);
	e->root = NULL;
	e->table = NULL;
	e->cache_path = NULL;
}

static int number(struct wslx_ext4 *e, struct wslx_ext4_node *n)
{
	if (e->n_inodes == e->cap_inodes) {
		uint32_t cap = e->cap_inodes ? e->cap_inodes * 2 : 1024;
		struct wslx_ext4_node **more = realloc(e->inodes, cap * sizeof(*more));

		if (!more)
			return -ENOMEM;
		e->inodes = more;
		e->cap_inodes = cap;
	}
	if (EXT4W_FIRST_INO + e->n_inodes > e->fs->super->s_inodes_count)
		return -EDQUOT;
	n->ino = EXT4W_FIRST_INO + e->n_inodes;
	e->inodes[e->n_inodes++] = n;
	return 0;
}

int ext4w_tree_number(struct wslx_ext4 *e)
{
	struct wslx_ext4_node *last = e->root;

	e->root->ino = EXT4W_ROOT_INO;
	e->root->dir->queue = NULL;
	for (struct wslx_ext4_node *dir = e->root; dir; dir = dir->dir->queue) {
		for (struct ext4w_dentry *d = dir->dir->first; d; d = d->next) {
			int r = d->node->ino ? 0 : number(e, d->node);

			if (r < 0)
				return r;
			if (d->node->dir) {
				last->dir->queue = d->node;
				last = d->node;
				last->dir->queue = NULL;
			}
		}
	}
	return 0;
}
