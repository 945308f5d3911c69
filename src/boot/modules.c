/* Theory of operation: see modules.h. */
#include "boot/modules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "boot/internal.h"
#include "os/linux/fd.h"

#define INDEX_MAX (32 * WSLX_MIB)
#define MODULE_MAX (64 * WSLX_MIB)
#define MAX_MODULES 65536
#define MAX_PATH 512
#define MAX_NAME 128
#define MAX_DEPTH 64

struct module {
	char name[MAX_NAME]; /* '-' made '_' */
	const char *path;    /* into text of dep or builtin */
	char *deps;          /* space-separated paths, NULL = built in */
	bool wanted;
};

struct wslx_modules {
	int dirfd;
	char *dir, *version;
	char *dep, *builtin, *softdep; /* texts of the index files; cut into strings */
	struct module *list;           /* sorted by name, loadable before built-in */
	size_t n, cap;
	const char **wanted;
	size_t n_wanted;
};

void wslx_modules_free(struct wslx_modules *m)
{
	if (!m)
		return;
	wslx_close(&m->dirfd);
	free(m->dir);
	free(m->version);
	free(m->dep);
	free(m->builtin);
	free(m->softdep);
	free(m->list);
	free(m->wanted);
	free(m);
}

const char *wslx_modules_version(const struct wslx_modules *m)
{
	return m->version;
}

static bool ends_with(const char *s, size_t n, const char *tail)
{
	size_t k = strlen(tail);

	return n >= k && !memcmp(s + n - k, tail, k);
}

size_t wslx_module_plain_len(const char *path)
{
	static const char *const packed[] = { ".xz", ".zst", ".gz" };
	size_t n = strlen(path);

	for (size_t i = 0; i < ARRAY_SIZE(packed); i++)
		if (ends_with(path, n, packed[i]))
			return n - strlen(packed[i]);
	return n;
}

/* A relative path without "." and ".." that names a module. */
static bool path_ok(const char *path)
{
	size_t n = strlen(path);

	if (!n || n > MAX_PATH || !ends_with(path, wslx_module_plain_len(path), ".ko"))
		return false;
	for (const char *s = path; *s; s++)
		if ((unsigned char)*s <= 0x20 || *s == 0x7f)
			return false;
	for (const char *s = path; s; s = strchr(s, '/')) {
		size_t k;

		s += s != path;
		k = strcspn(s, "/");
		if (!k || (k == 1 && s[0] == '.') || (k == 2 && s[0] == '.' && s[1] == '.'))
			return false;
	}
	return true;
}

/* The kernel's name for a module: no folder, no suffix, '_' for '-'. */
static bool name_of(const char *path, char ret[MAX_NAME])
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	size_t n = strcspn(base, ".");

	if (!n || n >= MAX_NAME)
		return false;
	for (size_t i = 0; i < n; i++)
		ret[i] = base[i] == '-' ? '_' : base[i];
	ret[n] = 0;
	return true;
}

static int add_module(struct wslx_modules *m, const char *path, char *deps, const char *file, struct wslx_err *err)
{
	struct module mod = { .path = path, .deps = deps };

	if (!path_ok(path) || !name_of(path, mod.name))
		return wslx_err_set(err, EINVAL, "%s/%s names \"%s\", which is not a module below that folder", m->dir,
				    file, path);
	if (m->n == MAX_MODULES)
		return wslx_err_set(err, E2BIG, "%s/%s lists more than %d modules", m->dir, file, MAX_MODULES);
	if (m->n == m->cap) {
		size_t cap = m->cap ? 2 * m->cap : 1024;
		struct module *list = reallocarray(m->list, cap, sizeof(*list));

		if (!list)
			return -ENOMEM;
		m->list = list;
		m->cap = cap;
	}
	m->list[m->n++] = mod;
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct module *x = a, *y = b;
	int c = strcmp(x->name, y->name);

	return c ? c : (x->deps == NULL) - (y->deps == NULL);
}

static char *next_line(char **text)
{
	char *line = *text, *end;

	if (!*line)
		return NULL;
	end = strchrnul(line, '\n');
	*text = *end ? end + 1 : end;
	*end = 0;
	return line;
}

/* "path: path path\n" */
static int parse_dep(struct wslx_modules *m, struct wslx_err *err)
{
	char *text = m->dep, *line;
	int r = 0;

	while (r == 0 && (line = next_line(&text))) {
		char *colon = strchr(line, ':');

		if (!colon)
			return wslx_err_set(err, EINVAL, "%s/modules.dep has a line without a colon: \"%.80s\"", m->dir,
					    line);
		*colon = 0;
		r = add_module(m, line, colon + 1, "modules.dep", err);
	}
	return r;
}

static int parse_builtin(struct wslx_modules *m, struct wslx_err *err)
{
	char *text = m->builtin, *line;
	int r = 0;

	while (r == 0 && (line = next_line(&text)))
		if (*line)
			r = add_module(m, line, NULL, "modules.builtin", err);
	return r;
}

static int read_index(struct wslx_modules *m, const char *file, bool required, char **ret, struct wslx_err *err)
{
	size_t len;
	int r = wslx_read_file_nofollow(m->dirfd, file, INDEX_MAX, ret, &len);

	if (r == -ENOENT && !required) {
		*ret = strdup("");
		return *ret ? 0 : -ENOMEM;
	}
	if (r == -ENOENT)
		return wslx_err_set(err, ENOENT, "%s has no %s: run `depmod` for it", m->dir, file);
	return r < 0 ? wslx_err_sys(err, -r, "reading %s/%s", m->dir, file) : 0;
}

static int open_dir(struct wslx_modules *m, const char *dir, struct wslx_err *err)
{
	size_t n = strlen(dir);
	const char *base;

	while (n > 1 && dir[n - 1] == '/')
		n--;
	m->dir = strndup(dir, n);
	if (!m->dir)
		return -ENOMEM;
	base = strrchr(m->dir, '/');
	m->version = strdup(base ? base + 1 : m->dir);
	if (!m->version)
		return -ENOMEM;
	m->dirfd = open(m->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (m->dirfd < 0)
		return wslx_err_sys(err, errno, "kernel modules in %s", m->dir);
	return 0;
}

int wslx_modules_open(const char *dir, struct wslx_modules **ret, struct wslx_err *err)
{
	struct wslx_modules *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	m->dirfd = -1;
	r = open_dir(m, dir, err);
	if (r == 0)
		r = read_index(m, "modules.dep", true, &m->dep, err);
	if (r == 0)
		r = read_index(m, "modules.builtin", false, &m->builtin, err);
	if (r == 0)
		r = read_index(m, "modules.softdep", false, &m->softdep, err);
	if (r == 0)
		r = parse_dep(m, err);
	if (r == 0)
		r = parse_builtin(m, err);
	if (r == 0) {
		m->wanted = calloc(m->n + 1, sizeof(*m->wanted));
		r = m->wanted ? 0 : -ENOMEM;
	}
	if (r < 0) {
		wslx_modules_free(m);
		return r;
	}
	if (m->n)
		qsort(m->list, m->n, sizeof(*m->list), compare);
	*ret = m;
	return 0;
}

/* The first of that name: a loadable one, if there are both. */
static struct module *find(const struct wslx_modules *m, const char *name)
{
	size_t lo = 0, hi = m->n;
	char key[MAX_NAME];

	if (!name_of(name, key))
		return NULL;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (strcmp(m->list[mid].name, key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < m->n && !strcmp(m->list[lo].name, key) ? &m->list[lo] : NULL;
}

enum wslx_module_state wslx_modules_find(const struct wslx_modules *m, const char *name)
{
	const struct module *mod = find(m, name);

	if (!mod)
		return WSLX_MODULE_ABSENT;
	return mod->deps ? WSLX_MODULE_LOADABLE : WSLX_MODULE_BUILTIN;
}

static int want(struct wslx_modules *m, struct module *mod, unsigned depth, struct wslx_err *err);

/* What `softdep NAME pre: A B post: C` asks to be loaded as well, if it is
 * there.  The names may be aliases, which nothing here resolves: they are
 * skipped as modprobe skips what it does not find. */
static int want_soft(struct wslx_modules *m, const struct module *mod, unsigned depth, struct wslx_err *err)
{
	const char *line = m->softdep;
	int r = 0;

	for (; *line && r == 0; line = *strchrnul(line, '\n') ? strchrnul(line, '\n') + 1 : "") {
		cleanup_free char *copy = NULL;
		char *save = NULL, *word, name[MAX_NAME];

		if (strncmp(line, "softdep ", 8) != 0)
			continue;
		copy = strndup(line + 8, strcspn(line + 8, "\n"));
		if (!copy)
			return -ENOMEM;
		word = strtok_r(copy, " \t", &save);
		if (!word || !name_of(word, name) || strcmp(name, mod->name) != 0)
			continue;
		while (r == 0 && (word = strtok_r(NULL, " \t", &save))) {
			struct module *soft = strchr(word, ':') ? NULL : find(m, word);

			if (soft)
				r = want(m, soft, depth, err);
		}
	}
	return r;
}

static int want_deps(struct wslx_modules *m, const struct module *mod, unsigned depth, struct wslx_err *err)
{
	cleanup_free char *copy = strdup(mod->deps);
	char *save = NULL, *word;
	int r = 0;

	if (!copy)
		return -ENOMEM;
	for (word = strtok_r(copy, " \t", &save); word && r == 0; word = strtok_r(NULL, " \t", &save)) {
		struct module *dep = path_ok(word) ? find(m, word) : NULL;

		if (!dep)
			return wslx_err_set(err, EINVAL, "%s/modules.dep: %s depends on \"%s\", which it does not list",
					    m->dir, mod->path, word);
		r = want(m, dep, depth, err);
	}
	return r;
}

/* Depth first, so that what a module needs is loaded before it.  Each is
 * visited once, which also ends circles. */
static int want(struct wslx_modules *m, struct module *mod, unsigned depth, struct wslx_err *err)
{
	int r;

	if (mod->wanted || !mod->deps)
		return 0;
	if (depth > MAX_DEPTH)
		return wslx_err_set(err, ELOOP, "%s/modules.dep: dependencies are nested too deeply at %s", m->dir,
				    mod->path);
	mod->wanted = true;
	r = want_soft(m, mod, depth + 1, err);
	if (r == 0)
		r = want_deps(m, mod, depth + 1, err);
	if (r == 0)
		m->wanted[m->n_wanted++] = mod->path;
	return r;
}

int wslx_modules_want(struct wslx_modules *m, const char *name, struct wslx_err *err)
{
	struct module *mod = find(m, name);

	if (!mod)
		return wslx_err_set(err, ENOENT, "kernel %s has no %s driver: neither built in nor in %s", m->version,
				    name, m->dir);
	return want(m, mod, 0, err);
}

size_t wslx_modules_n_wanted(const struct wslx_modules *m)
{
	return m->n_wanted;
}

const char *wslx_modules_wanted(const struct wslx_modules *m, size_t i)
{
	return i < m->n_wanted ? m->wanted[i] : NULL;
}

static int open_module(const struct wslx_modules *m, const char *path)
{
	struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK, .resolve = RESOLVE_BENEATH };
	long fd = syscall(SYS_openat2, m->dirfd, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

static int read_all(int fd, uint8_t **ret, size_t *ret_len)
{
	cleanup_free uint8_t *p = NULL;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size <= 0 || (uint64_t)st.st_size > MODULE_MAX)
		return -EFBIG;
	p = malloc((size_t)st.st_size);
	if (!p)
		return -ENOMEM;
	r = wslx_pread_full(fd, p, (size_t)st.st_size, 0);
	if (r < 0)
		return r;
	*ret_len = (size_t)st.st_size;
	*ret = TAKE_PTR(p);
	return 0;
}

static int append(void *opaque, const uint8_t *p, size_t n)
{
	return wslx_buf_append(opaque, p, n);
}

int wslx_modules_read(const struct wslx_modules *m, const char *path, uint8_t **ret, size_t *ret_len,
		      struct wslx_err *err)
{
	cleanup_free uint8_t *raw = NULL;
	cleanup_close int fd = -1;
	struct wslx_buf out;
	size_t len = 0;
	int r;

	if (!path_ok(path))
		return wslx_err_set(err, EINVAL, "\"%s\" is not a module's path", path);
	fd = open_module(m, path);
	r = fd < 0 ? fd : read_all(fd, &raw, &len);
	if (r < 0)
		return wslx_err_sys(err, -r, "kernel module %s/%s", m->dir, path);
	if (path[wslx_module_plain_len(path)] == 0) {
		*ret = TAKE_PTR(raw);
		*ret_len = len;
		return 0;
	}
	wslx_buf_init(&out, MODULE_MAX);
	r = wslx_decompress(raw, len, append, &out);
	if (r < 0) {
		wslx_buf_free(&out);
		if (r == -EBADMSG || r == -ENOTSUP)
			return wslx_err_set(err, EBADMSG, "kernel module %s/%s is damaged: it does not unpack", m->dir,
					    path);
		return wslx_err_sys(err, -r, "kernel module %s/%s", m->dir, path);
	}
	*ret = out.data;
	*ret_len = out.len;
	return 0;
}
