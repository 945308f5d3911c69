/* The kernel store: bare kernels, packages, module folders, a new agent. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../boot/kernels.h"
#include "base/cleanup.h"
#include "boot/unpack.h"
#include "image/kernel.h"

#define VERSION "6.6.6-test+1" /* what kernel_make's banner says */

struct world {
	char root[64];
	char store[96], agent[96], kernel[96], modules[128];
	int dir_fd;
	struct wslx_kernel_params p;
};

static void put(const char *path, const void *p, size_t n)
{
	char full[256];

	snprintf(full, sizeof(full), "%s", path);
	for (char *s = strchr(full + 1, '/'); s; s = strchr(s + 1, '/')) {
		*s = 0;
		mkdir(full, 0700);
		*s = '/';
	}
	int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, p, n), n);
	close(fd);
}

static void put_text(const char *dir, const char *name, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	put(path, text, strlen(text));
}

/* Everything the initramfs asks for is built in, but for two modules. */
static const char builtin[] =
	"kernel/virtio_pci.ko\nkernel/vmw_vsock_virtio_transport.ko\nkernel/virtio_net.ko\nkernel/overlay.ko\n"
	"kernel/ext4.ko\nkernel/crc32c_generic.ko\nkernel/crc32c-intel.ko\nkernel/virtio_console.ko\n"
	"kernel/virtio-rng.ko\nkernel/af_packet.ko\nkernel/virtio_balloon.ko\nkernel/fuse.ko\nkernel/virtiofs.ko\n";
static const char dep[] = "kernel/b/virtio_blk.ko: kernel/v/virtio.ko\nkernel/v/virtio.ko:\nkernel/x/other.ko:\n";

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct kernel_elf k;

	assert_non_null(w);
	strcpy(w->root, "/tmp/wslx-kernel-XXXXXX");
	assert_non_null(mkdtemp(w->root));
	snprintf(w->store, sizeof(w->store), "%s/store", w->root);
	snprintf(w->agent, sizeof(w->agent), "%s/agent", w->root);
	snprintf(w->kernel, sizeof(w->kernel), "%s/vmlinux-test", w->root);
	snprintf(w->modules, sizeof(w->modules), "%s/lib/modules/" VERSION, w->root);
	mkdir(w->store, 0700);
	w->dir_fd = open(w->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(w->dir_fd >= 0);
	kernel_make(&k, 1);
	put(w->kernel, k.b, sizeof(k.b));
	put_text(w->root, "agent", "\177ELF first agent");
	put_text(w->modules, "modules.builtin", builtin);
	put_text(w->modules, "modules.dep", dep);
	put_text(w->modules, "modules.softdep", "");
	put_text(w->modules, "kernel/b/virtio_blk.ko", "block driver");
	put_text(w->modules, "kernel/v/virtio.ko", "virtio driver");
	put_text(w->modules, "kernel/x/other.ko", "some other driver");
	assert_int_equal(symlink("/etc", w->root), -1);
	w->p = (struct wslx_kernel_params) { .dir_fd = w->dir_fd, .file = w->kernel, .agent_path = w->agent };
	*state = w;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int tear_down(void **state)
{
	struct world *w = *state;

	close(w->dir_fd);
	nftw(w->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(w);
	return 0;
}

static bool has(struct world *w, const char *name)
{
	return faccessat(w->dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Does a file of the store contain this text? */
static bool contains(struct world *w, const char *name, const char *text)
{
	int fd = openat(w->dir_fd, name, O_RDONLY | O_CLOEXEC);
	off_t n = lseek(fd, 0, SEEK_END);
	char *p = malloc((size_t)n);

	assert_true(fd >= 0 && p);
	assert_int_equal(pread(fd, p, (size_t)n, 0), n);
	close(fd);
	bool found = memmem(p, (size_t)n, text, strlen(text)) != NULL;

	free(p);
	return found;
}

static void test_bare_kernel(void **state)
{
	struct world *w = *state;
	struct wslx_kernel_info info;
	struct wslx_err err = { 0 };

	if (wslx_kernel_add(&w->p, &info, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(info.version, VERSION);
	assert_string_equal(info.source, "vmlinux-test");
	assert_true(info.has_vmlinux && !info.has_bzimage && !info.has_modules);
	assert_true(has(w, "vmlinux") && has(w, "initramfs.cpio"));
	assert_false(has(w, "bzImage") || has(w, "modules.img") || has(w, ".staging"));
	assert_true(contains(w, "initramfs.cpio", "first agent"));
}

static void test_modules(void **state)
{
	struct world *w = *state;
	struct wslx_kernel_info info;
	struct wslx_err err = { 0 };
	struct image im = { 0 };

	put_text(w->modules, "../../../secret", "not for the guest");
	char link[256];

	snprintf(link, sizeof(link), "%s/build", w->modules);
	assert_int_equal(symlink("../../../secret", link), 0);
	w->p.modules_dir = w->modules;
	if (wslx_kernel_add(&w->p, &info, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(info.has_modules);
	assert_true(contains(w, "initramfs.cpio", "block driver"));
	assert_false(contains(w, "initramfs.cpio", "some other driver"));
	im.fd = openat(w->dir_fd, "modules.img", O_RDONLY | O_CLOEXEC);
	snprintf(im.path, sizeof(im.path), "/proc/self/fd/%d", im.fd);
	image_check(&im);
	image_assert_text(&im, "/kernel/x/other.ko", "some other driver");
	image_assert_text(&im, "/modules.builtin", builtin);
	assert_int_equal(image_find(&im, "/build"), 0);
	assert_int_equal(image_find(&im, "/lost+found"), 0);
	image_free(&im);
}

/* ar, with this tar (closed) as the package's content. */
static void write_deb(const char *path, int tar_fd)
{
	size_t n = (size_t)lseek(tar_fd, 0, SEEK_END);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	char *data = malloc(n), header[61];

	assert_int_equal(pread(tar_fd, data, n, 0), n);
	close(tar_fd);
	assert_int_equal(write(fd, "!<arch>\n", 8), 8);
	snprintf(header, sizeof(header), "%-16s%-12d%-6d%-6d%-8s%-10d`\n", "debian-binary", 0, 0, 0, "100644", 4);
	assert_int_equal(write(fd, header, 60), 60);
	assert_int_equal(write(fd, "2.0\n", 4), 4);
	snprintf(header, sizeof(header), "%-16s%-12d%-6d%-6d%-8s%-10d`\n", "control.tar.xz", 0, 0, 0, "100644", 3);
	assert_int_equal(write(fd, header, 60), 60);
	assert_int_equal(write(fd, "abc\n", 4), 4);
	snprintf(header, sizeof(header), "%-16s%-12d%-6d%-6d%-8s%-10zu`\n", "data.tar.xz", 0, 0, 0, "100644", n);
	assert_int_equal(write(fd, header, 60), 60);
	assert_int_equal(write(fd, data, n), n);
	assert_int_equal(write(fd, "\n", n & 1), n & 1);
	close(fd);
	free(data);
}

/* What a Debian kernel package holds. */
static void make_deb(struct world *w, const char *path, bool with_kernel)
{
	struct kernel_elf k;
	struct tar t;

	kernel_make(&k, 1);
	tar_begin(&t, "gnutar", "xz");
	tar_dir(&t, "./", 0755);
	if (with_kernel) {
		tar_entry(&t, "./boot/vmlinuz-" VERSION, S_IFREG | 0644);
		tar_put(&t, k.b, sizeof(k.b));
	}
	tar_file(&t, "./lib/modules/" VERSION "/modules.builtin", 0644, builtin);
	tar_file(&t, "./lib/modules/" VERSION "/modules.dep", 0644, dep);
	tar_file(&t, "./lib/modules/" VERSION "/modules.softdep", 0644, "");
	tar_file(&t, "./lib/modules/" VERSION "/kernel/b/virtio_blk.ko", 0644, "block driver");
	tar_file(&t, "./lib/modules/" VERSION "/kernel/v/virtio.ko", 0644, "virtio driver");
	tar_file(&t, "./lib/modules/" VERSION "/kernel/x/other.ko", 0644, "some other driver");
	tar_symlink(&t, "./lib/modules/" VERSION "/build", "/usr/src/linux");
	tar_file(&t, "./usr/share/doc/x", 0644, "text");
	write_deb(path, tar_end(&t));
}

/* The release in a package's, a folder's or kernel.json's words: only what can be one. */
static void test_hostile_release(void **state)
{
	static const char *const bad[] = {
		"6\x1b]0;pwn\a", "-o.", "6.1 x", "..", ".6", "v6.1", "6.1\xc2\x9bK", "6.1\n", "6.1%s", "6/1", "6.1:x",
	};
	struct world *w = *state;
	struct wslx_err err = { 0 };
	struct wslx_kernel_info info = { .version = "6.1", .source = "s", .has_bzimage = true };
	struct kernel_elf k;
	char path[160];
	struct tar t;

	kernel_make(&k, 1);
	put_text(w->root, "m/x", "");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct wslx_kernel_info got;

		assert_false(wslx_kernel_version_ok(bad[i]));
		tar_begin(&t, "gnutar", "gzip");
		snprintf(path, sizeof(path), "./boot/vmlinuz-%s", bad[i]);
		tar_entry(&t, path, S_IFREG | 0644);
		tar_put(&t, k.b, sizeof(k.b));
		snprintf(path, sizeof(path), "%s/x.deb", w->root);
		write_deb(path, tar_end(&t));
		w->p.file = path;
		assert_int_equal(wslx_kernel_add(&w->p, &got, &err), -EINVAL);
		assert_non_null(strstr(err.msg, "not a kernel package: it has 'boot/vmlinuz-"));

		strcpy(info.version, bad[i]);
		json_t *j = wslx_kernel_info_to_json(&info);

		assert_non_null(j);
		assert_int_equal(wslx_kernel_info_from_json(j, &got, &err), -EINVAL);
		json_decref(j);
		if (strchr(bad[i], '/') || strcmp(bad[i], "..") == 0)
			continue;
		snprintf(path, sizeof(path), "%s/m/%s", w->root, bad[i]);
		mkdir(path, 0700);
		w->p.file = w->kernel;
		w->p.modules_dir = path;
		assert_int_equal(wslx_kernel_add(&w->p, &got, &err), -EINVAL);
		assert_non_null(strstr(err.msg, "is no module folder"));
		w->p.modules_dir = NULL;
	}
	assert_false(wslx_kernel_version_ok(""));
	assert_true(wslx_kernel_version_ok("6.1.0-56-cloud-amd64") && wslx_kernel_version_ok(VERSION "_a~b"));
}

/* A sparse map that libarchive would keep in memory; see test_hostile.c. */
static void test_hostile_header(void **state)
{
	static const char keys[] = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=etc/x\n";
	size_t size = 24 << 20, n = 0;
	char *map = malloc(size + 128), path[128];
	struct world *w = *state;
	struct wslx_kernel_info info;
	struct wslx_err err = { 0 };
	struct raw r = { 0 };

	n = (size_t)sprintf(map, "100000\n");
	while (n < size)
		n += (size_t)sprintf(map + n, "#%090d\n", 0);
	raw_header(&r, "PaxHeader", 'x', sizeof(keys) - 1, NULL);
	raw_bytes(&r, keys, sizeof(keys) - 1);
	raw_header(&r, "etc/x", '0', (n + 511) & ~(size_t)511, NULL);
	raw_bytes(&r, map, n);
	raw_end(&r);
	free(map);
	snprintf(path, sizeof(path), "%s/x.deb", w->root);
	write_deb(path, raw_fd(&r));
	w->p.file = path;
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -E2BIG);
	assert_non_null(strstr(err.msg, "a file whose header is larger than 16 MiB"));

	/* An ACL that would keep libarchive busy for long. */
	map = malloc((size_t)1 << 20);
	n = (size_t)sprintf(map, "SCHILY.acl.access=user::rw-");
	for (unsigned i = 0; i < 54000; i++)
		n += (size_t)sprintf(map + n, ",user:%u:r--", i);
	raw_pax(&r, map);
	free(map);
	raw_header(&r, "boot/vmlinuz-6.1", '0', 0, NULL);
	raw_end(&r);
	write_deb(path, raw_fd(&r));
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -E2BIG);
	assert_non_null(strstr(err.msg, "a file of the package: its ACL has more than 256 entries"));

	/* What is left out may be of any size. */
	raw_header(&r, "usr/share/doc", '0', 24 << 20, NULL);
	map = calloc(1, size);
	raw_bytes(&r, map, size);
	raw_end(&r);
	free(map);
	write_deb(path, raw_fd(&r));
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "without a kernel"));
}

static void test_package(void **state)
{
	struct world *w = *state;
	struct wslx_kernel_info info;
	struct wslx_err err = { 0 };
	char deb[128];

	snprintf(deb, sizeof(deb), "%s/linux-image_1_amd64.deb", w->root);
	make_deb(w, deb, true);
	w->p.file = deb;
	if (wslx_kernel_add(&w->p, &info, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(info.version, VERSION);
	assert_true(info.has_vmlinux && info.has_modules);
	assert_true(contains(w, "initramfs.cpio", "block driver"));
	assert_true(contains(w, "modules.img", "some other driver"));
	assert_false(has(w, ".staging"));

	make_deb(w, deb, false);
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "without a kernel"));
	assert_int_equal(truncate(deb, 300), 0);
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -EBADMSG);
	assert_int_equal(truncate(deb, 100), 0);
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "damaged Debian package"));
	assert_false(has(w, ".staging"));
}

static void test_refresh(void **state)
{
	struct world *w = *state;
	struct wslx_kernel_info info, before;
	struct wslx_err err = { 0 };
	struct timespec times[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };
	bool changed;

	w->p.modules_dir = w->modules;
	if (wslx_kernel_add(&w->p, &info, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(wslx_kernel_refresh(w->dir_fd, w->agent, &info, &changed, &err), 0);
	assert_false(changed);

	/* Only its time is another: nothing is rebuilt. */
	before = info;
	assert_int_equal(utimensat(AT_FDCWD, w->agent, times, 0), 0);
	assert_int_equal(wslx_kernel_refresh(w->dir_fd, w->agent, &info, &changed, &err), 0);
	assert_true(changed);
	assert_string_equal(info.agent_hash, before.agent_hash);
	assert_true(contains(w, "initramfs.cpio", "first agent"));

	put_text(w->root, "agent", "\177ELF second agent");
	assert_int_equal(wslx_kernel_refresh(w->dir_fd, w->agent, &info, &changed, &err), 0);
	assert_true(changed);
	assert_true(contains(w, "initramfs.cpio", "second agent"));
	/* The modules came out of modules.img. */
	assert_true(contains(w, "initramfs.cpio", "block driver"));
	assert_false(has(w, ".staging") || has(w, ".initramfs.tmp"));
	assert_int_equal(wslx_kernel_refresh(w->dir_fd, w->agent, &info, &changed, &err), 0);
	assert_false(changed);

	unlinkat(w->dir_fd, "initramfs.cpio", 0);
	assert_int_equal(wslx_kernel_refresh(w->dir_fd, w->agent, &info, &changed, &err), 0);
	assert_true(changed && has(w, "initramfs.cpio"));
	assert_int_equal(wslx_kernel_refresh(w->dir_fd, "/no/such/agent", &info, &changed, &err), -ENOENT);
}

static void test_bad_files(void **state)
{
	struct world *w = *state;
	struct wslx_kernel_info info;
	struct wslx_err err = { 0 };
	char path[128], other[96];

	put_text(w->root, "junk", "not a kernel at all, but long enough to be looked at");
	snprintf(path, sizeof(path), "%s/junk", w->root);
	w->p.file = path;
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "not a kernel"));
	assert_non_null(strstr(err.msg, path));
	w->p.file = "/bin/ls";
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -EINVAL);
	assert_string_equal(err.msg, "/bin/ls: not a kernel: a program that runs under Linux");
	assert_false(has(w, "initramfs.cpio"));
	w->p.file = w->root;
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -EINVAL);
	w->p.file = "/no/such/file";
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -ENOENT);

	w->p.file = w->kernel;
	w->p.modules_dir = w->store;
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "is no module folder"));
	put_text(w->root, "6.1.0-other/modules.dep", "");
	snprintf(other, sizeof(other), "%s/6.1.0-other", w->root);
	w->p.modules_dir = other;
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "has modules for kernel 6.1.0-other"));
	w->p.modules_dir = "/no/such/folder";
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -ENOENT);

	/* A driver that is nowhere. */
	put_text(w->modules, "modules.builtin", "kernel/ext4.ko\n");
	w->p.modules_dir = w->modules;
	assert_int_equal(wslx_kernel_add(&w->p, &info, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "virtio"));
}

static void test_json(void **state)
{
	static const char *const bad[] = {
		"{}",
		"[]",
		"{\"format\": 2, \"version\": \"1\", \"source\": \"s\", \"bzImage\": true, \"vmlinux\": true, "
		"\"modules\": false, \"agent\": {\"size\": 1, \"mtime_ns\": 1, \"hash\": \"h\"}}",
		"{\"format\": 1, \"version\": \"../x\", \"source\": \"s\", \"bzImage\": true, \"vmlinux\": true, "
		"\"modules\": false, \"agent\": {\"size\": 1, \"mtime_ns\": 1, \"hash\": \"h\"}}",
		"{\"format\": 1, \"version\": \"1\", \"source\": \"s\", \"bzImage\": false, \"vmlinux\": false, "
		"\"modules\": false, \"agent\": {\"size\": 1, \"mtime_ns\": 1, \"hash\": \"h\"}}",
		"{\"format\": 1, \"version\": \"1\", \"source\": \"s\", \"bzImage\": true, \"vmlinux\": true, "
		"\"modules\": false, \"agent\": {\"size\": -1, \"mtime_ns\": 1, \"hash\": \"h\"}}",
	};
	struct wslx_kernel_info info = { .version = "6.1",
					 .source = "a.deb",
					 .has_bzimage = true,
					 .has_modules = true,
					 .agent_size = 77,
					 .agent_mtime_ns = 1ll << 60,
					 .agent_hash = "0123" };
	struct wslx_kernel_info got;
	struct wslx_err err = { 0 };
	json_t *j = wslx_kernel_info_to_json(&info);

	assert_int_equal(wslx_kernel_info_from_json(j, &got, &err), 0);
	assert_string_equal(got.version, "6.1");
	assert_string_equal(got.source, "a.deb");
	assert_string_equal(got.agent_hash, "0123");
	assert_true(got.has_bzimage && !got.has_vmlinux && got.has_modules);
	assert_true(got.agent_size == 77 && got.agent_mtime_ns == 1ll << 60);
	json_decref(j);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		j = json_loads(bad[i], 0, NULL);
		assert_non_null(j);
		assert_int_equal(wslx_kernel_info_from_json(j, &got, &err), -EINVAL);
		json_decref(j);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_bare_kernel, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_modules, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_package, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_hostile_release, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_hostile_header, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refresh, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_bad_files, set_up, tear_down),
		cmocka_unit_test(test_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
