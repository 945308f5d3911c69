/*
 * A supervisor without a machine, for tests of the manager: takes what wslx-vmm
 * takes, says what it says, and answers Info and Terminate.  FAKE_VMM chooses
 * how it behaves:
 *   (nothing)  up at once
 *   fail       says failed, with two lines of console
 *   panic      says failed, with a console of nine lines, the seventh a panic
 *   host       says failed, without a console
 *   die        ends without a word
 *   gate       up when the pipe whose path is in FAKE_VMM_GATE is written to
 *   deaf       up, then never answers
 *   family     ... with a child that does not die with it; its number is in the
 *              file in FAKE_VMM_CHILD
 *   leaves     up, and ends when it is to pause
 *   leaves-paused  ... to resume, without a word
 *   stubborn   has a window, and answers no PortalSync
 *   portal     has the region "reg" to write to until PortalSync says otherwise;
 *              what that said is in the file in FAKE_VMM_SAID
 *   portal-rw  ... and does not learn to read only
 *   ending     has "reg" to read; when PortalSync changes that its control socket
 *              is gone, and it ends when the pipe in FAKE_VMM_GATE is opened
 *   crash-early, crash-starting, crash-running, killed
 *              up, and crashes when a session connects, has sent a command, or
 *              runs one; killed: the same as the first, and nobody says why
 * FAKE_VMM_CLEARING: how many questions portal takes for letting go of the region.
 * Each start appends a byte to the file in FAKE_VMM_COUNT.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "proto/agent.h"
#include "proto/vmconfig.h"

enum { FD_CONFIG = 3, FD_READY = 4 };

static void say(const char *line)
{
	/* A reader that went away changes nothing. */
	if (wslx_write_full(FD_READY, line, strlen(line)) < 0)
		return;
}

static struct wslx_vm_config *read_config(void)
{
	static char text[65536];
	struct wslx_vm_config *c = NULL;
	size_t n = 0;
	ssize_t r;

	while ((r = read(FD_CONFIG, text + n, sizeof(text) - n)) > 0)
		n += (size_t)r;
	return wslx_vm_config_decode(text, n, &c, NULL) == 0 ? c : NULL;
}

static void count(void)
{
	const char *path = getenv("FAKE_VMM_COUNT");
	cleanup_close int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;

	if (fd >= 0 && write(fd, "x", 1) != 1)
		_exit(3);
}

static void note_grants(const struct wslx_vm_config *c)
{
	const char *path = getenv("FAKE_VMM_GRANTS");
	cleanup_close int fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;

	for (size_t i = 0; fd >= 0 && i < c->portal.n_grants; i++)
		dprintf(fd, "%s ", c->portal.grants[i].region);
}

static void have_a_child(void)
{
	cleanup_close int fd = open(getenv("FAKE_VMM_CHILD"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	pid_t pid = fork();

	if (pid == 0) {
		alarm(60);
		for (;;)
			pause();
	}
	dprintf(fd, "%d", (int)pid);
}

static void note_said(const char *access)
{
	cleanup_close int fd = open(getenv("FAKE_VMM_SAID"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	dprintf(fd, "%s ", access);
}

/* *ret_end: it is told something. */
static int portal_sync_ending(json_t *params, char *reply, size_t size, bool *ret_end)
{
	*ret_end = json_object_get(params, "access");
	return *ret_end ? 0
			: snprintf(reply, size,
				   "{\"parameters\":{\"grants\":[{\"region\":\"reg\",\"as\":\"reg\",\"state\":"
				   "\"granted\",\"access\":\"ro\"}]}}");
}

/* What it has is gone after three more questions, or FAKE_VMM_CLEARING. */
static int portal_sync(json_t *params, const char *mode, char *reply, size_t size)
{
	static char has[8] = "rw";
	static int clearing;
	const char *access = json_string_value(json_object_get(params, "access")), *slow = getenv("FAKE_VMM_CLEARING");

	note_said(access ? access : "?");
	if (access && !strcmp(access, "ro") && !strcmp(mode, "portal-rw"))
		return snprintf(reply, size,
				"{\"error\":\"io.wslx.Machine.Failed\",\"parameters\":{\"message\":\"not now\"}}");
	if (access && !strcmp(access, "none")) {
		clearing = has[0] ? (slow ? atoi(slow) : 3) + 1 : clearing;
		has[0] = '\0';
	} else if (access) {
		snprintf(has, sizeof(has), "%s", access);
	}
	if (!has[0] && (!clearing || !--clearing))
		return snprintf(reply, size, "{\"parameters\":{\"grants\":[]}}");
	return snprintf(reply, size,
			"{\"parameters\":{\"grants\":[{\"region\":\"reg\",\"as\":\"reg\",\"state\":\"%s\","
			"\"access\":\"%s\"}]}}",
			has[0] ? "granted" : "clearing", has[0] ? has : "rw");
}

/* One call on one connection.  Returns whether to end. */
static bool serve(int conn, const struct wslx_vm_config *c, const char *mode)
{
	char text[4096], reply[1024];
	ssize_t n = recv(conn, text, sizeof(text) - 1, 0);
	json_t *call = n > 0 && text[n - 1] == '\0' ? json_loads(text, 0, NULL) : NULL;
	const char *method = json_string_value(json_object_get(call, "method"));
	bool end = false;
	int len = 0;

	if (method && !strcmp(method, "io.wslx.Machine.Info"))
		len = snprintf(reply, sizeof(reply),
			       "{\"parameters\":{\"name\":\"%s\",\"engine\":\"%s\",\"state\":\"running\",\"pid\":%d,"
			       "\"uptime_ms\":5,\"cpus\":%u,\"memory\":%llu,\"kernel\":\"6.1\"}}",
			       c->name, wslx_engine_name(c->engine), (int)getpid(), c->cpus,
			       (unsigned long long)c->memory);
	else if (method && !strcmp(method, "io.wslx.Machine.PortalSync") && !strcmp(mode, "stubborn"))
		len = snprintf(reply, sizeof(reply),
			       "{\"error\":\"io.wslx.Machine.Failed\",\"parameters\":{\"message\":\"not now\"}}");
	else if (method && !strcmp(method, "io.wslx.Machine.PortalSync") && !strcmp(mode, "ending"))
		len = portal_sync_ending(json_object_get(call, "parameters"), reply, sizeof(reply), &end);
	else if (method && !strcmp(method, "io.wslx.Machine.PortalSync") && !strncmp(mode, "portal", 6))
		len = portal_sync(json_object_get(call, "parameters"), mode, reply, sizeof(reply));
	else if (method && !strcmp(method, "io.wslx.Machine.Pause") && !strcmp(mode, "leaves"))
		end = (len = snprintf(reply, sizeof(reply),
				      "{\"error\":\"io.wslx.Machine.NotReady\",\"parameters\":{\"state\":"
				      "\"stopping\"}}")) > 0;
	else if (method && !strcmp(method, "io.wslx.Machine.Pause") && !strcmp(mode, "leaves-paused"))
		len = snprintf(reply, sizeof(reply), "{\"parameters\":{}}");
	else if (method && !strcmp(method, "io.wslx.Machine.Resume") && !strcmp(mode, "leaves-paused"))
		_exit(0);
	else if (method && !strcmp(method, "io.wslx.Machine.Terminate"))
		end = (len = snprintf(reply, sizeof(reply), "{\"parameters\":{}}")) > 0;
	else
		len = snprintf(reply, sizeof(reply), "{\"error\":\"org.varlink.service.MethodNotFound\"}");
	json_decref(call);
	if (end && !len) /* without a word */
		return true;
	return send(conn, reply, (size_t)len + 1, MSG_NOSIGNAL) < 0 ? false : end;
}

/* ---- a guest that crashes ---- */

static void crash(const struct wslx_vm_config *c, bool silently)
{
	static const char event[] =
		"{\"time\":\"\",\"event\":\"crashed\",\"text\":\"Kernel panic - not syncing: fake\"}\n";
	char path[4096];
	cleanup_close int fd = -1;

	snprintf(path, sizeof(path), "%s/events", c->state_dir);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (!silently && wslx_write_full(fd, event, sizeof(event) - 1) < 0)
		_exit(3);
	_exit(1);
}

static void send_message(int conn, uint16_t type, uint32_t channel, uint32_t id, const struct wslx_buf *body)
{
	struct wslx_buf out;

	wslx_buf_init(&out, WSLX_AGENT_MESSAGE_MAX);
	if (wslx_agent_put_message(&out, type, 0, channel, id, body->data, body->len) < 0 ||
	    wslx_write_full(conn, out.data, out.len) < 0)
		_exit(3);
	wslx_buf_free(&out);
}

/* Reads until the client has sent a command. */
static void await_exec(int conn, uint32_t *ret_channel, uint32_t *ret_id)
{
	struct wslx_agent_rx rx;
	struct wslx_agent_msg m;
	uint8_t *p;
	size_t room;
	ssize_t n;

	wslx_agent_rx_init(&rx);
	for (;;) {
		if (wslx_agent_rx_space(&rx, &p, &room) < 0 || (n = read(conn, p, room)) <= 0)
			_exit(3);
		wslx_agent_rx_filled(&rx, (size_t)n);
		while (wslx_agent_rx_next(&rx, &m) == 1) {
			if (m.h.type != WSLX_AGENT_EXEC)
				continue;
			*ret_channel = m.h.channel;
			*ret_id = m.h.id;
			return;
		}
	}
}

static void serve_session(int conn, const struct wslx_vm_config *c, const char *mode)
{
	struct wslx_agent_hello hello = { .version_min = 1, .version_max = 1 };
	struct wslx_agent_started started = { .pid = 1, .window = 100 };
	uint32_t channel, id;
	struct wslx_buf b;
	char line[sizeof("CONNECT 1024\n") - 1];

	if (wslx_read_full(conn, line, sizeof(line)) < 0)
		_exit(3);
	if (!strcmp(mode, "crash-early") || !strcmp(mode, "killed"))
		crash(c, mode[0] == 'k');
	wslx_buf_init(&b, 4096);
	if (wslx_write_full(conn, "OK 1\n", 5) < 0 || wslx_agent_hello_encode(&b, &hello) < 0)
		_exit(3);
	send_message(conn, WSLX_AGENT_HELLO, 0, 0, &b);
	await_exec(conn, &channel, &id);
	b.len = 0;
	if (!strcmp(mode, "crash-running") && wslx_agent_started_encode(&b, &started) == 0)
		send_message(conn, WSLX_AGENT_STARTED, channel, id, &b);
	crash(c, false);
}

static int listen_vsock(const struct wslx_vm_config *c)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/vsock.sock", c->runtime_dir);
	return wslx_unix_listen(path, SOCK_STREAM | SOCK_CLOEXEC, 16);
}

/* Until there is something to do on the control socket. */
static void serve_sessions(int control, int vsock, const struct wslx_vm_config *c, const char *mode)
{
	struct pollfd p[2] = { { .fd = control, .events = POLLIN }, { .fd = vsock, .events = POLLIN } };

	while (poll(p, 2, -1) > 0 && !p[0].revents)
		serve_session(accept4(vsock, NULL, NULL, SOCK_CLOEXEC), c, mode);
}

/* A pipe that the test opens and closes, or writes to. */
static ssize_t await_gate(void)
{
	cleanup_close int gate = open(getenv("FAKE_VMM_GATE"), O_RDONLY | O_CLOEXEC);
	char byte;

	return read(gate, &byte, 1);
}

int main(int argc, char **argv)
{
	const char *mode = getenv("FAKE_VMM");
	struct wslx_vm_config *c = read_config();
	char path[4096];
	int sock, vsock = -1;

	signal(SIGPIPE, SIG_IGN);
	alarm(60); /* a test that went wrong leaves no process */
	mode = mode ? mode : "";
	count();
	if (!c || argc != 5 || !strcmp(mode, "die"))
		return 1;
	note_grants(c);
	say("{\"event\":\"progress\",\"what\":\"pretending\"}\n");
	if (!strcmp(mode, "fail")) {
		say("{\"event\":\"failed\",\"message\":\"it did not work\",\"console\":[\"line one\",\"line two\"]}\n");
		return 1;
	}
	if (!strcmp(mode, "panic")) {
		say("{\"event\":\"failed\",\"message\":\"Kernel panic - not syncing: fake\",\"console\":"
		    "[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"[0.9] Kernel panic - not syncing: fake\",\"Call Trace:\","
		    "\"Offset\"]}\n");
		return 1;
	}
	if (!strcmp(mode, "host")) {
		say("{\"event\":\"failed\",\"message\":\"the port is taken\",\"console\":[]}\n");
		return 1;
	}
	if (!strcmp(mode, "gate") && await_gate() != 1)
		return 1;
	snprintf(path, sizeof(path), "%s/control.sock", c->runtime_dir);
	sock = wslx_unix_listen(path, SOCK_STREAM, 16);
	if (sock < 0)
		return 1;
	if (!strncmp(mode, "crash", 5) || !strcmp(mode, "killed"))
		vsock = listen_vsock(c);
	if (!strcmp(mode, "family"))
		have_a_child();
	say("{\"event\":\"ready\",\"pid\":1,\"engine\":\"tcg\",\"warnings\":[\"be warned\"],\"timings\":{}}\n");
	close(FD_READY);
	for (;;) {
		cleanup_close int conn = -1;

		if (!strcmp(mode, "deaf") || !strcmp(mode, "family")) {
			pause();
			continue;
		}
		if (vsock >= 0)
			serve_sessions(sock, vsock, c, mode);
		conn = accept4(sock, NULL, NULL, SOCK_CLOEXEC);
		if (conn >= 0 && serve(conn, c, mode))
			break;
	}
	wslx_vm_config_free(c);
	/* It holds its lock still. */
	close(sock);
	return !strcmp(mode, "ending") && await_gate() < 0;
}
