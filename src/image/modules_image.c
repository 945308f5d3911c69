/*
 * modules.img: what the guest sees as /lib/modules/VERSION.
 *
 * Its files go through a staging folder, where depmod(8) can index them with
 * the names they have once unpacked.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ext2fs/ext2fs.h>

#include "base/cleanup.h"
#include "image/ext4.h"
#include "image/kernel_internal.h"
#include "image/proc.h"
#include "image/source.h"
#include "os/linux/fd.h"

#define DEPTH_MAX 32u
#define PIECE ((size_t)1 << 20)

/* A walk over a folder's regular files; links are not followed. */
struct walk {
	struct wslx_staging *s;
	struct wslx_err *err;
	int (*file)(struct walk *w, int dir_fd, const char *name, const char *path);
	struct wslx_ext4 *fs;
	uint64_t bytes;
	uint32_t files;
	bool packed; /* some modules are compressed */
};

static int walk_dir(struct walk *w, int fd, const char *path, unsigned depth)
{
	DIR *d = fdopendir(fd);
	struct dirent *e;
	int r = 0;

	if (!d) {
		close(fd);
		return wslx_err_sys(w->err, ENOMEM, "cannot read modules");
	}
	while (r == 0 && (e = readdir(d))) {
		char sub[4096];
		struct stat st;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (wslx_task_cancelled(w->s->task)) {
			r = wslx_err_set(w->err, ECANCELED, "interrupted");
			break;
		}
		if ((size_t)snprintf(sub, sizeof(sub), "%s%s%s", path, *path ? "/" : "", e->d_name) >= sizeof(sub) ||
		    fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (S_ISREG(st.st_mode)) {
			w->files++;
			w->bytes += (uint64_t)st.st_size;
			if (w->files > WSLX_KERNEL_FILES_MAX || w->bytes > WSLX_KERNEL_BYTES_MAX)
				r = wslx_err_set(w->err, E2BIG, "more modules than a kernel can have");
			else
				r = w->file(w, dirfd(d), e->d_name, sub);
		} else if (S_ISDIR(st.st_mode) && depth) {
			int below = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (below >= 0)
				r = walk_dir(w, below, sub, depth - 1);
		}
	}
	closedir(d);
	return r;
}

static int walk_staged(struct walk *w, const char *version)
{
	char sub[512];

	snprintf(sub, sizeof(sub), "lib/modules/%s", version);
	int fd = openat(w->s->fd, sub, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return wslx_err_sys(w->err, errno, "no modules for kernel %s", version);
	return walk_dir(w, fd, "", DEPTH_MAX);
}

/* "x.ko.xz", ".zst", ".gz": the length of "x.ko", else 0. */
static size_t packed_len(const char *name)
{
	static const char *const ends[] = { ".ko.xz", ".ko.zst", ".ko.gz" };
	size_t n = strlen(name);

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		size_t k = strlen(ends[i]);

		if (n > k && strcmp(name + n - k, ends[i]) == 0)
			return n - k + 3;
	}
	return 0;
}

/* in_fd's content, decompressed if it is a packed module, to out_fd. */
static int copy_content(struct walk *w, int in_fd, int out_fd, bool packed)
{
	struct wslx_source *src;
	uint64_t off = 0;
	const void *p;
	ssize_t n;
	int r = 0;

	if (!packed) {
		while ((n = copy_file_range(in_fd, NULL, out_fd, NULL, PIECE * 64, 0)) > 0)
			off += (uint64_t)n;
		if (n == 0 && off)
			return 0;
		/* Another file system, or one whose files have no size (proc, sys). */
	}
	r = wslx_source_open(in_fd, &src);
	if (r < 0)
		return r;
	do {
		n = wslx_source_next(src, &p);
		if (n > 0) {
			w->s->bytes += (uint64_t)n;
			r = w->s->bytes > WSLX_KERNEL_BYTES_MAX ? -E2BIG
								: wslx_pwrite_full(out_fd, p, (size_t)n, (off_t)off);
			off += (uint64_t)n;
		}
	} while (r == 0 && (n > 0 || n == -EAGAIN));
	wslx_source_close(src);
	return r < 0 ? r : n < 0 ? (int)n : 0;
}

struct stage_walk {
	struct walk w;
	const char *version;
};

static int stage_file(struct walk *w, int dir_fd, const char *name, const char *path)
{
	const struct stage_walk *sw = (const struct stage_walk *)w;
	size_t plain = packed_len(path);
	cleanup_close int in = -1;
	cleanup_close int out = -1;
	char to[4608];

	in = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (in < 0)
		return wslx_err_sys(w->err, errno, "cannot read the module file '%.200s'", path);
	snprintf(to, sizeof(to), "lib/modules/%s/%.*s", sw->version, (int)(plain ? plain : strlen(path)), path);
	int r = wslx_staging_create(w->s, to, &out);

	if (r == 0)
		r = copy_content(w, in, out, plain != 0);
	if (r < 0)
		return wslx_err_sys(w->err, -r, "cannot copy the module file '%.200s'", path);
	if (plain)
		w->packed = true;
	return 0;
}

int wslx_modules_stage(const char *modules_dir, const char *version, struct wslx_staging *s, struct wslx_err *err)
{
	struct stage_walk sw = { .w = { .s = s, .err = err, .file = stage_file }, .version = version };
	int fd = open(modules_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return wslx_err_sys(err, errno, "cannot open the module folder %s", modules_dir);
	int r = walk_dir(&sw.w, fd, "", DEPTH_MAX);

	if (r == 0 && sw.w.packed) {
		char dep[512];

		/* It names the packed files: depmod has to write it again. */
		snprintf(dep, sizeof(dep), "lib/modules/%s/modules.dep", version);
		unlinkat(s->fd, dep, 0);
	}
	return r;
}

static int unpack_file(struct walk *w, int dir_fd, const char *name, const char *path)
{
	size_t plain = packed_len(name);
	cleanup_close int in = -1;
	cleanup_close int out = -1;
	char to[256];

	if (!plain || plain >= sizeof(to))
		return 0;
	memcpy(to, name, plain);
	to[plain] = 0;
	in = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	out = openat(dir_fd, to, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	int r = in < 0 || out < 0 ? -errno : copy_content(w, in, out, true);

	if (r < 0)
		return wslx_err_sys(w->err, -r, "cannot unpack the module '%.200s'", path);
	unlinkat(dir_fd, name, 0);
	w->packed = true;
	return 0;
}

int wslx_modules_index(struct wslx_staging *s, const char *version, struct wslx_err *err)
{
	struct walk w = { .s = s, .err = err, .file = unpack_file };
	char dep[512], base[512];
	const char *argv[] = { "depmod", "-b", base, "--", version, NULL };
	struct wslx_proc_params run = {
		.argv = argv, .package = "kmod", .keep_fd = s->dir_fd, .dir_fd = -1, .stdout_fd = -1
	};
	int r = walk_staged(&w, version);

	if (r < 0)
		return r;
	snprintf(dep, sizeof(dep), "lib/modules/%s/modules.dep", version);
	if (!w.packed && faccessat(s->fd, dep, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	wslx_staging_path(s, "", base, sizeof(base));
	return wslx_proc_run(&run, s->task, NULL, err);
}

static int count_file(struct walk *w, int dir_fd, const char *name, const char *path)
{
	return 0;
}

static int image_file(struct walk *w, int dir_fd, const char *name, const char *path)
{
	struct wslx_ext4_attr attr = { .mode = S_IFREG | 0644 };
	cleanup_close int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_free uint8_t *buf = malloc(PIECE);
	struct wslx_ext4_node *n;
	uint64_t off = 0;
	struct stat st;
	ssize_t got;
	int r;

	if (fd < 0 || !buf || fstat(fd, &st) < 0)
		return wslx_err_sys(w->err, buf ? errno : ENOMEM, "cannot read the module file '%.200s'", path);
	attr.mtime = attr.atime = attr.ctime = st.st_mtim;
	r = wslx_ext4_add(w->fs, path, &attr, NULL, &n, w->err);
	while (r == 0 && (got = read(fd, buf, PIECE)) != 0) {
		if (got < 0)
			return wslx_err_sys(w->err, errno, "cannot read the module file '%.200s'", path);
		r = wslx_ext4_write(w->fs, n, off, buf, (size_t)got, w->err);
		off += (uint64_t)got;
	}
	return r < 0 ? r : wslx_ext4_end_file(w->fs, n, off, w->err);
}

int wslx_modules_image_write(struct wslx_staging *s, const char *version, int out_fd, struct wslx_err *err)
{
	struct walk count = { .s = s, .err = err, .file = count_file };
	struct walk w = { .s = s, .err = err, .file = image_file };
	int r = walk_staged(&count, version);

	if (r < 0)
		return r;
	/* Generous: what stays empty is a hole. */
	struct wslx_ext4_params p = {
		.fd = out_fd,
		.size = count.bytes + (uint64_t)count.files * 8192 + count.bytes / 8 + 32 * WSLX_MIB,
		.label = "modules",
		.read_only = true,
		.inodes = (uint64_t)count.files * 2 + 1024,
		.task = s->task,
	};

	r = wslx_ext4_new(&p, &w.fs, err);
	if (r < 0)
		return r;
	r = walk_staged(&w, version);
	if (r == 0)
		r = wslx_ext4_finish(w.fs, err);
	wslx_ext4_free(w.fs);
	return r;
}

struct extract {
	ext2_filsys fs;
	struct wslx_staging *s;
	struct wslx_err *err;
	const char *version;
	const char *path; /* of the folder being read */
	unsigned depth;
	int r;
};

static int extract_dir(struct extract *x, ext2_ino_t ino, const char *path, unsigned depth);

static int extract_file(struct extract *x, ext2_ino_t ino, const char *path)
{
	cleanup_free uint8_t *buf = malloc(PIECE);
	cleanup_close int fd = -1;
	ext2_file_t f;
	char to[4608];
	unsigned got = 0;
	uint64_t off = 0;
	errcode_t c;

	snprintf(to, sizeof(to), "lib/modules/%s/%s", x->version, path);
	int r = buf ? wslx_staging_create(x->s, to, &fd) : -ENOMEM;

	if (r < 0)
		return wslx_err_sys(x->err, -r, "cannot unpack '%.200s'", path);
	c = ext2fs_file_open(x->fs, ino, 0, &f);
	if (c)
		return wslx_err_set(x->err, EIO, "cannot read '%.200s' of the modules: %s", path, error_message(c));
	while (!(c = ext2fs_file_read(f, buf, (unsigned)PIECE, &got)) && got && r == 0) {
		x->s->bytes += got;
		r = x->s->bytes > WSLX_KERNEL_BYTES_MAX ? -E2BIG : wslx_pwrite_full(fd, buf, got, (off_t)off);
		off += got;
	}
	ext2fs_file_close(f);
	if (c)
		return wslx_err_set(x->err, EIO, "cannot read '%.200s' of the modules: %s", path, error_message(c));
	return r < 0 ? wslx_err_sys(x->err, -r, "cannot unpack '%.200s'", path) : 0;
}

static int extract_entry(struct ext2_dir_entry *de, int offset, int blocksize, char *buf, void *opaque)
{
	struct extract *x = opaque;
	int len = ext2fs_dirent_name_len(de);
	struct ext2_inode inode;
	char path[4096];

	if (memcmp(de->name, "..", len < 2 ? 1 : 2) == 0 && len <= 2)
		return 0;
	if (x->s->files > WSLX_KERNEL_FILES_MAX || wslx_task_cancelled(x->s->task)) {
		x->r = wslx_err_set(x->err, ECANCELED, "interrupted");
		return DIRENT_ABORT;
	}
	if ((size_t)snprintf(path, sizeof(path), "%s%s%.*s", x->path, *x->path ? "/" : "", len, de->name) >=
		    sizeof(path) ||
	    ext2fs_read_inode(x->fs, de->inode, &inode))
		return 0;
	if (LINUX_S_ISREG(inode.i_mode))
		x->r = extract_file(x, de->inode, path);
	else if (LINUX_S_ISDIR(inode.i_mode) && x->depth)
		x->r = extract_dir(x, de->inode, path, x->depth - 1);
	return x->r < 0 ? DIRENT_ABORT : 0;
}

static int extract_dir(struct extract *x, ext2_ino_t ino, const char *path, unsigned depth)
{
	struct extract below = *x;

	below.path = path;
	below.depth = depth;
	errcode_t c = ext2fs_dir_iterate(x->fs, ino, 0, NULL, extract_entry, &below);

	if (below.r < 0)
		return below.r;
	return c ? wslx_err_set(x->err, EIO, "cannot read the modules: %s", error_message(c)) : 0;
}

int wslx_modules_image_read(int image_fd, const char *version, struct wslx_staging *s, struct wslx_err *err)
{
	struct extract x = { .s = s, .err = err, .version = version };
	char path[64];

	initialize_ext2_error_table();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", image_fd);
	errcode_t c = ext2fs_open(path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &x.fs);

	if (c)
		return wslx_err_set(err, EIO, "cannot read modules.img: %s", error_message(c));
	int r = extract_dir(&x, EXT2_ROOT_INO, "", DEPTH_MAX);

	ext2fs_free(x.fs);
	return r;
}
