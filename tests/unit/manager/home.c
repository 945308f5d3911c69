#include "home.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"

int home_setup(void **state)
{
	struct home *h = calloc(1, sizeof(*h));

	strcpy(h->dir, "/tmp/wslx-home-XXXXXX");
	if (!mkdtemp(h->dir))
		return -1;
	setenv("WSLX_HOME", h->dir, 1);
	*state = h;
	return wslx_manager_open(&h->m, NULL);
}

int home_teardown(void **state)
{
	struct home *h = *state;

	wslx_manager_free(h->m);
	wslx_remove_tree(AT_FDCWD, h->dir);
	free(h);
	return 0;
}

void home_reopen(struct home *h)
{
	wslx_manager_free(h->m);
	assert_int_equal(wslx_manager_open(&h->m, NULL), 0);
}

void home_add_distro(struct home *h, const char *name)
{
	struct wslx_distro *d = calloc(1, sizeof(*d));
	cleanup_free char *text = NULL;
	cleanup_close int disk = -1;
	struct wslx_builder b;

	assert_int_equal(wslx_builder_begin(h->m, WSLX_STORE_DISTROS, name, &b, NULL), 0);
	disk = openat(b.dir_fd, WSLX_DISK_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(disk >= 0);
	assert_int_equal(ftruncate(disk, 1 << 20), 0);
	strcpy(d->name, name);
	assert_int_equal(wslx_id_new(d->id), 0);
	d->disk_size = 1 << 20;
	d->default_uid = -1;
	d->settings = wslx_settings_default;
	d->settings.net.mode = WSLX_NET_NONE;
	d->settings.memory = 64 * WSLX_MIB;
	d->settings.cpus = 1;
	d->settings.engine = WSLX_ENGINE_TCG;
	text = wslx_distro_encode(d);
	assert_int_equal(wslx_builder_commit(&b, WSLX_DISTRO_JSON, text, NULL), 0);
	wslx_builder_end(&b);
	free(d);
}

size_t home_count(struct home *h, enum wslx_store store)
{
	DIR *dir = fdopendir(openat(h->m->store_fd[store], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	const struct dirent *d;
	size_t n = 0;

	while ((d = readdir(dir)))
		n += strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
	closedir(dir);
	return n;
}
