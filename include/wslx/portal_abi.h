/*
 * Portal region format, version 1.  docs/portal.md describes it byte by byte.
 *
 * A region is a row of segments of 2 MiB; offsets are bytes from its start and
 * mean the same place for everybody.  Runs of segments form arenas; each arena
 * has one writer, fixed by the host, and is read-only or absent for all others.
 * Arena 0 is the host's and begins at offset 0 with struct portal_header.
 *
 * All numbers are little-endian and naturally aligned.  Words marked "shared"
 * are read and written with single aligned accesses: stores release, loads
 * acquire, and where the text says "fence" a full barrier.  Nothing here holds
 * a pointer.  Whoever reads what a peer wrote copies it once and checks it.
 */
#ifndef WSLX_PORTAL_ABI_H
#define WSLX_PORTAL_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PORTAL_VERSION 1u
#define PORTAL_MAGIC UINT64_C(0x4c545250584c5357)         /* "WSLXPRTL" */
#define PORTAL_CONTROL_MAGIC UINT64_C(0x4c525443584c5357) /* "WSLXCTRL" */
#define PORTAL_WINDOW_MAGIC UINT64_C(0x444e4957584c5357)  /* "WSLXWIND" */
#define PORTAL_TX_MAGIC 0x58544c57u                       /* "WLTX" */
#define PORTAL_RX_MAGIC 0x58524c57u                       /* "WLRX" */

#define PORTAL_SEGMENT_SHIFT 21
#define PORTAL_SEGMENT_SIZE (UINT64_C(1) << PORTAL_SEGMENT_SHIFT)
#define PORTAL_MAX_SEGMENTS (1u << 19) /* 1 TiB */
#define PORTAL_MAX_PARTICIPANTS 64u    /* 0 is the host */
#define PORTAL_MAX_ARENAS 256u
#define PORTAL_MAX_LINKS 256u
#define PORTAL_NAME_SIZE 48u /* with the terminating NUL */

/* A place in a region.  generation says which use of the place is meant. */
struct portal_handle {
	uint32_t region;  /* portal_header.tag */
	uint32_t segment; /* of the region */
	uint32_t offset;  /* in the segment */
	uint32_t generation;
};

/* "life" words: a generation and a state that change together. */
#define PORTAL_LIFE(generation, state) (((uint64_t)(generation) << 8) | (state))
#define PORTAL_LIFE_STATE(life) ((uint32_t)((life)&0xff))
#define PORTAL_LIFE_GENERATION(life) ((uint64_t)(life) >> 8)

/* ---- arena 0, written by the host alone ---- */

struct portal_header {
	uint64_t magic;
	uint32_t version;
	uint32_t header_size;
	uint32_t segment_shift;
	uint32_t segments; /* of the region; address space, mostly empty */
	uint64_t features; /* bits a reader must know to use the region; 0 in version 1 */
	uint8_t uuid[16];
	char name[PORTAL_NAME_SIZE];
	uint32_t tag; /* goes into handles */
	uint32_t max_participants;
	uint32_t max_arenas;
	uint32_t name_slots; /* a power of two */
	uint64_t participants_off;
	uint64_t arenas_off;
	uint64_t names_off;
	uint64_t index_off;   /* of the names' hash table */
	uint32_t index_slots; /* a power of two, more than name_slots */
	uint8_t reserved0[256 - 148];
	/* shared */
	uint32_t epoch;     /* changes by two whenever arenas do; odd while the host is at it */
	uint32_t quiesce;   /* odd: come to rest; even: go on */
	uint32_t names_seq; /* grows with each change of the directory */
	uint32_t host;      /* enum portal_host_state */
	uint32_t names_end; /* names in use lie below this slot */
	uint32_t index_seq; /* odd while entries of the index move */
	uint8_t reserved1[4096 - 280];
};

enum portal_host_state { PORTAL_HOST_UP = 1, PORTAL_HOST_GONE = 2 };

enum portal_participant_state { PORTAL_PART_FREE = 0, PORTAL_PART_LIVE = 1, PORTAL_PART_DEAD = 2 };

enum portal_participant_kind { PORTAL_KIND_HOST = 0, PORTAL_KIND_PROCESS = 1, PORTAL_KIND_GUEST = 2 };

struct portal_participant {
	uint64_t life; /* shared; the rest of the line is fixed while it is LIVE */
	uint32_t kind;
	uint32_t id;    /* process or context (CID) number */
	uint32_t arena; /* the one with its control area */
	uint32_t doorbell;
	char name[PORTAL_NAME_SIZE];
	uint8_t reserved0[128 - 72];
	/* shared */
	uint32_t event;     /* counts up when the host has news for this participant; a futex word */
	uint32_t reply_seq; /* the request that the rest answers */
	int32_t reply_status;
	uint32_t reply_value;
	uint8_t reserved1[128 - 16];
};

enum portal_arena_state {
	PORTAL_ARENA_FREE = 0,
	PORTAL_ARENA_LIVE = 1,
	PORTAL_ARENA_DEAD = 2,   /* its writer is gone; bytes stay until place, number or generation change */
	PORTAL_ARENA_REVOKED = 3 /* its writer writes into nothing now; bytes stay */
};

#define PORTAL_ARENA_CONTROL 1u /* begins with a control area and holds allocations */

struct portal_arena {
	uint64_t life;     /* shared; the generation also counts replaced backing */
	uint32_t first;    /* segment */
	uint32_t segments; /* how many */
	uint32_t owner;    /* participant that writes it */
	uint32_t flags;
	uint64_t readers; /* bit per participant that may read it */
	uint8_t reserved[64 - 32];
};

enum portal_name_state { PORTAL_NAME_EMPTY = 0, PORTAL_NAME_LIVE = 1 };

enum portal_name_kind { PORTAL_OBJECT = 1, PORTAL_SERVICE = 2, PORTAL_ARENA_OBJECT = 3 };

/* Names lie in slots, in no order.  The index is an open hash table of u32: 0
 * ends a search; else the low 24 bits are a slot's number plus 1, and the high 8
 * those of the name's hash, FNV-1a 64, whose low bits say where to begin. */
#define PORTAL_INDEX_SLOT 0xffffffu

struct portal_name {
	uint32_t seq;   /* shared; odd while the host writes the slot */
	uint32_t state; /* shared */
	char name[PORTAL_NAME_SIZE];
	uint32_t kind;
	uint32_t owner;            /* participant */
	uint64_t owner_generation; /* of the participant */
	uint32_t generation;       /* of this entry */
	uint32_t tag;              /* the publisher's own */
	struct portal_handle handle;
	uint64_t size;
	uint8_t reserved[128 - 104];
};

/* ---- control area: the first 64 KiB of a participant's arena, written by it alone ---- */

#define PORTAL_CONTROL_SIZE UINT64_C(65536)
#define PORTAL_LINKS_OFF UINT64_C(4096)

enum portal_request_op { PORTAL_REQ_PUBLISH = 1, PORTAL_REQ_UNPUBLISH = 2 };

struct portal_request {
	uint32_t op;
	uint32_t kind; /* enum portal_name_kind */
	struct portal_handle handle;
	uint64_t size;
	uint32_t tag;
	uint32_t reserved;
	char name[PORTAL_NAME_SIZE];
};

enum portal_control_state { PORTAL_CTL_ATTACHED = 1, PORTAL_CTL_DETACHED = 2 };

struct portal_control {
	uint64_t magic;
	uint32_t version;
	uint32_t state;      /* shared */
	uint64_t generation; /* the participant's, as the host said */
	uint8_t reserved0[64 - 24];
	/* shared */
	uint32_t epoch_seen;  /* has mapped what the table said at this epoch */
	uint32_t quiesce_ack; /* the header's word, once at rest */
	uint32_t links_seq;   /* counts changes of the link table */
	uint32_t reserved4;
	uint32_t name_waiters; /* threads that wait for the directory */
	uint8_t reserved1[64 - 20];
	/* shared: a mailbox to the host; request is written before request_seq */
	uint32_t request_seq;
	uint32_t reserved2;
	struct portal_request request;
	uint8_t reserved3[4096 - 128 - 8 - 88];
};

/* One end of a connection; entry i of the table at PORTAL_LINKS_OFF.  The
 * client offers, the server answers with an entry of its own that names the
 * client's. */
enum portal_link_state {
	PORTAL_LINK_FREE = 0,
	PORTAL_LINK_OFFER = 1,
	PORTAL_LINK_OPEN = 2,
	PORTAL_LINK_REFUSED = 3,
	PORTAL_LINK_CLOSED = 4 /* was an offer that got connected, or open; with the same generation */
};

struct portal_link {
	uint64_t life; /* shared; each link of a table has a generation of its own, to its end (CLOSED) */
	uint32_t peer; /* participant */
	uint32_t peer_link;
	uint64_t peer_life;          /* the server's entries: the offer's life word; the client's: 0 */
	uint32_t service;            /* slot in the directory */
	uint32_t service_generation; /* of that entry */
	uint64_t tx;                 /* offset of the portal_tx I write */
	uint64_t rx;                 /* offset of the portal_rx I write */
	uint8_t reserved[64 - 48];
};

/* ---- memory in an arena: chunks of 64 KiB ---- */

#define PORTAL_CHUNK_SHIFT 16
#define PORTAL_CHUNK_SIZE (UINT64_C(1) << PORTAL_CHUNK_SHIFT)
#define PORTAL_CHUNKS_OFF PORTAL_CONTROL_SIZE /* of the chunk table, in the arena */
#define PORTAL_CLASSES 9u                     /* 64 << class bytes: 64 to 16384 */

/* Chunk table entry: what the chunk holds.  Class 1 + c: a slab of objects of
 * 64 << c bytes; it begins with one generation word for each object, and the
 * first object follows at the next multiple of min(object size, 4096).
 * PORTAL_CHUNK_LARGE: `chunks` chunks from here on are one allocation, with its
 * generation.  Generation 0 means free. */
enum { PORTAL_CHUNK_NONE = 0, PORTAL_CHUNK_LARGE = 0xff };

struct portal_chunk {
	uint32_t info;       /* shared: kind in the low 8 bits, chunks above */
	uint32_t generation; /* shared */
};

/* ---- rings: one writer, one reader ---- */

enum portal_ring_kind { PORTAL_RECORDS = 1, PORTAL_BYTES = 2 };

#define PORTAL_RING_MIN UINT64_C(1024)
#define PORTAL_RING_MAX (UINT64_C(1) << 30)

/* In flags: between setting `sleeping` and looking at the peer's index I put a barrier into every process of this
 * kernel that is registered with membarrier(2) (GLOBAL_EXPEDITED).  A peer in the same kernel that is registered may
 * then leave out its own barrier between its index and my `sleeping`. */
#define PORTAL_FENCED 1u

/* In the producer's arena. */
struct portal_tx {
	uint32_t magic;
	uint32_t kind;
	uint64_t capacity; /* a power of two */
	uint64_t data;     /* offset of the first byte, in the same arena */
	uint32_t
		sleeping; /* shared: the producer waits for tail to move; apart from head, which changes all the time */
	uint32_t flags;
	uint8_t reserved0[64 - 32];
	uint64_t head; /* shared: bytes ever published; its low half is a futex word */
	uint8_t reserved1[64 - 8];
};

/* In the consumer's arena. */
struct portal_rx {
	uint32_t magic;
	uint32_t kind;
	uint32_t sleeping; /* shared: the consumer waits for head to move */
	uint32_t flags;
	uint8_t reserved0[64 - 16];
	uint64_t tail; /* shared: bytes ever consumed; its low half is a futex word */
	uint8_t reserved1[64 - 8];
};

/* Before each record, at a multiple of 8.  A record never wraps: a header with
 * length PORTAL_PAD fills the ring up to its end.  A record with its header
 * takes at most half the capacity. */
struct portal_record {
	uint32_t length; /* of the payload */
	uint32_t type;   /* the user's */
};

#define PORTAL_PAD 0xffffffffu

/* ---- RPC: records on a link ---- */

enum portal_rpc_kind { PORTAL_RPC_REQUEST = 1, PORTAL_RPC_RESPONSE = 2, PORTAL_RPC_CANCEL = 3 };

struct portal_rpc_header {
	uint64_t id;        /* the client's */
	uint64_t budget_ns; /* request: time left when sent; 0 = no deadline */
	uint32_t method;
	int32_t status; /* response: 0 or a negative errno (Linux numbers) */
	uint64_t bulk_size;
	struct portal_handle bulk; /* generation 0: none */
};

/* ---- guest window: how a machine sees regions ----
 *
 * The window is the data of one devdax device, a row of window segments of
 * 2 MiB.  The first holds these tables, written by the host; arenas lie in the
 * others, each in one piece, wherever there was room.  The guest maps an arena
 * from its window segments to its place in the region. */

#define PORTAL_WINDOW_VERSION 1u
#define PORTAL_WINDOW_ENTRIES 8u /* regions a machine may be granted */
#define PORTAL_WINDOW_ENTRY_OFF(i) (UINT64_C(4096) * (1 + (i)))
#define PORTAL_WINDOW_ARENAS_OFF(i) (UINT64_C(65536) + UINT64_C(16384) * (i))
#define PORTAL_DOORBELL_PORT 0x504f5200u /* vsock, of the host (CID 2); plus the number of the entry */

struct portal_window {
	uint64_t magic;
	uint32_t version;
	uint32_t max_entries;
	uint32_t event;    /* shared: counts changes of these tables */
	uint32_t segments; /* of the window, this one included */
	uint8_t reserved[4096 - 24];
};

enum portal_window_state { PORTAL_WINDOW_NONE = 0, PORTAL_WINDOW_GRANTED = 1 };

/* In access words. */
#define PORTAL_WINDOW_READ 1u
#define PORTAL_WINDOW_WRITE 2u

/* At PORTAL_WINDOW_ENTRY_OFF(i). */
struct portal_window_entry {
	uint64_t life;               /* shared; the rest is fixed while it stays the same, but for epoch */
	char name[PORTAL_NAME_SIZE]; /* of the region */
	uint8_t uuid[16];
	uint32_t participant;     /* the guest's number in the region */
	uint32_t segments;        /* of the region */
	uint64_t part_generation; /* of the participant */
	uint32_t epoch;           /* shared: arenas are in place as of this epoch of the header; never odd */
	uint32_t doorbell_port;
	uint32_t access; /* PORTAL_WINDOW_WRITE: the guest may have more than a control area */
	uint32_t reserved0;
	char as[PORTAL_NAME_SIZE]; /* what the region is called in this guest */
	uint8_t reserved1[4096 - 152];
};

/* PORTAL_MAX_ARENAS of them, in the order of the region's arena table, at PORTAL_WINDOW_ARENAS_OFF(i). */
struct portal_window_arena {
	uint64_t life;           /* shared: the arena's, 0 = not in the window, state 0 = about to be something else;
				  * the rest is fixed while it stays */
	uint32_t window_segment; /* the first of as many as the arena has */
	uint32_t access;
	uint32_t segments;
	uint8_t reserved[12];
};

#ifdef __cplusplus
}
#endif

#endif
