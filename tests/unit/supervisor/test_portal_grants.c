/* Grants that are taken back, narrowed and given again while a guest does its worst. */
#include <sys/stat.h>

#include "portal_machine.h"

/* ---- taking back ------------------------------------------------------------------------ */

/* Attaches and leaves, and holds on to the newest doorbell.  Returns it. */
static int restless_guest(struct machine *m, int64_t ms)
{
	int64_t end = wslx_now_ms() + ms;
	int keep = -1;

	while (wslx_now_ms() < end) {
		int fd = wslx_vmportal_doorbell(m->portal, PORTAL_DOORBELL_PORT);

		if (keep >= 0)
			close(keep);
		keep = fd;
		assert_int_equal(wslx_loop_once(m->loop, 1), 0);
	}
	return keep;
}

static unsigned revoke_live_guests(struct machine *m)
{
	struct portal_host_participant p;
	uint32_t cursor = 1;
	unsigned n = 0;

	while (portal_host_next_participant(m->h, &cursor, &p) == 0) {
		if (p.state != 1 || p.kind != PORTAL_KIND_GUEST)
			continue;
		(void)!portal_host_revoke(m->h, p.index, 0);
		n++;
	}
	return n;
}

/* As `wslx portal revoke` does it, at any moment of such a guest's. */
static void test_nobody_outlives_a_revocation(void **state)
{
	for (int i = 0; i < 12; i++) {
		struct machine m;

		setup(&m);
		until(&m, up_to_date);
		bell = restless_guest(&m, 200 + i * 17 % 100);
		assert_int_equal(wslx_vmportal_remove(m.portal, "reg"), 0);
		for (int k = 0; k < 5; k++)
			assert_int_equal(wslx_loop_once(m.loop, 1), 0);
		(void)revoke_live_guests(&m);
		settle(&m);
		assert_true(gone(&m));
		assert_int_equal(own(&m), 0);
		assert_int_equal(revoke_live_guests(&m), 0);
		if (bell >= 0) {
			assert_true(bell_ended(&m));
			close(bell);
		}
		teardown(&m);
	}
}

static bool waits_for_its_turn(struct machine *m)
{
	return m->portal->grants[0].state == GRANT_WAITING;
}

static void test_remove_while_it_waits_for_its_turn(void **state)
{
	struct machine m;

	setup(&m);
	until(&m, up_to_date);
	for (int i = 0; i < 50 && !waits_for_its_turn(&m); i++) {
		close(wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT));
		assert_int_equal(wslx_loop_once(m.loop, 5), 0);
	}
	bell = wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT);
	assert_true(bell >= 0 && waits_for_its_turn(&m));
	assert_int_equal(wslx_vmportal_remove(m.portal, "reg"), 0);
	assert_true(bell_ended(&m));
	assert_string_equal(entry(&m)->as, "");
	settle(&m);
	assert_true(gone(&m));
	/* The place is another's only when the guest has closed its side. */
	assert_true(m.portal->grants[0].bell >= 0);
	close(bell);
	settle(&m);
	assert_true(m.portal->grants[0].bell < 0);
	teardown(&m);
}

/* What whoever asks is told of it: "state access"; "": there is none. */
static void assert_described(struct machine *m, const char *want)
{
	json_t *list = wslx_vmportal_describe(m->portal), *g = json_array_get(list, 0);
	char got[64] = "";

	if (g)
		snprintf(got, sizeof(got), "%s %s", json_string_value(json_object_get(g, "state")),
			 json_string_value(json_object_get(g, "access")));
	assert_string_equal(got, want);
	json_decref(list);
}

/* A doorbell that was opened while everything was being unmapped. */
static void test_remove_while_it_is_cleared(void **state)
{
	struct machine m;
	int first;

	setup(&m);
	until(&m, up_to_date);
	first = ring_up(&m);
	m.hold = true;
	bell = wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT);
	assert_true(bell >= 0);
	assert_int_equal(m.portal->grants[0].state, GRANT_CLEARING);
	assert_int_equal(wslx_vmportal_remove(m.portal, "reg"), 0);
	assert_true(bell_ended(&m));
	/* Whoever waits for it is told when nothing is left. */
	assert_described(&m, "clearing rw");
	m.hold = false;
	answer_jobs(&m);
	settle(&m);
	assert_true(gone(&m));
	assert_described(&m, "");
	close(first);
	close(bell);
	teardown(&m);
}

/* Taken back while the machine was starting, and nobody could tell it: before it joins, and while it does. */
static void test_withdrawn_before_it_is_told(void **state)
{
	for (unsigned from = 1; from <= 2; from++) {
		struct portal_host_stat st;
		struct machine m;

		setup_segments(&m, 2);
		broker_up(&m, 0);
		m.withdrawn_from = from;
		boot(&m);
		settle(&m);
		assert_true(gone(&m));
		assert_string_equal(entry(&m)->as, "");
		assert_int_equal(wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT), -ECONNREFUSED);
		wslx_vmportal_retry(m.portal);
		settle(&m);
		assert_int_equal(portal_host_stat(m.h, &st), 0);
		assert_int_equal(st.participants, 0);
		assert_int_equal(st.attached, from - 1);
		assert_int_equal(m.n_maps, 0);
		/* Given again. */
		m.withdrawn_from = 0;
		assert_int_equal(wslx_vmportal_add(m.portal, &m.config.grants[0]), 0);
		until(&m, up_to_date);
		teardown(&m);
	}
}

static uint8_t *map_object(struct machine *m, const char *name, char byte)
{
	unsigned a = 2;
	int fd;

	assert_int_equal(portal_host_object(m->h, name, 2, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	settle(m);
	assert_true(up_to_date(m));
	while (a < PORTAL_MAX_ARENAS - 1 && arenas(m)[a].access != PORTAL_WINDOW_READ)
		a++;
	fd = portal_host_arena_fd(m->h, a, 1);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, &byte, 1, 5000), 1);
	close(fd);
	assert_int_equal(arena(m, a)[5000], byte);
	return arena(m, a);
}

/* What was taken away just before it died is not read on, unlike what just died. */
static void test_taken_away_and_then_dead(void **state)
{
	struct machine m;
	uint8_t *at;

	setup(&m);
	until(&m, up_to_date);
	at = map_object(&m, "dies", 'd');
	assert_int_equal(portal_host_unpublish(m.h, "dies"), 0);
	settle(&m);
	assert_true(up_to_date(&m));
	assert_int_equal(at[5000], 'd');
	at = map_object(&m, "secret", 's');
	/* Both before the machine's side looks at either. */
	(void)!portal_host_grant(m.h, "secret", entry(&m)->participant, PORTAL_NONE, 0);
	assert_int_equal(portal_host_unpublish(m.h, "secret"), 0);
	assert_int_equal(at[5000], 's');
	settle(&m);
	assert_true(up_to_date(&m));
	assert_int_equal(at[5000], 0);
	teardown(&m);
}

/* The first mapping that is on its way. */
static void answer_one(struct machine *m, int err)
{
	struct job j = m->jobs[0];

	assert_true(m->n_jobs > 0);
	memmove(m->jobs, m->jobs + 1, --m->n_jobs * sizeof(j));
	j.done(j.opaque, err);
}

static bool last_words_are_free(struct machine *m)
{
	return up_to_date(m) && m->portal->places.owner[m->portal->places.next - 1] == 0;
}

static bool second_is_granted(struct machine *m)
{
	return (entry_n(m, 1)->life & 0xff) == PORTAL_WINDOW_GRANTED;
}

/* A dead arena's place is free for others, and what was there goes with them; but not while it is being taken away,
 * which may have to be asked for again: then it would be the other's that goes. */
static void test_nobody_gets_a_place_that_is_being_cleared(void **state)
{
	const struct portal_window_arena *second;
	struct wslx_portal_grant other;
	struct machine m;
	uint32_t place;

	setup(&m);
	until(&m, up_to_date);
	place = (uint32_t)((uint64_t)(map_object(&m, "dies", 'd') - data(&m)) / WSLX_WINDOW_SEGMENT);
	assert_int_equal(portal_host_unpublish(m.h, "dies"), 0);
	until(&m, last_words_are_free);
	m.hold = true;
	assert_int_equal(wslx_vmportal_remove(m.portal, "reg"), 0);
	while (m.portal->grants[0].map.first != place)
		answer_one(&m, 0);
	answer_one(&m, -ETOOMANYREFS);
	m.hold = false;
	m.portal->places.next = place;
	other = m.config.grants[0];
	strcpy(other.region, "other");
	assert_int_equal(wslx_vmportal_add(m.portal, &other), 0);
	until(&m, second_is_granted);
	until(&m, gone);
	second = (const void *)(data(&m) + PORTAL_WINDOW_ARENAS_OFF(1));
	assert_memory_equal(data(&m) + second[0].window_segment * WSLX_WINDOW_SEGMENT, "WSLXPRTL", 8);
	assert_int_equal(m.portal->places.owner[place], 0);
	teardown(&m);
}

/* Nor is room kept there for one that is about to join. */
static void test_no_room_is_kept_in_a_place_that_is_being_cleared(void **state)
{
	struct wslx_portal_grant other;
	const struct grant *g;
	struct machine m;
	uint32_t place;
	char sock[96];
	int listener;

	setup(&m);
	until(&m, up_to_date);
	place = (uint32_t)((uint64_t)(map_object(&m, "dies", 'd') - data(&m)) / WSLX_WINDOW_SEGMENT);
	assert_int_equal(portal_host_unpublish(m.h, "dies"), 0);
	until(&m, last_words_are_free);
	m.portal->places.next = place;
	/* Its broker does not answer. */
	snprintf(sock, sizeof(sock), "%s/other.sock", m.dir);
	listener = wslx_unix_listen(sock, SOCK_SEQPACKET | SOCK_CLOEXEC, 4);
	assert_true(listener >= 0);
	other = m.config.grants[0];
	strcpy(other.region, "other");
	other.socket = sock;
	assert_int_equal(wslx_vmportal_add(m.portal, &other), 0);
	g = &m.portal->grants[1];
	assert_int_equal(g->kept, place);
	assert_int_equal(wslx_vmportal_remove(m.portal, "reg"), 0);
	until(&m, gone);
	assert_int_equal(m.portal->places.owner[place], 0);
	assert_int_equal(m.portal->places.owner[place + 1], 0);
	assert_true(g->kept > place + 1 || (g->kept && g->kept < place - 1));
	assert_int_equal(m.portal->places.owner[g->kept], 2);
	assert_int_equal(data(&m)[(uint64_t)place * WSLX_WINDOW_SEGMENT + 5000], 0);
	close(listener);
	unlink(sock);
	teardown(&m);
}

/* An object that the guest writes is gone with its name: what others still read of it the guest does not change. */
static void test_own_object_is_gone(void **state)
{
	struct machine m;
	unsigned a = 1;
	uint8_t *at, b;
	int fd;

	setup(&m);
	until(&m, up_to_date);
	assert_int_equal(portal_host_object(m.h, "its", 2, entry(&m)->participant, PORTAL_EVERYBODY), 0);
	settle(&m);
	assert_true(up_to_date(&m));
	while (a < PORTAL_MAX_ARENAS && (!arenas(&m)[a].life || arenas(&m)[a].segments != 2 || a == own(&m)))
		a++;
	assert_true(a < PORTAL_MAX_ARENAS);
	assert_int_equal(arenas(&m)[a].access, PORTAL_WINDOW_WRITE);
	at = arena(&m, a);
	at[5000] = 'o';
	fd = portal_host_arena_fd(m.h, a, 0);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &b, 1, 5000), 1);
	assert_int_equal(b, 'o');
	assert_int_equal(portal_host_unpublish(m.h, "its"), 0);
	settle(&m);
	assert_true(up_to_date(&m));
	at[5000] = 'x';
	assert_int_equal(pread(fd, &b, 1, 5000), 1);
	assert_int_equal(b, 'o');
	close(fd);
	teardown(&m);
}

/* A program of the host's, from a thread of its own: this one serves the broker. */
static bool has_attached;

static void *attach_program(void *arg)
{
	struct portal_attach a = { .size = sizeof(a), .path = arg, .name = "program" };
	portal *p = NULL;

	(void)!portal_attach(&a, &p);
	__atomic_store_n(&has_attached, true, __ATOMIC_RELEASE);
	return p;
}

static bool program_is_there(struct machine *m)
{
	return __atomic_load_n(&has_attached, __ATOMIC_ACQUIRE) && up_to_date(m);
}

static portal *program(struct machine *m, uint8_t **ret_at)
{
	pthread_t t;
	void *p;

	has_attached = false;
	assert_int_equal(pthread_create(&t, NULL, attach_program, m->sock), 0);
	until(m, program_is_there);
	pthread_join(t, &p);
	assert_non_null(p);
	for (unsigned i = 1; i < PORTAL_MAX_ARENAS; i++)
		if (arenas(m)[i].life && i != own(m))
			*ret_at = arena(m, i);
	return p;
}

/* Revoked and gone before the machine's side looks: what is mapped there its writer can still change. */
static void test_revoked_and_then_dead(void **state)
{
	struct portal_info info;
	uint8_t *at = NULL;
	struct machine m;
	portal *p;

	setup(&m);
	until(&m, up_to_date);
	for (int seen = 0; seen < 2; seen++) {
		p = program(&m, &at);
		portal_get_info(p, &info);
		assert_int_equal(at[0], 'W');
		assert_int_equal(portal_host_revoke(m.h, info.self, 0), -ETIMEDOUT);
		/* Whose side has looked has the host's copy, which stays. */
		if (seen)
			settle(&m);
		assert_int_equal(portal_host_remove(m.h, info.self), 0);
		assert_int_equal(at[0], 'W');
		settle(&m);
		assert_true(up_to_date(&m));
		assert_int_equal(at[0], seen ? 'W' : 0);
		portal_detach(p);
	}
	teardown(&m);
}

static bool both_up_to_date(struct machine *m)
{
	return up_to_date(m) && (entry_n(m, 1)->life & 0xff) == PORTAL_WINDOW_GRANTED &&
	       entry_n(m, 1)->epoch == header(m)->epoch;
}

static struct portal_window_arena *row_n(struct machine *m, unsigned i, unsigned a)
{
	return (struct portal_window_arena *)(void *)(data(m) + PORTAL_WINDOW_ARENAS_OFF(i)) + a;
}

/* What is left of the dead is nobody's any more when another grant's arena takes its place, too. */
static void test_place_of_the_dead_is_taken(void **state)
{
	struct wslx_portal_grant g;
	struct machine m;
	unsigned x = 3;

	setup(&m);
	until(&m, up_to_date);
	g = m.config.grants[0];
	strcpy(g.region, "again");
	strcpy(g.as, "too");
	assert_int_equal(wslx_vmportal_add(m.portal, &g), 0);
	until(&m, both_up_to_date);
	/* Once for each.  Of 31 segments 8 are left. */
	assert_int_equal(portal_host_object(m.h, "x", 6, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	settle(&m);
	assert_int_equal(portal_host_unpublish(m.h, "x"), 0);
	settle(&m);
	assert_true(both_up_to_date(&m));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(PORTAL_LIFE_STATE(row_n(&m, i, x)->life), PORTAL_ARENA_DEAD);
		assert_int_equal(row_n(&m, i, x)->segments, 6);
	}
	/* Before anything is mapped over them: machine.h looks. */
	assert_int_equal(portal_host_object(m.h, "y", 8, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	settle(&m);
	assert_true(both_up_to_date(&m));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(row_n(&m, i, x)->life, 0);
		assert_int_equal(row_n(&m, i, x + 1)->segments, 8);
	}
	teardown(&m);
}

/* ---- memory --------------------------------------------------------------------------------- */

static uint64_t held(struct machine *m)
{
	struct stat st;

	assert_int_equal(fstat(m->portal->page.fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* The window's own memory that a guest has filled is not kept below arenas. */
static void test_no_memory_below_arenas(void **state)
{
	const uint64_t all = WINDOW - WSLX_WINDOW_DATA - WSLX_WINDOW_SEGMENT;
	struct machine m;
	uint64_t before;
	uint8_t *at;

	setup(&m);
	until(&m, up_to_date);
	halt(&m);
	boot(&m);
	memset(data(&m) + WSLX_WINDOW_SEGMENT, 1, all);
	before = held(&m);
	assert_true(before >= all);
	until(&m, up_to_date);
	assert_true(held(&m) + 2 * WSLX_WINDOW_SEGMENT <= before);
	before = held(&m);
	at = map_object(&m, "object", 'o');
	assert_int_equal(before - held(&m), 2 * WSLX_WINDOW_SEGMENT);
	/* What comes back is empty, and the neighbours are as they were. */
	assert_int_equal(wslx_vmportal_remove(m.portal, "reg"), 0);
	until(&m, gone);
	assert_int_equal(at[5000], 0);
	assert_int_equal(at[2 * WSLX_WINDOW_SEGMENT], 1);
	teardown(&m);
}

/* ---- warnings ------------------------------------------------------------------------------ */

/* Attaches and leaves, and waits each time until that has been tried. */
static void patient_guest(struct machine *m)
{
	for (int i = 0; i < 4; i++) {
		int fd = wslx_vmportal_doorbell(m->portal, PORTAL_DOORBELL_PORT);

		assert_true(fd >= 0);
		settle(m);
		close(fd);
		settle(m);
	}
}

/* One line for each reason, however often a guest has it tried again. */
static void test_few_warnings(void **state)
{
	struct machine m;

	setup_segments(&m, 5);
	broker_up(&m, 4);
	boot(&m);
	until(&m, warned);
	assert_non_null(strstr(m.warning, strerror(EDQUOT)));
	m.warning[0] = '\0';
	patient_guest(&m);
	assert_string_equal(m.warning, "");
	teardown(&m);
	setup_segments(&m, 20);
	broker_up(&m, 0);
	boot(&m);
	until(&m, up_to_date);
	assert_int_equal(portal_host_object(m.h, "large", 11, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	until(&m, warned);
	assert_non_null(strstr(m.warning, "full"));
	m.warning[0] = '\0';
	patient_guest(&m);
	assert_string_equal(m.warning, "");
	teardown(&m);
}

/* ---- given again ------------------------------------------------------------------------- */

static void test_grant_on_other_terms(void **state)
{
	struct wslx_portal_grant g;
	struct machine m;
	uint8_t *old;

	setup(&m);
	until(&m, up_to_date);
	bell = ring_up(&m);
	until(&m, bell_rang);
	old = arena(&m, own(&m));
	g = m.config.grants[0];
	/* On the same terms it stays as it is. */
	assert_int_equal(wslx_vmportal_add(m.portal, &g), 0);
	settle(&m);
	assert_true(up_to_date(&m) && entry(&m)->part_generation == 1);
	g.readonly = true;
	g.segments = 0;
	strcpy(g.as, "other");
	assert_described(&m, "granted rw");
	assert_int_equal(wslx_vmportal_add(m.portal, &g), 0);
	assert_false(granted(&m));
	assert_described(&m, "clearing ro");
	assert_true(bell_ended(&m));
	until(&m, up_to_date);
	assert_described(&m, "granted ro");
	assert_int_equal(entry(&m)->access, PORTAL_WINDOW_READ);
	assert_string_equal(entry(&m)->as, "other");
	assert_int_equal(arenas(&m)[own(&m)].segments, 1);
	/* The program that writes on does so into nothing. */
	assert_true(arena(&m, own(&m)) != old && arena(&m, own(&m)) != old + 2 * WSLX_MIB);
	old[70000] = 55;
	assert_int_equal(host_sees(&m, own(&m), 70000), 0);
	/* Who held the old one is not who leaves now. */
	assert_int_equal(entry(&m)->part_generation, 2);
	close(bell);
	settle(&m);
	assert_true(up_to_date(&m));
	assert_int_equal(entry(&m)->access, PORTAL_WINDOW_READ);
	assert_int_equal(entry(&m)->part_generation, 2);
	teardown(&m);
}

static void test_grant_before_the_last_is_cleared(void **state)
{
	struct machine m;

	setup(&m);
	until(&m, up_to_date);
	m.hold = true;
	assert_int_equal(wslx_vmportal_remove(m.portal, "reg"), 0);
	assert_int_equal(m.portal->grants[0].state, GRANT_CLEARING);
	assert_int_equal(wslx_vmportal_add(m.portal, &m.config.grants[0]), 0);
	m.hold = false;
	answer_jobs(&m);
	until(&m, up_to_date);
	assert_int_equal(entry(&m)->part_generation, 2);
	teardown(&m);
}

/* The new broker is there before the window is cleared of the old one's arenas. */
static void test_broker_is_back_before_the_last_is_cleared(void **state)
{
	struct machine m;
	int64_t end;

	setup(&m);
	until(&m, up_to_date);
	m.hold = true;
	broker_down(&m);
	end = wslx_now_ms() + 20000;
	while (m.portal->grants[0].state != GRANT_CLEARING && wslx_now_ms() < end)
		assert_int_equal(wslx_loop_once(m.loop, 20), 0);
	broker_up(&m, 0);
	wslx_vmportal_retry(m.portal);
	m.hold = false;
	answer_jobs(&m);
	until(&m, up_to_date);
	teardown(&m);
}

/* A program that still holds its doorbell may go on writing where it could. */
static void test_places_are_kept_for_who_holds_the_doorbell(void **state)
{
	uint32_t place;
	struct machine m;

	setup(&m);
	until(&m, up_to_date);
	bell = ring_up(&m);
	until(&m, bell_rang);
	place = arenas(&m)[own(&m)].window_segment;
	broker_down(&m);
	until(&m, gone);
	until(&m, bell_ended);
	broker_up(&m, 0);
	wslx_vmportal_retry(m.portal);
	until(&m, up_to_date);
	assert_int_not_equal(m.portal->places.owner[place], 0);
	close(bell);
	settle(&m);
	until(&m, up_to_date);
	assert_int_equal(m.portal->places.owner[place], 0);
	teardown(&m);
}

static bool says_hello(struct machine *m)
{
	return m->portal->grants[0].state == GRANT_HELLO;
}

static bool bell_is_closed(struct machine *m)
{
	return m->portal->grants[0].bell < 0;
}

static bool no_place_is_taken(struct machine *m)
{
	for (uint32_t i = 1; i < m->portal->places.n; i++)
		if (m->portal->places.owner[i])
			return false;
	return true;
}

/* It lets go while the next broker is asked, which cannot take one more. */
static void test_places_are_free_after_a_busy_broker(void **state)
{
	const struct wslx_portal_msg full = { .op = PORTAL_OP_WELCOME, .status = -EMFILE };
	struct machine m;
	int listener, fd;

	setup(&m);
	until(&m, up_to_date);
	bell = ring_up(&m);
	until(&m, bell_rang);
	broker_down(&m);
	until(&m, gone);
	until(&m, bell_ended);
	listener = wslx_unix_listen(m.sock, SOCK_SEQPACKET | SOCK_CLOEXEC, 4);
	assert_true(listener >= 0);
	wslx_vmportal_retry(m.portal);
	until(&m, says_hello);
	close(bell);
	until(&m, bell_is_closed);
	assert_false(no_place_is_taken(&m));
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(send(fd, &full, sizeof(full), MSG_NOSIGNAL), sizeof(full));
	until(&m, no_place_is_taken);
	close(fd);
	close(listener);
	unlink(m.sock);
	broker_up(&m, 0);
	until(&m, up_to_date);
	teardown(&m);
}

/* ... but not for ever: a program that never lets go does not use the window up. */
static void test_ended_doorbells_are_closed_when_there_is_no_room(void **state)
{
	struct machine m;

	setup(&m);
	until(&m, up_to_date);
	bell = ring_up(&m);
	until(&m, bell_rang);
	/* Three segments a time, of 30. */
	for (int i = 0; i < 14; i++) {
		broker_down(&m);
		until(&m, gone);
		if (i == 0)
			until(&m, bell_ended);
		broker_up(&m, 0);
		wslx_vmportal_retry(m.portal);
		until(&m, granted);
		settle(&m);
		assert_true(up_to_date(&m));
		assert_int_not_equal(own(&m), 0);
		assert_null(strstr(m.warning, "full"));
		/* Not before it has to be. */
		if (i < 7)
			assert_true(m.portal->grants[0].bell >= 0);
	}
	assert_true(m.portal->grants[0].bell < 0);
	close(bell);
	settle(&m);
	assert_true(up_to_date(&m));
	teardown(&m);
}

/* Nor all the places for grants. */
static void test_ended_doorbells_are_closed_for_new_grants(void **state)
{
	static char nowhere[] = "/nonexistent/reg.sock";
	struct wslx_portal_grant g;
	int bells[WSLX_MAX_GRANTS];
	struct machine m;

	setup(&m);
	until(&m, up_to_date);
	g = m.config.grants[0];
	g.socket = nowhere;
	for (int i = 0; i < WSLX_MAX_GRANTS; i++) {
		snprintf(g.region, sizeof(g.region), "reg%d", i);
		snprintf(g.as, sizeof(g.as), "as%d", i);
		if (i)
			assert_int_equal(wslx_vmportal_add(m.portal, &g), 0);
		settle(&m);
		bells[i] = wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT + (uint64_t)i);
		assert_true(bells[i] >= 0);
		settle(&m);
		if (i < 2)
			continue;
		assert_int_equal(wslx_vmportal_remove(m.portal, g.region), 0);
		settle(&m);
		assert_true(m.portal->grants[i].bell >= 0);
	}
	strcpy(g.region, "new");
	strcpy(g.as, "new");
	assert_int_equal(wslx_vmportal_add(m.portal, &g), 0);
	/* In the place of the one that ended first. */
	assert_string_equal(m.portal->grants[2].config.region, "new");
	assert_true(m.portal->grants[2].bell < 0 && m.portal->grants[3].bell >= 0);
	for (int i = 0; i < WSLX_MAX_GRANTS; i++)
		close(bells[i]);
	settle(&m);
	teardown(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody_outlives_a_revocation),
		cmocka_unit_test(test_remove_while_it_waits_for_its_turn),
		cmocka_unit_test(test_remove_while_it_is_cleared),
		cmocka_unit_test(test_withdrawn_before_it_is_told),
		cmocka_unit_test(test_taken_away_and_then_dead),
		cmocka_unit_test(test_nobody_gets_a_place_that_is_being_cleared),
		cmocka_unit_test(test_no_room_is_kept_in_a_place_that_is_being_cleared),
		cmocka_unit_test(test_own_object_is_gone),
		cmocka_unit_test(test_revoked_and_then_dead),
		cmocka_unit_test(test_place_of_the_dead_is_taken),
		cmocka_unit_test(test_no_memory_below_arenas),
		cmocka_unit_test(test_few_warnings),
		cmocka_unit_test(test_grant_on_other_terms),
		cmocka_unit_test(test_grant_before_the_last_is_cleared),
		cmocka_unit_test(test_broker_is_back_before_the_last_is_cleared),
		cmocka_unit_test(test_places_are_kept_for_who_holds_the_doorbell),
		cmocka_unit_test(test_places_are_free_after_a_busy_broker),
		cmocka_unit_test(test_ended_doorbells_are_closed_when_there_is_no_room),
		cmocka_unit_test(test_ended_doorbells_are_closed_for_new_grants),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(240);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
