/* Reading and writing the name directory; see directory.h. */
#include "portal/directory.h"

#include <errno.h>
#include <string.h>

#include "portal/atomic.h"

#define LOOKS 1000

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

int wslx_portal_lookup(const struct portal_name *table, uint32_t slots, const char *name, struct portal_name *ret,
		       uint32_t *ret_slot)
{
	uint32_t at = (uint32_t)wslx_portal_name_hash(name) & (slots - 1);

	for (uint32_t i = 0; i < slots; i++, at = (at + 1) & (slots - 1)) {
		int r = wslx_portal_read_slot(&table[at], ret);

		if (r < 0)
			return r;
		if (ret->state == PORTAL_NAME_EMPTY)
			return -ENOENT;
		if (ret->state == PORTAL_NAME_LIVE && strncmp(ret->name, name, PORTAL_NAME_SIZE) == 0) {
			if (ret_slot)
				*ret_slot = at;
			return 0;
		}
	}
	return -ENOENT;
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

int wslx_portal_directory_add(struct portal_name *table, uint32_t slots, uint32_t *used, const struct portal_name *n)
{
	uint32_t at = (uint32_t)wslx_portal_name_hash(n->name) & (slots - 1), place = UINT32_MAX;
	struct portal_name copy = *n;

	if (*used >= slots - slots / 8)
		return -ENOSPC;
	for (uint32_t i = 0; i < slots; i++, at = (at + 1) & (slots - 1)) {
		uint32_t state = PORTAL_LOAD(&table[at].state);

		if (state != PORTAL_NAME_LIVE && place == UINT32_MAX)
			place = at;
		if (state == PORTAL_NAME_EMPTY)
			break;
		if (state == PORTAL_NAME_LIVE && strncmp(table[at].name, n->name, PORTAL_NAME_SIZE) == 0)
			return -EEXIST;
	}
	if (place == UINT32_MAX)
		return -ENOSPC;
	copy.state = PORTAL_NAME_LIVE;
	copy.generation = table[place].generation + 1;
	write_slot(&table[place], &copy);
	++*used;
	return 0;
}

void wslx_portal_directory_remove(struct portal_name *table, uint32_t slots, uint32_t *used, uint32_t slot)
{
	uint32_t next = (slot + 1) & (slots - 1);
	struct portal_name gone = { .state = PORTAL_NAME_GONE, .generation = table[slot].generation };

	--*used;
	if (PORTAL_LOAD(&table[next].state) != PORTAL_NAME_EMPTY) {
		write_slot(&table[slot], &gone);
		return;
	}
	/* Nothing behind: this and what was GONE before it can end searches again.  The last one first, so that a
	 * search that is under way never ends too early: all of them lie behind everything LIVE of their chains. */
	do {
		gone.state = PORTAL_NAME_EMPTY;
		gone.generation = table[slot].generation;
		write_slot(&table[slot], &gone);
		slot = (slot - 1) & (slots - 1);
	} while (PORTAL_LOAD(&table[slot].state) == PORTAL_NAME_GONE);
}
