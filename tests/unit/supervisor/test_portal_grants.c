/* Grants that are taken back, narrowed and given again while a guest does its worst. */
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
	m.hold = false;
	answer_jobs(&m);
	settle(&m);
	assert_true(gone(&m));
	close(first);
	close(bell);
	teardown(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody_outlives_a_revocation),
		cmocka_unit_test(test_remove_while_it_waits_for_its_turn),
		cmocka_unit_test(test_remove_while_it_is_cleared),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(240);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
