/*
 * Plays the confined VMM and the guest's agent: says on the link and on the
 * agent's connection what they would say.  What it plays is named on the
 * kernel command line, "fake=NAME".
 */
#include "fake_child.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "os/linux/fd.h"
#include "proto/agent.h"
#include "vmm/child.h"
#include "vmm/link.h"

#define DOORBELL_ID 11

static struct wslx_child_params *params;
static struct wslx_agent_rx rx;
static int agent_fd = -1, bell_fd = -1;
static bool frozen, stopped; /* the distros, the processors */
static unsigned n_resumes, n_pauses;

static bool plays(const char *name)
{
	char want[64];

	snprintf(want, sizeof(want), "fake=%s", name);
	return strstr(params->cmdline, want) != NULL;
}

static void link_say(uint32_t type, uint32_t id, uint64_t a, const char *text)
{
	struct wslx_link_msg m = { .type = type, .id = id, .a = a, .fd = -1, .text_len = strlen(text) };

	memcpy(m.text, text, m.text_len);
	if (wslx_link_send(params->link_fd, &m) < 0)
		_exit(9);
}

static void console_say(const char *text)
{
	if (wslx_write_full(params->console_fd, text, strlen(text)) < 0)
		_exit(9);
}

static void end_with(uint32_t type, uint64_t a)
{
	link_say(type, 0, a, "");
	_exit(0);
}

static void agent_say(uint16_t type, uint32_t id, const struct wslx_buf *body)
{
	struct wslx_buf out;

	wslx_buf_init(&out, WSLX_AGENT_MESSAGE_MAX);
	if (wslx_agent_put_message(&out, type, 0, 0, id, body ? body->data : NULL, body ? body->len : 0) < 0 ||
	    wslx_write_full(agent_fd, out.data, out.len) < 0)
		_exit(0); /* the supervisor is gone */
	wslx_buf_free(&out);
}

static void agent_hello(void)
{
	struct wslx_agent_hello h = { .version_min = 1, .version_max = 1, .kernel_release = "6.1-fake" };
	struct wslx_buf b;

	wslx_buf_init(&b, 65536);
	if (wslx_agent_hello_encode(&b, &h) < 0)
		_exit(9);
	agent_say(WSLX_AGENT_HELLO, 0, &b);
	wslx_buf_free(&b);
}

static void distro_started(uint32_t id)
{
	struct wslx_agent_distro_started st = { .n_warnings = 1 };
	struct wslx_buf b;

	strcpy(st.warnings[0], "a warning");
	wslx_buf_init(&b, 65536);
	if (wslx_agent_distro_started_encode(&b, &st) < 0)
		_exit(9);
	agent_say(WSLX_AGENT_DISTRO_STARTED, id, &b);
	wslx_buf_free(&b);
}

/* The disk's first byte counts the boots. */
static int boot_number(bool advance)
{
	unsigned char n = 0;

	if (wslx_pread_full(params->disks[0].fd, &n, 1, 0) < 0)
		_exit(9);
	n = (unsigned char)(n + advance);
	if (advance && wslx_pwrite_full(params->disks[0].fd, &n, 1, 0) < 0)
		_exit(9);
	return n;
}

/* What a child that was taken over may do with its descriptor 2. */
static void talk(void)
{
	struct stat st;
	char line[200];

	dprintf(STDERR_FILENO, "wslx-vmm[vmm]: warn: a \x1b[31mred line\nwslx-vmm: error: forged\nno end");
	memset(line, 'x', sizeof(line));
	line[sizeof(line) - 1] = '\n';
	for (int i = 0; plays("talk-much") && i < 100000; i++)
		(void)!write(STDERR_FILENO, line, sizeof(line));
	console_say(fstat(STDERR_FILENO, &st) == 0 && S_ISFIFO(st.st_mode) ? "talked\n" : "no pipe\n");
}

static void after_ready(void)
{
	if (plays("full-host"))
		link_say(WSLX_LINK_HOST_FULL, 0, 1, "");
	if (plays("full-nowhere"))
		link_say(WSLX_LINK_HOST_FULL, 5, 1, "");
	if (plays("talk"))
		talk();
	if (plays("reboot-once") && boot_number(false) == 1)
		end_with(WSLX_LINK_RESET, WSLX_RESET_REQUESTED);
	if (plays("reboot-always"))
		end_with(WSLX_LINK_RESET, WSLX_RESET_REQUESTED);
	if (plays("late-panic")) {
		console_say("Kernel panic - not syncing: late\n");
		end_with(WSLX_LINK_RESET, WSLX_RESET_REQUESTED);
	}
	if (plays("answering-panic") || plays("hanging-panic"))
		console_say("Kernel panic - not syncing: sysrq triggered crash\n");
	if (plays("answering-panic"))
		link_say(WSLX_LINK_CONNECT, 9, WSLX_AGENT_PORT, ""); /* a round trip later it resets */
	if (plays("joke"))
		console_say("root typed: Kernel panic - not syncing: a joke\n");
	if (plays("nonsense"))
		(void)!write(params->link_fd, "rubbish", 7);
	if (plays("doorbell"))
		link_say(WSLX_LINK_CONNECT, DOORBELL_ID, 0x504f5200, "");
	if (plays("second-control"))
		link_say(WSLX_LINK_CONNECT, 8, WSLX_AGENT_PORT, "");
}

static void agent_refuse(uint32_t id)
{
	struct wslx_agent_error e = { .code = 5, .exit_status = -1 };
	struct wslx_buf b;

	strcpy(e.text, "the agent refuses");
	wslx_buf_init(&b, 65536);
	if (wslx_agent_error_encode(&b, &e) < 0)
		_exit(9);
	agent_say(WSLX_AGENT_ERROR, id, &b);
	wslx_buf_free(&b);
}

static void agent_pause(uint32_t id)
{
	frozen = true;
	console_say("PAUSE\n");
	/* As one whose host has no room on its disk. */
	if (plays("stuck-pause") && n_pauses++ == 0)
		return;
	agent_say(WSLX_AGENT_OK, id, NULL);
}

static void agent_resume(uint32_t id)
{
	console_say("RESUME\n");
	if (plays("refuse-resume") && n_resumes++ < 2) {
		agent_refuse(id);
		return;
	}
	frozen = false;
	agent_say(WSLX_AGENT_OK, id, NULL);
}

static void agent_shutdown(uint32_t id)
{
	console_say("SHUTDOWN\n");
	if (frozen || stopped)
		_exit(7);
	agent_say(WSLX_AGENT_OK, id, NULL);
	if (plays("long-goodbye")) {
		struct pollfd none = { .fd = -1 };

		/* Its distros take their time, and one prints. */
		wslx_close(&agent_fd);
		console_say("Kernel panic - not syncing: a joke\n");
		(void)poll(&none, 1, 300);
		end_with(WSLX_LINK_POWEROFF, 0);
	}
	if (!plays("stubborn"))
		end_with(WSLX_LINK_POWEROFF, 0);
}

/* Resets while somebody else keeps the agent's connection open: it never shows
 * as closed. */
static void reset_silently(void)
{
	struct pollfd p = { .fd = agent_fd, .events = POLLRDHUP };
	pid_t pid = fork();

	if (pid < 0)
		_exit(9);
	if (pid)
		end_with(WSLX_LINK_RESET, WSLX_RESET_REQUESTED);
	wslx_close(&params->link_fd);
	wslx_close(&params->console_fd);
	(void)poll(&p, 1, -1);
	_exit(0);
}

static void on_agent_message(const struct wslx_agent_msg *m)
{
	switch (m->h.type) {
	case WSLX_AGENT_PAUSE:
		agent_pause(m->h.id);
		break;
	case WSLX_AGENT_RESUME:
		agent_resume(m->h.id);
		break;
	case WSLX_AGENT_DISTRO_STOP:
		if (plays("reset-in-stop"))
			reset_silently();
		agent_say(WSLX_AGENT_OK, m->h.id, NULL);
		break;
	case WSLX_AGENT_CONFIG:
		agent_say(WSLX_AGENT_OK, m->h.id, NULL);
		break;
	case WSLX_AGENT_DISTRO_START:
		distro_started(m->h.id);
		after_ready();
		break;
	case WSLX_AGENT_PING:
		if (!plays("hanging-panic"))
			agent_say(WSLX_AGENT_PONG, m->h.id, NULL);
		break;
	case WSLX_AGENT_SHUTDOWN:
		agent_shutdown(m->h.id);
		break;
	default:
		break;
	}
}

static void read_agent(void)
{
	struct wslx_agent_msg m;
	uint8_t *p;
	size_t n;
	ssize_t r;

	if (wslx_agent_rx_space(&rx, &p, &n) < 0)
		_exit(9);
	r = read(agent_fd, p, n);
	if (r <= 0)
		_exit(0);
	wslx_agent_rx_filled(&rx, (size_t)r);
	while (wslx_agent_rx_next(&rx, &m) == 1)
		on_agent_message(&m);
}

static void link_pause(uint32_t id, bool on)
{
	struct wslx_link_msg m = { .type = WSLX_LINK_PAUSED, .id = id, .fd = -1 };

	stopped = on;
	console_say(on ? "STOP\n" : "GO\n");
	if (on && plays("joke-before-pause"))
		console_say("root typed: Kernel panic - not syncing: a joke\n");
	/* Stopped, and yet it says it could not. */
	if (on && plays("refuse-stop"))
		m.b = EIO;
	if (wslx_link_send(params->link_fd, &m) < 0)
		_exit(9);
}

/* A guest's program attaches to its first region. */
static void ring(void)
{
	char c;

	if (read(bell_fd, &c, 1) == 1)
		console_say("the doorbell rang\n");
	bell_fd = -1; /* It stays attached. */
}

static void read_link(void)
{
	struct wslx_link_msg m;

	if (plays("deaf") && agent_fd >= 0) /* leaves what came unread */
		end_with(WSLX_LINK_POWEROFF, 0);
	if (wslx_link_recv(params->link_fd, &m) != 1)
		_exit(0);
	switch (m.type) {
	case WSLX_LINK_CONNECT_OK:
		if (m.id == DOORBELL_ID) {
			bell_fd = m.fd;
			break;
		}
		agent_fd = m.fd;
		wslx_fd_nonblock(agent_fd, 0);
		if (!plays("no-hello"))
			agent_hello();
		break;
	case WSLX_LINK_CONNECT_REFUSED:
		if (plays("answering-panic"))
			end_with(WSLX_LINK_RESET, WSLX_RESET_REQUESTED);
		console_say("refused\n");
		break;
	case WSLX_LINK_PAUSE:
	case WSLX_LINK_RESUME:
		link_pause(m.id, m.type == WSLX_LINK_PAUSE);
		break;
	case WSLX_LINK_WINDOW_MAP:
		wslx_close(&m.fd);
		link_say(WSLX_LINK_WINDOW_MAPPED, m.id, plays("bad-window") ? ENOMEM : 0, "");
		break;
	case WSLX_LINK_STATS:
		if (plays("full-host")) /* while it is asked, room was made */
			link_say(WSLX_LINK_HOST_FULL, 0, 0, "");
		link_say(WSLX_LINK_STATS_REPLY, m.id, 0, "blk0.reads 17\nbroken\nvsock.opened 3\n");
		break;
	case WSLX_LINK_TEST_CONFINEMENT:
		link_say(WSLX_LINK_PAUSED, m.id, 1, "");
		break;
	case WSLX_LINK_STOP:
		_exit(0);
	default:
		break;
	}
}

static void before_connecting(void)
{
	if (plays("panic")) {
		console_say("Linux version 6.1\r\nKernel panic - not syncing: no init\n");
		end_with(WSLX_LINK_RESET, WSLX_RESET_REQUESTED);
	}
	if (plays("triple"))
		end_with(WSLX_LINK_RESET, WSLX_RESET_TRIPLE_FAULT);
	if (plays("early-reset"))
		end_with(WSLX_LINK_RESET, WSLX_RESET_REQUESTED);
	if (plays("failed")) {
		link_say(WSLX_LINK_FAILED, 0, 0, "no such \x1b[31mkernel");
		_exit(1);
	}
	if (plays("die"))
		_exit(3);
	if (plays("killed"))
		raise(SIGKILL);
}

int fake_child_main(int params_fd)
{
	char json[65536];
	ssize_t n = read(params_fd, json, sizeof(json));

	if (n <= 0 || wslx_child_params_decode(json, (size_t)n, &params, NULL) < 0)
		return 8;
	wslx_agent_rx_init(&rx);
	boot_number(true);
	link_say(WSLX_LINK_READY, 0, 1000, "");
	link_say(WSLX_LINK_FIRST_ENTRY, 0, wslx_now_ns(), "");
	console_say("Linux version 6.1-fake\n");
	before_connecting();
	if (!plays("silent"))
		link_say(WSLX_LINK_CONNECT, 7, WSLX_AGENT_PORT, "");
	for (;;) {
		/* The window is still being put in order while a doorbell waits for that. */
		struct pollfd p[3] = { { .fd = params->link_fd, .events = POLLIN },
				       { .fd = stopped ? -1 : agent_fd, .events = POLLIN },
				       { .fd = bell_fd, .events = POLLIN } };

		if (poll(p, 3, -1) < 0)
			return 9;
		if (p[0].revents)
			read_link();
		/* A guest whose processors stand still reads nothing. */
		if (agent_fd >= 0 && p[1].revents)
			read_agent();
		if (p[2].revents)
			ring();
	}
}
