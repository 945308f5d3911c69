/* How links come and go: offer, answer, withdraw, refuse, close, and an end at every step of it.  Participants 1 and 3
 * connect, 2 listens. */
#include <errno.h>

#include "land.h"
#include "portal/atomic.h"
#include "portal/gate_inline.h"
#include "world.h"

#define SLOT 5u

static struct portal_arena arenas[PORTAL_MAX_ARENAS];
static struct portal_listener door;
static unsigned got[PARTS]; /* records, by sender */

/* ---- in place of objects.c: the name is there ---- */

int wslx_portal_wait_for_peer(portal *p, const char *name, int64_t timeout_ns, struct portal_object *ret)
{
	*ret = (struct portal_object) { .name = "door" };
	return 0;
}

int wslx_portal_find(portal *p, const char *name, struct portal_name *ret, uint32_t *ret_slot)
{
	*ret = (struct portal_name) { .kind = PORTAL_SERVICE, .owner = 2, .tag = PORTAL_RECORDS };
	ret->owner_generation = ret->generation = 1;
	*ret_slot = SLOT;
	return 0;
}

int wslx_portal_publish_kind(portal *p, uint32_t kind, const char *name, struct portal_handle h, uint64_t size,
			     uint32_t tag)
{
	return -ENOSYS;
}

int portal_unpublish(portal *p, const char *name)
{
	return -ENOSYS;
}

/* ---- memory for everyone ---- */

/* Has the slabs that channels come from ready: what making them stores is not what this is about, and much. */
static void setup_slabs(struct wslx_portal_heap *h)
{
	static const uint64_t sizes[] = { 256, PORTAL_RING_MIN };

	for (unsigned i = 0; i < 2; i++) {
		uint64_t off;
		uint32_t generation;

		ex_assert(wslx_portal_heap_alloc(h, sizes[i], &off, &generation) == 0);
		ex_assert(wslx_portal_heap_release(h, off, generation) == 0);
	}
}

static void setup_views(portal *p)
{
	for (unsigned k = 1; k < PARTS; k++) {
		p->view[k] = (struct wslx_portal_view) { .life = PORTAL_LIFE(1, PORTAL_ARENA_LIVE),
							 .first = k,
							 .segments = 1,
							 .owner = k,
							 .flags = PORTAL_ARENA_CONTROL };
		p->view[k].mapped = p->view[k].readable = true;
		p->view[k].writable = k == p->self;
	}
}

static void setup_doors(void)
{
	setup_base();
	ex_quiet(arenas, sizeof(arenas));
	for (unsigned i = 1; i < PARTS; i++) {
		portal *p = &side[i];

		setup_land_of(i);
		setup_slabs(&p->heap);
		setup_views(p);
		arenas[i].life = PORTAL_LIFE(1, PORTAL_ARENA_LIVE);
		m.parts[i].arena = i;
		p->arenas = arenas;
		p->base = land[0];
		p->length = sizeof(land);
		p->geo.segments = PARTS;
		p->own_arena = i;
		p->own_off = (uint64_t)i << PORTAL_SEGMENT_SHIFT;
		p->ctl = (struct portal_control *)(void *)land[i];
		p->links = (struct portal_link *)(void *)(land[i] + PORTAL_LINKS_OFF);
		got[i] = 0;
	}
	door = (struct portal_listener) {
		.p = &side[2], .slot = SLOT, .generation = 1, .dirty = true, .told = UINT32_MAX
	};
	door.params = (struct portal_listen) { sizeof(door.params), PORTAL_RECORDS, 64, PORTAL_RING_MIN, 0 };
}

/* Participant 3 is not there (yet): its table needs no looks. */
static void setup_two(void)
{
	setup_doors();
	m.parts[3].life = PORTAL_LIFE(1, PORTAL_PART_FREE);
}

static int knock(unsigned who, int64_t timeout_ns, portal_chan **ret)
{
	return portal_connect(&side[who], "door", PORTAL_RING_MIN, timeout_ns, ret);
}

static int say(portal_chan *c, uint64_t who, uint64_t what)
{
	uint64_t r[2] = { who, what };

	return portal_send(c, (uint32_t)what, r, sizeof(r), PORTAL_FOREVER);
}

/* One record of the one who is said to be at the other end. */
static int hear(portal_chan *c, uint64_t *ret)
{
	uint64_t r[2] = { 0, 0 };
	uint32_t type = 0;
	size_t n = 0;
	int e = portal_recv(c, &type, r, sizeof(r), &n, PORTAL_FOREVER);

	if (e < 0)
		return e;
	ex_assert(n == sizeof(r) && r[0] == c->peer && type == r[1]);
	*ret = r[1];
	return 0;
}

/* Nothing is left but channels that the other one has left too. */
static void check_closed_by(unsigned i)
{
	int used = 0;

	for (unsigned k = 0; k < PORTAL_MAX_LINKS; k++)
		used += side[i].link_used[k];
	for (const portal_chan *z = side[i].zombies; z; z = z->next) {
		ex_assert(z->peer_link->life != z->peer_link_life || ex_crashed(z->peer - 1));
		used -= z->link < PORTAL_MAX_LINKS;
	}
	ex_assert(used == 0);
}

static void check_closed(void)
{
	check_closed_by(1);
	check_closed_by(2);
	ex_assert(door.open == 0);
}

/* For something else: if that is where a channel was, nobody looks at it any more. */
static void use_memory(unsigned who)
{
	static const struct portal_tx other = { PORTAL_TX_MAGIC, .head = 24 };
	struct wslx_portal_heap *h = &side[who].heap;
	uint64_t off = 0;
	uint32_t generation;

	ex_assert(wslx_portal_heap_alloc(h, 256, &off, &generation) == 0);
	wslx_portal_copy_out(land[who] + off, &other, sizeof(other));
}

/* ---- one connects, says something and goes ---- */

static void visit(unsigned who, uint64_t what)
{
	portal_chan *c = NULL;

	ex_assert(knock(who, PORTAL_FOREVER, &c) == 0);
	ex_assert(say(c, who, what) == 0);
	portal_chan_free(c);
}

static void receive_visit(uint64_t what)
{
	portal_chan *c = NULL;
	uint64_t v = 0;

	ex_assert(portal_accept(&door, PORTAL_FOREVER, &c) == 0);
	ex_assert(hear(c, &v) == 0 && v == what);
	ex_assert(hear(c, &v) == -EPIPE);
	portal_chan_free(c);
}

static void guest(void)
{
	visit(1, 1);
}

static void host(void)
{
	receive_visit(1);
}

/* The second time with the blocks of the first, if nobody looks at them any more. */
static void guest_twice(void)
{
	visit(1, 1);
	visit(1, 2);
}

static void host_twice(void)
{
	receive_visit(1);
	receive_visit(2);
}

/* ---- the server closes first: it does not take the same one for another ---- */

static bool host_said_so(void)
{
	return over;
}

static void guest_that_stays(void)
{
	portal_chan *c = NULL;

	ex_assert(knock(1, PORTAL_FOREVER, &c) == 0);
	ex_assert(say(c, 1, 1) == 0);
	ex_await(host_said_so);
	portal_chan_free(c);
	visit(1, 2);
}

static void host_that_closes(void)
{
	portal_chan *c = NULL, *again = NULL;
	uint64_t v = 0;

	ex_assert(portal_accept(&door, PORTAL_FOREVER, &c) == 0);
	ex_assert(hear(c, &v) == 0 && v == 1);
	portal_chan_free(c);
	ex_assert(portal_accept(&door, 0, &again) == -EAGAIN);
	over = true;
	receive_visit(2);
}

/* ---- the server says something and closes, perhaps before the client looks ---- */

static void guest_that_listens(void)
{
	portal_chan *c = NULL;
	uint64_t v = 0;

	ex_assert(knock(1, PORTAL_FOREVER, &c) == 0);
	ex_assert(hear(c, &v) == 0 && v == 1);
	ex_assert(hear(c, &v) == -EPIPE);
	portal_chan_free(c);
}

static void host_that_only_says(void)
{
	portal_chan *c = NULL;

	ex_assert(portal_accept(&door, PORTAL_FOREVER, &c) == 0);
	ex_assert(say(c, 2, 1) == 0);
	portal_chan_free(c);
	use_memory(2);
}

/* ---- one who does not wait, or not for long: both sides agree whether there is a channel ---- */

static void hasty(int64_t timeout_ns)
{
	portal_chan *c = NULL;
	int e = knock(1, timeout_ns, &c);

	if (e < 0) {
		ex_assert(e == (timeout_ns ? -ETIMEDOUT : -EAGAIN));
		use_memory(1);
		ex_assert(knock(1, PORTAL_FOREVER, &c) == 0);
	}
	ex_assert(say(c, 1, 1) == 0);
	portal_chan_free(c);
}

static void hasty_guest(void)
{
	hasty(0);
}

static void impatient_guest(void)
{
	hasty(1000);
}

/* Channels of those who thought better of it end without a word. */
static void patient_host(void)
{
	for (;;) {
		portal_chan *c = NULL;
		uint64_t v = 0;
		int e;

		ex_assert(portal_accept(&door, PORTAL_FOREVER, &c) == 0);
		e = hear(c, &v);
		portal_chan_free(c);
		ex_assert(e == -EPIPE || (e == 0 && v == 1));
		if (e == 0)
			return;
	}
}

/* ---- refused, and then not ---- */

static void setup_full(void)
{
	setup_two();
	door.params.max = door.open = 1;
}

static void guest_of_a_full_house(void)
{
	portal_chan *c = NULL;

	ex_assert(knock(1, PORTAL_FOREVER, &c) == -ECONNREFUSED);
	door.open = 0;
	visit(1, 1);
}

/* ---- one who waits at the door and for its channels at once ---- */

static void host_with_fan(void)
{
	portal_fanin *f = NULL;
	portal_chan *c = NULL, *up = NULL;
	uint64_t v = 0;

	ex_assert(portal_fanin_new(&side[2], &f) == 0);
	while (!c) {
		int e;

		ex_assert(portal_fanin_wait(f, &door, PORTAL_FOREVER, &up) == 0 && !up);
		e = portal_accept(&door, 0, &c);
		ex_assert(e == 0 || e == -EAGAIN);
	}
	ex_assert(portal_fanin_add(f, c) == 0);
	while (!up) {
		portal_chan *more = NULL;

		ex_assert(portal_fanin_wait(f, &door, PORTAL_FOREVER, &up) == 0);
		ex_assert(up || portal_accept(&door, 0, &more) == -EAGAIN);
	}
	ex_assert(up == c && hear(c, &v) == 0 && v == 1);
	portal_fanin_free(f);
	portal_chan_free(c);
}

/* ---- the client dies: whoever comes after it is served ---- */

static void guest_that_dies(void)
{
	visit(1, 1);
	over = true;
}

static bool guest_gone(void)
{
	return over || ex_crashed(0);
}

static void host_of_the_next(void)
{
	while (!got[3] && !(got[1] && over)) {
		portal_chan *c = NULL;
		uint64_t v = 0;
		int e;

		ex_assert(portal_accept(&door, PORTAL_FOREVER, &c) == 0);
		e = hear(c, &v);
		ex_assert((e == 0 && v == c->peer) || (e == -EPIPE && c->peer == 1 && ex_crashed(0)));
		got[c->peer] += e == 0;
		portal_chan_free(c);
		ex_await(guest_gone);
	}
}

static void next_guest(void)
{
	ex_await(guest_gone);
	if (over)
		return;
	PORTAL_STORE_SEQ(&m.parts[3].life, PORTAL_LIFE(1, PORTAL_PART_LIVE));
	host_buries(1);
	visit(3, 3);
}

/* ---- the server dies ---- */

static void guest_of_the_dying(void)
{
	portal_chan *c = NULL;
	uint64_t v = 0;
	int e = knock(1, PORTAL_FOREVER, &c);

	if (e == 0) {
		e = say(c, 1, 1);
		ex_assert(e == 0 || (e == -EPIPE && ex_crashed(1)));
		e = hear(c, &v);
		ex_assert(e < 0 || v == 2);
		portal_chan_free(c);
	}
	ex_assert(e == 0 || (e == -EPIPE && ex_crashed(1)));
	over = true;
}

static void host_that_dies(void)
{
	portal_chan *c = NULL;
	uint64_t v = 0;

	ex_assert(portal_accept(&door, PORTAL_FOREVER, &c) == 0);
	ex_assert(hear(c, &v) == 0 && v == 1);
	ex_assert(say(c, 2, 2) == 0);
	portal_chan_free(c);
}

static bool host_gone(void)
{
	return over || ex_crashed(1);
}

static void undertaker(void)
{
	ex_await(host_gone);
	if (ex_crashed(1))
		host_buries(2);
}

static void check_guest_closed(void)
{
	check_closed_by(1);
}

const struct scenario door_scenarios[] = {
	{ .name = "connect",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_two,
	  .fiber = { guest, host },
	  .check = check_closed },
	{ .name = "connect-twice",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_two,
	  .fiber = { guest_twice, host_twice },
	  .check = check_closed },
	{ .name = "connect-close-first",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_two,
	  .fiber = { guest_that_stays, host_that_closes },
	  .check = check_closed },
	{ .name = "connect-close-at-once",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_two,
	  .fiber = { guest_that_listens, host_that_only_says },
	  .check = check_closed },
	{ .name = "withdraw",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_two,
	  .fiber = { hasty_guest, patient_host },
	  .check = check_closed },
	{ .name = "withdraw-late",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_two,
	  .fiber = { impatient_guest, patient_host },
	  .check = check_closed },
	{ .name = "refuse",
	  .fibers = 2,
	  .preemptions = 2,
	  .setup = setup_full,
	  .fiber = { guest_of_a_full_house, host },
	  .check = check_closed },
	{ .name = "fanin-door",
	  .fibers = 2,
	  .preemptions = 2,
	  .pauses_once = true,
	  .setup = setup_two,
	  .fiber = { guest, host_with_fan },
	  .check = check_closed },
	{ .name = "connect-crash-client",
	  .fibers = 3,
	  .preemptions = 1,
	  .crashable = 1,
	  .setup = setup_two,
	  .fiber = { guest_that_dies, host_of_the_next, next_guest } },
	{ .name = "connect-crash-server",
	  .fibers = 3,
	  .preemptions = 1,
	  .crashable = 2,
	  .setup = setup_two,
	  .fiber = { guest_of_the_dying, host_that_dies, undertaker },
	  .check = check_guest_closed },
	{ 0 },
};
