/*
 * Power loss.  What the writer did is recorded, then replayed on a model of a
 * file system up to each point, with every subset of the operations that no
 * sync had made stable left out.  The name must lead to the whole old contents
 * or to the whole new ones, and to the new ones once the writer has returned.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "os/linux/paths.h"
#include "os/linux/statefile.h"

#define OPS_MAX 16
#define FILES_MAX 8

struct op {
	enum wslx_statefile_op_kind kind;
	char name[64], to_name[64];
	char data[256];
};

struct recording {
	struct op ops[OPS_MAX];
	size_t n;
};

static void record(void *opaque, const struct wslx_statefile_op *op)
{
	struct recording *rec = opaque;
	struct op *o = &rec->ops[rec->n++];

	assert_true(rec->n <= OPS_MAX);
	o->kind = op->kind;
	snprintf(o->name, sizeof(o->name), "%s", op->name ? op->name : "");
	snprintf(o->to_name, sizeof(o->to_name), "%s", op->to_name ? op->to_name : "");
	assert_true(op->len < sizeof(o->data));
	if (op->data)
		memcpy(o->data, op->data, op->len);
}

/* ---- The model: names lead to files, files have contents ---- */

struct model {
	struct {
		char name[64];
		int file; /* index, -1 = unused */
	} entries[FILES_MAX];
	char contents[FILES_MAX][256];
	int n_files;
};

static int *entry(struct model *m, const char *name, bool make)
{
	for (int i = 0; i < FILES_MAX; i++)
		if (m->entries[i].file >= 0 && !strcmp(m->entries[i].name, name))
			return &m->entries[i].file;
	for (int i = 0; make && i < FILES_MAX; i++)
		if (m->entries[i].file < 0) {
			snprintf(m->entries[i].name, sizeof(m->entries[i].name), "%s", name);
			return &m->entries[i].file;
		}
	return NULL;
}

static void model_init(struct model *m, const char *name, const char *contents)
{
	memset(m, 0, sizeof(*m));
	for (int i = 0; i < FILES_MAX; i++)
		m->entries[i].file = -1;
	if (contents) {
		*entry(m, name, true) = m->n_files;
		snprintf(m->contents[m->n_files++], sizeof(m->contents[0]), "%s", contents);
	}
}

/* inode: which file a temporary name's data goes to, even if the entry itself
 * was lost. */
static void apply(struct model *m, const struct op *o, int *inode, bool entry_lost)
{
	int *e, *to;

	switch (o->kind) {
	case WSLX_STATEFILE_CREATE:
		*inode = m->n_files++;
		if (!entry_lost)
			*entry(m, o->name, true) = *inode;
		break;
	case WSLX_STATEFILE_WRITE:
		strcat(m->contents[*inode], o->data);
		break;
	case WSLX_STATEFILE_RENAME:
		e = entry(m, o->name, false);
		to = entry(m, o->to_name, true);
		/* A journal keeps a rename whole: it brings the entry with it. */
		*to = e ? *e : *inode;
		e = entry(m, o->name, false);
		if (e)
			*e = -1;
		break;
	case WSLX_STATEFILE_UNLINK:
		e = entry(m, o->name, false);
		if (e)
			*e = -1;
		break;
	case WSLX_STATEFILE_SYNC:
	case WSLX_STATEFILE_SYNC_DIR:
		break;
	}
}

/* Is operation i made stable by a sync before `end`? */
static bool stable(const struct recording *rec, size_t i, size_t end)
{
	bool data = rec->ops[i].kind == WSLX_STATEFILE_WRITE;

	for (size_t k = i + 1; k < end; k++) {
		if (data && rec->ops[k].kind == WSLX_STATEFILE_SYNC && !strcmp(rec->ops[k].name, rec->ops[i].name))
			return true;
		if (!data && rec->ops[k].kind == WSLX_STATEFILE_SYNC_DIR)
			return true;
	}
	return false;
}

/* Every subset of what was not stable when the power went at `end`. */
static void crash_at(const struct recording *rec, size_t end, const char *name, const char *before, const char *after)
{
	size_t loose[OPS_MAX], n = 0;

	for (size_t i = 0; i < end; i++)
		if (rec->ops[i].kind != WSLX_STATEFILE_SYNC && rec->ops[i].kind != WSLX_STATEFILE_SYNC_DIR &&
		    !stable(rec, i, end))
			loose[n++] = i;
	for (unsigned lost = 0; lost < 1u << n; lost++) {
		struct model m;
		int inode = -1;
		const char *got;
		int *e;

		model_init(&m, name, before);
		for (size_t i = 0; i < end; i++) {
			bool gone = false;

			for (size_t k = 0; k < n; k++)
				gone |= loose[k] == i && (lost & 1u << k);
			if (!gone || rec->ops[i].kind == WSLX_STATEFILE_CREATE)
				apply(&m, &rec->ops[i], &inode, gone);
		}
		e = entry(&m, name, false);
		got = e ? m.contents[*e] : NULL;
		if (end == rec->n)
			assert_string_equal(got ? got : "(nothing)", after);
		else if (got)
			assert_true(!strcmp(got, after) || (before && !strcmp(got, before)));
		else
			assert_null(before);
	}
}

static int setup(void **state)
{
	char *dir = strdup("/tmp/wslx-state-XXXXXX");

	if (!mkdtemp(dir))
		return -1;
	*state = dir;
	return 0;
}

static int teardown(void **state)
{
	wslx_remove_tree(AT_FDCWD, *state);
	free(*state);
	return 0;
}

static void check_write(int dir, const char *before, const char *after)
{
	struct recording rec = { 0 };
	const struct wslx_statefile_recorder r = { record, &rec };
	cleanup_free char *text = NULL;
	size_t len;

	assert_int_equal(wslx_statefile_write(dir, "config.json", after, strlen(after), &r), 0);
	assert_int_equal(wslx_read_file(dir, "config.json", 1000, &text, &len), 0);
	assert_string_equal(text, after);
	for (size_t end = 0; end <= rec.n; end++)
		crash_at(&rec, end, "config.json", before, after);
}

static void test_write_survives_power_loss(void **state)
{
	cleanup_close int dir = open(*state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	check_write(dir, NULL, "first contents");
	check_write(dir, "first contents", "second, longer contents");
	check_write(dir, "second, longer contents", "");
}

/* The checker itself must notice a writer that skips a sync. */
static bool crash_is_noticed(const struct recording *rec)
{
	for (size_t end = 0; end <= rec->n; end++) {
		for (size_t i = 0; i < end; i++)
			if (rec->ops[i].kind == WSLX_STATEFILE_WRITE && !stable(rec, i, end)) {
				for (size_t k = i + 1; k < end; k++)
					if (rec->ops[k].kind == WSLX_STATEFILE_RENAME)
						return true; /* named before its data is safe */
			}
	}
	return false;
}

static void test_order_of_operations(void **state)
{
	cleanup_close int dir = open(*state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct recording rec = { 0 }, bad = { 0 };
	const struct wslx_statefile_recorder r = { record, &rec };
	static const enum wslx_statefile_op_kind want[] = { WSLX_STATEFILE_CREATE, WSLX_STATEFILE_WRITE,
							    WSLX_STATEFILE_SYNC, WSLX_STATEFILE_RENAME,
							    WSLX_STATEFILE_SYNC_DIR };

	assert_int_equal(wslx_statefile_write(dir, "x", "abc", 3, &r), 0);
	assert_int_equal(rec.n, ARRAY_SIZE(want));
	for (size_t i = 0; i < rec.n; i++)
		assert_int_equal(rec.ops[i].kind, want[i]);
	assert_false(crash_is_noticed(&rec));
	/* The same without the sync of the data. */
	for (size_t i = 0; i < rec.n; i++)
		if (rec.ops[i].kind != WSLX_STATEFILE_SYNC)
			bad.ops[bad.n++] = rec.ops[i];
	assert_true(crash_is_noticed(&bad));
}

static void test_publish_and_withdraw(void **state)
{
	cleanup_close int dir = open(*state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct recording rec = { 0 };
	const struct wslx_statefile_recorder r = { record, &rec };
	char temp[32];

	assert_int_equal(mkdirat(dir, "built", 0700), 0);
	assert_int_equal(wslx_statefile_publish(dir, "built", "name", &r), 0);
	assert_int_equal(rec.n, 2);
	assert_int_equal(rec.ops[0].kind, WSLX_STATEFILE_RENAME);
	assert_int_equal(rec.ops[1].kind, WSLX_STATEFILE_SYNC_DIR);
	/* A taken name stays what it is. */
	assert_int_equal(mkdirat(dir, "other", 0700), 0);
	assert_int_equal(wslx_statefile_publish(dir, "other", "name", NULL), -EEXIST);
	assert_int_equal(wslx_statefile_withdraw(dir, "name", temp, sizeof(temp), &r), 0);
	assert_int_equal(faccessat(dir, "name", F_OK, 0), -1);
	assert_int_equal(faccessat(dir, temp, F_OK, 0), 0);
	assert_memory_equal(temp, WSLX_STATEFILE_TEMP, strlen(WSLX_STATEFILE_TEMP));
	assert_int_equal(wslx_statefile_withdraw(dir, "name", temp, sizeof(temp), &r), -ENOENT);
}

static void test_failure_leaves_nothing(void **state)
{
	cleanup_close int dir = open(*state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct recording rec = { 0 };
	const struct wslx_statefile_recorder r = { record, &rec };

	/* A folder cannot be replaced by a file. */
	assert_int_equal(mkdirat(dir, "folder", 0700), 0);
	assert_int_equal(wslx_statefile_write(dir, "folder", "abc", 3, &r), -EISDIR);
	assert_int_equal(rec.ops[rec.n - 1].kind, WSLX_STATEFILE_UNLINK);
	assert_int_equal(faccessat(dir, rec.ops[rec.n - 1].name, F_OK, 0), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_write_survives_power_loss, setup, teardown),
		cmocka_unit_test_setup_teardown(test_order_of_operations, setup, teardown),
		cmocka_unit_test_setup_teardown(test_publish_and_withdraw, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failure_leaves_nothing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
