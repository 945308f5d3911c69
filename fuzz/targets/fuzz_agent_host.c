/*
 * The host's side of the agent protocol against a hostile agent.
 *
 * Input: one byte of options, then bytes the agent sends.  Option 1: they are
 * records (type, flags, channel, id, u16 length, body) that are made into
 * frames behind a valid HELLO, so that the fuzzer gets past the handshake.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agentc/agentc.h"

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

static const struct wslx_agentc_events events = { .closed = on_closed, .event = on_event };

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

static void send_records(int fd, const uint8_t *p, size_t n)
{
	static const uint8_t hello[] = { 16,   0,    0,    0,    1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
					 0x57, 0x58, 0x41, 0x47, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0 };

	(void)!write(fd, hello, sizeof(hello));
	while (n >= 6) {
		size_t len = (size_t)p[4] | (size_t)p[5] << 8;
		uint8_t h[16] = { 0 };

		len = len < n - 6 ? len : n - 6;
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
	int sv[2];

	if (size < 1 || size > 60000)
		return 0;
	signal(SIGPIPE, SIG_IGN);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) < 0 || wslx_loop_new(&loop) < 0)
		abort();
	s.options = data[0];
	if (wslx_agentc_new(loop, sv[0], &events, &s, &s.c) < 0)
		abort();
	requests(&s);
	if (s.options & 1)
		send_records(sv[1], data + 1, size - 1);
	else
		(void)!write(sv[1], data + 1, size - 1);
	for (unsigned i = 0; i < ROUNDS; i++) {
		if (wslx_loop_once(loop, 0) < 0)
			abort();
		while (read(sv[1], sink, sizeof(sink)) > 0)
			;
		if (i == ROUNDS - 4)
			shutdown(sv[1], SHUT_RDWR);
	}
	wslx_agentc_free(s.c);
	close(sv[1]);
	wslx_loop_free(loop);
	return 0;
}
