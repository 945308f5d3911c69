/*
 * Doorbells: the stream that a program in the guest holds while it uses a
 * region.  docs/portal.md, "A guest's window".
 *
 * Trust boundary: bytes and the time of the connection's end are the guest's.
 * Kicks are bits until they are sent, so many of them are as cheap as few.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/supervisor/portal_internal.h"

void wslx_vmportal_ring(struct grant *g)
{
	/* One that is full has something to say already. */
	if (g->bell >= 0 && g->bell_told && !g->bell_ending)
		(void)!send(g->bell, "!", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void wslx_vmportal_bell_ready(struct grant *g)
{
	if (g->bell >= 0 && g->attached)
		g->bell_told = true;
	wslx_vmportal_ring(g);
}

void wslx_vmportal_bell_close(struct grant *g)
{
	wslx_watch_free(g->bell_watch);
	g->bell_watch = NULL;
	wslx_close(&g->bell);
	g->kick_len = 0;
	g->bell_told = g->bell_ending = false;
}

void wslx_vmportal_bell_end(struct grant *g)
{
	if (g->bell < 0 || g->bell_ending)
		return;
	g->bell_ending = true;
	g->bell_ended = ++g->p->bells_ended;
	shutdown(g->bell, SHUT_WR);
}

void wslx_vmportal_bell_reclaim(struct grant *g)
{
	wslx_vmportal_bell_close(g);
	/* Otherwise the tables may still name some of them. */
	if (g->state == GRANT_WAITING || g->state == GRANT_READY)
		wslx_vmportal_place_release(&g->p->places, g->index);
}

struct grant *wslx_vmportal_bell_oldest(struct wslx_vmportal *p)
{
	struct grant *oldest = NULL;

	for (size_t i = 0; i < p->n_grants; i++) {
		struct grant *g = &p->grants[i];

		if (g->bell >= 0 && g->bell_ending && (!oldest || g->bell_ended < oldest->bell_ended))
			oldest = g;
	}
	return oldest;
}

/* The program is gone, or nobody can tell it from one that is. */
static void on_end(struct grant *g)
{
	/* Its participant was another one, and has left: this one has been nobody's yet. */
	bool before = g->bell_ending && !g->attached;

	wslx_vmportal_bell_close(g);
	if (g->state == GRANT_WAITING || (before && g->state == GRANT_READY)) {
		wslx_vmportal_place_release(&g->p->places, g->index);
		wslx_vmportal_room(g->p);
	} else if (!before) { /* else once the answer is in place */
		wslx_vmportal_leave(g, true);
	}
}

/* 0, or -EPROTO: that is no participant's number. */
static int take_kicks(struct grant *g, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t to;

		g->kick[g->kick_len++] = p[i];
		if (g->kick_len < sizeof(g->kick))
			continue;
		g->kick_len = 0;
		to = wslx_get_le32(g->kick);
		if (to >= PORTAL_MAX_PARTICIPANTS)
			return -EPROTO;
		g->kicks |= UINT64_C(1) << to;
	}
	return 0;
}

static void on_bell(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct grant *g = opaque;
	uint8_t buf[4096];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || (!g->bell_ending && take_kicks(g, buf, (size_t)n) < 0)) {
		on_end(g);
		return;
	}
	if (g->state == GRANT_READY || g->state == GRANT_ANSWER)
		wslx_vmportal_flush(g);
	else
		g->kicks = 0;
}

bool wslx_vmportal_is_doorbell(const struct wslx_vmportal *p, uint64_t port)
{
	return port >= PORTAL_DOORBELL_PORT && port - PORTAL_DOORBELL_PORT < p->n_grants;
}

static int open_bell(struct grant *g)
{
	cleanup_close int theirs = -1;
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	theirs = pair[1];
	g->bell = pair[0];
	r = wslx_loop_watch(g->p->params.loop, g->bell, EPOLLIN, on_bell, g, &g->bell_watch);
	if (r < 0) {
		wslx_close(&g->bell);
		return r;
	}
	return TAKE_FD(theirs);
}

int wslx_vmportal_doorbell(struct wslx_vmportal *p, uint64_t port)
{
	struct grant *g;
	int r;

	if (!p->running || !wslx_vmportal_is_doorbell(p, port))
		return -ECONNREFUSED;
	g = &p->grants[port - PORTAL_DOORBELL_PORT];
	if (g->revoked)
		return -ECONNREFUSED;
	/* A new program: the one before is over, if it was still there. */
	if (g->bell >= 0)
		on_end(g);
	r = open_bell(g);
	if (r < 0)
		return r;
	switch (g->state) {
	case GRANT_WAITING:
		wslx_vmportal_join(g);
		break;
	case GRANT_READY:
	case GRANT_HELLO:
	case GRANT_ANSWER:
		if (g->attached) {
			wslx_vmportal_leave(g, true);
		} else {
			g->attached = true;
			if (g->state == GRANT_READY)
				wslx_vmportal_bell_ready(g);
		}
		break;
	case GRANT_CLEARING:
		g->join_again = true;
		break;
	}
	return r;
}
