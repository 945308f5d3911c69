/*
 * A supervisor in a process of its own, in folders of its own, whose child is
 * this very program again (fake_child.h), and a client of its control socket.
 */
#ifndef TESTS_UNIT_SUPERVISOR_MACHINE_H
#define TESTS_UNIT_SUPERVISOR_MACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include <cmocka.h>
#include <jansson.h>

#include "proto/vmconfig.h"

struct machine {
	char dir[64], run[80], state[80], disk[80], control[96];
	struct wslx_vm_config c;
	struct wslx_disk_config d;
	struct wslx_distro_config distro;
	pid_t pid;
	int ready_fd;
	unsigned panic_wait_ms, pause_limit_ms;
	int lock_wait_ms;
	bool log;    /* into vmm.log, not to our own standard error */
	char *lines; /* what was read from ready_fd */
	size_t n;
};

/* First in main(): does not return in a process that is to play the child. */
void machine_main(int argc, char **argv);

/* The folders and the configuration of a machine that plays `fake`. */
void machine_setup(struct machine *m, const char *fake);
void machine_start(struct machine *m);
void machine_start_json(struct machine *m, const char *json);
/* All of it, and ready. */
void start_ready(struct machine *m, const char *fake, unsigned pause_limit_ms, unsigned panic_wait_ms);
void machine_remove(struct machine *m);

void expect_ready(struct machine *m);
/* Fails, naming `what`, and the console's `line` if that is not NULL. */
void expect_failed(struct machine *m, const char *what, const char *line);
/* The exit status, or 128 + signal. */
int wait_end(struct machine *m);
/* Terminate, wait, remove. */
void end_in_order(struct machine *m);

/* ---- a control client ---- */

int control_client(struct machine *m);
/* As soon as there is a socket. */
int await_client(struct machine *m);
/* method: of the machine's interface, or complete. */
void send_call(int fd, const char *method, const char *params);
json_t *read_answer(int fd);
json_t *control_call(struct machine *m, const char *method, const char *params);
void call_ok(struct machine *m, const char *method, const char *params);
void call_fails(struct machine *m, const char *method, const char *params, const char *error);
/* "" if there is none. */
const char *json_text(json_t *j, const char *key);

/* ---- what the machine does ---- */

void expect_state(struct machine *m, const char *state);
void wait_state(struct machine *m, const char *state);
/* Until the guest's console holds `text`. */
void wait_console(struct machine *m, const char *text);
bool has_panic(struct machine *m);
json_int_t boots(struct machine *m);
/* A file of the state folder; freed by the caller. */
char *read_state(struct machine *m, const char *name);

#endif
