/* ACPI tables: links and checksums, and what iasl (where installed) says of the DSDT. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "boot/internal.h"
#include "os/linux/fd.h"

#define CPUS 5u

extern char **environ;

static struct wslx_gm *gm;
static uint64_t rsdp;

static int setup(void **state)
{
	return wslx_gm_new(WSLX_GM_PRIVATE, 2 * WSLX_MIB, &gm) < 0 || wslx_acpi_write(gm, CPUS, &rsdp) < 0;
}

static int teardown(void **state)
{
	wslx_gm_free(gm);
	return 0;
}

static uint8_t *at(uint64_t gpa, uint64_t len)
{
	void *p;

	assert_true(gpa >= 0xe0000 && gpa + len <= 0x100000);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(gpa), len, &p), 0);
	return p;
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	while (n--)
		s = (uint8_t)(s + *p++);
	return s;
}

/* A table whose header and checksum are right. */
static uint8_t *table_at(uint64_t gpa, const char *signature)
{
	uint8_t *t = at(gpa, 36);
	uint32_t len = wslx_get_le32(t + 4);

	assert_int_equal(gpa % 16, 0);
	assert_memory_equal(t, signature, 4);
	assert_int_equal(sum(at(gpa, len), len), 0);
	return t;
}

static uint8_t *find(const char *signature)
{
	uint8_t *x = table_at(wslx_get_le64(at(rsdp, 36) + 24), "XSDT");
	size_t n = (wslx_get_le32(x + 4) - 36) / 8;

	for (size_t i = 0; i < n; i++) {
		uint64_t gpa = wslx_get_le64(x + 36 + 8 * i);

		if (!memcmp(at(gpa, 4), signature, 4))
			return table_at(gpa, signature);
	}
	fail_msg("no %s", signature);
	return NULL;
}

static void test_rsdp(void **state)
{
	const uint8_t *r = at(rsdp, 36);

	assert_memory_equal(r, "RSD PTR ", 8);
	assert_int_equal(sum(r, 20), 0);
	assert_int_equal(sum(r, 36), 0);
	assert_int_equal(r[15], 2);
}

static void test_fadt(void **state)
{
	const uint8_t *f = find("FACP");

	table_at(wslx_get_le64(f + 140), "DSDT");
	assert_int_equal(wslx_get_le32(f + 112) >> 20 & 1, 1);
	assert_int_equal(wslx_get_le64(f + 120), 0x602);
	assert_int_equal(wslx_get_le64(f + 248), 0x600);
	assert_int_equal(wslx_get_le64(f + 260), 0x601);
}

static void test_madt(void **state)
{
	const uint8_t *m = find("APIC");
	uint32_t len = wslx_get_le32(m + 4), at = 44, lapics = 0, ioapics = 0;

	while (at < len) {
		assert_true(m[at + 1] >= 2);
		if (m[at] == 0)
			assert_int_equal(m[at + 3], lapics++);
		if (m[at] == 1)
			ioapics++;
		at += m[at + 1];
	}
	assert_int_equal(at, len);
	assert_int_equal(lapics, CPUS);
	assert_int_equal(ioapics, 1);
}

static void test_mcfg(void **state)
{
	const uint8_t *m = find("MCFG");

	assert_int_equal(wslx_get_le64(m + 44), 0xe0000000);
	assert_int_equal(m[55], 15);
}

static void test_cpu_counts(void **state)
{
	struct wslx_gm *other;
	uint64_t r;

	assert_int_equal(wslx_gm_new(WSLX_GM_PRIVATE, 2 * WSLX_MIB, &other), 0);
	assert_int_equal(wslx_acpi_write(other, 254, &r), 0);
	assert_int_equal(wslx_acpi_write(other, 20000, &r), -ENOSPC);
	wslx_gm_free(other);
}

/* Runs iasl in dir; 127 when there is none. */
static int iasl(const char *dir, const char *option, const char *file)
{
	char *argv[] = { "iasl", (char *)(uintptr_t)option, (char *)(uintptr_t)file, NULL };
	posix_spawn_file_actions_t fa;
	int r, status;
	pid_t pid;

	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addchdir_np(&fa, dir);
	posix_spawn_file_actions_addopen(&fa, 1, "out", O_WRONLY | O_CREAT | O_APPEND, 0600);
	posix_spawn_file_actions_adddup2(&fa, 1, 2);
	r = posix_spawnp(&pid, "iasl", &fa, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	if (r)
		return 127;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static void write_table(const char *dir, const uint8_t *t)
{
	cleanup_free char *path = NULL;
	cleanup_close int fd = -1;

	assert_true(asprintf(&path, "%s/t.aml", dir) > 0);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(wslx_write_full(fd, t, wslx_get_le32(t + 4)), 0);
}

static char *disassemble(const char *dir, const uint8_t *t)
{
	cleanup_free char *path = NULL;
	char *text;
	size_t len;

	write_table(dir, t);
	if (iasl(dir, "-d", "t.aml"))
		return NULL;
	assert_true(asprintf(&path, "%s/t.dsl", dir) > 0);
	assert_int_equal(wslx_read_file(AT_FDCWD, path, WSLX_MIB, &text, &len), 0);
	return text;
}

static void remove_dir(const char *dir)
{
	static const char *const files[] = { "t.aml", "t.dsl", "out" };

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		cleanup_free char *path = NULL;

		assert_true(asprintf(&path, "%s/%s", dir, files[i]) > 0);
		unlink(path);
	}
	rmdir(dir);
}

static void test_dsdt(void **state)
{
	static const char *const words[] = {
		"PNP0A08",
		"PNP0C02",
		"PNP0501",
		"PNP0B00",
		"_OSC",
		"0xE0000000",
		"0x01000000",
		"0x0000004000000000",
		"0x0000007FFFFFFFFF",
		"0xDFFFFFFF",
		"_S5",
		"0x03F8",
		"Interrupt",
		"0x00000004",
	};
	const uint8_t *dsdt = table_at(wslx_get_le64(find("FACP") + 140), "DSDT");
	char dir[] = "/tmp/wslx-acpi-XXXXXX";
	cleanup_free char *text = NULL;

	assert_non_null(mkdtemp(dir));
	text = disassemble(dir, dsdt);
	if (text) {
		for (size_t i = 0; i < ARRAY_SIZE(words); i++)
			if (!strstr(text, words[i]))
				fail_msg("the DSDT has no %s", words[i]);
		/* What iasl makes of it compiles again, without an error. */
		assert_int_equal(iasl(dir, "-we", "t.dsl"), 0);
	}
	remove_dir(dir);
}

static void test_tables_disassemble(void **state)
{
	static const char *const names[] = { "FACP", "APIC", "MCFG" };
	char dir[] = "/tmp/wslx-acpi-XXXXXX";

	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		cleanup_free char *text = disassemble(dir, find(names[i]));

		if (text) {
			assert_null(strstr(text, "Invalid"));
			assert_null(strstr(text, "Unknown"));
			assert_null(strstr(text, "ERROR"));
		}
	}
	remove_dir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rsdp),
		cmocka_unit_test(test_fadt),
		cmocka_unit_test(test_madt),
		cmocka_unit_test(test_mcfg),
		cmocka_unit_test(test_cpu_counts),
		cmocka_unit_test(test_dsdt),
		cmocka_unit_test(test_tables_disassemble),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
