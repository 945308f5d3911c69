/* Files the agent generates in a distro; called inside it. */
#ifndef WSLX_AGENT_ETC_H
#define WSLX_AGENT_ETC_H

#include <stddef.h>

#include "base/macros.h"

/* Replaces path by a regular file with that content (0644), or by a symbolic
 * link, atomically and without following a link at path.  Does nothing if that
 * is what is there.  0 or -errno. */
WSLX_MUST_CHECK int etc_replace_file(const char *path, const char *content);
WSLX_MUST_CHECK int etc_replace_link(const char *path, const char *target);

/* Content of /etc/hosts for a host name. */
void etc_hosts(const char *hostname, char *dst, size_t size);

#endif
