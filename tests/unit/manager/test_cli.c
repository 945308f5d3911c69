/* The command line's table, its parser, and what becomes of words and variables. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "cli/launch.h"

#define WORDS(...) ((const char *const[]) { __VA_ARGS__, NULL })

static int count(const char *const *words)
{
	int n = 0;

	while (words[n])
		n++;
	return n;
}

static int parse(const char *verb, const char *const *words, struct cli_opts *o, struct wslx_err *err)
{
	return cli_parse(verb ? cli_find_verb(verb) : &cli_exec_verb, count(words), words, o, err);
}

static void test_table_is_sound(void **state)
{
	for (size_t i = 0; i < cli_n_verbs; i++) {
		const struct cli_verb *v = &cli_verbs[i];

		assert_ptr_equal(cli_find_verb(v->name), v);
		assert_true(v->run && v->summary && v->args);
		assert_true(v->min_pos <= v->max_pos && v->max_pos <= CLI_POS_MAX);
		for (size_t k = 0; k < v->n_opts; k++)
			for (size_t j = 0; j < k; j++) {
				assert_string_not_equal(v->opts[k].name, v->opts[j].name);
				assert_true(!v->opts[k].letter || v->opts[k].letter != v->opts[j].letter);
			}
	}
	assert_string_equal(cli_find_verb("--list")->name, "list");
	assert_string_equal(cli_find_verb("-l")->name, "list");
	assert_string_equal(cli_find_verb("-t")->name, "terminate");
	assert_string_equal(cli_find_verb("-s")->name, "set-default");
	assert_null(cli_find_verb("-d"));
	assert_null(cli_find_verb("nosuch"));
}

/* A distribution may be called as a verb is: verbs are looked for where no
 * name can stand, and names where no verb can. */
static void test_names_of_verbs(void **state)
{
	static const char *const takers[] = { "run",         "export", "terminate", "unregister", "set-default", "logs",
					      "set-version", "manage", "config",    "stats",      "import" };
	struct cli_opts o;

	for (size_t i = 0; i < cli_n_verbs; i++) {
		const char *name = cli_verbs[i].name;

		assert_int_equal(parse(NULL, WORDS("-d", name, "--", name), &o, NULL), 0);
		assert_string_equal(o.distro, name);
		assert_string_equal(o.tail[0], name);
		for (size_t k = 0; k < ARRAY_SIZE(takers); k++) {
			assert_int_equal(
				parse(takers[k], WORDS(name, "2"), &o, NULL),
				cli_find_verb(takers[k])->max_pos > 1 || cli_find_verb(takers[k])->tail ? 0 : -EINVAL);
			assert_string_equal(o.pos[0], name);
		}
		assert_int_equal(parse("portal", WORDS("grant", name, name), &o, NULL), 0);
		assert_string_equal(o.pos[2], name);
	}
}

static void test_exec_forms(void **state)
{
	struct cli_opts o;

	assert_int_equal(parse(NULL, WORDS("-d", "deb", "-u", "me", "--cd=/x", "ls", "-l", "-d"), &o, NULL), 0);
	assert_string_equal(o.distro, "deb");
	assert_string_equal(o.user, "me");
	assert_string_equal(o.cd, "/x");
	assert_int_equal(o.n_tail, 3);
	assert_string_equal(o.tail[0], "ls");
	assert_false(o.exec);
	assert_int_equal(parse(NULL, WORDS("--", "-x", "--", "y"), &o, NULL), 0);
	assert_int_equal(o.n_tail, 3);
	assert_string_equal(o.tail[0], "-x");
	/* -e takes all that follows, options of ours too. */
	assert_int_equal(parse(NULL, WORDS("-e", "ls", "-d", "x"), &o, NULL), 0);
	assert_true(o.exec);
	assert_int_equal(o.n_tail, 3);
	assert_null(o.distro);
	assert_int_equal(parse(NULL, WORDS("-d", "x", "-e", "--", "--", "y"), &o, NULL), 0);
	assert_int_equal(o.n_tail, 2);
	assert_string_equal(o.tail[0], "--");
	assert_int_equal(parse(NULL, WORDS("-d", "x"), &o, NULL), 0);
	assert_int_equal(o.n_tail, 0);
	assert_int_equal(parse(NULL, WORDS(""), &o, NULL), 0);
	assert_int_equal(o.n_tail, 1);
}

static void test_home(void **state)
{
	cleanup_free char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;

	assert_int_equal(setenv("HOME", "/home/me", 1), 0);
	assert_true(cli_is_home("~") && cli_is_home("/home/me"));
	assert_false(cli_is_home("/home/m") || cli_is_home("/home/me/x") || cli_is_home("ls"));
	/* No folder, no verb, nothing. */
	assert_int_equal(setenv("HOME", "list", 1), 0);
	assert_false(cli_is_home("list"));
	assert_int_equal(unsetenv("HOME"), 0);
	assert_false(cli_is_home("/home/me"));
	if (home)
		assert_int_equal(setenv("HOME", home, 1), 0);
}

static void test_folders(void **state)
{
	static const struct {
		const char *given, *means;
	} list[] = {
		{ NULL, "~" },    { "", "~" },        { "~", "~" },         { "/", "/" },   { "/usr", "/usr" },
		{ "~/x", "~/x" }, { "usr", "~/usr" }, { "../x", "~/../x" }, { ".", "~/." }, { "~x", "~/~x" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
		cleanup_free char *folder = cli_folder(list[i].given);

		assert_string_equal(folder, list[i].means);
	}
}

static void test_run_forms(void **state)
{
	struct cli_opts o;

	assert_int_equal(
		parse("run", WORDS("img", "--cpus", "2", "-p", "1:1", "--publish=2:2", "--", "a", "b"), &o, NULL), 0);
	assert_string_equal(o.pos[0], "img");
	assert_string_equal(o.cpus, "2");
	assert_int_equal(o.n_publish, 2);
	assert_int_equal(o.n_tail, 2);
	assert_int_equal(parse("run", WORDS("img", "cmd", "--cpus", "2"), &o, NULL), 0);
	assert_int_equal(o.n_tail, 3);
	assert_null(o.cpus);
	/* A name that looks like an option, behind --. */
	assert_int_equal(parse("run", WORDS("--", "-img", "cmd"), &o, NULL), 0);
	assert_string_equal(o.pos[0], "-img");
	assert_int_equal(o.n_tail, 1);
	assert_int_equal(parse("import", WORDS("--", "-x", "-"), &o, NULL), 0);
	assert_string_equal(o.pos[0], "-x");
	assert_string_equal(o.pos[1], "-");
	assert_int_equal(parse("import", WORDS("x", "-", "--size", "1G"), &o, NULL), 0);
	assert_string_equal(o.pos[1], "-");
}

static void test_mistakes(void **state)
{
	static const struct {
		const char *verb;
		const char *words[4];
		const char *needle;
	} bad[] = {
		{ NULL, { "--nosuch" }, "--nosuch" },
		{ NULL, { "-z" }, "-z" },
		{ NULL, { "-d" }, "-d" },
		{ "list", { "--wat" }, "--wat" },
		{ "list", { "x" }, "x" },
		{ "list", { "--json=1" }, "--json=1" },
		{ "list", { "-vw" }, "-vw" },
		{ "terminate", { NULL }, "NAME" },
		{ "terminate", { "a", "b" }, "b" },
		{ "import", { "a" }, "FILE" },
		{ "import", { "a", "b", "--size" }, "--size" },
		{ "logs", { "a", "-fq" }, "-fq" },
	};
	struct cli_opts o;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct wslx_err err = { 0 };

		assert_int_equal(parse(bad[i].verb, bad[i].words, &o, &err), -EINVAL);
		assert_non_null(strstr(err.msg, bad[i].needle));
	}
	assert_int_equal(parse("import", WORDS("--help"), &o, NULL), 0);
	assert_true(o.help);
	assert_int_equal(parse("list", WORDS("-qh"), &o, NULL), 0);
	assert_true(o.help && o.quiet);
}

/* What wsl.exe has and we have not is answered, not called unknown. */
static void test_options_of_wsl(void **state)
{
	static const struct {
		const char *verb;
		const char *words[4];
		const char *needle;
	} absent[] = {
		{ "install", { "debian", "--location", "/x" }, "no --location here: disks are kept" },
		{ "install", { "-l", "/x" }, "no -l here" },
		{ "install", { "--vhd-size=10G" }, "--size SIZE" },
		{ "install", { "--fixed-vhd" }, "always sparse" },
		{ "install", { "--no-distribution" }, "wslx kernel add" },
		{ "manage", { "x", "--set-sparse", "true", "--allow-unsafe" }, "always sparse" },
		{ NULL, { "-u", "root", "--system" }, "no system distribution" },
	};
	const struct cli_verb *manage = cli_find_verb("manage");
	struct cli c = { 0 };
	struct cli_opts o;
	struct wslx_err err = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(absent); i++) {
		assert_int_equal(parse(absent[i].verb, absent[i].words, &o, &err), -EOPNOTSUPP);
		if (!strstr(err.msg, absent[i].needle))
			fail_msg("%s", err.msg);
	}
	assert_int_equal(parse("--install", WORDS("-n", "--web-download", "-d", "debian", "--version", "2"), &o, NULL),
			 0);
	assert_string_equal(o.distro, "debian");
	assert_int_equal(parse("--export", WORDS("debian", "x.vhdx", "--vhd"), &o, NULL), 0);
	assert_true(o.vhd);
	c.verb = manage;
	assert_int_equal(parse("manage", WORDS("deb", "--resize", "large"), &o, NULL), 0);
	assert_int_equal(manage->run(&c, &o, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "'large' is no size"));
}

static void test_settings_from_options(void **state)
{
	struct wslx_settings *s = malloc(sizeof(*s));
	struct wslx_err err = { 0 };
	struct cli_opts o;

	*s = wslx_settings_default;
	assert_int_equal(parse("run", WORDS("i", "--memory", "1G", "--net", "none", "--engine", "tcg"), &o, NULL), 0);
	assert_int_equal(cli_apply_settings(&o, s, NULL), 0);
	assert_true(s->memory == WSLX_GIB);
	assert_int_equal(parse("run", WORDS("i", "--net", "none", "-p", "1:1"), &o, NULL), 0);
	assert_int_equal(cli_apply_settings(&o, s, &err), -EINVAL);
	assert_int_equal(parse("run", WORDS("i", "--memory", ""), &o, NULL), 0);
	assert_int_equal(cli_apply_settings(&o, s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "memory"));
	free(s);
}

/* What a shell makes of the line must be the words again. */
static void through_a_shell(const char *const *words)
{
	cleanup_free char *line = cli_quote_words(words, count(words)), *script = NULL;
	char got[1024];
	size_t n, at = 0;
	FILE *p;

	assert_true(asprintf(&script, "set -- %s; printf '%%s\\0' \"$@\"", line) > 0);
	p = popen(script, "re");
	n = fread(got, 1, sizeof(got), p);
	assert_int_equal(pclose(p), 0);
	for (int i = 0; words[i]; i++) {
		assert_true(at + strlen(words[i]) < n);
		assert_string_equal(got + at, words[i]);
		at += strlen(words[i]) + 1;
	}
	assert_int_equal(at, n);
}

static void test_words_survive_a_shell(void **state)
{
	cleanup_free char *one = cli_quote_words(WORDS("ls | wc -l"), 1);

	through_a_shell(WORDS("echo", "a  b"));
	through_a_shell(WORDS("x", "", "'", "''", "\"", "$HOME", "`id`", "a\nb", "\\", "*", "~", "!", "{a,b}", "#"));
	through_a_shell(WORDS("a=b", "-n", "--", "\303\251", "&", ";", "(", ">", "\t"));
	assert_string_equal(one, "ls | wc -l");
}

static bool has(char **env, const char *want)
{
	for (; *env; env++)
		if (!strcmp(*env, want))
			return true;
	return false;
}

static void test_wslenv(void **state)
{
	char **env;

	setenv("WSLENV", "A:B/u:C/w:D/p:E/wu::/u:F:NOSUCH:A=B/u", 1);
	setenv("A", "1", 1);
	setenv("B", "2", 1);
	setenv("C", "3", 1);
	setenv("D", "/x", 1);
	setenv("E", "5", 1);
	unsetenv("F");
	setenv("G", "7", 1);
	env = cli_make_environment();
	assert_true(has(env, "A=1") && has(env, "B=2") && has(env, "D=/x") && has(env, "E=5"));
	for (char **e = env; *e; e++)
		assert_true(strncmp(*e, "C=", 2) && strncmp(*e, "F", 1) && strncmp(*e, "G", 1) && strncmp(*e, "NO", 2));
	cli_free_environment(env);
}

static void test_launch_options(void **state)
{
	struct cli_opts o;

	assert_int_equal(parse(NULL, WORDS("-e"), &o, NULL), 0);
	assert_int_equal(cli_launch_check(&o, NULL), -EINVAL);
	assert_int_equal(parse(NULL, WORDS("--shell-type", "odd", "ls"), &o, NULL), 0);
	assert_int_equal(cli_launch_check(&o, NULL), -EINVAL);
	assert_int_equal(parse(NULL, WORDS("-u", ""), &o, NULL), 0);
	assert_int_equal(cli_launch_check(&o, NULL), -EINVAL);
	assert_int_equal(parse(NULL, WORDS("--shell-type", "login", "ls"), &o, NULL), 0);
	assert_int_equal(cli_launch_check(&o, NULL), 0);
}

static void test_format_size(void **state)
{
	char buf[16];

	cli_format_size(0, buf);
	assert_string_equal(buf, "0B");
	cli_format_size(1536, buf);
	assert_string_equal(buf, "1.5K");
	cli_format_size(UINT64_MAX, buf);
	assert_true(strlen(buf) < sizeof(buf));
}

/* What a terminal gets of the pieces, one call each. */
static void assert_filtered(const char *const *pieces, bool lines, const char *want)
{
	cleanup_free char *got = NULL;
	size_t len = 0;
	struct cli_filter f = { .out = open_memstream(&got, &len), .lines = lines };

	for (; *pieces; pieces++)
		cli_filter_put(&f, *pieces, strlen(*pieces));
	cli_filter_end(&f);
	fclose(f.out);
	assert_string_equal(got, want);
}

static void test_escaping(void **state)
{
	/* Nothing left out may bring two halves of an escape sequence together. */
	assert_filtered(WORDS("a\xc2\r\x9b"
			      "31m"),
			true, "a\\xc2\\x9b31m");
	/* ... nor may they come in two reads. */
	assert_filtered(WORDS("a\xc2", "\x9b"
				       "31m"),
			true, "a\\u009b31m");
	/* On their own they are sequences to some terminals. */
	assert_filtered(WORDS("\x80\x9b"
			      "1m\x9f\xa0"),
			true, "\\x80\\x9b1m\\x9f\\xa0");
	assert_filtered(WORDS("\xc2\x80\xc2\x9f\xc2\xa0"), true, "\\u0080\\u009f\xc2\xa0");
	assert_filtered(WORDS("\x1b[2J\x7f\b\tx\r\n"), true, "\\x1b[2J\\x7f\\x08\tx\n");
	assert_filtered(WORDS("x\r\ny"), false, "x\\x0d\\x0ay");
	/* Text stays text, wherever it is cut. */
	assert_filtered(WORDS("\xc3", "\xa9\xe2\x80", "\x9b\xf0", "\x9f", "\x90", "\xa7"), true,
			"\xc3\xa9\xe2\x80\x9b\xf0\x9f\x90\xa7");
	/* Cut short, overlong, a surrogate, past the last character. */
	assert_filtered(WORDS("\xe2\x80"), true, "\\xe2\\x80");
	assert_filtered(WORDS("\xe2\xc3\xa9\xe2\x80\n"), true, "\\xe2\xc3\xa9\\xe2\\x80\n");
	assert_filtered(WORDS("\xc0\x9b\xe0\x82\x9b"), true, "\\xc0\\x9b\\xe0\\x82\\x9b");
	assert_filtered(WORDS("\xed\xa0\x80\xf4\x90\x80\x80\xff"), true, "\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80\\xff");
}

static void test_progress_in_a_log(void **state)
{
	struct cli_progress_log l = { 0 };

	/* Nothing for what is done at once. */
	assert_false(cli_progress_due(&l, "a", 1000));
	assert_false(cli_progress_due(&l, "b", 5900));
	assert_true(cli_progress_due(&l, "b", 6000));
	assert_false(cli_progress_due(&l, "b", 6100));
	assert_false(cli_progress_due(&l, "b", 15900));
	assert_true(cli_progress_due(&l, "b", 16000));
	assert_true(cli_progress_due(&l, "c", 16100));
	assert_false(cli_progress_due(&l, "c", 16200));
}

/* What `wslx -- ...` is proposed with. */
static void test_quoting_each(void **state)
{
	cleanup_free char *one = cli_quote_each(WORDS("ls | wc -l"), 1);
	cleanup_free char *more = cli_quote_each(WORDS("uname", "-a", "a b"), 3);

	assert_string_equal(one, "'ls | wc -l'");
	assert_string_equal(more, "uname -a 'a b'");
}

static void test_words_of_wsl(void **state)
{
	static const char *const absent[] = { "--update", "--mount", "--system" };
	struct wslx_err err = { 0 };
	struct cli_opts o;

	assert_string_equal(cli_find_verb("--export")->name, "export");
	assert_string_equal(cli_find_verb("--set-default-version")->name, "set-default-version");
	assert_string_equal(cli_find_verb("--manage")->name, "manage");
	assert_int_equal(parse("--list", WORDS("-o"), &o, NULL), 0);
	assert_true(o.online);
	assert_int_equal(parse("--import", WORDS("n", "f", "--version", "2"), &o, NULL), 0);
	assert_int_equal(cli_check_version(o.version, NULL), 0);
	assert_int_equal(cli_check_version("1", &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "version 1"));
	assert_int_equal(cli_check_version("x", NULL), -EINVAL);
	/* What is not there says what is instead, and is no verb besides. */
	for (size_t i = 0; i < ARRAY_SIZE(absent); i++) {
		assert_non_null(cli_absent(absent[i]));
		assert_null(cli_find_verb(absent[i]));
	}
	assert_null(cli_absent("--list"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table_is_sound),
		cmocka_unit_test(test_names_of_verbs),
		cmocka_unit_test(test_exec_forms),
		cmocka_unit_test(test_home),
		cmocka_unit_test(test_folders),
		cmocka_unit_test(test_run_forms),
		cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_options_of_wsl),
		cmocka_unit_test(test_settings_from_options),
		cmocka_unit_test(test_words_survive_a_shell),
		cmocka_unit_test(test_wslenv),
		cmocka_unit_test(test_launch_options),
		cmocka_unit_test(test_format_size),
		cmocka_unit_test(test_escaping),
		cmocka_unit_test(test_progress_in_a_log),
		cmocka_unit_test(test_quoting_each),
		cmocka_unit_test(test_words_of_wsl),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
