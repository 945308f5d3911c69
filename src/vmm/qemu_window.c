/*
 * libwslx-window.so: Portal's window inside QEMU.
 *
 * QEMU maps a memory backend in one piece and cannot exchange parts of it.  So
 * this library is preloaded into the QEMU of a machine that has a window: it
 * notes where the window's file gets mapped, and a thread of its own carries
 * out the supervisor's WINDOW_MAP messages there.  QEMU does not notice: its
 * pointers into the window stay good, and see what is mapped now.
 *
 * WSLX_WINDOW_FD and WSLX_WINDOW_LINK name the file and the socket, inherited.
 * Without them the library does nothing.
 *
 * The thread starts before QEMU's main(), and so before its seccomp filter,
 * which does not allow new processes; what the thread calls is allowed by it.
 * Signals are QEMU's business: all are blocked here.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "vmm/window.h"

#define EXPORT __attribute__((visibility("default")))

static struct {
	pthread_mutex_t lock;
	pthread_cond_t mapped;
	bool active;
	int link;
	dev_t dev;
	ino_t ino;
	uint64_t size;
	struct wslx_window window;
} w = { .lock = PTHREAD_MUTEX_INITIALIZER, .mapped = PTHREAD_COND_INITIALIZER, .link = -1 };

static void note(void *at, size_t len, int fd, off_t off)
{
	struct stat st;

	if (off || len != w.size || wslx_fd_stat(fd, &st) < 0 || st.st_dev != w.dev || st.st_ino != w.ino)
		return;
	pthread_mutex_lock(&w.lock);
	w.window = (struct wslx_window) { at, len };
	pthread_cond_broadcast(&w.mapped);
	pthread_mutex_unlock(&w.lock);
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off);
EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off)
{
	void *at = (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);

	if (w.active && at != MAP_FAILED && fd >= 0 && flags & MAP_SHARED) {
		int saved = errno;

		note(at, len, fd, off);
		errno = saved;
	}
	return at;
}

/* By its other name: the headers turn a plain mmap() into the above. */
EXPORT void *plain_mmap(void *addr, size_t len, int prot, int flags, int fd, off64_t off) __asm__("mmap");
EXPORT void *plain_mmap(void *addr, size_t len, int prot, int flags, int fd, off64_t off)
{
	return mmap64(addr, len, prot, flags, fd, off);
}

static void *serve(void *opaque)
{
	static struct wslx_link_msg m;

	pthread_mutex_lock(&w.lock);
	while (!w.window.host)
		pthread_cond_wait(&w.mapped, &w.lock);
	pthread_mutex_unlock(&w.lock);
	for (;;) {
		int r = wslx_link_recv(w.link, &m);

		if (r == -EINTR)
			continue;
		if (r != 1 || m.type != WSLX_LINK_WINDOW_MAP)
			break;
		r = wslx_window_apply(&w.window, &m);
		wslx_close(&m.fd);
		m = (struct wslx_link_msg) { .type = WSLX_LINK_WINDOW_MAPPED, .id = m.id, .a = (uint64_t)-r, .fd = -1 };
		if (wslx_link_send(w.link, &m) < 0)
			break;
	}
	/* The supervisor is gone, or speaks nonsense: it sees the end. */
	close(w.link);
	return NULL;
}

static int env_fd(const char *name)
{
	const char *s = getenv(name);
	long fd = s ? strtol(s, NULL, 10) : -1;

	return fd >= 3 && fd <= INT_MAX ? (int)fd : -1;
}

static void __attribute__((constructor)) start(void)
{
	int fd = env_fd("WSLX_WINDOW_FD"), r;
	struct stat st;
	sigset_t all, before;
	pthread_t thread;

	w.link = env_fd("WSLX_WINDOW_LINK");
	if (fd < 0 || w.link < 0)
		return;
	r = wslx_fd_stat(fd, &st);
	if (r == 0) {
		w.dev = st.st_dev;
		w.ino = st.st_ino;
		w.size = (uint64_t)st.st_size;
		w.active = true;
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		r = pthread_create(&thread, NULL, serve, NULL);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	if (r)
		close(w.link); /* the supervisor sees that */
}
