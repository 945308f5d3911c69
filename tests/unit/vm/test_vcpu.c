/* vCPU threads on the fake hypervisor: coming to rest, and what is counted. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "hv/fake/fake.h"
#include "vmm/vm/vm.h"

#define WAIT_MS 30000

struct world {
	struct vm *vm;
	struct wslx_child_params params;
};

static void setup(struct world *w, unsigned cpus)
{
	struct wslx_err err = { 0 };
	int link[2];

	assert_int_equal(pipe(link), 0);
	close(link[0]);
	w->params = (struct wslx_child_params) { .cpus = cpus, .link_fd = link[1] };
	w->vm = calloc(1, sizeof(*w->vm));
	assert_non_null(w->vm);
	w->vm->params = &w->params;
	w->vm->rest_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(w->vm->rest_fd >= 0);
	pthread_mutex_init(&w->vm->lock, NULL);
	pthread_cond_init(&w->vm->changed, NULL);
	assert_int_equal(wslx_hv_fake_new(&w->vm->hv), 0);
	assert_int_equal(wslx_vm_vcpus_new(w->vm, &err), 0);
}

static void teardown(struct world *w)
{
	wslx_vm_vcpus_free(w->vm);
	w->vm->hv->ops->free(w->vm->hv);
	close(w->vm->rest_fd);
	close(w->params.link_fd);
	free(w->vm);
}

static void wait_parked(struct world *w)
{
	bool all = false;

	while (!all) {
		struct pollfd p = { .fd = w->vm->rest_fd, .events = POLLIN };
		uint64_t n;

		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		assert_int_equal(read(w->vm->rest_fd, &n, sizeof(n)), sizeof(n));
		pthread_mutex_lock(&w->vm->lock);
		all = w->vm->wanted == VM_PAUSE && w->vm->n_parked == w->vm->n_vcpus;
		pthread_mutex_unlock(&w->vm->lock);
	}
}

static void pause_overtakes_start(void **state)
{
	struct world w;
	struct wslx_err err = { 0 };

	setup(&w, 4);
	assert_int_equal(wslx_vm_vcpus_start_threads(w.vm, &err), 0);
	/* As if no thread had been fast enough to see a start before it. */
	wslx_vm_set_wanted(w.vm, VM_PAUSE);
	wait_parked(&w);
	teardown(&w);
}

static void guest_hears_of_pauses(void **state)
{
	struct world w;
	struct wslx_err err = { 0 };

	setup(&w, 4);
	assert_int_equal(wslx_vm_vcpus_start_threads(w.vm, &err), 0);
	wslx_vm_set_wanted(w.vm, VM_RUN);
	for (unsigned round = 0; round < 3; round++) {
		wslx_vm_set_wanted(w.vm, VM_PAUSE);
		wait_parked(&w);
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(wslx_hv_fake_pauses(w.vm->vcpus[i].vcpu), round);
		wslx_vm_set_wanted(w.vm, VM_RUN);
		for (unsigned i = 0; i < 4; i++)
			while (wslx_hv_fake_pauses(w.vm->vcpus[i].vcpu) != round + 1)
				sched_yield();
	}
	teardown(&w);
}

static void stats_have_the_sums_first(void **state)
{
	struct world w;
	char buf[100];
	size_t n;

	setup(&w, 4);
	for (unsigned i = 0; i < 4; i++) {
		atomic_store(&w.vm->vcpus[i].exits[WSLX_EXIT_MMIO], 10);
		atomic_store(&w.vm->vcpus[i].exits[WSLX_EXIT_PIO], i);
	}
	n = wslx_vm_vcpus_stats(w.vm, buf, sizeof(buf));
	assert_true(n < sizeof(buf));
	buf[n] = '\0';
	assert_ptr_equal(
		strstr(buf, "vcpus.exits_mmio 40\nvcpus.exits_pio 6\nvcpus.exits_intr 0\nvcpu0.exits_mmio 10\n"), buf);
	assert_int_equal(buf[n - 1], '\n'); /* whole lines only */
	assert_null(strstr(buf, "vcpu3"));
	teardown(&w);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(pause_overtakes_start),
		cmocka_unit_test(guest_hears_of_pauses),
		cmocka_unit_test(stats_have_the_sums_first),
	};

	return cmocka_run_group_tests_name("vcpu", tests, NULL, NULL);
}
