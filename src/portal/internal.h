/*
 * libportal, the participant's side.
 *
 * Theory of operation.  A participant reserves address space for the whole
 * region and maps each arena it may see at its place; so an offset is an
 * address.  view[] is its private copy of the arena table, refreshed
 * (arenas.c) when the header's epoch moves.  Memory stays mapped once it was,
 * until its place or number is used again, or the host gives what is dead another
 * generation: a pointer into a dead peer's arena is never a fault.  But it may
 * come to show another's bytes, or zeros: what was read of a peer
 * counts only if that one is alive after reading, or nothing took its place.
 *
 * The host tells of everything rare (arenas, deaths, answers, links, names,
 * quiesce) by counting this participant's event word up.  Whoever waits loads
 * the event word first, then looks at whatever he waits for, then sleeps on
 * event and ring index both (wait.c).
 *
 * Threads: any.  lock guards view[], the heap, the links and the list of
 * channels; a channel's rings are used by the thread that owns the channel,
 * without lock.  Quiesce: gate.c.
 *
 * Trust boundary: arena 0 is the host's and believed, but never followed out
 * of the mapping.  Everything in other arenas is hostile.
 *
 * Lock order: portal.lock is a leaf; nothing is waited for under it but the
 * broker's answer to SYNC, and for that not without end.
 */
#ifndef WSLX_PORTAL_INTERNAL_H
#define WSLX_PORTAL_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <wslx/portal.h>

#include "base/macros.h"
#include "portal/directory.h"
#include "portal/heap.h"
#include "portal/ring.h"
#include "portal/spin.h"
#include "portal/wire.h"

#ifdef PORTAL_EXPLORE
/* A fiber must not hold up the thread that all fibers run on. */
int explore_lock(pthread_mutex_t *m);
int explore_unlock(pthread_mutex_t *m);
#define pthread_mutex_lock explore_lock
#define pthread_mutex_unlock explore_unlock
#endif

#define NO_ARENA 0xffffu

struct wslx_portal_view {
	uint64_t life;
	uint32_t first, segments, owner, flags;
	bool mapped;   /* something was put there */
	bool readable; /* and it is still ours to read */
	bool writable;
};

struct wslx_portal_geometry {
	uint32_t segments, tag, name_slots, index_slots;
	uint64_t participants_off, arenas_off, names_off, index_off;
};

/* Quiesce: one per channel. */
struct wslx_portal_gate {
	uint32_t busy; /* between the first byte of a publication and its index */
	struct wslx_portal_gate *next;
};

struct portal {
	pthread_mutex_t lock;
	uint8_t *base;
	uint64_t length;
	uint8_t *reserved;                 /* the mapping with base in it, if it is ours */
	int sock;                          /* of the broker, or -1 */
	struct wslx_portal_window *window; /* in a guest */
	const struct portal_doorbell_ops *ops;
	void *ops_ctx;
	const uint32_t *epoch_word;
	struct wslx_portal_geometry geo;
	const struct portal_header *hdr;
	const struct portal_participant *parts;
	const struct portal_arena *arenas;
	struct wslx_portal_names names;
	unsigned self;
	uint64_t generation;
	uint32_t epoch;     /* of view[] */
	uint16_t *arena_of; /* per segment */
	struct wslx_portal_view view[PORTAL_MAX_ARENAS];
	bool missed[PORTAL_MAX_ARENAS]; /* the broker has told, and it could not be taken */
	unsigned own_arena;
	uint64_t own_off;
	bool revoked;
	bool broker_lost; /* killed, as its socket or the doorbell says; or it does not answer */
	bool asking;      /* a thread uses the mailbox */
	struct portal_control *ctl;
	struct portal_link *links;
	uint64_t link_generation;
	bool link_used[PORTAL_MAX_LINKS];
	bool link_wanted; /* an offer waits for an entry */
	/* An offer waits, as its maker has PER_PEER channels: to all listeners together, so any that we close is news
	 * for each of them. */
	bool place_wanted;
	uint32_t places; /* how often one was closed that somebody waited for */
	struct wslx_portal_heap heap;
	struct wslx_portal_gate *gates;
	bool no_membarrier; /* each publication has its own barrier at the gate */
	struct portal_chan *zombies;
	struct portal_chan *closing; /* freed while the region was to rest: the peer is not told yet */
};

struct portal_chan {
	portal *p;
	struct wslx_portal_gate gate;
	struct wslx_portal_txe tx;
	struct wslx_portal_rxe rx;
	struct portal_record peeked;
	struct wslx_portal_spin spin;
	uint32_t kind;
	unsigned peer;
	uint64_t peer_generation;
	unsigned link;
	uint64_t offer_life; /* of our entry, as a client */
	const struct portal_link *peer_link;
	uint64_t peer_link_life;
	/* Where its memory was when we met. */
	uint16_t peer_arena;
	uint64_t peer_arena_generation;
	struct portal_handle block_h, data_h;
	struct portal_chan *next; /* zombies, closing */
	uint64_t serial;
	struct portal_listener *listener;
};

struct portal_listener {
	portal *p;
	char name[PORTAL_NAME_SIZE];
	struct portal_listen params;
	uint32_t slot, generation;
	unsigned open;
	unsigned turn; /* participant to look at first */
	/* links_seq when a table had nothing more for us, and whose table it was. */
	uint32_t seen[PORTAL_MAX_PARTICIPANTS];
	uint64_t seen_life[PORTAL_MAX_PARTICIPANTS];
	uint32_t places; /* the participant's, when all were last looked at */
	bool dirty;      /* look at everybody */
	bool more;       /* an offer was answered, and there may be others */
	uint32_t told;   /* the event word when it was last said that somebody is at the door */
};

#define PORTAL_ATTACH_TIMEOUT_NS INT64_C(5000000000)
/* Of one that is there the answer to SYNC waits for other work, such as copying what is revoked.  After that long it is
 * lost. */
#define PORTAL_SYNC_LIMIT_NS INT64_C(60000000000)

/* attach.c */
portal *wslx_portal_new(void);
/* Address space for a region, with base and hdr. */
WSLX_MUST_CHECK int wslx_portal_reserve(portal *p, uint32_t segments);
/* Once the arenas are mapped: takes one's own over. */
WSLX_MUST_CHECK int wslx_portal_open_own(portal *p);

/* broker.c: a connection to the broker of that name, -ENOENT. */
WSLX_MUST_CHECK int wslx_portal_broker_connect(const char *name);

/* arenas.c: -EPIPE when the host is gone. */
WSLX_MUST_CHECK int wslx_portal_refresh(portal *p); /* takes the lock */
WSLX_MUST_CHECK int wslx_portal_refresh_locked(portal *p);
/* Is there anything to refresh?  Also without the lock. */
bool wslx_portal_behind(const portal *p);
WSLX_MUST_CHECK int wslx_portal_take_geometry(portal *p);
/* The broker's answer to HELLO after WELCOME. */
WSLX_MUST_CHECK int wslx_portal_receive_first(portal *p);
/* The place belongs to v now; whoever had a part of it before has it no more. */
void wslx_portal_take_place(portal *p, unsigned index, const struct wslx_portal_view *v);
/* len bytes at a region offset in owner's main arena, readable; NULL if it is not. */
const void *wslx_portal_peer_bytes(portal *p, unsigned owner, uint64_t off, uint64_t len);
static inline bool wslx_portal_host_up(const portal *p);
/* Live?  Then its generation. */
bool wslx_portal_peer_life(const portal *p, unsigned peer, uint64_t *ret_generation);

/* wait.c */
int64_t wslx_portal_now(void); /* CLOCK_MONOTONIC, in ns */
int64_t wslx_portal_deadline(int64_t timeout_ns);
/* What is left until the deadline: -1 for ever, 0 over. */
int64_t wslx_portal_left(int64_t deadline);
/* Sleeps until the event word is not ev any more, or one of the others moved. */
void wslx_portal_sleep(portal *p, uint32_t ev, const struct portal_wait *more, size_t n, int64_t left);
/* Sleeps on events alone, and then takes note of them.  -ETIMEDOUT, -EAGAIN (deadline 0), -EPIPE. */
WSLX_MUST_CHECK int wslx_portal_await_event(portal *p, uint32_t ev, int64_t deadline);
void wslx_portal_kick(portal *p, unsigned to);
void wslx_portal_ring_for(portal *p, unsigned peer, const void *index);
extern const struct portal_doorbell_ops wslx_portal_futex_ops; /* ctx: the portal */

/* gate.c */
void wslx_portal_gate_add(portal *p, struct wslx_portal_gate *g);
void wslx_portal_gate_remove(portal *p, struct wslx_portal_gate *g);
/* The control area and the heap are ready: from now on this participant is attached. */
void wslx_portal_gate_open(portal *p);
/* Before the first write of a publication; waits while the region is quiesced.  0 or -EAGAIN, -ETIMEDOUT, -EPIPE,
 * -EACCES (revoked). */
WSLX_MUST_CHECK int wslx_portal_gate_enter(portal *p, struct wslx_portal_gate *g, int64_t deadline);
/* The same for changes under the lock: locks, or returns an error without. */
WSLX_MUST_CHECK int wslx_portal_lock_to_write(portal *p, int64_t deadline);
/* Acknowledges if the region is to rest and nobody here is in the middle of something.  True: is to rest. */
bool wslx_portal_gate_rest(portal *p);
bool wslx_portal_gate_rest_locked(portal *p);

/* Waits while the region is to rest, and says so to the host.  0, -EAGAIN, -ETIMEDOUT, -EPIPE. */
WSLX_MUST_CHECK int wslx_portal_park(portal *p, int64_t deadline);

/* chan.c */
/* Everything peeked since rx.pos was `before` is copied out.  Gives its room back; on an error, -EAGAIN and -ETIMEDOUT
 * (the region is to rest) among others, it stays to be read.  -EPIPE: it was not the peer's. */
WSLX_MUST_CHECK int wslx_portal_received(portal_chan *c, uint64_t before, int64_t timeout_ns);

/* objects.c */
/* Looks a name up; patient with a host that is interrupted in the middle of a change.  ret_slot may be NULL. */
WSLX_MUST_CHECK int wslx_portal_find(portal *p, const char *name, struct portal_name *ret, uint32_t *ret_slot);
/* portal_wait_for() for one who means to talk to the owner: -EACCES once revoked. */
WSLX_MUST_CHECK int wslx_portal_wait_for_peer(portal *p, const char *name, int64_t timeout_ns,
					      struct portal_object *ret);
WSLX_MUST_CHECK int wslx_portal_publish_kind(portal *p, uint32_t kind, const char *name, struct portal_handle h,
					     uint64_t size, uint32_t tag);

/* link.c */
void wslx_portal_free_zombies(portal *p);
/* Both write where others look: after wslx_portal_lock_to_write(), before the lock is given back. */
WSLX_MUST_CHECK int wslx_portal_chan_new(portal *p, uint32_t kind, uint64_t capacity, portal_chan **ret);
void wslx_portal_chan_close(portal_chan *c);
/* The channels that were freed while the region was to rest, if it is not any more; under the lock. */
void wslx_portal_close_due(portal *p);
/* Puts it into the link table; under the lock. */
WSLX_MUST_CHECK int wslx_portal_link_write(portal *p, portal_chan *c, enum portal_link_state state,
					   const struct portal_link *l);
void wslx_portal_link_free(portal *p, unsigned link);
/* Checks the peer's blocks and joins the rings. */
WSLX_MUST_CHECK int wslx_portal_chan_join(portal_chan *c, const struct portal_link *peer, uint64_t max_capacity);
/* The peer is dead.  Takes note of what is new: 0: what we have read was its own; -EPIPE: it was revoked, or its place
 * may be someone else's by now. */
WSLX_MUST_CHECK int wslx_portal_chan_place(portal_chan *c);
/* connect.c: the server's entry that answers our offer, if there is one; under the lock. */
bool wslx_portal_find_answer(portal_chan *c, struct portal_link *ret);
/* A consistent copy of an entry; false if it changed meanwhile. */
bool wslx_portal_link_read(const struct portal_link *shared, struct portal_link *ret);
const struct portal_link *wslx_portal_links_of(portal *p, unsigned peer);
/* Is somebody waiting at the door?  Once for each event, the word for which is ev, unless there is reason to think that
 * an offer is there: who offers kicks, and a count that moves without is no news. */
bool wslx_portal_listener_knock(portal_listener *l, uint32_t ev);
/* A channel of its is about to be closed, by any thread. */
void wslx_portal_listener_left(portal_listener *l);

/* For the others this one is dead, as of the last refresh: nobody connects, answers or sends any more.  Whoever waits
 * for that asks after each refresh. */
static inline bool wslx_portal_is_revoked(const portal *p)
{
	return __atomic_load_n(&p->revoked, __ATOMIC_ACQUIRE);
}

static inline bool wslx_portal_host_up(const portal *p)
{
	return __atomic_load_n(&p->hdr->host, __ATOMIC_ACQUIRE) == PORTAL_HOST_UP &&
	       !__atomic_load_n(&p->broker_lost, __ATOMIC_ACQUIRE);
}

#endif
