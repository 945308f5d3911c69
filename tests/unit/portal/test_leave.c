/* What is left of one who has gone: rights, memory, names. */
#include "support.h"

#include <inttypes.h>
#include <signal.h>
#include <unistd.h>

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

/* ---- memory ---- */

#define MIB (UINT64_C(1) << 20)

/* Of the regions' memory, by all participants here and the broker. */
static uint64_t mapped(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	uint64_t sum = 0, from, to;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (strstr(line, "/memfd:test") && sscanf(line, "%" SCNx64 "-%" SCNx64, &from, &to) == 2)
			sum += to - from;
	fclose(f);
	return sum;
}

/* Attaches, fills its arena, and leaves; the reader hears of both.  What it wrote, where the reader has it. */
static const uint8_t *fill_and_leave(struct broker *b, portal *reader, size_t size)
{
	portal *p = broker_attach(b, "filler");
	struct portal_handle h;
	const void *ro;
	void *rw;

	assert_non_null(p);
	assert_int_equal(portal_alloc(p, size, &h, &rw), 0);
	memset(rw, 'f', size);
	assert_int_equal(portal_resolve(reader, h, size, &ro), 0);
	leave(b, p);
	assert_int_equal(portal_poll(reader, 0), 0);
	assert_int_equal(*(const uint8_t *)ro, 'f');
	return ro;
}

/* Whoever comes, fills its arena and goes, again and again, does not fill the memory of those who look. */
static void dead_arenas_do_not_add_up(void **state)
{
	const uint8_t *first, *last = NULL;
	struct broker b;
	portal *reader;
	uint64_t before;

	broker_start(&b, NULL);
	reader = attach_small(&b, "reader");
	before = mapped();
	first = fill_and_leave(&b, reader, 7 * MIB);
	for (int i = 0; i < 30; i++)
		last = fill_and_leave(&b, reader, 7 * MIB);
	assert_true(mapped() - before <= 64 * MIB + 2 * 8 * MIB);
	/* The last ones are there still, and where the others were is nothing; but something that can be read. */
	assert_int_equal(*last, 'f');
	assert_int_equal(*first, 0);
	portal_detach(reader);
	broker_end(&b);
}

/* It is memory that counts: of those who leave little there are many. */
static void small_ones_are_read_for_long(void **state)
{
	const uint8_t *first;
	struct broker b;
	portal *reader;

	broker_start(&b, NULL);
	reader = attach_small(&b, "reader");
	first = fill_and_leave(&b, reader, 4096);
	for (int i = 0; i < 100; i++)
		(void)fill_and_leave(&b, reader, 4096);
	assert_int_equal(*first, 'f');
	portal_detach(reader);
	broker_end(&b);
}

/* A number is another's: nothing of who had it before is kept. */
static void as_many_dead_as_numbers(void **state)
{
	struct broker b;
	portal *reader;
	uint64_t before;

	broker_start(&b, NULL);
	reader = attach_small(&b, "reader");
	before = mapped();
	for (int i = 0; i < 3 * (int)PORTAL_MAX_ARENAS; i++) {
		assert_int_equal(portal_host_object(b.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
		assert_int_equal(map_named(reader, "thing"), 0);
		assert_int_equal(portal_host_unpublish(b.h, "thing"), 0);
		assert_int_equal(portal_poll(reader, 0), 0);
	}
	assert_true(mapped() - before <= PORTAL_MAX_ARENAS * PORTAL_SEGMENT_SIZE);
	portal_detach(reader);
	broker_end(&b);
}

/* ---- names ---- */

static int publish_nth(portal *p, struct portal_handle h, const char *prefix, unsigned i)
{
	char name[PORTAL_NAME_SIZE];

	snprintf(name, sizeof(name), "%s%u", prefix, i);
	return portal_publish(p, name, h, 64, 0);
}

static uint32_t names_there(struct broker *b)
{
	struct portal_host_stat st;

	assert_int_equal(portal_host_stat(b->h, &st), 0);
	return st.names;
}

/* Nobody takes all the room for names, however often it comes; the host's objects have no limit. */
static void names_have_a_limit(void **state)
{
	const unsigned limit = 1024 / 8;
	struct portal_handle h, g;
	struct broker b;
	portal *p, *q;
	unsigned i;

	broker_start(&b, NULL);
	q = attach_small(&b, "another");
	assert_int_equal(portal_alloc(q, 64, &g, NULL), 0);
	for (unsigned turn = 0; turn < 2; turn++) {
		p = attach_small(&b, "greedy");
		assert_int_equal(portal_alloc(p, 64, &h, NULL), 0);
		for (i = 0; i < limit; i++)
			assert_int_equal(publish_nth(p, h, "n", i), 0);
		assert_int_equal(publish_nth(p, h, "n", i), -EDQUOT);
		assert_int_equal(portal_listen(p, "service", NULL, &(portal_listener *) { NULL }), -EDQUOT);
		/* One of its own taken back makes room for one, by whomever. */
		assert_int_equal(portal_unpublish(p, "n3"), 0);
		assert_int_equal(portal_host_unpublish(b.h, "n4"), 0);
		assert_int_equal(portal_host_unpublish(b.h, "n4"), -ENOENT);
		assert_int_equal(publish_nth(p, h, "m", 0), 0);
		assert_int_equal(publish_nth(p, h, "m", 0), -EEXIST);
		assert_int_equal(publish_nth(p, h, "m", 1), 0);
		assert_int_equal(publish_nth(p, h, "m", 2), -EDQUOT);
		assert_int_equal(publish_nth(q, g, "q", turn), 0);
		assert_int_equal(names_there(&b), limit + turn + 1);
		leave(&b, p);
		assert_int_equal(names_there(&b), turn + 1);
	}
	p = attach_small(&b, "revoked");
	assert_int_equal(portal_alloc(p, 64, &h, NULL), 0);
	assert_int_equal(publish_nth(p, h, "n", 0), 0);
	(void)!portal_host_revoke(b.h, number_of(p), 0);
	assert_int_equal(names_there(&b), 2);
	portal_detach(p);
	for (i = 0; i < limit + 8; i++) {
		char name[16];

		snprintf(name, sizeof(name), "o%u", i);
		assert_int_equal(portal_host_object(b.h, name, 1, PORTAL_NOBODY, 0), 0);
	}
	portal_detach(q);
	broker_end(&b);
}

/* ---- who is who ---- */

static void *serve_one(void *arg)
{
	portal_chan *c = NULL;

	(void)!portal_accept(arg, LONG, &c);
	return c;
}

static portal_chan *connect_to(portal *client, portal_listener *l, portal_chan **ret_served)
{
	portal_chan *c = NULL;
	pthread_t t;
	void *served;

	assert_int_equal(pthread_create(&t, NULL, serve_one, l), 0);
	assert_int_equal(portal_connect(client, "svc", 1024, LONG, &c), 0);
	pthread_join(t, &served);
	assert_non_null(served);
	*ret_served = served;
	return c;
}

/* A service's name is free when its server is gone, and so is its number: a client can tell who answers. */
static void a_name_is_taken_over(void **state)
{
	portal_chan *old, *new, *old_served, *new_served;
	struct portal_who who, next;
	portal *server, *client;
	struct portal_object o;
	portal_listener *l;
	struct broker b;

	broker_start(&b, NULL);
	client = attach_small(&b, "client");
	server = attach_small(&b, "server");
	assert_int_equal(portal_listen(server, "svc", NULL, &l), 0);
	old = connect_to(client, l, &old_served);
	assert_int_equal(portal_chan_who(old, &who), 0);
	assert_int_equal(who.participant, number_of(server));
	assert_int_equal(who.kind, PORTAL_KIND_PROCESS);
	assert_int_equal(who.id, getpid());
	assert_string_equal(who.name, "server");
	assert_int_equal(portal_chan_who(old_served, &next), 0);
	assert_string_equal(next.name, "client");
	assert_int_equal(portal_open(client, "svc", &o), 0);
	assert_int_equal(o.owner_generation, who.generation);
	portal_chan_free(old_served);
	portal_listener_free(l);
	leave(&b, server);
	assert_int_equal(portal_chan_who(old, &next), -ENOENT);
	server = attach_small(&b, "impostor");
	assert_int_equal(number_of(server), who.participant);
	assert_int_equal(portal_listen(server, "svc", NULL, &l), 0);
	new = connect_to(client, l, &new_served);
	assert_int_equal(portal_chan_peer(new), portal_chan_peer(old));
	assert_int_equal(portal_chan_who(old, &next), -ENOENT);
	assert_int_equal(portal_who(client, o.owner, o.owner_generation, &next), -ENOENT);
	assert_int_equal(portal_chan_who(new, &next), 0);
	assert_string_equal(next.name, "impostor");
	assert_int_not_equal(next.generation, who.generation);
	portal_chan_free(old);
	portal_chan_free(new);
	portal_chan_free(new_served);
	portal_listener_free(l);
	portal_detach(server);
	portal_detach(client);
	broker_end(&b);
}

static void *serve_a_call(void *arg)
{
	struct portal_rpc_request q;

	return portal_rpc_next(arg, &q, LONG) == 0 ? arg : NULL;
}

static void who_answers_calls(void **state)
{
	portal *server, *client;
	portal_rpc_server *s;
	struct portal_who who;
	struct broker b;
	portal_rpc *r;
	pthread_t t;
	uint64_t id;
	void *ok;

	broker_start(&b, NULL);
	client = attach_small(&b, "client");
	server = attach_small(&b, "server");
	assert_int_equal(portal_rpc_serve(server, "svc", &s), 0);
	assert_int_equal(pthread_create(&t, NULL, serve_a_call, s), 0);
	assert_int_equal(portal_rpc_connect(client, "svc", LONG, &r), 0);
	assert_int_equal(portal_rpc_who(r, &who), 0);
	assert_int_equal(who.participant, number_of(server));
	assert_string_equal(who.name, "server");
	assert_int_equal(portal_rpc_start(r, 1, &(struct portal_bytes) { 0 }, LONG, &id), 0);
	pthread_join(t, &ok);
	assert_non_null(ok);
	portal_rpc_server_free(s);
	leave(&b, server);
	assert_int_equal(portal_rpc_who(r, &who), -ENOENT);
	portal_rpc_free(r);
	portal_detach(client);
	broker_end(&b);
}

/* The host, a machine, nobody. */
static void others_than_processes(void **state)
{
	const struct portal_host_member machine = {
		.size = sizeof(machine), .name = "debian", .kind = PORTAL_KIND_GUEST, .id = 7, .segments = 1
	};
	struct portal_who who;
	struct broker b;
	portal *p;
	unsigned i;

	broker_start(&b, NULL);
	p = attach_small(&b, "client");
	assert_int_equal(portal_who(p, 0, 0, &who), 0);
	assert_int_equal(who.kind, PORTAL_KIND_HOST);
	assert_int_equal(portal_host_add(b.h, &machine, &i), 0);
	assert_int_equal(portal_who(p, i, 0, &who), 0);
	assert_int_equal(who.kind, PORTAL_KIND_GUEST);
	assert_int_equal(who.id, 7);
	assert_string_equal(who.name, "debian");
	assert_int_equal(portal_who(p, i + 1, 0, &who), -ENOENT);
	assert_int_equal(portal_who(p, PORTAL_MAX_PARTICIPANTS, 0, &who), -EINVAL);
	portal_detach(p);
	broker_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rights_end_with_the_participant),
		cmocka_unit_test(exceptions_stay_with_the_number),
		cmocka_unit_test(dead_arenas_do_not_add_up),
		cmocka_unit_test(small_ones_are_read_for_long),
		cmocka_unit_test(as_many_dead_as_numbers),
		cmocka_unit_test(names_have_a_limit),
		cmocka_unit_test(a_name_is_taken_over),
		cmocka_unit_test(others_than_processes),
		cmocka_unit_test(who_answers_calls),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
