/*
 * Users and settings of a distro, read from its own files by a process that is
 * already inside: the agent is a static program and has no NSS.  The files are
 * the distro's: bounded in size, regular files only, lines that make no sense
 * are skipped.
 */
#ifndef WSLX_AGENT_USER_H
#define WSLX_AGENT_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/macros.h"

#define WSLX_USER_GROUPS_MAX 1024

struct wslx_user {
	uid_t uid;
	gid_t gid;
	char name[257];
	char home[4096];
	char shell[4096];
	gid_t groups[WSLX_USER_GROUPS_MAX];
	size_t n_groups;
};

/* By name, or by number if there is no such name; "" is root.  A number and
 * "root" need no entry.  -ENOENT: no such user.  Paths are for tests: NULL
 * means /etc/passwd and /etc/group. */
WSLX_MUST_CHECK int wslx_user_find(const char *who, const char *passwd, const char *group, struct wslx_user *ret);

/* A whole regular file of at most max bytes, NUL-terminated; caller frees.
 * Never blocks on a FIFO or device.  -errno; -EINVAL if no regular file. */
WSLX_MUST_CHECK int wslx_read_regular(const char *path, size_t max, char **ret, size_t *ret_len);

/*
 * /etc/wsl.conf by WSL's rules: sections and keys without case, # comments,
 * quotes, backslash escapes and continuations, CRLF; of two equal keys the
 * first wins.
 */
struct wslx_wslconf {
	bool generate_hosts;       /* [network] generateHosts, default true */
	bool generate_resolv_conf; /* [network] generateResolvConf, default true */
	char hostname[65];         /* [network] hostname, "" = not set */
	char user[257];            /* [user] default, "" = not set */
};
void wslx_wslconf_parse(const char *text, size_t len, struct wslx_wslconf *ret);
/* path NULL: /etc/wsl.conf.  A missing file gives the defaults. */
void wslx_wslconf_load(const char *path, struct wslx_wslconf *ret);

#endif
