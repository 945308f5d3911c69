/* ACLs that are refused before libarchive reads them, and which of several counts. */
#include "support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/bytes.h"
#include "base/macros.h"

#define MANY 54000

/* KEY=three entries, and n users more; text is freed by the caller. */
static char *acl_record(const char *key, unsigned n)
{
	char *text = malloc(200 + (size_t)n * 16), *p = text;

	assert_non_null(text);
	p += sprintf(p, "%suser::rw-,group::r--,other::---,mask::r--", key);
	for (unsigned i = 0; i < n; i++)
		p += sprintf(p, ",user:%u:r--", i);
	return text;
}

static void etc(struct raw *r)
{
	raw_header(r, "etc", '5', 0, NULL);
}

/* What is refused is so at once: libarchive would take a quarter of a minute. */
static void refused(struct raw *r, int code, const char *text)
{
	struct timespec a, b;
	struct image im;

	raw_end(r);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	image_import(&im, raw_fd(r));
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	image_assert_fails(&im, code, text);
	assert_true(b.tv_sec - a.tv_sec <= 2);
	image_free(&im);
}

static void test_many_entries(void **state)
{
	static const char *const keys[] = { "SCHILY.acl.access=", "SCHILY.acl.default=", "SCHILY.acl.ace=" };
	struct raw r = { 0 };
	char *text;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		text = acl_record(keys[i], MANY);
		etc(&r);
		raw_pax(&r, text);
		raw_header(&r, "etc/x", '5', 0, NULL);
		refused(&r, E2BIG, "the entry after 'etc': its ACL has more than 256 entries");
		free(text);
	}
	/* The first one; behind other headers; of Sun's two kinds. */
	text = acl_record("SCHILY.acl.access=", MANY);
	raw_pax(&r, text);
	raw_header(&r, "etc", '5', 0, NULL);
	refused(&r, E2BIG, "the first entry: its ACL has more than 256 entries");
	etc(&r);
	raw_header(&r, "g", 'g', 13, NULL);
	raw_bytes(&r, "13 comment=x\n", 13);
	raw_header(&r, "label", 'V', 0, NULL);
	raw_header(&r, "L", 'L', 600, NULL);
	raw_bytes(&r, text, 600);
	raw_pax(&r, "comment=y");
	raw_pax(&r, text);
	raw_header(&r, "etc/x", '5', 0, NULL);
	refused(&r, E2BIG, "the entry after 'etc'");
	free(text);
	text = acl_record("1000000", MANY);
	text[7] = '\0'; /* for its "u": a NUL ends the number */
	etc(&r);
	raw_header(&r, "A", 'A', 10 + strlen(text + 8), NULL);
	raw_bytes(&r, text, 10 + strlen(text + 8));
	raw_header(&r, "etc/x", '5', 0, NULL);
	refused(&r, E2BIG, "the entry after 'etc'");
	free(text);
}

/* Many short ones in one header add up in libarchive. */
static void test_many_records(void **state)
{
	char *text = acl_record("SCHILY.acl.access=", 250), *all = malloc((size_t)1 << 20);
	struct raw r = { 0 };
	size_t n = 0;

	while (n + strlen(text) + 8 < ((size_t)1 << 20))
		n += (size_t)sprintf(all + n, "%zu %s\n", strlen(text) + 6, text);
	etc(&r);
	raw_header(&r, "PaxHeader", 'x', n, NULL);
	raw_bytes(&r, all, n);
	raw_header(&r, "etc/x", '5', 0, NULL);
	refused(&r, E2BIG, "the entry after 'etc': its ACL has more than 256 entries");
	free(text);
	free(all);
}

/* Wherever the header lies in the blocks that are read, and whatever libarchive
 * looked at before: a hard link makes it look at the header that follows. */
static void test_places(void **state)
{
	static const size_t blocks[] = { 256 << 10, 1 << 20 };
	char *text = acl_record("SCHILY.acl.access=", 5000), *zero = calloc(1, 2 << 20);
	struct raw r = { 0 };

	for (size_t b = 0; b < ARRAY_SIZE(blocks); b++)
		for (size_t back = 0; back <= 8 * 512; back += 512)
			for (int link = 0; link < 2; link++) {
				size_t size = blocks[b] - 2 * 512 - back;

				etc(&r);
				raw_header(&r, "etc/file", '0', size, NULL);
				raw_bytes(&r, zero, size);
				if (link)
					raw_header(&r, "etc/link", '1', 0, "etc/file");
				raw_pax(&r, text);
				raw_header(&r, "etc/x", '5', 0, NULL);
				refused(&r, E2BIG, link ? "the entry after 'etc/link'" : "the entry after 'etc/file'");
			}
	free(text);
	free(zero);
}

static void test_dropped(void **state)
{
	struct raw r = { 0 };
	char *text = acl_record("SCHILY.acl.access=", 1), *longer = malloc(1 << 20);

	/* libarchive leaves out what is longer, and all that follows it. */
	strcpy(longer, "comment=");
	memset(longer + 8, 'x', 999980);
	strcpy(longer + 999988, text);
	etc(&r);
	raw_pax(&r, longer);
	raw_header(&r, "etc/x", '5', 0, NULL);
	refused(&r, E2BIG, "the entry after 'etc': an attribute in its header is longer than 999999 bytes");
	free(longer);
	free(text);

	static const char *const bad[] = { "17 comment=short\n99 x=y\n", "no length\n", "9 comment\n", "6 =abc\n",
					   "12 comment=xy" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		etc(&r);
		raw_header(&r, "PaxHeader", 'x', strlen(bad[i]), NULL);
		raw_bytes(&r, bad[i], strlen(bad[i]));
		raw_header(&r, "etc/x", '5', 0, NULL);
		refused(&r, EBADMSG, "the entry after 'etc': an attribute in its header is malformed");
	}
	/* One entry that cannot be read, and a name that libarchive warns of. */
	etc(&r);
	raw_pax(&r, "SCHILY.acl.access=user::rw-,user:7:r--,who:8:r--,group::r--,mask::r--,other::---");
	raw_header(&r, "etc/\xc3\xa4", '0', 0, NULL);
	refused(&r, EINVAL, "its ACL is malformed: it has entries that cannot be read");
	etc(&r);
	raw_pax(&r, "SCHILY.acl.default=user::rw-,user:7:r-q,group::r--,mask::r--,other::---");
	raw_header(&r, "etc/x", '5', 0, NULL);
	refused(&r, EINVAL, "entry 'etc/x': its ACL is malformed: it has entries that cannot be read");
}

static bool has(struct image *im, const char *path, const char *name)
{
	uint8_t buf[4096];

	return image_xattr(im, path, name, buf, sizeof(buf)) > 0;
}

#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"

/* A folder that comes again is as its last entry says. */
static void test_last_entry_wins(void **state)
{
	static const char access[] = "SCHILY.acl.access=user::rwx,user:5:rwx,group::r-x,mask::rwx,other::---";
	static const char def[] = "SCHILY.acl.default=user::rwx,group::r-x,other::---";
	uint8_t buf[256];
	struct raw r = { 0 };
	struct image im;

	etc(&r);
	for (unsigned i = 0; i < 3; i++) {
		static const char *const names[] = { "etc/none", "etc/access", "etc/default" };

		raw_pax(&r, access);
		raw_header(&r, names[i], '5', 0, NULL);
		raw_pax(&r, def);
		raw_header(&r, names[i], '5', 0, NULL);
		if (i == 1)
			raw_pax(&r, "SCHILY.acl.access=user::rwx,user:6:r--,group::r-x,mask::r--,other::---");
		if (i < 2)
			raw_header(&r, names[i], '5', 0, NULL);
	}
	/* Trivial ones, and a comment, are none. */
	raw_pax(&r, "SCHILY.acl.access=user::rwx,group::r-x,other::r-x,# no more");
	raw_header(&r, "etc/trivial", '5', 0, NULL);
	raw_end(&r);
	image_import(&im, raw_fd(&r));
	image_check(&im);
	assert_false(has(&im, "/etc/none", ACCESS) || has(&im, "/etc/none", DEFAULT));
	assert_false(has(&im, "/etc/access", DEFAULT) || has(&im, "/etc/default", ACCESS));
	assert_true(has(&im, "/etc/default", DEFAULT));
	assert_false(has(&im, "/etc/trivial", ACCESS));
	assert_int_equal(image_xattr(&im, "/etc/access", ACCESS, buf, sizeof(buf)), 4 + 5 * 8);
	assert_int_equal(wslx_get_le32(buf + 4 + 8 + 4), 6);
	image_free(&im);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_many_entries),    cmocka_unit_test(test_many_records),
		cmocka_unit_test(test_places),          cmocka_unit_test(test_dropped),
		cmocka_unit_test(test_last_entry_wins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
