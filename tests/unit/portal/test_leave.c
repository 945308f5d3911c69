/* What is left of one who has gone: rights, memory, names. */
#include "support.h"

#include <signal.h>

static portal *attach_small(struct broker *b, const char *name)
{
	struct portal_attach a = { .size = sizeof(a), .path = b->path, .name = name, .segments = 1 };
	portal *p = NULL;

	assert_int_equal(portal_attach(&a, &p), 0);
	return p;
}

static unsigned number_of(const portal *p)
{
	struct portal_info info;

	portal_get_info(p, &info);
	return info.self;
}

/* The broker has heard of the end. */
static void leave(struct broker *b, portal *p)
{
	unsigned i = number_of(p);

	portal_detach(p);
	/* It may have heard already. */
	(void)!portal_host_remove(b->h, i);
}

/* ---- rights ---- */

static int map_named(portal *p, const char *name)
{
	struct portal_object o;
	const void *ro;
	int r = portal_open(p, name, &o);

	return r < 0 ? r : portal_map(p, &o, &ro, NULL);
}

/* A number comes again, what was given to the one who had it does not: from the beginning, later, and by the way. */
static void rights_end_with_the_participant(void **state)
{
	struct broker b;
	portal *p, *q;
	unsigned i;

	broker_start(&b, NULL);
	p = attach_small(&b, "first");
	i = number_of(p);
	assert_int_equal(portal_host_object(b.h, "listed", 1, PORTAL_NOBODY, UINT64_C(1) << i), 0);
	assert_int_equal(portal_host_object(b.h, "granted", 1, PORTAL_NOBODY, 0), 0);
	(void)!portal_host_grant(b.h, "granted", i, PORTAL_READ, 0);
	assert_int_equal(portal_host_object(b.h, "written", 1, i, 0), 0);
	assert_int_equal(portal_host_object(b.h, "kept", 1, i, UINT64_C(1) << i), 0);
	assert_int_equal(portal_host_object(b.h, "public", 1, i, PORTAL_EVERYBODY), 0);
	assert_int_equal(map_named(p, "listed"), 0);
	assert_int_equal(map_named(p, "granted"), 0);
	assert_int_equal(map_named(p, "written"), 0);
	leave(&b, p);
	q = attach_small(&b, "second");
	assert_int_equal(number_of(q), i);
	assert_int_equal(map_named(q, "listed"), -EACCES);
	assert_int_equal(map_named(q, "granted"), -EACCES);
	assert_int_equal(map_named(q, "written"), -EACCES);
	assert_int_equal(map_named(q, "kept"), -EACCES);
	assert_int_equal(map_named(q, "public"), 0);
	portal_detach(q);
	broker_end(&b);
}

/* Where everybody reads that is so for those who come, too; an exception is the number's. */
static void exceptions_stay_with_the_number(void **state)
{
	struct broker b;
	portal *p, *q, *other;
	unsigned i;

	broker_start(&b, NULL);
	p = attach_small(&b, "excepted");
	q = attach_small(&b, "reader");
	i = number_of(p);
	assert_int_equal(portal_host_object(b.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	(void)!portal_host_grant(b.h, "thing", i, PORTAL_NONE, 0);
	assert_int_equal(map_named(p, "thing"), -EACCES);
	assert_int_equal(map_named(q, "thing"), 0);
	leave(&b, q);
	q = attach_small(&b, "next-reader");
	assert_int_equal(map_named(q, "thing"), 0);
	leave(&b, p);
	p = attach_small(&b, "heir");
	assert_int_equal(number_of(p), i);
	other = attach_small(&b, "another");
	assert_int_equal(map_named(p, "thing"), -EACCES);
	assert_int_equal(map_named(other, "thing"), 0);
	portal_detach(p);
	portal_detach(q);
	portal_detach(other);
	broker_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rights_end_with_the_participant),
		cmocka_unit_test(exceptions_stay_with_the_number),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
