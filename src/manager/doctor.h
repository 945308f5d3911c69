/*
 * What works on this host, what does not, and how to mend it.
 */
#ifndef WSLX_MANAGER_DOCTOR_H
#define WSLX_MANAGER_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/macros.h"
#include "manager/registry.h"

enum wslx_verdict { WSLX_OK, WSLX_WARN, WSLX_FAIL };

struct wslx_check {
	const char *area; /* "engine", "kernel", "package" ... */
	char name[64];
	enum wslx_verdict verdict;
	char text[400]; /* what is so */
	char mend[200]; /* what to do; "" = nothing */
};

#define WSLX_CHECKS_MAX 40

struct wslx_doctor {
	struct wslx_check checks[WSLX_CHECKS_MAX];
	size_t n;
	bool engine_works;  /* at least one */
	bool has_kernel;    /* any */
	const char *engine; /* what auto picks; "none" */
};

/* fresh: probe even what is on file. */
void wslx_doctor_examine(struct wslx_manager *m, bool fresh, struct wslx_doctor *ret);
const char *wslx_verdict_name(enum wslx_verdict v);

#endif
