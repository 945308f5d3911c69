#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/run_internal.h"

int wslx_run_send(struct wslx_run *r, uint32_t type, uint32_t id, int fd)
{
	const struct wslx_link_msg m = { .type = type, .id = id, .fd = fd };

	return r->link_fd < 0 ? -ECONNRESET : wslx_link_send(r->link_fd, &m);
}

bool wslx_run_may_send_later(int err)
{
	return err == -ETOOMANYREFS || err == -EAGAIN;
}

int wslx_run_set_net(struct wslx_run *r, int fd)
{
	return wslx_run_send(r, WSLX_LINK_NET_FD, 0, fd);
}

/* An end that we have not been told of yet is one all the same. */
int wslx_run_ask(int sock, const struct wslx_link_msg *m)
{
	int e = sock < 0 ? -ECONNRESET : wslx_link_send(sock, m);

	return e == -EPIPE ? -ECONNRESET : e;
}

int wslx_run_request(struct wslx_run *r, uint32_t type, uint32_t reply_type, wslx_run_reply_fn fn, void *opaque)
{
	struct wslx_link_msg m = { .type = type, .fd = -1 };

	return wslx_run_request_msg(r, &m, reply_type, fn, opaque);
}

int wslx_run_request_msg(struct wslx_run *r, struct wslx_link_msg *m, uint32_t reply_type, wslx_run_reply_fn fn,
			 void *opaque)
{
	size_t i = 0;
	int e;

	while (i < MAX_REQUESTS && r->requests[i].id)
		i++;
	if (i == MAX_REQUESTS)
		return -EBUSY;
	if (++r->next_id == 0)
		r->next_id = 1;
	m->id = r->next_id;
	e = wslx_run_ask(r->link_fd, m);
	if (e == 0)
		r->requests[i] =
			(struct request) { .id = r->next_id, .reply_type = reply_type, .fn = fn, .opaque = opaque };
	return e;
}

void wslx_run_fail_requests(struct wslx_run *r)
{
	for (size_t i = 0; i < MAX_REQUESTS; i++) {
		struct request q = r->requests[i];

		r->requests[i] = (struct request) { 0 };
		if (q.id)
			q.fn(q.opaque, -ECONNRESET, 0, "");
	}
}

static int on_reply(struct wslx_run *r, const struct wslx_link_msg *m)
{
	for (size_t i = 0; i < MAX_REQUESTS; i++) {
		struct request q = r->requests[i];

		if (!q.id || q.id != m->id || q.reply_type != m->type)
			continue;
		r->requests[i] = (struct request) { 0 };
		/* PAUSED: b is an errno value. */
		if (m->type == WSLX_LINK_PAUSED && m->b)
			q.fn(q.opaque, m->b < 4096 ? -(int)m->b : -EIO, m->a, m->text);
		else
			q.fn(q.opaque, 0, m->a, m->text);
		return 0;
	}
	return -EPROTO;
}

static int on_message(struct wslx_run *r, const struct wslx_link_msg *m)
{
	switch (m->type) {
	case WSLX_LINK_READY:
		return 0;
	case WSLX_LINK_FIRST_ENTRY:
		r->p.events->first_entry(r->p.opaque, m->a);
		return 0;
	case WSLX_LINK_POWEROFF:
		wslx_run_note_end(r, WSLX_RUN_POWEROFF, "");
		return 0;
	case WSLX_LINK_RESET:
		wslx_run_note_end(r, m->a == WSLX_RESET_TRIPLE_FAULT ? WSLX_RUN_TRIPLE_FAULT : WSLX_RUN_RESET, "");
		return 0;
	case WSLX_LINK_FAILED:
		wslx_run_note_end(r, WSLX_RUN_FAILED, m->text);
		return 0;
	case WSLX_LINK_CONNECT:
		r->p.events->connect(r->p.opaque, m->id, m->a);
		return 0;
	case WSLX_LINK_NET_DOWN:
		return 0; /* passt's own end says the same, and why */
	case WSLX_LINK_HOST_FULL:
		if (m->id >= r->p.config->n_disks || m->a > 1)
			return -EPROTO;
		r->p.events->host_full(r->p.opaque, m->id, m->a);
		return 0;
	case WSLX_LINK_STATS_REPLY:
	case WSLX_LINK_WINDOW_MAPPED:
	case WSLX_LINK_PAUSED:
		return on_reply(r, m);
	default:
		return -EPROTO;
	}
}

/* 1: one message handled, 0: none there, -errno: closed. */
static int receive(struct wslx_run *r)
{
	struct wslx_link_msg m;
	int e = wslx_link_recv(r->link_fd, &m);

	/* A peer that ended without reading all we sent: the kernel says so
	 * first, once, and has its last words still queued behind. */
	if (e == -ECONNRESET)
		e = wslx_link_recv(r->link_fd, &m);
	if (e == -EAGAIN || e == -EINTR)
		return 0;
	if (e == 0)
		return -ECONNRESET;
	if (e < 0)
		return e;
	wslx_close(&m.fd); /* nothing sent this way carries one */
	for (char *c = m.text; *c; c++)
		if (((unsigned char)*c < 0x20 && *c != '\n') || *c == 0x7f)
			*c = '?';
	e = on_message(r, &m);
	return e < 0 ? e : 1;
}

static void broken(struct wslx_run *r, int e)
{
	wslx_run_link_close(r);
	if (e == -ECONNRESET)
		return; /* its exit follows and says more */
	log_error("link to the child: %s", e == -EOVERFLOW ? "no end of messages" : strerror(-e));
	wslx_run_note_end(r, WSLX_RUN_FAILED, "the confined process sent nonsense over the link and was ended");
	wslx_run_kill(r);
}

static void on_link(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_run *r = opaque;
	int e = receive(r);

	if (e < 0)
		broken(r, e);
}

/* A socket's buffer holds less than three hundred; a child that still lives may
 * write as fast as we read. */
#define DRAIN_MESSAGES 1024

void wslx_run_link_drain(struct wslx_run *r)
{
	for (int i = 0; r->link_fd >= 0 && i < DRAIN_MESSAGES; i++) {
		int e = receive(r);

		if (e < 0)
			broken(r, e);
		if (e <= 0)
			return;
	}
	if (r->link_fd >= 0)
		broken(r, -EOVERFLOW);
}

int wslx_run_link_watch(struct wslx_run *r)
{
	int e = wslx_fd_nonblock(r->link_fd, 1);

	return e < 0 ? e : wslx_loop_watch(r->p.loop, r->link_fd, EPOLLIN, on_link, r, &r->link_watch);
}

void wslx_run_link_close(struct wslx_run *r)
{
	wslx_watch_free(r->link_watch);
	r->link_watch = NULL;
	wslx_run_answers_drop(r);
	wslx_close(&r->link_fd);
}
