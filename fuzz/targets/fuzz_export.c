/*
 * Export: a small ext4 disk, as mke2fs fills it from a folder, with bytes of
 * its metadata changed, through libext2fs and our walk of it into an archive.
 * Whatever the disk says, no more data comes out than it has room for, it ends
 * soon, and a failure says why.
 *
 * Input: changes, each {which of the pieces that are not zero (2), where in it
 * (1), how many bytes (1, its low 4 bits), the bytes}.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "image/export.h"
#include "input.h"

#define DISK ((size_t)512 << 10)
#define PIECE 64u
#define CHANGES_MAX 192 /* enough for nodes that name one child over and over */
#define SECONDS_MAX 5   /* of CPU time; some milliseconds are usual */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t base[DISK], disk[DISK];
static uint32_t pieces[DISK / PIECE];
static size_t n_pieces;
static int disk_fd, null_fd;

/* Inline data, extents with and without holes, names, links, attributes, ACLs:
 * all of it by the tools, with fixed numbers, so that inputs keep their meaning. */
static const char script[] =
	"set -e; umask 022; cd \"$1\"; mkdir -p t/etc/deep/er t/usr; echo small >t/etc/small; "
	"seq 9000 >t/etc/seq; truncate -s 90000 t/etc/holes; for i in 1 2 3 4 5 6 7 8; do "
	"printf x | dd of=t/etc/holes bs=1 seek=$((i * 10000)) conv=notrunc 2>/dev/null; done; "
	"ln t/etc/small t/usr/hard; ln -s etc/small t/fast; "
	"ln -s 0123456789012345678901234567890123456789012345678901234567890123456789 t/slow; mkfifo t/fifo; "
	"for i in 10 11 12 13 14 15 16 17 18 19 20 21 22 23; do : >t/usr/a-rather-long-name-for-a-file-of-nothing-$i; "
	"done; "
	"setfattr -n user.one -v 1 t/etc/small 2>/dev/null || :; setfacl -m u:7:rwx t/etc/seq 2>/dev/null || :; "
	"find t -exec touch -h -d @1000000000 {} +; "
	"mke2fs -q -b 1024 -I 256 -N 64 -m 0 -O "
	"none,extent,filetype,sparse_super,large_file,huge_file,dir_nlink,extra_isize,ext_attr,dir_index,inline_data "
	"-U 01234567-89ab-cdef-0123-456789abcdef -E hash_seed=01234567-89ab-cdef-0123-456789abcdef,root_owner=0:0 "
	"-d t img 512k";

static void make_base(void)
{
	char dir[] = "/tmp/fuzz-export-XXXXXX", path[64];
	const char *const make[] = { "sh", "-c", script, "sh", dir, NULL };
	const char *const drop[] = { "rm", "-rf", dir, NULL };
	const char *const *const runs[] = { make, drop };
	int fd;

	if (!mkdtemp(dir))
		abort();
	snprintf(path, sizeof(path), "%s/img", dir);
	for (size_t i = 0; i < 2; i++) {
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			setenv("PATH", "/usr/sbin:/sbin:/usr/bin:/bin", 1);
			setenv("MKE2FS_CONFIG", "/dev/null", 1);
			setenv("E2FSPROGS_FAKE_TIME", "1000000000", 1);
			execvp(runs[i][0], (char *const *)(uintptr_t)runs[i]);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0 || status)
			abort();
		if (i)
			continue;
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, base, DISK) != (ssize_t)DISK)
			abort();
		close(fd);
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const uint8_t zero[PIECE];

	make_base();
	for (uint32_t at = 0; at < DISK; at += PIECE)
		if (memcmp(base + at, zero, PIECE) != 0)
			pieces[n_pieces++] = at;
	disk_fd = memfd_create("disk", MFD_CLOEXEC);
	null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (disk_fd < 0 || null_fd < 0)
		abort();
	return 0;
}

static void change(struct input *in)
{
	size_t at = pieces[in_u16(in) % n_pieces] + in_u8(in) % PIECE, n = (in_u8(in) & 15u) + 1u;

	if (n > DISK - at)
		n = DISK - at;
	in_bytes(in, disk + at, n);
}

static int64_t cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return ts.tv_sec;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { .p = data, .n = size };
	struct wslx_export_params p = { .disk_fd = disk_fd, .out_fd = null_fd };
	struct wslx_export_result res = { 0 };
	struct wslx_err err = { 0 };
	int64_t start = cpu_seconds();
	int r;

	memcpy(disk, base, DISK);
	for (int i = 0; in.n && i < CHANGES_MAX; i++)
		change(&in);
	if (pwrite(disk_fd, disk, DISK, 0) != (ssize_t)DISK)
		abort();
	r = wslx_export(&p, &res, &err);
	if (cpu_seconds() - start > SECONDS_MAX)
		abort();
	/* An untouched disk is a good one. */
	if ((r < 0 && (!size || !err.msg[0])) || res.data_bytes > DISK || (!size && res.entries < 20))
		abort();
	return 0;
}
