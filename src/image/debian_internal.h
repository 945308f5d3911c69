/* Shared by the debian*.c files; not for others. */
#ifndef WSLX_IMAGE_DEBIAN_INTERNAL_H
#define WSLX_IMAGE_DEBIAN_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"
#include "image/task.h"

#define WSLX_DEBIAN_SOURCES 24u

/* The host's release if it is Debian, else "bookworm". */
void wslx_debian_suite(char *buf, size_t size);
/* A suite or package name, nothing that a program could take for an option. */
bool wslx_debian_name_ok(const char *s);
/* sources.list lines of the host for suite, its updates and security; caller
 * frees each.  None is no error. */
WSLX_MUST_CHECK int wslx_debian_sources(const char *suite, const struct wslx_task *task, char *ret[WSLX_DEBIAN_SOURCES],
					size_t *ret_n);
/* "http_proxy=..." when the host's apt uses a proxy; -ENOENT. */
WSLX_MUST_CHECK int wslx_debian_proxy(const struct wslx_task *task, char *buf, size_t size);

#endif
