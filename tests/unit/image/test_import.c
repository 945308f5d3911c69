/* What an archive holds is what the disk holds. */
#include "support.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"

static void test_types(void **state)
{
	struct ext2_inode_large i;
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "none");
	tar_dir(&t, "./", 0751);
	tar_dir(&t, "./etc/", 0700);
	tar_entry(&t, "etc/setuid", S_IFREG | 06755);
	archive_entry_set_uid(t.e, 70000);
	archive_entry_set_gid(t.e, 4000000000);
	archive_entry_set_mtime(t.e, 1234567890, 123456789);
	archive_entry_set_atime(t.e, 5000000000, 5);
	tar_put(&t, "x", 1);
	tar_file(&t, "/abs/olute//name", 0600, "stripped");
	tar_file(&t, "no/parents/./here", 0644, "made");
	tar_entry(&t, "dev/sda", S_IFBLK | 0660);
	archive_entry_set_rdevmajor(t.e, 8);
	archive_entry_set_rdevminor(t.e, 1);
	tar_put(&t, NULL, 0);
	tar_entry(&t, "dev/big", S_IFCHR | 0600);
	archive_entry_set_rdevmajor(t.e, 259);
	archive_entry_set_rdevminor(t.e, 70000);
	tar_put(&t, NULL, 0);
	tar_entry(&t, "run/fifo", S_IFIFO | 0622);
	tar_put(&t, NULL, 0);
	tar_entry(&t, "old", S_IFREG | 0644);
	archive_entry_set_mtime(t.e, -86400, 0);
	tar_put(&t, NULL, 0);
	tar_dir(&t, "sticky", 01777);
	image_import(&im, tar_end(&t));
	image_check(&im);
	assert_int_equal(im.res.kind, WSLX_IMPORT_TAR);
	assert_int_equal(im.res.entries, 10);

	image_stat(&im, "/", &i);
	assert_int_equal(i.i_mode, S_IFDIR | 0751);
	image_stat(&im, "/etc/setuid", &i);
	assert_int_equal(i.i_mode, S_IFREG | 06755);
	assert_int_equal(inode_uid(i), 70000);
	assert_int_equal(inode_gid(i), 4000000000);
	assert_int_equal(i.i_mtime, 1234567890);
	assert_int_equal(i.i_mtime_extra, 123456789u << 2);
	assert_int_equal(i.i_atime, (uint32_t)5000000000);
	assert_int_equal(i.i_atime_extra, 5u << 2 | 1);
	image_assert_text(&im, "/abs/olute/name", "stripped");
	image_assert_text(&im, "/no/parents/here", "made");
	image_stat(&im, "/no", &i);
	assert_int_equal(i.i_mode, S_IFDIR | 0755);
	image_stat(&im, "/dev/sda", &i);
	assert_int_equal(i.i_mode, S_IFBLK | 0660);
	assert_int_equal(i.i_block[0], 8 << 8 | 1);
	image_stat(&im, "/dev/big", &i);
	assert_int_equal(i.i_mode, S_IFCHR | 0600);
	assert_int_equal(i.i_block[0], 0);
	assert_int_equal(i.i_block[1], (70000 & 0xff) | 259 << 8 | (70000 & ~0xff) << 12);
	image_stat(&im, "/run/fifo", &i);
	assert_int_equal(i.i_mode, S_IFIFO | 0622);
	image_stat(&im, "/old", &i);
	assert_int_equal((int32_t)i.i_mtime, -86400);
	assert_int_equal(i.i_mtime_extra, 0);
	image_stat(&im, "/sticky", &i);
	assert_int_equal(i.i_mode, S_IFDIR | 01777);
	image_free(&im);
}

static void test_sizes(void **state)
{
	static const size_t sizes[] = { 0,     1,     511,     512,     4095,    4096,          4097,
					65535, 65536, 1000000, 1 << 20, 3 << 20, (2 << 20) + 1, (5 << 20) - 13 };
	struct image im;
	struct tar t;
	char name[32];

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint8_t *p = malloc(sizes[i] + 1);

		for (size_t k = 0; k < sizes[i]; k++)
			p[k] = (uint8_t)(k * 31 + k / 4096 + i);
		snprintf(name, sizeof(name), "f%zu", i);
		tar_entry(&t, name, S_IFREG | 0644);
		tar_put(&t, p, sizes[i]);
		free(p);
	}
	image_import(&im, tar_end(&t));
	image_check(&im);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		size_t len;

		snprintf(name, sizeof(name), "/f%zu", i);
		uint8_t *p = (uint8_t *)image_read(&im, name, &len);

		assert_int_equal(len, sizes[i]);
		for (size_t k = 0; k < len; k++)
			if (p[k] != (uint8_t)(k * 31 + k / 4096 + i))
				fail_msg("%s differs at %zu", name, k);
		free(p);
	}
	image_free(&im);
}

static void test_links(void **state)
{
	static const size_t lengths[] = { 1, 59, 60, 61, 1000, 4095 };
	struct ext2_inode_large i;
	char name[32], target[4096];
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	for (size_t k = 0; k < ARRAY_SIZE(lengths); k++) {
		memset(target, 'a' + (int)k, lengths[k]);
		target[lengths[k]] = 0;
		snprintf(name, sizeof(name), "s%zu", k);
		tar_symlink(&t, name, target);
	}
	tar_file(&t, "one", 0644, "content");
	tar_hardlink(&t, "etc/two", "one");
	tar_hardlink(&t, "three", "./etc/two");
	tar_hardlink(&t, "one", "one");
	/* A link to a symlink is one to the link itself. */
	tar_symlink(&t, "sym", "one");
	tar_hardlink(&t, "symlink2", "sym");
	image_import(&im, tar_end(&t));
	image_check(&im);
	for (size_t k = 0; k < ARRAY_SIZE(lengths); k++) {
		memset(target, 'a' + (int)k, lengths[k]);
		target[lengths[k]] = 0;
		snprintf(name, sizeof(name), "/s%zu", k);
		image_assert_text(&im, name, target);
	}
	assert_int_equal(image_find(&im, "/one"), image_find(&im, "/etc/two"));
	assert_int_equal(image_find(&im, "/one"), image_find(&im, "/three"));
	image_stat(&im, "/one", &i);
	assert_int_equal(i.i_links_count, 3);
	assert_int_equal(image_find(&im, "/sym"), image_find(&im, "/symlink2"));
	image_free(&im);
}

static void test_overrides(void **state)
{
	struct ext2_inode_large i;
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "none");
	tar_dir(&t, "etc", 0700);
	tar_file(&t, "etc/a", 0644, "first");
	tar_hardlink(&t, "etc/b", "etc/a");
	tar_file(&t, "etc/a", 0600, "second"); /* file over file: b keeps the old */
	tar_dir(&t, "etc", 0755);              /* folder over folder: merged */
	tar_file(&t, "f2d", 0644, "x");
	tar_dir(&t, "f2d", 0711); /* folder over file */
	tar_file(&t, "f2d/in", 0644, "in");
	tar_dir(&t, "d2f", 0755);
	tar_file(&t, "d2f", 0644, "file"); /* file over an empty folder */
	tar_symlink(&t, "l2f", "etc/a");
	tar_file(&t, "l2f", 0644, "mine"); /* file over a link: not through it */
	tar_symlink(&t, "dangling", "no/where");
	tar_dir(&t, "dangling", 0750); /* folder over a link to nothing */
	tar_file(&t, "f2l", 0644, "x");
	tar_symlink(&t, "f2l", "etc/a");
	tar_file(&t, "gone", 0644, "old data");
	tar_hardlink(&t, "gone", "etc/b");
	tar_dir(&t, "lost+found", 0755);
	tar_file(&t, "lost+found/x", 0644, "kept");
	image_import(&im, tar_end(&t));
	image_check(&im);
	image_assert_text(&im, "/etc/a", "second");
	image_assert_text(&im, "/etc/b", "first");
	image_stat(&im, "/etc", &i);
	assert_int_equal(i.i_mode, S_IFDIR | 0755);
	image_assert_text(&im, "/f2d/in", "in");
	image_assert_text(&im, "/d2f", "file");
	image_assert_text(&im, "/l2f", "mine");
	image_stat(&im, "/dangling", &i);
	assert_int_equal(i.i_mode, S_IFDIR | 0750);
	image_assert_text(&im, "/f2l", "etc/a");
	assert_int_equal(image_find(&im, "/gone"), image_find(&im, "/etc/b"));
	image_assert_text(&im, "/lost+found/x", "kept");
	image_free(&im);

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_file(&t, "etc/a", 0644, "x");
	tar_file(&t, "etc", 0644, "x");
	image_import(&im, tar_end(&t));
	image_assert_fails(&im, ENOTEMPTY, "entry 'etc' would replace a folder that is not empty");
	image_free(&im);
}

static void test_usrmerge(void **state)
{
	struct ext2_inode_large i;
	struct image im;
	struct tar t;

	tar_begin(&t, "gnutar", "none");
	tar_symlink(&t, "bin", "usr/bin"); /* before its target is there */
	tar_dir(&t, "usr", 0755);
	tar_dir(&t, "usr/bin", 0755);
	tar_file(&t, "bin/sh", 0755, "shell");
	tar_dir(&t, "bin", 0700); /* stays a link */
	tar_symlink(&t, "lib", "/usr/lib");
	tar_file(&t, "lib/early", 0644, "made through the link");
	/* Links that lead up and out stay inside, as in a chroot. */
	tar_symlink(&t, "out", "../../../../outside");
	tar_file(&t, "out/file", 0644, "inside");
	tar_symlink(&t, "usr/up", "../..");
	tar_file(&t, "usr/up/top", 0644, "top");
	tar_hardlink(&t, "hard", "bin/sh");
	image_import(&im, tar_end(&t));
	image_check(&im);
	image_assert_text(&im, "/bin", "usr/bin");
	image_assert_text(&im, "/usr/bin/sh", "shell");
	image_stat(&im, "/usr/bin", &i);
	assert_int_equal(i.i_mode, S_IFDIR | 0755);
	image_assert_text(&im, "/usr/lib/early", "made through the link");
	image_assert_text(&im, "/outside/file", "inside");
	image_assert_text(&im, "/top", "top");
	assert_int_equal(image_find(&im, "/hard"), image_find(&im, "/usr/bin/sh"));
	image_free(&im);
}

static void test_names(void **state)
{
	static const char nfd[] = "etc/e\xcc\x81", nfc[] = "etc/\xc3\xa9", latin[] = "etc/\xe9\xff";
	static const char *const formats[] = { "pax", "gnutar" };
	char component[256], path[2100] = "etc";
	struct image im;
	struct tar t;

	memset(component, 'n', 255);
	component[255] = 0;
	for (size_t len = strlen(path); len < 1500; len = strlen(path))
		snprintf(path + len, sizeof(path) - len, "/%.*s", len < 300 ? 255 : 99, component);
	for (size_t k = 0; k < 2 * ARRAY_SIZE(formats); k++) {
		/* The locale must make no difference. */
		setlocale(LC_ALL, k < ARRAY_SIZE(formats) ? "C" : "C.UTF-8");
		tar_begin(&t, formats[k % ARRAY_SIZE(formats)], "none");
		tar_root(&t);
		/* Two names that only normalization would make one, and bytes that
		 * are no text. */
		tar_file(&t, nfd, 0644, "nfd");
		tar_file(&t, nfc, 0644, "nfc");
		tar_file(&t, latin, 0644, "latin");
		tar_file(&t, path, 0644, "long");
		tar_symlink(&t, "etc/link", "t\xc3\xa4\xff");
		image_import(&im, tar_end(&t));
		image_check(&im);
		image_assert_text(&im, nfd, "nfd");
		image_assert_text(&im, nfc, "nfc");
		image_assert_text(&im, latin, "latin");
		image_assert_text(&im, path, "long");
		image_assert_text(&im, "etc/link", "t\xc3\xa4\xff");
		image_free(&im);
	}
	setlocale(LC_ALL, "C");
}

/* pax names are UTF-8; those of GNU's tar are whatever they are. */
static void test_pax_utf8(void **state)
{
	static const char *const locales[] = { "C", "C.UTF-8" };
	struct raw r = { 0 };
	struct image im;

	for (size_t k = 0; k < ARRAY_SIZE(locales); k++) {
		setlocale(LC_ALL, locales[k]);
		raw_header(&r, "etc", '5', 0, NULL);
		raw_pax(&r, "path=etc/\xc3\xa9-e\xcc\x81-\xf0\x9f\x90\xa7");
		raw_header(&r, "etc/fallback", '0', 3, NULL);
		raw_bytes(&r, "abc", 3);
		raw_end(&r);
		image_import(&im, raw_fd(&r));
		image_check(&im);
		image_assert_text(&im, "/etc/\xc3\xa9-e\xcc\x81-\xf0\x9f\x90\xa7", "abc");
		image_free(&im);
	}
	setlocale(LC_ALL, "C");
}

static void test_xattrs(void **state)
{
	static const uint8_t caps[20] = { 1, 0, 0, 2, 0, 4 };
	uint8_t buf[5000], big[3000], label[3];
	struct ext2_inode_large a, b;
	struct image im;
	struct tar t;
	char name[32];

	memset(big, 0x5a, sizeof(big));
	tar_begin(&t, "pax", "none");
	tar_dir(&t, "etc", 0755);
	tar_entry(&t, "etc/ping", S_IFREG | 0755);
	archive_entry_xattr_add_entry(t.e, "security.capability", caps, sizeof(caps));
	archive_entry_xattr_add_entry(t.e, "user.empty", "", 0);
	tar_put(&t, "x", 1);
	/* Too much for the inode; the same on many files, so the block is shared. */
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "etc/l%d", i);
		tar_entry(&t, name, S_IFREG | 0644);
		archive_entry_xattr_add_entry(t.e, "user.big", big, sizeof(big));
		archive_entry_xattr_add_entry(t.e, "trusted.t", "tt", 2);
		archive_entry_xattr_add_entry(t.e, "security.selinux", "label", 6);
		tar_put(&t, NULL, 0);
	}
	for (int i = 0; i < 50; i++) {
		big[0] = (uint8_t)i;
		snprintf(name, sizeof(name), "etc/d%d", i);
		tar_entry(&t, name, S_IFDIR | 0755);
		archive_entry_xattr_add_entry(t.e, "user.big", big, sizeof(big));
		tar_put(&t, NULL, 0);
	}
	tar_entry(&t, "etc/foreign", S_IFREG | 0644);
	archive_entry_xattr_add_entry(t.e, "com.apple.quarantine", "q", 1);
	archive_entry_xattr_add_entry(t.e, "user.ok", "1", 1);
	tar_put(&t, NULL, 0);
	image_import(&im, tar_end(&t));
	image_check(&im);
	assert_int_equal(image_xattr(&im, "/etc/ping", "security.capability", buf, sizeof(buf)), sizeof(caps));
	assert_memory_equal(buf, caps, sizeof(caps));
	assert_int_equal(image_xattr(&im, "/etc/ping", "user.empty", buf, sizeof(buf)), 0);
	memset(big, 0x5a, sizeof(big));
	assert_int_equal(image_xattr(&im, "/etc/l2999", "user.big", buf, sizeof(buf)), sizeof(big));
	assert_memory_equal(buf, big, sizeof(big));
	assert_int_equal(image_xattr(&im, "/etc/l17", "trusted.t", label, sizeof(label)), 2);
	image_stat(&im, "/etc/l1", &a);
	image_stat(&im, "/etc/l2", &b);
	assert_true(a.i_file_acl && a.i_file_acl == b.i_file_acl);
	big[0] = 49;
	assert_int_equal(image_xattr(&im, "/etc/d49", "user.big", buf, sizeof(buf)), sizeof(big));
	assert_memory_equal(buf, big, sizeof(big));
	assert_int_equal(image_xattr(&im, "/etc/foreign", "user.ok", buf, sizeof(buf)), 1);
	assert_int_equal(image_xattr(&im, "/etc/foreign", "com.apple.quarantine", buf, sizeof(buf)), -1);
	image_free(&im);

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_entry(&t, "etc/huge", S_IFREG | 0644);
	archive_entry_xattr_add_entry(t.e, "user.huge", buf, 4090);
	tar_put(&t, NULL, 0);
	image_import(&im, tar_end(&t));
	image_assert_fails(&im, E2BIG, "entry 'etc/huge': its extended attributes exceed");
	image_free(&im);
}

/* As getfattr would show it: version 2, eight bytes an entry. */
static void assert_acl(struct image *im, const char *path, const char *name, const uint32_t (*want)[3], size_t n)
{
	uint8_t buf[1024];
	int len = image_xattr(im, path, name, buf, sizeof(buf));

	assert_int_equal(len, 4 + n * 8);
	assert_int_equal(wslx_get_le32(buf), 2);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(wslx_get_le16(buf + 4 + i * 8), want[i][0]);
		assert_int_equal(wslx_get_le16(buf + 6 + i * 8), want[i][1]);
		if (want[i][0] == 2 || want[i][0] == 8)
			assert_int_equal(wslx_get_le32(buf + 8 + i * 8), want[i][2]);
	}
}

static void test_acls(void **state)
{
	static const uint32_t access[][3] = { { 1, 7, 0 },  { 2, 5, 1000 }, { 2, 4, 1001 }, { 4, 4, 0 },
					      { 8, 6, 50 }, { 16, 5, 0 },   { 32, 0, 0 } };
	static const uint32_t def[][3] = { { 1, 7, 0 }, { 2, 7, 1000 }, { 4, 5, 0 }, { 16, 7, 0 }, { 32, 1, 0 } };
	struct ext2_inode_large i;
	struct image im;
	struct raw r = { 0 };
	struct tar t;

	tar_begin(&t, "pax", "none");
	/* Names come before the passwd file that explains them. */
	tar_entry(&t, "srv/file", S_IFREG | 0750);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 5, ARCHIVE_ENTRY_ACL_USER, 1000, "ann");
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 4, ARCHIVE_ENTRY_ACL_USER, 1001, "bob");
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 6, ARCHIVE_ENTRY_ACL_GROUP, 50, "staff");
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 7, ARCHIVE_ENTRY_ACL_USER_OBJ, -1, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 4, ARCHIVE_ENTRY_ACL_GROUP_OBJ, -1, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 5, ARCHIVE_ENTRY_ACL_MASK, -1, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 0, ARCHIVE_ENTRY_ACL_OTHER, -1, NULL);
	tar_put(&t, NULL, 0);
	tar_entry(&t, "srv/dir", S_IFDIR | 0755);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 7, ARCHIVE_ENTRY_ACL_USER_OBJ, -1, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 7, ARCHIVE_ENTRY_ACL_USER, 1000, "ann");
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 5, ARCHIVE_ENTRY_ACL_GROUP_OBJ, -1, NULL);
	archive_entry_acl_add_entry(t.e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 1, ARCHIVE_ENTRY_ACL_OTHER, -1, NULL);
	tar_put(&t, NULL, 0);
	tar_root(&t);
	image_import(&im, tar_end(&t));
	image_check(&im);
	assert_acl(&im, "/srv/file", "system.posix_acl_access", access, ARRAY_SIZE(access));
	image_stat(&im, "/srv/file", &i);
	assert_int_equal(i.i_mode & 07777, 0750);
	assert_acl(&im, "/srv/dir", "system.posix_acl_default", def, ARRAY_SIZE(def));
	image_free(&im);

	/* As GNU tar writes it: names only. */
	static const char passwd[] = "root:x:0:0::/:/bin/sh\nann:x:1234:1234::/:/bin/sh\n";
	static const uint32_t named[][3] = { { 1, 7, 0 }, { 2, 5, 1234 }, { 4, 4, 0 }, { 16, 5, 0 }, { 32, 0, 0 } };

	for (int known = 1; known >= 0; known--) {
		raw_pax(&r, "SCHILY.acl.access=user::rwx\nuser:ann:r-x\ngroup::r--\nmask::r-x\nother::---");
		raw_header(&r, "file", '0', 0, NULL);
		raw_header(&r, "etc", '5', 0, NULL);
		raw_header(&r, "etc/passwd", '0', known ? strlen(passwd) : 22, NULL);
		raw_bytes(&r, passwd, known ? strlen(passwd) : 22);
		raw_end(&r);
		image_import(&im, raw_fd(&r));
		if (known) {
			image_check(&im);
			assert_acl(&im, "/file", "system.posix_acl_access", named, ARRAY_SIZE(named));
			image_stat(&im, "/file", &i);
			assert_int_equal(i.i_mode & 0777, 0750);
		} else {
			image_assert_fails(&im, EINVAL, "entry 'file': its ACL names the user 'ann'");
		}
		image_free(&im);
	}
}

/* Holes stay holes; many pieces need a deep extent tree. */
static void test_sparse(void **state)
{
	enum { PIECES = 1500, STEP = 128 << 10 };
	struct ext2_inode_large i;
	uint8_t *data = calloc(PIECES, STEP);
	struct image im;
	struct tar t;
	size_t len;

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_entry(&t, "pieces", S_IFREG | 0644);
	archive_entry_set_size(t.e, (int64_t)PIECES * STEP);
	for (size_t k = 0; k < PIECES; k++) {
		memset(data + k * STEP + 5000, (int)(k % 255) + 1, 3000);
		archive_entry_sparse_add_entry(t.e, (int64_t)(k * STEP + 5000), 3000);
	}
	tar_put(&t, data, (size_t)PIECES * STEP);
	/* A hole at the end, as large as the disk. */
	tar_entry(&t, "hole", S_IFREG | 0644);
	archive_entry_set_size(t.e, 256 << 20);
	archive_entry_sparse_add_entry(t.e, 0, 4096);
	assert_int_equal(archive_write_header(t.a, t.e), ARCHIVE_OK);
	assert_int_equal(archive_write_data(t.a, data + 5000, 4096), 4096);
	/* Zeros that the archive does spell out. */
	tar_entry(&t, "zeros", S_IFREG | 0644);
	memset(data, 0, 8 << 20);
	data[(8 << 20) - 1] = 1;
	tar_put(&t, data, 8 << 20);
	image_import(&im, tar_end(&t));
	image_check(&im);

	uint8_t *got = (uint8_t *)image_read(&im, "/pieces", &len);

	assert_int_equal(len, (size_t)PIECES * STEP);
	for (size_t k = 1; k < PIECES; k++) {
		assert_int_equal(got[k * STEP + 4999], 0);
		assert_int_equal(got[k * STEP + 5000], k % 255 + 1);
		assert_int_equal(got[k * STEP + 7999], k % 255 + 1);
		assert_int_equal(got[k * STEP + 8000], 0);
	}
	free(got);
	image_stat(&im, "/pieces", &i);
	assert_in_range(i.i_blocks, PIECES * 8, PIECES * 8 + 200);
	image_stat(&im, "/hole", &i);
	assert_int_equal(i.i_size, 256 << 20);
	assert_int_equal(i.i_blocks, 8);
	image_stat(&im, "/zeros", &i);
	/* Some zeros at the seams of what was read at once are kept. */
	assert_true(i.i_blocks <= 2048);
	image_free(&im);
	free(data);
}

static void test_empty_folders_and_root(void **state)
{
	struct ext2_inode_large i;
	struct image im;
	struct tar t;

	tar_begin(&t, "ustar", "none");
	tar_root(&t);
	image_import(&im, tar_end(&t));
	image_check(&im);
	image_stat(&im, "/lost+found", &i);
	assert_int_equal(i.i_size, 16384);
	assert_int_equal(im.res.default_uid, -1);
	assert_string_equal(im.res.default_name, "");
	image_free(&im);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_types),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_links),
		cmocka_unit_test(test_overrides),
		cmocka_unit_test(test_usrmerge),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_pax_utf8),
		cmocka_unit_test(test_xattrs),
		cmocka_unit_test(test_acls),
		cmocka_unit_test(test_sparse),
		cmocka_unit_test(test_empty_folders_and_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
