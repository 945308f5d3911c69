/* What the agent grants to distros: processes, and the kernel's searches for modules. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/machine.h"
#include "agent/modprobe_gate.h"

#define NOW UINT64_C(5000000000)

/* Always less than the kernel's limit, by enough for the agent; never none. */
static void test_pids(void **state)
{
	struct pids_limits l;

	for (uint64_t total = 64; total < 5000000; total += 1 + total / 7) {
		pids_divide(total, 5000000, &l);
		assert_true(l.each >= 8 && l.each < l.all && l.all < total);
		if (total >= 1024)
			assert_true(total - l.all >= 128 && l.all - l.each >= 16 && l.each > total / 2);
	}
	pids_divide(32768, 3900, &l);
	assert_int_equal(l.all, 3900 - 487);
	assert_int_equal(l.each, 3413 - 213);
	pids_divide(32768, 1 << 20, &l);
	assert_int_equal(l.all, 32768 - 1024);
	assert_int_equal(l.each, 32768 - 1024 - 256);
}

static enum modprobe_answer ask(struct modprobe_gate *g, const char *name, uint64_t now)
{
	uint64_t wait;
	enum modprobe_answer a = modprobe_gate_ask(g, name, now, &wait);

	assert_true(wait <= GATE_WAIT_MAX_NS && (a == MODPROBE_SEARCH || !wait));
	return a;
}

/* A second search for what is not there costs nothing, at any time. */
static void test_misses(void **state)
{
	struct modprobe_gate *g = calloc(1, sizeof(*g));

	assert_int_equal(ask(g, "net-pf-44", NOW), MODPROBE_SEARCH);
	modprobe_gate_end(g, "net-pf-44", MODPROBE_NOT_FOUND);
	for (unsigned i = 0; i < 10000; i++)
		assert_int_equal(ask(g, "net-pf-44", NOW), MODPROBE_MISS);
	assert_int_equal(ask(g, "net-pf-4", NOW), MODPROBE_SEARCH);
	assert_int_equal(ask(g, "net-pf-444", NOW), MODPROBE_SEARCH);
	/* Only what is not there is remembered. */
	modprobe_gate_end(g, "net-pf-4", MODPROBE_NOTHING_NEW);
	assert_int_equal(ask(g, "net-pf-4", NOW), MODPROBE_SEARCH);
	free(g);
}

/* Names that differ in their last character, as long as the kernel's can be, are two. */
static void test_whole_names(void **state)
{
	struct modprobe_gate *g = calloc(1, sizeof(*g));
	char a[GATE_NAME_SIZE + 1], b[GATE_NAME_SIZE + 1];

	memset(a, 'x', sizeof(a));
	a[55] = 0;
	strcpy(b, a);
	b[54] = 'y';
	modprobe_gate_end(g, a, MODPROBE_NOT_FOUND);
	assert_int_equal(ask(g, a, NOW), MODPROBE_MISS);
	assert_int_equal(ask(g, b, NOW), MODPROBE_SEARCH);
	/* What would have to be cut is not searched for, and not kept. */
	memset(a, 'x', sizeof(a));
	a[GATE_NAME_SIZE] = 0;
	assert_int_equal(ask(g, a, NOW), MODPROBE_REFUSED);
	modprobe_gate_end(g, a, MODPROBE_NOT_FOUND);
	a[GATE_NAME_SIZE - 1] = 0;
	assert_int_equal(ask(g, a, NOW), MODPROBE_SEARCH);
	assert_int_equal(ask(g, "", NOW), MODPROBE_REFUSED);
	free(g);
}

static void test_bounded(void **state)
{
	struct modprobe_gate *g = calloc(1, sizeof(*g));
	char name[32];

	g->next = UINT32_MAX; /* a file that somebody spoiled */
	for (unsigned i = 0; i < 10 * GATE_NAMES; i++) {
		snprintf(name, sizeof(name), "fs-%u", i);
		modprobe_gate_end(g, name, MODPROBE_NOT_FOUND);
	}
	assert_int_equal(ask(g, "fs-1", NOW), MODPROBE_SEARCH);
	for (unsigned i = 9 * GATE_NAMES; i < 10 * GATE_NAMES; i++) {
		snprintf(name, sizeof(name), "fs-%u", i);
		assert_int_equal(ask(g, name, NOW), MODPROBE_MISS);
	}
	free(g);
}

/* Endless different names: a burst, then each waits its turn, then no more. */
static void test_rate(void **state)
{
	struct modprobe_gate *g = calloc(1, sizeof(*g));
	unsigned at_once = 0, later = 0;
	uint64_t wait;
	char name[32];

	for (unsigned i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "fs-%u", i);
		if (modprobe_gate_ask(g, name, NOW, &wait) != MODPROBE_SEARCH)
			break;
		*(wait ? &later : &at_once) += 1;
		assert_true(wait == later * GATE_PERIOD_NS);
	}
	assert_int_equal(at_once, GATE_BURST);
	assert_int_equal(later, GATE_WAIT_MAX_NS / GATE_PERIOD_NS);
	assert_int_equal(ask(g, "more", NOW), MODPROBE_REFUSED);
	/* Time brings one back; so does a module that was loaded. */
	assert_int_equal(ask(g, "more", NOW + GATE_PERIOD_NS), MODPROBE_SEARCH);
	assert_int_equal(ask(g, "more", NOW + GATE_PERIOD_NS), MODPROBE_REFUSED);
	modprobe_gate_end(g, "ext4", MODPROBE_LOADED);
	assert_int_equal(ask(g, "more", NOW + GATE_PERIOD_NS), MODPROBE_SEARCH);
	assert_int_equal(modprobe_gate_ask(g, "more", NOW + 1000 * GATE_PERIOD_NS, &wait), MODPROBE_SEARCH);
	assert_int_equal(wait, 0);
	free(g);
}

static void test_file(void **state)
{
	char dir[] = "/tmp/wslx-gate-XXXXXX", path[64];
	struct modprobe_gate *g = calloc(1, sizeof(*g));
	int fd;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state", dir);
	fd = modprobe_gate_open(path, g);
	assert_true(fd >= 0);
	modprobe_gate_end(g, "gone", MODPROBE_NOT_FOUND);
	modprobe_gate_close(fd, g);
	memset(g, 0xff, sizeof(*g));
	fd = modprobe_gate_open(path, g);
	assert_true(fd >= 0);
	assert_int_equal(ask(g, "gone", NOW), MODPROBE_MISS);
	modprobe_gate_close(fd, g);
	assert_int_equal(truncate(path, 100), 0);
	fd = modprobe_gate_open(path, g);
	assert_true(fd >= 0);
	assert_int_equal(ask(g, "gone", NOW), MODPROBE_SEARCH);
	modprobe_gate_close(fd, g);
	unlink(path);
	/* No link is followed. */
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_int_equal(modprobe_gate_open(path, g), -ELOOP);
	unlink(path);
	rmdir(dir);
	free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pids),    cmocka_unit_test(test_misses), cmocka_unit_test(test_whole_names),
		cmocka_unit_test(test_bounded), cmocka_unit_test(test_rate),   cmocka_unit_test(test_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
