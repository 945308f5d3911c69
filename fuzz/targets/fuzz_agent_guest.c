/*
 * The agent's core against a hostile host, and against hostile processes.
 *
 * Input: steps of one byte and operands.  Most steps are frames from the host
 * (type, flags, channel, id, u16 length, body) behind a valid HELLO; the others
 * are what processes do: write, read, close, exit.  No process is started:
 * fork and launch are this file's own, and the far ends of all pipes stay with
 * the target.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* proc.c with pipes that the target holds on to. */
static int held_pipe2(int fds[2], int flags);
#define pipe2 held_pipe2
#include "../../src/agent/proc.c"
#undef pipe2

#include "agent_codec.h"

#define MAX_HELD 96
#define MAX_EXECS 12

static int held[MAX_HELD], n_held, n_execs, n_pipes;
static int status_write = -1;
static uint8_t status_kind;
static pid_t next_pid;
static bool quiet;

static int held_pipe2(int fds[2], int flags)
{
	int r = pipe2(fds, flags | O_NONBLOCK);

	if (r < 0)
		return r;
	if (n_pipes++ == 0) {
		status_write = dup(fds[1]);
	} else if (n_held + 2 <= MAX_HELD) {
		held[n_held++] = dup(fds[0]);
		held[n_held++] = dup(fds[1]);
	}
	return 0;
}

/* The "child" says what the step asked for and is never really there. */
pid_t wslx_guest_fork(uint64_t clone_flags, int cgroup_fd, int pidfd)
{
	struct launch_record r = { .kind = LAUNCH_PID, .code = 7 };

	if (status_write >= 0) {
		(void)!write(status_write, &r, sizeof(r));
		r.kind = status_kind & 3;
		memset(r.text, 'x', sizeof(r.text));
		if (status_kind & 4)
			(void)!write(status_write, &r, sizeof(r));
		wslx_close(&status_write);
	}
	/* Above any pid_max, so that kill() finds nobody. */
	return next_pid++;
}

void wslx_launch_child(const struct launch *l)
{
	abort();
}

static int place(void *opaque, const char *distro, struct wslx_guest_place *ret, char *text, size_t size)
{
	n_pipes = 0;
	if (n_execs >= MAX_EXECS || !strcmp(distro, "x")) {
		snprintf(text, size, "no");
		return -ENOENT;
	}
	n_execs++;
	return 0;
}

static void request(void *opaque, const struct wslx_guest_call *call, const struct wslx_agent_msg *m)
{
	struct wslx_guest *g = *(struct wslx_guest **)opaque;
	struct wslx_agent_config *c = malloc(sizeof(*c));
	struct wslx_agent_distro d;
	enum wslx_agent_shutdown how;
	uint32_t ms;
	int r = 0;

	if (!c)
		abort();
	if (m->h.type == WSLX_AGENT_CONFIG)
		r = wslx_agent_config_decode(m->body, m->h.len, c);
	else if (m->h.type == WSLX_AGENT_SHUTDOWN)
		r = wslx_agent_shutdown_decode(m->body, m->h.len, &how, &ms);
	else
		r = wslx_agent_distro_decode(m->body, m->h.len, &d);
	free(c);
	if (r < 0)
		wslx_guest_reply_error(g, call, -r, "refused %d", r);
	else
		wslx_guest_reply_ok(g, call);
}

static void status(void *opaque, struct wslx_agent_status *st)
{
	st->uptime_ms = 1;
	st->distros = calloc(2, sizeof(*st->distros)); /* the caller frees it */
	if (!st->distros)
		abort();
	st->distros[0].name[0] = 'd';
	st->n_distros = n_execs % 3u;
}

static void nothing(void *opaque)
{
}

static const struct wslx_guest_ops ops = {
	.request = request,
	.place = place,
	.status = status,
	.control_lost = nothing,
	.control_ready = nothing,
};

/* Ends the n-th process that is still there. */
static void end_process(struct wslx_guest *g, unsigned n, int status)
{
	for (unsigned i = 0; i < CHILD_BUCKETS; i++)
		for (struct child **pp = &g->children[i]; *pp; pp = &(*pp)->next) {
			struct child *ch = *pp;

			if (n--)
				continue;
			*pp = ch->next;
			ch->fn(ch->opaque, ch->pid, status);
			free(ch);
			return;
		}
}

static void send_frame(int fd, const uint8_t *op, const uint8_t *body, size_t len)
{
	uint8_t h[16];

	wslx_agent_header_encode(
		&(struct wslx_agent_header) {
			.len = (uint32_t)len, .type = op[0], .flags = op[1], .channel = op[2], .id = op[3] },
		h);
	(void)!write(fd, h, sizeof(h));
	(void)!write(fd, body, len);
}

static void run(struct wslx_loop *loop, int fd, unsigned rounds)
{
	static uint8_t sink[65536];

	while (rounds--) {
		if (wslx_loop_once(loop, 0) < 0)
			abort();
		while (read(fd, sink, sizeof(sink)) > 0)
			;
	}
}

/* One step; returns the bytes it used, 0 = input is at its end. */
static size_t step(struct wslx_guest *g, struct wslx_loop *loop, int fd, const uint8_t *p, size_t n)
{
	static uint8_t bytes[65536];
	size_t len;

	if (n < 4)
		return 0;
	switch (p[0]) {
	case 0xf0: /* a process writes or reads */
		if (n_held && (p[1] & 1))
			(void)!write(held[p[2] % n_held], bytes, (size_t)p[3] << (p[1] & 8));
		else if (n_held)
			(void)!read(held[p[2] % n_held], bytes, (size_t)p[3] << (p[1] & 8));
		return 4;
	case 0xf1: /* a process closes an end */
		if (n_held)
			wslx_close(&held[p[1] % n_held]);
		return 4;
	case 0xf2:
		end_process(g, p[1] & 3, p[2] | p[3] << 8);
		return 4;
	case 0xf3:
		run(loop, fd, 1 + (p[1] & 3));
		return 4;
	case 0xf4:
		status_kind = p[1];
		return 4;
	case 0xf5: {
		struct wslx_agent_event ev = { .kind = p[1] };

		wslx_guest_event(g, &ev);
		return 4;
	}
	case 0xf6: { /* more input than the process reads */
		const uint8_t op[] = { WSLX_AGENT_DATA, 0, p[1], p[2] };

		send_frame(fd, op, bytes, (size_t)p[3] << 8);
		run(loop, fd, 2);
		return 4;
	}
	default:
		if (n < 6)
			return 0;
		len = (size_t)p[4] | (size_t)p[5] << 8;
		len = len < n - 6 ? len : n - 6;
		send_frame(fd, p, p + 6, len);
		codec_check(p + 6, len);
		run(loop, fd, 1);
		return 6 + len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t hello[] = { 0x57, 0x58, 0x41, 0x47, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
	static const uint8_t hello_op[] = { WSLX_AGENT_HELLO, 0, 0, 0 };
	struct wslx_agent_hello h = { .agent_version = "fuzz" };
	struct wslx_guest *g;
	struct wslx_loop *loop;
	size_t used;
	int sv[2];

	if (size < 1 || size > 60000)
		return 0;
	n_held = n_execs = n_pipes = 0;
	status_kind = 0;
	next_pid = 0x40000000;
	if (!quiet) {
		quiet = true;
		wslx_log_init("fuzz", open("/dev/null", O_WRONLY | O_CLOEXEC), WSLX_LOG_ERROR);
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) < 0 || wslx_loop_new(&loop) < 0 ||
	    wslx_guest_new(loop, &ops, &g, &g) < 0)
		abort();
	wslx_guest_set_hello(g, &h);
	if (wslx_guest_serve(g, sv[0], data[0] & 1) < 0)
		abort();
	if (data[0] & 2) {
		/* Raw bytes, handshake included. */
		(void)!write(sv[1], data + 1, size - 1);
		size = 1;
	} else {
		send_frame(sv[1], hello_op, hello, sizeof(hello));
	}
	run(loop, sv[1], 2);
	for (data++, size--; (used = step(g, loop, sv[1], data, size)) > 0; size -= used)
		data += used;
	run(loop, sv[1], 6);
	close(sv[1]);
	run(loop, -1, 4);
	wslx_guest_free(g);
	wslx_loop_free(loop);
	for (int i = 0; i < n_held; i++)
		wslx_close(&held[i]);
	return 0;
}
