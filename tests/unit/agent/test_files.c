/* passwd, group, wsl.conf, and the files the agent writes into a distro. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/etc.h"
#include "agent/user.h"

static char dir[64];

static const char *in_dir(const char *name)
{
	static char path[2][128];
	static int i;

	i = !i;
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static void put(const char *name, const char *text)
{
	FILE *f = fopen(in_dir(name), "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int setup(void **state)
{
	strcpy(dir, "/tmp/wslx-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	put("passwd", "root:x:0:0:root:/root:/bin/bash\n"
		      "broken\n"
		      "bad:x:-1:0::/:/bin/sh\n"
		      "odd:x:4294967295:0::/:/bin/sh\n"
		      "relative:x:7:7::home:sh\n"
		      "noshell:x:8:8::/home/n:\n"
		      "12:x:1212:1212::/home/twelve:/bin/sh\n"
		      "tester:x:1000:1000:,,,:/home/tester:/bin/zsh\n"
		      "last:x:1001:1001::/home/last:/bin/sh");
	put("group", "root:x:0:\nsudo:x:27:a,tester\nno:x:28:testers\nown:x:1000:tester\nlast:x:29:tester");
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd);
}

static int find(const char *who, struct wslx_user *u)
{
	return wslx_user_find(who, in_dir("passwd"), in_dir("group"), u);
}

static void users(void **state)
{
	struct wslx_user u;

	assert_int_equal(find("tester", &u), 0);
	assert_int_equal(u.uid, 1000);
	assert_string_equal(u.home, "/home/tester");
	assert_string_equal(u.shell, "/bin/zsh");
	assert_int_equal(u.n_groups, 3);
	assert_int_equal(u.groups[0], 1000);
	assert_int_equal(u.groups[1], 27);
	assert_int_equal(u.groups[2], 29);
	assert_int_equal(find("1000", &u), 0);
	assert_string_equal(u.name, "tester");
	assert_int_equal(find("", &u), 0);
	assert_string_equal(u.shell, "/bin/bash");
	assert_int_equal(find("last", &u), 0);
	assert_string_equal(u.shell, "/bin/sh");
	assert_int_equal(find("relative", &u), 0);
	assert_string_equal(u.home, "/");
	assert_string_equal(u.shell, "/bin/sh");
	assert_int_equal(find("noshell", &u), 0);
	assert_string_equal(u.shell, "/bin/sh");
	/* A name of digits goes before a number; a number needs no entry. */
	assert_int_equal(find("12", &u), 0);
	assert_int_equal(u.uid, 1212);
	assert_int_equal(find("4711", &u), 0);
	assert_int_equal(u.uid, 4711);
	assert_int_equal(u.gid, 4711);
	assert_int_equal(find("bad", &u), -ENOENT);
	assert_int_equal(find("odd", &u), -ENOENT);
	assert_int_equal(find("4294967295", &u), -ENOENT);
	assert_int_equal(find("test", &u), -ENOENT);
}

static void users_without_files(void **state)
{
	struct wslx_user u;

	assert_int_equal(wslx_user_find("", in_dir("absent"), in_dir("absent"), &u), 0);
	assert_int_equal(u.uid, 0);
	assert_string_equal(u.home, "/root");
	assert_int_equal(wslx_user_find("x", in_dir("absent"), in_dir("absent"), &u), -ENOENT);
	/* What is no regular file is not read, and does not block. */
	assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
	assert_int_equal(wslx_user_find("x", in_dir("fifo"), in_dir("fifo"), &u), -ENOENT);
}

static struct wslx_wslconf conf(const char *text)
{
	struct wslx_wslconf c;

	wslx_wslconf_parse(text, strlen(text), &c);
	return c;
}

static void wslconf(void **state)
{
	struct wslx_wslconf c = conf("");

	assert_true(c.generate_hosts && c.generate_resolv_conf);
	assert_string_equal(c.user, "");
	c = conf("# comment\r\n[NetWork]\r\nGENERATEHOSTS = False # why\r\n hostname=\"my box\" \r\n"
		 "generateResolvConf=0\r\n[user]\r\ndefault=me\r\n");
	assert_false(c.generate_hosts);
	assert_false(c.generate_resolv_conf);
	assert_string_equal(c.hostname, "my box");
	assert_string_equal(c.user, "me");
	/* The first wins; an invalid one does not count. */
	c = conf("[user]\ndefault=one\ndefault=two\n[network]\ngenerateHosts=maybe\ngenerateHosts=false\n");
	assert_string_equal(c.user, "one");
	assert_false(c.generate_hosts);
	/* The section counts. */
	c = conf("default=a\n[network]\ndefault=b\n[user\ndefault=c\n[users]\ndefault=d\n");
	assert_string_equal(c.user, "");
	/* Escapes and continued lines. */
	c = conf("[user]\ndefault=a\\tb\\\\c\\\nd\n");
	assert_string_equal(c.user, "a\tb\\cd");
	c = conf("[user]\ndefault=\"a#b\" # c\n");
	assert_string_equal(c.user, "a#b");
	c = conf("[user]\ndefault=\"  a  \"  \n");
	assert_string_equal(c.user, "  a  ");
	/* Malformed values are skipped with their line. */
	c = conf("[user]\ndefault=\"open\ndefault=ok\n");
	assert_string_equal(c.user, "ok");
	c = conf("[user]\ndefault=\\q\ndefault=ok");
	assert_string_equal(c.user, "ok");
	c = conf("[user]\ndefault=\\");
	assert_string_equal(c.user, "");
}

static void replaced_files(void **state)
{
	char text[64];
	struct stat a, b;
	FILE *f;

	put("target", "precious");
	assert_int_equal(symlink(in_dir("target"), in_dir("hosts")), 0);
	/* A link is replaced, not followed. */
	assert_int_equal(etc_replace_file(in_dir("hosts"), "new"), 0);
	f = fopen(in_dir("target"), "r");
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	assert_string_equal(text, "precious");
	assert_int_equal(lstat(in_dir("hosts"), &a), 0);
	assert_true(S_ISREG(a.st_mode));
	assert_int_equal(a.st_mode & 07777, 0644);
	/* Equal content: not touched. */
	assert_int_equal(etc_replace_file(in_dir("hosts"), "new"), 0);
	assert_int_equal(lstat(in_dir("hosts"), &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(etc_replace_link(in_dir("hosts"), "/mnt/wsl/resolv.conf"), 0);
	assert_int_equal(lstat(in_dir("hosts"), &a), 0);
	assert_true(S_ISLNK(a.st_mode));
	assert_int_equal(etc_replace_link(in_dir("hosts"), "/mnt/wsl/resolv.conf"), 0);
	assert_int_equal(lstat(in_dir("hosts"), &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	/* A trap laid under the temporary name. */
	assert_int_equal(symlink(in_dir("target"), in_dir(".hosts.wslx")), 0);
	assert_int_equal(etc_replace_file(in_dir("hosts"), "newer"), 0);
	f = fopen(in_dir("target"), "r");
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	assert_string_equal(text, "precious");
	assert_true(etc_replace_file(in_dir("no/such"), "x") < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(users),
		cmocka_unit_test(users_without_files),
		cmocka_unit_test(wslconf),
		cmocka_unit_test(replaced_files),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
