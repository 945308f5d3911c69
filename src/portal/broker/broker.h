/*
 * wslx-portal: the broker of one region, as a program.
 *
 * Theory of operation.  portal_host_* (host.h) does the work; here are a loop,
 * a control socket that speaks varlink as the supervisors' do (methods.c), and
 * the process around it (main.c).  What waits for participants (revoking,
 * quiesce) is asked for without waiting and looked at again by a timer, so that
 * the loop serves everybody meanwhile.
 *
 * The region lives as long as the process, which holds FOLDER/NAME.lock; its
 * sockets are NAME.sock and NAME.ctl beside it.  It confines itself before the
 * first client is served.
 *
 * Threads: one.  Trust boundary: both sockets serve the same user only; what
 * participants send is hostile (host.h), what comes over the control socket may
 * be wrong and is checked.
 */
#ifndef WSLX_PORTAL_BROKER_H
#define WSLX_PORTAL_BROKER_H

#include <wslx/portal.h>

#include "base/err.h"
#include "base/loop.h"
#include "vmm/supervisor/control.h"

struct broker;

/* host, loop: borrowed.  path: of the control socket. */
WSLX_MUST_CHECK int wslx_broker_new(struct wslx_loop *loop, portal_host *host, const char *name, const char *path,
				    struct broker **ret, struct wslx_err *err);
/* Calls under way are answered: the region ends.  NULL is fine. */
void wslx_broker_free(struct broker *b);

#endif
