/*
 * The child side of EXEC: from fork to execve.
 *
 * Runs in a copy of the agent's memory that is gone with execve, so nothing is
 * freed.  It enters the distro's namespaces first and becomes the user before
 * it touches what that user may control (working directory, program), so that
 * a hostile distro gains nothing from the rights it starts with.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent/core.h"
#include "agent/user.h"
#include "base/cleanup.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games:/usr/local/games"
#define ENV_EXTRA 16

struct environment {
	char **vars;
	size_t n, cap;
};

static void WSLX_PRINTF(5, 6) note(int fd, uint32_t kind, int code, int exit_status, const char *fmt, ...)
{
	struct launch_record r = { .kind = kind, .code = code, .exit_status = exit_status };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r.text, sizeof(r.text), fmt, ap);
	va_end(ap);
	/* Smaller than PIPE_BUF: whole or not at all. */
	(void)!write(fd, &r, sizeof(r));
}

#define FAIL(l, code, status, ...)                                                                                     \
	do {                                                                                                           \
		note((l)->status_fd, LAUNCH_FAILED, (code), (status), __VA_ARGS__);                                    \
		_exit(255);                                                                                            \
	} while (0)

/* ---- environment ---- */

static void env_put(struct environment *e, char *var)
{
	size_t n = strcspn(var, "=") + 1;

	for (size_t i = 0; i < e->n; i++) {
		if (!strncmp(e->vars[i], var, n)) {
			e->vars[i] = var;
			return;
		}
	}
	if (e->n < e->cap) {
		e->vars[e->n++] = var;
		e->vars[e->n] = NULL;
	}
}

static void env_set(struct environment *e, const char *name, const char *val)
{
	char *var;

	if (asprintf(&var, "%s=%s", name, val) >= 0)
		env_put(e, var);
}

static const char *env_get(const struct environment *e, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < e->n; i++)
		if (!strncmp(e->vars[i], name, n) && e->vars[i][n] == '=')
			return e->vars[i] + n + 1;
	return NULL;
}

/* LANG=... of Debian's and systemd's locale files. */
static bool locale_from(const char *path, char *dst, size_t size)
{
	char *text, *save = NULL;
	size_t len;

	if (wslx_read_regular(path, 65536, &text, &len) < 0)
		return false;
	for (char *line = strtok_r(text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
		char *v = line + 5, *end;

		if (strncmp(line, "LANG=", 5) != 0)
			continue;
		if (*v == '"' || *v == '\'')
			v++;
		end = v + strcspn(v, "\"' \t#");
		if (end == v || (size_t)(end - v) >= size)
			continue;
		memcpy(dst, v, (size_t)(end - v));
		dst[end - v] = 0;
		return true;
	}
	return false;
}

static void make_environment(const struct launch *l, const struct wslx_user *u, struct environment *e)
{
	char lang[64];
	struct utsname uts;
	size_t extra = 0;

	while (l->m->env[extra])
		extra++;
	e->cap = extra + ENV_EXTRA;
	e->vars = calloc(e->cap + 1, sizeof(char *));
	if (!e->vars)
		FAIL(l, ENOMEM, -1, "out of memory");
	env_set(e, "PATH", DEFAULT_PATH);
	env_set(e, "HOME", u->home);
	env_set(e, "USER", u->name);
	env_set(e, "LOGNAME", u->name);
	env_set(e, "SHELL", u->shell);
	if (!locale_from("/etc/default/locale", lang, sizeof(lang)) &&
	    !locale_from("/etc/locale.conf", lang, sizeof(lang)))
		strcpy(lang, "C.UTF-8");
	env_set(e, "LANG", lang);
	if (uname(&uts) == 0) {
		env_set(e, "NAME", uts.nodename);
		env_set(e, "HOSTTYPE", uts.machine);
	}
	if (*l->place->distro)
		env_set(e, "WSL_DISTRO_NAME", l->place->distro);
	if (l->m->term)
		env_set(e, "TERM", l->m->term);
	for (size_t i = 0; i < extra; i++)
		env_put(e, (char *)l->m->env[i]);
}

/* ---- identity ---- */

static void write_small(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	(void)!write(fd, text, strlen(text));
	close(fd);
}

static void enter_namespaces(const struct launch *l)
{
	/* While /proc is still the agent's.  The agent itself is never chosen
	 * by the OOM killer; its clients' processes are like any other. */
	if (l->place->pidfd >= 0) {
		write_small("/proc/self/oom_score_adj", "0");
		if (setns(l->place->pidfd, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP) < 0) {
			int e = errno;

			e = wslx_place_ended(l->place) ? EAGAIN : e;
			FAIL(l, e, -1, "cannot enter the distro: %s", e == EAGAIN ? "it has ended" : strerror(e));
		}
	}
	note(l->status_fd, LAUNCH_PID, getpid(), 0, "%s", "");
}

static void find_user(const struct launch *l, struct wslx_user *u)
{
	const char *who = l->m->user;
	struct wslx_wslconf conf;
	int r;

	if (!who || !*who) {
		wslx_wslconf_load(NULL, &conf);
		who = conf.user;
	}
	if (!*who && l->m->default_user)
		who = l->m->default_user;
	r = wslx_user_find(who, NULL, NULL, u);
	if (r == -ENOENT)
		FAIL(l, ENOENT, -1, "there is no user '%s' in the distro", who);
	if (r < 0)
		FAIL(l, -r, -1, "cannot look up user '%s': %s", who, strerror(-r));
}

/* Portal's window is for the distro's default user, whom only the host may know: it becomes that user's when it first
 * runs something. */
static void give_window(const struct launch *l, const struct wslx_user *u)
{
	DIR *dir;
	struct dirent *e;

	if (l->place->pidfd < 0 || u->uid == 0 || (l->m->user && *l->m->user))
		return;
	dir = opendir("/dev");
	while (dir && (e = readdir(dir))) {
		struct stat st;

		if (!strncmp(e->d_name, "dax", 3) && fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISCHR(st.st_mode) && st.st_uid == 0)
			(void)!fchownat(dirfd(dir), e->d_name, u->uid, u->gid, AT_SYMLINK_NOFOLLOW);
	}
	if (dir)
		closedir(dir);
}

static void become(const struct launch *l, const struct wslx_user *u)
{
	if (l->tty_fd >= 0 && geteuid() == 0)
		(void)!fchown(l->tty_fd, u->uid, (gid_t)-1);
	/* An agent without rights (tests) can only be itself. */
	if (geteuid() != 0 && u->uid == geteuid())
		return;
	if (setgroups(u->n_groups, u->groups) < 0 || setresgid(u->gid, u->gid, u->gid) < 0 ||
	    setresuid(u->uid, u->uid, u->uid) < 0)
		FAIL(l, errno, -1, "cannot become user '%s': %s", u->name, strerror(errno));
}

static void set_limits(void)
{
	struct rlimit files = { .rlim_cur = 1024, .rlim_max = 1048576 };

	/* Fails without rights or with a smaller fs.nr_open: keep what is. */
	(void)setrlimit(RLIMIT_NOFILE, &files);
	umask(022);
}

static void enter_cwd(const struct launch *l, const struct wslx_user *u)
{
	const char *cwd = l->m->cwd;
	char path[8192];

	if (cwd && *cwd && strcmp(cwd, "~") != 0) {
		if (!strncmp(cwd, "~/", 2)) {
			snprintf(path, sizeof(path), "%s/%s", u->home, cwd + 2);
			cwd = path;
		}
		if (chdir(cwd) == 0)
			return;
		note(l->status_fd, LAUNCH_WARNING, errno, 0, "cannot enter %.150s: %s", cwd, strerror(errno));
	}
	if (chdir(u->home) < 0 && chdir("/") < 0)
		FAIL(l, errno, -1, "cannot enter /: %s", strerror(errno));
}

static void set_stdio(const struct launch *l)
{
	setsid();
	if (l->tty_fd >= 0 && ioctl(l->tty_fd, TIOCSCTTY, 0) < 0)
		FAIL(l, errno, -1, "cannot take the terminal: %s", strerror(errno));
	/* All of them are above 2: ends_open() is called with 0 to 2 in use. */
	for (int i = 0; i < 3; i++)
		if (dup2(l->stdio[i], i) < 0)
			FAIL(l, errno, -1, "cannot connect the streams: %s", strerror(errno));
}

/* ---- the program ---- */

static void exec_one(const char *path, char **argv, char **envp)
{
	char **script;
	size_t n = 0;

	execve(path, argv, envp);
	if (errno != ENOEXEC)
		return;
	/* A script without a first line that names its interpreter: what shells do. */
	while (argv[n])
		n++;
	script = calloc(n + 2, sizeof(char *));
	if (!script) {
		errno = ENOMEM;
		return;
	}
	script[0] = (char *)"sh";
	script[1] = (char *)path;
	for (size_t i = 1; i < n; i++)
		script[i + 1] = argv[i];
	execve("/bin/sh", script, envp);
	errno = ENOEXEC;
}

/* Returns with errno if nothing could be run. */
static void exec_search(const char *file, char **argv, const struct environment *env)
{
	const char *path = env_get(env, "PATH");
	bool denied = false;
	char full[8192];

	if (strchr(file, '/')) {
		exec_one(file, argv, env->vars);
		return;
	}
	errno = ENOENT;
	for (const char *p = path; p && *file; p = *p ? p + 1 : NULL) {
		size_t n = strcspn(p, ":");

		snprintf(full, sizeof(full), "%.*s%s%s", (int)WSLX_MIN(n, (size_t)4096), p, n ? "/" : "", file);
		p += n;
		exec_one(full, argv, env->vars);
		if (errno == EACCES)
			denied = true;
		else if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP && errno != ENAMETOOLONG)
			return;
		if (!*p)
			break;
	}
	errno = denied ? EACCES : ENOENT;
}

static void run(const struct launch *l, const struct wslx_user *u, const struct environment *env)
{
	const char *const *args = l->m->argv;
	const char *file = args[0], *base;
	char **argv = (char **)args, argv0[4104];
	char *shell[4] = { (char *)u->shell };

	if (!file || (l->m->flags & WSLX_EXEC_SHELL)) {
		if (file) {
			shell[1] = (char *)"-c";
			shell[2] = (char *)file;
		}
		argv = shell;
		file = u->shell;
	}
	if (l->m->flags & WSLX_EXEC_LOGIN) {
		base = strrchr(file, '/');
		snprintf(argv0, sizeof(argv0), "-%s", base ? base + 1 : file);
		argv[0] = argv0;
	}
	exec_search(file, argv, env);
	if (errno == ENOENT && !strchr(file, '/'))
		FAIL(l, ENOENT, 127, "%.200s: command not found", file);
	FAIL(l, errno, errno == ENOENT || errno == ENOTDIR ? 127 : 126, "%.200s: %s", file, strerror(errno));
}

void wslx_launch_child(const struct launch *l)
{
	static struct wslx_user user;
	struct environment env = { 0 };

	set_stdio(l);
	enter_namespaces(l);
	find_user(l, &user);
	set_limits();
	make_environment(l, &user, &env);
	give_window(l, &user);
	become(l, &user);
	enter_cwd(l, &user);
	run(l, &user, &env);
	_exit(255);
}
