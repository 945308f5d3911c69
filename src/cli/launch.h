/* A command in a machine: environment, terminal, session. */
#ifndef WSLX_CLI_LAUNCH_H
#define WSLX_CLI_LAUNCH_H

#include "cli/cli.h"
#include "manager/gone.h"
#include "manager/machine.h"

struct cli_launch {
	const struct cli_opts *opts; /* user, cd, shell_type, exec, tail */
	const char *machine, *distro;
	const char *default_user; /* "" = the distro's own */
	int64_t default_uid;      /* -1 = none */
	bool restartable;         /* the caller starts the machine again if it went away too early */
	struct wslx_machine_session session;
};

/* What can be wrong with the options, before any machine is started. */
WSLX_MUST_CHECK int cli_launch_check(const struct cli_opts *o, struct wslx_err *err);
/* The exit status, or -errno.  l->session.again, if restartable: nothing was
 * said, and the command has not run. */
WSLX_MUST_CHECK int cli_launch(struct cli *c, struct cli_launch *l, struct wslx_err *err);

/* Words as one line for a POSIX shell: each arrives as it is.  Caller frees. */
char *cli_quote_words(const char *const *words, int n);
/* The same, but a single word is quoted too.  Caller frees; NULL = too long. */
char *cli_quote_each(const char *const *words, int n);
/* Where a command begins, as the agent has it, for what --cd was given: a relative
 * path is one from the user's home, where a command without --cd begins.  NULL
 * and "" are that too.  Caller frees; NULL = no memory. */
char *cli_folder(const char *cd);
/* NAME=VALUE of TERM's kin and of what WSLENV names; NULL-terminated. */
char **cli_make_environment(void);
void cli_free_environment(char **env);

/* Hooks that print what happens at a start, and listen to interrupts. */
struct wslx_start_hooks cli_start_hooks(const char *what);

/* ---- terminal.c ---- */

struct cli_terminal {
	int fd;           /* whose modes change; -1 = none */
	bool keep_output; /* output goes elsewhere too: newlines keep their returns */
};

/* False: not now, it belongs to another job. */
WSLX_MUST_CHECK bool cli_terminal_raw(const struct cli_terminal *t);
/* As it was found.  Any number of times. */
void cli_terminal_restore(void);

#endif
