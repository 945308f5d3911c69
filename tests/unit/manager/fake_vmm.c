/*
 * A supervisor without a machine, for tests of the manager: takes what wslx-vmm
 * takes, says what it says, and answers Info and Terminate.  FAKE_VMM chooses
 * how it behaves:
 *   (nothing)  up at once
 *   fail       says failed, with two lines of console
 *   die        ends without a word
 *   gate       up when the pipe whose path is in FAKE_VMM_GATE is written to
 *   deaf       up, then never answers
 * Each start appends a byte to the file in FAKE_VMM_COUNT.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
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

/* One call on one connection.  Returns whether to end. */
static bool serve(int conn, const struct wslx_vm_config *c)
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
	else if (method && !strcmp(method, "io.wslx.Machine.Terminate"))
		end = (len = snprintf(reply, sizeof(reply), "{\"parameters\":{}}")) > 0;
	else
		len = snprintf(reply, sizeof(reply), "{\"error\":\"org.varlink.service.MethodNotFound\"}");
	json_decref(call);
	return send(conn, reply, (size_t)len + 1, MSG_NOSIGNAL) < 0 ? false : end;
}

int main(int argc, char **argv)
{
	const char *mode = getenv("FAKE_VMM");
	struct wslx_vm_config *c = read_config();
	char path[4096], byte;
	int sock;

	signal(SIGPIPE, SIG_IGN);
	alarm(60); /* a test that went wrong leaves no process */
	mode = mode ? mode : "";
	count();
	if (!c || argc != 5 || !strcmp(mode, "die"))
		return 1;
	say("{\"event\":\"progress\",\"what\":\"pretending\"}\n");
	if (!strcmp(mode, "fail")) {
		say("{\"event\":\"failed\",\"message\":\"it did not work\",\"console\":[\"line one\",\"line two\"]}\n");
		return 1;
	}
	if (!strcmp(mode, "gate")) {
		int gate = open(getenv("FAKE_VMM_GATE"), O_RDONLY | O_CLOEXEC);

		if (read(gate, &byte, 1) != 1)
			return 1;
	}
	snprintf(path, sizeof(path), "%s/control.sock", c->runtime_dir);
	sock = wslx_unix_listen(path, SOCK_STREAM, 16);
	if (sock < 0)
		return 1;
	say("{\"event\":\"ready\",\"pid\":1,\"engine\":\"tcg\",\"warnings\":[\"be warned\"],\"timings\":{}}\n");
	close(FD_READY);
	for (;;) {
		cleanup_close int conn = -1;

		if (!strcmp(mode, "deaf")) {
			pause();
			continue;
		}
		conn = accept4(sock, NULL, NULL, SOCK_CLOEXEC);
		if (conn >= 0 && serve(conn, c))
			break;
	}
	wslx_vm_config_free(c);
	return 0;
}
