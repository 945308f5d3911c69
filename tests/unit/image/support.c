#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

void tar_begin(struct tar *t, const char *format, const char *filter)
{
	t->a = archive_write_new();
	t->e = archive_entry_new();
	t->fd = memfd_create("tar", MFD_CLOEXEC);
	assert_true(t->fd >= 0 && t->a && t->e);
	assert_int_equal(archive_write_set_format_by_name(t->a, format), ARCHIVE_OK);
	if (strcmp(filter, "none") != 0)
		assert_int_equal(archive_write_add_filter_by_name(t->a, filter), ARCHIVE_OK);
	archive_write_set_bytes_in_last_block(t->a, 1);
	/* Names as they are, whatever the locale. */
	if (strcmp(format, "pax") == 0)
		archive_write_set_options(t->a, "hdrcharset=BINARY");
	assert_int_equal(archive_write_open_fd(t->a, t->fd), ARCHIVE_OK);
}

void tar_entry(struct tar *t, const char *path, uint32_t mode)
{
	archive_entry_clear(t->e);
	archive_entry_set_pathname(t->e, path);
	archive_entry_set_mode(t->e, mode);
	archive_entry_set_mtime(t->e, 1700000000, 0);
	archive_entry_set_size(t->e, 0);
}

void tar_put(struct tar *t, const void *data, size_t len)
{
	if (len && !archive_entry_sparse_count(t->e))
		archive_entry_set_size(t->e, (int64_t)len);
	int r = archive_write_header(t->a, t->e);

	if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
		fail_msg("%s", archive_error_string(t->a));
	if (len)
		assert_int_equal(archive_write_data(t->a, data, len), len);
}

void tar_file(struct tar *t, const char *path, uint32_t mode, const char *text)
{
	tar_entry(t, path, S_IFREG | mode);
	tar_put(t, text, strlen(text));
}

void tar_dir(struct tar *t, const char *path, uint32_t mode)
{
	tar_entry(t, path, S_IFDIR | mode);
	tar_put(t, NULL, 0);
}

void tar_symlink(struct tar *t, const char *path, const char *target)
{
	tar_entry(t, path, S_IFLNK | 0777);
	archive_entry_set_symlink(t->e, target);
	tar_put(t, NULL, 0);
}

void tar_hardlink(struct tar *t, const char *path, const char *target)
{
	tar_entry(t, path, S_IFREG | 0644);
	archive_entry_set_hardlink(t->e, target);
	tar_put(t, NULL, 0);
}

int tar_end(struct tar *t)
{
	assert_int_equal(archive_write_close(t->a), ARCHIVE_OK);
	archive_write_free(t->a);
	archive_entry_free(t->e);
	assert_int_equal(lseek(t->fd, 0, SEEK_SET), 0);
	return t->fd;
}

void tar_root(struct tar *t)
{
	tar_dir(t, "etc", 0755);
}

void raw_bytes(struct raw *r, const void *p, size_t n)
{
	size_t padded = (n + 511) & ~(size_t)511;

	if (r->len + padded >= r->cap) {
		r->cap = (r->len + padded) * 2 + 1;
		r->p = realloc(r->p, r->cap);
		assert_non_null(r->p);
	}
	memset(r->p + r->len, 0, padded);
	memcpy(r->p + r->len, p, n);
	r->len += padded;
}

void raw_header(struct raw *r, const char *name, char type, uint64_t size, const char *linkname)
{
	char h[512] = { 0 };
	unsigned sum = 0;

	strncpy(h, name, 100);
	memcpy(h + 100, "0000755", 8);
	memcpy(h + 108, "0000000", 8);
	memcpy(h + 116, "0000000", 8);
	if (size < (uint64_t)1 << 33) {
		snprintf(h + 124, 12, "%011llo", (unsigned long long)size);
	} else {
		/* GNU's base-256 form. */
		h[124] = (char)0x80;
		for (int i = 0; i < 8; i++)
			h[135 - i] = (char)(size >> (8 * i));
	}
	memcpy(h + 136, "14524620000", 12);
	memset(h + 148, ' ', 8);
	h[156] = type;
	if (linkname)
		strncpy(h + 157, linkname, 100);
	memcpy(h + 257, "ustar\00000", 8);
	for (int i = 0; i < 512; i++)
		sum += (unsigned char)h[i];
	snprintf(h + 148, 8, "%06o", sum);
	raw_bytes(r, h, 512);
}

void raw_end(struct raw *r)
{
	static const char zero[1024];

	raw_bytes(r, zero, sizeof(zero));
}

void raw_pax(struct raw *r, const char *record)
{
	size_t n = strlen(record) + 2, digits = 0;
	char *text;

	/* The length counts its own digits. */
	while (digits != (size_t)snprintf(NULL, 0, "%zu", n + digits))
		digits++;
	assert_true(asprintf(&text, "%zu %s\n", n + digits, record) > 0);
	raw_header(r, "PaxHeader", 'x', n + digits, NULL);
	raw_bytes(r, text, n + digits);
	free(text);
}

int raw_fd(struct raw *r)
{
	int fd = memfd_create("raw", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, r->p, r->len), r->len);
	lseek(fd, 0, SEEK_SET);
	free(r->p);
	*r = (struct raw) { 0 };
	return fd;
}

int make_temp(void)
{
	const char *dir = getenv("TMPDIR");
	int fd = open(dir && *dir ? dir : "/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

	if (fd < 0)
		fd = memfd_create("image", MFD_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

void image_import_with(struct image *im, int in_fd, struct wslx_import_params *p)
{
	memset(im, 0, sizeof(*im));
	im->fd = make_temp();
	snprintf(im->path, sizeof(im->path), "/proc/self/fd/%d", im->fd);
	p->in_fd = in_fd;
	p->out_fd = im->fd;
	p->no_sync = true;
	if (!p->in_name)
		p->in_name = "test.tar";
	im->r = wslx_import(p, &im->res, &im->err);
	close(in_fd);
}

void image_import(struct image *im, int in_fd)
{
	struct wslx_import_params p = { .size = 256 * WSLX_MIB };

	image_import_with(im, in_fd, &p);
}

int run_program(const char *const *argv)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 1);
		dup2(null, 2);
		setenv("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", 1);
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

void image_check(struct image *im)
{
	const char *argv[] = { "e2fsck", "-fn", im->path, NULL };

	if (im->r < 0)
		fail_msg("%s", im->err.msg);
	assert_int_equal(fcntl(im->fd, F_SETFD, 0), 0);
	assert_int_equal(run_program(argv), 0);
	assert_int_equal(ext2fs_open(im->path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &im->fs), 0);
}

void image_free(struct image *im)
{
	if (im->fs)
		ext2fs_free(im->fs);
	close(im->fd);
}

void image_assert_fails(struct image *im, int code, const char *text)
{
	if (im->r != -code || !strstr(im->err.msg, text))
		fail_msg("got %d '%s', expected %d '%s'", im->r, im->err.msg, -code, text);
	assert_int_equal(im->err.code, code);
}

ext2_ino_t image_find(struct image *im, const char *path)
{
	ext2_ino_t ino;

	return ext2fs_namei(im->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &ino) ? 0 : ino;
}

void image_stat(struct image *im, const char *path, struct ext2_inode_large *ret)
{
	ext2_ino_t ino = image_find(im, path);

	if (!ino)
		fail_msg("%s is missing", path);
	assert_int_equal(ext2fs_read_inode_full(im->fs, ino, (struct ext2_inode *)ret, sizeof(*ret)), 0);
}

char *image_read(struct image *im, const char *path, size_t *ret_len)
{
	struct ext2_inode_large inode;
	ext2_ino_t ino = image_find(im, path);
	unsigned got;
	ext2_file_t f;
	size_t size, at = 0;
	char *p;

	image_stat(im, path, &inode);
	size = (size_t)inode.i_size | (size_t)inode.i_size_high << 32;
	p = calloc(1, size + 1);
	assert_non_null(p);
	*ret_len = size;
	if (LINUX_S_ISLNK(inode.i_mode) && size < 60) {
		memcpy(p, inode.i_block, size);
		return p;
	}
	assert_int_equal(ext2fs_file_open(im->fs, ino, 0, &f), 0);
	while (at < size) {
		unsigned want = size - at > (1 << 20) ? 1 << 20 : (unsigned)(size - at);

		assert_int_equal(ext2fs_file_read(f, p + at, want, &got), 0);
		assert_true(got > 0);
		at += got;
	}
	ext2fs_file_close(f);
	return p;
}

void image_assert_text(struct image *im, const char *path, const char *text)
{
	size_t len;
	char *p = image_read(im, path, &len);

	assert_string_equal(p, text);
	assert_int_equal(len, strlen(text));
	free(p);
}

int image_xattr(struct image *im, const char *path, const char *name, void *buf, size_t size)
{
	struct ext2_xattr_handle *h;
	size_t len;
	void *value;
	int r = -1;

	assert_int_equal(ext2fs_xattrs_open(im->fs, image_find(im, path), &h), 0);
	assert_int_equal(ext2fs_xattrs_read(h), 0);
	if (ext2fs_xattr_get(h, name, &value, &len) == 0) {
		assert_true(len <= size);
		memcpy(buf, value, len);
		r = (int)len;
		ext2fs_free_mem(&value);
	}
	ext2fs_xattrs_close(&h);
	return r;
}
