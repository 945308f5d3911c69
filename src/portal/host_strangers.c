/*
 * Who has connected to the broker and not yet said HELLO.
 *
 * A connection costs its maker nothing and the broker a descriptor, so there
 * are only so many, and only for so long.  When there is no room the oldest
 * goes, not the newest: an honest one says HELLO as soon as it has connected.
 * Whoever has to go is heard first.
 *
 * Trust boundary: whoever connects is of the same user, and lies.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "portal/host.h"

#define PATIENCE_NS INT64_C(1000000000)
#define RETRY_NS INT64_C(100000000)
/* What must be left when a stranger is let in, or becomes a participant: for the control socket, objects, and a
 * participant's arena. */
#define KEPT_FREE 16

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Asks the kernel: the limit may have been changed, and others of the program open files, too. */
bool wslx_host_has_descriptors(int fd)
{
	int probe[KEPT_FREE], n = 0;

	while (n < KEPT_FREE && (probe[n] = fcntl(fd, F_DUPFD_CLOEXEC, 0)) >= 0)
		n++;
	for (int i = 0; i < n; i++)
		close(probe[i]);
	return n == KEPT_FREE;
}

static void drop(portal_host *h, unsigned k)
{
	/* Closing is not enough where a child of the program has the socket, too. */
	if (h->stranger[k].sock >= 0)
		epoll_ctl(h->epoll, EPOLL_CTL_DEL, h->stranger[k].sock, NULL);
	wslx_close(&h->stranger[k].sock);
}

static void hear(portal_host *h, unsigned k)
{
	int r = wslx_host_greet(h, h->stranger[k].sock);

	if (r == 0)
		h->stranger[k].sock = -1;
	else if (r < 0)
		drop(h, k);
}

static void send_away(portal_host *h, unsigned k)
{
	hear(h, k);
	drop(h, k);
}

/* WSLX_HOST_STRANGERS: there is none. */
static unsigned oldest(const portal_host *h)
{
	unsigned found = WSLX_HOST_STRANGERS;

	for (unsigned k = 0; k < WSLX_HOST_STRANGERS; k++)
		if (h->stranger[k].sock >= 0 &&
		    (found == WSLX_HOST_STRANGERS || h->stranger[k].deadline < h->stranger[found].deadline))
			found = k;
	return found;
}

static void set_timer(portal_host *h)
{
	unsigned k = oldest(h);
	int64_t at = k < WSLX_HOST_STRANGERS ? h->stranger[k].deadline : 0;
	struct itimerspec t;

	if (h->deaf_until && (!at || h->deaf_until < at))
		at = h->deaf_until;
	if (h->retry_at && (!at || h->retry_at < at))
		at = h->retry_at;
	t = (struct itimerspec) { .it_value = { .tv_sec = at / 1000000000, .tv_nsec = at % 1000000000 } };
	timerfd_settime(h->timer, TFD_TIMER_ABSTIME, &t, NULL);
}

void wslx_host_retry_soon(portal_host *h)
{
	if (h->retry_at)
		return;
	h->retry_at = now_ns() + RETRY_NS;
	set_timer(h);
}

/* 0: now. */
static void listen_at(portal_host *h, int64_t deaf_until)
{
	struct epoll_event e = { .events = deaf_until ? 0 : EPOLLIN, .data.u64 = WSLX_HOST_LISTENER };

	if (epoll_ctl(h->epoll, EPOLL_CTL_MOD, h->listener, &e) == 0)
		h->deaf_until = deaf_until;
}

/* A free entry, in which the oldest was if need be. */
static unsigned make_room(portal_host *h)
{
	unsigned k = 0;

	while (k < WSLX_HOST_STRANGERS && h->stranger[k].sock >= 0)
		k++;
	if (k < WSLX_HOST_STRANGERS)
		return k;
	k = oldest(h);
	send_away(h, k);
	return k;
}

static int check_peer(int sock)
{
	struct ucred u;
	socklen_t n = sizeof(u);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &u, &n) < 0)
		return -errno;
	return u.uid == geteuid() ? wslx_fd_nonblock(sock, 1) : -EACCES;
}

int wslx_host_accept(portal_host *h, int sock)
{
	struct epoll_event e = { .events = EPOLLIN };
	unsigned k;
	int r = check_peer(sock);

	if (r < 0)
		return r;
	while (!wslx_host_has_descriptors(sock)) {
		k = oldest(h);
		if (k == WSLX_HOST_STRANGERS)
			return -EMFILE;
		send_away(h, k);
	}
	k = make_room(h);
	e.data.u64 = WSLX_HOST_STRANGER | k;
	if (epoll_ctl(h->epoll, EPOLL_CTL_ADD, sock, &e) < 0)
		return -errno;
	h->stranger[k] = (struct wslx_host_stranger) { .sock = sock, .deadline = now_ns() + PATIENCE_NS };
	set_timer(h);
	return 0;
}

/* Who waits in the listener's queue would wake us without end. */
static void cannot_accept(portal_host *h)
{
	unsigned k = oldest(h);

	if (k < WSLX_HOST_STRANGERS)
		send_away(h, k);
	else
		listen_at(h, now_ns() + PATIENCE_NS);
	set_timer(h);
}

void wslx_host_on_connection(portal_host *h)
{
	int sock = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC);

	if (sock >= 0 && wslx_host_accept(h, sock) < 0)
		close(sock);
	else if (sock < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
		cannot_accept(h);
}

void wslx_host_on_stranger(portal_host *h, unsigned k)
{
	/* One that was sent away meanwhile may still be in the list of events. */
	if (k < WSLX_HOST_STRANGERS && h->stranger[k].sock >= 0)
		hear(h, k);
}

void wslx_host_on_timer(portal_host *h)
{
	int64_t now = now_ns();
	uint64_t n;

	(void)!read(h->timer, &n, sizeof(n));
	for (unsigned k = 0; k < WSLX_HOST_STRANGERS; k++)
		if (h->stranger[k].sock >= 0 && h->stranger[k].deadline <= now)
			send_away(h, k);
	if (h->deaf_until && h->deaf_until <= now)
		listen_at(h, 0);
	if (h->retry_at && h->retry_at <= now) {
		h->retry_at = 0;
		wslx_host_answer_late(h);
	}
	set_timer(h);
}

int wslx_host_strangers_init(portal_host *h)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = WSLX_HOST_TIMER };

	h->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (h->timer < 0)
		return -errno;
	return epoll_ctl(h->epoll, EPOLL_CTL_ADD, h->timer, &e) < 0 ? -errno : 0;
}

void wslx_host_strangers_free(portal_host *h)
{
	for (unsigned k = 0; k < WSLX_HOST_STRANGERS; k++)
		wslx_close(&h->stranger[k].sock);
	wslx_close(&h->timer);
}
