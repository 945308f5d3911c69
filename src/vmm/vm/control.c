/*
 * The link to the supervisor, and the steps that wait for vCPUs at rest.
 *
 * The socket does not block: a supervisor that does not read loses replies, it
 * does not stop the guest.  Only the last words wait for room.
 */
#include "vmm/vm/vm.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "dev/backend/ring_probe.h"
#include "dev/virtio/net.h"
#include "dev/virtio/vsock.h"
#include "os/linux/fd.h"
#include "os/linux/sandbox.h"

/* From the wish to end until all vCPUs have ended; past it the process goes
 * without them: better a lost flush than an orphan. */
#define STOP_LIMIT_MS 5000
#define LAST_WORDS_MS 1000

int wslx_vm_report(struct vm *vm, uint32_t type, uint32_t id, uint64_t a, const char *text)
{
	struct wslx_link_msg m = { .type = type, .id = id, .a = a, .fd = -1 };

	if (text) {
		m.text_len = strnlen(text, WSLX_LINK_TEXT_MAX);
		memcpy(m.text, text, m.text_len);
	}
	return wslx_link_send(vm->params->link_fd, &m);
}

void wslx_vm_report_last(struct vm *vm, uint32_t type, uint64_t a, const char *text)
{
	int64_t end = wslx_now_ms() + LAST_WORDS_MS;
	int r;

	while ((r = wslx_vm_report(vm, type, 0, a, text)) == -EAGAIN) {
		struct pollfd p = { .fd = vm->params->link_fd, .events = POLLOUT };
		int64_t left = end - wslx_now_ms();

		if (left <= 0 || poll(&p, 1, (int)left) <= 0)
			break;
	}
	if (r < 0)
		log_warn("last message to the supervisor not sent: %s", strerror(-r));
}

static void reply(struct vm *vm, uint32_t id, uint64_t a, uint64_t b)
{
	const struct wslx_link_msg m = { .type = WSLX_LINK_PAUSED, .id = id, .a = a, .b = b, .fd = -1 };
	int r = wslx_link_send(vm->params->link_fd, &m);

	if (r < 0)
		log_warn("reply to the supervisor lost: %s", strerror(-r));
}

/* PAUSED replies: b is 0, or an errno value when the request was refused. */
static void on_pause(struct vm *vm, uint32_t id)
{
	if (vm->paused) {
		reply(vm, id, 0, 0);
	} else if (vm->pause_pending) {
		reply(vm, id, 0, EBUSY);
	} else {
		vm->pause_pending = true;
		vm->pause_id = id;
		wslx_vm_set_wanted(vm, VM_PAUSE);
	}
}

static void on_resume(struct vm *vm, uint32_t id)
{
	if (vm->pause_pending) {
		reply(vm, id, 0, EBUSY);
		return;
	}
	if (vm->paused) {
		vm->paused = false;
		wslx_vm_devices_resume(vm);
		wslx_vm_set_wanted(vm, VM_RUN);
	}
	reply(vm, id, 0, 0);
}

static void on_stats(struct vm *vm, uint32_t id)
{
	char text[WSLX_LINK_TEXT_MAX + 1];
	/* Those of many vCPUs may not all fit: the devices' come first. */
	size_t n = wslx_vm_devices_stats(vm, text, sizeof(text));

	n += wslx_vm_vcpus_stats(vm, text + n, sizeof(text) - n);
	text[n] = '\0';
	if (wslx_vm_report(vm, WSLX_LINK_STATS_REPLY, id, 0, text) < 0)
		log_debug("statistics not sent");
}

static void on_net_fd(struct vm *vm, struct wslx_link_msg *m)
{
	int r;

	if (!vm->net) {
		wslx_close(&m->fd);
		return;
	}
	r = wslx_net_set_backend(vm->net, TAKE_FD(m->fd));
	if (r < 0)
		log_warn("network back end refused: %s", strerror(-r));
}

static void on_test_confinement(struct vm *vm, uint32_t id)
{
	uint64_t leaks;

	if (!vm->params->test_hooks) {
		reply(vm, id, 0, EPERM);
		return;
	}
	leaks = wslx_sandbox_test();
	if (vm->ring_probe && wslx_ring_probe_leaks(vm->ring_probe))
		leaks |= WSLX_SANDBOX_LEAK_RING;
	reply(vm, id, leaks, 0);
}

static void on_message(struct vm *vm, struct wslx_link_msg *m)
{
	switch (m->type) {
	case WSLX_LINK_CONNECT_OK:
		if (vm->vsock)
			wslx_vsock_connect_done(vm->vsock, m->id, TAKE_FD(m->fd));
		break;
	case WSLX_LINK_CONNECT_REFUSED:
		if (vm->vsock)
			wslx_vsock_connect_done(vm->vsock, m->id, -1);
		break;
	case WSLX_LINK_NET_FD:
		on_net_fd(vm, m);
		break;
	case WSLX_LINK_PAUSE:
		on_pause(vm, m->id);
		break;
	case WSLX_LINK_RESUME:
		on_resume(vm, m->id);
		break;
	case WSLX_LINK_STATS:
		on_stats(vm, m->id);
		break;
	case WSLX_LINK_WINDOW_MAP:
		wslx_vm_window_map(vm, m);
		break;
	case WSLX_LINK_STOP:
		wslx_vm_end(vm, VM_END_STOP, NULL);
		break;
	case WSLX_LINK_TEST_CONFINEMENT:
		on_test_confinement(vm, m->id);
		break;
	default:
		log_warn("unknown message %u from the supervisor", m->type);
		break;
	}
	wslx_close(&m->fd);
}

static void on_link(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_link_msg m;
	struct vm *vm = opaque;
	int r = wslx_link_recv(fd, &m);

	if (r == -EAGAIN)
		return;
	if (r == 1) {
		on_message(vm, &m);
		return;
	}
	if (r < 0)
		log_error("link to the supervisor: %s", strerror(-r));
	/* It is gone, or speaks nonsense: nothing would ever end this machine. */
	wslx_watch_free(vm->link_watch);
	vm->link_watch = NULL;
	wslx_vm_end(vm, VM_END_ORPHAN, NULL);
}

static void on_stop_limit(struct wslx_timer *t, void *opaque)
{
	log_error("vCPUs did not stop within %d ms", STOP_LIMIT_MS);
	_exit(1);
}

static void on_rest(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct vm *vm = opaque;
	bool all_ended, all_parked;
	enum vm_end end;
	uint64_t n;

	if (read(fd, &n, sizeof(n)) != sizeof(n))
		return;
	pthread_mutex_lock(&vm->lock);
	end = vm->end;
	all_ended = vm->n_ended == vm->n_vcpus;
	all_parked = vm->wanted == VM_PAUSE && vm->n_parked == vm->n_vcpus;
	pthread_mutex_unlock(&vm->lock);
	if (end != VM_END_NONE) {
		if (all_ended)
			wslx_loop_stop(vm->loop, 0);
		else
			wslx_timer_arm(vm->stop_timer, STOP_LIMIT_MS);
		return;
	}
	if (all_parked && vm->pause_pending) {
		vm->pause_pending = false;
		vm->paused = true;
		wslx_vm_devices_quiesce(vm);
		reply(vm, vm->pause_id, 0, 0);
	}
}

int wslx_vm_control_new(struct vm *vm, struct wslx_err *err)
{
	int r = wslx_fd_nonblock(vm->params->link_fd, 1);

	if (r == 0)
		r = wslx_loop_watch(vm->loop, vm->params->link_fd, EPOLLIN, on_link, vm, &vm->link_watch);
	if (r == 0)
		r = wslx_loop_watch(vm->loop, vm->rest_fd, EPOLLIN, on_rest, vm, &vm->rest_watch);
	if (r == 0)
		r = wslx_loop_timer(vm->loop, on_stop_limit, vm, &vm->stop_timer);
	return r < 0 ? wslx_err_sys(err, -r, "cannot watch the link to the supervisor") : 0;
}

void wslx_vm_control_free(struct vm *vm)
{
	wslx_watch_free(vm->link_watch);
	wslx_watch_free(vm->rest_watch);
	wslx_timer_free(vm->stop_timer);
	vm->link_watch = NULL;
	vm->rest_watch = NULL;
	vm->stop_timer = NULL;
}
