/* Somebody who connects to the service "door" while the one who listens is in this thread. */
#ifndef PORTAL_TEST_VISIT_H
#define PORTAL_TEST_VISIT_H

#include "support.h"

struct visitor {
	portal *p;
	const char *name; /* of the service */
	portal_chan *c;
	pthread_t t;
};

/* The event word: it moves when a kick has arrived. */
uint32_t event_of(const portal *p);
void await_event_after(const portal *p, uint32_t ev);

/* Until its offer is there and the kick has arrived. */
void knock(struct visitor *v, portal *p, const portal *server);
void knock_at(struct visitor *v, portal *p, const portal *server, const char *name);
/* What portal_connect() has said. */
int answer_to(struct visitor *v);
void comes_in(struct visitor *v);
void connect_one(struct visitor *v, portal *p, const portal *server, portal_listener *l, portal_chan **ret);
/* Closes, and the server has been told. */
void leave(struct visitor *v, const portal *server);

#endif
