/*
 * A machine that is not there: a memfd stands for the devdax device, a socket
 * pair for the vsock doorbell, and a thread does what a machine's supervisor
 * does, by docs/portal.md: broker's client, tables of the window, doorbell.
 * What lies under a window segment is a matter of the map() that libportal is
 * given; when the thread changes it, it does so under the guest's mappings, as
 * a VMM would.
 */
#ifndef PORTAL_TEST_VM_H
#define PORTAL_TEST_VM_H

#include "support.h"

#include "portal/guest.h"

#define VM_SEGMENTS 64u
#define VM_MAPPINGS 512

struct vm_run {
	uint32_t first, segments;
	int fd; /* -1: nothing, reads as zeros */
	bool writable;
};

struct vm_mapping {
	uint8_t *at;
	size_t len;
	uint64_t off;
};

struct vm {
	struct broker *b;
	struct wslx_portal_guest_os os;
	const char *as;
	uint32_t own_segments;
	int device; /* the tables; the rest of it is never read */
	uint8_t *tables;
	int sock, bell, wake[2];
	bool used; /* the participant had a connection */
	pthread_t thread;
	pthread_mutex_t lock; /* guards the rest: the guest maps from its own thread */
	int new_bell;
	bool stop, cut, withdraw, full, room;
	bool slow, slow_seen;
	uint32_t left_out; /* an arena that came while it was full; 0: none */
	uint32_t epoch, cursor;
	struct vm_run run[PORTAL_MAX_ARENAS];
	struct vm_mapping mapping[VM_MAPPINGS];
	size_t n_mappings;
};

void vm_start(struct vm *v, struct broker *b, const char *as);
void vm_end(struct vm *v);
portal *vm_attach(struct vm *v);
struct portal_window_entry *vm_entry(struct vm *v);
struct portal_window_arena *vm_places(struct vm *v);
/* The doorbell's connection ends, as when the guest's process has died. */
void vm_cut(struct vm *v);
/* From now on there is no room for others' arenas, until there is. */
void vm_full(struct vm *v);
void vm_room(struct vm *v);
/* The supervisor is busy with something else, until it is not. */
void vm_slow(struct vm *v, bool on);
/* The grant ends. */
void vm_withdraw(struct vm *v);

#endif
