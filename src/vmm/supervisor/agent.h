/*
 * The supervisor's side of the control connection to the guest agent, and the
 * steps that make a machine usable: HELLO, CONFIG, DISTRO_START for each distro.
 *
 * One connection a run.  Each step has a time limit, and a step that exceeds it
 * is named in the failure.
 */
#ifndef WSLX_VMM_SUPERVISOR_AGENT_H
#define WSLX_VMM_SUPERVISOR_AGENT_H

#include <stdbool.h>

#include "agentc/agentc.h"
#include "base/err.h"
#include "base/loop.h"
#include "proto/vmconfig.h"

struct wslx_agent_setup;

struct wslx_agent_setup_events {
	void (*progress)(void *opaque, const char *what);
	void (*hello)(void *opaque, const struct wslx_agent_hello *hello);
	void (*ready)(void *opaque);
	/* From a distro's start: something the user should know. */
	void (*warning)(void *opaque, const char *text);
	/* Before ready: the machine will not become usable.  May free the object. */
	void (*failed)(void *opaque, const char *text);
	/* After ready: the agent closed or broke the connection.  May free the object. */
	void (*lost)(void *opaque, const char *text);
	void (*event)(void *opaque, const struct wslx_agent_event *ev);
};

struct wslx_agent_setup_params {
	struct wslx_loop *loop;
	const struct wslx_vm_config *config;
	unsigned hello_timeout_ms, step_timeout_ms;
	const struct wslx_agent_setup_events *events; /* all set; static */
	void *opaque;
};

/* The time for HELLO begins. */
WSLX_MUST_CHECK int wslx_agent_setup_new(const struct wslx_agent_setup_params *p, struct wslx_agent_setup **ret);
/* The agent connected; fd is taken in any case.  -EBUSY: it had already. */
WSLX_MUST_CHECK int wslx_agent_setup_connected(struct wslx_agent_setup *s, int fd);
bool wslx_agent_setup_has_connected(const struct wslx_agent_setup *s);
/* NULL while there is no connection that takes requests. */
struct wslx_agentc *wslx_agent_setup_conn(struct wslx_agent_setup *s);
/* The clock is another after a pause. */
WSLX_MUST_CHECK int wslx_agent_setup_set_time(struct wslx_agent_setup *s);
/* The other end of the guest's network is a new one and has to learn its address. */
WSLX_MUST_CHECK int wslx_agent_setup_greet(struct wslx_agent_setup *s);
/* Did this distro start?  -1: no such, 0: not (yet), 1: yes. */
int wslx_agent_setup_distro(const struct wslx_agent_setup *s, const char *name);
/* A client started or stopped it. */
void wslx_agent_setup_distro_mark(struct wslx_agent_setup *s, const char *name, bool started);
void wslx_agent_setup_distro_message(const struct wslx_distro_config *c, struct wslx_agent_distro *ret);
void wslx_agent_setup_free(struct wslx_agent_setup *s); /* NULL is fine */

/* Search domains and, if want_servers, servers out of a resolv.conf's text. */
void wslx_resolv_parse(const char *text, bool want_servers, struct wslx_agent_config *m);

#endif
