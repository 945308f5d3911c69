/*
 * Messages on the broker's socket (SOCK_SEQPACKET), all of one size, numbers
 * little-endian; docs/portal.md says who sends which when.  An ARENA message
 * carries one descriptor unless access is PORTAL_ACCESS_NONE.
 */
#ifndef WSLX_PORTAL_WIRE_H
#define WSLX_PORTAL_WIRE_H

#include <stdbool.h>
#include <stdint.h>
#include <wslx/portal_abi.h>

enum wslx_portal_op {
	PORTAL_OP_HELLO = 1,   /* client: version, kind, segments, id (guests), name */
	PORTAL_OP_WELCOME = 2, /* broker: status, index (participant), segments (region), life (generation) */
	PORTAL_OP_ARENA = 3,   /* broker: index, access, first, segments, owner, flags, life, descriptor */
	PORTAL_OP_DONE = 4,    /* broker: epoch; ends an answer to HELLO and SYNC */
	PORTAL_OP_SYNC = 5,    /* client: what is new? */
	PORTAL_OP_KICK = 6,    /* client: index: look after that participant, 0 = my mailbox; no answer */
	PORTAL_OP_EVENT = 7,   /* broker, to guests' VMMs only: ring the guest, SYNC if epoch differs */
	PORTAL_OP_SYNCED = 8,  /* a guest's VMM: epoch: the guest's window is as of it; no answer */
};

/* flags of SYNC: and arena `index` once more, though nothing about it is new: it could not be taken. */
#define PORTAL_SYNC_AGAIN 1u

enum wslx_portal_access { PORTAL_ACCESS_NONE = 0, PORTAL_ACCESS_READ = 1, PORTAL_ACCESS_WRITE = 2 };

struct wslx_portal_msg {
	uint32_t op;
	uint32_t version;
	int32_t status;
	uint32_t index;
	uint32_t kind;
	uint32_t id;
	uint32_t segments;
	uint32_t first;
	uint32_t owner;
	uint32_t flags;
	uint32_t access;
	uint32_t epoch;
	uint64_t life;
	char name[PORTAL_NAME_SIZE];
	uint8_t reserved[128 - 104];
};

/* An arena is dead, says its new life word.  Is what somebody has under its old one what it was at its end, which stays
 * to be read?  Otherwise its memory was exchanged in between, for this one must not have it any more or its writer was
 * revoked; of the latter the host's copy may stay, to which nobody writes. */
static inline bool wslx_portal_last_bytes(uint64_t old, uint64_t dead)
{
	return PORTAL_LIFE_GENERATION(old) == PORTAL_LIFE_GENERATION(dead) ||
	       PORTAL_LIFE_STATE(old) == PORTAL_ARENA_REVOKED;
}

_Static_assert(sizeof(struct wslx_portal_msg) == 128, "a message is 128 bytes");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shared structures are used in place");

#endif
