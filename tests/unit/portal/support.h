/*
 * A broker on a thread of its own, and attaching to it.
 *
 * No process is forked while such a thread runs: the child would have a copy of
 * whatever lock it held, the allocator's above all, and nobody to let go of it.
 * child_start() stops the threads first and starts others afterwards; meanwhile
 * the brokers' sockets take what comes.
 */
#ifndef PORTAL_TEST_SUPPORT_H
#define PORTAL_TEST_SUPPORT_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/resource.h>
#include <wslx/portal.h>

#define SEC INT64_C(1000000000)
#define LONG (20 * SEC)

struct server;

struct broker {
	portal_host *h;
	struct server *server; /* its thread; NULL: it was stopped */
	char dir[64], path[96];
};

void broker_start(struct broker *b, const struct portal_host_params *p);
void broker_stop(struct broker *b); /* the thread; the host lives until broker_end */
void broker_go_on(struct broker *b);
void broker_end(struct broker *b);
/* What the thread has computed so far, since the last fork. */
int64_t broker_used_ns(const struct broker *b);
/* A participant of this process, or of the one that calls. */
portal *broker_attach(struct broker *b, const char *name);
/* So many objects of a segment, one after the other, each with the next number in the next place; the first error. */
int come_and_go(portal_host *h, int times);

/* From now on this process gets no further descriptor, until RLIMIT_NOFILE is set to what it was. */
struct rlimit no_more_descriptors(void);

/* Runs fn(arg) in a child that skips cmocka's and the sanitizers' ends; its result is the exit status. */
int child_start(int (*fn)(void *arg), void *arg);
void child_wait(int pid); /* must have ended with 0 */
void child_kill(int pid);

#endif
