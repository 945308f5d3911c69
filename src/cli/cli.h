/*
 * The command line.
 *
 * Theory of operation.  One const table (verbs.c) says which verbs there are,
 * how WSL spells them, and which options each takes; parse.c turns argv into a
 * struct cli_opts by that table and nothing else; each verb has a file of its
 * own over the manager.  A mistake is one line on stderr and exit status 255;
 * what a command in the guest returned is passed through.
 *
 * Threads: one.  Trust boundary: what guests and archives say is escaped
 * before it reaches a terminal.
 */
#ifndef WSLX_CLI_CLI_H
#define WSLX_CLI_CLI_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "base/macros.h"
#include "image/task.h"
#include "manager/registry.h"

#define CLI_FAILED 255
#define CLI_POS_MAX 4
#define CLI_PUBLISH_MAX 64

struct cli_opts {
	const char *name, *kernel, *memory, *cpus, *net, *engine, *user, *cd, *size, *modules, *distro;
	const char *suite, *mirror, *include, *shell_type, *from_file;
	const char *version, *format, *default_user, *move, *resize, *sparse, *as, *participant, *timeout;
	const char *publish[CLI_PUBLISH_MAX];
	size_t n_publish;
	bool ignored; /* asks for what is done anyway */
	bool exec, quiet, verbose, json, running, all, follow, force, fresh, online, vhd, read_only, help;
	const char *pos[CLI_POS_MAX];
	int n_pos;
	const char *const *tail; /* the command, NULL-terminated */
	int n_tail;
};

enum cli_opt_kind {
	CLI_FLAG,
	CLI_TEXT,
	CLI_LIST, /* publish: may be repeated */
	CLI_STOP, /* a flag; all that follows is the command */
};

struct cli_opt {
	const char *name; /* without dashes */
	char letter;      /* 0 = none */
	enum cli_opt_kind kind;
	size_t offset;   /* in struct cli_opts */
	const char *arg; /* what help calls the value */
	const char *help;
};

struct cli;

struct cli_verb {
	const char *name;
	const char *wsl;  /* WSL's spelling, "--list"; NULL = none */
	const char *wsl2; /* and its short one, "-l" */
	const char *args; /* for the usage line */
	const char *summary;
	const char *details; /* further lines of help; NULL = none */
	int min_pos, max_pos;
	bool tail; /* a command may follow */
	const struct cli_opt *opts;
	size_t n_opts;
	int (*run)(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
	bool no_manager; /* needs no registry */
	bool sweep;      /* begins with stopping the machines of `run` commands that were killed */
	bool hidden;
};

struct cli {
	const struct cli_verb *verb;
	struct wslx_manager *m;
	bool as_wsl; /* spelled WSL's way */
};

extern const struct cli_verb cli_verbs[];
extern const size_t cli_n_verbs;
extern const struct cli_verb cli_exec_verb; /* no verb: run a command in a distro */

/* Is this all that was typed after `wslx`, the home folder is meant: wsl.exe's
 * "~", which the shell has turned into $HOME. */
bool cli_is_home(const char *word);
/* NULL: no such verb. */
const struct cli_verb *cli_find_verb(const char *word);
WSLX_MUST_CHECK int cli_parse(const struct cli_verb *v, int argc, const char *const *argv, struct cli_opts *ret,
			      struct wslx_err *err);
/* wsl.exe's word for something that is not here: what there is instead; or NULL. */
const char *cli_absent(const char *word);
/* The same for an option of a verb. */
const char *cli_absent_option(const struct cli_verb *v, const char *word);
/* "2", or an error: the versions of WSL. */
WSLX_MUST_CHECK int cli_check_version(const char *version, struct wslx_err *err);
WSLX_MUST_CHECK int cli_config_user(struct cli *c, const char *name, const char *user, struct wslx_err *err);
void cli_help_verb(const struct cli_verb *v);
void cli_help_all(void);

/* The settings that options give, over what *s holds. */
WSLX_MUST_CHECK int cli_apply_settings(const struct cli_opts *o, struct wslx_settings *s, struct wslx_err *err);

/* The size of a disk: "64G". */
WSLX_MUST_CHECK int cli_parse_disk_size(const char *size, uint64_t *ret, struct wslx_err *err);

/* "wslx: LINE" on stderr. */
void cli_complain(const struct wslx_err *err);
void cli_warn(const char *fmt, ...) WSLX_PRINTF(1, 2);
/* A stream of text that came from outside, in pieces as they come: control
 * characters as \xNN and \uNNNN, and bytes that are no UTF-8 as \xNN. */
struct cli_filter {
	FILE *out;
	bool lines;            /* newlines stay, and returns are left out */
	unsigned char held[4]; /* a character whose end has not come yet */
	unsigned n_held;
};
void cli_filter_put(struct cli_filter *f, const char *s, size_t n);
void cli_filter_end(struct cli_filter *f);
/* A table cell, by the same rules, on stdout.  Returns how many bytes it took. */
size_t cli_put_escaped(const char *s);
/* "1.5G" */
void cli_format_size(uint64_t n, char buf[16]);

/* ---- interrupt.c: SIGINT, SIGTERM and SIGHUP during long operations ---- */
struct cli_interrupt {
	volatile sig_atomic_t signal; /* 0 = none yet */
	int fd;                       /* readable when there was one */
};
extern struct cli_interrupt cli_interrupt;
void cli_interrupt_catch(void);

/* ---- progress.c ---- */
/* A task that draws a bar on stderr if that is a terminal, and else writes a
 * line now and then if it takes long. */
struct wslx_task cli_progress_task(void);
/* Is a line due in a log?  Not at first, then at each new `what` (static
 * storage) and every ten seconds. */
struct cli_progress_log {
	int64_t begun, last; /* ms */
	const char *what;
};
bool cli_progress_due(struct cli_progress_log *l, const char *what, int64_t now);
/* A line that the next one, or cli_progress_clear, replaces. */
void cli_progress_line(const char *fmt, ...) WSLX_PRINTF(1, 2);
void cli_progress_clear(void);

/* Verbs, one file each. */
int cli_config(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_debug(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_doctor(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_exec(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_export(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_help(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_import(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_install(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_kernel(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_list(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_logs(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_manage(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_portal(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_run(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_set_default(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_set_default_version(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_set_version(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_shutdown(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_stats(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_status(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_terminate(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_unregister(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
int cli_version(struct cli *c, const struct cli_opts *o, struct wslx_err *err);

#endif
