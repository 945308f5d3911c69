/* Regions in a machine: joining, doorbells, revoking, what fails. */
#include "portal_machine.h"

/* ---- life ------------------------------------------------------------------------------ */

static void test_join(void **state)
{
	struct machine m;
	unsigned o;

	setup(&m);
	until(&m, up_to_date);
	assert_int_equal(((struct portal_window *)(void *)data(&m))->magic, PORTAL_WINDOW_MAGIC);
	assert_int_equal(((struct portal_window *)(void *)data(&m))->segments, 31);
	assert_string_equal(entry(&m)->name, "reg");
	assert_string_equal(entry(&m)->as, "mine");
	assert_int_equal(entry(&m)->participant, 1);
	assert_int_equal(entry(&m)->segments, 4096);
	assert_int_equal(entry(&m)->access, PORTAL_WINDOW_READ | PORTAL_WINDOW_WRITE);
	assert_memory_equal(entry(&m)->uuid, header(&m)->uuid, 16);
	assert_string_equal(header(&m)->name, "reg");
	o = own(&m);
	assert_int_equal(arenas(&m)[o].segments, 2);
	arena(&m, o)[100] = 77;
	assert_int_equal(host_sees(&m, o, 100), 77);
	/* What is not the guest's cannot be changed by it. */
	arena(&m, 0)[0] = 0;
	assert_int_equal(host_sees(&m, 0, 0), 'W');
	assert_int_equal(wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT + 1), -ECONNREFUSED);
	teardown(&m);
}

static portal_host *the_host;

static void *attach_and_stay(void *arg)
{
	struct portal_attach a = { .size = sizeof(a), .path = arg, .name = "program" };
	portal *p = NULL;
	void *at = NULL;

	if (portal_attach(&a, &p) < 0 || portal_create(p, "thing", 8, NULL, &at) < 0)
		return NULL;
	memcpy(at, "shared!", 8);
	return p;
}

static bool attached;
static bool has_attached(struct machine *m)
{
	return __atomic_load_n(&attached, __ATOMIC_ACQUIRE);
}

static void *attach_thread(void *arg)
{
	void *p = attach_and_stay(arg);

	__atomic_store_n(&attached, true, __ATOMIC_RELEASE);
	return p;
}

/* A program of the host's comes and goes; the guest sees its arena, then does not. */
static void test_others(void **state)
{
	unsigned other = 0;
	uint8_t *at;
	struct machine m;
	pthread_t t;
	void *p;

	setup(&m);
	until(&m, up_to_date);
	bell = ring_up(&m);
	until(&m, bell_rang);
	attached = false;
	assert_int_equal(pthread_create(&t, NULL, attach_thread, m.sock), 0);
	until(&m, has_attached);
	pthread_join(t, &p);
	assert_non_null(p);
	until(&m, up_to_date);
	until(&m, bell_rang);
	for (unsigned i = 1; i < PORTAL_MAX_ARENAS; i++)
		if (arenas(&m)[i].life && i != own(&m))
			other = i;
	assert_true(other);
	assert_int_equal(arenas(&m)[other].access, PORTAL_WINDOW_READ);
	assert_memory_equal(arena(&m, other), "WSLXCTRL", 8);
	arena(&m, other)[0] = '!';
	assert_int_equal(host_sees(&m, other, 0), 'W');
	at = arena(&m, other);
	portal_detach(p);
	settle(&m);
	assert_true(up_to_date(&m));
	/* Its last words are still read, and the tables say so, until the guest has no part in the region any more. */
	assert_int_equal(PORTAL_LIFE_STATE(arenas(&m)[other].life), PORTAL_ARENA_DEAD);
	assert_int_equal(arenas(&m)[other].access, 0);
	assert_ptr_equal(arena(&m, other), at);
	assert_memory_equal(at + 1, "SLXCTRL", 7);
	assert_int_equal(wslx_vmportal_remove(m.portal, "reg"), 0);
	until(&m, gone);
	assert_int_equal(at[1], 0);
	close(bell);
	teardown(&m);
}

/* ---- doorbells ----------------------------------------------------------------------------- */

static bool second_generation(struct machine *m)
{
	return granted(m) && entry(m)->part_generation == 2;
}

static bool third_generation(struct machine *m)
{
	return granted(m) && entry(m)->part_generation == 3;
}

static void test_doorbell_is_the_attachment(void **state)
{
	struct machine m;
	uint64_t life;
	int second;

	setup(&m);
	until(&m, up_to_date);
	life = entry(&m)->life;
	bell = ring_up(&m);
	until(&m, bell_rang);
	assert_int_equal(entry(&m)->life, life);
	arena(&m, own(&m))[70000] = 1;
	close(bell);
	until(&m, second_generation);
	assert_true(entry(&m)->life != life);
	assert_int_equal(arena(&m, own(&m))[70000], 0);
	/* One more ends the one before, which hears of it. */
	bell = ring_up(&m);
	until(&m, bell_rang);
	second = ring_up(&m);
	assert_true(bell_ended(&m));
	close(bell);
	bell = second;
	until(&m, third_generation);
	until(&m, bell_rang);
	close(bell);
	teardown(&m);
}

static void test_kicks(void **state)
{
	uint8_t many[4096 * 4] = { 0 }, none[4] = { 64 };
	struct portal_host_stat st;
	struct machine m;

	setup(&m);
	until(&m, up_to_date);
	bell = ring_up(&m);
	until(&m, bell_rang);
	settle(&m);
	(void)read_all(bell);
	/* In pieces: number 1, which is the guest itself. */
	assert_int_equal(write(bell, "\1", 1), 1);
	assert_int_equal(write(bell, "\0\0", 2), 2);
	settle(&m);
	assert_int_equal(read_all(bell), 0);
	assert_int_equal(write(bell, "\0", 1), 1);
	until(&m, bell_rang);
	/* A flood is a few messages. */
	for (size_t i = 0; i < sizeof(many); i += 4)
		many[i] = (uint8_t)(i / 4 % 64);
	assert_int_equal(write(bell, many, sizeof(many)), sizeof(many));
	settle(&m);
	assert_int_equal(portal_host_stat(m.h, &st), 0);
	assert_true(up_to_date(&m));
	/* There is no number 64. */
	assert_int_equal(write(bell, none, 4), 4);
	until(&m, bell_ended);
	close(bell);
	until(&m, second_generation);
	teardown(&m);
}

/* A guest that attaches and leaves all the time is slowed down. */
static void test_joins_are_rare(void **state)
{
	int64_t end;
	struct machine m;

	setup(&m);
	until(&m, up_to_date);
	end = wslx_now_ms() + 1000;
	while (wslx_now_ms() < end) {
		int fd = wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT);

		if (fd >= 0)
			close(fd);
		assert_int_equal(wslx_loop_once(m.loop, 1), 0);
	}
	settle(&m);
	until(&m, up_to_date);
	assert_true(entry(&m)->part_generation > 2);
	assert_true(entry(&m)->part_generation < 16);
	teardown(&m);
}

/* ---- taking away ----------------------------------------------------------------------------- */

static int revoke_result;

static void *revoke_guest(void *arg)
{
	revoke_result = portal_host_revoke(the_host, 1, 20 * SEC);
	__atomic_store_n(&attached, true, __ATOMIC_RELEASE);
	return NULL;
}

static void test_revoke(void **state)
{
	struct machine m;
	unsigned o;
	uint8_t *mine, *theirs;
	pthread_t t;

	setup(&m);
	until(&m, up_to_date);
	bell = ring_up(&m);
	until(&m, bell_rang);
	o = own(&m);
	mine = arena(&m, o);
	theirs = arena(&m, 0);
	mine[70000] = 5;
	the_host = m.h;
	/* A VMM that does not carry it out is waited for, whatever the guest says. */
	m.hold = true;
	assert_int_equal(portal_host_revoke(m.h, 1, SEC / 5), -ETIMEDOUT);
	settle(&m);
	assert_int_equal(portal_host_revoke(m.h, 1, SEC / 5), -ENOENT);
	m.hold = false;
	answer_jobs(&m);
	until(&m, gone);
	until(&m, bell_ended);
	assert_non_null(strstr(m.warning, "revoked"));
	/* It writes on, into nothing, and reads nothing of the region's. */
	mine[70000] = 6;
	assert_int_equal(mine[70000], 6);
	assert_int_equal(theirs[0], 0);
	assert_int_equal(arenas(&m)[o].life, 0);
	/* Not of its own accord ... */
	wslx_vmportal_retry(m.portal);
	assert_int_equal(wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT), -ECONNREFUSED);
	settle(&m);
	assert_true(gone(&m));
	/* ... and not where the program still writes. */
	assert_int_equal(wslx_vmportal_add(m.portal, &m.config.grants[0]), 0);
	until(&m, up_to_date);
	assert_true(arena(&m, own(&m)) != mine && arena(&m, own(&m)) != mine + 2 * WSLX_MIB);
	close(bell);
	settle(&m);
	/* The same with a VMM that does its part. */
	bell = ring_up(&m);
	until(&m, bell_rang);
	attached = false;
	assert_int_equal(pthread_create(&t, NULL, revoke_guest, NULL), 0);
	until(&m, has_attached);
	pthread_join(t, NULL);
	assert_int_equal(revoke_result, 0);
	until(&m, gone);
	close(bell);
	teardown(&m);
}

static void test_broker_ends(void **state)
{
	struct machine m;
	uint8_t *at;

	setup(&m);
	until(&m, up_to_date);
	bell = ring_up(&m);
	until(&m, bell_rang);
	at = arena(&m, 0);
	broker_down(&m);
	until(&m, gone);
	until(&m, bell_ended);
	assert_int_equal(at[0], 0);
	assert_non_null(strstr(m.warning, "gone"));
	close(bell);
	settle(&m);
	broker_up(&m, 0);
	wslx_vmportal_retry(m.portal);
	until(&m, up_to_date);
	teardown(&m);
}

static void test_broker_comes_late(void **state)
{
	struct machine m;

	setup_segments(&m, 2);
	boot(&m);
	until(&m, warned);
	assert_non_null(strstr(m.warning, "wslx portal create reg"));
	broker_up(&m, 0);
	settle(&m);
	assert_true(gone(&m));
	wslx_vmportal_retry(m.portal);
	until(&m, up_to_date);
	/* A reboot is a new participant and an empty window. */
	halt(&m);
	boot(&m);
	until(&m, second_generation);
	teardown(&m);
}

/* More than the window holds: what does not fit is left out, and said. */
static void test_full_window(void **state)
{
	struct machine m;

	setup_segments(&m, 20);
	broker_up(&m, 0);
	boot(&m);
	until(&m, up_to_date);
	assert_int_equal(portal_host_object(m.h, "large", 11, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	until(&m, warned);
	until(&m, up_to_date);
	assert_non_null(strstr(m.warning, "the window is full: 22 MiB"));
	assert_int_equal(portal_host_object(m.h, "small", 9, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	settle(&m);
	assert_true(up_to_date(&m));
	assert_int_equal(arenas(&m)[2].life, 0);
	assert_int_equal(arenas(&m)[3].segments, 9);
	teardown(&m);
}

/* ... until something else gives its room back, and the guest is rung for it. */
static void test_room_again(void **state)
{
	struct machine m;

	setup_segments(&m, 2);
	broker_up(&m, 0);
	boot(&m);
	until(&m, up_to_date);
	bell = ring_up(&m);
	until(&m, bell_rang);
	assert_int_equal(portal_host_object(m.h, "first", 15, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	settle(&m);
	assert_int_equal(portal_host_object(m.h, "second", 20, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	until(&m, warned);
	settle(&m);
	assert_int_equal(arenas(&m)[2].segments, 15);
	assert_int_equal(arenas(&m)[3].life, 0);
	while (read_all(bell) > 0)
		;
	assert_int_equal(portal_host_unpublish(m.h, "first"), 0);
	settle(&m);
	/* It took the place of the first one, too. */
	assert_int_equal(arenas(&m)[2].life, 0);
	assert_int_equal(arenas(&m)[3].segments, 20);
	assert_true(read_all(bell) > 0);
	assert_true(up_to_date(&m));
	close(bell);
	teardown(&m);
}

/* Others' arenas are not in the way of the guest's own, whatever comes first: when it joins, joins again, or both. */
static void test_room_for_its_own(void **state)
{
	for (int huge = 0; huge < 2; huge++) {
		struct machine m;

		/* With the host's and the own one there are 9 left. */
		setup_segments(&m, 20);
		broker_up(&m, 0);
		assert_int_equal(portal_host_object(m.h, "large", 11, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
		assert_int_equal(portal_host_object(m.h, "fits", 9, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
		if (huge)
			assert_int_equal(portal_host_object(m.h, "huge", 29, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
		boot(&m);
		until(&m, up_to_date);
		for (int i = 0; i < 3; i++) {
			assert_int_not_equal(own(&m), 0);
			assert_int_equal(arenas(&m)[own(&m)].segments, 20);
			assert_int_equal(arenas(&m)[1].life, 0);
			assert_int_equal(arenas(&m)[2].segments, 9);
			bell = ring_up(&m);
			until(&m, bell_rang);
			close(bell);
			settle(&m);
			assert_true(up_to_date(&m));
			assert_int_equal(entry(&m)->part_generation, i + 2);
		}
		teardown(&m);
	}
}

/* Another region, whose grant comes second. */
struct second {
	char sock[96];
	portal_host *h;
	struct wslx_watch *watch;
};

static void second_up(struct machine *m, struct second *s)
{
	struct portal_host_params p = { .size = sizeof(p), .name = "two", .path = s->sock, .segments = 4096 };

	snprintf(s->sock, sizeof(s->sock), "%s/two.sock", m->dir);
	assert_int_equal(portal_host_create(&p, &s->h), 0);
	assert_int_equal(wslx_loop_watch(m->loop, portal_host_fd(s->h), EPOLLIN, on_host, s->h, &s->watch), 0);
}

static void second_down(struct machine *m, struct second *s)
{
	halt(m);
	wslx_watch_free(s->watch);
	portal_host_destroy(s->h);
	boot(m);
}

static void second_grant(struct machine *m, struct second *s, uint32_t segments)
{
	struct wslx_portal_grant g = { .region = "two", .as = "two", .socket = s->sock, .segments = segments };

	assert_int_equal(wslx_vmportal_add(m->portal, &g), 0);
}

static uint64_t generation;

static bool is_generation(struct machine *m)
{
	return up_to_date(m) && entry(m)->part_generation == generation;
}

/* Nor is what another region left out, and would take as soon as there is room, in the way of a program that attaches
 * again: at once, or so soon that it has to wait. */
static void test_room_for_its_own_beside_another_region(void **state)
{
	struct second s;
	struct machine m;

	/* Ten are left, and more while the first region is joined again. */
	setup_segments(&m, 16);
	broker_up(&m, 0);
	second_up(&m, &s);
	assert_int_equal(portal_host_object(s.h, "large", 12, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	boot(&m);
	second_grant(&m, &s, 2);
	until(&m, warned);
	settle(&m);
	for (generation = 2; generation < 6; generation++) {
		assert_true(up_to_date(&m));
		assert_int_not_equal(own(&m), 0);
		bell = ring_up(&m);
		close(bell);
		until(&m, is_generation);
	}
	assert_int_not_equal(own(&m), 0);
	second_down(&m, &s);
	teardown(&m);
}

/* Where there was no room it is what comes first when there is. */
static void test_room_for_its_own_at_last(void **state)
{
	const struct grant *g;
	struct second s;
	struct machine m;

	setup_segments(&m, 2);
	broker_up(&m, 0);
	assert_int_equal(portal_host_object(m.h, "large", 25, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_host_object(m.h, "next", 20, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	boot(&m);
	until(&m, up_to_date);
	second_up(&m, &s);
	second_grant(&m, &s, 12);
	settle(&m);
	g = &m.portal->grants[1];
	assert_int_equal(g->state, GRANT_READY);
	assert_int_not_equal(g->own, 0);
	assert_int_equal(g->arenas[g->own].place, 0);
	assert_int_equal(portal_host_unpublish(m.h, "large"), 0);
	settle(&m);
	assert_true(up_to_date(&m));
	assert_int_not_equal(g->arenas[g->own].place, 0);
	assert_int_equal(g->arenas[g->own].segments, 12);
	assert_int_equal(arenas(&m)[2].life, 0);
	second_down(&m, &s);
	teardown(&m);
}

static void test_refused(void **state)
{
	struct machine m;

	setup_segments(&m, 5);
	broker_up(&m, 4);
	boot(&m);
	until(&m, warned);
	settle(&m);
	assert_true(gone(&m));
	assert_non_null(strstr(m.warning, strerror(EDQUOT)));
	teardown(&m);
}

static bool tried_again(struct machine *m)
{
	return m->portal->grants[0].busy_tries > 1;
}

/* As many participants as there can be, or memory for no other: a program that attaches waits until somebody leaves. */
static void test_full_region(void **state)
{
	const struct portal_host_member crowd = { .size = sizeof(crowd), .name = "crowd", .kind = 1, .segments = 1 };

	for (int memory = 0; memory < 2; memory++) {
		struct machine m;
		unsigned last = 0;

		setup_segments(&m, 2);
		broker_up(&m, 0);
		if (memory)
			assert_int_equal(portal_host_object(m.h, "all", 4094, PORTAL_NOBODY, 0), 0);
		for (unsigned i = 1; !memory && i < PORTAL_MAX_PARTICIPANTS; i++)
			assert_int_equal(portal_host_add(m.h, &crowd, &last), 0);
		boot(&m);
		bell = wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT);
		assert_true(bell >= 0);
		until(&m, tried_again);
		assert_int_equal(read_all(bell), 0);
		assert_int_equal(memory ? portal_host_unpublish(m.h, "all") : portal_host_remove(m.h, last), 0);
		until(&m, up_to_date);
		until(&m, bell_rang);
		assert_null(strstr(m.warning, "gone"));
		close(bell);
		teardown(&m);
	}
}

static void test_read_only(void **state)
{
	struct machine m;

	setup_segments(&m, 0);
	m.portal->grants[0].config.readonly = true;
	broker_up(&m, 0);
	boot(&m);
	until(&m, up_to_date);
	assert_int_equal(entry(&m)->access, PORTAL_WINDOW_READ);
	assert_int_equal(arenas(&m)[own(&m)].segments, 1);
	teardown(&m);
}

static bool failed(struct machine *m)
{
	return m->failure[0];
}

/* What cannot be taken away must not be thought taken away. */
static void test_map_fails(void **state)
{
	struct machine m;

	setup(&m);
	until(&m, up_to_date);
	m.map_error = ENOMEM;
	bell = ring_up(&m);
	close(bell);
	until(&m, failed);
	assert_non_null(strstr(m.failure, "cannot be mapped or taken away"));
	m.failure[0] = '\0';
	teardown(&m);
}

static bool asked_again(struct machine *m)
{
	return m->n_maps > 2 && !m->n_jobs;
}

/* Descriptors of others' that nobody receives end no machine: it is tried again until there is room. */
static void test_map_later(void **state)
{
	struct machine m;

	setup_segments(&m, 2);
	broker_up(&m, 0);
	m.map_error = ETOOMANYREFS;
	boot(&m);
	until(&m, asked_again);
	assert_false(up_to_date(&m));
	m.map_error = 0;
	until(&m, up_to_date);
	assert_false(failed(&m));
	/* And where the machine ends meanwhile. */
	m.map_error = ETOOMANYREFS;
	bell = ring_up(&m);
	close(bell);
	settle(&m);
	assert_false(failed(&m));
	m.map_error = 0;
	teardown(&m);
}

static void test_more_grants(void **state)
{
	static char nowhere[] = "/nonexistent";
	struct wslx_portal_grant g;
	struct machine m;
	json_t *list;

	setup(&m);
	until(&m, up_to_date);
	g = m.config.grants[0];
	g.socket = nowhere;
	for (int i = 1; i <= 8; i++) {
		snprintf(g.region, sizeof(g.region), "other%d", i);
		assert_int_equal(wslx_vmportal_add(m.portal, &g), i < 8 ? 0 : -ENOSPC);
	}
	assert_int_equal(wslx_vmportal_add(m.portal, &m.config.grants[0]), 0);
	assert_int_equal(entry(&m)->part_generation, 1);
	/* What waits is known by its name; what is taken away is not. */
	assert_string_equal(entry_n(&m, 7)->as, "mine");
	assert_int_equal(entry_n(&m, 7)->life & 0xff, PORTAL_WINDOW_NONE);
	assert_int_equal(wslx_vmportal_remove(m.portal, "nothing"), -ENOENT);
	assert_int_equal(wslx_vmportal_remove(m.portal, "other7"), 0);
	assert_int_equal(wslx_vmportal_remove(m.portal, "other7"), -ENOENT);
	assert_string_equal(entry_n(&m, 7)->as, "");
	strcpy(g.region, "other8");
	assert_int_equal(wslx_vmportal_add(m.portal, &g), 0);
	assert_string_equal(entry_n(&m, 7)->as, "mine");
	list = wslx_vmportal_describe(m.portal);
	assert_int_equal(json_array_size(list), 8);
	assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "state")), "granted");
	json_decref(list);
	/* One in force, too, without a word from its broker. */
	bell = ring_up(&m);
	until(&m, bell_rang);
	assert_int_equal(wslx_vmportal_remove(m.portal, "reg"), 0);
	until(&m, gone);
	until(&m, bell_ended);
	assert_string_equal(entry(&m)->as, "");
	close(bell);
	list = wslx_vmportal_describe(m.portal);
	assert_int_equal(json_array_size(list), 7);
	json_decref(list);
	assert_int_equal(wslx_vmportal_add(m.portal, &m.config.grants[0]), 0);
	until(&m, up_to_date);
	assert_string_equal(entry(&m)->as, "mine");
	teardown(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_join),
		cmocka_unit_test(test_others),
		cmocka_unit_test(test_doorbell_is_the_attachment),
		cmocka_unit_test(test_kicks),
		cmocka_unit_test(test_joins_are_rare),
		cmocka_unit_test(test_revoke),
		cmocka_unit_test(test_broker_ends),
		cmocka_unit_test(test_broker_comes_late),
		cmocka_unit_test(test_full_window),
		cmocka_unit_test(test_room_again),
		cmocka_unit_test(test_room_for_its_own),
		cmocka_unit_test(test_room_for_its_own_beside_another_region),
		cmocka_unit_test(test_room_for_its_own_at_last),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_full_region),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_map_fails),
		cmocka_unit_test(test_map_later),
		cmocka_unit_test(test_more_grants),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(240);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
