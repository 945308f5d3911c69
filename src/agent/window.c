/*
 * Portal's window.  A machine with grants has a virtio-pmem device; Linux shows
 * it as /dev/daxN.M once four drivers have found each other.  No machine
 * without it loads any of them.  A distro must find the device when it starts,
 * so CONFIG is answered when it is there; that takes a child, as loading a
 * module may block.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/machine.h"
#include "agent/user.h"
#include "base/cleanup.h"
#include "base/log.h"

#define DIR_DEVICES "/sys/bus/virtio/devices"
#define VIRTIO_ID_PMEM 27
#define WAIT_MS 5000
#define LOOK_NS 2000000

struct window_wait {
	void (*fn)(void *opaque);
	void *opaque;
};

static bool is_pmem(const char *device)
{
	cleanup_free char *text = NULL;
	char path[320];
	size_t len;

	snprintf(path, sizeof(path), DIR_DEVICES "/%s/device", device);
	return wslx_read_regular(path, 4096, &text, &len) == 0 && strtoul(text, NULL, 16) == VIRTIO_ID_PMEM;
}

static bool have_pmem(void)
{
	DIR *dir = opendir(DIR_DEVICES);
	struct dirent *e;
	bool found = false;

	while (dir && !found && (e = readdir(dir)))
		found = e->d_name[0] != '.' && is_pmem(e->d_name);
	if (dir)
		closedir(dir);
	return found;
}

static bool have_devdax(void)
{
	DIR *dir = opendir("/sys/bus/dax/devices");
	struct dirent *e;
	char path[320];
	bool found = false;

	while (dir && !found && (e = readdir(dir))) {
		snprintf(path, sizeof(path), "/dev/%s", e->d_name);
		found = e->d_name[0] != '.' && access(path, F_OK) == 0;
	}
	if (dir)
		closedir(dir);
	return found;
}

static int window_work(void *opaque, char *text, size_t size)
{
	/* Each binds to what the one before it makes of the device; those built in are not found, and there. */
	static char *const modprobe[] = { "modprobe", "virtio_pmem", "nd_pmem", "dax_pmem", "device_dax", NULL };
	struct timespec ts = { .tv_nsec = LOOK_NS };
	int64_t end = wslx_now_ms() + WAIT_MS;

	(void)modprobe_main(ARRAY_SIZE(modprobe) - 1, (char **)modprobe);
	if (access("/sys/bus/virtio/drivers/virtio_pmem", F_OK) < 0) {
		snprintf(text, size, "this kernel has no driver for Portal's window (virtio_pmem)");
		return ENODEV;
	}
	while (!have_devdax()) {
		if (wslx_now_ms() > end) {
			snprintf(text, size, "this kernel makes no devdax device of Portal's window");
			return ENODEV;
		}
		nanosleep(&ts, NULL);
	}
	return 0;
}

static void on_window(void *opaque, int code, const char *text)
{
	struct window_wait w = *(struct window_wait *)opaque;

	free(opaque);
	if (code)
		log_warn("%s", *text ? text : strerror(code));
	w.fn(w.opaque);
}

void window_prepare(struct machine *m, void (*fn)(void *opaque), void *opaque)
{
	struct window_wait *w = have_pmem() && !have_devdax() ? malloc(sizeof(*w)) : NULL;

	if (w) {
		*w = (struct window_wait) { fn, opaque };
		if (wslx_guest_work(m->guest, window_work, NULL, on_window, w) > 0)
			return;
		free(w);
	}
	fn(opaque);
}
