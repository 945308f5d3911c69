/*
 * Links: how two participants agree on a pair of rings.
 *
 * Theory of operation.  Each has a link table in its control area that it alone
 * writes.  A client prepares its blocks (the ring to the server, its index for
 * the ring back) and writes an OFFER; the host's kick makes the server look.
 * The server prepares its own blocks, writes an OPEN entry that names the offer
 * by its life word, and looks at the offer again: a client that gave up has
 * changed the life word first and scanned the server's table then, so one of
 * the two sees the other.  Either happens in one hold of the lock, so that
 * nothing half done is left when the region is to rest.  But by the time the
 * server looks, the client may as well have seen the answer, sent something and
 * closed.  So whoever closes says CLOSED of what was, until the other has closed
 * too.  The other way round that keeps a server that closed first from answering
 * the same offer again.
 *
 * Closing is changing one's life word, and a kick.  Blocks are given back to the
 * heap only when the peer has closed too, or is dead: until then the channel is
 * a zombie.  While the region is to rest nothing is changed: then what is freed
 * is closed when that ends, by whoever is told of it.
 *
 * Trust boundary: an entry is copied between two looks at its life word; offsets
 * must lie in an arena that the peer writes; kind and capacity are read once.
 *
 * Threads: portal.lock for the own table and the zombies.
 */
#include <errno.h>
#include <stdlib.h>

#include "portal/atomic.h"
#include "portal/fence.h"
#include "portal/gate_inline.h"
#include "portal/guest.h"
#include "portal/internal.h"

#define RX_IN_BLOCK 128u /* a block is a portal_tx, then a portal_rx */
#define BLOCK_SIZE 256u

bool wslx_portal_link_read(const struct portal_link *shared, struct portal_link *ret)
{
	uint64_t life = PORTAL_LOAD_SEQ(&shared->life);

	wslx_portal_words_in(ret, shared, sizeof(*ret));
	return ret->life == life && PORTAL_LOAD_ACQ(&shared->life) == life;
}

const struct portal_link *wslx_portal_links_of(portal *p, unsigned peer)
{
	uint32_t arena = PORTAL_LOAD_ACQ(&p->parts[peer].arena), first;

	if (arena >= PORTAL_MAX_ARENAS)
		return NULL;
	/* The number may be the same and the participant another: only what the table says now. */
	if (p->view[arena].owner != peer || p->view[arena].life != PORTAL_LOAD_ACQ(&p->arenas[arena].life))
		return NULL;
	first = p->view[arena].first;
	return wslx_portal_peer_bytes(p, peer, ((uint64_t)first << PORTAL_SEGMENT_SHIFT) + PORTAL_LINKS_OFF,
				      PORTAL_MAX_LINKS * sizeof(struct portal_link));
}

/* Of a dead one's place a part may be another's: that with the blocks, or with the data. */
static bool has_whole_place(const portal *p, unsigned arena)
{
	const struct wslx_portal_view *v = &p->view[arena];

	for (uint32_t s = v->first; s < v->first + v->segments; s++)
		if (p->arena_of[s] != arena)
			return false;
	return true;
}

/* A revoked one's generation stays, but what is mapped of it is the host's copy, in which the rings may be earlier than
 * they were. */
static bool is_last_of(const portal *p, const portal_chan *c)
{
	uint64_t life = p->view[c->peer_arena].life;

	return PORTAL_LIFE_GENERATION(life) == c->peer_arena_generation &&
	       PORTAL_LIFE_STATE(life) != PORTAL_ARENA_REVOKED && has_whole_place(p, c->peer_arena) &&
	       /* In a machine the memory under a place may be exchanged before the view is. */
	       (!p->window || wslx_portal_window_holds(p->window, c->peer_arena, c->peer_arena_generation));
}

int wslx_portal_chan_place(portal_chan *c)
{
	portal *p = c->p;
	bool same;
	int r;

	/* Places change under the lock only.  Who reads what is there all the time has not looked for news; until it
	 * does, a revoked one goes on writing to it. */
	pthread_mutex_lock(&p->lock);
	r = wslx_portal_refresh_locked(p);
	same = (r == 0 || !wslx_portal_behind(p)) && is_last_of(p, c);
	pthread_mutex_unlock(&p->lock);
	return same ? 0 : -EPIPE;
}

/* May the peer still look at our blocks? */
static bool peer_done(const portal_chan *c)
{
	return !c->peer_link || wslx_portal_chan_alive(c) < 0;
}

static void give_back(portal_chan *c)
{
	uint64_t own = c->p->own_off;
	const struct portal_handle *h[2] = { &c->block_h, &c->data_h };

	for (int i = 0; i < 2; i++) {
		uint64_t off = ((uint64_t)h[i]->segment << PORTAL_SEGMENT_SHIFT) + h[i]->offset;

		if (h[i]->generation)
			(void)!wslx_portal_heap_release(&c->p->heap, off - own, h[i]->generation);
	}
	if (c->link < PORTAL_MAX_LINKS)
		wslx_portal_link_free(c->p, c->link);
	free(c);
}

static void reap_locked(portal *p)
{
	portal_chan **at = &p->zombies;

	while (*at) {
		portal_chan *c = *at;

		if (peer_done(c)) {
			*at = c->next;
			give_back(c);
		} else {
			at = &c->next;
		}
	}
}

static void free_all(portal_chan *c)
{
	while (c) {
		portal_chan *next = c->next;

		free(c);
		c = next;
	}
}

void wslx_portal_free_zombies(portal *p)
{
	free_all(p->zombies);
	free_all(p->closing);
	p->zombies = p->closing = NULL;
}

static int allocate(portal *p, uint64_t n, struct portal_handle *ret)
{
	uint64_t off = 0;
	int r = wslx_portal_heap_alloc(&p->heap, n, &off, &ret->generation);

	off += p->own_off;
	ret->segment = (uint32_t)(off >> PORTAL_SEGMENT_SHIFT);
	ret->offset = (uint32_t)(off & (PORTAL_SEGMENT_SIZE - 1));
	return r;
}

static uint64_t offset(const struct portal_handle *h)
{
	return ((uint64_t)h->segment << PORTAL_SEGMENT_SHIFT) + h->offset;
}

/* A guest's barriers do not reach other kernels. */
static uint32_t promise(const portal *p)
{
	return p->sock >= 0 && wslx_portal_fence_registered() ? PORTAL_FENCED : 0;
}

/* A machine is one participant of a region. */
static bool in_another_kernel(const portal *p, unsigned peer)
{
	return peer != p->self &&
	       (p->parts[p->self].kind == PORTAL_KIND_GUEST || p->parts[peer].kind == PORTAL_KIND_GUEST);
}

int wslx_portal_chan_new(portal *p, uint32_t kind, uint64_t capacity, portal_chan **ret)
{
	portal_chan *c;
	uint8_t *block;
	int r;

	if (wslx_portal_ring_check(kind, capacity) < 0)
		return -EINVAL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->p = p;
	c->kind = kind;
	c->link = PORTAL_MAX_LINKS;
	wslx_portal_close_due(p);
	reap_locked(p);
	r = allocate(p, BLOCK_SIZE, &c->block_h);
	if (r == 0)
		r = allocate(p, capacity, &c->data_h);
	if (r < 0) {
		give_back(c);
		return r;
	}
	block = p->base + offset(&c->block_h);
	c->tx.tx = (struct portal_tx *)(void *)block;
	c->rx.rx = (struct portal_rx *)(void *)(block + RX_IN_BLOCK);
	wslx_portal_tx_format(c->tx.tx, kind, capacity, offset(&c->data_h), promise(p));
	wslx_portal_rx_format(c->rx.rx, kind, promise(p));
	c->tx.mask = capacity - 1;
	wslx_portal_spin_init(&c->spin);
	wslx_portal_gate_add(p, &c->gate);
	*ret = c;
	return 0;
}

static int free_entry(const portal *p)
{
	for (int i = 0; i < (int)PORTAL_MAX_LINKS; i++)
		if (!p->link_used[i])
			return i;
	return -EMFILE;
}

/* Entries that nobody looks at any more: of channels that are closed at both ends, and those that refuse the dead. */
static void forget_entries(portal *p)
{
	uint64_t generation;

	reap_locked(p);
	for (unsigned i = 0; i < PORTAL_MAX_LINKS; i++)
		if (p->link_used[i] && PORTAL_LIFE_STATE(p->links[i].life) == PORTAL_LINK_REFUSED &&
		    !wslx_portal_peer_life(p, p->links[i].peer, &generation))
			wslx_portal_link_free(p, i);
}

int wslx_portal_link_write(portal *p, portal_chan *c, enum portal_link_state state, const struct portal_link *l)
{
	struct portal_link copy = *l;
	int i = free_entry(p);

	if (i < 0) {
		forget_entries(p);
		i = free_entry(p);
	}
	if (i < 0)
		return i;
	p->link_used[i] = true;
	if (c) {
		c->link = (unsigned)i;
		copy.tx = offset(&c->block_h);
		copy.rx = copy.tx + RX_IN_BLOCK;
	}
	wslx_portal_words_out((uint64_t *)(void *)&p->links[i] + 1, (const uint64_t *)(const void *)&copy + 1,
			      sizeof(copy) - 8);
	PORTAL_STORE_SEQ(&p->links[i].life, PORTAL_LIFE(++p->link_generation, state));
	PORTAL_STORE_SEQ(&p->ctl->links_seq, PORTAL_LOAD(&p->ctl->links_seq) + 1);
	return i;
}

/* FREE before it is written again: what is copied meanwhile is then no entry, however its halves go together. */
void wslx_portal_link_free(portal *p, unsigned link)
{
	PORTAL_STORE_SEQ(&p->links[link].life, PORTAL_LIFE(++p->link_generation, PORTAL_LINK_FREE));
	p->link_used[link] = false;
	if (p->link_wanted) {
		p->link_wanted = false;
		wslx_portal_kick(p, p->self);
	}
}

/* kind and capacity as the peer's block says, read once. */
int wslx_portal_chan_join(portal_chan *c, const struct portal_link *peer, uint64_t max_capacity)
{
	portal *p = c->p;
	const struct portal_tx *tx;
	const struct portal_rx *rx;
	const uint8_t *data;
	uint64_t capacity, at;

	if (peer->tx % 64 || peer->rx % 64)
		return -EPROTO;
	tx = wslx_portal_peer_bytes(p, c->peer, peer->tx, sizeof(*tx));
	rx = wslx_portal_peer_bytes(p, c->peer, peer->rx, sizeof(*rx));
	if (!tx || !rx || PORTAL_LOAD(&tx->magic) != PORTAL_TX_MAGIC || PORTAL_LOAD(&rx->magic) != PORTAL_RX_MAGIC ||
	    PORTAL_LOAD(&tx->kind) != c->kind || PORTAL_LOAD(&rx->kind) != c->kind)
		return -EPROTO;
	c->peer_arena = p->arena_of[peer->tx >> PORTAL_SEGMENT_SHIFT];
	c->peer_arena_generation = PORTAL_LIFE_GENERATION(p->view[c->peer_arena].life);
	capacity = PORTAL_LOAD(&tx->capacity);
	at = PORTAL_LOAD(&tx->data);
	if (wslx_portal_ring_check(c->kind, capacity) < 0 || at % 8)
		return -EPROTO;
	if (max_capacity && capacity > max_capacity)
		return -ENOBUFS;
	data = wslx_portal_peer_bytes(p, c->peer, at, capacity);
	if (!data)
		return -EPROTO;
	wslx_portal_txe_init(&c->tx, c->tx.tx, rx, p->base + offset(&c->data_h), c->tx.mask + 1);
	wslx_portal_rxe_init(&c->rx, c->rx.rx, tx, data, capacity);
	if (in_another_kernel(p, c->peer))
		wslx_portal_spin_far(&c->spin);
	c->tx.fenced = c->rx.fenced = promise(p);
	/* The peer's word, and the host's that it is in this kernel. */
	if (promise(p) && p->parts[c->peer].kind == PORTAL_KIND_PROCESS) {
		c->tx.light = PORTAL_LOAD(&rx->flags) & PORTAL_FENCED;
		c->rx.light = PORTAL_LOAD(&tx->flags) & PORTAL_FENCED;
	}
	return 0;
}

unsigned portal_chan_peer(const portal_chan *c)
{
	return c->peer;
}

/* Of an offer that is given up the answer may have come at the same moment: FREE before one looks for it. */
static void withdraw(portal_chan *c)
{
	portal *p = c->p;
	struct portal_link answer;

	PORTAL_STORE_SEQ(&p->links[c->link].life, PORTAL_LIFE(++p->link_generation, PORTAL_LINK_FREE));
	(void)wslx_portal_find_answer(c, &answer);
}

/* Our entry is not what the peer knows any more. */
static void end_link(portal_chan *c)
{
	portal *p = c->p;
	struct portal_link *mine = &p->links[c->link];
	uint64_t was = PORTAL_LOAD(&mine->life);

	if (c->offer_life && !c->peer_link)
		withdraw(c);
	else
		PORTAL_STORE_SEQ(&mine->life, PORTAL_LIFE(PORTAL_LIFE_GENERATION(was), PORTAL_LINK_CLOSED));
	PORTAL_STORE_SEQ(&p->ctl->links_seq, PORTAL_LOAD(&p->ctl->links_seq) + 1);
}

/* One of our entries for a client is over: whoever waits at a door may be another thread. */
static void tell_of_place(const portal_chan *c)
{
	portal *p = c->p;

	if (!p->place_wanted || !p->links[c->link].peer_life)
		return;
	p->place_wanted = false;
	__atomic_fetch_add(&p->places, 1, __ATOMIC_RELEASE);
	wslx_portal_kick(p, p->self);
}

/* Its gate is out of the list. */
static void close_locked(portal_chan *c)
{
	portal *p = c->p;
	bool zombie;

	if (c->link < PORTAL_MAX_LINKS) {
		end_link(c);
		tell_of_place(c);
	}
	zombie = !peer_done(c);
	/* It may have been waiting for that, to forget its end: until then our offers may have to wait. */
	if (c->link < PORTAL_MAX_LINKS)
		wslx_portal_kick(p, c->peer);
	if (zombie) {
		c->next = p->zombies;
		p->zombies = c;
	} else {
		give_back(c);
	}
}

void wslx_portal_close_due(portal *p)
{
	portal_chan *c = p->closing;

	if (!c || wslx_portal_is_to_rest(p))
		return;
	__atomic_store_n(&p->closing, NULL, __ATOMIC_RELAXED);
	while (c) {
		portal_chan *next = c->next;

		close_locked(c);
		c = next;
	}
}

void wslx_portal_chan_close(portal_chan *c)
{
	wslx_portal_gate_remove(c->p, &c->gate);
	close_locked(c);
}

void portal_chan_free(portal_chan *c)
{
	portal_listener *l;
	portal *p;

	if (!c)
		return;
	p = c->p;
	l = c->listener;
	pthread_mutex_lock(&p->lock);
	/* First, or whoever hears of the free place would still be refused. */
	if (l)
		wslx_portal_listener_left(l);
	wslx_portal_gate_remove(p, &c->gate);
	/* Under the lock nobody acknowledges. */
	if (wslx_portal_gate_rest_locked(p)) {
		c->next = p->closing;
		__atomic_store_n(&p->closing, c, __ATOMIC_RELAXED);
	} else {
		close_locked(c);
	}
	pthread_mutex_unlock(&p->lock);
}
