#include "image/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "os/linux/fd.h"
#include "os/linux/spawn.h"

/* An ordinary user's PATH often lacks the folders of mke2fs and depmod. */
#define SBIN "/usr/local/sbin:/usr/sbin:/sbin"
#define OUTPUT_MAX ((size_t)16 << 20)
#define GRACE_MS 3000

extern char **environ;

static int make_path(char *buf, size_t size)
{
	const char *path = getenv("PATH");
	int n = snprintf(buf, size, "PATH=%s:%s", path && *path ? path : WSLX_DEFAULT_PATH, SBIN);

	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int find(const char *name, char **ret)
{
	char dirs[8192];
	int r = make_path(dirs, sizeof(dirs));

	return r < 0 ? r : wslx_find_program_in(dirs + strlen("PATH="), name, ret);
}

bool wslx_proc_exists(const char *name)
{
	cleanup_free char *path = NULL;

	return find(name, &path) == 0;
}

/* Our environment with PATH, messages in English, and the extra ones.  The
 * user's is meant to be there: proxies, and where apt and mke2fs are configured. */
static char **make_env(const char *const *extra, char *path)
{
	size_t n = 0, n_extra = 0, k = 0;

	while (environ[n])
		n++;
	while (extra && extra[n_extra])
		n_extra++;
	char **env = calloc(n + n_extra + 3, sizeof(*env));

	if (!env)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "PATH=", 5) != 0 && strncmp(environ[i], "LC_ALL=", 7) != 0)
			env[k++] = environ[i];
	env[k++] = path;
	env[k++] = (char *)(uintptr_t) "LC_ALL=C.UTF-8";
	for (size_t i = 0; i < n_extra; i++)
		env[k++] = (char *)(uintptr_t)extra[i];
	return env;
}

/* In the new process: async-signal-safe calls only. */
static WSLX_NORETURN void child(const char *path, const struct wslx_proc_params *p, char *const *env, int log_fd,
				int null_fd, pid_t parent)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(127);
	for (int s = 1; s < NSIG; s++)
		sigaction(s, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(null_fd, 0) < 0 || dup2(p->stdout_fd >= 0 ? p->stdout_fd : log_fd, 1) < 0 || dup2(log_fd, 2) < 0)
		_exit(127);
	if (p->keep_fd >= 0 && fcntl(p->keep_fd, F_SETFD, 0) < 0)
		_exit(127);
	if (p->dir_fd >= 0 && fchdir(p->dir_fd) < 0)
		_exit(127);
	/* Nothing else of ours: locks and sockets must not outlive us in it. */
	if (p->keep_fd > 3)
		syscall(SYS_close_range, 3, p->keep_fd - 1, 0);
	syscall(SYS_close_range, p->keep_fd >= 3 ? p->keep_fd + 1 : 3, ~0U, 0);
	execve(path, (char *const *)(uintptr_t)p->argv, env);
	_exit(127);
}

/* A descriptor above the standard ones, whatever is closed in this process. */
static int above_stdio(int fd)
{
	if (fd < 0 || fd > 2)
		return fd;
	int up = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	close(fd);
	return up;
}

int wslx_proc_start(const struct wslx_proc_params *p, struct wslx_proc *ret, struct wslx_err *err)
{
	char env_path[8192];
	cleanup_free char **env = NULL, *path = NULL;
	cleanup_close int null_fd = -1;
	cleanup_close int log_fd = -1;
	const char *name = p->argv[0];
	pid_t parent = getpid();

	if (find(name, &path) < 0)
		return wslx_err_set(err, ENOENT, "%s is not installed: install the package %s", name, p->package);
	if (make_path(env_path, sizeof(env_path)) < 0)
		return wslx_err_set(err, ENAMETOOLONG, "the environment variable PATH is too long");
	env = make_env(p->env, env_path);
	null_fd = above_stdio(open("/dev/null", O_RDWR | O_CLOEXEC));
	log_fd = above_stdio(memfd_create("log", MFD_CLOEXEC));
	if (!env || null_fd < 0 || log_fd < 0)
		return wslx_err_sys(err, errno, "cannot start %s", name);
	if (fcntl(log_fd, F_SETFL, O_APPEND) < 0)
		return wslx_err_sys(err, errno, "cannot start %s", name);
	pid_t pid = fork();

	if (pid < 0)
		return wslx_err_sys(err, errno, "cannot start %s", name);
	if (pid == 0)
		child(path, p, env, log_fd, null_fd, parent);
	setpgid(pid, pid);
	*ret = (struct wslx_proc) { .pid = pid, .log_fd = TAKE_FD(log_fd), .name = name };
	return 0;
}

/* The last line that says something; apt's and perl's notes end with it. */
static void last_line(int log_fd, char *buf, size_t size)
{
	char tail[4096];
	off_t len = lseek(log_fd, 0, SEEK_END);
	off_t from = len > (off_t)sizeof(tail) - 1 ? len - (off_t)sizeof(tail) + 1 : 0;
	ssize_t n = len > 0 ? pread(log_fd, tail, sizeof(tail) - 1, from) : 0;
	const char *best = NULL, *fatal = NULL;

	buf[0] = 0;
	if (n <= 0)
		return;
	tail[n] = 0;
	for (char *save, *line = strtok_r(tail, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
		if (strncmp(line, "E: ", 3) == 0 && !fatal)
			fatal = line + 3;
		if (strspn(line, " \t") != strlen(line))
			best = line;
	}
	if (fatal || best)
		snprintf(buf, size, "%s", fatal ? fatal : best);
}

/* Does it say that a disk was full?  In LC_ALL=C.UTF-8: the C library's words, and apt's. */
static bool says_full(int log_fd)
{
	static const char *const words[] = { "No space left on device", "Disk quota exceeded", "enough free space in" };
	char tail[16384];
	off_t len = lseek(log_fd, 0, SEEK_END);
	off_t from = len > (off_t)sizeof(tail) - 1 ? len - (off_t)sizeof(tail) + 1 : 0;
	ssize_t n = len > 0 ? pread(log_fd, tail, sizeof(tail) - 1, from) : 0;

	for (size_t i = 0; n > 0 && i < ARRAY_SIZE(words); i++)
		if (memmem(tail, (size_t)n, words[i], strlen(words[i])))
			return true;
	return false;
}

/* One wait of at most ms: 1 when it has ended, -ECHILD when it has and nobody
 * knows how: SIGCHLD is ignored, or another part of the program took the status. */
static int reap(struct wslx_proc *proc, int pidfd, int ms, int *status)
{
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };

	if (pidfd >= 0) {
		poll(&pfd, 1, ms);
	} else {
		struct timespec t = { .tv_nsec = 20000000 };

		nanosleep(&t, NULL);
	}
	pid_t r = waitpid(proc->pid, status, WNOHANG);

	if (r < 0 && errno == ECHILD)
		return -ECHILD;
	return r == proc->pid;
}

static int open_pidfd(const struct wslx_proc *proc)
{
	return (int)syscall(SYS_pidfd_open, proc->pid, 0);
}

static void stop(struct wslx_proc *proc, int pidfd)
{
	int64_t until = wslx_now_ms() + GRACE_MS;
	int status;

	/* mmdebstrap cleans up after itself on SIGTERM; what ignores it is killed. */
	kill(-proc->pid, SIGTERM);
	while (wslx_now_ms() < until)
		if (reap(proc, pidfd, 100, &status))
			goto gone;
	kill(-proc->pid, SIGKILL);
	while (waitpid(proc->pid, &status, 0) < 0 && errno == EINTR)
		;
gone:
	kill(-proc->pid, SIGKILL);
	proc->pid = 0;
}

int wslx_proc_wait(struct wslx_proc *proc, const struct wslx_task *task, struct wslx_err *err)
{
	cleanup_close int pidfd = open_pidfd(proc);
	char line[512];
	int status = 0, r;

	while ((r = reap(proc, pidfd, 100, &status)) == 0)
		if (wslx_task_cancelled(task)) {
			stop(proc, pidfd);
			return wslx_err_set(err, ECANCELED, "interrupted");
		}
	proc->pid = 0;
	if (r < 0)
		return wslx_err_set(err, ECHILD,
				    "cannot tell whether %s did its work: this program ignores SIGCHLD, or waits for "
				    "children that it did not start",
				    proc->name);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	last_line(proc->log_fd, line, sizeof(line));
	if (WIFSIGNALED(status))
		return wslx_err_set(err, ECHILD, "%s was killed by signal %d%s%s", proc->name, WTERMSIG(status),
				    line[0] ? ": " : "", line);
	return wslx_err_set(err, says_full(proc->log_fd) ? ENOSPC : ECHILD, "%s failed%s%s", proc->name,
			    line[0] ? ": " : "", line);
}

void wslx_proc_end(struct wslx_proc *proc)
{
	if (proc->pid > 0) {
		cleanup_close int pidfd = open_pidfd(proc);

		stop(proc, pidfd);
	}
	wslx_close(&proc->log_fd);
}

int wslx_proc_run(const struct wslx_proc_params *p, const struct wslx_task *task, char **ret_out, struct wslx_err *err)
{
	cleanup_with(wslx_proc_end) struct wslx_proc proc = WSLX_PROC_NONE;
	cleanup_close int out_fd = -1;
	struct wslx_proc_params with = *p;
	cleanup_free char *out = NULL;
	struct stat st;

	if (ret_out) {
		out_fd = above_stdio(memfd_create("output", MFD_CLOEXEC));
		if (out_fd < 0)
			return wslx_err_sys(err, errno, "cannot start %s", p->argv[0]);
		with.stdout_fd = out_fd;
	}
	int r = wslx_proc_start(&with, &proc, err);

	if (r == 0)
		r = wslx_proc_wait(&proc, task, err);
	if (r < 0 || !ret_out)
		return r;
	if (fstat(out_fd, &st) < 0 || (uint64_t)st.st_size > OUTPUT_MAX)
		return wslx_err_set(err, EFBIG, "%s said too much", p->argv[0]);
	out = calloc(1, (size_t)st.st_size + 1);
	if (!out)
		return wslx_err_sys(err, ENOMEM, "cannot read from %s", p->argv[0]);
	r = wslx_pread_full(out_fd, out, (size_t)st.st_size, 0);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read from %s", p->argv[0]);
	*ret_out = TAKE_PTR(out);
	return 0;
}
