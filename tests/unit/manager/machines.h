/* A home with a kernel and the distro "one", whose machine is the fake one. */
#ifndef WSLX_TESTS_MANAGER_MACHINES_H
#define WSLX_TESTS_MANAGER_MACHINES_H

#include "home.h"
#include "manager/machine.h"

int machines_setup(void **state);
int machines_teardown(void **state);
/* Of the fake machine so far. */
size_t starts(struct home *h);
int start(struct home *h, const struct wslx_start_hooks *hooks, struct wslx_err *err);

#endif
