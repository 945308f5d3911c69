/*
 * Disks by serial number.  The kernel's uevents say when to look again; a disk
 * that is not there yet is waited for, never polled.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/machine.h"
#include "base/cleanup.h"
#include "base/log.h"

static bool has_serial(int dirfd, const char *disk, const char *serial)
{
	char path[300], text[64];
	cleanup_close int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/serial", disk);
	fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return false;
	text[n] = 0;
	/* virtio pads with NUL, sysfs may end with a newline. */
	text[strcspn(text, "\n")] = 0;
	return !strcmp(text, serial);
}

int device_find(const char *serial, char *dst, size_t size)
{
	DIR *d = opendir("/sys/block");
	struct dirent *e;
	int r = -ENOENT;

	if (!d)
		return -errno;
	while (r < 0 && (e = readdir(d))) {
		if (e->d_name[0] == '.' || strlen(e->d_name) + 6 > size || !has_serial(dirfd(d), e->d_name, serial))
			continue;
		snprintf(dst, size, "/dev/%s", e->d_name);
		/* devtmpfs makes the node before the uevent is sent. */
		r = access(dst, F_OK) < 0 ? -errno : 0;
	}
	closedir(d);
	return r;
}

static void unlink_wait(struct disk_wait *w)
{
	if (w->prev)
		w->prev->next = w->next;
	else
		w->m->disk_waits = w->next;
	if (w->next)
		w->next->prev = w->prev;
	w->next = w->prev = NULL;
	wslx_timer_free(TAKE_PTR(w->timer));
}

void device_wait_cancel(struct disk_wait *w)
{
	unlink_wait(w);
}

static void on_timeout(struct wslx_timer *t, void *opaque)
{
	struct disk_wait *w = opaque;

	unlink_wait(w);
	w->fn(w, NULL);
}

int device_wait(struct machine *m, struct disk_wait *w, uint32_t timeout_ms)
{
	char device[DEVICE_NAME_MAX];
	int r;

	w->m = m;
	w->next = w->prev = NULL;
	w->timer = NULL;
	if (device_find(w->serial, device, sizeof(device)) == 0) {
		w->fn(w, device);
		return 0;
	}
	r = wslx_loop_timer(m->loop, on_timeout, w, &w->timer);
	if (r < 0)
		return r;
	wslx_timer_arm(w->timer, timeout_ms ? timeout_ms : DISK_TIMEOUT_MS);
	w->next = m->disk_waits;
	if (w->next)
		w->next->prev = w;
	m->disk_waits = w;
	return 0;
}

static void rescan(struct machine *m)
{
	struct disk_wait *w = m->disk_waits;

	while (w) {
		char device[DEVICE_NAME_MAX];

		if (device_find(w->serial, device, sizeof(device)) < 0) {
			w = w->next;
			continue;
		}
		unlink_wait(w);
		w->fn(w, device);
		/* The callback may have changed the list. */
		w = m->disk_waits;
	}
}

static void on_uevent(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	char buf[8192];
	bool any = false;

	/* Contents do not matter, and cannot be trusted to be complete: an
	 * overrun (ENOBUFS) means look again as well. */
	for (;;) {
		ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n < 0 && errno != ENOBUFS && errno != EINTR)
			break;
		any = true;
	}
	if (any)
		rescan(opaque);
}

int device_init(struct machine *m)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = 1 };

	m->uevent_fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
	if (m->uevent_fd < 0 || bind(m->uevent_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return wslx_loop_watch(m->loop, m->uevent_fd, EPOLLIN, on_uevent, m, &m->uevent_watch);
}
