/*
 * The limit of vmm.log, which is the supervisor's descriptor 2: its own lines
 * and what it passes on of others go there through the logger, and when they
 * are WSLX_VMM_LOG_MAX bytes the file is followed by a new one.
 */
#ifndef WSLX_VMM_SUPERVISOR_VMMLOG_H
#define WSLX_VMM_SUPERVISOR_VMMLOG_H

#include <stddef.h>

#include "base/err.h"
#include "base/macros.h"

#define WSLX_VMM_LOG_MAX ((size_t)1 << 20)

struct wslx_vmmlog;

/* dir: the state folder.  Nothing happens if descriptor 2 is not its vmm.log. */
WSLX_MUST_CHECK int wslx_vmmlog_new(const char *dir, size_t max, struct wslx_vmmlog **ret, struct wslx_err *err);
void wslx_vmmlog_free(struct wslx_vmmlog *v); /* NULL is fine */

#endif
