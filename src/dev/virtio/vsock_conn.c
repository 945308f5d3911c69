/*
 * Connections of the vsock device: slots, hash table, ready list, and the path
 * from the guest's packets to the host's sockets.
 *
 * Theory of operation.  A connection has one host socket, watched edge-
 * triggered: an edge sets `readable` or flushes the backlog, so a socket that
 * cannot be served (no credit, no receive buffers) costs nothing until that
 * changes.  Writing interest is registered only while a backlog exists.
 *
 * What the guest sent and the host did not take yet waits in the backlog.  The
 * guest may send at most buf_alloc bytes beyond fwd_cnt (5.10.6.3); a guest
 * that sends more loses the connection, so the backlog never grows past
 * buf_alloc.  The window shrinks as connections grow in number, which bounds
 * what all of them together can hold (see window_for).
 */
#include "dev/virtio/vsock_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "dev/virtio/iov.h"
#include "os/linux/fd.h"

uint32_t wslx_vsock_bucket(const struct wslx_vsock *v, uint32_t host_port, uint32_t guest_port)
{
	return (uint32_t)wslx_siphash_u64(&v->hash_key, (uint64_t)host_port << 32 | guest_port) & v->hash_mask;
}

/* At most 64 * 256 KiB + 448 * 64 KiB + 3584 * 32 KiB = 156 MiB in all. */
static uint32_t window_for(unsigned n_conns)
{
	if (n_conns < 64)
		return 256 * 1024;
	return n_conns < 512 ? 64 * 1024 : 32 * 1024;
}

struct vsock_conn *wslx_vsock_conn_find(struct wslx_vsock *v, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_conn *c = v->hash[wslx_vsock_bucket(v, host_port, guest_port)];

	while (c && (c->host_port != host_port || c->guest_port != guest_port))
		c = c->hash_next;
	return c;
}

struct vsock_conn *wslx_vsock_conn_new(struct wslx_vsock *v, enum conn_state state, uint32_t host_port,
				       uint32_t guest_port)
{
	struct vsock_conn *c = v->free_conns;
	uint16_t generation;
	uint32_t h;

	if (c)
		v->free_conns = c->next;
	else if (v->n_slots_used < v->max_conns)
		c = &v->conns[v->n_slots_used++];
	else
		return NULL;
	generation = (uint16_t)(c->generation + 1);
	*c = (struct vsock_conn) {
		.state = state,
		.generation = generation,
		.host_port = host_port,
		.guest_port = guest_port,
		.fd = -1,
		.dev = v,
		.buf_alloc = window_for(v->n_conns),
	};
	h = wslx_vsock_bucket(v, host_port, guest_port);
	c->hash_next = v->hash[h];
	v->hash[h] = c;
	v->n_conns++;
	v->n_opened++;
	return c;
}

/* Does nothing when c is not in the table. */
void wslx_vsock_conn_unhash(struct vsock_conn *c)
{
	struct wslx_vsock *v = c->dev;
	struct vsock_conn **p = &v->hash[wslx_vsock_bucket(v, c->host_port, c->guest_port)];

	while (*p && *p != c)
		p = &(*p)->hash_next;
	if (*p)
		*p = c->hash_next;
	c->hash_next = NULL;
}

void wslx_vsock_conn_ready(struct vsock_conn *c)
{
	struct wslx_vsock *v = c->dev;

	wslx_vsock_schedule(v);
	if (c->ready)
		return;
	c->ready = true;
	c->next = NULL;
	c->prev = v->ready_tail;
	if (v->ready_tail)
		v->ready_tail->next = c;
	else
		v->ready_head = c;
	v->ready_tail = c;
}

void wslx_vsock_conn_unready(struct vsock_conn *c)
{
	struct wslx_vsock *v = c->dev;

	if (!c->ready)
		return;
	c->ready = false;
	*(c->prev ? &c->prev->next : &v->ready_head) = c->next;
	*(c->next ? &c->next->prev : &v->ready_tail) = c->prev;
	c->next = c->prev = NULL;
}

void wslx_vsock_conn_wait(struct vsock_conn *c, uint64_t timeout_ms)
{
	struct wslx_vsock *v = c->dev;

	c->waiting = true;
	c->deadline_ms = wslx_now_ms() + (int64_t)timeout_ms;
	c->wait_next = NULL;
	c->wait_prev = v->wait_tail;
	*(v->wait_tail ? &v->wait_tail->wait_next : &v->wait_head) = c;
	v->wait_tail = c;
	wslx_vsock_arm_sweep(v);
}

void wslx_vsock_conn_unwait(struct vsock_conn *c)
{
	struct wslx_vsock *v = c->dev;

	if (!c->waiting)
		return;
	c->waiting = false;
	*(c->wait_prev ? &c->wait_prev->wait_next : &v->wait_head) = c->wait_next;
	*(c->wait_next ? &c->wait_next->wait_prev : &v->wait_tail) = c->wait_prev;
}

static void drop_backlog(struct vsock_conn *c)
{
	c->fwd_cnt += c->backlog_len;
	free(c->backlog);
	c->backlog = NULL;
	c->backlog_cap = c->backlog_off = c->backlog_len = 0;
}

void wslx_vsock_conn_close_fd(struct vsock_conn *c)
{
	char scratch[4096];

	wslx_watch_free(c->watch);
	c->watch = NULL;
	if (c->fd < 0)
		return;
	/* Closing a unix socket with unread input makes the peer's next read
	 * fail with ECONNRESET, even when all our output is waiting for it.
	 * After SHUT_RD nothing new can arrive, so this ends. */
	shutdown(c->fd, SHUT_RD);
	for (unsigned i = 0; i < 1024 && read(c->fd, scratch, sizeof(scratch)) > 0; i++)
		;
	close(c->fd);
	c->fd = -1;
}

void wslx_vsock_conn_free(struct vsock_conn *c)
{
	struct wslx_vsock *v = c->dev;

	if (c->state == CONN_GUEST_WAIT || c->state == CONN_GUEST_GONE)
		v->n_unanswered--;
	wslx_vsock_conn_unhash(c);
	wslx_vsock_conn_unready(c);
	wslx_vsock_conn_unwait(c);
	wslx_vsock_conn_close_fd(c);
	drop_backlog(c);
	c->state = CONN_FREE;
	c->next = v->free_conns;
	v->free_conns = c;
	v->n_conns--;
}

void wslx_vsock_conn_drop(struct vsock_conn *c)
{
	if (c->state != CONN_UP || c->backlog_len == 0) {
		wslx_vsock_conn_free(c);
		return;
	}
	wslx_vsock_conn_unhash(c);
	wslx_vsock_conn_unready(c);
	c->state = CONN_LINGER;
	c->owe = 0;
	shutdown(c->fd, SHUT_RD); /* host writers learn at once */
}

void wslx_vsock_conn_reset(struct vsock_conn *c)
{
	if (c->state == CONN_LINGER) {
		wslx_vsock_conn_free(c);
		return;
	}
	wslx_vsock_conn_unwait(c);
	wslx_vsock_conn_close_fd(c);
	drop_backlog(c);
	c->state = CONN_DYING;
	c->owe = OWE_RST;
	c->dev->n_resets++;
	wslx_vsock_conn_ready(c);
}

uint32_t wslx_vsock_conn_credit(const struct vsock_conn *c)
{
	uint32_t in_flight = c->tx_cnt - c->peer_fwd_cnt;

	/* A guest that shrinks its window or lies about fwd_cnt gets nothing. */
	return in_flight >= c->peer_buf_alloc ? 0 : c->peer_buf_alloc - in_flight;
}

void wslx_vsock_conn_owe(struct vsock_conn *c, uint32_t owe)
{
	c->owe |= owe;
	wslx_vsock_conn_ready(c);
}

static void check_credit(struct vsock_conn *c)
{
	/* Half a window: the guest can always send while the update travels. */
	if (c->state == CONN_UP && c->fwd_cnt - c->told_fwd_cnt >= c->buf_alloc / 2)
		wslx_vsock_conn_owe(c, OWE_CREDIT_UPDATE);
}

/* Is there news for the guest about which directions have ended? */
void wslx_vsock_conn_check_shutdown(struct vsock_conn *c)
{
	uint32_t flags = 0;

	if (c->state != CONN_UP)
		return;
	if (c->host_eof)
		flags |= VSOCK_SHUT_SEND;
	if (c->host_deaf || (c->host_eof && c->wr_shut))
		flags |= VSOCK_SHUT_RCV;
	if (flags & ~c->told_shut) {
		c->told_shut |= flags;
		wslx_vsock_conn_owe(c, OWE_SHUTDOWN);
	}
}

static void host_is_deaf(struct vsock_conn *c)
{
	c->host_deaf = true;
	drop_backlog(c);
	if (c->state == CONN_LINGER) {
		wslx_vsock_conn_free(c);
		return;
	}
	if (c->watch)
		wslx_watch_set_events(c->watch, EPOLLIN | EPOLLRDHUP | EPOLLET);
	check_credit(c);
	wslx_vsock_conn_check_shutdown(c);
}

static int backlog_append(struct vsock_conn *c, const struct iovec *iov, unsigned n_iov, uint64_t off, uint32_t n)
{
	if (c->backlog_off && c->backlog_off + c->backlog_len + n > c->backlog_cap) {
		memmove(c->backlog, c->backlog + c->backlog_off, c->backlog_len);
		c->backlog_off = 0;
	}
	if (c->backlog_len + n > c->backlog_cap) {
		uint32_t cap = c->backlog_cap ? c->backlog_cap : 16 * 1024;
		uint8_t *p;

		/* Ends: len + n <= buf_alloc, which the caller checked. */
		while (cap < c->backlog_len + n)
			cap *= 2;
		p = realloc(c->backlog, cap);
		if (!p)
			return -ENOMEM;
		c->backlog = p;
		c->backlog_cap = cap;
	}
	wslx_iov_read(iov, n_iov, off, c->backlog + c->backlog_off + c->backlog_len, n);
	c->backlog_len += n;
	return 0;
}

static ssize_t send_some(int fd, struct iovec *iov, unsigned n_iov)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n_iov };
	ssize_t r;

	do {
		r = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == EAGAIN ? 0 : -errno;
	return r;
}

void wslx_vsock_conn_deliver(struct vsock_conn *c, const struct iovec *iov, unsigned n_iov, uint64_t off, uint32_t n)
{
	struct wslx_vsock *v = c->dev;
	uint32_t sent = 0;

	c->rx_cnt += n;
	if (c->host_deaf || c->fd < 0) {
		c->fwd_cnt += n;
		check_credit(c);
		return;
	}
	if (c->backlog_len == 0) {
		uint64_t have;
		unsigned cut = wslx_iov_slice(iov, n_iov, off, n, v->iov, ARRAY_SIZE(v->iov), &have);
		ssize_t r = send_some(c->fd, v->iov, cut);

		if (r < 0) {
			c->fwd_cnt += n;
			host_is_deaf(c);
			return;
		}
		sent = (uint32_t)r;
	}
	c->fwd_cnt += sent;
	if (sent < n) {
		if (backlog_append(c, iov, n_iov, off + sent, n - sent) < 0) {
			wslx_vsock_conn_reset(c);
			return;
		}
		wslx_watch_set_events(c->watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	}
	check_credit(c);
}

/* All of the guest's bytes are with the host, and the guest sends no more. */
static void finish_host_writes(struct vsock_conn *c)
{
	if (c->wr_shut || c->fd < 0)
		return;
	shutdown(c->fd, SHUT_WR);
	c->wr_shut = true;
	wslx_vsock_conn_check_shutdown(c);
}

/* False: c was freed. */
static bool flush_backlog(struct vsock_conn *c)
{
	while (c->backlog_len) {
		struct iovec iov = { c->backlog + c->backlog_off, c->backlog_len };
		ssize_t r = send_some(c->fd, &iov, 1);

		if (r < 0) {
			bool lingered = c->state == CONN_LINGER;

			host_is_deaf(c);
			return !lingered;
		}
		if (r == 0)
			break;
		c->backlog_off += (uint32_t)r;
		c->backlog_len -= (uint32_t)r;
		c->fwd_cnt += (uint32_t)r;
	}
	check_credit(c);
	if (c->backlog_len)
		return true;
	drop_backlog(c);
	if (c->state == CONN_LINGER) {
		wslx_vsock_conn_free(c);
		return false;
	}
	wslx_watch_set_events(c->watch, EPOLLIN | EPOLLRDHUP | EPOLLET);
	if (c->guest_shut & VSOCK_SHUT_SEND)
		finish_host_writes(c);
	return true;
}

static void on_host_event(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct vsock_conn *c = opaque;

	if ((events & EPOLLOUT) && !flush_backlog(c))
		return;
	if (events & (EPOLLHUP | EPOLLERR)) {
		if (c->state == CONN_HOST_WAIT) {
			wslx_vsock_conn_reset(c);
			return;
		}
		c->host_hup = true;
		if (c->state == CONN_LINGER) {
			wslx_vsock_conn_free(c);
			return;
		}
		if (!c->host_deaf)
			host_is_deaf(c);
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
		c->readable = true;
		wslx_vsock_conn_ready(c);
	}
}

int wslx_vsock_conn_attach(struct vsock_conn *c, int fd)
{
	int r = wslx_fd_nonblock(fd, 1);

	if (r < 0)
		return r;
	r = wslx_loop_watch(c->dev->d.loop, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, on_host_event, c, &c->watch);
	if (r < 0)
		return r;
	c->fd = fd;
	return 0;
}

/* The guest accepted a host client. */
void wslx_vsock_conn_came_up(struct vsock_conn *c)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);
	struct iovec iov = { line, (size_t)n };

	wslx_vsock_conn_unwait(c);
	c->state = CONN_UP;
	/* Fits into the empty buffer of a fresh socket, or its reader is gone. */
	if (send_some(c->fd, &iov, 1) != n) {
		wslx_vsock_conn_reset(c);
		return;
	}
	wslx_vsock_conn_ready(c);
}

void wslx_vsock_conn_guest_shutdown(struct vsock_conn *c, uint32_t flags)
{
	c->guest_shut |= flags & VSOCK_SHUT_BOTH;
	if (c->fd < 0)
		return;
	if ((c->guest_shut & VSOCK_SHUT_RCV) && !c->host_eof) {
		/* Host writers get EPIPE; what they wrote before is lost, as on
		 * any socket whose reader closes. */
		shutdown(c->fd, SHUT_RD);
		c->host_eof = true;
		c->readable = false;
		wslx_vsock_conn_check_shutdown(c);
	}
	if ((c->guest_shut & VSOCK_SHUT_SEND) && c->backlog_len == 0)
		finish_host_writes(c);
}
