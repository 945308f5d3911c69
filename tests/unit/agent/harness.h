/* An agent in a process of its own, without namespaces, on a socket pair. */
#ifndef TESTS_AGENT_HARNESS_H
#define TESTS_AGENT_HARNESS_H

#include <sys/types.h>

#include "agentc/agentc.h"

struct agent {
	struct wslx_loop *loop;
	struct wslx_agentc *c;
	pid_t pid;
	int raw_fd; /* instead of c, for tests that speak bytes */
	bool closed;
	struct wslx_err closed_err;
	struct wslx_agent_event event;
	unsigned n_events;
};

/* Control connection; ready on return. */
void agent_start(struct agent *a);
/* Without a client: the test writes bytes to raw_fd. */
void agent_start_raw(struct agent *a);
void agent_stop(struct agent *a);
/* Runs the loop until *flag; fails the test after a minute in which nothing happened. */
void agent_until(struct agent *a, const bool *flag);

/* One process and what came of it. */
struct run {
	struct agent *a;
	struct wslx_agentc_exec *e;
	bool started, exited;
	uint32_t pid;
	size_t n_warnings;
	char warning[256];
	struct wslx_agentc_exit x;
	char text[1100];
	char *out[WSLX_STREAM_COUNT];
	size_t n_out[WSLX_STREAM_COUNT];
	bool eof[WSLX_STREAM_COUNT];
	bool stopped;
	bool hold; /* count, but do not give credit back */
	/* Input still to be sent. */
	const char *in;
	size_t in_left;
	unsigned in_stream;
	bool in_close;
	uint64_t sum_in, sum_out; /* for bulk runs: checksums instead of memory */
	size_t bulk_left, bulk_seen;
};

/* argv ends with NULL. */
void run_start(struct run *r, struct agent *a, const char *const *argv, uint32_t flags, const char *modes);
void run_params(struct run *r, struct agent *a, const struct wslx_agent_exec *m);
void run_wait(struct run *r);
void run_free(struct run *r);

#endif
