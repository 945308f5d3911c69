/*
 * Who holds a lock that we cannot get.  An open-file-description lock has no
 * owner to ask for, so this looks in /proc at who has the file open: one of our
 * machines, by its supervisor's title and the lock it inherited, or any other
 * program.  Best effort, for a message only.
 */
#ifndef WSLX_VMM_SUPERVISOR_HOLDER_H
#define WSLX_VMM_SUPERVISOR_HOLDER_H

#include <limits.h>

#include "proto/vmconfig.h"

struct wslx_holder {
	char pid[16]; /* "" = nobody that may be looked at */
	char comm[64];
	char machine[WSLX_NAME_MAX + 1]; /* "" = no machine of ours */
	char run[PATH_MAX];              /* the machine's runtime folder; "" = not known */
};

void wslx_holder_find(int fd, struct wslx_holder *ret);

/* " by ..., and how to go on": the rest of a line that ends in "in use".
 * runtime_dir: that of the machine which wants the file. */
void wslx_holder_describe(const struct wslx_holder *h, const char *runtime_dir, char *buf, size_t size);

#endif
