/*
 * The host's side of the agent protocol against a hostile agent.
 *
 * Input: one byte of options, then bytes the agent sends.  Option 1: they are
 * records (type, flags, channel, id, u16 length, body) that are made into
 * frames behind a valid HELLO, so that the fuzzer gets past the handshake.
 * Option 2: the connection is made through the machine's socket, whose answer
 * comes first.  Option 4: more requests.  Option 8: input is closed early.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent_codec.h"
#include "agentc/agentc.h"
#include "os/linux/fd.h"

#define ROUNDS 24

struct side {
	struct wslx_agentc *c;
	struct wslx_agentc_exec *execs[3];
	uint8_t options;
	unsigned calls;
};

static void on_reply(void *opaque, const struct wslx_agentc_reply *r)
{
	struct side *s = opaque;

	s->calls += (unsigned)strlen(r->text);
	if ((s->options & 0x10) && s->c) {
		wslx_agentc_free(s->c);
		s->c = NULL;
		memset(s->execs, 0, sizeof(s->execs));
	}
}

static void on_data(void *opaque, unsigned stream, const uint8_t *p, size_t n)
{
	struct side *s = opaque;

	for (unsigned i = 0; i < 3 && s->c; i++)
		if (s->execs[i])
			wslx_agentc_exec_consumed(s->execs[i], stream, n);
	if ((s->options & 0x20) && s->c && s->execs[0]) {
		wslx_agentc_exec_free(s->execs[0]);
		s->execs[0] = NULL;
	}
}

static void on_writable(void *opaque, unsigned stream)
{
	static const uint8_t bytes[70000];
	struct side *s = opaque;

	for (unsigned i = 0; i < 3 && s->c; i++)
		if (s->execs[i])
			s->calls += (unsigned)wslx_agentc_exec_write(s->execs[i], stream, bytes, sizeof(bytes));
	for (unsigned i = 0; i < 3 && s->c && (s->options & 8); i++)
		if (s->execs[i])
			wslx_agentc_exec_close(s->execs[i], stream);
}

static void on_stream(void *opaque, unsigned stream)
{
	struct side *s = opaque;

	if (s->c && s->execs[1])
		wslx_agentc_exec_stop(s->execs[1], stream);
}

static void on_exited(void *opaque, const struct wslx_agentc_exit *x)
{
	struct side *s = opaque;

	s->calls += (unsigned)strlen(x->text);
}

static const struct wslx_agentc_exec_ops exec_ops = {
	.data = on_data,
	.eof = on_stream,
	.writable = on_writable,
	.stopped = on_stream,
	.exited = on_exited,
};

static void on_closed(void *opaque, const struct wslx_err *err)
{
	struct side *s = opaque;

	s->calls++;
}

static void on_event(void *opaque, const struct wslx_agent_event *ev)
{
	struct side *s = opaque;

	s->calls += ev->kind;
}

static void on_ready(void *opaque, const struct wslx_agent_hello *agent)
{
	struct side *s = opaque;

	if (!wslx_agentc_is_ready(s->c) || wslx_agentc_hello(s->c) != agent)
		abort();
}

static const struct wslx_agentc_events events = { .ready = on_ready, .closed = on_closed, .event = on_event };

/* Behind those that the corpus knows by their ids. */
static void more_requests(struct side *s)
{
	static struct wslx_agent_config config = { .hostname = "h", .has_mac = true, .n_dns = 1 };
	static const struct wslx_agent_winsize ws = { 25, 80, 0, 0 };

	if (wslx_agentc_config(s->c, &config, on_reply, s) < 0 ||
	    wslx_agentc_distro_stop(s->c, "d", 1, on_reply, s) < 0 ||
	    wslx_agentc_shutdown(s->c, WSLX_AGENT_REBOOT, 1, on_reply, s) < 0 ||
	    wslx_agentc_resume(s->c, on_reply, s) < 0)
		abort();
	for (unsigned i = 0; i < 3; i++) {
		wslx_agentc_exec_winsize(s->execs[i], &ws);
		wslx_agentc_exec_signal(s->execs[i], 15);
		s->calls += (unsigned)wslx_agentc_exec_room(s->execs[i], WSLX_STREAM_STDIN);
	}
}

static void requests(struct side *s)
{
	static const char *const argv[] = { "a", NULL };
	struct wslx_agent_exec m = { .argv = argv, .streams = { 1, 1, 1 }, .window = 4096 };
	struct wslx_agent_distro d = { .name = "d", .serial = "s" };
	struct wslx_agentc_fds fds = { .in = -1, .out = -1, .err = -1, .tty_in = -1, .tty_out = -1 };
	struct wslx_agentc_pump *p;

	/* Ids 1 to 5, then the execs' 6 to 9 on channels 1 to 4. */
	if (wslx_agentc_ping(s->c, on_reply, s) < 0 || wslx_agentc_status(s->c, on_reply, s) < 0 ||
	    wslx_agentc_distro_start(s->c, &d, on_reply, s) < 0 || wslx_agentc_sync(s->c, on_reply, s) < 0 ||
	    wslx_agentc_pause(s->c, on_reply, s) < 0)
		abort();
	for (unsigned i = 0; i < 3; i++) {
		m.flags = i == 2 ? WSLX_EXEC_TTY : 0;
		if (wslx_agentc_exec_start(s->c, &m, &exec_ops, s, &s->execs[i]) < 0)
			abort();
	}
	/* Freed with the connection at the latest, so it needs no handle. */
	m.streams[0] = m.streams[1] = m.streams[2] = 0;
	if (wslx_agentc_exec_fds(s->c, &m, &fds, NULL, NULL, NULL, &p) < 0)
		abort();
	wslx_agentc_pump_free(p);
}

static char socket_path[] = "/dev/shm/wslx-fuzz-XXXXXX/s";
static int listener = -1;

static void remove_socket(void)
{
	unlink(socket_path);
	*strrchr(socket_path, '/') = 0;
	rmdir(socket_path);
}

static void open_listener(void)
{
	char *slash = strrchr(socket_path, '/');

	*slash = 0;
	if (!mkdtemp(socket_path))
		abort();
	*slash = '/';
	listener = wslx_unix_listen(socket_path, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 4);
	if (listener < 0)
		abort();
	atexit(remove_socket);
}

/* The connection, and the agent's end of it. */
static int open_connection(struct wslx_loop *loop, struct side *s)
{
	char line[64];
	int sv[2], fd;

	if (!(s->options & 2)) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) < 0 ||
		    wslx_agentc_new(loop, sv[0], &events, s, &s->c) < 0)
			abort();
		return sv[1];
	}
	if (listener < 0)
		open_listener();
	if (wslx_agentc_connect(loop, socket_path, 1000, &events, s, &s->c, NULL) < 0)
		abort();
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 || read(fd, line, sizeof(line)) < 9 || memcmp(line, "CONNECT ", 8) != 0)
		abort();
	if (s->options & 1)
		(void)!write(fd, "OK 1\n", 5);
	return fd;
}

static void send_records(int fd, const uint8_t *p, size_t n)
{
	static const uint8_t hello[] = { 16,   0,    0,    0,    1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
					 0x57, 0x58, 0x41, 0x47, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0 };

	(void)!write(fd, hello, sizeof(hello));
	while (n >= 6) {
		size_t len = (size_t)p[4] | (size_t)p[5] << 8;
		uint8_t h[16] = { 0 };

		len = len < n - 6 ? len : n - 6;
		codec_check(p + 6, len);
		wslx_agent_header_encode(
			&(struct wslx_agent_header) {
				.len = (uint32_t)len, .type = p[0], .flags = p[1], .channel = p[2], .id = p[3] },
			h);
		if (write(fd, h, sizeof(h)) < 0 || write(fd, p + 6, len) < 0)
			return;
		p += 6 + len;
		n -= 6 + len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wslx_loop *loop;
	struct side s = { 0 };
	char sink[65536];
	int fd;

	if (size < 1 || size > 60000)
		return 0;
	signal(SIGPIPE, SIG_IGN);
	if (wslx_loop_new(&loop) < 0)
		abort();
	s.options = data[0];
	fd = open_connection(loop, &s);
	requests(&s);
	if (s.options & 4)
		more_requests(&s);
	if (s.options & 1)
		send_records(fd, data + 1, size - 1);
	else
		(void)!write(fd, data + 1, size - 1);
	for (unsigned i = 0; i < ROUNDS; i++) {
		if (wslx_loop_once(loop, 0) < 0)
			abort();
		while (read(fd, sink, sizeof(sink)) > 0)
			;
		if (i == ROUNDS - 4)
			shutdown(fd, SHUT_RDWR);
	}
	wslx_agentc_free(s.c);
	close(fd);
	wslx_loop_free(loop);
	return 0;
}
