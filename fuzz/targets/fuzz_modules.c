/*
 * A module folder from elsewhere: modules.dep, modules.builtin, modules.softdep
 * and one module's file, the parts of the input between bytes of 0xff.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/modules.h"

static const char *const files[] = { "modules.dep", "modules.builtin", "modules.softdep", "a.ko.xz" };
static char dir[] = "/dev/shm/wslx-fuzz-XXXXXX";
static int dirfd = -1;

static void clean_up(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		unlinkat(dirfd, files[i], 0);
	rmdir(dir);
}

static void set_up(void)
{
	if (!mkdtemp(dir))
		abort();
	dirfd = open(dir, O_RDONLY | O_DIRECTORY);
	if (dirfd < 0)
		abort();
	atexit(clean_up);
}

static void put(const char *name, const uint8_t *p, size_t n)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, p, n) != (ssize_t)n)
		abort();
	close(fd);
}

static void use(struct wslx_modules *m)
{
	static const char *const names[] = { "a", "virtio-pci", "b_c" };
	struct wslx_err err = { 0 };
	uint8_t *data;
	size_t len;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		enum wslx_module_state s = wslx_modules_find(m, names[i]);
		int r = wslx_modules_want(m, names[i], &err);

		if (s == WSLX_MODULE_ABSENT && r == 0)
			abort();
	}
	for (size_t i = 0; i < wslx_modules_n_wanted(m); i++) {
		const char *path = wslx_modules_wanted(m, i);

		/* Whatever the folder says, no path leads out of it. */
		if (path[0] == '/' || !strncmp(path, "../", 3) || strstr(path, "/../"))
			abort();
		if (wslx_modules_read(m, path, &data, &len, &err) == 0)
			free(data);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct wslx_modules *m;
	struct wslx_err err;

	if (dirfd < 0)
		set_up();
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		const uint8_t *end = i + 1 < ARRAY_SIZE(files) ? memchr(data, 0xff, n) : NULL;
		size_t k = end ? (size_t)(end - data) : n;

		put(files[i], data, k);
		data += k + (end != NULL);
		n -= k + (end != NULL);
	}
	if (wslx_modules_open(dir, &m, &err) == 0) {
		use(m);
		wslx_modules_free(m);
	}
	return 0;
}
