/*
 * Pause and resume of the whole machine.
 *
 * Theory of operation.  Two layers come to rest one after the other: the
 * distros' processes and file systems (the agent), then processors and devices
 * (the run).  `distros` and `cpus` say which layers rest or may rest: they are
 * set when the question goes out, and cleared when it is known that the layer
 * runs.  So there is one way back, go_on(), whatever failed and however far a
 * pause had come; a Resume, a time-out, a Terminate and a client that went away
 * before its answer all take it.  A way back that fails is tried again until
 * it works or the machine ends, and the machine is called paused meanwhile.
 *
 * At most one question is under way (`step`), but for the agent's PAUSE: that
 * one may wait for a disk for ever, so RESUME overtakes it, and the agent then
 * answers both.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "vmm/supervisor/internal.h"

#define FAILED "io.wslx.Machine.Failed"
/* The guest writes back all it has not written yet. */
#define LIMIT_MS 60000
#define RETRY_MS 1000

static void go_on(struct wslx_sup *s);

static unsigned limit_ms(const struct wslx_sup *s)
{
	return s->args.pause_limit_ms ? s->args.pause_limit_ms : LIMIT_MS;
}

static void answer(struct wslx_call **call, const char *error)
{
	struct wslx_call *c = *call;
	json_t *text;

	*call = NULL;
	if (!c)
		return;
	if (!error) {
		wslx_call_reply(c, NULL);
		return;
	}
	text = json_string(error);
	wslx_call_error(c, FAILED, json_pack("{s:o}", "message", text ? text : json_string("?")));
}

bool wslx_sup_at_rest(const struct wslx_sup *s)
{
	return s->pause.want || s->pause.distros || s->pause.cpus;
}

/* ---- the way back ------------------------------------------------------------ */

static void undo_failed(struct wslx_sup *s, const char *why)
{
	static struct wslx_log_limit limit;
	struct sup_pause *p = &s->pause;

	wslx_log_limited(&limit, WSLX_LOG_WARN, "the machine cannot be resumed: %s", why);
	if (s->state == SUP_RUNNING)
		s->state = SUP_PAUSED;
	answer(&p->pause_call, p->error);
	answer(&p->resume_call, why);
	if (p->then_shut_down) {
		p->then_shut_down = false;
		wslx_run_stop(s->run);
		return;
	}
	wslx_timer_arm(p->timer, RETRY_MS);
}

static void running(struct wslx_sup *s)
{
	struct sup_pause *p = &s->pause;

	wslx_timer_disarm(p->timer);
	if (s->state == SUP_PAUSED)
		s->state = SUP_RUNNING;
	answer(&p->pause_call, p->error);
	answer(&p->resume_call, NULL);
	p->error[0] = '\0';
	wslx_sup_panic_again(s);
	if (p->then_shut_down) {
		p->then_shut_down = false;
		wslx_sup_ask_shutdown(s, p->shutdown_ms);
	}
}

static void on_thawed(void *opaque, const struct wslx_agentc_reply *r)
{
	struct wslx_sup *s = opaque;

	if (s->pause.step != STEP_THAW)
		return;
	s->pause.step = STEP_NONE;
	if (r->code < 0) {
		undo_failed(s, r->text[0] ? r->text : strerror(-r->code));
		return;
	}
	s->pause.distros = false;
	go_on(s);
}

static void thaw(struct wslx_sup *s)
{
	struct wslx_agentc *conn = s->agent ? wslx_agent_setup_conn(s->agent) : NULL;
	int r;

	/* Its processes should see the right time from the first moment. */
	if (conn && wslx_agent_setup_set_time(s->agent) < 0)
		log_warn("the guest's clock was not set");
	s->pause.step = STEP_THAW;
	r = conn ? wslx_agentc_resume(conn, on_thawed, s) : -ENOTCONN;
	if (r < 0) {
		s->pause.step = STEP_NONE;
		undo_failed(s, strerror(-r));
	}
}

static void on_cpus_started(void *opaque, int err, uint64_t a, const char *text)
{
	struct wslx_sup *s = opaque;

	if (s->pause.step != STEP_START)
		return;
	s->pause.step = STEP_NONE;
	if (err < 0) {
		undo_failed(s, strerror(-err));
		return;
	}
	s->pause.cpus = false;
	go_on(s);
}

static void start_cpus(struct wslx_sup *s)
{
	int r;

	s->pause.step = STEP_START;
	r = wslx_run_pause(s->run, false, on_cpus_started, s);
	if (r < 0) {
		s->pause.step = STEP_NONE;
		undo_failed(s, strerror(-r));
	}
}

static void go_on(struct wslx_sup *s)
{
	struct sup_pause *p = &s->pause;

	if (p->step != STEP_NONE && p->step != STEP_FREEZE)
		return; /* its answer brings us back here */
	p->step = STEP_NONE;
	if (p->cpus)
		start_cpus(s);
	else if (p->distros)
		thaw(s);
	else
		running(s);
}

/* The pause does not come to pass. */
static void give_up(struct wslx_sup *s, const char *why)
{
	struct sup_pause *p = &s->pause;

	if (!p->want)
		return;
	log_info("the pause is given up: %s", why);
	snprintf(p->error, sizeof(p->error), "%s", why);
	p->want = false;
	wslx_timer_arm(p->timer, limit_ms(s));
	go_on(s);
}

/* ---- the way to rest ---------------------------------------------------------- */

static void on_cpus_stopped(void *opaque, int err, uint64_t a, const char *text)
{
	struct wslx_sup *s = opaque;
	struct sup_pause *p = &s->pause;

	if (p->step != STEP_STOP)
		return;
	p->step = STEP_NONE;
	if (!p->want) {
		go_on(s);
		return;
	}
	if (err < 0) { /* a part of it may rest all the same */
		give_up(s, strerror(-err));
		return;
	}
	wslx_timer_disarm(p->timer);
	if (s->state == SUP_RUNNING)
		s->state = SUP_PAUSED;
	answer(&p->pause_call, NULL);
}

static void on_frozen(void *opaque, const struct wslx_agentc_reply *r)
{
	struct wslx_sup *s = opaque;
	struct sup_pause *p = &s->pause;
	int e;

	p->unanswered = false;
	if (p->step != STEP_FREEZE)
		return; /* RESUME overtook it */
	p->step = STEP_NONE;
	if (r->code < 0) {
		give_up(s, r->text[0] ? r->text : strerror(-r->code));
		return;
	}
	e = wslx_run_pause(s->run, true, on_cpus_stopped, s);
	if (e < 0) {
		give_up(s, strerror(-e));
		return;
	}
	p->cpus = true;
	p->step = STEP_STOP;
}

void wslx_sup_pause(struct wslx_sup *s, struct wslx_agentc *conn, struct wslx_call *call)
{
	struct sup_pause *p = &s->pause;
	int r = wslx_agentc_pause(conn, on_frozen, s);

	if (r < 0) {
		answer(&call, strerror(-r));
		return;
	}
	*p = (struct sup_pause) {
		.want = true,
		.distros = true,
		.unanswered = true,
		.step = STEP_FREEZE,
		.pause_call = call,
		.timer = p->timer,
	};
	wslx_timer_arm(p->timer, limit_ms(s));
}

/* ---- events ---------------------------------------------------------------------- */

bool wslx_sup_resume(struct wslx_sup *s, struct wslx_call *call)
{
	struct sup_pause *p = &s->pause;
	bool under_way = !p->want && p->step != STEP_NONE;

	if (p->resume_call)
		return false;
	p->resume_call = call;
	if (p->want)
		snprintf(p->error, sizeof(p->error), "cancelled: the machine is being resumed");
	p->want = false;
	wslx_timer_arm(p->timer, limit_ms(s));
	if (!under_way)
		go_on(s);
	return true;
}

void wslx_sup_pause_caller_gone(struct wslx_sup *s, const struct wslx_call *call)
{
	if (call == s->pause.pause_call)
		give_up(s, "who asked for it went away");
}

void wslx_sup_resume_to_shut_down(struct wslx_sup *s, unsigned timeout_ms)
{
	struct sup_pause *p = &s->pause;
	bool under_way = !p->want && p->step != STEP_NONE;

	if (p->want)
		snprintf(p->error, sizeof(p->error), "cancelled: the machine is being stopped");
	p->want = false;
	p->then_shut_down = true;
	p->shutdown_ms = timeout_ms;
	if (!under_way)
		go_on(s);
}

static void on_timer(struct wslx_timer *t, void *opaque)
{
	struct wslx_sup *s = opaque;
	struct sup_pause *p = &s->pause;
	char why[128];

	snprintf(why, sizeof(why), "time-out: the machine did not come to %s within %u ms", p->want ? "rest" : "life",
		 limit_ms(s));
	if (p->want) {
		give_up(s, why);
	} else if (p->step == STEP_NONE) {
		go_on(s);
	} else {
		/* The answer may still come.  Nobody is kept waiting for it. */
		if (s->state == SUP_RUNNING)
			s->state = SUP_PAUSED;
		answer(&p->pause_call, p->error);
		answer(&p->resume_call, why);
	}
}

int wslx_sup_pause_init(struct wslx_sup *s)
{
	return wslx_loop_timer(s->loop, on_timer, s, &s->pause.timer);
}

void wslx_sup_pause_reset(struct wslx_sup *s)
{
	struct sup_pause *p = &s->pause;

	if (p->timer)
		wslx_timer_disarm(p->timer);
	answer(&p->pause_call, "the machine ended");
	answer(&p->resume_call, "the machine ended");
	*p = (struct sup_pause) { .timer = p->timer };
}
