/*
 * Answers to the guest's connections.
 *
 * The kernel counts by user the descriptors that were sent and not received, and
 * refuses more (ETOOMANYREFS): others' may be too many for a while.  Or the child
 * has not read for a while.  An answer that cannot be sent is tried again, as a
 * mapping of Portal's is, since the device keeps its place until it has it, and
 * the program in the guest waits.
 *
 * What waits holds a descriptor here, at a guest's will: no more than the device
 * lets a guest have unanswered (dev/virtio/vsock_internal.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/run_internal.h"

#define RETRY_MS 100
#define TRIES (30000 / RETRY_MS)

static void lost(int err)
{
	log_warn("cannot answer a guest's connection: %s", strerror(-err));
}

static int answer(struct wslx_run *r, uint32_t id, int fd)
{
	int e = wslx_run_send(r, fd >= 0 ? WSLX_LINK_CONNECT_OK : WSLX_LINK_CONNECT_REFUSED, id, fd);

	if (e == 0 || fd < 0 || wslx_run_may_send_later(e))
		return e;
	/* That takes no descriptor. */
	lost(e);
	return wslx_run_send(r, WSLX_LINK_CONNECT_REFUSED, id, -1);
}

/* False: it is not to be tried again. */
static bool try_again(struct wslx_run *r, struct run_answer *a)
{
	int e;

	if (a->fd >= 0 && a->tries >= TRIES)
		wslx_close(&a->fd);
	e = answer(r, a->id, a->fd);
	if (wslx_run_may_send_later(e) && a->tries++ < 2 * TRIES)
		return true;
	if (e < 0)
		lost(e);
	wslx_close(&a->fd);
	return false;
}

static void on_timer(struct wslx_timer *t, void *opaque)
{
	struct wslx_run *r = opaque;
	size_t left = 0;

	for (size_t i = 0; i < r->answers.n; i++) {
		struct run_answer a = r->answers.list[i];

		if (try_again(r, &a))
			r->answers.list[left++] = a;
	}
	r->answers.n = left;
	if (left)
		wslx_timer_arm(t, RETRY_MS);
}

/* False: there is no room for it. */
static bool keep(struct wslx_run *r, uint32_t id, int fd)
{
	int own = -1;

	if (r->answers.n == MAX_ANSWERS)
		return false;
	if (fd >= 0) {
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (own < 0)
			return false;
	}
	r->answers.list[r->answers.n++] = (struct run_answer) { .id = id, .fd = own };
	if (r->answers.n == 1)
		wslx_timer_arm(r->answers.timer, RETRY_MS);
	return true;
}

void wslx_run_connected(struct wslx_run *r, uint32_t id, int fd)
{
	int e = answer(r, id, fd);

	if (wslx_run_may_send_later(e) && keep(r, id, fd))
		return;
	if (wslx_run_may_send_later(e) && fd >= 0)
		e = answer(r, id, -1);
	if (e < 0)
		lost(e);
}

int wslx_run_answers_init(struct wslx_run *r)
{
	return wslx_loop_timer(r->p.loop, on_timer, r, &r->answers.timer);
}

void wslx_run_answers_drop(struct wslx_run *r)
{
	for (size_t i = 0; i < r->answers.n; i++)
		wslx_close(&r->answers.list[i].fd);
	r->answers.n = 0;
}

void wslx_run_answers_free(struct wslx_run *r)
{
	wslx_run_answers_drop(r);
	wslx_timer_free(r->answers.timer);
	r->answers.timer = NULL;
}
