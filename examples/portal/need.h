/* What the examples say when a call fails: which, with which error, and what that means mostly. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline const char *meaning(int r)
{
	switch (-r) {
	case EPIPE:
		return "the region, or who was at the other end, is gone; in a machine also: it was revoked (EPIPE)";
	case EACCES:
		return "it was revoked, or not granted to this user (EACCES)";
	case ENOENT:
		return "there is no such region, name or file (ENOENT)";
	case ETIMEDOUT:
		return "nobody was there, or answered, in time (ETIMEDOUT)";
	default:
		return strerror(-r);
	}
}

/* r: what the call returned, 0 or a negative errno value.  Its result is r again. */
static inline int tell(const char *call, int r)
{
	if (r < 0)
		fprintf(stderr, "%s: %s\n", call, meaning(r));
	return r;
}

/* Without it there is no going on. */
static inline void need(const char *call, int r)
{
	if (tell(call, r) < 0)
		exit(1);
}
