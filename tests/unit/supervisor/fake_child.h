#ifndef TESTS_UNIT_SUPERVISOR_FAKE_CHILD_H
#define TESTS_UNIT_SUPERVISOR_FAKE_CHILD_H

/* Does not return but with an error. */
int fake_child_main(int params_fd);

#endif
