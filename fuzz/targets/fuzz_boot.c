/*
 * Kernel files: loading ELF and bzImage into guest memory, unpacking, finding
 * the version.  The first byte chooses which, and whether there is an
 * initramfs; the rest is the file.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/boot.h"
#include "boot/unpack.h"

#define MEM (48 * WSLX_MIB)

static int kernel_fd = -1, out_fd, initramfs_fd;

static void set_up(void)
{
	kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	out_fd = memfd_create("out", MFD_CLOEXEC);
	initramfs_fd = memfd_create("initramfs", MFD_CLOEXEC);
	if (kernel_fd < 0 || out_fd < 0 || initramfs_fd < 0 || write(initramfs_fd, "initramfs", 9) != 9)
		abort();
}

static void load(int fd, uint8_t how)
{
	const struct wslx_boot_params p = {
		.kernel_fd = fd,
		.initramfs_fd = how & 4 ? initramfs_fd : -1,
		.cmdline = how & 8 ? "quiet nokaslr" : "quiet",
		.cpus = 1 + (how >> 4),
	};
	struct wslx_vcpu_start start;
	struct wslx_err err = { 0 };
	struct wslx_gm *gm;
	void *mem;
	int r;

	if (wslx_gm_new(WSLX_GM_PRIVATE, MEM, &gm) < 0)
		abort();
	r = wslx_boot_load(gm, &p, &start, &err);
	if (r < 0 ? err.code != -r || !err.msg[0] : err.code)
		abort(); /* an error has a message, a success has none */
	if (r == 0 && (start.rip < 0x100000 || wslx_gm_slice(gm, wslx_gpa(start.rip), 1, &mem) < 0))
		abort(); /* the entry lies where the kernel was put */
	wslx_gm_free(gm);
}

static void unpack(void)
{
	struct wslx_err err = { 0 };
	int r;

	if (ftruncate(out_fd, 0) < 0)
		abort();
	r = wslx_kernel_unpack(kernel_fd, out_fd, &err);
	if (r < 0 ? err.code != -r || !err.msg[0] : err.code)
		abort();
	if (lseek(out_fd, 0, SEEK_END) > (off_t)WSLX_KERNEL_MAX)
		abort();
	if (r == 0)
		load(out_fd, 0);
}

static void version(void)
{
	char buf[64];

	if (wslx_kernel_version(kernel_fd, buf, sizeof(buf)) == 0 && (strlen(buf) >= sizeof(buf) || strchr(buf, '/')))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (kernel_fd < 0)
		set_up();
	if (!n)
		return 0;
	if (ftruncate(kernel_fd, 0) < 0 || pwrite(kernel_fd, data + 1, n - 1, 0) != (ssize_t)(n - 1))
		abort();
	switch (data[0] & 3) {
	case 0:
	case 1:
		load(kernel_fd, data[0]);
		break;
	case 2:
		unpack();
		break;
	default:
		version();
	}
	return 0;
}
