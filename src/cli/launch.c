#include "cli/launch.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agentc/agentc.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "manager/session.h"

#define LINE_MAX_BYTES ((size_t)4 << 20)
#define ENV_MAX 256

/* ---- Words for a shell ---- */

static bool is_plain(const char *word)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:@%+,";

	return *word && word[strspn(word, plain)] == '\0';
}

static int quote_word(struct wslx_buf *b, const char *word)
{
	int r;

	if (is_plain(word))
		return wslx_buf_append(b, word, strlen(word));
	r = wslx_buf_append(b, "'", 1);
	for (; r == 0 && *word; word++)
		r = *word == '\'' ? wslx_buf_append(b, "'\\''", 4) : wslx_buf_append(b, word, 1);
	return r < 0 ? r : wslx_buf_append(b, "'", 1);
}

char *cli_quote_each(const char *const *words, int n)
{
	struct wslx_buf b;
	int r = 0;

	wslx_buf_init(&b, LINE_MAX_BYTES);
	for (int i = 0; r == 0 && i < n; i++) {
		if (i)
			r = wslx_buf_append(&b, " ", 1);
		if (r == 0)
			r = quote_word(&b, words[i]);
	}
	if (r == 0)
		r = wslx_buf_put_u8(&b, 0);
	if (r < 0) {
		wslx_buf_free(&b);
		return NULL;
	}
	return (char *)b.data;
}

/* One word is a line for the shell as it stands; several words are a program
 * and its arguments, which have been through a shell already. */
char *cli_quote_words(const char *const *words, int n)
{
	return n == 1 ? strdup(words[0]) : cli_quote_each(words, n);
}

/* ---- Environment ---- */

/* Is the entry meant for this direction?  Flags: p and l (paths: there are no
 * shared folders, the value goes as it is), u (into the guest), w (out of it). */
static bool wanted_flags(const char *flags, size_t n)
{
	bool u = false, w = false;

	for (size_t i = 0; i < n; i++) {
		u |= flags[i] == 'u';
		w |= flags[i] == 'w';
	}
	return u || !w;
}

static size_t add_wslenv(char **env, size_t n, const char *list)
{
	while (*list) {
		size_t len = strcspn(list, ":"), name_len = strcspn(list, ":/");
		char name[256];
		const char *value;

		if (name_len && name_len < sizeof(name) && n < ENV_MAX &&
		    wanted_flags(list + name_len, len - name_len)) {
			memcpy(name, list, name_len);
			name[name_len] = '\0';
			value = strchr(name, '=') ? NULL : getenv(name);
			if (value && asprintf(&env[n], "%s=%s", name, value) > 0)
				n++;
		}
		list += len;
		list += *list == ':';
	}
	return n;
}

char **cli_make_environment(void)
{
	static const char *const always[] = { "LANG", "COLORTERM", "WSLENV" };
	char **env = calloc(ENV_MAX + ARRAY_SIZE(always) + 1, sizeof(*env));
	const char *list = getenv("WSLENV");
	size_t n = env && list ? add_wslenv(env, 0, list) : 0;

	for (size_t i = 0; env && i < ARRAY_SIZE(always); i++) {
		const char *value = getenv(always[i]);

		if (value && *value && asprintf(&env[n], "%s=%s", always[i], value) > 0)
			n++;
	}
	if (env)
		env[n] = NULL;
	return env;
}

void cli_free_environment(char **env)
{
	for (size_t i = 0; env && env[i]; i++)
		free(env[i]);
	free(env);
}

/* ---- Hooks of a start ---- */

static void on_progress(void *opaque, const char *what)
{
	cli_progress_line("%s: %s ...", (const char *)opaque, what);
}

static void on_warning(void *opaque, const char *text)
{
	cli_warn("%s", text);
}

static void on_console(void *opaque, const char *line)
{
	struct wslx_err clean;

	cli_progress_clear();
	(void)wslx_err_set(&clean, 1, "%s", line);
	fprintf(stderr, "console: %s\n", clean.msg);
}

struct wslx_start_hooks cli_start_hooks(const char *what)
{
	return (struct wslx_start_hooks) {
		.progress = on_progress,
		.warning = on_warning,
		.console = on_console,
		.opaque = (void *)(uintptr_t)what,
		.cancel_fd = cli_interrupt.fd,
	};
}

/* ---- The command ---- */

enum shell_type { SHELL_STANDARD, SHELL_LOGIN, SHELL_NONE };

static int shell_type(const struct cli_opts *o, enum shell_type *ret, struct wslx_err *err)
{
	static const char *const names[] = { "standard", "login", "none" };

	*ret = o->exec ? SHELL_NONE : SHELL_STANDARD;
	if (!o->shell_type)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(o->shell_type, names[i])) {
			*ret = (enum shell_type)i;
			return 0;
		}
	return wslx_err_set(err, EINVAL, "unknown shell type '%s': standard, login or none", o->shell_type);
}

int cli_launch_check(const struct cli_opts *o, struct wslx_err *err)
{
	enum shell_type type;
	int r = shell_type(o, &type, err);

	if (r == 0 && o->exec && !o->n_tail)
		return wslx_err_set(err, EINVAL, "'-e' needs a command");
	if (r == 0 && o->user && (!*o->user || strlen(o->user) > WSLX_AGENT_NAME_MAX))
		return wslx_err_set(err, EINVAL, "'%s' is no name of a user", o->user);
	if (r == 0 && o->cd && strlen(o->cd) >= 4096)
		return wslx_err_set(err, EINVAL, "the folder's name is too long");
	return r;
}

/* The agent takes a relative path from /, where nobody is. */
char *cli_folder(const char *cd)
{
	if (!cd || !*cd)
		return strdup("~");
	if (cd[0] == '/' || !strcmp(cd, "~") || !strncmp(cd, "~/", 2))
		return strdup(cd);
	return wslx_path("~/%s", cd);
}

struct launch {
	struct cli_terminal term;
	struct wslx_agent_exec exec;
	struct wslx_session_params session;
	const char *words[2];
	char *line, *folder;
	char **env;
	char uid[24];
};

static int fill_command(struct launch *x, const struct cli_opts *o, struct wslx_err *err)
{
	enum shell_type type;
	int r = shell_type(o, &type, err);

	if (r < 0)
		return r;
	x->exec.argv = x->words;
	if (!o->n_tail) {
		x->exec.flags |= type == SHELL_NONE ? WSLX_EXEC_SHELL : WSLX_EXEC_LOGIN;
	} else if (type == SHELL_NONE) {
		x->exec.argv = o->tail;
	} else {
		x->exec.flags |= type == SHELL_LOGIN ? WSLX_EXEC_SHELL | WSLX_EXEC_LOGIN : WSLX_EXEC_SHELL;
		x->words[0] = x->line = cli_quote_words(o->tail, o->n_tail);
		if (!x->line)
			return wslx_err_set(err, E2BIG, "the command is too long");
	}
	return 0;
}

/* Streams on a terminal share the guest's; each of the others has a pipe. */
static void fill_streams(struct launch *x)
{
	bool in = isatty(STDIN_FILENO), out = isatty(STDOUT_FILENO), err = isatty(STDERR_FILENO);
	/* Only standard error on a terminal is no reason for one in the guest. */
	bool tty = in || out;

	x->exec.streams[0] = tty && in ? WSLX_STREAM_IS_TTY : WSLX_STREAM_PIPE;
	x->exec.streams[1] = tty && out ? WSLX_STREAM_IS_TTY : WSLX_STREAM_PIPE;
	x->exec.streams[2] = tty && err ? WSLX_STREAM_IS_TTY : WSLX_STREAM_PIPE;
	x->exec.flags |= tty ? WSLX_EXEC_TTY : 0;
	x->session.fds = (struct wslx_agentc_fds) {
		.in = in ? -1 : STDIN_FILENO,
		.out = out ? -1 : STDOUT_FILENO,
		.err = tty && err ? -1 : STDERR_FILENO,
		.tty_in = in ? STDIN_FILENO : -1,
		.tty_out = out   ? STDOUT_FILENO
			   : err ? STDERR_FILENO
				 : STDIN_FILENO,
	};
	x->session.winsize_fd = tty ? (out ? STDOUT_FILENO : STDIN_FILENO) : -1;
	x->term = (struct cli_terminal) { .fd = in ? STDIN_FILENO : -1, .keep_output = !out };
}

static bool make_raw(void *opaque)
{
	struct launch *x = opaque;

	return cli_terminal_raw(&x->term);
}

static void make_cooked(void *opaque)
{
	cli_terminal_restore();
}

static const char *default_user(struct launch *x, const struct cli_launch *l)
{
	if (l->default_user && *l->default_user)
		return l->default_user;
	if (l->default_uid < 0)
		return NULL;
	snprintf(x->uid, sizeof(x->uid), "%" PRId64, l->default_uid);
	return x->uid;
}

static int run_session(struct cli *c, struct launch *x, struct cli_launch *l, struct wslx_err *err)
{
	sigset_t old;
	int r;

	cli_progress_clear();
	fflush(stdout);
	wslx_session_block_signals(&old);
	/* One that came during the start: it is not forwarded any more. */
	if (cli_interrupt.signal)
		return wslx_err_set(err, ECANCELED, "interrupted");
	r = wslx_machine_session(c->m, l->machine, &x->session, &l->session, err);
	cli_terminal_restore();
	l->session.again = l->session.again && l->restartable;
	/* The start that follows can be interrupted again. */
	if (l->session.again)
		sigprocmask(SIG_SETMASK, &old, NULL);
	else if (r < 0)
		cli_complain(err);
	return l->session.status;
}

int cli_launch(struct cli *c, struct cli_launch *l, struct wslx_err *err)
{
	cleanup_free char *vsock = wslx_machine_socket(c->m, l->machine, WSLX_VSOCK_SOCKET);
	struct launch x = { 0 };
	int r;

	if (!vsock)
		return wslx_err_sys(err, ENOMEM, "cannot start the command");
	r = fill_command(&x, l->opts, err);
	if (r < 0)
		return r;
	fill_streams(&x);
	x.env = cli_make_environment();
	x.exec.distro = l->distro;
	x.exec.env = (const char *const *)x.env;
	x.exec.cwd = x.folder = cli_folder(l->opts->cd);
	x.exec.user = l->opts->user;
	x.exec.default_user = default_user(&x, l);
	x.exec.term = getenv("TERM") && strlen(getenv("TERM")) < 64 ? getenv("TERM") : NULL;
	x.session.vsock_path = vsock;
	x.session.exec = &x.exec;
	x.session.forward_signals = true;
	x.session.cancel_fd = -1;
	x.session.raw = make_raw;
	x.session.cooked = make_cooked;
	x.session.warning = on_warning;
	x.session.opaque = &x;
	r = x.folder ? run_session(c, &x, l, err) : wslx_err_sys(err, ENOMEM, "cannot start the command");
	free(x.line);
	free(x.folder);
	cli_free_environment(x.env);
	return r;
}
