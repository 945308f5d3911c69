/*
 * A line on the guest's console that looks like a kernel's panic.
 *
 * A real one is followed by a reset, at once.  If none comes the agent is asked:
 * anybody in the guest can print such a line.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/supervisor/internal.h"

/* Time for the reset that follows a real one. */
#define PANIC_WAIT_MS 3000
/* Then for the agent's answer: a guest on a busy host may be slow, and lives. */
#define PANIC_PING_MS 10000

static unsigned panic_wait_ms(const struct wslx_sup *s)
{
	return s->args.panic_wait_ms ? s->args.panic_wait_ms : PANIC_WAIT_MS;
}

static void on_panic_ping(void *opaque, const struct wslx_agentc_reply *r)
{
	struct wslx_sup *s = opaque;

	if (r->code == 0) {
		wslx_timer_disarm(s->panic_timer);
		s->panic_asked = false;
		s->panic[0] = '\0';
	}
}

/* A panicked kernel resets at once.  This one did not: it hangs, or somebody in
 * the guest just printed such a line, and then the agent answers.  It is asked
 * only now, because right after a panic another processor may still run it. */
static void on_panic_timer(struct wslx_timer *t, void *opaque)
{
	struct wslx_sup *s = opaque;
	struct wslx_agentc *conn = s->agent ? wslx_agent_setup_conn(s->agent) : NULL;

	/* A machine that goes down in order does so within limits of its own, and
	 * one at rest cannot answer: wslx_sup_panic_again() looks at it later. */
	if (s->stop_wanted || s->agent_lost || wslx_sup_at_rest(s))
		return;
	if (conn && !s->panic_asked && wslx_agentc_ping(conn, on_panic_ping, s) == 0) {
		s->panic_asked = true;
		wslx_timer_arm(s->panic_timer, PANIC_PING_MS);
		return;
	}
	wslx_sup_fail(s, EFAULT, s->panic);
}

void wslx_sup_panic_again(struct wslx_sup *s)
{
	if (s->panic[0] && !s->stop_wanted)
		wslx_timer_arm(s->panic_timer, panic_wait_ms(s));
}

void wslx_sup_panic_seen(void *opaque, const char *line)
{
	struct wslx_sup *s = opaque;
	const char *what = strstr(line, "Kernel panic");

	if (s->panic[0])
		return;
	snprintf(s->panic, sizeof(s->panic), "%s", what ? what : line);
	s->panic_asked = false;
	wslx_timer_arm(s->panic_timer, panic_wait_ms(s));
}

int wslx_sup_panic_init(struct wslx_sup *s)
{
	return wslx_loop_timer(s->loop, on_panic_timer, s, &s->panic_timer);
}
