#include "base/listener.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"

#define RETRY_MS 100
/* Accepted before other watches get their turn. */
#define ACCEPTS_PER_ROUND 64

struct wslx_listener {
	int fd;
	wslx_accept_fn fn;
	void *opaque;
	struct wslx_watch *watch;
	struct wslx_timer *timer;
	bool held, failing;
};

static void update(struct wslx_listener *l)
{
	wslx_watch_set_events(l->watch, l->held || l->failing ? 0 : EPOLLIN);
}

static void on_timer(struct wslx_timer *t, void *opaque)
{
	struct wslx_listener *l = opaque;

	l->failing = false;
	update(l);
}

static bool is_over(int e)
{
	return e == EAGAIN || e == ECONNABORTED || e == EINTR;
}

static void on_listen(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	static __thread struct wslx_log_limit limit;
	struct wslx_listener *l = opaque;

	for (int i = 0; i < ACCEPTS_PER_ROUND && !l->held; i++) {
		struct sockaddr_storage peer = { 0 };
		socklen_t len = sizeof(peer);
		int conn = accept4(fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (conn < 0 && is_over(errno))
			return;
		if (conn < 0) {
			wslx_log_limited(&limit, WSLX_LOG_WARN, "cannot accept a connection: %s", strerror(errno));
			l->failing = true;
			wslx_timer_arm(l->timer, RETRY_MS);
			update(l);
			return;
		}
		l->fn(l->opaque, conn, (struct sockaddr *)&peer, len);
	}
}

int wslx_listener_new(struct wslx_loop *loop, int fd, wslx_accept_fn fn, void *opaque, struct wslx_listener **ret)
{
	struct wslx_listener *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	*l = (struct wslx_listener) { .fd = fd, .fn = fn, .opaque = opaque };
	r = wslx_loop_timer(loop, on_timer, l, &l->timer);
	if (r == 0)
		r = wslx_loop_watch(loop, fd, EPOLLIN, on_listen, l, &l->watch);
	if (r < 0) {
		wslx_listener_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

void wslx_listener_hold(struct wslx_listener *l, bool on)
{
	l->held = on;
	update(l);
}

void wslx_listener_free(struct wslx_listener *l)
{
	if (!l)
		return;
	wslx_watch_free(l->watch);
	wslx_timer_free(l->timer);
	free(l);
}
