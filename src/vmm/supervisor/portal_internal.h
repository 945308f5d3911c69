/* Shared by the portal*.c files of the supervisor; see portal.h. */
#ifndef WSLX_VMM_SUPERVISOR_PORTAL_INTERNAL_H
#define WSLX_VMM_SUPERVISOR_PORTAL_INTERNAL_H

#include "portal/wire.h"
#include "vmm/supervisor/portal.h"
#include "vmm/window.h"

/* ---- portal_info.c: what makes Linux see a devdax device ---- */

#define PORTAL_INFO_OFFSET 4096u
#define PORTAL_INFO_SIZE 4096u
void wslx_vmportal_info_block(uint64_t window, const uint8_t uuid[16], uint8_t ret[PORTAL_INFO_SIZE]);

/* ---- portal_page.c: the window's own memory and the tables in it ---- */

struct portal_page {
	int fd;
	uint8_t *head; /* the first 4 MiB: information block and tables */
	uint32_t event;
	uint64_t generation[PORTAL_WINDOW_ENTRIES]; /* of the entries' life words */
	uint64_t shown[PORTAL_WINDOW_ENTRIES][PORTAL_MAX_ARENAS];
};

WSLX_MUST_CHECK int wslx_vmportal_page_open(struct portal_page *p, uint64_t window);
void wslx_vmportal_page_close(struct portal_page *p);
/* Gives the memory of that run back, which lies under an arena: what the guest
 * has there costs the host once, not twice. */
void wslx_vmportal_page_punch(struct portal_page *p, uint32_t first, uint32_t segments);
/* Everything but life is taken from e. */
void wslx_vmportal_page_grant(struct portal_page *p, unsigned i, const struct portal_window_entry *e);
/* What a region is called that is not there yet; "" = nothing.  Only while there is no grant. */
void wslx_vmportal_page_name(struct portal_page *p, unsigned i, const char *as);
void wslx_vmportal_page_revoke(struct portal_page *p, unsigned i);
void wslx_vmportal_page_arena(struct portal_page *p, unsigned i, unsigned arena, const struct portal_window_arena *a);
/* What lies there is about to be another's: to be said before it is, as the guest may be reading. */
void wslx_vmportal_page_leave(struct portal_page *p, unsigned i, unsigned arena);
void wslx_vmportal_page_epoch(struct portal_page *p, unsigned i, uint32_t epoch);

/* ---- portal_place.c: who has which window segments ---- */

struct portal_places {
	uint8_t *owner; /* by segment: 0 free, 1 + grant; with PLACE_LEFT: given up, not free yet */
	/* By segment: 1 + the grant of a dead arena that is still mapped there, though
	 * the place is given up: somebody in the guest may be reading its last words. */
	uint8_t *stale;
	uint32_t n, next;
};

WSLX_MUST_CHECK int wslx_vmportal_places_open(struct portal_places *p, uint32_t segments);
void wslx_vmportal_places_close(struct portal_places *p);
/* The first segment, or 0: there is no room. */
uint32_t wslx_vmportal_place_take(struct portal_places *p, unsigned grant, uint32_t segments);
/* The same for something to come: what is mapped there may be a dead one's, until the place is used. */
uint32_t wslx_vmportal_place_keep(struct portal_places *p, unsigned grant, uint32_t segments);
void wslx_vmportal_place_use(struct portal_places *p, uint32_t first, uint32_t segments);
/* ... or was not needed, as far as place_stale() has not taken it. */
void wslx_vmportal_place_free(struct portal_places *p, unsigned grant, uint32_t first, uint32_t segments);
bool wslx_vmportal_place_fits(const struct portal_places *p, uint32_t segments);
/* Not to be taken by others before release. */
void wslx_vmportal_place_leave(struct portal_places *p, uint32_t first, uint32_t segments);
/* The same, and what is mapped there stays until somebody takes the place. */
void wslx_vmportal_place_abandon(struct portal_places *p, unsigned grant, uint32_t first, uint32_t segments);
/* A run that was abandoned and is to be unmapped after all, not to be taken by others before release; 0: there is
 * none. */
uint32_t wslx_vmportal_place_stale(struct portal_places *p, unsigned grant, uint32_t *ret_segments);
void wslx_vmportal_place_release(struct portal_places *p, unsigned grant);

/* ---- grants ---- */

enum grant_state {
	GRANT_WAITING,  /* no broker, nothing mapped */
	GRANT_HELLO,    /* until WELCOME */
	GRANT_ANSWER,   /* until DONE */
	GRANT_READY,    /* the tables are as of `epoch` */
	GRANT_CLEARING, /* everything is being unmapped */
};

struct grant_arena {
	uint64_t life;                    /* as the broker said; 0: not in the window */
	uint32_t place, segments, access; /* segments and no place: there was no room for it */
	bool dead;                        /* place is given up, and has its last bytes until somebody takes it */
};

struct grant {
	struct wslx_vmportal *p;
	unsigned index;
	struct wslx_portal_grant config; /* socket owned */
	enum grant_state state;
	bool revoked;    /* by the host; not joined again of our own accord */
	bool removed;    /* ... nor listed: another grant may have its place */
	bool join_again; /* CLEARING: and then? */
	/* Once, whatever the guest does: that the broker is not there, until it is; that
	 * it ends the connection, until an answer of its is in place; that the window is
	 * full, until the next boot. */
	bool gone_warned, lost_warned, full_warned;
	int64_t joined_ms;
	unsigned busy_tries; /* in a row */
	/* A mapping is under way: limit.  WAITING: until it may join again. */
	struct wslx_timer *timer;
	bool busy;
	/* Which one: to be asked for again when too many descriptors were on their way. */
	struct wslx_vmportal_map map; /* fd is ours, or the page's */
	bool map_later;
	unsigned map_tries;
	uint32_t covered_first, covered_segments; /* ... of an arena over the window's own memory; 0: of that itself */

	int sock;
	struct wslx_watch *watch; /* NULL while busy */
	bool arena_waits;         /* arena, arena_fd: to be carried out */
	struct wslx_portal_msg arena;
	int arena_fd;
	uint32_t participant, segments;
	uint64_t generation;
	uint8_t uuid[16];
	uint32_t epoch, news; /* of the tables; as the broker last said */
	bool shown;           /* the entry is */
	bool own_revoked;
	/* Room for its own arena, from before the broker tells of any, so that others' are not in its way; 0: none. And
	 * that one's number, once it was told of. */
	uint32_t kept, kept_segments, own;
	struct grant_arena arenas[PORTAL_MAX_ARENAS];
	/* To be sent. */
	bool say_synced, say_sync;
	bool say_again; /* say_sync: for this one, too, that there is room for by now */
	uint32_t again;
	uint64_t kicks; /* bit a participant */

	int bell; /* our end, -1 = none */
	struct wslx_watch *bell_watch;
	bool attached;       /* the participant has been some program's */
	bool bell_told;      /* that it is ready */
	bool bell_ending;    /* we have ended it; the guest has not yet */
	uint64_t bell_ended; /* ... as which of all of the machine's */
	uint8_t kick[4];
	size_t kick_len;
};

struct wslx_vmportal {
	struct wslx_vmportal_params params;
	char name[PORTAL_NAME_SIZE]; /* participants' */
	uint64_t window;
	struct grant grants[WSLX_MAX_GRANTS];
	size_t n_grants;
	bool running;
	uint64_t bells_ended;
	struct portal_page page;
	struct portal_places places;
};

/* portal.c */
/* No mapping is under way (any more). */
void wslx_vmportal_map_over(struct grant *g);
/* Starts a mapping; portal_broker.c goes on when it is done. */
void wslx_vmportal_map(struct grant *g, uint32_t first, uint32_t segments, enum wslx_window_kind kind, int fd);
void wslx_vmportal_say(struct grant *g, const char *fmt, ...) WSLX_PRINTF(2, 3);

/* portal_broker.c */
void wslx_vmportal_join(struct grant *g);
/* Takes everything away from the guest, leaves, and joins again if so. */
void wslx_vmportal_leave(struct grant *g, bool join_again);
/* At once, without unmapping: the boot is over. */
void wslx_vmportal_drop(struct grant *g);
void wslx_vmportal_go_on(struct grant *g);
/* Window segments were given back: somebody may have waited for them. */
void wslx_vmportal_room(struct wslx_vmportal *p);
/* Sends what is to be sent, as far as there is room. */
void wslx_vmportal_flush(struct grant *g);

/* portal_bell.c */
void wslx_vmportal_ring(struct grant *g);
/* The tables are as the program needs them. */
void wslx_vmportal_bell_ready(struct grant *g);
/* The guest sees the end; its segments stay reserved until it closes, too. */
void wslx_vmportal_bell_end(struct grant *g);
void wslx_vmportal_bell_close(struct grant *g);
/* Of one that has ended already: its segments are free for others, at once or when the grant has come to rest. */
void wslx_vmportal_bell_reclaim(struct grant *g);
/* The one that ended the longest ago and was not closed; NULL: there is none. */
struct grant *wslx_vmportal_bell_oldest(struct wslx_vmportal *p);

#endif
