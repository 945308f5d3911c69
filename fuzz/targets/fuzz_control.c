/*
 * What reaches the supervisor from outside but the link and the agent: calls on
 * the control socket, QEMU's monitor, the console, resolv.conf.  The first byte chooses.
 */
#include <fcntl.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "json_mutator.h"
#include "vmm/supervisor/internal.h"
#include "vmm/supervisor/qmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	size_t at = 1;

	/* One of the calls. */
	for (unsigned n = seed / 16 % 4; n && at < size; n--) {
		const uint8_t *nul = memchr(data + at, 0, size - at);

		at = nul ? (size_t)(nul - data) + 1 : at;
	}
	return jm_mutate(data, size, max, seed, at < size ? at : 1);
}

#define ROUNDS 64

static void must(bool good)
{
	if (!good)
		abort();
}

static void make_pair(int pair[2])
{
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
}

/* Whole JSON objects, each followed by a NUL. */
static void check_replies(int fd)
{
	static char buf[1 << 20];
	size_t n = 0;
	ssize_t r;

	while (n < sizeof(buf) && (r = read(fd, buf + n, sizeof(buf) - n)) > 0)
		n += (size_t)r;
	for (size_t at = 0; at < n;) {
		size_t len = strnlen(buf + at, n - at);
		json_t *j = json_loadb(buf + at, len, 0, NULL);

		must(at + len < n && json_is_object(j));
		json_decref(j);
		at += len + 1;
	}
}

static void control(const uint8_t *data, size_t size, uint8_t states)
{
	static char name[] = "m", empty[] = "";
	struct wslx_distro_config distro = { .name = name, .fstype = empty, .hostname = empty };
	struct wslx_vm_config config = {
		.name = name, .engine = WSLX_ENGINE_TCG, .cpus = 1, .distros = &distro, .n_distros = 1
	};
	struct wslx_sup *s = calloc(1, sizeof(*s));
	int pair[2], silent[2] = { -1, -1 };

	must(s != NULL);
	s->config = &config;
	s->state = (enum sup_state)(states & 3);
	s->warnings = json_array();
	wslx_report_init(&s->report, -1);
	must(wslx_loop_new(&s->loop) == 0);
	must(wslx_sup_control_new(s, NULL, NULL) == 0);
	if (states & 8) { /* one who stays, and says nothing */
		make_pair(silent);
		must(wslx_control_adopt(s->control, silent[0]) == 0);
	}
	make_pair(pair);
	must(wslx_control_adopt(s->control, pair[0]) == 0);
	for (int i = 0; i < ROUNDS && size; i++) {
		ssize_t w = send(pair[1], data, WSLX_MIN(size, (size_t)4096), MSG_NOSIGNAL);

		if (w > 0) {
			data += w;
			size -= (size_t)w;
		}
		must(wslx_loop_once(s->loop, 0) == 0);
	}
	for (int i = 0; i < ROUNDS; i++)
		must(wslx_loop_once(s->loop, 0) == 0);
	if (states & 16) {
		shutdown(pair[1], SHUT_WR);
		must(wslx_loop_once(s->loop, 0) == 0);
	}
	if (states & 4) {
		/* Gone before it has its answers. */
		wslx_close(&pair[1]);
		for (int i = 0; i < 4; i++)
			must(wslx_loop_once(s->loop, 0) == 0);
	} else {
		check_replies(pair[1]);
	}
	wslx_sup_answer_waiters(s);
	for (int i = 0; i < 4; i++)
		must(wslx_loop_once(s->loop, 0) == 0);
	wslx_control_free(s->control);
	wslx_close(&pair[1]);
	wslx_close(&silent[1]);
	wslx_loop_free(s->loop);
	json_decref(s->warnings);
	free(s);
}

static void on_event(void *opaque, const char *name, json_t *data)
{
	must(name != NULL);
}

static void on_reply(void *opaque, int err)
{
	++*(int *)opaque;
}

static void qmp(const uint8_t *data, size_t size)
{
	struct wslx_loop *loop;
	struct wslx_qmp *q;
	int pair[2], replies = 0;

	must(wslx_loop_new(&loop) == 0);
	make_pair(pair);
	must(wslx_qmp_new(loop, pair[0], on_event, NULL, &q) == 0);
	must(wslx_qmp_execute(q, "stop", on_reply, &replies) == 0);
	(void)!send(pair[1], data, size, MSG_NOSIGNAL);
	must(wslx_loop_once(loop, 0) == 0);
	wslx_qmp_drain(q);
	must(replies == 1); /* exactly one, whatever was said */
	wslx_qmp_free(q);
	close(pair[1]);
	wslx_loop_free(loop);
}

static char console_dir[] = "/dev/shm/wslx-fuzz-XXXXXX";

static void remove_console(void)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/console.log", console_dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/console.log.1", console_dir);
	unlink(path);
	rmdir(console_dir);
}

static void on_panic(void *opaque, const char *line)
{
	must(strstr(line, "Kernel panic") != NULL);
}

/* Through a pipe whose writer ends early or late. */
static void console_pipe(struct wslx_loop *loop, struct wslx_conlog *c, const uint8_t *data, size_t size, uint8_t how)
{
	int fd[2];

	must(pipe2(fd, O_CLOEXEC | O_NONBLOCK) == 0);
	must(wslx_conlog_attach(c, fd[0]) == 0);
	(void)!write(fd[1], data, size);
	if (how & 2)
		wslx_close(&fd[1]);
	for (int i = 0; i < 2; i++)
		must(wslx_loop_once(loop, 0) == 0);
	if (fd[1] >= 0)
		(void)!write(fd[1], data, size);
	if (how & 4)
		wslx_close(&fd[1]);
	wslx_conlog_drain(c);
	wslx_close(&fd[1]);
}

/* The same over and over, until the log is full. */
static void console_flood(struct wslx_conlog *c, const uint8_t *data, size_t size)
{
	static char chunk[65536];

	for (size_t i = 0; i < sizeof(chunk); i++)
		chunk[i] = (char)data[i % size];
	for (size_t i = 0; i <= WSLX_CONSOLE_LOG_MAX / sizeof(chunk); i++)
		wslx_conlog_feed(c, chunk, sizeof(chunk));
}

static void console(const uint8_t *data, size_t size, uint8_t how)
{
	static struct wslx_loop *loop;
	struct wslx_conlog *c;
	const char *lines[WSLX_CONSOLE_LINES + 1];
	size_t n;

	if (!loop) {
		must(wslx_loop_new(&loop) == 0 && mkdtemp(console_dir));
		atexit(remove_console);
	}
	must(wslx_conlog_new(loop, console_dir, on_panic, NULL, &c, NULL) == 0);
	if (how & 1)
		console_pipe(loop, c, data, size, how);
	else if (how & 8 && size)
		console_flood(c, data, size);
	else
		wslx_conlog_feed(c, (const char *)data, size);
	n = wslx_conlog_lines(c, lines);
	must(n <= WSLX_CONSOLE_LINES + 1);
	for (size_t i = 0; i < n; i++)
		for (const char *p = lines[i]; *p; p++)
			must(*p >= 0x20 && *p < 0x7f && p - lines[i] < WSLX_CONSOLE_LINE_MAX);
	wslx_conlog_free(c);
}

static void resolv(const uint8_t *data, size_t size)
{
	struct wslx_agent_config m = { 0 };
	char *text = strndup((const char *)data, size), host[WSLX_AGENT_HOSTNAME_MAX + 1];
	struct wslx_buf b;

	must(text != NULL);
	wslx_resolv_parse(text, true, &m);
	must(m.n_dns <= WSLX_AGENT_MAX_DNS && m.n_search <= WSLX_AGENT_MAX_SEARCH);
	wslx_hostname_from(text, host);
	must(host[0] && strlen(host) <= 63);
	wslx_buf_init(&b, WSLX_AGENT_MESSAGE_MAX);
	must(wslx_agent_config_encode(&b, &m) == 0);
	wslx_buf_free(&b);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	wslx_log_init("fuzz", -1, WSLX_LOG_ERROR);
	switch (data[0] & 7) {
	case 0:
		qmp(data + 1, size - 1);
		break;
	case 1:
		console(data + 1, size - 1, data[0] >> 3);
		break;
	case 2:
		resolv(data + 1, size - 1);
		break;
	default:
		control(data + 1, size - 1, data[0] >> 3);
		break;
	}
	return 0;
}
