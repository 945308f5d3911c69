/* Two participants of one process and a channel between them. */
#ifndef PORTAL_TEST_PAIR_H
#define PORTAL_TEST_PAIR_H

#include "support.h"

struct pair {
	struct broker b;
	portal *client, *server;
	portal_listener *l;
	portal_chan *tx, *rx; /* the client's and the server's end */
};

/* Both rings have that capacity. */
void pair_start(struct pair *p, uint32_t kind, uint64_t capacity);
void pair_end(struct pair *p); /* what the test has freed already is NULL */

#endif
