/* Archives that are broken, too much, or out to do harm. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image/import_internal.h"

/* One entry each, behind a good `etc`. */
static const struct {
	const char *name;
	char type;
	uint64_t size;
	const char *link;
	int code;
	const char *text;
} hostile[] = {
	{ "../evil", '0', 0, NULL, EPERM, "hostile entry '../evil'" },
	{ "etc/../../evil", '0', 0, NULL, EPERM, "leads out of the root" },
	{ "etc/..", '5', 0, NULL, EPERM, "leads out of the root" },
	{ "/..", '5', 0, NULL, EPERM, "leads out of the root" },
	{ "hard", '1', 0, "../../etc/shadow", EPERM, "leads out of the root" },
	{ "hard", '1', 0, "etc/none", ENOENT, "hard link to a file that is not there" },
	{ "hard", '1', 0, "etc", ENOENT, "hard link to a file that is not there" },
	{ "hard", '1', 0, "/", ENOENT, "hard link" },
	{ ".", '0', 0, NULL, EPERM, "the root must be a folder" },
	{ "/", '2', 0, "etc", EPERM, "the root must be a folder" },
	{ "sym", '2', 0, "", EBADMSG, "empty or overlong target" },
	{ "huge", '0', (uint64_t)1 << 62, NULL, E2BIG, "entry 'huge' claims 4611686018427387904 bytes" },
	{ "huge", '0', INT64_MAX, NULL, EBADMSG, "" },
	{ "huge", '0', (uint64_t)1 << 40, NULL, E2BIG, "more than the disk's" },
	{ "short", '0', 100000, NULL, EBADMSG, "corrupt or truncated archive at entry 'short'" },
	{ "file/in", '0', 0, NULL, ENOTDIR, "a part of its path is not a folder" },
	{ "loop/in", '0', 0, NULL, ELOOP, "too many symbolic links" },
};

static void test_hostile(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(hostile); i++) {
		struct raw r = { 0 };
		struct image im;

		raw_header(&r, "etc", '5', 0, NULL);
		raw_header(&r, "file", '0', 0, NULL);
		raw_header(&r, "loop", '2', 0, "loop2");
		raw_header(&r, "loop2", '2', 0, "/loop");
		raw_header(&r, hostile[i].name, hostile[i].type, hostile[i].size, hostile[i].link);
		raw_end(&r);
		image_import(&im, raw_fd(&r));
		if (!hostile[i].text[0])
			assert_true(im.r < 0 && im.err.msg[0]);
		else
			image_assert_fails(&im, hostile[i].code, hostile[i].text);
		assert_memory_equal(im.err.msg, "test.tar: ", 10);
		image_free(&im);
	}
}

/* Links and then names through them: all of it stays inside. */
static void test_traps(void **state)
{
	struct raw r = { 0 };
	struct image im;

	raw_header(&r, "etc", '5', 0, NULL);
	raw_header(&r, "a", '2', 0, "/");
	raw_header(&r, "b", '2', 0, "../../../../../..");
	raw_header(&r, "c", '2', 0, "/proc/self/cwd");
	raw_header(&r, "a/x", '0', 1, NULL);
	raw_bytes(&r, "1", 1);
	raw_header(&r, "b/tmp/y", '0', 1, NULL);
	raw_bytes(&r, "2", 1);
	raw_header(&r, "c/z", '0', 1, NULL);
	raw_bytes(&r, "3", 1);
	raw_header(&r, "a/b/c/a/z2", '0', 1, NULL);
	raw_bytes(&r, "4", 1);
	raw_end(&r);
	image_import(&im, raw_fd(&r));
	/* /proc/self/cwd was made as a folder; `a` below it too. */
	image_check(&im);
	image_assert_text(&im, "/x", "1");
	image_assert_text(&im, "/tmp/y", "2");
	image_assert_text(&im, "/proc/self/cwd/z", "3");
	image_assert_text(&im, "/proc/self/cwd/a/z2", "4");
	image_free(&im);
}

static void test_long_paths(void **state)
{
	char path[5000] = "etc";
	struct image im;
	struct raw r = { 0 };

	while (strlen(path) < 4090)
		strcat(path, "/dddddddd");
	raw_header(&r, "etc", '5', 0, NULL);
	for (int i = 0; i < 2; i++) {
		char record[5100];

		snprintf(record, sizeof(record), "path=%s", path);
		raw_pax(&r, record);
		raw_header(&r, "short", '5', 0, NULL);
		strcat(path, "/toolong");
	}
	raw_end(&r);
	image_import(&im, raw_fd(&r));
	image_assert_fails(&im, ENAMETOOLONG, "a path longer than 4095 bytes");
	image_free(&im);

	char record[400];

	memset(record, 'n', sizeof(record));
	memcpy(record, "path=etc/", 9);
	record[9 + 256] = 0;
	raw_header(&r, "etc", '5', 0, NULL);
	raw_pax(&r, record);
	raw_header(&r, "short", '5', 0, NULL);
	raw_end(&r);
	image_import(&im, raw_fd(&r));
	image_assert_fails(&im, ENAMETOOLONG, "a name longer than 255");
	image_free(&im);
}

/* Far deeper than any path: each part goes through a link to the depth so far. */
static void test_deep(void **state)
{
	char path[1024], target[256];
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	memset(path, 0, sizeof(path));
	strcpy(target, "/");
	for (int i = 0; i < 60; i++) {
		char name[32];

		snprintf(name, sizeof(name), "l%d", i);
		/* l_i is a link below l_(i-1)'s folder chain, by way of the root. */
		if (i == 0)
			strcpy(path, "x");
		else
			snprintf(path, sizeof(path), "l%d", i - 1);
		for (int k = 0; k < 100; k++)
			strcat(path, "/d");
		tar_dir(&t, path, 0755);
		tar_symlink(&t, name, path);
		if (i == 38)
			break;
	}
	image_import(&im, tar_end(&t));
	image_check(&im);
	image_free(&im);
}

static int truncated_copy(int fd, size_t len)
{
	int to = memfd_create("cut", MFD_CLOEXEC);
	uint8_t *p = malloc(len + 1);

	assert_int_equal(pread(fd, p, len, 0), len);
	assert_int_equal(write(to, p, len), len);
	free(p);
	lseek(to, 0, SEEK_SET);
	return to;
}

static int good_tar(const char *filter)
{
	uint8_t *p = malloc(100000);
	struct tar t;

	/* Does not compress to nothing. */
	for (size_t i = 0, x = 1; i < 100000; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		p[i] = (uint8_t)(x >> 33);
	}
	tar_begin(&t, "pax", filter);
	tar_root(&t);
	tar_entry(&t, "etc/data", S_IFREG | 0644);
	tar_put(&t, p, 100000);
	tar_file(&t, "etc/last", 0644, "last");
	free(p);
	return tar_end(&t);
}

static const char *const filters[] = { "none", "gzip", "xz", "zstd", "bzip2" };

static void test_truncated(void **state)
{
	for (size_t f = 0; f < ARRAY_SIZE(filters); f++) {
		int fd = good_tar(filters[f]);
		size_t size = (size_t)lseek(fd, 0, SEEK_END);
		/* The end mark of a plain tar is two blocks of zeros: one will do. */
		const size_t cuts[] = { 1, 100, 511, 600, 1024, 2048, size / 2, size - 2000, size - 1024, size - 9 };

		for (size_t c = 0; c < ARRAY_SIZE(cuts); c++) {
			struct image im;

			if (f == 0 && cuts[c] > size - 1024)
				continue;
			image_import(&im, truncated_copy(fd, cuts[c]));
			if (im.r >= 0 || !im.err.msg[0])
				fail_msg("%s cut to %zu of %zu was taken", filters[f], cuts[c], size);
			if (im.r != -EBADMSG && im.r != -EINVAL)
				fail_msg("%s cut to %zu: %d %s", filters[f], cuts[c], im.r, im.err.msg);
			image_free(&im);
		}
		close(fd);
	}
}

static void test_corrupt(void **state)
{
	/* Not zstd: libarchive writes it without a checksum. */
	static const char *const checked[] = { "gzip", "xz", "bzip2" };

	for (size_t f = 0; f < ARRAY_SIZE(checked); f++) {
		int fd = good_tar(checked[f]);
		off_t size = lseek(fd, 0, SEEK_END);
		struct image im;
		uint8_t b;

		/* Inside the stored data: only the checksum can tell. */
		assert_int_equal(pread(fd, &b, 1, size / 2), 1);
		b ^= 0x10;
		assert_int_equal(pwrite(fd, &b, 1, size / 2), 1);
		lseek(fd, 0, SEEK_SET);
		image_import(&im, fd);
		assert_int_equal(im.r, -EBADMSG);
		image_free(&im);
	}
}

static void test_filters(void **state)
{
	for (size_t f = 0; f < ARRAY_SIZE(filters); f++) {
		int fds[2], fd = good_tar(filters[f]);
		off_t size = lseek(fd, 0, SEEK_END);
		struct image im;
		char buf[200000];

		lseek(fd, 0, SEEK_SET);
		image_import(&im, dup(fd));
		image_check(&im);
		image_assert_text(&im, "/etc/last", "last");
		image_free(&im);

		/* The same from a pipe. */
		assert_int_equal(pipe(fds), 0);
		fcntl(fds[1], F_SETPIPE_SZ, 1 << 18);
		assert_int_equal(pread(fd, buf, sizeof(buf), 0), size);
		assert_int_equal(write(fds[1], buf, (size_t)size), size);
		close(fds[1]);
		image_import(&im, fds[0]);
		image_check(&im);
		image_assert_text(&im, "/etc/last", "last");
		image_free(&im);

		/* And as two streams one after the other, padded behind. */
		if (f > 0) {
			int cat = memfd_create("cat", MFD_CLOEXEC);
			struct tar t;

			/* A plain tar, split in the middle, each half compressed. */
			int plain = good_tar("none");
			off_t n = lseek(plain, 0, SEEK_END);
			char *all = malloc((size_t)n);

			assert_int_equal(pread(plain, all, (size_t)n, 0), n);
			for (int half = 0; half < 2; half++) {
				size_t from = half ? 30000 : 0, len = half ? (size_t)n - 30000 : 30000;

				t.a = archive_write_new();
				archive_write_set_format_raw(t.a);
				archive_write_add_filter_by_name(t.a, filters[f]);
				archive_write_set_bytes_in_last_block(t.a, 1);
				archive_write_open_fd(t.a, cat);
				t.e = archive_entry_new();
				archive_entry_set_filetype(t.e, AE_IFREG);
				archive_write_header(t.a, t.e);
				assert_int_equal(archive_write_data(t.a, all + from, len), len);
				archive_write_close(t.a);
				archive_write_free(t.a);
				archive_entry_free(t.e);
			}
			free(all);
			close(plain);
			lseek(cat, 0, SEEK_SET);
			image_import(&im, cat);
			image_check(&im);
			image_assert_text(&im, "/etc/last", "last");
			image_free(&im);
		}
		close(fd);
	}
}

/* Bytes in a file of 80000, zeros otherwise, and what import says of it. */
struct disk_kind {
	size_t at;
	const char *bytes;
	size_t len;
	const char *text;
};

#define MBR(status, type, sectors) status "\0\0\0" type "\0\0\0\0\10\0\0\0" sectors "\0\0"
#define NO_PARTITION "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
#define WHOLE_DISK "it is a whole disk with a partition table, and a root file system is wanted"

/* Disks and images of other kinds: what they are is said, and never that they are empty. */
static void test_disks(void **state)
{
	static const struct disk_kind kinds[] = {
		{ 446, MBR("\x80", "\x83", "\1") NO_PARTITION NO_PARTITION NO_PARTITION "\x55\xaa", 66, WHOLE_DISK },
		{ 446, NO_PARTITION NO_PARTITION NO_PARTITION MBR("\0", "\xee", "\1") "\x55\xaa", 66, WHOLE_DISK },
		{ 512, "EFI PART", 8, WHOLE_DISK },
		{ 4096, "EFI PART", 8, "`dd if=FILE bs=512 skip=START count=SECTORS | wslx import NAME -`" },
		/* FAT, and code in the table's place. */
		{ 446, NO_PARTITION NO_PARTITION NO_PARTITION NO_PARTITION "\x55\xaa", 66,
		  "it begins with a boot sector" },
		{ 446, MBR("\x42", "\x83", "\1") NO_PARTITION NO_PARTITION NO_PARTITION "\x55\xaa", 66,
		  "it begins with a boot sector" },
		{ 32769, "CD001", 5, "it is an ISO image" },
		{ 0, "hsqs", 4, "it is a squashfs image" },
		{ 0, "QFI\xfb", 4, "it is a qcow2 disk: `qemu-img convert -O raw FILE disk.img`" },
		{ 0, "vhdxfile", 8, "it is a VHDX disk: export the distro as a tar, or `qemu-img" },
		{ 0, "KDMV", 4, "it is a VMDK disk" },
		{ 64, "\x7f\x10\xda\xbe", 4, "it is a VDI disk" },
		{ 65600, "_BHRfS_M", 8, "it is a btrfs image" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct raw r = { .p = calloc(1, 80000), .len = 80000 };
		struct image im;

		memcpy(r.p + kinds[i].at, kinds[i].bytes, kinds[i].len);
		image_import(&im, raw_fd(&r));
		image_assert_fails(&im, EINVAL, "test.tar: not a tar archive, ext4 image or .wsl package: it ");
		image_assert_fails(&im, EINVAL, kinds[i].text);
		image_free(&im);
	}
}

/* size bytes of zeros, but for one at the end if so. */
static void import_zeros(struct image *im, off_t size, bool one)
{
	int fd = make_temp();

	assert_int_equal(ftruncate(fd, size), 0);
	if (one)
		assert_int_equal(pwrite(fd, "x", 1, size - 1), 1);
	image_import(im, fd);
}

static void test_zeros(void **state)
{
	struct image im;

	import_zeros(&im, 5 << 20, false);
	image_assert_fails(&im, EINVAL, "the archive is empty");
	image_free(&im);
	import_zeros(&im, 5 << 20, true);
	image_assert_fails(&im, EINVAL, "it begins with zeros");
	image_free(&im);
	/* What would take hours to read to its end. */
	import_zeros(&im, (off_t)8 << 40, false);
	image_assert_fails(&im, EINVAL, "it begins with zeros");
	image_free(&im);
}

static void test_not_an_archive(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *text;
	} files[] = {
		{ "", 0, "the file is empty" },
		{ "hello\n", 6, "not a tar archive, ext4 image or .wsl package" },
		{ "vhdxfile", 8, "it is a VHDX disk" },
		{ "PK\3\4....", 8, "it is a zip archive" },
		{ "QFI\xfb", 4, "it is a qcow2 disk" },
		{ "\177ELF", 4, "it is a program or a kernel" },
	};
	uint8_t junk[20000];
	struct image im;
	struct tar t;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		struct raw r = { .p = malloc(files[i].len + 1), .len = files[i].len };

		memcpy(r.p, files[i].bytes, files[i].len);
		image_import(&im, raw_fd(&r));
		image_assert_fails(&im, EINVAL, files[i].text);
		image_free(&im);
	}
	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = (uint8_t)(i * 37 + 11);
	struct raw r = { 0 };

	raw_bytes(&r, junk, sizeof(junk));
	image_import(&im, raw_fd(&r));
	image_assert_fails(&im, EINVAL, "test.tar: not a tar archive, ext4 image or .wsl package");
	image_free(&im);

	raw_end(&r);
	image_import(&im, raw_fd(&r));
	image_assert_fails(&im, EINVAL, "the archive is empty");
	image_free(&im);

	tar_begin(&t, "pax", "gzip");
	image_import(&im, tar_end(&t));
	image_assert_fails(&im, EINVAL, "the archive is empty");
	image_free(&im);

	tar_begin(&t, "pax", "none");
	tar_file(&t, "manifest.json", 0644, "{}");
	image_import(&im, tar_end(&t));
	image_assert_fails(&im, EINVAL, "neither /etc nor /bin/sh");
	image_free(&im);

	int fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	image_import(&im, fd);
	image_assert_fails(&im, EISDIR, "a folder");
	image_free(&im);
}

static void test_limits(void **state)
{
	struct wslx_import_params p = { .size = 64 * WSLX_MIB, .max_entries = 50 };
	uint8_t *big = malloc(4 << 20);
	char name[32];
	struct image im;
	struct tar t;

	memset(big, 7, 4 << 20);
	for (int kind = 0; kind < 4; kind++) {
		tar_begin(&t, "ustar", "none");
		tar_root(&t);
		for (int i = 0; i < 100; i++) {
			snprintf(name, sizeof(name), kind < 2 ? "etc/%d" : "etc/same", i);
			if (kind == 2)
				tar_entry(&t, name, S_IFREG | 0644);
			tar_file(&t, name, 0644, "");
			if (kind >= 2) {
				tar_entry(&t, name, S_IFREG | 0644);
				tar_put(&t, big, 4 << 20);
			}
		}
		p = (struct wslx_import_params) { .size = 64 * WSLX_MIB };
		if (kind == 0)
			p.max_entries = 50;
		else if (kind == 1)
			p.max_memory = 48 * 1024;
		else if (kind == 2)
			p.max_bytes = 20 << 20;
		image_import_with(&im, tar_end(&t), &p);
		if (kind < 2)
			image_assert_fails(&im, E2BIG, "too many entries");
		else if (kind == 2)
			image_assert_fails(&im, ENOSPC, "there is space for 20 MiB");
		else
			/* One file written 100 times over: its blocks are used again. */
			image_check(&im);
		image_free(&im);
	}

	/* More than the disk. */
	tar_begin(&t, "ustar", "none");
	tar_root(&t);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "etc/%d", i);
		tar_entry(&t, name, S_IFREG | 0644);
		tar_put(&t, big, 4 << 20);
	}
	p = (struct wslx_import_params) { .size = 64 * WSLX_MIB };
	image_import_with(&im, tar_end(&t), &p);
	image_assert_fails(&im, ENOSPC, "does not fit a disk of 64 MiB");
	image_free(&im);
	free(big);

	p = (struct wslx_import_params) { .size = WSLX_MIB };
	tar_begin(&t, "ustar", "none");
	image_import_with(&im, tar_end(&t), &p);
	image_assert_fails(&im, EINVAL, "between 64 MiB and 16 TiB");
	image_free(&im);
}

/* A sparse map in front of a file's data (GNU's pax format 1.0), as long as asked for. */
static void sparse_map(struct raw *r, size_t size)
{
	static const char keys[] = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
				   "25 GNU.sparse.name=etc/x\n25 GNU.sparse.realsize=1\n";
	char *map = malloc(size + 512);
	size_t n = (size_t)sprintf(map, "%zu\n", size / 100);

	/* Comments count as well, and cost the test less than numbers. */
	while (n < size)
		n += (size_t)sprintf(map + n, "#%090d\n", 0);
	raw_header(r, "PaxHeader", 'x', sizeof(keys) - 1, NULL);
	raw_bytes(r, keys, sizeof(keys) - 1);
	raw_header(r, "etc/x", '0', (n + 511) & ~(size_t)511, NULL);
	raw_bytes(r, map, n);
	free(map);
}

/* What libarchive keeps of one header is bounded; what it only skips is not. */
static void test_large_headers(void **state)
{
	char *big = calloc(1, 40 << 20), *value;
	struct image im;
	struct raw r = { 0 };
	struct tar t;

	raw_header(&r, "etc", '5', 0, NULL);
	sparse_map(&r, 24 << 20);
	raw_end(&r);
	image_import(&im, raw_fd(&r));
	image_assert_fails(&im, E2BIG, "an entry's header is larger than 16 MiB");
	image_free(&im);

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	/* Close to the longest that libarchive takes (it is written twice); of no use to Linux. */
	value = calloc(1, 400000);
	tar_entry(&t, "etc/attributes", S_IFREG | 0644);
	archive_entry_xattr_add_entry(t.e, "com.apple.long", value, 400000);
	tar_put(&t, "x", 1);
	free(value);
	tar_file(&t, "etc/last", 0644, "last");
	image_import(&im, tar_end(&t));
	image_check(&im);
	image_assert_text(&im, "/etc/attributes", "x");
	image_assert_text(&im, "/etc/last", "last");
	image_free(&im);

	/* A pax hard link may bring its data again. */
	raw_header(&r, "etc", '5', 0, NULL);
	raw_header(&r, "etc/file", '0', 3, NULL);
	raw_bytes(&r, "abc", 3);
	raw_pax(&r, "comment=pax");
	raw_header(&r, "etc/link", '1', 40 << 20, "etc/file");
	raw_bytes(&r, big, 40 << 20);
	raw_header(&r, "etc/last", '0', 4, NULL);
	raw_bytes(&r, "last", 4);
	raw_end(&r);
	image_import(&im, raw_fd(&r));
	image_check(&im);
	image_assert_text(&im, "/etc/link", "abc");
	image_assert_text(&im, "/etc/last", "last");
	image_free(&im);
	free(big);
}

/* One entry with an ACL of n named users; the obligatory entries come on top. */
static void acl_entry(struct tar *t, const char *name, int n)
{
	tar_entry(t, name, S_IFREG | 0640);
	archive_entry_acl_add_entry(t->e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 6, ARCHIVE_ENTRY_ACL_USER_OBJ, -1, NULL);
	archive_entry_acl_add_entry(t->e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 4, ARCHIVE_ENTRY_ACL_GROUP_OBJ, -1, NULL);
	archive_entry_acl_add_entry(t->e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 0, ARCHIVE_ENTRY_ACL_OTHER, -1, NULL);
	for (int i = 0; i < n; i++)
		archive_entry_acl_add_entry(t->e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 4, ARCHIVE_ENTRY_ACL_USER, i, "x");
	tar_put(t, NULL, 0);
}

static void test_acl_limits(void **state)
{
	struct wslx_import_params p = { .size = 64 * WSLX_MIB, .max_memory = 512 * 1024 };
	struct image im;
	struct tar t;

	/* Refused where it is, even if the file does not stay. */
	tar_begin(&t, "pax", "none");
	tar_root(&t);
	acl_entry(&t, "etc/acl", 254);
	tar_file(&t, "etc/acl", 0644, "");
	image_import(&im, tar_end(&t));
	image_assert_fails(&im, E2BIG, "entry 'etc/acl': its ACL has more than 256 entries");
	image_free(&im);

	/* Replaced again and again: each is kept until the end, and counts. */
	for (int n = 1; n <= 200; n += 199) {
		tar_begin(&t, "pax", "none");
		tar_root(&t);
		for (int i = 0; i < 300; i++)
			acl_entry(&t, "etc/same", n);
		image_import_with(&im, tar_end(&t), &p);
		if (n == 1)
			image_check(&im);
		else
			image_assert_fails(&im, E2BIG, "entry 'etc/same': too many ACLs");
		image_free(&im);
	}
}

/* 50,000 names to find in 4 MiB: each line is looked at once (a search for each
 * name took minutes). */
static void test_acl_names(void **state)
{
	char record[8000], *passwd = malloc(4 << 20), last[64];
	size_t n = 0, k = (size_t)sprintf(record, "SCHILY.acl.access=user::rw-\ngroup::r--\nother::---\nmask::r--");
	struct image im;
	struct raw r = { 0 };

	for (int i = 0; i < 250; i++)
		k += (size_t)sprintf(record + k, "\nuser:name%03d:r--", i);
	/* The first of a name that has a number is the one that counts. */
	n = (size_t)sprintf(passwd, "name000:x\nname000:x:no:0\nname000\n:x:5\nname000:x:7000:0\nname000:x:8:0\n");
	while (n < (4 << 20) - 6000)
		n += (size_t)sprintf(passwd + n, "u%zu:x:1\n", n);
	for (int i = 1; i < 250; i++)
		n += (size_t)sprintf(passwd + n, "name%03d:x:%d:\n", i, 7000 + i);
	raw_header(&r, "etc", '5', 0, NULL);
	for (int i = 0; i < 200; i++) {
		raw_pax(&r, record);
		snprintf(last, sizeof(last), "etc/%d", i);
		raw_header(&r, last, '0', 0, NULL);
	}
	raw_header(&r, "etc/passwd", '0', n, NULL);
	raw_bytes(&r, passwd, n);
	raw_end(&r);
	image_import(&im, raw_fd(&r));
	image_check(&im);
	for (int i = 0; i < 250; i++) {
		uint8_t acl[4096];

		assert_int_equal(image_xattr(&im, "/etc/199", "system.posix_acl_access", acl, sizeof(acl)),
				 4 + 254 * 8);
		assert_int_equal(wslx_get_le32(acl + 4 + (size_t)(i + 1) * 8 + 4), 7000 + i);
	}
	image_free(&im);
	free(passwd);
}

static void test_acl_cancel(void **state)
{
	volatile sig_atomic_t cancel = 1;
	struct wslx_task task = { .cancel = &cancel };
	struct wslx_ext4_params p = { .fd = make_temp(), .size = 64 * WSLX_MIB };
	struct wslx_ext4_attr attr = { .mode = S_IFREG | 0644 };
	struct archive_entry *entry = archive_entry_new();
	struct wslx_import_acls *acls = NULL;
	const size_t written[2] = { 1, 0 };
	struct wslx_err err = { 0 };
	struct wslx_ext4_node *n;
	struct wslx_ext4 *e;

	assert_int_equal(wslx_ext4_new(&p, &e, &err), 0);
	assert_int_equal(wslx_ext4_add(e, "file", &attr, NULL, &n, &err), 0);
	archive_entry_set_pathname(entry, "file");
	archive_entry_acl_add_entry(entry, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 4, ARCHIVE_ENTRY_ACL_USER, 5, "x");
	assert_int_equal(wslx_import_acl_note(&acls, e, n, entry, written, &err), 0);
	assert_int_equal(wslx_import_acl_apply(acls, e, &task, &err), -ECANCELED);
	wslx_import_acl_free(acls, e);
	archive_entry_free(entry);
	wslx_ext4_free(e);
	close(p.fd);
}

struct feeder {
	int fd;
	volatile sig_atomic_t *cancel;
};

static void *feed_and_cancel(void *arg)
{
	struct feeder *f = arg;
	struct raw r = { 0 };

	raw_header(&r, "etc", '5', 0, NULL);
	assert_int_equal(write(f->fd, r.p, r.len), r.len);
	free(r.p);
	__atomic_store_n(f->cancel, 1, __ATOMIC_RELAXED);
	return NULL;
}

/* A pipe that says nothing more: cancelling must not wait for it. */
static void test_cancel(void **state)
{
	volatile sig_atomic_t cancel = 0;
	struct wslx_import_params p = { .size = 64 * WSLX_MIB, .task.cancel = &cancel };
	struct feeder f = { .cancel = &cancel };
	pthread_t thread;
	struct image im;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	f.fd = fds[1];
	assert_int_equal(pthread_create(&thread, NULL, feed_and_cancel, &f), 0);
	image_import_with(&im, fds[0], &p);
	pthread_join(thread, NULL);
	assert_int_equal(im.r, -ECANCELED);
	assert_string_equal(im.err.msg, "interrupted");
	image_free(&im);
	close(fds[1]);
}

static void count_reports(const struct wslx_progress *now, void *opaque)
{
	struct wslx_progress *last = opaque;

	assert_true(now->done >= last->done && now->entries >= last->entries);
	*last = *now;
}

static void test_progress_and_conf(void **state)
{
	struct wslx_progress last = { 0 };
	struct wslx_import_params p = {
		.size = 64 * WSLX_MIB,
		.in_name = "x.wsl",
		.task = { .progress = count_reports, .opaque = &last },
	};
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "xz");
	tar_root(&t);
	tar_file(&t, "etc/wsl-distribution.conf", 0644,
		 "# comment\n[oobe]\ncommand = /etc/oobe.sh\n defaultUid= 1000 \r\ndefaultName = \"my distro\"\n"
		 "[shortcut]\ndefaultName=no\n");
	int fd = tar_end(&t);
	off_t size = lseek(fd, 0, SEEK_END);

	lseek(fd, 0, SEEK_SET);
	image_import_with(&im, fd, &p);
	image_check(&im);
	assert_string_equal(im.res.default_name, "my distro");
	assert_int_equal(im.res.default_uid, 1000);
	assert_int_equal(last.done, size);
	assert_int_equal(last.total, size);
	assert_int_equal(last.entries, 2);
	image_free(&im);

	tar_begin(&t, "pax", "none");
	tar_file(&t, "etc/wsl-distribution.conf", 0644,
		 "[oobe]\ndefaultUid=99999999999999999999\ndefaultName=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n");
	image_import(&im, tar_end(&t));
	image_check(&im);
	assert_int_equal(im.res.default_uid, -1);
	assert_string_equal(im.res.default_name, "");
	image_free(&im);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_traps),
		cmocka_unit_test(test_long_paths),
		cmocka_unit_test(test_deep),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_corrupt),
		cmocka_unit_test(test_filters),
		cmocka_unit_test(test_not_an_archive),
		cmocka_unit_test(test_disks),
		cmocka_unit_test(test_zeros),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_large_headers),
		cmocka_unit_test(test_acl_limits),
		cmocka_unit_test(test_acl_names),
		cmocka_unit_test(test_acl_cancel),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_progress_and_conf),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
