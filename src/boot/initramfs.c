/* Theory of operation: see initramfs.h. */
#include "boot/initramfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "boot/modules.h"
#include "os/linux/fd.h"

#define AGENT_MAX (64 * WSLX_MIB)
#define LIST_MAX (64 * WSLX_KIB)
#define MAX_DIRS 256

/*
 * In the order in which they load.  Without those marked, no machine comes up.
 * ext4 of some kernels looks for crc32c through the crypto API at mount time,
 * which modules.dep does not know: so both forms of it go first.
 */
static const struct {
	const char *name;
	bool required;
} boot_modules[] = {
	{ "virtio_pci", true },      { "vmw_vsock_virtio_transport", true },
	{ "virtio_blk", true },      { "crc32c_generic", false },
	{ "crc32c_intel", false },   { "ext4", true },
	{ "virtio_net", true },      { "overlay", false },
	{ "virtio_console", false }, { "virtio_rng", false },
	{ "af_packet", false },
};

static const struct {
	const char *path;
	uint32_t mode;
} folders[] = {
	{ "dev", 0755 },  { "etc", 0755 },  { "lib", 0755 },  { "lib/modules", 0755 },
	{ "mnt", 0755 },  { "proc", 0555 }, { "root", 0700 }, { "run", 0755 },
	{ "sbin", 0755 }, { "sys", 0555 },  { "tmp", 01777 },
};

struct builder {
	struct wslx_cpio cpio;
	const struct wslx_initramfs_params *p;
	struct wslx_err *err;
	struct wslx_modules *modules;
	char *dirs[MAX_DIRS]; /* folders below lib/modules written so far */
	size_t n_dirs;
};

static int write_failed(struct builder *b, int r)
{
	return r < 0 ? wslx_err_sys(b->err, -r, "writing the initramfs") : 0;
}

static int add_skeleton(struct builder *b)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(folders) && r == 0; i++)
		r = wslx_cpio_add(&b->cpio, folders[i].path, S_IFDIR | folders[i].mode, NULL, 0);
	/* The kernel opens the console for init before /dev is mounted. */
	if (r == 0)
		r = wslx_cpio_add_node(&b->cpio, "dev/console", S_IFCHR | 0600, 5, 1);
	if (r == 0)
		r = wslx_cpio_add_node(&b->cpio, "dev/null", S_IFCHR | 0666, 1, 3);
	if (r == 0)
		r = wslx_cpio_add(&b->cpio, "sbin/modprobe", S_IFLNK | 0777, "/init", 5);
	return write_failed(b, r);
}

static int add_agent(struct builder *b)
{
	cleanup_free char *agent = NULL;
	size_t len;
	int r;

	r = wslx_read_file(AT_FDCWD, b->p->agent_path, AGENT_MAX, &agent, &len);
	if (r < 0)
		return wslx_err_sys(b->err, -r, "the guest agent %s", b->p->agent_path);
	if (len < 4 || memcmp(agent, "\177ELF", 4) != 0)
		return wslx_err_set(b->err, ENOEXEC, "the guest agent %s is not an executable", b->p->agent_path);
	return write_failed(b, wslx_cpio_add(&b->cpio, "init", S_IFREG | 0755, agent, len));
}

static bool have_dir(const struct builder *b, const char *path)
{
	for (size_t i = 0; i < b->n_dirs; i++)
		if (!strcmp(b->dirs[i], path))
			return true;
	return false;
}

/* The folders above path, from lib/modules/VERSION on, that are not there yet. */
static int add_parents(struct builder *b, const char *path)
{
	const char *slash = path + strlen("lib/modules");

	while ((slash = strchr(slash + 1, '/'))) {
		cleanup_free char *dir = strndup(path, (size_t)(slash - path));
		int r;

		if (!dir)
			return -ENOMEM;
		if (have_dir(b, dir))
			continue;
		if (b->n_dirs == MAX_DIRS)
			return wslx_err_set(b->err, E2BIG, "the boot modules lie in more than %d folders", MAX_DIRS);
		r = wslx_cpio_add(&b->cpio, dir, S_IFDIR | 0755, NULL, 0);
		if (r < 0)
			return write_failed(b, r);
		b->dirs[b->n_dirs++] = TAKE_PTR(dir);
	}
	return 0;
}

static int add_module(struct builder *b, const char *path, struct wslx_buf *list)
{
	cleanup_free uint8_t *data = NULL;
	cleanup_free char *to = NULL;
	size_t len;
	int r;

	r = wslx_modules_read(b->modules, path, &data, &len, b->err);
	if (r < 0)
		return r;
	if (asprintf(&to, "lib/modules/%s/%.*s", wslx_modules_version(b->modules), (int)wslx_module_plain_len(path),
		     path) < 0) {
		to = NULL;
		return -ENOMEM;
	}
	r = add_parents(b, to);
	if (r < 0)
		return r;
	r = wslx_cpio_add(&b->cpio, to, S_IFREG | 0644, data, len);
	if (r < 0)
		return write_failed(b, r);
	r = wslx_buf_append(list, "/", 1);
	if (r == 0)
		r = wslx_buf_append(list, to, strlen(to));
	return r == 0 ? wslx_buf_append(list, "\n", 1) : r;
}

static int choose_modules(struct builder *b)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(boot_modules) && r == 0; i++) {
		const char *name = boot_modules[i].name;

		if (boot_modules[i].required || wslx_modules_find(b->modules, name) != WSLX_MODULE_ABSENT)
			r = wslx_modules_want(b->modules, name, b->err);
	}
	return r;
}

static int add_modules(struct builder *b)
{
	struct wslx_buf list;
	int r = 0;

	wslx_buf_init(&list, LIST_MAX);
	if (b->modules)
		r = choose_modules(b);
	for (size_t i = 0; r == 0 && b->modules && i < wslx_modules_n_wanted(b->modules); i++)
		r = add_module(b, wslx_modules_wanted(b->modules, i), &list);
	if (r == 0)
		r = write_failed(b, wslx_cpio_add(&b->cpio, "modules.load", S_IFREG | 0644, list.data, list.len));
	wslx_buf_free(&list);
	return r;
}

static int open_modules(struct builder *b)
{
	const char *version;
	int r;

	if (!b->p->modules_dir)
		return 0;
	r = wslx_modules_open(b->p->modules_dir, &b->modules, b->err);
	if (r < 0)
		return r;
	version = wslx_modules_version(b->modules);
	if (b->p->kernel_version && strcmp(b->p->kernel_version, version) != 0)
		return wslx_err_set(b->err, EINVAL, "the kernel is %s, but the modules in %s are for %s",
				    b->p->kernel_version, b->p->modules_dir, version);
	return 0;
}

static int build(struct builder *b)
{
	int r = open_modules(b);

	if (r == 0)
		r = add_skeleton(b);
	if (r == 0)
		r = add_agent(b);
	if (r == 0)
		r = add_modules(b);
	return r == 0 ? write_failed(b, wslx_cpio_end(&b->cpio)) : r;
}

int wslx_initramfs_build(const struct wslx_initramfs_params *p, int out_fd, struct wslx_err *err)
{
	struct wslx_err why = { 0 };
	struct builder b = { .p = p, .err = &why };
	int r;

	wslx_cpio_init(&b.cpio, out_fd);
	r = build(&b);
	for (size_t i = 0; i < b.n_dirs; i++)
		free(b.dirs[i]);
	wslx_modules_free(b.modules);
	if (r < 0 && !why.code)
		return wslx_err_sys(err, -r, "building the initramfs");
	if (r < 0 && err)
		*err = why;
	return r;
}
