/*
 * The kernel store.  See kernel.h.
 *
 * Everything is made in the kernel's own folder: scratch files below
 * .staging, results under their names.  The caller makes the folder known
 * only when all is done, so an interruption leaves at most an unregistered
 * folder.  Refreshing replaces the initramfs by rename: machines that have the
 * old one open keep it.
 */
#include "image/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lzma.h>

#include "base/cleanup.h"
#include "boot/initramfs.h"
#include "boot/unpack.h"
#include "image/kernel_internal.h"
#include "os/linux/fd.h"

#define FILE_MAX_SIZE ((uint64_t)2 << 30)
#define INITRAMFS_TMP ".initramfs.tmp"

static int create(int dir_fd, const char *name, int *ret, struct wslx_err *err)
{
	*ret = openat(dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	return *ret < 0 ? wslx_err_sys(err, errno, "cannot write %s", name) : 0;
}

static int sync_file(int fd, const char *name, struct wslx_err *err)
{
	return fsync(fd) < 0 ? wslx_err_sys(err, errno, "cannot write %s", name) : 0;
}

static int hash_file(int fd, char hash[65], struct wslx_err *err)
{
	const size_t piece = (size_t)1 << 18;
	cleanup_free uint8_t *buf = malloc(piece);
	uint64_t crc = 0;
	off_t off = 0;
	ssize_t n;

	if (!buf)
		return wslx_err_sys(err, ENOMEM, "cannot read the agent");
	while ((n = pread(fd, buf, piece, off)) > 0) {
		crc = lzma_crc64(buf, (size_t)n, crc);
		off += n;
	}
	if (n < 0)
		return wslx_err_sys(err, errno, "cannot read the agent");
	/* Tells builds apart; nothing relies on it against an attacker. */
	snprintf(hash, 65, "%016" PRIx64, crc);
	return 0;
}

/* Opens the agent and says which one it is. */
static int look_at_agent(const char *path, struct wslx_kernel_info *info, struct wslx_err *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot open the agent %s", path);
	if (!S_ISREG(st.st_mode))
		return wslx_err_set(err, EINVAL, "the agent %s is no regular file", path);
	info->agent_size = (uint64_t)st.st_size;
	info->agent_mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	return hash_file(fd, info->agent_hash, err);
}

static int build_initramfs(int dir_fd, const char *name, const char *agent_path, const char *modules_dir,
			   const char *version, struct wslx_err *err)
{
	struct wslx_initramfs_params p = {
		.modules_dir = modules_dir,
		.agent_path = agent_path,
		.kernel_version = *version ? version : NULL,
	};
	cleanup_close int fd = -1;
	int r = create(dir_fd, name, &fd, err);

	if (r == 0)
		r = wslx_initramfs_build(&p, fd, err);
	return r < 0 ? r : sync_file(fd, name, err);
}

static bool is_elf(int fd)
{
	uint8_t magic[4];

	return wslx_pread_full(fd, magic, 4, 0) == 0 && memcmp(magic, "\177ELF", 4) == 0;
}

static int copy_file(int in_fd, int dir_fd, const char *name, struct wslx_err *err)
{
	const size_t piece = (size_t)1 << 20;
	cleanup_free uint8_t *buf = malloc(piece);
	cleanup_close int fd = -1;
	off_t off = 0;
	ssize_t n;
	int r = create(dir_fd, name, &fd, err);

	if (r < 0)
		return r;
	if (!buf)
		return wslx_err_sys(err, ENOMEM, "cannot write %s", name);
	while ((n = pread(in_fd, buf, piece, off)) > 0) {
		r = wslx_pwrite_full(fd, buf, (size_t)n, off);
		if (r < 0)
			return wslx_err_sys(err, -r, "cannot write %s", name);
		off += n;
	}
	if (n < 0)
		return wslx_err_sys(err, errno, "cannot read the kernel");
	return sync_file(fd, name, err);
}

static int add_kernel(const struct wslx_kernel_params *p, int in_fd, struct wslx_kernel_info *info,
		      struct wslx_err *err)
{
	cleanup_close int fd = -1;
	struct wslx_err why = { 0 };
	int r = create(p->dir_fd, WSLX_KERNEL_VMLINUX, &fd, err);

	if (r < 0)
		return r;
	r = wslx_kernel_unpack(in_fd, fd, &why);
	if (r == -ENOEXEC)
		return wslx_err_set(err, EINVAL, "%s",
				    is_elf(in_fd) ? why.msg
						  : "not a kernel: neither a bzImage nor an x86-64 ELF file nor a "
						    "kernel package (.deb)");
	if (r < 0 && r != -ENOTSUP)
		return why.code ? wslx_err_set(err, -r, "%s", why.msg) : wslx_err_sys(err, -r, "cannot unpack it");
	info->has_vmlinux = r == 0;
	if (r == 0)
		r = sync_file(fd, WSLX_KERNEL_VMLINUX, err);
	else
		/* It unpacks itself when it boots. */
		r = unlinkat(p->dir_fd, WSLX_KERNEL_VMLINUX, 0) < 0 ? wslx_err_sys(err, errno, "cannot tidy up")
								    : wslx_kernel_check(in_fd, err);
	if (r == 0 && !is_elf(in_fd)) {
		r = copy_file(in_fd, p->dir_fd, WSLX_KERNEL_BZIMAGE, err);
		info->has_bzimage = r == 0;
	}
	if (r == 0 && !info->version[0]) {
		int v = wslx_kernel_version(in_fd, info->version, sizeof(info->version));

		if (v < 0 && info->has_vmlinux)
			v = wslx_kernel_version(fd, info->version, sizeof(info->version));
		if (v < 0)
			info->version[0] = 0;
	}
	return r;
}

/* The last part of .../lib/modules/VERSION. */
static int version_of(const char *modules_dir, char *buf, size_t size, struct wslx_err *err)
{
	char real[4096];
	const char *slash;

	if (!realpath(modules_dir, real))
		return wslx_err_sys(err, errno, "cannot open the module folder %s", modules_dir);
	slash = strrchr(real, '/');
	if (!slash || strlen(slash + 1) >= size || !wslx_kernel_version_ok(slash + 1))
		return wslx_err_set(err, EINVAL, "%s is no module folder: it should be .../lib/modules/VERSION",
				    modules_dir);
	strcpy(buf, slash + 1);
	return 0;
}

static int add_modules(const struct wslx_kernel_params *p, struct wslx_staging *s, const char *version,
		       struct wslx_kernel_info *info, struct wslx_err *err)
{
	cleanup_close int fd = -1;
	int r = wslx_modules_index(s, version, err);

	if (r == 0)
		r = create(p->dir_fd, WSLX_KERNEL_MODULES, &fd, err);
	if (r == 0)
		r = wslx_modules_image_write(s, version, fd, err);
	if (r == 0)
		r = sync_file(fd, WSLX_KERNEL_MODULES, err);
	info->has_modules = r == 0;
	return r;
}

static void report(const struct wslx_task *task, const char *what)
{
	struct wslx_progress now = { .what = what };

	wslx_task_report(task, &now);
}

/* The kernel itself into *ret_fd: the file given, or out of the package. */
static int open_kernel(const struct wslx_kernel_params *p, struct wslx_staging *s, struct wslx_kernel_info *info,
		       int *ret_fd, bool *ret_deb, struct wslx_err *err)
{
	cleanup_close int fd = open(p->file, O_RDONLY | O_CLOEXEC);
	char magic[8];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot open it");
	if (!S_ISREG(st.st_mode))
		return wslx_err_set(err, EINVAL, "not a kernel: no regular file");
	if ((uint64_t)st.st_size > FILE_MAX_SIZE)
		return wslx_err_set(err, EFBIG, "too large for a kernel");
	*ret_deb = wslx_pread_full(fd, magic, 8, 0) == 0 && memcmp(magic, "!<arch>\n", 8) == 0;
	if (!*ret_deb) {
		*ret_fd = TAKE_FD(fd);
		return 0;
	}
	report(&p->task, "unpacking the package");
	int r = wslx_deb_stage_kernel(fd, s, info->version, sizeof(info->version), err);

	if (r < 0)
		return r;
	*ret_fd = openat(s->fd, "vmlinuz", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return *ret_fd < 0 ? wslx_err_sys(err, errno, "cannot open the package's kernel") : 0;
}

static int add(const struct wslx_kernel_params *p, struct wslx_staging *s, struct wslx_kernel_info *info,
	       struct wslx_err *err)
{
	cleanup_close int fd = -1;
	char version[128] = "", path[512], sub[256];
	bool is_deb = false;
	int r = open_kernel(p, s, info, &fd, &is_deb, err);

	if (r == 0) {
		report(&p->task, "unpacking the kernel");
		r = add_kernel(p, fd, info, err);
	}
	if (r < 0) {
		wslx_err_prefix(err, "%s", p->file);
		return r;
	}
	if (p->modules_dir) {
		r = version_of(p->modules_dir, version, sizeof(version), err);
		if (r == 0 && info->version[0] && strcmp(version, info->version) != 0)
			r = wslx_err_set(err, EINVAL, "%s has modules for kernel %s, but %s is version %s",
					 p->modules_dir, version, p->file, info->version);
		if (r == 0)
			r = wslx_modules_stage(p->modules_dir, version, s, err);
	} else if (is_deb) {
		snprintf(sub, sizeof(sub), "lib/modules/%s", info->version);
		if (faccessat(s->fd, sub, F_OK, 0) == 0)
			memcpy(version, info->version, sizeof(version));
	}
	if (r == 0 && version[0]) {
		report(&p->task, "preparing modules");
		r = add_modules(p, s, version, info, err);
	}
	if (r < 0)
		return r;
	snprintf(sub, sizeof(sub), "lib/modules/%s", version);
	wslx_staging_path(s, sub, path, sizeof(path));
	if (!info->version[0])
		memcpy(info->version, version, sizeof(info->version));
	r = look_at_agent(p->agent_path, info, err);
	if (r == 0)
		r = build_initramfs(p->dir_fd, WSLX_KERNEL_INITRAMFS, p->agent_path, version[0] ? path : NULL,
				    info->version, err);
	return r;
}

int wslx_kernel_add(const struct wslx_kernel_params *p, struct wslx_kernel_info *ret, struct wslx_err *err)
{
	struct wslx_kernel_info info = { 0 };
	const char *slash = strrchr(p->file, '/');
	struct wslx_staging s;

	snprintf(info.source, sizeof(info.source), "%s", slash ? slash + 1 : p->file);
	int r = wslx_staging_new(&s, p->dir_fd, &p->task, err);

	if (r == 0)
		r = add(p, &s, &info, err);
	wslx_staging_end(&s);
	if (r == 0)
		*ret = info;
	return r;
}

static int rebuild(int dir_fd, const char *agent_path, const struct wslx_kernel_info *info, struct wslx_staging *s,
		   struct wslx_err *err)
{
	char sub[256], path[512];
	int r = 0;

	if (info->has_modules) {
		cleanup_close int image = openat(dir_fd, WSLX_KERNEL_MODULES, O_RDONLY | O_CLOEXEC);

		if (image < 0)
			return wslx_err_sys(err, errno, "cannot open %s", WSLX_KERNEL_MODULES);
		r = wslx_modules_image_read(image, info->version, s, err);
	}
	snprintf(sub, sizeof(sub), "lib/modules/%s", info->version);
	wslx_staging_path(s, sub, path, sizeof(path));
	if (r == 0)
		r = build_initramfs(dir_fd, INITRAMFS_TMP, agent_path, info->has_modules ? path : NULL, info->version,
				    err);
	if (r == 0 && renameat(dir_fd, INITRAMFS_TMP, dir_fd, WSLX_KERNEL_INITRAMFS) < 0)
		r = wslx_err_sys(err, errno, "cannot replace %s", WSLX_KERNEL_INITRAMFS);
	if (r < 0)
		unlinkat(dir_fd, INITRAMFS_TMP, 0);
	return r;
}

int wslx_kernel_refresh(int dir_fd, const char *agent_path, struct wslx_kernel_info *info, bool *ret_changed,
			struct wslx_err *err)
{
	struct wslx_kernel_info now = *info;
	struct wslx_staging s;
	struct stat st;

	*ret_changed = false;
	if (stat(agent_path, &st) < 0)
		return wslx_err_sys(err, errno, "cannot open the agent %s", agent_path);
	if ((uint64_t)st.st_size == info->agent_size &&
	    (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec == info->agent_mtime_ns &&
	    faccessat(dir_fd, WSLX_KERNEL_INITRAMFS, F_OK, 0) == 0)
		return 0;
	int r = look_at_agent(agent_path, &now, err);

	if (r < 0)
		return r;
	if (now.agent_size != info->agent_size || strcmp(now.agent_hash, info->agent_hash) != 0 ||
	    faccessat(dir_fd, WSLX_KERNEL_INITRAMFS, F_OK, 0) < 0) {
		r = wslx_staging_new(&s, dir_fd, NULL, err);
		if (r == 0)
			r = rebuild(dir_fd, agent_path, info, &s, err);
		wslx_staging_end(&s);
		if (r < 0)
			return r;
	}
	*info = now;
	*ret_changed = true;
	return 0;
}

json_t *wslx_kernel_info_to_json(const struct wslx_kernel_info *info)
{
	return json_pack("{s:i, s:s, s:s, s:b, s:b, s:b, s:{s:I, s:I, s:s}}", "format", 1, "version", info->version,
			 "source", info->source, "bzImage", info->has_bzimage, "vmlinux", info->has_vmlinux, "modules",
			 info->has_modules, "agent", "size", (json_int_t)info->agent_size, "mtime_ns",
			 (json_int_t)info->agent_mtime_ns, "hash", info->agent_hash);
}

/* A string that fits and cannot lead to another folder. */
static bool take_string(const char *from, char *to, size_t size)
{
	size_t n = strlen(from);

	if (n >= size || strchr(from, '/') || strcmp(from, ".") == 0 || strcmp(from, "..") == 0)
		return false;
	memcpy(to, from, n + 1);
	return true;
}

int wslx_kernel_info_from_json(const json_t *json, struct wslx_kernel_info *ret, struct wslx_err *err)
{
	struct wslx_kernel_info info = { 0 };
	const char *version, *source, *hash;
	int bzimage, vmlinux, modules, format;
	json_int_t size = 0, mtime = 0;
	json_error_t e;

	if (json_unpack_ex((json_t *)(uintptr_t)json, &e, 0, "{s:i, s:s, s:s, s:b, s:b, s:b, s:{s:I, s:I, s:s}}",
			   "format", &format, "version", &version, "source", &source, "bzImage", &bzimage, "vmlinux",
			   &vmlinux, "modules", &modules, "agent", "size", &size, "mtime_ns", &mtime, "hash",
			   &hash) < 0)
		return wslx_err_set(err, EINVAL, "kernel.json: %s", e.text);
	if (format != 1)
		return wslx_err_set(err, EINVAL, "kernel.json has format %d: made by a newer wslx", format);
	/* "": not known. */
	if (size < 0 || (*version && !wslx_kernel_version_ok(version)) ||
	    !take_string(version, info.version, sizeof(info.version)) ||
	    !take_string(source, info.source, sizeof(info.source)) ||
	    !take_string(hash, info.agent_hash, sizeof(info.agent_hash)) || (!bzimage && !vmlinux))
		return wslx_err_set(err, EINVAL, "kernel.json has values that cannot be");
	info.has_bzimage = bzimage;
	info.has_vmlinux = vmlinux;
	info.has_modules = modules;
	info.agent_size = (uint64_t)size;
	info.agent_mtime_ns = mtime;
	*ret = info;
	return 0;
}
