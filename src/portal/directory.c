/* Reading and writing the name directory; see directory.h. */
#include "portal/directory.h"

#include <errno.h>
#include <string.h>

#include "portal/atomic.h"

#define LOOKS 1000
#define TRIES 200
/* So many names are removed one by one; not in a small directory. */
#define FEW 32u
#define FEW_SHARE 64u

uint64_t wslx_portal_name_hash(const char *name)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (unsigned i = 0; i < PORTAL_NAME_SIZE && name[i]; i++)
		h = (h ^ (uint8_t)name[i]) * UINT64_C(0x100000001b3);
	return h;
}

bool wslx_portal_name_ok(const char name[PORTAL_NAME_SIZE])
{
	size_t n = strnlen(name, PORTAL_NAME_SIZE);

	if (!n || n == PORTAL_NAME_SIZE)
		return false;
	for (size_t i = 0; i < n; i++)
		if (name[i] <= ' ' || name[i] > '~' || name[i] == '/')
			return false;
	return true;
}

int wslx_portal_name_set(char dst[PORTAL_NAME_SIZE], const char *name)
{
	size_t n = name ? strnlen(name, PORTAL_NAME_SIZE) : 0;

	if (!n || n == PORTAL_NAME_SIZE)
		return -EINVAL;
	memset(dst, 0, PORTAL_NAME_SIZE);
	memcpy(dst, name, n);
	return wslx_portal_name_ok(dst) ? 0 : -EINVAL;
}

int wslx_portal_read_slot(const struct portal_name *slot, struct portal_name *ret)
{
	for (unsigned look = 0; look < LOOKS; look++) {
		uint32_t seq = PORTAL_LOAD_ACQ(&slot->seq);

		if (!(seq & 1)) {
			wslx_portal_words_in(ret, slot, sizeof(*ret));
			if (PORTAL_LOAD(&slot->seq) == seq)
				return 0;
		}
		PORTAL_PAUSE();
	}
	return -EAGAIN;
}

uint32_t wslx_portal_names_end(const struct wslx_portal_names *d)
{
	uint32_t end = PORTAL_LOAD_ACQ(d->end);

	return end < d->slots ? end : d->slots;
}

static uint32_t index_entry(uint64_t hash, uint32_t slot)
{
	return (uint32_t)(hash >> 56) << 24 | (slot + 1);
}

static int search(const struct wslx_portal_names *d, const char *name, struct portal_name *ret, uint32_t *ret_slot)
{
	uint64_t hash = wslx_portal_name_hash(name);
	uint32_t mask = d->index_slots - 1, at = (uint32_t)hash & mask;

	for (uint32_t i = 0; i < d->index_slots; i++, at = (at + 1) & mask) {
		uint32_t e = PORTAL_LOAD_ACQ(&d->index[at]), slot = (e & PORTAL_INDEX_SLOT) - 1;
		int r;

		if (!e)
			return -ENOENT;
		if (e != index_entry(hash, slot) || slot >= d->slots)
			continue;
		r = wslx_portal_read_slot(&d->table[slot], ret);
		if (r < 0)
			return r;
		if (ret->state == PORTAL_NAME_LIVE && strncmp(ret->name, name, PORTAL_NAME_SIZE) == 0) {
			if (ret_slot)
				*ret_slot = slot;
			return 0;
		}
	}
	return -ENOENT;
}

int wslx_portal_lookup(const struct wslx_portal_names *d, const char *name, struct portal_name *ret, uint32_t *ret_slot)
{
	for (unsigned tries = 0; tries < TRIES; tries++) {
		uint32_t seq = PORTAL_LOAD_ACQ(d->index_seq);
		int r = search(d, name, ret, ret_slot);

		if (r != -ENOENT)
			return r;
		/* It may have been passed by, on its way up. */
		if (!(seq & 1) && PORTAL_LOAD(d->index_seq) == seq)
			return -ENOENT;
		PORTAL_PAUSE();
	}
	return -EAGAIN;
}

/* ---- the host's side ---- */

struct wslx_portal_names wslx_portal_directory_names(const struct wslx_portal_directory *d)
{
	return (struct wslx_portal_names) {
		.table = d->table,
		.index = d->index,
		.index_seq = d->index_seq,
		.end = d->end,
		.slots = d->slots,
		.index_slots = d->index_slots,
	};
}

/* seq goes odd before the first word changes and even after the last. */
static void write_slot(struct portal_name *slot, const struct portal_name *n)
{
	uint32_t seq = PORTAL_LOAD(&slot->seq);
	struct portal_name copy = *n;

	copy.seq = seq + 1;
	PORTAL_STORE_SEQ(&slot->seq, seq + 1);
	wslx_portal_words_out(slot, &copy, sizeof(copy));
	PORTAL_STORE_REL(&slot->seq, seq + 2);
}

int wslx_portal_directory_add(struct wslx_portal_directory *d, const struct portal_name *n)
{
	uint64_t hash = wslx_portal_name_hash(n->name);
	uint32_t mask = d->index_slots - 1, at = (uint32_t)hash & mask, slot, e;
	struct portal_name copy = *n;

	/* There are more places in the index than slots: one is free. */
	for (; (e = PORTAL_LOAD(&d->index[at])); at = (at + 1) & mask) {
		slot = (e & PORTAL_INDEX_SLOT) - 1;
		if (e == index_entry(hash, slot) && strncmp(d->table[slot].name, n->name, PORTAL_NAME_SIZE) == 0)
			return -EEXIST;
	}
	if (d->used == d->slots)
		return -ENOSPC;
	slot = d->n_free ? d->free[--d->n_free] : d->top;
	copy.state = PORTAL_NAME_LIVE;
	copy.generation = d->table[slot].generation + 1;
	write_slot(&d->table[slot], &copy);
	if (slot == d->top)
		PORTAL_STORE_REL(d->end, ++d->top);
	PORTAL_STORE_REL(&d->index[at], index_entry(hash, slot));
	d->used++;
	return 0;
}

/* Where the search for what lies at that place of the index begins. */
static uint32_t home_of(const struct wslx_portal_directory *d, uint32_t e)
{
	return (uint32_t)wslx_portal_name_hash(d->table[(e & PORTAL_INDEX_SLOT) - 1].name) & (d->index_slots - 1);
}

static void begin_move(struct wslx_portal_directory *d)
{
	PORTAL_STORE_SEQ(d->index_seq, PORTAL_LOAD(d->index_seq) + 1);
}

static void end_move(struct wslx_portal_directory *d)
{
	PORTAL_STORE_REL(d->index_seq, PORTAL_LOAD(d->index_seq) + 1);
}

/* Takes that place out of the index: what comes behind moves up, unless that would put it before its beginning. */
static void close_gap(struct wslx_portal_directory *d, uint32_t gap)
{
	uint32_t mask = d->index_slots - 1, at = gap, e;

	begin_move(d);
	while ((e = PORTAL_LOAD(&d->index[at = (at + 1) & mask]))) {
		if (((at - home_of(d, e)) & mask) < ((at - gap) & mask))
			continue;
		PORTAL_STORE_REL(&d->index[gap], e);
		gap = at;
	}
	PORTAL_STORE_REL(&d->index[gap], 0);
	end_move(d);
}

static void empty_slot(struct wslx_portal_directory *d, uint32_t slot)
{
	struct portal_name gone = { .state = PORTAL_NAME_EMPTY, .generation = d->table[slot].generation };

	write_slot(&d->table[slot], &gone);
	d->free[d->n_free++] = slot;
	d->used--;
}

void wslx_portal_directory_remove(struct wslx_portal_directory *d, uint32_t slot)
{
	uint32_t mask = d->index_slots - 1;
	uint32_t at = (uint32_t)wslx_portal_name_hash(d->table[slot].name) & mask;

	while ((PORTAL_LOAD(&d->index[at]) & PORTAL_INDEX_SLOT) != slot + 1)
		at = (at + 1) & mask;
	close_gap(d, at);
	empty_slot(d, slot);
}

/* The first free place at or behind one.  next[] leads there, by ever shorter ways: of a free place it is that itself.
 */
static uint32_t free_place(struct wslx_portal_directory *d, uint32_t at)
{
	while (d->next[at] != at) {
		d->next[at] = d->next[d->next[at]];
		at = d->next[at];
	}
	return at;
}

/* The index of the names that there are, in about as many steps, wherever their searches begin. */
static void lay_out(struct wslx_portal_directory *d)
{
	uint32_t mask = d->index_slots - 1;

	for (uint32_t at = 0; at < d->index_slots; at++) {
		PORTAL_STORE_REL(&d->index[at], 0);
		d->next[at] = at;
	}
	for (uint32_t s = 0; s < d->top; s++) {
		uint64_t hash;
		uint32_t at;

		if (d->table[s].state != PORTAL_NAME_LIVE)
			continue;
		hash = wslx_portal_name_hash(d->table[s].name);
		at = free_place(d, (uint32_t)hash & mask);
		PORTAL_STORE_REL(&d->index[at], index_entry(hash, s));
		d->next[at] = (at + 1) & mask;
	}
}

static bool is_of(const struct portal_name *n, uint32_t owner, uint64_t generation)
{
	return n->state == PORTAL_NAME_LIVE && n->owner == owner && n->owner_generation == generation &&
	       n->kind != PORTAL_ARENA_OBJECT;
}

uint32_t wslx_portal_directory_drop(struct wslx_portal_directory *d, uint32_t owner, uint64_t generation)
{
	uint32_t few = d->slots / FEW_SHARE < FEW ? d->slots / FEW_SHARE : FEW, n = 0;

	for (uint32_t s = 0; s < d->top; s++)
		n += is_of(&d->table[s], owner, generation);
	if (n > few)
		begin_move(d);
	for (uint32_t s = 0; s < d->top; s++) {
		if (!is_of(&d->table[s], owner, generation))
			continue;
		if (n > few)
			empty_slot(d, s);
		else
			wslx_portal_directory_remove(d, s);
	}
	if (n > few) {
		lay_out(d);
		end_move(d);
	}
	return n;
}
