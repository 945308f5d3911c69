/* Shared by supervisor.c (states) and methods.c (the control interface). */
#ifndef WSLX_VMM_SUPERVISOR_INTERNAL_H
#define WSLX_VMM_SUPERVISOR_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "proto/vmconfig.h"
#include "vmm/supervisor/agent.h"
#include "vmm/supervisor/console.h"
#include "vmm/supervisor/control.h"
#include "vmm/supervisor/open.h"
#include "vmm/supervisor/passt.h"
#include "vmm/supervisor/portal.h"
#include "vmm/supervisor/report.h"
#include "vmm/supervisor/run.h"
#include "vmm/supervisor/supervisor.h"
#include "vmm/supervisor/vmmlog.h"

/*
 *   STARTING ──▶ RUNNING ◀──▶ PAUSED        a reboot goes back to STARTING
 *      │            │           │
 *      └────────────┴─────┬─────┘
 *                         ▼
 *                      STOPPING ──▶ end
 */
enum sup_state { SUP_STARTING, SUP_RUNNING, SUP_PAUSED, SUP_STOPPING };

/* A client has one call under way, and one that goes away gives its place back. */
#define MAX_WAITERS WSLX_CONTROL_MAX_CLIENTS

/* See pause.c. */
enum pause_step { STEP_NONE, STEP_FREEZE, STEP_STOP, STEP_START, STEP_THAW };
struct sup_pause {
	bool want;            /* to rest; else to run */
	bool distros, cpus;   /* at rest, or maybe */
	bool unanswered;      /* the agent's PAUSE, also after RESUME overtook it */
	enum pause_step step; /* whose answer is awaited */
	struct wslx_call *pause_call, *resume_call;
	char error[256]; /* why there is no pause */
	struct wslx_timer *timer;
	bool then_shut_down; /* once it runs */
	unsigned shutdown_ms;
};

struct timing {
	const char *name;
	uint64_t ns;
};
#define MAX_TIMINGS 12

struct wslx_sup {
	struct wslx_supervisor_args args;
	struct wslx_loop *loop;
	struct wslx_vm_config *config;
	struct wslx_files files;
	struct wslx_report report;
	struct wslx_control *control;
	struct wslx_conlog *console;
	struct wslx_vmmlog *log;
	struct wslx_passt *passt;
	struct wslx_vmportal *portal; /* NULL: no window */
	struct wslx_run *run;
	struct wslx_agent_setup *agent;
	int signal_fd;
	struct wslx_watch *signal_watch;

	enum sup_state state;
	bool over;      /* it ended, and all who wait were told */
	bool was_ready; /* of this start: the first boot reached RUNNING */
	uint64_t start_ns, boot_ns;
	unsigned boots;
	int64_t reboot_times[8]; /* ring, for loop protection */

	int net_fd; /* the machine's end of passt's socket, until the child has it */

	/* STOPPING */
	bool stop_wanted; /* the end that comes was asked for */
	struct wslx_timer *stop_timer;
	struct wslx_err end_err; /* why it ended; code 0: in order */

	/* A panic seen on the console. */
	char panic[WSLX_CONSOLE_LINE_MAX];
	bool panic_asked; /* the agent was sent a PING about it */
	struct wslx_timer *panic_timer;

	/* The agent's connection ended: the machine's end should follow. */
	bool agent_lost;
	struct wslx_timer *lost_timer;

	struct timing timings[MAX_TIMINGS];
	size_t n_timings;
	json_t *warnings;
	uint32_t full_disks; /* a bit for each that waits for room on the host's disk */
	char kernel_release[128], agent_version[64];

	struct wslx_call *waiters[MAX_WAITERS]; /* of WaitReady */
	size_t n_waiters;

	struct sup_pause pause;
};

const char *wslx_sup_state_name(const struct wslx_sup *s);
json_t *wslx_sup_timings(const struct wslx_sup *s);
/* Asks the guest to power off, by force after timeout_ms; force: at once. */
void wslx_sup_terminate(struct wslx_sup *s, bool force, unsigned timeout_ms);
/* Tells the agent so; without one, or a way to it, ends the run by force. */
void wslx_sup_ask_shutdown(struct wslx_sup *s, unsigned timeout_ms);

/* For the user who looks into vmm.log and Info. */
void wslx_sup_warn(struct wslx_sup *s, const char *text);
/* Ends the machine by force because of `text`. */
void wslx_sup_fail(struct wslx_sup *s, int code, const char *text);

/* panic.c */
WSLX_MUST_CHECK int wslx_sup_panic_init(struct wslx_sup *s);
/* The console's: opaque is the wslx_sup. */
void wslx_sup_panic_seen(void *opaque, const char *line);
/* After a pause: the time for the agent's word on a panic begins anew. */
void wslx_sup_panic_again(struct wslx_sup *s);

/* pause.c */
WSLX_MUST_CHECK int wslx_sup_pause_init(struct wslx_sup *s);
/* The run is over: nothing is paused any more. */
void wslx_sup_pause_reset(struct wslx_sup *s);
/* Anything of the machine rests, may rest, or is about to. */
bool wslx_sup_at_rest(const struct wslx_sup *s);
/* Only when nothing is at rest and no PAUSE unanswered. */
void wslx_sup_pause(struct wslx_sup *s, struct wslx_agentc *conn, struct wslx_call *call);
/* Only when something is.  False: somebody waits for that already. */
WSLX_MUST_CHECK bool wslx_sup_resume(struct wslx_sup *s, struct wslx_call *call);
void wslx_sup_pause_caller_gone(struct wslx_sup *s, const struct wslx_call *call);
void wslx_sup_resume_to_shut_down(struct wslx_sup *s, unsigned timeout_ms);

/* room.c */
void wslx_sup_host_full(struct wslx_sup *s, unsigned disk, bool full);

/* portal_method.c */
WSLX_MUST_CHECK int wslx_sup_portal_new(struct wslx_sup *s, struct wslx_err *err);
/* -ENOENT: that port is no doorbell of a region. */
WSLX_MUST_CHECK int wslx_sup_portal_connect(struct wslx_sup *s, uint32_t id, uint64_t port);
void wslx_sup_portal_sync(void *opaque, struct wslx_call *call, json_t *params);

/* methods.c */
WSLX_MUST_CHECK int wslx_sup_control_new(struct wslx_sup *s, const char *path, struct wslx_err *err);
void wslx_sup_answer_waiters(struct wslx_sup *s);

#endif
