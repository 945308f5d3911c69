/*
 * A machine's settings as a user writes them: options, `wslx config`, and the
 * members of distro.json all go through wslx_settings_set().
 */
#ifndef WSLX_MANAGER_SETTINGS_H
#define WSLX_MANAGER_SETTINGS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "manager/grant.h"
#include "proto/vmconfig.h"

/* What Debian's kernels need to boot: measured 72 MiB for the cloud kernel, 88
 * for the standard one. */
#define WSLX_MEMORY_DEBIAN (96 * WSLX_MIB)
#define WSLX_USER_MAX 256

struct wslx_settings {
	enum wslx_engine engine;        /* AUTO: WSLX_ENGINE, else the best that works */
	uint64_t memory;                /* bytes as asked for; 0 = by the host's */
	unsigned cpus;                  /* 0 = the host's */
	char kernel[WSLX_NAME_MAX + 1]; /* "" = the default kernel */
	char user[WSLX_USER_MAX + 1];   /* "" = the distro's own */
	struct wslx_net_config net;     /* .mac stays empty here */
	uint64_t portal_window;         /* bytes; 0 = WSLX_WINDOW_SIZE_DEFAULT */
	struct wslx_grant grants[WSLX_MAX_GRANTS];
	size_t n_grants;
};

extern const struct wslx_settings wslx_settings_default;

/* key: engine, memory, cpus, kernel, user, net, portal-window, publish and
 * portal (each adds one; an empty value drops them all).  An empty value gives the default back.
 * -EINVAL with one line; *s is then as before. */
WSLX_MUST_CHECK int wslx_settings_set(struct wslx_settings *s, const char *key, const char *value,
				      struct wslx_err *err);

/* What only shows when all are set: ports without passt; too little memory for
 * the default kernel, which is Debian's; what the next one says. */
WSLX_MUST_CHECK int wslx_settings_check(const struct wslx_settings *s, struct wslx_err *err);
/* Too much memory, alone or with the window.  distro.json may say so, from an
 * earlier release: no machine can have it. */
WSLX_MUST_CHECK int wslx_settings_check_fit(const struct wslx_settings *s, struct wslx_err *err);

/* "512M", "2G", "1.5G" is none; plain bytes, K, M, G, T and KB, MB, GB, TB (all
 * powers of 1024), without case.  -EINVAL, -ERANGE. */
WSLX_MUST_CHECK int wslx_size_parse(const char *s, uint64_t *ret);
#define WSLX_SIZE_TEXT 24
/* In the largest unit that says exactly as much. */
void wslx_size_format(uint64_t n, char buf[WSLX_SIZE_TEXT]);

#define WSLX_PUBLISH_TEXT 96
/* "[ADDR:]HOST:GUEST[/udp]"; an IPv6 address in brackets. */
WSLX_MUST_CHECK int wslx_publish_parse(const char *s, struct wslx_publish *ret, struct wslx_err *err);
void wslx_publish_format(const struct wslx_publish *p, char buf[WSLX_PUBLISH_TEXT]);

/* "none", "passt", "tap:NAME" */
#define WSLX_NET_TEXT 24
void wslx_net_format(const struct wslx_net_config *net, char buf[WSLX_NET_TEXT]);

/* What a machine of these settings gets: whole pages of 2 MiB. */
uint64_t wslx_settings_memory(const struct wslx_settings *s);

/* What memory = 0 and cpus = 0 mean on this host. */
uint64_t wslx_default_memory(void);
unsigned wslx_default_cpus(void);

#endif
