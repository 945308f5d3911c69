/* Shared by run.c (life of the processes), run_link.c (the link's messages) and those that use it. */
#ifndef WSLX_VMM_SUPERVISOR_RUN_INTERNAL_H
#define WSLX_VMM_SUPERVISOR_RUN_INTERNAL_H

#include "vmm/link.h"
#include "vmm/supervisor/proc.h"
#include "vmm/supervisor/qemu.h"
#include "vmm/supervisor/relay.h"
#include "vmm/supervisor/run.h"

#define MAX_REQUESTS 32

struct request {
	uint32_t id; /* 0 = free */
	uint32_t reply_type;
	wslx_run_reply_fn fn;
	void *opaque;
};

#define MAX_ANSWERS 64

/* Of wslx_run_connected(), that could not be sent yet. */
struct run_answer {
	uint32_t id;
	int fd; /* -1: refused */
	unsigned tries;
};

/* A grant has one mapping under way at a time. */
#define MAX_WINDOW_JOBS WSLX_MAX_GRANTS

struct window_job {
	unsigned waiting; /* for answers; 0 = free */
	uint32_t qemu_id; /* of the message to QEMU, while that is unanswered */
	int err;
	wslx_vmportal_mapped_fn fn;
	void *opaque;
};

struct wslx_run {
	struct wslx_run_params p;
	struct wslx_proc *child; /* vmm or devices */
	bool child_gone;
	struct wslx_relay *relay; /* the child's descriptor 2 */
	struct wslx_qemu *qemu;   /* tcg */
	bool qemu_gone;
	int link_fd;
	struct wslx_watch *link_watch;
	struct wslx_timer *kill_timer;
	struct request requests[MAX_REQUESTS];
	uint32_t next_id;
	struct {
		struct run_answer list[MAX_ANSWERS];
		size_t n;
		struct wslx_timer *timer; /* armed while there are any */
	} answers;
	struct {
		int fd; /* tcg: to the library in QEMU */
		struct wslx_watch *watch;
		uint32_t next_id;
		struct window_job jobs[MAX_WINDOW_JOBS];
	} window;
	uint64_t spawn_ns;
	bool stopping;
	bool have_end;
	enum wslx_run_end end;
	char text[WSLX_LINK_TEXT_MAX + 1];
	/* A tcg pause or resume has two steps. */
	struct {
		bool active, on;
		wslx_run_reply_fn fn;
		void *opaque;
	} step;
};

/* The first reason counts. */
void wslx_run_note_end(struct wslx_run *r, enum wslx_run_end end, const char *text);
int wslx_run_send(struct wslx_run *r, uint32_t type, uint32_t id, int fd);
/* It was not sent, and nothing is wrong with it or the child: others have sent too many descriptors, or it is slow. */
bool wslx_run_may_send_later(int err);
int wslx_run_request(struct wslx_run *r, uint32_t type, uint32_t reply_type, wslx_run_reply_fn fn, void *opaque);
/* wslx_link_send(); -ECONNRESET: there is nobody to ask any more. */
int wslx_run_ask(int sock, const struct wslx_link_msg *m);
/* As wslx_run_request() with all of the message given but id, which is set. */
int wslx_run_request_msg(struct wslx_run *r, struct wslx_link_msg *m, uint32_t reply_type, wslx_run_reply_fn fn,
			 void *opaque);
int wslx_run_link_watch(struct wslx_run *r);
/* Takes the last words of a child that has ended or is about to.  One that goes on and on is ended. */
void wslx_run_link_drain(struct wslx_run *r);
void wslx_run_link_close(struct wslx_run *r);
void wslx_run_fail_requests(struct wslx_run *r);

/* run_answer.c */
int wslx_run_answers_init(struct wslx_run *r);
void wslx_run_answers_drop(struct wslx_run *r);
void wslx_run_answers_free(struct wslx_run *r);

/* run_window.c */
int wslx_run_window_watch(struct wslx_run *r);
void wslx_run_window_close(struct wslx_run *r);

#endif
