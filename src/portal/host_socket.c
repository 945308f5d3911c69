/*
 * The broker's sockets.
 *
 * Trust boundary: whoever connects is of the same user, and lies.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "os/linux/fd.h"
#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/host.h"

static int watch(portal_host *h, int op, int fd, uint32_t events, uint64_t word)
{
	struct epoll_event e = { .events = events, .data.u64 = word };

	return epoll_ctl(h->epoll, op, fd, &e) < 0 ? -errno : 0;
}

uint32_t wslx_host_word(const portal_host *h, unsigned i)
{
	return i | (uint32_t)PORTAL_LIFE_GENERATION(h->life[i]) << 8;
}

_Static_assert(PORTAL_MAX_PARTICIPANTS <= 256, "a member's index is the low byte of epoll's word");

/* What arena a is to member i, as one word to compare. */
static uint64_t told(const portal_host *h, unsigned i, unsigned a)
{
	return h->arena[a].life << 2 | wslx_host_access(h, i, a);
}

static int send_arena(portal_host *h, unsigned i, unsigned a)
{
	const struct wslx_host_arena *e = &h->arena[a];
	struct wslx_portal_msg m = {
		.op = PORTAL_OP_ARENA,
		.index = a,
		.first = e->first,
		.segments = e->segments,
		.owner = e->owner,
		.flags = e->flags,
		.life = e->life,
		.access = wslx_host_access(h, i, a),
	};
	int fd = m.access == PORTAL_ACCESS_WRITE ? e->fd : e->ro;
	ssize_t n = wslx_send_fds(h->member[i].sock, &m, sizeof(m), &fd, m.access == PORTAL_ACCESS_NONE ? 0 : 1,
				  MSG_DONTWAIT);

	return n < 0 ? (int)n : 0;
}

static void poll_member(portal_host *h, unsigned i)
{
	struct wslx_host_member *m = &h->member[i];
	uint32_t events = m->answering ? EPOLLOUT : m->event_due ? EPOLLIN | EPOLLOUT : EPOLLIN;

	/* There is room, and it does not help: only its end is news. */
	if (m->later)
		events = EPOLLERR;

	if (events == (m->polled ? m->polled : EPOLLIN))
		return;
	m->polled = events;
	(void)!watch(h, EPOLL_CTL_MOD, m->sock, events, wslx_host_word(h, i));
}

/* Who does not read for a while has enough to ring for, but may have missed the
 * last change of the arenas: it is told again when there is room. */
void wslx_host_tell_vmm(portal_host *h, unsigned i)
{
	struct wslx_host_member *m = &h->member[i];
	struct wslx_portal_msg e = { .op = PORTAL_OP_EVENT, .epoch = h->epoch };

	m->event_due = send(m->sock, &e, sizeof(e), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EAGAIN;
	poll_member(h, i);
}

/* Goes on with an answer: all arenas that are not what the member knows, then DONE. */
static int answer(portal_host *h, unsigned i)
{
	struct wslx_host_member *m = &h->member[i];
	struct wslx_portal_msg done = { .op = PORTAL_OP_DONE, .epoch = h->epoch };
	int r = 0;

	for (unsigned a = 0; r == 0 && a < PORTAL_MAX_ARENAS; a++) {
		uint64_t t = told(h, i, a);

		/* Of the dead it need not hear unless it has them; a place taken again comes with its new arena. */
		if (m->sent[a] == t || (!(m->sent[a]) && !(t & 3)))
			continue;
		r = send_arena(h, i, a);
		if (r == 0)
			m->sent[a] = t;
	}
	if (r == 0 && send(m->sock, &done, sizeof(done), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		r = -errno;
	/* Not this one's doing: the kernel counts those that have been sent and not received by user. */
	m->later = r == -ETOOMANYREFS;
	m->answering = r == -EAGAIN || m->later;
	if (m->later)
		wslx_host_retry_soon(h);
	poll_member(h, i);
	return m->answering ? 0 : r;
}

static void gone(portal_host *h, unsigned i, int r)
{
	log_debug("portal: participant %u is gone (%d)", i, r);
	wslx_host_leave(h, i, true);
}

void wslx_host_answer_late(portal_host *h)
{
	for (unsigned i = 1; i < PORTAL_MAX_PARTICIPANTS; i++) {
		int r = h->member[i].later ? answer(h, i) : 0;

		if (r < 0)
			gone(h, i, r);
	}
}

static int welcome(portal_host *h, int sock, const struct wslx_portal_msg *q, unsigned *ret)
{
	struct portal_host_member p = { .size = sizeof(p), .name = q->name, .kind = q->kind, .segments = q->segments };
	struct ucred u;
	socklen_t n = sizeof(u);
	int r;

	if (q->op != PORTAL_OP_HELLO || !wslx_portal_name_ok(q->name))
		return -EINVAL;
	if (q->version != PORTAL_VERSION)
		return -EPROTONOSUPPORT;
	if (q->kind != PORTAL_KIND_PROCESS && q->kind != PORTAL_KIND_GUEST)
		return -EINVAL;
	if (!q->segments || q->segments > h->max_each)
		return -EDQUOT;
	if (!wslx_host_has_descriptors(sock))
		return -EMFILE;
	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &u, &n) < 0)
		return -errno;
	p.id = q->kind == PORTAL_KIND_GUEST ? q->id : (uint32_t)u.pid;
	r = wslx_host_join(h, &p, sock, ret);
	if (r == 0)
		h->member[*ret].pid = (uint32_t)u.pid;
	return r;
}

/* One that does not read holds no more than some ten descriptors up, of the thousand that its user may usually have on
 * their way.  Where it cannot be set that is no reason not to serve. */
static void keep_few_on_their_way(int sock)
{
	int size = 4096;

	(void)setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

int wslx_host_greet(portal_host *h, int sock)
{
	struct wslx_portal_msg q, w = { .op = PORTAL_OP_WELCOME, .version = PORTAL_VERSION };
	ssize_t n = recv(sock, &q, sizeof(q), MSG_DONTWAIT);
	unsigned i = 0;
	int r;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 1;
	if (n != sizeof(q))
		return -EPROTO;
	r = welcome(h, sock, &q, &i);
	w.status = r;
	w.index = i;
	w.segments = h->segments;
	w.life = r < 0 ? 0 : PORTAL_LIFE_GENERATION(h->life[i]);
	n = send(sock, &w, sizeof(w), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (r < 0)
		return r;
	h->member[i].greeted = true;
	keep_few_on_their_way(sock);
	if (n < 0 || watch(h, EPOLL_CTL_MOD, sock, EPOLLIN, wslx_host_word(h, i)) < 0 || answer(h, i) < 0)
		wslx_host_leave(h, i, true);
	return 0;
}

static int on_sync(portal_host *h, unsigned i, const struct wslx_portal_msg *q)
{
	if (q->flags & PORTAL_SYNC_AGAIN) {
		uint64_t *sent = h->member[i].sent;

		if (q->index >= PORTAL_MAX_ARENAS)
			return -EPROTO;
		/* What has changed meanwhile is news by itself.  Else it is told once more, also that it is gone. */
		if (sent[q->index] && sent[q->index] == told(h, i, q->index))
			sent[q->index] = ~sent[q->index];
	}
	return answer(h, i);
}

/* Whoever waits for everybody looks at it when it next dispatches: now. */
static int on_synced(portal_host *h, unsigned i, uint32_t epoch)
{
	/* What has not been told cannot be in place. */
	if (h->member[i].kind != PORTAL_KIND_GUEST || (epoch & 1) || (int32_t)(h->epoch - epoch) < 0)
		return -EPROTO;
	h->member[i].synced = epoch;
	wslx_host_event(h, i);
	return 0;
}

/* One message; 0 or why the member has to go. */
static int on_message(portal_host *h, unsigned i)
{
	struct wslx_host_member *m = &h->member[i];
	struct wslx_portal_msg q;
	ssize_t n = recv(m->sock, &q, sizeof(q), MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno;
	if (n == 0)
		return -EPIPE;
	if (n != sizeof(q))
		return -EPROTO;
	switch (q.op) {
	case PORTAL_OP_SYNC:
		return on_sync(h, i, &q);
	case PORTAL_OP_KICK:
		if (q.index >= PORTAL_MAX_PARTICIPANTS)
			return -EPROTO;
		if (q.index == 0)
			wslx_host_mailbox(h, i);
		else if (h->member[q.index].used)
			wslx_host_event(h, q.index);
		return 0;
	case PORTAL_OP_SYNCED:
		return on_synced(h, i, q.epoch);
	default:
		return -EPROTO;
	}
}

void wslx_host_on_socket(portal_host *h, uint32_t word, uint32_t events)
{
	unsigned i = word & 0xff;
	struct wslx_host_member *m = &h->member[i];
	int r = 0;

	if (!m->used || m->sock < 0 || word != wslx_host_word(h, i))
		return;
	if (m->answering && events & EPOLLOUT)
		r = answer(h, i);
	if (m->event_due && events & EPOLLOUT && !m->answering)
		wslx_host_tell_vmm(h, i);
	/* A budget, so that one that talks without end does not keep the others from it. */
	for (int budget = 16; budget && r == 0 && m->used && !m->answering && events & (EPOLLIN | EPOLLHUP); budget--)
		r = on_message(h, i);
	if (r == -EAGAIN)
		r = 0;
	if (r < 0 || (events & (EPOLLERR | EPOLLHUP) && m->answering))
		gone(h, i, r);
}
