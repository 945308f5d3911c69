/*
 * virtio-rng (virtio 1.2, section 5.4).
 *
 * A token bucket of bytes bounds what a guest can make the host do: it fills
 * at the configured rate, up to a tenth of a second's worth.  When it is empty
 * requests stay in the queue and a timer takes them up later.  A request gets
 * at most MAX_CHUNK bytes; the driver asks again for more, as 5.4.6 allows.
 */
#include "dev/virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "dev/dev.h"

#define DEFAULT_RATE ((uint32_t)WSLX_MIB)
#define MIN_BURST 4096u
#define MAX_CHUNK 4096u
#define ROUND 64u /* requests before other watches get their turn */
#define QUEUE_SIZE 64u
#define PCI_CLASS_OTHER 0x00ff00u

struct rng {
	struct wslx_vdev d;
	uint32_t rate; /* bytes a second */
	uint64_t burst, tokens;
	uint64_t filled_ns; /* when tokens was last brought up to date */
	bool paused;
	struct wslx_timer *timer;
	uint64_t n_requests, n_bytes, n_waits;
	struct wslx_chain chain;
};

static struct rng *rng_of(struct wslx_vdev *d)
{
	return CONTAINER_OF(d, struct rng, d);
}

static void refill(struct rng *rng)
{
	uint64_t now = wslx_now_ns();
	uint64_t ms = (now - rng->filled_ns) / 1000000;

	if (ms >= 1000) {
		rng->tokens = rng->burst;
		rng->filled_ns = now;
		return;
	}
	rng->tokens += ms * rng->rate / 1000;
	rng->filled_ns += ms * 1000000;
	if (rng->tokens > rng->burst)
		rng->tokens = rng->burst;
}

/* Fills the writable buffers with up to max random bytes; returns how many. */
static uint32_t fill(struct wslx_chain *c, uint64_t max)
{
	uint32_t done = 0;

	for (unsigned i = 0; i < c->n_in && done < max; i++) {
		struct iovec *v = &c->iov[c->n_out + i];
		size_t want = (size_t)WSLX_MIN((uint64_t)v->iov_len, max - done);
		ssize_t n = getrandom(v->iov_base, want, GRND_NONBLOCK);

		if (n <= 0)
			break;
		done += (uint32_t)n;
		if ((size_t)n < want)
			break;
	}
	return done;
}

enum served { SERVED, EMPTY, LATER };

/* The timer takes the queue up again. */
static enum served later(struct rng *rng)
{
	wslx_timer_arm(rng->timer, 10);
	rng->n_waits++;
	return LATER;
}

/* One request. */
static enum served serve(struct rng *rng)
{
	struct wslx_vq *vq = &rng->d.vq[0];
	uint32_t n;
	int r;

	if (!rng->tokens)
		return later(rng);
	r = wslx_vq_pop(vq, &rng->chain);
	/* 5.4.6.1: only writable buffers. */
	if (r < 0 || (r == 1 && (rng->chain.n_out || !rng->chain.in_len))) {
		wslx_vdev_broken(&rng->d, "malformed request for random bytes");
		return LATER;
	}
	if (r == 0)
		return EMPTY;
	n = fill(&rng->chain, WSLX_MIN(rng->tokens, (uint64_t)MAX_CHUNK));
	if (!n) {
		/* The host's generator is not ready yet, early in its boot. */
		wslx_vq_unpop(vq);
		return later(rng);
	}
	rng->tokens -= n;
	rng->n_requests++;
	rng->n_bytes += n;
	wslx_vq_push(vq, rng->chain.head, n);
	return SERVED;
}

static void process(struct rng *rng)
{
	struct wslx_vq *vq = &rng->d.vq[0];
	unsigned budget = ROUND;
	bool pushed = false;
	enum served s = EMPTY;

	if (!rng->d.active || rng->d.broken || rng->paused || !vq->enabled)
		return;
	refill(rng);
	do {
		wslx_vq_disable_kick(vq);
		/* The bucket bounds the bytes, but it is a full one of requests
		 * for a single byte that takes long. */
		while (budget && (s = serve(rng)) == SERVED) {
			pushed = true;
			budget--;
		}
		if (budget && s == EMPTY)
			budget--; /* the guest may take a request back, for ever */
	} while (s == EMPTY && budget && wslx_vq_enable_kick(vq));
	if (!budget)
		wslx_timer_arm(rng->timer, 0);
	if (pushed && !rng->d.broken)
		wslx_vdev_notify_used(&rng->d, 0);
}

static void on_timer(struct wslx_timer *t, void *opaque)
{
	process(opaque);
}

static uint64_t rng_features(struct wslx_vdev *d)
{
	return WSLX_VIRTIO_F_INDIRECT_DESC | WSLX_VIRTIO_F_EVENT_IDX;
}

/* No configuration space (5.4.4). */
static void rng_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
}

static int rng_activate(struct wslx_vdev *d)
{
	d->active = true;
	d->broken = false;
	process(rng_of(d));
	return 0;
}

static void rng_kick(struct wslx_vdev *d, unsigned q)
{
	process(rng_of(d));
}

static void rng_reset(struct wslx_vdev *d)
{
	d->active = false;
	d->broken = false;
	rng_of(d)->paused = false;
	wslx_timer_disarm(rng_of(d)->timer);
}

static void rng_quiesce(struct wslx_vdev *d)
{
	rng_of(d)->paused = true;
	wslx_timer_disarm(rng_of(d)->timer);
}

static void rng_resume(struct wslx_vdev *d)
{
	rng_of(d)->paused = false;
	process(rng_of(d));
}

static size_t rng_stats(struct wslx_vdev *d, struct wslx_stat *ret, size_t max)
{
	const struct rng *rng = rng_of(d);
	const struct wslx_stat all[] = {
		{ "requests", rng->n_requests },
		{ "bytes", rng->n_bytes },
		{ "waits", rng->n_waits },
	};
	size_t n = WSLX_MIN(max, ARRAY_SIZE(all));

	for (size_t i = 0; i < n; i++)
		ret[i] = all[i];
	return n;
}

static void rng_free(struct wslx_vdev *d)
{
	if (!d)
		return;
	wslx_timer_free(rng_of(d)->timer);
	free(rng_of(d));
}

static const struct wslx_vdev_ops rng_ops = {
	.features = rng_features,
	.config_read = rng_config_read,
	.activate = rng_activate,
	.kick = rng_kick,
	.reset = rng_reset,
	.quiesce = rng_quiesce,
	.resume = rng_resume,
	.free = rng_free,
	.stats = rng_stats,
};

int wslx_rng_new(const struct wslx_rng_params *p, struct wslx_vdev **ret)
{
	struct rng *rng = calloc(1, sizeof(*rng));
	int r;

	if (!rng)
		return -ENOMEM;
	rng->d = (struct wslx_vdev) {
		.ops = &rng_ops,
		.name = p->name ? p->name : "rng",
		.id = WSLX_VIRTIO_ID_RNG,
		.class_code = PCI_CLASS_OTHER,
		.n_queues = 1,
		.queue_max = { QUEUE_SIZE },
		.loop = p->loop,
	};
	rng->rate = p->bytes_per_second ? p->bytes_per_second : DEFAULT_RATE;
	rng->burst = WSLX_MAX(rng->rate / 10, MIN_BURST);
	rng->tokens = rng->burst;
	rng->filled_ns = wslx_now_ns();
	r = wslx_loop_timer(p->loop, on_timer, rng, &rng->timer);
	if (r < 0) {
		rng_free(&rng->d);
		return r;
	}
	*ret = &rng->d;
	return 0;
}
