/*
 * How often a waiter looks before it sleeps.
 *
 * The best that can be done without knowing the future is to look for about as
 * long as a sleep would cost.  So the limit learns from both: it doubles when
 * looking paid only late, or when a sleep ended so soon that looking on would
 * have been cheaper; it halves when the sleep was long.  Without the second of
 * these, one slow answer after another would bring the limit down for good: the
 * answer to a doorbell never comes within a few looks.
 *
 * What a sleep costs depends on where the peer is.  In the same kernel it is a
 * futex on both sides; in another one a doorbell and an interrupt each way, so
 * that longer looking is worth it.  And a peer in another machine does not need
 * this machine's only processor to answer.
 */
#ifndef WSLX_PORTAL_SPIN_H
#define WSLX_PORTAL_SPIN_H

#include <stdint.h>
#include <unistd.h>

#define WSLX_PORTAL_SPIN_MIN 16u
#define WSLX_PORTAL_SPIN_MAX 4096u
#define WSLX_PORTAL_SPIN_NEAR_NS INT64_C(50000)
#define WSLX_PORTAL_SPIN_FAR_NS INT64_C(1000000)

struct wslx_portal_spin {
	unsigned limit;   /* looks before sleeping; 0: never, whatever is learnt */
	int64_t worth_ns; /* a sleep shorter than this was not worth it */
};

static inline void wslx_portal_spin_init(struct wslx_portal_spin *s)
{
	/* Spinning for a peer on the only processor would keep it from answering. */
	s->limit = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? WSLX_PORTAL_SPIN_MAX / 4 : 0;
	s->worth_ns = WSLX_PORTAL_SPIN_NEAR_NS;
}

/* The peer turned out to be in another kernel. */
static inline void wslx_portal_spin_far(struct wslx_portal_spin *s)
{
	if (!s->limit)
		s->limit = WSLX_PORTAL_SPIN_MAX / 4;
	s->worth_ns = WSLX_PORTAL_SPIN_FAR_NS;
}

static inline void wslx_portal_spin_longer(struct wslx_portal_spin *s)
{
	if (s->limit < WSLX_PORTAL_SPIN_MAX)
		s->limit *= 2;
}

/* It came after so many looks. */
static inline void wslx_portal_spin_paid(struct wslx_portal_spin *s, unsigned looks)
{
	if (looks > s->limit / 2)
		wslx_portal_spin_longer(s);
}

/* It did not come at all. */
static inline void wslx_portal_spin_in_vain(struct wslx_portal_spin *s)
{
	if (s->limit > WSLX_PORTAL_SPIN_MIN)
		s->limit /= 2;
}

/* It came after a sleep of so long. */
static inline void wslx_portal_spin_slept(struct wslx_portal_spin *s, int64_t ns)
{
	if (ns < s->worth_ns)
		wslx_portal_spin_longer(s);
	else
		wslx_portal_spin_in_vain(s);
}

#endif
