/* The initramfs and the module folder behind it, read back with libarchive. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <lzma.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "boot/initramfs.h"
#include "boot/modules.h"

#define VERSION "6.1.0-test"

struct world {
	char root[32];
	char *dir; /* root/VERSION */
	char *agent;
};

static const char dep[] = "kernel/v/virtio.ko:\n"
			  "kernel/v/virtio_ring.ko.gz: kernel/v/virtio.ko\n"
			  "kernel/v/virtio_pci.ko: kernel/v/virtio_ring.ko.gz kernel/v/virtio.ko\n"
			  "kernel/b/virtio_blk.ko.xz: kernel/v/virtio_ring.ko.gz kernel/v/virtio.ko\n"
			  "kernel/n/virtio_net.ko.zst: kernel/v/virtio_ring.ko.gz kernel/v/virtio.ko\n"
			  "kernel/s/vsock.ko:\n"
			  "kernel/s/vmw_vsock_virtio_transport.ko: kernel/s/vsock.ko kernel/v/virtio.ko\n"
			  "kernel/c/crc32c-intel.ko:\n"
			  "kernel/c/helper.ko:\n"
			  "kernel/r/virtio-rng.ko: kernel/v/virtio.ko\n"
			  "kernel/x/unrelated.ko:\n";
static const char builtin[] = "kernel/fs/ext4/ext4.ko\nkernel/net/packet/af_packet.ko\n";
static const char softdep[] =
	"# comment\nsoftdep virtio_rng pre: helper no-such-thing\nsoftdep helper post: virtio-rng\n";

static void put_file(const char *dir, const char *path, const void *p, size_t n)
{
	cleanup_free char *full = NULL;
	cleanup_close int fd = -1;

	assert_true(asprintf(&full, "%s/%s", dir, path) > 0);
	for (char *s = strchr(full + 1, '/'); s; s = strchr(s + 1, '/')) {
		*s = 0;
		mkdir(full, 0700);
		*s = '/';
	}
	fd = open(full, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, p, n), n);
}

static void put_text(struct world *w, const char *path, const char *text)
{
	put_file(w->dir, path, text, strlen(text));
}

/* A module's content names it; packed as its suffix says. */
static void put_module(struct world *w, const char *path)
{
	size_t n = strlen(path), k = n;
	uint8_t out[1024];

	if (!strcmp(path + n - 3, ".gz")) {
		z_stream z = { .next_in = (Bytef *)(uintptr_t)path,
			       .avail_in = (uInt)n,
			       .next_out = out,
			       .avail_out = sizeof(out) };

		assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
		assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
		k = z.total_out;
		deflateEnd(&z);
	} else if (!strcmp(path + n - 3, ".xz")) {
		k = 0;
		assert_int_equal(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, NULL, (const uint8_t *)path, n, out, &k,
							 sizeof(out)),
				 LZMA_OK);
	} else if (!strcmp(path + n - 4, ".zst")) {
		k = ZSTD_compress(out, sizeof(out), path, n, 3);
	} else {
		memcpy(out, path, n);
	}
	put_file(w->dir, path, out, k);
}

static int setup(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	const char *line = dep;

	strcpy(w->root, "/tmp/wslx-initramfs-XXXXXX");
	assert_non_null(mkdtemp(w->root));
	assert_true(asprintf(&w->dir, "%s/%s", w->root, VERSION) > 0);
	assert_true(asprintf(&w->agent, "%s/agent", w->root) > 0);
	put_file(w->root, "agent", "\177ELFagent", 9);
	put_text(w, "modules.dep", dep);
	put_text(w, "modules.builtin", builtin);
	put_text(w, "modules.softdep", softdep);
	while (*line) {
		cleanup_free char *path = strndup(line, strcspn(line, ":"));

		put_module(w, path);
		line = strchr(line, '\n') + 1;
	}
	*state = w;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int teardown(void **state)
{
	struct world *w = *state;

	nftw(w->root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(w->dir);
	free(w->agent);
	test_free(w);
	return 0;
}

static int build(struct world *w, struct wslx_err *err)
{
	const struct wslx_initramfs_params p = { w->dir, w->agent, VERSION };
	int fd = memfd_create("initramfs", MFD_CLOEXEC), r;

	memset(err, 0, sizeof(*err));
	r = wslx_initramfs_build(&p, fd, err);
	assert_int_equal(err->code, -r);
	if (r < 0) {
		close(fd);
		return r;
	}
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

/* Content of an entry ("" for none), whose mode must be as given. */
static char *entry(int fd, const char *path, mode_t mode)
{
	struct archive *a = archive_read_new();
	struct archive_entry *e;
	char *text = NULL;

	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	archive_read_support_format_cpio(a);
	assert_int_equal(archive_read_open_fd(a, fd, 4096), ARCHIVE_OK);
	while (archive_read_next_header(a, &e) == ARCHIVE_OK) {
		size_t n = (size_t)archive_entry_size(e);

		if (strcmp(archive_entry_pathname(e), path))
			continue;
		assert_null(text);
		assert_int_equal(archive_entry_mode(e), mode);
		assert_int_equal(archive_entry_mtime(e), 0);
		assert_int_equal(archive_entry_uid(e), 0);
		text = calloc(1, n + 1);
		if (S_ISLNK(mode)) {
			free(text);
			text = strdup(archive_entry_symlink(e));
		} else if (S_ISREG(mode)) {
			assert_int_equal(archive_read_data(a, text, n), n);
		} else if (S_ISCHR(mode)) {
			free(text);
			assert_true(asprintf(&text, "%u:%u", (unsigned)archive_entry_rdevmajor(e),
					     (unsigned)archive_entry_rdevminor(e)) > 0);
		}
	}
	archive_read_free(a);
	return text;
}

static void entry_is(int fd, const char *path, mode_t mode, const char *want)
{
	cleanup_free char *got = entry(fd, path, mode);

	if (!got)
		fail_msg("no %s", path);
	assert_string_equal(got, want);
}

#define IN "/lib/modules/" VERSION "/kernel/"

static void test_content(void **state)
{
	struct wslx_err err;
	int fd = build(*state, &err);

	assert_true(fd >= 0);
	entry_is(fd, "init", S_IFREG | 0755, "\177ELFagent");
	entry_is(fd, "sbin/modprobe", S_IFLNK | 0777, "/init");
	entry_is(fd, "dev/console", S_IFCHR | 0600, "5:1");
	entry_is(fd, "proc", S_IFDIR | 0555, "");
	entry_is(fd, "tmp", S_IFDIR | 01777, "");
	entry_is(fd, "lib/modules/" VERSION "/kernel/v", S_IFDIR | 0755, "");
	/* Unpacked, under the plain name. */
	entry_is(fd, "lib/modules/" VERSION "/kernel/v/virtio_ring.ko", S_IFREG | 0644, "kernel/v/virtio_ring.ko.gz");
	entry_is(fd, "lib/modules/" VERSION "/kernel/b/virtio_blk.ko", S_IFREG | 0644, "kernel/b/virtio_blk.ko.xz");
	entry_is(fd, "lib/modules/" VERSION "/kernel/n/virtio_net.ko", S_IFREG | 0644, "kernel/n/virtio_net.ko.zst");
	/* Dependencies first, soft ones too; neither what is built in nor what nobody asked for. */
	entry_is(fd, "modules.load", S_IFREG | 0644,
		 IN "v/virtio.ko\n" IN "v/virtio_ring.ko\n" IN "v/virtio_pci.ko\n" IN "s/vsock.ko\n" IN
		    "s/vmw_vsock_virtio_transport.ko\n" IN "b/virtio_blk.ko\n" IN "c/crc32c-intel.ko\n" IN
		    "n/virtio_net.ko\n" IN "c/helper.ko\n" IN "r/virtio-rng.ko\n");
	assert_null(entry(fd, "lib/modules/" VERSION "/kernel/x/unrelated.ko", 0));
	close(fd);
}

static void test_reproducible(void **state)
{
	struct wslx_err err;
	int a = build(*state, &err), b = build(*state, &err);
	struct stat st;
	void *p, *q;

	assert_int_equal(fstat(a, &st), 0);
	assert_int_equal(st.st_size % 4, 0);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, a, 0);
	q = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, b, 0);
	assert_memory_equal(p, q, (size_t)st.st_size);
	munmap(p, (size_t)st.st_size);
	munmap(q, (size_t)st.st_size);
	close(a);
	close(b);
}

static void fails(struct world *w, int code, const char *words)
{
	struct wslx_err err;

	assert_int_equal(build(w, &err), -code);
	if (!strstr(err.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
}

static void test_missing_driver(void **state)
{
	struct world *w = *state;

	put_text(w, "modules.builtin", "kernel/net/packet/af_packet.ko\n");
	fails(w, ENOENT, "kernel 6.1.0-test has no ext4 driver: neither built in nor in ");
	put_text(w, "modules.builtin", builtin);
	put_text(w, "modules.dep", "kernel/v/virtio_pci.ko:\n");
	fails(w, ENOENT, "has no vmw_vsock_virtio_transport driver");
}

static void test_bad_folder(void **state)
{
	struct world *w = *state;
	const struct wslx_initramfs_params other = { w->dir, w->agent, "5.0" };
	const struct wslx_initramfs_params none = { "/nonexistent/6.1", w->agent, NULL };
	struct wslx_err err;

	assert_int_equal(wslx_initramfs_build(&other, -1, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "the kernel is 5.0"));
	assert_int_equal(wslx_initramfs_build(&none, -1, &err), -ENOENT);
	put_text(w, "kernel/v/virtio_ring.ko.gz", "not gzip at all");
	fails(w, EBADMSG, "does not unpack");
	put_text(w, "kernel/v/virtio_ring.ko.gz", "");
	fails(w, EFBIG, "virtio_ring.ko.gz");
	put_file(w->root, "agent", "#!/bin/sh", 9);
	fails(w, ENOEXEC, "not an executable");
}

static void test_no_depmod(void **state)
{
	struct world *w = *state;
	cleanup_free char *path = NULL;

	assert_true(asprintf(&path, "%s/modules.dep", w->dir) > 0);
	unlink(path);
	fails(w, ENOENT, "run `depmod`");
}

/* Index files that point elsewhere. */
static void test_traversal(void **state)
{
	static const char *const bad[] = {
		"../../etc/passwd.ko:\n",
		"/etc/shadow.ko:\n",
		"kernel/../../x.ko:\n",
		"kernel//x.ko:\n",
		"./x.ko:\n",
		"kernel/x:\n",
		":\n",
		"kernel/x.ko.bz2:\n",
		"kernel/a b.ko:\n",
		"kernel/x.ko/..:\n",
	};
	struct world *w = *state;
	struct wslx_modules *m;
	struct wslx_err err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		put_text(w, "modules.dep", bad[i]);
		assert_int_equal(wslx_modules_open(w->dir, &m, &err), -EINVAL);
	}
	put_text(w, "modules.dep", "no colon here\n");
	fails(w, EINVAL, "without a colon");
	put_text(w, "modules.dep", "kernel/v/virtio_pci.ko: ../../../etc/passwd\n");
	fails(w, EINVAL, "which it does not list");
	put_text(w, "modules.dep", dep);
	put_text(w, "modules.builtin", "../x.ko\n");
	fails(w, EINVAL, "modules.builtin");
}

/* Lines of another file would show in messages and in the initramfs. */
static void test_symlinked_index(void **state)
{
	static const char *const names[] = { "modules.dep", "modules.builtin", "modules.softdep" };
	struct world *w = *state;

	put_file(w->root, "elsewhere", "", 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		cleanup_free char *path = NULL;
		struct wslx_modules *m;
		struct wslx_err err;

		assert_true(asprintf(&path, "%s/%s", w->dir, names[i]) > 0);
		assert_int_equal(unlink(path), 0);
		assert_int_equal(symlink("../elsewhere", path), 0);
		assert_int_equal(wslx_modules_open(w->dir, &m, &err), -ELOOP);
		assert_non_null(strstr(err.msg, names[i]));
		assert_int_equal(unlink(path), 0);
		put_text(w, names[i], "");
	}
}

static void test_symlink_out(void **state)
{
	struct world *w = *state;
	cleanup_free char *path = NULL;

	assert_true(asprintf(&path, "%s/kernel/v/virtio.ko", w->dir) > 0);
	unlink(path);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	fails(w, EXDEV, "virtio.ko");
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	fails(w, EINVAL, "virtio.ko");
}

static void test_circle(void **state)
{
	struct world *w = *state;
	struct wslx_modules *m;
	struct wslx_err err;

	put_text(w, "modules.dep", "a.ko: b.ko\nb.ko: c.ko\nc.ko: a.ko\n");
	assert_int_equal(wslx_modules_open(w->dir, &m, &err), 0);
	assert_int_equal(wslx_modules_want(m, "a", &err), 0);
	assert_int_equal(wslx_modules_n_wanted(m), 3);
	assert_string_equal(wslx_modules_wanted(m, 0), "c.ko");
	assert_string_equal(wslx_modules_wanted(m, 2), "a.ko");
	assert_null(wslx_modules_wanted(m, 3));
	wslx_modules_free(m);
}

static void test_deep(void **state)
{
	cleanup_free char *text = calloc(1, 4096);
	struct world *w = *state;
	struct wslx_modules *m;
	struct wslx_err err;
	size_t n = 0;

	for (unsigned i = 0; i < 100; i++)
		n += (size_t)snprintf(text + n, 4096 - n, "m%u.ko: m%u.ko\n", i, i + 1);
	snprintf(text + n, 4096 - n, "m100.ko:\n");
	put_text(w, "modules.dep", text);
	assert_int_equal(wslx_modules_open(w->dir, &m, &err), 0);
	assert_int_equal(wslx_modules_want(m, "m90", &err), 0);
	assert_int_equal(wslx_modules_want(m, "m0", &err), -ELOOP);
	wslx_modules_free(m);
}

static void test_names(void **state)
{
	struct world *w = *state;
	struct wslx_modules *m;
	struct wslx_err err;

	assert_int_equal(wslx_modules_open(w->dir, &m, &err), 0);
	assert_string_equal(wslx_modules_version(m), VERSION);
	assert_int_equal(wslx_modules_find(m, "virtio-blk"), WSLX_MODULE_LOADABLE);
	assert_int_equal(wslx_modules_find(m, "virtio_rng"), WSLX_MODULE_LOADABLE);
	assert_int_equal(wslx_modules_find(m, "ext4"), WSLX_MODULE_BUILTIN);
	assert_int_equal(wslx_modules_find(m, "virtio_"), WSLX_MODULE_ABSENT);
	assert_int_equal(wslx_modules_find(m, ""), WSLX_MODULE_ABSENT);
	assert_int_equal(wslx_modules_want(m, "ext4", &err), 0);
	assert_int_equal(wslx_modules_n_wanted(m), 0);
	wslx_modules_free(m);
}

static void test_without_modules(void **state)
{
	struct world *w = *state;
	const struct wslx_initramfs_params p = { NULL, w->agent, NULL };
	int fd = memfd_create("initramfs", MFD_CLOEXEC);
	struct wslx_err err;

	assert_int_equal(wslx_initramfs_build(&p, fd, &err), 0);
	entry_is(fd, "modules.load", S_IFREG | 0644, "");
	close(fd);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_content),   TEST(test_reproducible), TEST(test_missing_driver), TEST(test_bad_folder),
		TEST(test_no_depmod), TEST(test_traversal),    TEST(test_symlink_out),    TEST(test_symlinked_index),
		TEST(test_circle),    TEST(test_deep),         TEST(test_names),          TEST(test_without_modules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
