/*
 * The host's way in: a listening unix socket whose clients send one line,
 * "CONNECT <port>\n".
 *
 * Trust boundary: clients are programs of the same user (the socket's folder
 * is private), but they may be broken.  Their number is bounded, so is the
 * line and the time they may take for it.  Exactly the line is consumed: a
 * client may send its first data right behind it.
 */
#include "dev/virtio/vsock_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/log.h"

#define CONNECT_LINE_MAX 32

static void on_listen(struct wslx_watch *w, int fd, uint32_t events, void *opaque);

/* Closes the client's socket unless it was taken out before. */
static void client_free(struct vsock_client *cl)
{
	struct wslx_vsock *v = cl->dev;

	*(cl->prev ? &cl->prev->next : &v->clients) = cl->next;
	*(cl->next ? &cl->next->prev : &v->clients_tail) = cl->prev;
	v->n_clients--;
	wslx_watch_free(cl->watch);
	wslx_close(&cl->fd);
	free(cl);
	if (v->accept_paused && v->listen_watch) {
		v->accept_paused = false;
		wslx_watch_set_events(v->listen_watch, EPOLLIN);
	}
}

/* "CONNECT <port>\n" with a decimal port below 2^32 - 1 (which means "any"). */
static int parse_line(const char *line, size_t len, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	size_t i = sizeof(word) - 1;
	uint64_t port = 0;

	if (len < i + 2 || memcmp(line, word, i) != 0 || line[len - 1] != '\n')
		return -EPROTO;
	for (; i < len - 1; i++) {
		if (line[i] < '0' || line[i] > '9')
			return -EPROTO;
		port = port * 10 + (uint64_t)(line[i] - '0');
		if (port >= UINT32_MAX)
			return -EPROTO;
	}
	*ret_port = (uint32_t)port;
	return 0;
}

static bool pick_host_port(struct wslx_vsock *v, uint32_t guest_port, uint32_t *ret)
{
	for (unsigned i = 0; i <= v->max_conns; i++) {
		uint32_t p = v->next_host_port;

		v->next_host_port = p == VSOCK_HOST_PORT_LAST ? VSOCK_HOST_PORT_FIRST : p + 1;
		if (!wslx_vsock_conn_find(v, p, guest_port)) {
			*ret = p;
			return true;
		}
	}
	return false;
}

static void connect_guest(struct wslx_vsock *v, int *fd, uint32_t guest_port)
{
	uint32_t host_port;
	struct vsock_conn *c;

	if (!v->d.active || v->d.broken || !pick_host_port(v, guest_port, &host_port))
		return;
	c = wslx_vsock_conn_new(v, CONN_HOST_WAIT, host_port, guest_port);
	if (!c) {
		log_debug("%s: no room for another connection", v->d.name);
		return;
	}
	if (wslx_vsock_conn_attach(c, *fd) < 0) {
		wslx_vsock_conn_free(c);
		return;
	}
	*fd = -1;
	wslx_vsock_conn_wait(c, VSOCK_GUEST_TIMEOUT_MS);
	wslx_vsock_conn_owe(c, OWE_REQUEST);
}

static void on_client(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct vsock_client *cl = opaque;
	struct wslx_vsock *v = cl->dev;
	char line[CONNECT_LINE_MAX];
	ssize_t n = recv(fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);
	const char *nl = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;
	uint32_t port;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (!nl) {
		/* Edge-triggered: more of the line is a new event. */
		if (n <= 0 || n == sizeof(line) || (events & (EPOLLRDHUP | EPOLLHUP)))
			client_free(cl);
		return;
	}
	n = nl - line + 1;
	if (recv(fd, line, (size_t)n, MSG_DONTWAIT) == n && parse_line(line, (size_t)n, &port) == 0) {
		wslx_watch_free(TAKE_PTR(cl->watch));
		connect_guest(v, &cl->fd, port);
	}
	client_free(cl);
}

static void pause_accept(struct wslx_vsock *v)
{
	v->accept_paused = true;
	wslx_watch_set_events(v->listen_watch, 0);
}

static void on_listen(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_vsock *v = opaque;

	/* Those that are served at once count as well: the others wait for the
	 * next round. */
	for (unsigned i = 0; i < VSOCK_MAX_CLIENTS && v->n_clients < VSOCK_MAX_CLIENTS; i++) {
		cleanup_close int cfd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct vsock_client *cl;

		if (cfd < 0) {
			if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
				return;
			/* Out of descriptors or memory, probably: the sweep tries again. */
			log_debug("%s: accept: %s", v->d.name, strerror(errno));
			pause_accept(v);
			wslx_vsock_arm_sweep(v);
			return;
		}
		cl = calloc(1, sizeof(*cl));
		if (!cl)
			return;
		cl->dev = v;
		cl->deadline_ms = wslx_now_ms() + VSOCK_CLIENT_TIMEOUT_MS;
		if (wslx_loop_watch(v->d.loop, cfd, EPOLLIN | EPOLLRDHUP | EPOLLET, on_client, cl, &cl->watch) < 0) {
			free(cl);
			return;
		}
		cl->fd = TAKE_FD(cfd);
		cl->prev = v->clients_tail;
		*(v->clients_tail ? &v->clients_tail->next : &v->clients) = cl;
		v->clients_tail = cl;
		v->n_clients++;
		wslx_vsock_arm_sweep(v);
		/* Most clients have written their line by now. */
		on_client(cl->watch, cl->fd, 0, cl);
	}
	if (v->n_clients == VSOCK_MAX_CLIENTS)
		pause_accept(v);
}

int wslx_vsock_host_start(struct wslx_vsock *v)
{
	return wslx_loop_watch(v->d.loop, v->listen_fd, EPOLLIN, on_listen, v, &v->listen_watch);
}

void wslx_vsock_host_drop_clients(struct wslx_vsock *v)
{
	while (v->clients)
		client_free(v->clients);
}

void wslx_vsock_host_stop(struct wslx_vsock *v)
{
	wslx_watch_free(v->listen_watch);
	v->listen_watch = NULL;
	wslx_vsock_host_drop_clients(v);
	wslx_close(&v->listen_fd);
}

void wslx_vsock_host_sweep(struct wslx_vsock *v, int64_t now)
{
	while (v->clients && v->clients->deadline_ms <= now)
		client_free(v->clients);
	if (v->accept_paused && v->n_clients < VSOCK_MAX_CLIENTS && v->listen_watch) {
		v->accept_paused = false;
		wslx_watch_set_events(v->listen_watch, EPOLLIN);
	}
}
