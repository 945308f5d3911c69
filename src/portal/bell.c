/*
 * The doorbell of a guest: bytes on a stream.
 *
 * From the host one byte stands for any number of news, so one thread reads for
 * all: it polls, empties the socket, and wakes the others, who then look at
 * their words again.  To the host, a number is the participant to wake.
 *
 * No wake-up is lost.  What a thread waits for is counted in its event word
 * before the byte is sent.  A thread that comes to wait looks at its words
 * under the lock; the reader counts `seen` under the lock after it has emptied
 * the socket.  So either the words have moved already, or the byte is still
 * there for whoever polls, or `seen` moves.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "portal/atomic.h"
#include "portal/guest.h"
#include "portal/internal.h"

#define NS INT64_C(1000000000)
#define SEND_SECONDS 5

static struct timespec as_timespec(int64_t ns)
{
	return (struct timespec) { .tv_sec = (time_t)(ns / NS), .tv_nsec = (long)(ns % NS) };
}

void wslx_portal_bell_init(struct wslx_portal_bell *b)
{
	pthread_condattr_t a;

	*b = (struct wslx_portal_bell) { .fd = -1 };
	pthread_mutex_init(&b->lock, NULL);
	pthread_mutex_init(&b->sending, NULL);
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&b->news, &a);
	pthread_condattr_destroy(&a);
}

void wslx_portal_bell_close(struct wslx_portal_bell *b)
{
	if (b->fd >= 0)
		close(b->fd);
	b->fd = -1;
	pthread_cond_destroy(&b->news);
	pthread_mutex_destroy(&b->sending);
	pthread_mutex_destroy(&b->lock);
}

static int poll_for(int fd, int64_t left)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct timespec ts = as_timespec(left < 0 ? 0 : left);
	int n = ppoll(&p, 1, left < 0 ? NULL : &ts, NULL);

	return n < 0 ? -errno : n;
}

/* Takes what bytes are there; -EPIPE when there are no more to come. */
static int drain(int fd)
{
	char bytes[256];
	ssize_t n;

	do
		n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	while (n == (ssize_t)sizeof(bytes) || (n < 0 && errno == EINTR));
	return n > 0 || (n < 0 && errno == EAGAIN) ? 0 : -EPIPE;
}

/* The byte that says that the entry is made for this connection. */
static int await_ready(int fd, int64_t deadline)
{
	char byte;
	ssize_t n;
	int r;

	do
		r = poll_for(fd, wslx_portal_left(deadline));
	while (r == -EINTR);
	if (r <= 0)
		return r < 0 ? r : -ETIMEDOUT;
	n = recv(fd, &byte, 1, MSG_DONTWAIT);
	return n == 1 ? 0 : n == 0 || errno == ECONNRESET ? -EPIPE : -errno;
}

int wslx_portal_bell_open(struct wslx_portal_bell *b, const struct wslx_portal_guest_os *os, uint32_t port,
			  int64_t deadline)
{
	struct timeval tv = { .tv_sec = SEND_SECONDS };

	b->fd = os->open_bell(os->opaque, port);
	if (b->fd < 0)
		return b->fd == -ECONNRESET || b->fd == -ECONNREFUSED ? -EPIPE : b->fd;
	setsockopt(b->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	return await_ready(b->fd, deadline);
}

static void lost(portal *p)
{
	__atomic_store_n(&p->broker_lost, true, __ATOMIC_RELEASE);
}

static bool is_lost(const portal *p)
{
	return __atomic_load_n(&p->broker_lost, __ATOMIC_ACQUIRE);
}

static bool moved(const struct portal_wait *w, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (PORTAL_LOAD_SEQ(w[i].word) != w[i].expected)
			return true;
	return false;
}

/* Another thread polls: until it has something, or leaves.  Under the lock. */
static void wait_for_reader(struct wslx_portal_bell *b, int64_t timeout_ns)
{
	struct timespec at = as_timespec(timeout_ns < 0 ? 0 : wslx_portal_deadline(timeout_ns));
	uint64_t seen = b->seen;
	int r = 0;

	while (b->seen == seen && r == 0)
		r = timeout_ns < 0 ? pthread_cond_wait(&b->news, &b->lock)
				   : pthread_cond_timedwait(&b->news, &b->lock, &at);
}

static void read_for_all(portal *p, struct wslx_portal_bell *b, int64_t timeout_ns)
{
	b->polling = true;
	pthread_mutex_unlock(&b->lock);
	if (poll_for(b->fd, timeout_ns) > 0 && drain(b->fd) < 0)
		lost(p);
	pthread_mutex_lock(&b->lock);
	b->polling = false;
	b->seen++;
	pthread_cond_broadcast(&b->news);
}

static void bell_wait(void *opaque, const struct portal_wait *words, size_t n, int64_t timeout_ns)
{
	portal *p = opaque;
	struct wslx_portal_bell *b = &p->window->bell;

	pthread_mutex_lock(&b->lock);
	/* A stream that has ended is readable for ever. */
	if (!is_lost(p) && !moved(words, n) && timeout_ns != 0) {
		if (b->polling)
			wait_for_reader(b, timeout_ns);
		else
			read_for_all(p, b, timeout_ns);
	}
	pthread_mutex_unlock(&b->lock);
	if (!wslx_portal_window_same(p->window))
		lost(p);
}

static void bell_wake(void *opaque, unsigned to, const uint32_t *word)
{
	portal *p = opaque;
	struct wslx_portal_bell *b = &p->window->bell;
	const uint32_t message = to;
	size_t done = 0;

	if (is_lost(p))
		return;
	pthread_mutex_lock(&b->sending);
	/* The host reads all the time; a full stream is worth the wait, up to a point. */
	while (done < sizeof(message)) {
		ssize_t k = send(b->fd, (const char *)&message + done, sizeof(message) - done, MSG_NOSIGNAL);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0) {
			lost(p);
			break;
		}
		done += (size_t)k;
	}
	pthread_mutex_unlock(&b->sending);
}

const struct portal_doorbell_ops wslx_portal_bell_ops = { .wait = bell_wait, .wake = bell_wake };
