/*
 * Archive import: any bytes, through decompression, libarchive and the ext4
 * writer, into a small disk.  What was taken is read back whole: each folder,
 * each inode, each attribute, by libext2fs, which checks every checksum; no
 * block may be claimed twice, and no attribute be there twice.
 *
 * Stands in for proc.c: mke2fs runs once, its result is copied after that.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ext2fs/ext2fs.h>

#include "image/import.h"
#include "image/proc.h"

#define DISK (64 * WSLX_MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

#define MAX_HEADERS 64

static size_t find_headers(uint8_t *data, size_t size, uint8_t *ret[MAX_HEADERS])
{
	size_t n = 0;

	for (size_t at = 0; at + 512 <= size && n < MAX_HEADERS; at += 512)
		if (memcmp(data + at + 257, "ustar", 5) == 0)
			ret[n++] = data + at;
	return n;
}

/* What bytes alone hardly ever do: entries that meet others. */
static size_t mix_headers(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	uint8_t *h[MAX_HEADERS];
	size_t n = find_headers(data, size, h);
	char name[101] = "", other[101] = "";

	if (!n)
		return size;
	uint8_t *a = h[seed / 64 % n], *b = h[seed / 4096 % n];

	memcpy(name, a, 100);
	memcpy(other, b, 100);
	switch (seed / 8 % 8) {
	case 0: /* the same name again */
		memcpy(b, a, 100);
		break;
	case 1: /* below the other one */
		memset(b, 0, 100);
		snprintf((char *)b, 100, "%.60s/%.30s", name, other);
		break;
	case 2:
		b[156] = (uint8_t)('0' + seed / 262144 % 7);
		break;
	case 3: /* a link to it */
		memcpy(b + 157, a, 100);
		b[156] = seed & 262144 ? '1' : '2';
		break;
	case 4: /* once more, in front */
		if (size + 512 <= max) {
			memmove(data + 512, data, size);
			memcpy(data, b + 512, 512);
			size += 512;
		}
		break;
	case 5: /* not at all */
		memmove(b, b + 512, (size_t)(data + size - b) - 512);
		size -= 512;
		break;
	default:
		memcpy(b, a, 257);
		b[156] = (uint8_t)('0' + seed / 262144 % 7);
		break;
	}
	return size;
}

/* Records of extended headers, with their lengths. */
static size_t add_record(char *p, size_t at, size_t max, unsigned seed)
{
	static const char *const keys[] = { "SCHILY.xattr.user.a",
					    "SCHILY.xattr.user.b",
					    "SCHILY.xattr.security.c",
					    "SCHILY.xattr.trusted.d",
					    "SCHILY.acl.access",
					    "SCHILY.acl.default",
					    "path",
					    "linkpath",
					    "size",
					    "uid",
					    "gid",
					    "mtime" };
	static const char *const values[] = { "",
					      "1",
					      "-1",
					      "4096",
					      "4294967295",
					      "etc",
					      "etc/passwd",
					      "a/b/c",
					      "user::rwx,group::r-x,other::r--",
					      "user::rwx,user:root:rw-,group::r-x,group:7:r--,mask::rwx,other::---" };
	const char *key = keys[seed % 4096 % (seed & 0x80000 ? 6 : ARRAY_SIZE(keys))];
	const char *value = values[seed / 16384 % ARRAY_SIZE(values)];
	size_t len = strlen(key) + strlen(value) + 3; /* blank, "=", newline */

	len += len + 2 < 100 ? 2 : 3;
	if (at + len >= max)
		return at;
	return at + (size_t)snprintf(p + at, max - at, "%zu %s=%s\n", len, key, value);
}

/* One more record for an entry; the first one brings the extended header. */
static size_t mix_pax(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	uint8_t *h[MAX_HEADERS];
	size_t n = find_headers(data, size, h), old = 0;
	char text[512];

	if (!n)
		return size;
	uint8_t *p = h[seed / 64 % n];

	memset(text, 0, sizeof(text));
	if (p[156] == 'x' && (size_t)(data + size - p) >= 1024) {
		old = strtoul((char *)p + 124, NULL, 8);
		if (old > sizeof(text))
			return size;
		memcpy(text, p + 512, old);
	} else {
		if (size + 1024 > max)
			return size;
		memmove(p + 1024, p, (size_t)(data + size - p));
		size += 1024;
		memset(p, 0, 1024);
		memcpy(p, "x", 1);
		memcpy(p + 100, "0000644", 7);
		p[156] = 'x';
		memcpy(p + 257, "ustar\00000", 8);
	}
	old = add_record(text, old, sizeof(text), seed);
	if (seed & 0x100000)
		old = add_record(text, old, sizeof(text), seed);
	snprintf((char *)p + 124, 12, "%011zo", old);
	memcpy(p + 512, text, sizeof(text));
	return size;
}

/* Headers get their checksum right again: else nothing behind it is reached. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	uint8_t *h[MAX_HEADERS];

	if (seed % 8 == 6)
		size = mix_pax(data, size, max, seed * 2654435761u);
	else
		size = seed % 2 ? mix_headers(data, size, max, seed) : LLVMFuzzerMutate(data, size, max);
	if (seed % 16 == 0)
		return size;
	for (size_t i = find_headers(data, size, h); i > 0; i--) {
		uint8_t *p = h[i - 1];
		unsigned sum = 0;
		char text[8];

		memset(p + 148, ' ', 8);
		for (int k = 0; k < 512; k++)
			sum += p[k];
		snprintf(text, sizeof(text), "%06o", sum);
		memcpy(p + 148, text, 7);
	}
	return size;
}

/* The parts of a new file system that are not zero. */
static struct piece {
	uint64_t off;
	uint8_t data[4096];
} * pieces;
static size_t n_pieces;

static void run_mke2fs(const char *const *argv, int fd)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		fcntl(fd, F_SETFD, 0);
		setenv("PATH", "/usr/sbin:/sbin:/usr/bin:/bin", 1);
		setenv("MKE2FS_CONFIG", "/dev/null", 1);
		dup2(open("/dev/null", O_RDWR), 2);
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
		abort();
}

static void remember(int fd)
{
	static const uint8_t zero[4096];
	uint8_t block[4096];

	for (uint64_t off = 0; off < DISK; off += 4096) {
		if (pread(fd, block, 4096, (off_t)off) != 4096)
			abort();
		if (memcmp(block, zero, 4096) == 0)
			continue;
		pieces = realloc(pieces, (n_pieces + 1) * sizeof(*pieces));
		if (!pieces)
			abort();
		pieces[n_pieces].off = off;
		memcpy(pieces[n_pieces++].data, block, 4096);
	}
}

int wslx_proc_run(const struct wslx_proc_params *p, const struct wslx_task *task, char **ret_out, struct wslx_err *err)
{
	/* A raw image that asks to grow. */
	if (strcmp(p->argv[0], "mke2fs") != 0)
		return wslx_err_set(err, ENOENT, "not here");
	if (!pieces) {
		run_mke2fs(p->argv, p->keep_fd);
		remember(p->keep_fd);
		return 0;
	}
	for (size_t i = 0; i < n_pieces; i++)
		if (pwrite(p->keep_fd, pieces[i].data, 4096, (off_t)pieces[i].off) != 4096)
			abort();
	return 0;
}

struct check {
	ext2_filsys fs;
	ext2fs_block_bitmap seen;
};

static int see_block(ext2_filsys fs, blk64_t *blk, e2_blkcnt_t count, blk64_t ref, int ref_off, void *opaque)
{
	struct check *c = opaque;

	if (ext2fs_test_block_bitmap2(c->seen, *blk) || !ext2fs_test_block_bitmap2(fs->block_map, *blk))
		abort();
	ext2fs_mark_block_bitmap2(c->seen, *blk);
	return 0;
}

static int see_entry(ext2_ino_t dir, int entry, struct ext2_dir_entry *de, int offset, int blocksize, char *buf,
		     void *opaque)
{
	struct check *c = opaque;

	if (de->inode && !ext2fs_test_inode_bitmap2(c->fs->inode_map, de->inode))
		abort();
	return 0;
}

struct names {
	char text[4096];
	size_t len;
};

/* No attribute twice. */
static int see_xattr(char *name, char *value, size_t len, void *opaque)
{
	struct names *seen = opaque;
	size_t n = strlen(name) + 1;

	for (size_t at = 0; at < seen->len; at += strlen(seen->text + at) + 1)
		if (strcmp(seen->text + at, name) == 0)
			abort();
	if (seen->len + n <= sizeof(seen->text)) {
		memcpy(seen->text + seen->len, name, n);
		seen->len += n;
	}
	return 0;
}

static void check(int fd)
{
	static struct names names;
	struct check c = { 0 };
	struct ext2_inode_large inode;
	ext2_inode_scan scan;
	ext2_ino_t ino;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (ext2fs_open(path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &c.fs) || ext2fs_read_bitmaps(c.fs) ||
	    ext2fs_allocate_block_bitmap(c.fs, "seen", &c.seen) || ext2fs_open_inode_scan(c.fs, 0, &scan))
		abort();
	for (;;) {
		struct ext2_xattr_handle *h;

		if (ext2fs_get_next_inode_full(scan, &ino, (struct ext2_inode *)&inode, sizeof(inode)))
			abort();
		if (!ino)
			break;
		if (!inode.i_links_count || ino == EXT2_JOURNAL_INO || ino == EXT2_RESIZE_INO)
			continue;
		if (ext2fs_inode_has_valid_blocks2(c.fs, (struct ext2_inode *)&inode) &&
		    ext2fs_block_iterate3(c.fs, ino, BLOCK_FLAG_READ_ONLY, NULL, see_block, &c))
			abort();
		if (LINUX_S_ISDIR(inode.i_mode) && ext2fs_dir_iterate2(c.fs, ino, 0, NULL, see_entry, &c))
			abort();
		names.len = 0;
		if (ext2fs_xattrs_open(c.fs, ino, &h) || ext2fs_xattrs_read(h) ||
		    ext2fs_xattrs_iterate(h, see_xattr, &names) || ext2fs_xattrs_close(&h))
			abort();
	}
	ext2fs_close_inode_scan(scan);
	ext2fs_free_block_bitmap(c.seen);
	ext2fs_free(c.fs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wslx_import_result res = { 0 };
	struct wslx_err err = { 0 };
	int in = memfd_create("in", MFD_CLOEXEC), out = memfd_create("out", MFD_CLOEXEC);
	struct wslx_import_params p = {
		.in_fd = in,
		.in_name = "fuzz",
		.out_fd = out,
		.size = DISK,
		.max_entries = 2000,
		.max_memory = 16 * WSLX_MIB,
		.max_bytes = 8 * WSLX_MIB,
		.no_sync = true,
	};

	if (in < 0 || out < 0 || write(in, data, size) != (ssize_t)size)
		abort();
	lseek(in, 0, SEEK_SET);
	int r = wslx_import(&p, &res, &err);

	if (r == 0 && res.kind == WSLX_IMPORT_TAR)
		check(out);
	else if (r < 0 && !err.msg[0])
		abort();
	close(in);
	close(out);
	return 0;
}
