#include "hv/fake/fake.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_GSI 24
#define MAX_IOEVENTFDS 256
#define MAX_SCRIPT 256
#define MAX_VCPUS 64
#define DATA_LEN 8

struct slot {
	bool used;
	struct wslx_gpa gpa;
	uint64_t size;
};

struct route {
	bool used, unmasked;
	int fd;
	struct wslx_msi msi;
};

struct doorbell {
	uint64_t gpa;
	unsigned len;
	int fd;
};

struct fake_vm {
	struct wslx_hv hv;
	pthread_mutex_t lock; /* guards everything below */
	size_t n_events;
	struct wslx_fake_event events[WSLX_FAKE_MAX_EVENTS];
	bool lines[MAX_GSI];
	struct slot slots[WSLX_FAKE_MAX_MAPS];
	struct route routes[WSLX_FAKE_MAX_ROUTES];
	size_t n_doorbells;
	struct doorbell doorbells[MAX_IOEVENTFDS];
};

struct step {
	struct wslx_exit exit;
	uint8_t pio[DATA_LEN];
};

struct fake_vcpu {
	struct wslx_vcpu vcpu;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool kicked;
	struct wslx_exit intr;
	size_t n, next;
	struct step script[MAX_SCRIPT];
	bool started;
	struct wslx_vcpu_start start;
	unsigned pauses;
};

static struct fake_vm *to_vm(struct wslx_hv *hv)
{
	return CONTAINER_OF(hv, struct fake_vm, hv);
}

static struct fake_vcpu *to_vcpu(struct wslx_vcpu *vcpu)
{
	return CONTAINER_OF(vcpu, struct fake_vcpu, vcpu);
}

static void record(struct fake_vm *vm, const struct wslx_fake_event *e)
{
	if (vm->n_events < WSLX_FAKE_MAX_EVENTS)
		vm->events[vm->n_events++] = *e;
}

static void fake_free(struct wslx_hv *hv)
{
	struct fake_vm *vm = to_vm(hv);

	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

static uint32_t fake_caps(const struct wslx_hv *hv)
{
	return WSLX_HV_CAP_IRQFD | WSLX_HV_CAP_IOEVENTFD;
}

static int fake_map(struct wslx_hv *hv, unsigned slot, struct wslx_gpa gpa, uint64_t size, void *host, bool readonly)
{
	struct fake_vm *vm = to_vm(hv);

	if (slot >= WSLX_FAKE_MAX_MAPS || !size || !host)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	vm->slots[slot] = (struct slot) { true, gpa, size };
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int fake_unmap(struct wslx_hv *hv, unsigned slot)
{
	struct fake_vm *vm = to_vm(hv);
	int r = -ENOENT;

	if (slot >= WSLX_FAKE_MAX_MAPS)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	if (vm->slots[slot].used)
		r = 0;
	vm->slots[slot].used = false;
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static int fake_dirty_log(struct wslx_hv *hv, unsigned slot, void *ret_bitmap)
{
	return -ENOTSUP;
}

static int fake_irq_line(struct wslx_hv *hv, unsigned gsi, bool level)
{
	struct fake_vm *vm = to_vm(hv);

	if (gsi >= MAX_GSI)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	vm->lines[gsi] = level;
	record(vm, &(struct wslx_fake_event) { .kind = WSLX_FAKE_IRQ_LINE, .gsi = gsi, .level = level });
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int fake_msi(struct wslx_hv *hv, const struct wslx_msi *msi)
{
	struct fake_vm *vm = to_vm(hv);

	pthread_mutex_lock(&vm->lock);
	record(vm, &(struct wslx_fake_event) { .kind = WSLX_FAKE_MSI, .msi = *msi });
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int fake_irqfd_msi(struct wslx_hv *hv, int eventfd, const struct wslx_msi *msi, int *handle)
{
	struct fake_vm *vm = to_vm(hv);
	int r = -ENOSPC;

	pthread_mutex_lock(&vm->lock);
	for (int i = 0; i < WSLX_FAKE_MAX_ROUTES; i++) {
		struct route *rt = &vm->routes[i];

		if (rt->used)
			continue;
		*rt = (struct route) { .used = true, .fd = eventfd };
		if (msi) {
			rt->unmasked = true;
			rt->msi = *msi;
		}
		*handle = i;
		r = 0;
		break;
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static int fake_irqfd_update(struct wslx_hv *hv, int handle, const struct wslx_msi *msi)
{
	struct fake_vm *vm = to_vm(hv);
	int r = -EINVAL;

	if (handle < 0 || handle >= WSLX_FAKE_MAX_ROUTES)
		return r;
	pthread_mutex_lock(&vm->lock);
	if (vm->routes[handle].used) {
		vm->routes[handle].unmasked = msi;
		if (msi)
			vm->routes[handle].msi = *msi;
		r = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static void fake_irqfd_release(struct wslx_hv *hv, int handle)
{
	struct fake_vm *vm = to_vm(hv);

	if (handle < 0 || handle >= WSLX_FAKE_MAX_ROUTES)
		return;
	pthread_mutex_lock(&vm->lock);
	vm->routes[handle].used = false;
	pthread_mutex_unlock(&vm->lock);
}

static int fake_ioeventfd(struct wslx_hv *hv, struct wslx_gpa gpa, unsigned len, int eventfd, bool assign)
{
	struct fake_vm *vm = to_vm(hv);
	int r = assign ? -ENOSPC : -ENOENT;

	pthread_mutex_lock(&vm->lock);
	for (size_t i = 0; i < vm->n_doorbells; i++) {
		struct doorbell *d = &vm->doorbells[i];

		if (d->gpa != gpa.v || d->len != len)
			continue;
		if (assign) {
			r = -EEXIST;
			goto out;
		}
		*d = vm->doorbells[--vm->n_doorbells];
		r = 0;
		goto out;
	}
	if (assign && vm->n_doorbells < MAX_IOEVENTFDS) {
		vm->doorbells[vm->n_doorbells++] = (struct doorbell) { gpa.v, len, eventfd };
		r = 0;
	}
out:
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static int fake_vcpu_new(struct wslx_hv *hv, unsigned index, struct wslx_vcpu **ret)
{
	struct fake_vcpu *v;

	if (index >= MAX_VCPUS)
		return -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->vcpu.hv = hv;
	v->vcpu.index = index;
	v->intr.kind = WSLX_EXIT_INTR;
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->wake, NULL);
	*ret = &v->vcpu;
	return 0;
}

static void fake_vcpu_free(struct wslx_vcpu *vcpu)
{
	struct fake_vcpu *v;

	if (!vcpu)
		return;
	v = to_vcpu(vcpu);
	pthread_mutex_destroy(&v->lock);
	pthread_cond_destroy(&v->wake);
	free(v);
}

static int fake_vcpu_start_state(struct wslx_vcpu *vcpu, const struct wslx_vcpu_start *start)
{
	struct fake_vcpu *v = to_vcpu(vcpu);

	v->start = *start;
	v->started = true;
	return 0;
}

static int fake_vcpu_run(struct wslx_vcpu *vcpu, struct wslx_exit **ret)
{
	struct fake_vcpu *v = to_vcpu(vcpu);

	pthread_mutex_lock(&v->lock);
	while (!v->kicked && v->next == v->n)
		pthread_cond_wait(&v->wake, &v->lock);
	if (v->kicked) {
		v->kicked = false;
		*ret = &v->intr;
	} else {
		*ret = &v->script[v->next++].exit;
	}
	pthread_mutex_unlock(&v->lock);
	return 0;
}

static void fake_vcpu_kick(struct wslx_vcpu *vcpu)
{
	struct fake_vcpu *v = to_vcpu(vcpu);

	pthread_mutex_lock(&v->lock);
	v->kicked = true;
	pthread_cond_broadcast(&v->wake);
	pthread_mutex_unlock(&v->lock);
}

static void fake_vcpu_was_paused(struct wslx_vcpu *vcpu)
{
	struct fake_vcpu *v = to_vcpu(vcpu);

	pthread_mutex_lock(&v->lock);
	v->pauses++;
	pthread_mutex_unlock(&v->lock);
}

unsigned wslx_hv_fake_pauses(struct wslx_vcpu *vcpu)
{
	struct fake_vcpu *v = to_vcpu(vcpu);
	unsigned n;

	pthread_mutex_lock(&v->lock);
	n = v->pauses;
	pthread_mutex_unlock(&v->lock);
	return n;
}

static const struct wslx_hv_ops fake_ops = {
	.name = "fake",
	.free = fake_free,
	.caps = fake_caps,
	.map = fake_map,
	.unmap = fake_unmap,
	.dirty_log = fake_dirty_log,
	.vcpu_new = fake_vcpu_new,
	.irq_line = fake_irq_line,
	.msi = fake_msi,
	.irqfd_msi = fake_irqfd_msi,
	.irqfd_update = fake_irqfd_update,
	.irqfd_release = fake_irqfd_release,
	.ioeventfd = fake_ioeventfd,
	.vcpu_free = fake_vcpu_free,
	.vcpu_start_state = fake_vcpu_start_state,
	.vcpu_run = fake_vcpu_run,
	.vcpu_kick = fake_vcpu_kick,
	.vcpu_was_paused = fake_vcpu_was_paused,
};

int wslx_hv_fake_new(struct wslx_hv **ret)
{
	struct fake_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return -ENOMEM;
	vm->hv.ops = &fake_ops;
	pthread_mutex_init(&vm->lock, NULL);
	*ret = &vm->hv;
	return 0;
}

size_t wslx_hv_fake_n_events(struct wslx_hv *hv)
{
	struct fake_vm *vm = to_vm(hv);
	size_t n;

	pthread_mutex_lock(&vm->lock);
	n = vm->n_events;
	pthread_mutex_unlock(&vm->lock);
	return n;
}

struct wslx_fake_event wslx_hv_fake_event(struct wslx_hv *hv, size_t i)
{
	struct fake_vm *vm = to_vm(hv);
	struct wslx_fake_event e = { 0 };

	pthread_mutex_lock(&vm->lock);
	if (i < vm->n_events)
		e = vm->events[i];
	pthread_mutex_unlock(&vm->lock);
	return e;
}

void wslx_hv_fake_clear_events(struct wslx_hv *hv)
{
	struct fake_vm *vm = to_vm(hv);

	pthread_mutex_lock(&vm->lock);
	vm->n_events = 0;
	pthread_mutex_unlock(&vm->lock);
}

bool wslx_hv_fake_line(struct wslx_hv *hv, unsigned gsi)
{
	struct fake_vm *vm = to_vm(hv);
	bool level;

	pthread_mutex_lock(&vm->lock);
	level = gsi < MAX_GSI && vm->lines[gsi];
	pthread_mutex_unlock(&vm->lock);
	return level;
}

bool wslx_hv_fake_route(struct wslx_hv *hv, int handle, struct wslx_msi *ret)
{
	struct fake_vm *vm = to_vm(hv);
	bool found = false;

	pthread_mutex_lock(&vm->lock);
	if (handle >= 0 && handle < WSLX_FAKE_MAX_ROUTES) {
		const struct route *rt = &vm->routes[handle];

		found = rt->used && rt->unmasked;
		if (found && ret)
			*ret = rt->msi;
	}
	pthread_mutex_unlock(&vm->lock);
	return found;
}

size_t wslx_hv_fake_n_routes(struct wslx_hv *hv)
{
	struct fake_vm *vm = to_vm(hv);
	size_t n = 0;

	pthread_mutex_lock(&vm->lock);
	for (size_t i = 0; i < WSLX_FAKE_MAX_ROUTES; i++)
		n += vm->routes[i].used;
	pthread_mutex_unlock(&vm->lock);
	return n;
}

size_t wslx_hv_fake_poll_irqfds(struct wslx_hv *hv)
{
	struct fake_vm *vm = to_vm(hv);
	size_t n = 0;

	pthread_mutex_lock(&vm->lock);
	for (size_t i = 0; i < WSLX_FAKE_MAX_ROUTES; i++) {
		const struct route *rt = &vm->routes[i];
		struct pollfd p = { .fd = rt->fd, .events = POLLIN };
		uint64_t count;

		if (!rt->used || !rt->unmasked || poll(&p, 1, 0) != 1)
			continue;
		if (read(rt->fd, &count, sizeof(count)) != sizeof(count))
			continue;
		record(vm, &(struct wslx_fake_event) { .kind = WSLX_FAKE_MSI, .msi = rt->msi });
		n++;
	}
	pthread_mutex_unlock(&vm->lock);
	return n;
}

bool wslx_hv_fake_guest_write(struct wslx_hv *hv, uint64_t gpa, unsigned len)
{
	struct fake_vm *vm = to_vm(hv);
	uint64_t one = 1;
	bool hit = false;

	pthread_mutex_lock(&vm->lock);
	for (size_t i = 0; i < vm->n_doorbells && !hit; i++) {
		const struct doorbell *d = &vm->doorbells[i];

		if (d->gpa == gpa && (d->len == 0 || d->len == len))
			hit = write(d->fd, &one, sizeof(one)) == sizeof(one);
	}
	pthread_mutex_unlock(&vm->lock);
	return hit;
}

size_t wslx_hv_fake_n_ioeventfds(struct wslx_hv *hv)
{
	struct fake_vm *vm = to_vm(hv);
	size_t n;

	pthread_mutex_lock(&vm->lock);
	n = vm->n_doorbells;
	pthread_mutex_unlock(&vm->lock);
	return n;
}

bool wslx_hv_fake_map(struct wslx_hv *hv, unsigned slot, struct wslx_gpa *gpa, uint64_t *size)
{
	struct fake_vm *vm = to_vm(hv);
	bool used = false;

	pthread_mutex_lock(&vm->lock);
	if (slot < WSLX_FAKE_MAX_MAPS && vm->slots[slot].used) {
		used = true;
		*gpa = vm->slots[slot].gpa;
		*size = vm->slots[slot].size;
	}
	pthread_mutex_unlock(&vm->lock);
	return used;
}

int wslx_hv_fake_push_exit(struct wslx_vcpu *vcpu, const struct wslx_exit *exit, const uint8_t *pio_data)
{
	struct fake_vcpu *v = to_vcpu(vcpu);
	int r = -ENOSPC;

	if (exit->kind == WSLX_EXIT_PIO && (uint64_t)exit->pio.size * exit->pio.count > DATA_LEN)
		return -EINVAL;
	pthread_mutex_lock(&v->lock);
	if (v->n < MAX_SCRIPT) {
		struct step *s = &v->script[v->n++];

		s->exit = *exit;
		if (exit->kind == WSLX_EXIT_PIO) {
			if (pio_data)
				memcpy(s->pio, pio_data, (size_t)exit->pio.size * exit->pio.count);
			s->exit.pio.data = s->pio;
		}
		pthread_cond_broadcast(&v->wake);
		r = 0;
	}
	pthread_mutex_unlock(&v->lock);
	return r;
}

const uint8_t *wslx_hv_fake_result(struct wslx_vcpu *vcpu, size_t n)
{
	struct fake_vcpu *v = to_vcpu(vcpu);

	if (n >= v->n)
		return NULL;
	return v->script[n].exit.kind == WSLX_EXIT_MMIO ? v->script[n].exit.mmio.data : v->script[n].pio;
}

const struct wslx_vcpu_start *wslx_hv_fake_start(struct wslx_vcpu *vcpu)
{
	struct fake_vcpu *v = to_vcpu(vcpu);

	return v->started ? &v->start : NULL;
}
