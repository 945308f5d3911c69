#include "vmm/window.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "os/linux/fd.h"

/* Would an access behind the end of the file kill this process, or the guest? */
static int check_file(int fd, uint64_t need)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	int r = wslx_fd_stat(fd, &st);

	if (r < 0)
		return r;
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || st.st_size < 0 || (uint64_t)st.st_size < need)
		return -EINVAL;
	return 0;
}

int wslx_window_open(int fd, uint64_t size, struct wslx_window *ret)
{
	uint64_t reserved = size + WSLX_WINDOW_SEGMENT;
	uint8_t *area, *start;
	size_t head;
	int r;

	if (!wslx_window_size_ok(size))
		return -EINVAL;
	r = check_file(fd, size);
	if (r < 0)
		return r;
	/* On a boundary of 2 MiB, so that huge pages are possible below a guest's. */
	area = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return -errno;
	head = (size_t)(-(uintptr_t)area & (WSLX_WINDOW_SEGMENT - 1));
	start = area + head;
	if (mmap(start, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) == MAP_FAILED) {
		r = -errno;
		munmap(area, reserved);
		return r;
	}
	if (head)
		munmap(area, head);
	if (head != WSLX_WINDOW_SEGMENT)
		munmap(start + size, WSLX_WINDOW_SEGMENT - head);
	(void)madvise(start, size, MADV_DONTDUMP);
	*ret = (struct wslx_window) { start, size };
	return 0;
}

void wslx_window_close(struct wslx_window *w)
{
	if (w->host)
		munmap(w->host, w->size);
	*w = (struct wslx_window) { 0 };
}

int wslx_window_apply(const struct wslx_window *w, const struct wslx_link_msg *m)
{
	uint64_t first = m->a & UINT32_MAX, n = m->a >> 32, at, len = n * WSLX_WINDOW_SEGMENT, from = 0;
	int flags = m->b == WSLX_WINDOW_READ ? MAP_PRIVATE : MAP_SHARED, r;

	if (!w->host || m->b > WSLX_WINDOW_WRITE || m->fd < 0 || !n || !first ||
	    !wslx_range_ok(first, n, wslx_window_segments(w->size)))
		return -EINVAL;
	at = WSLX_WINDOW_DATA + first * WSLX_WINDOW_SEGMENT;
	if (m->b == WSLX_WINDOW_OWN)
		from = at;
	r = check_file(m->fd, from + len);
	if (r < 0)
		return r;
	if (mmap(w->host + at, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, m->fd, (off_t)from) ==
	    MAP_FAILED)
		return -errno;
	(void)madvise(w->host + at, len, MADV_DONTDUMP);
	return 0;
}
