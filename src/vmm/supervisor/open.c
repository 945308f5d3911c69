#include "vmm/supervisor/open.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "os/linux/fd.h"
#include "os/linux/holder.h"
#include "os/linux/startup.h"

void wslx_files_init(struct wslx_files *f)
{
	f->kvm_fd = f->kernel_fd = f->initramfs_fd = f->vsock_fd = f->net_listen_fd = f->tap_fd = -1;
	f->runtime_dirfd = -1;
	for (size_t i = 0; i < WSLX_MAX_DISKS; i++)
		f->disks[i].fd = f->disks[i].base_fd = -1;
	f->lock_wait = (struct wslx_lock_wait) { 0 };
}

char *wslx_runtime_path(const struct wslx_vm_config *c, const char *name)
{
	char *s;

	return asprintf(&s, "%s/%s", c->runtime_dir, name) < 0 ? NULL : s;
}

void wslx_machine_mac(const struct wslx_vm_config *c, unsigned char ret[6])
{
	uint32_t h = 2166136261u; /* FNV-1a */

	if (wslx_mac_parse(c->net.mac, ret) == 0)
		return;
	for (const char *s = c->name; *s; s++)
		h = (h ^ (unsigned char)*s) * 16777619u;
	/* Locally administered, unicast. */
	ret[0] = 0x52;
	ret[1] = 0x54;
	ret[2] = 0;
	ret[3] = (unsigned char)(h >> 16);
	ret[4] = (unsigned char)(h >> 8);
	ret[5] = (unsigned char)h;
}

unsigned wslx_disk_queues(const struct wslx_vm_config *c, size_t i)
{
	unsigned n = c->disks[i].queues ? c->disks[i].queues : c->cpus;

	return WSLX_MIN(n, 4u);
}

/* ---- configuration ---------------------------------------------------- */

int wslx_config_read(int fd, struct wslx_vm_config **ret, struct wslx_err *err)
{
	cleanup_free char *text = NULL;
	size_t n;
	int r = wslx_startup_read(fd, WSLX_CONFIG_MAX, &text, &n);

	if (r == -EFBIG)
		return wslx_err_set(err, EFBIG, "the machine configuration is larger than %u bytes", WSLX_CONFIG_MAX);
	return r < 0 ? wslx_err_sys(err, -r, "cannot read the machine configuration")
		     : wslx_vm_config_decode(text, n, ret, err);
}

/* ---- disks -------------------------------------------------------------- */

static int lock_image(const struct wslx_files *f, int fd, const char *path, bool write, const char *runtime_dir,
		      struct wslx_err *err)
{
	struct wslx_holder holder;
	char who[900];
	int r = wslx_image_lock(fd, write, &f->lock_wait, &holder);

	if (r == 0)
		return 0;
	if (r != -EAGAIN)
		return wslx_err_sys(err, -r, "cannot lock disk %s", path);
	wslx_holder_describe(&holder, runtime_dir, who, sizeof(who));
	return wslx_err_set(err, EBUSY, "disk %s is in use%s", path, who);
}

static int open_image(const struct wslx_files *f, const struct wslx_vm_config *c, const char *path, bool write,
		      int *ret, struct wslx_err *err)
{
	cleanup_close int fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	int r;

	if (fd < 0)
		return wslx_err_sys(err, errno, "cannot open disk %s", path);
	if (fstat(fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot open disk %s", path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return wslx_err_set(err, EINVAL, "disk %s is neither a file nor a block device", path);
	wslx_fd_nonblock(fd, 0);
	r = lock_image(f, fd, path, write, c->runtime_dir, err);
	if (r < 0)
		return r;
	*ret = TAKE_FD(fd);
	return 0;
}

static int open_disks(struct wslx_files *f, const struct wslx_vm_config *c, struct wslx_err *err)
{
	for (size_t i = 0; i < c->n_disks; i++) {
		const struct wslx_disk_config *d = &c->disks[i];
		int r = open_image(f, c, d->path, !d->readonly, &f->disks[i].fd, err);

		if (r == 0 && d->format == WSLX_DISK_OVERLAY)
			r = open_image(f, c, d->base, false, &f->disks[i].base_fd, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- the rest ------------------------------------------------------------ */

static int open_file(const char *what, const char *path, int *ret, struct wslx_err *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot open the %s %s", what, path);
	if (!S_ISREG(st.st_mode))
		return wslx_err_set(err, EINVAL, "the %s %s is not a file", what, path);
	*ret = TAKE_FD(fd);
	return 0;
}

static int open_kvm(const char *path, int *ret, struct wslx_err *err)
{
	*ret = open(path, O_RDWR | O_CLOEXEC);
	if (*ret >= 0)
		return 0;
	if (errno == EACCES || errno == EPERM)
		return wslx_err_set(err, errno,
				    "no permission for %s: add yourself to its group (kvm), or use the tcg engine",
				    path);
	return wslx_err_sys(err, errno, "cannot open %s", path);
}

static int open_tap(const char *name, int *ret, struct wslx_err *err)
{
	cleanup_close int fd = -1;
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	size_t n = strlen(name);

	if (n >= sizeof(ifr.ifr_name))
		return wslx_err_set(err, EINVAL, "interface name %s is too long", name);
	/* TUNSETIFF would make one that is not there, if it is allowed to: one
	 * without an address or a bridge, and gone with the machine. */
	if (!if_nametoindex(name))
		return wslx_err_set(
			err, ENODEV,
			"there is no TAP interface %s; make it: sudo ip tuntap add dev %s mode tap user $USER", name,
			name);
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return wslx_err_sys(err, errno, "cannot open /dev/net/tun");
	memcpy(ifr.ifr_name, name, n + 1);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		return errno == EINVAL ? wslx_err_set(err, EINVAL, "the interface %s is no TAP interface", name)
				       : wslx_err_sys(err, errno, "cannot attach to the TAP interface %s", name);
	*ret = TAKE_FD(fd);
	return 0;
}

static int listen_at(const struct wslx_vm_config *c, const char *name, int *ret, struct wslx_err *err)
{
	cleanup_free char *path = wslx_runtime_path(c, name);

	if (!path)
		return wslx_err_sys(err, ENOMEM, "sockets");
	*ret = wslx_unix_listen(path, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 128);
	return *ret < 0 ? wslx_err_sys(err, -*ret, "cannot listen at %s", path) : 0;
}

int wslx_files_open(struct wslx_files *f, const struct wslx_vm_config *c, const char *kvm_path, struct wslx_err *err)
{
	int r = 0;

	f->runtime_dirfd = open(c->runtime_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (f->runtime_dirfd < 0)
		return wslx_err_sys(err, errno, "cannot open the runtime folder %s", c->runtime_dir);
	if (c->engine == WSLX_ENGINE_KVM)
		r = open_kvm(kvm_path ? kvm_path : "/dev/kvm", &f->kvm_fd, err);
	if (r == 0)
		r = open_file("kernel", c->kernel, &f->kernel_fd, err);
	if (r == 0 && c->initramfs && c->initramfs[0])
		r = open_file("initramfs", c->initramfs, &f->initramfs_fd, err);
	if (r == 0)
		r = open_disks(f, c, err);
	if (r == 0 && c->net.mode == WSLX_NET_TAP)
		r = open_tap(c->net.tap, &f->tap_fd, err);
	if (r == 0)
		r = listen_at(c, "vsock.sock", &f->vsock_fd, err);
	return r;
}

int wslx_files_listen_net(struct wslx_files *f, const struct wslx_vm_config *c, struct wslx_err *err)
{
	if (c->net.mode != WSLX_NET_PASST || c->engine != WSLX_ENGINE_TCG)
		return 0;
	wslx_close(&f->net_listen_fd);
	return listen_at(c, "net.sock", &f->net_listen_fd, err);
}

void wslx_files_close(struct wslx_files *f)
{
	if (f->vsock_fd >= 0)
		unlinkat(f->runtime_dirfd, "vsock.sock", 0);
	if (f->net_listen_fd >= 0)
		unlinkat(f->runtime_dirfd, "net.sock", 0);
	for (size_t i = 0; i < WSLX_MAX_DISKS; i++) {
		wslx_close(&f->disks[i].fd);
		wslx_close(&f->disks[i].base_fd);
	}
	wslx_close(&f->kvm_fd);
	wslx_close(&f->kernel_fd);
	wslx_close(&f->initramfs_fd);
	wslx_close(&f->vsock_fd);
	wslx_close(&f->net_listen_fd);
	wslx_close(&f->tap_fd);
	wslx_close(&f->runtime_dirfd);
}
