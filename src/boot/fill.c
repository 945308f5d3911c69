/*
 * Filling guest memory from a kernel file.
 *
 * Most of the time goes into the host kernel's clearing of the huge pages that
 * are touched first, then into the copy; both scale with processors.  So the
 * work is cut at huge-page boundaries of guest memory and shared between this
 * thread and a few helpers, which end before the function returns.
 *
 * Holes of the file stay untouched: fresh memory is zero, and what is not
 * touched costs neither copy nor page.
 */
#include "boot/internal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "os/linux/fd.h"

#define PIECE (2 * WSLX_MIB)
#define MAX_HELPERS 3

struct job {
	const struct wslx_boot_piece *list;
	int fd;
	uint64_t pieces; /* in all */
	atomic_uint_fast64_t next;
	atomic_int error;
};

/* Pieces of an entry: the first ends at a boundary of guest memory. */
static uint64_t head(const struct wslx_boot_piece *p)
{
	return PIECE - p->gpa % PIECE;
}

static uint64_t count(const struct wslx_boot_piece *p)
{
	if (p->len <= head(p))
		return p->len != 0;
	return 1 + (p->len - head(p) + PIECE - 1) / PIECE;
}

static int read_data(int fd, uint8_t *p, uint64_t off, uint64_t len)
{
	uint64_t end = off + len, at = off;

	while (at < end) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;
		int r;

		if (data < 0)
			return errno == ENXIO ? 0 : wslx_pread_full(fd, p + (at - off), end - at, (off_t)at);
		if ((uint64_t)data >= end)
			return 0;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole <= data || (uint64_t)hole > end)
			hole = (off_t)end;
		r = wslx_pread_full(fd, p + ((uint64_t)data - off), (size_t)(hole - data), data);
		if (r < 0)
			return r;
		at = (uint64_t)hole;
	}
	return 0;
}

static int do_piece(const struct job *job, uint64_t i)
{
	const struct wslx_boot_piece *p = job->list;
	uint64_t from, to;

	while (i >= count(p))
		i -= count(p++);
	from = i ? head(p) + (i - 1) * PIECE : 0;
	to = WSLX_MIN(p->len, head(p) + i * PIECE);
	return read_data(job->fd, p->host + from, p->off + from, to - from);
}

static void *work(void *opaque)
{
	struct job *job = opaque;
	uint64_t i;

	while ((i = atomic_fetch_add(&job->next, 1)) < job->pieces && !atomic_load(&job->error)) {
		int r = do_piece(job, i);

		if (r < 0)
			atomic_store(&job->error, r);
	}
	return NULL;
}

static unsigned helpers(const struct job *job)
{
	cpu_set_t set;
	unsigned cpus;

	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 0;
	cpus = (unsigned)CPU_COUNT(&set);
	/* Two huge pages are done before a thread has started. */
	if (cpus < 2 || job->pieces < 4)
		return 0;
	return WSLX_MIN(cpus - 1, (unsigned)MAX_HELPERS);
}

int wslx_boot_fill(int fd, const struct wslx_boot_piece *list, size_t n)
{
	struct job job = { .list = list, .fd = fd };
	pthread_t thread[MAX_HELPERS];
	unsigned wanted, started = 0;

	for (size_t i = 0; i < n; i++)
		job.pieces += count(&list[i]);
	wanted = helpers(&job);
	while (started < wanted && pthread_create(&thread[started], NULL, work, &job) == 0)
		started++;
	work(&job);
	while (started)
		pthread_join(thread[--started], NULL);
	return atomic_load(&job.error);
}
