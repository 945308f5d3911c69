/* A registry of its own for each test. */
#ifndef TEST_MANAGER_HOME_H
#define TEST_MANAGER_HOME_H

#include "manager/registry.h"

struct home {
	char dir[64];
	struct wslx_manager *m;
	unsigned seen; /* for recorders */
};

int home_setup(void **state);
int home_teardown(void **state);
/* Closes and opens the registry, as the next command would. */
void home_reopen(struct home *h);
/* Registers a distro with an empty disk. */
void home_add_distro(struct home *h, const char *name);
/* Entries of a store, temporary ones too, but for "." and "..". */
size_t home_count(struct home *h, enum wslx_store store);

#endif
