/* Big folders, many files, and raw images. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_60000_in_one_folder(void **state)
{
	struct wslx_import_params p = { .size = 0 };
	struct ext2_inode_large i;
	struct image im;
	struct raw r = { 0 };
	char name[100];
	size_t len;

	raw_header(&r, "etc", '5', 0, NULL);
	/* By hand: libarchive's writer would take most of the time. */
	for (int k = 0; k < 60000; k++) {
		snprintf(name, sizeof(name), "etc/name-of-file-%d", k);
		raw_header(&r, name, k % 7 ? '0' : '2', 0, k % 7 ? NULL : "target");
	}
	raw_end(&r);
	image_import_with(&im, raw_fd(&r), &p);
	image_check(&im);
	assert_int_equal(im.res.disk_size, WSLX_IMPORT_SIZE_DEFAULT);
	image_stat(&im, "/etc", &i);
	assert_true(i.i_flags & EXT2_INDEX_FL);
	assert_int_not_equal(image_find(&im, "/etc/name-of-file-59999"), 0);
	char *target = image_read(&im, "/etc/name-of-file-7", &len);

	assert_string_equal(target, "target");
	free(target);

	/* Tens of MiB at most, of a disk of 1 TiB. */
	struct stat st;

	assert_int_equal(fstat(im.fd, &st), 0);
	assert_true(st.st_blocks < (40 << 20) / 512);
	image_free(&im);
}

/* So many and so long that the index needs a second level. */
static void test_two_levels(void **state)
{
	char name[256];
	struct image im;
	struct tar t;

	tar_begin(&t, "gnutar", "none");
	for (int k = 0; k < 9000; k++) {
		memset(name, 'n', sizeof(name));
		memcpy(name, "etc/", 4);
		snprintf(name + 4, sizeof(name) - 4, "%d", k);
		name[strlen(name)] = 'n';
		name[255] = 0;
		tar_file(&t, name, 0644, "");
	}
	image_import(&im, tar_end(&t));
	image_check(&im);
	image_free(&im);
}

/* Every size of folder around the step from one block to an index. */
static void test_folder_sizes(void **state)
{
	char name[300];
	struct image im;
	struct tar t;

	tar_begin(&t, "gnutar", "none");
	tar_root(&t);
	for (int n = 0; n < 40; n++)
		for (int k = 0; k <= n; k++) {
			snprintf(name, sizeof(name), "etc/d%d/%0*d", n, 230 + n % 3, k);
			tar_file(&t, name, 0644, "");
		}
	image_import(&im, tar_end(&t));
	image_check(&im);
	image_free(&im);
}

static void test_many_subfolders_and_links(void **state)
{
	struct ext2_inode_large i;
	struct image im;
	struct raw r = { 0 };
	char name[100];

	raw_header(&r, "etc", '5', 0, NULL);
	raw_header(&r, "etc/f", '0', 0, NULL);
	for (int k = 0; k < 65100; k++) {
		snprintf(name, sizeof(name), "many/%d", k);
		raw_header(&r, name, '5', 0, NULL);
		if (k < 64999) {
			snprintf(name, sizeof(name), "links/%d", k);
			raw_header(&r, name, '1', 0, "etc/f");
		}
	}
	raw_end(&r);
	struct wslx_import_params p = { .size = 4 * WSLX_GIB };

	image_import_with(&im, raw_fd(&r), &p);
	image_check(&im);
	image_stat(&im, "/many", &i);
	assert_int_equal(i.i_links_count, 1);
	image_stat(&im, "/etc/f", &i);
	assert_int_equal(i.i_links_count, 65000);
	image_free(&im);
}

static int make_image(uint64_t size)
{
	struct wslx_import_params p = { .size = size };
	struct image im;
	struct tar t;
	int fd;

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_file(&t, "etc/hostname", 0644, "raw");
	image_import_with(&im, tar_end(&t), &p);
	image_check(&im);
	fd = fcntl(im.fd, F_DUPFD_CLOEXEC, 3);
	image_free(&im);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static void test_raw_image(void **state)
{
	struct wslx_import_params p = { 0 };
	struct image im;
	struct stat st;
	uint8_t b;

	image_import_with(&im, make_image(100 * WSLX_MIB), &p);
	image_check(&im);
	assert_int_equal(im.res.kind, WSLX_IMPORT_EXT4);
	assert_int_equal(im.res.disk_size, 100 * WSLX_MIB);
	image_assert_text(&im, "/etc/hostname", "raw");
	fstat(im.fd, &st);
	assert_int_equal(st.st_size, 100 * WSLX_MIB);
	assert_true(st.st_blocks < (16 << 20) / 512);
	image_free(&im);

	/* Grown on the way. */
	p = (struct wslx_import_params) { .size = 300 * WSLX_MIB };
	image_import_with(&im, make_image(100 * WSLX_MIB), &p);
	image_check(&im);
	assert_int_equal(ext2fs_blocks_count(im.fs->super) * 4096, 300 * WSLX_MIB);
	image_assert_text(&im, "/etc/hostname", "raw");
	image_free(&im);

	int fd = make_image(100 * WSLX_MIB);

	assert_int_equal(ftruncate(fd, 50 << 20), 0);
	image_import(&im, fd);
	image_assert_fails(&im, EBADMSG, "truncated ext4 image");
	image_free(&im);

	/* A superblock that its checksum does not fit. */
	fd = make_image(100 * WSLX_MIB);
	assert_int_equal(pread(fd, &b, 1, 1024 + 104), 1);
	b ^= 1;
	assert_int_equal(pwrite(fd, &b, 1, 1024 + 104), 1);
	image_import(&im, fd);
	image_assert_fails(&im, EBADMSG, "damaged");
	image_free(&im);
}

/* A file system of 64 MiB, and more bytes behind it. */
static int compress_image(size_t more)
{
	int fd = make_image(64 * WSLX_MIB);
	char *p = mmap(NULL, 64 * WSLX_MIB, PROT_READ, MAP_SHARED, fd, 0);
	char *behind = malloc(1 << 20);
	struct tar t;

	assert_true(p != MAP_FAILED && behind);
	memset(behind, 'x', 1 << 20);
	t.a = archive_write_new();
	t.fd = memfd_create("z", MFD_CLOEXEC);
	archive_write_set_format_raw(t.a);
	archive_write_add_filter_gzip(t.a);
	archive_write_set_options(t.a, "compression-level=1");
	archive_write_open_fd(t.a, t.fd);
	t.e = archive_entry_new();
	archive_entry_set_filetype(t.e, AE_IFREG);
	archive_write_header(t.a, t.e);
	assert_int_equal(archive_write_data(t.a, p, 64 * WSLX_MIB), 64 * WSLX_MIB);
	for (size_t n; more; more -= n) {
		n = more < (1 << 20) ? more : 1 << 20;
		assert_int_equal(archive_write_data(t.a, behind, n), n);
	}
	free(behind);
	munmap(p, 64 * WSLX_MIB);
	close(fd);
	return tar_end(&t);
}

static void test_raw_image_compressed(void **state)
{
	struct image im;

	image_import(&im, compress_image(0));
	assert_int_equal(im.res.kind, WSLX_IMPORT_EXT4);
	image_check(&im);
	image_assert_text(&im, "/etc/hostname", "raw");
	image_free(&im);
}

/* What follows the file system stays away from the disk, and is not read forever. */
static void test_raw_image_goes_on(void **state)
{
	static const size_t more[] = { 4096, 16 << 20, 300 << 20 };
	struct wslx_import_params p = { 0 };
	struct image im;
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
		int fd = compress_image(more[i]);

		/* The damaged end of the longest is past what is looked at. */
		if (i == 2)
			assert_int_equal(ftruncate(fd, lseek(fd, 0, SEEK_END) - 5), 0);
		lseek(fd, 0, SEEK_SET);
		image_import_with(&im, fd, &p);
		image_check(&im);
		assert_int_equal(im.res.disk_size, 64 * WSLX_MIB);
		assert_int_equal(fstat(im.fd, &st), 0);
		assert_int_equal(st.st_size, 64 * WSLX_MIB);
		assert_true(st.st_blocks < (8 << 20) / 512);
		image_free(&im);
	}

	/* A file as well. */
	int fd = make_image(64 * WSLX_MIB);

	assert_int_equal(pwrite(fd, "more", 4, 70 << 20), 4);
	image_import_with(&im, fd, &p);
	image_check(&im);
	assert_int_equal(fstat(im.fd, &st), 0);
	assert_int_equal(st.st_size, 64 * WSLX_MIB);
	image_free(&im);
}

static void test_raw_image_room(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct wslx_import_params p = { .max_bytes = 16 << 10, .place = "/a/folder" };
		struct image im;

		image_import_with(&im, i ? compress_image(0) : make_image(64 * WSLX_MIB), &p);
		/* Where the host's file system can share blocks, a file takes none. */
		if (i || im.r < 0)
			image_assert_fails(&im, ENOSPC,
					   "the image needs more than the 0 MiB that are left to use on the host's "
					   "disk in /a/folder");
		image_free(&im);
	}
}

/* A header that claims too much, and many files that are too much together. */
static void test_tar_room(void **state)
{
	static const char *const texts[] = { "but only 0 MiB are left to use on the host's disk in /a/folder",
					     "there is space for 0 MiB on the host in /a/folder and for" };
	char name[32], *data = malloc(WSLX_MIB);
	size_t sizes[] = { WSLX_MIB, 32 << 10 };

	assert_non_null(data);
	memset(data, 'x', WSLX_MIB);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct wslx_import_params p = { .size = 64 * WSLX_MIB, .max_bytes = 64 << 10, .place = "/a/folder" };
		struct image im;
		struct tar t;

		tar_begin(&t, "pax", "none");
		tar_root(&t);
		for (int k = 0; k < 4; k++) {
			snprintf(name, sizeof(name), "etc/%d", k);
			tar_entry(&t, name, S_IFREG | 0644);
			tar_put(&t, data, sizes[i]);
		}
		image_import_with(&im, tar_end(&t), &p);
		image_assert_fails(&im, ENOSPC, texts[i]);
		image_free(&im);
	}
	free(data);
}

/* Numbers that libext2fs would allocate by. */
static void test_raw_image_geometry(void **state)
{
	static const struct {
		uint64_t blocks, size;
		uint32_t per_group;
		uint16_t desc_size;
		int code;
		const char *text;
	} cases[] = {
		{ (uint64_t)1 << 40, 0, 32768, 64, E2BIG, "an image of more than 16 TiB" },
		{ UINT64_MAX, 0, 32768, 64, E2BIG, "an image of more than 16 TiB" },
		{ (uint64_t)1 << 32, 0, 32768, 64, EBADMSG, "truncated ext4 image" },
		{ (uint64_t)1 << 28, (uint64_t)1 << 40, 8, 64, EBADMSG, "268435456 blocks in groups of 8" },
		{ (uint64_t)1 << 28, (uint64_t)1 << 40, 256, 32768, EBADMSG, "blocks in groups of 256" },
		{ 16384, 0, 0, 64, EBADMSG, "damaged or of an unknown kind" },
		{ 0, 0, 32768, 64, EBADMSG, "damaged or of an unknown kind" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int fd = make_image(64 * WSLX_MIB);
		struct ext2_super_block sb;
		struct image im;

		assert_int_equal(pread(fd, &sb, sizeof(sb), 1024), sizeof(sb));
		sb.s_blocks_count = (uint32_t)cases[i].blocks;
		sb.s_blocks_count_hi = (uint32_t)(cases[i].blocks >> 32);
		sb.s_blocks_per_group = cases[i].per_group;
		sb.s_desc_size = cases[i].desc_size;
		assert_int_equal(pwrite(fd, &sb, sizeof(sb), 1024), sizeof(sb));
		if (cases[i].size)
			assert_int_equal(ftruncate(fd, (off_t)cases[i].size), 0);
		image_import(&im, fd);
		image_assert_fails(&im, cases[i].code, cases[i].text);
		image_free(&im);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_60000_in_one_folder),
		cmocka_unit_test(test_two_levels),
		cmocka_unit_test(test_folder_sizes),
		cmocka_unit_test(test_many_subfolders_and_links),
		cmocka_unit_test(test_raw_image),
		cmocka_unit_test(test_raw_image_compressed),
		cmocka_unit_test(test_raw_image_goes_on),
		cmocka_unit_test(test_raw_image_room),
		cmocka_unit_test(test_tar_room),
		cmocka_unit_test(test_raw_image_geometry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
