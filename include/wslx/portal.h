/*
 * libportal: named, revocable shared memory across host processes and machines.
 *
 * A participant attaches to a region, allocates in the memory that it alone
 * writes, names objects, and connects to services of others over rings.
 *
 * Functions return 0 or a negative errno value:
 *   -EAGAIN     would wait, and was told not to       -ETIMEDOUT  waited long enough
 *   -EPIPE      the peer (or the host) is gone        -EPROTO     the peer broke the format
 *   -ESTALE     the handle means nothing any more     -EFAULT     it never meant anything
 *   -EACCES     not granted, or revoked               -ECANCELED  the call was cancelled
 *   -EINVAL     an argument makes no sense            -ENOENT     no such name, or call
 *   -EEXIST     the name is taken                     -EDQUOT     more segments, or names, than one may have
 *   -EUSERS     63 participants are there             -EBUSY      another has it; 128 calls are under way
 *   -ENOMEM     none left, of the process or in its own arena
 *   -ENOSPC     no room left in the region, the directory or the fan-in
 *   -EMFILE     all 256 links, all arenas, or all descriptors are in use
 *   -EMSGSIZE   longer than the buffer, or than half of the ring
 *   -ECONNREFUSED  the server takes no more channels, or none with such a ring
 * and what the system says to attaching and mapping.
 *
 * timeout_ns is relative: 0 never waits, PORTAL_FOREVER has no end.  Whoever
 * waits spins first, for as long as that has been worth it, then sleeps.
 *
 * Whoever finds nothing to do takes note of what the host tells, waiting or not:
 * of new arenas, which costs an answer from the broker, of being revoked
 * (-EACCES), of a quiesce, of the host's end (-EPIPE).  While records flow only a
 * quiesce is noticed.  That a broker was killed is noticed within a second by one
 * who waits that long, and not by one who never does.
 *
 * While the region is quiesced nothing is sent, received or connected, as if
 * nothing were there: such calls wait for its end, as long as they may, and say
 * -EAGAIN or -ETIMEDOUT; what is on its way stays there.  An answer that has
 * come already is an exception, if it is the next one in the ring:
 * portal_rpc_finish() gives it out.  What writes and has no timeout_ns
 * (portal_alloc, portal_free, portal_release, portal_consumed) waits until it
 * ends; what asks the host (portal_publish, portal_listen, and the taking back
 * of names) for 5 s.  portal_chan_free() and portal_rpc_free() never wait: the
 * peer is told later.
 *
 * Threads: portal_* functions may be called from any thread; a portal_chan, a
 * portal_fanin, a portal_listener and a portal_rpc each by one thread at a time.
 *
 * Peers are not trusted.  Bytes in a pointer from portal_resolve() or
 * portal_peek() may change under the reader's hands if the peer is hostile:
 * copy, then check.  The pointers stay mapped until portal_detach().
 *
 * How much there can be of what, and what is said beyond: docs/portal.md, Limits.
 */
#ifndef WSLX_PORTAL_H
#define WSLX_PORTAL_H

#include <stddef.h>
#include <stdint.h>

#include <wslx/portal_abi.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PORTAL_FOREVER INT64_C(-1)

typedef struct portal portal;
typedef struct portal_chan portal_chan;
typedef struct portal_fanin portal_fanin;
typedef struct portal_listener portal_listener;
typedef struct portal_rpc portal_rpc;
typedef struct portal_rpc_server portal_rpc_server;
typedef struct portal_host portal_host;

/* ---- attaching ---- */

/* How to sleep and to wake when futexes do not reach: supplied by a transport. */
struct portal_wait {
	const uint32_t *word;
	uint32_t expected;
};

struct portal_doorbell_ops {
	/* Sleeps until one of the words (n <= 65) may differ from what is expected of it, or timeout_ns has passed
	 * (-1: no end).  May return early.  words[0] is this participant's event word. */
	void (*wait)(void *ctx, const struct portal_wait *words, size_t n, int64_t timeout_ns);
	/* Wakes participant `to` (0: the host), which sleeps on `word` or on its event word. */
	void (*wake)(void *ctx, unsigned to, const uint32_t *word);
};

struct portal_attach {
	size_t size;        /* sizeof(struct portal_attach) */
	const char *path;   /* the broker's socket; NULL: see region */
	int sock;           /* if region is NULL too: a connected SOCK_SEQPACKET socket; taken over, also on failure */
	const char *name;   /* of this participant, for people */
	uint32_t segments;  /* to write to; 0: 4 of them, 8 MiB.  In a machine the grant says it */
	int64_t timeout_ns; /* 0: 5 s */
	/* A region by name: on the host one that `wslx portal create` made, in a machine one that it was granted. There
	 * it is one participant, for one process at a time: -EBUSY.  -ENOENT: no such region here; -EPIPE: its
	 * broker has not been there; -EACCES: not for this user. */
	const char *region;
};

int portal_attach(const struct portal_attach *p, portal **ret);

/* A region that a transport has mapped already, as in a guest: base is where region offset 0 lies, readable wherever
 * the host granted it, writable in this participant's arena. */
struct portal_attach_mapped {
	size_t size; /* sizeof(struct portal_attach_mapped) */
	void *base;
	uint64_t length;
	uint32_t participant;
	uint64_t generation; /* of the participant */
	const struct portal_doorbell_ops *doorbell;
	void *doorbell_ctx;
	const uint32_t *epoch; /* arenas are in place as of this epoch; NULL: as of the header's */
};

int portal_attach_mapped(const struct portal_attach_mapped *p, portal **ret);
void portal_detach(portal *p); /* NULL is fine; chans and the rest are freed before */

/* A safe point for programs that are busy elsewhere: takes note of new arenas and dead peers, answers a quiesce and
 * waits for its end.  Other calls do it themselves.  timeout_ns: how long to wait for news. */
int portal_poll(portal *p, int64_t timeout_ns);

struct portal_info {
	char region[PORTAL_NAME_SIZE];
	uint8_t uuid[16];
	uint32_t segments; /* of the region */
	uint32_t self;     /* this participant */
	uint32_t epoch;
};

void portal_get_info(const portal *p, struct portal_info *ret);

/* Who a participant is.  The host saw what it is: a machine can pass for neither a process nor another machine, as its
 * supervisor speaks for it; a process of the user can pass for anything, but for id, where it is one. */
struct portal_who {
	uint32_t participant, kind;  /* enum portal_participant_kind */
	uint32_t id;                 /* process number, or context number (CID) of a machine */
	uint64_t generation;         /* of all that have had that number */
	char name[PORTAL_NAME_SIZE]; /* of a machine, that; of a process what it says */
};

/* generation: 0, or the one that is meant, as an object's owner_generation.  -ENOENT: it is not there any more. */
int portal_who(portal *p, unsigned participant, uint64_t generation, struct portal_who *ret);

/* ---- memory ---- */

/* At least n bytes, zeroed on first use, aligned to the next power of two up to 4096; O(1) up to 16 KiB. */
int portal_alloc(portal *p, size_t n, struct portal_handle *ret, void **ret_ptr);
/* Afterwards h is stale.  Not for ever: generations come again after 2^24 allocations of one participant, or 256 arenas
 * of the region (one a participant or object, one a right taken away), and a handle kept for so long may name what is
 * in its place then. */
int portal_free(portal *p, struct portal_handle h);
/* len bytes that h names, anybody's; ret is readable.  Checks that they were allocated when asked. */
int portal_resolve(portal *p, struct portal_handle h, size_t len, const void **ret);
/* The same for one's own, writable. */
int portal_resolve_own(portal *p, struct portal_handle h, size_t len, void **ret);

/* ---- names ---- */

struct portal_object {
	char name[PORTAL_NAME_SIZE];
	uint32_t kind; /* enum portal_name_kind */
	uint32_t owner;
	uint32_t tag; /* the publisher's own */
	uint32_t generation;
	struct portal_handle handle;
	uint64_t size;
	uint64_t owner_generation; /* 0: the host's */
};

/* Asks the host to give a name to memory of one's own; -EEXIST, -EACCES, -ENOSPC (no room for more names), -EDQUOT (one
 * has as many as one may). */
int portal_publish(portal *p, const char *name, struct portal_handle h, uint64_t size, uint32_t tag);
int portal_unpublish(portal *p, const char *name);
/* Allocates and publishes. */
int portal_create(portal *p, const char *name, size_t size, struct portal_handle *ret, void **ret_ptr);
/* -ENOENT. */
int portal_open(portal *p, const char *name, struct portal_object *ret);
int portal_wait_for(portal *p, const char *name, int64_t timeout_ns, struct portal_object *ret);
/* Every name there is; *cursor is 0 at first; -ENOENT after the last. */
int portal_next(portal *p, uint32_t *cursor, struct portal_object *ret);
/* The bytes of an object: readable, and through ret_rw (may be NULL) writable if they are this participant's.  -ESTALE:
 * they are gone; or, in a machine, not in its window yet, which portal_poll() can wait for. */
int portal_map(portal *p, const struct portal_object *o, const void **ret, void **ret_rw);

/* ---- channels: a ring each way ---- */

struct portal_listen {
	size_t size;           /* sizeof(struct portal_listen) */
	uint32_t kind;         /* PORTAL_RECORDS (0 too) or PORTAL_BYTES */
	uint32_t max;          /* channels at a time; 0: 64.  One more is refused: -ECONNREFUSED */
	uint64_t tx_capacity;  /* of rings to clients; 0: 64 KiB */
	uint64_t max_capacity; /* of rings from clients; 0: no limit */
};

/* A participant has at most 32 channels to one other that listens; who connects once more waits until one is closed at
 * both ends.  All channels of a participant, either way: 256, then -EMFILE. */
int portal_listen(portal *p, const char *name, const struct portal_listen *params, portal_listener **ret);
int portal_accept(portal_listener *l, int64_t timeout_ns, portal_chan **ret);
/* Its channels first.  Waits while the region is quiesced, as portal_unpublish() does: the name is there until then. */
void portal_listener_free(portal_listener *l);

/* Waits for the name, too.  capacity: of the ring to the server; 0: 64 KiB.  The server may have closed again already:
 * what it has sent is there, and then -EPIPE. */
int portal_connect(portal *p, const char *name, uint64_t capacity, int64_t timeout_ns, portal_chan **ret);
void portal_chan_free(portal_chan *c); /* closes; NULL is fine */
unsigned portal_chan_peer(const portal_chan *c);
/* That very one, not who has its number by now: anybody may give himself a service's name when it is free. */
int portal_chan_who(const portal_chan *c, struct portal_who *ret);

/* Records: whole or not at all. */
int portal_send(portal_chan *c, uint32_t type, const void *buf, size_t n, int64_t timeout_ns);
/* -EMSGSIZE if it is longer than cap; it stays, *ret_n says how long it is. */
int portal_recv(portal_chan *c, uint32_t *ret_type, void *buf, size_t cap, size_t *ret_n, int64_t timeout_ns);

/* The same without copies and in batches.  reserve gives room for one record; commit fills in its final length (not
 * above what was reserved); flush shows all committed ones to the peer at once.  So does a reserve that finds no room,
 * or a send.  What was reserved and not committed is the next one's.  Whoever has reserved does not come to rest before
 * the next flush. */
int portal_reserve(portal_chan *c, size_t n, void **ret, int64_t timeout_ns);
int portal_commit(portal_chan *c, uint32_t type, size_t n);
int portal_flush(portal_chan *c);
/* The next record; another peek gives the one after it.  release gives the room of all of them back, as recv does. */
int portal_peek(portal_chan *c, uint32_t *ret_type, const void **ret, size_t *ret_n, int64_t timeout_ns);
int portal_release(portal_chan *c);

/* Bytes: *ret_n says how many, at least one. */
int portal_write(portal_chan *c, const void *buf, size_t n, size_t *ret_n, int64_t timeout_ns);
int portal_read(portal_chan *c, void *buf, size_t cap, size_t *ret_n, int64_t timeout_ns);
/* Without copies: room for up to *ret_n bytes in one piece, then, once, how many were used.  Whoever has such room does
 * not come to rest before he has said so. */
int portal_write_span(portal_chan *c, void **ret, size_t *ret_n, int64_t timeout_ns);
int portal_wrote(portal_chan *c, size_t n);
int portal_read_span(portal_chan *c, const void **ret, size_t *ret_n, int64_t timeout_ns);
int portal_consumed(portal_chan *c, size_t n);

/* ---- fan-in: many channels, one reader ---- */

int portal_fanin_new(portal *p, portal_fanin **ret);
void portal_fanin_free(portal_fanin *f);               /* not the channels */
int portal_fanin_add(portal_fanin *f, portal_chan *c); /* -ENOSPC: it has 64 */
void portal_fanin_remove(portal_fanin *f, portal_chan *c);
/* A channel with something to read, each in its turn.  A channel whose peer is gone or lies comes up too: its recv
 * says so.  With l (may be NULL) also returns, *ret NULL, when somebody wants to connect. */
int portal_fanin_wait(portal_fanin *f, portal_listener *l, int64_t timeout_ns, portal_chan **ret);

/* ---- RPC ---- */

struct portal_bytes {
	const void *data; /* inline: copied through the ring */
	size_t size;
	struct portal_handle bulk; /* generation 0: none; the receiver resolves it */
	uint64_t bulk_size;
};

int portal_rpc_connect(portal *p, const char *service, int64_t timeout_ns, portal_rpc **ret);
void portal_rpc_free(portal_rpc *r);
int portal_rpc_who(const portal_rpc *r, struct portal_who *ret); /* of the server; as portal_chan_who() */
/* Sends; *ret_id names the call.  timeout_ns is the call's deadline; the server learns what is left of it when the
 * request goes into the ring.  -EBUSY: 128 calls that were not finished yet. */
int portal_rpc_start(portal_rpc *r, uint32_t method, const struct portal_bytes *in, int64_t timeout_ns,
		     uint64_t *ret_id);
/* Waits for that call's answer.  out->data points into buf.  *ret_status is the server's word.  The call is over then,
 * and id means nothing any more; but on -EMSGSIZE, when out->size says how long the answer is, and on -ENOMEM it is
 * there for another try, or for portal_rpc_cancel() and another finish.  One that another error ends is cancelled. */
int portal_rpc_finish(portal_rpc *r, uint64_t id, void *buf, size_t cap, struct portal_bytes *out, int *ret_status);
/* Tells the server that nobody waits any more; finish then returns -ECANCELED.  If it cannot be told at once it is with
 * the next call, before that. */
int portal_rpc_cancel(portal_rpc *r, uint64_t id);
/* start and finish.  Returns the server's status if everything else went well.  The answer is lost on -EMSGSIZE
 * (out->size says how long it was). */
int portal_rpc_call(portal_rpc *r, uint32_t method, const struct portal_bytes *in, void *buf, size_t cap,
		    struct portal_bytes *out, int64_t timeout_ns);

struct portal_rpc_request {
	uint64_t client; /* tells one client from another; never used twice */
	uint64_t id;
	uint32_t method;
	unsigned peer; /* participant */
	/* What the client had left when it sent the request, less the time since portal_rpc_next() or _cancelled() took
	 * it from the ring; PORTAL_FOREVER.  How long it lay in the ring is not known: the clocks of a machine and the
	 * host are not the same.  Above 0. */
	int64_t budget_ns;
	struct portal_bytes in;
};

/* For 64 clients at a time (one more has -ECONNREFUSED), with 128 calls each that have no answer, nor were cancelled,
 * nor are late: one more ends the client, whose calls then say -EPIPE.  Clients' rings may have 256 KiB, which is more
 * than portal_rpc_connect() makes.  When 1 MiB of a client's requests is copied out and not handed out yet, the rest
 * waits in its ring, and with it what would cancel them. */
int portal_rpc_serve(portal *p, const char *service, portal_rpc_server **ret);
void portal_rpc_server_free(portal_rpc_server *s);
/* The next request, copied out of the ring; in.data is good until the next call.  New clients and broken ones are dealt
 * with inside.  So are requests that were cancelled, or are late, before their turn came: the former vanish, the latter
 * are answered with -ETIMEDOUT.  Clients take turns. */
int portal_rpc_next(portal_rpc_server *s, struct portal_rpc_request *ret, int64_t timeout_ns);
/* Answers, now or later, in any order.  0 also if nobody wants to know any more.  -EMSGSIZE: more than half of the
 * ring, 32 KiB with header and all; it still has no answer then. */
int portal_rpc_reply(portal_rpc_server *s, const struct portal_rpc_request *req, int status,
		     const struct portal_bytes *out);
/* Has the client cancelled it, or gone, or is it late? */
int portal_rpc_cancelled(portal_rpc_server *s, const struct portal_rpc_request *req);

/* ---- the host's side: the broker of a region ---- */

/*
 * One thread drives portal_host_dispatch() (or polls portal_host_fd() for POLLIN first); the other functions may be
 * called from any thread.  Those that wait for participants drive it themselves meanwhile.
 */
struct portal_host_params {
	size_t size;         /* sizeof(struct portal_host_params) */
	const char *name;    /* of the region */
	const char *path;    /* of the socket, mode 0600; NULL: none */
	uint32_t segments;   /* address space of the region; 0: 32768 of them, 64 GiB */
	uint32_t name_slots; /* room in the directory, a power of two; 0: 1024 */
	uint32_t max_each;   /* most segments that a participant gets for the asking; 0: 512, 1 GiB */
	uint32_t max_names;  /* most names that a participant has; 0: an eighth of the slots, from 16 to 4096 */
};

int portal_host_create(const struct portal_host_params *p, portal_host **ret);
void portal_host_destroy(portal_host *h); /* NULL is fine; participants see -EPIPE */
int portal_host_fd(const portal_host *h);
int portal_host_dispatch(portal_host *h, int timeout_ms);
/* Takes over a connected SOCK_SEQPACKET socket, as if it had connected to path: it has a second to say HELLO. */
int portal_host_serve(portal_host *h, int sock);

/* A participant without a socket: a guest whose VMM is this process. */
struct portal_host_member {
	size_t size; /* sizeof(struct portal_host_member) */
	const char *name;
	uint32_t kind; /* enum portal_participant_kind */
	uint32_t id;
	uint32_t segments;
	uint32_t doorbell;
	/* Called under the host's lock when this participant has to be woken, when the arenas have changed, and when
	 * one is about to be taken from it (arena >= 0: unmap it for this participant before returning). */
	void (*notify)(void *opaque, int arena);
	void *opaque;
};

int portal_host_add(portal_host *h, const struct portal_host_member *m, unsigned *ret);
/* The participant is gone: frees what it had, tells the others.  -ENOENT. */
int portal_host_remove(portal_host *h, unsigned participant);
/* Something happened in participant's memory: `to` 0, look at its mailbox; else wake that other one. */
int portal_host_kick(portal_host *h, unsigned from, unsigned to);

/* A descriptor for an arena, to be closed by the caller; writable only for its owner's use. */
int portal_host_arena_fd(portal_host *h, unsigned arena, int writable);

#define PORTAL_NOBODY 0u /* as owner: the host */
#define PORTAL_EVERYBODY UINT64_MAX

/* A named object of whole segments with rights of its own.  readers: a bit per participant, for as long as that one is
 * there; with PORTAL_EVERYBODY those who come later read it, too. */
int portal_host_object(portal_host *h, const char *name, uint32_t segments, unsigned owner, uint64_t readers);
enum portal_right { PORTAL_NONE = 0, PORTAL_READ = 1, PORTAL_WRITE = 2 };
/* Of such an object.  PORTAL_WRITE makes the participant its one writer, which first takes it from the old one.  A
 * right ends with the participant.  PORTAL_NONE where everybody reads excepts the number, whoever has it. */
int portal_host_grant(portal_host *h, const char *name, unsigned participant, enum portal_right right,
		      int64_t timeout_ns);
/* Takes the name away; what of a participant's is left stays with it. */
int portal_host_unpublish(portal_host *h, const char *name);
/* Takes all that it writes away from a participant, which lives on, reads, writes into nothing, and has -EACCES from
 * whatever writes or waits for others.  On 0 nobody's view of those bytes changes any more; -ETIMEDOUT: someone did not
 * take part in time and may still see the old memory. */
int portal_host_revoke(portal_host *h, unsigned participant, int64_t timeout_ns);
/* Waits until everybody has mapped what is true now; after an -ETIMEDOUT from the above. */
int portal_host_seen(portal_host *h, int64_t timeout_ns);

struct portal_quiesce {
	uint64_t arrived; /* bit per participant */
	uint64_t late;
};

/* Brings everybody to rest; -ETIMEDOUT if someone is late, and then still in force.  Who has not attached yet is at
 * rest: a machine without a program that uses the region.  ret may be NULL. */
int portal_host_quiesce(portal_host *h, int64_t timeout_ns, struct portal_quiesce *ret);
/* Who is at rest by now; -EAGAIN: not everybody, -EINVAL: nobody is to. */
int portal_host_rest(portal_host *h, struct portal_quiesce *ret);
int portal_host_resume(portal_host *h);

struct portal_host_participant {
	uint32_t index, kind, id, state;
	char name[PORTAL_NAME_SIZE];
	uint32_t segments; /* of all its arenas */
	uint32_t pid;      /* of the process at the other end of its socket: a guest's VMM; 0: no socket */
	uint64_t generation;
};

/* Like portal_next(); -ENOENT after the last. */
int portal_host_next_participant(portal_host *h, uint32_t *cursor, struct portal_host_participant *ret);
int portal_host_next_name(portal_host *h, uint32_t *cursor, struct portal_object *ret);

struct portal_host_stat {
	uint8_t uuid[16];
	uint32_t segments, segments_used, participants, arenas, names, name_slots, epoch, quiesce;
	uint32_t own_segments; /* the host's, for its tables: nobody gets those */
	uint64_t bytes;        /* of memory in use */
	uint64_t attached, died, requests, refused, revoked;
};

int portal_host_stat(portal_host *h, struct portal_host_stat *ret);

#ifdef __cplusplus
}
#endif

#endif
