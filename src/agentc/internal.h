/* Shared by the files of agentc only. */
#ifndef WSLX_AGENTC_INTERNAL_H
#define WSLX_AGENTC_INTERNAL_H

#include "agentc/agentc.h"

#define EXEC_BUCKETS 256u

enum conn_state {
	CONN_CONNECTING, /* "OK <port>\n" is awaited */
	CONN_HELLO,      /* the agent's HELLO is awaited */
	CONN_READY,
	CONN_DEAD, /* closed() is about to be, or was, called */
};

struct request {
	struct request *next;
	uint32_t id;
	uint16_t want; /* type of a good reply */
	wslx_agentc_reply_fn fn;
	void *opaque;
};

/*
 * `busy` counts the frames of the call stack that still use the object.  A
 * callback may free it: then `freed` is set, everything it holds is released,
 * and the memory goes when `busy` is back at 0.
 */
struct wslx_agentc {
	struct wslx_loop *loop;
	struct wslx_watch *watch;
	struct wslx_timer *hello_timer; /* until HELLO */
	struct wslx_timer *fail_timer;  /* failures found inside an API call end the connection from the loop */
	struct wslx_agentc_events events;
	void *opaque;
	int fd;
	enum conn_state state;
	unsigned busy;
	bool freed;
	int fail_code;
	struct wslx_agent_rx rx;
	struct wslx_agent_tx tx;
	struct wslx_agent_tx early; /* requests made before READY */
	struct wslx_agent_hello hello;
	struct request *requests;
	uint32_t next_id, next_channel;
	struct wslx_agentc_exec *execs[EXEC_BUCKETS];
	struct wslx_agentc_exec *ended; /* not freed by their owners yet */
	bool room_wanted;               /* some exec was told "no room" because tx was full */
};

struct wslx_agentc_exec {
	struct wslx_agentc_exec *next; /* same bucket, or next ended one */
	struct wslx_agentc *c;         /* NULL once ended */
	struct wslx_agentc *owner;     /* frees it, if nobody did before */
	struct wslx_agentc_exec_ops ops;
	void *opaque;
	uint32_t channel;
	uint32_t request_id;
	uint32_t window;
	bool started, ended;
	unsigned busy;
	bool freed;
	struct {
		uint32_t credit;  /* bytes this side may still send */
		uint32_t granted; /* bytes the agent may still send */
		uint32_t used;    /* consumed, not granted again yet */
		uint32_t held;    /* handed to data(), not consumed yet */
		bool in_end;      /* agent's EOF seen */
		bool out_end;     /* our EOF sent */
		bool in_stopped;  /* our STOP sent */
		bool out_stopped; /* agent's STOP seen */
		bool starved;     /* write took less than asked: owes a writable() */
	} s[WSLX_STREAM_COUNT];
};

/* conn.c */
/* Queues a message; a full queue ends the connection from the loop. */
int wslx_agentc_queue(struct wslx_agentc *c, uint16_t type, uint32_t channel, uint32_t id, const void *body, size_t n);
/* Where messages go now: behind HELLO, or held back until READY. */
struct wslx_agent_tx *wslx_agentc_tx(struct wslx_agentc *c);
/* Sends what it can now, unless a dispatch round does so at its end anyway. */
void wslx_agentc_flush(struct wslx_agentc *c);
void wslx_agentc_fail_later(struct wslx_agentc *c, int code);
uint32_t wslx_agentc_new_id(struct wslx_agentc *c);

/* exec.c: frames with a channel.  0 or -EPROTO. */
int wslx_agentc_exec_frame(struct wslx_agentc *c, const struct wslx_agent_msg *m);
/* A reply with a channel. 1: it was an EXEC's. */
int wslx_agentc_exec_reply(struct wslx_agentc *c, const struct wslx_agent_msg *m);
/* Ends all execs with LOST. */
void wslx_agentc_exec_lost(struct wslx_agentc *c, int code, const char *text);
/* Frees all without callbacks. */
void wslx_agentc_exec_free_all(struct wslx_agentc *c);
/* tx has room again. */
void wslx_agentc_exec_room_again(struct wslx_agentc *c);

#endif
