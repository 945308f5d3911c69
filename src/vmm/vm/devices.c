/* The machine's virtio devices, made from the start-up parameters. */
#include "vmm/vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "dev/backend/block.h"
#include "dev/backend/overlay.h"
#include "dev/backend/ring_probe.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/console.h"
#include "dev/virtio/net.h"
#include "dev/virtio/rng.h"
#include "dev/virtio/vsock.h"

#define DEFAULT_MAX_QUEUES 4u
#define MAX_STATS 32

/* Takes the vdev and puts it into its slot. */
static int plug(struct vm *vm, unsigned slot, struct wslx_vdev *d, struct wslx_err *err)
{
	int r;

	vm->vdevs[vm->n_vdevs++] = d;
	r = wslx_virtio_pci_new(vm->pci, slot, d, vm->gm, NULL);
	return r < 0 ? wslx_err_sys(err, -r, "cannot add device %s", d->name) : 0;
}

static int add_console(struct vm *vm, struct wslx_err *err)
{
	cleanup_close int out = -1;
	struct wslx_vdev *d;
	int r;

	if (vm->params->console_fd >= 0) {
		out = fcntl(vm->params->console_fd, F_DUPFD_CLOEXEC, 3);
		if (out < 0)
			return wslx_err_sys(err, errno, "cannot duplicate the console's descriptor");
	}
	r = wslx_console_new(&(struct wslx_console_params) { .loop = vm->loop, .out_fd = out, .in_fd = -1 }, &d);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make the console device");
	(void)TAKE_FD(out);
	return plug(vm, WSLX_PCI_SLOT_CONSOLE, d, err);
}

static int add_rng(struct vm *vm, struct wslx_err *err)
{
	struct wslx_vdev *d;
	int r = wslx_rng_new(&(struct wslx_rng_params) { .loop = vm->loop }, &d);

	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make the random number device");
	return plug(vm, WSLX_PCI_SLOT_RNG, d, err);
}

static void on_connect_request(void *opaque, uint32_t id, uint32_t port)
{
	struct vm *vm = opaque;

	/* A supervisor too busy to read refuses. */
	if (wslx_vm_report(vm, WSLX_LINK_CONNECT, id, port, NULL) < 0)
		wslx_vsock_connect_done(vm->vsock, id, -1);
}

static int add_vsock(struct vm *vm, struct wslx_err *err)
{
	const struct wslx_vsock_params p = {
		.loop = vm->loop,
		.guest_cid = vm->params->guest_cid,
		.listen_fd = vm->params->vsock_fd,
		.connect_request = on_connect_request,
		.opaque = vm,
	};
	int r = wslx_vsock_new(&p, &vm->vsock);

	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make the vsock device");
	return plug(vm, WSLX_PCI_SLOT_VSOCK, vm->vsock, err);
}

static void on_net_down(void *opaque)
{
	(void)wslx_vm_report(opaque, WSLX_LINK_NET_DOWN, 0, 0, NULL);
}

static int add_net(struct vm *vm, struct wslx_err *err)
{
	struct wslx_net_params p = {
		.loop = vm->loop,
		.backend = vm->params->net_mode == WSLX_NET_TAP ? WSLX_NET_BACKEND_TAP : WSLX_NET_BACKEND_STREAM,
		.fd = vm->params->net_fd,
		.net_down = on_net_down,
		.opaque = vm,
	};
	int r;

	if (vm->params->net_mode == WSLX_NET_NONE)
		return 0;
	memcpy(p.mac, vm->params->mac, sizeof(p.mac));
	r = wslx_net_new(&p, &vm->net);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make the network device");
	return plug(vm, WSLX_PCI_SLOT_NET, vm->net, err);
}

static int add_window(struct vm *vm, struct wslx_err *err)
{
	struct wslx_vdev *d;
	int r = wslx_vm_window_new(vm, &d, err);

	return r < 0 ? r : plug(vm, WSLX_PCI_SLOT_PMEM, d, err);
}

static int open_backend(struct vm *vm, const struct wslx_child_disk *disk, struct wslx_loop *loop,
			struct wslx_block **ret, struct wslx_err *err)
{
	int r;

	if (disk->format == WSLX_DISK_OVERLAY) {
		const struct wslx_overlay_params p = {
			.loop = loop,
			.fd = disk->fd,
			.base_fd = disk->base_fd,
			.readonly = disk->readonly,
			.no_io_uring = vm->params->no_io_uring,
			.no_sync = disk->no_sync,
		};

		return wslx_overlay_open(&p, ret, err);
	}
	r = wslx_raw_open(&(struct wslx_raw_params) { .loop = loop,
						      .fd = disk->fd,
						      .readonly = disk->readonly,
						      .no_io_uring = vm->params->no_io_uring,
						      .no_sync = disk->no_sync },
			  ret);
	return r < 0 ? wslx_err_sys(err, -r, "cannot use it as a raw image") : 0;
}

/* On the disk's thread; a packet is one system call.  A supervisor too busy to read does not hear of it. */
static void on_host_full(void *opaque, bool full)
{
	struct vm_blk_loop *b = opaque;

	if (wslx_vm_report(b->vm, WSLX_LINK_HOST_FULL, (uint32_t)(b - b->vm->blk_loops), full, NULL) < 0)
		log_debug("a change of the host's disk was not reported");
}

static int add_disk(struct vm *vm, size_t i, struct wslx_err *err)
{
	const struct wslx_child_disk *disk = &vm->params->disks[i];
	unsigned per_cpu = WSLX_MIN(vm->params->cpus, DEFAULT_MAX_QUEUES);
	struct wslx_block *backend = NULL;
	struct wslx_blk_params p;
	struct wslx_vdev *d;
	char name[32];
	int r;

	r = wslx_loop_new(&vm->blk_loops[i].loop);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot make an event loop");
	vm->n_blk_loops++;
	r = open_backend(vm, disk, vm->blk_loops[i].loop, &backend, err);
	if (r < 0) {
		wslx_err_prefix(err, "disk %zu (%s)", i, disk->serial);
		return r;
	}
	vm->blk_loops[i].vm = vm;
	backend->host_full = on_host_full;
	backend->host_full_opaque = &vm->blk_loops[i];
	snprintf(name, sizeof(name), "blk%zu", i);
	p = (struct wslx_blk_params) {
		.loop = vm->blk_loops[i].loop,
		.name = name,
		.backend = backend,
		.serial = disk->serial,
		.readonly = disk->readonly,
		.queues = WSLX_MIN(disk->queues ? disk->queues : per_cpu, WSLX_BLK_MAX_QUEUES),
	};
	r = wslx_blk_new(&p, &d);
	if (r < 0) {
		wslx_block_free(backend);
		return wslx_err_sys(err, -r, "cannot make disk %zu", i);
	}
	return plug(vm, (unsigned)(WSLX_PCI_SLOT_BLK0 + i), d, err);
}

int wslx_vm_devices_new(struct vm *vm, struct wslx_err *err)
{
	int r = add_console(vm, err);

	if (r == 0)
		r = add_rng(vm, err);
	if (r == 0)
		r = add_vsock(vm, err);
	if (r == 0)
		r = add_net(vm, err);
	if (r == 0 && vm->params->window)
		r = add_window(vm, err);
	for (size_t i = 0; r == 0 && i < vm->params->n_disks; i++)
		r = add_disk(vm, i, err);
	if (r == 0 && vm->params->test_hooks && !vm->params->no_io_uring &&
	    wslx_ring_probe_new(vm->loop, &vm->ring_probe) < 0)
		log_debug("no io_uring to probe");
	return r;
}

void wslx_vm_devices_free(struct vm *vm)
{
	wslx_ring_probe_free(vm->ring_probe);
	vm->ring_probe = NULL;
	for (size_t i = vm->n_vdevs; i > 0; i--)
		vm->vdevs[i - 1]->ops->free(vm->vdevs[i - 1]);
	vm->n_vdevs = 0;
	for (size_t i = 0; i < vm->n_blk_loops; i++)
		wslx_loop_free(vm->blk_loops[i].loop);
	vm->n_blk_loops = 0;
}

static void *blk_thread(void *opaque)
{
	struct vm_blk_loop *b = opaque;
	int r;

	prctl(PR_SET_NAME, "blk");
	r = wslx_loop_run(b->loop);
	if (r < 0)
		log_error("disk thread: %s", strerror(-r));
	return NULL;
}

static void post_semaphore(void *opaque)
{
	sem_post(opaque);
}

/* Returns once every loop runs: from then on wslx_loop_call goes through it. */
int wslx_vm_blk_threads_start(struct vm *vm, struct wslx_err *err)
{
	size_t started = 0;
	sem_t running;
	int r = 0;

	sem_init(&running, 0, 0);
	for (size_t i = 0; r == 0 && i < vm->n_blk_loops; i++) {
		struct vm_blk_loop *b = &vm->blk_loops[i];

		r = pthread_create(&b->thread, NULL, blk_thread, b);
		if (r)
			break;
		b->has_thread = true;
		r = -wslx_loop_post(b->loop, post_semaphore, &running);
		started += r == 0;
	}
	while (started) {
		if (sem_wait(&running) == 0)
			started--;
	}
	sem_destroy(&running);
	return r ? wslx_err_sys(err, r, "cannot start the threads of the disks") : 0;
}

void wslx_vm_blk_threads_stop(struct vm *vm)
{
	for (size_t i = 0; i < vm->n_blk_loops; i++) {
		struct vm_blk_loop *b = &vm->blk_loops[i];

		if (!b->has_thread)
			continue;
		wslx_loop_stop(b->loop, 0);
		pthread_join(b->thread, NULL);
		b->has_thread = false;
	}
}

static void quiesce_one(void *opaque)
{
	struct wslx_vdev *d = opaque;

	if (d->ops->quiesce)
		d->ops->quiesce(d);
}

static void resume_one(void *opaque)
{
	struct wslx_vdev *d = opaque;

	if (d->ops->resume)
		d->ops->resume(d);
}

void wslx_vm_devices_quiesce(struct vm *vm)
{
	for (size_t i = 0; i < vm->n_vdevs; i++)
		wslx_loop_call(vm->vdevs[i]->loop, quiesce_one, vm->vdevs[i]);
}

void wslx_vm_devices_resume(struct vm *vm)
{
	for (size_t i = 0; i < vm->n_vdevs; i++)
		wslx_loop_call(vm->vdevs[i]->loop, resume_one, vm->vdevs[i]);
}

struct stats_call {
	struct wslx_vdev *d;
	struct wslx_stat stats[MAX_STATS];
	size_t n;
};

static void stats_one(void *opaque)
{
	struct stats_call *c = opaque;

	c->n = c->d->ops->stats ? c->d->ops->stats(c->d, c->stats, MAX_STATS) : 0;
}

size_t wslx_vm_devices_stats(struct vm *vm, char *buf, size_t size)
{
	struct wslx_stat console[] = {
		{ "bytes", wslx_chipset_console_bytes(vm->chipset) },
		{ "dropped", wslx_chipset_console_dropped(vm->chipset) },
	};
	size_t n = 0;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(console); i++) {
		r = snprintf(buf + n, size - n, "serial.%s %llu\n", console[i].name,
			     (unsigned long long)console[i].value);
		if (r < 0 || (size_t)r >= size - n)
			return n;
		n += (size_t)r;
	}
	for (size_t i = 0; i < vm->n_vdevs; i++) {
		struct stats_call c = { .d = vm->vdevs[i] };

		wslx_loop_call(c.d->loop, stats_one, &c);
		for (size_t k = 0; k < c.n; k++) {
			r = snprintf(buf + n, size - n, "%s.%s %llu\n", c.d->name, c.stats[k].name,
				     (unsigned long long)c.stats[k].value);
			if (r < 0 || (size_t)r >= size - n)
				return n;
			n += (size_t)r;
		}
	}
	return n;
}
