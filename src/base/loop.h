/*
 * Event loop: one thread, one epoll instance.
 *
 * Threads: everything but wslx_loop_post(), wslx_loop_call() and
 * wslx_loop_stop() is called on the loop's own thread, or before the loop
 * runs.  Callbacks may add and remove any watch or timer, their own included;
 * a removed watch is never called again, even if its event was already
 * fetched.  No locks are held during callbacks.
 *
 * Each round serves what was ready, queued or armed when it began, and no
 * more: a callback that has more to do arms a timer with 0 and gets its next
 * turn after everybody else had theirs.
 */
#ifndef WSLX_BASE_LOOP_H
#define WSLX_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/macros.h"

struct wslx_loop;
struct wslx_watch;
struct wslx_timer;

typedef void (*wslx_watch_fn)(struct wslx_watch *w, int fd, uint32_t events, void *opaque);
typedef void (*wslx_timer_fn)(struct wslx_timer *t, void *opaque);
typedef void (*wslx_call_fn)(void *opaque);

WSLX_MUST_CHECK int wslx_loop_new(struct wslx_loop **ret);
void wslx_loop_free(struct wslx_loop *loop); /* NULL is fine; frees remaining watches and timers */

/* Runs until wslx_loop_stop.  Returns the code given there, or -errno. */
int wslx_loop_run(struct wslx_loop *loop);
/* Any thread, and async-signal-safe. */
void wslx_loop_stop(struct wslx_loop *loop, int code);
/* One round: waits up to timeout_ms (-1 = for ever) and dispatches.  Returns 0 or -errno. */
int wslx_loop_once(struct wslx_loop *loop, int timeout_ms);

/* events: EPOLLIN | EPOLLOUT | ...; fd is borrowed. */
WSLX_MUST_CHECK int wslx_loop_watch(struct wslx_loop *loop, int fd, uint32_t events, wslx_watch_fn fn, void *opaque,
				    struct wslx_watch **ret);
int wslx_watch_set_events(struct wslx_watch *w, uint32_t events);
uint32_t wslx_watch_events(const struct wslx_watch *w);
void wslx_watch_free(struct wslx_watch *w); /* before the fd is closed; NULL is fine */

/* One-shot timers on CLOCK_MONOTONIC; a timer is disarmed when it fires and
 * may be armed again from its callback. */
WSLX_MUST_CHECK int wslx_loop_timer(struct wslx_loop *loop, wslx_timer_fn fn, void *opaque, struct wslx_timer **ret);
void wslx_timer_arm(struct wslx_timer *t, uint64_t delay_ms);
void wslx_timer_disarm(struct wslx_timer *t);
void wslx_timer_free(struct wslx_timer *t); /* NULL is fine */

/* Any thread: run fn(opaque) on the loop thread, soon.  -ENOMEM possible. */
WSLX_MUST_CHECK int wslx_loop_post(struct wslx_loop *loop, wslx_call_fn fn, void *opaque);
/* Any thread: the same and wait until it has returned.  On the loop's own
 * thread, or when the loop is not running yet, it is a direct call.
 * Never call while holding a lock that fn or another callback takes. */
void wslx_loop_call(struct wslx_loop *loop, wslx_call_fn fn, void *opaque);

int64_t wslx_now_ms(void); /* CLOCK_MONOTONIC */
uint64_t wslx_now_ns(void);

#endif
