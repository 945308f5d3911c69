/*
 * Kernel modules.  At boot: the files /modules.load lists, in that order (the
 * host resolved the dependencies when it built the initramfs); those behind the
 * vsock transport are left until HELLO is on its way.  Later: the
 * kernel runs /sbin/modprobe, a symbolic link to this program, which resolves
 * names, aliases, dependencies and soft dependencies itself from depmod's files
 * in /lib/modules/RELEASE, where the modules disk is mounted.
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "agent/machine.h"
#include "agent/modprobe_gate.h"
#include "agent/user.h"
#include "base/cleanup.h"
#include "base/log.h"

#define INDEX_MAX ((size_t)32 << 20)
#define MODULE_NAME_MAX 128
#define DEPTH_MAX 16
#define GATE_FILE "/modprobe.state"
#define MODULE_INIT_COMPRESSED_FILE 4 /* linux/module.h, since 5.17 */

static unsigned n_loaded; /* modules that were not in the kernel before */

static int load_file(const char *path)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	const char *dot = strrchr(path, '.');
	int flags = dot && strcmp(dot, ".ko") != 0 ? MODULE_INIT_COMPRESSED_FILE : 0;

	if (fd < 0)
		return -errno;
	/* EEXIST: loaded, by an earlier entry or by the kernel's own wish. */
	if (syscall(SYS_finit_module, fd, "", flags) == 0)
		n_loaded++;
	else if (errno != EEXIST)
		return -errno;
	return 0;
}

/* Line after the last one that a connection to the host needs; NULL = none is known. */
static char *first_late(char *list)
{
	char *late = NULL;

	for (char *p = list; p && (p = strstr(p, "sock")); late = p)
		p = strchr(p, '\n') ? strchr(p, '\n') + 1 : p + strlen(p);
	return late;
}

void modules_load_boot(bool late)
{
	cleanup_free char *list = NULL;
	char *save = NULL, *rest;
	size_t len;

	if (wslx_read_regular("/modules.load", INDEX_MAX, &list, &len) < 0)
		return;
	rest = first_late(list);
	if (late && !rest)
		return;
	if (!late && rest && rest > list)
		rest[-1] = 0;
	for (char *path = strtok_r(late ? rest : list, "\n", &save); path; path = strtok_r(NULL, "\n", &save)) {
		int r = load_file(path);

		/* Some drive nothing on this machine (crc32c_intel without SSE 4.2). */
		if (r < 0 && r != -ENODEV)
			log_warn("module %s: %s", path, strerror(-r));
	}
}

/* Device nodes whose opening loads their module, as modules.devname lists them:
 * "fuse fuse c10:229".  devtmpfs knows a device only once its driver is there. */
void modules_make_nodes(const char *release)
{
	cleanup_free char *list = NULL;
	char path[192], *save = NULL;
	size_t len;

	snprintf(path, sizeof(path), "/lib/modules/%s/modules.devname", release);
	if (wslx_read_regular(path, INDEX_MAX, &list, &len) < 0)
		return;
	for (char *line = strtok_r(list, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char module[64], node[64], type;
		unsigned major, minor;
		bool open_to_all;

		if (*line == '#' || sscanf(line, "%63s %63s %c%u:%u", module, node, &type, &major, &minor) != 5 ||
		    (type != 'c' && type != 'b') || strstr(node, ".."))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", node);
		if (strchr(node, '/')) {
			char *slash = strrchr(path, '/');

			*slash = 0;
			(void)mkdir_parents(path, 0755);
			*slash = '/';
		}
		/* The two that udev's rules open to everybody. */
		open_to_all = !strcmp(node, "fuse") || !strcmp(node, "net/tun");
		if (mknod(path, type == 'c' ? S_IFCHR : S_IFBLK, makedev(major, minor)) == 0)
			(void)chmod(path, open_to_all ? 0666 : 0600);
	}
}

/* ---- modprobe ---- */

struct resolver {
	char dir[128];               /* /lib/modules/RELEASE */
	char *dep, *softdep, *alias; /* whole files */
};

/* '-' and '_' are the same in module names, except inside [] of patterns. */
static void normalize(char *s)
{
	bool brackets = false;

	for (; *s; s++) {
		if (*s == '[')
			brackets = true;
		else if (*s == ']')
			brackets = false;
		else if (*s == '-' && !brackets)
			*s = '_';
	}
}

/* Module name of a path: base name without .ko and what follows. */
static bool name_of(const char *path, size_t len, char *dst)
{
	const char *base = memrchr(path, '/', len);
	size_t n;

	base = base ? base + 1 : path;
	n = (size_t)(path + len - base);
	for (size_t i = 0; i + 3 <= n; i++)
		if (!memcmp(base + i, ".ko", 3)) {
			n = i;
			break;
		}
	if (n == 0 || n >= MODULE_NAME_MAX)
		return false;
	memcpy(dst, base, n);
	dst[n] = 0;
	normalize(dst);
	return true;
}

static char *load_index(const struct resolver *r, const char *name)
{
	char path[192], *text;
	size_t len;

	snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	return wslx_read_regular(path, INDEX_MAX, &text, &len) < 0 ? NULL : text;
}

static int load_name(struct resolver *r, const char *name, unsigned depth);

static int load_path(const struct resolver *r, const char *path, size_t len)
{
	char full[512];

	if (len == 0 || len > 300)
		return -ENAMETOOLONG;
	snprintf(full, sizeof(full), "%s/%.*s", r->dir, (int)len, path);
	return load_file(full);
}

/* "pre: a b post: c" of one softdep line; the wished phase only. */
static void load_soft(struct resolver *r, const char *name, bool post, unsigned depth)
{
	for (const char *p = r->softdep; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		char line[1024], *save = NULL, *w;
		bool on = false;

		snprintf(line, sizeof(line), "%.*s", (int)strcspn(p, "\n"), p);
		w = strtok_r(line, " \t", &save);
		if (!w || strcmp(w, "softdep") != 0)
			continue;
		w = strtok_r(NULL, " \t", &save);
		if (w)
			normalize(w);
		if (!w || strcmp(w, name) != 0)
			continue;
		while ((w = strtok_r(NULL, " \t", &save))) {
			if (!strcmp(w, "pre:") || !strcmp(w, "post:"))
				on = (w[1] == 'o') == post;
			else if (on)
				/* Soft: its failure is no error. */
				(void)load_name(r, w, depth + 1);
		}
	}
}

/* The line "path: dep dep ..." of modules.dep; dependencies load from the last on. */
static int load_with_deps(struct resolver *r, const char *line, size_t path_len, const char *name, unsigned depth)
{
	const char *deps = line + path_len + 1, *end = deps + strcspn(deps, "\n");
	int ret;

	load_soft(r, name, false, depth);
	while (end > deps) {
		const char *start;

		while (end > deps && end[-1] == ' ')
			end--;
		start = end;
		while (start > deps && start[-1] != ' ')
			start--;
		if (start < end) {
			char dep[MODULE_NAME_MAX];

			if (name_of(start, (size_t)(end - start), dep))
				load_soft(r, dep, false, depth);
			ret = load_path(r, start, (size_t)(end - start));
			if (ret < 0)
				return ret;
		}
		end = start;
	}
	ret = load_path(r, line, path_len);
	if (ret == 0)
		load_soft(r, name, true, depth);
	return ret;
}

/* 1: there is such a module and *ret is what came of it. */
static bool load_by_name(struct resolver *r, const char *name, unsigned depth, int *ret)
{
	for (const char *p = r->dep; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		size_t n = strcspn(p, ":\n");
		char found[MODULE_NAME_MAX];

		if (p[n] == ':' && name_of(p, n, found) && !strcmp(found, name)) {
			*ret = load_with_deps(r, p, n, name, depth);
			return true;
		}
	}
	return false;
}

static int load_by_alias(struct resolver *r, const char *name, unsigned depth)
{
	int ret = -ENOENT;

	if (!r->alias)
		r->alias = load_index(r, "modules.alias");
	for (const char *p = r->alias; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		char line[512], *save = NULL, *pattern, *module;
		int one;

		if (strncmp(p, "alias ", 6) != 0)
			continue;
		snprintf(line, sizeof(line), "%.*s", (int)strcspn(p, "\n"), p);
		strtok_r(line, " ", &save);
		pattern = strtok_r(NULL, " ", &save);
		module = strtok_r(NULL, " ", &save);
		if (!pattern || !module)
			continue;
		normalize(pattern);
		if (fnmatch(pattern, name, 0) != 0)
			continue;
		normalize(module);
		if (load_by_name(r, module, depth, &one) && ret != 0)
			ret = one;
	}
	return ret;
}

static int load_name(struct resolver *r, const char *name, unsigned depth)
{
	char n[512];
	int ret;

	if (depth > DEPTH_MAX)
		return -ELOOP;
	if (strlen(name) >= sizeof(n))
		return -ENAMETOOLONG;
	strcpy(n, name);
	normalize(n);
	if (load_by_name(r, n, depth, &ret))
		return ret;
	return load_by_alias(r, n, depth);
}

/* May this name be searched for?  Waits until it may. */
static bool admitted(const char *name)
{
	struct modprobe_gate g;
	int fd = modprobe_gate_open(GATE_FILE, &g);
	enum modprobe_answer answer;
	uint64_t wait;

	/* Without its memory, modprobe still works. */
	if (fd < 0)
		return true;
	answer = modprobe_gate_ask(&g, name, boottime_ns(), &wait);
	modprobe_gate_close(fd, &g);
	if (wait) {
		struct timespec ts = { .tv_sec = (time_t)(wait / 1000000000u), .tv_nsec = (long)(wait % 1000000000u) };

		nanosleep(&ts, NULL);
	}
	return answer == MODPROBE_SEARCH;
}

static void remember(const char *name, enum modprobe_outcome what)
{
	struct modprobe_gate g;
	int fd = modprobe_gate_open(GATE_FILE, &g);

	if (fd < 0)
		return;
	modprobe_gate_end(&g, name, what);
	modprobe_gate_close(fd, &g);
}

/* Not before there is a name to be searched for: most of the time goes here. */
static bool open_index(struct resolver *r)
{
	struct utsname uts;

	if (r->dep)
		return true;
	if (uname(&uts) < 0)
		return false;
	snprintf(r->dir, sizeof(r->dir), "/lib/modules/%s", uts.release);
	r->dep = load_index(r, "modules.dep");
	r->softdep = load_index(r, "modules.softdep");
	return r->dep;
}

static int modprobe(struct resolver *r, const char *name)
{
	unsigned before = n_loaded;
	int ret;

	if (!admitted(name))
		return -ENOENT;
	/* The modules' disk may come yet: that is no miss. */
	if (!open_index(r))
		return -ENOENT;
	ret = load_name(r, name, 0);
	remember(name, ret == -ENOENT      ? MODPROBE_NOT_FOUND
		       : n_loaded > before ? MODPROBE_LOADED
					   : MODPROBE_NOTHING_NEW);
	return ret;
}

int modprobe_main(int argc, char **argv)
{
	struct resolver r = { 0 };
	int status = 0;

	/* The kernel calls: modprobe -q -- NAME */
	for (int i = 1; i < argc; i++)
		if (argv[i][0] != '-' && modprobe(&r, argv[i]) < 0)
			status = 1;
	return status;
}
