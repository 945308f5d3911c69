/*
 * libwslx: Linux distributions in micro-VMs, from a program.
 *
 * A handle is used by one thread at a time; several handles, also of several
 * processes, agree through file locks.  Machines outlive the handle and the
 * process that started them.
 *
 * Functions return 0, or a negative errno value; then the error object, if one
 * was given, holds a line for the user.  Nothing here prints, exits, or touches
 * signal handlers.
 *
 * What the program has to know of it:
 *
 * - SIGPIPE must be ignored while libwslx_exec() runs.
 * - SIGCHLD must not be ignored, and nothing may wait for children it did not
 *   start (wait(), waitpid(-1, ...)), while libwslx_import_distro() runs: it
 *   cannot know then what became of the programs it runs, and fails with
 *   ECHILD.  The other functions cope.
 * - Starting, executing and importing fork.  That is safe in a program of many
 *   threads: between fork and exec nothing but system calls happens, and no
 *   descriptor of the program's gets into what is executed, except that handlers
 *   of pthread_atfork() run.  An import also has a thread of its own for a while.
 *
 * Structures that may grow begin with their own size, so that a program and a
 * library of different releases understand each other: in one that the program
 * fills it is what the program was compiled with, which the *_INIT macros set,
 * and members that the library does not know must be zero (else E2BIG); in one
 * that the library fills, it is how much of it there is.  struct libwslx_error
 * never changes.
 */
#ifndef WSLX_WSLX_H
#define WSLX_WSLX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct libwslx libwslx;

struct libwslx_error {
	int code; /* positive errno value */
	char message[1024];
};

/* "0.1.0" */
const char *libwslx_version(void);

/* Opens the user's registry: WSLX_HOME, else the XDG folders.  Waits for nobody. */
int libwslx_open(libwslx **ret, struct libwslx_error *err);
void libwslx_close(libwslx *w); /* NULL is fine */

/* ---- Long operations: libwslx_import_distro, _start, _exec ---- */

/* Called on the caller's thread by these three, at most some ten times a second.
 * what: a few words, such as "importing".  done, total: bytes, 0 = not known.
 * fn NULL: nobody listens, as at first. */
typedef void (*libwslx_progress_fn)(void *opaque, const char *what, uint64_t done, uint64_t total);
void libwslx_set_progress(libwslx *w, libwslx_progress_fn fn, void *opaque);

/* While fd is readable these three end with ECANCELED, soon: an import leaves
 * nothing behind, a machine goes on starting, a program in a machine is hung up.
 * A pipe, an eventfd, a timerfd for a time limit ...; borrowed, and never read
 * from.  -1: never, as at first.  Also without it, a machine that does not come
 * up is given up after half a minute, or two on the tcg engine. */
void libwslx_set_cancel_fd(libwslx *w, int fd);

/* ---- Distributions ---- */

enum libwslx_state {
	LIBWSLX_STOPPED = 0,
	LIBWSLX_STARTING = 1,
	LIBWSLX_RUNNING = 2,
	LIBWSLX_PAUSED = 3,
	LIBWSLX_STOPPING = 4
};

struct libwslx_distro {
	size_t size; /* set by the library: members beyond it are not there */
	char name[257];
	enum libwslx_state state;
	int is_default;
	int64_t pid;     /* of the machine's supervisor; 0 = none */
	char engine[8];  /* of the running machine: "kvm", "tcg"; "" = none */
	uint64_t memory; /* bytes, of the running machine */
	uint32_t cpus;
};

/* *ret: *ret_n pointers, and a NULL; free them with libwslx_list_free().  A
 * machine that does not answer takes five seconds and is listed as starting. */
int libwslx_list(libwslx *w, struct libwslx_distro ***ret, size_t *ret_n, struct libwslx_error *err);
void libwslx_list_free(struct libwslx_distro **list);

struct libwslx_import {
	size_t size;        /* sizeof(struct libwslx_import) */
	const char *name;   /* the new distribution's */
	int fd;             /* a root file system archive or a raw ext4 image, read to its end; borrowed */
	const char *kernel; /* NULL: the default one */
	uint64_t disk_size; /* 0: the default */
};

#define LIBWSLX_IMPORT_INIT                                                                                            \
	{                                                                                                              \
		sizeof(struct libwslx_import), NULL, -1, NULL, 0                                                       \
	}

int libwslx_import_distro(libwslx *w, const struct libwslx_import *p, struct libwslx_error *err);

/* distro in all of these: NULL is the default one. */

/* Starts the machine, or finds it running; returns when commands can be run.
 * First stops what `wslx run` commands that were killed left running. */
int libwslx_start(libwslx *w, const char *distro, struct libwslx_error *err);

#define LIBWSLX_EXEC_SHELL 1u /* argv[0] is a line for the user's shell; no argv: the shell itself */
#define LIBWSLX_EXEC_LOGIN 2u /* a login shell */

struct libwslx_exec {
	size_t size; /* sizeof(struct libwslx_exec) */
	const char *distro;
	const char *const *argv; /* NULL-terminated */
	const char *const *env;  /* "NAME=VALUE", over the defaults; NULL: none */
	const char *cwd;         /* NULL: the user's home */
	const char *user;        /* NULL: the default user */
	unsigned flags;          /* LIBWSLX_EXEC_* */
	int fds[3];              /* standard input, output, error; -1: the null device; borrowed */
};

/* All streams on the null device. */
#define LIBWSLX_EXEC_INIT                                                                                              \
	{                                                                                                              \
		sizeof(struct libwslx_exec), NULL, NULL, NULL, NULL, NULL, 0,                                          \
		{                                                                                                      \
			-1, -1, -1                                                                                     \
		}                                                                                                      \
	}

/* Runs a program and waits for it; starts the machine if need be.  *ret_status:
 * its exit status, or 128 plus the number of the signal that ended it; on
 * failure 127 if there is no such program, 126 if it cannot be run, else 255.
 * NULL: not wanted. */
int libwslx_exec(libwslx *w, const struct libwslx_exec *p, int *ret_status, struct libwslx_error *err);

/* Stops the machine; force: at once.  0 also if it did not run.  It takes
 * a minute at the most; a machine that does not answer is killed. */
int libwslx_terminate(libwslx *w, const char *distro, int force, struct libwslx_error *err);

/* Stops it and deletes it with its disk.  Here NULL is an error. */
int libwslx_unregister(libwslx *w, const char *distro, struct libwslx_error *err);

#ifdef __cplusplus
}
#endif

#endif
