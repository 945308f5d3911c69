/*
 * Spinning, sleeping, waking.
 *
 * A waiter looks some times before it sleeps (spin.h), so that peers that
 * answer within microseconds never meet the kernel, and a crowded machine does
 * not burn.
 *
 * Sleeping is on several words at once (futex_waitv, Linux 5.16): the event
 * word that the host counts up, and ring indices.  Where the kernel or a filter
 * does not have it, the sleep is on the first ring index in slices, and the
 * loops above look again each time.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "portal/atomic.h"
#include "portal/internal.h"

#ifndef __NR_futex_waitv
#define __NR_futex_waitv 449
#endif
#define MAX_WORDS 65
#define SLICE_NS INT64_C(1000000)
#define CHECK_NS INT64_C(500000000)

/* As in linux/futex.h since 5.16. */
struct waitv {
	uint64_t val, uaddr;
	uint32_t flags, reserved;
};
#define WAITV_32 2u

int64_t wslx_portal_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

int64_t wslx_portal_deadline(int64_t timeout_ns)
{
	int64_t at;

	if (timeout_ns < 0)
		return -1;
	if (timeout_ns == 0)
		return 0;
	return __builtin_add_overflow(wslx_portal_now(), timeout_ns, &at) ? -1 : at;
}

int64_t wslx_portal_left(int64_t deadline)
{
	int64_t left;

	if (deadline <= 0)
		return deadline;
	left = deadline - wslx_portal_now();
	return left > 0 ? left : 0;
}

static void wait_sliced(const struct portal_wait *w, int64_t ns)
{
	struct timespec ts = { .tv_sec = 0, .tv_nsec = ns < 0 || ns > SLICE_NS ? SLICE_NS : ns };

	syscall(SYS_futex, w->word, FUTEX_WAIT, w->expected, &ts, NULL, 0);
}

static void futex_wait(void *ctx, const struct portal_wait *words, size_t n, int64_t timeout_ns)
{
	static int have = 1;
	struct waitv v[MAX_WORDS];
	int64_t at = timeout_ns < 0 ? 0 : wslx_portal_now() + timeout_ns;
	struct timespec ts = { .tv_sec = at / 1000000000, .tv_nsec = at % 1000000000 };

	if (n > MAX_WORDS)
		n = MAX_WORDS;
	for (size_t i = 0; i < n; i++)
		v[i] = (struct waitv) { words[i].expected, (uintptr_t)words[i].word, WAITV_32, 0 };
	if (__atomic_load_n(&have, __ATOMIC_RELAXED)) {
		if (syscall(__NR_futex_waitv, v, n, 0, timeout_ns < 0 ? NULL : &ts, CLOCK_MONOTONIC) >= 0 ||
		    (errno != ENOSYS && errno != EPERM))
			return;
		__atomic_store_n(&have, 0, __ATOMIC_RELAXED);
	}
	wait_sliced(&words[n - 1], timeout_ns);
}

static void futex_wake(void *ctx, unsigned to, const uint32_t *word)
{
	portal *p = ctx;
	struct wslx_portal_msg m = { .op = PORTAL_OP_KICK, .index = to };

	if (word && to < PORTAL_MAX_PARTICIPANTS && p->parts[to].kind == PORTAL_KIND_PROCESS) {
		syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
		return;
	}
	/* The broker reads all the time; should the buffer be full for once, the kick is worth the wait. */
	(void)!send(p->sock, &m, sizeof(m), MSG_NOSIGNAL);
}

const struct portal_doorbell_ops wslx_portal_futex_ops = { .wait = futex_wait, .wake = futex_wake };

static void check_broker(portal *p)
{
	char c;
	ssize_t n = recv(p->sock, &c, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		__atomic_store_n(&p->broker_lost, true, __ATOMIC_RELEASE);
}

void wslx_portal_sleep(portal *p, uint32_t ev, const struct portal_wait *more, size_t n, int64_t left)
{
	struct portal_wait w[MAX_WORDS] = { { &p->parts[p->self].event, ev } };

	if (n > MAX_WORDS - 1)
		n = MAX_WORDS - 1;
	for (size_t i = 0; i < n; i++)
		w[1 + i] = more[i];
	/* A broker that was killed wakes nobody: its socket says so, now and then. */
	if ((p->sock >= 0 || p->window) && (left < 0 || left > CHECK_NS))
		left = CHECK_NS;
	p->ops->wait(p->ops_ctx, w, 1 + n, left);
	if (p->sock >= 0 && left == CHECK_NS)
		check_broker(p);
}

int wslx_portal_await_event(portal *p, uint32_t ev, int64_t deadline)
{
	int64_t left = wslx_portal_left(deadline);

	if (!wslx_portal_host_up(p))
		return -EPIPE;
	if (left == 0)
		return deadline ? -ETIMEDOUT : -EAGAIN;
	(void)wslx_portal_gate_rest(p);
	wslx_portal_sleep(p, ev, NULL, 0, left);
	return wslx_portal_refresh(p);
}

void wslx_portal_kick(portal *p, unsigned to)
{
	p->ops->wake(p->ops_ctx, to, NULL);
}

/* index: of a ring, whose low half the peer sleeps on. */
void wslx_portal_ring_for(portal *p, unsigned peer, const void *index)
{
	p->ops->wake(p->ops_ctx, peer, index);
}
