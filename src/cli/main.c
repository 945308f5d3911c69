#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cli/launch.h"
#include "manager/machine.h"

/* Descriptors 0 to 2 are open from here on, so that nothing we open lands
 * there and is written to by mistake.  Writing to a standard output that was
 * closed still fails, as it would have. */
static void open_standard_fds(void)
{
	for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
		/* The lowest that is free: i. */
		if (fcntl(i, F_GETFD) < 0 && open("/dev/null", i == STDOUT_FILENO ? O_RDONLY : O_RDWR) != i)
			return;
	}
}

/* The words as a shell would want them typed; NULL if that is not one short line. */
static char *typed(int n, char **words)
{
	char *line = cli_quote_each((const char *const *)words, n);

	for (const char *c = line; c && *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f || c - line > 512) {
			free(line);
			return NULL;
		}
	return line;
}

static int no_verb(int n, char **words, struct wslx_err *err)
{
	cleanup_free char *line = typed(n, words);

	return wslx_err_set(
		err, EINVAL,
		"unknown verb '%s'; see `wslx --help`, or `wslx -- %s` to run it in the default distribution", words[0],
		line ? line : "CMD...");
}

/* What an only word that cli_is_home() knows means. */
static const char *const home_words[] = { "--cd", "~", NULL };

static bool wants_home(int argc, char **argv)
{
	return argc == 2 && cli_is_home(argv[1]);
}

/* Which verb, and where its arguments begin. */
static int pick_verb(int argc, char **argv, const struct cli_verb **ret, int *ret_first, struct wslx_err *err)
{
	*ret = argc > 1 ? cli_find_verb(argv[1]) : NULL;
	*ret_first = *ret ? 2 : 1;
	if (!*ret && wants_home(argc, argv))
		*ret = &cli_exec_verb;
	if (*ret)
		return 0;
	if (argc > 1 && argv[1][0] != '-')
		return no_verb(argc - 1, argv + 1, err);
	if (argc > 1 && cli_absent(argv[1]))
		return wslx_err_set(err, EOPNOTSUPP, "there is no %s here: %s", argv[1], cli_absent(argv[1]));
	*ret = &cli_exec_verb;
	return 0;
}

/* A negative status of a verb is an error that err describes; else what the
 * program exits with. */
static int run_verb(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	int r = 0;

	if (!c->verb->no_manager)
		r = wslx_manager_open(&c->m, err);
	if (r == 0) {
		if (c->verb->sweep)
			wslx_throwaway_sweep(c->m);
		r = c->verb->run(c, o, err);
	}
	wslx_manager_free(c->m);
	return r;
}

/* Output that could not be written is a failure too. */
static int flush_output(int status, struct wslx_err *err)
{
	if ((fflush(stdout) == EOF || ferror(stdout)) && errno != EPIPE && status == 0)
		return wslx_err_sys(err, errno, "cannot write standard output");
	return status;
}

int main(int argc, char **argv)
{
	struct cli c = { 0 };
	struct cli_opts o;
	struct wslx_err err = { 0 };
	int first, r;

	open_standard_fds();
	wslx_log_init("wslx", STDERR_FILENO, WSLX_LOG_WARN);
	signal(SIGPIPE, SIG_IGN);
	/* Ignored, as some parents leave it to us, it would take the status of
	 * the programs we run. */
	signal(SIGCHLD, SIG_DFL);
	r = pick_verb(argc, argv, &c.verb, &first, &err);
	if (r == 0) {
		c.as_wsl = first == 2 && argv[1][0] == '-';
		if (wants_home(argc, argv))
			r = cli_parse(c.verb, 2, home_words, &o, &err);
		else
			r = cli_parse(c.verb, argc - first, (const char *const *)argv + first, &o, &err);
	}
	if (r == 0 && o.help) {
		if (c.verb == &cli_exec_verb)
			cli_help_all();
		else
			cli_help_verb(c.verb);
	} else if (r == 0) {
		r = run_verb(&c, &o, &err);
	}
	cli_progress_clear();
	r = flush_output(r, &err);
	if (r < 0) {
		if (cli_interrupt.signal)
			return 128 + cli_interrupt.signal;
		cli_complain(&err);
		return CLI_FAILED;
	}
	return r;
}
