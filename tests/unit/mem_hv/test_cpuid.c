/* What the guest sees of the CPU, from made-up hosts; and the fake hypervisor. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/fake/fake.h"
#include "hv/kvm/kvm.h"

static const struct kvm_cpuid_entry2 host_entries[] = {
	{ .function = 0x0, .eax = 0xd },
	{ .function = 0x1, .ebx = 0xff108800, .ecx = 1u << 5 | 1u << 27 | 1u << 21, .edx = 1u << 28 },
	{ .function = 0x4, .index = 0, .flags = 1, .eax = 0x1c004121 }, /* L1 data */
	{ .function = 0x4, .index = 3, .flags = 1, .eax = 0x1c03c163 }, /* L3 */
	{ .function = 0x4, .index = 4, .flags = 1, .eax = 0 },
	{ .function = 0xa, .eax = 0x07300404, .edx = 0x603 },
	{ .function = 0xb, .index = 0, .flags = 1, .eax = 7, .ebx = 9, .edx = 99 },
	{ .function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b },
	{ .function = 0x80000001, .ecx = 1u << 2 },
	{ .function = 0x80000008, .ecx = 0xf00f },
	{ .function = 0x8000000a, .eax = 1, .ebx = 8 },
	{ .function = 0x8000001d, .index = 3, .flags = 1, .eax = 0x3c163 },
	{ .function = 0x8000001e, .eax = 77, .ebx = 0x103, .ecx = 0x301 },
};

static struct kvm_cpuid2 *host;

static int setup(void **state)
{
	host = test_calloc(1, sizeof(*host) + sizeof(host_entries));
	host->nent = ARRAY_SIZE(host_entries);
	memcpy(host->entries, host_entries, sizeof(host_entries));
	return 0;
}

static int teardown(void **state)
{
	test_free(host);
	return 0;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i];
	return NULL;
}

static void test_one_cpu(void **state)
{
	struct kvm_cpuid2 *c;
	const struct kvm_cpuid_entry2 *e;

	assert_int_equal(wslx_kvm_cpuid_for(host, 0, 1, false, &c), 0);
	e = find(c, 1, 0);
	assert_int_equal(e->ebx, 0x00018800);
	assert_int_equal(e->ecx, 1u << 31 | 1u << 21); /* no VMX, no OSXSAVE, no deadline timer */
	assert_int_equal(e->edx, 0);
	e = find(c, 0xb, 1);
	assert_true(e && e->eax == 0 && e->ebx == 1 && e->ecx == 0x201 && e->edx == 0);
	e = find(c, 0xb, 2);
	assert_true(e && e->ebx == 0 && e->ecx == 2);
	assert_null(find(c, 0x1f, 0)); /* not on this host */
	assert_int_equal(find(c, 0xa, 0)->eax, 0);
	assert_int_equal(find(c, 0x40000000, 0)->ebx, 0x4b4d564b);
	free(c);
}

static void test_three_cpus(void **state)
{
	struct kvm_cpuid2 *c;
	const struct kvm_cpuid_entry2 *e;

	assert_int_equal(wslx_kvm_cpuid_for(host, 2, 3, true, &c), 0);
	e = find(c, 1, 0);
	assert_int_equal(e->ebx, 0x02048800);
	assert_true(e->ecx & 1u << 24);
	assert_int_equal(e->edx, 1u << 28);
	e = find(c, 0xb, 0);
	assert_true(e->eax == 0 && e->ebx == 1 && e->ecx == 0x100 && e->edx == 2);
	e = find(c, 0xb, 1);
	assert_true(e->eax == 2 && e->ebx == 3 && e->ecx == 0x201 && e->edx == 2);
	assert_int_equal(find(c, 4, 0)->eax, 3u << 26 | 0x0121);
	assert_int_equal(find(c, 4, 3)->eax, 3u << 26 | 3u << 14 | 0x0163);
	assert_int_equal(find(c, 4, 4)->eax, 0);
	assert_int_equal(find(c, 0x80000001, 0)->ecx, 1u << 1);
	assert_int_equal(find(c, 0x80000008, 0)->ecx, 2u << 12 | 2);
	assert_int_equal(find(c, 0x8000000a, 0)->eax, 0);
	assert_int_equal(find(c, 0x8000001d, 3)->eax, 2u << 14 | 0x0163);
	e = find(c, 0x8000001e, 0);
	assert_true(e->eax == 2 && e->ebx == 2 && e->ecx == 0);
	free(c);
}

static void test_bad_cpuid(void **state)
{
	struct kvm_cpuid2 *c;

	assert_int_equal(wslx_kvm_cpuid_for(host, 1, 1, false, &c), -EINVAL);
	assert_int_equal(wslx_kvm_cpuid_for(host, 0, 0, false, &c), -EINVAL);
	assert_int_equal(wslx_kvm_cpuid_for(host, 0, 256, false, &c), -EINVAL);
	host->nent = 257;
	assert_int_equal(wslx_kvm_cpuid_for(host, 0, 1, false, &c), -EINVAL);
}

static void test_fake_exits(void **state)
{
	struct wslx_exit mmio = { .kind = WSLX_EXIT_MMIO, .mmio = { .gpa = { 0x1000 }, .len = 4 } };
	struct wslx_exit pio = { .kind = WSLX_EXIT_PIO, .pio = { .port = 0x80, .size = 1, .count = 1, .write = true } };
	const uint8_t byte = 7;
	struct wslx_vcpu *v;
	struct wslx_exit *e;
	struct wslx_hv *hv;

	assert_int_equal(wslx_hv_fake_new(&hv), 0);
	assert_int_equal(hv->ops->vcpu_new(hv, 0, &v), 0);
	assert_int_equal(wslx_hv_fake_push_exit(v, &mmio, NULL), 0);
	assert_int_equal(wslx_hv_fake_push_exit(v, &pio, &byte), 0);
	assert_int_equal(hv->ops->vcpu_run(v, &e), 0);
	assert_int_equal(e->kind, WSLX_EXIT_MMIO);
	e->mmio.data[0] = 9;
	assert_int_equal(hv->ops->vcpu_run(v, &e), 0);
	assert_int_equal(e->pio.data[0], 7);
	assert_int_equal(wslx_hv_fake_result(v, 0)[0], 9);
	hv->ops->vcpu_kick(v);
	assert_int_equal(hv->ops->vcpu_run(v, &e), 0);
	assert_int_equal(e->kind, WSLX_EXIT_INTR);
	pio.pio.count = 9;
	assert_int_equal(wslx_hv_fake_push_exit(v, &pio, &byte), -EINVAL);
	hv->ops->vcpu_free(v);
	hv->ops->free(hv);
}

static void test_fake_interrupts(void **state)
{
	const struct wslx_msi msi = { 0xfee00000, 0x41 };
	int irq = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), handle;
	struct wslx_hv *hv;
	eventfd_t n;

	assert_int_equal(wslx_hv_fake_new(&hv), 0);
	assert_int_equal(hv->ops->irqfd_msi(hv, irq, NULL, &handle), 0);
	assert_int_equal(eventfd_write(irq, 1), 0);
	assert_int_equal(wslx_hv_fake_poll_irqfds(hv), 0); /* masked */
	assert_int_equal(hv->ops->irqfd_update(hv, handle, &msi), 0);
	assert_int_equal(wslx_hv_fake_poll_irqfds(hv), 1);
	assert_int_equal(wslx_hv_fake_event(hv, 0).msi.data, 0x41);
	hv->ops->irqfd_release(hv, handle);
	assert_int_equal(wslx_hv_fake_n_routes(hv), 0);
	assert_int_equal(hv->ops->ioeventfd(hv, wslx_gpa(0x1000), 2, bell, true), 0);
	assert_int_equal(hv->ops->ioeventfd(hv, wslx_gpa(0x1000), 2, bell, true), -EEXIST);
	assert_false(wslx_hv_fake_guest_write(hv, 0x1000, 4));
	assert_true(wslx_hv_fake_guest_write(hv, 0x1000, 2));
	assert_int_equal(eventfd_read(bell, &n), 0);
	assert_int_equal(hv->ops->ioeventfd(hv, wslx_gpa(0x1000), 2, bell, false), 0);
	assert_false(wslx_hv_fake_guest_write(hv, 0x1000, 2));
	hv->ops->free(hv);
	close(irq);
	close(bell);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_cpu, setup, teardown),
		cmocka_unit_test_setup_teardown(test_three_cpus, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_cpuid, setup, teardown),
		cmocka_unit_test(test_fake_exits),
		cmocka_unit_test(test_fake_interrupts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
