/*
 * The broker: the host's side of one region.
 *
 * Theory of operation.  It writes arena 0 (header, participants, arenas,
 * names), makes the sealed memfds of all arenas, and hands out descriptors:
 * writable to an arena's one writer, opened read-only for everybody else.
 * A participant is a socket (its end is the participant's death) or was added
 * by portal_host_add().  Requests lie in participants' mailboxes; a kick says
 * so.  News are told by counting event words up.
 *
 * Threads: lock guards everything; functions that wait for participants let go
 * of it while they poll, and dispatch meanwhile.  notify callbacks run under it.
 *
 * Trust boundary: sockets of the same user only, but their messages and all
 * mailboxes are hostile: copied once and checked.  Nothing a client sends or
 * leaves undone can block this thread: answers that do not fit wait for
 * EPOLLOUT.
 */
#ifndef WSLX_PORTAL_HOST_H
#define WSLX_PORTAL_HOST_H

#include <pthread.h>
#include <stdbool.h>
#include <wslx/portal.h>

#include "base/macros.h"
#include "portal/directory.h"
#include "portal/wire.h"

struct wslx_host_arena {
	int fd;        /* read-write */
	int ro;        /* the same, opened read-only */
	uint64_t life; /* 0: never used */
	uint32_t first, segments, owner, flags;
	uint64_t readers;
	uint64_t died;  /* dead, and its last bytes are there to be read: as which of all; 0: not so */
	uint64_t left;  /* ... how many bytes of memory those are */
	bool everybody; /* those that come may read as well, but for the numbers that were excepted */
};

struct wslx_host_member {
	bool used; /* the index is taken; until its socket is closed, too */
	bool live;
	int sock;
	bool greeted;
	bool answering;  /* the socket was full in the middle of an answer */
	bool later;      /* ... or too many descriptors are on their way: the timer goes on with it */
	bool event_due;  /* ... in an event: the next one must not be an older epoch's */
	uint32_t polled; /* epoll events asked for; 0: as at first */
	uint32_t kind;
	uint32_t pid;   /* of the other end of its socket */
	uint32_t names; /* that it has in the directory */
	unsigned arena;
	const struct portal_control *ctl; /* read-only */
	uint32_t synced;                  /* guests with a socket: the epoch that their VMM has put in place */
	uint64_t sent[PORTAL_MAX_ARENAS]; /* life and access as last told */
	void (*notify)(void *opaque, int arena);
	void *opaque;
};

/* A connection that has not said HELLO. */
struct wslx_host_stranger {
	int sock; /* -1: none */
	int64_t deadline;
};

#define WSLX_HOST_STRANGERS 64u

/* epoll's words: a member's (wslx_host_word()), or one of these (a stranger's with its index). */
#define WSLX_HOST_WHAT 0xffffffff00000000ull
#define WSLX_HOST_STRANGER 0x100000000ull
#define WSLX_HOST_LISTENER 0x200000000ull
#define WSLX_HOST_TIMER 0x300000000ull

struct portal_host {
	pthread_mutex_t lock;
	int epoll, listener, timer;
	int spare[2];       /* descriptors that replacing an arena's memory may always use */
	int64_t deaf_until; /* the listener is not watched; 0: it is */
	int64_t retry_at;   /* who is to be answered later; 0: nobody */
	struct wslx_host_stranger stranger[WSLX_HOST_STRANGERS];
	char *path;
	uint8_t *base; /* arena 0 */
	/* What the header says too.  Participants have descriptors of arena 0: what we decide by we keep where none
	 * of them could ever write. */
	char name[PORTAL_NAME_SIZE];
	uint32_t tag, segments, epoch, quiesce, names_seq;
	uint64_t life[PORTAL_MAX_PARTICIPANTS];
	struct portal_header *hdr;
	struct portal_participant *parts;
	struct portal_arena *arenas;
	struct wslx_portal_directory names;
	uint32_t max_each, max_names;
	uint8_t *segment_used;
	uint32_t next_place; /* where the search for a place begins ... */
	unsigned next_arena; /* ... and for a number */
	/* Of the arena made last.  One for all: a handle into one that was in the same place under another number is
	 * stale. */
	uint64_t arena_generation;
	uint64_t arenas_died;
	struct wslx_host_arena arena[PORTAL_MAX_ARENAS];
	struct wslx_host_member member[PORTAL_MAX_PARTICIPANTS];
	struct portal_host_stat count;
};

/* host_arena.c */
/* Memory for arena 0, mapped at base; nobody can map it for writing or write to it any more. */
WSLX_MUST_CHECK int wslx_host_arena_memory(portal_host *h, uint32_t segments);
WSLX_MUST_CHECK int wslx_host_arena_new(portal_host *h, uint32_t segments, unsigned owner, uint32_t flags,
					uint64_t readers, unsigned *ret);
/* Whoever gets number i next has none of the rights that were given to the one who leaves.  Between the epoch's begin
 * and end. */
void wslx_host_arena_disown(portal_host *h, unsigned a, unsigned i);
/* Its writer is gone: nobody gets it any more; the place is free for others. */
void wslx_host_arena_dead(portal_host *h, unsigned a);
/* New memory with the same bytes, which the old writer cannot reach. */
WSLX_MUST_CHECK int wslx_host_arena_replace(portal_host *h, unsigned a, unsigned owner, enum portal_arena_state state);
/* The same whatever fails: what cannot be copied reads as zeros, and without memory nobody else has the arena any more,
 * nor an object's name. */
void wslx_host_arena_take(portal_host *h, unsigned a, unsigned owner, enum portal_arena_state state);
/* Only for as long as it takes to close as many: revoking must not fail for want of descriptors. */
void wslx_host_use_spare(portal_host *h);
int wslx_host_keep_spare(portal_host *h);
void wslx_host_arena_close(struct wslx_host_arena *a);
enum wslx_portal_access wslx_host_access(const portal_host *h, unsigned member, unsigned a);
void wslx_host_epoch_begin(portal_host *h);
void wslx_host_epoch_end(portal_host *h); /* and tells everybody */

/* host_member.c */
WSLX_MUST_CHECK int wslx_host_join(portal_host *h, const struct portal_host_member *m, int sock, unsigned *ret);
/* Frees what it had; the index too if it has no socket left. */
void wslx_host_leave(portal_host *h, unsigned i, bool died);
void wslx_host_event(portal_host *h, unsigned i);
void wslx_host_event_all(portal_host *h);

/* host_socket.c */
/* Hears a stranger: 0: sock is a member's, or was; 1: it has said nothing yet; -errno: it is to be closed. */
WSLX_MUST_CHECK int wslx_host_greet(portal_host *h, int sock);
/* word: a member's. */
void wslx_host_on_socket(portal_host *h, uint32_t word, uint32_t events);
/* In epoll: its index, and above 8 bits the generation.  Of two threads that dispatch one may have the end of whoever
 * had the index before in its hands. */
uint32_t wslx_host_word(const portal_host *h, unsigned i);
/* Those that too many descriptors on their way kept from their answers. */
void wslx_host_answer_late(portal_host *h);
/* To a guest's VMM: ring the guest. */
void wslx_host_tell_vmm(portal_host *h, unsigned i);

/* host_strangers.c */
WSLX_MUST_CHECK int wslx_host_strangers_init(portal_host *h);
void wslx_host_strangers_free(portal_host *h);
/* Takes sock unless it fails. */
WSLX_MUST_CHECK int wslx_host_accept(portal_host *h, int sock);
void wslx_host_on_connection(portal_host *h);
void wslx_host_on_stranger(portal_host *h, unsigned k);
void wslx_host_on_timer(portal_host *h);
/* wslx_host_answer_late() in a while. */
void wslx_host_retry_soon(portal_host *h);
/* Are there enough left besides fd to let somebody in? */
bool wslx_host_has_descriptors(int fd);

/* host_names.c */
void wslx_host_mailbox(portal_host *h, unsigned i);
void wslx_host_drop_names(portal_host *h, unsigned owner, uint64_t generation);
/* The name of the object of whole segments that is this arena. */
void wslx_host_drop_object(portal_host *h, unsigned a);
WSLX_MUST_CHECK int wslx_host_name_add(portal_host *h, const struct portal_name *n);
WSLX_MUST_CHECK int wslx_host_find_arena(portal_host *h, const char *name, unsigned *ret);

#endif
