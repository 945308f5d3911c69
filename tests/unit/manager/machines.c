#include "machines.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "manager/kernels.h"

/* A kernel that is whole as far as the manager looks. */
static void add_kernel(struct home *h)
{
	struct wslx_kernel_info info = { .version = "6.1", .source = "none", .has_vmlinux = true };
	cleanup_free char *text = NULL, *agent = wslx_path("%s/libexec/wslx-agent", h->dir);
	struct wslx_builder b;
	struct stat st;

	assert_int_equal(stat(agent, &st), 0);
	info.agent_size = (uint64_t)st.st_size;
	info.agent_mtime_ns = st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	strcpy(info.agent_hash, "00");
	text = wslx_kernel_encode(&info);
	assert_int_equal(wslx_builder_begin(h->m, WSLX_STORE_KERNELS, "k", &b, NULL), 0);
	close(openat(b.dir_fd, WSLX_KERNEL_VMLINUX, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	close(openat(b.dir_fd, WSLX_KERNEL_INITRAMFS, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(wslx_builder_commit(&b, WSLX_KERNEL_JSON, text, NULL), 0);
	wslx_builder_end(&b);
}

int machines_setup(void **state)
{
	cleanup_free char *libexec = NULL, *vmm = NULL, *agent = NULL, *qemu = NULL, *count = NULL;
	struct home *h;

	if (home_setup(state) < 0)
		return -1;
	h = *state;
	libexec = wslx_path("%s/libexec", h->dir);
	vmm = wslx_path("%s/wslx-vmm", libexec);
	agent = wslx_path("%s/wslx-agent", libexec);
	qemu = wslx_path("%s/qemu-system-x86_64", libexec);
	count = wslx_path("%s/count", h->dir);
	if (mkdir(libexec, 0700) < 0 || symlink(getenv("FAKE_VMM_PATH"), vmm) < 0)
		return -1;
	/* Any executable will do for these two: they are only looked at. */
	close(open(agent, O_CREAT | O_WRONLY | O_CLOEXEC, 0700));
	close(open(qemu, O_CREAT | O_WRONLY | O_CLOEXEC, 0700));
	setenv("WSLX_LIBEXEC", libexec, 1);
	setenv("PATH", libexec, 1);
	setenv("FAKE_VMM_COUNT", count, 1);
	unsetenv("FAKE_VMM");
	add_kernel(h);
	home_add_distro(h, "one");
	return 0;
}

int machines_teardown(void **state)
{
	struct home *h = *state;
	int r = wslx_machine_stop(h->m, "one", true, NULL);

	(void)r;
	return home_teardown(state);
}

size_t starts(struct home *h)
{
	cleanup_free char *path = wslx_path("%s/count", h->dir);
	struct stat st;

	return stat(path, &st) == 0 ? (size_t)st.st_size : 0;
}

int start(struct home *h, const struct wslx_start_hooks *hooks, struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	int r = wslx_distro_find(h->m, "one", d, err);

	if (r == 0)
		r = wslx_machine_start(h->m, d, hooks, err);
	free(d);
	return r;
}
