/*
 * virtio-pmem (virtio 1.2, section 5.19).
 *
 * A request is one readable buffer with a type and one writable buffer for the
 * answer.  Requests are answered at once, at most BUDGET in a row: a driver
 * that adds faster than they are served does not keep the loop to itself.
 */
#include "dev/virtio/pmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define QUEUE_SIZE 64u
#define BUDGET (4 * QUEUE_SIZE)
#define PCI_CLASS_MEMORY_OTHER 0x058000u

#define REQ_FLUSH 0u
#define REQ_LEN 4u
#define RESP_OK 0u
#define RESP_EIO 1u
#define RESP_LEN 4u
#define CONFIG_LEN 16u

struct pmem {
	struct wslx_vdev d;
	uint8_t config[CONFIG_LEN]; /* le64 start, le64 size */
	bool paused;
	struct wslx_timer *timer; /* goes on after a budget is used up */
	uint64_t n_flushes, n_unknown;
	struct wslx_chain chain;
};

static struct pmem *pmem_of(struct wslx_vdev *d)
{
	return CONTAINER_OF(d, struct pmem, d);
}

/* 1: one request served, 0: none there, -1: the device is broken. */
static int serve(struct pmem *p)
{
	struct wslx_vq *vq = &p->d.vq[0];
	struct wslx_chain *c = &p->chain;
	uint8_t req[REQ_LEN], resp[RESP_LEN];
	int r = wslx_vq_pop(vq, c);

	if (r == 0)
		return 0;
	if (r < 0 || c->out_len < REQ_LEN || c->in_len < RESP_LEN) {
		wslx_vdev_broken(&p->d, "malformed flush request");
		return -1;
	}
	(void)wslx_iov_read(c->iov, c->n_out, 0, req, REQ_LEN);
	if (wslx_get_le32(req) == REQ_FLUSH)
		p->n_flushes++;
	else
		p->n_unknown++;
	wslx_put_le32(resp, wslx_get_le32(req) == REQ_FLUSH ? RESP_OK : RESP_EIO);
	(void)wslx_iov_write(c->iov + c->n_out, c->n_in, 0, resp, RESP_LEN);
	wslx_vq_push(vq, c->head, RESP_LEN);
	return 1;
}

static void process(struct pmem *p)
{
	struct wslx_vq *vq = &p->d.vq[0];
	unsigned budget = BUDGET;
	int r;

	if (!p->d.active || p->d.broken || p->paused || !vq->enabled)
		return;
	do {
		wslx_vq_disable_kick(vq);
		while ((r = serve(p)) == 1 && --budget)
			;
	} while (r == 0 && wslx_vq_enable_kick(vq));
	if (r < 0)
		return;
	if (r == 1)
		wslx_timer_arm(p->timer, 1);
	if (budget != BUDGET)
		wslx_vdev_notify_used(&p->d, 0);
}

static void on_timer(struct wslx_timer *t, void *opaque)
{
	process(opaque);
}

static uint64_t pmem_features(struct wslx_vdev *d)
{
	return WSLX_VIRTIO_F_INDIRECT_DESC | WSLX_VIRTIO_F_EVENT_IDX;
}

static void pmem_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
	memcpy(buf, pmem_of(d)->config + off, len);
}

static int pmem_activate(struct wslx_vdev *d)
{
	d->active = true;
	d->broken = false;
	process(pmem_of(d));
	return 0;
}

static void pmem_kick(struct wslx_vdev *d, unsigned q)
{
	process(pmem_of(d));
}

static void pmem_reset(struct wslx_vdev *d)
{
	d->active = false;
	d->broken = false;
	pmem_of(d)->paused = false;
	wslx_timer_disarm(pmem_of(d)->timer);
}

static void pmem_quiesce(struct wslx_vdev *d)
{
	pmem_of(d)->paused = true;
	wslx_timer_disarm(pmem_of(d)->timer);
}

static void pmem_resume(struct wslx_vdev *d)
{
	pmem_of(d)->paused = false;
	process(pmem_of(d));
}

static size_t pmem_stats(struct wslx_vdev *d, struct wslx_stat *ret, size_t max)
{
	const struct wslx_stat all[] = {
		{ "flushes", pmem_of(d)->n_flushes },
		{ "unknown", pmem_of(d)->n_unknown },
	};
	size_t n = WSLX_MIN(max, ARRAY_SIZE(all));

	memcpy(ret, all, n * sizeof(*ret));
	return n;
}

static void pmem_free(struct wslx_vdev *d)
{
	if (!d)
		return;
	wslx_timer_free(pmem_of(d)->timer);
	free(pmem_of(d));
}

static const struct wslx_vdev_ops pmem_ops = {
	.features = pmem_features,
	.config_read = pmem_config_read,
	.activate = pmem_activate,
	.kick = pmem_kick,
	.reset = pmem_reset,
	.quiesce = pmem_quiesce,
	.resume = pmem_resume,
	.free = pmem_free,
	.stats = pmem_stats,
};

int wslx_pmem_new(const struct wslx_pmem_params *params, struct wslx_vdev **ret)
{
	struct pmem *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->d = (struct wslx_vdev) {
		.ops = &pmem_ops,
		.name = params->name ? params->name : "pmem",
		.id = WSLX_VIRTIO_ID_PMEM,
		.class_code = PCI_CLASS_MEMORY_OTHER,
		.n_queues = 1,
		.queue_max = { QUEUE_SIZE },
		.config_len = CONFIG_LEN,
		.loop = params->loop,
	};
	wslx_put_le64(p->config, params->start.v);
	wslx_put_le64(p->config + 8, params->size);
	r = wslx_loop_timer(params->loop, on_timer, p, &p->timer);
	if (r < 0) {
		free(p);
		return r;
	}
	*ret = &p->d;
	return 0;
}
