/*
 * Theory of operation.  Watches and timers are nodes of intrusive lists.  A
 * freed node is only unlinked and marked dead; it is released at the end of
 * the dispatch round, because epoll_wait may already have returned an event
 * that points at it.  Calls from other threads queue under `lock` and wake the
 * loop through an eventfd.
 *
 * Fairness.  What a round does is fixed when it begins: the events that
 * epoll_wait returned, the calls that were queued, the timers that were armed.
 * What callbacks and other threads add meanwhile waits for the next round, so
 * nobody who always has more to do (a guest's vCPUs call in here) can keep the
 * others from their turn.
 */
#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_PER_ROUND 64

struct wslx_watch {
	struct wslx_watch *next, *prev;
	struct wslx_loop *loop;
	wslx_watch_fn fn;
	void *opaque;
	uint32_t events;
	int fd;
	bool dead;
};

struct wslx_timer {
	struct wslx_timer *next, *prev;
	struct wslx_loop *loop;
	wslx_timer_fn fn;
	void *opaque;
	int64_t due_ms;
	uint64_t armed_in; /* round */
	bool armed;
	bool dead;
};

struct call {
	struct call *next;
	wslx_call_fn fn;
	void *opaque;
	bool heap; /* posted: freed after it ran; otherwise the caller waits */
	bool done;
};

struct wslx_loop {
	int epfd;
	int wakefd;
	struct wslx_watch *watches, *dead_watches;
	struct wslx_timer *timers, *dead_timers;
	uint64_t round; /* of timers */
	pthread_t thread;
	atomic_bool running;
	atomic_bool stop;
	atomic_int stop_code;
	pthread_mutex_t lock; /* guards the call queue */
	pthread_cond_t called;
	struct call *calls, **calls_tail;
};

int64_t wslx_now_ms(void)
{
	return (int64_t)(wslx_now_ns() / 1000000);
}

uint64_t wslx_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int wslx_loop_new(struct wslx_loop **ret)
{
	struct wslx_loop *l = calloc(1, sizeof(*l));
	struct epoll_event ev = { .events = EPOLLIN };
	int r;

	if (!l)
		return -ENOMEM;
	l->calls_tail = &l->calls;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->called, NULL);
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->epfd < 0 || l->wakefd < 0 || epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wakefd, &ev) < 0) {
		r = -errno;
		wslx_loop_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

static void reap_dead(struct wslx_loop *l)
{
	while (l->dead_watches) {
		struct wslx_watch *w = l->dead_watches;

		l->dead_watches = w->next;
		free(w);
	}
	while (l->dead_timers) {
		struct wslx_timer *t = l->dead_timers;

		l->dead_timers = t->next;
		free(t);
	}
}

void wslx_loop_free(struct wslx_loop *l)
{
	if (!l)
		return;
	while (l->watches)
		wslx_watch_free(l->watches);
	while (l->timers)
		wslx_timer_free(l->timers);
	reap_dead(l);
	while (l->calls) {
		struct call *c = l->calls;

		l->calls = c->next;
		if (c->heap)
			free(c);
	}
	if (l->epfd >= 0)
		close(l->epfd);
	if (l->wakefd >= 0)
		close(l->wakefd);
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->called);
	free(l);
}

static void wake(struct wslx_loop *l)
{
	uint64_t one = 1;
	int saved = errno;

	if (write(l->wakefd, &one, sizeof(one)) < 0)
		(void)0; /* EAGAIN: already awake */
	errno = saved;
}

void wslx_loop_stop(struct wslx_loop *l, int code)
{
	atomic_store(&l->stop_code, code);
	atomic_store(&l->stop, true);
	wake(l);
}

int wslx_loop_watch(struct wslx_loop *l, int fd, uint32_t events, wslx_watch_fn fn, void *opaque,
		    struct wslx_watch **ret)
{
	struct wslx_watch *w = calloc(1, sizeof(*w));
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (!w)
		return -ENOMEM;
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		int r = -errno;

		free(w);
		return r;
	}
	w->loop = l;
	w->fd = fd;
	w->events = events;
	w->fn = fn;
	w->opaque = opaque;
	w->next = l->watches;
	if (w->next)
		w->next->prev = w;
	l->watches = w;
	if (ret)
		*ret = w;
	return 0;
}

int wslx_watch_set_events(struct wslx_watch *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (w->events == events)
		return 0;
	if (epoll_ctl(w->loop->epfd, EPOLL_CTL_MOD, w->fd, &ev) < 0)
		return -errno;
	w->events = events;
	return 0;
}

uint32_t wslx_watch_events(const struct wslx_watch *w)
{
	return w->events;
}

void wslx_watch_free(struct wslx_watch *w)
{
	struct wslx_loop *l;

	if (!w)
		return;
	l = w->loop;
	epoll_ctl(l->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	if (w->prev)
		w->prev->next = w->next;
	else
		l->watches = w->next;
	if (w->next)
		w->next->prev = w->prev;
	w->dead = true;
	w->next = l->dead_watches;
	l->dead_watches = w;
}

int wslx_loop_timer(struct wslx_loop *l, wslx_timer_fn fn, void *opaque, struct wslx_timer **ret)
{
	struct wslx_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->loop = l;
	t->fn = fn;
	t->opaque = opaque;
	t->next = l->timers;
	if (t->next)
		t->next->prev = t;
	l->timers = t;
	*ret = t;
	return 0;
}

void wslx_timer_arm(struct wslx_timer *t, uint64_t delay_ms)
{
	t->due_ms = wslx_now_ms() + (int64_t)WSLX_MIN(delay_ms, (uint64_t)INT64_MAX / 2);
	t->armed_in = t->loop->round;
	t->armed = true;
}

void wslx_timer_disarm(struct wslx_timer *t)
{
	t->armed = false;
}

void wslx_timer_free(struct wslx_timer *t)
{
	struct wslx_loop *l;

	if (!t)
		return;
	l = t->loop;
	if (t->prev)
		t->prev->next = t->next;
	else
		l->timers = t->next;
	if (t->next)
		t->next->prev = t->prev;
	t->dead = true;
	t->next = l->dead_timers;
	l->dead_timers = t;
}

static int until_next_timer(struct wslx_loop *l, int timeout_ms)
{
	int64_t now = 0;

	for (struct wslx_timer *t = l->timers; t; t = t->next) {
		int64_t left;

		if (!t->armed)
			continue;
		if (!now)
			now = wslx_now_ms();
		left = t->due_ms > now ? t->due_ms - now : 0;
		if (left > INT32_MAX)
			left = INT32_MAX;
		if (timeout_ms < 0 || left < timeout_ms)
			timeout_ms = (int)left;
	}
	return timeout_ms;
}

static void run_timers(struct wslx_loop *l)
{
	struct wslx_timer *t = l->timers;
	int64_t now = t ? wslx_now_ms() : 0;

	l->round++;
	while (t) {
		if (t->armed && t->armed_in != l->round && t->due_ms <= now) {
			t->armed = false;
			t->fn(t, t->opaque);
			/* The callback may have changed the list: start over.
			 * What it armed waits for the next round, so this ends. */
			t = l->timers;
			continue;
		}
		t = t->next;
	}
}

/* Those that are queued now; whoever queues one later wakes the loop again. */
static void run_calls(struct wslx_loop *l)
{
	struct call *c, *next;
	uint64_t n;

	if (read(l->wakefd, &n, sizeof(n)) < 0)
		(void)0;
	pthread_mutex_lock(&l->lock);
	c = l->calls;
	l->calls = NULL;
	l->calls_tail = &l->calls;
	pthread_mutex_unlock(&l->lock);
	for (; c; c = next) {
		next = c->next; /* a caller's own may be gone once it is done */
		c->fn(c->opaque);
		if (c->heap) {
			free(c);
			continue;
		}
		pthread_mutex_lock(&l->lock);
		c->done = true;
		pthread_cond_broadcast(&l->called);
		pthread_mutex_unlock(&l->lock);
	}
}

int wslx_loop_once(struct wslx_loop *l, int timeout_ms)
{
	struct epoll_event evs[EVENTS_PER_ROUND];
	int n = epoll_wait(l->epfd, evs, EVENTS_PER_ROUND, until_next_timer(l, timeout_ms));

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++) {
		struct wslx_watch *w = evs[i].data.ptr;

		if (!w)
			run_calls(l);
		else if (!w->dead)
			w->fn(w, w->fd, evs[i].events, w->opaque);
	}
	run_timers(l);
	reap_dead(l);
	return 0;
}

int wslx_loop_run(struct wslx_loop *l)
{
	int r = 0;

	l->thread = pthread_self();
	atomic_store(&l->running, true);
	while (!atomic_load(&l->stop) && r == 0)
		r = wslx_loop_once(l, -1);
	/* From here on calls run on their caller's thread; serve those that
	 * were queued before. */
	atomic_store(&l->running, false);
	run_calls(l);
	if (r == 0)
		r = atomic_load(&l->stop_code);
	atomic_store(&l->stop, false);
	return r;
}

static void enqueue(struct wslx_loop *l, struct call *c)
{
	c->next = NULL;
	*l->calls_tail = c;
	l->calls_tail = &c->next;
}

int wslx_loop_post(struct wslx_loop *l, wslx_call_fn fn, void *opaque)
{
	struct call *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->fn = fn;
	c->opaque = opaque;
	c->heap = true;
	pthread_mutex_lock(&l->lock);
	enqueue(l, c);
	pthread_mutex_unlock(&l->lock);
	wake(l);
	return 0;
}

void wslx_loop_call(struct wslx_loop *l, wslx_call_fn fn, void *opaque)
{
	struct call c = { .fn = fn, .opaque = opaque };

	if (!atomic_load(&l->running) || pthread_equal(l->thread, pthread_self())) {
		fn(opaque);
		return;
	}
	pthread_mutex_lock(&l->lock);
	enqueue(l, &c);
	wake(l);
	while (!c.done) {
		struct timespec ts;

		/* The loop may stop between our check and our queueing: then
		 * nobody serves the queue, so look again now and then. */
		clock_gettime(CLOCK_REALTIME, &ts);
		ts.tv_nsec += 50 * 1000 * 1000;
		if (ts.tv_nsec >= 1000000000) {
			ts.tv_sec++;
			ts.tv_nsec -= 1000000000;
		}
		pthread_cond_timedwait(&l->called, &l->lock, &ts);
		if (!c.done && !atomic_load(&l->running)) {
			pthread_mutex_unlock(&l->lock);
			run_calls(l);
			pthread_mutex_lock(&l->lock);
		}
	}
	pthread_mutex_unlock(&l->lock);
}
