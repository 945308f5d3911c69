/* Trees of blocks that a guest made up: each is bounded work, and can be cancelled. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image/export.h"
#include "image/walk.h"
#include "os/linux/fd.h"

#define BLOCK 4096u
#define NODE_MAX 340u /* entries of a block */
#define FILES 60
#define DISK "64M"

/* ---- Disks ---- */

struct made {
	char dir[32], path[64];
	ext2_filsys fs;
};

static void shell(const char *script)
{
	assert_int_equal(run_program((const char *const[]) { "sh", "-c", script, NULL }), 0);
}

/* Files of 64 KiB, /f0 and so on, and folders: /etc only if asked for. */
static void make_disk(struct made *d, bool etc)
{
	char script[1024];

	strcpy(d->dir, "/tmp/wslx-walk-XXXXXX");
	assert_non_null(mkdtemp(d->dir));
	snprintf(d->path, sizeof(d->path), "%s/img", d->dir);
	snprintf(script, sizeof(script),
		 "cd %s && mkdir -p t/d%s && for i in $(seq 0 %d); do head -c 65536 /dev/zero | tr '\\0' x >t/f$i; "
		 "done && "
		 "mke2fs -q -t ext4 -O ^metadata_csum,^has_journal,^64bit -b 4096 -d t img " DISK,
		 d->dir, etc ? " t/etc" : "", FILES - 1);
	shell(script);
	assert_int_equal(ext2fs_open(d->path, EXT2_FLAG_RW, 0, 0, unix_io_manager, &d->fs), 0);
}

static void drop_disk(struct made *d)
{
	char script[64];

	snprintf(script, sizeof(script), "rm -rf %s", d->dir);
	shell(script);
}

static ext2_ino_t find(struct made *d, const char *path)
{
	ext2_ino_t ino;

	assert_int_equal(ext2fs_namei(d->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &ino), 0);
	return ino;
}

/* A block of this file. */
static uint32_t block_of(struct made *d, const char *path, unsigned i)
{
	blk64_t pblk;

	assert_int_equal(ext2fs_bmap2(d->fs, find(d, path), NULL, NULL, 0, i, NULL, &pblk), 0);
	return (uint32_t)pblk;
}

static void write_block(struct made *d, uint32_t at, const void *block)
{
	assert_int_equal(io_channel_write_blk64(d->fs->io, at, 1, block), 0);
}

/* ---- Nodes ---- */

static void put_head(uint8_t *p, unsigned n, unsigned max, unsigned depth)
{
	wslx_put_le16(p, 0xf30a);
	wslx_put_le16(p + 2, (uint16_t)n);
	wslx_put_le16(p + 4, (uint16_t)max);
	wslx_put_le16(p + 6, (uint16_t)depth);
	wslx_put_le32(p + 8, 0);
}

static void put_index(uint8_t *p, unsigned i, uint32_t lblk, uint32_t child)
{
	p += 12 + 12 * (size_t)i;
	wslx_put_le32(p, lblk);
	wslx_put_le32(p + 4, child);
	wslx_put_le32(p + 8, 0);
}

static void put_unwritten(uint8_t *p, unsigned i, uint32_t lblk, uint32_t pblk)
{
	p += 12 + 12 * (size_t)i;
	wslx_put_le32(p, lblk);
	wslx_put_le16(p + 4, 0x8001);
	wslx_put_le16(p + 6, 0);
	wslx_put_le32(p + 8, pblk);
}

static void write_leaf(struct made *d, uint32_t at)
{
	uint8_t leaf[BLOCK] = { 0 };

	put_head(leaf, NODE_MAX, NODE_MAX, 0);
	for (unsigned i = 0; i < NODE_MAX; i++)
		put_unwritten(leaf, i, i, at);
	write_block(d, at, leaf);
}

static void write_root(struct made *d, ext2_ino_t ino, const uint8_t root[60])
{
	struct ext2_inode_large inode;

	assert_int_equal(ext2fs_read_inode_full(d->fs, ino, (struct ext2_inode *)&inode, sizeof(inode)), 0);
	memcpy(inode.i_block, root, 60);
	inode.i_flags |= EXT4_EXTENTS_FL;
	assert_int_equal(ext2fs_write_inode_full(d->fs, ino, (struct ext2_inode *)&inode, sizeof(inode)), 0);
}

/* Nodes of which each names one child as often as it can: the leaf's extents
 * would be visited 4 * 340^depth times.  Index entries go up by `step`. */
static void plant_tree(struct made *d, ext2_ino_t ino, unsigned depth, unsigned step)
{
	uint8_t root[60] = { 0 };
	uint32_t at[5];

	for (unsigned i = 0; i < depth; i++)
		at[i] = block_of(d, "/f0", i);
	for (unsigned k = 0; k + 1 < depth; k++) {
		uint8_t node[BLOCK] = { 0 };

		put_head(node, NODE_MAX, NODE_MAX, depth - 1 - k);
		for (unsigned i = 0; i < NODE_MAX; i++)
			put_index(node, i, i * step, at[k + 1]);
		write_block(d, at[k], node);
	}
	write_leaf(d, at[depth - 1]);
	put_head(root, 4, 4, depth);
	for (unsigned i = 0; i < 4; i++)
		put_index(root, i, i * step, at[0]);
	write_root(d, ino, root);
}

/* ---- What becomes of them ---- */

static void assert_export_fails(struct made *d, const char *text)
{
	struct wslx_export_params p = { .disk_fd = open(d->path, O_RDONLY | O_CLOEXEC),
					.out_fd = open("/dev/null", O_WRONLY | O_CLOEXEC) };
	struct wslx_export_result res;
	struct wslx_err err = { 0 };
	int r;

	assert_int_equal(ext2fs_close(d->fs), 0);
	r = wslx_export(&p, &res, &err);
	if (r != -EBADMSG || !strstr(err.msg, text))
		fail_msg("got %d '%s', expected '%s'", r, err.msg, text);
	close(p.disk_fd);
	close(p.out_fd);
}

static void assert_import_fails(struct made *d, const char *text)
{
	struct wslx_import_params p = { 0 };
	struct image im;

	image_import_with(&im, open(d->path, O_RDONLY | O_CLOEXEC), &p);
	image_assert_fails(&im, EBADMSG, text);
	image_free(&im);
}

static void test_trees(void **state)
{
	static const char *const where[] = { "/f1", "/d", "/" };

	for (size_t k = 0; k < ARRAY_SIZE(where); k++)
		for (unsigned step = 0; step < 2; step++) {
			struct made d;

			make_disk(&d, false);
			plant_tree(&d, find(&d, where[k]), 5, step);
			assert_export_fails(&d, "data out of order");
			if (k == 2)
				assert_import_fails(&d, "the ext4 image is damaged: /etc: data out of order");
			drop_disk(&d);
		}
}

/* A child's first block is its parent's, or nothing can be said of its order. */
static void test_child_starts_elsewhere(void **state)
{
	uint8_t root[60] = { 0 };
	struct made d;

	make_disk(&d, true);
	write_leaf(&d, block_of(&d, "/f0", 0));
	put_head(root, 1, 4, 1);
	put_index(root, 0, 7, block_of(&d, "/f0", 0));
	write_root(&d, find(&d, "/f1"), root);
	assert_export_fails(&d, "./f1: data out of order");
	drop_disk(&d);
}

/* Sound trees one by one, but all of the same pieces. */
static void test_shared_leaf(void **state)
{
	uint8_t root[60] = { 0 };
	struct made d;
	char name[32];

	make_disk(&d, true);
	write_leaf(&d, block_of(&d, "/f0", 0));
	put_head(root, 1, 4, 1);
	put_index(root, 0, 0, block_of(&d, "/f0", 0));
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "/f%d", i);
		write_root(&d, find(&d, name), root);
	}
	assert_export_fails(&d, "more pieces than the disk has blocks");
	drop_disk(&d);
}

/* ext2's way: a billion addresses, of nothing in the end. */
static void test_indirect(void **state)
{
	static const uint8_t nothing[BLOCK];
	struct ext2_inode_large inode;
	struct made d;
	ext2_ino_t ino;

	make_disk(&d, true);
	for (unsigned k = 0; k < 2; k++) {
		uint8_t block[BLOCK];

		for (unsigned i = 0; i < BLOCK / 4; i++)
			wslx_put_le32(block + 4 * (size_t)i, block_of(&d, "/f0", k + 1));
		write_block(&d, block_of(&d, "/f0", k), block);
	}
	write_block(&d, block_of(&d, "/f0", 2), nothing);
	ino = find(&d, "/f1");
	assert_int_equal(ext2fs_read_inode_full(d.fs, ino, (struct ext2_inode *)&inode, sizeof(inode)), 0);
	memset(inode.i_block, 0, sizeof(inode.i_block));
	inode.i_block[EXT2_TIND_BLOCK] = block_of(&d, "/f0", 0);
	inode.i_flags &= ~(uint32_t)EXT4_EXTENTS_FL;
	assert_int_equal(ext2fs_write_inode_full(d.fs, ino, (struct ext2_inode *)&inode, sizeof(inode)), 0);
	assert_export_fails(&d, "./f1: more pieces than the disk has blocks");
	drop_disk(&d);
}

static const struct wslx_walk_limits unlimited = { 1, UINT64_MAX, UINT64_MAX };

/* What is unwritten counts as a step like any other. */
static void test_cancel(void **state)
{
	volatile sig_atomic_t cancel = 1;
	struct wslx_task task = { .cancel = &cancel };
	struct wslx_err err = { 0 };
	struct wslx_walk w = { .task = &task, .subject = "the disk", .path = "/f1", .err = &err };
	struct ext2_inode_large inode;
	struct wslx_runs runs;
	uint8_t root[60] = { 0 };
	struct made d;
	int r = 0;

	make_disk(&d, true);
	write_leaf(&d, block_of(&d, "/f0", 0));
	put_head(root, 1, 4, 1);
	put_index(root, 0, 0, block_of(&d, "/f0", 0));
	write_root(&d, find(&d, "/f1"), root);
	wslx_walk_init(&w, d.fs, &unlimited);
	assert_int_equal(wslx_walk_inode(&w, find(&d, "/f1"), &inode), 0);
	for (int i = 0; r == 0 && i < 10; i++) {
		r = wslx_walk_runs(&w, find(&d, "/f1"), &inode, 16, &runs);
		assert_int_equal(runs.n, 0);
		free(runs.v);
	}
	assert_int_equal(r, -ECANCELED);
	assert_int_equal(ext2fs_close(d.fs), 0);
	drop_disk(&d);
}

/* A tree of two levels of nodes, as libext2fs makes it. */
static void test_many_pieces(void **state)
{
	char script[256], name[64], dir[] = "/tmp/wslx-walk-XXXXXX";
	struct wslx_export_params p = { 0 };
	struct wslx_export_result res;
	struct wslx_err err = { 0 };
	struct image im;
	size_t len;
	char *text;
	int fd;

	assert_non_null(mkdtemp(dir));
	snprintf(name, sizeof(name), "%s/pieces", dir);
	fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	for (off_t i = 0; i < 2000; i++)
		assert_int_equal(pwrite(fd, &i, sizeof(i), i * 3 * BLOCK), sizeof(i));
	close(fd);
	snprintf(script, sizeof(script),
		 "cd %s && mkdir -p t/etc && mv pieces t/etc && mke2fs -q -t ext4 -d t img " DISK, dir);
	shell(script);
	snprintf(name, sizeof(name), "%s/img", dir);
	p.disk_fd = open(name, O_RDONLY | O_CLOEXEC);
	p.out_fd = make_temp();
	if (wslx_export(&p, &res, &err) < 0)
		fail_msg("%s", err.msg);
	close(p.disk_fd);
	assert_int_equal(lseek(p.out_fd, 0, SEEK_SET), 0);
	image_import(&im, p.out_fd);
	image_check(&im);
	text = image_read(&im, "/etc/pieces", &len);
	assert_int_equal(len, 1999 * 3 * BLOCK + sizeof(off_t));
	for (off_t i = 0; i < 2000; i++)
		assert_memory_equal(text + i * 3 * BLOCK, &i, sizeof(i));
	free(text);
	image_free(&im);
	snprintf(script, sizeof(script), "rm -rf %s", dir);
	shell(script);
}

/* ---- Limits that no claim of the disk raises ---- */

static void assert_too_much(struct wslx_walk *w, int r, const char *text)
{
	if (r != -E2BIG || strcmp(w->err->msg, text) != 0)
		fail_msg("%d '%s'", r, w->err->msg);
}

static void test_limits(void **state)
{
	const struct wslx_walk_limits folders = { 16, UINT64_MAX, 3 }, pieces = { 16, 500, UINT64_MAX };
	struct wslx_err err = { 0 };
	struct wslx_walk w = { .subject = "the disk", .path = "/f1", .err = &err };
	struct ext2_inode_large inode;
	struct wslx_runs runs;
	uint8_t root[60] = { 0 };
	struct made d;

	make_disk(&d, true);
	wslx_walk_init(&w, d.fs, &folders);
	for (int i = 0; i < 3; i++)
		assert_int_equal(wslx_walk_exists(&w, "/etc"), 1);
	assert_too_much(&w, wslx_walk_exists(&w, "/etc"),
			"the disk is too much to look through: /etc: more than 3 blocks of folders");
	write_leaf(&d, block_of(&d, "/f0", 0));
	put_head(root, 1, 4, 1);
	put_index(root, 0, 0, block_of(&d, "/f0", 0));
	write_root(&d, find(&d, "/f1"), root);
	w.path = "/f1";
	wslx_walk_init(&w, d.fs, &pieces);
	assert_int_equal(wslx_walk_inode(&w, find(&d, "/f1"), &inode), 0);
	assert_int_equal(wslx_walk_runs(&w, find(&d, "/f1"), &inode, 16, &runs), 0);
	free(runs.v);
	assert_too_much(&w, wslx_walk_runs(&w, find(&d, "/f1"), &inode, 16, &runs),
			"the disk is too much to look through: /f1: more than 500 pieces");
	free(runs.v);
	assert_int_equal(ext2fs_close(d.fs), 0);
	drop_disk(&d);
}

/* Where blocks are of 64 KiB, zeros are a folder's block without names: a folder
 * of nothing but holes in a sparse file.  Sixteen times what this superblock
 * claims would be 128 TiB to read. */
static void test_sparse_claim(void **state)
{
	static const uint32_t len = 32768; /* the most that one extent has */
	char path[64], dir[] = "/tmp/wslx-walk-XXXXXX", script[256];
	struct wslx_import_params p = { 0 };
	struct ext2_inode_large inode;
	uint8_t root[60] = { 0 };
	ext2_filsys fs;
	struct image im;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/img", dir);
	snprintf(script, sizeof(script),
		 "truncate -s 8T %s && mke2fs -F -q -t ext4 -b 65536 -N 4096 -O "
		 "^has_journal,^metadata_csum,^resize_inode,sparse_super2 %s",
		 path, path);
	shell(script);
	assert_int_equal(ext2fs_open(path, EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs), 0);
	assert_int_equal(ext2fs_read_inode_full(fs, EXT2_ROOT_INO, (struct ext2_inode *)&inode, sizeof(inode)), 0);
	put_head(root, 4, 4, 0);
	for (unsigned i = 0; i < 4; i++) {
		uint8_t *x = root + 12 + 12 * (size_t)i;

		wslx_put_le32(x, i * len);
		wslx_put_le16(x + 4, (uint16_t)len);
		wslx_put_le16(x + 6, 0);
		wslx_put_le32(x + 8, 1u << 26);
	}
	memcpy(inode.i_block, root, sizeof(root));
	inode.i_flags |= EXT4_EXTENTS_FL;
	assert_int_equal(ext2fs_inode_size_set(fs, (struct ext2_inode *)&inode, (ext2_off64_t)4 * len << 16), 0);
	assert_int_equal(ext2fs_write_inode_full(fs, EXT2_ROOT_INO, (struct ext2_inode *)&inode, sizeof(inode)), 0);
	assert_int_equal(ext2fs_close(fs), 0);
	image_import_with(&im, open(path, O_RDONLY | O_CLOEXEC), &p);
	image_assert_fails(&im, E2BIG,
			   "the ext4 image is too much to look through: /etc: more than 65536 blocks of folders");
	image_free(&im);
	snprintf(script, sizeof(script), "rm -rf %s", dir);
	shell(script);
}

/* ---- Paths ---- */

static void test_paths(void **state)
{
	static const struct {
		const char *path;
		int there;
	} list[] = {
		{ "/", 1 },
		{ "/etc", 1 },
		{ "/bin/sh", 1 },
		{ "/bin/none", 0 },
		{ "/usr/bin/dash/x", 0 },
		{ "/loop", 0 },
		{ "/dangling", 0 },
		{ "/usr/../../etc/./", 1 },
		{ "/up/etc", 1 },
		{ "/absolute", 1 },
	};
	static const struct wslx_walk_limits sixteen = { 16, UINT64_MAX, UINT64_MAX };
	struct wslx_err err = { 0 };
	struct wslx_walk w = { .subject = "the image", .err = &err };
	struct image im;
	struct tar t;

	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_dir(&t, "usr/bin", 0755);
	tar_symlink(&t, "bin", "usr/bin");
	tar_file(&t, "usr/bin/dash", 0755, "x");
	tar_symlink(&t, "usr/bin/sh", "dash");
	tar_symlink(&t, "loop", "loop");
	tar_symlink(&t, "dangling", "nowhere");
	tar_symlink(&t, "usr/bin/up", "../../..");
	tar_symlink(&t, "up", "bin/up");
	tar_symlink(&t, "absolute", "/usr/bin/sh");
	image_import(&im, tar_end(&t));
	image_check(&im);
	for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
		wslx_walk_init(&w, im.fs, &sixteen);
		int r = wslx_walk_exists(&w, list[i].path);

		if (r != list[i].there)
			fail_msg("%s: %d", list[i].path, r);
	}
	image_free(&im);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trees),       cmocka_unit_test(test_child_starts_elsewhere),
		cmocka_unit_test(test_shared_leaf), cmocka_unit_test(test_indirect),
		cmocka_unit_test(test_cancel),      cmocka_unit_test(test_many_pieces),
		cmocka_unit_test(test_limits),      cmocka_unit_test(test_sparse_claim),
		cmocka_unit_test(test_paths),
	};

	return cmocka_run_group_tests_name("walk", tests, NULL, NULL);
}
