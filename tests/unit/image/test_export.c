/* What a disk holds is what its archive holds: export is the inverse of import. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image/export.h"
#include "os/linux/fd.h"

struct exported {
	int fd; /* the archive, at its start */
	int r;
	struct wslx_export_result res;
	struct wslx_err err;
};

static void export_disk(int disk, enum wslx_export_format format, struct exported *x)
{
	struct wslx_export_params p = { .disk_fd = disk, .format = format };

	*x = (struct exported) { .fd = memfd_create("archive", MFD_CLOEXEC) };
	p.out_fd = x->fd;
	x->r = wslx_export(&p, &x->res, &x->err);
	assert_int_equal(lseek(x->fd, 0, SEEK_SET), 0);
}

static void export_image(struct image *im, enum wslx_export_format format, struct exported *x)
{
	export_disk(im->fd, format, x);
	if (x->r < 0)
		fail_msg("%s", x->err.msg);
}

static void assert_same_files(int a, int b)
{
	struct stat x, y;
	uint8_t *p, *q;

	assert_int_equal(fstat(a, &x) | fstat(b, &y), 0);
	assert_int_equal(x.st_size, y.st_size);
	p = malloc((size_t)x.st_size);
	q = malloc((size_t)x.st_size);
	assert_int_equal(wslx_pread_full(a, p, (size_t)x.st_size, 0), 0);
	assert_int_equal(wslx_pread_full(b, q, (size_t)x.st_size, 0), 0);
	assert_int_equal(memcmp(p, q, (size_t)x.st_size), 0);
	free(p);
	free(q);
}

/* Imports the archive (closed), exports, imports that, into *ret; what is
 * exported once more is the same, byte for byte. */
static void round_trip(int tar, struct image *ret)
{
	struct exported one, two;
	struct image first;

	image_import(&first, tar);
	image_check(&first);
	export_image(&first, WSLX_EXPORT_TAR, &one);
	image_free(&first);
	image_import(ret, fcntl(one.fd, F_DUPFD_CLOEXEC, 3));
	image_check(ret);
	export_image(ret, WSLX_EXPORT_TAR, &two);
	assert_same_files(one.fd, two.fd);
	close(one.fd);
	close(two.fd);
}

static void test_kinds(void **state)
{
	static const size_t lengths[] = { 1, 59, 60, 61, 1000, 4095 };
	char name[32], target[4096];
	struct ext2_inode_large i;
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "none");
	tar_dir(&t, "./", 0751);
	tar_dir(&t, "etc", 01777);
	tar_entry(&t, "etc/setuid", S_IFREG | 06755);
	archive_entry_set_uid(t.e, 70000);
	archive_entry_set_gid(t.e, 4000000000);
	archive_entry_set_mtime(t.e, 5234567890, 123456789);
	tar_put(&t, "x", 1);
	tar_entry(&t, "old", S_IFREG | 0644);
	archive_entry_set_mtime(t.e, -86400, 0);
	tar_put(&t, NULL, 0);
	tar_entry(&t, "sda", S_IFBLK | 0660);
	archive_entry_set_rdevmajor(t.e, 8);
	archive_entry_set_rdevminor(t.e, 1);
	tar_put(&t, NULL, 0);
	tar_entry(&t, "big", S_IFCHR | 0600);
	archive_entry_set_rdevmajor(t.e, 259);
	archive_entry_set_rdevminor(t.e, 70000);
	tar_put(&t, NULL, 0);
	tar_entry(&t, "fifo", S_IFIFO | 0622);
	tar_put(&t, NULL, 0);
	for (size_t k = 0; k < ARRAY_SIZE(lengths); k++) {
		memset(target, 'a' + (int)k, lengths[k]);
		target[lengths[k]] = 0;
		snprintf(name, sizeof(name), "s%zu", k);
		tar_symlink(&t, name, target);
	}
	tar_file(&t, "one", 0644, "content");
	tar_hardlink(&t, "etc/two", "one");
	tar_hardlink(&t, "hard-symlink", "s0");
	round_trip(tar_end(&t), &im);
	image_stat(&im, "/", &i);
	assert_int_equal(i.i_mode, S_IFDIR | 0751);
	image_stat(&im, "/etc", &i);
	assert_int_equal(i.i_mode, S_IFDIR | 01777);
	image_stat(&im, "/etc/setuid", &i);
	assert_int_equal(i.i_mode, S_IFREG | 06755);
	assert_int_equal(inode_uid(i), 70000);
	assert_int_equal(inode_gid(i), 4000000000);
	assert_int_equal(i.i_mtime, (uint32_t)5234567890);
	assert_int_equal(i.i_mtime_extra, 123456789u << 2 | 1);
	image_stat(&im, "/old", &i);
	assert_int_equal((int32_t)i.i_mtime, -86400);
	image_stat(&im, "/sda", &i);
	assert_int_equal(i.i_mode, S_IFBLK | 0660);
	assert_int_equal(i.i_block[0], 8 << 8 | 1);
	image_stat(&im, "/big", &i);
	assert_int_equal(i.i_block[1], (70000 & 0xff) | 259 << 8 | (70000 & ~0xff) << 12);
	image_stat(&im, "/fifo", &i);
	assert_int_equal(i.i_mode, S_IFIFO | 0622);
	for (size_t k = 0; k < ARRAY_SIZE(lengths); k++) {
		memset(target, 'a' + (int)k, lengths[k]);
		target[lengths[k]] = 0;
		snprintf(name, sizeof(name), "/s%zu", k);
		image_assert_text(&im, name, target);
	}
	assert_int_equal(image_find(&im, "/one"), image_find(&im, "/etc/two"));
	assert_int_equal(image_find(&im, "/hard-symlink"), image_find(&im, "/s0"));
	image_free(&im);
}

static void test_names(void **state)
{
	static const char nfd[] = "etc/e\xcc\x81", nfc[] = "etc/\xc3\xa9", latin[] = "etc/\xe9\xff";
	char component[256], path[2100] = "etc";
	struct image im;
	struct tar t;

	memset(component, 'n', 255);
	component[255] = 0;
	while (strlen(path) < 1700)
		snprintf(path + strlen(path), sizeof(path) - strlen(path), "/%s", component);
	tar_begin(&t, "gnutar", "none");
	tar_root(&t);
	tar_file(&t, nfd, 0644, "nfd");
	tar_file(&t, nfc, 0644, "nfc");
	tar_file(&t, latin, 0644, "latin");
	tar_file(&t, path, 0644, "long");
	tar_file(&t, "etc/a\nb", 0644, "newline");
	tar_symlink(&t, "etc/link", "t\xc3\xa4\xff");
	round_trip(tar_end(&t), &im);
	image_assert_text(&im, nfd, "nfd");
	image_assert_text(&im, nfc, "nfc");
	image_assert_text(&im, latin, "latin");
	image_assert_text(&im, path, "long");
	image_assert_text(&im, "etc/a\nb", "newline");
	image_assert_text(&im, "etc/link", "t\xc3\xa4\xff");
	image_free(&im);
}

/* How many entries of an archive say that their names are in no charset. */
static size_t count_binary(int fd)
{
	static const char mark[] = "hdrcharset=BINARY\n";
	struct stat st;
	size_t n = 0;
	char *p, *at;

	assert_int_equal(fstat(fd, &st), 0);
	p = malloc((size_t)st.st_size);
	assert_int_equal(wslx_pread_full(fd, p, (size_t)st.st_size, 0), 0);
	for (at = p; (at = memmem(at, (size_t)(p + st.st_size - at), mark, strlen(mark))); at++)
		n++;
	free(p);
	return n;
}

static void disk_with_names(const char *const *names, size_t n, struct image *ret)
{
	struct tar t;

	tar_begin(&t, "gnutar", "none");
	tar_root(&t);
	for (size_t i = 0; i < n; i++) {
		char link[32], path[64];

		snprintf(path, sizeof(path), "etc/%s", names[i]);
		tar_file(&t, path, 0644, names[i]);
		snprintf(link, sizeof(link), "etc/link%zu", i);
		tar_symlink(&t, link, names[i]);
	}
	round_trip(tar_end(&t), ret);
	for (size_t i = 0; i < n; i++) {
		char path[64];

		snprintf(path, sizeof(path), "/etc/%s", names[i]);
		image_assert_text(ret, path, names[i]);
		snprintf(path, sizeof(path), "/etc/link%zu", i);
		image_assert_text(ret, path, names[i]);
	}
}

/* tar(1) warns of each name that is marked to be in no charset: those that are UTF-8 are not. */
static void test_names_in_utf8(void **state)
{
	static const char *const utf8[] = { "\xc3\xa9",         "e\xcc\x81",        "\xc2\x80",      "\xdf\xbf",
					    "\xe0\xa0\x80",     "\xed\x9f\xbf",     "\xee\x80\x80",  "\xef\xbf\xbf",
					    "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "\xe2\x84\xab-K" };
	/* Latin-1, cut short, too long, too large; surrogates, alone and in pairs. */
	static const char *const others[] = { "\xe9",
					      "\xff",
					      "\xe2\x82",
					      "\xc0\xae",
					      "\xe0\x80\xae",
					      "\xf4\x90\x80\x80",
					      "\xed\xa0\x80",
					      "\xed\xb0\x80",
					      "\xed\xa0\x80\xed\xb0\x80",
					      "\xed\xed\xa1\x8c\xed\xbe\xb4" };
	struct exported x;
	struct image im;

	disk_with_names(utf8, ARRAY_SIZE(utf8), &im);
	export_image(&im, WSLX_EXPORT_TAR, &x);
	assert_int_equal(count_binary(x.fd), 0);
	close(x.fd);
	image_free(&im);
	disk_with_names(others, ARRAY_SIZE(others), &im);
	export_image(&im, WSLX_EXPORT_TAR, &x);
	/* File and link of each. */
	assert_int_equal(count_binary(x.fd), 2 * ARRAY_SIZE(others));
	close(x.fd);
	image_free(&im);
}

static void test_attributes(void **state)
{
	static const uint8_t caps[20] = { 1, 0, 0, 2, 0, 4 };
	uint8_t buf[5000], big[3000];
	struct image im;
	struct tar t;

	for (size_t k = 0; k < sizeof(big); k++)
		big[k] = (uint8_t)k;
	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_entry(&t, "etc/ping", S_IFREG | 0755);
	archive_entry_xattr_add_entry(t.e, "security.capability", caps, sizeof(caps));
	archive_entry_xattr_add_entry(t.e, "user.empty", "", 0);
	archive_entry_xattr_add_entry(t.e, "trusted.big", big, sizeof(big));
	tar_put(&t, "x", 1);
	tar_entry(&t, "etc/acl", S_IFDIR | 0750);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 7, ARCHIVE_ENTRY_ACL_USER, 70000, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 5, ARCHIVE_ENTRY_ACL_MASK, -1, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 7, ARCHIVE_ENTRY_ACL_USER_OBJ, -1, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 5, ARCHIVE_ENTRY_ACL_GROUP_OBJ, -1, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 4, ARCHIVE_ENTRY_ACL_GROUP, 12, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 5, ARCHIVE_ENTRY_ACL_MASK, -1, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 0, ARCHIVE_ENTRY_ACL_OTHER, -1, NULL);
	tar_put(&t, NULL, 0);
	round_trip(tar_end(&t), &im);
	assert_int_equal(image_xattr(&im, "/etc/ping", "security.capability", buf, sizeof(buf)), sizeof(caps));
	assert_memory_equal(buf, caps, sizeof(caps));
	assert_int_equal(image_xattr(&im, "/etc/ping", "user.empty", buf, sizeof(buf)), 0);
	assert_int_equal(image_xattr(&im, "/etc/ping", "trusted.big", buf, sizeof(buf)), sizeof(big));
	assert_memory_equal(buf, big, sizeof(big));
	/* Five entries each: owner, a user or group, group, mask, others. */
	assert_int_equal(image_xattr(&im, "/etc/acl", "system.posix_acl_access", buf, sizeof(buf)), 4 + 5 * 8);
	assert_int_equal(buf[4 + 8], 0x02);
	assert_int_equal(buf[4 + 8 + 2], 7);
	assert_int_equal(buf[4 + 8 + 4] | buf[4 + 8 + 5] << 8 | buf[4 + 8 + 6] << 16, 70000);
	assert_int_equal(image_xattr(&im, "/etc/acl", "system.posix_acl_default", buf, sizeof(buf)), 4 + 5 * 8);
	image_free(&im);
}

/* A file with data at some offsets and holes elsewhere. */
static void put_sparse(struct tar *t, const char *name, int64_t size, const int64_t *data, size_t n)
{
	char block[8192];

	tar_entry(t, name, S_IFREG | 0644);
	archive_entry_set_size(t->e, size);
	for (size_t i = 0; i < n; i++)
		archive_entry_sparse_add_entry(t->e, data[i], sizeof(block));
	if (!n)
		archive_entry_sparse_add_entry(t->e, size, 0);
	assert_int_equal(archive_write_header(t->a, t->e), ARCHIVE_OK);
	for (int64_t at = 0; at < size; at += (int64_t)sizeof(block)) {
		bool here = false;

		for (size_t i = 0; i < n; i++)
			here |= data[i] == at;
		memset(block, here ? 'd' : 0, sizeof(block));
		assert_true(archive_write_data(t->a, block, (size_t)WSLX_MIN(size - at, (int64_t)sizeof(block))) > 0);
	}
}

static void test_holes(void **state)
{
	static const int64_t at[] = { 65536, 1 << 20, (48 << 20) - 8192 }, front[] = { 0 };
	struct ext2_inode_large i;
	struct exported x;
	struct image im;
	struct stat st;
	struct tar t;
	size_t len;
	char *p;

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	put_sparse(&t, "etc/holes", 48 << 20, at, ARRAY_SIZE(at));
	put_sparse(&t, "etc/nothing", 64 << 20, NULL, 0);
	put_sparse(&t, "etc/front", (64 << 20) + 1, front, 1);
	tar_file(&t, "etc/after", 0644, "after");
	round_trip(tar_end(&t), &im);
	p = image_read(&im, "/etc/holes", &len);
	assert_int_equal(len, 48 << 20);
	for (size_t k = 0; k < len; k++) {
		bool data = false;

		for (size_t j = 0; j < ARRAY_SIZE(at); j++)
			data |= k >= (size_t)at[j] && k < (size_t)at[j] + 8192;
		if (p[k] != (data ? 'd' : 0))
			fail_msg("holes differs at %zu", k);
	}
	free(p);
	image_stat(&im, "/etc/holes", &i);
	assert_int_equal(i.i_blocks, 3 * 8192 / 512);
	image_stat(&im, "/etc/nothing", &i);
	assert_int_equal(i.i_size, 64 << 20);
	assert_int_equal(i.i_blocks, 0);
	image_stat(&im, "/etc/front", &i);
	assert_int_equal(i.i_size, (64 << 20) + 1);
	assert_int_equal(i.i_blocks, 8192 / 512);
	image_assert_text(&im, "/etc/after", "after");
	export_image(&im, WSLX_EXPORT_TAR, &x);
	assert_int_equal(fstat(x.fd, &st), 0);
	assert_true(st.st_size < 1 << 20);
	close(x.fd);
	image_free(&im);
}

static void test_formats(void **state)
{
	static const struct {
		enum wslx_export_format format;
		uint8_t magic[2];
	} list[] = { { WSLX_EXPORT_TAR_GZ, { 0x1f, 0x8b } }, { WSLX_EXPORT_TAR_XZ, { 0xfd, '7' } } };

	for (size_t k = 0; k < ARRAY_SIZE(list); k++) {
		struct image im, again;
		struct exported x;
		uint8_t magic[2];
		struct tar t;

		tar_begin(&t, "pax", "none");
		tar_root(&t);
		tar_file(&t, "etc/a", 0644, "text");
		image_import(&im, tar_end(&t));
		image_check(&im);
		export_image(&im, list[k].format, &x);
		assert_int_equal(pread(x.fd, magic, 2, 0), 2);
		assert_memory_equal(magic, list[k].magic, 2);
		image_import(&again, x.fd);
		image_check(&again);
		image_assert_text(&again, "/etc/a", "text");
		image_free(&again);
		image_free(&im);
	}
}

/* What xz --list says of the archive's blocks, the unit in which it is compressed in
 * parallel. */
static unsigned xz_blocks(int fd)
{
	char command[64], line[256];
	unsigned n = 0, streams;
	FILE *f;

	snprintf(command, sizeof(command), "xz --robot --list /proc/%d/fd/%d", (int)getpid(), fd);
	f = popen(command, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "file %u %u", &streams, &n) == 2)
			break;
	(void)pclose(f);
	return n;
}

static void test_xz_is_made_in_parallel(void **state)
{
	const size_t size = 25 * WSLX_MIB;
	char *text = malloc(size);
	struct exported x;
	struct image im;
	struct tar t;

	/* No holes, which would not be written. */
	for (size_t i = 0; i < size; i++)
		text[i] = (char)('a' + i % 23);
	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_entry(&t, "etc/large", S_IFREG | 0644);
	tar_put(&t, text, size);
	image_import(&im, tar_end(&t));
	export_image(&im, WSLX_EXPORT_TAR_XZ, &x);
	assert_true(xz_blocks(x.fd) >= 2);
	close(x.fd);
	image_free(&im);
	free(text);
}

/* Disks that mke2fs filled from a folder: inline data, and ext2's block lists. */
static void test_other_file_systems(void **state)
{
	static const char *const kinds[] = { "ext4 -O inline_data -I 256", "ext2 -b 1024", "ext3" };
	char dir[] = "/tmp/wslx-export-XXXXXX", script[1024];

	assert_non_null(mkdtemp(dir));
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		const char *argv[] = { "sh", "-c", script, NULL };
		struct exported x;
		struct image im;
		int disk;

		snprintf(script, sizeof(script),
			 "cd %s && rm -rf t img && mkdir -p t/etc && echo small >t/etc/small && seq 300000 >t/etc/seq "
			 "&& "
			 "truncate -s 30M t/etc/sparse && echo end >>t/etc/sparse && mke2fs -q -t %s -d t img 64M",
			 dir, kinds[k]);
		assert_int_equal(run_program(argv), 0);
		snprintf(script, sizeof(script), "%s/img", dir);
		disk = open(script, O_RDONLY | O_CLOEXEC);
		assert_true(disk >= 0);
		export_disk(disk, WSLX_EXPORT_TAR, &x);
		if (x.r < 0)
			fail_msg("%s: %s", kinds[k], x.err.msg);
		close(disk);
		image_import(&im, x.fd);
		image_check(&im);
		image_assert_text(&im, "/etc/small", "small\n");
		size_t len;
		char *p = image_read(&im, "/etc/seq", &len);

		assert_int_equal(len, 1988895);
		assert_string_equal(p + len - 14, "299999\n300000\n");
		free(p);
		p = image_read(&im, "/etc/sparse", &len);
		assert_int_equal(len, (30 << 20) + 4);
		assert_string_equal(p + (30 << 20), "end\n");
		free(p);
		image_free(&im);
	}
	snprintf(script, sizeof(script), "rm -rf %s", dir);
	assert_int_equal(run_program((const char *const[]) { "sh", "-c", script, NULL }), 0);
}

static void test_socket_is_left_out(void **state)
{
	struct exported x;
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_file(&t, "etc/sock", 0644, "");
	image_import(&im, tar_end(&t));
	image_check(&im);
	const char *argv[] = { "debugfs", "-w", "-R", "sif /etc/sock mode 0140755", im.path, NULL };

	assert_int_equal(run_program(argv), 0);
	export_image(&im, WSLX_EXPORT_TAR, &x);
	assert_int_equal(x.res.sockets, 1);
	close(x.fd);
	image_free(&im);
}

/* ---- A guest's own idea of a file system ---- */

/* One that holds /etc/a (1 MiB) and /etc/d; debugfs then does this to it. */
static void export_after(const char *command, struct exported *x)
{
	uint8_t *data = malloc(1 << 20);
	struct image im;
	struct tar t;

	memset(data, 'x', 1 << 20);
	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_dir(&t, "etc/d", 0755);
	tar_entry(&t, "etc/a", S_IFREG | 0644);
	tar_put(&t, data, 1 << 20);
	tar_file(&t, "etc/b", 0644, "b");
	tar_hardlink(&t, "etc/h", "etc/b");
	image_import(&im, tar_end(&t));
	image_check(&im);
	const char *argv[] = { "debugfs", "-w", "-R", command, im.path, NULL };

	assert_int_equal(run_program(argv), 0);
	export_disk(im.fd, WSLX_EXPORT_TAR, x);
	image_free(&im);
	free(data);
}

static void test_hostile(void **state)
{
	static const struct {
		const char *command;
		int code;
		const char *text;
	} list[] = {
		{ "link /etc /etc/d/loop", EBADMSG, "a folder in two places" },
		{ "link / /etc/d/root", EBADMSG, "a folder in two places" },
		{ "link /etc/a /etc/d/a", EBADMSG, "./etc/d/a: a file with more names than it has links" },
		{ "link /etc/b /etc/d/b", EBADMSG, "a file with more names than it has links" },
		{ "sif /etc/b mode 0170644", EBADMSG, "unknown type" },
		{ "sif /etc/b links_count 0", EBADMSG, "deleted" },
		{ "sif /etc/a size 0x7fffffffffffffff", EBADMSG, "larger than can be" },
		{ "sif /etc/b mode 0120777", 0, NULL }, /* a file's content as a link's target is fine */
		{ "sif /etc/a mode 0120777", EBADMSG, "symbolic link" },
		{ "sif /etc/a mode 0040755", EBADMSG, "damaged" },
		{ "sif /etc/a size 0x100000000", 0, NULL }, /* a hole at the end */
		{ "ssv feature_incompat 0x2c6", EBUSY, "journal" },
	};

	for (size_t k = 0; k < ARRAY_SIZE(list); k++) {
		struct exported x;

		export_after(list[k].command, &x);
		if (x.r != -list[k].code || (list[k].text && !strstr(x.err.msg, list[k].text)))
			fail_msg("%s: %d '%s'", list[k].command, x.r, x.err.msg);
		close(x.fd);
	}
}

/* Files that claim the same blocks over and over cannot make an archive grow
 * past what the disk has room for. */
static void test_shared_blocks(void **state)
{
	struct ext2_inode_large a;
	struct exported x;
	struct image im;
	struct tar t;
	char name[32];
	uint8_t *data = malloc(16 << 20);
	ext2_filsys fs;

	memset(data, 'x', 16 << 20);
	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_entry(&t, "etc/a", S_IFREG | 0644);
	tar_put(&t, data, 16 << 20);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "etc/f%d", i);
		tar_file(&t, name, 0644, "");
	}
	image_import(&im, tar_end(&t));
	image_check(&im);
	image_stat(&im, "/etc/a", &a);
	assert_int_equal(ext2fs_open(im.path, EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs), 0);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "/etc/f%d", i);
		assert_int_equal(ext2fs_write_inode_full(fs, image_find(&im, name), (struct ext2_inode *)&a, sizeof(a)),
				 0);
	}
	assert_int_equal(ext2fs_close(fs), 0);
	export_disk(im.fd, WSLX_EXPORT_TAR, &x);
	assert_int_equal(x.r, -EBADMSG);
	assert_non_null(strstr(x.err.msg, "more data than the disk has room for"));
	close(x.fd);
	image_free(&im);
	free(data);
}

#define HOLES_BLOCK 1024u
#define HOLES_ADDRESSES (HOLES_BLOCK / 4)

/* Every second address is this one. */
static void put_addresses(ext2_filsys fs, blk64_t at, blk64_t target, unsigned n, unsigned step)
{
	uint8_t block[HOLES_BLOCK] = { 0 };

	for (unsigned i = 0; i < n; i += step)
		wslx_put_le32(block + 4 * (size_t)i, (uint32_t)target);
	assert_int_equal(io_channel_write_blk64(fs->io, at, 1, block), 0);
}

/* A file of 131072 blocks of content (one and the same), with a hole before each:
 * twice as many as an archive names, so that 64 MiB become zeros. */
static int export_holes(const char *size, struct wslx_err *err)
{
	struct wslx_export_params p = { .out_fd = open("/dev/null", O_WRONLY | O_CLOEXEC) };
	char dir[] = "/tmp/wslx-export-XXXXXX", path[64], script[256];
	struct ext2_inode_large inode;
	struct wslx_export_result res;
	blk64_t at[4];
	ext2_filsys fs;
	ext2_ino_t ino;
	int r;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/img", dir);
	snprintf(
		script, sizeof(script),
		"cd %s && mkdir t && head -c 4096 /dev/zero | tr '\\0' x >t/f && mke2fs -q -t ext2 -b 1024 -d t img %s",
		dir, size);
	assert_int_equal(run_program((const char *const[]) { "sh", "-c", script, NULL }), 0);
	assert_int_equal(ext2fs_open(path, EXT2_FLAG_RW, 0, 0, unix_io_manager, &fs), 0);
	assert_int_equal(ext2fs_namei(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, "/f", &ino), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(ext2fs_bmap2(fs, ino, NULL, NULL, 0, i, NULL, &at[i]), 0);
	put_addresses(fs, at[0], at[1], 4, 1);
	put_addresses(fs, at[1], at[2], HOLES_ADDRESSES, 1);
	put_addresses(fs, at[2], at[3], HOLES_ADDRESSES, 2);
	assert_int_equal(ext2fs_read_inode_full(fs, ino, (struct ext2_inode *)&inode, sizeof(inode)), 0);
	memset(inode.i_block, 0, sizeof(inode.i_block));
	inode.i_block[EXT2_TIND_BLOCK] = (uint32_t)at[0];
	assert_int_equal(ext2fs_inode_size_set(fs, (struct ext2_inode *)&inode, (ext2_off64_t)320 << 20), 0);
	assert_int_equal(ext2fs_write_inode_full(fs, ino, (struct ext2_inode *)&inode, sizeof(inode)), 0);
	assert_int_equal(ext2fs_close(fs), 0);
	p.disk_fd = open(path, O_RDONLY | O_CLOEXEC);
	r = wslx_export(&p, &res, err);
	close(p.disk_fd);
	close(p.out_fd);
	snprintf(script, sizeof(script), "rm -rf %s", dir);
	assert_int_equal(run_program((const char *const[]) { "sh", "-c", script, NULL }), 0);
	return r;
}

/* 128 MiB of content and 64 of zeros need a disk of as much. */
static void test_zeros_and_content(void **state)
{
	struct wslx_err err = { 0 };

	if (export_holes("160M", &err) != -E2BIG || !strstr(err.msg, "./f has more than 65536 holes"))
		fail_msg("%s", err.msg);
	if (export_holes("200M", &err) != 0)
		fail_msg("%s", err.msg);
}

/* Inodes that all have the same large attributes. */
static void export_shared_attributes(const char *prefix, struct exported *x)
{
	char dir[] = "/tmp/wslx-export-XXXXXX", path[64], script[1024];
	struct ext2_inode_large a = { 0 };
	ext2_filsys fs;
	ext2_ino_t ino;
	int disk;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/img", dir);
	snprintf(script, sizeof(script),
		 "cd %s && mkdir -p t/etc && for i in $(seq 0 199); do :>t/etc/$i; done && head -c 60000 /dev/zero "
		 ">big && "
		 "mke2fs -q -t ext4 -b 4096 -O ea_inode,^has_journal,^metadata_csum -d t img 64M && "
		 "for i in $(seq 100); do echo ea_set -f big /etc/0 %sa$i; done | debugfs -w -f - img",
		 dir, prefix);
	assert_int_equal(run_program((const char *const[]) { "sh", "-c", script, NULL }), 0);
	assert_int_equal(ext2fs_open(path, EXT2_FLAG_RW, 0, 0, unix_io_manager, &fs), 0);
	for (int i = 0; i < 200; i++) {
		snprintf(script, sizeof(script), "/etc/%d", i);
		assert_int_equal(ext2fs_namei(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, script, &ino), 0);
		if (i == 0)
			assert_int_equal(ext2fs_read_inode_full(fs, ino, (struct ext2_inode *)&a, sizeof(a)), 0);
		assert_int_equal(ext2fs_write_inode_full(fs, ino, (struct ext2_inode *)&a, sizeof(a)), 0);
	}
	assert_int_equal(ext2fs_close(fs), 0);
	disk = open(path, O_RDONLY | O_CLOEXEC);
	export_disk(disk, WSLX_EXPORT_TAR, x);
	if (x->r != -EBADMSG || !strstr(x->err.msg, "more attributes than the disk has room for"))
		fail_msg("%s: %d '%s'", prefix, x->r, x->err.msg);
	close(disk);
	snprintf(script, sizeof(script), "rm -rf %s", dir);
	assert_int_equal(run_program((const char *const[]) { "sh", "-c", script, NULL }), 0);
}

/* Each entry repeats them. */
static void test_shared_attributes(void **state)
{
	struct exported x;

	export_shared_attributes("user.", &x);
	assert_in_range(lseek(x.fd, 0, SEEK_END), 32 << 20, 70 << 20);
	close(x.fd);
}

/* Those that no entry has are read all the same. */
static void test_shared_system_attributes(void **state)
{
	struct exported x;

	export_shared_attributes("system.", &x);
	assert_in_range(lseek(x.fd, 0, SEEK_END), 0, 1 << 20);
	close(x.fd);
}

/* A journal that was not replayed: the disk of a machine that was killed. */
static void test_journal(void **state)
{
	struct exported x;
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_file(&t, "etc/a", 0644, "before");
	image_import(&im, tar_end(&t));
	image_check(&im);
	assert_int_equal(wslx_export_is_dirty(im.fd), 0);
	const char *argv[] = { "debugfs", "-w", "-R", "ssv feature_incompat 0x2c6", im.path, NULL };

	assert_int_equal(run_program(argv), 0);
	assert_int_equal(wslx_export_is_dirty(im.fd), 1);
	assert_int_equal(wslx_export_replay(im.fd, NULL, &x.err), 0);
	assert_int_equal(wslx_export_is_dirty(im.fd), 0);
	export_image(&im, WSLX_EXPORT_TAR, &x);
	close(x.fd);
	image_free(&im);
}

static void test_full_output(void **state)
{
	struct wslx_export_params p = { 0 };
	struct wslx_export_result res;
	struct wslx_err err = { 0 };
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	image_import(&im, tar_end(&t));
	image_check(&im);
	p.disk_fd = im.fd;
	p.out_fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	p.out_name = "/dev/full";
	assert_int_equal(wslx_export(&p, &res, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "cannot write the archive /dev/full: No space left on device"));
	close(p.out_fd);
	image_free(&im);
}

static void test_room(void **state)
{
	struct wslx_export_params p = { .max_bytes = 128 << 10, .out_fd = make_temp(), .out_name = "x/y.tar" };
	struct wslx_export_result res;
	struct wslx_err err = { 0 };
	uint8_t *data = calloc(1, 1 << 20);
	struct image im;
	struct tar t;

	memset(data, 'x', 1 << 20);
	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_entry(&t, "etc/a", S_IFREG | 0644);
	tar_put(&t, data, 1 << 20);
	image_import(&im, tar_end(&t));
	image_check(&im);
	p.disk_fd = im.fd;
	assert_int_equal(wslx_export(&p, &res, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "the archive x/y.tar needs more than the 0 MiB that are left to use"));
	assert_true(lseek(p.out_fd, 0, SEEK_END) <= 128 << 10);
	close(p.out_fd);
	image_free(&im);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_names_in_utf8),
		cmocka_unit_test(test_attributes),
		cmocka_unit_test(test_holes),
		cmocka_unit_test(test_formats),
		cmocka_unit_test(test_xz_is_made_in_parallel),
		cmocka_unit_test(test_other_file_systems),
		cmocka_unit_test(test_socket_is_left_out),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_shared_blocks),
		cmocka_unit_test(test_zeros_and_content),
		cmocka_unit_test(test_shared_attributes),
		cmocka_unit_test(test_shared_system_attributes),
		cmocka_unit_test(test_journal),
		cmocka_unit_test(test_full_output),
		cmocka_unit_test(test_room),
	};

	return cmocka_run_group_tests_name("export", tests, NULL, NULL);
}
