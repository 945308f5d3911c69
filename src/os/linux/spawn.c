#include "os/linux/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"

#define NOBODY 65534u

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

/* The minimal environment: what a program needs to be found and to log, and
 * what the sanitizers and coverage tools of a test run listen to.  Nothing of
 * the user's (tokens, agents' sockets) gets into a process that serves a guest. */
static const char *const env_names[] = {
	"PATH",         "WSLX_LOG",     "WSLX_NO_IO_URING", "ASAN_OPTIONS",
	"LSAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS",    "LLVM_PROFILE_FILE",
};

enum step { STEP_STDIO, STEP_KEEP, STEP_PARENT, STEP_RIGHTS, STEP_EXEC };
static const char *const step_names[] = { "set up its stdio", "pass its descriptors", "tie it to its parent",
					  "drop its rights", "execute it" };

struct failure {
	int step;
	int code;
};

static char **minimal_env(char *const *more)
{
	size_t n = 0, n_more = 0;
	char **env;

	while (more && more[n_more])
		n_more++;
	env = calloc(ARRAY_SIZE(env_names) + n_more + 1, sizeof(*env));

	for (size_t i = 0; env && i < ARRAY_SIZE(env_names); i++) {
		const char *v = getenv(env_names[i]);

		if (v && asprintf(&env[n], "%s=%s", env_names[i], v) >= 0)
			n++;
		else
			env[n] = NULL;
	}
	for (size_t i = 0; env && i < n_more; i++) {
		env[n] = strdup(more[i]);
		n += env[n] != NULL;
	}
	return env;
}

static void free_env(char ***env)
{
	for (char **e = *env; e && *e; e++)
		free(*e);
	free(*env);
}

/* ---- in the child: only system calls, and no return but to _exit --------- */

static int put_stdio(const struct wslx_spawn *p)
{
	const int want[3] = { p->stdin_fd, p->stdout_fd, p->stderr_fd };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int src[3];

	if (null < 0)
		return -errno;
	/* Out of the way first: one of the sources may itself be 0, 1 or 2. */
	for (int i = 0; i < 3; i++) {
		src[i] = fcntl(want[i] >= 0 ? want[i] : null, F_DUPFD_CLOEXEC, 3);
		if (src[i] < 0)
			return -errno;
	}
	for (int i = 0; i < 3; i++)
		if (dup2(src[i], i) < 0)
			return -errno;
	return 0;
}

static int keep_only(const int *keep, size_t n)
{
	if (syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
		return -errno;
	for (size_t i = 0; i < n; i++) {
		if (keep[i] < 3)
			return -EBADF;
		if (fcntl(keep[i], F_SETFD, 0) < 0)
			return -errno;
	}
	return 0;
}

static void reset_signals(void)
{
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The credentials change above clears the death signal, so this comes last;
 * a parent that died before it shows as another parent. */
static int tie_to_parent(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -errno;
	return getppid() == parent ? 0 : -ESRCH;
}

static int drop_rights(void)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (geteuid() != 0)
		return 0;
	/* Not possible in some containers, and only one layer of several. */
	if (unshare(CLONE_NEWNET | CLONE_NEWIPC) < 0)
		(void)errno;
	if (setgroups(0, NULL) < 0 && errno != EPERM)
		return -errno;
	/* In a user namespace that does not map nobody, its root is nobody already. */
	if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return errno == EINVAL ? 0 : -errno;
	return 0;
}

#define READ_RIGHTS (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
/* ABI 1: every right that existed then, read rights included. */
#define ALL_RIGHTS ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

static int allow_fd(int ruleset, int fd)
{
	struct landlock_path_beneath_attr rule = { .parent_fd = fd };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	rule.allowed_access = S_ISDIR(st.st_mode) ? READ_RIGHTS : READ_RIGHTS & ~LANDLOCK_ACCESS_FS_READ_DIR;
	if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0)
		return 0;
	/* A memfd lies on no file system that Landlock rules over: it needs none. */
	return errno == EBADFD ? 0 : -errno;
}

static int allow_path(int ruleset, const char *path)
{
	int fd = open(path, O_PATH | O_CLOEXEC), r;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	r = allow_fd(ruleset, fd);
	close(fd);
	return r;
}

static int system_files_only(const int *keep, size_t n_keep)
{
	static const char *const paths[] = { "/usr",
					     "/lib",
					     "/lib64",
					     "/bin",
					     "/etc/ld.so.cache",
					     "/etc/ld.so.preload",
					     "/proc/self",
					     "/sys/devices/system" };
	const struct landlock_ruleset_attr attr = { .handled_access_fs = ALL_RIGHTS };
	int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0), r = 0;

	if (ruleset < 0) /* not in this kernel */
		return errno == ENOSYS || errno == EOPNOTSUPP || errno == EPERM ? 0 : -errno;
	for (size_t i = 0; i < ARRAY_SIZE(paths) && r == 0; i++)
		r = allow_path(ruleset, paths[i]);
	for (size_t i = 0; i < n_keep && r == 0; i++) {
		struct stat st;

		if (fstat(keep[i], &st) == 0 && S_ISREG(st.st_mode))
			r = allow_fd(ruleset, keep[i]);
	}
	if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		r = -errno;
	close(ruleset);
	return r;
}

static WSLX_NORETURN void child(const struct wslx_spawn *p, char *const *env, pid_t parent, int report)
{
	struct failure f = { .step = STEP_STDIO };

	reset_signals();
	f.code = put_stdio(p);
	if (f.code == 0) {
		f.step = STEP_KEEP;
		f.code = keep_only(p->keep, p->n_keep);
	}
	if (f.code == 0 && p->drop_rights) {
		f.step = STEP_RIGHTS;
		f.code = drop_rights();
	}
	if (f.code == 0 && p->system_files_only)
		f.code = system_files_only(p->keep, p->n_keep);
	if (f.code == 0) {
		f.step = STEP_PARENT;
		f.code = tie_to_parent(parent);
	}
	if (f.code == 0) {
		f.step = STEP_EXEC;
		execve(p->path, p->argv, env);
		f.code = -errno;
	}
	(void)!write(report, &f, sizeof(f));
	_exit(127);
}

/* ---- in the parent --------------------------------------------------------- */

int wslx_pidfd_kill(int pidfd, int signo)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0) < 0 ? -errno : 0;
}

int wslx_reap(int pidfd, struct wslx_exit_status *ret)
{
	siginfo_t si = { 0 };
	int r;

	do
		r = waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	*ret = (struct wslx_exit_status) { 0 };
	if (si.si_code == CLD_EXITED)
		ret->status = si.si_status;
	else
		ret->signal = si.si_status;
	return 0;
}

/* End of file on the pipe: exec happened and closed it. */
static int await_exec(const struct wslx_spawn *p, int report, struct wslx_err *err)
{
	struct failure f;
	int r = wslx_read_full(report, &f, sizeof(f));

	if (r == -ENODATA)
		return 0;
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot start %s", p->path);
	return wslx_err_sys(err, -f.code, "cannot start %s: cannot %s", p->path, step_names[f.step]);
}

int wslx_spawn(const struct wslx_spawn *p, pid_t *ret_pid, int *ret_pidfd, struct wslx_err *err)
{
	cleanup_with(free_env) char **env = p->envp ? NULL : minimal_env(p->env_more);
	cleanup_close int rd = -1, wr = -1, pidfd = -1;
	struct wslx_exit_status st;
	pid_t pid, parent = getpid();
	int pipefd[2], r;

	if (!p->envp && !env)
		return wslx_err_sys(err, ENOMEM, "cannot start %s", p->path);
	if (pipe2(pipefd, O_CLOEXEC) < 0)
		return wslx_err_sys(err, errno, "cannot start %s", p->path);
	rd = pipefd[0];
	wr = pipefd[1];
	pid = fork();
	if (pid < 0)
		return wslx_err_sys(err, errno, "cannot start %s", p->path);
	if (pid == 0)
		child(p, p->envp ? p->envp : env, parent, wr);
	wslx_close(&wr);
	/* The child cannot have been reaped by anybody else: the number is its. */
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0) {
		r = wslx_err_sys(err, errno, "cannot start %s", p->path);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return r;
	}
	r = await_exec(p, rd, err);
	if (r < 0) {
		wslx_pidfd_kill(pidfd, SIGKILL);
		(void)!wslx_reap(pidfd, &st);
		return r;
	}
	*ret_pid = pid;
	*ret_pidfd = TAKE_FD(pidfd);
	return 0;
}

int wslx_find_program_in(const char *path, const char *name, char **ret)
{
	int r = -ENOENT;

	while (*path) {
		size_t n = strcspn(path, ":");
		cleanup_free char *full = NULL;
		struct stat st;

		/* A relative element would depend on where we happen to be. */
		if (n && path[0] == '/') {
			if (asprintf(&full, "%.*s/%s", (int)n, path, name) < 0)
				return -ENOMEM;
			if (stat(full, &st) == 0 && S_ISREG(st.st_mode)) {
				if (access(full, X_OK) == 0) {
					*ret = TAKE_PTR(full);
					return 0;
				}
				r = -EACCES;
			}
		}
		path += n;
		path += *path == ':';
	}
	return r;
}

int wslx_find_program(const char *name, char **ret)
{
	const char *path = getenv("PATH");
	cleanup_free char *found = NULL;
	int r = wslx_find_program_in(path && *path ? path : WSLX_DEFAULT_PATH, name, &found);

	if (r < 0)
		return r;
	/* The program itself: one that gave up its rights may not get through the
	 * folder of a link to it. */
	*ret = realpath(found, NULL);
	return *ret ? 0 : -errno;
}
