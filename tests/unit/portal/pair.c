#include "pair.h"

struct connection {
	struct pair *p;
	uint64_t capacity;
};

static void *connect_client(void *arg)
{
	const struct connection *c = arg;

	return (void *)(intptr_t)portal_connect(c->p->client, "svc", c->capacity, LONG, &c->p->tx);
}

void pair_start(struct pair *p, uint32_t kind, uint64_t capacity)
{
	struct portal_listen params = { .size = sizeof(params), .kind = kind, .tx_capacity = capacity };
	struct connection c = { p, capacity };
	pthread_t t;
	void *r;

	broker_start(&p->b, NULL);
	p->client = broker_attach(&p->b, "client");
	p->server = broker_attach(&p->b, "server");
	assert_non_null(p->client);
	assert_non_null(p->server);
	assert_int_equal(portal_listen(p->server, "svc", &params, &p->l), 0);
	assert_int_equal(pthread_create(&t, NULL, connect_client, &c), 0);
	assert_int_equal(portal_accept(p->l, LONG, &p->rx), 0);
	assert_int_equal(pthread_join(t, &r), 0);
	assert_int_equal((intptr_t)r, 0);
}

void pair_end(struct pair *p)
{
	portal_chan_free(p->tx);
	portal_chan_free(p->rx);
	portal_listener_free(p->l);
	portal_detach(p->client);
	portal_detach(p->server);
	broker_end(&p->b);
}
