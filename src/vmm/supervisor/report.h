/*
 * What a supervisor, or a region's broker, tells those who started it (the ready
 * descriptor), and a supervisor those who come later (the state folder's
 * `events`): docs/control-protocol.md.
 *
 * Nobody has to listen: writes never block, and a reader that went away is
 * forgotten.
 */
#ifndef WSLX_VMM_SUPERVISOR_REPORT_H
#define WSLX_VMM_SUPERVISOR_REPORT_H

#include <jansson.h>
#include <stddef.h>

struct wslx_report {
	int ready_fd;     /* -1: said all, or nobody there */
	char *events_dir; /* NULL: not known yet */
};

void wslx_report_init(struct wslx_report *r, int ready_fd); /* -1 = nobody waits; fd is taken */
void wslx_report_free(struct wslx_report *r);

void wslx_report_progress(struct wslx_report *r, const char *what);
/* Both are the last thing said on the ready descriptor.  engine and timings may be NULL; timings and warnings are
 * borrowed. */
void wslx_report_ready(struct wslx_report *r, const char *engine, json_t *warnings, json_t *timings);
void wslx_report_failed(struct wslx_report *r, const char *message, const char *const *console, size_t n_console);
/* One line in `events`: {"time":ISO,"event":event,"text":text}. */
void wslx_report_event(struct wslx_report *r, const char *event, const char *text);

#endif
